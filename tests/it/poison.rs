//! Values that have no form in some format, and times of samples' own that lie anywhere: one datagram stops no sink, and
//! what cannot be told is dropped record by record, counted and named.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use systole::internals::aggregate::{Columns, Quota, Shard};
use systole::internals::assemble;
use systole::internals::codec::Records;
use systole::internals::config::{Sources, load};
use systole::internals::protocol::{Line, lines, parse_line};
use systole::internals::rollup::{Interval, Registry};
use systole::internals::sinks::{DriverOptions, SinkDriver};
use systole::internals::snapshot::Snapshot;

use crate::support::receiver::{Reply::Says, receiver, serve};
use crate::support::{Daemon, Random, extremes, grammar, pause_ms, records, sink, size, systole, text, with_sink};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn log_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_timer_that_the_log_cannot_hold_is_dropped_alone_and_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("timers.hlog");
    let mut daemon =
        Daemon::start(dir.path(), &with_sink(&format!("type = \"hdrlog\"\npath = \"{}\"", file.display())));
    daemon.send_udp(&[b"good:5|ms\npoison:1|ms|@1e-300\nlarge:1e30|h"]);
    let status = daemon.status_when("the good one is there", |status| sink(status)["delivered"] == 1);
    assert_eq!(sink(&status)["dropped"], json!({"unencodable": 2}), "{status}");
    daemon.wait_for("a warning", |lines| {
        lines.iter().any(|line| line.contains("poison cannot be encoded") && line.contains("events are too many"))
    });
    // The next interval goes its way.
    daemon.send_udp(&[b"next:7|ms"]);
    let status = daemon.status_when("the next one is there", |status| sink(status)["delivered"] == 2);
    assert_eq!(sink(&status)["queued"], 0);
    let log = log_of(&file);
    assert!(log.contains("Tag=good,") && log.contains("Tag=next,") && !log.contains("poison"), "{log}");
    daemon.stop();
}

#[test]
fn what_no_start_will_ever_write_does_not_wait_on_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("logs");
    std::fs::create_dir(&folder).expect("a folder");
    let file = folder.join("timers.hlog");
    let spool = dir.path().join("spool");
    let config = with_sink(&format!(
        "type = \"hdrlog\"\npath = \"{}\"\nmax_size = \"1B\"\nkeep = 1000\nspool.path = \"{}\"",
        file.display(),
        spool.display()
    ));
    let daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[b"first:1|ms"]);
    daemon.status_when("written", |status| sink(status)["delivered"] == 1);
    // The file cannot be rotated into a folder that is gone, so what follows goes to disk.
    std::fs::rename(&folder, dir.path().join("elsewhere")).expect("renamed");
    daemon.send_udp(&[b"poison:1|ms|@1e-300\ngood:5|ms"]);
    daemon.status_when("spooled", |status| sink(status)["spooled"] == 2);
    daemon.stop();
    std::fs::create_dir(&folder).expect("a folder");
    let daemon = Daemon::start(dir.path(), &config);
    let status = daemon.status_when("told what can be", |status| sink(status)["delivered"] == 1);
    assert_eq!((&sink(&status)["spooled"], &sink(&status)["dropped"]), (&json!(0), &json!({"unencodable": 1})));
    // The file is rotated with every interval.
    let files = std::fs::read_dir(&folder).expect("a folder").filter_map(Result::ok);
    let logs: String = files.map(|file| log_of(&file.path())).collect();
    assert!(logs.contains("Tag=good,") && !logs.contains("poison"), "{logs}");
    daemon.send_udp(&[b"after:1|ms"]);
    daemon.status_when("the next one", |status| sink(status)["delivered"] == 2);
    let log = daemon.stop();
    assert!(log.iter().any(|line| line.contains("poison cannot be encoded")), "{log:?}");
}

#[test]
fn lines_with_times_of_all_years_make_a_handful_of_indices() {
    let dir = tempfile::tempdir().expect("a folder");
    let (address, requests) = receiver(vec![Says(200, "{\"items\":[]}")]);
    let daemon =
        Daemon::start(dir.path(), &with_sink(&format!("type = \"elasticsearch\"\nurl = \"http://{address}\"")));
    let now = now();
    let days: Vec<u64> = (1..=2000_u64).map(|n| n * 86_400 * 8).collect();
    let mut wanted = 0;
    for days in days.chunks(40) {
        let mut lines = String::new();
        for day in days {
            lines.push_str(&format!("c:1|c|T{day}\ng:1|g|T{day}\n_e{{1,1}}:a|b|d:{day}\n_sc|s|0|d:{day}\n"));
            let ahead = *day as f64 - now as f64;
            // One in the middle of the window at most; none is near its ends.
            wanted += if (-7.0 * 86_400.0..=3600.0).contains(&ahead) { 4 } else { 0 };
        }
        daemon.send_udp(&[lines.as_bytes()]);
        // No faster than the socket is read.
        pause_ms(1);
    }
    daemon.send_udp(&[format!("c:1|c|T{now}\ng:2|g|T{}\n_e{{1,1}}:a|b|d:{now}\nt:3|ms", now - 86_400).as_bytes()]);
    let status = daemon.flushed_when("all was read", |status| {
        status["lines"]["read"] == 8004 && sink(status)["queued"] == 0 && sink(status)["delivered"] == 4 + wanted
    });
    assert_eq!(status["lines"]["malformed"], json!({"bad_timestamp": 8000 - wanted}), "{status}");
    daemon.stop();
    let mut indices = BTreeSet::new();
    for request in requests.try_iter() {
        for line in request.text().lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            indices.extend(line["index"]["_index"].as_str().map(str::to_string));
        }
    }
    assert!((2..=4).contains(&indices.len()), "{indices:?}");
}

#[test]
fn the_window_can_be_moved_and_is_judged_by_the_time_of_receipt() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    let more = "timestamp_past = \"1year\"\ntimestamp_future = \"0s\"\n";
    let config = more.to_string() + &with_sink(&format!("type = \"file\"\npath = \"{}\"", file.display()));
    let daemon = Daemon::start(dir.path(), &config);
    let now = now();
    let (month, decade, ahead) = (now - 30 * 86_400, now - 3650 * 86_400, now + 1000);
    let lines = format!(
        "c:1|c|T{month}\nc:2|c|T{decade}\nc:4|c|T{ahead}\nm:1|c:2|ms|T{decade}\n\
         _e{{1,1}}:x|y|d:{decade}\n_e{{1,1}}:x|y|d:{month}\n_sc|s|0|d:{ahead}\n_sc|s|1|d:nonsense"
    );
    daemon.send_udp(&[lines.as_bytes()]);
    let status = daemon.flushed_when("read", |status| status["lines"]["read"] == 8);
    // The other sample of the fourth line is good.
    let lines = &status["lines"];
    assert_eq!(lines["malformed"], json!({"bad_timestamp": 5}), "{status}");
    assert_eq!((&lines["events"], &lines["service_checks"], &lines["metrics"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!((&status["samples"]["read"], &status["samples"]["timestamped"]), (&json!(2), &json!(1)));
    daemon.status_when("delivered", |status| sink(status)["delivered"] == 4);
    daemon.stop();
    let all = records(&file);
    let times: BTreeMap<&str, f64> = all
        .iter()
        .filter_map(|record| Some((record["type"].as_str()?, record["time"].as_f64()?)))
        .filter(|(kind, _)| ["event", "service_check"].contains(kind))
        .collect();
    assert!(times["event"] == month as f64 && (times["service_check"] - now as f64).abs() < 60.0, "{times:?}");
}

#[test]
fn a_heartbeat_counts_when_it_comes_whatever_its_time_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(
        dir.path(),
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[http]\naddress = \"127.0.0.1:0\"\n",
    );
    daemon.send_udp(&[b"heartbeat.pay.a:10|g|T1"]);
    let status = daemon.flushed_when("a heartbeat", |status| status["lines"]["heartbeats"] == 1);
    assert_eq!(status["lines"]["malformed"], json!({}), "{status}");
    daemon.stop();
}

/// Runs `replay` on rows and gives back its records.
fn replay(rows: &[Value], args: &[&str]) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("capture.jsonl");
    let rows: String = rows.iter().map(|row| row.to_string() + "\n").collect();
    std::fs::write(&file, rows).expect("written");
    let output = systole(&[&["replay", file.to_str().expect("plain")], args].concat(), b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

#[test]
fn replay_judges_times_where_it_knows_when_lines_came() {
    let header = json!({"format": "systole-capture/1", "started": 1_700_000_000});
    let data = "a:1|c|T1700000005\na:2|c|T1600000000\n_e{1,1}:x|y|d:1700090000\nb:1|c";
    let of = |records: &[Value], name: &str| -> Vec<(f64, f64)> {
        let own = records.iter().filter(|r| r["name"] == name);
        own.map(|r| (r["time"].as_f64().expect("a time"), r["value"].as_f64().expect("a value"))).collect()
    };
    let is_event = |r: &&Value| r["type"] == "event";
    // Nobody knows when this was: every time is believed.
    let all = replay(&[json!({"t": 1.0, "data": data})], &[]);
    assert_eq!(of(&all, "a"), [(1_600_000_000.0, 2.0), (1_700_000_005.0, 1.0)]);
    assert_eq!(all.iter().filter(is_event).count(), 1);
    // Here it is known.
    let all = replay(&[header, json!({"t": 1.0, "data": data})], &["--only", "counter,event,ledger"]);
    assert_eq!((of(&all, "a"), of(&all, "b")), (vec![(1_700_000_005.0, 1.0)], vec![(10.0, 1.0)]));
    let ledger = all.iter().find(|r| r["type"] == "ledger").expect("an account");
    assert_eq!(ledger["lines"]["malformed"], json!({"bad_timestamp": 2}), "{ledger}");
    // And here the rows say it themselves; records then have the times of the day.
    let rows = [
        json!({"format": "systole-capture/1", "started": 5}),
        json!({"t": 1_700_000_001.1, "data": data}),
        json!({"t": 1_700_000_020, "data": "b:4|c\nheartbeat.pay.a:10|g"}),
        json!({"t": 1_700_000_029.9, "data": "b:8|c"}),
    ];
    let all = replay(&rows, &["--absolute", "--only", "counter,event"]);
    assert_eq!(of(&all, "a"), [(1_700_000_005.0, 1.0)]);
    assert_eq!(of(&all, "b"), [(1_700_000_010.0, 1.0), (1_700_000_030.0, 12.0)]);
    assert_eq!(all.iter().filter(is_event).count(), 0);
    let until = replay(&rows, &["--absolute", "--only", "counter", "--until", "1700000020"]);
    assert_eq!(of(&until, "b"), [(1_700_000_010.0, 1.0)]);
}

#[test]
fn explain_says_what_a_time_means_now() {
    let (old, fresh) = ("a:1|c|T1700000000|#k:v".to_string(), format!("a:1|c|T{}", now()));
    let output = systole(&["explain", &old], b"");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("malformed if it comes now") && said.contains("timestamp_past"), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let at = lines.iter().position(|line| line.trim_start().starts_with("^ bad_timestamp")).expect("a caret");
    assert_eq!(lines[at].find('^'), lines[at - 1].find("1700000000"));
    assert!(!said.contains("a.count"), "{said}");
    let output = systole(&["explain", &fresh], b"");
    assert!(output.status.success() && text(&output.stdout).contains("a.count"), "{}", text(&output.stdout));
    let output = systole(&["explain", "--json", &old, "_e{1,1}:a|b|d:5"], b"");
    let answers: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers[0]["metrics"][0]["timestamp"], 1_700_000_000);
    assert_eq!((&answers[0]["errors"], &answers[0]["refused_now"][0]["at"]), (&json!([]), &json!(7)));
    assert_eq!(answers[1]["refused_now"][0]["reason"], "bad_timestamp");
    let output = systole(&["explain", "--json", &fresh], b"");
    assert!(!text(&output.stdout).contains("refused_now"));
    let at = |time: u64| text(&systole(&["explain", &format!("a:1|c|T{time}")], b"").stdout);
    let said = at(now() - 8 * 86_400);
    assert!(said.contains("now: 8 days ") && said.contains("old; at most 7 days (`timestamp_past`)"), "{said}");
    let said = at(now() + 7300);
    assert!(said.contains("now: 2 hours") && said.contains("ahead; at most 1 hour (`timestamp_future`)"), "{said}");
    let said = at(now() * 1000);
    assert!(said.contains("looks like milliseconds"), "{said}");
}

/// A sink's account must be this after every interval: nothing failed, and what was offered was taken or dropped for a reason of
/// the format.
fn check(name: &str, account: &systole::internals::telemetry::SinkAccount) -> Result<(), String> {
    let dropped = account.dropped.total();
    let reasons = ["unencodable", "unsupported", "negative", "conflict", "estimated", "too_long"];
    let is_known = account.dropped.iter().all(|(reason, _)| reasons.contains(&reason));
    match account.offered == account.delivered + dropped && account.last_failure == 0.0 && is_known {
        true => Ok(()),
        false => Err(format!("{name}: {account:?}")),
    }
}

/// Text bodies are what their format reads: JSON, line protocol.
fn check_body(first: &str, body: &str) {
    let is_json = ["/api/v", "/_bulk", "JSONEachRow"].iter().any(|part| first.contains(part));
    if is_json {
        for line in body.lines() {
            let read: Result<Value, _> = serde_json::from_str(line);
            let read = read.unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(read.get("field").is_none() || read["value"].is_number(), "{read}");
        }
    } else if first.contains("/write?db=") {
        for line in body.lines() {
            let (rest, time) = line.rsplit_once(' ').expect("a time");
            assert!(time.parse::<i64>().is_ok() && !line.starts_with('#'), "{line}");
            if !line.starts_with("systole_notices") {
                let (_, fields) = rest.rsplit_once(' ').expect("fields");
                for field in fields.split(',') {
                    let (_, value) = field.rsplit_once('=').expect("a value");
                    assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
                }
            }
        }
    }
}

/// A server over TCP that reads lines; whatever is no line of Graphite's is given back as a panic when it is asked.
fn graphite_server() -> (std::net::SocketAddr, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (send, bad) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    let parts: Vec<&str> = line.split(' ').collect();
                    let is_good = line.len() <= 16_384
                        && parts.len() == 3
                        && parts[1].parse::<f64>().is_ok_and(f64::is_finite)
                        && parts[2].parse::<i64>().is_ok();
                    if !is_good {
                        let _ = send.send(line);
                    }
                }
            });
        }
    });
    (address, bad)
}

/// A server over TCP that reads everything.
fn drain() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    address
}

/// A StatsD server that gives back lines which it cannot read.
fn statsd_server() -> (std::net::SocketAddr, std::sync::mpsc::Receiver<String>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("bound");
    let (send, bad) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        let options = systole::internals::protocol::Options::default();
        while let Ok(length) = socket.recv(&mut buffer) {
            for line in lines(&buffer[..length]) {
                let is_good = match parse_line(line, &options) {
                    Ok(Line::Samples(mut samples)) => samples.all(|sample| sample.is_ok()),
                    Ok(_) => true,
                    Err(_) => false,
                };
                if !is_good {
                    let _ = send.send(String::from_utf8_lossy(line).into_owned());
                }
            }
        }
    });
    (address, bad)
}

fn toml_of_sinks(dir: &Path, graphite: std::net::SocketAddr, statsd: std::net::SocketAddr) -> String {
    // Each has its own, which serves one connection.
    let url = || {
        let address = serve("127.0.0.1:0".parse().expect("an address"), |request| {
            check_body(&request.first, &request.text());
            Says(200, if request.first.contains("_bulk") { "{\"items\":[]}" } else { "" })
        });
        format!("url = \"http://{address}\"")
    };
    let (drain, file) = (drain(), |name: &str| dir.join(name).display().to_string());
    let mut toml = String::new();
    let mut sink = |name: &str, kind: &str, more: &str| {
        toml.push_str(&format!("[[sink]]\nname = \"{name}\"\ntype = \"{kind}\"\n{more}\n"));
    };
    sink("file", "file", &format!("path = \"{}\"", file("records")));
    sink("hdrlog", "hdrlog", &format!("path = \"{}\"", file("hlog")));
    sink("exec", "exec", "command = [\"sh\", \"-c\", \"cat > /dev/null\"]");
    for naming in ["systole", "etsy", "dogstatsd"] {
        sink(naming, "graphite", &format!("naming = \"{naming}\"\naddress = \"{graphite}\""));
    }
    sink("pickle", "graphite", &format!("protocol = \"pickle\"\naddress = \"{drain}\""));
    sink("statsd", "statsd", &format!("address = \"{statsd}\""));
    sink("statsd_etsy", "statsd", &format!("dialect = \"etsy\"\ntransport = \"tcp\"\naddress = \"{drain}\""));
    sink("influx", "influx", &format!("{}\ndatabase = \"d\"", url()));
    sink("otlp", "otlp", &url());
    sink("otlp_cumulative", "otlp", &format!("{}\ntemporality = \"cumulative\"", url()));
    sink("datadog", "datadog", &format!("{}\napi_key = \"k\"", url()));
    sink("clickhouse", "clickhouse", &url());
    sink("elasticsearch", "elasticsearch", &url());
    for histograms in ["native", "classic", "summary"] {
        sink(histograms, "remote_write", &format!("{}\nhistograms = \"{histograms}\"", url()));
    }
    sink("prometheus", "prometheus", "address = \"127.0.0.1:0\"");
    // A real server, where there is one: `postgres://…` of a database of its own.
    if let (true, Ok(url)) = (cfg!(feature = "postgres"), std::env::var("SYSTOLE_TEST_POSTGRES")) {
        sink("postgres", "postgres", &format!("url = \"{url}\""));
    }
    if cfg!(feature = "sqlite") {
        sink("sqlite", "sqlite", &format!("path = \"{}\"", file("db")));
    }
    toml
}

/// Whatever lines say, every sink takes the interval: what it cannot tell is dropped record by record, and nothing fails. So
/// it is with what a spool holds.
#[test]
fn every_snapshot_that_lines_can_make_is_taken_by_every_sink() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a folder");
    let ((graphite, bad_graphite), (statsd, bad_statsd)) = (graphite_server(), statsd_server());
    let toml = toml_of_sinks(dir.path(), graphite, statsd)
        + "[[rule]]\nmatch = \"n0\"\nbuckets = [-1, 0, 1e300]\npercentiles = [50, -99.9]\ngauge = \"sum\"\n";
    let profiles = ["systole", "etsy", "dogstatsd"].map(|profile| {
        let text = format!("profile = \"{profile}\"\nexact_samples = 20\nself_metrics = false\n{toml}");
        load(&Sources { file: Some(("x".into(), text)), ..Sources::default() }).expect("a configuration")
    });
    let cases = size("SYSTOLE_TEST_POISON", 30);
    runtime.block_on(async {
        let mut outlets = Vec::new();
        for sink in &profiles[0].sinks {
            let options = DriverOptions::new(&sink.name, sink.kind.name(), Duration::from_secs(3600));
            let opened =
                sink.kind.spec().open(&assemble::sink_context(&profiles[0], &sink.name, Duration::from_secs(10)));
            outlets.push(SinkDriver::start(options, opened.expect("a sink")).expect("started"));
        }
        let mut unencodable = BTreeSet::new();
        for seed in 0..cases {
            let mut random = Random(seed);
            let config = &profiles[(seed % 3) as usize];
            let quota = Quota::new(1000);
            let mut shard = Shard::new(assemble::shard_options(config, &quota, seed));
            shard.set_origin(None);
            let mut registry = Registry::new(assemble::registry_options(config, false), 1);
            let text = extremes::lines(&mut random);
            shard.ingest(&text, &config.protocol, None, 1.0);
            // And what the whole grammar makes of some forms.
            let mut choices = grammar::Random(seed);
            for _ in 0..3 {
                let shape = grammar::random_shape(&mut choices);
                let more = grammar::datagram(&shape, &mut grammar::State::default(), 2000, 1, &mut choices);
                shard.ingest(&more, &config.protocol, None, 1.0);
            }
            let none = [const { Vec::new() }; 5];
            let end = 1_700_000_000.0 + seed as f64 * 10.0;
            let interval = Interval::new(end, 10.0, end, Duration::from_secs(10));
            let snapshot = registry.close(&mut [shard.close(none.clone(), Columns::default())], interval);
            let records = |snapshot: &Snapshot| {
                let mut out = Vec::new();
                Records::ALL.write(snapshot, &mut out);
                String::from_utf8(out).expect("records are text")
            };
            let told = records(&snapshot);
            assert!(!told.contains(":null,\"rate\"") && !told.contains("\"value\":null"), "seed {seed}: {told}");
            let _ = systole::internals::sinks::console::table(&snapshot);
            let decoded = Snapshot::decode(&snapshot.encode().expect("it can be encoded"));
            assert_eq!(records(&decoded.expect("it can be decoded")), told, "seed {seed}");
            let snapshot = Arc::new(snapshot);
            outlets.iter().for_each(|outlet| outlet.offer(&snapshot));
            let deadline = Instant::now() + Duration::from_secs(60);
            for outlet in &outlets {
                loop {
                    let account = outlet.account();
                    if account.last_failure > 0.0 || (account.queued == 0 && account.last_success > 0.0) {
                        check(outlet.name(), &account).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
                        unencodable.extend((account.dropped.of("unencodable") > 0).then(|| outlet.name().to_string()));
                        break;
                    }
                    assert!(Instant::now() < deadline, "seed {seed}: {} does not end: {account:?}", outlet.name());
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        // The lines were bad enough.
        for name in ["hdrlog", "otlp", "systole", "influx", "clickhouse", "elasticsearch"] {
            assert!(unencodable.contains(name), "{name} told everything: {unencodable:?}");
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        for outlet in outlets {
            let name = outlet.name().to_string();
            check(&name, &outlet.finish(deadline).await).unwrap_or_else(|wrong| panic!("{wrong}"));
        }
    });
    for (name, bad) in [("graphite", bad_graphite), ("statsd", bad_statsd)] {
        let first: Vec<String> = bad.try_iter().take(3).collect();
        assert!(first.is_empty(), "no lines for {name}: {first:?}");
    }
}
