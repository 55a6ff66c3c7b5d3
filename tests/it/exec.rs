//! The exec sink through the front door: records on a command's standard input.

use std::path::Path;

use crate::support::{self, Daemon, records, systole, text, until};

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
    for n in 1..=3 {
        daemon.send_udp(&[b"n:1|c\nt:5|ms"]);
        daemon.closed(2 * n);
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
    for n in 1..=5 {
        daemon.send_udp(&[b"n:1|c"]);
        daemon.closed(n);
    }
    let status =
        daemon.flushed_when("all is delivered", |s| s["lines"]["read"] == 5 && s["sinks"]["exec"]["queued"] == 0);
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
        daemon.closed(600 * (round + 1));
    }
    let status = daemon.flushed_when("it is read", |s| s["lines"]["read"] == 3600);
    assert!(status["sinks"]["exec"]["queued"].as_u64() > Some(0), "{status}");
    let log = daemon.stop();
    assert!(log.iter().any(|line| line.contains("not delivered before the end")), "{log:?}");
}

#[test]
fn a_command_has_nothing_of_the_daemons_environment_but_what_it_is_given() {
    struct Running(std::process::Child);
    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (file, out) = (dir.path().join("c.toml"), dir.path().join("out"));
    let script = format!("env > {0}.part; mv {0}.part {0}; exec cat", out.display());
    let config = format!(
        "interval = \"100ms\"\nself_metrics = true\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"off\"\n\
         [presence]\nenabled = false\n[[sink]]\ntype = \"exec\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n\
         env = {{ API_KEY = \"${{A_SECRET}}!\", LC_TIME = \"C\" }}\n"
    );
    std::fs::write(&file, config).expect("written");
    let name = file.to_str().expect("plain");
    let daemon = support::command(&["run", "-c", name])
        .env("SYSTOLE_HTTP__TOKEN", "secret")
        .env("A_SECRET", "given")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("LISTEN_FDS", "0")
        .env("XDG_STATE_HOME", dir.path())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .map(Running)
        .expect("the binary starts");
    until("the command has run", || out.exists());
    drop(daemon);
    let all = std::fs::read_to_string(&out).expect("it ran");
    let has = |line: &str| all.lines().any(|known| known == line);
    assert!(has("API_KEY=given!") && has("LC_ALL=C.UTF-8") && has("LC_TIME=C") && has("TZ=UTC"), "{all}");
    for line in all.lines() {
        let name = line.split('=').next().expect("a name");
        let is_fine = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "API_KEY"]
            .contains(&name)
            || name.starts_with("LC_")
            // The shell's own.
            || ["PWD", "OLDPWD", "SHLVL", "_"].contains(&name);
        assert!(is_fine, "{line}");
    }
    let shown = systole(&["check", "--print", "-c", name], b"");
    // The variable is not there now.
    assert!(text(&shown.stderr).contains("environment variable `A_SECRET` is not set"), "{}", text(&shown.stderr));
    std::fs::write(&file, "[[sink]]\ntype = \"exec\"\ncommand = [\"x\"]\nenv = { \"A=B\" = \"c\" }\n")
        .expect("written");
    let said = text(&systole(&["check", "-c", name], b"").stderr);
    assert!(said.contains("sink[0].env: `A=B` cannot be a variable"), "{said}");
    std::fs::write(&file, "[[sink]]\ntype = \"exec\"\ncommand = [\"x\"]\nenv = { A = \"c3cret\" }\n").expect("written");
    let said = text(&systole(&["check", "--print", "-c", name], b"").stdout);
    assert!(said.contains("A = ") && !said.contains("c3cret"), "{said}");
}
