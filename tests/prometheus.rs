//! The scrape endpoint through the front door. Prometheus itself scrapes it in `tests/oracle/prometheus.py`.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Daemon, get, systole, text};

fn start(dir: &Path, more: &str) -> (Daemon, SocketAddr) {
    // A port that was free a moment ago: the endpoint's own is fixed, as a scrape needs it.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|place| place.local_addr()).expect("a port");
    let config = format!(
        "interval = \"200ms\"\nself_metrics = false\n{more}\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"prometheus\"\naddress = \"{address}\"\nttl = \"2s\"\n[http]\naddress = \"127.0.0.1:0\"\n\
         [presence]\nenabled = false\n[[rule]]\nmatch = \"bucketed\"\nbuckets = [10, 100]\n"
    );
    (Daemon::start(dir, &config), address)
}

/// Scrapes until an answer satisfies `done`.
fn scrape_when(address: SocketAddr, what: &str, done: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (status, body) = get(address, "/metrics", "");
        assert_eq!(status, 200);
        if done(&body) {
            return body;
        }
        assert!(Instant::now() < deadline, "never {what}: {body}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[test]
fn counters_go_on_and_gauges_leave() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, address) = start(dir.path(), "gauge_ttl = \"400ms\"");
    let lines = b"api.hits:2|c|#route:/a,bare\napi.t:100:300|ms\nbucketed:5:50:500|ms|@0.5\nup.set:a|s\ng:-1.5|g";
    daemon.send_udp(&[lines]);
    let body = scrape_when(address, "there", |body| body.contains("quantile"));
    for line in [
        "# TYPE api_hits_total counter",
        "api_hits_total{bare=\"\",route=\"/a\"} 2",
        "# TYPE api_t_seconds summary",
        "api_t_seconds{quantile=\"0.5\"} 0.1",
        "api_t_seconds{quantile=\"0.999\"} 0.3",
        "# TYPE bucketed_seconds histogram",
        "# TYPE g gauge",
        "g -1.5",
        "up_set 1",
    ] {
        assert!(body.lines().any(|found| found == line), "{line}\n{body}");
    }
    for _ in 0..2 {
        daemon.send_udp(&[lines]);
        std::thread::sleep(Duration::from_millis(220));
    }
    scrape_when(address, "all there", |body| body.contains("api_hits_total{bare=\"\",route=\"/a\"} 6\n"));
    let body = scrape_when(address, "all added", |body| body.contains("api_t_seconds_count 6\n"));
    for line in [
        "api_t_seconds_sum 1.2",
        "bucketed_seconds_bucket{le=\"0.01\"} 6",
        "bucketed_seconds_bucket{le=\"0.1\"} 12",
        "bucketed_seconds_bucket{le=\"+Inf\"} 18",
        "bucketed_seconds_count 18",
    ] {
        assert!(body.lines().any(|found| found == line), "{line}\n{body}");
    }
    scrape_when(address, "without the gauge", |body| !body.contains("# TYPE g gauge") && body.contains("api_hits"));
    // Sets stay for scrapes that are rarer.
    scrape_when(address, "without counters after their time", |body| {
        !body.contains("_total") && body.contains("up_set")
    });
    daemon.stop();
}

#[test]
fn openmetrics_is_answered_to_who_asks_for_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, address) = start(dir.path(), "");
    daemon.send_udp(&[b"a.b:1|c\nt:1|ms"]);
    scrape_when(address, "there", |body| body.contains("a_b_total 1"));
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let (_, body) = get(address, "/metrics", accept);
    assert!(body.starts_with("# HELP a_b counter a.b\n# TYPE a_b counter\na_b_total 1\na_b_created 1"), "{body}");
    assert!(body.ends_with("# EOF\n") && body.contains("t_seconds_created "), "{body}");
    daemon.stop();
}

#[test]
fn names_that_become_one_are_told_and_counted_and_harm_nobody() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut daemon, address) = start(dir.path(), "");
    daemon.send_udp(&[b"a.b:1|c"]);
    scrape_when(address, "there", |body| body.contains("a_b_total 1\n"));
    // The same name and labels, another type under the name, a sample's name.
    daemon.send_udp(&[b"a_b:5|c\na.b:7|g\na.b_total:9|g\nother:1|c"]);
    let body = scrape_when(address, "the other is there", |body| body.contains("other_total 1\n"));
    assert!(body.contains("a_b_total 1\n") && !body.contains("# TYPE a_b gauge"), "{body}");
    daemon.wait_for("a warning", |lines| lines.iter().any(|line| line.contains("belongs to another")));
    let status =
        daemon.status_when("they are counted", |s| s["sinks"]["prometheus"]["dropped"]["conflict"].as_u64() >= Some(2));
    let sink = &status["sinks"]["prometheus"];
    let number = |key: &str| sink[key].as_u64().expect("a number");
    let dropped: u64 = sink["dropped"].as_object().expect("reasons").values().filter_map(|n| n.as_u64()).sum();
    assert_eq!(number("offered"), number("delivered") + number("queued") + dropped);
    daemon.stop();
}

#[test]
fn hostile_names_and_values_are_inert() {
    let dir = tempfile::tempdir().expect("a folder");
    let capture = dir.path().join("c.jsonl");
    let data = "x\u{1b}[2J.y:1|c|#k\u{1b}:v\"}\u{1b} 1\\n\u{202e}\n9:1|g\nle:1|ms|#le:1,quantile:2";
    std::fs::write(&capture, json!({"t": 0, "data": data}).to_string()).expect("written");
    let output = systole(&["replay", "--as", "prometheus", capture.to_str().expect("plain")], b"");
    let body = text(&output.stdout);
    assert!(body.chars().all(|c| c == '\n' || !c.is_control()) && !body.contains('\u{202e}'), "{body:?}");
    for line in ["x__2J_y_total{k_=\"v\\\"}_ 1\\\\n_\"} 1", "_9 1"] {
        assert!(body.lines().any(|found| found == line), "{line}\n{body}");
    }
    assert!(body.contains("le_seconds{exported_le=\"1\",exported_quantile=\"2\",quantile=\"0.5\"} 0.001"), "{body}");
}

#[test]
fn a_port_that_is_taken_is_told_at_the_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let file = dir.path().join("c.toml");
    std::fs::write(&file, format!("[http]\naddress = \"off\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"prometheus\"\naddress = \"{address}\"\n"))
        .expect("written");
    let name = file.to_str().expect("plain");
    let output = systole(&["run", "-c", name], b"");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("cannot listen on http://{address}/metrics")), "{said}");
    let output = systole(&["check", "--connect", "-c", name], b"");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
}
