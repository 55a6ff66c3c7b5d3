//! The exec sink through the front door: records on a command's standard input.

mod support;

use std::path::Path;
use std::time::Duration;

use support::{Daemon, records, systole, text};

fn start(dir: &Path, script: &str) -> Daemon {
    let config = format!(
        "interval = \"200ms\"\nshutdown_grace = \"1s\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"exec\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n[http]\naddress = \"127.0.0.1:0\"\n\
         [presence]\nenabled = false\n"
    );
    Daemon::start(dir, &config)
}

/// Sums of the counter `n`, whatever was written twice.
fn total(file: &Path) -> f64 {
    let mut all: Vec<(String, f64)> = records(file)
        .iter()
        .filter(|r| r["name"] == "n")
        .map(|r| (r["time"].to_string(), r["value"].as_f64().expect("a number")))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.dedup();
    all.iter().map(|(_, value)| value).sum()
}

#[test]
fn a_command_gets_every_record_and_the_end_of_its_input() {
    let dir = tempfile::tempdir().expect("a folder");
    let (out, end) = (dir.path().join("out"), dir.path().join("end"));
    let daemon = start(dir.path(), &format!("cat > {}; echo over > {}", out.display(), end.display()));
    for _ in 0..3 {
        daemon.send_udp(&[b"n:1|c\nt:5|ms"]);
        std::thread::sleep(Duration::from_millis(220));
    }
    daemon.stop();
    assert_eq!(total(&out), 3.0);
    assert_eq!(std::fs::read_to_string(end).ok().as_deref(), Some("over\n"));
}

#[test]
fn a_command_that_ends_is_started_again_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    // It takes one row and goes: of an interval with several it leaves the rest.
    let script =
        format!("while read -r row; do echo \"$row\" >> {}; case $row in *ledger*) exit 3;; esac; done", out.display());
    let daemon = start(dir.path(), &script);
    for _ in 0..5 {
        daemon.send_udp(&[b"n:1|c"]);
        std::thread::sleep(Duration::from_millis(220));
    }
    let status =
        daemon.status_when("all is delivered", |s| s["lines"]["read"] == 5 && s["sinks"]["exec"]["queued"] == 0);
    assert_eq!(status["sinks"]["exec"]["dropped"], serde_json::json!({}), "{status}");
    let log = daemon.stop();
    assert_eq!(total(&out), 5.0);
    assert!(log.iter().any(|line| line.contains("it is started again")), "{log:?}");
}

#[test]
fn a_command_that_is_not_there_or_reads_nothing_is_told_and_harms_nobody() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    let name = file.to_str().expect("plain").to_string();
    std::fs::write(&file, "[[sink]]\ntype = \"exec\"\ncommand = [\"/no/such/program\"]\n").expect("written");
    let output = systole(&["check", "--connect", "-c", &name], b"");
    assert!(text(&output.stdout).contains("there is no /no/such/program") && output.status.code() == Some(1));
    std::fs::write(&file, "[[sink]]\ntype = \"exec\"\ncommand = []\n").expect("written");
    let said = text(&systole(&["check", "-c", &name], b"").stderr);
    assert!(said.contains("sink[0].command: missing"), "{said}");

    let daemon = start(dir.path(), "exec sleep 100");
    // More than a pipe holds: the delivery does not end, and the daemon goes on.
    for round in 0..6 {
        let lines: String = (0..600).map(|n| format!("many.{round}.{n}:1|c\n")).collect();
        daemon.send_udp(&[lines.as_bytes()]);
        std::thread::sleep(Duration::from_millis(220));
    }
    let status = daemon.status_when("it is read", |s| s["lines"]["read"] == 3600);
    assert!(status["sinks"]["exec"]["queued"].as_u64() > Some(0), "{status}");
    let log = daemon.stop();
    assert!(log.iter().any(|line| line.contains("not delivered before the end")), "{log:?}");
}
