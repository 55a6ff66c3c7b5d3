//! Alarms through the front door: a webhook, an Alertmanager (of ours: the real one is in `tests/oracle/live_presence.py`),
//! a dead-man's switch, the event stream, the forms, and `systole presence`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Daemon, pause_ms, systole, text, until};

/// Takes requests: method and path, and the body. Answers 503 as often as it is told to, then 200.
struct Receiver {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    /// When each came, Unix seconds.
    times: Arc<Mutex<Vec<f64>>>,
}

impl Receiver {
    fn start(mut refusals: u32) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let times: Arc<Mutex<Vec<f64>>> = Arc::default();
        let (all, came) = (Arc::clone(&seen), Arc::clone(&times));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream);
                let (mut first, mut length) = (String::new(), 0);
                let _ = reader.read_line(&mut first);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a length");
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).expect("a body");
                let code = if refusals > 0 { "503 Not yet" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = reader.into_inner().write_all(answer.as_bytes());
                if refusals > 0 {
                    refusals -= 1;
                    continue;
                }
                let what = first.split(" HTTP").next().unwrap_or("").to_string();
                came.lock().expect("nobody panicked").push(unix_now());
                all.lock().expect("nobody panicked").push((what, serde_json::from_slice(&body).unwrap_or_default()));
            }
        });
        Receiver { address, seen, times }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every event a webhook got: key, whether it was the end, and the event.
    fn events(&self) -> Vec<(String, bool, Value)> {
        let mut out = Vec::new();
        for (_, body) in self.seen.lock().expect("nobody panicked").iter() {
            let events = body["events"].as_array().expect("events");
            let keys = body["dedup_keys"].as_array().expect("keys");
            assert_eq!((body["version"].as_u64(), events.len()), (Some(1), keys.len()));
            for (event, key) in events.iter().zip(keys) {
                let key = key.as_str().expect("text").to_string();
                out.push((key, event["resolved"] == true, event.clone()));
            }
        }
        out
    }

    /// Every alert that an Alertmanager was sent, the latest of each name last.
    fn alerts(&self) -> Vec<Value> {
        let seen = self.seen.lock().expect("nobody panicked");
        seen.iter().flat_map(|(_, body)| body.as_array().expect("alerts").clone()).collect()
    }
}

fn config(dir: &Path, more: &str) -> String {
    format!(
        "interval = \"1s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n\
         [http]\naddress = \"127.0.0.1:0\"\ntoken = \"secret\"\n[presence]\nstate_file = \"{}\"\n{more}",
        dir.join("records.jsonl").display(),
        dir.join("presence.json").display(),
    )
}

#[test]
fn a_problem_is_told_once_and_its_end_if_and_only_if_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let webhook = Receiver::start(2);
    let alertmanager = Receiver::start(0);
    let snitch = Receiver::start(0);
    let more = format!(
        "webhook = [\"{}/hook\"]\nalertmanager = [\"{}\"]\nsnitch_url = \"{}/alive\"\ngroup_wait = \"3s\"\n",
        webhook.url(),
        alertmanager.url(),
        snitch.url()
    );
    let text = config(dir.path(), &more);
    let daemon = Daemon::start(dir.path(), &text);
    let beat = |daemon: &Daemon, who: &[&str]| {
        let lines: Vec<String> = who.iter().map(|who| format!("heartbeat.{who}:1|g|#interval:1")).collect();
        daemon.send_udp(&lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
    };
    // `blip.a` is down for a moment that `group_wait` hides; `pay` dies as a whole; `web.b` alone; `web.a` lives.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(14) {
        let second = began.elapsed().as_secs();
        beat(&daemon, &["web.a", "blip.b", "x.a", "y.a"]);
        if second < 1 {
            beat(&daemon, &["pay.a", "pay.b", "web.b", "blip.a"]);
        }
        if second >= 7 {
            beat(&daemon, &["blip.a"]);
        }
        pause_ms(400);
    }
    let keys = |resolved: bool| -> Vec<String> {
        let events = webhook.events();
        events.into_iter().filter(|(_, is_end, _)| *is_end == resolved).map(|(key, ..)| key).collect()
    };
    until("two problems", || keys(false).len() == 2);
    assert_eq!(keys(false), ["PresenceServiceDown/pay", "PresenceInstanceDown/web/b"]);
    assert!(keys(true).is_empty(), "the end of what nobody was told of: {:?}", keys(true));
    let (_, _, event) = webhook.events().remove(1);
    assert_eq!(
        (&event["kind"], &event["to"], &event["severity"]),
        (&"instance".into(), &"down".into(), &"warning".into())
    );
    let said = event["text"].as_str().expect("text");
    assert!(
        said.starts_with("web/b is down: it missed 4 beats of 1 s; last heard ")
            && said.ends_with("1 of 2 instances present"),
        "{said}"
    );
    assert!(event["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{event}");
    assert!(event["last_seen"].is_string() && event["v"] == 1 && event["id"].is_string(), "{event}");

    // Alertmanager: identity in the labels, the watchdog from the start, an end ahead.
    let alerts = alertmanager.alerts();
    let find = |name: &str| alerts.iter().rev().find(|alert| alert["labels"]["alertname"] == name).cloned();
    assert!(find("PresenceWatchdog").is_some());
    let pay = find("PresenceServiceDown").expect("it was told");
    let expected = serde_json::json!({"alertname": "PresenceServiceDown", "service": "pay", "severity": "critical", "source": "presence"});
    assert_eq!(pay["labels"], expected);
    assert!(pay["endsAt"].as_str() > pay["startsAt"].as_str(), "{pay}");
    assert!(pay["generatorURL"].as_str().is_some_and(|url| url.ends_with("/presence/pay")), "{pay}");
    assert!(pay["annotations"]["description"].as_str().is_some_and(|text| text.starts_with("Down: a, b; ")), "{pay}");
    // The first flush had to be over.
    assert_eq!(snitch.seen.lock().expect("nobody panicked")[0].0, "GET /alive");

    // After a restart Alertmanager is told again what is still open, the webhook is not.
    drop(alerts);
    daemon.stop();
    alertmanager.seen.lock().expect("nobody panicked").clear();
    let daemon = Daemon::start(dir.path(), &text);
    let again = || {
        let mut names: Vec<String> =
            alertmanager.alerts().iter().map(|a| a["labels"]["alertname"].as_str().unwrap_or("").to_string()).collect();
        names.sort();
        names.dedup();
        names
    };
    until("told again", || again() == ["PresenceInstanceDown", "PresenceServiceDown", "PresenceWatchdog"]);
    // The end comes to both.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        beat(&daemon, &["web.a", "web.b", "blip.a", "blip.b", "x.a", "y.a", "pay.a", "pay.b"]);
        pause_ms(400);
    }
    until("both ends", || keys(true).len() == 2);
    assert_eq!(keys(false).len(), 2);
    let ended = |name: &str| {
        let alerts = alertmanager.alerts();
        let alert = alerts.iter().rev().find(|alert| alert["labels"]["alertname"] == name).cloned();
        alert.and_then(|alert| Some(alert["endsAt"].as_str()?.to_string()))
    };
    let now = humantime_now();
    until("an end in the past", || ended("PresenceServiceDown").is_some_and(|end| end < now));
    daemon.stop();
}

#[test]
fn invented_names_do_not_keep_the_alarm_of_a_real_service_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let webhook = Receiver::start(0);
    let more = format!("webhook = [\"{}\"]\ngroup_wait = \"0s\"\n", webhook.url());
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    for _ in 0..4 {
        daemon.send_udp(&[b"heartbeat.prod.a:1|g|#interval:1"]);
        pause_ms(200);
    }
    // A dozen that are late, at 3 s, when `prod` is down, at 5 s.
    let invented: Vec<String> = (0..12).map(|n| format!("heartbeat.e{n}.x:2|g")).collect();
    daemon.send_udp(&[invented.join("\n").as_bytes()]);
    let told = || -> Vec<String> { webhook.events().into_iter().map(|(key, ..)| key).collect() };
    until("`prod` is down", || told().iter().any(|key| key == "PresenceServiceDown/prod"));
    assert!(!told().iter().any(|key| key.starts_with("PresenceMassSilence")), "{:?}", told());
    daemon.stop();
}

fn unix_now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// A time a minute ahead of now, as RFC 3339: ends of what is open are later, ends of what is over earlier.
fn humantime_now() -> String {
    systole::internals::presence::rfc3339(unix_now() + 60.0)
}

/// What Alertmanager holds of one alert, by a clock that is `behind` ours: as its `Put` and `Alert.Merge` have it, where
/// what is sent overlaps what is held. An end ahead of that clock is no end, and the later one stays.
#[derive(Clone, Copy, Default)]
struct Held {
    starts: f64,
    ends: f64,
}

impl Held {
    fn take(&mut self, starts: f64, ends: f64, now: f64) {
        let within = |at: f64| at > self.starts && at < self.ends;
        if !within(starts) && !within(ends) {
            (self.starts, self.ends) = (starts, ends);
            return;
        }
        let both_over = self.ends <= now && ends <= now;
        if ends <= now && !both_over {
            self.ends = ends;
        } else {
            self.ends = self.ends.max(ends);
        }
        self.starts = self.starts.min(starts);
    }
}

/// When an alarm was over at an Alertmanager whose clock is so far behind ours, in seconds after its end was first sent.
fn resolved_after(manager: &Receiver, name: &str, behind: f64) -> Option<f64> {
    let seen = manager.seen.lock().expect("nobody panicked").clone();
    let times = manager.times.lock().expect("nobody panicked").clone();
    let seconds = |alert: &Value, key: &str| {
        let time = alert[key].as_str().and_then(|text| humantime::parse_rfc3339(text).ok()).expect("a time");
        time.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64()
    };
    let (mut held, mut first_end) = (Held::default(), None);
    for ((_, body), &came) in seen.iter().zip(&times) {
        for alert in body.as_array().expect("alerts").iter().filter(|alert| alert["labels"]["alertname"] == name) {
            let (starts, ends) = (seconds(alert, "startsAt"), seconds(alert, "endsAt"));
            if ends < came + 100.0 {
                first_end.get_or_insert(came);
            }
            held.take(starts, ends, came - behind);
            // An end that is held comes to pass by itself, later.
            if let Some(first) = first_end
                && held.ends < came + 100.0
            {
                return Some((held.ends + behind - first).max(came - first));
            }
        }
    }
    None
}

#[test]
fn an_end_is_effective_at_an_alertmanager_whose_clock_is_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = Receiver::start(0);
    let more = format!("alertmanager = [\"{}\"]\ngroup_wait = \"0s\"\n", manager.url());
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    daemon.send_udp(&[b"heartbeat.pay.a:1|g|#interval:1"]);
    let sent = |is_end: bool| {
        let alerts = manager.alerts().into_iter().filter(|alert| alert["labels"]["alertname"] == "PresenceServiceDown");
        let now = humantime_now();
        alerts.filter(|alert| (alert["endsAt"].as_str() < Some(now.as_str())) == is_end).count()
    };
    until("down", || sent(false) > 0);
    let back = unix_now();
    daemon.send_udp(&[b"heartbeat.pay.a:60|g"]);
    until("the end, and it again three times", || sent(true) >= 4);
    daemon.stop();

    let times = manager.times.lock().expect("nobody panicked").clone();
    let mut ends: Vec<(f64, String)> = Vec::new();
    for ((_, body), came) in manager.seen.lock().expect("nobody panicked").iter().zip(times) {
        for alert in body.as_array().expect("alerts") {
            let end = alert["endsAt"].as_str().expect("text");
            if alert["labels"]["alertname"] == "PresenceServiceDown" && end < humantime_now().as_str() {
                ends.push((came, end.to_string()));
            }
        }
    }
    // The same each time, and never later than a tick before it was sent.
    let (first, end) = ends[0].clone();
    assert!(ends.iter().all(|(_, again)| *again == end), "{ends:?}");
    assert!(
        end <= systole::internals::presence::rfc3339(first - 0.2)
            && end >= systole::internals::presence::rfc3339(back - 1.0),
        "{end}"
    );
    for (n, later) in [1.0, 3.0, 7.0].into_iter().enumerate() {
        // The watchdog's minute may bring one more.
        let came = ends.iter().map(|(came, _)| came - first).find(|after| *after >= later - 0.5);
        assert!(came.is_some_and(|after| after < later + 3.0), "{n}: {ends:?}");
    }
    for behind in [0.0, 0.05, 0.2] {
        let after = resolved_after(&manager, "PresenceServiceDown", behind);
        assert!(after.is_some_and(|after| after < 0.1), "{behind} s behind: {after:?}");
    }
    for behind in [0.5, 1.0, 2.0] {
        let after = resolved_after(&manager, "PresenceServiceDown", behind);
        assert!(after.is_some_and(|after| after < 7.0), "{behind} s behind: {after:?}");
    }
}

#[test]
fn events_are_streamed_as_they_happen() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    daemon.send_udp(&[b"heartbeat.pay.a:10|g"]);
    until("the first event", || daemon.get("/api/v1/presence/events").1.contains("registered"));
    let mut stream = TcpStream::connect(daemon.http.expect("HTTP")).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    write!(stream, "GET /api/v1/presence/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        .expect("sent");
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let mut next = |wanted: &str| -> Value {
        let line = lines.by_ref().find(|line| line.starts_with("data: ") && line.contains(wanted)).expect(wanted);
        serde_json::from_str(&line["data: ".len()..]).expect("JSON")
    };
    let registered = next("registered");
    daemon.send_udp(&[b"heartbeat.pay.a:0|g"]);
    let left = next("goodbye");
    assert_eq!((&left["instance"], &left["to"]), (&"a".into(), &"left".into()));
    // Only what came after an event, by its id.
    let id = registered["id"].as_str().expect("an id");
    let since: Value =
        serde_json::from_str(&daemon.get(&format!("/api/v1/presence/events?since={id}")).1).expect("JSON");
    assert!(since.as_array().expect("a list").iter().all(|event| event["reason"] != "registered"), "{since}");
    assert!(since.to_string().contains("goodbye"));
    daemon.stop();
}

#[test]
fn the_command_line_asks_checks_waits_and_changes() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    let url = format!("http://{}", daemon.http.expect("HTTP"));
    let ask = |args: &[&str]| {
        let mut all = vec!["presence", "--url", &url];
        all.extend(args);
        let output = systole(&all, b"");
        (output.status.code().unwrap_or(-1), text(&output.stdout) + &text(&output.stderr))
    };
    let check = |args: &[&str]| ask(args).0;
    assert_eq!(check(&["check", "pay"]), 3, "never seen");
    daemon.send_udp(&[b"heartbeat.pay.a:2|g|#version:1.2", b"heartbeat.pay.b:2|g", b"heartbeat.web.a:60|g"]);
    assert_eq!(check(&["wait", "pay", "--up", "2", "--timeout", "10"]), 0);
    assert_eq!(check(&["wait", "pay", "--up", "3", "--timeout", "1s"]), 2);
    assert_eq!(check(&["check", "pay"]), 0);
    assert_eq!(check(&["check", "pay", "--min", "3"]), 2);
    let (code, list) = ask(&["list"]);
    assert!(code == 0 && list.contains("pay/a  up") && list.contains("1.2"), "{list}");
    assert!(ask(&["list", "--state", "down"]).1.lines().count() == 1);
    let shown: Value = serde_json::from_str(&ask(&["show", "pay/a", "--json"]).1).expect("JSON");
    assert_eq!((&shown["instance"], &shown["interval_s"]), (&"a".into(), &2.0.into()));
    assert!(ask(&["events"]).1.contains("pay/a was heard for the first time"));
    assert_eq!(ask(&["show", "nobody"]).0, 1);
    // Changes need the token.
    let (code, said) = ask(&["maintenance", "pay", "30m", "a test"]);
    assert!(code == 1 && said.contains("http.token"), "{said}");
    assert_eq!(ask(&["--token", "wrong", "forget", "pay/b"]).0, 1);
    assert!(!ask(&["show", "pay/a"]).1.contains("maintenance"));
    assert_eq!(ask(&["--token", "secret", "maintenance", "pay", "30m", "a test"]).0, 0);
    assert!(ask(&["show", "pay/a"]).1.contains("maintenance"));
    assert_eq!(ask(&["--token", "secret", "maintenance", "pay", "0"]).0, 0);
    assert_eq!(ask(&["--token", "secret", "forget", "pay/b"]).0, 0);
    until("forgotten", || ask(&["show", "pay/b"]).0 == 1);
    until("down", || check(&["check", "pay"]) == 2);
    // We do not know: the daemon cannot be reached; wrong usage, where 2 would mean down.
    daemon.stop();
    assert_eq!(check(&["check", "pay"]), 3);
    assert_eq!(check(&["list"]), 1);
    assert_eq!(systole(&["presence", "check"], b"").status.code(), Some(3));
    assert_eq!(systole(&["presence", "list", "--nonsense"], b"").status.code(), Some(2));
}

#[test]
fn forms_on_the_page_of_a_service_need_the_token_and_names_stay_inert_everywhere() {
    let dir = tempfile::tempdir().expect("a folder");
    let hook = Receiver::start(0);
    let manager = Receiver::start(0);
    let more = format!("webhook = [\"{}\"]\nalertmanager = [\"{}\"]\ngroup_wait = \"0s\"\n", hook.url(), manager.url());
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    let post = |form: &str| {
        let mut stream = TcpStream::connect(daemon.http.expect("HTTP")).expect("connected");
        let length = form.len();
        write!(
            stream,
            "POST /presence/pay HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok()).expect("a status")
    };
    let hostile = "heartbeat:1|g|#interval:1,service:<img src=x>\u{202e},instance:\x1b[31m\",version:</td><script>";
    daemon.send_udp(&[b"heartbeat.pay.a:60|g", b"heartbeat.pay.b:60|g", hostile.as_bytes()]);
    daemon.send_udp(&["_sc|heartbeat|2|#service:pay,instance:a,interval:60|m:<b>bad</b>\u{1b}[2J".as_bytes()]);
    until("all are known", || daemon.get("/api/v1/presence").1.contains("bad"));
    assert_eq!(post("action=forget&instance=b&token=wrong"), 401);
    assert_eq!(post("action=maintenance&minutes=30&token="), 401);
    assert_eq!(daemon.get("/api/v1/presence/pay/b").0, 200);
    assert_eq!(post("action=maintenance&minutes=x&token=secret"), 400);
    assert_eq!(post("action=maintenance&minutes=30&instance=a&why=x&token=secret"), 303);
    assert!(daemon.get("/api/v1/presence/pay/a").1.contains("maintenance"));
    assert_eq!(post("action=forget&instance=b&token=secret"), 303);
    until("forgotten", || daemon.get("/api/v1/presence/pay/b").0 == 404);
    let metrics = daemon.get("/metrics").1;
    assert!(
        metrics.contains("presence_info{") && metrics.contains("presence_rejected_total{reason=\"token\"} 2"),
        "{metrics}"
    );

    until("the hostile one is down", || !hook.events().is_empty());
    let page = daemon.get("/presence/pay").1 + &daemon.get("/presence").1;
    let own = daemon.get("/presence/%3Cimg%20src%3Dx%3E%E2%80%AE");
    assert_eq!(own.0, 200, "{}", own.1);
    for text in [page, own.1] {
        assert!(!text.contains("<img") && !text.contains("<script>") && !text.contains("<b>bad"), "{text}");
        assert!(!text.contains('\x1b') && !text.contains('\u{202e}'), "{text}");
    }
    let event = hook.events().remove(0).2;
    let said = event["text"].as_str().expect("text");
    assert!(!said.contains('\x1b') && !said.contains('\u{202e}'), "{said}");
    let url = format!("http://{}", daemon.http.expect("HTTP"));
    for args in [&["list"][..], &["events"], &["list", "--json"], &["events", "--json"]] {
        let mut all = vec!["presence", "--url", &url];
        all.extend(args);
        let said = text(&systole(&all, b"").stdout);
        assert!(!said.contains('\x1b') && !said.contains('\u{202e}'), "{args:?}: {said}");
    }
    until("Alertmanager has it", || manager.alerts().iter().any(|a| a["labels"]["alertname"] == "PresenceServiceDown"));
    let all = Value::Array(manager.alerts()).to_string();
    assert!(!all.contains('\u{202e}') && !all.contains("\\u001b"), "{all}");
    daemon.stop();
}

#[test]
fn only_those_who_may_speak_of_a_service_are_heard() {
    let dir = tempfile::tempdir().expect("a folder");
    let guards = "goodbye_from = \"same_ip\"\n[[presence.service]]\nmatch = \"far\"\nallow = [\"10.0.0.0/8\"]\n\
                  [[presence.service]]\nmatch = \"near\"\nallow = [\"127.0.0.0/8\"]\n\
                  [[presence.service]]\nmatch = \"locked\"\nkey = \"sesame\"\n";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), guards));
    daemon.send_udp(&[
        b"heartbeat.far.a:10|g",
        b"heartbeat.near.a:10|g",
        b"heartbeat.locked.a:10|g",
        b"heartbeat.locked.b:10|g|#key:wrong",
        b"heartbeat.locked.c:10|g|#key:sesame",
        b"heartbeat.free.a:10|g",
        b"heartbeat.free.a:+5|g",
    ]);
    until("the last is known", || daemon.get("/api/v1/presence/free").0 == 200);
    let known: Value = serde_json::from_str(&daemon.get("/api/v1/presence").1).expect("JSON");
    let mut who: Vec<String> = Vec::new();
    for service in known.as_array().expect("a list") {
        for instance in service["instances"].as_array().expect("a list") {
            who.push(format!(
                "{}/{}",
                service["service"].as_str().unwrap_or(""),
                instance["instance"].as_str().unwrap_or("")
            ));
        }
    }
    assert_eq!(who, ["free/a", "locked/c", "near/a"]);
    assert!(!daemon.get("/api/v1/presence").1.contains("sesame"), "the key is dropped once it is checked");
    daemon.send_udp(&[b"heartbeat.locked.c:0|g", b"maintenance.locked:60|g", b"heartbeat.near.a:0|g"]);
    until("a goodbye from the same address", || daemon.get("/api/v1/presence/near/a").1.contains("\"left\""));
    let locked = daemon.get("/api/v1/presence/locked/c").1;
    assert!(locked.contains("\"up\"") && !locked.contains("maintenance"), "{locked}");
    let metrics = daemon.get("/metrics").1;
    for line in [
        "presence_rejected_total{reason=\"allow\"} 1",
        "presence_rejected_total{reason=\"key\"} 4",
        "presence_ignored_total{reason=\"delta\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}:\n{metrics}");
    }
    daemon.stop();
}

/// Has a configuration with these targets in force; whether it is, and the report.
fn reload(daemon: &Daemon, dir: &Path, more: &str) -> (bool, Value) {
    std::fs::write(dir.join("systole.toml"), config(dir, more)).expect("written");
    let url = format!("http://{}", daemon.http.expect("HTTP is on"));
    let output = systole(&["reload", "--json", "--url", &url, "--token", "secret"], b"");
    (output.status.code() == Some(0), serde_json::from_slice(&output.stdout).expect("a report"))
}

#[test]
fn targets_come_change_and_go_with_reloads_and_what_they_were_told_stays() {
    let dir = tempfile::tempdir().expect("a folder");
    let [stays, late, moved] = [0; 3].map(Receiver::start);
    let target =
        |name: &str, url: &str| format!("[[notify]]\ntype = \"webhook\"\nname = \"{name}\"\nurl = \"{url}\"\n");
    let first = format!("group_wait = \"0s\"\n{}", target("stays", &stays.url()));
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &first));
    let beat = || daemon.send_udp(&[b"heartbeat.db.x:1|g|#interval:1"]);
    let told = |receiver: &Receiver| -> Vec<bool> { receiver.events().iter().map(|(_, is_end, _)| *is_end).collect() };
    for _ in 0..4 {
        beat();
        pause_ms(200);
    }
    until("the first problem", || told(&stays) == [false]);

    // One that is new is told what fires, and so is one that nobody answers for.
    let nobody = target("nobody", "http://127.0.0.1:9/");
    let more = |url: &str| format!("{first}{}", target("late", url));
    let (is_applied, report) = reload(&daemon, dir.path(), &format!("{}{nobody}", more(&late.url())));
    assert!(is_applied && report["needs_restart"] == serde_json::json!([]), "{report}");
    until("what fires", || told(&late) == [false]);
    daemon.status_when("one that waits", |status| status["notify"]["nobody"]["queued"] == 1);

    // A broken one changes nothing.
    let broken = format!("{}[notify.tls]\nca = \"/nowhere/ca.pem\"\n", more(&moved.url()));
    let (is_applied, report) = reload(&daemon, dir.path(), &broken);
    assert!(!is_applied && report["problems"].to_string().contains("/nowhere/ca.pem"), "{report}");

    // One that is gone tries once more, and what it cannot deliver is counted until its account goes.
    let (is_applied, report) = reload(&daemon, dir.path(), &more(&moved.url()));
    assert!(is_applied, "{report}");
    daemon.status_when("what is lost", |status| status["notify"]["nobody"]["dropped"]["shutdown"] == 1);
    daemon.status_when("no account", |status| status["notify"].get("nobody").is_none());

    // The end of what one was told goes to where it is now.
    until("the end", || {
        beat();
        told(&moved) == [true] && told(&stays) == [false, true]
    });
    assert_eq!(told(&late), [false]);

    // One that is gone is told nothing more, and the others are.
    let (is_applied, report) = reload(&daemon, dir.path(), &first);
    assert!(is_applied, "{report}");
    until("the next problem", || told(&stays) == [false, true, false]);
    assert_eq!((told(&late), told(&moved)), (vec![false], vec![true]));
    let is_over =
        |status: &Value| status["notify"].get("late").is_none() && status["notify"]["stays"]["delivered"] == 3;
    let status = daemon.status_when("an account of all that is left", is_over);
    assert_eq!(status["notify"]["stays"]["offered"], 3, "{}", status["notify"]);
    let parts = status["parts"].as_object().expect("parts");
    assert!(
        parts.contains_key("notify:stays") && !parts.contains_key("notify:late"),
        "its end is no failure: {parts:?}"
    );
    daemon.stop();
}
