//! Who sends what: shares of many senders, tags that explode, processes and containers, through the front door.

use std::net::UdpSocket;
use std::path::Path;

use serde_json::Value;

use crate::support::{Daemon, poll};

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
