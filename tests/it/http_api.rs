//! What the API says of lines and of the configuration, and what it refuses.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Daemon, get, get_within, until};

fn start(dir: &Path) -> Daemon {
    let sink = dir.join("records.jsonl");
    let config = format!(
        "interval = \"1s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n\n[[sink]]\nname = \"files\"\ntype = \"file\"\n\
         path = \"{}\"\n[[sink]]\nname = \"graphite\"\ntype = \"graphite\"\naddress = \"127.0.0.1:1\"\n\n[[rule]]\n\
         match = \"page.*\"\nadd_tags = {{ team = \"web\" }}\nsinks = [\"graphite\"]\n\n[http]\naddress = \"127.0.0.1:0\"\n\
         token = \"a secret\"\n",
        sink.display()
    );
    Daemon::start(dir, &config)
}

fn asked(daemon: &Daemon, path: &str) -> Value {
    let (code, said) = daemon.get(path);
    assert_eq!(code, 200, "{path}: {said}");
    serde_json::from_str(&said).expect("JSON")
}

#[test]
fn a_line_is_explained_as_the_daemon_would_take_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path());
    let explain = |line: &str| asked(&daemon, &format!("/api/v1/explain?line={line}"));
    let said = explain("page.hits:2%7Cc%7C@0.5%7C%23route:/a");
    assert_eq!((&said["ok"], &said["error"]), (&true.into(), &Value::Null), "{said}");
    let parts: Vec<&str> = said["parts"].as_array().expect("parts").iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(parts, ["name", "value", "type", "rate", "tags"]);
    let read = &said["read"];
    assert_eq!((&read["kind"], &read["name"]), (&"counter".into(), &"page.hits".into()), "{said}");
    assert_eq!((&read["tags"]["route"], &read["samples"][0], &read["rate"]), (&"/a".into(), &2.0.into(), &0.5.into()));
    assert_eq!((&said["rule"]["match"], &said["rule"]["line"]), (&"page.*".into(), &14.into()), "{said}");
    assert!(said["rule"]["file"].as_str().is_some_and(|file| file.ends_with(".toml")), "{said}");
    let flushed = &said["flushed"][0];
    assert_eq!((&flushed["value"], &flushed["tags"]["team"]), (&4.0.into(), &"web".into()), "{said}");
    assert_eq!(said["goes_to"].as_array().map(Vec::len), Some(1), "{said}");
    assert_eq!(said["goes_to"][0]["sink"], "graphite");
    let names = said["goes_to"][0]["as"].as_array().expect("names");
    assert!(names.iter().any(|name| name.as_str().is_some_and(|name| name.starts_with("page.hits"))), "{said}");
    // What no rule matches goes everywhere.
    assert_eq!(explain("a:1%7Cc")["goes_to"].as_array().map(Vec::len), Some(2));
    // A heartbeat has deadlines.
    let beat = &explain("heartbeat.pay.web-1:10%7Cg")["heartbeat"];
    assert_eq!(
        (&beat["service"], &beat["late_after"], &beat["down_after"]),
        (&"pay".into(), &15.0.into(), &45.0.into()),
        "{beat}"
    );
    // A mistake is shown where it is, with what is most likely meant.
    let said = explain("api.latency:12,5%7Cms");
    let error = &said["error"];
    assert_eq!((&said["ok"], &error["reason"]), (&false.into(), &"bad_value".into()), "{said}");
    assert_eq!(
        (&error["from"], &error["to"], &error["write"]),
        (&12.into(), &16.into(), &"api.latency:12.5|ms".into()),
        "{said}"
    );
    for _ in 0..5 {
        daemon.send_udp(&[b"api.latency:12,5|ms"]);
    }
    until("such lines arrive", || explain("x:1,2%7Cms")["arrives_per_sec"].as_f64() > Some(0.0));
    // Several lines have an answer each, and only so many are explained.
    assert_eq!(explain("a:1%7Cc%0Ab:2%7Cg%0A%0A").as_array().map(Vec::len), Some(2));
    let (code, said) = daemon.get(&format!("/api/v1/explain?line={}", "a:1%7Cc%0A".repeat(21)));
    assert!(code == 400 && said.contains("\"too_much\"") && said.contains("`max_lines`"), "{said}");
    assert_eq!(daemon.get("/api/v1/explain").0, 400);
    assert_eq!(daemon.get(&format!("/api/v1/explain?line={}", "a".repeat(2001))).0, 400);
    // Nothing of it is recorded.
    assert!(!daemon.get("/api/v1/snapshot?name=page.*").1.contains("page.hits"));
    daemon.stop();
}

#[test]
fn the_configuration_is_shown_with_where_each_setting_comes_from() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path());
    let said = asked(&daemon, "/api/v1/config");
    assert!(said["file"].as_str().is_some_and(|file| file.ends_with(".toml")), "{said}");
    let all = said["settings"].as_array().expect("settings");
    let of = |path: &str| {
        let found = all.iter().find(|setting| setting["path"] == path);
        found.unwrap_or_else(|| panic!("{path} is among them")).clone()
    };
    let interval = of("interval");
    assert_eq!(
        (&interval["value"], &interval["default"], &interval["from"]),
        (&"1s".into(), &"10s".into(), &"file".into())
    );
    assert_eq!(interval["line"], 1);
    assert!(interval["about"].as_str().is_some_and(|about| about.contains("flush")), "{interval}");
    let limit = of("max_series");
    assert_eq!((&limit["from"], &limit["line"], &limit["value"]), (&"default".into(), &Value::Null, &limit["default"]));
    assert_eq!(of("http.token")["value"], "***");
    assert_eq!((&of("sink[1].type")["value"], &of("sink[1].address")["from"]), (&"graphite".into(), &"file".into()));
    assert_eq!((&of("rule[0].match")["value"], &of("rule[0].match")["line"]), (&"page.*".into(), &15.into()));
    assert!(!said.to_string().contains("a secret"), "{said}");
    daemon.stop();
}

/// The latest tick since the start, as the status has the last.
fn late(http: SocketAddr) -> f64 {
    let (_, status) = get(http, "/api/v1/status", "");
    serde_json::from_str::<Value>(&status).expect("JSON")["flush"]["late_secs"].as_f64().unwrap_or(0.0)
}

#[test]
fn hostile_queries_are_refused_by_the_limit_or_cheap_and_no_tick_is_late() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"500ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n";
    let daemon = Daemon::start(dir.path(), config);
    let http = daemon.http.expect("HTTP");
    let long = "a".repeat(150);
    for some in (0..5_000).collect::<Vec<u32>>().chunks(5) {
        let lines: Vec<String> = some.iter().map(|n| format!("{long}.{n}:{n}|g")).collect();
        daemon.send_udp(&[lines.join("\n").as_bytes()]);
    }
    daemon.flushed_when("they are here", |status| status["series"]["gauges"].as_u64() > Some(3_000));
    let (most, stars) = ("*a".repeat(16) + "b", "*a".repeat(17) + "b");
    let encoded = |text: &str| text.replace('*', "%2A");
    let hostile = [
        // A pattern that backtracks, over every series.
        (format!("/api/v1/snapshot?name={}", encoded(&most)), 200, "[]"),
        (format!("/api/v1/snapshot?name={}", encoded(&stars)), 400, "`max_stars`: `name` has 17 `*`; at most 16"),
        (format!("/api/v1/snapshot?name={}", "%2A".repeat(257)), 400, "`name` has more than 256"),
        ("/api/v1/snapshot?limit=99999999999999999999".into(), 400, "`limit` is a whole number of 1 to"),
        (format!("/api/v1/snapshot?{}", "tag=a&".repeat(5000)), 400, "`tag` is given 5000 times; at most 10"),
        (format!("/api/v1/explain?line={}", "a:1%7Cc%0A".repeat(300)), 400, "`max_lines`"),
        (format!("/api/v1/explain?line=a{}%7Cc", ":1".repeat(990)), 200, ""),
        (format!("/api/v1/events?q={}", "x".repeat(1025)), 400, "`q` has more than 1024"),
        ("/api/v1/senders?limit=100000".into(), 400, "`limit` is"),
    ];
    let mut latest: f64 = 0.0;
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for (path, expected, says) in &hostile {
                        let (code, said) = get(http, path, "");
                        let start: String = path.chars().take(60).collect();
                        assert!(code == *expected && said.contains(says), "{start}: {code} {said:.300}");
                    }
                })
            })
            .collect();
        until("all are answered", || {
            latest = latest.max(late(http));
            all.iter().all(|one| one.is_finished())
        });
    });
    assert!(latest < 0.4, "a tick was {latest} s late");
    daemon.stop();
}

#[test]
fn patterns_and_near_words_of_long_names_end_after_a_number_of_steps() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"500ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n";
    let daemon = Daemon::start(dir.path(), config);
    let http = daemon.http.expect("HTTP");
    let long = "a".repeat(900);
    for n in 0..2_500 {
        daemon.send_udp(&[format!("{long}{n}:{n}|g").as_bytes()]);
    }
    daemon.flushed_when("they are here", |status| status["series"]["gauges"].as_u64() > Some(2_000));
    // The history has an interval a moment later.
    until("they are found", || get(http, "/api/v1/series?q=aaa&limit=1", "").1.contains("\"matched\":2"));
    for path in [
        format!("/api/v1/series?q=%2A{}%3Fb", "a".repeat(490)),
        format!("/series?q=%2A{}%3Fb", "a".repeat(490)),
        format!("/api/v1/snapshot?name=%2A{}%3Fb", "a".repeat(250)),
    ] {
        let (code, said) = get_within(http, &path, "", Duration::from_secs(60));
        assert!(code == 400 && said.contains("`max_pattern_steps`: "), "{path:.40}: {code} {said:.300}");
    }
    let path = format!("/api/v1/series?q={}", "b".repeat(903));
    let (code, said) = get_within(http, &path, "", Duration::from_secs(60));
    assert!(code == 200 && said.contains("\"near\":[]"), "{code} {said:.300}");
    daemon.stop();
}
