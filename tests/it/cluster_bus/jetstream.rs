//! The bus on three nats-servers with replicas, of which one is killed. Run with
//! `TEST_NATS_SERVER=/usr/sbin/nats-server cargo test --features nats --test it -- cluster_bus::`.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use systole::internals::cluster::NodeName;
use systole::internals::cluster_bus::{Bus, BusError, BusOptions, JetStreamBus};

use super::contract::{self, Place, SESSION_MAX_AGE};
use crate::support::{alone, poll};

/// The program, where tests with it are wanted.
fn program() -> Option<OsString> {
    std::env::var_os("TEST_NATS_SERVER")
}

/// A server of ours; it ends with the test.
struct Server {
    name: String,
    port: u16,
    monitor: u16,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    fn kill(&mut self) {
        let _it_was_killed_before = self.process.kill();
        self.process.wait().expect("a child of ours");
    }

    /// A document of its monitoring port.
    fn monitor(&self, path: &str) -> Result<Value, String> {
        let text = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.monitor))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = text().map_err(|error| error.to_string())?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| text.clone())?;
        if !head.contains(" 200 ") {
            return Err(text);
        }
        serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))
    }
}

/// Ports that nobody has at the moment.
fn free_ports<const N: usize>() -> [u16; N] {
    let taken: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    taken.map(|listener| listener.local_addr().expect("an address").port())
}

/// Servers with JetStream: a cluster if they are several.
fn start(program: &OsString, folder: &Path, count: usize, more: &[&str]) -> Vec<Server> {
    let ports: Vec<[u16; 3]> = (0..count).map(|_| free_ports()).collect();
    let routes: Vec<String> = ports.iter().map(|[_, _, route]| format!("nats-route://127.0.0.1:{route}")).collect();
    let server = |(n, [port, monitor, route]): (usize, &[u16; 3])| {
        let name = format!("n{n}");
        let mut command = Command::new(program);
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-m", &monitor.to_string(), "-n", &name]);
        if count > 1 {
            let route = format!("nats://127.0.0.1:{route}");
            command.args(["--cluster_name", "it", "--cluster", &route, "--routes", &routes.join(",")]);
        }
        let log = std::fs::File::create(folder.join(format!("{name}.log"))).expect("a log");
        command.args(more).arg("-sd").arg(folder.join(&name));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the same")).stderr(log);
        Server { name, port: *port, monitor: *monitor, process: command.spawn().expect("nats-server runs") }
    };
    let servers: Vec<Server> = ports.iter().enumerate().map(server).collect();
    for server in &servers {
        poll("ready", || match server.monitor("/healthz") {
            Ok(health) if health["status"] == "ok" => Ok(()),
            other => Err(other),
        });
    }
    servers
}

fn options(servers: &[Server], node: usize) -> BusOptions {
    BusOptions {
        urls: servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect(),
        partitions: 8,
        replicas: if servers.len() == 1 { 1 } else { 3 },
        session_max_age: SESSION_MAX_AGE,
        connection_name: format!("node {node}"),
        seed: node as u64 + 1,
        ..BusOptions::default()
    }
}

struct Cluster {
    buses: Vec<Arc<JetStreamBus>>,
    servers: Mutex<Vec<Server>>,
}

impl Cluster {
    /// The name of the server that leads a stream.
    fn leader(&self, stream: &str) -> String {
        let servers = self.servers.lock().expect("nobody panics with it");
        poll("a leader", || {
            let found = servers[0].monitor("/jsz?streams=true&accounts=true")?;
            let all = found["account_details"][0]["stream_detail"].as_array().cloned().unwrap_or_default();
            let stream = all.iter().find(|found| found["name"] == stream).ok_or_else(|| found.to_string())?;
            stream["cluster"]["leader"].as_str().map(String::from).ok_or_else(|| found.to_string())
        })
    }
}

impl Place for Cluster {
    fn bus(&self, node: usize) -> Arc<dyn Bus> {
        self.buses[node].clone()
    }

    async fn kill_leader(&self) {
        let leader = self.leader("SYSTOLE_P0");
        let mut servers = self.servers.lock().expect("nobody panics with it");
        servers.iter_mut().find(|server| server.name == leader).expect("one of ours").kill();
    }
}

#[test]
fn three_replicated_servers_keep_the_contract() {
    let Some(program) = program() else { return };
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let servers = start(&program, folder.path(), 3, &["-js"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let buses = (0..3).map(|node| JetStreamBus::connect(options(&servers, node)).expect("options")).collect();
        let begun = Instant::now();
        contract::holds(Arc::new(Cluster { buses, servers: Mutex::new(servers) })).await;
        println!("the contract: {:.1} s", begun.elapsed().as_secs_f64());
    });
}

fn edge() -> NodeName {
    "edge".parse().expect("a name")
}

/// Calls until it is done.
async fn connected(bus: &JetStreamBus) {
    let begun = Instant::now();
    while !bus.status().connected {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", bus.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_a_quiet_bus_cost_one_request_for_all_partitions() {
    let Some(program) = program() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let servers = start(&program, folder.path(), 1, &["-js"]);
    let bus = JetStreamBus::connect(BusOptions { partitions: 64, ..options(&servers, 0) }).expect("options");
    connected(&bus).await;
    bus.prepare().await.expect("prepared");
    let mut next = [1; 64];
    for _ in 0..3 {
        for partition in 0..64 {
            for _ in 0..3 {
                bus.put_batch(partition, &edge(), 0.5, vec![0; 1000].into()).await.expect("stored");
            }
        }
        let mut counted = Vec::new();
        for _ in 0..3 {
            let before = bus.requests();
            let reads: Vec<_> = (0..64_u16)
                .map(|partition| {
                    let (bus, from) = (bus.clone(), next[partition as usize]);
                    tokio::spawn(async move { bus.batches(partition, from).await })
                })
                .collect();
            for (partition, read) in reads.into_iter().enumerate() {
                let page = read.await.expect("no panic").expect("read");
                assert!(page.is_end);
                next[partition] = page.batches.last().map_or(next[partition], |batch| batch.sequence + 1);
            }
            counted.push(bus.requests() - before);
        }
        println!("requests of 64 reads: {counted:?}");
        assert!(counted[0] <= 64 * 3 + 10 && counted[1..].iter().all(|count| *count <= 10), "{counted:?}");
    }
    bus.close().await.expect("closed");
}

/// All from a sequence on, by the first byte of each, and how many pages they were.
async fn first_bytes(bus: &JetStreamBus, mut from: u64) -> (Vec<u8>, usize, u64) {
    let (mut all, mut pages) = (Vec::new(), 0);
    loop {
        let page = bus.batches(1, from).await.expect("read");
        let bytes: usize = page.batches.iter().map(|batch| batch.payload.len()).sum();
        assert!(bytes <= 5 << 20, "{bytes} bytes");
        all.extend(page.batches.iter().map(|batch| batch.payload[0]));
        from = page.batches.last().map_or(from, |batch| batch.sequence + 1);
        pages += 1;
        if page.is_end {
            return (all, pages, from);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_bounded_and_what_a_consumer_can_not_give_is_read_without_it() {
    let Some(program) = program() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let servers = start(&program, folder.path(), 1, &["-js"]);
    let bus = JetStreamBus::connect(options(&servers, 0)).expect("options");
    connected(&bus).await;
    bus.prepare().await.expect("prepared");
    let put = async |n: u8| bus.put_batch(1, &edge(), 0.5, vec![n; 400 << 10].into()).await.expect("stored");
    for n in 0..30 {
        put(n).await;
    }
    let (all, pages, from) = first_bytes(&bus, 1).await;
    assert!(pages >= 3, "{pages} pages");
    assert_eq!(all, (0..30).collect::<Vec<u8>>());

    // Its consumer is deleted.
    let found = servers[0].monitor("/jsz?accounts=true&streams=true&consumers=true").expect("streams");
    let streams = found["account_details"][0]["stream_detail"].as_array().expect("streams");
    let stream = streams.iter().find(|stream| stream["name"] == "SYSTOLE_P0").expect("the stream");
    let consumers = stream["consumer_detail"].as_array().expect("consumers");
    assert_eq!(consumers.len(), 1, "{consumers:?}");
    let name = consumers[0]["name"].as_str().expect("a name");
    let mut connection = TcpStream::connect(("127.0.0.1", servers[0].port)).expect("connected");
    write!(connection, "CONNECT {{}}\r\nPUB $JS.API.CONSUMER.DELETE.SYSTOLE_P0.{name} 0\r\n\r\nPING\r\n")
        .expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"PONG\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    for n in 30..40 {
        put(n).await;
    }
    let (all, _, from) = first_bytes(&bus, from).await;
    assert_eq!(all, (30..40).collect::<Vec<u8>>());

    // Who knows of more than the leader has does not call that the end.
    let error = bus.batches(1, from + 1).await.expect_err("there never was so much").to_string();
    assert!(error.contains("has yet to catch up"), "{error}");
    let error = bus.bodies(1, &[1, from]).await.expect_err("nor that").to_string();
    assert!(error.contains("has yet to catch up"), "{error}");
    bus.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_with_what_to_do() {
    let Some(program) = program() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    // No server at all: that is no error of `connect`.
    let [port] = free_ports();
    let bus = JetStreamBus::connect(BusOptions { urls: vec![format!("127.0.0.1:{port}")], ..BusOptions::default() });
    let bus = bus.expect("options");
    let error = bus.prepare().await.expect_err("no server").to_string();
    assert!(error.starts_with(&format!("not connected to 127.0.0.1:{port}")), "{error}");
    bus.close().await.expect_err("no server");

    // A server without JetStream.
    let servers = start(&program, folder.path(), 1, &[]);
    let bus = JetStreamBus::connect(options(&servers, 0)).expect("options");
    connected(&bus).await;
    let error = bus.prepare().await.expect_err("no JetStream").to_string();
    assert!(error.contains("start nats-server with it"), "{error}");
    drop(servers);

    // More replicas than servers, no streams, another configuration.
    let servers = start(&program, folder.path(), 1, &["-js"]);
    let connect = async |change: fn(BusOptions) -> BusOptions| {
        let bus = JetStreamBus::connect(change(options(&servers, 0))).expect("options");
        connected(&bus).await;
        bus
    };
    let bus = connect(|options| BusOptions { replicas: 3, ..options }).await;
    let error = bus.prepare().await.expect_err("one server").to_string();
    assert!(error.contains("than `replicas` asks for"), "{error}");
    let error = bus.batches(0, 1).await.expect_err("no stream").to_string();
    assert!(error.contains("there is no stream SYSTOLE_P0"), "{error}");
    let error = bus.put_batch(0, &edge(), 0.5, "x".into()).await.expect_err("no stream").to_string();
    assert!(error.contains("no stream takes `systole.p.00.edge`"), "{error}");
    let small = connect(|options| BusOptions { max_bytes: Some(4096), ..options }).await;
    small.prepare().await.expect("prepared");
    let bus = connect(|options| options).await;
    let Err(BusError::Different { stream, field, expected, found }) = bus.prepare().await else { panic!("the same") };
    assert_eq!((&stream[..], field, &expected[..], &found[..]), ("SYSTOLE_P0", "max_bytes", "-1", "4096"));
    let mut full = Ok(());
    for _ in 0..10 {
        full = full.and(small.put_batch(0, &edge(), 0.5, vec![0; 1000].into()).await);
    }
    let error = full.expect_err("it is full").to_string();
    assert!(error.contains("raise `max_bytes`"), "{error}");
    drop(servers);

    // Somebody else's server.
    let users = folder.path().join("users.conf");
    let text = "authorization { users = [
        { user: a, password: right, permissions: { publish: [\"$JS.API.STREAM.>\"], subscribe: \">\" } } ] }
        jetstream: enabled";
    std::fs::write(&users, text).expect("written");
    let servers = start(&program, folder.path(), 1, &["-c", users.to_str().expect("text")]);
    let with = |password: &str| {
        let mut options = options(&servers, 0);
        (options.login.username, options.login.password) = ("a".into(), password.into());
        JetStreamBus::connect(options).expect("options")
    };
    let bus = with("wrong");
    let begun = Instant::now();
    while bus.status().last_error.is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = bus.sessions().await.expect_err("not let in").to_string();
    assert!(error.contains("check the user"), "{error}");
    let bus = with("right");
    connected(&bus).await;
    bus.prepare().await.expect_err("the streams have no max_bytes here");
    let error = bus.put_batch(0, &edge(), 0.5, "x".into()).await.expect_err("not allowed").to_string();
    assert!(error.to_lowercase().contains("permissions violation"), "{error}");
}
