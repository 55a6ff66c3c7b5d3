//! The pages as a browser without a script gets them: every view with real numbers, bounded however much there is, its
//! state in the URL.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{Daemon, size, until};

const QUICK: &str = "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
                     [http]\naddress = \"127.0.0.1:0\"\n";

const VIEWS: [&str; 9] = [
    "/",
    "/series",
    "/series/show?kind=counter&name=hits&tag=route:/a",
    "/presence",
    "/presence/pay",
    "/senders",
    "/events",
    "/explain?line=hits:1%7Cc",
    "/config",
];

/// Most rows of a table in a page, whatever it is about.
const MOST_ROWS: usize = 300;

#[test]
fn every_view_has_one_heading_its_landmarks_and_nothing_that_the_policy_forbids() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    for path in ["/", "/series", "/presence", "/senders", "/events", "/explain", "/config"] {
        let (code, page) = daemon.get(path);
        assert_eq!((code, page.matches("<h1").count()), (200, 1), "{path} of a daemon that nothing came to: {page}");
    }
    daemon.send_udp(&[b"hits:3|c|#route:/a\nlatency:12|ms\nbad:x|c", b"heartbeat.pay.web-1:60|g"]);
    daemon.flushed_when("all is read", |status| status["lines"]["read"] == 4);
    until("the history has it", || daemon.get("/series").1.contains(">hits<"));
    for path in VIEWS {
        let (code, page) = daemon.get(path);
        assert_eq!((code, page.matches("<h1").count()), (200, 1), "{path}: {page}");
        for part in ["<main", "<header", "<nav", "<footer", "href=\"#main\"", "lang=\"en\"", "<title>"] {
            assert!(page.contains(part), "{path} lacks {part}: {page}");
        }
        for part in [" style=", "<style", "onclick=", "http-equiv"] {
            assert!(!page.contains(part), "{path} has {part}: {page}");
        }
        assert!(page.ends_with("</html>\n"), "{path}");
        let inline = page.split("<script").skip(1).filter(|rest| !rest.contains("src=\"/assets/"));
        assert_eq!(inline.count(), 0, "{path}: {page}");
    }
    daemon.stop();
}

#[test]
fn the_first_page_says_in_words_how_the_data_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!("{QUICK}[[sink]]\ntype = \"graphite\"\naddress = \"127.0.0.1:1\"\n");
    let daemon = Daemon::start(dir.path(), &config);
    let says = |what: &str| until(what, || daemon.get("/").1.contains(&format!("<h1>{what}")));
    says("Nothing has arrived yet");
    assert_eq!(daemon.status()["verdict"]["about"], "empty");
    daemon.send_udp(&[b"hits:3|c"]);
    says("graphite");
    let status = daemon.status();
    let verdict = &status["verdict"];
    assert_eq!((&verdict["about"], verdict["level"] != "ok"), (&"sink".into(), true), "{verdict}");
    assert!(verdict["detail"].as_str().is_some_and(|detail| detail.contains("refused")), "{verdict}");
    daemon.stop();
    let daemon = Daemon::start(dir.path(), QUICK);
    daemon.send_udp(&[b"hits:3|c"]);
    let says = |what: &str| until(what, || daemon.get("/").1.contains(&format!("<h1>{what}")));
    says("All data accounted for");
    let page = daemon.get("/").1;
    assert!(page.contains("nothing lost since the start") && page.contains("<title>✓ all accounted for"), "{page}");
    assert!(page.contains("= balanced") && !page.contains("off by"), "{page}");
    daemon.stop();
}

#[test]
fn of_many_series_any_kind_is_found_and_a_page_stays_small() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    let count = size("SYSTOLE_TEST_PAGE_SERIES", 20_000);
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    let gauges: String = (0..count).map(|n| format!("app.pool_{n:07}:{n}|g|#zone:eu\n")).collect();
    stream.write_all(gauges.as_bytes()).expect("sent");
    for n in 0..300 {
        writeln!(stream, "zoo.latency_{n:03}:12|ms|#route:/pay").expect("sent");
    }
    drop(stream);
    daemon.closed(count + 300);
    let rows = |page: &str| page.matches("<tr").count();
    until("timers", || daemon.get("/series?kind=timer").1.contains(">zoo.latency_000<"));
    for path in ["/", "/series", "/series?kind=timer", "/series?q=latency", "/series?sort=newest", "/senders"] {
        let began = Instant::now();
        let (code, page) = daemon.get(path);
        let took = began.elapsed();
        assert!(code == 200 && rows(&page) <= MOST_ROWS, "{path}: {code}, {} rows", rows(&page));
        assert!(took < Duration::from_secs(5), "{path} took {took:?}");
        println!("{path}: {} rows, {} bytes in {took:?}", rows(&page), page.len());
    }
    // The rest is behind a link.
    let first = daemon.get("/series?q=latency").1;
    let next = first.split("rel=\"next\"").next().and_then(|before| before.rsplit("href=\"").next()).expect("a link");
    let next = next.split('"').next().expect("its end").replace("&amp;", "&");
    let second = daemon.get(&next).1;
    assert!(
        !first.contains(">zoo.<mark>latency</mark>_299<") && second.contains("<mark>latency</mark>_299<"),
        "{next}"
    );
    let none = daemon.get("/series?q=latncy").1;
    assert!(none.contains("No series matches <code>latncy</code>."), "{none}");
    daemon.stop();
}

#[test]
fn the_state_of_a_page_is_in_its_url_and_links_keep_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    daemon.send_udp(&[b"hits:3|c|#route:/a"]);
    daemon.flushed_when("it is read", |status| status["lines"]["read"] == 1);
    until("the history has it", || daemon.get("/series").1.contains(">hits<"));
    let page = daemon.get("/series?range=1h&q=hits&live=0").1;
    for link in [
        "href=\"/presence?range=1h&amp;live=0\"",
        "href=\"/series?range=1h&amp;live=0&amp;q=hits&amp;sort=loudest\"",
        "href=\"/series/show?kind=counter&amp;name=hits&amp;tag=route%3A%2Fa&amp;range=1h&amp;live=0\"",
        "name=\"range\" value=\"1h\"",
    ] {
        assert!(page.contains(link), "{link}: {page}");
    }
    for (query, says) in [("range=x", "`range`"), ("from=x", "`from`"), ("kind=x", "`kind`"), ("cursor=x", "`cursor`")]
    {
        let (code, said) = daemon.get(&format!("/series?{query}"));
        assert!(code == 400 && said.contains(says), "{query}: {code} {said}");
    }
    let (code, page) = daemon.get("/series/show?kind=counter&name=nothing");
    assert!(code == 404 && page.contains("This series is not known."), "{code}");
    daemon.stop();
}

#[test]
fn parts_that_move_are_marked_and_of_the_verdict_only_its_sentence_is_read_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    daemon.send_udp(&[b"hits:3|c|#route:/a,status:200,zone:eu\nbad:x|c", b"heartbeat.pay.web-1:60|g"]);
    daemon.flushed_when("all is read", |status| status["lines"]["read"] == 3);
    until("the history has it", || daemon.get("/series").1.contains(">hits<"));
    for path in VIEWS {
        let (_, page) = daemon.get(&path.replace("tag=route:/a", "tag=route:/a&tag=status:200&tag=zone:eu"));
        let main = page.split("<main").nth(1).and_then(|rest| rest.split("</main>").next()).expect("a main part");
        assert!(main.contains("data-live="), "{path} has nothing that is exchanged: {main}");
        assert!(!main.contains("<section class=\"verdict ok\" role"), "{path} reads out all of its verdict: {main}");
    }
    let config = daemon.get("/config?q=receive_buffer").1;
    for part in ["data-live=\"found\"", "data-live=\"settings\"", "data-says=\"in force\""] {
        assert!(config.contains(part), "{part}: {config}");
    }
    assert!(daemon.get("/").1.contains("<div role=\"status\"><h1>"), "the sentence is a status of its own");
    // Of a cut name all can be read, and tags that there is no room for are counted.
    let series = daemon.get("/series").1;
    assert!(series.contains("title=\"hits route:/a status:200 zone:eu\""), "{series}");
    assert!(series.contains("<span class=\"tag rest\">+2</span>"), "{series}");
    // What is refused stands where one looks first, unless there is something beside it.
    let place = |path: &str| {
        let page = daemon.get(path).1;
        (page.find("Refused").expect("a refusal"), page.find("stack c5").expect("the side"))
    };
    let (refused, side) = place("/explain?line=bad:x%7Cc");
    assert!(refused < side);
    let (refused, side) = place("/explain?line=bad:x%7Cc%0Ahits:1%7Cc");
    assert!(refused > side);
    // A heartbeat says what it promises, and what its silence means.
    let beat = daemon.get("/explain?line=heartbeat.checkout.web:10%7Cg").1;
    for (what, is) in [("Promises", "the next beat within 10 s"), ("Late after", "15 s"), ("Down after", "45 s")] {
        assert!(beat.contains(&format!("<dt>{what}</dt><dd>{is}</dd>")), "{what}: {beat}");
    }
    daemon.stop();
}
