//! Signals through the front door: those without a meaning are logged and change nothing, at any moment.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::support::{Daemon, command, records, until};

fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill runs");
    assert!(status.success(), "{signal}");
}

#[test]
fn signals_without_a_meaning_are_logged_and_lose_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    let config = format!(
        "interval = \"1day\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n\
         [http]\naddress = \"off\"\n",
        file.display()
    );
    let mut daemon = Daemon::start(dir.path(), &config);
    for (n, name) in ["USR1"].into_iter().enumerate() {
        daemon.send_udp(&[b"x:1|c"]);
        // Nothing is logged for this one: it only must not end anything.
        daemon.signal("-PIPE");
        daemon.signal(&format!("-{name}"));
        daemon.wait_for(name, |lines| {
            lines.iter().filter(|line| line.contains(" changes nothing: ")).count() == n + 1
                && lines.iter().any(|line| line.contains(&format!("SIG{name} changes nothing: ")))
        });
    }
    daemon.send_udp(&[b"x:1|c"]);
    daemon.stop();
    let records = records(&file);
    let sum: f64 = records.iter().filter(|r| r["name"] == "x").filter_map(|r| r["value"].as_f64()).sum();
    assert_eq!(sum, 2.0);
    assert_eq!(records.iter().filter(|r| r["type"] == "ledger").count(), 1, "the interval stayed open");
}

/// A process that is killed, by its own PID, when it goes out of scope.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_signal_while_the_configuration_is_read_is_logged_afterwards() {
    let dir = tempfile::tempdir().expect("a folder");
    // It is read for as long as we like.
    let config = dir.path().join("systole.toml");
    assert!(Command::new("mkfifo").arg(&config).status().expect("mkfifo runs").success());
    let child = command(&["run", "-c", config.to_str().expect("a plain path")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .env("XDG_STATE_HOME", dir.path())
        .spawn()
        .expect("the binary starts");
    let mut child = Started(child);
    // Until it handles SIGHUP, SIGUSR1 and SIGUSR2, bits 0, 9 and 11, the process has only been loaded.
    let status = format!("/proc/{}/status", child.0.id());
    let handles = || {
        let text = std::fs::read_to_string(&status).expect("it runs");
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("Linux says so");
        u64::from_str_radix(caught.trim(), 16).expect("a mask") & 0xa01 == 0xa01
    };
    until("the signals are handled", handles);
    signal(child.0.id(), "-USR1");
    let mut pipe = std::fs::OpenOptions::new().write(true).open(&config).expect("somebody reads");
    pipe.write_all(b"[http]\naddress = \"off\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n").expect("written");
    drop(pipe);
    let stderr = child.0.stderr.take().expect("it was asked for");
    let (mut seen, mut listens) = (0, false);
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    while seen < 1 || !listens {
        let line = lines.next().expect("it goes on");
        seen += usize::from(line.contains(" changes nothing: "));
        listens |= line.contains("INFO listening");
    }
    signal(child.0.id(), "-TERM");
    assert_eq!(child.0.wait().expect("a child of ours").code(), Some(0));
}
