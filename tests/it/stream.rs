//! What happens, as clients of the API see it: the journal of events, and streams of intervals.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::support::{Daemon, get, pause_ms, poll, until};

fn config(more: &str) -> String {
    format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[http]\naddress = \"127.0.0.1:0\"\n{more}"
    )
}

/// The events that a query finds, newest first.
fn events(daemon: &Daemon, query: &str) -> Vec<Value> {
    let (code, body) = daemon.get(&format!("/api/v1/events?{query}"));
    assert_eq!(code, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert!(answer["dropped"].is_u64(), "{answer}");
    answer["events"].as_array().expect("a list").clone()
}

/// The event of a query whose title is this, as soon as there is one.
fn event(daemon: &Daemon, query: &str, title: &str) -> Value {
    poll(title, || {
        let found = events(daemon, query);
        let titles: Vec<Value> = found.iter().map(|event| event["title"].clone()).collect();
        found
            .into_iter()
            .find(|event| event["title"].as_str().is_some_and(|text| text.starts_with(title)))
            .ok_or(titles)
    })
}

#[test]
fn what_happens_is_in_the_journal_with_its_kind_and_level() {
    let dir = tempfile::tempdir().expect("a folder");
    // A sink whose receiver is away at first.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|place| place.local_addr()).expect("a port");
    let sink = format!("[[sink]]\nname = \"away\"\ntype = \"graphite\"\naddress = \"{port}\"\n");
    let daemon = Daemon::start(dir.path(), &format!("max_series = 20\n{}", config(&sink)));
    let start = event(&daemon, "kind=start", "systole ");
    assert!(start["level"] == "info" && start["text"].as_str().expect("text").contains("udp://127.0.0.1:"), "{start}");
    daemon.send_udp(&[
        b"_e{10,4}:deploy api|4.12|t:warning|#service:api,canary,az:a,az:b",
        b"_sc|disk|2|h:web-1|#service:store|m:full",
        b"checkout.hits:1|c|#route:/pay\nheartbeat.pay.web-1:60|g",
    ]);
    let deploy = event(&daemon, "kind=event", "deploy api");
    assert_eq!(
        (&deploy["level"], &deploy["text"], &deploy["service"]),
        (&"warning".into(), &"4.12".into(), &"api".into())
    );
    assert_eq!(deploy["tags"], serde_json::json!({"az": ["a", "b"], "canary": null, "service": "api"}));
    let check = event(&daemon, "kind=service_check", "disk is critical");
    assert_eq!(
        (&check["level"], &check["text"], &check["tags"]["host"]),
        (&"error".into(), &"full".into(), &"web-1".into())
    );
    let series = event(&daemon, "kind=series", "first series under checkout.: checkout.hits");
    assert_eq!(series["series"], "counter:checkout.hits;route=/pay");
    let presence = event(&daemon, "kind=presence", "pay/web-1 was heard for the first time");
    assert_eq!((&presence["service"], &presence["tags"]["instance"]), (&"pay".into(), &"web-1".into()));
    let away = event(&daemon, "kind=sink", "away takes nothing");
    assert!(away["level"] == "error" && !away["text"].as_str().expect("text").is_empty(), "{away}");
    let names: Vec<String> = (0..40).map(|n| format!("many.{n}:1|c")).collect();
    daemon.send_udp(&[names.join("\n").as_bytes()]);
    event(&daemon, "kind=limit", "`max_series` is reached");
    event(&daemon, "kind=limit", "new series fit into `max_series` again");
    let receiver = TcpListener::bind(port).expect("the port again");
    std::thread::spawn(move || {
        for stream in receiver.incoming() {
            let _ = std::io::copy(&mut stream.expect("a connection"), &mut std::io::sink());
        }
    });
    let back = event(&daemon, "kind=sink", "away takes records again");
    assert_eq!(back["level"], "ok");
    // Numbers grow, texts are found in any case, and there is no more than asked for.
    let since = deploy["id"].as_str().expect("an id");
    let later = events(&daemon, &format!("since={since}&limit=1000"));
    let number = |event: &Value| event["id"].as_str().and_then(|id| id.parse::<u64>().ok()).expect("a number");
    assert!(later.iter().all(|event| number(event) > number(&deploy)) && !later.is_empty());
    assert!(later.windows(2).all(|two| number(&two[0]) > number(&two[1])));
    assert_eq!(events(&daemon, "q=DEPLOY")[0]["id"], deploy["id"]);
    assert_eq!((events(&daemon, "limit=2").len(), events(&daemon, "q=nothing+like+it").len()), (2, 0));
    for (query, says) in [
        ("limit=0", "`limit` is a whole number of 1 to 1000"),
        ("kind=events", "`kind` is one of event, service_check"),
        ("since=x", "`since` is a whole number"),
    ] {
        let (code, body) = daemon.get(&format!("/api/v1/events?{query}"));
        assert!(code == 400 && body.contains(says), "{query}: {code} {body}");
    }
    daemon.stop();
}

/// A server-sent event.
#[derive(Debug, Default)]
struct Message {
    id: String,
    name: String,
    data: Value,
}

/// A client of a stream.
struct Stream {
    lines: BufReader<Chunks>,
}

/// A body in chunks, as a reader; it ends with the last of them.
struct Chunks {
    inner: BufReader<TcpStream>,
    left: usize,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let mut size = String::new();
            while size.trim().is_empty() && self.inner.read_line(&mut size)? > 0 {}
            self.left = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            if self.left == 0 {
                return Ok(0);
            }
        }
        let most = out.len().min(self.left);
        let count = self.inner.read(&mut out[..most])?;
        self.left -= count;
        Ok(count)
    }
}

impl Stream {
    /// Opens a stream, or shows the refusal.
    fn open(
        to: SocketAddr,
        query: &str,
        headers: &str,
        receive_buffer: Option<usize>,
    ) -> Result<Stream, (u16, String)> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).expect("a size");
        }
        socket.connect(&to.into()).expect("connected");
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        write!(stream, "GET /api/v1/stream?{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").expect("sent");
        let mut inner = BufReader::new(stream);
        let (mut head, mut line) = (String::new(), String::new());
        while inner.read_line(&mut line).expect("a head") > 2 {
            head.push_str(&std::mem::take(&mut line));
        }
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        if code != 200 {
            let length =
                head.to_lowercase().split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            let mut body = vec![0; length.expect("a length")];
            inner.read_exact(&mut body).expect("a body");
            return Err((code, String::from_utf8(body).expect("text")));
        }
        assert!(head.to_lowercase().contains("content-type: text/event-stream"), "{head}");
        Ok(Stream { lines: BufReader::new(Chunks { inner, left: 0 }) })
    }

    fn of(daemon: &Daemon, query: &str) -> Stream {
        Stream::open(daemon.http.expect("HTTP"), query, "", None).expect("a stream")
    }

    /// The next message; `None` at the end.
    fn next(&mut self) -> Option<Message> {
        let mut message = Message::default();
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("a line") == 0 {
                return None;
            }
            match line.trim_end_matches('\n').split_once(": ") {
                Some(("id", id)) => message.id = id.into(),
                Some(("event", name)) => message.name = name.into(),
                Some(("data", data)) => message.data = serde_json::from_str(data).expect("JSON"),
                _ if line == "\n" && !message.name.is_empty() => return Some(message),
                _ => {}
            }
        }
    }

    /// The next message that fits.
    fn find(&mut self, what: &str, fits: impl Fn(&Message) -> bool) -> Message {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let message = self.next().unwrap_or_else(|| panic!("the stream ended before {what}"));
            if fits(&message) {
                return message;
            }
            assert!(Instant::now() < deadline, "never {what}");
        }
    }
}

#[test]
fn a_stream_has_the_intervals_the_ledger_and_what_happens() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(""));
    let ids = "id=counter:hits;route=/a&id=timer:latency&id=gauge:never&id=counter:hits;route=/a";
    let mut all = Stream::of(&daemon, ids);
    let mut chosen = Stream::of(&daemon, "topics=events,presence");
    // Which of both comes first is not said.
    let mut of_presence = Stream::of(&daemon, "topics=presence");
    daemon.send_udp(&[
        b"hits:3|c|#route:/a\nlatency:5|ms\nlatency:7|ms\nlevel:1|g",
        b"_e{6,1}:deploy|x|#a:1",
        b"heartbeat.pay.web-1:60|g",
    ]);
    let presence = of_presence.find("presence", |message| message.name == "presence");
    assert_eq!((&presence.data["service"], &presence.data["kind"]), (&"pay".into(), &"instance".into()));
    let event = all.find("the event", |message| message.name == "event" && message.data["kind"] == "event");
    assert_eq!(event.data["title"], "deploy");
    let interval = all.find("the interval", |m| m.name == "interval" && !m.data["series"]["timer:latency"].is_null());
    let series = &interval.data["series"];
    assert_eq!((&series["counter:hits;route=/a"]["value"], &series["gauge:never"]), (&3.0.into(), &Value::Null));
    let latency = &series["timer:latency"];
    assert_eq!(
        (&latency["count"], &latency["max"], &latency["p90"]),
        (&2.0.into(), &7.0.into(), &7.0.into()),
        "{latency}"
    );
    assert_eq!(series.as_object().expect("an object").len(), 3);
    let ledger = &interval.data["ledger"];
    assert!(ledger["type"] == "ledger" && ledger["lines"]["read"].as_u64() > Some(0), "{ledger}");
    let verdict = &interval.data["verdict"];
    assert!(verdict["sentence"].is_string() && verdict["level"].is_string(), "{verdict}");
    assert_eq!((&interval.data["time"], &interval.data["completeness"]), (&ledger["time"], &1.0.into()));
    // Each interval once, in order.
    let next = all.find("the next interval", |message| message.name == "interval");
    assert!(next.data["sequence"].as_u64() > interval.data["sequence"].as_u64());
    // Others have what they asked for alone.
    let first = chosen.next().expect("a message");
    assert!(["presence", "event"].contains(&&*first.name), "{}", first.name);
    let of_client = chosen.find("the event", |message| message.data["kind"] == "event");
    assert_eq!(of_client.data["title"], "deploy");
    // Who comes back gets what happened since.
    let again = format!("Last-Event-ID: {}\r\n", first.id);
    let mut back = Stream::open(daemon.http.expect("HTTP"), "topics=interval,events", &again, None).expect("a stream");
    assert_eq!(back.next().map(|message| message.name).as_deref(), Some("gap"));
    back.find("the event again", |message| message.name == "event" && message.data["id"] == event.data["id"]);
    let ahead = back.find("an interval", |message| message.name == "interval");
    let mut current =
        Stream::open(daemon.http.expect("HTTP"), "topics=ledger", &format!("Last-Event-ID: {}\r\n", ahead.id), None)
            .expect("a stream");
    let message = current.find("no series", |message| message.name == "interval");
    assert!(message.data.get("series").is_none() && message.data["ledger"]["type"] == "ledger");
    for (query, says) in [
        ("topics=interval,event", "`topics` is a list of interval, ledger, events, presence"),
        ("id=hits", "`id` is that of a series, such as `counter:api.hits;route=/a`, and not `hits`"),
        (&"id=counter:a&".repeat(101), "`id` is given 101 times; at most 100"),
    ] {
        let (code, body) = Stream::open(daemon.http.expect("HTTP"), query, "", None).err().expect("refused");
        assert!(code == 400 && body.contains(says), "{query}: {code} {body}");
    }
    daemon.stop();
}

#[test]
fn who_reads_too_slowly_is_told_how_much_is_missing() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config("").replace("200ms", "100ms"));
    // Long names make long messages.
    let ids: Vec<String> = (0..100).map(|n| format!("id=counter:{n}.{}", "x".repeat(250))).collect();
    let mut slow = Stream::open(daemon.http.expect("HTTP"), &ids.join("&"), "", Some(4096)).expect("a stream");
    let mut quick = Stream::of(&daemon, "topics=interval");
    let first = slow.find("an interval", |message| message.name == "interval");
    let sequence = |message: &Message| message.data["sequence"].as_u64().expect("a number");
    // Until the kernel takes no more for the one, the other has every interval.
    let begun = quick.next().expect("an interval");
    let mut last = sequence(&begun);
    while last < sequence(&first) + 60 {
        last = sequence(&quick.find("every interval", |message| message.name == "interval"));
    }
    let (mut seen, mut missed) = (sequence(&first), 0);
    while seen < last {
        let message = slow.next().expect("it goes on");
        match message.name.as_str() {
            "gap" => missed += message.data["missed"].as_u64().expect("a number"),
            "interval" => {
                assert_eq!(sequence(&message), seen + 1 + missed, "every interval, or how many are missing");
                (seen, missed) = (sequence(&message), 0);
            }
            _ => {}
        }
    }
    drop(slow);
    assert!(daemon.status()["memory"]["holders"]["http_bodies"]["bytes"].as_u64() < Some(1 << 20));
    daemon.stop();
}

#[test]
fn there_are_at_most_64_streams_and_a_stop_ends_them_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    // The last interval is the only one: none is closed while another is sent.
    let daemon = Daemon::start(dir.path(), &config("").replace("200ms", "1h"));
    let mut streams: Vec<Stream> = (0..64).map(|_| Stream::of(&daemon, "id=counter:last")).collect();
    let to = daemon.http.expect("HTTP");
    let (code, body) = Stream::open(to, "", "", None).err().expect("no place");
    assert!(code == 503 && body.contains("\"busy\"") && body.contains("too many event streams"), "{code} {body}");
    assert_eq!(get(to, "/api/v1/status", "").0, 200);
    streams.pop();
    let again = || Stream::open(to, "", "", None).ok();
    let mut found = None;
    until("a place again", || {
        found = again();
        found.is_some()
    });
    daemon.send_udp(&[b"last:1|c"]);
    pause_ms(1);
    let began = Instant::now();
    daemon.stop();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    // All of them have had the last interval, and their end.
    for stream in &mut streams {
        let mut value = 0.0;
        while let Some(message) = stream.next() {
            value += message.data["series"]["counter:last"]["value"].as_f64().unwrap_or(0.0);
        }
        assert_eq!(value, 1.0);
    }
}
