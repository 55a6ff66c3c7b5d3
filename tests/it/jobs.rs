//! Jobs through the front door: `systole beat --job` and a daemon, and what only happens in hours or days as traces through
//! `systole replay`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};

use serde_json::{Value, json};

use crate::support::{self, Daemon, systole, text, until};

fn config(dir: &Path, more: &str) -> String {
    format!(
        "interval = \"1s\"\n[http]\naddress = \"127.0.0.1:0\"\ntoken = \"secret\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\n[presence]\nstate_file = \"{}\"\n{more}",
        dir.join("records.jsonl").display(),
        dir.join("presence.json").display(),
    )
}

/// The events of a job, oldest first: state, reason, whether somebody was notified.
fn events(daemon: &Daemon, service: &str) -> Vec<(String, String, bool)> {
    let all: Value = serde_json::from_str(&daemon.get("/api/v1/presence/events").1).expect("JSON");
    let all = all.as_array().expect("a list").iter();
    let mine = all.filter(|event| event["kind"] == "job" && event["service"] == service);
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or("").to_string();
    mine.map(|event| (text(event, "to"), text(event, "reason"), event["notify"] == true)).collect()
}

/// What somebody was notified of.
fn notified(daemon: &Daemon, service: &str) -> Vec<(String, String)> {
    events(daemon, service).into_iter().filter(|(.., notify)| *notify).map(|(to, why, _)| (to, why)).collect()
}

fn has_reached(daemon: &Daemon, service: &str, state: &str) {
    until(&format!("{service} {state}"), || events(daemon, service).last().is_some_and(|(to, ..)| to == state));
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(to, why)| (to.to_string(), why.to_string())).collect()
}

/// Starts `systole beat JOB --job OPTIONS -- CMD`.
fn beat(to: &str, job: &str, options: &[&str], command: &[&str]) -> Child {
    let mut args = vec!["beat", job, "--job", "--to", to];
    args.extend(options);
    args.push("--");
    args.extend(command);
    support::command(&args).stderr(std::process::Stdio::piped()).spawn().expect("the binary starts")
}

fn ends(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), text(&output.stderr))
}

fn job(daemon: &Daemon, service: &str) -> Value {
    let view: Value = serde_json::from_str(&daemon.get(&format!("/api/v1/presence/{service}")).1).expect("JSON");
    view["jobs"][0].clone()
}

fn check(daemon: &Daemon, service: &str) -> (Option<i32>, String) {
    let url = format!("http://{}", daemon.http.expect("HTTP"));
    let output = systole(&["presence", "--url", &url, "check", service], b"");
    (output.status.code(), text(&output.stdout))
}

#[test]
fn what_becomes_of_a_run_is_notified_once_and_its_end_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let jobs = "[[presence.job]]\nservice = \"never\"\nevery = \"1s\"\ngrace = \"0s\"\n";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), jobs));
    let to = format!("udp://{}", daemon.udp.expect("UDP"));
    // The first run ever fails, and says why.
    let failing = ["sh", "-c", "echo a >&2; echo disk full >&2; echo 'code|5' >&2; exit 3"];
    let (code, said) = ends(beat(&to, "first/x", &["--stderr-lines", "2"], &failing));
    assert_eq!((code, &*said), (Some(3), "a\ndisk full\ncode|5\n"));
    has_reached(&daemon, "first", "failed");
    assert_eq!(notified(&daemon, "first"), pairs(&[("failed", "exit 3")]));
    let run = &job(&daemon, "first")["runs"][0];
    assert_eq!(
        (&run["result"], &run["exit"], &run["message"]),
        (&"failed".into(), &3.into(), &"disk full / code/5".into())
    );
    let (code, said) = check(&daemon, "first");
    // The instance is no machine, so the one that ran it is named.
    assert!(code == Some(2) && said.contains("first/x failed (on ") && said.contains(", exit 3, took "), "{said}");

    // Eight times, and it is notified once; a run that goes on is no end of it, one that ends well is.
    let all: Vec<Child> = (0..8).map(|_| beat(&to, "often", &[], &["false"])).collect();
    assert!(all.into_iter().all(|one| ends(one).0 == Some(1)));
    has_reached(&daemon, "often", "failed");
    let long = beat(&to, "often", &[], &["sleep", "0.7"]);
    has_reached(&daemon, "often", "running");
    assert_eq!(check(&daemon, "often").0, Some(2), "its last run was bad");
    assert_eq!(ends(long).0, Some(0));
    has_reached(&daemon, "often", "ok");
    assert_eq!(notified(&daemon, "often"), pairs(&[("failed", "exit 1"), ("ok", "ended")]));
    assert_eq!(check(&daemon, "often").0, Some(0));

    // Two that overlap, each with its own id: nothing.
    let two = [beat(&to, "twice", &[], &["sleep", "0.6"]), beat(&to, "twice", &[], &["sleep", "0.3"])];
    until("both run", || job(&daemon, "twice")["running"].as_array().is_some_and(|runs| runs.len() == 2));
    assert!(two.into_iter().all(|one| ends(one).0 == Some(0)));
    until("both ended", || job(&daemon, "twice")["runs"].as_array().is_some_and(|runs| runs.len() == 2));
    assert_eq!((notified(&daemon, "twice"), job(&daemon, "twice")["running"].clone()), (Vec::new(), json!([])));

    // Killed, as by the kernel when memory is short.
    assert_eq!(ends(beat(&to, "oom", &[], &["sh", "-c", "kill -9 $$"])).0, Some(137));
    has_reached(&daemon, "oom", "failed");
    assert_eq!(notified(&daemon, "oom"), pairs(&[("failed", "exit 137")]));
    assert!(daemon.get("/api/v1/presence/events").1.contains("failed with exit 137"));
    assert_eq!(ends(beat(&to, "no", &[], &["/no/such/program"])).0, Some(127));
    has_reached(&daemon, "no", "failed");

    // Configured, and it never starts.
    has_reached(&daemon, "never", "missed");
    assert_eq!(notified(&daemon, "never"), pairs(&[("missed", "no_run")]));
    let known = daemon.get("/api/v1/jobs?state=missed").1;
    let known: Value = serde_json::from_str(&known).expect("JSON");
    assert_eq!((known.as_array().map(Vec::len), &known[0]["service"]), (Some(1), &"never".into()));
    let board = daemon.get("/presence").1;
    assert!(board.contains("jobs are not well"));
    // Services that have only jobs are on the board, the worst first, and say what their jobs did.
    let place = |service: &str| board.find(&format!("href=\"/presence/{service}\"")).expect("it is on the board");
    assert!(place("first") < place("often") && place("never") < place("often"), "{board}");
    assert!(board.contains("failed</span>, exit 3, took ") && board.contains("never good"), "{board}");
    assert!(daemon.get("/presence/first").1.contains("disk full / code/5"));
    let metrics = daemon.get("/metrics").1;
    assert!(
        metrics.contains("presence_job_runs_total{instance=\"x\",result=\"failed\",service=\"first\"} 1"),
        "{metrics}"
    );
    daemon.stop();
}

#[test]
fn jobs_are_listed_whatever_their_names_are() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    daemon.send_udp(&[
        b"heartbeat:1|g|#service:z,instance:x/i,status:fail,exit:3,duration:12",
        b"heartbeat:1|g|#service:z/x,instance:i,status:ok",
        b"heartbeat:1|g|#service:z%2Fx,instance:i,status:ok",
    ]);
    let names = |path: &str| -> Vec<String> {
        let jobs: Value = serde_json::from_str(&daemon.get(path).1).expect("JSON");
        let jobs = jobs.as_array().unwrap_or_else(|| panic!("{jobs}"));
        jobs.iter().map(|job| format!("{} {}", job["service"], job["instance"])).collect()
    };
    until("all are known", || names("/api/v1/jobs").len() == 3);
    let all = ["\"z\" \"x/i\"", "\"z%2Fx\" \"i\"", "\"z/x\" \"i\""];
    assert_eq!(names("/api/v1/jobs"), all);
    assert_eq!(names("/api/v1/jobs?after=z%2Fx%252Fi"), all[1..]);
    assert_eq!(names("/api/v1/jobs?after=z%25252Fx%2Fi"), all[2..]);
    assert_eq!(names("/api/v1/jobs?after=z%252Fx%2Fi"), Vec::<String>::new());
    let url = format!("http://{}", daemon.http.expect("HTTP"));
    let listed = text(&systole(&["presence", "--url", &url, "list"], b"").stdout);
    let row = listed.lines().find(|line| line.starts_with("z/x/i ")).unwrap_or_else(|| panic!("{listed}"));
    assert!(row.contains("failed") && row.contains(" 3 ") && row.contains("12 s"), "{listed}");
    assert_eq!(listed.lines().filter(|line| line.contains("/i ")).count(), 3, "{listed}");
    daemon.stop();
}

#[test]
fn a_daemon_without_jobs_is_listed_all_the_same() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("bound");
    let answers = std::thread::spawn(move || {
        for _ in 0..3 {
            let (mut client, _) = server.accept().expect("a client");
            let mut request = BufReader::new(client.try_clone().expect("a second handle"));
            let mut first = String::new();
            request.read_line(&mut first).expect("a request");
            let mut header = String::new();
            while request.read_line(&mut header).expect("a header") > 2 {
                header.clear();
            }
            let (status, body) = match first.split(' ').nth(1).expect("a path") {
                "/api/v1/presence" => ("200 OK", r#"[{"service":"s","state":"up","present":1,"instances":[]}]"#),
                "/api/v1/status" => ("200 OK", "{}"),
                _ => ("404 Not Found", r#"{"error":{"code":"not_found","message":"no such page"}}"#),
            };
            let length = body.len();
            write!(client, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                .expect("sent");
        }
    });
    let output = systole(&["presence", "--url", &format!("http://{address}"), "list"], b"");
    assert!(output.status.success() && text(&output.stdout).contains("up"), "{}", text(&output.stderr));
    answers.join().expect("three requests");
}

#[test]
fn a_run_that_hangs_is_notified_and_so_is_one_that_was_killed_with_its_beat() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), ""));
    let to = format!("udp://{}", daemon.udp.expect("UDP"));
    // By its longest run; then it is stopped through its beat.
    let hung = beat(&to, "hung", &["--max-runtime", "1s"], &["sleep", "60"]);
    // Without one, by the time between two runs: 1 s and a grace of 1 s.
    let pid = dir.path().join("pid");
    let command = format!("echo $$ > {}; exec sleep 60", pid.display());
    let mut killed = beat(&to, "killed", &["--every", "1s"], &["sh", "-c", &command]);
    has_reached(&daemon, "hung", "overrun");
    assert_eq!(check(&daemon, "hung").0, Some(1));
    assert!(Command::new("kill").args(["-TERM", &hung.id().to_string()]).status().expect("kill runs").success());
    assert_eq!(ends(hung).0, Some(128 + 15));
    has_reached(&daemon, "hung", "failed");
    let worse = [("overrun", "max_runtime"), ("failed", "exit 143")];
    assert_eq!(notified(&daemon, "hung"), pairs(&worse));

    // Beat and command die together, and nobody says so.
    killed.kill().expect("it is killed");
    let child = std::fs::read_to_string(&pid).expect("it wrote its id");
    assert!(Command::new("kill").args(["-9", child.trim()]).status().expect("kill runs").success());
    ends(killed);
    // The next one was due, and none came: that is no warning.
    has_reached(&daemon, "killed", "missed");
    assert_eq!(notified(&daemon, "killed"), pairs(&[("missed", "still_running")]));
    assert_eq!(check(&daemon, "killed").0, Some(2));
    assert_eq!(ends(beat(&to, "killed", &["--every", "1h"], &["true"])).0, Some(0));
    has_reached(&daemon, "killed", "ok");
    assert_eq!(notified(&daemon, "killed"), pairs(&[("missed", "still_running"), ("ok", "ended")]));
    assert_eq!(job(&daemon, "killed")["running"], json!([]), "what was overtaken hides no run that does not come");
    daemon.stop();
}

#[test]
fn a_configured_job_that_is_forgotten_is_awaited_again_over_a_restart_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let jobs = "[[presence.job]]\nservice = \"c\"\nevery = \"2s\"\ngrace = \"0s\"\n";
    let forget = |daemon: &Daemon, who: &str| {
        let url = format!("http://{}", daemon.http.expect("HTTP"));
        text(&systole(&["presence", "--url", &url, "--token", "secret", "forget", who], b"").stdout)
    };
    let daemon = Daemon::start(dir.path(), &config(dir.path(), jobs));
    daemon.send_udp(&[b"heartbeat.c.box:1|g|#status:fail,exit:3", b"heartbeat.other.box:1|g|#status:fail,exit:3"]);
    has_reached(&daemon, "c", "failed");
    has_reached(&daemon, "other", "failed");
    assert_eq!(forget(&daemon, "other"), "other: forgotten\n");
    let said = forget(&daemon, "c");
    assert!(said.contains("c: forgotten; the job is configured, so its next run is awaited"), "{said}");
    assert!(events(&daemon, "c").contains(&("waiting".into(), "operator".into(), true)), "the alarm ends");
    has_reached(&daemon, "c", "missed");
    forget(&daemon, "c");
    daemon.stop();
    let daemon = Daemon::start(dir.path(), &config(dir.path(), jobs));
    has_reached(&daemon, "c", "missed");
    assert!(notified(&daemon, "c").iter().any(|(to, _)| to == "missed"));
    daemon.stop();
}

#[test]
fn a_run_says_where_it_was_and_what_it_said_and_its_name_works_everywhere() {
    let dir = tempfile::tempdir().expect("a folder");
    let jobs = "[[presence.job]]\nservice = \"whole\"\nevery = \"1h\"\n";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), jobs));
    daemon.send_udp(&[b"_sc|heartbeat|2|#service:whole,instance:hostA,status:fail,exit:1,run:0|m:FATAL: no password"]);
    has_reached(&daemon, "whole", "failed");
    assert!(daemon.get("/api/v1/presence/events").1.contains("whole failed with exit 1 on hostA"));
    // A dozen good runs with texts later, what the failed one said is still there.
    for run in 1..=12 {
        let text = "x".repeat(900);
        let line = format!("_sc|heartbeat|0|#service:whole,instance:-,host:hostB,status:ok,run:{run}|m:{text}");
        daemon.send_udp(&[line.as_bytes()]);
        until("it ended", || job(&daemon, "whole")["runs"].as_array().is_some_and(|runs| runs.len() == run + 1));
    }
    let runs = job(&daemon, "whole")["runs"].clone();
    assert_eq!((&runs[12]["host"], &runs[12]["message"]), (&"hostA".into(), &"FATAL: no password".into()));
    assert_eq!((&runs[0]["host"], runs[2]["message"].is_string()), (&"hostB".into(), true));
    assert_eq!(runs[11]["message"], Value::Null);

    // What `list` prints is a name.
    daemon.send_udp(&[b"heartbeat.one.vm:1|g|#status:fail,exit:7"]);
    has_reached(&daemon, "one", "failed");
    let url = format!("http://{}", daemon.http.expect("HTTP"));
    let ask = |args: &[&str]| {
        let output = systole(&[&["presence", "--url", &url, "--token", "secret"], args].concat(), b"");
        (output.status.code(), text(&output.stdout))
    };
    let (code, said) = ask(&["check", "one/vm"]);
    assert!(code == Some(2) && said.contains("PRESENCE CRITICAL - one/vm is failed (exit 7"), "{said}");
    let said = ask(&["show", "one/vm"]).1;
    assert!(said.contains("NEXT RUN (UTC)") && said.contains("failed"), "{said}");
    assert_eq!(daemon.get("/presence/one/vm").0, 303);
    let listed = |state: &str| ask(&["list", "--state", state]).1;
    assert!(listed("failed").contains("one/vm") && !listed("missed").contains("one/vm"));
    assert!(listed("down").contains("one/vm") && !listed("ok").contains("one/vm"));
    ask(&["maintenance", "one/vm", "30m"]);
    assert!(listed("maintenance").contains("failed (maintenance until "), "{}", listed("maintenance"));
    daemon.stop();
}

#[test]
fn check_warns_of_jobs_that_are_not_judged_as_somebody_may_think() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("systole.toml");
    let tables = "[[presence.job]]\nservice = \"neither\"\n\
                  [[presence.job]]\nservice = \"nightly/box7\"\nschedule = \"@midnight\"\n\
                  [[presence.job]]\nservice = \"long\"\nevery = \"1m\"\nmax_runtime = \"10m\"\n\
                  [[presence.job]]\nservice = \"often\"\nschedule = \"*/5 * * * *\"\nmax_runtime = \"10m\"\n\
                  [[presence.watch]]\nmatch = \"heartbeat.*\"\nservice = \"a\"\ninterval = \"10s\"\n\
                  [[presence.watch]]\nmatch = \"app.{x}.live\"\nservice = \"b\"\ninterval = \"10s\"\n";
    std::fs::write(&path, tables).expect("written");
    let output = systole(&["check", "-c", path.to_str().expect("a plain path")], b"");
    let (said, listed) = (text(&output.stderr), text(&output.stdout));
    for warning in [
        "`neither` has no `schedule` and no `every`",
        "service = \"nightly\" with instance = \"box7\" is",
        "`long` is due again after 60 s, and may run for 10 min",
        "`often` is due again after 5 min",
        "`heartbeat.*` takes no line",
        "`app.{x}.live`: braces are plain text",
    ] {
        assert!(said.contains(warning), "{warning}: {said}");
    }
    assert!(
        listed.contains("job nightly/box7: @midnight UTC, next 2") && listed.contains("job long: every 60 s"),
        "{listed}"
    );
}

#[test]
fn check_tells_of_what_would_never_alarm_or_alarm_for_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("systole.toml");
    let said = |tables: &str| {
        std::fs::write(&path, tables).expect("written");
        let output = systole(&["check", "-c", path.to_str().expect("a plain path")], b"");
        (output.status.success(), text(&output.stderr))
    };
    for (tables, is_good, what) in [
        ("[[presence.expect]]\nservice = \"b*\"\n", false, "`b*` is taken as it is, not as a pattern"),
        (
            "[[presence.watch]]\nmatch = \"a\"\nservice = \"events\"\ninterval = \"5s\"\n",
            false,
            "no service is called `events`",
        ),
        (
            "[presence]\nenabled = false\n[[presence.job]]\nservice = \"b\"\nevery = \"1h\"\n",
            true,
            "presence.job: `presence.enabled` is false",
        ),
        (
            "[presence]\npeers = [\"https://a\"]\npeer_token = \"secret-0123456789abcdef\"\n[http]\naddress = \"off\"\n",
            true,
            "`http.address` is off, so no peer can ask",
        ),
    ] {
        let (was_good, said) = said(tables);
        assert!(was_good == is_good && said.contains(what), "{what}: {said}");
    }
}

#[test]
fn a_status_that_nobody_knows_never_looks_like_success() {
    let dir = tempfile::tempdir().expect("a folder");
    let jobs = "[[presence.job]]\nservice = \"configured\"\nevery = \"1h\"\n";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), jobs));
    daemon.send_udp(&[
        b"heartbeat.typo.h1:1|g|#status:failed",
        b"heartbeat.configured.h1:1|g|#status:failure,exit:4",
        b"heartbeat.bare.h1:1|g|#exit:4",
        b"heartbeat.fine.h1:1|g|#status:OK",
    ]);
    for (service, reason) in [("typo", "bad_status"), ("configured", "exit 4"), ("bare", "exit 4")] {
        has_reached(&daemon, service, "failed");
        assert_eq!(notified(&daemon, service), pairs(&[("failed", reason)]));
        assert_eq!(check(&daemon, service).0, Some(2));
    }
    has_reached(&daemon, "fine", "ok");
    assert_eq!(job(&daemon, "typo")["runs"][0]["message"], "its status `failed` is none of start, ok and fail");
    let metrics = daemon.get("/metrics").1;
    assert!(metrics.contains("presence_ignored_total{reason=\"bad_status\"} 2"), "{metrics}");
    let explained = |line: &str| text(&systole(&["explain", line], b"").stdout);
    let said = explained("heartbeat.typo.h1:1|g|#status:failed");
    assert!(said.contains("job          a run failed: its status `failed` is none of start, ok and fail"), "{said}");
    let said = explained("heartbeat.a.b:1|g|#status:ok,exit:3");
    assert!(said.contains("job          a run failed, exit 3"), "{said}");
    daemon.stop();
}

#[test]
fn our_restart_neither_loses_a_run_nor_invents_a_problem() {
    let dir = tempfile::tempdir().expect("a folder");
    let jobs = "[[presence.job]]\nservice = \"nightly\"\nschedule = \"0 2 * * *\"\ntimezone = \"Europe/Berlin\"\n";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), jobs));
    daemon
        .send_udp(&[b"heartbeat.during:3600|g|#status:start,run:r1", b"heartbeat.bad:1|g|#status:fail,exit:2,run:r1"]);
    // Whoever runs it is the same job.
    daemon.send_udp(&[b"heartbeat.nightly.pod-1:1|g|#status:start,run:p1"]);
    has_reached(&daemon, "during", "running");
    has_reached(&daemon, "bad", "failed");
    has_reached(&daemon, "nightly", "running");
    daemon.stop();
    // The start of this one falls into the time in which nobody hears it.
    let daemon = Daemon::start(dir.path(), &config(dir.path(), jobs));
    assert_eq!(job(&daemon, "during")["running"][0]["run"], "r1");
    daemon.send_udp(&[
        b"heartbeat.during:3600|g|#status:ok,run:r1,duration:30",
        b"heartbeat.unheard:3600|g|#status:ok,run:u1",
        b"heartbeat.nightly.pod-1:1|g|#status:ok,run:p1",
        b"heartbeat.nightly.pod-1:0|g",
    ]);
    for service in ["during", "unheard", "nightly"] {
        has_reached(&daemon, service, "ok");
        assert_eq!(notified(&daemon, service), Vec::new(), "{service}");
    }
    let nightly = job(&daemon, "nightly");
    assert_eq!((&nightly["instance"], &nightly["schedule"]), (&"-".into(), &"0 2 * * *".into()));
    assert!(nightly["due"].as_str().is_some_and(|due| due.contains(":00:00")), "{nightly}");
    // A problem from before stands, and ends as it should.
    assert_eq!(check(&daemon, "bad").0, Some(2));
    daemon.send_udp(&[b"heartbeat.bad:1|g|#status:ok,run:r2"]);
    has_reached(&daemon, "bad", "ok");
    assert_eq!(notified(&daemon, "bad"), pairs(&[("ok", "ended")]));
    // One that says goodbye leaves nothing behind.
    daemon.send_udp(&[b"heartbeat.bad:0|g"]);
    has_reached(&daemon, "bad", "retired");
    assert_eq!(daemon.get("/api/v1/presence/bad").0, 404);
    assert!(!daemon.get("/metrics").1.contains("service=\"bad\""));
    let lines = daemon.stop();
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:?}");
}

#[test]
fn beat_runs_a_job_whether_anybody_listens_or_not() {
    for to in ["udp://127.0.0.1:9", "udp://no-such-host.invalid:8125", "tcp://127.0.0.1:9"] {
        let output = systole(&["beat", "a/b", "--job", "--to", to, "--", "sh", "-c", "echo done; exit 4"], b"");
        assert_eq!((output.status.code(), &*text(&output.stdout)), (Some(4), "done\n"), "{to}");
    }
    for wrong in [&["beat", "a/b", "--job"][..], &["beat", "a/b", "--max-runtime", "5s", "--", "true"]] {
        assert_eq!(systole(wrong, b"").status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn what_is_no_job_is_refused_in_words() {
    let dir = tempfile::tempdir().expect("a folder");
    for (table, says) in [
        ("schedule = \"0 2 * *\"", "has 4 fields"),
        ("schedule = \"61 2 * * *\"", "is no schedule: its minute is `61`; 0 to 59 is right"),
        ("schedule = \"every 5m\"", "`every = \"5m\"` in its place is right"),
        ("schedule = \"@reboot\"", "@hourly, @daily"),
        ("schedule = \"0 2 30 2 *\"", "it never comes"),
        ("schedule = \"0 2 * * *\"\ntimezone = \"Europe/Berlim\"", "is no time zone"),
        ("schedule = \"0 2 * * *\"\nevery = \"1h\"", "not both"),
        ("timezone = \"Europe/Berlin\"", "there is none"),
        ("every = \"0s\"", "every"),
        ("max_runtime = \"500days\"", "max_runtime"),
        ("grace = \"40days\"", "grace"),
        ("every = \"1h\"\n[[presence.job]]\nservice = \"j\"", "configured twice"),
    ] {
        let path = dir.path().join("systole.toml");
        std::fs::write(&path, format!("[[presence.job]]\nservice = \"j\"\n{table}\n")).expect("written");
        let output = systole(&["check", "-c", path.to_str().expect("a plain path")], b"");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(says), "{table}: {said}");
    }
}

/// What somebody is notified of in a trace: when, in seconds, of which state, and why.
fn replayed(head: Value, rows: &[(f64, &str)], end: f64) -> Vec<(f64, String, String)> {
    let mut config = json!({"tick": 10});
    config.as_object_mut().expect("an object").extend(head.as_object().cloned().unwrap_or_default());
    let mut trace = json!({"format": "presence-trace/1", "name": "t", "config": config}).to_string() + "\n";
    for (at, what) in rows {
        let row = match what.strip_prefix("restart ") {
            Some(down) => {
                json!({"t": at, "ctl": "restart", "down": down.parse::<f64>().expect("seconds"), "crash": false})
            }
            None => json!({"t": at, "in": what}),
        };
        trace += &(row.to_string() + "\n");
    }
    trace += &(json!({"t": end, "ctl": "end"}).to_string() + "\n");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), trace).expect("written");
    let output = systole(&["replay", "--only", "presence", file.path().to_str().expect("a plain path")], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let events = text(&output.stdout);
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let told = events.filter(|event| event["notify"] == true);
    let word = |event: &Value, key: &str| event[key].as_str().unwrap_or("").to_string();
    told.map(|event| (event["time"].as_f64().expect("a time"), word(&event, "to"), word(&event, "reason"))).collect()
}

const HOUR: f64 = 3600.0;

/// 18:00 in Berlin on the day before a clock change: 2026-03-28 and 2026-10-24.
const SPRING: f64 = 1_774_717_200.0;
const AUTUMN: f64 = 1_792_857_600.0;

fn nightly(epoch: f64) -> Value {
    let job = json!({"service": "b", "schedule": "30 2 * * *", "timezone": "Europe/Berlin"});
    json!({"epoch": epoch, "jobs": [job]})
}

#[test]
fn nights_of_clock_changes_ask_for_no_run_that_cannot_be_and_for_one_of_two() {
    let ok = "heartbeat.b.x:1|g|#status:ok";
    // 02:30 does not exist: the run is silent that night, and due again on the next day at 02:30, 31.5 h on.
    assert_eq!(replayed(nightly(SPRING), &[(31.5 * HOUR, ok)], 36.0 * HOUR), Vec::new());
    let missed = replayed(nightly(SPRING), &[], 36.0 * HOUR);
    assert_eq!(missed.len(), 1, "{missed:?}");
    assert!((missed[0].0 - 33.5 * HOUR).abs() < 60.0 && missed[0].1 == "missed", "{missed:?}");
    // 02:30 comes twice, 8.5 h and 9.5 h on: either is right; none is missed when the grace of both is over.
    for at in [8.5, 9.5] {
        assert_eq!(replayed(nightly(AUTUMN), &[(at * HOUR, ok), (33.5 * HOUR, ok)], 40.0 * HOUR), Vec::new(), "{at}");
    }
    let missed = replayed(nightly(AUTUMN), &[(33.5 * HOUR, ok)], 40.0 * HOUR);
    let kinds: Vec<&str> = missed.iter().map(|(_, to, _)| &**to).collect();
    assert_eq!(kinds, ["missed", "ok"], "{missed:?}");
    assert!(missed[0].0 > 9.5 * HOUR, "{missed:?}");
}

#[test]
fn a_weekend_is_no_outage_and_a_restart_hides_one_run_at_most() {
    // From Friday, 2026-11-27, 17:59 UTC on: hourly from 8 to 18 on weekdays.
    let job = json!({"service": "w", "schedule": "0 8-18 * * 1-5", "grace": 300});
    let head = json!({"epoch": 1_795_802_340.0, "jobs": [job]});
    let (start, ok) = ("heartbeat.w.a:1|g|#status:start,run:r", "heartbeat.w.a:1|g|#status:ok,run:r");
    let friday = [(60.0, start), (120.0, ok)];
    // Monday, 8:00, is 62 hours later.
    let monday = 60.0 + 62.0 * HOUR;
    assert_eq!(replayed(head.clone(), &friday, monday + 290.0), Vec::new());
    let missed = replayed(head.clone(), &friday, monday + 320.0);
    assert_eq!(missed, [(missed[0].0, "missed".to_string(), "no_run".to_string())]);
    assert!((missed[0].0 - monday - 300.0).abs() < 20.0);
    // We restart at 8:00 and at 9:00: the first run may have come, the second is missed.
    let mut rows = friday.to_vec();
    rows.extend([(monday - 20.0, "restart 60"), (monday + HOUR - 20.0, "restart 60")]);
    assert_eq!(replayed(head.clone(), &rows, monday + HOUR + 200.0), Vec::new());
    let missed = replayed(head, &rows, monday + HOUR + 320.0);
    assert!(missed.len() == 1 && missed[0].2 == "no_run", "{missed:?}");
}
