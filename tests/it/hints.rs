//! Near misses: what comes near to what was meant is told once, in the log and in the status, with the setting that would help.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::support::{Daemon, get, systole, text};

const CONFIG: &str =
    "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n";

/// The hints of a status.
fn hints(status: &Value) -> Vec<String> {
    let all = status["hints"].as_array().into_iter().flatten();
    all.map(|hint| hint.as_str().expect("a sentence").to_string()).collect()
}

/// Waits for a hint, which is one entry of the status, on the screen of `systole status`, and one line of the log.
fn told_once(daemon: Daemon, parts: &[&str]) {
    let status = daemon.flushed_when("a hint", |status| !hints(status).is_empty());
    let all = hints(&status);
    assert!(all.len() == 1 && parts.iter().all(|part| all[0].contains(part)), "{all:?}");
    let url = format!("http://{}", daemon.http.expect("HTTP is on"));
    let screen = text(&systole(&["status", "--url", &url], b"").stdout);
    assert!(screen.contains(&format!("Hints      {}", all[0])), "{screen}");
    daemon.next_flush();
    let log = daemon.stop();
    assert_eq!(log.iter().filter(|line| line.contains(parts[0])).count(), 1, "{log:#?}");
}

#[test]
fn a_heartbeat_behind_the_prefix_of_a_client_is_told_with_the_name_that_would_make_it_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), CONFIG);
    daemon.send_udp(&[b"requests:1|c\nmyapp.heartbeat.x:10|g"]);
    daemon.flushed_when("it was read", |status| status["lines"]["metrics"] == 2);
    daemon.send_udp(&[b"other.heartbeat.y:10|g\nheartbeat.z:10|g"]);
    told_once(daemon, &["`myapp.heartbeat.x`", "presence.names = [\"heartbeat\", \"myapp.heartbeat\"]"]);
}

#[test]
fn frames_with_lengths_at_a_listener_of_lines_are_told_with_the_framing() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = CONFIG.replacen("[http]", "[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[http]", 1);
    let daemon = Daemon::start(dir.path(), &config);
    for _ in 0..2 {
        let mut client = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
        let frame = [&9u32.to_le_bytes()[..], b"hello:1|c"].concat();
        client.write_all(&[frame.clone(), frame].concat()).expect("sent");
    }
    told_once(daemon, &["`framing = \"length\"`", "tcp://127.0.0.1:"]);
}

#[test]
fn tags_in_a_form_that_is_off_are_told_with_the_form() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &format!("{CONFIG}[protocol]\nname_tags = [\"graphite\"]\n"));
    daemon.send_udp(&[b"a;k=v:1|c\nb,k=v:1|c\nc,k=v:1|c"]);
    told_once(daemon, &["`b,k=v`", "`protocol.name_tags` with \"influx\" in it"]);
}

#[test]
fn a_scrape_of_the_page_in_place_of_the_sink_is_told_and_others_are_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let scrape = |daemon: &Daemon| (0..3).for_each(|_| assert_eq!(daemon.get("/metrics").0, 200));
    let daemon = Daemon::start(dir.path(), CONFIG);
    scrape(&daemon);
    told_once(daemon, &["/metrics of the page", "`type = \"prometheus\"`"]);

    let sink = format!("{CONFIG}[[sink]]\ntype = \"prometheus\"\naddress = \"127.0.0.1:0\"\n");
    let daemon = Daemon::start(dir.path(), &sink);
    scrape(&daemon);
    told_once(daemon, &["/metrics of the page", "the address of the sink `prometheus`"]);

    // Whoever scrapes both wants both, and metrics that go elsewhere are not missed.
    let daemon = Daemon::start(dir.path(), &sink);
    let ports = daemon.status()["ports"].as_object().expect("ports").clone();
    let page = format!(":{}", daemon.http.expect("HTTP is on").port());
    let address = ports.keys().filter_map(|url| url.strip_prefix("http://")).find(|url| !url.ends_with(&page));
    let address: SocketAddr = address.expect("the sink's port").parse().expect("an address");
    assert_eq!(get(address, "/metrics", "").0, 200);
    scrape(&daemon);
    assert_eq!(hints(&daemon.status()), Vec::<String>::new());
    daemon.stop();
    let elsewhere = format!("{CONFIG}[[sink]]\ntype = \"file\"\npath = \"{}\"\n", dir.path().join("records").display());
    let daemon = Daemon::start(dir.path(), &elsewhere);
    scrape(&daemon);
    daemon.send_udp(&[b"a;k=v:1|c\nb,k=v:1|c|#c:d\nheartbeat.z:10|g\n\x01\x02\x03\x00odd"]);
    let status = daemon.flushed_when("it was read", |status| status["lines"]["read"] == 4);
    assert_eq!(hints(&status), Vec::<String>::new(), "what is usual is no near miss");
    daemon.stop();
}
