//! Presence through the front door: heartbeats over UDP, the API, the board, records, and a daemon that is killed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::{self, Daemon, pause, pause_ms, poll, records, until};

fn config(dir: &Path, more: &str) -> String {
    format!(
        "interval = \"1s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n\
         [http]\naddress = \"127.0.0.1:0\"\ntoken = \"secret\"\n[presence]\nstate_file = \"{}\"\n{more}",
        dir.join("records.jsonl").display(),
        dir.join("state/presence.json").display(),
    )
}

fn service(daemon: &Daemon, name: &str) -> Value {
    let (_, body) = daemon.get(&format!("/api/v1/presence/{name}"));
    serde_json::from_str(&body).expect("JSON")
}

/// Waits until a service is as expected; the seconds that took.
fn wait(daemon: &Daemon, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> f64 {
    let began = Instant::now();
    poll(what, || {
        let now = service(daemon, name);
        if is_so(&now) { Ok(began.elapsed().as_secs_f64()) } else { Err(now.to_string()) }
    })
}

fn request(daemon: &Daemon, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(daemon.http.expect("HTTP is on")).expect("connected");
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status"), body.to_string())
}

#[test]
fn a_service_is_up_late_down_and_back_and_says_goodbye() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    daemon.send_udp(&[
        b"heartbeat.pay.web-1:1|g|#interval:1,version:1.4.2,start:77",
        b"heartbeat.pay.web-2:1.1|g",
        b"x:1|c",
    ]);
    wait(&daemon, "pay", "up", |s| s["state"] == "up" && s["present"] == 2);
    let one = &service(&daemon, "pay")["instances"][0];
    assert_eq!((&one["instance"], &one["timeout_s"], &one["version"]), (&"web-1".into(), &5.0.into(), &"1.4.2".into()));
    let (code, _) = daemon.get("/api/v1/presence/pay/check");
    assert_eq!(code, 200);
    // A promise of 1 s is broken after 4 s and a grace of 1 s; nobody else is known, so it is no mass silence.
    let took = wait(&daemon, "pay", "down", |s| s["state"] == "down");
    assert!((4.0..8.0).contains(&took), "down after {took} s");
    assert_eq!(daemon.get("/api/v1/presence/pay/check").0, 503);
    assert!(daemon.get("/presence").1.contains("pay is down: 0 of 2 present"));
    // A flush sees it.
    daemon.next_flush();
    daemon.send_udp(&[b"heartbeat.pay.web-1:60|g", b"heartbeat.pay.web-2:60|g"]);
    wait(&daemon, "pay", "up again", |s| s["state"] == "up");
    daemon.send_udp(&[b"heartbeat.pay.web-1:0|g", b"heartbeat.pay.web-2:0|g"]);
    wait(&daemon, "pay", "left", |s| s["state"] == "left");
    assert_eq!(daemon.get("/api/v1/presence/pay/check").0, 404);
    let status = daemon.flushed_when("every heartbeat", |status| status["lines"]["heartbeats"] == 6);
    assert_eq!(status["lines"]["metrics"], 1);
    daemon.stop();

    let all = records(&dir.path().join("records.jsonl"));
    let said: Vec<(&str, &str, bool)> = all
        .iter()
        .filter(|r| r["type"] == "presence" && r["kind"] == "service")
        .map(|r| (r["from"].as_str().unwrap_or(""), r["to"].as_str().unwrap_or(""), r["notify"] == true))
        .collect();
    assert_eq!(said, [("none", "up", false), ("up", "down", true), ("down", "up", true), ("up", "left", false)]);
    let up: Vec<f64> = all
        .iter()
        .filter(|r| r["name"] == "presence_up" && r["tags"]["instance"] == "web-1")
        .filter_map(|r| r["value"].as_f64())
        .collect();
    assert!(up.contains(&1.0) && up.contains(&0.0), "{up:?}");
    let beats =
        all.iter().filter(|r| r["name"] == "presence_beats_total").filter_map(|r| r["value"].as_f64()).sum::<f64>();
    assert_eq!(beats, 4.0);
    assert!(all.iter().all(|r| !r["name"].as_str().unwrap_or("").starts_with("heartbeat")));
}

#[test]
fn a_killed_daemon_remembers_who_was_there_and_announces_who_died_meanwhile() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = config(dir.path(), "");
    let mut daemon = Daemon::start(dir.path(), &text);
    // The state is saved every 10 s.
    until("a state", || {
        daemon.send_udp(&[b"heartbeat.pay.a:2|g", b"heartbeat.web.a:2|g"]);
        pause_ms(500);
        dir.path().join("state/presence.json").exists()
    });
    daemon.signal("-KILL");
    let _ = daemon.wait(Duration::from_secs(5));
    drop(daemon);
    let daemon = Daemon::start(dir.path(), &text);
    assert_eq!(service(&daemon, "pay")["instances"][0]["state"], "unknown");
    assert_eq!(service(&daemon, "web")["state"], "up");
    // Silent since before we started: one timeout (4 · 2 s + 1 s) after we did.
    let booted = Instant::now();
    let took = poll("`pay` is down", || {
        daemon.send_udp(&[b"heartbeat.web.a:2|g"]);
        pause_ms(500);
        let now = service(&daemon, "pay");
        if now["state"] == "down" { Ok(booted.elapsed()) } else { Err(now.to_string()) }
    });
    assert!((8..12).contains(&took.as_secs()), "{took:?}");
    assert_eq!(service(&daemon, "web")["state"], "up");
    let events: Value = serde_json::from_str(&daemon.get("/api/v1/presence/events").1).expect("JSON");
    let told: Vec<&Value> = events.as_array().expect("a list").iter().filter(|event| event["notify"] == true).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["service"], &told[0]["to"]), (&"pay".into(), &"down".into()));
    daemon.stop();
}

#[test]
fn changes_need_the_token_and_hostile_names_are_inert() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    daemon.send_udp(&[
        b"heartbeat:10|g|#service:<script>alert(1)</script>,instance:\x1b[2J,version:<b>",
        b"heartbeat.pay.a:10|g",
    ]);
    wait(&daemon, "pay", "up", |s| s["state"] == "up");
    let board = daemon.get("/presence").1;
    assert!(
        board.contains("&lt;script&gt;")
            && !board.contains("<script>")
            && !board.contains('\x1b')
            && !board.contains("<b>&lt;")
    );
    assert!(!daemon.get("/api/v1/presence").1.contains('\x1b'));
    let announce = "{\"service\":\"pay\",\"seconds\":60}";
    for headers in ["", "Authorization: Bearer wrong\r\n"] {
        assert_eq!(request(&daemon, "POST", "/api/v1/presence/maintenance", headers, announce).0, 401);
        assert_eq!(request(&daemon, "DELETE", "/api/v1/presence/pay", headers, "").0, 401);
    }
    let flags = |daemon: &Daemon| service(daemon, "pay")["instances"][0]["flags"].clone();
    assert_eq!(flags(&daemon), Value::Array(vec![]));
    let token = "Authorization: Bearer secret\r\n";
    assert_eq!(request(&daemon, "POST", "/api/v1/presence/maintenance", token, announce).0, 200);
    assert_eq!(flags(&daemon), Value::Array(vec!["maintenance".into()]));
    assert_eq!(request(&daemon, "POST", "/api/v1/presence/maintenance", token, "{}").0, 400);
    assert_eq!(request(&daemon, "DELETE", "/api/v1/presence/nobody", token, "").0, 404);
    assert_eq!(request(&daemon, "DELETE", "/api/v1/presence/pay/a", token, "").0, 200);
    until("it is gone", || daemon.get("/api/v1/presence/pay").0 == 404);
    daemon.stop();
    // The record says what the status says.
    let refused = |record: &Value| record["presence"]["refused"]["token"].as_u64().unwrap_or(0);
    let told: u64 =
        records(&dir.path().join("records.jsonl")).iter().filter(|r| r["type"] == "ledger").map(refused).sum();
    assert_eq!(told, 4);
}

#[test]
fn a_state_file_that_is_a_pipe_holds_up_no_start() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("state")).expect("a folder");
    let pipe = dir.path().join("state/presence.json");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    daemon.send_udp(&[b"heartbeat.pay.a:10|g"]);
    wait(&daemon, "pay", "up", |s| s["state"] == "up");
    daemon.stop();
    assert!(!std::fs::metadata(&pipe).expect("it is there").is_file(), "the pipe was replaced");
}

#[test]
fn beat_runs_a_command_says_goodbye_when_it_ends_well_and_not_when_it_fails() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    let to = format!("udp://{}", daemon.udp.expect("UDP"));
    let beat = |who: &str, command: &[&str]| {
        let mut args = vec!["beat", who, "--every", "2s", "--to", &to, "--"];
        args.extend(command);
        support::command(&args).spawn().expect("the binary starts")
    };
    assert_eq!(beat("good/a", &["true"]).wait().expect("it ends").code(), Some(0));
    wait(&daemon, "good", "left", |s| s["state"] == "left");
    assert_eq!(beat("bad/a", &["sh", "-c", "sleep 0.5; exit 7"]).wait().expect("it ends").code(), Some(7));
    wait(&daemon, "bad", "up", |s| s["state"] == "up");
    let mut stopped = beat("stopped/a", &["sleep", "60"]);
    wait(&daemon, "stopped", "up", |s| s["state"] == "up");
    let pid = stopped.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    assert_eq!(stopped.wait().expect("it ends").code(), Some(128 + 15));
    wait(&daemon, "stopped", "left", |s| s["state"] == "left");
    // The one that failed said no goodbye, and so is missed.
    wait(&daemon, "bad", "down", |s| s["state"] == "down");
    for (args, code) in [(&["no/such", "/no/such/program"][..], 127), (&["no/such", "/etc/passwd"], 126)] {
        assert_eq!(beat(args[0], &args[1..]).wait().expect("it ends").code(), Some(code));
        let message = format!("exited with {code}");
        wait(&daemon, "no", "critical", |s| s["instances"][0]["message"] == *message);
    }
    let output = support::systole(&["beat", "a,b", "--to", &to], b"");
    assert_eq!(output.status.code(), Some(125), "{}", support::text(&output.stderr));
    daemon.stop();
}

/// Targets of every kind that takes nothing more, full as they are; what is to be kept open, and the URLs.
fn full_targets(dir: &Path) -> (Vec<Socket>, [String; 3]) {
    let listener = |address: &SockAddr| {
        let socket = Socket::new(address.domain(), Type::STREAM, None).expect("a socket");
        socket.bind(address).expect("bound");
        socket.listen(0).expect("listening");
        socket
    };
    let tcp = listener(&"127.0.0.1:0".parse::<SocketAddr>().expect("an address").into());
    let stream_path = SockAddr::unix(dir.join("s")).expect("a path");
    let unix = listener(&stream_path);
    let datagram_path = SockAddr::unix(dir.join("d")).expect("a path");
    let unixgram = Socket::new(Domain::UNIX, Type::DGRAM, None).expect("a socket");
    unixgram.bind(&datagram_path).expect("bound");

    let tcp_address = tcp.local_addr().expect("bound");
    let mut open = vec![tcp, unix, unixgram];
    for address in [&tcp_address, &stream_path] {
        loop {
            let socket = Socket::new(address.domain(), Type::STREAM, None).expect("a socket");
            socket.set_write_timeout(Some(Duration::from_millis(200))).expect("set");
            let is_full = socket.connect(address).is_err();
            open.push(socket);
            if is_full {
                break;
            }
        }
    }
    let filler = Socket::new(Domain::UNIX, Type::DGRAM, None).expect("a socket");
    filler.connect(&datagram_path).expect("connected");
    filler.set_nonblocking(true).expect("set");
    while filler.send(b"x:1|c").is_ok() {}
    open.push(filler);
    let urls = [
        format!("tcp://{}", tcp_address.as_socket().expect("an address")),
        format!("unix://{}/s", dir.display()),
        format!("unixgram://{}/d", dir.display()),
    ];
    (open, urls)
}

#[test]
fn a_target_that_takes_nothing_holds_up_neither_send_nor_the_command_of_beat() {
    let dir = tempfile::tempdir().expect("a folder");
    let (_open, urls) = full_targets(dir.path());
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let began = Instant::now();
    let sends = urls.each_ref().map(|to| support::command(&["send", "x:1|c", "--to", to]).spawn().expect("it starts"));
    let beats = urls.each_ref().map(|to| {
        let args = ["beat", "job/a", "--every", "1s", "--to", to, "--", "sh", "-c", script];
        let mut beat = support::command(&args).spawn().expect("it starts");
        let mut ready = [0; 6];
        beat.stdout.as_mut().expect("it was asked for").read_exact(&mut ready).expect("the command runs");
        let pid = beat.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        beat
    });
    for (children, code, message) in [(sends, 1, "nothing was taken for"), (beats, 9, "may not have been received")] {
        for (child, to) in children.into_iter().zip(&urls) {
            let output = child.wait_with_output().expect("it ends");
            let said = support::text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{to}: {said}");
            assert!(said.contains(message), "{to}: {said}");
        }
    }
    // 1.5 s are meant; without a deadline it is minutes, or for ever.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn beat_runs_its_command_though_the_name_it_sends_to_is_not_known_yet() {
    // No name has an empty part, so nobody needs to be asked.
    let beat = |to: &str| support::systole(&["beat", "job/a", "--to", to, "--", "sh", "-c", "exit 3"], b"");
    let output = beat("udp://no..name:8125");
    let said = support::text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("cannot send to udp://no..name:8125") && said.contains("with every message"), "{said}");
    for wrong in ["udp://name", "udp://name:port", "udp://:8125", "ftp://name:21"] {
        assert_eq!(beat(wrong).status.code(), Some(125), "{wrong}");
    }
}

#[test]
fn two_daemons_never_share_a_state_file() {
    let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let shared = config(dir.path(), "");
    let first = Daemon::start(dir.path(), &shared);
    first.send_udp(&[b"heartbeat.first:60|g"]);
    wait(&first, "first", "up", |s| s["state"] == "up");
    first.stop();

    let first = Daemon::start(dir.path(), &shared);
    let mut second = Daemon::start(other.path(), &shared);
    second.wait_for("the warning", |lines| lines.iter().any(|line| line.contains("another process keeps its state")));
    second.send_udp(&[b"heartbeat.second:60|g"]);
    wait(&second, "second", "up", |s| s["state"] == "up");
    assert_eq!(second.get("/api/v1/presence/first").0, 404, "the second must not take over who the first knows");
    first.send_udp(&[b"heartbeat.first:60|g"]);
    wait(&first, "first", "confirmed", |s| s["instances"][0]["state"] == "up");
    first.stop();
    second.stop();

    let first = Daemon::start(dir.path(), &shared);
    wait(&first, "first", "remembered", |s| s["state"] == "up");
    assert_eq!(
        first.get("/api/v1/presence/second").0,
        404,
        "the second must not have written to the state of the first"
    );
    first.stop();
}

#[test]
fn a_daemon_whose_state_file_was_taken_meanwhile_does_not_write_to_it() {
    let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let shared = config(dir.path(), "");
    // Both start before there is a state; the first one to stop has it.
    let (first, second) = (Daemon::start(dir.path(), &shared), Daemon::start(other.path(), &shared));
    first.send_udp(&[b"heartbeat.first:60|g"]);
    wait(&first, "first", "up", |s| s["state"] == "up");
    let held = std::fs::create_dir_all(dir.path().join("state"))
        .and_then(|()| std::fs::File::create(dir.path().join("state/presence.json.lock")))
        .expect("a lock");
    held.lock().expect("nobody has it yet");
    second.send_udp(&[b"heartbeat.second:60|g"]);
    wait(&second, "second", "up", |s| s["state"] == "up");
    let log = second.stop();
    assert!(log.iter().any(|line| line.contains("another process keeps its state")), "{log:?}");
    assert!(!dir.path().join("state/presence.json").exists());
    drop(held);
    first.stop();
    assert!(dir.path().join("state/presence.json").exists());
}

/// A socket of a sender with an address of its own.
fn sender(address: &str) -> UdpSocket {
    UdpSocket::bind((address, 0)).expect("all of 127/8 is loopback")
}

/// Sends a beat of each service, a line a datagram, so many in a second.
fn flood(daemon: &Daemon, from: &UdpSocket, names: std::ops::Range<u32>, per_second: f64) {
    let (to, began) = (daemon.udp.expect("UDP"), Instant::now());
    for (sent, n) in names.enumerate() {
        from.send_to(format!("heartbeat.invented-{n}:1|g").as_bytes(), to).expect("sent");
        let due = Duration::from_secs_f64(sent as f64 / per_second);
        pause(due.saturating_sub(began.elapsed()));
    }
}

#[test]
fn invented_services_do_not_lock_real_ones_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let began = Instant::now();
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    flood(&daemon, &sender("127.0.0.2"), 0..10_500, 3000.0);
    let to = daemon.udp.expect("UDP");
    sender("127.0.0.3").send_to(b"heartbeat.real.a:10|g", to).expect("sent");
    wait(&daemon, "real", "up", |s| s["state"] == "up");
    let heartbeats = |s: &Value| s["lines"]["heartbeats"].as_u64().unwrap_or(0);
    // A slow machine may drop some before they are read.
    let status = daemon.flushed_when("all is counted", |s| {
        heartbeats(s) + s["listeners"][0]["kernel_drops"].as_u64().unwrap_or(0) == 10_501
    });
    let (refused, kept) = (&status["presence"]["refused"], daemon.get("/api/v1/presence").1);
    let kept = serde_json::from_str::<Value>(&kept).expect("JSON").as_array().map_or(0, Vec::len) as u64;
    assert!(kept <= 500, "one source registered {kept} services");
    let count = |reason: &str| refused[reason].as_u64().unwrap_or(0);
    // What the queue lost, if the machine is slow, is lost by name.
    let lost = status["presence"]["queue_drops"].as_u64().expect("a number");
    assert_eq!(kept + count("source") + count("rate") + lost, heartbeats(&status), "{status}");
    assert!(count("source") > 0, "{status}");
    let metrics = daemon.get("/metrics").1;
    assert!(
        metrics.contains(&format!("presence_rejected_total{{reason=\"source\"}} {}\n", count("source"))),
        "{metrics}"
    );
    let log = daemon.stop();
    let told = log.iter().filter(|line| line.contains("heartbeats were refused"));
    let told: Vec<&String> = told.collect();
    assert!(told.iter().any(|line| line.contains("source ") && line.contains("127.0.0.2 (")), "{log:?}");
    assert!(told.len() as u64 <= began.elapsed().as_secs() + 2, "once an interval: {told:?}");
}

#[test]
fn in_a_full_table_the_unestablished_give_way_and_the_established_stay_over_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let limits = "max_services = 50\nmax_services_per_source = 10000\n[[presence.expect]]\nservice = \"payments\"\n";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), limits));
    let attacker = sender("127.0.0.2");
    // A promise of 1 s: established after three beats and 5 s.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        daemon.send_udp(&[b"heartbeat.old:1|g|#interval:1"]);
        pause_ms(500);
    }
    flood(&daemon, &attacker, 0..200, 2000.0);
    daemon.send_udp(&[b"heartbeat.new:60|g", b"heartbeat.old:60|g"]);
    wait(&daemon, "new", "up", |s| s["state"] == "up");
    let names = |daemon: &Daemon| -> Vec<String> {
        let all: Value = serde_json::from_str(&daemon.get("/api/v1/presence").1).expect("JSON");
        all.as_array().expect("a list").iter().filter_map(|s| Some(s["service"].as_str()?.to_string())).collect()
    };
    let known = names(&daemon);
    assert!(
        known.len() == 50 && ["old", "new", "payments"].iter().all(|name| known.iter().any(|n| n == name)),
        "{known:?}"
    );
    let log = daemon.stop();
    assert!(log.iter().any(|line| line.contains("gave way to new ones")), "{log:?}");

    let daemon = Daemon::start(dir.path(), &config(dir.path(), limits));
    assert_eq!(names(&daemon), known);
    flood(&daemon, &attacker, 1000..1200, 2000.0);
    daemon.send_udp(&[b"heartbeat.newer:60|g"]);
    wait(&daemon, "newer", "up", |s| s["state"] == "up");
    let known = names(&daemon);
    assert!(
        known.len() == 50 && ["old", "newer", "payments"].iter().all(|name| known.iter().any(|n| n == name)),
        "{known:?}"
    );
    let status = daemon.flushed_when("all is counted", |s| s["lines"]["heartbeats"] == 201);
    assert_eq!((&status["presence"]["evicted"], &status["presence"]["refused"]), (&201.into(), &serde_json::json!({})));
    assert!(daemon.get("/metrics").1.contains("presence_evicted_total 201\n"));
    daemon.stop();
}

#[test]
fn a_goodbye_is_believed_only_from_where_the_beats_came() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut daemon = Daemon::start(dir.path(), &config(dir.path(), "goodbye_from = \"same_ip\"\n"));
    let (real, attacker, to) = (sender("127.0.0.2"), sender("127.0.0.3"), daemon.udp.expect("UDP"));
    for beats in 1..=2 {
        real.send_to(b"heartbeat.pay.a:30|g", to).expect("sent");
        daemon.flushed_when("it is heard", |s| s["lines"]["heartbeats"] == beats);
    }
    attacker.send_to(b"heartbeat.pay.a:30|g\nheartbeat.pay.a:0|g", to).expect("sent");
    attacker.send_to(b"heartbeat.pay.a:30|g\nheartbeat.pay.a:30|g\nheartbeat.pay.a:0|g", to).expect("sent");
    daemon.status_when("it is refused", |s| s["presence"]["refused"]["goodbye_from"] == 2);
    assert_eq!(service(&daemon, "pay")["instances"][0]["state"], "up");
    real.send_to(b"heartbeat.pay.a:0|g", to).expect("sent");
    wait(&daemon, "pay", "left", |s| s["state"] == "left");
    daemon
        .wait_for("who it was", |lines| lines.iter().any(|l| l.contains("goodbye_from ") && l.contains("127.0.0.3 (")));
    daemon.stop();
}

#[test]
fn what_presence_does_not_take_has_its_own_name_and_counts_against_nobody() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), "queue = 1\n"));
    let datagram: String = (0..3000).map(|n| format!("heartbeat.pay.{}:60|g\n", n % 10)).collect();
    daemon.send_udp(&[datagram.as_bytes()]);
    let status = daemon.flushed_when("all is counted", |s| s["lines"]["heartbeats"] == 3000);
    let lost = status["presence"]["queue_drops"].as_u64().expect("a number");
    assert!(lost > 0, "{status}");
    assert_eq!((&status["listeners"][0]["kernel_drops"], &status["completeness"]), (&0.into(), &1.0.into()));
    let metrics = daemon.get("/metrics").1;
    assert!(metrics.contains(&format!("systole_presence_queue_drops_total {lost}\n")), "{metrics}");
    let mut metrics = String::new();
    let began = Instant::now();
    while !metrics.contains("presence_blind_seconds_total{cause=\"queue\"}") {
        assert!(began.elapsed() < Duration::from_secs(10), "{metrics}");
        metrics = daemon.get("/metrics").1;
    }
    assert!(!metrics.contains("cause=\"drops\""), "{metrics}");
    let log = daemon.stop();
    assert!(log.iter().any(|line| line.contains("presence's queue was full")), "{log:?}");
    let all = records(&dir.path().join("records.jsonl"));
    let sum =
        |name: &str| all.iter().filter(|r| r["name"] == name).filter_map(|r| r["value"].as_f64()).sum::<f64>() as u64;
    assert_eq!(sum("presence_beats_total") + lost, 3000);
    assert_eq!(sum("systole.presence.queue_drops"), lost);
}

#[test]
fn a_command_that_fails_again_and_again_is_never_found_well() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    let (to, url) = (format!("udp://{}", daemon.udp.expect("UDP")), format!("http://{}", daemon.http.expect("HTTP")));
    let beat = |command: &[&str]| {
        let mut args = vec!["beat", "job/a", "--every", "1s", "--to", &to, "--"];
        args.extend(command);
        support::command(&args).spawn().expect("the binary starts")
    };
    let check = || {
        let output = support::systole(&["presence", "check", "job", "--url", &url], b"");
        (output.status.code(), support::text(&output.stdout))
    };
    // A daemon that is short of time may say that it does not know (3), but never that all is well.
    let fails = |when: &str| {
        poll(when, || {
            let (code, said) = check();
            assert_ne!(code, Some(0), "{when}: {said}");
            if code == Some(2) { Ok(()) } else { Err((code, said)) }
        });
    };
    for n in 0..8 {
        assert_eq!(beat(&["false"]).wait().expect("it ends").code(), Some(1));
        wait(&daemon, "job", "heard", |s| s["instances"][0]["message"] == "exited with 1");
        fails(&format!("after failure {n}"));
    }
    // A start is no end of it; a run that outlives its timeout of 5 s is.
    let began = Instant::now();
    let mut long = beat(&["sleep", "60"]);
    wait(&daemon, "job", "up", |s| {
        s["instances"][0]["state"] == "up" && s["instances"][0]["silence_s"].as_f64() < Some(1.0)
    });
    fails("while it runs again");
    wait(&daemon, "job", "well", |s| s["instances"][0]["health"] == 0);
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    let began = Instant::now();
    while check().0 != Some(0) {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", check());
    }
    let pid = long.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    assert_eq!(long.wait().expect("it ends").code(), Some(128 + 15));
    // One that ends well after a failure leaves nothing behind.
    assert_eq!(beat(&["false"]).wait().expect("it ends").code(), Some(1));
    wait(&daemon, "job", "critical", |s| s["instances"][0]["health"] == 2);
    assert_eq!(beat(&["true"]).wait().expect("it ends").code(), Some(0));
    wait(&daemon, "job", "left", |s| s["state"] == "left" && s["instances"][0]["health"] == 0);
    daemon.stop();
}

#[test]
fn the_key_of_a_service_is_shown_nowhere() {
    let dir = tempfile::tempdir().expect("a folder");
    let guards =
        "forward_raw = true\nimplicit = \"assist\"\n[[presence.service]]\nmatch = \"locked\"\nkey = \"sesame\"\n";
    let config = config(dir.path(), guards);
    let mut daemon = Daemon::start(dir.path(), &config);
    let lines = [
        "heartbeat.locked.c:10|g|#key:sesame,zone:a",
        "_sc|heartbeat|0|#service:locked,instance:c,key:sesame,interval:10|m:fine",
        "maintenance.locked.c:60|g|#key:sesame",
        "requests:1|c|#service:locked,instance:c,key:sesame",
        "constant:1|c|#key:sesame",
        "packed:1:2|ms|#key:sesame",
        "named,key=sesame:1|c",
        "rated:1|ms|@0.5|#key:sesame",
        "_e{5,1}:event|x|#key:sesame",
        "_sc|check|0|#key:sesame",
        "heartbeat.locked.c:+5|g|#key:sesame",
        "kept:1|c|#key:other",
        "heartbeat.locked.c:1O|g|#key:sesame",
    ];
    // The second time, spellings are known.
    for _ in 0..2 {
        daemon.send_udp(&lines.map(str::as_bytes));
    }
    daemon.wait_for("the malformed line", |log| log.iter().any(|line| line.contains("malformed lines")));
    daemon.flushed_when("all is counted", |s| s["lines"]["read"] == 26);
    let one = &service(&daemon, "locked")["instances"][0];
    assert_eq!(
        (&one["state"], &one["message"], &one["flags"][0]),
        (&"up".into(), &"fine".into(), &"maintenance".into())
    );
    for path in ["/metrics", "/api/v1/status", "/api/v1/snapshot", "/api/v1/presence", "/presence/locked", "/"] {
        assert!(!daemon.get(path).1.contains("sesame"), "{path}");
    }
    let log = daemon.stop().join("\n");
    assert!(log.contains("#key:***") && !log.contains("sesame"), "{log}");
    let all = records(&dir.path().join("records.jsonl"));
    let text = std::fs::read_to_string(dir.path().join("records.jsonl")).expect("records");
    assert!(!text.contains("sesame"));
    let tags = |name: &str| -> Vec<&Value> { all.iter().filter(|r| r["name"] == name).map(|r| &r["tags"]).collect() };
    for (name, expected) in [
        ("heartbeat.locked.c", serde_json::json!({"zone": "a"})),
        ("maintenance.locked.c", serde_json::json!({})),
        ("requests", serde_json::json!({"service": "locked", "instance": "c"})),
        ("constant", serde_json::json!({})),
        ("named", serde_json::json!({})),
        ("rated", serde_json::json!({})),
        ("check", serde_json::json!({})),
        ("kept", serde_json::json!({"key": "other"})),
    ] {
        let found = tags(name);
        assert!(!found.is_empty(), "{name} is nowhere");
        let is_so = |tags: &&Value| **tags == expected || (name == "heartbeat.locked.c" && tags.get("zone").is_none());
        assert!(found.iter().all(is_so), "{name}: {found:?}");
    }
    let state = std::fs::read_to_string(dir.path().join("state/presence.json")).expect("a state");
    assert!(!state.contains("sesame"));

    let file = dir.path().join("systole.toml");
    for args in [&["explain"][..], &["explain", "--json"]] {
        let args = [args, &["-c", file.to_str().expect("plain")], &lines].concat();
        let said = support::text(&support::systole(&args, b"").stdout);
        assert!(said.contains("locked") && said.contains("***") && !said.contains("sesame"), "{said}");
    }
}

#[test]
fn who_says_critical_is_nowhere_shown_as_well_and_operators_are_told_what_they_got() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(
        dir.path(),
        &config(dir.path(), "[[presence.expect]]\nservice = \"billing\"\nmin = 2\nwithin = \"1h\"\n"),
    );
    let (to, url) = (format!("udp://{}", daemon.udp.expect("UDP")), format!("http://{}", daemon.http.expect("HTTP")));
    let ask = |args: &[&str]| {
        let args = [&["presence"], args, &["--url", &url, "--token", "secret"]].concat();
        let output = support::systole(&args, b"");
        (output.status.code().expect("a code"), support::text(&output.stdout) + &support::text(&output.stderr))
    };
    let says = |args: &[&str], code: i32, part: &str| {
        // A machine that is short of time may have been blind for a moment.
        poll(part, || {
            let (found, said) = ask(args);
            if found == code && said.contains(part) { Ok(()) } else { Err((found, said)) }
        });
    };
    let beat = ["beat", "job/c", "--every", "60s", "--to", &to, "--", "sh", "-c", "exit 3"];
    assert_eq!(support::command(&beat).status().expect("it ends").code(), Some(3));
    wait(&daemon, "job", "critical", |s| s["instances"][0]["health"] == 2 && s["state"] == "up");
    let board = daemon.get("/presence").1;
    assert!(
        board.contains("verdict error") && board.contains("<h1>1 of 1 says critical: job/c, exited with 3</h1>"),
        "{board}"
    );
    assert!(board.contains("title=\"c up, critical: exited with 3, ") && board.contains(">!</span>"), "{board}");
    says(&["list"], 0, " critical\n");
    says(&["show", "job"], 0, "job/c: health critical: exited with 3\n");
    says(&["show", "job/c"], 0, "health           critical: exited with 3\n");
    says(&["check", "job"], 2, "1 critical (job/c: exited with 3) |");
    says(&["check", "job", "--min", "5"], 2, "PRESENCE CRITICAL - job: 1 present, 5 wanted, ");

    says(&["maintenance", "job", "30h"], 0, " UTC (4 h is the most)\n");
    let (code, said) = ask(&["maintenance", "job", "30m"]);
    assert!(code == 0 && said.starts_with("job: in maintenance until ") && said.ends_with(" UTC\n"), "{said}");
    daemon.send_udp(&[b"heartbeat.web.i1:60|g"]);
    wait(&daemon, "web", "up", |s| s["state"] == "up");
    says(&["check", "web/i1"], 0, "PRESENCE OK - web/i1 is up, silent for ");
    says(&["maintenance", "web", "30m"], 0, "web: in maintenance until ");
    says(&["check", "web"], 0, "OK - web is up: 1 of 1 present, 0 late, in maintenance |");
    says(&["maintenance", "web", "0"], 0, "web: the maintenance is over\n");
    says(&["forget", "job/c"], 0, "job/c: forgotten\n");
    daemon.send_udp(&[b"heartbeat.billing.a:60|g"]);
    wait(&daemon, "billing", "up", |s| s["state"] == "up" && s["present"] == 1);
    says(&["forget", "billing/a"], 0, "billing/a: forgotten\n");
    // Nobody is there to be well; until the next tick it is still called up.
    says(&["check", "billing"], 3, "PRESENCE UNKNOWN - billing");

    daemon.send_udp(&[b"heartbeat.web.i1:0|g"]);
    wait(&daemon, "web", "left", |s| s["state"] == "left");
    says(&["check", "web"], 3, "PRESENCE UNKNOWN - web: this service has left");
    says(&["check", "nobody"], 3, "was ever heard");
    says(&["check", "web/i1"], 3, "PRESENCE UNKNOWN - web/i1 has left, silent for ");
    says(&["check", "web/nobody"], 3, "PRESENCE UNKNOWN - web/nobody: no instance or job of that name");
    says(&["check", "web/i1", "--min", "2"], 3, "--min is for a service");
    // Nobody is not enough.
    says(&["check", "web", "--min", "0"], 3, "0 is not in 1..");
    says(&["wait", "web", "--up", "0"], 3, "0 is not in 1..");
    assert_eq!(daemon.get("/api/v1/presence/web/i1/check").0, 400);
    says(&["list", "--state", "dwn"], 2, "up, late, down, left, unknown, degraded, maintenance");
    assert_eq!(daemon.get("/api/v1/presence?state=dwn").0, 400);
    daemon.stop();
}

#[test]
fn no_service_has_a_name_that_the_api_has_in_its_paths() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    let to = format!("udp://{}", daemon.udp.expect("UDP"));
    for name in ["a b", "a/b/c", "a/*", "a\u{7}"] {
        let output = support::systole(&["beat", name, "--to", &to, "--", "true"], b"");
        let said = support::text(&output.stderr);
        assert!(output.status.code() == Some(125) && said.contains("names have 1 to 128 bytes, no white"), "{said}");
    }
    for name in ["events", "maintenance"] {
        let output = support::systole(&["beat", &format!("{name}/i1"), "--to", &to, "--", "true"], b"");
        let said = support::text(&output.stderr);
        assert!(
            output.status.code() == Some(125) && said.contains(&format!("no service is called `{name}`")),
            "{said}"
        );
    }
    let lines = ["heartbeat.events.i1:10|g", "heartbeat:10|g|#service:maintenance", "_sc|heartbeat|0|#service:events"];
    daemon.send_udp(&lines.map(str::as_bytes));
    daemon.send_udp(&[b"heartbeat.real:60|g"]);
    wait(&daemon, "real", "up", |s| s["state"] == "up");
    // They are what they are besides.
    let status = daemon.flushed_when("all is counted", |s| s["lines"]["read"] == 4);
    let counts = &status["lines"];
    assert_eq!(
        (&counts["metrics"], &counts["service_checks"], &counts["heartbeats"]),
        (&2.into(), &1.into(), &1.into()),
        "{counts}"
    );
    let all: Value = serde_json::from_str(&daemon.get("/api/v1/presence").1).expect("JSON");
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    until("they are counted", || daemon.get("/metrics").1.contains("presence_ignored_total{reason=\"bad_name\"} 3\n"));
    daemon.stop();
    for line in lines {
        let said = support::text(&support::systole(&["explain", line], b"").stdout);
        assert!(said.contains("no heartbeat") && said.contains("no service is called `events`"), "{said}");
    }
    let expect = "[[presence.expect]]\nservice = \"events\"\n";
    let file = dir.path().join("expect.toml");
    std::fs::write(&file, config(dir.path(), expect)).expect("written");
    let output = support::systole(&["check", "-c", file.to_str().expect("plain")], b"");
    let said = support::text(&output.stdout) + &support::text(&output.stderr);
    assert!(!output.status.success() && said.contains("no service is called `events`"), "{said}");
}

#[test]
fn a_maintenance_says_until_when_and_why_until_it_is_over_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let more = "[[presence.expect]]\nservice = \"must\"\nmin = 1\nwithin = \"1s\"\n\
                [[presence.job]]\nservice = \"nightly\"\nschedule = \"0 2 * * *\"\n";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), more));
    let ask = |daemon: &Daemon, args: &[&str]| {
        let url = format!("http://{}", daemon.http.expect("HTTP"));
        let output = support::systole(&[&["presence"], args, &["--url", &url, "--token", "secret"]].concat(), b"");
        support::text(&output.stdout) + &support::text(&output.stderr)
    };
    daemon.send_udp(&[b"heartbeat.web.i1:60|g|#start:1795734000", b"heartbeat.web.check:60|g"]);
    wait(&daemon, "web", "up", |s| s["present"] == 2);
    for (who, why) in [("web/i1", "disk <swap>"), ("nightly", "new tapes")] {
        let said = ask(&daemon, &["maintenance", who, "30m", why]);
        assert!(said.starts_with(&format!("{who}: in maintenance until ")), "{said}");
    }
    let said = ask(&daemon, &["maintenance", "web", "5"]);
    assert!(said.contains("it has no unit: 5s, 5m or 5h is right"), "{said}");
    let long = format!("{{\"service\":\"web\",\"seconds\":60,\"why\":\"{}\"}}", "x".repeat(201));
    let token = "Authorization: Bearer secret\r\n";
    assert_eq!(request(&daemon, "POST", "/api/v1/presence/maintenance", token, &long).0, 400);
    daemon.stop();

    let daemon = Daemon::start(dir.path(), &config(dir.path(), more));
    let list = ask(&daemon, &["list"]);
    for (row, part) in [("web/i1 ", ": disk <swap>\n"), ("nightly ", ": new tapes)")] {
        let line = list.split_inclusive('\n').find(|line| line.starts_with(row)).expect(row);
        assert!(line.contains("maintenance until ") && line.contains(part), "{list}");
    }
    let shown = ask(&daemon, &["show", "web/i1"]);
    assert!(shown.contains("start            2026-11-26 23:00:00 UTC\n"), "{shown}");
    assert!(shown.contains("flags            maintenance until ") && shown.contains(": disk <swap>\n"), "{shown}");
    let one = &service(&daemon, "web")["instances"][1];
    assert_eq!((&one["maintenance_why"], &one["start"]), (&"disk <swap>".into(), &"1795734000".into()), "{one}");
    assert!(one["maintenance_until"].as_str().is_some_and(|until| until.ends_with('Z')), "{one}");
    let page = daemon.get("/presence/web/i1").1;
    assert!(page.contains("until <time datetime=") && page.contains(": disk &lt;swap&gt;"), "{page}");
    let page = daemon.get("/presence/nightly").1;
    assert!(page.contains(": new tapes") && !page.contains("maintenance since"), "{page}");
    let said = ask(&daemon, &["check", "nightly"]);
    assert!(said.contains(" - nightly is in maintenance, 1 job |"), "{said}");
    ask(&daemon, &["maintenance", "web/i1", "0"]);
    assert!(!ask(&daemon, &["list"]).contains("disk"));

    // An instance whose name is a word of the API, a job that is waited for, and who is expected and never came.
    assert_eq!(request(&daemon, "DELETE", "/api/v1/presence/web/check", "", "").0, 401);
    assert!(ask(&daemon, &["check", "web/check"]).starts_with("PRESENCE UNKNOWN - web/check is unknown, silent for "));
    assert!(ask(&daemon, &["show", "web/check"]).contains("instance         check\n"));
    assert_eq!(ask(&daemon, &["forget", "web/check"]), "web/check: forgotten\n");
    let said = ask(&daemon, &["check", "web/check"]);
    assert!(said.starts_with("PRESENCE UNKNOWN - web/check: no instance or job of that name"), "{said}");
    assert_eq!(service(&daemon, "web")["instances"].as_array().map(Vec::len), Some(1));
    let said = ask(&daemon, &["wait", "nightly", "--timeout", "0"]);
    assert!(said.contains("nightly has jobs and no instance: 1 instance wanted"), "{said}");
    wait(&daemon, "must", "down", |s| s["state"] == "down");
    let said = ask(&daemon, &["check", "must"]);
    assert!(said.starts_with("PRESENCE CRITICAL - must is down: 0 of 1 expected, "), "{said}");
    assert!(daemon.get("/presence").1.contains("must is down: 0 of 1 expected"));
    daemon.stop();
}

#[test]
fn that_the_state_is_not_saved_is_said_until_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("state");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    daemon.send_udp(&[b"heartbeat.web.i1:600|g"]);
    wait(&daemon, "web", "up", |s| s["state"] == "up");
    // Not even root makes a folder where a file is.
    std::fs::write(&folder, "").expect("written");
    let says = |status: &Value| {
        let warnings = status["warnings"].as_array().expect("warnings");
        let all =
            warnings.iter().filter_map(Value::as_str).find(|text| text.starts_with("presence is not saved since "));
        all.map(String::from)
    };
    let status = daemon.status_when("it says so", |status| says(status).is_some());
    let said = says(&status).expect("it was there");
    assert!(said.contains(" UTC: its state cannot be written: "), "{said}");
    assert!(status["verdict"].to_string().contains("resence is not saved since "), "{status}");
    assert_eq!(daemon.get("/ready").0, 200);
    std::fs::remove_file(&folder).expect("removed");
    daemon.status_when("it is saved again", |status| says(status).is_none());
    assert!(folder.join("presence.json").exists());
    daemon.stop();
}
