//! Targets of notifications through the front door: each type in its published form, routes and pairs, hostile receivers and
//! commands, starts and stops, and test alerts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

use crate::support::certs::Authority;
use crate::support::receiver::{Reply, Request, serve};
use crate::support::{Daemon, pause_ms, systole, text, until};

/// A receiver that keeps what it is asked, and answers each request as it is told.
struct Stub {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Stub {
    fn start(reply: impl Fn(usize, &Request) -> Reply + Send + 'static) -> Stub {
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let all = Arc::clone(&seen);
        let address = serve("127.0.0.1:0".parse().expect("an address"), move |request| {
            let mut all = all.lock().expect("nobody panicked");
            let reply = reply(all.len(), &request);
            all.push(request);
            reply
        });
        Stub { address, seen }
    }

    fn good(status: u16, says: &'static str) -> Stub {
        Stub::start(move |_, _| Reply::Says(status, says))
    }

    fn requests(&self) -> Vec<Request> {
        self.seen.lock().expect("nobody panicked").clone()
    }

    fn bodies(&self) -> Vec<Value> {
        self.requests().iter().map(|request| serde_json::from_slice(&request.body).expect("JSON")).collect()
    }
}

fn config(dir: &Path, more: &str) -> String {
    format!(
        "interval = \"1s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n\
         [http]\naddress = \"127.0.0.1:0\"\ntoken = \"secret\"\nexternal_url = \"https://stats.example.org/\"\n\
         [presence]\nstate_file = \"{}\"\ngroup_wait = \"500ms\"\n{more}",
        dir.join("records.jsonl").display(),
        dir.join("presence.json").display(),
    )
}

fn beat(daemon: &Daemon, who: &[&str]) {
    let lines: Vec<String> = who.iter().map(|who| format!("heartbeat.{who}:1|g|#interval:1")).collect();
    daemon.send_udp(&lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
}

/// `pay` is down as a whole and `web.b` alone; `web.a`, `x.a` and `y.a` live on until `done`.
fn beat_until(daemon: &Daemon, more: &[&str], what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "never: {what}");
        beat(daemon, &["web.a", "x.a", "y.a"]);
        beat(daemon, more);
        pause_ms(200);
    }
}

const EVERYBODY: [&str; 3] = ["pay.a", "pay.b", "web.b"];

/// The key of an alarm, and whether it was its end, of every line of JSON in a file.
fn lines(path: &Path) -> Vec<(String, bool)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let name = |event: &Value, key: &str| event[key].as_str().map_or(String::new(), |name| format!("/{name}"));
    let key = |event: &Value| format!("{}{}", event["alertname"].as_str().expect("a name"), name(event, "service"));
    events.map(|event| (format!("{}{}", key(&event), name(&event, "instance")), event["resolved"] == true)).collect()
}

fn header<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    request.headers.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
}

#[test]
fn each_target_gets_its_own_form_and_only_pairs_that_its_route_takes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (slack, pager) = (Stub::good(200, "ok"), Stub::good(202, "{\"status\":\"success\"}"));
    let (ntfy, hook, short) = (Stub::good(200, "{}"), Stub::good(200, ""), Stub::good(200, ""));
    let out = dir.path().join("exec.jsonl");
    let more = format!(
        "webhook = [\"http://{short}/short\"]\n\
         [[notify]]\ntype = \"slack\"\nurl = \"http://{slack}/services/T0/B0/x\"\nservice = [\"pay*\"]\n\
         [[notify]]\ntype = \"pagerduty\"\nname = \"oncall\"\nurl = \"http://{pager}/v2/enqueue\"\n\
         routing_key = \"0123456789abcdef0123456789abcdef\"\nseverity = \"critical\"\n\
         [[notify]]\ntype = \"ntfy\"\nurl = \"http://{ntfy}/alerts\"\ntoken = \"tk_x\"\nexcept = [\"pay\"]\n\
         [[notify]]\ntype = \"webhook\"\nname = \"own\"\nurl = \"http://{hook}/\"\ntoken = \"t0ken\"\nresolved = false\n\
         [[notify]]\ntype = \"exec\"\ncommand = [\"sh\", \"-c\", '''cat >> {out}''']\n",
        short = short.address,
        slack = slack.address,
        pager = pager.address,
        ntfy = ntfy.address,
        hook = hook.address,
        out = out.display(),
    );
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    beat(&daemon, &EVERYBODY);
    beat_until(&daemon, &[], "two problems", || lines(&out).len() == 2);
    beat_until(&daemon, &EVERYBODY, "their ends", || lines(&out).len() == 4);
    let (pay, web) = ("PresenceServiceDown/pay".to_string(), "PresenceInstanceDown/web/b".to_string());
    let mut all = lines(&out);
    assert!(all[..2].iter().all(|(_, is_end)| !is_end) && all[2..].iter().all(|(_, is_end)| *is_end), "{all:?}");
    all.sort();
    assert_eq!(all, [(web.clone(), false), (web.clone(), true), (pay.clone(), false), (pay.clone(), true)]);

    until("PagerDuty has a pair", || pager.requests().len() == 2);
    let bodies = pager.bodies();
    assert_eq!(bodies[0]["dedup_key"], json!(pay));
    assert_eq!(
        (&bodies[0]["event_action"], &bodies[0]["payload"]["severity"]),
        (&json!("trigger"), &json!("critical"))
    );
    assert_eq!(bodies[0]["links"][0]["href"], "https://stats.example.org/presence/pay");
    assert_eq!(bodies[0]["payload"]["summary"], "pay is down: no instance is present");
    let resolve =
        json!({"routing_key": "0123456789abcdef0123456789abcdef", "event_action": "resolve", "dedup_key": pay});
    assert_eq!(bodies[1], resolve);
    assert!(header(&pager.requests()[0], "authorization").is_none());

    until("Slack has a pair", || slack.requests().len() == 2);
    let said: Vec<String> =
        slack.bodies().iter().map(|body| body["text"].as_str().expect("text").to_string()).collect();
    assert!(said[0].starts_with("✕ CRITICAL: pay is down: no instance is present\n"), "{said:?}");
    assert!(said[0].contains("Since ") && said[0].contains("Down: a, b; last heard "), "{said:?}");
    assert!(said[1].starts_with("✓ RESOLVED: pay is up\n") && said[1].contains("It lasted "), "{said:?}");
    let block = slack.bodies()[0]["blocks"][0]["text"]["text"].as_str().expect("text").to_string();
    assert!(block.starts_with("*<https://stats.example.org/presence/pay|✕ CRITICAL: pay is down"), "{block}");

    until("ntfy has a pair", || ntfy.requests().len() == 2);
    let told = ntfy.requests();
    for (request, title, priority, tag) in [
        (&told[0], "warning: web/b is down: it missed 4 beats of 1 s", "4", "warning"),
        (&told[1], "resolved: web/b is back", "3", "white_check_mark"),
    ] {
        assert_eq!(request.first, "POST /alerts HTTP/1.1");
        let of = |name: &str| header(request, name).unwrap_or_else(|| panic!("no {name}: {}", request.headers));
        assert_eq!((of("title"), of("priority"), of("authorization")), (title, priority, "bearer tk_x"));
        assert_eq!(
            (of("tags"), of("click")),
            (&*format!("{tag},presenceinstancedown"), "https://stats.example.org/presence/web")
        );
        assert!(request.text().contains("UTC"), "{}", request.text());
    }

    let ends = |stub: &Stub| -> Vec<bool> {
        let bodies = stub.bodies();
        bodies
            .iter()
            .flat_map(|body| body["events"].as_array().expect("events").clone())
            .map(|event| event["resolved"] == true)
            .collect()
    };
    assert_eq!((ends(&hook), ends(&short).len()), (vec![false, false], 4));
    assert_eq!(header(&hook.requests()[0], "authorization"), Some("bearer t0ken"));
    let event = hook.bodies()[0]["events"][0].clone();
    assert_eq!(event["link"], "https://stats.example.org/presence/pay");
    assert!(event["title"].as_str().is_some_and(|title| title.starts_with("CRITICAL: pay is down")), "{event}");

    let status = daemon.status_when("all is accounted for", |status| status["notify"]["exec"]["delivered"] == 4);
    for (target, delivered) in [("slack", 2), ("oncall", 2), ("ntfy", 2), ("own", 2), ("webhook", 4)] {
        let account = &status["notify"][target];
        assert_eq!(
            (&account["offered"], &account["delivered"]),
            (&json!(delivered), &json!(delivered)),
            "{target}: {status}"
        );
    }
    let metrics = daemon.get("/metrics").1;
    assert!(metrics.contains("systole_notifications_delivered_total{target=\"oncall\"} 2"), "{metrics}");
    let shown = daemon.get("/api/v1/config").1;
    for secret in ["t0ken", "tk_x", "0123456789abcdef", "services/T0"] {
        assert!(!shown.contains(secret) && !metrics.contains(secret), "{secret}");
    }
    daemon.stop();
}

/// Answers 200 with a body that has no end.
fn endless() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while stream.write_all(chunk.as_bytes()).is_ok() {}
        }
    });
    address
}

fn is_alive(pid: &str) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn hostile_receivers_and_commands_are_bounded_counted_and_hold_nobody_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let flaky = Stub::start(|n, _| Reply::Says(if n < 2 { 500 } else { 200 }, "oh"));
    let slow = Stub::start(|_, _| Reply::Nothing);
    let busy =
        Stub::start(|n, _| if n == 0 { Reply::With(429, "Retry-After: 3", "later") } else { Reply::Says(200, "") });
    let refusing = Stub::good(400, "no_service <b>\u{1b}[31m");
    let locked = Stub::good(403, "invalid_token");
    let elsewhere = Stub::good(200, "");
    let to = format!("Location: http://{}/stolen", elsewhere.address);
    let to: &'static str = Box::leak(to.into_boxed_str());
    let redirecting = Stub::start(move |_, _| Reply::With(307, to, ""));
    let pids = dir.path().join("pids");
    let out = dir.path().join("good.jsonl");
    let forks = format!("trap '' TERM; sleep 300 & echo $! $$ > {}; sleep 300", pids.display());
    let mut more = String::new();
    for (name, url) in [
        ("flaky", format!("http://{}/", flaky.address)),
        ("slow", format!("http://{}/", slow.address)),
        ("busy", format!("http://{}/", busy.address)),
        ("refusing", format!("http://{}/", refusing.address)),
        ("locked", format!("http://{}/", locked.address)),
        ("redirecting", format!("http://me:pass@{}/", redirecting.address)),
        ("endless", format!("http://{}/", endless())),
        ("plain", format!("https://{}/", elsewhere.address)),
        ("gone", "http://127.0.0.1:9/".to_string()),
    ] {
        more.push_str(&format!(
            "[[notify]]\ntype = \"webhook\"\nname = \"{name}\"\nurl = \"{url}\"\ntimeout = \"500ms\"\n"
        ));
    }
    for (name, script) in [
        ("forks", forks.as_str()),
        ("prints", "yes >&2"),
        ("fails", "echo first >&2; echo it does not work >&2; exit 3"),
        ("env", &format!("test \"$A\" = b && test -z \"$SYSTOLE_HTTP__TOKEN\" && cat >> {}", out.display())),
    ] {
        more.push_str(&format!(
            "[[notify]]\ntype = \"exec\"\nname = \"{name}\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n\
             env = {{ A = \"b\" }}\ntimeout = \"700ms\"\n"
        ));
    }
    more.push_str("[[notify]]\ntype = \"exec\"\nname = \"missing\"\ncommand = [\"/no/such/program\"]\n");
    let began = Instant::now();
    let daemon = Daemon::start_in(
        dir.path(),
        &config(dir.path(), &more),
        "",
        &[("SYSTOLE_HTTP__TOKEN", "secret"), ("SECRET", "x")],
    );
    beat(&daemon, &["pay.a"]);
    beat_until(&daemon, &[], "the good command has it", || lines(&out).len() == 1);
    assert!(began.elapsed() < Duration::from_secs(12), "nobody waits for another one: {:?}", began.elapsed());
    let is_settled = |status: &Value| {
        let is = |target: &str, key: &str, value: u64| status["notify"][target][key] == value;
        let fails = |target: &str| status["notify"][target]["failures"].as_u64() > Some(1) && is(target, "queued", 1);
        is("flaky", "delivered", 1)
            && is("busy", "delivered", 1)
            && is("endless", "delivered", 1)
            && status["notify"]["refusing"]["dropped"]["refused"] == 1
            // Somebody may mend that.
            && is("locked", "queued", 1)
            && is("locked", "failures", 1)
            && ["slow", "redirecting", "plain", "gone", "forks", "prints", "fails", "missing"].into_iter().all(fails)
    };
    let status = daemon.status_when("everybody is where he should be", is_settled);
    let error = |target: &str| status["notify"][target]["last_error"].as_str().unwrap_or("").to_string();
    for (target, says) in [
        ("slow", "no answer within 0.5 s"),
        ("refusing", "it answers 400: no_service <b>\\u{1b}[31m"),
        ("redirecting", "redirect"),
        ("forks", "did not end within 0.7 s and was killed with its group"),
        ("prints", "killed with its group: y"),
        ("fails", "`sh` exited with 3: it does not work"),
        ("missing", "`/no/such/program` cannot be started"),
    ] {
        assert!(error(target).contains(says), "{target}: {}", error(target));
    }
    // The receiver's wish is honoured, and nothing is sent to where another points.
    assert_eq!(busy.requests().len(), 2);
    assert_eq!(elsewhere.requests().iter().filter(|request| request.first.starts_with("POST")).count(), 0);
    until("the whole group of a command is gone", || {
        let pids = std::fs::read_to_string(&pids).unwrap_or_default();
        !pids.is_empty() && pids.split_whitespace().all(|pid| !is_alive(pid))
    });
    // The end goes to whom the problem was delivered, and to whom it is still to be delivered; never to who refused it.
    beat_until(&daemon, &["pay.a"], "the good command has the end", || lines(&out).len() == 2);
    let status = daemon.status_when("flaky has the end", |status| status["notify"]["flaky"]["delivered"] == 2);
    assert_eq!((refusing.requests().len(), &status["notify"]["refusing"]["offered"]), (1, &json!(1)));
    assert_eq!((&status["notify"]["slow"]["queued"], &status["notify"]["locked"]["queued"]), (&json!(2), &json!(2)));
    // A refusal does not mean that nobody can be reached; no answer does.
    let up = |target: &str| status["notify"][target]["up"].clone();
    assert_eq!((up("refusing"), up("locked"), up("slow")), (json!(true), json!(false), json!(false)));
    let log = daemon.stop();
    let said = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert_eq!((said("an alert is refused, and given up"), said("to=\"slow\"")), (1, 2), "{log:#?}");
    assert!(log.iter().all(|line| !line.contains("pass@")), "{log:#?}");
}

#[test]
fn an_alert_at_which_its_receiver_fails_every_time_mutes_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let chat = Stub::start(|_, request| {
        let is_poison = request.text().contains("pay is down");
        Reply::Says(if is_poison { 500 } else { 200 }, "")
    });
    let more = format!("[[notify]]\ntype = \"slack\"\nurl = \"http://{}/\"\n", chat.address);
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    beat(&daemon, &EVERYBODY);
    let told = |what: &str| chat.requests().iter().filter(|request| request.text().contains(what)).count();
    beat_until(&daemon, &[], "the other one", || told("web/b is down") == 1);
    // Once more as soon as the receiver takes another, and then not for half a minute.
    beat_until(&daemon, &[], "the one that fails", || told("pay is down") >= 6);
    let status = daemon.status_when("it waits", |status| status["notify"]["slack"]["queued"] == 1);
    assert_eq!(status["notify"]["slack"]["delivered"], 1, "{status}");
    assert_eq!(told("pay is down"), 6);
    daemon.stop();
}

#[test]
fn what_was_not_delivered_before_a_stop_is_told_after_the_start_and_nothing_twice() {
    let dir = tempfile::tempdir().expect("a folder");
    let good = Stub::good(200, "");
    let down = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let target = |name: &str, address: SocketAddr| {
        format!("[[notify]]\ntype = \"webhook\"\nname = \"{name}\"\nurl = \"http://{address}/\"\ntimeout = \"1s\"\n")
    };
    let more = target("good", good.address) + &target("down", down);
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    beat(&daemon, &["pay.a"]);
    beat_until(&daemon, &[], "the problem", || good.requests().len() == 1);
    daemon.stop();
    // The one that was down is there now, and a third one is new.
    let back = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&back);
    serve(down, move |request| {
        seen.lock().expect("nobody panicked").push(request);
        Reply::Says(200, "")
    });
    let new = Stub::good(200, "");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &(more + &target("new", new.address))));
    let came = || back.lock().expect("nobody panicked").len();
    beat_until(&daemon, &[], "told late", || came() == 1 && new.requests().len() == 1);
    assert_eq!(good.requests().len(), 1, "it was told before");
    beat_until(&daemon, &["pay.a"], "all ends", || {
        came() == 2 && good.requests().len() == 2 && new.requests().len() == 2
    });
    let keys: Vec<Value> = good.bodies().iter().map(|body| body["events"][0]["resolved"].clone()).collect();
    assert_eq!(keys, [json!(false), json!(true)]);
    daemon.stop();
}

#[test]
fn what_a_slow_receiver_takes_while_the_daemon_stops_is_told_to_it_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let slow: Arc<Mutex<Vec<Request>>> = Arc::default();
    let (came, all) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&slow));
    let coming = Arc::clone(&came);
    let address = serve("127.0.0.1:0".parse().expect("an address"), move |request| {
        coming.fetch_add(1, Ordering::Relaxed);
        pause_ms(2000);
        all.lock().expect("nobody panicked").push(request);
        Reply::Says(200, "")
    });
    let out = dir.path().join("exec.jsonl");
    let more = format!(
        "webhook = [\"http://{address}/\"]\n[[notify]]\ntype = \"exec\"\n\
         command = [\"sh\", \"-c\", '''sleep 2; cat >> {}''']\n",
        out.display()
    );
    let config = config(dir.path(), &more);
    let daemon = Daemon::start(dir.path(), &config);
    beat(&daemon, &["pay.a"]);
    beat_until(&daemon, &[], "the problem is on its way", || came.load(Ordering::Relaxed) == 1);
    daemon.stop();
    let told = || (slow.lock().expect("nobody panicked").len(), lines(&out).len());
    assert_eq!(told(), (1, 1), "the stop waits for them");
    let daemon = Daemon::start(dir.path(), &config);
    beat_until(&daemon, &["pay.a"], "the end", || told() == (2, 2));
    assert!(lines(&out)[1].1, "{:?}", lines(&out));
    daemon.stop();
    assert_eq!(told(), (2, 2));
}

#[test]
fn an_end_is_told_after_a_crash_soon_after_its_problem_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("exec.jsonl");
    let more = format!("[[notify]]\ntype = \"exec\"\ncommand = [\"sh\", \"-c\", '''cat >> {}''']\n", out.display());
    let config = config(dir.path(), &more);
    let mut daemon = Daemon::start(dir.path(), &config);
    beat(&daemon, &["pay.a", "pay.b"]);
    beat_until(&daemon, &[], "a problem", || lines(&out).len() == 1);
    pause_ms(1900);
    daemon.signal("-KILL");
    assert_eq!(daemon.wait(Duration::from_secs(5)), None, "it has no exit code");
    drop(daemon);
    let daemon = Daemon::start(dir.path(), &config);
    beat_until(&daemon, &["pay.a", "pay.b"], "its end", || lines(&out).iter().any(|(_, is_end)| *is_end));
    let pay = || "PresenceServiceDown/pay".to_string();
    assert_eq!(lines(&out), [(pay(), false), (pay(), true)]);
    daemon.stop();
}

#[test]
fn a_test_alert_goes_to_all_targets_at_once_and_says_what_became_of_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let root = dir.path().join("root.pem");
    std::fs::write(&root, authority.root()).expect("written");
    let pair = authority.issue("127.0.0.1");
    let secured = secured(&pair.cert, &pair.key);
    let (pager, refusing) = (Stub::good(202, "{}"), Stub::good(400, "{\"status\":\"invalid event\"}"));
    let manager = Stub::good(200, "");
    let out = dir.path().join("exec.jsonl");
    let more = format!(
        "[[notify]]\ntype = \"pagerduty\"\nurl = \"http://{}/\"\nrouting_key = \"k\"\nservice = [\"none\"]\n\
         [[notify]]\ntype = \"webhook\"\nname = \"tls\"\nurl = \"https://{secured}/\"\ntls.ca = {root:?}\n\
         [[notify]]\ntype = \"exec\"\ncommand = [\"sh\", \"-c\", '''cat >> {}''']\nresolved = false\n\
         [[notify]]\ntype = \"alertmanager\"\nname = \"manager\"\nurl = \"http://{}\"\nseverity = \"critical\"\n",
        pager.address,
        out.display(),
        manager.address,
    );
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    let url = format!("http://{}", daemon.http.expect("HTTP"));
    let ask = |args: &[&str]| {
        let mut all = vec!["presence", "--url", &url, "test-alert"];
        all.extend(args);
        let output = systole(&all, b"");
        (output.status.code().unwrap_or(-1), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, said) = ask(&[]);
    assert!(code == 1 && said.contains("http.token"), "{said}");
    let (code, said) = ask(&["--token", "secret"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("pagerduty (pagerduty, http://127.0.0.1:") && said.contains("delivered, 202"), "{said}");
    assert_eq!(
        pager.bodies().iter().map(|body| body["event_action"].clone()).collect::<Vec<_>>(),
        ["trigger", "resolve"]
    );
    assert_eq!(pager.bodies()[0]["payload"]["class"], "PresenceTest");
    assert_eq!(lines(&out), [("PresenceTest".to_string(), false)]);
    assert!(said.contains("no end is sent") && said.contains("it ends by itself in 60 s"), "{said}");
    // Only a graver one is told to who wants no others, unless it is asked for.
    let (code, said) = ask(&["--token", "secret", "--severity", "warning"]);
    assert!(code == 0 && said.contains("not sent: it takes `critical` and graver"), "{said}");
    let before = lines(&out).len();
    let (code, said) = ask(&["--token", "secret", "--target", "manager", "--severity", "info", "--json"]);
    let answer: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (code, &answer["targets"][0]["problem"]["status"], lines(&out).len()),
        (0, &json!(200), before),
        "{said}"
    );
    let (code, said) = ask(&["--token", "secret", "--target", "nobody"]);
    assert!(code == 1 && said.contains("there are pagerduty, tls, exec, manager"), "{said}");
    daemon.stop();

    // One that refuses fails the whole, and has no end; so does one whose certificate nobody knows.
    let more = format!(
        "[[notify]]\ntype = \"pagerduty\"\nurl = \"http://{}/\"\nrouting_key = \"k\"\n\
         [[notify]]\ntype = \"webhook\"\nurl = \"https://{secured}/\"\n",
        refusing.address
    );
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    let url = format!("http://{}", daemon.http.expect("HTTP"));
    let output = systole(&["presence", "--url", &url, "--token", "secret", "test-alert"], b"");
    let said = text(&output.stdout);
    assert_eq!((output.status.code(), refusing.requests().len()), (Some(1), 1), "{said}");
    assert!(said.contains("FAILED: it answers 400: {\"status\":\"invalid event\"}"), "{said}");
    assert!(said.to_lowercase().contains("failed: invalid peer certificate") && !said.contains("end  "), "{said}");
    daemon.stop();
}

/// A webhook with TLS.
fn secured(cert: &str, key: &str) -> SocketAddr {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let cert = CertificateDer::from_pem_slice(cert.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_no_client_auth();
    let server = Arc::new(builder.with_single_cert(vec![cert], key).expect("they fit"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = rustls::ServerConnection::new(Arc::clone(&server)).expect("a connection");
            answer(rustls::StreamOwned::new(connection, stream));
        }
    });
    address
}

/// Reads one request, if it comes, and answers 200.
fn answer(mut stream: rustls::StreamOwned<rustls::ServerConnection, TcpStream>) {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => read.push(byte[0]),
            Ok(_) | Err(_) => return,
        }
    }
    let head = text(&read).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if stream.read_exact(&mut body).is_ok() {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = stream.flush();
    }
}

#[test]
fn names_from_the_wire_stay_text_in_every_form() {
    let dir = tempfile::tempdir().expect("a folder");
    let (slack, pager, ntfy) = (Stub::good(200, "ok"), Stub::good(202, "{}"), Stub::good(200, "{}"));
    let more = format!(
        "[[notify]]\ntype = \"slack\"\nurl = \"http://{}/x\"\n\
         [[notify]]\ntype = \"pagerduty\"\nurl = \"http://{}/\"\nrouting_key = \"k\"\n\
         [[notify]]\ntype = \"ntfy\"\nurl = \"http://{}/topic\"\n",
        slack.address, pager.address, ntfy.address
    );
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    let hostile = "heartbeat:1|g|#interval:1,service:<!channel>é\u{202e}&,instance:\x1b[31m*_`";
    daemon.send_udp(&[hostile.as_bytes()]);
    beat_until(&daemon, &[], "all three", || [&slack, &pager, &ntfy].iter().all(|stub| !stub.requests().is_empty()));
    let all: BTreeMap<&str, String> = [("slack", &slack), ("pager", &pager)]
        .into_iter()
        .map(|(name, stub)| (name, stub.bodies()[0].to_string()))
        .collect();
    assert!(all["slack"].contains("&lt;!channel&gt;é") && !all["slack"].contains("<!channel"), "{}", all["slack"]);
    for text in all.values() {
        assert!(!text.contains('\u{202e}') && !text.contains("\\u001b"), "{text}");
    }
    let request = &ntfy.requests()[0];
    let title =
        request.headers.lines().find_map(|line| line.strip_prefix("title: =?utf-8?b?")).expect("an encoded title");
    // Headers are kept in lower case, which base64 does not survive: its length is right, and nothing else is in it.
    assert!(title.ends_with("?=") && title.is_ascii(), "{title}");
    assert!(base64::prelude::BASE64_STANDARD.decode(title.trim_end_matches("?=")).is_ok(), "{title}");
    assert!(!request.text().contains('\u{202e}'), "{}", request.text());
    daemon.stop();
}

#[test]
fn an_alert_whose_command_fails_holds_up_no_other_and_arguments_are_shown_nowhere() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("exec.jsonl");
    let script = format!(
        "read -r line; case $line in *\"service\\\":\\\"pay\"*) exit 3;; esac; printf '%s\\n' \"$line\" >> {}",
        out.display()
    );
    let more = format!(
        "[[notify]]\ntype = \"exec\"\ncommand = [\"sh\", \"-c\", {script:?}, \"tok3n\"]\nprocesses = 1\n\
                 [[sink]]\ntype = \"exec\"\nname = \"pipe\"\ncommand = [\"sh\", \"-c\", \"exit 1\", \"tok3n\"]\n"
    );
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    beat(&daemon, &["pay.a", "web.b"]);
    beat_until(&daemon, &[], "one that fails, and another", || lines(&out).len() == 1);
    assert_eq!(lines(&out), [("PresenceInstanceDown/web/b".to_string(), false)]);
    beat_until(&daemon, &["web.b", "pay.a"], "its end", || lines(&out).len() == 2);
    let status = daemon.status_when("it is tried again", |status| {
        status["notify"]["exec"]["failures"].as_u64() > Some(2) && status["notify"]["exec"]["queued"] == 2
    });
    let url = format!("http://{}", daemon.http.expect("HTTP"));
    let output = systole(&["presence", "--url", &url, "--token", "secret", "test-alert"], b"");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("exec (exec, sh)"), "{said}");
    let shown = daemon.get("/api/v1/config").1;
    assert!(shown.contains("\"sh\""), "{shown}");
    let log = daemon.stop().join("\n");
    assert!(log.contains("place=\"sh\""), "{log}");
    for (name, text) in [("status", status.to_string()), ("test", said), ("config", shown), ("log", log)] {
        assert!(!text.contains("tok3n") && !text.contains("case $line"), "{name}: {text}");
    }
}

#[test]
fn a_test_alert_says_in_words_how_each_target_is_broken() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut more = String::new();
    let cases = [
        ("hangs", "webhook", Reply::Nothing, "FAILED: no answer within 0.4 s"),
        ("drips", "webhook", Reply::Drips, "FAILED: no answer within 0.4 s"),
        ("garbles", "ntfy", Reply::Garbage, "FAILED: "),
        (
            "points",
            "slack",
            Reply::With(308, "Location: http://127.0.0.1:9/x", ""),
            "FAILED: it answers 308, a redirect to",
        ),
        ("locks", "slack", Reply::Says(403, "invalid_token"), "FAILED: it answers 403: invalid_token"),
        ("denies", "slack", Reply::Says(200, "{\"ok\":false,\"error\":\"not_in_channel\"}"), "not_in_channel"),
        ("waits", "pagerduty", Reply::With(429, "Retry-After: 9", "slow down"), "FAILED: it answers 429: slow down"),
        ("invalid", "pagerduty", Reply::Says(202, "{\"status\":\"invalid event\"}"), "FAILED: it answers 202: "),
        ("managed", "alertmanager", Reply::Says(500, "no"), "FAILED: it answers 500: no"),
        // Its status says that it was taken.
        ("breaks", "webhook", Reply::Breaks, "delivered, 200"),
    ];
    for (name, kind, reply, _) in &cases {
        let reply = reply.clone();
        let stub = Stub::start(move |_, _| reply.clone());
        let key = if *kind == "pagerduty" { "routing_key = \"k\"\n" } else { "" };
        // Those that answer have time for it on a busy machine.
        let timeout = if ["hangs", "drips"].contains(name) { "400ms" } else { "10s" };
        more.push_str(&format!(
            "[[notify]]\ntype = \"{kind}\"\nname = \"{name}\"\nurl = \"http://{}/t\"\ntimeout = \"{timeout}\"\n{key}",
            stub.address
        ));
    }
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    let url = format!("http://{}", daemon.http.expect("HTTP"));
    let output = systole(&["presence", "--url", &url, "--token", "secret", "test-alert"], b"");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for (name, kind, _, says) in &cases {
        let of = |line: &&str| line.starts_with(&format!("{name} ({kind}, "));
        let part = said.split_inclusive('\n').collect::<Vec<_>>();
        let at = part.iter().position(of).unwrap_or_else(|| panic!("no {name}: {said}"));
        assert!(part[at + 1].starts_with("  problem  ") && part[at + 1].contains(says), "{name}: {said}");
        // There is no end without a problem.
        let has_end = part.get(at + 2).is_some_and(|line| line.starts_with("  end "));
        assert_eq!(has_end, *name == "breaks", "{name}: {said}");
    }
    daemon.stop();
}

#[test]
fn alerts_that_are_not_delivered_are_told_in_the_status_and_on_the_pages_until_one_arrives() {
    let dir = tempfile::tempdir().expect("a folder");
    let is_mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let broken = |status, says: &'static str| {
        let is_mended = Arc::clone(&is_mended);
        Stub::start(move |_, _| {
            let mended = is_mended.load(std::sync::atomic::Ordering::Relaxed);
            if mended { Reply::Says(200, "ok") } else { Reply::Says(status, says) }
        })
    };
    let (gone, picky) = (broken(404, "no_service"), broken(400, "invalid <b>payload"));
    let more = format!(
        "[[notify]]\ntype = \"slack\"\nname = \"chat\"\nurl = \"http://{}/x\"\n\
         [[notify]]\ntype = \"webhook\"\nname = \"pager\"\nurl = \"http://{}/x\"\n",
        gone.address, picky.address
    );
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    let url = format!("http://{}", daemon.http.expect("HTTP"));
    let screen = || {
        let output = systole(&["status", "--url", &url, "--token", "secret"], b"");
        (output.status.code(), text(&output.stdout))
    };
    let (_, said) = screen();
    assert!(said.contains(" chat  nothing to tell yet\n"), "{said}");
    beat(&daemon, &["pay.a"]);
    let status = daemon.status_when("both fail", |status| {
        beat(&daemon, &["web.a", "x.a", "y.a"]);
        status["notify"]["chat"]["failures"].as_u64() > Some(0) && status["notify"]["pager"]["dropped"]["refused"] == 1
    });
    let warnings: Vec<&str> = status["warnings"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for (begins, ends) in [
        ("alerts are not delivered to `chat`: 0 lost, 1 waits, since 20", " UTC: it answers 404: no_service"),
        ("alerts are not delivered to `pager`: 1 lost, 0 wait, since 20", " UTC: it answers 400: invalid <b>payload"),
    ] {
        assert!(warnings.iter().any(|said| said.starts_with(begins) && said.ends_with(ends)), "{begins}: {warnings:?}");
    }
    let verdict = &status["verdict"];
    // What is lost is worse than what waits, and than who is silent: nobody is told of that.
    assert_eq!((&verdict["level"], &verdict["about"]), (&json!("error"), &json!("alerts")), "{verdict}");
    assert_eq!(verdict["sentence"], "Alerts are not delivered to pager");
    assert!(verdict["pills"].to_string().contains("alerts are not delivered to chat"), "{verdict}");
    let (code, said) = screen();
    assert!(code == Some(1) && said.contains("✕ Alerts are not delivered to pager"), "{said}");
    assert!(
        said.contains("\nAlerts     ✕ chat  fails since ") && said.contains(" 0 of 1 delivered, 1 lost\n"),
        "{said}"
    );
    let now = daemon.get("/").1;
    assert!(now.contains("<h1>Alerts are not delivered to pager</h1>"), "{now}");
    let board = daemon.get("/presence").1;
    assert!(board.contains("pay is down") && board.contains("Alerts are not delivered to chat: "), "{board}");
    assert!(board.contains("It answers 400: invalid &lt;b&gt;payload."), "{board}");

    is_mended.store(true, std::sync::atomic::Ordering::Relaxed);
    let output = systole(&["presence", "--url", &url, "--token", "secret", "test-alert"], b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let status = daemon.status();
    assert_eq!(status["warnings"], json!([]), "a test alert that arrives shows that the way is good");
    assert!(status["verdict"].to_string().contains("lost, the last at "), "{}", status["verdict"]);
    daemon.stop();
}
