//! What the daemon says of its data, in one sentence: the page, the API and `systole status` say the same.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};

use crate::support::{self, Daemon, poll, text, until};

const QUICK: &str = "interval = \"200ms\"\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nstate_file = \"off\"\n\
                     [[listen]]\nurl = \"udp://127.0.0.1:0\"\n";

/// The screen of `systole status`, and its exit code.
fn status(daemon: &Daemon) -> (Option<i32>, String) {
    let url = format!("http://{}", daemon.http.expect("a page"));
    let output = support::systole(&["status", "--url", &url], b"");
    (output.status.code(), text(&output.stdout))
}

/// The heading of a page.
fn heading(page: &str) -> &str {
    page.split("<h1>").nth(1).and_then(|rest| rest.split("</h1>").next()).expect("a heading")
}

#[test]
fn a_loss_is_told_after_the_interval_that_had_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!("{QUICK}receive_buffer = \"4KiB\"\nreceive_buffer_force = false\n");
    let daemon = Daemon::start(dir.path(), &config);
    let (socket, to) = (UdpSocket::bind("127.0.0.1:0").expect("a port"), daemon.udp.expect("UDP"));
    // Stopped, it reads nothing, and the buffer overflows for sure.
    daemon.signal("-STOP");
    for _ in 0..2000 {
        socket.send_to(b"hits:1|c", to).expect("sent");
    }
    daemon.signal("-CONT");
    let lossy = daemon.flushed_when("the loss", |status| status["listeners"][0]["kernel_drops"].as_u64() > Some(0));
    let as_of = lossy["as_of"].as_f64().expect("a time");
    let later = daemon.status_when("three more intervals", |now| now["as_of"].as_f64() > Some(as_of + 0.7));
    let verdict = &later["verdict"];
    assert_eq!((&verdict["level"], &verdict["about"]), (&"error".into(), &"loss".into()), "{verdict}");
    let page = daemon.get("/").1;
    assert!(heading(&page).starts_with("Lost data: ") && heading(&page).ends_with(" % of datagrams"), "{page}");
    assert!(page.contains("What to do") && page.contains("class=\"tile warning\""), "{page}");
    let (code, screen) = status(&daemon);
    assert!(code == Some(1) && screen.contains(" Lost data: ") && screen.contains(", nothing since."), "{screen}");
    daemon.stop();
}

#[test]
fn many_more_drops_of_the_kernel_are_logged_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!("{QUICK}receive_buffer = \"4KiB\"\nreceive_buffer_force = false\n");
    let daemon = Daemon::start(dir.path(), &config);
    let (socket, to) = (UdpSocket::bind("127.0.0.1:0").expect("a port"), daemon.udp.expect("UDP"));
    let drops = |status: &serde_json::Value| status["listeners"][0]["kernel_drops"].as_u64().expect("a number");
    let mut lost = 0;
    for times in [100, 10_000] {
        daemon.signal("-STOP");
        for _ in 0..times {
            socket.send_to(b"hits:1|c", to).expect("sent");
        }
        daemon.signal("-CONT");
        lost = drops(&daemon.flushed_when("the loss", |status| drops(status) > lost));
    }
    let log = daemon.stop();
    let said = log.iter().filter(|line| line.contains("the kernel dropped datagrams"));
    let said = said.map(|line| line.split("datagrams=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()));
    let said: Vec<u64> = said.map(|number| number.expect("a number")).collect();
    assert!(said.len() == 2 && said[1] >= 10 * said[0], "{said:?}: {log:?}");
}

#[test]
fn a_tag_that_explodes_is_told_once_with_what_helps_whatever_senders_are_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &QUICK.replacen("200ms", "500ms", 1));
    let (socket, to) = (UdpSocket::bind("127.0.0.1:0").expect("a port"), daemon.udp.expect("UDP"));
    let mut n = 0;
    let mut explode = || {
        for _ in 0..150 {
            n += 1;
            socket.send_to(format!("job.step:1|c|#request_id:{n}").as_bytes(), to).expect("sent");
        }
    };
    let said = poll("the explosion", || {
        explode();
        let status = daemon.status();
        let verdict = &status["verdict"];
        let is_told = verdict["sentence"].as_str().is_some_and(|text| text.starts_with("Tag request_id makes "));
        if is_told { Ok(verdict.clone()) } else { Err(verdict.to_string()) }
    });
    assert_eq!((&said["level"], &said["about"]), (&"warning".into(), &"limit".into()), "{said}");
    assert!(said["action"].as_str().is_some_and(|action| action.contains("drop_tags")), "{said}");
    assert!(said["detail"].as_str().is_some_and(|detail| detail.ends_with("Nothing is lost.")), "{said}");
    until("the tile says it", || {
        explode();
        let page = daemon.get("/").1;
        page.contains("new/s by request_id") && page.contains("What to do: ") && !heading(&page).contains('`')
    });
    for query in ["", "?sender=127.0.0.1", "?q=nobody"] {
        until("it is the verdict of all senders", || {
            explode();
            let page = daemon.get(&format!("/senders{query}")).1;
            heading(&page).contains("request_id") && heading(&page).contains(" new series a second")
        });
    }
    until("it is told once", || {
        explode();
        let (code, screen) = status(&daemon);
        code == Some(1) && screen.matches("request_id").count() == 1
    });
    daemon.stop();
}

#[test]
fn before_the_first_interval_closes_nothing_is_said_of_the_data() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = QUICK.replacen("200ms", "1h", 1);
    let daemon = Daemon::start(dir.path(), &config);
    assert!(status(&daemon).1.contains("Nothing has arrived yet"));
    daemon.send_udp(&[b"a:1|c\nb:1|c\nc:1|c"]);
    let first = daemon.status_when("three lines", |status| status["lines"]["read"] == 3);
    assert_eq!((&first["verdict"]["about"], &first["verdict"]["level"]), (&"first".into(), &"ok".into()));
    let (code, screen) = status(&daemon);
    assert!(code == Some(0) && screen.contains(" First data has arrived  3 lines so far; "), "{screen}");
    assert!(screen.contains("Series     the first interval is open") && !screen.starts_with(['✓', '+']), "{screen}");
    daemon.stop();
}

#[test]
fn where_allow_refuses_all_that_is_said_and_from_where_it_comes() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = QUICK.replacen("[[listen]]\n", "[[listen]]\nallow = [\"10.0.0.0/8\"]\n", 1);
    let daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[b"a:1|c", b"a:1|c"]);
    daemon.flushed_when("refusals", |status| status["listeners"][0]["refused"] == 2);
    let said = " All that arrives is refused by allow  2 datagrams refused at udp://127.0.0.1:";
    until("the verdict", || status(&daemon).1.contains(said));
    let screen = status(&daemon).1;
    assert!(screen.contains(", the last from 127.0.0.1: not in its `allow`.\n  What to do: Add the "), "{screen}");
    let page = daemon.get("/").1;
    assert!(heading(&page).starts_with("All that arrives is refused") && !page.contains("Send something"), "{page}");
    daemon.stop();
}

#[test]
fn what_has_stopped_is_behind_what_is_sent_and_has_no_rate() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    daemon.send_udp(&[b"app.loud:1000|c"]);
    let loudest = |what: &str, is_so: &dyn Fn(&serde_json::Value) -> bool| {
        poll(what, || {
            daemon.send_udp(&[b"app.quiet:1|c"]);
            let (_, body) = daemon.get("/api/v1/series?sort=loudest");
            let found: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            if is_so(&found["series"]) { Ok(found) } else { Err(body) }
        })
    };
    let found = loudest("the loud one has stopped", &|all| {
        all[0]["name"] == "app.quiet" && all[0]["is_current"] == true && all[1]["is_current"] == false
    });
    assert_eq!(found["series"].as_array().map(Vec::len), Some(2), "own series are not in the list: {found}");
    assert!(found["series"][1]["rate"].is_null(), "{found}");
    let page = poll("the page says it, too", || {
        let page = daemon.get("/").1;
        if page.contains("none, ") { Ok(page) } else { Err(page) }
    });
    assert!(page.contains("app.loud"), "{page}");
    let shown = daemon.get("/series/show?kind=counter&name=app.loud").1;
    assert!(shown.contains("stopped, last seen ") && shown.contains("Sent by"), "{shown}");
    daemon.stop();
}

#[test]
fn series_of_presence_are_found_by_those_who_ask_for_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    daemon.send_udp(&[b"app.hits:1|c", b"heartbeat:10|g|#service:pay,instance:a"]);
    let names = |query: &str| {
        let (_, body) = daemon.get(&format!("/api/v1/series{query}"));
        let found: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let all = found["series"].as_array().into_iter().flatten();
        all.filter_map(|series| series["name"].as_str().map(String::from)).collect::<Vec<_>>()
    };
    until("they are there", || names("?q=presence_up").contains(&"presence_up".to_string()));
    until("the other is there", || names("").contains(&"app.hits".to_string()));
    assert!(names("").iter().all(|name| !name.starts_with("presence_")), "{:?}", names(""));
    daemon.stop();
}

#[test]
fn answers_of_the_history_have_a_tag_as_long_as_the_interval_is_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &QUICK.replacen("200ms", "2s", 1));
    daemon.send_udp(&[b"app.hits:1|c"]);
    daemon.flushed_when("a flush", |status| status["lines"]["read"] == 1);
    for path in ["/api/v1/history?ledger=lines.read", "/api/v1/series?q=app"] {
        let url = format!("http://{}{path}", daemon.http.expect("a page"));
        let ask = |tag: &str| tagged(&url, tag);
        until("the same tag is answered by 304", || {
            let (code, tag) = ask("none");
            code == 200 && tag.starts_with("W/") && ask(&tag).0 == 304
        });
    }
    daemon.stop();
}

/// The code and the tag of an answer to somebody who has `tag`.
fn tagged(url: &str, tag: &str) -> (u16, String) {
    let rest = url.strip_prefix("http://").expect("HTTP");
    let (host, path) = rest.split_once('/').expect("a path");
    let mut stream = TcpStream::connect(host).expect("connected");
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nIf-None-Match: {tag}\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
    let tag = answer.lines().find_map(|line| line.to_lowercase().strip_prefix("etag: ").map(|_| line[6..].to_string()));
    (code, tag.unwrap_or_default())
}

#[test]
fn the_log_says_once_what_goes_on_and_at_the_end_how_much_there_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    for sent in 1..=5 {
        daemon.send_udp(&[b"bad:x|c\nbad:y|c\nbad:z|c"]);
        daemon.flushed_when("an interval", |status| status["lines"]["malformed"]["bad_value"] == sent * 3);
    }
    let log = daemon.stop();
    let said: Vec<&String> = log.iter().filter(|line| line.contains("malformed lines")).collect();
    assert_eq!(said.len(), 2, "{log:?}");
    let number = |line: &str, key: &str| -> u64 {
        line.split(key).nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("a number")
    };
    assert_eq!(number(said[0], "lines=") + number(said[1], "count="), 15, "{said:?}");
}

#[test]
fn a_restart_says_who_was_restored_and_that_nobody_is_confirmed() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("presence.json");
    let config = QUICK.replacen("\"off\"", &format!("\"{}\"", file.display()), 1);
    let daemon = Daemon::start(dir.path(), &config);
    for instance in ["a", "b"] {
        let beat = format!("heartbeat:600|g|#service:pay,instance:{instance}");
        daemon.send_udp(&[beat.as_bytes()]);
    }
    until("both are up", || status(&daemon).1.contains("1 of 1 services up\n"));
    daemon.stop();
    let daemon = Daemon::start(dir.path(), &config);
    until("nobody is confirmed", || status(&daemon).1.contains("1 of 1 services up, 2 not confirmed yet"));
    assert!(daemon.get("/").1.contains("2 not confirmed yet"));
    let url = format!("http://{}", daemon.http.expect("a page"));
    let list = text(&support::systole(&["presence", "list", "--url", &url], b"").stdout);
    assert!(list.contains("2 not confirmed yet"), "{list}");
    // Whether they live is not known; a balancer goes on with them.
    let check = || {
        let output = support::systole(&["presence", "check", "pay", "--url", &url], b"");
        (output.status.code(), text(&output.stdout))
    };
    let (code, line) = check();
    assert!(code == Some(3) && line.contains("2 of 2 present, 0 late, 2 not confirmed yet"), "{code:?}: {line}");
    assert_eq!(daemon.get("/api/v1/presence/pay/check").0, 200);
    daemon.send_udp(&[b"heartbeat:600|g|#service:pay,instance:a"]);
    until("one is confirmed", || check().0 == Some(0));
    let log = daemon.stop().join("\n");
    let told = format!("presence  2 instances of 1 service restored from {}", file.display());
    assert!(log.contains(&told), "{log}");
}

#[test]
fn only_what_a_flag_says_comes_from_it() {
    let config = "interval = \"200ms\"\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n";
    let dir = tempfile::tempdir().expect("a folder");
    let more = ["--listen", "udp://127.0.0.1:0", "--sink", "graphite://127.0.0.1:1"];
    let daemon = Daemon::start_with(dir.path(), config, &more);
    let (_, body) = daemon.get("/api/v1/config");
    let found: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let all = found["settings"].as_array().expect("settings").iter();
    let mut by_flag: Vec<&str> =
        all.filter(|setting| setting["from"] == "flag").filter_map(|setting| setting["path"].as_str()).collect();
    by_flag.sort_unstable();
    assert_eq!(by_flag, ["listen[0].url", "sink[0].address", "sink[0].type"]);
    assert!(found["file"].as_str().is_some_and(|file| file.starts_with('/')), "{}", found["file"]);
    daemon.stop();
}

#[test]
fn an_instance_that_is_down_in_maintenance_alarms_nobody() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    daemon.send_udp(&[b"heartbeat.pay.a:2|g", b"heartbeat.pay.b:600|g"]);
    until("both are there", || daemon.get("/api/v1/presence/pay/b").0 == 200);
    daemon.send_udp(&[b"maintenance.pay.a:600|g"]);
    until("one is down", || {
        let page = daemon.get("/presence").1;
        heading(&page).contains("1 instance is down in maintenance") && !page.contains("class=\"badge\"")
    });
    daemon.stop();
}

#[test]
fn services_that_have_left_are_not_counted_among_those_that_are_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    daemon.send_udp(&[b"heartbeat.pay.a:60|g", b"heartbeat.web.a:60|g", b"heartbeat.old.a:60|g"]);
    until("all are there", || daemon.get("/presence").1.contains("Up, 3"));
    daemon.send_udp(&[b"heartbeat.old.a:0|g"]);
    until("one has left", || daemon.get("/presence").1.contains("Left, 1"));
    let board = daemon.get("/presence").1;
    assert!(board.contains("Up, 2") && board.find("Up, 2") < board.find("Left, 1"), "{board}");
    // A job that fails is named where it is first seen: in the pill, and in the number beside Presence.
    daemon.send_udp(&[b"heartbeat.backup.box7:1|g|#status:fail,exit:3", b"heartbeat.web.a:60|g"]);
    until("a job has failed", || daemon.get("/").1.contains("1 job not well"));
    let verdict = daemon.status()["verdict"].to_string();
    assert!(verdict.contains("job backup/box7 failed") || verdict.contains("The job backup is not well"), "{verdict}");
    daemon.stop();
}

#[test]
fn what_a_format_has_no_form_for_is_no_loss() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon =
        Daemon::start(dir.path(), &format!("{QUICK}[[sink]]\ntype = \"prometheus\"\naddress = \"127.0.0.1:0\"\n"));
    let (socket, to) = (UdpSocket::bind("127.0.0.1:0").expect("a port"), daemon.udp.expect("UDP"));
    socket.send_to(b"heartbeat:5|g|#service:shop,instance:a\nhits:1|c", to).expect("sent");
    let seen = daemon.flushed_when("a change of presence", |status| {
        status["sinks"]["prometheus"]["dropped"]["unsupported"].as_u64() > Some(0)
    });
    assert_eq!(seen["verdict"]["level"], "ok", "{}", seen["verdict"]);
    assert!(!seen["warnings"].to_string().contains("prometheus"), "{}", seen["warnings"]);
    let (code, screen) = status(&daemon);
    assert!(code == Some(0) && !screen.contains("loses") && !screen.contains("given up"), "{screen}");
    let row = screen.lines().find(|line| line.contains("✓ prometheus")).unwrap_or_default();
    assert!(!row.is_empty() && !row.contains("dropped"), "{screen}");
    daemon.stop();
}
