//! `systole compare`: what two streams say of the same lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{command, systole, text};

/// Ten intervals of three names, so many seconds late; `change` may change or leave out a line.
fn lines(late: u64, change: impl Fn(u64, String) -> Option<String>) -> String {
    let mut out = String::new();
    for n in 1..=10 {
        for name in ["stats.hits", "stats.gauges.pool", "stats.timers.t.mean_90"] {
            let line = format!("{name} {} {}", n * 7 % 5 + 1, 1_700_000_000 + n * 10 + late);
            out.extend(change(n, line).map(|line| line + "\n"));
        }
    }
    out
}

fn written(dir: &Path, name: &str, text: &str) -> String {
    let file = dir.join(name);
    std::fs::write(&file, text).expect("written");
    file.to_str().expect("plain").to_string()
}

#[test]
fn files_that_say_the_same_do_not_differ_and_a_planted_difference_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let old = written(dir.path(), "old", &lines(0, |_, line| Some(line)));
    // A second later, and in another order.
    let late = lines(1, |_, line| Some(line));
    let late: Vec<&str> = late.lines().collect();
    let late: Vec<&str> = late.chunks(3).flat_map(|interval| interval.iter().rev().copied()).collect();
    let new = written(dir.path(), "new", &late.join("\n"));
    let output = systole(&["compare", &old, &new], b"");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(said.contains("compared 30 values of 3 names") && said.ends_with("no difference\n"), "{said}");

    let planted = lines(0, |n, line| match n {
        4 => Some(line.replace("hits 4", "hits 5")),
        6 if line.contains("pool") => None,
        _ => Some(line),
    });
    let planted = format!("{planted}stats.more 1 1700000050\n");
    let output = systole(&["compare", &old, "-", "--json"], planted.as_bytes());
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["differing"]["first"][0]["name"], "stats.hits", "{report}");
    assert_eq!(report["differing"]["first"][0]["first"]["time"], 1_700_000_040.0);
    assert_eq!(report["missing"]["first"][0]["missing_in_b"], 1);
    assert_eq!(report["only_in_b"]["first"][0]["name"], "stats.more");
    assert_eq!([&report["only_in_a"]["count"], &report["differing"]["count"]], [0, 1]);
    let said = text(&systole(&["compare", &old, "-"], planted.as_bytes()).stdout);
    assert!(said.contains("stats.hits  1 of 10, first at 2023-11-14 22:14:00 UTC: A 4, B 5"), "{said}");
    let args = ["compare", &old, "-", "--ignore", "stats.more", "--names-only", "*.hits"];
    assert!(text(&systole(&args, planted.as_bytes()).stdout).contains("not in every interval of both: 1 name\n"));
    assert_eq!(systole(&["compare", &old, &old], b"").status.code(), Some(2));
    assert_eq!(systole(&["compare", &old, "-"], b"").status.code(), Some(1));
}

#[test]
fn records_are_compared_number_by_number_with_a_tolerance() {
    let dir = tempfile::tempdir().expect("a folder");
    let record = |p90: f64| {
        let of = |time: u32| {
            format!(
                "{{\"time\":{time},\"interval\":10,\"type\":\"timer\",\"name\":\"t\",\"tags\":{{}},\"count\":2,\"percentiles\":{{\"90\":{p90}}}}}\n"
            )
        };
        of(10) + &of(20)
    };
    let (a, b) = (written(dir.path(), "a", &record(30.0)), written(dir.path(), "b", &record(30.01)));
    let said = systole(&["compare", &a, &b], b"");
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said.stdout).contains("timer t percentiles 90  2 of 2"), "{}", text(&said.stdout));
    assert_eq!(systole(&["compare", &a, &b, "--tolerance", "0.001"], b"").status.code(), Some(0));
}

#[test]
fn two_servers_are_compared_while_they_write() {
    for is_planted in [false, true] {
        let mut child = command(&["compare", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "--json"]);
        let mut child = child.stdin(Stdio::null()).spawn().expect("the binary starts");
        let mut log = BufReader::new(child.stderr.take().expect("it was asked for")).lines();
        let mut address = || -> SocketAddr {
            let line = log.next().expect("a line").expect("text");
            line.rsplit_once("tcp://").expect("an address").1.parse().expect("an address")
        };
        let servers = [address(), address()];
        let mut streams = servers.map(|address| TcpStream::connect(address).expect("connected"));
        for (n, stream) in streams.iter_mut().enumerate() {
            let planted =
                |line: String| if is_planted && n == 1 { line.replace("t.mean_90 5", "t.mean_90 9") } else { line };
            stream.write_all(lines(0, |_, line| Some(planted(line))).as_bytes()).expect("sent");
        }
        for stream in &mut streams {
            // It is closed once all of it is read.
            stream.shutdown(Shutdown::Write).expect("shut down");
            stream.read_to_end(&mut Vec::new()).expect("closed");
        }
        let pid = child.id().to_string();
        let status = std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        assert!(status.success());
        let output = child.wait_with_output().expect("it ends");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["same"], !is_planted, "{report}");
        assert_eq!(output.status.code(), Some(i32::from(is_planted)));
    }
}
