//! SIGTERM in the middle of an interval, right after a burst: what was sent is in the file, or counted.

mod support;

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use support::{Daemon, records, size};

const LINES_PER_SECOND: u64 = 50_000;

#[test]
fn after_sigterm_lines_sent_are_lines_in_the_file_and_counted_drops() {
    let rounds = size("SYSTOLE_TEST_SHUTDOWNS", 2);
    for round in 0..rounds {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("records.jsonl");
        let config = format!(
            "interval = \"10m\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
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
            std::thread::sleep(due.saturating_sub(began.elapsed()));
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
        "interval = \"10m\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"off\"\n",
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
