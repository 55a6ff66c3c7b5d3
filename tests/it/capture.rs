//! Captures: what comes in is recorded, and replayed gives what the daemon gave.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{self, Daemon, command, records, systole, text, until};

#[test]
fn the_daemon_records_what_comes_in_and_replay_gives_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let tape = dir.path().join("tape.jsonl");
    let config = format!(
        "interval = \"1day\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\n[presence]\nenabled = false\n[http]\naddress = \"127.0.0.1:0\"\n",
        dir.path().join("records.jsonl").display()
    );
    let daemon = Daemon::start_with(dir.path(), &config, &["--capture", tape.to_str().expect("plain")]);
    daemon.send_udp(&[b"a:1|c\na:2|c", b"bytes\xff:1|c", b"g:5|g"]);
    let mut stream = std::net::TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    std::io::Write::write_all(&mut stream, b"t:10|ms\nt:20|ms\nrest:1|c").expect("sent");
    drop(stream);
    until("all of it in the capture", || {
        let rows = std::fs::read_to_string(&tape).unwrap_or_default();
        rows.contains("rest:1|c") && rows.contains("g:5|g")
    });
    daemon.stop();
    let rows: Vec<Value> = records(&tape);
    assert_eq!(rows[0]["format"], "systole-capture/1");
    assert!(rows[1]["from"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")), "{}", rows[1]);
    assert!(rows.iter().any(|row| row["hex"].is_string()) && rows.iter().any(|row| row["via"] == "tcp"));
    let output = systole(&["replay", tape.to_str().expect("plain"), "--interval", "1h"], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let key = |r: &Value| (r["type"].to_string(), r["name"].to_string(), r["value"].to_string(), r["sum"].to_string());
    let told = |r: &&Value| r["type"] != "ledger";
    let mut live: Vec<_> = records(&dir.path().join("records.jsonl")).iter().filter(told).map(key).collect();
    let mut again: Vec<_> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a record"))
        .collect::<Vec<_>>()
        .iter()
        .filter(told)
        .map(key)
        .collect();
    live.sort();
    again.sort();
    assert_eq!(live.len(), 4, "{live:?}");
    assert_eq!(live, again);
}

#[test]
fn capture_stops_in_time_keeps_to_its_size_and_counts_what_it_left_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("tape.jsonl");
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a port").port();
    let url = format!("udp://127.0.0.1:{port}");
    let args =
        ["capture", "--listen", &url, "--out", out.to_str().expect("plain"), "--for", "2s", "--max-size", "1KiB"];
    let mut child = command(&args);
    let mut child = child.stdin(Stdio::null()).spawn().expect("the binary starts");
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut sent = 0;
    until("the end of its time", || {
        sent += u64::from(sender.send_to(b"a:1|c", ("127.0.0.1", port)).is_ok());
        child.try_wait().expect("a child of ours").is_some()
    });
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said: Value = serde_json::from_str(&text(&output.stdout)).expect("JSON");
    let (rows, lost) = (said["rows"].as_u64().expect("rows"), said["lost"].as_u64().expect("lost"));
    assert!(rows > 5 && lost > 5 && rows + lost <= sent, "{said} of {sent}");
    assert_eq!(records(&out).len() as u64, rows + 1);
    assert!(std::fs::metadata(&out).expect("a file").len() <= 1024);
    let nowhere = systole(&["capture", "--listen", &url, "--out", "/no/such/folder/x"], b"");
    assert_eq!(nowhere.status.code(), Some(1));
}

#[test]
fn a_capture_on_a_full_disk_says_so_at_once_and_the_daemon_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"50ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n\
                  [presence]\nenabled = false\n[[sink]]\ntype = \"console\"\n";
    let mut daemon = Daemon::start_with(dir.path(), config, &["--capture", "/dev/full"]);
    daemon.wait_for("word of it", |lines| {
        lines.iter().any(|line| line.contains("takes nothing") && line.contains("No space left"))
    });
    daemon.send_udp(&[b"a:1|c", b"a:1|c"]);
    let status =
        daemon.flushed_when("counted", |status| status["capture"]["lost"] == 2 && status["lines"]["metrics"] == 2);
    assert_eq!(status["capture"]["rows"], 0);
    let metrics = daemon.get("/metrics").1;
    assert!(metrics.contains("systole_capture_lost_total 2\n"), "{metrics}");
    let log = daemon.stop();
    assert!(log.iter().any(|line| line.contains("the capture is not whole")), "{log:?}");
}

#[test]
fn a_capture_goes_on_when_there_is_room_and_leaves_no_half_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let tape = dir.path().join("tape.jsonl");
    let free = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let url = format!("udp://{free}");
    // Files may be 4 KiB large.
    let script = format!("ulimit -S -f 8; exec {} capture --listen {url} --out {}", support::SYSTOLE, tape.display());
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = limited.spawn().expect("it starts");
    let (tell, log) = std::sync::mpsc::channel();
    let stderr = child.stderr.take().expect("asked for");
    std::thread::spawn(move || {
        BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| {
            // The test does not listen to the end.
            let _ = tell.send(line);
        });
    });
    let hear = |what: &str| loop {
        let line = log.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("no `{what}`"));
        if line.contains(what) {
            return line;
        }
    };
    hear("listening on");
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let send = |from: u64| {
        // Rows of many lengths, so that no row ends at the limit.
        for n in from..from + 100 {
            let line = format!("{}:{n}|c", "name".repeat(1 + n as usize % 7));
            sender.send_to(line.as_bytes(), free).expect("sent");
        }
    };
    send(0);
    assert!(hear("takes nothing").contains("ERROR"));
    let whole = std::fs::read_to_string(&tape).expect("a file");
    assert!(whole.len() <= 4096 && whole.ends_with('\n'), "{} bytes: {whole}", whole.len());
    // Now there is room: more than was missing.
    let pid = child.id().to_string();
    let raised = std::process::Command::new("prlimit").args(["--pid", &pid, "--fsize=1048576:"]).status();
    assert!(raised.expect("util-linux").success());
    let mut sent = 100;
    until("it goes on", || {
        send(sent);
        sent += 100;
        std::fs::metadata(&tape).expect("a file").len() > 4096
    });
    assert!(hear("goes on").contains("lost="));
    let killed = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    assert!(killed.expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "it is not whole");
    let said: Value = serde_json::from_str(&text(&output.stdout)).expect("JSON");
    let number = |key: &str| said[key].as_u64().expect("a number");
    assert_eq!(number("rows") + number("lost") + number("kernel_drops"), sent, "{said}");
    assert_eq!(number("bytes"), std::fs::metadata(&tape).expect("a file").len());
    // Every line is one, and not a row is twice there.
    let rows = records(&tape);
    assert_eq!(rows.len() as u64, number("rows") + 1);
    let data: std::collections::HashSet<String> = rows[1..].iter().map(|row| row["data"].to_string()).collect();
    assert_eq!(data.len() as u64, number("rows"));
}

#[test]
fn a_capture_into_a_pipe_loses_nothing_to_a_reader_and_waits_for_nobody_else() {
    let free = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let url = format!("udp://{free}");
    for is_read in [true, false] {
        let mut child = command(&["capture", "--listen", &url, "--out", "/dev/stdout"]);
        let mut child = child.stdin(Stdio::null()).spawn().expect("the binary starts");
        let out = BufReader::new(child.stdout.take().expect("asked for"));
        let mut log = BufReader::new(child.stderr.take().expect("asked for")).lines().map_while(Result::ok);
        assert!(log.by_ref().any(|line| line.contains("listening on")));
        let read = || std::thread::spawn(|| out.lines().map_while(Result::ok).collect::<Vec<_>>());
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut sent = 0;
        // Several times what a pipe holds.
        let mut send = || {
            for _ in 0..500 {
                let line = format!("{}:{sent}|c", "n".repeat(1000));
                sender.send_to(line.as_bytes(), free).expect("sent");
                sent += 1;
            }
        };
        let rows = if is_read {
            let rows = read();
            send();
            rows
        } else {
            send();
            assert!(log.by_ref().any(|line| line.contains("takes nothing")));
            let rows = read();
            let (told, goes_on) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                // The test does not listen to the end.
                log.filter(|line| line.contains("goes on")).for_each(|line| drop(told.send(line)));
            });
            let deadline = Instant::now() + Duration::from_secs(20);
            while goes_on.recv_timeout(Duration::from_millis(100)).is_err() {
                assert!(Instant::now() < deadline, "it does not go on");
                send();
            }
            rows
        };
        let killed = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(killed.expect("kill runs").success());
        let code = child.wait().expect("it ends").code();
        let rows = rows.join().expect("read to the end");
        // A half row would not be JSON.
        let mut rows: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row).expect("JSON")).collect();
        let said = rows.pop().expect("what it says at the end");
        let number = |key: &str| said[key].as_u64().expect("a number");
        assert_eq!(number("rows") + number("lost") + number("kernel_drops") + number("unread"), sent, "{said}");
        assert_eq!(number("rows"), rows.len() as u64 - 1, "{said}");
        assert_eq!((number("lost") == 0, code), (is_read, Some(i32::from(!is_read))), "{said}");
    }
}

#[test]
fn completions_and_the_manual_name_every_command() {
    for args in [&["completions", "bash"][..], &["completions", "zsh"], &["completions", "fish"], &["man"]] {
        let output = systole(args, b"");
        let said = text(&output.stdout);
        assert!(output.status.success() && said.contains("capture") && said.contains("presence"), "{args:?}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().to_str().expect("plain");
    let output = systole(&["man", "--out", folder], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect(name);
    for (command, name) in
        [("run", "systole-run.1"), ("presence list", "systole-presence-list.1"), ("man", "systole-man.1")]
    {
        let args: Vec<_> = ["man"].into_iter().chain(command.split(' ')).collect();
        assert_eq!(page(name), text(&systole(&args, b"").stdout));
        assert!(page(name).contains(&format!("systole {command}")), "its synopsis has its name: {}", page(name));
    }
    let run = page("systole-run.1").replace("\\-", "-");
    for part in ["/etc/systole/systole.toml", "SYSTOLE_LISTEN", "SIGHUP", "systole run -c"] {
        assert!(run.contains(part), "{part}: {run}");
    }
    // Each has these, and each page that one names is there: `help` is no command of its own.
    for file in std::fs::read_dir(dir.path()).expect("a folder") {
        let page = std::fs::read_to_string(file.expect("a file").path()).expect("a page").replace("\\-", "-");
        for head in ["FILES", "ENVIRONMENT", "SIGNALS", "EXAMPLES"] {
            let inside = page.split_once(&format!("\n.SH {head}\n")).expect(head).1;
            assert!(inside.starts_with(".TP"), "{head} is empty: {page}");
        }
        for name in page.split_whitespace().filter_map(|word| word.strip_suffix("(1)")) {
            assert!(dir.path().join(format!("{name}.1")).exists(), "{name}");
        }
    }
    let unknown = systole(&["man", "presence", "lst"], b"");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        text(&unknown.stderr).contains("`systole presence` has no command `lst`, but list, "),
        "{}",
        text(&unknown.stderr)
    );
    let nowhere = systole(&["man", "--out", &format!("{folder}/missing")], b"");
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(text(&nowhere.stderr).contains("missing: No such file"), "{}", text(&nowhere.stderr));
}
