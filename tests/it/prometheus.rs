//! The scrape endpoint through the front door. Prometheus itself scrapes it in `tests/oracle/prometheus.py`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Daemon, alone, get, get_within, pause_ms, poll, systole, text, until};

fn start(dir: &Path, more: &str) -> (Daemon, SocketAddr) {
    start_with(dir, more, "ttl = \"2s\"")
}

fn start_with(dir: &Path, more: &str, sink: &str) -> (Daemon, SocketAddr) {
    // A port that was free a moment ago: the endpoint's own is fixed, as a scrape needs it.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|place| place.local_addr()).expect("a port");
    let config = format!(
        "interval = \"200ms\"\nself_metrics = false\n{more}\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"prometheus\"\naddress = \"{address}\"\n{sink}\n[http]\naddress = \"127.0.0.1:0\"\n\
         [presence]\nenabled = false\n[[rule]]\nmatch = \"bucketed\"\nbuckets = [10, 100]\n"
    );
    (Daemon::start(dir, &config), address)
}

/// Scrapes until an answer satisfies `done`.
fn scrape_when(address: SocketAddr, what: &str, done: impl Fn(&str) -> bool) -> String {
    poll(what, || {
        let (status, body) = get(address, "/metrics", "");
        assert_eq!(status, 200);
        if done(&body) { Ok(body) } else { Err(body) }
    })
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
    for n in 2..=3 {
        daemon.send_udp(&[lines]);
        daemon.closed(5 * n);
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
fn series_that_differ_by_type_alone_are_told_with_their_types() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut daemon, _) = start_with(dir.path(), "", "naming = \"exporter\"");
    daemon.send_udp(&[b"same:1|ms\nsame:2|h"]);
    daemon.wait_for("both types", |lines| {
        let mut told = lines.iter().filter(|line| line.contains("belongs to another"));
        told.any(|line| line.contains("timer same") && line.contains("histogram same"))
    });
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

#[test]
fn a_port_that_the_daemon_has_that_runs_is_no_mistake() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, address) = start_with(dir.path(), "", "");
    let page = daemon.http.expect("a page");
    let file = dir.path().join("again.toml");
    let check = |port: SocketAddr| {
        let sink = format!("[[sink]]\ntype = \"prometheus\"\naddress = \"{port}\"\n");
        std::fs::write(&file, format!("[http]\naddress = \"{page}\"\n{sink}")).expect("written");
        let output = systole(&["check", "--connect", "-c", file.to_str().expect("plain")], b"");
        (output.status.code(), text(&output.stdout))
    };
    let (code, said) = check(address);
    assert!(code == Some(0) && said.contains(&format!(": a systole that runs serves {address}\n")), "{said}");
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (code, said) = check(other.local_addr().expect("bound"));
    assert!(code == Some(1) && said.contains("cannot serve"), "{said}");
    daemon.stop();
}

/// Names of the samples of an exposition.
fn names(body: &str) -> BTreeSet<&str> {
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.split(['{', ' ']).next().unwrap_or("")).collect()
}

#[test]
fn a_counter_that_falls_is_counted_or_a_gauge() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut daemon, address) = start_with(dir.path(), "", "updown = [\"queue.*\"]");
    daemon.send_udp(&[b"queue.depth:-3|c\nother.depth:-3|c\nhits:1|c"]);
    let body = scrape_when(address, "there", |body| body.contains("queue_depth -3\n"));
    assert!(body.contains("# TYPE queue_depth gauge") && !body.contains("other_depth"), "{body}");
    daemon.wait_for("a warning", |lines| lines.iter().any(|line| line.contains("name those that do in `updown`")));
    daemon.send_udp(&[b"queue.depth:5|c\nother.depth:4|c"]);
    scrape_when(address, "it goes up", |body| {
        body.contains("queue_depth 2\n") && body.contains("other_depth_total 4\n")
    });
    let status = daemon.status_when("counted", |s| s["sinks"]["prometheus"]["delivered"] == 4);
    let sink = &status["sinks"]["prometheus"];
    assert_eq!((&sink["dropped"], &sink["offered"]), (&json!({"negative": 1}), &json!(5)));
    daemon.stop();
}

#[test]
fn a_quote_in_a_name_stands_in_the_help_as_each_format_has_it() {
    let dir = tempfile::tempdir().expect("a folder");
    // A name whose family is another's sample, and labels that are none to Prometheus.
    let (daemon, address) = start(dir.path(), "");
    daemon.send_udp(&[b"say \"a\\b\":1|c\nbucketed:1|ms\nlone:1|g\nlone:2|g|#bare\nup:1|g"]);
    let body = scrape_when(address, "there", |body| body.contains("lone"));
    assert!(body.contains("# HELP say__a_b__total counter say \"a\\\\b\"\n"), "{body}");
    assert!(body.contains("exported_up 1\n") && body.matches("\nlone").count() == 1, "{body}");
    let (_, body) = get(address, "/metrics", "Accept: application/openmetrics-text\r\n");
    assert!(body.contains("# HELP say__a_b_ counter say \\\"a\\\\b\\\"\n"), "{body}");
    daemon.stop();
}

#[test]
fn the_daemons_own_numbers_share_no_name_with_its_own_series() {
    let dir = tempfile::tempdir().expect("a folder");
    let address = TcpListener::bind("127.0.0.1:0").and_then(|place| place.local_addr()).expect("a port");
    let config = format!(
        "interval = \"200ms\"\nmax_series = 1\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[[sink]]\n\
         type = \"prometheus\"\naddress = \"{address}\"\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    );
    let daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[b"a:1|c\nb:2|c\nc:3|g\nd:4|ms\ne:5|h\nf:x|s\nbroken"]);
    let body = scrape_when(address, "there", |body| body.contains("systole_overflow_set"));
    let own = daemon.get("/metrics").1;
    let (told, own) = (names(&body), names(&own));
    assert!(told.contains("systole_self_lines_malformed_total") && own.contains("systole_lines_malformed_total"));
    let shared: Vec<_> = told.intersection(&own).collect();
    assert!(shared.is_empty(), "{shared:?}");
    // Each kind that overflowed has its name.
    for name in ["counter_total", "gauge", "timer_seconds_count", "histogram_count", "set"] {
        assert!(told.contains(format!("systole_overflow_{name}").as_str()), "{name}: {body}");
    }
    let status = daemon.status();
    assert_eq!(status["sinks"]["prometheus"]["dropped"], json!({}), "{status}");
    daemon.stop();
}

#[test]
fn names_that_come_and_go_are_bounded_and_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    // The daemon forgets its series soon, the sink does not.
    let more = "max_series = 50\nseries_ttl = \"10ms\"";
    let (daemon, address) = start_with(dir.path(), more, "ttl = \"1h\"");
    daemon.send_udp(&[b"known:1|c"]);
    scrape_when(address, "there", |body| body.contains("known_total 1\n"));
    daemon.send_udp(&[b"known:1|c"]);
    scrape_when(address, "there twice", |body| body.contains("known_total 2\n"));
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut round, mut dropped) = (0, 0);
    // What finds no room is counted, and makes room for what comes next.
    while dropped == 0 || !names(&get(address, "/metrics", "").1).contains("late_total") {
        assert!(Instant::now() < deadline, "{}", daemon.status());
        let lines: Vec<String> = (0..20).map(|n| format!("made.up.{round}.{n}:1|c")).collect();
        daemon.send_udp(&[lines.join("\n").as_bytes(), if dropped > 0 { b"late:1|c" } else { b"" }]);
        // A sender's pause.
        pause_ms(50);
        let (_, body) = get(address, "/metrics", "");
        assert!(names(&body).len() <= 50 + 1, "{body}");
        assert!(body.contains("known_total 2\n"), "{body}");
        dropped = daemon.status()["sinks"]["prometheus"]["dropped"]["max_series"].as_u64().unwrap_or(0);
        round += 1;
    }
    daemon.stop();
}

#[test]
fn what_is_deleted_over_the_management_port_is_off_the_scrape() {
    let dir = tempfile::tempdir().expect("a folder");
    let address = TcpListener::bind("127.0.0.1:0").and_then(|place| place.local_addr()).expect("a port");
    let config = format!(
        "interval = \"200ms\"\nself_metrics = false\nprefix = \"p.\"\nseries_ttl = \"10ms\"\n[[listen]]\n\
         url = \"udp://127.0.0.1:0\"\nworkers = 1\n[[sink]]\ntype = \"prometheus\"\naddress = \"{address}\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n[management]\naddress = \"127.0.0.1:0\"\n"
    );
    let daemon = Daemon::start(dir.path(), &config);
    let line = daemon.lines.iter().find_map(|line| line.trim().strip_prefix("manage")).expect("it says where");
    let port = line.trim().strip_prefix("tcp://").and_then(|a| a.parse::<SocketAddr>().ok()).expect("an address");
    daemon.send_udp(&[b"a.b:1|c|#k:v\na.b:1|c\nf.x:1|c\nf.y:1|c\nt:1|ms\nstays:1|c"]);
    scrape_when(address, "there", |body| body.contains("p_stays_total 1\n"));
    // The daemon itself has forgotten them.
    daemon.flushed_when("idle", |status| status["series"]["counters"] == 0);
    let mut stream = TcpStream::connect(port).expect("connected");
    stream.write_all(b"delcounters a.b;k=v f.*\ndeltimers t\nquit\n").expect("sent");
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    let body = scrape_when(address, "without them", |body| !body.contains("p_f_x") && !body.contains("p_t_seconds"));
    assert!(body.contains("p_a_b_total 1\n") && !body.contains("k=\"v\"") && !body.contains("p_f_"), "{body}");
    assert!(body.contains("p_stays_total 1\n"), "{body}");
    daemon.send_udp(&[b"f.x:5|c"]);
    scrape_when(address, "anew", |body| body.contains("p_f_x_total 5\n"));
    daemon.stop();
}

/// The head and the body of a scrape, as bytes.
fn scrape_bytes(address: SocketAddr, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("connected");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").expect("sent");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("an answer");
    let end = heard.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    (text(&heard[..end]).to_lowercase(), heard.split_off(end + 4))
}

#[test]
fn who_takes_gzip_gets_the_same_gzipped() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, address) = start(dir.path(), "");
    let lines: Vec<String> = (0..2000).map(|n| format!("stays.where.it.is.{n:04}:{n}|g")).collect();
    for some in lines.chunks(20) {
        daemon.send_udp(&[some.join("\n").as_bytes()]);
    }
    scrape_when(address, "all", |body| body.matches("# TYPE stays").count() == 2000);
    let open_metrics = "Accept: application/openmetrics-text\r\n";
    for accept in ["", open_metrics] {
        let (head, plain) = scrape_bytes(address, accept);
        assert!(
            !head.contains("content-encoding") && head.contains(&format!("content-length: {}", plain.len())),
            "{head}"
        );
        for (coding, is_taken) in [("gzip", true), ("br, GZIP;q=0.5", true), ("gzip;q=0", false), ("identity", false)] {
            let (head, body) = scrape_bytes(address, &format!("{accept}Accept-Encoding: {coding}\r\n"));
            assert_eq!(head.contains("content-encoding: gzip"), is_taken, "{coding}: {head}");
            assert!(head.contains("vary: accept, accept-encoding"), "{head}");
            let mut unpacked = Vec::new();
            if is_taken {
                assert!(body.len() < plain.len() / 4, "{} of {}", body.len(), plain.len());
                flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut unpacked).expect("gzip");
            } else {
                unpacked = body;
            }
            assert!(unpacked == plain, "{coding}");
        }
    }
    daemon.stop();
}

#[test]
fn scrapers_that_do_not_read_hold_little() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a folder");
    let more = "max_series = 1000000\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"";
    let (daemon, address) = start(dir.path(), more);
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    let lines: String = (0..30_000).map(|n| format!("app.web.pool.size.of.endpoint_{n:06}:{n}|g\n")).collect();
    stream.write_all(lines.as_bytes()).expect("sent");
    daemon.closed(30_000);
    scrape_when(address, "all", |body| body.matches("# TYPE app_web").count() == 30_000);
    let before = daemon.rss_kib();
    let mut unread = Vec::new();
    // Each few of another interval: what is served is another text then.
    for _ in 0..10 {
        for _ in 0..4 {
            let mut stream = TcpStream::connect(address).expect("connected");
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
            unread.push(stream);
        }
        daemon.next_flush();
    }
    // It comes after those before it, of which 4 texts at a time give way after 2 s each.
    let good = get_within(address, "/metrics", "", Duration::from_secs(30));
    assert_eq!((good.0, good.1.matches("# TYPE app_web").count()), (200, 30_000));
    // 4 texts of 4 MB at most are kept alive, of which one is served; what was freed goes back a moment later.
    let growth_mib = || (daemon.rss_kib() as f64 - before as f64) / 1024.0;
    until("40 scrapers that do not read hold at most 32 MiB", || growth_mib() <= 32.0);
    println!("40 scrapers that do not read: {:.1} MiB", growth_mib());
    drop(unread);
    daemon.stop();
}

#[test]
fn names_of_the_exporter_help_and_a_lifetime_of_a_rule() {
    let dir = tempfile::tempdir().expect("a folder");
    let rules = "[[rule]]\nmatch = \"http.*\"\nhelp = \"Requests \\\\ of \\\"all\\\"\"\n\
                 [[rule]]\nmatch = \"brief.*\"\nttl = \"400ms\"\n";
    let sink = format!("naming = \"exporter\"\nttl = \"1h\"\n{rules}");
    let (daemon, address) = start_with(dir.path(), "", &sink);
    daemon.send_udp(&[
        b"http.requests:2|c|#a-b:x,bare\nweb--t.x:100|ms\nbucketed:5:50:500|ms\nsize:7|h\nbrief.c:1|c\nbrief.t:1|ms",
    ]);
    let body = scrape_when(address, "there", |body| body.contains("web_t_x_count 1") && body.contains("brief_t"));
    for line in [
        "# HELP http_requests Requests \\\\ of \"all\"",
        "# TYPE http_requests counter",
        "http_requests{a_b=\"x\"} 2",
        "# HELP web_t_x summary web--t.x",
        "# TYPE web_t_x summary",
        "web_t_x{quantile=\"0.5\"} 0.1",
        "bucketed_bucket{le=\"0.01\"} 1",
        "size_sum 7",
        "brief_c 1",
    ] {
        assert!(body.lines().any(|found| found == line), "{line}\n{body}");
    }
    // OpenMetrics has no such counters, so it is not spoken.
    let (_, answer) = get(address, "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    assert!(answer.contains("# TYPE http_requests counter") && !answer.contains("# EOF"), "{answer}");
    scrape_when(address, "what its rule lets go", |body| !body.contains("brief") && body.contains("http_requests"));
    daemon.stop();
}
