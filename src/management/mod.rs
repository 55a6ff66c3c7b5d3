//! The original's management port: its commands and its replies, so that health checks and scripts keep working
//! (statsd/statsd, `lib/mgmt_server.js`, `lib/mgmt_console.js`, `stats.js`).
//!
//! | command | reply |
//! |---|---|
//! | `help` | the commands |
//! | `stats` | uptime, age of the last line, malformed lines, then each sink's, then `END` |
//! | `counters` `timers` `gauges` | the open interval, formatted like Node's objects, then `END` |
//! | `delcounters` `deltimers` `delgauges` `NAME… FOLDER.*` | `deleted: NAME` or `metric NAME not found` for each, then `END` |
//! | `health [up\|down]` | `health: up` or `health: down`, whichever was set last; nothing else depends on it |
//! | `config` | the effective configuration, secrets masked |
//! | `quit` | closes the connection |
//! | anything else | `ERROR` |
//!
//! Deleted series also leave sinks that keep series (`prometheus`, `remote_write`) with the open interval, even those
//! that the daemon itself has forgotten (`not found`).
//!
//! An HTTP request line closes the connection, and nothing after it is executed: a web page can make a browser send one
//! to any port of this machine.
//!
//! A command is a line. Text without a newline is a command too when nothing follows for a moment, because the original
//! treats every chunk as a command.

mod inspect;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::aggregate::Class;
use crate::flush::{FlusherHandle, Stats};
use crate::ports::{Conn, Port};
use crate::protocol::{is_request_line, may_be_request_line};
use crate::sys::unix_time;

/// Longest command, in bytes.
const COMMAND_BYTES: usize = 64 << 10;

/// A command without a newline is complete when nothing follows for this long.
const PAUSE: Duration = Duration::from_millis(50);

const HELP: &str =
    "Commands: stats, counters, timers, gauges, delcounters, deltimers, delgauges, health, config, quit\n\n";

/// State shared by all connections.
#[derive(Debug)]
pub struct ManagementState {
    /// Requests to the flusher.
    pub flusher: FlusherHandle,
    /// The effective configuration as `key: value` lines.
    pub config: String,
    /// When the daemon started, Unix seconds.
    pub started: f64,
    /// The state that `health` reports.
    pub healthy: AtomicBool,
}

/// Serves until `stop` turns true; then connections end, too.
pub async fn serve(port: Port, listener: Arc<TcpListener>, state: ManagementState, stop: watch::Receiver<bool>) {
    let (state, stopped) = (Arc::new(state), stop.clone());
    port.serve(&listener, stop, move |connection| {
        let (state, mut stop) = (Arc::clone(&state), stopped.clone());
        async move {
            tokio::select! {
                () = converse(connection, &state) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    })
    .await;
}

/// Answers until one side closes the connection.
async fn converse(mut connection: Conn, state: &ManagementState) {
    let mut heard = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        // The port ends a connection that is silent for too long.
        let patience = if heard.is_empty() { Duration::MAX } else { PAUSE };
        let (mut is_end, mut is_pause) = (false, false);
        match timeout(patience, connection.read(&mut chunk)).await {
            Ok(Ok(0)) => is_end = true,
            Ok(Ok(count)) => heard.extend_from_slice(&chunk[..count]),
            Ok(Err(_)) => return,
            Err(_) => is_pause = true,
        }
        while let Some(end) = memchr::memchr(b'\n', &heard) {
            let line: Vec<u8> = heard.drain(..=end).collect();
            if is_request_line(&line) {
                state.flusher.count_http_request();
                return;
            }
            if !respond(&mut connection, state, &line).await {
                return;
            }
        }
        if heard.len() > COMMAND_BYTES || ((is_end || is_pause) && !heard.is_empty()) {
            let line = std::mem::take(&mut heard);
            if may_be_request_line(&line) {
                state.flusher.count_http_request();
                return;
            }
            if !respond(&mut connection, state, &line).await {
                return;
            }
        }
        if is_end {
            return;
        }
    }
}

/// Answers one command; `false` closes the connection.
async fn respond(connection: &mut Conn, state: &ManagementState, line: &[u8]) -> bool {
    let _answering = connection.begin_answer();
    let line = String::from_utf8_lossy(line);
    let Some(reply) = handle_request(state, line.trim(), connection.from()).await else {
        // The other end may have closed already.
        let _ = connection.shutdown().await;
        return false;
    };
    connection.write_all(reply.as_bytes()).await.is_ok() && connection.flush().await.is_ok()
}

/// The reply to a command; `None` for `quit`.
async fn handle_request(state: &ManagementState, line: &str, from: SocketAddr) -> Option<String> {
    let mut words = line.split(' ');
    let command = words.next().unwrap_or("");
    Some(match command {
        "help" => HELP.into(),
        "quit" => return None,
        "health" => {
            match words.next().map(str::to_lowercase).as_deref() {
                // An independent flag: nothing else is published through it.
                Some("up") => state.healthy.store(true, Ordering::Relaxed),
                Some("down") => state.healthy.store(false, Ordering::Relaxed),
                Some(_) | None => {}
            }
            format!("health: {}\n", if state.healthy.load(Ordering::Relaxed) { "up" } else { "down" })
        }
        "config" => format!("\n{}", state.config),
        "stats" => match state.flusher.stats().await {
            Some(stats) => stats_text(&stats, state.started),
            None => "ERROR\n".into(),
        },
        "counters" => show(state, Class::Counter).await,
        "timers" => show(state, Class::Timer).await,
        "gauges" => show(state, Class::Gauge).await,
        "delcounters" => delete(state, Class::Counter, words, from).await,
        "deltimers" => delete(state, Class::Timer, words, from).await,
        "delgauges" => delete(state, Class::Gauge, words, from).await,
        _ => "ERROR\n".into(),
    })
}

async fn show(state: &ManagementState, class: Class) -> String {
    match state.flusher.list(class).await {
        Some(listing) => format!("{}\nEND\n\n", inspect::object(&listing.entries, listing.more)),
        None => "ERROR\n".into(),
    }
}

async fn delete(state: &ManagementState, class: Class, names: impl Iterator<Item = &str>, from: SocketAddr) -> String {
    let names: Vec<String> = names.map(str::to_string).collect();
    // All names in one pass over the series.
    let Some(deleted) = state.flusher.delete(class, names.clone()).await else {
        return "ERROR\n".into();
    };
    let series: usize = deleted.iter().map(Vec::len).sum();
    if series > 0 {
        let name = names.first().map_or("", String::as_str);
        tracing::info!(%from, ?class, name, names = names.len(), series, "deleted over the management port");
    }
    let mut reply = String::new();
    for (name, deleted) in names.iter().zip(&deleted) {
        if deleted.is_empty() {
            reply.push_str(&format!("metric {name} not found\n"));
        }
        deleted.iter().for_each(|name| reply.push_str(&format!("deleted: {name}\n")));
    }
    reply + "END\n\n"
}

/// The reply to `stats`. Ages are in whole seconds.
fn stats_text(stats: &Stats, started: f64) -> String {
    let now = unix_time();
    let age = |time: f64| now.round() - time.round();
    let mut out = format!("uptime: {}\n", age(started));
    out.push_str(&format!("messages.last_msg_seen: {}\n", age(stats.last_heard.unwrap_or(started))));
    out.push_str(&format!("messages.bad_lines_seen: {}\n", stats.bad_lines));
    for (name, kind, account) in &stats.sinks {
        let (success, failure) = (account.last_success.round(), account.last_failure.round());
        let success = if success > 0.0 { success } else { started.round() };
        // The original's console backend reports times, the others ages.
        if *kind == "console" {
            let failure = if failure > 0.0 { failure } else { started.round() };
            out.push_str(&format!("{name}.lastFlush: {success}\n{name}.lastException: {failure}\n"));
            continue;
        }
        out.push_str(&format!("{name}.last_flush: {}\n{name}.last_exception: {}\n", age(success), age(failure)));
        out.push_str(&format!(
            "{name}.flush_time: {}\n{name}.flush_length: {}\n",
            account.delivery_ms.round(),
            account.delivery_bytes
        ));
    }
    out + "END\n\n"
}
