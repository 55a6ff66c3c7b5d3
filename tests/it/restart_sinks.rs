//! What sinks and notifications hold over a restart, through the front door.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use systole::internals::daemon::end_sink;
use systole::internals::disk::DiskHandle;
use systole::internals::flush::{self, Changeover, Flusher, FlusherHandle, FlusherInputs, NextDriver};
use systole::internals::net::Listeners;
use systole::internals::rollup::{Registry, RegistryOptions};
use systole::internals::sinks::SinkDriver;
use systole::internals::state::StateFolder;
use systole::{Delivery, DriverOptions, Receipt, Sink, SinkError, Snapshot};

use crate::restart::HangingDisk;
use crate::support::receiver::{Reply, serve};
use crate::support::{Daemon, get, poll, runtime, until};

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|place| place.local_addr()).expect("a port")
}

fn config(sinks: &str) -> String {
    format!(
        "interval = \"200ms\"\nshutdown_grace = \"300ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         {sinks}\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    )
}

#[test]
fn counters_of_a_scrape_go_on_over_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let address = free();
    let config = config(&format!("[[sink]]\ntype = \"prometheus\"\naddress = \"{address}\""));
    let scraped = |what: &str, line: &str| {
        poll(what, || {
            let (_, body) = get(address, "/metrics", "Accept: application/openmetrics-text\r\n");
            if body.lines().any(|found| found == line) { Ok(body) } else { Err(body) }
        })
    };
    let mut created = Vec::new();
    for n in 1..=3 {
        let daemon = Daemon::start(dir.path(), &config);
        if n > 1 {
            // At once, without an interval.
            scraped("what was there before", &format!("hits_total {}", 5 * (n - 1)));
        }
        daemon.send_udp(&[b"hits:5|c\nt:100:300|ms"]);
        scraped("the counter", &format!("hits_total {}", 5 * n));
        let body = scraped("the timer", &format!("t_seconds_count {}", 2 * n));
        created.extend(body.lines().find(|line| line.starts_with("hits_created ")).map(str::to_string));
        daemon.stop();
    }
    assert_eq!((created.len(), &created[0]), (3, &created[2]));
    // After a crash it begins anew: what was saved is behind what was scraped, and would be counted again.
    let daemon = Daemon::start(dir.path(), &config);
    scraped("what was there before", "hits_total 15");
    drop(daemon);
    let daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[b"hits:5|c"]);
    scraped("a new counter", "hits_total 5");
    daemon.stop();
}

/// A receiver of records that can be away, and what it took: sequence, and the value of `hits` in it.
#[derive(Clone, Default)]
struct Receiver {
    is_away: Arc<Mutex<bool>>,
    taken: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    fn start(&self) -> SocketAddr {
        let own = self.clone();
        serve("127.0.0.1:0".parse().expect("an address"), move |request| {
            if *own.is_away.lock().expect("no panic") {
                return Reply::Says(503, "away");
            }
            own.taken.lock().expect("no panic").extend(request.text().lines().map(String::from));
            Reply::Says(204, "")
        })
    }

    fn set_away(&self, is_away: bool) {
        *self.is_away.lock().expect("no panic") = is_away;
    }

    /// Values of a series, each with its time, in the order in which they came.
    fn values(&self, name: &str) -> Vec<(String, String)> {
        let taken = self.taken.lock().expect("no panic");
        let own = taken.iter().filter(|line| line.starts_with(name));
        own.filter_map(|line| {
            let mut words = line.split(' ');
            let (_, fields, time) = (words.next()?, words.next()?, words.next()?);
            Some((time.to_string(), fields.to_string()))
        })
        .collect()
    }
}

fn queued(status: &Value) -> u64 {
    status["sinks"]["influx"]["queued"].as_u64().expect("a count")
}

#[test]
fn a_receiver_that_is_away_over_a_restart_gets_every_interval_once_and_in_order() {
    let dir = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::default();
    let address = receiver.start();
    let config = config(&format!(
        "[[sink]]\ntype = \"influx\"\nurl = \"http://{address}\"\ndatabase = \"d\"\nqueue = 100\ntimeout = \"1s\""
    ));
    let mut sent = 0;
    for round in 0..3 {
        let daemon = Daemon::start(dir.path(), &config);
        for n in 0..4 {
            receiver.set_away(round > 0 || n == 3);
            daemon.send_udp(&[b"hits:1|c"]);
            sent += 1;
            if round == 0 && n < 3 {
                until("it is delivered", || total(&receiver) == sent);
            } else {
                // With all before it.
                let waiting = sent as u64 - 3;
                daemon.status_when("it waits", |status| queued(status) == waiting);
            }
        }
        daemon.stop();
    }
    assert_eq!(receiver.values("hits").len(), 3);
    receiver.set_away(false);
    let daemon = Daemon::start(dir.path(), &config);
    until("all is delivered", || total(&receiver) == sent);
    let status = daemon.status_when("it is in the account", |status| queued(status) == 0);
    let account = &status["sinks"]["influx"];
    assert_eq!(account["dropped"], serde_json::json!({}), "{account}");
    daemon.stop();
    let times: Vec<String> = receiver.values("hits").into_iter().map(|(time, _)| time).collect();
    let mut sorted = times.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((times.len(), &times), (sorted.len(), &sorted), "once, and in order");
    assert_eq!(total(&receiver), sent);
}

/// How many there were of a counter, all intervals together.
fn total(receiver: &Receiver) -> usize {
    let value = |fields: String| fields.split(['=', ',']).nth(1).and_then(|value| value.parse::<f64>().ok());
    receiver.values("hits").into_iter().filter_map(|(_, fields)| value(fields)).sum::<f64>() as usize
}

#[test]
fn what_a_sink_that_is_gone_had_not_delivered_is_kept_and_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::default();
    receiver.set_away(true);
    let address = receiver.start();
    let sink = format!("[[sink]]\ntype = \"influx\"\nurl = \"http://{address}\"\ndatabase = \"d\"\ntimeout = \"1s\"");
    let daemon = Daemon::start(dir.path(), &config(&sink));
    daemon.send_udp(&[b"hits:1|c"]);
    daemon.status_when("it waits", |status| queued(status) > 0);
    daemon.stop();
    let without = config(&format!("[[sink]]\ntype = \"file\"\npath = \"{}\"", dir.path().join("f").display()));
    let mut daemon = Daemon::start(dir.path(), &without);
    daemon.wait_for("a word on it", |lines| {
        lines.iter().any(|line| line.contains("sink-influx") && line.contains("kept for a day"))
    });
    daemon.stop();
    assert!(part(dir.path()).exists());
    // It is there again.
    receiver.set_away(false);
    let daemon = Daemon::start(dir.path(), &config(&sink));
    until("it is delivered", || total(&receiver) == 1);
    daemon.stop();
    assert!(!part(dir.path()).exists());
}

fn part(dir: &Path) -> std::path::PathBuf {
    dir.join("systole/sink-influx.state")
}

#[test]
fn a_webhook_that_is_away_over_restarts_is_told_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::default();
    receiver.set_away(true);
    let address = receiver.start();
    let config = format!(
        "interval = \"200ms\"\nshutdown_grace = \"300ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [http]\naddress = \"127.0.0.1:0\"\n[[notify]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"http://{address}\"\n"
    );
    let told = |resolved: bool| {
        let taken = receiver.taken.lock().expect("no panic");
        let bodies = taken.iter().filter_map(|body| serde_json::from_str::<Value>(body).ok());
        let events = bodies.flat_map(|body| body["events"].as_array().cloned().unwrap_or_default());
        events.filter(|event| event["service"] == "bad" && (event["resolved"] == true) == resolved).count()
    };
    for n in 0..2 {
        let daemon = Daemon::start(dir.path(), &config);
        if n == 0 {
            daemon.send_udp(&[b"heartbeat.bad:1|g|#status:fail,exit:2,run:r1"]);
        }
        daemon.status_when("it was tried", |status| status["notify"]["hook"]["failures"].as_u64() > Some(0));
        daemon.stop();
    }
    assert_eq!(told(false), 0);
    receiver.set_away(false);
    let daemon = Daemon::start(dir.path(), &config);
    until("it is told", || told(false) == 1);
    daemon.stop();
    let daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[b"heartbeat.bad:1|g|#status:ok,run:r2"]);
    until("its end is told", || told(true) == 1);
    daemon.stop();
    assert_eq!((told(false), told(true)), (1, 1));
}

/// A sink that has something for its next driver.
struct Remembering;

impl Sink for Remembering {
    fn deliver<'a>(&'a mut self, _: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async { Ok(Receipt::new(0, [])) })
    }

    fn save(&self) -> Option<Vec<u8>> {
        Some(b"totals".to_vec())
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(async {})
    }
}

fn remembering() -> SinkDriver {
    let options = DriverOptions::new("it", "test", Duration::from_secs(10));
    SinkDriver::start(options, Box::new(Remembering)).expect("started")
}

/// One that goes on with what another one has left.
async fn resumed() -> SinkDriver {
    let driver = remembering();
    driver.resume(remembering().hand_over(Instant::now()).await);
    driver
}

#[test]
fn a_disk_that_hangs_holds_the_end_of_a_sink_up_no_longer_than_for_a_moment() {
    let (dir, disk, runtime) = (tempfile::tempdir().expect("a folder"), HangingDisk::default(), runtime());
    let folder = StateFolder::open_on(DiskHandle::new(disk.clone()), dir.path(), Duration::ZERO);
    disk.hangs.store(true, Ordering::Relaxed);
    let ended = runtime.block_on(async {
        let end = end_sink(remembering(), folder.clone(), Instant::now());
        tokio::time::timeout(Duration::from_secs(20), end).await
    });
    disk.hangs.store(false, Ordering::Relaxed);
    assert!(ended.is_ok());
}

/// A flusher of nothing, which ends when what it is controlled by is dropped.
fn flusher() -> (FlusherHandle, Flusher, impl Sized) {
    let (handle, inbox) = flush::channel();
    let (stop, deadline) = tokio::sync::watch::channel(None);
    let (step, steps) = tokio::sync::mpsc::channel(1);
    let registry = Registry::new(RegistryOptions::default(), 0);
    let day = Duration::from_secs(86_400);
    let flusher = Flusher::new(day, Listeners::default(), registry, Vec::new(), inbox, None, None);
    (handle, flusher.controlled_by(FlusherInputs { deadline, steps }), (stop, step))
}

#[tokio::test]
async fn a_sink_whose_change_comes_too_late_ends_as_the_others_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = StateFolder::open(dir.path(), Duration::ZERO);
    for is_asked in [true, false] {
        let (handle, flusher, control) = flusher();
        let new = NextDriver::New(handle.hold(resumed().await, Duration::ZERO));
        let change = Changeover { drivers: Some(vec![new]), ..Changeover::default() };
        let answer = if is_asked {
            Some(handle.change_over(change).await)
        } else {
            drop(change);
            None
        };
        drop(control);
        let (drivers, is_closed) = flusher.run().await;
        assert!(is_closed && drivers.len() == 1, "{drivers:?}");
        for driver in drivers {
            end_sink(driver, folder.clone(), Instant::now() + Duration::from_secs(20)).await;
        }
        assert!(folder.status().parts.contains_key("sink-it"), "what it has is kept");
        if let Some(answer) = answer {
            assert!(answer.await.is_err(), "nothing has changed");
        }
    }
}

#[tokio::test]
async fn a_sink_that_leaves_is_still_there_when_whoever_asked_for_it_has_gone() {
    let (handle, flusher, control) = flusher();
    drop(handle.hold(resumed().await, Duration::from_secs(3600)));
    // It is asked, and the answer is not waited for.
    let asked = tokio::time::timeout(Duration::ZERO, handle.take_leaving("it".into())).await;
    assert!(asked.is_err());
    let asking = async {
        for _ in 0..2 {
            let held = handle.take_leaving("it".into()).await.expect("it is there");
            assert_eq!(held.driver().map(SinkDriver::name), Some("it"));
        }
        drop(control);
    };
    let ((drivers, _), ()) = tokio::join!(flusher.run(), asking);
    assert_eq!(drivers.len(), 1);
}

#[test]
fn what_a_sink_cannot_keep_is_counted_by_the_next_process() {
    let dir = tempfile::tempdir().expect("a folder");
    let away =
        config(&format!("[[sink]]\ntype = \"graphite\"\nname = \"away\"\naddress = \"{}\"\nqueue = 1000\n", free()));
    let daemon = Daemon::start(dir.path(), &away);
    daemon.send_udp(&[b"x:3|c"]);
    daemon.status_when("an interval that waits", |status| status["sinks"]["away"]["queued"].as_u64() > Some(0));
    let in_the_way = ["sink-away.state", "sink-away.state.bad"].map(|name| dir.path().join("systole").join(name));
    for folder in &in_the_way {
        std::fs::create_dir(folder).expect("a folder");
        std::fs::write(folder.join("x"), "").expect("a file");
    }
    let log = daemon.stop();
    let told = log.iter().find(|line| line.contains("given up") && line.contains("records=")).expect("it is logged");
    let records = told.split_once("records=").and_then(|(_, rest)| rest.split_whitespace().next()).expect("a number");
    let records: u64 = records.parse().expect("a number");
    let daemon = Daemon::start(dir.path(), &away);
    let counted = |status: &Value| status["sinks"]["away"]["dropped"]["shutdown"].as_u64() == Some(records);
    let status = daemon.status_when("what was lost", counted);
    let sink = &status["sinks"]["away"];
    let sum: u64 = ["delivered", "queued", "spooled"].iter().filter_map(|key| sink[key].as_u64()).sum();
    assert_eq!(sink["offered"].as_u64(), Some(records + sum), "{sink}");
    let warning = format!("the sink away had not delivered: {records} of its records are lost");
    daemon.status_when("a warning", |status| status["warnings"].to_string().contains(&warning));
    in_the_way.iter().for_each(|folder| std::fs::remove_dir_all(folder).expect("removed"));
    daemon.stop();
    // It is counted once.
    let daemon = Daemon::start(dir.path(), &away);
    daemon.next_flush();
    assert_eq!(daemon.status()["sinks"]["away"]["dropped"], serde_json::json!({}));
    daemon.stop();
}
