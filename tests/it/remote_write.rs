//! Remote write through the front door, against receivers of ours that are strict about the published protocols. Prometheus and
//! VictoriaMetrics take part in `tests/oracle/remote_write.py`; neither of those here knows 2.0.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;

use crate::support::receiver::{
    self,
    Reply::{Says, With},
    Request, receiver,
};
use crate::support::{Daemon, poll};

/// io.prometheus.write.v2.Request, as published.
#[derive(Clone, PartialEq, Message)]
struct Second {
    #[prost(string, repeated, tag = "4")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    series: Vec<SecondSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct SecondSeries {
    #[prost(uint32, repeated, tag = "1")]
    labels: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    histograms: Vec<Histogram>,
    #[prost(message, optional, tag = "5")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(int32, tag = "1")]
    kind: i32,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    count: Option<u64>,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(int64, tag = "15")]
    timestamp: i64,
}

/// prometheus.WriteRequest.
#[derive(Clone, PartialEq, Message)]
struct First {
    #[prost(message, repeated, tag = "1")]
    series: Vec<FirstSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct FirstSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

const TAKEN: receiver::Reply = With(204, "X-Prometheus-Remote-Write-Samples-Written: 1", "");

fn start(dir: &Path, sink: &str) -> Daemon {
    start_with(dir, "", sink)
}

fn start_with(dir: &Path, root: &str, sink: &str) -> Daemon {
    let config = format!(
        "interval = \"200ms\"\nself_metrics = false\n{root}\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\nname = \"it\"\ntype = \"remote_write\"\n{sink}\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    );
    Daemon::start(dir, &config)
}

/// A sample as it was written: name and labels, Unix milliseconds, value.
type Written = (String, i64, f64);

/// Bits of the value that ends a series.
const STALE: u64 = 0x7ff0_0000_0000_0002;

/// A receiver that keeps everything, and what it has.
fn keeper() -> (SocketAddr, Arc<Mutex<Vec<Written>>>) {
    let kept: Arc<Mutex<Vec<Written>>> = Arc::default();
    let seen = Arc::clone(&kept);
    let address = receiver::serve("127.0.0.1:0".parse().expect("an address"), move |request| {
        let message = First::decode(&unpacked(&request)[..]).expect("the message");
        let mut kept = seen.lock().expect("no panic");
        for one in message.series {
            assert!(one.labels.iter().all(|label| !label.value.is_empty()), "{:?}", one.labels);
            let labels: Vec<String> =
                one.labels[1..].iter().map(|label| format!("{}={}", label.name, label.value)).collect();
            let name = format!("{}{{{}}}", one.labels[0].value, labels.join(","));
            kept.extend(one.samples.iter().map(|sample| (name.clone(), sample.timestamp, sample.value)));
            let ends = one.histograms.iter().map(|histogram| (name.clone(), histogram.timestamp, histogram.sum));
            kept.extend(ends);
        }
        Says(204, "")
    });
    (address, kept)
}

/// The samples of a series once they satisfy `done`.
fn samples_when(kept: &Mutex<Vec<Written>>, name: &str, done: impl Fn(&[(i64, f64)]) -> bool) -> Vec<(i64, f64)> {
    poll(name, || {
        let all = kept.lock().expect("no panic").clone();
        let mine: Vec<(i64, f64)> =
            all.iter().filter(|(known, ..)| known == name).map(|(_, at, value)| (*at, *value)).collect();
        if done(&mine) { Ok(mine) } else { Err((mine, all)) }
    })
}

fn is_stale(sample: &(i64, f64)) -> bool {
    sample.1.to_bits() == STALE
}

fn unpacked(request: &Request) -> Vec<u8> {
    assert!(request.headers.contains("content-encoding: snappy"), "{}", request.headers);
    snap::raw::Decoder::new().decompress_vec(&request.body).expect("snappy, raw")
}

#[test]
fn version_two_is_as_published() {
    let dir = tempfile::tempdir().expect("a folder");
    let (address, requests) = receiver(vec![TAKEN]);
    let daemon = start(dir.path(), &format!("url = \"http://{address}/api/v1/push\"\nversion = 2"));
    daemon.send_udp(&["hits:3|c|#Zone:9,route:/a\nt:100:200:400|ms\nlevel:-2|g".as_bytes()]);
    let request = requests.recv_timeout(Duration::from_secs(20)).expect("a request");
    assert_eq!(request.first, "POST /api/v1/push HTTP/1.1");
    for header in [
        "content-type: application/x-protobuf;proto=io.prometheus.write.v2.request",
        "x-prometheus-remote-write-version: 2.0.0",
        "user-agent: systole/",
    ] {
        assert!(request.headers.contains(header), "{header}\n{}", request.headers);
    }
    let message = Second::decode(&unpacked(&request)[..]).expect("the message");
    assert_eq!(message.symbols[0], "");
    let mut kinds = BTreeMap::new();
    for series in &message.series {
        assert!(series.labels.len().is_multiple_of(2));
        let texts: Vec<&str> = series.labels.iter().map(|&n| message.symbols[n as usize].as_str()).collect();
        let names: Vec<&str> = texts.iter().step_by(2).copied().collect();
        assert!(names.is_sorted() && names.contains(&"__name__"), "{texts:?}");
        let at = names.iter().position(|name| *name == "__name__").expect("a name");
        kinds.insert(texts[2 * at + 1].to_string(), (series.clone(), series.metadata.clone().expect("metadata").kind));
    }
    let (hits, kind) = &kinds["hits_total"];
    assert_eq!((*kind, hits.samples.len(), hits.samples[0].value, hits.samples[1].value), (1, 2, 0.0, 3.0));
    assert!(hits.samples[0].timestamp < hits.samples[1].timestamp);
    assert_eq!((kinds["level"].1, kinds["level"].0.samples[0].value), (2, -2.0));
    let (timer, kind) = &kinds["t_seconds"];
    let histogram = &timer.histograms[0];
    assert_eq!((*kind, histogram.count, histogram.schema), (3, Some(3), 6));
    assert!((histogram.sum - 0.7).abs() < 1e-12);
    // Three buckets of one: 0.1, 0.2 and 0.4 seconds, 64 buckets apart, the first at ceil(64 · log2 0.1).
    let spans: Vec<(i32, u32)> = histogram.positive_spans.iter().map(|span| (span.offset, span.length)).collect();
    assert_eq!((spans, &histogram.positive_deltas[..]), (vec![(-212, 1), (63, 1), (63, 1)], &[1, 0, 0][..]));
    daemon.stop();
}

#[test]
fn a_receiver_that_does_not_know_version_two_gets_one() {
    for unknowing in [Says(415, "unsupported"), Says(204, "")] {
        let dir = tempfile::tempdir().expect("a folder");
        let (address, requests) = receiver(vec![unknowing, Says(204, "")]);
        let daemon = start(dir.path(), &format!("url = \"http://{address}\"\nversion = 2"));
        daemon.send_udp(&[b"hits:3|c"]);
        let wait = || requests.recv_timeout(Duration::from_secs(20)).expect("a request");
        assert!(wait().headers.contains("version: 2.0.0"));
        let second = wait();
        assert!(second.headers.contains("version: 0.1.0"));
        let message = First::decode(&unpacked(&second)[..]).expect("the message");
        assert_eq!(message.series[0].labels[0].value, "hits_total");
        daemon.stop();
    }
}

#[test]
fn one_series_that_is_refused_takes_no_other_along() {
    let dir = tempfile::tempdir().expect("a folder");
    // A request with this series is refused as a whole, as Prometheus does it.
    let (taken, refusing) = (std::sync::Arc::new(std::sync::Mutex::new(Vec::new())), "bad_total");
    let seen = std::sync::Arc::clone(&taken);
    let address = receiver::serve("127.0.0.1:0".parse().expect("an address"), move |request| {
        let message = First::decode(&snap::raw::Decoder::new().decompress_vec(&request.body).expect("snappy")[..]);
        let series = message.expect("the message").series;
        let names: Vec<String> = series.iter().map(|one| one.labels[0].value.clone()).collect();
        if names.iter().any(|name| name == refusing) {
            return Says(400, "out of order sample");
        }
        seen.lock().expect("no panic").extend(names);
        Says(204, "")
    });
    let daemon = start(dir.path(), &format!("url = \"http://{address}\""));
    let lines: Vec<String> = (0..50).map(|n| format!("good{n}:1|c")).collect();
    daemon.send_udp(&[format!("{}\nbad:1|c\n{}", lines[..25].join("\n"), lines[25..].join("\n")).as_bytes()]);
    let status = daemon.status_when("delivered", |status| status["sinks"]["it"]["delivered"] == 50);
    assert_eq!(status["sinks"]["it"]["dropped"]["refused"], 1, "{}", status["sinks"]["it"]);
    let mut names = taken.lock().expect("no panic").clone();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 50);
    daemon.stop();
}

#[test]
fn what_goes_on_is_sent_with_every_interval_and_what_leaves_is_marked() {
    let dir = tempfile::tempdir().expect("a folder");
    let (address, kept) = keeper();
    let sink = format!(
        "url = \"http://{address}\"\nttl = \"1200ms\"\n\
         [[rule]]\nmatch = \"slow\"\ninterval = 3\nttl = \"1h\""
    );
    let daemon = start_with(dir.path(), "gauge_ttl = \"500ms\"", &sink);
    daemon.send_udp(&[b"hits:3|c|#k:v,bare\nlevel:7|g\nusers:ann|s\nt:100|ms\nslow:1|g"]);
    let ends = |samples: &[(i64, f64)]| samples.last().is_some_and(is_stale);
    // A counter pauses until its time is over: its value in every interval, after a zero, and then its end.
    let hits = samples_when(&kept, "hits_total{k=v}", ends);
    let values: Vec<f64> = hits[..hits.len() - 1].iter().map(|sample| sample.1).collect();
    assert!(values[0] == 0.0 && values[1..].iter().all(|value| *value == 3.0), "{values:?}");
    let (first, (last, end)) = (hits[1].0, (hits[hits.len() - 2].0, hits[hits.len() - 1].0));
    assert!(last - first < 1200 && end - first >= 1200, "{hits:?}");
    let gaps: Vec<i64> = hits[1..].windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.iter().all(|gap| gap % 200 == 0), "{gaps:?}");
    // A native histogram goes on likewise; its end is one, too.
    let timer = samples_when(&kept, "t_seconds{}", ends);
    assert_eq!(timer.len(), hits.len() - 1);
    assert!(timer[..timer.len() - 1].iter().all(|sample| sample.1 == 0.1), "{timer:?}");
    // A gauge that is flushed in every third interval is not missed in the others.
    let slow = samples_when(&kept, "slow{}", |samples| samples.len() >= 6);
    assert!(slow.iter().all(|sample| sample.1 == 1.0), "{slow:?}");
    // A gauge ends with the interval in which it expired; what a set said of one interval ends with the next.
    let level = samples_when(&kept, "level{}", ends);
    assert!(level.len() < hits.len() - 1 && level[..level.len() - 1].iter().all(|s| s.1 == 7.0), "{level:?}");
    assert_eq!(samples_when(&kept, "users{}", ends).len(), 2);
    // One that comes back begins with zero again, later than its end.
    daemon.send_udp(&[b"hits:2|c|#k:v\nlevel:1|g"]);
    let again = samples_when(&kept, "hits_total{k=v}", |samples| samples.len() > hits.len() + 2);
    let fresh = &again[hits.len()..];
    assert_eq!((fresh[0].1, fresh[1].1), (0.0, 2.0), "{again:?}");
    assert!(again.windows(2).all(|pair| pair[0].0 < pair[1].0), "{again:?}");
    let sink = &daemon.status()["sinks"]["it"];
    assert!(sink["dropped"].as_object().is_some_and(serde_json::Map::is_empty), "{sink}");
    // At the end everything does.
    samples_when(&kept, "level{}", |samples| samples.len() > level.len());
    daemon.stop();
    for name in ["hits_total{k=v}", "level{}"] {
        let all = samples_when(&kept, name, ends);
        assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0), "{name}: {all:?}");
    }
}

#[test]
fn a_gauge_of_the_past_does_not_hide_what_it_is_now() {
    let dir = tempfile::tempdir().expect("a folder");
    let (address, kept) = keeper();
    let daemon = start(dir.path(), &format!("url = \"http://{address}\""));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let (past, ahead) = (now - 60, now + 60);
    let lines = format!("level:20|g\nlevel:5|g|T{past}\nlevel:6|g|T{}\nsoon:1|g\nsoon:2|g|T{ahead}", past - 60);
    daemon.send_udp(&[lines.as_bytes()]);
    let level = samples_when(&kept, "level{}", |samples| samples.len() >= 3);
    assert!(level.iter().all(|sample| sample.1 == 20.0), "{level:?}");
    assert_eq!(samples_when(&kept, "soon{}", |samples| !samples.is_empty())[0].1, 2.0);
    daemon.stop();
}

#[test]
fn a_receiver_without_native_histograms_gets_classic_ones() {
    for status in [500, 400] {
        let dir = tempfile::tempdir().expect("a folder");
        let kept: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&kept);
        let address = receiver::serve("127.0.0.1:0".parse().expect("an address"), move |request| {
            let message = First::decode(&unpacked(&request)[..]).expect("the message");
            if message.series.iter().any(|one| !one.histograms.is_empty()) {
                return Says(status, "native histograms are disabled\n");
            }
            let text = |one: &FirstSeries| {
                let labels: Vec<&str> = one.labels.iter().map(|label| label.value.as_str()).collect();
                format!("{} {}", labels.join(" "), one.samples.last().map_or(f64::NAN, |sample| sample.value))
            };
            seen.lock().expect("no panic").extend(message.series.iter().map(text));
            Says(204, "")
        });
        let mut daemon = start(dir.path(), &format!("url = \"http://{address}\""));
        daemon.send_udp(&[b"t:100:250:3000|ms\nhits:1|c"]);
        let account = daemon.status_when("delivered", |status| status["sinks"]["it"]["delivered"] == 2);
        assert_eq!(account["sinks"]["it"]["last_error"], serde_json::Value::Null);
        daemon.send_udp(&[b"t:100|ms"]);
        daemon.status_when("delivered", |status| status["sinks"]["it"]["delivered"] == 3);
        daemon.wait_for("a word", |lines| lines.iter().any(|line| line.contains("no native histograms")));
        let lines = daemon.stop();
        assert_eq!(lines.iter().filter(|line| line.contains("no native histograms")).count(), 1, "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("delivery failed")), "{lines:?}");
        let all = kept.lock().expect("no panic").clone();
        // Bounds hold their values, those from before the receiver said so, too.
        for line in ["t_seconds_bucket 0.1 1", "t_seconds_bucket 0.1 2", "t_seconds_bucket +Inf 4", "t_seconds_count 4"]
        {
            assert!(all.iter().any(|known| known == line), "{line}: {all:?}");
        }
    }
}

#[test]
fn a_zero_that_is_refused_does_not_take_its_counter_along() {
    let dir = tempfile::tempdir().expect("a folder");
    let taken: Arc<Mutex<Vec<f64>>> = Arc::default();
    let seen = Arc::clone(&taken);
    let address = receiver::serve("127.0.0.1:0".parse().expect("an address"), move |request| {
        let message = First::decode(&unpacked(&request)[..]).expect("the message");
        if message.series.iter().any(|one| one.samples.len() > 1) {
            return Says(400, "out of order sample");
        }
        seen.lock().expect("no panic").extend(message.series.iter().map(|one| one.samples[0].value));
        Says(204, "")
    });
    let daemon = start(dir.path(), &format!("url = \"http://{address}\""));
    daemon.send_udp(&[b"a:1|c\nb:2|c"]);
    let status = daemon.status_when("delivered", |status| status["sinks"]["it"]["delivered"] == 2);
    assert!(status["sinks"]["it"]["dropped"].as_object().is_some_and(serde_json::Map::is_empty), "{status}");
    assert!(taken.lock().expect("no panic").contains(&2.0));
    daemon.stop();
}

#[test]
fn what_is_deleted_over_the_management_port_is_marked() {
    let dir = tempfile::tempdir().expect("a folder");
    let (address, kept) = keeper();
    let sink = format!("url = \"http://{address}\"\n[management]\naddress = \"127.0.0.1:0\"");
    let daemon = start(dir.path(), &sink);
    let line = daemon.lines.iter().find_map(|line| line.trim().strip_prefix("manage")).expect("it says where");
    let port: SocketAddr = line.trim().strip_prefix("tcp://").and_then(|a| a.parse().ok()).expect("an address");
    daemon.send_udp(&[b"hits:3|c\nstays:1|c"]);
    samples_when(&kept, "hits_total{}", |samples| samples.len() >= 2);
    let mut stream = TcpStream::connect(port).expect("connected");
    stream.write_all(b"delcounters hits\nquit\n").expect("sent");
    let mut heard = String::new();
    let _ = stream.read_to_string(&mut heard);
    assert!(heard.starts_with("deleted: hits\n"), "{heard}");
    let hits = samples_when(&kept, "hits_total{}", |samples| samples.last().is_some_and(is_stale));
    samples_when(&kept, "stays_total{}", |samples| samples.len() > hits.len());
    assert_eq!(samples_when(&kept, "hits_total{}", |_| true).len(), hits.len());
    daemon.stop();
}
