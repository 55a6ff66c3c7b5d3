//! SIGTERM in the middle of an interval, right after a burst: what was sent is in the file, or counted.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Daemon, alone, pause, records, size, until};

const LINES_PER_SECOND: u64 = 50_000;

#[test]
fn after_sigterm_lines_sent_are_lines_in_the_file_and_counted_drops() {
    let _alone = alone();
    let rounds = size("SYSTOLE_TEST_SHUTDOWNS", 2);
    for round in 0..rounds {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("records.jsonl");
        let config = format!(
            "interval = \"1day\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
             [[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"off\"\n",
            file.display()
        );
        let daemon = Daemon::start(dir.path(), &config);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = daemon.udp.expect("UDP");
        let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
        let (mut udp_lines, mut tcp_lines) = (0, 0);
        let began = Instant::now();
        // One second at the stated rate, half over each way, ten lines a write.
        while udp_lines + tcp_lines < LINES_PER_SECOND {
            socket.send_to("u:1|c\n".repeat(10).as_bytes(), to).expect("sent");
            stream.write_all("t:1|c\n".repeat(10).as_bytes()).expect("sent");
            udp_lines += 10;
            tcp_lines += 10;
            let due = Duration::from_secs_f64((udp_lines + tcp_lines) as f64 / LINES_PER_SECOND as f64);
            pause(due.saturating_sub(began.elapsed()));
        }
        if round % 2 == 0 {
            drop(stream);
        }
        let log = daemon.stop();
        let records = records(&file);
        let ledger = records.iter().find(|r| r["type"] == "ledger").expect("the account of the partial interval");
        let value = |name: &str| {
            let record = records.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name}: {log:?}"));
            record["value"].as_f64().expect("a number") as u64
        };
        let drops: u64 = ledger["listeners"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|l| l["kernel_drops"].as_u64().expect("a count"))
            .sum();
        assert_eq!(value("t"), tcp_lines, "round {round}");
        assert_eq!(value("u") + 10 * drops, udp_lines, "round {round}, {drops} drops");
        assert_eq!(ledger["lines"]["read"].as_u64(), Some(value("t") + value("u")));
        let length = ledger["interval"].as_f64().expect("a length");
        assert!((0.9..60.0).contains(&length), "the partial interval has its true length: {length}");
    }
}

#[test]
fn a_line_without_its_newline_counts_when_the_sender_has_closed_and_not_when_it_is_cut() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    let config = format!(
        "interval = \"1day\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"off\"\n",
        file.display()
    );
    let daemon = Daemon::start(dir.path(), &config);
    let to = daemon.tcp.expect("TCP");
    let mut closed = TcpStream::connect(to).expect("connected");
    closed.write_all(b"whole:1|c").expect("sent");
    drop(closed);
    let mut open = TcpStream::connect(to).expect("connected");
    open.write_all(b"good:1|c\ncut:1|c").expect("sent");
    daemon.stop();
    let records = records(&file);
    let names: Vec<&str> =
        records.iter().filter_map(|r| r["name"].as_str()).filter(|n| !n.starts_with("systole.")).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&"whole") && names.contains(&"good"));
    let ledger = records.iter().find(|r| r["type"] == "ledger").expect("the account");
    assert_eq!(ledger["lines"]["malformed"]["bad_frame"], 1);
}

/// Sum of a counter.
fn sum(records: &[Value], name: &str) -> u64 {
    let all = records.iter().filter(|r| r["name"] == name && r["type"] == "counter");
    all.filter_map(|r| r["value"].as_f64()).sum::<f64>() as u64
}

/// Sum of a field of all listeners.
fn listeners(records: &[Value], field: &str) -> u64 {
    let ledgers = records.iter().filter(|r| r["type"] == "ledger").flat_map(|r| r["listeners"].as_array());
    ledgers.flatten().map(|l| l[field].as_u64().expect("a count")).sum()
}

fn config(dir: &Path, root: &str, listeners: &str) -> String {
    format!(
        "interval = \"1day\"\nself_metrics = false\n{root}\n{listeners}\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n\
         [http]\naddress = \"off\"\n[presence]\nenabled = false\n",
        dir.join("records.jsonl").display()
    )
}

#[test]
fn senders_that_go_on_hold_up_no_stop_and_what_they_sent_is_read_or_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("datagrams");
    let urls = format!(
        "[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[[listen]]\nurl = \"unixgram://{}\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 2",
        path.display()
    );
    let daemon = Daemon::start(dir.path(), &config(dir.path(), "", &urls));
    let (tcp, udp) = (daemon.tcp.expect("TCP"), daemon.udp.expect("UDP"));
    let ended = Arc::new(AtomicBool::new(false));
    // 20 lines a second, until it is told that the other side is gone.
    let chatty = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(tcp).expect("connected");
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let mut sent = 0;
        loop {
            stream.write_all(b"t:1|c\n").expect("sent");
            sent += 1;
            if matches!(stream.read(&mut [0]), Ok(0)) {
                return sent;
            }
        }
    });
    // As many as the socket takes, until it is told.
    let unixgram = std::thread::spawn(move || {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.connect(path).expect("it is there");
        let mut sent = 0;
        while socket.send(b"d:1|c").is_ok() {
            sent += 1;
        }
        sent
    });
    let (until_ended, sent) = (Arc::clone(&ended), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&sent);
    // For ever, whether anybody listens or not.
    let datagrams = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        while !until_ended.load(Ordering::Relaxed) {
            socket.send_to(b"u:1|c", udp).expect("sent");
            counted.fetch_add(1, Ordering::Relaxed);
            pause(Duration::from_micros(100));
        }
    });
    until("they are at it", || sent.load(Ordering::Relaxed) >= 1000);
    let began = Instant::now();
    daemon.stop();
    let took = began.elapsed();
    ended.store(true, Ordering::Relaxed);
    datagrams.join().expect("it ends");
    // They would have gone on for half of the grace, which is 10 s.
    assert!(took < Duration::from_secs(4), "{took:?}");
    let records = records(&dir.path().join("records.jsonl"));
    assert_eq!(sum(&records, "d"), unixgram.join().expect("it ends"), "of unix datagrams, all that the kernel took");
    assert_eq!(sum(&records, "t"), chatty.join().expect("it ends"), "it was told before its next line");
    assert!(sum(&records, "u") > 0);
    assert_eq!(listeners(&records, "datagrams"), sum(&records, "u") + sum(&records, "d"));
    assert_eq!((listeners(&records, "unread"), listeners(&records, "unread_bytes")), (0, 0));
}

#[test]
fn what_was_sent_before_a_stop_is_read_or_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    // Half of it is for reading.
    let root = "shutdown_grace = \"1s\"";
    let daemon =
        Daemon::start(dir.path(), &config(dir.path(), root, "[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1"));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = daemon.udp.expect("UDP");
    // Large ones, so that it takes longer to read them than to send them.
    let datagram = "x:1|c\n".repeat(10_000);
    for _ in 0..60 {
        socket.send_to(datagram.as_bytes(), to).expect("sent");
    }
    daemon.stop();
    let records = records(&dir.path().join("records.jsonl"));
    let [read, unread, dropped] = ["datagrams", "unread", "kernel_drops"].map(|field| listeners(&records, field));
    assert_eq!(read + unread + dropped, 60, "{read} read, {unread} unread, {dropped} dropped");
    let ledger = records.iter().find(|r| r["type"] == "ledger").expect("the account");
    assert_eq!(ledger["lines"]["read"], 10_000 * read);
    let share = read as f64 / 60.0;
    assert!((ledger["completeness"].as_f64().expect("a share") - share).abs() < 1e-9, "{ledger}");
    assert_eq!(listeners(&records, "unread_bytes"), unread * datagram.len() as u64);
}

#[test]
fn what_the_grace_leaves_no_time_for_is_counted() {
    const LINES: u64 = 10_000;
    let dir = tempfile::tempdir().expect("a folder");
    // Half of it is for reading. Connections are read first, for as long as they go on.
    let urls = "[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), "shutdown_grace = \"1s\"", urls));
    let (udp, tcp) = (daemon.udp.expect("UDP"), daemon.tcp.expect("TCP"));
    // A buffer full every few milliseconds, all of which may have been on its way before the stop.
    let behind = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(tcp).expect("connected");
        let chunk = b"t:1|c\n".repeat(12_000);
        while stream.write_all(&chunk).is_ok() {
            pause(Duration::from_millis(5));
        }
    });
    let began = Arc::new(AtomicBool::new(false));
    let is_flooding = Arc::clone(&began);
    // Faster than it is read, so that something is queued whenever reading ends.
    let flood = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(udp).expect("connected");
        let datagram = "x:1|c\n".repeat(LINES as usize);
        let mut sent = 0;
        while socket.send(datagram.as_bytes()).is_ok() {
            sent += 1;
            is_flooding.store(sent > 100, Ordering::Relaxed);
        }
        sent
    });
    until("more than it reads is sent", || began.load(Ordering::Relaxed));
    daemon.stop();
    let sent: u64 = flood.join().expect("it ends");
    behind.join().expect("it ends");
    let records = records(&dir.path().join("records.jsonl"));
    let ledger = records.iter().find(|r| r["type"] == "ledger").expect("the account");
    let listener = ledger["listeners"].as_array().expect("a list").iter().find(|l| l["url"] == format!("udp://{udp}"));
    let count = |field: &str| listener.expect("it listened")[field].as_u64().expect("a count");
    let [read, unread, dropped] = ["datagrams", "unread", "kernel_drops"].map(count);
    assert!(unread > 0, "{read} read, {dropped} dropped");
    assert_eq!(count("unread_bytes"), unread * 6 * LINES);
    assert_eq!(sum(&records, "x"), LINES * read);
    // The kernel takes a last one or two before the sender is told of the refusal.
    let known = read + unread + dropped;
    assert!((known..known + 10).contains(&sent), "{sent} sent: {read} read, {unread} unread, {dropped} dropped");
    let share = read as f64 / known as f64;
    assert!((ledger["completeness"].as_f64().expect("a share") - share).abs() < 1e-9, "{ledger}");
}

#[test]
fn connections_one_after_the_other_are_never_too_many() {
    let dir = tempfile::tempdir().expect("a folder");
    let url = "[[listen]]\nurl = \"tcp://127.0.0.1:0\"\nmax_connections = 1";
    let config = config(dir.path(), "", url).replace("address = \"off\"", "address = \"127.0.0.1:0\"");
    let daemon = Daemon::start(dir.path(), &config);
    let to = daemon.tcp.expect("TCP");
    for _ in 0..2000 {
        TcpStream::connect(to).and_then(|mut stream| stream.write_all(b"x:1|c\n")).expect("sent");
    }
    // A stop has only a moment for those that the kernel has queued.
    daemon.status_when("all have come", |status| {
        let count = |field: &str| status["listeners"][0][field].as_u64().unwrap_or(0);
        count("connections") + count("refused") == 2000
    });
    daemon.stop();
    let records = records(&dir.path().join("records.jsonl"));
    assert_eq!(
        (listeners(&records, "connections"), listeners(&records, "refused"), sum(&records, "x")),
        (2000, 0, 2000)
    );
}

#[test]
fn connections_that_wait_for_room_at_a_stop_share_its_grace() {
    const CLIENTS: u64 = 200;
    let dir = tempfile::tempdir().expect("a folder");
    let url = "[[listen]]\nurl = \"tcp://127.0.0.1:0\"\nmax_connections = 1";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), "shutdown_grace = \"1s\"", url));
    let to = daemon.tcp.expect("TCP");
    // Each waits until the one before has gone: all of them would take four seconds.
    let open = || TcpStream::connect(to).and_then(|mut stream| stream.write_all(b"x:1|c\n").map(|()| stream));
    let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| open().expect("connected")).collect();
    let (stay, stays) = std::sync::mpsc::channel::<()>();
    let leaving = std::thread::spawn(move || {
        for client in clients {
            // It ends at once when the test has ended.
            let _ = stays.recv_timeout(Duration::from_millis(20));
            drop(client);
        }
    });
    let log = daemon.stop();
    drop(stay);
    leaving.join().expect("it ends");
    assert!(!log.iter().any(|line| line.contains("does not ")), "{log:?}");
    let records = records(&dir.path().join("records.jsonl"));
    let [connections, refused] = ["connections", "refused"].map(|field| listeners(&records, field));
    assert_eq!(connections + refused, CLIENTS, "{refused} refused");
    assert_eq!(sum(&records, "x"), connections);
    assert!(refused > 0, "there was time for all of them");
}

#[test]
fn everything_that_hangs_shares_one_grace() {
    let dir = tempfile::tempdir().expect("a folder");
    // Requests are taken and never answered: of a sink, and to an Alertmanager.
    let hung = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = hung.local_addr().expect("an address");
    let (asked, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = hung.accept() {
            let mut first = [0; 64];
            let count = stream.read(&mut first).unwrap_or(0);
            let _ = asked.send(String::from_utf8_lossy(&first[..count]).into_owned());
            kept.push(stream);
        }
    });
    let config = format!(
        "interval = \"200ms\"\nshutdown_grace = \"1500ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n[[sink]]\ntype = \"influx\"\nurl = \"http://{address}\"\ndatabase = \"x\"\n\
         [presence]\nstate_file = \"off\"\nalertmanager = [\"http://{address}\"]\n"
    );
    let daemon = Daemon::start(dir.path(), &config);
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut sink, mut alarms) = (false, false);
    while !(sink && alarms) {
        let first = told.recv_timeout(deadline.saturating_duration_since(Instant::now())).expect("both are asked");
        alarms |= first.starts_with("POST /api/v2/alerts ");
        sink |= first.starts_with("POST /write");
    }
    let began = Instant::now();
    let log = daemon.stop();
    let took = began.elapsed();
    // One after the other they would take twice the grace.
    assert!(took < Duration::from_millis(2700), "{took:?}");
    // Who held it up, for how long, and at what price.
    let given_up = log.iter().find(|line| line.contains("not delivered before the end")).expect("it is logged");
    for field in ["sink=\"influx\"", "intervals=", "records=", "waited_secs="] {
        assert!(given_up.contains(field), "{given_up}");
    }
}

#[test]
fn what_a_closed_connection_had_sent_before_the_stop_is_read_however_long_that_takes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (root, url) = ("shutdown_grace = \"60s\"", "[[listen]]\nurl = \"tcp://127.0.0.1:0\"");
    let mut daemon = Daemon::start(dir.path(), &config(dir.path(), root, url));
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    stream.write_all(b"t:1|c\n").expect("sent");
    // Accepted, and then held up while the kernels' buffers fill.
    daemon.signal("-STOP");
    stream.set_nonblocking(true).expect("set");
    let chunk = b"t:1|c\n".repeat(10_000);
    let mut sent = 6;
    while let Ok(count @ 1..) = stream.write(&chunk[sent % 6..]) {
        sent += count;
    }
    drop(stream);
    daemon.signal("-TERM");
    daemon.signal("-CONT");
    assert_eq!(daemon.wait(Duration::from_secs(60)), Some(0));
    let records = records(&dir.path().join("records.jsonl"));
    // The last line is whole without its newline.
    assert_eq!(sum(&records, "t"), (sent as u64 + 1) / 6);
    assert_eq!(listeners(&records, "unread_bytes"), 0);
}

// An optimized build reads all of it before anybody is silent for too long.
#[cfg(debug_assertions)]
#[test]
fn a_stop_that_takes_long_makes_nobody_silent() {
    let dir = tempfile::tempdir().expect("a folder");
    // Silence is judged after 2 s, and connections are read for half of the grace.
    let config = "interval = \"200ms\"\nshutdown_grace = \"8s\"\nself_metrics = false\n\
                  [[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
                  [http]\naddress = \"127.0.0.1:0\"\n[presence]\nstate_file = \"off\"\nmisses = 1\n";
    let daemon = Daemon::start(dir.path(), config);
    let beat = || daemon.send_udp(&[b"heartbeat.only.a:1|g|#interval:1"]);
    until("it is known", || {
        beat();
        daemon.get("/api/v1/presence/only/a").0 == 200
    });
    let tcp = daemon.tcp.expect("TCP");
    // Of each 10 MiB are read.
    let streams = [(); 5].map(|()| {
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(tcp).expect("connected");
            let lines = b"metric:1|c\n".repeat(10_000);
            while stream.write_all(&lines).is_ok() {}
        })
    });
    until("the streams are read", || {
        beat();
        daemon.status()["lines"]["metrics"].as_u64() > Some(0)
    });
    beat();
    let began = Instant::now();
    let log = daemon.stop();
    for stream in streams {
        stream.join().expect("it ends");
    }
    assert!(began.elapsed() > Duration::from_secs(3), "it took no longer than silence is borne: {log:#?}");
    assert!(!log.iter().any(|line| line.contains("only")), "{log:#?}");
}
