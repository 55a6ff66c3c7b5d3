//! What people look at in a terminal: `systole status`.

use std::net::SocketAddr;
use std::process::Output;

use crate::support::{self, Daemon, command, text, until};

const CONFIG: &str =
    "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[presence]\nstate_file = \"off\"\n";

fn url(daemon: &Daemon) -> String {
    format!("http://{}", daemon.http.expect("a page"))
}

fn status(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = support::systole(&[&["status"], args].concat(), b"");
    (status.code(), text(&stdout), text(&stderr))
}

#[test]
fn a_status_says_what_is_so_and_ends_with_a_code_for_scripts() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &format!("{CONFIG}[http]\naddress = \"127.0.0.1:0\"\n"));
    daemon.send_udp(&[b"a:1|c\nb:x|c\n", b"heartbeat:1|g|#service:pay,instance:a,interval:10"]);
    daemon.flushed_when("a flush", |status| status["lines"]["read"] == 3);
    let url = url(&daemon);
    until("the service is known", || status(&["--url", &url]).1.contains("1 of 1 services up"));
    let (code, screen, problems) = status(&["--url", &url]);
    assert_eq!((code, problems.as_str()), (Some(0), ""), "{screen}");
    assert!(screen.contains("Lines      3 read = 1 metric + 1 beat + 1 malformed  "), "{screen}");
    assert!(screen.contains("Malformed  1 bad_value"), "{screen}");
    assert!(screen.contains("\nParts      all ") && screen.lines().count() <= 24, "{screen}");
    let (code, json, _) = status(&["--url", &url, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, &json["lines"]["read"]), (Some(0), &3.into()));
    daemon.stop();
    let (code, screen, problem) = status(&["--url", &url]);
    assert_eq!((code, screen.as_str()), (Some(2), ""));
    assert!(problem.contains("is the daemon running"), "{problem}");
}

#[test]
fn a_sink_that_takes_nothing_and_a_missing_token_have_codes_of_their_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let nobody: SocketAddr = "127.0.0.1:1".parse().expect("an address");
    let config = format!(
        "{CONFIG}[http]\naddress = \"0.0.0.0:0\"\ntoken = \"a-token-of-ours\"\n[[sink]]\ntype = \"graphite\"\n\
         address = \"{nobody}\"\n"
    );
    let daemon = Daemon::start(dir.path(), &config);
    let url = format!("http://127.0.0.1:{}", daemon.http.expect("a page").port());
    let (code, screen, problem) = status(&["--url", &url]);
    assert_eq!((code, screen.as_str()), (Some(2), ""));
    assert!(problem.contains("token"), "{problem}");
    // Whether it works may be asked without one.
    let ready = ["--url", &url, "--ready"];
    assert_eq!(status(&ready), (Some(0), "ready\n".into(), String::new()));
    let given = ["--url", &url, "--token", "a-token-of-ours"];
    until("the sink has failed", || status(&given).0 == Some(1));
    let (_, screen, _) = status(&given);
    assert!(screen.contains("graphite  takes nothing yet: "), "{screen}");
    let by_variable = command(&["status", "--url", &url]).env("SYSTOLE_TOKEN", "a-token-of-ours").output();
    assert_eq!(by_variable.expect("it runs").status.code(), Some(1));
    // A sink whose receiver is away is no fault of the daemon.
    assert_eq!(status(&ready).0, Some(0));
    daemon.stop();
    let (code, _, problem) = status(&ready);
    assert!(code == Some(1) && problem.contains("is the daemon running"), "{code:?}: {problem}");
}
