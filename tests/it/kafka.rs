//! The Kafka sink against librdkafka's mock cluster of three brokers: every record arrives once, keyed by its series. Run with
//! `cargo test --features kafka --test it kafka::`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use serde_json::Value;

use crate::support::{Daemon, records};

#[test]
fn every_record_is_a_message_of_its_series() {
    let cluster = MockCluster::new(3).expect("a cluster");
    cluster.create_topic("systole", 4, 3).expect("a topic");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records");
    let servers = cluster.bootstrap_servers();
    let brokers: Vec<String> = servers.split(',').map(|broker| format!("\"{broker}\"")).collect();
    let daemon = Daemon::start(
        dir.path(),
        &format!(
            "interval = \"200ms\"\nself_metrics = false\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
             [[sink]]\ntype = \"kafka\"\nbrokers = [{}]\ntimeout = \"20s\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n\
             [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n",
            brokers.join(", "),
            file.display()
        ),
    );
    let mut lines = String::new();
    for n in 0..10_000 {
        let kind = ["c", "g", "ms", "h", "s"][n % 5];
        lines.push_str(&format!("k.{}:{}|{kind}|#env:p{}\n", n % 40, n % 97, n % 3));
    }
    lines.push_str("_e{1,1}:t|x\n_sc|disk|1\n");
    let mut stream = std::net::TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    std::io::Write::write_all(&mut stream, lines.as_bytes()).expect("sent");
    drop(stream);
    daemon.flushed_when("everything was read", |status| status["lines"]["read"].as_u64() >= Some(10_002));
    let status = daemon.status_when("delivered", |status| status["sinks"]["kafka"]["delivered"].as_u64() > Some(200));
    assert_eq!(status["sinks"]["kafka"]["dropped"], serde_json::json!({}));
    daemon.stop();

    let wanted = records(&file);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &servers)
        .set("group.id", "test")
        .set("auto.offset.reset", "earliest")
        .create()
        .expect("a consumer");
    consumer.subscribe(&["systole"]).expect("subscribed");
    let (mut found, mut partition_of): (Vec<Value>, BTreeMap<Vec<u8>, i32>) = (Vec::new(), BTreeMap::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    while found.len() < wanted.len() && Instant::now() < deadline {
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.expect("a message");
        let key = message.key().expect("a key").to_vec();
        let record: Value = serde_json::from_slice(message.payload().expect("a record")).expect("JSON");
        if let Some(name) = record["name"].as_str().filter(|_| record["type"] != "service_check") {
            assert!(key.starts_with(name.as_bytes()), "{record}");
        }
        assert_eq!(*partition_of.entry(key).or_insert(message.partition()), message.partition());
        found.push(record);
    }
    let sorted = |mut all: Vec<Value>| {
        // The account of a sink differs from one to the other.
        all.retain(|record| record["type"] != "ledger");
        let mut all: Vec<String> = all.iter().map(Value::to_string).collect();
        all.sort();
        all
    };
    assert_eq!(found.len(), wanted.len());
    assert!(sorted(found) == sorted(wanted), "the records differ");
}
