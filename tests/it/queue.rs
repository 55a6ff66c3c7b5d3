//! How full receive buffers are: what the daemon says is what the kernel says, and it says so before anything is lost.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use socket2::Socket;
use systole::internals::sys::{SocketMemory, socket_memory};

use crate::support::{Daemon, alone, poll, size};

/// Values of a datagram: so many that to read it costs more than to send it.
const VALUES: usize = 1000;

/// A daemon that inherits a socket, the socket, and one that sends to it.
struct Beside {
    daemon: Daemon,
    receiver: Socket,
    sender: UdpSocket,
    datagram: Vec<u8>,
}

impl Beside {
    fn start(dir: &Path, interval: &str) -> Beside {
        let config = format!(
            "interval = \"{interval}\"\nexact_samples = 1\n[[listen]]\nurl = \"fd://0\"\nreceive_buffer = \"4MiB\"\n\
             [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n",
        );
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to: SocketAddr = receiver.local_addr().expect("bound");
        let passed = receiver.try_clone().expect("a descriptor").into();
        let daemon = Daemon::start_inheriting(dir, &config, passed);
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        sender.connect(to).expect("connected");
        let datagram = format!("slow{}|ms", ":1".repeat(VALUES)).into_bytes();
        Beside { daemon, receiver: receiver.into(), sender, datagram }
    }

    fn memory(&self) -> SocketMemory {
        socket_memory(&self.receiver).expect("an account")
    }

    /// Sends until the buffer is so full, for a while; the most that it was. The daemon reads meanwhile.
    fn fill(&self, to: f64) -> f64 {
        let (began, mut peak) = (Instant::now(), 0.0_f64);
        while began.elapsed() < Duration::from_millis(100) {
            let fill = self.memory().fill();
            peak = peak.max(fill);
            if fill < to {
                self.sender.send(&self.datagram).expect("sent");
            }
        }
        // What was sent last is queued now.
        peak.max(self.memory().fill())
    }

    /// Sends faster and faster until the kernel drops something; when it did.
    fn ramp(&self) -> SystemTime {
        let (dropped, began) = (self.memory().dropped, Instant::now());
        let (mut per_second, mut due) = (1000.0_f64, began);
        loop {
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            self.sender.send(&self.datagram).expect("sent");
            if self.memory().dropped != dropped {
                return SystemTime::now();
            }
            // Twice as fast every second.
            per_second *= 1.0 + std::f64::consts::LN_2 / per_second;
            due += Duration::from_secs_f64(1.0 / per_second);
            assert!(began.elapsed() < Duration::from_secs(30), "{per_second} datagrams a second are no load");
        }
    }
}

fn peak(status: &Value) -> f64 {
    status["listeners"][0]["queue_peak"].as_f64().expect("a number")
}

fn warnings(status: &Value) -> usize {
    status["warnings"].as_array().expect("a list").len()
}

/// The time of a line of the log, to the microsecond, in seconds of its day.
fn time_of(line: &str) -> f64 {
    let clock = line.split(['T', 'Z']).nth(1).expect("a time");
    clock.split(':').fold(0.0, |all, part| all * 60.0 + part.parse::<f64>().expect("a number"))
}

#[test]
fn the_peak_is_what_a_probe_beside_it_reads() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a folder");
    let beside = Beside::start(dir.path(), "500ms");
    for level in [0.2, 0.5, 0.85] {
        beside.daemon.status_when("a quiet interval", |status| peak(status) < 0.02);
        let probed = beside.fill(level);
        let status = beside.daemon.status();
        let told = peak(&status);
        assert!((told - probed).abs() <= 0.05 * probed, "{told} is told, {probed} is true");
        assert_eq!(warnings(&status) > 0, told >= 0.75, "{status}");
        let metrics = beside.daemon.get("/metrics").1;
        let line = metrics.lines().find(|line| line.starts_with("systole_queue_peak_ratio{")).expect("a metric");
        assert_eq!(line.rsplit(' ').next().and_then(|value| value.parse().ok()), Some(told), "{line}");
        poll("all is read", || if beside.memory().queued == 0 { Ok(()) } else { Err(beside.memory()) });
    }
    let status = beside.daemon.status_when("a quiet interval", |status| peak(status) < 0.02);
    assert_eq!((&status["listeners"][0]["kernel_drops"], warnings(&status)), (&0.into(), 0));
    let log = beside.daemon.stop();
    // Once an interval: reading what is queued may take several.
    let warnings = log.iter().filter(|line| line.contains("the receive buffer is nearly full")).count();
    assert!((1..=10).contains(&warnings), "{log:?}");
}

#[test]
fn the_log_warns_before_the_first_datagram_is_dropped() {
    let _alone = alone();
    let ramps = size("SYSTOLE_TEST_RAMPS", 2);
    for ramp in 0..ramps {
        let dir = tempfile::tempdir().expect("a folder");
        let mut beside = Beside::start(dir.path(), "10s");
        let dropped = beside.ramp();
        let is_told = |line: &String| line.contains("the receive buffer is nearly full");
        beside.daemon.wait_for("warning", |lines| lines.iter().any(is_told));
        let line = beside.daemon.lines.iter().find(|line| is_told(line)).expect("a line").clone();
        let dropped = dropped.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64() % 86_400.0;
        let ahead = dropped - time_of(&line);
        assert!(ahead > 0.0, "ramp {ramp}: {line}: {ahead} s before the first drop");
        eprintln!("ramp {ramp}: the warning came {:.0} ms before the first drop", ahead * 1000.0);
        let status = beside.daemon.status();
        assert!(peak(&status) > 0.95 && warnings(&status) > 0, "{status}");
    }
}
