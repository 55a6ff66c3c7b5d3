//! Daemons that watch the same instances, and one webhook; and peers that answer what they like.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::certs::Authority;
use crate::support::door::Door;
use crate::support::receiver::{Reply, serve};
use crate::support::{Daemon, command, pause_ms, text, until};

/// Keeps what a webhook gets: key, whether it is the end, and which node sent it.
type Posts = Arc<Mutex<Vec<(String, bool, String)>>>;

fn webhook() -> (String, Posts) {
    webhook_at(TcpListener::bind("127.0.0.1:0").expect("a port"))
}

fn webhook_at(listener: TcpListener) -> (String, Posts) {
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let posts: Posts = Arc::default();
    let all = Arc::clone(&posts);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a length");
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = reader.into_inner().write_all(answer);
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let events = body["events"].as_array().cloned().unwrap_or_default();
            let keys = body["dedup_keys"].as_array().cloned().unwrap_or_default();
            for (event, key) in events.iter().zip(&keys) {
                let said = |value: &Value| value.as_str().unwrap_or("").to_string();
                let post = (said(key), event["resolved"] == true, said(&event["node"]));
                all.lock().expect("nobody panicked").push(post);
            }
        }
    });
    (url, posts)
}

fn config(dir: &Path, node: &str, peers: &[String], more: &str, http: &str) -> String {
    format!(
        "interval = \"1s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n{http}\n[presence]\nstate_file = \"{}\"\ngroup_wait = \"0s\"\nnode = \"{node}\"\n\
         peers = {peers:?}\npeer_token = \"between us\"\n{more}",
        dir.join("records.jsonl").display(),
        dir.join("presence.json").display(),
    )
}

/// A daemon behind a door, through which others ask it.
fn start(door: &Door, dir: &Path, config: &str) -> Daemon {
    let daemon = Daemon::start(dir, config);
    door.leads_to(daemon.http);
    daemon
}

fn speaker(daemon: &Daemon) -> String {
    daemon.status()["observers"]["speaker"].as_str().unwrap_or("").to_string()
}

#[test]
fn one_of_two_notifies_and_the_other_takes_over_when_it_is_killed() {
    let (dir_a, dir_b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (url, posts) = webhook();
    let (door_a, door_b) = (Door::new(), Door::new());
    let hook = format!("webhook = [\"{url}\"]\n");
    let config_a = config(dir_a.path(), "a", &[door_b.url("http")], &hook, "");
    let config_b = config(dir_b.path(), "b", &[door_a.url("http")], &hook, "");
    let b = start(&door_b, dir_b.path(), &config_b);
    let mut a = start(&door_a, dir_a.path(), &config_a);
    // `web.x` and then `web.y` fall silent; the others live and send to both. `only.b` sends to b alone.
    let silent: Arc<[AtomicBool; 2]> = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let beat = |to: &[&Daemon]| {
        let mut lines = vec!["heartbeat.web.z:1|g|#interval:1", "heartbeat.db.z:1|g|#interval:1"];
        for (n, line) in ["heartbeat.web.x:1|g|#interval:1", "heartbeat.web.y:1|g|#interval:1"].into_iter().enumerate()
        {
            if !silent[n].load(Ordering::Relaxed) {
                lines.push(line);
            }
        }
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        to.iter().for_each(|daemon| daemon.send_udp(&lines));
    };
    let count = |key: &str, resolved: bool| {
        let posts = posts.lock().expect("nobody panicked");
        posts.iter().filter(|(known, end, _)| known == key && *end == resolved).count()
    };
    let (x, y, peer) = ("PresenceInstanceDown/web/x", "PresenceInstanceDown/web/y", "PresencePeerUnreachable/a/b");
    until("one that notifies", || {
        b.send_udp(&[b"heartbeat.only.b:1|g|#interval:1"]);
        beat(&[&a, &b]);
        pause_ms(100);
        speaker(&a) == "a" && speaker(&b) == "a"
    });
    // What b alone has heard, a knows.
    until("b's instance at a", || {
        b.send_udp(&[b"heartbeat.only.b:1|g|#interval:1"]);
        beat(&[&a, &b]);
        pause_ms(100);
        a.get("/api/v1/presence/only/b").0 == 200
    });
    b.send_udp(&[b"heartbeat.only.b:0|g".as_slice(); 3]);
    // They are seen to work side by side, for longer than their timeout of 5 s: else one that comes back would replace another.
    for _ in 0..65 {
        // `alone.a` sends to a alone.
        a.send_udp(&[b"heartbeat.alone.a:1|g|#interval:1"]);
        beat(&[&a, &b]);
        pause_ms(100);
    }
    let check = |who: &str| {
        let output = command(&["presence", "check", who, "--url", &door_b.url("http")]).output().expect("it runs");
        (output.status.code(), text(&output.stdout))
    };
    assert_eq!((check("alone").0, check("alone/a").0), (Some(0), Some(0)));
    silent[0].store(true, Ordering::Relaxed);
    until("x is told", || {
        a.send_udp(&[b"heartbeat.alone.a:1|g|#interval:1"]);
        beat(&[&a, &b]);
        pause_ms(100);
        count(x, false) > 0
    });
    a.signal("-KILL");
    a.wait(Duration::from_secs(10));
    silent[1].store(true, Ordering::Relaxed);
    until("b tells the rest", || {
        beat(&[&b]);
        pause_ms(100);
        count(y, false) > 0 && count(peer, false) > 0
    });
    assert_eq!(speaker(&b), "b");
    let text_b = text(&command(&["status", "--url", &door_b.url("http")]).output().expect("it runs").stdout);
    assert!(text_b.contains("b notifies; a does not answer") && !text_b.contains("All is well"), "{text_b}");
    let board = b.get("/presence").1;
    assert!(board.contains("The observer a does not answer") && !board.contains("All is well"), "{board}");
    // Nobody hears `alone.a` now: whether it is up is not known.
    for (who, said) in [("alone", "1 heard only by an observer that is lost"), ("alone/a", "heard only by an observer")]
    {
        let (code, line) = check(who);
        assert!(code == Some(3) && line.contains(said), "{code:?}: {line}");
    }
    // It comes back, and speaks; then x comes back as well.
    let a = start(&door_a, dir_a.path(), &config_a);
    until("a speaks again", || {
        beat(&[&a, &b]);
        pause_ms(100);
        speaker(&a) == "a" && speaker(&b) == "a"
    });
    silent[0].store(false, Ordering::Relaxed);
    until("what is over ends", || {
        a.send_udp(&[b"heartbeat.alone.a:0|g"]);
        beat(&[&a, &b]);
        pause_ms(100);
        count(peer, true) > 0 && count(x, true) > 0
    });
    // For longer than whoever speaks needs to tell something twice.
    for _ in 0..20 {
        beat(&[&a, &b]);
        pause_ms(100);
    }
    assert_eq!(count(y, true), 0, "it is silent still: {}", b.get("/api/v1/presence/events").1);
    let told = [x, y, peer].map(|key| (count(key, false), count(key, true)));
    let posts = posts.lock().expect("nobody panicked").clone();
    // Of x, a may have died before b knew that it was told.
    assert!(told[0] == (1, 1) || told[0] == (2, 1), "{posts:?}");
    assert_eq!(told[1..], [(1, 0), (1, 1)], "{posts:?}");
    let by_a = posts.iter().filter(|(key, end, by)| key == x && !end && by == "a").count();
    assert_eq!(by_a, 1, "{posts:?}");
    // While two of three are down, their service is degraded.
    let known = [x, y, peer, "PresenceServiceDegraded/web"];
    assert!(posts.iter().all(|(key, ..)| known.contains(&key.as_str())), "{posts:?}");
    drop((a, b));
}

#[test]
fn a_peer_is_asked_over_tls_and_shows_what_it_hears_to_nobody_else() {
    let (dir_a, dir_b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (door_a, door_b) = (Door::new(), Door::new());
    let authority = Authority::new();
    let tls = authority.setting(dir_a.path(), None);
    let root = dir_b.path().join("root.pem");
    std::fs::write(&root, authority.root()).expect("written");
    let ca = format!("peer_ca = {root:?}\n");
    let a = config(dir_a.path(), "a", &[door_b.url("http")], "", &tls);
    let b = config(dir_b.path(), "b", &[door_a.url("https")], &ca, "");
    let (a, b) = (start(&door_a, dir_a.path(), &a), start(&door_b, dir_b.path(), &b));
    until("an answer over TLS", || {
        a.send_udp(&[b"heartbeat.web.x:10|g"]);
        pause_ms(100);
        b.get("/api/v1/presence/web/x").0 == 200
    });
    let observers = b.status()["observers"].clone();
    assert_eq!((&observers["peers"][0]["node"], &observers["peers"][0]["reachable"]), (&"a".into(), &true.into()));
    // Without the token, and with another one.
    assert_eq!(b.get("/api/v1/presence/peer").0, 401);
    let http = b.http.expect("HTTP is on");
    let with =
        |token: &str| crate::support::get(http, "/api/v1/presence/peer", &format!("Authorization: Bearer {token}\r\n"));
    assert_eq!(with("wrong").0, 401);
    let (code, digest) = with("between us");
    let digest: Value = serde_json::from_str(&digest).expect("JSON");
    assert_eq!((code, &digest["node"], &digest["v"]), (200, &"b".into(), &1.into()));
    let (_, scraped) = b.get("/metrics");
    assert!(scraped.contains("presence_peer_up{peer=\"a\"} 1"), "{scraped}");
    drop((a, b));
}

#[test]
fn a_target_that_one_cannot_reach_is_told_by_the_other_and_nothing_comes_late_or_twice() {
    let (dir_a, dir_b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (of_b, posts_of_b) = webhook();
    let (shared, posts) = webhook();
    // Nobody is there at first.
    let door_of_a = Door::new();
    let (door_a, door_b) = (Door::new(), Door::new());
    let targets = |own: &str| {
        let one =
            |name: &str, url: &str| format!("[[notify]]\ntype = \"webhook\"\nname = \"{name}\"\nurl = \"{url}\"\n");
        one("own", own) + &one("shared", &shared)
    };
    let own = format!("{}/hook", door_of_a.url("http"));
    let a = config(dir_a.path(), "a", &[door_b.url("http")], &targets(&own), "");
    let b = config(dir_b.path(), "b", &[door_a.url("http")], &targets(&of_b), "");
    let (b, a) = (start(&door_b, dir_b.path(), &b), start(&door_a, dir_a.path(), &a));
    let beat = |lines: &[&[u8]]| {
        [&a, &b].iter().for_each(|daemon| daemon.send_udp(lines));
        pause_ms(100);
    };
    let (pay, others) = (b"heartbeat.pay.x:1|g|#interval:1", b"heartbeat.web.z:1|g|#interval:1");
    until("one that notifies", || {
        beat(&[pay, others]);
        speaker(&a) == "a" && speaker(&b) == "a"
    });
    let of_pay = |posts: &Posts| -> Vec<(bool, String)> {
        let posts = posts.lock().expect("nobody panicked");
        assert!(posts.iter().all(|(key, ..)| key == "PresenceServiceDown/pay"), "{posts:?}");
        posts.iter().map(|(_, end, by)| (*end, by.clone())).collect()
    };
    until("b tells whom a cannot reach", || {
        beat(&[others]);
        !of_pay(&posts_of_b).is_empty()
    });
    let by = |node: &str, end: bool| (end, node.to_string());
    assert_eq!((of_pay(&posts_of_b), of_pay(&posts)), (vec![by("b", false)], vec![by("a", false)]));
    // What a had tried it tries no more, though its receiver is there now.
    let status = a.status_when("a has given it up", |status| status["notify"]["own"]["queued"] == 0);
    assert_eq!(status["notify"]["own"]["dropped"]["superseded"], 1, "{status}");
    assert_eq!((&status["observers"]["speaker"], &status["observers"]["targets"]["own"]), (&"a".into(), &"b".into()));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    door_of_a.leads_to(listener.local_addr().ok());
    let (_, late) = webhook_at(listener);
    until("its end", || {
        beat(&[pay, others]);
        of_pay(&posts_of_b).len() == 2 && of_pay(&posts).len() == 2
    });
    // For longer than the pauses of a that tries again.
    for _ in 0..25 {
        beat(&[pay, others]);
    }
    assert_eq!(of_pay(&posts_of_b), [by("b", false), by("b", true)]);
    assert_eq!(of_pay(&posts), [by("a", false), by("a", true)]);
    assert!(of_pay(&late).is_empty());
    drop((a, b));
}

#[test]
fn a_heartbeat_of_any_bytes_does_not_part_the_observers() {
    let (dir_a, dir_b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (door_a, door_b) = (Door::new(), Door::new());
    let a = start(&door_a, dir_a.path(), &config(dir_a.path(), "a", &[door_b.url("http")], "", ""));
    let b = start(&door_b, dir_b.path(), &config(dir_b.path(), "b", &[door_a.url("http")], "", ""));
    a.send_udp(&[
        b"heartbeat:10|g|#service:a,instance:x,version:1\t2",
        b"heartbeat:10|g|#service:b\x01,instance:\x1b[31m,start:\x7f",
        b"heartbeat:10|g|#service:z,instance:last",
    ]);
    until("the last of them at the other one", || b.get("/api/v1/presence/z/last").0 == 200);
    assert_eq!(b.get("/api/v1/presence/a/x").0, 200);
    assert_eq!(b.get("/api/v1/presence/b%01/%1B%5B31m").0, 200);
    let peer = b.status()["observers"]["peers"][0].clone();
    assert_eq!((&peer["reachable"], &peer["refused"]), (&true.into(), &0.into()), "{peer}");
}

#[test]
fn peers_that_never_come_to_an_end_hinder_neither_judging_nor_the_stop() {
    let dir = tempfile::tempdir().expect("a folder");
    let any = "127.0.0.1:0".parse().expect("an address");
    let mut page = 0;
    let endless = serve(any, move |_| {
        page += 1;
        let row = format!("{{\"s\":\"there\",\"i\":\"{}\",\"age_ms\":0}}", page % 10);
        Reply::Made(format!(
            "{{\"v\":1,\"node\":\"0\",\"cursor\":\"1.{page}.1\",\"whole\":true,\"more\":true,\"targets\":{{\"webhook\":true}},\
             \"leaving\":false,\"heard\":[{row}]}}"
        ))
    });
    let peers = [endless, serve(any, |_| Reply::Drips), serve(any, |_| Reply::Nothing)];
    let (url, posts) = webhook();
    let hook = format!("webhook = [\"{url}\"]\n");
    let daemon =
        Daemon::start(dir.path(), &config(dir.path(), "a", &peers.map(|peer| format!("http://{peer}")), &hook, ""));
    until("what the endless one has heard", || daemon.get("/api/v1/presence/there/9").0 == 200);
    for _ in 0..3 {
        daemon.send_udp(&[b"heartbeat.web.x:1|g|#interval:1".as_slice(), b"heartbeat.web.y:1|g|#interval:1"]);
        pause_ms(100);
    }
    until("it is told that x is down", || {
        daemon.send_udp(&[b"heartbeat.web.y:1|g|#interval:1"]);
        pause_ms(100);
        posts.lock().expect("nobody panicked").iter().any(|(key, ..)| key == "PresenceInstanceDown/web/x")
    });
    let peers = daemon.status()["observers"]["peers"].clone();
    assert!(peers.as_array().expect("a list").iter().all(|peer| peer["reachable"] == false), "{peers}");
    let began = Instant::now();
    daemon.stop();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_wrong_token_and_a_second_node_of_one_name_are_said_in_words() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let [dir_a, dir_same, dir_locked] = &dirs;
    let (same, locked) = (Door::new(), Door::new());
    let other = config(dir_locked.path(), "c", &[], "", "").replace("between us", "of others");
    let daemons = [
        start(&same, dir_same.path(), &config(dir_same.path(), "a", &[], "", "")),
        start(&locked, dir_locked.path(), &other),
    ];
    let peers = [same.url("http"), locked.url("http")];
    let watch = "[[presence.watch]]\nmatch = \"never.*\"\nservice = \"never\"\n";
    let a = Daemon::start(dir_a.path(), &config(dir_a.path(), "a", &peers, watch, ""));
    let url = format!("http://{}", a.http.expect("HTTP is on"));
    let ask = |args: &[&str]| {
        text(&command(&[args, &["--url", url.as_str()][..]].concat()).output().expect("it runs").stdout)
    };
    let said = |what: &str| {
        until(what, || {
            let (list, status) = (ask(&["presence", "list"]), ask(&["status"]));
            list.contains(what) && status.contains(what)
        });
    };
    said("has the name of another observer: set `presence.node`");
    said("refuses our token; `peer_token` must be the same at both");
    said("never.* has taken no line since the start");
    assert!(ask(&["status"]).contains("Two observers have one name"), "{}", ask(&["status"]));
    let status = command(&["status", "--url", &url]).output().expect("it runs").status;
    assert_eq!(status.code(), Some(1), "a script is told");
    let log = a.stop();
    let is_error = |line: &&String| line.contains("ERROR") && line.contains("two observers have one name");
    assert_eq!(log.iter().filter(is_error).count(), 1, "{log:#?}");
    drop(daemons);
}
