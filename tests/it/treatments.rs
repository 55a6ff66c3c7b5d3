//! What rules say of how series are summed up, how long they stay and where they go, through the front door.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Daemon, records, systole, text};

/// What `replay` prints of rows `(seconds, datagram)` under a configuration.
fn replay(config: &str, rows: &[(f64, &str)], more: &[&str]) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a folder");
    let (toml, capture) = (dir.path().join("c.toml"), dir.path().join("c.jsonl"));
    std::fs::write(&toml, config).expect("written");
    let rows: Vec<String> = rows.iter().map(|(t, data)| json!({"t": t, "data": data}).to_string()).collect();
    std::fs::write(&capture, rows.join("\n")).expect("written");
    let path = |path: &Path| path.to_str().expect("plain").to_string();
    let (toml, capture) = (path(&toml), path(&capture));
    let output = systole(&[&["replay", "-c", &toml, &capture], more].concat(), b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// `(time, interval, value)` of a series' records.
fn values(records: &[Value], name: &str) -> Vec<(f64, f64, f64)> {
    let number = |record: &Value, key: &str| record[key].as_f64().expect("a number");
    let mine = records.iter().filter(|record| record["name"] == name);
    mine.map(|r| (number(r, "time"), number(r, "interval"), number(r, "value"))).collect()
}

#[test]
fn a_rule_chooses_percentiles_and_buckets() {
    let config = "percentiles = [50]\n[[rule]]\nmatch = \"api.*\"\npercentiles = [75, 99.9]\nbuckets = [2, 2.5, 100]\n";
    let lines = (1..=4).map(|n| format!("api.t:{n}|ms\nother:{n}|ms\n")).collect::<String>();
    let all = replay(config, &[(0.0, &lines), (1.0, "api.t:3|ms|@0.5")], &[]);
    assert_eq!(all[0]["percentiles"], json!({"75": 3.0, "99.9": 4.0}));
    assert_eq!(all[0]["buckets"], json!({"2": 2.0, "2.5": 2.0, "100": 6.0, "+Inf": 6.0}));
    assert_eq!((&all[1]["percentiles"], &all[1]["buckets"]), (&json!({"50": 2.0}), &Value::Null));
}

#[test]
fn buckets_are_written_under_every_naming() {
    for (profile, expected) in [
        ("systole", "api.t.le_2_5 1 10"),
        ("etsy", "stats.timers.api.t.le_2_5 1 10"),
        ("dogstatsd", "api.t.le_2_5 1 10"),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let (toml, capture) = (dir.path().join("c.toml"), dir.path().join("c.jsonl"));
        std::fs::write(&toml, format!("profile = \"{profile}\"\n[[rule]]\nmatch = \"*\"\nbuckets = [2.5]\n"))
            .expect("written");
        std::fs::write(&capture, json!({"t": 0, "data": "api.t:1|ms\napi.t:9|ms"}).to_string()).expect("written");
        let path = |path: &Path| path.to_str().expect("plain").to_string();
        let output = systole(&["replay", "--as", "graphite", "-c", &path(&toml), &path(&capture)], b"");
        let lines = text(&output.stdout);
        assert!(lines.lines().any(|line| line == expected), "{profile}: {lines}");
        assert!(lines.contains("api.t.le_inf 2 10"), "{profile}: {lines}");
    }
}

#[test]
fn a_rule_chooses_the_digits_of_a_histogram() {
    let config = "exact_samples = 10\npercentiles = [10, 30, 50, 70, 90]\n[[rule]]\nmatch = \"fine\"\ndigits = 4\n[[rule]]\nmatch = \"rough\"\ndigits = 1\n";
    let lines: String = (0..1000)
        .map(|n| ["fine", "rough", "plain"].map(|name| format!("{name}:{}|ms\n", 5000 + n)).concat())
        .collect();
    let all = replay(config, &[(0.0, &lines)], &["--workers", "1"]);
    let error = |name: &str| {
        let record = all.iter().find(|r| r["name"] == name).expect("a timer");
        assert_eq!((&record["exact"], &record["samples"]), (&json!(false), &json!(1000)));
        let off = |p: u32| {
            let told = record["percentiles"][&p.to_string()].as_f64().expect("a number");
            (told / f64::from(4999 + 10 * p) - 1.0).abs()
        };
        [10, 30, 50, 70, 90].map(off).into_iter().fold(0.0, f64::max)
    };
    assert!(error("fine") < 1e-4 && error("plain") < 1e-3, "{} {}", error("fine"), error("plain"));
    assert!(error("rough") > 1e-3 && error("rough") < 0.1, "{}", error("rough"));
}

#[test]
fn a_gauge_is_what_its_rule_makes_of_the_values_of_an_interval() {
    let rules: String = ["min", "max", "mean", "sum"]
        .map(|policy| format!("[[rule]]\nmatch = \"{policy}\"\ngauge = \"{policy}\"\n"))
        .concat();
    let names = ["min", "max", "mean", "sum", "last"];
    let tell = |values: &[&str]| -> String {
        values.iter().flat_map(|value| names.map(|name| format!("{name}:{value}|g\n"))).collect()
    };
    // 10, then 4, 7; nothing in the second interval; +3, +1 on the 7 in the third.
    let all = replay(&rules, &[(0.0, &tell(&["10", "4"])), (1.0, &tell(&["+3"])), (20.0, &tell(&["+3", "+1"]))], &[]);
    let of = |name: &str| values(&all, name).iter().map(|(_, _, value)| *value).collect::<Vec<_>>();
    assert_eq!(of("min"), [4.0, 7.0, 10.0]);
    assert_eq!(of("max"), [10.0, 7.0, 11.0]);
    assert_eq!(of("mean"), [7.0, 7.0, 10.5]);
    assert_eq!(of("sum"), [21.0, 21.0, 21.0]);
    assert_eq!(of("last"), [7.0, 7.0, 11.0]);
}

#[test]
fn the_values_of_a_gauge_are_the_same_with_more_workers_and_in_known_bytes() {
    let config = "[[rule]]\nmatch = \"m.*\"\ngauge = \"max\"\n";
    let rows: Vec<(f64, String)> =
        (0..40).map(|n| (f64::from(n), format!("m.a:{}|g\nm.b:{}|g|#k:v", n * 7 % 40, n))).collect();
    let rows: Vec<(f64, &str)> = rows.iter().map(|(t, data)| (*t, data.as_str())).collect();
    let one = replay(config, &rows, &[]);
    assert_eq!(values(&one, "m.a").iter().map(|v| v.2).collect::<Vec<_>>(), [35.0, 39.0, 36.0, 38.0]);
    assert_eq!(values(&one, "m.b").iter().map(|v| v.2).collect::<Vec<_>>(), [9.0, 19.0, 29.0, 39.0]);
    assert_eq!(one, replay(config, &rows, &["--workers", "3"]));
}

#[test]
fn a_rule_chooses_how_long_a_series_stays() {
    let config = "[[rule]]\nmatch = \"short\"\nttl = \"20s\"\n[[rule]]\nmatch = \"long\"\nttl = \"forever\"\n";
    let all = replay(config, &[(0.0, "short:1|g\nlong:2|g\nplain:3|g")], &["--until", "600"]);
    let last = |name: &str| values(&all, name).last().map(|(time, ..)| *time);
    assert_eq!((last("short"), last("plain"), last("long")), (Some(20.0), Some(300.0), Some(600.0)));
}

#[test]
fn a_slow_series_is_flushed_at_every_so_many_th_tick_whole_and_with_its_true_length() {
    let config = "[[rule]]\nmatch = \"slow.*\"\ninterval = 3\n";
    let rows: Vec<(f64, String)> = (0..7)
        .map(|n| {
            (
                f64::from(n) * 10.0,
                format!("slow.c:1|c\nslow.g:{n}|g\nslow.t:{n}|ms\nslow.s:{n}|s\nslow.k:{n}|kv\nquick:1|c"),
            )
        })
        .collect();
    let rows: Vec<(f64, &str)> = rows.iter().map(|(t, data)| (*t, data.as_str())).collect();
    let all = replay(config, &rows, &[]);
    assert_eq!(values(&all, "slow.c"), [(30.0, 30.0, 3.0), (60.0, 30.0, 3.0), (70.0, 10.0, 1.0)]);
    let rate = |r: &&Value| (r["name"] == "slow.c").then(|| r["rate"].as_f64());
    assert_eq!(all.iter().filter_map(|r| rate(&r)).flatten().collect::<Vec<_>>(), [0.1, 0.1, 0.1]);
    assert_eq!(values(&all, "slow.g").iter().map(|v| v.2).collect::<Vec<_>>(), [2.0, 5.0, 6.0]);
    assert_eq!(values(&all, "slow.s").iter().map(|v| v.2).collect::<Vec<_>>(), [3.0, 3.0, 1.0]);
    assert_eq!(values(&all, "slow.k").len(), 7);
    assert_eq!(values(&all, "quick").len(), 7);
    let sums: Vec<f64> = all.iter().filter(|r| r["name"] == "slow.t").filter_map(|r| r["sum"].as_f64()).collect();
    assert_eq!(sums, [3.0, 12.0, 6.0]);
    // Who only asks up to a time sees what had its turn by then.
    assert_eq!(values(&replay(config, &rows, &["--until", "50"]), "slow.c").len(), 1);
}

#[test]
fn a_rule_says_which_sinks_get_a_series_and_each_account_adds_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str| dir.path().join(name);
    let sink =
        |name: &str| format!("[[sink]]\ntype = \"file\"\nname = \"{name}\"\npath = \"{}\"\n", file(name).display());
    let config = format!(
        "interval = \"200ms\"\ntimestamp_past = \"100years\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n{}{}\
         [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n\
         [[rule]]\nmatch = \"a.*\"\nsinks = [\"first\"]\n[[rule]]\nmatch = \"none\"\nsinks = []\n",
        sink("first"),
        sink("second")
    );
    let daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[
        b"a.c:1|c\na.g:2|g\na.t:3|ms\na.s:x|s\na.k:1|kv\nb:1|c\nnone:1|c\na.c:5|c|T1700000000\nnone:5|c|T1700000000",
    ]);
    let status = daemon.flushed_when("it is delivered", |s| s["samples"]["read"] == 9);
    assert_eq!(status["samples"]["recorded"], 7, "{status}");
    daemon.stop();
    let names = |file: &str| {
        let mut names: Vec<String> =
            records(&dir.path().join(file)).iter().filter_map(|r| r["name"].as_str().map(str::to_string)).collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(names("first"), ["a.c", "a.g", "a.k", "a.s", "a.t", "b"]);
    assert_eq!(names("second"), ["b"]);
    let stamped = |file: &str| records(&dir.path().join(file)).iter().filter(|r| r["time"] == 1_700_000_000.0).count();
    assert_eq!((stamped("first"), stamped("second")), (1, 0));
    for record in records(&file("first")).iter().filter(|r| r["type"] == "ledger") {
        for sink in ["first", "second"] {
            let account = &record["sinks"][sink];
            let number = |key: &str| account[key].as_u64().expect("a number");
            assert_eq!(number("offered"), number("delivered") + number("queued") + number("spooled"), "{account}");
        }
    }
}

#[test]
fn a_sink_says_which_names_it_takes() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str| dir.path().join(name);
    let sink = |name: &str, more: &str| {
        format!("[[sink]]\ntype = \"file\"\nname = \"{name}\"\npath = \"{}\"\n{more}\n", file(name).display())
    };
    let config = format!(
        "interval = \"1day\"\ntimestamp_past = \"100years\"\nself_metrics = false\nprefix = \"p.\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n{}{}{}\
         [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n",
        sink("all", ""),
        sink("api", "include = [\"p.api.*\", \"p.b\"]\nexclude = [\"*.debug\"]"),
        sink("none", "include = []"),
    );
    let daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[b"api.hits:1|c\napi.debug:1|g\nb:1|ms\nc:x|s\nc:1|c|T1700000000\n_e{1,1}:a|b"]);
    // What has come is read before the end.
    daemon.stop();
    let of = |name: &str| {
        let all = records(&file(name));
        let mut names: Vec<String> = all.iter().filter_map(|r| r["name"].as_str().map(str::to_string)).collect();
        names.sort();
        (names.join(" "), all.iter().filter(|r| r["type"] == "event").count())
    };
    assert_eq!(of("all"), ("p.api.debug p.api.hits p.b p.c p.c".to_string(), 1));
    assert_eq!(of("api"), ("p.api.hits p.b".to_string(), 1));
    assert_eq!(of("none"), (String::new(), 1));
}

#[test]
fn explain_tells_the_treatment_and_mistakes_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    let path = file.to_str().expect("plain").to_string();
    let good = "[[rule]]\nmatch = \"api.*\"\ntype = \"timer\"\npercentiles = [75]\nttl = \"1m\"\ninterval = 6\nsinks = [\"console\"]\n\
                rename = \"x.${1}.$1\"\n";
    std::fs::write(&file, good).expect("written");
    let shown = text(&systole(&["explain", "-c", &path, "api.t:3|ms"], b"").stdout);
    let expected = "becomes x.t.t; percentiles 75; forgotten after 60 s; every 6 intervals; only to console";
    assert!(shown.contains(expected) && shown.contains("x.t.t.p75 3"), "{shown}");
    // Another type is another matter.
    assert!(!text(&systole(&["explain", "-c", &path, "api.t:3|c"], b"").stdout).contains("rule"));

    let bad =
        "[[rule]]\nmatch = \"a\"\nbuckets = [3, 2]\nsinks = [\"consle\"]\ngauge = \"avg\"\ndigits = 9\ninterval = 0\n";
    std::fs::write(&file, bad).expect("written");
    let output = systole(&["check", "-c", &path], b"");
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for expected in [
        ":3:11: rule[0].buckets: not in ascending order",
        ":4:10: rule[0].sinks[0]: no sink is called `consle` (did you mean `console`?)",
        ":5:9: rule[0].gauge: `avg` is none of `last`, `min`, `max`, `mean`, `sum`",
        ":6:10: rule[0].digits: `9` is not a whole number from 1 to 5",
        ":7:12: rule[0].interval: `0` is not",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
}
