//! The text that is printed at the start: what is bound, and where data goes.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};

use crate::assemble::{cluster_node, origin_of_max_memory, presence_state_file, state_dir};
use crate::config::{Config, ListenUrl, Role, show_duration, show_size};
use crate::net::{BoundListener, Transport};
use crate::ports::TlsFiles;

use crate::presence_driver::Restored;
use crate::untrusted::Escaped;

use super::Daemon;
use super::server::BoundServer;

/// What is said of a port with TLS.
fn tls(files: &TlsFiles) -> &'static str {
    match (files.is_on(), files.wants_client_certificates()) {
        (false, _) => "",
        (true, false) => "  (TLS)",
        (true, true) => "  (TLS, client certificates)",
    }
}

/// What presence knows from an earlier run.
pub(super) fn restored(restored: &Restored) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    format!(
        "  presence  {} of {} restored from {}; each is confirmed by its next heartbeat\n",
        count(restored.instances, "instance"),
        count(restored.services, "service"),
        Escaped(&restored.file.display().to_string())
    )
}

/// Where it is kept what outlives the process.
fn state(config: &Config) -> String {
    let env = |name: &str| std::env::var(name).ok();
    let folder = state_dir(config, env);
    let apart = presence_state_file(config, env).filter(|_| config.presence.enabled);
    let apart = apart.filter(|file| folder.as_ref().is_none_or(|folder| !file.starts_with(folder)));
    let folder = folder.map_or("off".to_string(), |folder| folder.display().to_string());
    apart.map_or(folder.clone(), |file| format!("{folder}, of presence {}", file.display()))
}

/// The receive buffer as it was asked for; the kernel grants twice that, for its own bookkeeping, or less.
fn buffer(bound: &BoundListener) -> String {
    let asked = bound.receive_buffer_asked();
    let (granted, workers) = (bound.receive_buffer() / 2, bound.workers().max(1) as u64);
    let each = if workers > 1 { " each" } else { "" };
    match granted / workers {
        granted if granted < asked => format!("{} of {} asked for{each}", show_size(granted), show_size(asked)),
        _ => format!("{}{each}", show_size(asked)),
    }
}

pub(super) fn text(daemon: &Daemon) -> String {
    let config = &daemon.config;
    let mut out = format!("systole {}\n", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(out, "  config    {}", daemon.origins.file.as_deref().unwrap_or("none: the defaults hold"));
    for ((url, bound), listen) in daemon.listeners.iter().zip(&config.listen) {
        let detail = match bound.transport() {
            Transport::Udp => {
                let workers = bound.workers();
                let s = if workers == 1 { "" } else { "s" };
                format!("  ({workers} worker{s}, receive buffer {})", buffer(bound))
            }
            Transport::Tcp | Transport::Unix | Transport::Unixgram => tls(&listen.tls).to_string(),
        };
        let _ = writeln!(out, "  listen    {url}{detail}");
    }
    let _ = writeln!(out, "  interval  {}, profile {}", show_duration(config.interval), config.profile.name());
    if let Some(max) = daemon.memory.max() {
        let _ = writeln!(out, "  memory    at most {}{}", show_size(max), origin_of_max_memory(config));
    }
    let _ = writeln!(out, "  state     {}", state(config));
    for sink in &config.sinks {
        let place = sink.kind.spec().place();
        let gap = if place.is_empty() { "" } else { "  " };
        let _ = writeln!(out, "  sink      {}{gap}{place}", sink.name);
    }
    if config.cluster.role != Role::Standalone {
        let (cluster, node) = (&config.cluster, cluster_node(config).map_or_else(|_| "?".into(), String::from));
        let (role, bus) = (cluster.role.name(), cluster.bus.join(", "));
        let _ =
            writeln!(out, "  cluster   {}: {role} {node}, bus {bus}, {} partitions", cluster.name, cluster.partitions);
    }
    for relay in &config.relays {
        let targets = relay.targets.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "  relay     {}  {targets}", relay.name);
    }
    if let Some(url) = daemon.management.as_ref().map(BoundServer::url) {
        let _ = writeln!(out, "  manage    {url}{}", tls(&config.management.tls));
    }
    let _ = match daemon.http.as_ref().map(BoundServer::url) {
        Some(url) => writeln!(out, "  page      {url}{}", tls(&config.http.tls)),
        None => writeln!(out, "  page      off"),
    };
    let mut udp = daemon.listeners.iter().filter_map(|(url, _)| match url {
        ListenUrl::Udp(address) => Some(*address),
        ListenUrl::Tcp(_) | ListenUrl::Unix(_) | ListenUrl::Unixgram(_) | ListenUrl::Fd(_) => None,
    });
    if let Some(address) = udp.next() {
        let host = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
        let near = SocketAddr::new(host, address.port());
        let to = if near == SocketAddr::from((Ipv4Addr::LOCALHOST, 8125)) {
            String::new()
        } else {
            format!(" --to udp://{near}")
        };
        let _ = writeln!(out, "  try       systole send 'hello:1|c'{to}");
        let _ = writeln!(out, "  or        echo 'hello:1|c' | nc -u -q0 {host} {}", near.port());
    }
    // Paths are as they are configured.
    out.lines().map(|line| format!("{}\n", Escaped(line))).collect()
}
