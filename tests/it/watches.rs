//! Watches through the front door: metrics that are heartbeats, too, of who sends them, how often, and with which values.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Daemon, pause_ms, records, systole, text, until};

fn config(dir: &Path, watches: &str) -> String {
    format!(
        "interval = \"1s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 2\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n\
         [http]\naddress = \"127.0.0.1:0\"\ntoken = \"secret\"\n[presence]\nstate_file = \"{}\"\n{watches}",
        dir.join("records.jsonl").display(),
        dir.join("state/presence.json").display(),
    )
}

fn watch(pattern: &str, service: &str, more: &str) -> String {
    format!("[[presence.watch]]\nmatch = \"{pattern}\"\nservice = \"{service}\"\n{more}\n")
}

fn instance(daemon: &Daemon, who: &str) -> Value {
    let (_, body) = daemon.get(&format!("/api/v1/presence/{who}"));
    serde_json::from_str(&body).expect("JSON")
}

/// Sends lines again and again until something is so.
fn while_sending(daemon: &Daemon, lines: &[&str], what: &str, mut is_so: impl FnMut() -> bool) {
    until(what, || {
        lines.iter().for_each(|line| daemon.send_udp(&[line.as_bytes()]));
        pause_ms(100);
        is_so()
    });
}

#[test]
fn a_metric_is_a_heartbeat_of_its_host_and_stays_a_metric() {
    let dir = tempfile::tempdir().expect("a folder");
    let watches = watch("cron.*.alive", "cron-{1}", "interval = \"1s\"")
        + &watch("offset", "clock", "instance = \"all\"\ninterval = \"1s\"\nevidence = \"change\"")
        + &watch("idle.*", "idle", "instance = \"{1}\"\ninterval = \"1s\"\nevidence = \"nonzero\"")
        + &watch("pod.up", "pods", "max_instances = 2\ninterval = \"1s\"");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &watches));
    // One sender keeps its worker, which knows its last value.
    let (clock, to) = (UdpSocket::bind("127.0.0.1:0").expect("a socket"), daemon.udp.expect("UDP is on"));
    let say = |value: usize| assert!(clock.send_to(format!("offset:{value}|g").as_bytes(), to).is_ok());
    let kept = ["cron.mail.alive:1|c", "pod.up:1|g|#host:p1", "pod.up:1|g|#host:p2", "other:1|c"];
    let all = [&kept[..], &["cron.mail.alive:0|c|#host:h1", "idle.a:0|c", "idle.b:3|c"]].concat();
    while_sending(&daemon, &all, "both senders", || {
        say(5);
        instance(&daemon, "cron-mail/h1")["state"] == "up" && instance(&daemon, "cron-mail/127.0.0.1")["state"] == "up"
    });
    let shown = instance(&daemon, "cron-mail/h1");
    assert_eq!((&shown["watch"], &shown["timeout_s"]), (&"cron.*.alive".into(), &5.0.into()));
    // A third host of two, a value that stands still, and zeros are nobody.
    let mut all = [&kept[..], &["pod.up:1|g|#host:p3", "idle.a:0|c"]].concat();
    let moving = || instance(&daemon, "clock/all")["state"].clone();
    while_sending(&daemon, &all, "`h1` and the clock are down", || {
        say(5);
        instance(&daemon, "cron-mail/h1")["state"] == "down" && moving() == "down"
    });
    all.push("cron.mail.alive:1|c|#host:h1");
    while_sending(&daemon, &all, "`h1` is back", || {
        say(5);
        instance(&daemon, "cron-mail/h1")["state"] == "up"
    });
    assert_eq!(moving(), "down", "it is the value of before");
    let mut value = 5;
    until("the clock moves", || {
        value += 1;
        say(value);
        pause_ms(100);
        moving() == "up"
    });
    let absent = |who: &str| daemon.get(&format!("/api/v1/presence/{who}")).0 == 404;
    assert!(absent("idle/a") && absent("pods/p3") && absent("other/127.0.0.1") && !absent("idle/b"));
    let page = daemon.get("/presence/cron-mail").1;
    assert!(page.contains("fed by") && page.contains("cron.*.alive"), "{page}");
    let status =
        daemon.flushed_when("the refusals", |status| status["presence"]["refused"]["limit"].as_u64() > Some(0));
    assert_eq!(status["lines"]["malformed"], Value::Object(serde_json::Map::new()));
    daemon.stop();
    let all = records(&dir.path().join("records.jsonl"));
    let sum = |name: &str| {
        let found = all.iter().filter(|r| r["type"] == "counter" && r["name"] == name && r["tags"]["host"].is_null());
        found.filter_map(|r| r["value"].as_f64()).sum::<f64>()
    };
    assert!(sum("cron.mail.alive") > 10.0 && sum("cron.mail.alive") == sum("other"), "they stay metrics, and whole");
    let warnings = all.iter().filter(|r| r["code"] == "limit" && r["service"] == "pods").count();
    assert_eq!(warnings, 1);
}

#[test]
fn lines_are_counted_by_sender_where_a_watch_asks_for_that() {
    let dir = tempfile::tempdir().expect("a folder");
    let watches = watch("job.*.done", "job", "instance = \"{source}\"\ninterval = \"1s\"\nfloor = 1000000")
        + &watch("node.load", "node", "instance = \"{az}-{source}\"\ninterval = \"1s\"");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &watches));
    let other = UdpSocket::bind("127.0.0.2:0").expect("a second address");
    let to = daemon.udp.expect("UDP is on");
    let lines = ["job.a.done:1|c", "job.a.done:2|c|#x:y", "job.a.done:1:2|ms", "node.load:1|g|#az:x"];
    while_sending(&daemon, &lines, "two senders", || {
        other.send_to(b"job.b.done:1|c|@0.5\nnode.load:2|g|#az:x", to).expect("sent");
        instance(&daemon, "job/127.0.0.1")["state"] == "up" && instance(&daemon, "node/x-127.0.0.2")["state"] == "up"
    });
    let found = instance(&daemon, "job/127.0.0.2");
    assert_eq!((&found["state"], &found["source"]), (&"up".into(), &"127.0.0.2".into()));
    // Nobody else is made up of lines whose sender was not known.
    let names = |service: &str| -> Vec<Value> {
        let all = instance(&daemon, service)["instances"].as_array().cloned().unwrap_or_default();
        all.into_iter().map(|one| one["instance"].clone()).collect()
    };
    assert_eq!(names("job"), ["127.0.0.1", "127.0.0.2"]);
    assert_eq!(names("node"), ["x-127.0.0.1", "x-127.0.0.2"]);
    while_sending(&daemon, &lines, "one of them is down", || instance(&daemon, "job/127.0.0.2")["state"] == "down");
    assert_eq!(instance(&daemon, "job/127.0.0.1")["state"], "up");
    let status = daemon.flushed_when("a flush", |_| true);
    assert_eq!(status["lines"]["internal_error"], 0);
    daemon.stop();
}

#[test]
fn a_watch_that_nothing_has_come_for_holds_up_no_stop() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &watch("a.b", "svc", "interval = \"5s\"")));
    let began = Instant::now();
    let log = daemon.stop();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(!log.iter().any(|line| line.contains("not delivered")), "{log:?}");
}

#[test]
fn check_warns_of_watches_that_take_nothing_and_explain_says_which_takes_a_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("systole.toml");
    let explain = |watches: &str, args: &[&str]| {
        std::fs::write(&file, watches).expect("written");
        let path = file.to_str().expect("plain").to_string();
        let all: Vec<&str> = args[..1].iter().copied().chain(["-c", &path]).chain(args[1..].iter().copied()).collect();
        let output = systole(&all, b"");
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let good = watch("queue.*.done", "queue-{1}", "interval = \"10s\"\nfloor = 5\nevidence = \"nonzero\"")
        + "[[rule]]\nmatch = \"old.*\"\nrename = \"queue.$1.done\"\n";
    let (code, out, _) = explain(&good, &["explain", "queue.mail.done:1|c"]);
    assert_eq!(code, Some(0));
    let said = "watch        queue-mail/{source} (match = \"queue.*.done\"), if the value is not 0: the next within 10 s; low below 5 lines a minute";
    assert!(out.contains(said), "{out}");
    assert!(!explain(&good, &["explain", "queue.mail.other:1|c"]).1.contains("watch"), "no watch takes it");
    let (_, out, err) = explain(&good, &["check"]);
    assert!(out.contains("watch queue.*.done: queue-{1}/{host}") && err.is_empty(), "{out}{err}");
    let hidden = watch("*.done", "all", "") + &watch("queue.*.done", "queue", "");
    let (code, _, err) = explain(&hidden, &["check"]);
    assert!(err.contains("`queue.*.done` takes no line, because `*.done` before it takes all of them"), "{err}");
    assert_eq!(code, Some(0));
    for (watches, problem) in [
        (watch("a", "s-{1}", ""), "`{1}` is what a star matched, and `match` has none"),
        (watch("a", "s", "instance = \"{not a tag}\""), "unknown placeholder `{not a tag}`"),
        (watch("a", "s", "floor = 0"), "floor"),
        (watch("a", "s", "") + &watch("a", "t", ""), "an earlier watch takes `a`"),
        (watch("a", "s", "evidence = \"some\""), "evidence"),
    ] {
        let (code, _, err) = explain(&watches, &["check"]);
        assert!(code == Some(2) && err.contains(problem), "{watches}: {err}");
    }
}
