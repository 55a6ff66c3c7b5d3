//! `systole check`: is the configuration right, and what does it come to?

use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use clap::Args;

use crate::config::{Sink, SinkKind, print};

use super::{ConfigArgs, FAILED, load_config, sources};

/// Longest attempt to reach a sink.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the effective configuration, secrets masked
    #[arg(long)]
    print: bool,
    /// Try each sink
    #[arg(long)]
    connect: bool,
}

pub(super) fn run(args: &CheckArgs) -> u8 {
    let (sources, config) = match sources(&args.config).and_then(|sources| {
        let config = load_config(&sources)?;
        Ok((sources, config))
    }) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let mut out = String::new();
    let mut code = 0;
    if args.print {
        out.push_str(&print(&config));
    } else {
        let file = sources.file.map_or("the defaults".to_string(), |(file, _)| file);
        out.push_str(&format!("{file}: good\n"));
    }
    if args.connect {
        for sink in &config.sinks {
            match connect(sink) {
                Ok(found) => out.push_str(&format!("sink {}: {found}\n", sink.name)),
                Err(problem) => {
                    out.push_str(&format!("sink {}: {problem}\n", sink.name));
                    code = FAILED;
                }
            }
        }
    }
    if super::print(out.as_bytes()) { code } else { FAILED }
}

fn connect(sink: &Sink) -> Result<String, String> {
    match &sink.kind {
        SinkKind::Console => Ok("standard output is always there".into()),
        SinkKind::File { path, .. } => {
            let there = path.exists();
            let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
            if opened.is_ok() && !there {
                // A check leaves nothing behind.
                let _ = std::fs::remove_file(path);
            }
            opened
                .map(|_| format!("{} can be written", path.display()))
                .map_err(|e| format!("cannot write {}: {e}", path.display()))
        }
        SinkKind::Prometheus { address, .. } => match TcpListener::bind(address) {
            Ok(_) => Ok(format!("http://{address}/metrics can be served")),
            Err(error) => Err(format!("cannot serve http://{address}/metrics: {error}")),
        },
        SinkKind::Exec(command) => {
            let program = command.first().map_or("", String::as_str);
            let folders = std::env::var_os("PATH").unwrap_or_default();
            let is_there = |path: &std::path::Path| path.is_file();
            let found = program.contains('/') && is_there(program.as_ref())
                || std::env::split_paths(&folders).any(|folder| is_there(&folder.join(program)));
            if found { Ok(format!("{program} is there")) } else { Err(format!("there is no {program}")) }
        }
        SinkKind::Influx(target) => {
            let (scheme, rest) = target.url.split_once("://").unwrap_or(("http", &target.url));
            let host = rest.split(['/', '?']).next().unwrap_or("").rsplit('@').next().unwrap_or("");
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let port = if scheme == "https" { 443 } else { 80 };
            reach(&if has_port { host.to_string() } else { format!("{host}:{port}") })
        }
        SinkKind::Graphite { address, .. } => reach(address),
    }
}

fn reach(address: &str) -> Result<String, String> {
    let all = address.to_socket_addrs().map_err(|e| format!("cannot look up {address}: {e}"))?;
    let mut last = format!("{address} has no address");
    for one in all {
        match TcpStream::connect_timeout(&one, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(format!("{address} accepts connections")),
            Err(error) => last = format!("cannot reach {address}: {error}"),
        }
    }
    Err(last)
}
