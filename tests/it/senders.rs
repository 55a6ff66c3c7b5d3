//! Who sends what: shares of many senders, tags that explode, processes and containers, through the front door.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use systole::internals::sys::raise_descriptor_limit;

use crate::support::{Daemon, Random, alone, pause, poll, size};

/// A daemon without sinks, with these listeners.
fn start(dir: &Path, more: &str) -> Daemon {
    let config = format!(
        "interval = \"500ms\"\nself_metrics = false\n{more}\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    );
    Daemon::start(dir, &config)
}

fn senders(daemon: &Daemon, query: &str) -> Value {
    let (code, body) = daemon.get(&format!("/api/v1/senders{query}"));
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Polls the senders until they satisfy `done`.
fn senders_when(daemon: &Daemon, query: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
    poll(what, || {
        let answer = senders(daemon, query);
        if done(&answer) { Ok(answer) } else { Err(answer.to_string()) }
    })
}

/// A socket that sends from this address of loopback.
fn sender(address: &str) -> UdpSocket {
    UdpSocket::bind((address, 0)).expect("loopback has every address of 127.0.0.0/8")
}

#[test]
fn senders_have_their_lines_their_prefixes_and_what_was_wrong_with_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path(), "");
    let to = daemon.udp.expect("a listener");
    let (first, second) = (sender("127.0.0.2"), sender("127.0.0.3"));
    first.send_to(b"checkout.latency:12|ms\ncheckout.latency:13|ms\njob.step.parse:1|c", to).expect("sent");
    second.send_to(b"job.step.load:1|c|#a:b|c:ci-4f1c\napi.latncy:12,5|ms|c:ci-4f1c", to).expect("sent");
    // All of it is in one interval, or in two.
    let both =
        senders_when(&daemon, "", "both senders", |all| all["seen"] == 2 && all["lines_per_sec"].as_f64() > Some(0.0));
    let rows = both["senders"].as_array().expect("a list");
    assert_eq!((&rows[0]["id"], &rows[0]["address"]), (&"127.0.0.2".into(), &"127.0.0.2".into()), "{both}");
    assert!(rows[0]["listener"].as_str().is_some_and(|url| url.starts_with("udp://127.0.0.1:")), "{both}");
    assert!((rows[0]["share"].as_f64().expect("a number") - 0.6).abs() < 1e-9, "{both}");
    assert_eq!(both["examples"][0]["line"], "api.latncy:12,5|ms|c:ci-4f1c");
    assert_eq!(
        (&both["examples"][0]["reason"], &both["examples"][0]["sender"]),
        (&"bad_value".into(), &"127.0.0.3/ci-4f1c".into())
    );
    let of_first = senders(&daemon, "?sender=127.0.0.2");
    let prefixes: Vec<&str> =
        of_first["prefixes"].as_array().expect("a list").iter().filter_map(|p| p["prefix"].as_str()).collect();
    assert_eq!(prefixes, ["checkout.", "job.step."], "{of_first}");
    let (code, body) = daemon.get("/api/v1/senders?sender=10.9.9.9");
    assert_eq!(code, 404, "{body}");
    for query in ["by=port", "limit=0", "limit=201", "sendr=1"] {
        let (code, body) = daemon.get(&format!("/api/v1/senders?{query}"));
        assert!(code == 400 && body.contains("bad_request"), "{query}: {body}");
    }
}

#[test]
fn the_top_20_of_a_thousand_senders_have_their_shares() {
    const SENDERS: usize = 1000;
    let _turn = alone();
    raise_descriptor_limit().expect("more descriptors");
    let secs = size("SENDERS_SECS", 4);
    let dir = tempfile::tempdir().expect("a folder");
    let interval = if secs < 30 { "500ms" } else { "10s" };
    let config = format!(
        "interval = \"{interval}\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         receive_buffer = \"32MiB\"\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    );
    let daemon = Daemon::start(dir.path(), &config);
    let to = daemon.udp.expect("a listener");
    let address = |n: usize| format!("127.7.{}.{}", n / 250, n % 250 + 1);
    let sockets: Vec<UdpSocket> = (0..SENDERS).map(|n| sender(&address(n))).collect();
    // Zipf's law: the sender number n sends a share of 1 / n.
    let weight = |n: usize| 1.0 / (n + 1) as f64;
    let all: f64 = (0..SENDERS).map(weight).sum();
    let mut sum = 0.0;
    let sums: Vec<f64> = (0..SENDERS)
        .map(|n| {
            sum += weight(n) / all;
            sum
        })
        .collect();
    let is_over = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(7);
            let line = b"job.step.load:1|c";
            while !is_over.load(Ordering::Relaxed) {
                for _ in 0..64 {
                    let u = random.u();
                    let n = sums.partition_point(|&sum| sum < u).min(SENDERS - 1);
                    sockets[n].send_to(line, to).expect("sent");
                }
                // About 200,000 lines a second, so that few are dropped.
                pause(Duration::from_micros(200));
            }
        });
        pause(Duration::from_secs(secs));
        let found = senders(&daemon, "?limit=200");
        is_over.store(true, Ordering::Relaxed);
        found
    });
    let rows = found["senders"].as_array().expect("a list");
    println!(
        "one in {}, error {}, {} lines a second, {} seen",
        found["sampled_one_in"], found["error"], found["lines_per_sec"], found["seen"]
    );
    assert!((500..=1000).contains(&found["seen"].as_u64().expect("a number")), "{}", found["seen"]);
    let share = |row: &Value| row["share"].as_f64().expect("a number");
    for n in 0..20 {
        let id = address(n);
        let row = rows.iter().find(|row| row["id"] == id.as_str()).unwrap_or_else(|| panic!("{id} is not there"));
        assert!((share(row) - weight(n) / all).abs() < 0.01, "{n}: {} of {}", share(row), weight(n) / all);
        assert!(n >= 10 || rows[..20].contains(row), "{id} is not among the first 20");
    }
    for row in &rows[..20] {
        let n = (0..SENDERS).find(|&n| row["id"] == address(n).as_str()).expect("one of ours");
        assert!((share(row) - weight(n) / all).abs() < 0.01, "{n}: {} of {}", share(row), weight(n) / all);
    }
    let spark = rows[0]["spark"].as_array().expect("a list");
    assert!((2..=60).contains(&spark.len()) && spark.iter().all(Value::is_number), "{spark:?}");
}

#[test]
fn a_tag_that_explodes_is_named_after_two_intervals_in_status_log_and_api() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path(), "");
    let (to, socket) = (daemon.udp.expect("a listener"), sender("127.0.0.9"));
    let mut next = 0;
    let mut explode = |count: usize| {
        for _ in 0..count {
            next += 1;
            socket.send_to(format!("job.step.load:1|c|#region:eu,request_id:{next}").as_bytes(), to).expect("sent");
        }
    };
    // In the first two intervals everything is new.
    (0..3).for_each(|_| _ = daemon.next_flush());
    let named = |status: &Value| {
        let all = status["warnings"].as_array().expect("a list").clone();
        all.into_iter()
            .find_map(|said| said.as_str().filter(|said| said.starts_with("Tag `request_id` makes")).map(String::from))
    };
    explode(400);
    let first = daemon.next_flush();
    assert_eq!(named(&first), None, "{first}");
    explode(400);
    let second = daemon.next_flush();
    let sentence = named(&second).unwrap_or_else(|| panic!("not named: {}", second["warnings"]));
    assert!(sentence.ends_with(" new series a second, under `job.step.`, from 127.0.0.9"), "{sentence}");
    let found = senders(&daemon, "");
    assert_eq!(found["warnings"][0], sentence.as_str(), "{found}");
    let key = &found["tag_keys"][0];
    assert_eq!(
        (&key["key"], &key["under"], &key["sender"]),
        (&"request_id".into(), &"job.step.".into(), &"127.0.0.9".into())
    );
    let values = key["values"].as_f64().expect("a number");
    assert!((values / 800.0 - 1.0).abs() < 0.06, "{values} of 800");
    let region = found["tag_keys"].as_array().expect("a list").iter().find(|key| key["key"] == "region");
    assert_eq!(region.expect("it is there")["values"], 1);
    daemon.next_flush();
    assert!(senders(&daemon, "")["warnings"].as_array().is_some_and(Vec::is_empty), "it is over");
    let log = daemon.stop();
    assert!(log.iter().any(|line| line.contains("Tag `request_id` makes")), "{}", log.join("\n"));
}

#[test]
fn names_that_find_no_room_are_named_with_their_sender() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path(), "max_series = 50");
    let (to, quiet, loud) = (daemon.udp.expect("a listener"), sender("127.0.0.2"), sender("127.0.0.3"));
    let sentence = poll("who sends the names", || {
        for n in 0..200 {
            loud.send_to(format!("user.{n}x.clicks:1|c\nuser.{n}y.clicks:1|c").as_bytes(), to).expect("sent");
            quiet.send_to(b"api.hits:1|c", to).expect("sent");
        }
        let status = daemon.status();
        let said = status["warnings"].as_array().expect("a list").iter().filter_map(Value::as_str);
        said.map(String::from).find(|said| said.starts_with("Names that begin with")).ok_or(status["warnings"].clone())
    });
    assert!(sentence.starts_with("Names that begin with `user.` make "), "{sentence}");
    assert!(sentence.ends_with(" new series a second, from 127.0.0.3"), "{sentence}");
    let found = senders(&daemon, "?by=prefix&q=user");
    let user = &found["prefixes"][0];
    assert!(user["prefix"] == "user." && user["folded_per_sec"].as_f64() > Some(100.0), "{found}");
}

#[test]
fn processes_containers_and_peers_of_connections_are_senders() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let listeners = format!(
        "[[listen]]\nurl = \"unixgram://{0}/d\"\n[[listen]]\nurl = \"unix://{0}/s\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n",
        dir.path().display()
    );
    let daemon = start(dir.path(), &listeners);
    let datagrams = UnixDatagram::unbound().expect("a socket");
    let mut stream = UnixStream::connect(path("s")).expect("connected");
    let mut tcp = TcpStream::connect(daemon.tcp.expect("a listener")).expect("connected");
    let udp = sender("127.0.0.5");
    let sent = || {
        datagrams.send_to(b"a.x:1|c\na.y:1|c", path("d")).expect("sent");
        udp.send_to(b"c.x:1|c|c:ci-4f1c\nc.x:1|c|#a:b|c:ci-77ab", daemon.udp.expect("a listener")).expect("sent");
    };
    // All of it in one interval.
    let mut send = || {
        sent();
        stream.write_all(b"b.x:1|c\n").expect("sent");
        tcp.write_all(b"d.x:1|c\n").expect("sent");
    };
    let pid = std::process::id();
    let own = format!("pid:{pid}");
    let ids = [own.as_str(), "127.0.0.5/ci-4f1c", "127.0.0.5/ci-77ab", "127.0.0.1"];
    let find = |all: &Value, id: &str| {
        all["senders"].as_array().and_then(|rows| rows.iter().find(|row| row["id"] == id).cloned())
    };
    let all = poll("every sender", || {
        send();
        let all = senders(&daemon, "");
        if ids.iter().all(|id| find(&all, id).is_some()) { Ok(all) } else { Err(all.to_string()) }
    });
    let comm = std::fs::read_to_string("/proc/self/comm").expect("a name");
    let process = find(&all, &own).expect("it is there");
    assert_eq!((&process["pid"], &process["process"]), (&pid.into(), &comm.trim().into()), "{process}");
    assert!(process["address"].is_null() && process["uid"].is_u64(), "{process}");
    assert!(process["listener"].as_str().is_some_and(|url| url.starts_with("unix")), "{process}");
    let container = find(&all, "127.0.0.5/ci-77ab").expect("it is there");
    assert_eq!((&container["address"], &container["container"]), (&"127.0.0.5".into(), &"ci-77ab".into()));
    assert!(
        find(&all, "127.0.0.1").expect("it is there")["listener"].as_str().is_some_and(|url| url.starts_with("tcp"))
    );
    // Grouped. What stops is gone after the interval, so some more is sent.
    for (by, id) in [("address", "127.0.0.5"), ("container", "ci-4f1c"), ("process", comm.trim())] {
        poll(id, || {
            send();
            let all = senders(&daemon, &format!("?by={by}"));
            if find(&all, id).is_some() { Ok(()) } else { Err(all.to_string()) }
        });
        poll("its prefixes", || {
            send();
            let (code, body) = daemon.get(&format!("/api/v1/senders?sender={id}"));
            if code == 200 && body.contains("\"prefix\":") { Ok(()) } else { Err(body) }
        });
    }
}
