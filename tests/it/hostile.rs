//! Hostile text in names, tags and values is inert wherever it comes out: page, console, log, JSON, Graphite.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::sync::mpsc;

use systole::internals::protocol::Kind;
use systole::internals::series::Series;
use systole::internals::sinks::console;
use systole::internals::snapshot::{CounterPoint, Snapshot};

use crate::support::{self, Daemon, pause_ms, systole, text};

/// Names, as bytes, whose text acts somewhere.
const HOSTILE: [&str; 8] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "esc\u{1b}[2J\u{1b}]0;title\u{7}",
    "c1\u{9b}31m",
    "rtl\u{202e}gnp.exe",
    "zero\u{200b}width\u{2028}line",
    "'; DROP TABLE x; --",
    "back\\slash\"quote'tick`",
];

/// What must never come out as it is.
fn acts(text: &str) -> Option<char> {
    text.chars().find(|&c| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
    })
}

struct Witness {
    page: String,
    records: String,
    log: String,
    graphite: String,
    snapshot: String,
}

/// Sends every hostile text as name, tag and value, good lines and bad, and collects what comes out.
fn attack() -> Witness {
    let dir = tempfile::tempdir().expect("a folder");
    let graphite = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = graphite.local_addr().expect("an address");
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let (stream, _) = graphite.accept().expect("the sink connects");
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let config = format!(
        "interval = \"1s\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"console\"\n\
         [[sink]]\ntype = \"graphite\"\naddress = \"{address}\"\n[http]\naddress = \"127.0.0.1:0\"\n"
    );
    let daemon = Daemon::start(dir.path(), &config);
    let mut sent = 0;
    for hostile in HOSTILE {
        let safe = hostile.replace([':', '|', '\n'], "");
        for line in [
            format!("{safe}:1|c"),
            format!("tag:1|c|#{safe}:{safe}"),
            format!("set:{safe}|s"),
            format!("bad{safe}:{safe}|c"),
            format!("_e{{{},{}}}:{safe}|{safe}|t:error|#{safe}", safe.len(), safe.len()),
            format!("_sc|{safe}|1|m:{safe}"),
        ] {
            daemon.send_udp(&[line.as_bytes()]);
            sent += 1;
        }
    }
    let huge = format!("{}:1|c", "n".repeat(64 << 10));
    daemon.send_udp(&[
        &huge.as_bytes()[..65_000],
        b"nul\0byte:1|c",
        b"nul:1|c\0",
        &[0xff, 0xfe, b':', b'1', b'|', b'c'],
    ]);
    sent += 4;
    daemon.flushed_when("everything", |status| status["lines"]["read"] == sent);
    let page = ["/", "/series", "/events", "/senders"].map(|path| daemon.get(path).1).concat();
    let snapshot = daemon.get("/api/v1/snapshot").1;
    let log = daemon.stop().join("\n");
    let records = std::fs::read_to_string(dir.path().join("stdout")).expect("records");
    let graphite = lines.try_iter().map(|line| text(&line)).collect::<Vec<_>>().join("\n");
    Witness { page, records, log, graphite, snapshot }
}

#[test]
fn hostile_text_is_inert_on_page_log_json_and_graphite() {
    let seen = attack();
    for (place, out) in [
        ("page", &seen.page),
        ("records", &seen.records),
        ("log", &seen.log),
        ("graphite", &seen.graphite),
        ("api", &seen.snapshot),
    ] {
        assert!(!out.is_empty(), "{place} is empty");
        assert_eq!(acts(&out.replace(['\t', '\u{202f}'], "")), None, "{place}: {out}");
    }
    // The page shows the text, as text.
    assert!(!seen.page.contains("<script>") && !seen.page.contains("<img"), "{}", seen.page);
    assert!(seen.page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    // Records hold it, escaped, and read back as what was sent.
    for line in seen.records.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
    assert!(seen.records.contains("\\u001b[2J") && seen.records.contains("rtl\\u202egnp.exe"));
    // A Graphite line is three words; a name cannot add one.
    for line in seen.graphite.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words.len() == 3 && words[1].parse::<f64>().is_ok() && words[2].parse::<u64>().is_ok(), "{line}");
    }
    // The log tells of the bad lines, one line each.
    assert!(seen.log.lines().any(|line| line.contains("malformed lines")));
}

#[test]
fn hostile_text_is_inert_on_a_terminal() {
    let counters = HOSTILE.iter().map(|name| CounterPoint {
        series: Series::new(Kind::Counter, name, &[(name, Some(name))]),
        sum: Default::default(),
    });
    let table = console::table(&Snapshot { counters: counters.collect(), ..Snapshot::default() });
    assert_eq!(acts(&table), None, "{table}");
    assert_eq!(table.lines().count(), HOSTILE.len() + 1, "{table}");
    for hostile in HOSTILE {
        let output =
            systole(&["explain", &hostile.replace([':', '|'], ""), &format!("x:{}|s", hostile.replace('|', ""))], b"");
        assert_eq!(acts(&text(&output.stdout)), None, "{}", text(&output.stdout));
    }
}

#[test]
fn random_bytes_never_stop_the_daemon() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"1s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nreceive_buffer = \"64MiB\"\n[http]\naddress = \"127.0.0.1:0\"\n";
    let daemon = Daemon::start(dir.path(), config);
    let mut random = support::Random(99);
    let alphabet = b"abc:|@#,;[]=_e{}scmsghdkv0123456789.+-eE\n\r\0 \xff\xc3";
    for n in 0..20_000 {
        let length = random.below(80) as usize;
        let datagram: Vec<u8> = (0..length).map(|_| *random.pick(alphabet)).collect();
        daemon.send_udp(&[&datagram]);
        if n % 1000 == 0 {
            // No faster than the socket is read.
            pause_ms(10);
        }
    }
    daemon.send_udp(&[b"still.here:1|c"]);
    let status = daemon.flushed_when("all of it", |status| {
        let l = &status["listeners"][0];
        l["datagrams"].as_u64().unwrap_or(0) + l["kernel_drops"].as_u64().unwrap_or(0) == 20_001
    });
    assert!(status["lines"]["malformed"].as_object().is_some_and(|reasons| reasons.len() > 5), "{status}");
    daemon.stop();
}
