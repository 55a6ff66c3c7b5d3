//! The examples run and do what they say.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::{SYSTOLE, text};

/// An example, built as the tests are: cargo does so itself unless a single test target is asked for.
fn example(name: &str) -> Command {
    let folder = PathBuf::from(SYSTOLE).parent().expect("a folder").to_path_buf();
    let features = [
        // It names others only, but a build with it is another one.
        ("default", cfg!(feature = "default")),
        ("top", cfg!(feature = "top")),
        ("sqlite", cfg!(feature = "sqlite")),
        ("postgres", cfg!(feature = "postgres")),
        ("nats", cfg!(feature = "nats")),
        ("kafka", cfg!(feature = "kafka")),
    ];
    let features: Vec<&str> = features.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| *name).collect();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--example", name, "--no-default-features", "--features", &features.join(",")]);
    // What cargo tells a test is not for a build: the script of a dependency (ring) asks for some of it, and with another answer that
    // dependency, and all that need it, are built again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|told| name.to_string_lossy().starts_with(told)) {
            build.env_remove(name);
        }
    }
    if !folder.ends_with("debug") {
        build.arg("--profile").arg(folder.file_name().expect("a profile"));
    }
    assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs").success());
    Command::new(folder.join("examples").join(name))
}

#[test]
fn the_aggregator_runs_without_a_network() {
    let output = example("embedded").output().expect("it runs");
    let records = text(&output.stdout);
    assert_eq!(
        records.lines().filter(|line| line.contains("\"name\":\"api.hits\"") && line.contains("1000.0")).count(),
        2
    );
}

#[test]
fn a_sink_of_ones_own_gets_every_interval_and_is_closed() {
    let mut child = example("custom_sink")
        .arg("udp://127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut said = BufReader::new(child.stderr.take().expect("asked for"));
    let mut line = String::new();
    let port: u16 = loop {
        line.clear();
        assert!(said.read_line(&mut line).expect("text") > 0, "it ended");
        if let Some((_, rest)) = line.split_once("udp://127.0.0.1:") {
            break rest.split_whitespace().next().and_then(|port| port.parse().ok()).expect("a port");
        }
    };
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    // It is bound, and so the kernel keeps what comes.
    socket.send_to(b"hits:2|c\ng:1|g\nhits:3|c", ("127.0.0.1", port)).expect("sent");
    let mut out = BufReader::new(child.stdout.take().expect("asked for"));
    let mut printed = String::new();
    while !printed.ends_with(",hits,5\n") {
        assert!(out.read_line(&mut printed).expect("text") > 0, "it ended: {printed}");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill").success());
    out.read_to_string(&mut printed).expect("text");
    assert!(child.wait().expect("it ends").success());
    assert!(printed.ends_with(",hits,5\n# 1 rows\n"), "{printed}");
}
