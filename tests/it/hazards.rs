//! What brings other servers down, or makes them tell something else: the hazards of the protocol and the defects of its
//! peers, each sent as a datagram to a daemon that must live and tell the truth.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::{Daemon, pause_ms, records};

/// Datagrams, and what the records of a name must have; `null` for a name that must not be there.
fn hazards() -> Vec<(Vec<&'static str>, &'static str, Value)> {
    vec![
        // The original dies of these: a rate that its check accepts and its pattern does not.
        (vec!["die1:1|c|@+0.5"], "die1", json!({"type": "counter", "value": 2.0})),
        (vec!["die2:1|c|@ 0.5"], "die2", json!({"type": "counter", "value": 2.0})),
        (vec!["die3:1|c|@Infinity"], "die3", json!(null)),
        // And of names that JavaScript's objects have.
        (vec!["constructor:1|ms"], "constructor", json!({"type": "timer", "sum": 1.0})),
        (vec!["toString:2|c"], "toString", json!({"type": "counter", "value": 2.0})),
        (vec!["__proto__:3|s"], "__proto__", json!({"type": "set", "value": 1.0})),
        (vec!["hasOwnProperty:3|g"], "hasOwnProperty", json!({"type": "gauge", "value": 3.0})),
        // A packed gauge without values; brackets the wrong way round.
        (vec!["empty:::|g"], "empty", json!(null)),
        (vec!["a]b[c:1|c"], "a]b[c", json!({"value": 1.0})),
        (vec!["x]k=v[y:1|c"], "x]k=v[y", json!({"value": 1.0})),
        // A rate that others loop over a billion times.
        (vec!["loop:1|ms|@1e-9"], "loop", json!({"count": 1e9, "samples": 1, "mean": 1.0})),
        // Values that poison sums, and a rate that does in others: Java prints small rates as 0, which says nothing.
        (
            vec!["poison:1|c|@0", "poison:nan|c", "poison:inf|c", "poison:1e999|c", "poison:2|c"],
            "poison",
            json!({"value": 3.0}),
        ),
        (vec!["poison.t:nan|ms", "poison.t:-inf|h", "poison.t:5|ms"], "poison.t", json!({"sum": 5.0, "samples": 1})),
        (vec!["poison.g:1|g", "poison.g:Infinity|g", "poison.g:+nan|g"], "poison.g", json!({"value": 1.0})),
        // A typo is no counter.
        (vec!["typo:1|cc", "typo:1|x", "typo:1|", "typo:1"], "typo", json!(null)),
        // What clients send by mistake.
        (vec!["infinite:\u{221e}|g"], "infinite", json!(null)),
        (vec!["comma:1,5|ms"], "comma", json!(null)),
        // Two values of a gauge in one datagram; a change of a gauge.
        (vec!["twice:1|g\ntwice:2|g"], "twice", json!({"value": 2.0})),
        (vec!["changed:10|g", "changed:+5|g"], "changed", json!({"value": 15.0})),
        // A histogram is none of: a counter, nothing.
        (vec!["histogram:320|h"], "histogram", json!({"type": "histogram", "max": 320.0, "samples": 1})),
        (vec!["distribution:320|d"], "distribution", json!({"type": "distribution", "max": 320.0})),
        // Values in one line.
        (vec!["packed:1:2:3|ms"], "packed", json!({"samples": 3, "sum": 6.0})),
        (vec!["old:1|c:2|c|@0.5"], "old", json!({"type": "counter", "value": 5.0})),
        // Fractions.
        (vec!["half:0.5|c", "half:0.5|c"], "half", json!({"value": 1.0})),
        (vec!["third:1|ms|@0.3"], "third", json!({"count": 1.0 / 0.3, "mean": 1.0})),
        // Sections of a newer client.
        (vec!["newer:1|c|e:it-true,cn-a", "newer:1|c|c:ci-1|card:low|zz:9"], "newer", json!({"value": 2.0})),
        // Past what a double counts one by one.
        (vec!["large:9007199254740993|c", "large:2|c"], "large", json!({"value": 9_007_199_254_740_994.0})),
    ]
}

#[test]
fn no_datagram_brings_it_down_or_becomes_something_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    let config = format!(
        "interval = \"1day\"\npercentiles = [99, 99.9]\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n",
        file.display()
    );
    let daemon = Daemon::start(dir.path(), &config);
    for (datagrams, ..) in hazards() {
        let bytes: Vec<&[u8]> = datagrams.iter().map(|text| text.as_bytes()).collect();
        daemon.send_udp(&bytes);
    }
    // An event whose lengths are those of characters, as hot-shots counts them, and a check with a word for a status.
    daemon.send_udp(&["_e{6,1}:Zürich|x".as_bytes(), "_sc|db|OK".as_bytes()]);
    // brubeck ignores the 65,536th sample of a flush; percentiles 99 and 99.9 are two.
    let mut sent = 0_u32;
    while sent < 70_000 {
        let line: String = (sent..sent + 700).map(|n| format!("many:{n}|ms\n")).collect();
        daemon.send_udp(&[line.as_bytes()]);
        sent += 700;
        // No faster than the socket is read.
        pause_ms(2);
    }
    assert_eq!(daemon.get("/health").0, 200);
    // It is told in the middle of an interval to stop: nothing of that is lost either.
    daemon.stop();
    let all = records(&file);
    let by_name: HashMap<&str, &Value> = all.iter().filter_map(|r| Some((r["name"].as_str()?, r))).collect();
    for (datagrams, name, expected) in hazards() {
        let found = by_name.get(name);
        let Value::Object(expected) = expected else {
            assert!(found.is_none(), "{datagrams:?} became {found:?}");
            continue;
        };
        let record = found.unwrap_or_else(|| panic!("{datagrams:?} is nowhere"));
        for (key, value) in expected {
            let same = match (value.as_f64(), record[&key].as_f64()) {
                (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs(),
                _ => value == record[&key],
            };
            assert!(same, "{datagrams:?}: {key} is {} instead of {value}", record[&key]);
        }
    }
    let many = by_name["many"];
    assert_eq!((&many["samples"], &many["max"]), (&json!(70_000), &json!(69_999.0)));
    for (percentile, expected) in [("99", 69_300.0), ("99.9", 69_930.0)] {
        let told = many["percentiles"][percentile].as_f64().expect("both are there");
        assert!((told / expected - 1.0).abs() < 0.001, "{percentile}: {told}");
    }
    assert!(all.iter().all(|r| r["type"] != "event" && r["type"] != "service_check"));
    let ledger = all.iter().find(|r| r["type"] == "ledger").expect("the account");
    let malformed: u64 =
        ledger["lines"]["malformed"].as_object().expect("reasons").values().filter_map(Value::as_u64).sum();
    assert_eq!(malformed, 17, "{}", ledger["lines"]);
}

#[test]
fn a_sink_that_is_away_for_three_intervals_misses_none_of_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let place = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = place.local_addr().expect("bound");
    drop(place);
    let config = format!(
        "interval = \"300ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"graphite\"\naddress = \"{address}\"\nqueue = 20\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    );
    let daemon = Daemon::start(dir.path(), &config);
    for n in 1..=4 {
        daemon.send_udp(&[b"kept:1|c"]);
        daemon.closed(n);
    }
    let server = TcpListener::bind(address).expect("the port is free again");
    let (stream, _) = server.accept().expect("it comes back");
    let reading = std::thread::spawn(move || {
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        // Seconds are too coarse for such intervals: what counts is the sum.
        lines.filter_map(|line| line.strip_prefix("kept.count ")?.split(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    });
    daemon.flushed_when("all is delivered", |s| s["sinks"]["graphite"]["queued"] == 0 && s["lines"]["read"] == 4);
    daemon.stop();
    assert_eq!(reading.join().expect("read"), 4.0);
}
