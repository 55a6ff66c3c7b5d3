//! Reloads through the front door: what the file says is in force from the next interval on, and nothing is lost by that.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use systole::internals::aggregate::{Quota, Shard};
use systole::internals::config::Config;
use systole::internals::flush::{self, Changeover, Flusher, FlusherInputs};
use systole::internals::net::{self, Listeners, NextShards, Taps};
use systole::internals::rollup::Registry;
use systole::internals::supervise::Supervisor;
use systole::internals::{assemble, snapshot::Snapshot};

use crate::support::{Daemon, pause_ms, poll, records, runtime, systole, text};

const TOKEN: &str = "sesame";

/// Writes a configuration with a page, and what a file of records and listeners need.
fn configuration(dir: &Path, more: &str) -> String {
    let text = more.replace("DIR", &dir.display().to_string());
    let http = format!("[http]\naddress = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n");
    let text = if text.contains("[http]") { text } else { format!("{text}\n{http}") };
    fs::write(dir.join("systole.toml"), &text).expect("written");
    text
}

/// Asks for a reload; whether it is in force, and the report.
fn reload_with(daemon: &Daemon, token: &str) -> (bool, Value) {
    let url = format!("http://{}", daemon.http.expect("HTTP is on"));
    let output = systole(&["reload", "--json", "--url", &url, "--token", token], b"");
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|_| panic!("{}{}", text(&output.stdout), text(&output.stderr)));
    (output.status.code() == Some(0), report)
}

fn reload(daemon: &Daemon) -> Value {
    let (is_applied, report) = reload_with(daemon, TOKEN);
    assert!(is_applied, "{report}");
    report
}

fn paths(report: &Value, key: &str) -> Vec<String> {
    let all = report[key].as_array().expect("a list").iter();
    all.map(|change| change["path"].as_str().expect("a path").to_string()).collect()
}

/// What is in force, with folders of tests as `DIR`.
fn in_force(daemon: &Daemon, dir: &Path) -> Value {
    let (_, body) = daemon.get("/api/v1/config");
    let body = body.replace(&dir.display().to_string(), "DIR");
    serde_json::from_str::<Value>(&body).expect("JSON")["settings"].take()
}

/// What became of the lines of a probe, without times.
fn of_probe(file: &Path) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for mut record in records(file) {
        if record["name"].as_str().is_some_and(|name| name.contains("probe")) {
            let record = record.as_object_mut().expect("a table");
            ["time", "interval", "rate", "sequence"].iter().for_each(|key| drop(record.remove(*key)));
            let text = Value::from(record.clone()).to_string();
            if !all.contains(&text) {
                all.push(text);
            }
        }
    }
    assert!(all.len() >= 3, "{all:?}");
    all.sort();
    all
}

/// A port of loopback that is free.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

const FIRST: &str = "interval = \"200ms\"\npercentiles = [50]\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
                     [[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[[sink]]\nname = \"main\"\ntype = \"file\"\npath = \"DIR/main.jsonl\"\n\
                     [[sink]]\nname = \"gone\"\ntype = \"file\"\npath = \"DIR/gone.jsonl\"\n";

const SECOND: &str = "interval = \"200ms\"\npercentiles = [50, 99]\nprefix = \"p.\"\ngauge_ttl = \"5s\"\nmax_series = 5000\nmax_memory = \"300MiB\"\n\
                      [tags]\nenv = \"test\"\n[log]\nlevel = \"debug\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\nmax_connections = 7\n\
                      [[listen]]\nurl = \"unixgram:///DIR/socket\"\n\
                      [[sink]]\nname = \"more\"\ntype = \"file\"\npath = \"DIR/more.jsonl\"\n[[sink]]\nname = \"main\"\ntype = \"file\"\npath = \"DIR/main.jsonl\"\nqueue = 9\n\
                      [[rule]]\nmatch = \"old.*\"\nrename = \"new.$1\"\n[[rule]]\nmatch = \"slow\"\ninterval = 5\n";

#[test]
fn what_is_in_force_after_a_reload_is_what_a_fresh_start_has() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut daemon = Daemon::start(dir.path(), &configuration(dir.path(), FIRST));
    daemon.send_udp(&[b"old.a:1|c\ng:5|g"]);
    daemon.closed(2);
    configuration(dir.path(), SECOND);
    let report = reload(&daemon);
    let changed = paths(&report, "changes");
    for path in [
        "percentiles",
        "prefix",
        "gauge_ttl",
        "tags",
        "listen[0].max_connections",
        "listen[1]",
        "sink[0]",
        "sink[1].queue",
        "rule[0].match",
        "log.level",
    ] {
        assert!(changed.iter().any(|known| known == path), "{path} in {changed:?}");
    }
    assert_eq!(paths(&report, "needs_restart"), [""; 0]);
    daemon.wait_for("the end of a listener", |lines| lines.iter().any(|line| line.contains("not listening any more")));
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    stream.write_all(b"old.a:2|c\n").expect("sent");
    let socket = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    socket.send_to(b"old.b:4|c", dir.path().join("socket")).expect("sent");
    daemon.closed(4);
    let other = tempfile::tempdir().expect("a folder");
    let fresh = Daemon::start(other.path(), &configuration(other.path(), SECOND));
    assert_eq!(in_force(&daemon, dir.path()), in_force(&fresh, other.path()));
    for (daemon, dir) in [(&daemon, dir.path()), (&fresh, other.path())] {
        let before = daemon.status()["lines"]["read"].as_u64().expect("a number");
        socket
            .send_to(b"old.probe:3|c|#b:c\nprobe.t:1|ms\nprobe.t:3|ms\nprobe.g:7|g", dir.join("socket"))
            .expect("sent");
        daemon.closed(before + 4);
    }
    fresh.stop();
    daemon.stop();
    assert_eq!(of_probe(&dir.path().join("more.jsonl")), of_probe(&other.path().join("more.jsonl")));
    let sum = |file: &str, name: &str| -> f64 {
        let all = records(&dir.path().join(file));
        all.iter().filter(|r| r["name"] == name && r["type"] == "counter").filter_map(|r| r["value"].as_f64()).sum()
    };
    assert_eq!(
        (sum("main.jsonl", "old.a"), sum("main.jsonl", "p.new.a"), sum("main.jsonl", "p.new.b")),
        (1.0, 2.0, 4.0)
    );
    assert_eq!(
        (sum("gone.jsonl", "old.a"), sum("gone.jsonl", "p.new.a"), sum("more.jsonl", "p.new.a")),
        (1.0, 0.0, 2.0)
    );
    // The gauge goes on under the name that it has now, until its time is over.
    let all = records(&dir.path().join("main.jsonl"));
    let gauges: Vec<&Value> = all.iter().filter(|r| r["type"] == "gauge" && r["value"] == 5.0).collect();
    assert!(gauges.iter().any(|r| r["name"] == "g") && gauges.iter().any(|r| r["name"] == "p.g"), "{gauges:?}");
}

#[test]
fn a_bad_configuration_changes_nothing_and_says_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken_at = taken.local_addr().expect("an address");
    let mut daemon = Daemon::start(dir.path(), &configuration(dir.path(), FIRST));
    let before = in_force(&daemon, dir.path());
    let bad = [
        ("interval = \"200ms\"\nnonsense = 1\n".to_string(), "systole.toml:2"),
        ("percentile = [50]\ngauge_ttl = 5\n".into(), "percentile"),
        (format!("{FIRST}[[listen]]\nurl = \"tcp://{taken_at}\"\n"), "another process has this port"),
        (format!("{FIRST}[[sink]]\nname = \"x\"\ntype = \"file\"\npath = \"/proc/no/such\"\n"), "sink x"),
        (FIRST.replace("200ms", "1s"), "needs a restart"),
        (format!("{FIRST}{}", "[[listen]]\nurl = \"tcp://127.0.0.1:9\"\n".repeat(2)), "is there twice"),
    ];
    for (n, (text, why)) in bad.iter().enumerate() {
        configuration(dir.path(), text);
        let (is_applied, report) = reload_with(&daemon, TOKEN);
        let problems = report["problems"].to_string();
        assert!(!is_applied && report["result"] == "refused" && problems.contains(why), "{report}");
        let status = daemon.status();
        assert_eq!(status["reloads"]["refused"], n as u64 + 1);
        assert!(status["verdict"].to_string().contains("the last reload was refused"), "{}", status["verdict"]);
    }
    fs::remove_file(dir.path().join("systole.toml")).expect("removed");
    assert!(reload_with(&daemon, TOKEN).1["problems"].to_string().contains("cannot read"));
    daemon.wait_for("the reason", |lines| lines.iter().any(|line| line.contains("nothing has changed: cannot read")));
    assert_eq!(in_force(&daemon, dir.path()), before);
    // The right one again: all is well.
    configuration(dir.path(), FIRST);
    assert_eq!(paths(&reload(&daemon), "changes"), [""; 0]);
    let (_, metrics) = daemon.get("/metrics");
    for line in ["systole_reloads_total{result=\"applied\"} 1", "systole_reloads_total{result=\"refused\"} 7"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let status = daemon.status();
    assert!(!status["verdict"].to_string().contains("reload") && status["reloads"]["last_refused"].is_null());
    // Whoever does not show the token reloads nothing.
    let url = format!("http://{}", daemon.http.expect("HTTP is on"));
    let refused = systole(&["reload", "--url", &url], b"");
    assert!(
        refused.status.code() == Some(1) && text(&refused.stderr).contains("SYSTOLE_TOKEN"),
        "{}",
        text(&refused.stderr)
    );
    daemon.stop();
}

#[test]
fn a_port_of_its_own_is_blamed_on_nobody_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = free().port();
    let listen = |url: &str| {
        format!(
            "interval = \"100ms\"\n[[listen]]\nurl = \"{url}\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n"
        )
    };
    let socket = dir.path().join("socket");
    let unix = |kind: &str| format!("{kind}://{}", socket.display());
    let pairs = [
        (format!("tcp://127.0.0.1:{port}"), format!("tcp://0.0.0.0:{port}")),
        (format!("udp://127.0.0.1:{port}"), format!("udp://[::]:{port}")),
        (unix("unixgram"), unix("unix")),
    ];
    for (before, after) in pairs {
        let mut daemon = Daemon::start(dir.path(), &configuration(dir.path(), &listen(&before)));
        configuration(dir.path(), &listen(&after));
        let problems = reload_with(&daemon, TOKEN).1["problems"].to_string();
        assert!(problems.contains(&format!("this daemon itself listens at {before}")), "{problems}");
        if before.starts_with("unixgram") {
            // Without its file nothing stands in the way, and the one that leaves does not take the new one's.
            fs::remove_file(&socket).expect("removed");
            let report = reload(&daemon);
            daemon.wait_for("the end of the one that leaves", |lines| {
                lines.iter().any(|line| line.contains("not listening any more"))
            });
            let sent = std::os::unix::net::UnixStream::connect(&socket);
            assert!(sent.is_ok(), "{sent:?} {report}");
        }
        daemon.stop();
    }
}

#[test]
fn what_stands_in_the_way_is_named_with_what_helps() {
    let dir = tempfile::tempdir().expect("a folder");
    // The page is on one address, and something else on another one with the same port.
    let elsewhere = TcpListener::bind("127.0.0.2:0").expect("a port");
    let other = elsewhere.local_addr().expect("an address");
    let page = SocketAddr::from(([127, 0, 0, 1], other.port()));
    let scraped = free();
    let base = "interval = \"100ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n";
    let scrapes = |address: SocketAddr| format!("[[sink]]\ntype = \"prometheus\"\naddress = \"{address}\"\n");
    let write = |more: &str, page: SocketAddr| {
        let http = format!("[http]\naddress = \"{page}\"\ntoken = \"{TOKEN}\"\n");
        configuration(dir.path(), &format!("{base}{more}{http}"))
    };
    let any = |address: SocketAddr| SocketAddr::from(([0, 0, 0, 0], address.port()));
    let daemon = Daemon::start(dir.path(), &write(&scrapes(scraped), page));
    for (more, expected) in [
        (scrapes(other), "another process may have this port".to_string()),
        (scrapes(any(page)), format!("listens at {page}; restart it, or choose another port")),
        (
            scrapes(any(scraped)),
            format!("listens at {scraped} until this reload is in force; restart it, or reload twice"),
        ),
    ] {
        // A page that has moved is where it was until a restart.
        write(&more, free());
        let problems = reload_with(&daemon, TOKEN).1["problems"].to_string();
        assert!(problems.contains(&expected), "{problems}: {expected}");
    }
    daemon.stop();
}

#[test]
fn a_configuration_that_has_no_end_is_refused_and_holds_nothing_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &configuration(dir.path(), FIRST));
    let file = dir.path().join("systole.toml");
    let problems = || reload_with(&daemon, TOKEN).1["problems"].to_string();
    for source in ["pipe", "/dev/zero"] {
        fs::remove_file(&file).expect("removed");
        match source {
            "pipe" => {
                let made = std::process::Command::new("mkfifo").arg(&file).status().expect("mkfifo runs");
                assert!(made.success());
            }
            device => std::os::unix::fs::symlink(device, &file).expect("a link"),
        }
        let problems = problems();
        assert!(problems.contains("it is no regular file"), "{source}: {problems}");
    }
    let checked = systole(&["check", "--config", "/dev/zero"], b"");
    assert!(text(&checked.stderr).contains("it is no regular file"), "{}", text(&checked.stderr));
    fs::remove_file(&file).expect("removed");
    fs::write(&file, "#".repeat((16 << 20) + 1)).expect("written");
    assert!(problems().contains("it has more than 16 MiB"));
    configuration(dir.path(), &format!("{FIRST}\n[http]\naddress = \"127.0.0.1:0\"\ntoken = \"file:/dev/zero\"\n"));
    assert!(problems().contains("it is no regular file"));
    configuration(dir.path(), FIRST);
    assert_eq!(paths(&reload(&daemon), "changes"), [""; 0]);
    daemon.stop();
}

#[test]
fn a_reload_whose_tick_is_far_away_is_accepted_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let hours = |text: &str| text.replace("200ms", "24h");
    let mut daemon = Daemon::start(dir.path(), &configuration(dir.path(), &hours(FIRST)));
    assert_eq!(reload(&daemon)["result"], "applied", "nothing has to wait for a tick");
    configuration(dir.path(), &hours(FIRST).replace("percentiles = [50]", "percentiles = [90]"));
    let report = reload(&daemon);
    assert_eq!((&report["result"], paths(&report, "changes")), (&"accepted".into(), vec!["percentiles".into()]));
    let status = daemon.status();
    assert_eq!(status["reloads"]["in_force_at"], report["in_force_at"]);
    assert!(status["verdict"].to_string().contains("a reload is in force at"), "{}", status["verdict"]);
    configuration(dir.path(), "broken");
    let (is_applied, report) = reload_with(&daemon, TOKEN);
    assert!(!is_applied && report["problems"].to_string().contains("ask again then"), "{report}");
    daemon.signal("-HUP");
    daemon.wait_for("its turn", |lines| lines.iter().any(|line| line.contains("the configuration is read again then")));
    let reloads = daemon.status()["reloads"].take();
    assert!(reloads["in_force_at"].is_number() && reloads["refused"] == 1, "{reloads}");
    daemon.stop();
}

#[test]
fn what_needs_a_restart_is_named_and_a_signal_reloads_as_well() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut daemon = Daemon::start(dir.path(), &configuration(dir.path(), FIRST));
    let changed = FIRST.replace("workers = 1", "workers = 2\nmax_datagram = 1000");
    configuration(dir.path(), &format!("{changed}[history]\nminutes = 3\n"));
    daemon.signal("-HUP");
    daemon.wait_for("a reload", |lines| lines.iter().any(|line| line.contains("reloaded: listen[0].max_datagram")));
    let status = daemon.status();
    assert_eq!(paths(&status["reloads"], "needs_restart"), ["listen[0].workers", "history.minutes"]);
    assert!(status["verdict"].to_string().contains("2 settings of the file need a restart"), "{}", status["verdict"]);
    daemon.stop();
}

#[test]
fn a_token_that_is_replaced_opens_nothing_any_more() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &configuration(dir.path(), FIRST));
    let http = "[http]\naddress = \"127.0.0.1:0\"\ntoken = \"another\"\nhosts = [\"stats.example\"]\n";
    configuration(dir.path(), &format!("{FIRST}{http}"));
    assert_eq!(paths(&reload(&daemon), "changes"), ["http.token", "http.hosts"]);
    let url = format!("http://{}", daemon.http.expect("HTTP is on"));
    assert_eq!(systole(&["reload", "--url", &url, "--token", TOKEN], b"").status.code(), Some(1));
    assert!(reload_with(&daemon, "another").0);
    daemon.stop();
}

#[test]
fn a_sink_that_is_changed_keeps_what_waits_for_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
    let graphite = |to: SocketAddr| {
        format!(
            "interval = \"100ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
             [[sink]]\nname = \"out\"\ntype = \"graphite\"\naddress = \"{to}\"\nqueue = 100\n"
        )
    };
    let daemon = Daemon::start(dir.path(), &configuration(dir.path(), &graphite(free())));
    daemon.send_udp(&[b"kept:7|c"]);
    let waits = |status: &Value| status["sinks"]["out"]["queued"].as_u64() > Some(0);
    let before = daemon.status_when("records that wait", waits)["sinks"]["out"].clone();
    configuration(dir.path(), &graphite(receiver.local_addr().expect("an address")));
    assert_eq!(paths(&reload(&daemon), "changes"), ["sink[0].address"]);
    let mut stream = received(&receiver, "kept");
    let after = daemon.status_when("delivered", |status| status["sinks"]["out"]["delivered"].as_u64() > Some(0));
    assert!(after["sinks"]["out"]["offered"].as_u64() >= before["offered"].as_u64(), "{before} {after}");
    // A sink that holds no series is not opened anew for their number: its connection goes on.
    let receiver_at = receiver.local_addr().expect("an address");
    configuration(dir.path(), &format!("max_series = 4321\n{}", graphite(receiver_at)));
    assert_eq!(paths(&reload(&daemon), "changes"), ["max_series"]);
    daemon.send_udp(&[b"after:1|c"]);
    read_until(&mut stream, "after");
    daemon.stop();
}

#[test]
fn who_is_known_to_presence_stays_and_is_judged_by_the_new_settings() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &configuration(dir.path(), FIRST));
    daemon.send_udp(&[b"heartbeat:2|g|#service:web,instance:a,version:7"]);
    let service = |name: &str| {
        let (code, body) = daemon.get(&format!("/api/v1/presence/{name}"));
        (code == 200).then(|| serde_json::from_str::<Value>(&body).expect("JSON"))
    };
    let before = poll("the service", || service("web").ok_or(())).get_mut("instances").expect("instances").take();
    let more = "[presence]\ngroup_wait = \"1s\"\n[[presence.service]]\nmatch = \"web\"\nephemeral = true\n\
                [[presence.expect]]\nservice = \"db\"\nwithin = \"1h\"\n[[presence.job]]\nservice = \"backup\"\nevery = \"1h\"\n";
    configuration(dir.path(), &format!("{FIRST}{more}"));
    let changed = paths(&reload(&daemon), "changes");
    assert!(changed.iter().any(|path| path == "presence.expect[0].service"), "{changed:?}");
    let (db, web) = (poll("the expected service", || service("db").ok_or(())), service("web").expect("it is known"));
    assert_eq!((&db["service"], &db["min"]), (&"db".into(), &1.into()), "{db}");
    for key in ["first_seen", "version", "instance"] {
        assert_eq!(web["instances"][0][key], before[0][key], "{key}: {web}");
    }
    let (_, jobs) = daemon.get("/api/v1/jobs");
    assert!(jobs.contains("backup"), "{jobs}");
    // Without them nobody is expected, and who is there stays.
    configuration(dir.path(), FIRST);
    reload(&daemon);
    poll("nobody but who is there", || match (service("db"), service("web")) {
        (None, Some(_)) => Ok(()),
        other => Err(other),
    });
    daemon.stop();
}

#[test]
fn sums_that_prometheus_sees_go_on_when_their_sink_is_changed() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = free();
    let sink = |more: &str| {
        format!(
            "interval = \"100ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
             [[sink]]\nname = \"scrape\"\ntype = \"prometheus\"\naddress = \"{port}\"\n{more}"
        )
    };
    let daemon = Daemon::start(dir.path(), &configuration(dir.path(), &sink("")));
    daemon.send_udp(&[b"hits:5|c"]);
    let scraped = |expected: &str| {
        poll(expected, || {
            let stream = TcpStream::connect(port).map_err(|error| error.to_string())?;
            drop(stream);
            let (_, body) = crate::support::get(port, "/metrics", "");
            if body.contains(expected) { Ok(()) } else { Err(body) }
        });
    };
    scraped("hits_total 5");
    for (n, more) in ["ttl = \"2h\"\n", "max_connections = 7\n", ""].into_iter().enumerate() {
        configuration(dir.path(), &sink(more));
        reload(&daemon);
        daemon.send_udp(&[b"hits:1|c"]);
        scraped(&format!("hits_total {}", 6 + n));
    }
    daemon.stop();
}

#[test]
fn no_reload_that_changes_renames_or_swaps_sinks_refuses_a_scrape() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, two) = (free(), free());
    let sinks = |first: (&str, SocketAddr), second: (&str, SocketAddr), more: &str| {
        let sink = |(name, at): (&str, SocketAddr)| {
            format!("[[sink]]\nname = \"{name}\"\ntype = \"prometheus\"\naddress = \"{at}\"\n{more}")
        };
        format!(
            "interval = \"100ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n{}{}",
            sink(first),
            sink(second)
        )
    };
    let daemon = Daemon::start(dir.path(), &configuration(dir.path(), &sinks(("a", one), ("b", two), "")));
    let stop = Arc::new(AtomicBool::new(false));
    let scrapers = [one, two].map(|at| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut scrapes = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(crate::support::get(at, "/metrics", "").0, 200);
                scrapes += 1;
            }
            scrapes
        })
    });
    for more in ["ttl = \"2h\"\n", ""] {
        for (first, second) in [(("c", one), ("b", two)), (("c", two), ("b", one)), (("a", one), ("b", two))] {
            configuration(dir.path(), &sinks(first, second, more));
            reload(&daemon);
        }
    }
    stop.store(true, Ordering::Relaxed);
    for scraper in scrapers {
        assert!(scraper.join().expect("no scrape was refused") > 0);
    }
    daemon.stop();
}

/// Sends lines over TCP until it is told to stop, on a connection for every so many; how many there were.
fn load(to: SocketAddr, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            // The daemon of a test that has failed is gone.
            let Ok(mut stream) = TcpStream::connect(to) else { break };
            for _ in 0..50 {
                let lines: String = (0..100).map(|n| format!("load.{}:1|c\nt:{n}|ms\n", n % 10)).collect();
                if stream.write_all(lines.as_bytes()).is_err() {
                    return sent;
                }
                sent += 100;
                pause_ms(5);
            }
        }
        sent
    })
}

#[test]
fn forty_reloads_under_load_lose_no_line_and_split_no_interval() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut daemon = Daemon::start(dir.path(), &configuration(dir.path(), FIRST));
    let (stop, tcp) = (Arc::new(AtomicBool::new(false)), daemon.tcp.expect("TCP"));
    let senders: Vec<_> = (0..2).map(|_| load(tcp, Arc::clone(&stop))).collect();
    let second =
        SECOND.replace("prefix = \"p.\"\n", "").replace("max_connections = 7", "max_connections = 700").replace(
            "[[rule]]\nmatch = \"old.*\"\nrename = \"new.$1\"\n",
            "[[rule]]\nmatch = \"load.*\"\nrename = \"moved.$1\"\n",
        );
    for n in 0..40 {
        let (text, is_good) = match n % 4 {
            0 => (second.clone(), true),
            2 => (FIRST.to_string(), true),
            1 => (format!("{FIRST}nonsense = 1\n"), false),
            _ => (format!("{FIRST}[[sink]]\nname = \"x\"\ntype = \"file\"\npath = \"/proc/no/such\"\n"), false),
        };
        configuration(dir.path(), &text);
        let (is_applied, report) = reload_with(&daemon, TOKEN);
        assert_eq!(is_applied, is_good, "{n}: {report}");
    }
    stop.store(true, Ordering::Relaxed);
    let sent: u64 = senders.into_iter().map(|sender| sender.join().expect("it sends")).sum();
    daemon.wait_for("the end of a listener", |lines| lines.iter().any(|line| line.contains("not listening any more")));
    poll("all lines", || {
        let status = daemon.status();
        if status["lines"]["read"].as_u64() >= Some(2 * sent) {
            Ok(())
        } else {
            Err((sent, status["lines"].clone(), status["listeners"].clone()))
        }
    });
    daemon.stop();
    let all = records(&dir.path().join("main.jsonl"));
    let is_of_load = |name: &str| name.starts_with("load.") || name.starts_with("moved.");
    let counted: f64 = all
        .iter()
        .filter(|r| r["type"] == "counter" && r["name"].as_str().is_some_and(is_of_load))
        .filter_map(|r| r["value"].as_f64())
        .sum();
    let moved = all.iter().any(|r| r["name"].as_str().is_some_and(|name| name.starts_with("moved.")));
    assert!(counted == sent as f64 && moved, "{counted} of {sent}");
    let ledgers: Vec<&Value> = all.iter().filter(|r| r["type"] == "ledger").collect();
    // The last one ends with the stop.
    for pair in ledgers[..ledgers.len() - 1].windows(2) {
        let of = |n: usize, key: &str| pair[n][key].as_f64().unwrap_or_else(|| panic!("{key} in {}", pair[n]));
        let (between, length) = (of(1, "time") - of(0, "time"), of(1, "interval"));
        assert!(between > 0.1 && (between - length).abs() < 0.15, "{between} {length}: {}", pair[1]);
    }
    let lines: f64 = ledgers.iter().filter_map(|r| r["lines"]["read"].as_f64()).sum();
    assert_eq!(lines, 2.0 * sent as f64);
}

/// Whether an interval has a counter of this name.
fn counts(snapshot: Option<&Arc<Snapshot>>, name: &str) -> bool {
    snapshot.is_some_and(|snapshot| snapshot.counters.iter().any(|point| point.series.name() == name))
}

#[test]
fn a_worker_that_does_not_answer_goes_on_as_before_until_it_does() {
    let config = |more: &str| {
        let listen = "[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[presence]\nenabled = false\n";
        Config::parse(&format!("interval = \"100ms\"\nself_metrics = false\n{listen}{more}")).expect("right")
    };
    let (was, next) = (config(""), config("[[rule]]\nmatch = \"a\"\nrename = \"b\"\n"));
    let (quota, runtime) = (Quota::new(1000), runtime());
    let shard_options = |config: &Config| assemble::shard_options(config, &quota, 1);
    let registry_options = |config: &Config| assemble::registry_options(config, false);
    let (to, listener) = runtime.block_on(async {
        let bound = net::bind(assemble::listener(&was, &was.listen[0])).expect("bound");
        let (to, shard) = (bound.address().expect("an address"), || Shard::new(shard_options(&was)));
        (to, bound.start("udp://it", shard, &Taps::default(), &Supervisor::default()).expect("started"))
    });
    // The worker hangs, and its inbox is full.
    let ((held, until), (tell, hangs)) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel::<()>());
    let hanging = listener.ask(0, move |_| {
        drop(tell);
        // It ends with an error, when the other end is dropped.
        let _ = until.recv();
    });
    assert!(hangs.recv().is_err());
    let _full: Vec<_> = (0..16).map(|_| listener.ask(0, |_| ())).collect();

    let mut listeners = Listeners::default();
    listeners.add(listener);
    let (handle, inbox) = flush::channel();
    let (stop, deadline) = tokio::sync::watch::channel(None);
    let (_steps, steps) = tokio::sync::mpsc::channel(1);
    let registry = Registry::new(registry_options(&was), 1);
    let flusher = Flusher::new(was.interval, listeners, registry, Vec::new(), inbox, None, None)
        .controlled_by(FlusherInputs { deadline, steps });
    let own = runtime.handle().clone();
    let thread = std::thread::spawn(move || own.block_on(flusher.run()).1);
    runtime.block_on(async {
        let change = Changeover {
            shards: NextShards::Renewed(Box::new(shard_options(&next)), Arc::default()),
            registry: Some(registry_options(&next)),
            ..Changeover::default()
        };
        let behind = handle.change_over(change).await.await.expect("it changes over");
        assert!(matches!(&behind[..], [worker] if worker.starts_with("worker:udp-")), "{behind:?}");
        assert_eq!(handle.published().behind, behind);
        drop(held);
        let _ = hanging.await;
        let mut published = handle.subscribe();
        let _ = published.wait_for(|published| published.behind.is_empty()).await.expect("it catches up");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.send_to(b"a:2|c", to).expect("sent");
        let is_there = |name| move |published: &Arc<flush::Published>| counts(published.snapshot.as_ref(), name);
        let seen = published.wait_for(|now| is_there("a")(now) || is_there("b")(now)).await.expect("an interval");
        assert!(is_there("b")(&seen), "it has the new rules");
    });
    drop((stop, _steps));
    assert!(thread.join().expect("no panic"), "the last interval is closed");
}

/// A daemon with a file of records, and what else it has for sinks.
fn with_sinks(more: &str) -> String {
    format!(
        "interval = \"100ms\"\nshutdown_grace = \"1s\"\nself_metrics = false\nstate_dir = \"DIR/state\"\n\
         [[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\nname = \"main\"\ntype = \"file\"\npath = \"DIR/main.jsonl\"\n{more}"
    )
}

fn graphite(to: SocketAddr, more: &str) -> String {
    with_sinks(&format!("[[sink]]\nname = \"out\"\ntype = \"graphite\"\naddress = \"{to}\"\nqueue = 100\n{more}"))
}

/// The connection of a receiver of Graphite's lines, read until there is this text in it.
fn received(receiver: &TcpListener, expected: &str) -> TcpStream {
    let (mut stream, _) = receiver.accept().expect("it connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    read_until(&mut stream, expected);
    stream
}

fn read_until(stream: &mut TcpStream, expected: &str) -> String {
    let mut got = String::new();
    while !got.contains(expected) {
        let mut buffer = [0; 1000];
        let count = std::io::Read::read(stream, &mut buffer).expect("read");
        assert!(count > 0, "the connection was closed: {got}");
        got.push_str(&text(&buffer[..count]));
    }
    got
}

/// Asks for a reload until it is in force.
fn reload_when(daemon: &Daemon, what: &str) {
    poll(what, || {
        let (is_applied, report) = reload_with(daemon, TOKEN);
        if is_applied { Ok(()) } else { Err(report.to_string()) }
    });
}

/// What the sink `out` has, in memory and on disk.
fn held(status: &Value) -> u64 {
    ["queued", "spooled"].iter().filter_map(|key| status["sinks"]["out"][key].as_u64()).sum()
}

/// A spool in this folder.
fn spool(folder: &str) -> String {
    format!("spool = {{ path = \"DIR/{folder}\" }}\n")
}

/// A daemon whose sink `out` has an interval that nobody takes in its spool `one`.
fn with_something_on_disk(dir: &Path) -> Daemon {
    let daemon = with_something_waiting(dir, &spool("one"));
    daemon.status_when("it is on disk", |status| status["sinks"]["out"]["spooled"].as_u64() > Some(0));
    daemon
}

/// A daemon whose sink `out` has an interval that nobody takes.
fn with_something_waiting(dir: &Path, more: &str) -> Daemon {
    let daemon = Daemon::start(dir, &configuration(dir, &graphite(free(), more)));
    daemon.send_udp(&[b"kept:7|c"]);
    daemon.closed(1);
    daemon
}

/// The same, whose sink a reload has taken out, with an hour to deliver it.
fn with_something_leaving(dir: &Path, more: &str) -> Daemon {
    let daemon = with_something_waiting(dir, more);
    configuration(dir, &with_sinks("").replace("shutdown_grace = \"1s\"", "shutdown_grace = \"1h\""));
    reload(&daemon);
    daemon
}

#[test]
fn what_a_sink_has_gathered_is_delivered_when_it_gets_each_interval_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let slow = |interval: &str| {
        with_sinks(&format!("[[sink]]\nname = \"slow\"\ntype = \"file\"\npath = \"DIR/slow.jsonl\"\n{interval}"))
    };
    let daemon = Daemon::start(dir.path(), &configuration(dir.path(), &slow("interval = \"24h\"\n")));
    daemon.send_udp(&[b"gathered:3|c"]);
    daemon.closed(1);
    configuration(dir.path(), &slow(""));
    assert_eq!(paths(&reload(&daemon), "changes"), ["sink[1].interval"]);
    poll("what was gathered", || {
        let all = fs::read_to_string(dir.path().join("slow.jsonl")).unwrap_or_default();
        if all.contains("gathered") { Ok(()) } else { Err(all) }
    });
    daemon.stop();
    let all = records(&dir.path().join("slow.jsonl"));
    let times: Vec<f64> = all.iter().filter(|r| r["type"] == "ledger").filter_map(|r| r["time"].as_f64()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a_sink_whose_spool_comes_goes_or_moves_keeps_what_waits_for_it() {
    let (none, one, other) = (String::new(), spool("one"), spool("other"));
    for (from, to) in [(&none, &one), (&one, &none), (&one, &other)] {
        let (dir, away) = (tempfile::tempdir().expect("a folder"), free());
        let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
        let daemon = with_something_waiting(dir.path(), from);
        let before = daemon.status_when("it waits", |status| held(status) > 0);
        configuration(dir.path(), &graphite(away, to));
        reload(&daemon);
        daemon.send_udp(&[b"later:7|c"]);
        daemon.closed(2);
        let after = daemon.status_when("both wait", |status| held(status) > held(&before));
        let (before, after) = (&before["sinks"]["out"], &after["sinks"]["out"]);
        assert!(after["offered"].as_u64() > before["offered"].as_u64(), "{before} {after}");
        if *to == one {
            daemon.status_when("both are on disk", |status| status["sinks"]["out"]["queued"] == 0);
        }
        let back = graphite(receiver.local_addr().expect("an address"), to);
        configuration(dir.path(), &back);
        reload(&daemon);
        let (mut stream, _) = receiver.accept().expect("it connects");
        let got = read_until(&mut stream, "later");
        assert!(got.find("kept") < got.find("later") && got.contains("kept"), "{got}");
        let all = daemon.status_when("all is delivered", |status| held(status) == 0);
        assert_eq!(all["sinks"]["out"]["dropped"], serde_json::json!({}), "{all}");
        configuration(dir.path(), &back.replace("main.jsonl\"\n", &format!("main.jsonl\"\n{from}")));
        reload_when(&daemon, "the folder that it had is free");
        daemon.stop();
    }
}

#[test]
fn what_lies_in_a_spool_that_was_taken_out_is_not_forgotten_at_a_stop() {
    let dir = tempfile::tempdir().expect("a folder");
    let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
    let daemon = with_something_on_disk(dir.path());
    configuration(dir.path(), &graphite(free(), ""));
    reload(&daemon);
    let log = daemon.stop();
    let is_told = |line: &String| line.contains("not delivered until a sink has that folder") && line.contains("/one");
    assert!(log.iter().any(is_told), "{log:?}");
    let back = graphite(receiver.local_addr().expect("an address"), &spool("one"));
    let daemon = Daemon::start(dir.path(), &configuration(dir.path(), &back));
    received(&receiver, "kept");
    daemon.stop();
}

#[test]
fn a_spool_that_was_taken_out_is_told_after_a_crash_until_a_sink_has_it_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
    let daemon = with_something_on_disk(dir.path());
    configuration(dir.path(), &graphite(free(), ""));
    let (is_applied, report) = reload_with(&daemon, TOKEN);
    let warned = report["warnings"].to_string();
    assert!(
        is_applied && warned.contains("sink out: intervals wait in its spool") && warned.contains("/one"),
        "{report}"
    );
    poll("a note of both", || {
        let shown = systole(&["state", "show", "--dir", &dir.path().join("state").display().to_string()], b"");
        let shown = text(&shown.stdout);
        if shown.contains("folders") && shown.contains("/one") { Ok(()) } else { Err(shown) }
    });
    // A reload after that forgets nothing.
    let without = configuration(dir.path(), &graphite(free(), &spool("two")));
    reload(&daemon);
    drop(daemon);
    for _ in 0..2 {
        let mut daemon = Daemon::start(dir.path(), &without);
        daemon.wait_for("the folder", |lines| {
            lines.iter().any(|line| line.contains("no sink spools to any more") && line.contains("/one"))
        });
        let is_there = |status: &Value| status["warnings"].to_string().contains("where no sink spools any more");
        daemon.status_when("a warning", is_there);
    }
    let mut daemon = Daemon::start(dir.path(), &without);
    configuration(dir.path(), &graphite(receiver.local_addr().expect("an address"), &spool("one")));
    reload(&daemon);
    received(&receiver, "kept");
    daemon.status_when("no warning", |status| !status["warnings"].to_string().contains("spools any more"));
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(Duration::from_secs(20)), Some(0));
}

#[test]
fn a_folder_for_a_spool_goes_to_a_sink_of_another_name_when_it_is_free() {
    let dir = tempfile::tempdir().expect("a folder");
    let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
    let daemon = with_something_waiting(dir.path(), &spool("one"));
    let renamed = |spool: &str| {
        graphite(receiver.local_addr().expect("an address"), spool).replace("name = \"out\"", "name = \"renamed\"")
    };
    configuration(dir.path(), &renamed(&spool("one")));
    let (is_applied, report) = reload_with(&daemon, TOKEN);
    assert!(!is_applied && report["problems"].to_string().contains("the sink out has that folder until"), "{report}");
    configuration(dir.path(), &renamed(""));
    reload(&daemon);
    daemon.status_when("the other one has ended", |status| status["sinks"]["out"].is_null());
    configuration(dir.path(), &renamed(&spool("one")));
    reload_when(&daemon, "the folder is free");
    received(&receiver, "kept");
    daemon.stop();
}

#[test]
fn a_sink_that_is_put_back_goes_on_with_what_it_had() {
    for spool in ["", "spool = { path = \"DIR/spool\" }\n"] {
        let dir = tempfile::tempdir().expect("a folder");
        let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
        let daemon = with_something_leaving(dir.path(), spool);
        let left = daemon.status()["sinks"]["out"].clone();
        assert!(left["queued"].as_u64() > Some(0) || left["spooled"].as_u64() > Some(0), "it is still there: {left}");
        configuration(dir.path(), &graphite(receiver.local_addr().expect("an address"), spool));
        reload(&daemon);
        received(&receiver, "kept");
        daemon.stop();
    }
}

#[test]
fn a_reload_that_is_refused_takes_nothing_from_a_sink_that_leaves() {
    let dir = tempfile::tempdir().expect("a folder");
    let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
    let daemon = with_something_leaving(dir.path(), "");
    let back = graphite(receiver.local_addr().expect("an address"), "");
    let broken = "[[sink]]\nname = \"x\"\ntype = \"file\"\npath = \"/proc/no/such\"\n";
    configuration(dir.path(), &format!("{back}{broken}"));
    assert!(!reload_with(&daemon, TOKEN).0);
    configuration(dir.path(), &back);
    reload(&daemon);
    received(&receiver, "kept");
    daemon.stop();
}

#[test]
fn a_reload_that_is_refused_for_a_spool_takes_nothing_from_a_sink_that_leaves() {
    for spool in ["", "spool = { path = \"DIR/spool\" }\n"] {
        let dir = tempfile::tempdir().expect("a folder");
        let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
        let daemon = with_something_leaving(dir.path(), spool);
        let back = graphite(receiver.local_addr().expect("an address"), spool);
        // A file is in the place of its folder.
        fs::write(dir.path().join("no_folder"), "").expect("written");
        let broken =
            "[[sink]]\nname = \"x\"\ntype = \"file\"\npath = \"DIR/x.jsonl\"\nspool = { path = \"DIR/no_folder\" }\n";
        configuration(dir.path(), &format!("{back}{broken}"));
        let (is_applied, report) = reload_with(&daemon, TOKEN);
        assert!(!is_applied && report["problems"].to_string().contains("cannot spool to"), "{report}");
        let left = daemon.status()["sinks"]["out"].clone();
        assert_eq!(left["dropped"], serde_json::json!({}), "{left}");
        configuration(dir.path(), &back);
        reload(&daemon);
        received(&receiver, "kept");
        daemon.stop();
    }
}

#[test]
fn a_reload_that_fails_when_spools_are_free_takes_nothing_from_sinks_that_leave() {
    let spooled = |name: &str| {
        let to = free();
        format!(
            "[[sink]]\nname = \"{name}\"\ntype = \"graphite\"\naddress = \"{to}\"\nspool = {{ path = \"DIR/spool\" }}\n"
        )
    };
    // Another sink has the folder, or it is no folder any more.
    for (name, is_broken) in [("y", false), ("x", true)] {
        let dir = tempfile::tempdir().expect("a folder");
        let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
        let daemon = with_something_waiting(dir.path(), &spooled("x"));
        daemon.status_when("it is on disk", |status| status["sinks"]["x"]["spooled"].as_u64() > Some(0));
        configuration(dir.path(), &with_sinks("").replace("shutdown_grace = \"1s\"", "shutdown_grace = \"1h\""));
        reload(&daemon);
        let (folder, aside) = (dir.path().join("spool"), dir.path().join("aside"));
        if is_broken {
            fs::rename(&folder, &aside).and_then(|()| fs::write(&folder, "")).expect("written");
        }
        let back = graphite(receiver.local_addr().expect("an address"), "");
        configuration(dir.path(), &format!("{}{}", graphite(free(), ""), spooled(name)));
        let (is_applied, report) = reload_with(&daemon, TOKEN);
        assert!(!is_applied && report["problems"].to_string().contains("cannot spool to"), "{report}");
        let status = daemon.status_when("what it has", |status| status["sinks"]["out"]["queued"].as_u64() > Some(0));
        assert_eq!(status["sinks"]["out"]["dropped"], serde_json::json!({}), "{name}");
        configuration(dir.path(), &back);
        reload(&daemon);
        received(&receiver, "kept");
        daemon.stop();
    }
}

#[test]
fn a_sink_whose_reload_never_comes_to_be_keeps_what_it_was_to_go_on_with() {
    let hours = |text: &str| text.replace("100ms", "24h");
    for spool in ["", "spool = { path = \"DIR/spool\" }\n"] {
        let dir = tempfile::tempdir().expect("a folder");
        let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
        let daemon = with_something_waiting(dir.path(), spool);
        daemon.stop();
        let daemon = Daemon::start(dir.path(), &configuration(dir.path(), &hours(&with_sinks(""))));
        configuration(dir.path(), &hours(&graphite(free(), spool)));
        assert_eq!(reload(&daemon)["result"], "accepted");
        daemon.stop();
        let back = graphite(receiver.local_addr().expect("an address"), spool);
        let daemon = Daemon::start(dir.path(), &configuration(dir.path(), &back));
        received(&receiver, "kept");
        daemon.stop();
    }
}

#[test]
fn what_a_sink_that_was_removed_does_not_deliver_is_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = with_something_waiting(dir.path(), "");
    configuration(dir.path(), &with_sinks(""));
    reload(&daemon);
    daemon.status_when("its end", |status| status["sinks"]["out"].is_null());
    daemon.stop();
    let all = records(&dir.path().join("main.jsonl"));
    let last = all.iter().rev().find(|r| r["type"] == "ledger" && r["sinks"]["out"].is_object());
    let out = &last.expect("its last account")["sinks"]["out"];
    assert!(out["dropped"]["shutdown"].as_u64() > Some(0), "{out}");
    assert_eq!(out["queued"], 0, "{out}");
}

#[test]
fn a_sink_that_is_added_goes_on_with_what_an_earlier_process_has_left() {
    let dir = tempfile::tempdir().expect("a folder");
    let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
    let daemon = with_something_waiting(dir.path(), "");
    daemon.stop();
    let daemon = Daemon::start(dir.path(), &configuration(dir.path(), &with_sinks("")));
    daemon.next_flush();
    configuration(dir.path(), &graphite(receiver.local_addr().expect("an address"), ""));
    reload(&daemon);
    received(&receiver, "kept");
    daemon.stop();
}
