//! What somebody meets in the first hour: the command line says what is wrong, and what would be right.

use serde_json::{Value, json};

use crate::support::{Daemon, command, systole, text};

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
    for command in [&["reload"][..], &["presence", "forget", "a"], &["presence", "maintenance", "a", "1h"]] {
        let with = |more: &[&str]| run(&[command, &["--url", &url], more].concat());
        let (code, _, said) = with(&[]);
        assert!(code == Some(1) && said.contains("changes need `Authorization: Bearer TOKEN`"), "{said}");
        assert!(said.contains("give it with `--token` or in SYSTOLE_TOKEN") && !said.contains("not"), "{said}");
        let (code, _, said) = with(&["--token", "nonsense"]);
        let wrong = "the token that was shown is not that of `http.token` that is in force; it came from `--token`";
        assert!(code == Some(1) && said.contains(wrong) && !said.contains("not set"), "{said}");
        let mut with_variable = command(&[command, &["--url", &url]].concat());
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
