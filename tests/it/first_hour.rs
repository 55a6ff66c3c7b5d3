//! What somebody meets in the first hour: the command line says what is wrong, and what would be right.

use std::fs::File;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Daemon, SYSTOLE, command, pause, systole, text, until};

const WITH_TOKEN: &str = "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n\
                          token = \"secret\"\n";

/// The URL of a daemon's page.
fn page(daemon: &Daemon) -> String {
    format!("http://{}", daemon.http.expect("HTTP is on"))
}

/// The exit code of a command, and what it says on both outputs.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = systole(args, b"");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_wrong_token_is_told_from_none_and_from_none_to_be_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), WITH_TOKEN);
    let url = page(&daemon);
    for words in [&["reload"][..], &["presence", "forget", "a"], &["presence", "maintenance", "a", "1h"]] {
        let with = |more: &[&str]| run(&[words, &["--url", &url], more].concat());
        let (code, _, said) = with(&[]);
        assert!(code == Some(1) && said.contains("changes need `Authorization: Bearer TOKEN`"), "{said}");
        assert!(said.contains("give it with `--token` or in SYSTOLE_TOKEN") && !said.contains("not"), "{said}");
        let (code, _, said) = with(&["--token", "nonsense"]);
        let wrong = "the token that was shown is not that of `http.token` that is in force; it came from `--token`";
        assert!(code == Some(1) && said.contains(wrong) && !said.contains("not set"), "{said}");
        let mut with_variable = command(&[words, &["--url", &url]].concat());
        let output = with_variable.env("SYSTOLE_TOKEN", "of-last-week").output().expect("it ends");
        assert!(text(&output.stderr).contains("; it came from SYSTOLE_TOKEN"), "{}", text(&output.stderr));
    }
    assert_eq!(run(&["reload", "--url", &url, "--token", "secret"]).0, Some(0));
    daemon.stop();
    let daemon = Daemon::start(dir.path(), &WITH_TOKEN.replace("token = \"secret\"\n", ""));
    let (code, _, said) = run(&["presence", "forget", "a", "--url", &page(&daemon), "--token", "any"]);
    assert!(code == Some(1) && said.contains("`http.token` is not set") && !said.contains("came from"), "{said}");
    daemon.stop();
}

#[test]
fn explain_reads_heartbeats_and_maintenance() {
    let (code, said, _) = run(&["explain", "heartbeat.pay.a:5|g", "maintenance.pay:1800|g", "maintenance.pay.a:0|g"]);
    assert_eq!(code, Some(0));
    for part in [
        "  heartbeat    pay/a: the next within 5 s\n  would flush  nothing: a heartbeat is no metric",
        "  maintenance  pay, all of it: for 30 min\n",
        "  maintenance  pay/a: it ends\n",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let (_, said, _) = run(&["explain", "--json", "maintenance.pay.a:99999|g"]);
    let read: Value = serde_json::from_str(&said).expect("JSON");
    let granted = json!([{"service": "pay", "instance": "a", "seconds": 14400.0, "asked": 99999.0}]);
    assert_eq!(read["maintenance"], granted);
}

#[test]
fn what_monitoring_runs_says_on_standard_output_why_it_does_not_know() {
    for args in [
        &["presence", "check", "pay", "--url", "http://127.0.0.1:1"][..],
        &["presence", "wait", "pay", "--url", "http://127.0.0.1:1", "--timeout", "1s"],
        &["presence", "check", "pay", "--url", "127.0.0.1:8127"],
        &["presence", "check"],
        &["presence", "check", "pay", "--min", "none"],
    ] {
        let (code, out, errors) = run(args);
        assert!(code == Some(3) && out.starts_with("PRESENCE UNKNOWN - ") && errors.is_empty(), "{out}{errors}");
    }
    let (code, out, _) = run(&["presence", "check", "--help"]);
    assert!(code == Some(0) && out.contains("Usage"), "{out}");
}

#[test]
fn a_url_without_a_scheme_and_a_time_of_nothing_are_told_what_would_be_right() {
    for args in [&["status"][..], &["presence", "list"], &["tail"], &["reload"]] {
        let (code, _, said) = run(&[args, &["--url", "127.0.0.1:8127"]].concat());
        assert!(code != Some(0) && said.contains("--url: `127.0.0.1:8127` begins with neither `http://`"), "{said}");
        assert!(said.contains("`https://127.0.0.1:8127` is right, or `http://`"), "{said}");
    }
    for args in
        [&["load", "--for", "0s"][..], &["capture", "--listen", "udp://127.0.0.1:0", "--out", "/x", "--for", "0s"]]
    {
        let (code, _, said) = run(args);
        assert!(code == Some(2) && said.contains("longer than 0 is right, such as 500ms"), "{said}");
    }
}

#[test]
fn names_and_states_that_cannot_be_are_refused() {
    for who in ["check out", "a/b/c", "a|b", "a:b", ""] {
        let (code, _, said) = run(&["beat", who, "--to", "udp://127.0.0.1:1"]);
        assert!(code == Some(125) && said.contains("is no SERVICE[/INSTANCE]"), "{who}: {said}");
    }
    let (code, _, said) = run(&["presence", "list", "--state", "nonsense", "--url", "http://127.0.0.1:1"]);
    assert!(code == Some(2) && said.contains("'nonsense'") && said.contains("degraded"), "{said}");
}

#[test]
fn the_start_names_the_configuration_the_state_the_scrape_and_the_buffer() {
    let dir = tempfile::tempdir().expect("a folder");
    let more = "receive_buffer = \"64KiB\"\n[[sink]]\ntype = \"prometheus\"\naddress = \"127.0.0.1:0\"\n[http]";
    let daemon = Daemon::start(dir.path(), &WITH_TOKEN.replacen("[http]", more, 1));
    let said = daemon.lines.join("\n");
    let folder = dir.path().display();
    for part in [
        format!("  config    {folder}/systole.toml"),
        format!("  state     {folder}/systole"),
        "  (1 worker, receive buffer 64KiB)".into(),
        "  sink      prometheus  http://127.0.0.1:".into(),
    ] {
        assert!(said.contains(&part), "{part} is not in {said}");
    }
    daemon.stop();
}

#[test]
fn status_shows_a_line_of_each_reason_for_which_lines_are_malformed() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), WITH_TOKEN);
    daemon.send_udp(&[b"first:x|c\nsecond:y|c\nthird", b":1|c"]);
    daemon.flushed_when("they were read", |status| status["lines"]["read"] == 4);
    let (_, said, _) = run(&["status", "--url", &page(&daemon)]);
    let examples: Vec<&str> = said.lines().skip_while(|line| !line.starts_with("Examples")).take(3).collect();
    for part in ["bad_value: first:x|c", "missing_type: third", "empty_name: :1|c"] {
        assert!(examples.iter().any(|line| line.contains(part)), "{part}: {said}");
    }
    daemon.stop();
}

#[test]
fn options_of_run_stand_at_the_top() {
    let (code, out, _) = run(&["--help"]);
    assert!(code == Some(0) && out.contains("--config <FILE>") && out.contains("--status-interval <DUR>"), "{out}");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("broken.toml");
    std::fs::write(&file, "digits = 9\n").expect("written");
    let name = file.to_str().expect("plain");
    for args in [&["-c", name][..], &["run", "-c", name], &["check", name], &["check", "-c", name]] {
        let (code, _, said) = run(args);
        assert!(code == Some(2) && said.contains("broken.toml:1:10: digits: "), "{args:?}: {said}");
    }
    let (code, _, said) = run(&["-c", name, "check"]);
    assert!(code == Some(2) && said.contains("cannot be used with"), "{said}");
    assert_eq!(run(&["check", name, "-c", name]).0, Some(2));
}

#[test]
fn send_takes_rows_of_standard_input_and_warns_of_what_is_no_metric() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let to = format!("udp://{}", socket.local_addr().expect("an address"));
    let take = || {
        let mut bytes = [0; 1500];
        let length = socket.recv(&mut bytes).expect("a datagram");
        text(&bytes[..length])
    };
    for args in [&["send", "--to", &to][..], &["send", "-", "--to", &to]] {
        let output = systole(args, b"a:1|c\n\nb:x|g\n_sc|c|0");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        // What is odd is sent all the same: another server may take it.
        assert_eq!([take(), take(), take()], ["a:1|c", "b:x|g", "_sc|c|0"]);
        assert!(said.contains("warning: line 2, `b:x|g`, is no metric: not a finite decimal number"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let (code, _, said) = run(&["send", "hello", "--to", &to]);
    assert!(code == Some(0) && said.contains("line 1, `hello`, is no metric") && take() == "hello", "{said}");
    let many = "odd\n".repeat(25);
    let said = text(&systole(&["send", "--to", &to], many.as_bytes()).stderr);
    assert!(said.lines().count() == 11 && said.contains("15 more lines are no metrics"), "{said}");
    (0..25).for_each(|_| assert_eq!(take(), "odd"));
    let (code, _, said) = run(&["send", "--to", &to]);
    assert!(code == Some(2) && said.contains("there is no line on standard input"), "{said}");
}

#[test]
fn send_passes_each_row_on_as_it_comes() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let to = format!("udp://{}", socket.local_addr().expect("an address"));
    let mut sending = command(&["send", "--to", &to]).stdin(Stdio::piped()).spawn().expect("it starts");
    let mut input = sending.stdin.take().expect("it was asked for");
    for line in ["a:1|c", "b:2|c"] {
        input.write_all(format!("{line}\n").as_bytes()).expect("taken");
        let mut bytes = [0; 100];
        let length = socket.recv(&mut bytes).expect("a datagram, while the input is open");
        assert_eq!(text(&bytes[..length]), line);
    }
    drop(input);
    assert!(sending.wait().expect("it ends").success());
}

const ROWS: &str = "{\"format\":\"systole-capture/1\",\"started\":1700000003}\n{\"t\":0.5,\"data\":\"a:1|c\"}\n\
                    {\"t\":8,\"data\":\"a:2|c\"}\n";

/// Times and values of what a replay prints.
fn printed(out: &str) -> Vec<(f64, f64)> {
    let rows = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("a record"));
    let number = |row: &Value, key: &str| row[key].as_f64().expect("a number");
    rows.map(|row| (number(&row, "time"), number(&row, "value"))).collect()
}

/// Bytes, packed by gzip.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packing = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packing.write_all(bytes).expect("memory takes it");
    packing.finish().expect("memory takes it")
}

#[test]
fn replay_takes_standard_input_packed_files_and_one_that_was_cut() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("plain").to_string();
    let replay = |name: &str, bytes: &[u8]| {
        std::fs::write(path(name), bytes).expect("written");
        run(&["replay", &path(name)])
    };
    let whole = replay("c.jsonl", ROWS.as_bytes());
    assert_eq!((whole.0, printed(&whole.1), &*whole.2), (Some(0), vec![(10.0, 3.0)], ""));
    let output = systole(&["replay", "-"], ROWS.as_bytes());
    assert_eq!(text(&output.stdout), whole.1);
    assert_eq!(replay("c.jsonl.gz", &packed(ROWS.as_bytes())), whole);
    assert_eq!(text(&systole(&["replay", "-"], &packed(ROWS.as_bytes())).stdout), whole.1);

    // Whoever wrote it was killed in the middle of a row.
    for cut in [1, 9, 17] {
        let (code, out, said) = replay("cut.jsonl", &ROWS.as_bytes()[..ROWS.len() - 1 - cut]);
        assert_eq!((code, printed(&out)), (Some(0), vec![(10.0, 1.0)]), "{said}");
        assert!(said.contains("cut.jsonl:3: the last row is cut; it is left out"), "{said}");
    }
    let (code, _, said) = replay("odd.jsonl", &ROWS.replace("\"t\":8", "8").as_bytes()[..ROWS.len() - 6]);
    assert!(code == Some(1) && said.contains("odd.jsonl:3: no JSON"), "it is no beginning of a row: {said}");
    let (code, _, said) = replay("middle.jsonl", ROWS.replace("a:1|c\"}", "a:1|c").as_bytes());
    assert!(code == Some(1) && said.contains("middle.jsonl:2: no JSON"), "{said}");

    // Of a packed one there is a part of everything.
    let rows: String = (0..2000).map(|n| format!("{{\"t\":{n},\"data\":\"a.{}:1|c\"}}\n", n * 7919 % 1000)).collect();
    let bytes = packed(rows.as_bytes());
    let (code, out, said) = replay("cut.jsonl.gz", &bytes[..bytes.len() / 2]);
    assert!(code == Some(0) && said.contains("cut") && out.lines().count() > 100, "{said}");
}

#[test]
fn replay_in_absolute_times_counts_from_the_start_of_the_capture() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.jsonl");
    let times = |text: &str, more: &[&str]| {
        std::fs::write(&file, text).expect("written");
        let (code, out, said) = run(&[&["replay", file.to_str().expect("plain")], more].concat());
        assert_eq!(code, Some(0), "{said}");
        printed(&out)
    };
    // 1700000003.5 and 1700000011 are in two intervals of the clock, 0.5 and 8 in one.
    assert_eq!(times(ROWS, &[]), [(10.0, 3.0)]);
    assert_eq!(times(ROWS, &["--absolute"]), [(1_700_000_010.0, 1.0), (1_700_000_020.0, 2.0)]);
    let unix = "{\"t\":1700000003.5,\"data\":\"a:1|c\"}\n";
    assert_eq!(times(unix, &["--absolute"]), [(1_700_000_010.0, 1.0)]);
    let both = format!("{}\n{unix}", ROWS.lines().next().expect("a header"));
    assert_eq!(times(&both, &["--absolute"]), [(1_700_000_010.0, 1.0)], "Unix seconds stay what they are");
}

#[test]
fn import_takes_standard_input() {
    let output = systole(&["import", "-"], b"{ port: 8125, flushInterval: 5000 }");
    let said = text(&output.stdout);
    assert!(output.status.success() && said.contains("interval = \"5000ms\""), "{said}{}", text(&output.stderr));
}

#[test]
fn capture_writes_to_standard_output_and_what_it_says_to_the_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let url = format!("udp://127.0.0.1:{port}");
    let record = |out: Stdio| {
        let mut recording =
            command(&["capture", "--listen", &url, "--out", "-"]).stdout(out).spawn().expect("it starts");
        let mut said = recording.stderr.take().expect("it was asked for");
        let mut first = [0; 20];
        said.read_exact(&mut first).expect("it says where it listens");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.send_to(b"a:1|c", ("127.0.0.1", port)).expect("sent");
        rustix::process::kill_process(rustix::process::Pid::from_child(&recording), rustix::process::Signal::TERM)
            .expect("it runs");
        let mut bytes = Vec::new();
        recording.stdout.take().map(|mut out| out.read_to_end(&mut bytes).expect("readable"));
        let mut rest = String::new();
        said.read_to_string(&mut rest).expect("text");
        assert!(recording.wait().expect("it ends").success(), "{rest}");
        assert!(rest.contains("{\"bytes\":") && rest.contains("\"rows\":1"), "{rest}");
        text(&bytes)
    };
    let is_whole = |text: &str| text.starts_with("{\"format\"") && text.ends_with("\"via\":\"udp\"}\n");
    let piped = record(Stdio::piped());
    assert!(is_whole(&piped) && piped.lines().count() == 2, "{piped}");
    // A file that is appended to keeps what it has.
    let path = dir.path().join("c.jsonl");
    for times in 1..=2 {
        let file = File::options().append(true).create(true).open(&path).expect("a file");
        record(file.into());
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(is_whole(&text) && text.lines().count() == 2 * times, "{text}");
    }
}

#[test]
fn capture_packs_nothing_by_itself_and_says_how() {
    let (code, _, said) = run(&["capture", "--listen", "udp://127.0.0.1:0", "--out", "c.jsonl.gz"]);
    assert!(code == Some(2) && said.contains("`--out - | gzip > c.jsonl.gz`"), "{said}");
}

/// What a command writes to a terminal.
fn on_a_terminal(args: &[&str], dir: &Path, environment: &[(&str, &str)]) -> String {
    let log = dir.join("typescript");
    let line: Vec<String> = args.iter().map(|arg| format!("'{arg}'")).collect();
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &format!("'{}' {}", SYSTOLE, line.join(" ")), log.to_str().expect("plain")]);
    // A variable `CI` is taken for a log in colours, whatever the terminal is.
    for name in ["CI", "CLICOLOR", "CLICOLOR_FORCE", "NO_COLOR"] {
        script.env_remove(name);
    }
    script.env("TERM", "xterm").envs(environment.iter().copied());
    script.stdin(Stdio::null()).stdout(Stdio::null());
    script.status().expect("`script` of util-linux runs");
    text(&std::fs::read(&log).expect("what was written"))
}

#[test]
fn a_terminal_has_colours_unless_they_are_not_wanted() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("broken.toml");
    std::fs::write(&file, "digits = 9\n").expect("written");
    let check = ["check", file.to_str().expect("plain")];
    assert!(on_a_terminal(&check, dir.path(), &[]).contains("\u{1b}[1m\u{1b}[31msystole:"));
    let explained = on_a_terminal(&["explain", "a:x|c"], dir.path(), &[]);
    assert!(explained.contains("31mmalformed\u{1b}[0m: "), "{explained}");
    for plain in [
        on_a_terminal(&check, dir.path(), &[("NO_COLOR", "1")]),
        on_a_terminal(&check, dir.path(), &[("TERM", "dumb")]),
        run(&check).2,
        run(&["explain", "a:x|c"]).1,
    ] {
        assert!(
            !plain.contains('\u{1b}')
                && plain.contains(if plain.contains("digits") { "mistake" } else { "malformed: " }),
            "{plain}"
        );
    }
    let daemon = Daemon::start(dir.path(), WITH_TOKEN);
    daemon.send_udp(&[b"heartbeat.pay.a:10|g"]);
    let url = page(&daemon);
    until("it was heard", || run(&["presence", "list", "--url", &url]).1.contains("pay/a"));
    assert!(on_a_terminal(&["presence", "list", "--url", &url], dir.path(), &[]).contains("\u{1b}[32mup\u{1b}[0m"));
    assert!(on_a_terminal(&["status", "--url", &url], dir.path(), &[]).contains("\u{1b}[32m"));
    let (ended, socket, to) = (AtomicBool::new(false), UdpSocket::bind("127.0.0.1:0"), daemon.udp);
    let (socket, to) = (socket.expect("a socket"), to.expect("a UDP listener"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                socket.send_to(b"wrong:x|c", to).expect("sent");
                pause(Duration::from_millis(20));
            }
        });
        let shown = on_a_terminal(&["tail", "--limit", "1", "--url", &url], dir.path(), &[]);
        ended.store(true, Ordering::Relaxed);
        assert!(shown.contains("\u{1b}[31mmalformed\u{1b}[0m") && shown.contains("31m  <- byte"), "{shown}");
    });
    daemon.stop();
}

#[test]
fn what_takes_over_a_second_says_on_a_terminal_how_far_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = format!("udp://{}", socket.local_addr().expect("an address"));
    let load = |length: &'static str| ["load", "--rate", "100", "--to", &to, "--for", length].map(String::from);
    let shown = |args: &[String; 7]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        on_a_terminal(&args, dir.path(), &[])
    };
    let long = shown(&load("2s"));
    assert!(
        long.contains("\r\u{1b}[Ksending: 1 of 2 s") && long.contains("\u{1b}[K{"),
        "it is gone at the end: {long:?}"
    );
    assert!(!shown(&load("100ms")).contains("sending"));
    assert_eq!(run(&load("2s").each_ref().map(|arg| &**arg)).2, "", "only on a terminal");
}
