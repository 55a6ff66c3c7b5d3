//! The Influx sink through the front door, against a server of ours that is strict about the published endpoints and
//! answers what real ones answer. InfluxDB itself takes part in `tests/oracle/influx.py`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::support::receiver::{Reply::Says, Request, receiver};
use crate::support::{Daemon, systole, text};

fn start(dir: &Path, sink: &str) -> Daemon {
    let config = format!(
        "interval = \"200ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"influx\"\n{sink}\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    );
    Daemon::start(dir, &config)
}

#[test]
fn each_version_gets_its_endpoint_and_its_credentials() {
    for (options, line, header) in [
        (
            "database = \"my db\"\nretention_policy = \"a&b\"\nusername = \"me\"\npassword = \"p w\"",
            "POST /write?db=my%20db&precision=ms&rp=a%26b&u=me&p=p%20w HTTP/1.1",
            "content-type: text/plain; charset=utf-8",
        ),
        (
            "version = 2\norg = \"acme\"\nbucket = \"b/c\"\ntoken = \"secret\"",
            "POST /api/v2/write?org=acme&bucket=b%2Fc&precision=ms HTTP/1.1",
            "authorization: Token secret",
        ),
        (
            "version = 3\ndatabase = \"d\"\ntoken = \"secret\"",
            "POST /api/v3/write_lp?db=d&precision=millisecond HTTP/1.1",
            "authorization: Bearer secret",
        ),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let (address, requests) = receiver(vec![Says(204, "")]);
        let daemon = start(dir.path(), &format!("url = \"http://{address}\"\ngzip = false\n{options}"));
        daemon.send_udp(&[b"a.b:2|c|#k:v w"]);
        let request = requests.recv_timeout(Duration::from_secs(20)).expect("a request");
        let (Request { first, headers, .. }, body) = (&request, request.text());
        assert_eq!(first, line);
        assert!(headers.contains(&header.to_lowercase()), "{headers}");
        assert!(body.starts_with("a.b,metric_type=counter,k=v\\ w value=2,rate="), "{body}");
        let log = daemon.stop();
        assert!(log.iter().all(|line| !line.contains("secret") && !line.contains("p w")), "{log:?}");
    }
}

#[test]
fn telegrafs_names_and_types_let_its_database_go_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let (address, requests) = receiver(vec![Says(204, "")]);
    let options = format!("url = \"http://{address}\"\ngzip = false\ndatabase = \"d\"\nnaming = \"telegraf\"");
    let daemon = start(dir.path(), &options);
    daemon.send_udp(&[b"a.c:1|c|@0.3\na.g:2|g\na.s:x|s\na.t:7|ms\na.h:5|h"]);
    let body = requests.recv_timeout(Duration::from_secs(20)).expect("a request").text();
    for start in [
        "a_c,metric_type=counter value=3i,rate=",
        "a_g,metric_type=gauge value=2 ",
        "a_s,metric_type=set value=1i ",
        "a_t,metric_type=timing count=1i,rate=",
        "a_h,metric_type=histogram count=1i,",
    ] {
        assert!(body.lines().any(|line| line.starts_with(start)), "{start}: {body}");
    }
    let fields = ",sum=7,lower=7,upper=7,mean=7,median=7,stddev=0,50_percentile=7,90_percentile=7,";
    assert!(body.contains(fields) && body.contains(",99.9_percentile=7 "), "{body}");
    daemon.stop();
    // A replay calls things as the sink of its configuration does.
    let (config, capture) = (dir.path().join("sink.toml"), dir.path().join("c.jsonl"));
    std::fs::write(&config, format!("[[sink]]\ntype = \"influx\"\n{options}\n")).expect("written");
    std::fs::write(&capture, json!({"t": 0, "data": "a.c:1|c"}).to_string()).expect("written");
    let [config, capture] = [&config, &capture].map(|path| path.to_str().expect("plain"));
    let output = systole(&["replay", "-c", config, "--as", "influx", capture], b"");
    assert!(
        text(&output.stdout).starts_with("a_c,metric_type=counter value=1i,rate=0.1 10000\n"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn what_is_refused_for_good_is_counted_and_what_may_pass_is_tried_again() {
    let partial = r#"{"error":"partial write: field type conflict: input field \"value\" dropped=2"}"#;
    for (answers, dropped, delivered) in [
        (vec![(500, "oops"), (429, "later"), (204, "")], 0, 3),
        (vec![(400, r#"{"error":"unable to parse 'x'"}"#), (204, "")], 3, 0),
        (vec![(400, partial), (204, "")], 2, 1),
        (vec![(404, r#"{"error":"database not found"}"#), (204, "")], 0, 3),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let told = format!("{answers:?}");
        let (address, _requests) = receiver(answers.into_iter().map(|(status, said)| Says(status, said)).collect());
        let daemon = start(dir.path(), &format!("url = \"http://{address}\"\ndatabase = \"d\""));
        daemon.send_udp(&[b"a:1|c\nb:1|c\nc:1|c"]);
        let status = daemon.status_when("delivered", |s| {
            s["sinks"]["influx"]["offered"].as_u64() >= Some(3) && s["sinks"]["influx"]["queued"] == 0
        });
        let sink = &status["sinks"]["influx"];
        assert_eq!(sink["dropped"]["refused"].as_u64().unwrap_or(0), dropped, "{told}: {sink}");
        assert_eq!(sink["delivered"].as_u64(), Some(delivered), "{told}: {sink}");
        daemon.stop();
    }
}

#[test]
fn replay_shows_line_protocol() {
    let dir = tempfile::tempdir().expect("a folder");
    let capture = dir.path().join("c.jsonl");
    let data = "api.t:10:20|ms|#route:/a b\ng:-2|g\nu:x|s\nk:1|kv\nk:2|kv\nt:5|c|T1700000000";
    std::fs::write(&capture, json!({"t": 0, "data": data}).to_string()).expect("written");
    let output = systole(&["replay", "--as", "influx", capture.to_str().expect("plain")], b"");
    assert_eq!(
        text(&output.stdout),
        "api.t,metric_type=timer,route=/a\\ b count=2,rate=0.2,sum=30,min=10,max=20,mean=15,median=15,stddev=5,p50=10,p90=20,\
         p95=20,p99=20,p99.9=20 10000\n\
         g,metric_type=gauge value=-2 10000\n\
         u,metric_type=set value=1 10000\n\
         k,metric_type=kv value=1 9999\n\
         k,metric_type=kv value=2 10000\n\
         t,metric_type=counter value=5 1700000000000\n"
    );
}

#[test]
fn what_a_version_needs_is_asked_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "[[sink]]\ntype = \"influx\"\nurl = \"http://127.0.0.1:8086\"\nversion = 2\n")
        .expect("written");
    let output = systole(&["check", "-c", file.to_str().expect("plain")], b"");
    let said = text(&output.stderr);
    assert!(said.contains("sink[0].org: missing") && said.contains("sink[0].bucket: missing"), "{said}");
}

#[test]
fn events_checks_and_changes_of_presence_are_points_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let (address, requests) = receiver(vec![Says(204, "")]);
    let config = format!(
        "interval = \"200ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"influx\"\nurl = \"http://{address}\"\ndatabase = \"d\"\n[http]\naddress = \"127.0.0.1:0\"\n\
         [presence]\nstate_file = \"off\"\n"
    );
    let daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[b"_e{6,4}:deploy|done|#env:prod\n_sc|disk|2|m:full\nheartbeat.pay:1|g|#instance:a,interval:1"]);
    let (mut body, deadline) = (String::new(), std::time::Instant::now() + Duration::from_secs(20));
    let wanted = [
        "metric_type=event,name=deploy record=\"{",
        "metric_type=service_check,name=disk ",
        "metric_type=presence,name=pay ",
    ];
    while !wanted.iter().all(|part| body.contains(part)) && std::time::Instant::now() < deadline {
        body.push_str(&requests.recv_timeout(Duration::from_secs(20)).expect("a request").text());
    }
    for part in wanted {
        assert!(body.contains(&format!("systole_notices,{part}")), "{part}\n{body}");
    }
    assert!(body.contains("\\\"message\\\":\\\"full\\\""), "{body}");
    let status = daemon.status_when("all of it delivered", |s| s["sinks"]["influx"]["delivered"].as_u64() >= Some(3));
    assert_eq!(status["sinks"]["influx"]["dropped"], json!({}));
    daemon.stop();
}
