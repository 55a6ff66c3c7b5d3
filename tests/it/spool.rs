//! What waits on disk, through the front door: a receiver that is away, a daemon that is killed, a disk that is full. The
//! whole outage, under load and with the ticks of the other sinks, is `tests/oracle/outage.py`.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{self, Daemon, systole, text};

/// An address where nobody listens yet.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

fn config(address: SocketAddr, spool: &Path, more: &str) -> String {
    format!(
        "interval = \"100ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"graphite\"\naddress = \"{address}\"\nspool.path = \"{}\"\nspool.max = \"1MiB\"\n{more}\n\
         [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n",
        spool.display()
    )
}

fn sink(status: &Value) -> &Value {
    let sink = &status["sinks"]["graphite"];
    let number = |key: &str| sink[key].as_u64().expect("a number");
    let dropped: u64 = sink["dropped"].as_object().expect("a table").values().filter_map(Value::as_u64).sum();
    assert_eq!(number("offered"), number("delivered") + number("queued") + number("spooled") + dropped, "{sink}");
    sink
}

#[test]
fn intervals_outlive_the_daemon_and_arrive_once_and_in_order() {
    let dir = tempfile::tempdir().expect("a folder");
    let (address, spool) = (nobody(), dir.path().join("spool"));
    let config = config(address, &spool, "");
    for round in 1..=3 {
        let daemon = Daemon::start(dir.path(), &config);
        daemon.send_udp(&[format!("round:{round}|c").as_bytes()]);
        let status = daemon.status_when("spooled", |status| sink(status)["spooled"] == round);
        let shown = sink(&status);
        assert!(shown["spool_bytes"].as_u64() > Some(0) && shown["oldest_waiting"].as_f64() > Some(1e9), "{shown}");
        assert!(shown["last_error"].as_str().is_some_and(|error| error.contains("refused")), "{shown}");
        if round == 2 {
            // An orderly stop leaves it on disk as well.
            let log = daemon.stop();
            let left = |line: &String| {
                line.contains("left on disk") && line.contains("intervals=") && line.contains("records=2 ")
            };
            assert!(log.iter().any(left), "{log:?}");
        }
        // Otherwise it is killed as it goes out of scope.
    }
    let listener = TcpListener::bind(address).expect("the port");
    let daemon = Daemon::start(dir.path(), &config);
    let (stream, _) = listener.accept().expect("the daemon");
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let counts: Vec<String> = lines.by_ref().filter(|line| line.starts_with("round.count ")).take(3).collect();
    let parts = |n: usize| counts[n].split(' ').map(str::to_string).collect::<Vec<_>>();
    let times: Vec<u64> = (0..3).map(|n| parts(n)[2].parse().expect("a time")).collect();
    assert_eq!((0..3).map(|n| parts(n)[1].clone()).collect::<Vec<_>>(), ["1", "2", "3"]);
    assert!(times.is_sorted(), "{times:?}");
    daemon.status_when("delivered", |status| sink(status)["delivered"] == 3 && sink(status)["spool_bytes"] == 0);
    daemon.stop();
    let left = std::fs::read_dir(&spool).expect("a folder").filter_map(Result::ok);
    let names: Vec<String> = left.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().all(|name| !name.ends_with(".segment")), "{names:?}");
}

#[test]
fn a_disk_that_is_full_is_told_and_what_does_not_fit_is_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let free = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let config = config(nobody(), &dir.path().join("spool"), "queue = 2\n[[sink]]\ntype = \"console\"");
    let file = dir.path().join("systole.toml");
    std::fs::write(&file, config.replace("127.0.0.1:0\"\nworkers", &format!("{free}\"\nworkers"))).expect("written");
    // Files may be 4 KiB large; an interval of a thousand counters is larger.
    let script = format!("ulimit -f 8; exec {} run -c {}", support::SYSTOLE, file.display());
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", &script]).env("XDG_STATE_HOME", dir.path()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = limited.spawn().expect("it starts");
    let mut log = BufReader::new(child.stderr.take().expect("asked for")).lines().map_while(Result::ok);
    let page =
        log.by_ref().find_map(|line| line.trim().strip_prefix("page ")?.trim().strip_prefix("http://")?.parse().ok());
    let page: SocketAddr = page.expect("a page");
    log.by_ref().find(|line| line.contains("listening")).expect("it listens");
    let lines: Vec<String> = (0..1000).map(|n| format!("some.counter.of.many.{n}.{}:1|c\n", n * 7919)).collect();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let status = support::status_when(page, "a full queue", |status| {
        for part in lines.chunks(200) {
            socket.send_to(part.concat().as_bytes(), free).expect("sent");
        }
        sink(status)["dropped"]["queue_full"].as_u64() > Some(0)
    });
    let shown = sink(&status);
    assert!(shown["spooled"].as_u64() < Some(1000) && shown["queued"].as_u64() > Some(0), "{shown}");
    let told = log.by_ref().find(|line| line.contains("the spool takes nothing"));
    assert!(told.is_some_and(|line| line.contains("File too large")));
    child.kill().expect("it ran");
    child.wait().expect("it ended");
}

#[test]
fn a_spool_needs_a_folder_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    let name = file.to_str().expect("a plain path");
    let spool = dir.path().join("spool");
    let two = format!(
        "[http]\naddress = \"off\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n\
         [[sink]]\ntype = \"graphite\"\naddress = \"127.0.0.1:9\"\nspool.path = \"{0}\"\n\
         [[sink]]\ntype = \"file\"\npath = \"{1}/f\"\nspool.path = \"{0}\"\n",
        spool.display(),
        dir.path().display()
    );
    std::fs::write(&file, two).expect("written");
    let output = systole(&["run", "-c", name], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is that of the sink `graphite`, too"), "{}", text(&output.stderr));

    let broken =
        "[[sink]]\ntype = \"console\"\ninterval = \"15s\"\nspool = { max = \"1\", order = \"any\", roder = 1 }\n";
    std::fs::write(&file, broken).expect("written");
    let said = text(&systole(&["check", "-c", name], b"").stderr);
    for expected in [
        "sink[0].interval: `15s` is no multiple of the daemon's interval, 10s",
        "sink[0].spool.max: `1` is not a size",
        "sink[0].spool.order: `any` is none of `strict`, `interleave`",
        "sink[0].spool.roder: unknown key (did you mean `order`?)",
        "sink[0].spool.path: missing",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
}
