//! The history: what was sent is found and drawn for as long as it is kept, through the daemon; what it takes in memory; and
//! search among many series while they come and go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use systole::internals::aggregate::{Gauge, Sum, Timer, TimerPolicy};
use systole::internals::history::{Cursor, History, HistoryOptions, PointsQuery, SearchQuery, Sort, Wanted};
use systole::internals::memory::{Holder, Memory};
use systole::internals::protocol::Kind;
use systole::internals::series::Series;
use systole::internals::snapshot::{CounterPoint, GaugePoint, Snapshot, SummaryPolicy, TimerPoint};

use crate::support::heap::held_bytes;
use crate::support::{Daemon, Random, alone, close_to, pause, poll, size, until};

const CONFIG: &str = "interval = \"1s\"\npercentiles = [50, 99]\n[http]\naddress = \"127.0.0.1:0\"\n\
                      [[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"console\"\n";

fn json(daemon: &Daemon, path: &str) -> Value {
    let (status, body) = daemon.get(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

fn numbers(value: &Value) -> Vec<Option<f64>> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no array")).iter().map(Value::as_f64).collect()
}

#[test]
fn the_time_before_a_restart_is_there_after_it_and_after_a_crash() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = CONFIG.replace("\"1s\"", "\"200ms\"");
    let values = |daemon: &Daemon| {
        let points = json(daemon, "/api/v1/history?id=counter:hello&id=timer:wait&ledger=lines.read");
        // Of what is not known there is nothing.
        let some = |of: &Value| if of.is_null() { Vec::new() } else { numbers(of).into_iter().flatten().collect() };
        let hello = some(&points["series"][0]["fields"]["value"]);
        let wait = some(&points["series"][1]["fields"]["p99"]);
        let lines = some(&points["ledger"]["lines.read"]).iter().sum::<f64>();
        let starts = points["marks"].as_array().expect("marks").iter().filter(|mark| mark["kind"] == "restart").count();
        (hello, wait, lines, starts)
    };
    for n in 1..=3_u32 {
        let daemon = Daemon::start(dir.path(), &config);
        let before: Vec<f64> = (1..n).map(f64::from).collect();
        until("what was before", || values(&daemon).0 == before);
        daemon.send_udp(&[format!("hello:{n}|c\nwait:{n}|ms").as_bytes()]);
        let all: Vec<f64> = (1..=n).map(f64::from).collect();
        until("all of it", || {
            let (hello, wait, lines, starts) = values(&daemon);
            (hello, wait, lines, starts) == (all.clone(), all.clone(), f64::from(2 * n), n as usize)
        });
        daemon.stop();
    }
    // It is not removed when it is loaded.
    drop(Daemon::start(dir.path(), &config));
    let daemon = Daemon::start(dir.path(), &config);
    until("what was before", || values(&daemon).0 == [1.0, 2.0, 3.0]);
    daemon.stop();
    // On an axis of other intervals it has no place.
    let mut daemon = Daemon::start(dir.path(), CONFIG);
    daemon.wait_for("a word on it", |lines| lines.iter().any(|line| line.contains("the history begins anew")));
    assert!(values(&daemon).0.is_empty());
    daemon.stop();
}

#[test]
fn a_metric_is_found_and_drawn_and_stays_when_it_is_not_sent_any_more() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), CONFIG);
    daemon.send_udp(&[
        b"hello:3|c\nshop.wait:10|ms|#route:/pay\nshop.wait:30|ms|#route:/pay\nshop.wait:20|ms|#route:/cart\npool:7|g",
    ]);
    daemon.closed(5);
    let page = poll("all series", || {
        let page = json(&daemon, "/api/v1/series?spark=10&facets=1");
        if page["matched"] == 4 { Ok(page) } else { Err(page) }
    });
    let all = page["series"].as_array().expect("series");
    let ids: Vec<&str> = all.iter().map(|series| series["id"].as_str().expect("an id")).collect();
    assert_eq!(ids, ["counter:hello", "gauge:pool", "timer:shop.wait;route=/cart", "timer:shop.wait;route=/pay"]);
    assert_eq!((&page["total"], &page["next"]), (&4.into(), &Value::Null));
    assert_eq!(page["facets"]["kinds"]["timer"], 2);
    assert_eq!(page["facets"]["prefixes"], serde_json::json!([["shop.", 2]]));
    assert_eq!(page["facets"]["tags"][0][0], "route");
    let timer = json(&daemon, "/api/v1/series?q=shop+route:/pay")["series"][0].clone();
    assert_eq!((timer["field"].as_str(), timer["max"].as_f64()), (Some("p99"), Some(30.0)));
    assert_eq!(timer["tags"], serde_json::json!({"route": "/pay"}));
    // Later intervals have no counter; the history still has it.
    until("it is not current any more", || json(&daemon, "/api/v1/series?q=hello")["series"][0]["is_current"] == false);
    let past = json(
        &daemon,
        "/api/v1/history?id=counter:hello&id=gauge:pool&id=counter:nobody&ledger=lines.read&ledger=no.such",
    );
    let times = numbers(&past["times"]);
    assert!(times.windows(2).all(|two| two[0] < two[1]) && past["resolution"] == "interval", "{past}");
    let values = numbers(&past["series"][0]["fields"]["value"]);
    assert_eq!(values.iter().flatten().collect::<Vec<_>>(), [&3.0], "{past}");
    assert!(values.len() == times.len() && values.len() > 1);
    let at = values.iter().position(Option::is_some).expect("one");
    let gauge = &past["series"][1];
    assert_eq!((numbers(&gauge["fields"]["value"])[at], &gauge["updated"][at]), (Some(7.0), &true.into()));
    assert!(gauge["updated"].as_array().expect("flags")[at + 1..].contains(&false.into()), "{gauge}");
    assert!(numbers(&past["series"][2]["fields"]["value"]).iter().all(Option::is_none));
    assert!(numbers(&past["ledger"]["no.such"]).iter().all(Option::is_none));
    assert_eq!(numbers(&past["ledger"]["lines.read"]).iter().flatten().sum::<f64>(), 5.0);
    assert!(numbers(&past["completeness"]).iter().flatten().all(|share| *share == 1.0));
    let open = &past["open"];
    assert!(close_to(open["to"].as_f64().expect("a time"), open["from"].as_f64().expect("a time") + 1.0));
    let shown = json(&daemon, "/api/v1/series/details?kind=timer&name=shop.wait&tag=route:/pay");
    assert_eq!((&shown["percentiles"], &shown["exact"]), (&serde_json::json!([50.0, 99.0]), &true.into()));
    let by = &shown["by_tag"][0];
    assert_eq!((&by["key"], by["values"].as_array().map(Vec::len)), (&"route".into(), Some(2)), "{shown}");
    assert!(json(&daemon, "/api/v1/series?q=systole.lines")["matched"].as_u64() > Some(1));
    let near = json(&daemon, "/api/v1/series?q=helo");
    assert_eq!(near["near"], serde_json::json!([{"text": "hello", "matched": 1}]));
    let account = daemon.status()["history"].clone();
    assert!(account["series"].as_u64() > Some(4) && account["bytes"].as_u64() > Some(1000), "{account}");
    daemon.stop();
}

#[test]
fn a_heat_map_begins_when_somebody_asks_and_an_open_range_is_by_default_half_an_hour() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), CONFIG);
    let found = poll("a heat map", || {
        daemon.send_udp(&[b"t:1|ms\nt:5|ms\nt:5|ms"]);
        let past = json(&daemon, "/api/v1/history?id=timer:t&heat=1&field=p99");
        let row = past["series"][0]["heat"]["counts"]
            .as_array()
            .and_then(|rows| rows.iter().rev().find(|row| !row.is_null()));
        row.cloned().ok_or(past.clone()).map(|row| (row, past))
    });
    let (row, past) = found;
    let counts: Vec<f64> = numbers(&row).into_iter().flatten().collect();
    let bounds = numbers(&past["series"][0]["heat"]["bounds"]);
    assert!(counts.len() == bounds.len() && counts.iter().sum::<f64>() >= 3.0, "{past}");
    assert_eq!(past["series"][0]["fields"].as_object().map(serde_json::Map::len), Some(1));
    let span = past["to"].as_f64().expect("a time") - past["from"].as_f64().expect("a time");
    assert!(close_to(span, 1800.0), "{span}");
    daemon.stop();
}

#[test]
fn what_costs_too_much_is_refused_with_the_name_of_the_limit() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), CONFIG);
    let many = |name: &str, count: usize| vec![format!("{name}=counter:a"); count].join("&");
    let error = |path: &str| {
        let (status, body) = daemon.get(path);
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let text = |key: &str| body["error"][key].as_str().unwrap_or_default().to_string();
        (status, text("code"), text("message"))
    };
    for (path, limit) in [
        ("/api/v1/history?id=counter:a&from=1700000000&to=1731556000&step=0.01".to_string(), "`max_points`"),
        (format!("/api/v1/history?{}", many("id", 21)), "`max_series`"),
        (format!("/api/v1/history?{}", many("ledger", 41)), "`max_ledger`"),
        (format!("/api/v1/history?{}", many("field", 41)), "`max_fields`"),
        (format!("/api/v1/history?ledger={}", "x".repeat(1001)), "`max_name`"),
        (format!("/api/v1/series?q={}", "a*".repeat(600)), "`max_query`"),
        (format!("/api/v1/series?q={}", "a+".repeat(17)), "`max_query`"),
    ] {
        let (status, code, message) = error(&path);
        assert_eq!((status, code.as_str()), (400, "too_much"), "{path}: {message}");
        assert!(message.contains(limit), "{message}");
    }
    for path in [
        "/api/v1/history?id=nothing",
        "/api/v1/history?step=0",
        "/api/v1/history?step=nan",
        "/api/v1/history?from=2&to=1",
        "/api/v1/history?from=inf",
        "/api/v1/history?heat=yes",
        "/api/v1/history?since=1",
        "/api/v1/series?limit=0",
        "/api/v1/series?limit=201",
        "/api/v1/series?spark=121",
        "/api/v1/series?sort=size",
        "/api/v1/series?kind=meter",
        "/api/v1/series?cursor=%21",
        "/api/v1/series?tag=route",
        "/api/v1/series?q=a%00b",
        "/api/v1/series/details",
        "/api/v1/series/details?id=counter:a&kind=counter",
    ] {
        let (status, code, message) = error(path);
        assert_eq!((status, code.as_str()), (400, "bad_request"), "{path}: {message}");
    }
    assert_eq!(error("/api/v1/series/details?id=counter:a").1, "unknown");
    daemon.stop();
}

#[test]
fn without_a_history_its_routes_say_so_and_nothing_is_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &format!("{CONFIG}[history]\nenabled = false\n"));
    daemon.send_udp(&[b"hello:3|c"]);
    daemon.closed(1);
    for path in ["/api/v1/series", "/api/v1/series/details?id=counter:hello", "/api/v1/history?id=counter:hello"] {
        let (status, body) = daemon.get(path);
        assert!(status == 404 && body.contains("history_off"), "{path}: {status} {body}");
    }
    let account = &daemon.status()["history"];
    assert_eq!((&account["enabled"], &account["series"]), (&false.into(), &0.into()));
    daemon.stop();
}

#[test]
fn a_history_that_fails_in_an_interval_begins_anew_and_counts_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let faults = "history:add@3";
    let daemon = Daemon::start_faulty(dir.path(), CONFIG, &[], faults);
    let status = daemon.status_when("a history that was begun anew", |status| status["history"]["begun_anew"] == 1);
    assert_eq!(status["parts"]["history"]["restarts"], 1);
    // On a busy machine it may miss others, too.
    assert!(status["history"]["intervals_missed"].as_u64() >= Some(1), "{}", status["history"]);
    daemon.send_udp(&[b"again:1|c"]);
    until("it is found", || json(&daemon, "/api/v1/series?q=again")["matched"] == 1);
    daemon.stop();
}

#[cfg(feature = "sqlite")]
#[test]
fn what_is_older_than_the_history_comes_from_the_database() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.db");
    let config = CONFIG.replace("type = \"console\"", &format!("type = \"sqlite\"\npath = \"{}\"", file.display()));
    let before = Daemon::start(dir.path(), &config);
    let ask = |daemon: &Daemon| json(daemon, "/api/v1/history?id=counter:hello&id=timer:t&step=1");
    for _ in 0..2 {
        before.send_udp(&[b"hello:3|c\nt:5|ms\nt:7|ms"]);
        before.next_flush();
    }
    before.next_flush();
    let known = ask(&before);
    let sent = |past: &Value| numbers(&past["series"][0]["fields"]["value"]).into_iter().flatten().collect::<Vec<_>>();
    assert_eq!(sent(&known), [3.0, 3.0], "{known}");
    before.stop();
    // Another start remembers nothing, but the database does.
    let after = Daemon::start(dir.path(), &config);
    after.send_udp(&[b"hello:4|c"]);
    let past = poll("all three", || {
        let past = ask(&after);
        if sent(&past).len() == 3 { Ok(past) } else { Err(past) }
    });
    assert_eq!((sent(&past), &past["resolution"]), (vec![3.0, 3.0, 4.0], &"sqlite".into()), "{past}");
    let times = numbers(&past["times"]);
    assert!(times.windows(2).all(|two| two[0] < two[1]), "{past}");
    for (n, series) in past["series"].as_array().expect("two").iter().enumerate() {
        for (name, values) in series["fields"].as_object().expect("fields") {
            assert_eq!(values.as_array().map(Vec::len), Some(times.len()), "{name} of {n}: {past}");
        }
    }
    let at = numbers(&past["series"][1]["fields"]["max"]).iter().flatten().copied().collect::<Vec<f64>>();
    assert_eq!(at, [7.0, 7.0], "{past}");
    assert!(numbers(&past["completeness"]).iter().flatten().count() >= 3, "{past}");
    after.stop();
}

/// An interval of 10 s.
fn closed(sequence: u64) -> Snapshot {
    let policy = SummaryPolicy { percentiles: vec![50.0, 90.0, 95.0, 99.0, 99.9], ..SummaryPolicy::default() };
    let end = 1_700_000_040.0 + 10.0 * sequence as f64;
    let mut snapshot =
        Snapshot { sequence, end, interval_secs: 10.0, rate_secs: 10.0, policy: policy.into(), ..Snapshot::default() };
    snapshot.ledger.completeness = 1.0;
    snapshot
}

fn counter(series: &Series, value: f64) -> CounterPoint {
    let mut sum = Sum::default();
    sum.add(value);
    CounterPoint { series: series.clone(), sum }
}

/// A double of any size without a pattern, as a clock's or a sensor's.
fn double(random: &mut Random) -> f64 {
    (random.u() - 0.5) * 10_f64.powi(random.below(12) as i32)
}

/// The history of an hour of so many series of a kind; bytes of the heap that are its own, and what it says.
fn an_hour(kind: Kind, series: usize) -> (History, Vec<Series>, u64, u64) {
    let memory = Memory::new(64 << 30);
    let name = |n: usize| format!("checkout.requests.endpoint_{n}");
    let all: Vec<Series> = (0..series).map(|n| Series::new(kind, &name(n), &[("route", Some("/pay"))])).collect();
    let mut random = Random(42);
    let before = held_bytes();
    let history = History::new(HistoryOptions::default(), &memory);
    for sequence in 1..=360 {
        let mut snapshot = closed(sequence);
        for series in &all {
            match kind {
                Kind::Counter => snapshot.counters.push(counter(series, double(&mut random))),
                Kind::Gauge => {
                    let gauge = Gauge::absolute(double(&mut random), snapshot.end);
                    snapshot.gauges.push(GaugePoint { series: series.clone(), gauge });
                }
                _ => {
                    let mut timer = Timer::default();
                    (0..4).for_each(|_| timer.record(double(&mut random), 1.0, &TimerPolicy::default()));
                    snapshot.timers.push(TimerPoint { series: series.clone(), timer });
                }
            }
        }
        history.add(&snapshot);
    }
    let held = (held_bytes() - before) as u64;
    let known = memory.bytes(Holder::History);
    (history, all, held, known)
}

#[test]
fn an_hour_of_any_values_fits_and_the_history_knows_its_bytes() {
    let _alone = alone();
    // `tests/all` has 10,000, and 100,000 on demand.
    let count = size("SYSTOLE_TEST_HISTORY_HOUR", 1000) as usize;
    let mut of_kind = HashMap::new();
    for kind in [Kind::Counter, Kind::Gauge, Kind::Timer] {
        let count = if kind == Kind::Timer { count / 10 } else { count };
        let (history, all, held, known) = an_hour(kind, count);
        let each = held as f64 / count as f64;
        println!(
            "{}: {count} series x 1 h: {:.2} MiB, {each:.0} bytes each, {:.2} a number; it says {:.2} MiB",
            kind.name(),
            held as f64 / f64::from(1 << 20),
            each / if kind == Kind::Timer { 3600.0 } else { 360.0 },
            known as f64 / f64::from(1 << 20)
        );
        let ratio = known as f64 / held as f64;
        assert!((0.9..=1.1).contains(&ratio), "{kind:?}: {known} of {held} bytes");
        of_kind.insert(kind.name(), each);
        let points = history.points(&PointsQuery {
            series: vec![all[0].clone()],
            from: 1_700_000_040.0,
            to: 1_700_003_640.0,
            ..PointsQuery::default()
        });
        let points = points.expect("few points");
        assert_eq!(
            (points.times.len(), points.series[0].fields.values().all(|v| v.iter().all(Option::is_some))),
            (360, true)
        );
    }
    // 24 MiB are 2516 bytes for each of 10,000.
    let most = 24.0 * f64::from(1 << 20) / 10_000.0;
    assert!(of_kind["counter"] < most && of_kind["gauge"] < most, "{of_kind:?}");
    assert!(of_kind["timer"] <= 10.0 * of_kind["counter"], "{of_kind:?}");
}

#[test]
fn search_answers_among_many_series_that_come_and_go() {
    let _alone = alone();
    let count = size("SYSTOLE_TEST_HISTORY_SERIES", 30_000) as usize;
    let history = History::new(HistoryOptions::default(), &Memory::new(64 << 30));
    let series = |n: usize| {
        let (service, region) = (format!("service_{}", n % 97), ["eu", "us", "ap"][n % 3]);
        let name = format!("{service}.requests.endpoint_{n}.latency");
        Series::new(Kind::Counter, &name, &[("region", Some(region)), ("route", Some("/pay"))])
    };
    let mut all: Vec<Series> = (0..count).map(series).collect();
    let (mut sequence, mut newest) = (0, count);
    let mut record = |all: &mut Vec<Series>| {
        sequence += 1;
        let mut snapshot = closed(sequence);
        // One in a hundred goes, and another one comes.
        for one in all.iter_mut().skip(sequence as usize % 100).step_by(100) {
            *one = series(newest);
            newest += 1;
        }
        snapshot.counters = all.iter().map(|series| counter(series, 1.0)).collect();
        let began = Instant::now();
        history.add(&snapshot);
        began.elapsed()
    };
    let first = record(&mut all);
    let is_done = Arc::new(AtomicBool::new(false));
    let (mut took, mut searches) = (Vec::new(), 0_usize);
    std::thread::scope(|scope| {
        let done = Arc::clone(&is_done);
        let recording = scope.spawn(move || {
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                longest = longest.max(record(&mut all));
                pause(Duration::from_millis(200));
            }
            longest
        });
        let ask = |text: &str, sort, cursor, took: &mut Vec<Duration>| {
            let wanted = Wanted::new(text, None, &[], None).expect("a search");
            let query = SearchQuery { wanted, text: text.into(), sort, limit: 50, cursor, spark: 30, facets: false };
            let began = Instant::now();
            let page = history.search(&query).expect("a cheap search");
            took.push(began.elapsed());
            page
        };
        for text in
            ["", "latency", "endpoint_4711", "service_12. region:eu", "*endpoint_9*", "no_such", "route:/pay pay"]
        {
            for sort in [Sort::Name, Sort::Loudest, Sort::Changed, Sort::Newest] {
                let page = ask(text, sort, None, &mut took);
                assert!(page.matched > 0 || text == "no_such", "{text}");
                searches += 1;
            }
        }
        // Pages follow on each other without a series twice, whatever comes and goes meanwhile.
        let (mut cursor, mut last) = (None, String::new());
        for _ in 0..40 {
            let page = ask("endpoint", Sort::Name, cursor, &mut took);
            for series in &page.series {
                let id = series.id.to_lowercase();
                assert!(id > last, "{id} after {last}");
                last = id;
            }
            searches += 1;
            cursor = page.next.as_deref().and_then(Cursor::parse);
            assert!(cursor.is_some());
        }
        is_done.store(true, Ordering::Relaxed);
        let longest = recording.join().expect("no panic");
        took.sort();
        let p99 = took[took.len() * 99 / 100 - usize::from(took.len() < 100)];
        println!(
            "{count} series: {searches} searches, median {:?}, p99 {p99:?}, longest {:?}; recorded in {first:?} at first, at most {longest:?}",
            took[took.len() / 2],
            took[took.len() - 1]
        );
        // A machine that is busy, or a build that is not optimised, says nothing of speed.
        if count >= 1_000_000 && !cfg!(debug_assertions) {
            assert!(p99 <= Duration::from_millis(100), "{p99:?}");
        }
    });
}
