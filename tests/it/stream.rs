//! What happens, as clients of the API see it: the journal of events, and streams of intervals.

use std::net::TcpListener;

use serde_json::Value;

use crate::support::{Daemon, poll};

fn config(more: &str) -> String {
    format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[http]\naddress = \"127.0.0.1:0\"\n{more}"
    )
}

/// The events that a query finds, newest first.
fn events(daemon: &Daemon, query: &str) -> Vec<Value> {
    let (code, body) = daemon.get(&format!("/api/v1/events?{query}"));
    assert_eq!(code, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert!(answer["dropped"].is_u64(), "{answer}");
    answer["events"].as_array().expect("a list").clone()
}

/// The event of a query whose title is this, as soon as there is one.
fn event(daemon: &Daemon, query: &str, title: &str) -> Value {
    poll(title, || {
        let found = events(daemon, query);
        let titles: Vec<Value> = found.iter().map(|event| event["title"].clone()).collect();
        found
            .into_iter()
            .find(|event| event["title"].as_str().is_some_and(|text| text.starts_with(title)))
            .ok_or(titles)
    })
}

#[test]
fn what_happens_is_in_the_journal_with_its_kind_and_level() {
    let dir = tempfile::tempdir().expect("a folder");
    // A sink whose receiver is away at first.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|place| place.local_addr()).expect("a port");
    let sink = format!("[[sink]]\nname = \"away\"\ntype = \"graphite\"\naddress = \"{port}\"\n");
    let daemon = Daemon::start(dir.path(), &format!("max_series = 20\n{}", config(&sink)));
    let start = event(&daemon, "kind=start", "systole ");
    assert!(start["level"] == "info" && start["text"].as_str().expect("text").contains("udp://127.0.0.1:"), "{start}");
    daemon.send_udp(&[
        b"_e{10,4}:deploy api|4.12|t:warning|#service:api,canary,az:a,az:b",
        b"_sc|disk|2|h:web-1|#service:store|m:full",
        b"checkout.hits:1|c|#route:/pay\nheartbeat.pay.web-1:60|g",
    ]);
    let deploy = event(&daemon, "kind=event", "deploy api");
    assert_eq!(
        (&deploy["level"], &deploy["text"], &deploy["service"]),
        (&"warning".into(), &"4.12".into(), &"api".into())
    );
    assert_eq!(deploy["tags"], serde_json::json!({"az": ["a", "b"], "canary": null, "service": "api"}));
    let check = event(&daemon, "kind=service_check", "disk is critical");
    assert_eq!(
        (&check["level"], &check["text"], &check["tags"]["host"]),
        (&"error".into(), &"full".into(), &"web-1".into())
    );
    let series = event(&daemon, "kind=series", "first series under checkout.: checkout.hits");
    assert_eq!(series["series"], "counter:checkout.hits;route=/pay");
    let presence = event(&daemon, "kind=presence", "pay/web-1 was heard for the first time");
    assert_eq!((&presence["service"], &presence["tags"]["instance"]), (&"pay".into(), &"web-1".into()));
    let away = event(&daemon, "kind=sink", "away takes nothing");
    assert!(away["level"] == "error" && !away["text"].as_str().expect("text").is_empty(), "{away}");
    let names: Vec<String> = (0..40).map(|n| format!("many.{n}:1|c")).collect();
    daemon.send_udp(&[names.join("\n").as_bytes()]);
    event(&daemon, "kind=limit", "`max_series` is reached");
    event(&daemon, "kind=limit", "new series fit into `max_series` again");
    let receiver = TcpListener::bind(port).expect("the port again");
    std::thread::spawn(move || {
        for stream in receiver.incoming() {
            let _ = std::io::copy(&mut stream.expect("a connection"), &mut std::io::sink());
        }
    });
    let back = event(&daemon, "kind=sink", "away takes records again");
    assert_eq!(back["level"], "ok");
    // Numbers grow, texts are found in any case, and there is no more than asked for.
    let since = deploy["id"].as_str().expect("an id");
    let later = events(&daemon, &format!("since={since}&limit=1000"));
    let number = |event: &Value| event["id"].as_str().and_then(|id| id.parse::<u64>().ok()).expect("a number");
    assert!(later.iter().all(|event| number(event) > number(&deploy)) && !later.is_empty());
    assert!(later.windows(2).all(|two| number(&two[0]) > number(&two[1])));
    assert_eq!(events(&daemon, "q=DEPLOY")[0]["id"], deploy["id"]);
    assert_eq!((events(&daemon, "limit=2").len(), events(&daemon, "q=nothing+like+it").len()), (2, 0));
    for (query, says) in [
        ("limit=0", "`limit` is a whole number of 1 to 1000"),
        ("kind=events", "`kind` is one of event, service_check"),
        ("since=x", "`since` is the id of an event"),
    ] {
        let (code, body) = daemon.get(&format!("/api/v1/events?{query}"));
        assert!(code == 400 && body.contains(says), "{query}: {code} {body}");
    }
    daemon.stop();
}
