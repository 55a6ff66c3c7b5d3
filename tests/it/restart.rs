//! Restarts and crashes: what outlives a process, and that nothing of it comes twice.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use systole::internals::aggregate::{Quota, Shard};
use systole::internals::config::Config;
use systole::internals::disk::{Disk, DiskFile, DiskHandle, FileFacts, Opened};
use systole::internals::flush::state::StateOptions;
use systole::internals::flush::{self, Flusher, FlusherInputs};
use systole::internals::net::{self, Listeners, Taps};
use systole::internals::rollup::Registry;
use systole::internals::state::StateFolder;
use systole::internals::supervise::Supervisor;
use systole::internals::{assemble, sys};

use crate::support::{Daemon, pause_ms, poll, recording, records, runtime, size, sum, systole, text};

const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon that records what it flushes, receives over TCP, and keeps its state in a folder of its own.
fn config(dir: &Path, interval: &str, more: &str) -> String {
    let listeners =
        format!("state_dir = \"{}\"\n{more}\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n", state(dir).display());
    format!("{}[history]\nenabled = false\n", recording(dir, interval, &listeners))
}

fn state(dir: &Path) -> std::path::PathBuf {
    dir.join("state")
}

/// A rule that has `slow` flushed at ticks of which none is near, with intervals of 200 ms.
fn slow_rule() -> String {
    slow_rule_of(0.2)
}

/// The same with intervals of so many seconds.
fn slow_rule_of(secs: f64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let tick = (now.as_secs_f64() / secs) as u64;
    let every = (5000..10_000).find(|every| (500..4000).contains(&(tick % every))).expect("there is one");
    format!("[[rule]]\nmatch = \"slow\"\ninterval = {every}\n")
}

/// Sends lines and waits until all that was sent so far is read.
fn send(daemon: &Daemon, lines: &str, so_far: &mut u64) {
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    stream.write_all(lines.as_bytes()).expect("sent");
    *so_far += lines.lines().count() as u64;
    daemon.status_when("all lines", |status| status["lines"]["read"].as_u64() == Some(*so_far));
}

fn kill(mut daemon: Daemon) {
    daemon.signal("-KILL");
    assert_eq!(daemon.wait(PATIENCE), None, "it was killed");
}

/// What `systole state show` says of a part.
fn part(dir: &Path, name: &str) -> Value {
    let output = systole(&["state", "show", "--json", "--dir", &state(dir).display().to_string()], b"");
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    all["parts"].as_array().expect("a list").iter().find(|part| part["part"] == name).cloned().unwrap_or_default()
}

/// Waits until the content of a part satisfies `done`.
fn saved(dir: &Path, name: &str, done: impl Fn(&Value) -> bool) {
    poll("the state", || {
        let part = part(dir, name);
        if done(&part["content"]) { Ok(()) } else { Err(part.to_string()) }
    });
}

/// The number of the last interval, as it was saved.
fn sequence(dir: &Path) -> u64 {
    number(&part(dir, "registry")["content"]["sequence"])
}

fn ledgers(dir: &Path) -> Vec<Value> {
    records(&dir.join("records.jsonl")).into_iter().filter(|record| record["type"] == "ledger").collect()
}

/// The last value of a gauge in the records.
fn gauge(dir: &Path, name: &str) -> Option<f64> {
    records(&dir.join("records.jsonl")).iter().rev().find(|record| record["name"] == name)?["value"].as_f64()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn gauges_and_longer_intervals_go_on_after_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let rule = "[[rule]]\nmatch = \"slow\"\ninterval = 25\n";
    let config = format!("{}{rule}", config(dir.path(), "200ms", ""));
    let daemon = Daemon::start(dir.path(), &config);
    // The first tick of all ends every longer interval.
    daemon.next_flush();
    send(&daemon, "g:5|g\nslow:1|c\n", &mut 0);
    daemon.next_flush();
    daemon.stop();
    assert_eq!(sequence(dir.path()), ledgers(dir.path()).len() as u64);
    assert_eq!(
        (part(dir.path(), "registry")["content"]["gauges"].as_u64(), gauge(dir.path(), "g")),
        (Some(1), Some(5.0))
    );

    let daemon = Daemon::start(dir.path(), &config);
    send(&daemon, "g:+2|g\nslow:2|c\n", &mut 0);
    let value = || gauge(dir.path(), "g");
    poll("the gauge in the file", || if value() == Some(7.0) { Ok(()) } else { Err(format!("{:?}", value())) });
    poll("the end of the longer interval", || {
        let sum = sum(dir.path(), "slow");
        if sum >= 3.0 { Ok(()) } else { Err(sum.to_string()) }
    });
    daemon.stop();
    assert!((sum(dir.path(), "slow") - 3.0).abs() < 1e-9);
    let all = ledgers(dir.path());
    assert_eq!(sequence(dir.path()), all.len() as u64, "it goes on");
    assert!(all.iter().all(|ledger| ledger["unclean_stop"].is_null()), "both ended cleanly");
}

#[test]
fn gauges_and_longer_intervals_go_on_after_a_crash_as_of_the_last_state() {
    let dir = tempfile::tempdir().expect("a folder");
    let config =
        format!("{}{}", config(dir.path(), "200ms", "state_interval = \"200ms\"\ngauge_ttl = \"1h\"\n"), slow_rule());
    let daemon = Daemon::start(dir.path(), &config);
    // The first tick of all ends every longer interval.
    daemon.next_flush();
    send(&daemon, "g:5|g\nslow:1|c\n", &mut 0);
    saved(dir.path(), "registry", |content| content["gauges"] == 1 && content["longer_points"] == 1);
    kill(daemon);
    let before = ledgers(dir.path()).len();

    let daemon = Daemon::start(dir.path(), &config);
    send(&daemon, "g:+2|g\n", &mut 0);
    let status = daemon.next_flush();
    assert!(status["unclean_stop"].as_f64().is_some_and(|since| (0.0..60.0).contains(&since)), "{status}");
    let said = "The last process ended without a clean stop, at most ";
    let (verdict, warnings) = (&status["verdict"], status["warnings"].to_string());
    assert!(
        verdict["level"] == "warning" && verdict["sentence"].as_str().is_some_and(|it| it.starts_with(said)),
        "{verdict}"
    );
    assert!(warnings.contains(" s unaccounted: ") && daemon.get("/").1.contains(said), "{warnings}");
    let (_, metrics) = daemon.get("/metrics");
    assert!(metrics.contains("\nsystole_unclean_stop_seconds "), "{metrics}");
    let (_, events) = daemon.get("/api/v1/events");
    assert!(events.contains("the last process ended without a clean stop"), "{events}");
    assert_eq!(gauge(dir.path(), "g"), Some(7.0));
    let log = daemon.stop();
    assert!(log.iter().any(|line| line.contains("ended without a clean stop")), "{log:?}");
    let said: Vec<bool> =
        ledgers(dir.path())[before..].iter().map(|ledger| ledger["unclean_stop"].is_number()).collect();
    assert!(said[0] && !said[1..].contains(&true), "the first interval says so: {said:?}");
    let content = part(dir.path(), "registry")["content"].clone();
    assert_eq!((content["longer_points"].as_u64(), sum(dir.path(), "slow")), (Some(1), 0.0), "{content}");

    let daemon = Daemon::start(dir.path(), &config);
    let status = daemon.next_flush();
    assert!(status["unclean_stop"].is_null() && !status["warnings"].to_string().contains("clean stop"), "{status}");
    daemon.stop();
}

#[test]
fn a_damaged_part_is_said_by_the_verdict_with_what_begins_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = config(dir.path(), "200ms", "gauge_ttl = \"1h\"\n");
    let daemon = Daemon::start(dir.path(), &config);
    send(&daemon, "g:5|g\n", &mut 0);
    daemon.next_flush();
    daemon.stop();
    let path = state(dir.path()).join("registry.state");
    let file = fs::OpenOptions::new().write(true).open(&path).expect("a part");
    let bytes = file.metadata().expect("a length").len();
    file.set_len(bytes - 20).expect("cut off");

    let daemon = Daemon::start(dir.path(), &config);
    send(&daemon, "n:1|c\n", &mut 0);
    let status = daemon.next_flush();
    let verdict = &status["verdict"];
    assert_eq!((&verdict["level"], &verdict["sign"]), (&Value::from("warning"), &Value::from("▲")), "{verdict}");
    let said = "registry was damaged and set aside: gauges and longer intervals begin anew";
    assert!(status["warnings"].to_string().contains(said), "{}", status["warnings"]);
    daemon.stop();
}

#[test]
fn restarts_lose_nothing_and_no_interval_comes_twice() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = config(dir.path(), "1s", "state_interval = \"100ms\"\nkeep_open_interval = true\n");
    let rounds = size("SYSTOLE_TEST_RESTARTS", 10);
    for _ in 0..rounds {
        let daemon = Daemon::start(dir.path(), &config);
        send(&daemon, &"n:1|c\nt:5|ms\ng:+1|g\n".repeat(1000), &mut 0);
        daemon.stop();
    }
    let all = ledgers(dir.path());
    let read: u64 = all.iter().map(|ledger| number(&ledger["lines"]["read"])).sum();
    assert_eq!((read, sum(dir.path(), "n")), (3000 * rounds, (1000 * rounds) as f64));
    assert_eq!(gauge(dir.path(), "g"), Some((1000 * rounds) as f64));
    assert_eq!(sequence(dir.path()), all.len() as u64);
}

#[test]
fn a_crash_loses_no_more_than_came_since_the_last_state_where_the_open_interval_is_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let kept = config(dir.path(), "1h", "state_interval = \"100ms\"\nkeep_open_interval = true\n");
    let lines = "n:2|c\nt:5|ms\nt:7|ms\nu:a|s\ng:4|g\ng:+1|g\nk:3|kv\nbad\n";
    let mut total = 0;
    for round in 1..=3 {
        let daemon = Daemon::start(dir.path(), &kept);
        if round > 1 {
            let status = daemon.status();
            assert!(status["unclean_stop"].is_number(), "{status}");
        }
        send(&daemon, lines, &mut 0);
        total += 8;
        saved(dir.path(), "open", |content| content["lines"].as_u64() == Some(total));
        kill(daemon);
    }
    let daemon = Daemon::start(dir.path(), &kept);
    send(&daemon, "n:1|c\ng:+10|g\n", &mut 0);
    daemon.stop();
    let all = records(&dir.path().join("records.jsonl"));
    let one = |name: &str| all.iter().find(|record| record["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!((one("n")["value"].as_f64(), one("g")["value"].as_f64()), (Some(7.0), Some(15.0)));
    assert_eq!((one("t")["count"].as_f64(), one("t")["sum"].as_f64()), (Some(6.0), Some(36.0)), "{}", one("t"));
    assert_eq!(one("u")["value"].as_f64(), Some(1.0));
    assert_eq!(all.iter().filter(|record| record["name"] == "k").count(), 3);
    let ledgers = ledgers(dir.path());
    assert_eq!(ledgers.len(), 1);
    let lines = &ledgers[0]["lines"];
    assert_eq!((number(&lines["read"]), number(&lines["metrics"])), (26, 23), "{lines}");
    assert!(ledgers[0]["unclean_stop"].is_number());

    // Without it the open interval is lost, and the next one says so.
    let other = tempfile::tempdir().expect("a folder");
    let without = config(other.path(), "1h", "state_interval = \"100ms\"\n");
    let daemon = Daemon::start(other.path(), &without);
    send(&daemon, lines_of("n"), &mut 0);
    saved(other.path(), "registry", |content| content["sequence"] == 0);
    kill(daemon);
    let daemon = Daemon::start(other.path(), &without);
    send(&daemon, lines_of("m"), &mut 0);
    daemon.stop();
    assert_eq!((sum(other.path(), "n"), sum(other.path(), "m")), (0.0, 1.0));
    assert!(self::ledgers(other.path())[0]["unclean_stop"].is_number());
}

fn lines_of(name: &str) -> &'static str {
    match name {
        "n" => "n:1|c\n",
        _ => "m:1|c\n",
    }
}

#[test]
fn an_interval_that_was_closed_is_not_loaded_after_a_crash() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = config(dir.path(), "300ms", "state_interval = \"100ms\"\nkeep_open_interval = true\n");
    let (mut sent, mut last) = (0_u64, 0);
    for round in 0..size("SYSTOLE_TEST_CRASHES", 5) {
        let daemon = Daemon::start(dir.path(), &config);
        // What the one before had not closed is in the first interval.
        let mut so_far = number(&daemon.next_flush()["lines"]["read"]);
        for _ in 0..5 + 3 * round {
            send(&daemon, &"n:1|c\n".repeat(100), &mut so_far);
            sent += 100;
        }
        last = so_far;
        kill(daemon);
    }
    let daemon = Daemon::start(dir.path(), &config);
    daemon.next_flush();
    daemon.stop();
    let sum = sum(dir.path(), "n") as u64;
    assert!(sum <= sent, "{sum} of {sent}: an interval came twice");
    assert!(sum > 0 && last > 0);
}

#[test]
fn a_crash_right_after_a_tick_brings_gauges_and_longer_points_of_its_interval_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    // After the state was written with lines of the open interval, its tick comes before the state is written again.
    let keeping = "state_interval = \"1500ms\"\nkeep_open_interval = true\ngauge_ttl = \"1h\"\n";
    let config = format!("{}{}", config(dir.path(), "1s", keeping), slow_rule_of(1.0));
    let daemon = Daemon::start(dir.path(), &config);
    // The first tick of all ends every longer interval.
    daemon.next_flush();
    let (mut sent, mut rounds) = (0, 0);
    poll("the state of an open interval", || {
        send(&daemon, "n:1|c\ng:+1|g\nslow:1|c\n", &mut sent);
        rounds += 1;
        let content = part(dir.path(), "open")["content"].clone();
        if content["lines"].as_u64() > Some(0) { Ok(()) } else { Err(content.to_string()) }
    });
    let kept = number(&part(dir.path(), "open")["content"]["lines"]);
    daemon.next_flush();
    let delivered = || sum(dir.path(), "n") as u64;
    poll("all lines in the file", || if delivered() == rounds { Ok(()) } else { Err(delivered()) });
    kill(daemon);
    let daemon = Daemon::start(dir.path(), &config);
    send(&daemon, "g:+0|g\n", &mut 0);
    daemon.next_flush();
    daemon.stop();
    assert_eq!((delivered(), sum(dir.path(), "slow")), (rounds, 0.0));
    // But for what came after the state was written.
    let value = gauge(dir.path(), "g").expect("a gauge");
    assert!(value >= (kept / 3) as f64 && value <= rounds as f64, "{value} of {rounds}, {kept} lines were saved");
    assert_eq!(part(dir.path(), "registry")["content"]["longer_points"], 1);
}

#[test]
fn what_cannot_be_saved_is_said_until_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = config(dir.path(), "200ms", "state_interval = \"100ms\"\n");
    let daemon = Daemon::start(dir.path(), &config);
    send(&daemon, "g:5|g\n", &mut 0);
    daemon.next_flush();
    daemon.stop();
    let file = state(dir.path()).join("registry.state");
    let kept = fs::read(&file).expect("a part");
    // No file takes the place of a folder, and it cannot be moved away either.
    let aside = file.with_extension("state.bad");
    fs::create_dir(&aside).and_then(|()| fs::write(aside.join("x"), "")).expect("a folder");
    let block = || {
        poll("a folder in its place", || {
            _ = fs::remove_file(&file);
            fs::create_dir(&file)
        });
    };
    let mut daemon = Daemon::start(dir.path(), &config);
    // What was there is read.
    daemon.next_flush();
    block();
    let said = |status: &Value| status["warnings"].to_string().contains("`registry` cannot be written to");
    daemon.status_when("a warning", said);
    for _ in 0..3 {
        assert!(said(&daemon.next_flush()), "{}", daemon.status());
    }
    fs::remove_dir(&file).expect("removed");
    daemon.wait_for("a word", |lines| lines.iter().any(|line| line.contains("is written to again")));
    daemon.status_when("no warning", |status| !said(status));
    block();
    daemon.status_when("a warning", said);
    let log = daemon.stop();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((count("the state folder is not up to date"), count("is written to again")), (2, 1), "{log:?}");

    let shown = systole(&["state", "show", "--dir", &state(dir.path()).display().to_string()], b"");
    assert!(text(&shown.stdout).contains("could not save its state"), "{}", text(&shown.stdout));
    fs::remove_dir(&file).and_then(|()| fs::write(&file, kept)).expect("written");
    let daemon = Daemon::start(dir.path(), &config);
    daemon.next_flush();
    let log = daemon.stop();
    assert!(log.iter().any(|line| line.contains("could not save its state") && line.contains(" s old")), "{log:?}");
    let log = Daemon::start(dir.path(), &config).stop();
    assert!(log.iter().all(|line| !line.contains("could not save its state")), "{log:?}");
}

#[test]
fn the_state_of_presence_is_shown_among_the_parts() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = config(dir.path(), "200ms", "").replace("[presence]\nenabled = false\n", "");
    let daemon = Daemon::start(dir.path(), &config);
    send(&daemon, "heartbeat.web.a:60|g\nheartbeat.web.b:60|g\nheartbeat.db.a:60|g\n", &mut 0);
    daemon.stop();
    let content = &part(dir.path(), "presence")["content"];
    assert_eq!((&content["services"], &content["instances"]), (&2.into(), &3.into()), "{content}");
    let shown = systole(&["state", "show", "--dir", &state(dir.path()).display().to_string()], b"");
    let shown = text(&shown.stdout);
    let row = shown.lines().find(|line| line.starts_with("presence ")).unwrap_or_default();
    assert!(row.contains("services 2") && row.contains("instances 3"), "{shown}");
    fs::write(state(dir.path()).join("presence.json"), "{}\n").expect("written");
    assert!(part(dir.path(), "presence")["problem"].is_string());
}

/// A second daemon with the state folder of the one in `dir`, and records of its own.
fn start_beside(dir: &Path, other: &Path, config: &str) -> Daemon {
    let records = |folder: &Path| folder.join("records.jsonl").display().to_string();
    Daemon::start(other, &config.replace(&records(dir), &records(other)))
}

#[test]
fn a_folder_that_is_moved_away_and_made_by_another_daemon_is_that_ones() {
    let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let config = config(dir.path(), "200ms", "state_interval = \"100ms\"\n");
    let first = Daemon::start(dir.path(), &config);
    send(&first, "g:5|g\n", &mut 0);
    saved(dir.path(), "registry", |content| content["gauges"] == 1);
    fs::rename(state(dir.path()), dir.path().join("elsewhere")).expect("renamed");
    let second = start_beside(dir.path(), other.path(), &config);
    first.status_when("a warning", |status| status["warnings"].to_string().contains("another process keeps its state"));
    send(&second, "h:1|g\ni:1|g\n", &mut 0);
    saved(dir.path(), "registry", |content| content["gauges"] == 2);
    first.stop();
    assert_eq!(part(dir.path(), "registry")["content"]["gauges"], 2);
    let shown = systole(&["state", "show", "--dir", &state(dir.path()).display().to_string()], b"");
    assert!(text(&shown.stdout).contains(&format!("process {} runs with it", second.pid())), "{}", text(&shown.stdout));
    second.stop();
}

#[test]
fn what_is_damaged_is_set_aside_said_and_counted_and_the_daemon_works() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = config(dir.path(), "200ms", "");
    let daemon = Daemon::start(dir.path(), &config);
    send(&daemon, "g:5|g\n", &mut 0);
    daemon.next_flush();
    daemon.stop();
    let file = state(dir.path()).join("registry.state");
    let bytes = fs::read(&file).expect("a part");
    for (n, wrong) in
        [&bytes[..bytes.len() / 2], b"of somebody else\n", b"", &[&bytes[1..], b"x"].concat()].iter().enumerate()
    {
        fs::write(&file, wrong).expect("written");
        let mut daemon = Daemon::start(dir.path(), &config);
        daemon.wait_for("a word", |lines| lines.iter().any(|line| line.contains("a saved state is not used")));
        let status = daemon.next_flush();
        assert_eq!(status["state"]["registry"]["discarded"]["damaged"], 1, "{n}: {status}");
        let (_, metrics) = daemon.get("/metrics");
        let expected = "systole_state_discarded_total{part=\"registry\",reason=\"damaged\"} 1";
        assert!(metrics.contains(expected), "{metrics}");
        send(&daemon, "g:6|g\n", &mut 0);
        daemon.next_flush();
        daemon.stop();
        assert_eq!(gauge(dir.path(), "g"), Some(6.0));
        assert_eq!(fs::read(state(dir.path()).join("registry.state.bad")).expect("kept"), *wrong);
        assert_eq!(part(dir.path(), "registry")["content"]["gauges"], 1);
    }
}

#[test]
fn a_second_daemon_in_the_same_folder_works_without_and_says_so_once() {
    let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let config = config(dir.path(), "200ms", "state_interval = \"100ms\"\n");
    let first = Daemon::start(dir.path(), &config);
    send(&first, "g:5|g\n", &mut 0);
    saved(dir.path(), "registry", |content| content["gauges"] == 1);
    let second = start_beside(dir.path(), other.path(), &config);
    send(&second, "h:1|g\n", &mut 0);
    second.next_flush();
    let status = second.status();
    assert!(status["warnings"].to_string().contains("another process keeps its state"), "{status}");
    let log = second.stop();
    assert_eq!(log.iter().filter(|line| line.contains("another process keeps its state")).count(), 1, "{log:?}");
    let shown = systole(&["state", "show", "--dir", &state(dir.path()).display().to_string()], b"");
    let shown = text(&shown.stdout);
    assert!(shown.contains(&format!("process {} runs with it", first.pid())) && shown.contains("gauges 1"), "{shown}");
    first.stop();
    assert_eq!(part(dir.path(), "registry")["content"]["gauges"], 1);
}

#[test]
fn what_counts_once_waits_in_a_folder_that_cannot_be_written_to() {
    let dir = tempfile::tempdir().expect("a folder");
    let keeping = "state_interval = \"100ms\"\nkeep_open_interval = true\n";
    let rule = slow_rule();
    let of = |interval: &str| format!("{}{rule}", config(dir.path(), interval, keeping));
    let daemon = Daemon::start(dir.path(), &of("200ms"));
    // The first tick of all ends every longer interval.
    daemon.next_flush();
    send(&daemon, "slow:4|c\n", &mut 0);
    saved(dir.path(), "registry", |content| content["longer_points"] == 1);
    kill(daemon);
    let kept = of("1h");
    let daemon = Daemon::start(dir.path(), &kept);
    send(&daemon, "n:3|c\ng:5|g\n", &mut 0);
    saved(dir.path(), "open", |content| content["lines"] == 2);
    kill(daemon);
    // Not even root makes a file of it.
    let lock = state(dir.path()).join("lock");
    fs::remove_file(&lock).and_then(|()| fs::create_dir(&lock)).expect("a folder");
    for _ in 0..2 {
        let daemon = Daemon::start(dir.path(), &kept);
        send(&daemon, "m:1|c\n", &mut 0);
        let log = daemon.stop();
        assert!(log.iter().any(|line| line.contains("would be delivered after every start")), "{log:?}");
    }
    assert_eq!((sum(dir.path(), "n"), sum(dir.path(), "m"), sum(dir.path(), "slow")), (0.0, 2.0, 0.0));
    assert_eq!(part(dir.path(), "registry")["content"]["longer_points"], 1);
    fs::remove_dir(&lock).expect("removed");
    for _ in 0..2 {
        let daemon = Daemon::start(dir.path(), &kept);
        send(&daemon, "m:1|c\n", &mut 0);
        daemon.stop();
    }
    assert_eq!((sum(dir.path(), "n"), gauge(dir.path(), "g")), (3.0, Some(5.0)));
}

#[test]
fn a_process_runs_with_the_folder_if_it_has_the_lock() {
    let dir = tempfile::tempdir().expect("a folder");
    let show = || {
        let output = systole(&["state", "show", "--dir", &state(dir.path()).display().to_string()], b"");
        text(&output.stdout).lines().next().unwrap_or_default().to_string()
    };
    let config = config(dir.path(), "200ms", "");
    let daemon = Daemon::start(dir.path(), &config);
    assert!(show().contains(&format!("process {} runs with it", daemon.pid())), "{}", show());
    daemon.stop();
    assert!(show().contains("ended cleanly"), "{}", show());
    // The number of a process that runs, and has nothing to do with it.
    fs::write(state(dir.path()).join("running"), "1\n").expect("written");
    assert!(
        show().contains("the last process, 1, ended without a clean stop; its last sign of life was at 20"),
        "{}",
        show()
    );
}

#[test]
fn a_folder_that_cannot_be_made_costs_a_warning() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(state(dir.path()), "a file").expect("written");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), "200ms", ""));
    send(&daemon, "g:5|g\nn:1|c\n", &mut 0);
    daemon.next_flush();
    let log = daemon.stop();
    assert_eq!(log.iter().filter(|line| line.contains("nothing outlives a restart")).count(), 1, "{log:?}");
    assert_eq!(gauge(dir.path(), "g"), Some(5.0));
    let off = systole(&["state", "show", "--dir", &state(dir.path()).display().to_string()], b"");
    assert_eq!(off.status.code(), Some(1), "{}", text(&off.stderr));
}

/// Has writers of a part find something in their way: these folders.
fn block(dir: &Path, part: &str) -> Vec<PathBuf> {
    let folders = (1..3000).map(|turn| state(dir).join(format!("{part}.state.{turn}.new")));
    // One that is being written is in nobody's way.
    folders.filter(|folder| fs::create_dir(folder).is_ok()).collect()
}

#[test]
fn longer_intervals_that_cannot_be_saved_at_the_stop_come_once() {
    for blocked in [&["registry"][..], &["registry", "closed"]] {
        let dir = tempfile::tempdir().expect("a folder");
        let config = format!("{}{}", config(dir.path(), "200ms", "state_interval = \"100ms\"\n"), slow_rule());
        let daemon = Daemon::start(dir.path(), &config);
        // The first tick of all ends every longer interval.
        daemon.next_flush();
        send(&daemon, "g:5|g\nslow:1|c\n", &mut 0);
        saved(dir.path(), "registry", |content| content["longer_points"] == 1);
        let folders: Vec<PathBuf> = blocked.iter().flat_map(|part| block(dir.path(), part)).collect();
        let log = daemon.stop();
        assert!(log.iter().any(|line| line.contains("the state is not saved")), "{log:?}");
        assert!((sum(dir.path(), "slow") - 1.0).abs() < 1e-9, "it is flushed before its time");
        folders.iter().for_each(|folder| fs::remove_dir(folder).expect("removed"));
        assert_eq!(part(dir.path(), "registry").is_null(), blocked.contains(&"closed"));

        let daemon = Daemon::start(dir.path(), &config);
        daemon.next_flush();
        send(&daemon, "slow:2|c\n", &mut 0);
        daemon.stop();
        // What came since is there, and what was flushed is not.
        assert_eq!(part(dir.path(), "registry")["content"]["longer_points"], 1, "{blocked:?}");
        let daemon = Daemon::start(dir.path(), &config);
        daemon.next_flush();
        block(dir.path(), "registry");
        daemon.stop();
        assert!((sum(dir.path(), "slow") - 3.0).abs() < 1e-9, "{blocked:?}: {}", sum(dir.path(), "slow"));
    }
}

/// A disk that can be made to hang.
#[derive(Clone, Debug, Default)]
pub(crate) struct HangingDisk {
    real: DiskHandle,
    pub(crate) hangs: Arc<AtomicBool>,
}

impl HangingDisk {
    fn work(&self) -> &DiskHandle {
        while self.hangs.load(Ordering::Relaxed) {
            pause_ms(5);
        }
        &self.real
    }
}

impl Disk for HangingDisk {
    fn make_folder(&self, folder: &Path, is_private: bool) -> std::io::Result<()> {
        HangingDisk::work(self).make_folder(folder, is_private)
    }

    fn list(&self, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
        HangingDisk::work(self).list(folder)
    }

    fn facts(&self, path: &Path) -> std::io::Result<FileFacts> {
        HangingDisk::work(self).facts(path)
    }

    fn open(&self, path: &Path, how: Opened) -> std::io::Result<Box<dyn DiskFile>> {
        HangingDisk::work(self).open(path, how)
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        HangingDisk::work(self).rename(from, to)
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        HangingDisk::work(self).remove(path)
    }

    fn sync_folder(&self, folder: &Path) -> std::io::Result<()> {
        HangingDisk::work(self).sync_folder(folder)
    }
}

#[test]
fn a_disk_that_hangs_does_not_hold_intervals_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = Config::parse(
        "interval = \"100ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[presence]\nenabled = false\n\
         [[rule]]\nmatch = \"slow\"\ninterval = 2\n",
    );
    let (config, runtime, disk) = (config.expect("right"), runtime(), HangingDisk::default());
    let (quota, folder) =
        (Quota::new(1000), StateFolder::open_on(DiskHandle::new(disk.clone()), dir.path(), Duration::ZERO));
    let (to, listener) = runtime.block_on(async {
        let bound = net::bind(assemble::listener(&config, &config.listen[0])).expect("bound");
        let shard = || Shard::new(assemble::shard_options(&config, &quota, 1));
        let to = bound.address().expect("an address");
        (to, bound.start("udp://it", shard, &Taps::default(), &Supervisor::default()).expect("started"))
    });
    let mut listeners = Listeners::default();
    listeners.add(listener);
    let (handle, inbox) = flush::channel();
    let (stop, deadline) = tokio::sync::watch::channel(None);
    let (steps, steps_inbox) = tokio::sync::mpsc::channel(1);
    let registry = Registry::new(assemble::registry_options(&config, false), 1);
    let options = StateOptions {
        folder: folder.clone(),
        every: Duration::from_millis(50),
        keeps_open: true,
        most_series: 1000,
        receives_since: sys::unix_time(),
    };
    let flusher = Flusher::new(config.interval, listeners, registry, Vec::new(), inbox, None, None)
        .keeping(options)
        .controlled_by(FlusherInputs { deadline, steps: steps_inbox });
    let own = runtime.handle().clone();
    let thread = std::thread::spawn(move || own.block_on(flusher.run()).1);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let sequence = || {
        // Each interval has a point of a longer one, so that each second tick flushes some.
        socket.send_to(b"slow:1|c", to).expect("sent");
        handle.published().snapshot.as_ref().map_or(0, |snapshot| snapshot.sequence)
    };
    poll("both parts", || {
        sequence();
        let parts = folder.status().parts;
        let is_written = |part: &str| parts.get(part).is_some_and(|part| part.written > 0.0);
        if is_written("registry") && is_written("open") { Ok(()) } else { Err(parts) }
    });
    disk.hangs.store(true, Ordering::Relaxed);
    let before = sequence();
    poll("intervals go on", || if sequence() > before + 6 { Ok(()) } else { Err(sequence()) });
    disk.hangs.store(false, Ordering::Relaxed);
    poll("the disk is written to again", || {
        sequence();
        let parts = folder.status().parts;
        if parts.get("closed").is_some_and(|part| part.written > 0.0) { Ok(()) } else { Err(parts) }
    });
    drop((stop, steps));
    assert!(thread.join().expect("no panic"), "the last interval is closed");
}
