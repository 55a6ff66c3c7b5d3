//! Streams whose clients are hostile, and what all connections of the daemon share: descriptors.

use std::path::Path;

use crate::support::{Daemon, poll};

fn config(dir: &Path, listeners: &str) -> String {
    format!(
        "interval = \"200ms\"\n{listeners}\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"127.0.0.1:0\"\n\
         [presence]\nenabled = false\n",
        dir.join("records.jsonl").display()
    )
}

#[test]
fn the_limit_of_descriptors_is_raised_for_the_daemon_and_not_for_its_commands() {
    let dir = tempfile::tempdir().expect("a folder");
    let told = dir.path().join("told");
    let command = format!("command = [\"sh\", \"-c\", \"ulimit -S -n > {}; cat > /dev/null\"]", told.display());
    let config =
        config(dir.path(), &format!("[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"exec\"\n{command}"));
    let daemon = Daemon::start_after(dir.path(), &config, "ulimit -S -n 300");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("Linux says so");
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    let said = poll("the command says it", || {
        let said = std::fs::read_to_string(&told).unwrap_or_default();
        if said.ends_with('\n') { Ok(said) } else { Err(said) }
    });
    assert_eq!(said.trim(), "300");
    daemon.stop();
}
