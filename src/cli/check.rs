//! `systole check`: validates a configuration, and the files of TLS that it names, runs its tests, and prints the effective one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::assemble;
use crate::cluster_bus::BusError;
use crate::config::{Config, Role, Sources, example, print};
use crate::daemon::connect_bus;
use crate::http_client::{HttpClient, Tls};
use crate::ports::ServerTls;

use super::progress::Progress;
use super::{ConfigArgs, FAILED, colours, config_tests, load_loudly, sources};

/// Longest wait for the bus, and for a page.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(50);

/// What is said of a stream that was not made yet.
const NO_STREAM: &str = "there is no stream";

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The same as `-c FILE`
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// Print the effective configuration, secrets masked
    #[arg(long)]
    print: bool,
    /// Print a configuration with every setting, its default and what it means, and nothing else
    #[arg(long, conflicts_with_all = ["print", "connect", "config", "file"])]
    print_example: bool,
    /// Try each sink, and the bus of a cluster
    #[arg(long)]
    connect: bool,
}

pub(super) fn run(args: &CheckArgs) -> u8 {
    if args.print_example {
        return if super::print(example("").as_bytes()) { 0 } else { FAILED };
    }
    let given = ConfigArgs { config: args.file.clone().or_else(|| args.config.config.clone()) };
    let (sources, (config, origins)) = match sources(&given).and_then(|sources| {
        let sources = Sources { reads_files: true, ..sources };
        let loaded = load_loudly(&sources)?;
        Ok((sources, loaded))
    }) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    // Who asks what is effective does not ask whether that is right.
    let failed = if args.print { Vec::new() } else { config_tests::failures(&config, &origins) };
    for failure in &failed {
        // It says where it stands.
        colours::print_to_errors(&format!("{failure}\n"));
    }
    let (mut out, mut code) = (String::new(), if failed.is_empty() { 0 } else { FAILED });
    for (port, files) in assemble::tls_files(&config) {
        // What is wrong with them is reported already.
        let tls = ServerTls::load(files).ok().flatten();
        if let Some(warning) = tls.and_then(|tls| tls.near_end(SystemTime::now())) {
            super::print_error(format_args!("warning: {port}: {warning}"));
        }
    }
    for warning in assemble::warnings(&config) {
        super::print_error(format_args!("warning: {warning}"));
    }
    if args.print {
        out.push_str(&print(&config));
    } else {
        let file = sources.file.map_or("the defaults".to_string(), |(file, _)| file);
        if failed.is_empty() {
            out.push_str(&format!("{file}: good\n"));
        }
        match config.tests.len() {
            0 => {}
            all => out.push_str(&format!("tests: {} of {all} passed\n", all - config_tests::count(&failed))),
        }
        for watch in assemble::watches(&config).all() {
            let (service, instance) = (&watch.service, &watch.instance);
            out.push_str(&format!("watch {}: {service}/{instance}\n", watch.pattern));
        }
        for job in &config.presence.policy.jobs {
            out.push_str(&format!("job {}: {}\n", assemble::job_name(job), assemble::job_times(job)));
        }
        for target in assemble::listed_targets(&config) {
            out.push_str(&format!("notify {target}\n"));
        }
    }
    let trying = args.connect.then(|| Progress::of_time("trying sinks", None));
    if args.connect {
        for sink in &config.sinks {
            match sink.kind.spec().probe() {
                Ok(found) => out.push_str(&format!("sink {}: {found}\n", sink.name)),
                Err(problem) => match sink.kind.spec().listens_at().filter(|address| is_served(&config, *address)) {
                    Some(address) => {
                        out.push_str(&format!("sink {}: a systole that runs serves {address}\n", sink.name));
                    }
                    None => {
                        out.push_str(&format!("sink {}: {problem}\n", sink.name));
                        code = FAILED;
                    }
                },
            }
        }
    }
    if args.connect && config.cluster.role != Role::Standalone {
        match bus(&config) {
            Ok(found) => out.push_str(&format!("bus: {found}\n")),
            Err(problem) => {
                out.push_str(&format!("bus: {problem}\n"));
                code = FAILED;
            }
        }
    }
    drop(trying);
    if super::print(out.as_bytes()) { code } else { FAILED }
}

/// Whether the daemon with the page of this configuration runs, and has this port.
fn is_served(config: &Config, address: SocketAddr) -> bool {
    let Some(page) = config.http.address else { return false };
    let scheme = if config.http.tls.is_on() { "https" } else { "http" };
    let url = format!("{scheme}://{page}/api/v1/status");
    let token = config.http.token.as_deref();
    let asked = super::runtime().and_then(|runtime| {
        let client = HttpClient::with(&Tls::default()).map_err(|error| error.to_string())?;
        let answer = runtime.block_on(client.ask(Method::GET, &url, None, token, PATIENCE));
        answer.map_err(|error| error.to_string())
    });
    let status: Value = asked.ok().and_then(|answer| serde_json::from_slice(&answer.body).ok()).unwrap_or_default();
    let mut ports = status["ports"].as_object().into_iter().flatten();
    ports.any(|(port, _)| port.ends_with(&format!("//{address}")))
}

/// Tries the bus: connects and reads, and changes nothing.
fn bus(config: &Config) -> Result<String, String> {
    super::runtime()?.block_on(async {
        let bus = connect_bus(config)?;
        let began = tokio::time::Instant::now();
        while !bus.status().connected {
            if began.elapsed() >= PATIENCE {
                return Err(bus.status().to_string());
            }
            tokio::time::sleep(AGAIN).await;
        }
        let sessions = bus.sessions().await;
        let status = bus.status();
        // Nothing is on its way.
        let _ = bus.close().await;
        match sessions {
            Ok(sessions) => {
                Ok(format!("{status}; the streams are there, nodes in the last minute: {}", sessions.len()))
            }
            Err(BusError::Failed(text)) if text.contains(NO_STREAM) => Ok(format!(
                "{status}; the streams are not there yet: the first node makes them, or `systole cluster init`"
            )),
            Err(problem) => Err(format!("{status}; {problem}")),
        }
    })
}
