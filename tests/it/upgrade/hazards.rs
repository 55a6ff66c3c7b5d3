//! What is in the way of an upgrade: a new process that hangs, an old one that is killed, a page that moves.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use super::*;

/// A daemon whose program is this file, which the next process runs as well.
fn start_as(file: &Path, dir: &Path, config: &str) -> Daemon {
    symlink(SYSTOLE, file).expect("a link");
    Daemon::start_after(dir, config, &format!("shift; set -- {} \"$@\"", file.display()))
}

/// Whether nobody has the addresses.
fn is_free(ports: &Ports) -> bool {
    UdpSocket::bind(("127.0.0.1", ports.statsd)).is_ok()
        && TcpListener::bind(("127.0.0.1", ports.statsd)).is_ok()
        && TcpListener::bind(ports.page).is_ok()
}

#[test]
fn a_new_process_ends_if_the_old_one_is_killed_before_it_reads() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let mut daemon = Daemon::start(dir.path(), &config(dir.path(), &ports));
    let file = dir.path().join("systole.toml");
    std::fs::remove_file(&file).expect("removed");
    assert!(Command::new("mkfifo").arg(&file).status().expect("it runs").success());
    daemon.signal("-USR2");
    // It reads its configuration, which does not end.
    let mut open = OpenOptions::new();
    open.write(true).custom_flags(libc::O_NONBLOCK);
    let mut held = None;
    until("a new process that reads its configuration", || {
        held = open.open(&file).ok();
        held.is_some()
    });
    daemon.signal("-KILL");
    assert_eq!(daemon.wait(Duration::from_secs(10)), None, "it was killed");
    until("addresses that nobody has", || is_free(&ports));
}

#[test]
fn a_program_that_is_none_of_ours_gets_no_sockets_and_the_next_upgrade_is_told_of_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let (program, number) = (dir.path().join("systole"), dir.path().join("number"));
    let mut daemon = start_as(&program, dir.path(), &config(dir.path(), &ports));
    std::fs::remove_file(&program).expect("removed");
    std::fs::write(&program, format!("#!/bin/sh\necho $$ > '{}'\nexec sleep 1000\n", number.display()))
        .expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    daemon.signal("-USR2");
    let mut other = None;
    until("another program", || {
        other = std::fs::read_to_string(&number).ok().and_then(|text| text.trim().parse().ok()).map(Heir);
        other.is_some()
    });
    let other = other.expect("a process");
    let whose = format!("(process {})", other.0);
    let mut said = String::new();
    until("a word of the upgrade that is under way", || {
        let (code, all) = upgrade(&ports, "secret");
        assert_eq!(code, Some(1), "{all}");
        said = all;
        said.contains(&whose)
    });
    assert!(said.contains("an upgrade is under way since "), "{said}");
    daemon.signal("-KILL");
    assert_eq!(daemon.wait(Duration::from_secs(10)), None, "it was killed");
    until("addresses that nobody has", || is_free(&ports));
    assert!(other.is_alive());
}

#[test]
fn the_answer_says_where_the_page_is_from_now_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let before = ports();
    let after = Ports { statsd: before.statsd, page: ports().page };
    let mut daemon = Daemon::start(dir.path(), &config(dir.path(), &before));
    let file = dir.path().join("systole.toml");
    std::fs::write(&file, config(dir.path(), &after)).expect("written");
    let (code, said) = upgrade(&before, "secret");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("runs in place of ") && said.contains(&format!("Its page is at http://{}.", after.page)),
        "{said}"
    );
    assert_eq!(daemon.wait(Duration::from_secs(10)), Some(0));
    let first = Heir(process(&status_when(after.page, "another process", |_| true)));
    std::fs::write(&file, config(dir.path(), &after).replace(&after.page.to_string(), "off")).expect("written");
    let (code, said) = upgrade(&after, "secret");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("with its configuration it has no page"), "{said}");
    let number = said.split_once("(process ").and_then(|(_, rest)| rest.split([',', ')']).next()?.parse().ok());
    let last = Heir(number.expect("a process"));
    until("the end of the one before", || !first.is_alive());
    last.stop();
}
