//! What is in the way of an upgrade: a new process that hangs, an old one that is killed, a disk that is full, a page that moves.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::*;

/// A daemon whose program is this file, which the next process runs as well.
fn start_as(file: &Path, dir: &Path, config: &str) -> Daemon {
    symlink(SYSTOLE, file).expect("a link");
    Daemon::start_after(dir, config, &format!("shift; set -- {} \"$@\"", file.display()))
}

/// Upgrades a daemon, which ends; the first status of the next one, and its process.
fn upgraded(daemon: &mut Daemon, ports: &Ports) -> (Value, Heir) {
    let before = daemon.pid();
    let (code, said) = upgrade(ports, "secret");
    assert_eq!(code, Some(0), "{said}");
    let status = status_when(ports.page, "another process", |status| status["pid"] != before);
    let heir = Heir(process(&status));
    assert_eq!(daemon.wait(Duration::from_secs(20)), Some(0));
    (status, heir)
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

/// Bytes that the processes of the next test may write to a file at first.
const SMALL: u64 = 400 << 10;

/// Gauges whose state takes more than that.
const MANY: usize = 8000;

#[test]
fn there_is_no_upgrade_where_the_state_cannot_be_saved() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    // A receiver that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = config(dir.path(), &ports).replace("records.jsonl\"\n", "records.jsonl\"\ninclude = [\"one\"]\n");
    let config = format!(
        "self_metrics = false\n{config}[[sink]]\ntype = \"influx\"\nname = \"silent\"\nurl = \"http://{}\"\ndatabase = \"d\"\n",
        silent.local_addr().expect("an address")
    );
    let mut daemon = Daemon::start_after(dir.path(), &config, &format!("ulimit -S -f {}", SMALL / 512));
    let lines = (0..MANY).map(|n| format!("{}.{n}:1|g\n", "long".repeat(25)));
    let lines: String = lines.chain(std::iter::repeat_n("one:+1|g\n".to_string(), 100)).collect();
    let mut tcp = TcpStream::connect(("127.0.0.1", ports.statsd)).expect("somebody listens");
    tcp.write_all(lines.as_bytes()).expect("sent");
    drop(tcp);
    let queued = |status: &Value| status["sinks"]["silent"]["queued"].as_u64();
    let before = daemon.status_when("intervals that wait", |status| {
        status["lines"]["read"] == 8100 && queued(status) > Some(2 * MANY as u64)
    });
    let (code, said) = upgrade(&ports, "secret");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot be saved in ") && said.contains("File too large"), "{said}");
    daemon.wait_for("the reason", |lines| {
        lines.iter().any(|line| line.contains("there is no upgrade") && line.contains("File too large"))
    });
    let status = daemon.status_when("the reason", |status| status["failed_upgrade"]["error"].is_string());
    assert_eq!(status["pid"], before["pid"]);
    assert!(queued(&status) >= queued(&before), "{status}");
    let state = dir.path().join("systole");
    let trials = || {
        std::fs::read_dir(&state)
            .expect("a folder")
            .filter(|file| file.as_ref().is_ok_and(|file| file.file_name().to_string_lossy().ends_with(".0.new")))
    };
    until("nothing left of the trial", || trials().count() == 0);
    daemon.send_udp(&[b"one:+1|g"]);
    daemon.status_when("one more line", |status| status["lines"]["read"] == 8101);
    // There is room again.
    let process_before = Pid::from_raw(i32::try_from(daemon.pid()).expect("a number"));
    prlimit(process_before, Resource::Fsize, Rlimit { current: None, maximum: None }).expect("it is ours");
    let (status, heir) = upgraded(&mut daemon, &ports);
    assert!(status["upgrade"]["no_state"].is_null() && queued(&status) >= queued(&before), "{status}");
    assert_eq!(trials().count(), 0);
    daemon.send_udp(&[b"one:+1|g"]);
    let read = status_when(ports.page, "a line", |status| status["lines"]["read"].as_u64() >= Some(1));
    status_when(ports.page, "an interval", |status| status["as_of"].as_f64() > read["as_of"].as_f64());
    heir.stop();
    assert_eq!(last_gauge(dir.path(), "one"), 102.0);
}

#[test]
fn a_state_that_cannot_be_saved_after_all_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let config = config(dir.path(), &ports).replace("interval = \"1s\"", "interval = \"1h\"");
    // It can be written for trial, and not at the end.
    let daemon = Daemon::start_faulty(dir.path(), &config, &[], "state:write@1");
    daemon.send_udp(&[b"x:3|c"]);
    daemon.status_when("a line", |status| status["lines"]["read"] == 1);
    let (code, said) = upgrade(&ports, "secret");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(
            "closed and delivered its interval itself: the old process could not save it: the state folder does"
        ),
        "{said}"
    );
    let before = daemon.pid();
    Heir(process(&status_when(ports.page, "another process", |status| status["pid"] != before))).stop();
    assert_eq!(sum(dir.path(), "x"), 3.0);
}

/// A folder, with something in it, at a path: no file can take its place, nor another folder.
fn put_folder(path: &Path) {
    std::fs::create_dir(path).expect("a folder");
    std::fs::write(path.join("x"), "").expect("a file");
}

#[test]
fn what_is_in_the_place_of_a_state_is_moved_away_or_there_is_no_upgrade() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    // Nobody is there.
    let away = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("an address");
    let config = format!(
        "{}[[sink]]\ntype = \"graphite\"\nname = \"away\"\naddress = \"{away}\"\nqueue = 1000\n",
        config(dir.path(), &ports)
    );
    let mut daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[b"x:3|c"]);
    let queued = |status: &Value| status["sinks"]["away"]["queued"].as_u64();
    let before = daemon.status_when("an interval that waits", |status| queued(status) > Some(0));
    let place = |name: &str| dir.path().join("systole").join(name);
    put_folder(&place("sink-away.state"));
    put_folder(&place("registry.state"));
    put_folder(&place("registry.state.bad"));
    let (code, said) = upgrade(&ports, "secret");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot be saved in ") && said.contains("not empty"), "{said}");
    std::fs::remove_dir_all(place("registry.state.bad")).expect("removed");
    let (status, heir) = upgraded(&mut daemon, &ports);
    assert!(status["upgrade"]["no_state"].is_null() && queued(&status) >= queued(&before), "{status}");
    assert!(place("sink-away.state.bad").is_dir() && place("registry.state.bad").is_dir());
    heir.stop();
}

/// Most descriptors of a process, and connections, of which it cannot have two descriptors each.
const FEW: usize = 400;
const CONNECTIONS: usize = 200;

#[test]
fn connections_are_passed_on_where_there_are_no_more_descriptors_than_connections() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let config = config(dir.path(), &ports).replace("interval = \"1s\"", "interval = \"1h\"");
    let mut daemon = Daemon::start_after(dir.path(), &config, &format!("ulimit -n {FEW}"));
    let mut open: Vec<_> =
        (0..CONNECTIONS).map(|_| TcpStream::connect(("127.0.0.1", ports.statsd)).expect("somebody listens")).collect();
    let send =
        |open: &mut Vec<TcpStream>, bytes: &[u8]| open.iter_mut().for_each(|one| one.write_all(bytes).expect("sent"));
    send(&mut open, b"x:1|c\nx:");
    daemon.status_when("a line of each", |status| status["lines"]["read"] == CONNECTIONS);
    let mut last = None;
    for n in 1..=2 {
        let (code, said) = upgrade(&ports, "secret");
        assert_eq!(code, Some(0), "{said}");
        send(&mut open, b"1|c\nx:");
        let before = last.as_ref().map_or(daemon.pid(), |heir: &Heir| heir.0);
        let next = |status: &Value| status["pid"] != before && status["lines"]["read"] == CONNECTIONS;
        last = Some(Heir(process(&status_when(ports.page, &format!("a line of each after upgrade {n}"), next))));
    }
    assert_eq!(daemon.wait(Duration::from_secs(20)), Some(0));
    drop(open);
    last.expect("two took over").stop();
    assert_eq!(sum(dir.path(), "x"), 3.0 * CONNECTIONS as f64);
}

#[test]
fn there_is_no_upgrade_where_a_spool_cannot_be_opened() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let spool = dir.path().join("spool");
    let away = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("an address");
    let config = format!(
        "{}[[sink]]\ntype = \"graphite\"\naddress = \"{away}\"\nspool = {{ path = \"{}\" }}\n",
        config(dir.path(), &ports),
        spool.display()
    );
    let mut daemon = Daemon::start(dir.path(), &config);
    until("a spool", || spool.join("cursor").exists());
    std::fs::rename(&spool, dir.path().join("moved")).expect("moved");
    std::fs::write(&spool, "").expect("a file in its place");
    let (code, said) = upgrade(&ports, "secret");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no upgrade") && said.contains("cannot spool to"), "{said}");
    daemon.send_udp(&[b"x:1|c"]);
    daemon.status_when("a line", |status| status["lines"]["read"] == 1);
    std::fs::remove_file(&spool).and_then(|()| std::fs::rename(dir.path().join("moved"), &spool)).expect("put back");
    upgraded(&mut daemon, &ports).1.stop();
    assert_eq!(sum(dir.path(), "x"), 1.0);
}
