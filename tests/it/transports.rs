//! Every way in: unix datagrams and streams, frames with their length, statsite's binary protocol, dual stack, and options
//! of a single listener.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Daemon, recording, records, sum, systole, text};

fn malformed(status: &Value, reason: &str) -> u64 {
    status["lines"]["malformed"][reason].as_u64().unwrap_or(0)
}

#[test]
fn unix_sockets_take_datagrams_streams_and_frames() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let listeners = format!(
        "[[listen]]\nurl = \"unixgram://{0}/d\"\nmode = \"0600\"\n[[listen]]\nurl = \"unix://{0}/s\"\n\
         [[listen]]\nurl = \"unix://{0}/f\"\nframing = \"length\"",
        dir.path().display()
    );
    // What a daemon that was killed left behind is no obstacle.
    drop(UnixListener::bind(path("s")).expect("a socket"));
    drop(UnixDatagram::bind(path("d")).expect("a socket"));
    let daemon = Daemon::start(dir.path(), &recording(dir.path(), "1s", &listeners));
    let mode = |name: &str| std::fs::metadata(path(name)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("d"), mode("s")), (0o600, 0o660));

    let datagrams = UnixDatagram::unbound().expect("a socket");
    datagrams.send_to(b"a:1|c\na:2|c", path("d")).expect("sent");
    let mut stream = UnixStream::connect(path("s")).expect("connected");
    stream.write_all(b"b:1|c\nb:2").expect("sent");
    stream.write_all(b"|c\nb:4|c").expect("sent");
    drop(stream);
    let frame = |text: &[u8]| [&(text.len() as u32).to_le_bytes(), text].concat();
    let mut frames = UnixStream::connect(path("f")).expect("connected");
    let all = [frame(b"c:1|c\nc:2|c\n"), frame(b""), frame(b"c:4|c")].concat();
    for byte in all {
        frames.write_all(&[byte]).expect("sent");
    }
    daemon.flushed_when("all are read", |s| s["lines"]["read"] == 8);
    // A length that is none closes the connection, and is counted.
    frames.write_all(b"\xff\xff\xff\xff").expect("sent");
    frames.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    assert_eq!(frames.read(&mut [0]).expect("the end"), 0);
    // One that ends inside a frame is counted, too.
    let mut cut = UnixStream::connect(path("f")).expect("connected");
    cut.write_all(b"\x09\0\0\0c:8|c").expect("sent");
    drop(cut);
    let status = daemon.flushed_when("both are told", |s| malformed(s, "bad_frame") == 2);
    assert_eq!(status["completeness"], 1.0);
    let urls: Vec<&str> =
        status["listeners"].as_array().expect("a list").iter().filter_map(|l| l["url"].as_str()).collect();
    assert!(urls[0].starts_with("unixgram:///") && urls[1].starts_with("unix:///"), "{urls:?}");
    // Where somebody listens nobody else may.
    let output = systole(&["run", "--listen", &format!("unix://{}", path("s").display()), "--http", "off"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another process listens there"), "{}", text(&output.stderr));
    daemon.stop();
    assert_eq!((sum(dir.path(), "a"), sum(dir.path(), "b"), sum(dir.path(), "c")), (3.0, 7.0, 7.0));
    assert!(!path("d").exists() && !path("s").exists(), "sockets are removed at the end");
}

#[test]
fn a_process_cannot_leave_descriptors_in_the_daemon() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::{IoSlice, pipe};
    use std::os::fd::AsFd;
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("d");
    let daemon = Daemon::start(
        dir.path(),
        &recording(dir.path(), "1s", &format!("[[listen]]\nurl = \"unixgram://{}\"", socket.display())),
    );
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.connect(&socket).expect("connected");
    let (mut read, write) = pipe().expect("a pipe");
    let passed = [write.as_fd(); 4];
    for _ in 0..20 {
        let mut room = [const { std::mem::MaybeUninit::uninit() }; 256];
        let mut control = SendAncillaryBuffer::new(&mut room);
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        sendmsg(&sender, &[IoSlice::new(b"a:1|c")], &mut control, SendFlags::empty()).expect("sent");
    }
    daemon.flushed_when("all are read", |s| s["lines"]["read"] == 20);
    drop(write);
    rustix::io::ioctl_fionbio(&read, true).expect("set");
    assert_eq!(read.read(&mut [0]).expect("the daemon does not hold the other end"), 0);
    daemon.stop();
}

#[test]
fn a_start_that_fails_leaves_no_socket_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let udp = format!("udp://{}", taken.local_addr().expect("bound"));
    let [stream, datagrams] = ["unix", "unixgram"].map(|kind| format!("{kind}://{}", dir.path().join(kind).display()));
    let args = ["run", "--http", "off", "--listen", &stream, "--listen", &datagrams, "--listen", &udp];
    let output = systole(&args, b"");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
}

#[test]
fn our_own_commands_send_to_unix_sockets() {
    let dir = tempfile::tempdir().expect("a folder");
    let listeners =
        format!("[[listen]]\nurl = \"unixgram://{0}/d\"\n[[listen]]\nurl = \"unix://{0}/s\"", dir.path().display());
    let daemon = Daemon::start(dir.path(), &recording(dir.path(), "1s", &listeners));
    for url in [format!("unixgram://{}/d", dir.path().display()), format!("unix://{}/s", dir.path().display())] {
        let output = systole(&["send", "--to", &url, "a:1|c", "a:2|c"], b"");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    daemon.flushed_when("all are read", |s| s["lines"]["read"] == 4);
    daemon.stop();
    assert_eq!(sum(dir.path(), "a"), 6.0);
}

/// A frame of statsite's binary protocol.
fn binary(kind: u8, key: &str, value: f64) -> Vec<u8> {
    let mut out = vec![0xaa, kind];
    out.extend((key.len() as u16 + 1).to_le_bytes());
    out.extend(value.to_le_bytes());
    out.extend(key.as_bytes());
    out.push(0);
    out
}

#[test]
fn statsites_binary_protocol_is_read_by_its_first_byte() {
    let dir = tempfile::tempdir().expect("a folder");
    let listeners = "[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
                     [protocol]\nbinary = true";
    let daemon = Daemon::start(dir.path(), &recording(dir.path(), "1s", listeners));
    let two = [binary(2, "a", 1.0), binary(2, "a", 2.0)].concat();
    daemon.send_udp(&[&two, b"text:1|c"]);
    let tcp = daemon.tcp.expect("TCP");
    let mut stream = TcpStream::connect(tcp).expect("connected");
    for byte in
        [two.clone(), binary(6, "g", -5.0), binary(3, "t", 7.0), b"\xaa\x04\x02\0\x03\0s\0me\0".to_vec()].concat()
    {
        stream.write_all(&[byte]).expect("sent");
    }
    let mut lines = TcpStream::connect(tcp).expect("connected");
    lines.write_all(b"text:2|c\n").expect("sent");
    daemon.flushed_when("all are read", |s| s["lines"]["metrics"] == 9);
    // A bad magic byte closes the connection.
    stream.write_all(b"text:4|c\n").expect("sent");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    daemon.flushed_when("it is told", |s| malformed(s, "bad_frame") == 1);
    daemon.stop();
    assert_eq!((sum(dir.path(), "a"), sum(dir.path(), "text")), (6.0, 3.0));
    let all = records(&dir.path().join("records.jsonl"));
    let found = |kind: &str, name: &str| all.iter().find(|r| r["type"] == kind && r["name"] == name).cloned();
    assert_eq!(found("gauge", "g").expect("a gauge")["value"], -5.0);
    assert_eq!(found("timer", "t").expect("a timer")["max"], 7.0);
    assert_eq!(found("set", "s").expect("a set")["value"], 1.0);
}

#[test]
fn frames_of_the_binary_protocol_may_be_separated_by_newlines() {
    let dir = tempfile::tempdir().expect("a folder");
    let listeners = "[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
                     [protocol]\nbinary = true";
    let daemon = Daemon::start(dir.path(), &recording(dir.path(), "1s", listeners));
    let set = b"\xaa\x04\x02\0\x03\0s\0me\0".to_vec();
    let lines = [binary(2, "a", 1.0), binary(2, "a", 2.0), set, binary(5, "g", 10.0)];
    let bytes: Vec<u8> = lines.iter().flat_map(|frame| [frame, &b"\n"[..]].concat()).collect();
    daemon.send_udp(&[&bytes, &[&lines[0][..], b"\r\n", &lines[1]].concat()]);
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    for byte in &bytes {
        stream.write_all(&[*byte]).expect("sent");
    }
    stream.write_all(&bytes).expect("sent");
    drop(stream);
    let status = daemon.flushed_when("all are read", |s| s["lines"]["read"] == 14);
    assert_eq!((&status["lines"]["metrics"], malformed(&status, "bad_frame")), (&14.into(), 0), "{status}");
    daemon.stop();
    assert_eq!(sum(dir.path(), "a"), 12.0);
}

#[test]
fn a_listener_may_read_its_lines_in_its_own_way() {
    let dir = tempfile::tempdir().expect("a folder");
    let listeners = "[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
                     protocol = { gauge_sign = \"absolute\", absolute_counters = true, abbreviated_meter = true }\n\
                     [[listen]]\nurl = \"tcp://127.0.0.1:0\"";
    let daemon = Daemon::start(dir.path(), &recording(dir.path(), "1s", listeners));
    daemon.send_udp(&[
        b"pool:5|g\npool:-2|g",
        b"total:10|C\ntotal:15|C\ntotal:3|C\ntotal:4|C",
        b"login\nlogin:3\nlogin:1:2",
        b"bad:-1|C\nbad:1:2|C",
    ]);
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    stream.write_all(b"other:5|g\nother:-2|g\nlogin\ntotal:5|C\n").expect("sent");
    daemon.flushed_when("all are read", |s| s["lines"]["read"] == 15);
    let status = daemon.status();
    assert_eq!((malformed(&status, "bad_value"), malformed(&status, "missing_type")), (2, 1), "{status}");
    assert_eq!(malformed(&status, "unknown_type"), 1);
    daemon.stop();
    let all = records(&dir.path().join("records.jsonl"));
    let last = |name: &str| all.iter().rfind(|r| r["name"] == name).expect("a record")["value"].clone();
    assert_eq!((last("pool"), last("other")), ((-2.0).into(), 3.0.into()));
    // 10, 5 more, 3 after a restart, 1 more.
    assert_eq!((sum(dir.path(), "total"), sum(dir.path(), "login")), (19.0, 7.0));
}

#[test]
fn an_address_of_ipv6_takes_ipv4_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &recording(dir.path(), "1s", "[[listen]]\nurl = \"udp://[::]:0\""));
    let port = daemon.udp.expect("UDP").port();
    for (own, to) in [("127.0.0.1:0", format!("127.0.0.1:{port}")), ("[::1]:0", format!("[::1]:{port}"))] {
        UdpSocket::bind(own).expect("a socket").send_to(b"a:1|c", to).expect("sent");
    }
    daemon.flushed_when("both are read", |s| s["lines"]["read"] == 2);
    daemon.stop();
}

#[test]
fn a_socket_that_was_not_passed_is_told() {
    let output = systole(&["run", "--listen", "fd://statsd", "--http", "off"], b"");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("no socket `statsd` was passed") && said.contains("socket activation"), "{said}");
}

#[test]
fn a_sender_that_never_pauses_leaves_others_ticks_and_a_stop_their_turn() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = recording(dir.path(), "1s", "[[listen]]\nurl = \"tcp://127.0.0.1:0\"").replace("\"1s\"", "\"200ms\"");
    let daemon = Daemon::start(dir.path(), &config);
    let address = daemon.tcp.expect("TCP");
    let chunk = b"fast:1.5|ms|@0.1|#b:2,a:1\n".repeat(40_000);
    let fast = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("connected");
        // Until the daemon ends, and bounded in any case.
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(30) && stream.write_all(&chunk).is_ok() {}
    });
    daemon.flushed_when("the fast one is read", |status| status["lines"]["read"].as_u64() > Some(100_000));
    let mut polite = TcpStream::connect(address).expect("connected");
    polite.write_all(b"polite:1|c\n").expect("sent");
    daemon.flushed_when("the polite one is read", |status| status["series"]["counters"] == 1);
    assert!(!fast.is_finished(), "the fast one still sends");
    let began = std::time::Instant::now();
    let log = daemon.stop();
    // The default grace is 10 s, of which reading has half.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    fast.join().expect("it ends with the daemon");
    assert_eq!(sum(dir.path(), "polite"), 1.0);
    assert_eq!(log.iter().find(|line| line.contains("does not answer")), None);
}
