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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::response::Response;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::aggregate::Class;
use crate::flush::{FlusherHandle, Listing, Stats};
use crate::ports::{Conn, Port};
use crate::protocol::{is_request_line, may_be_request_line};
use crate::sys::unix_time;
use crate::web::Bodies;

/// Longest command, in bytes.
const COMMAND_BYTES: usize = 64 << 10;

/// A command without a newline is complete when nothing follows for this long.
const PAUSE: Duration = Duration::from_millis(50);

const ERROR: &str = "ERROR\n";

const HELP: &str =
    "Commands: stats, counters, timers, gauges, delcounters, deltimers, delgauges, health, config, quit\n\n";

/// State shared by all connections.
#[derive(Debug)]
pub struct ManagementState {
    /// Requests to the flusher.
    pub flusher: FlusherHandle,
    /// The effective configuration as `key: value` lines.
    pub config: Arc<Mutex<String>>,
    /// When the daemon started, Unix seconds.
    pub started: f64,
    /// The state that `health` reports.
    pub healthy: AtomicBool,
}

/// What a connection is answered with.
#[derive(Debug)]
struct Answers {
    state: ManagementState,
    /// Replies that are being made or sent: a listing is long, and a client may not read it.
    bodies: Bodies,
}

/// Serves until `stop` turns true; then connections end, too.
pub async fn serve(port: Port, listener: Arc<TcpListener>, state: ManagementState, stop: watch::Receiver<bool>) {
    let (answers, stopped) = (Arc::new(Answers { state, bodies: port.bodies() }), stop.clone());
    port.serve(&listener, stop, move |connection| {
        let (answers, mut stop) = (Arc::clone(&answers), stopped.clone());
        async move {
            tokio::select! {
                () = converse(connection, &answers) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    })
    .await;
}

/// Answers until one side closes the connection.
async fn converse(mut connection: Conn, answers: &Answers) {
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
                answers.state.flusher.count_http_request();
                return;
            }
            if !respond(&mut connection, answers, &line).await {
                return;
            }
        }
        if heard.is_empty() {
            // A long command leaves nothing behind.
            heard = Vec::new();
        }
        if heard.len() > COMMAND_BYTES || ((is_end || is_pause) && !heard.is_empty()) {
            let line = std::mem::take(&mut heard);
            if may_be_request_line(&line) {
                answers.state.flusher.count_http_request();
                return;
            }
            if !respond(&mut connection, answers, &line).await {
                return;
            }
        }
        if is_end {
            return;
        }
    }
}

/// Answers one command; `false` closes the connection.
async fn respond(connection: &mut Conn, answers: &Answers, line: &[u8]) -> bool {
    let _answering = connection.begin_answer();
    let line = String::from_utf8_lossy(line);
    let Some(reply) = handle_request(answers, line.trim(), connection.from()).await else {
        // The other end may have closed already.
        let _ = connection.shutdown().await;
        return false;
    };
    let mut pieces = reply.into_body().into_data_stream();
    while let Some(piece) = pieces.next().await {
        // A reply that was cut is not a whole one: the connection ends.
        let Ok(piece) = piece else { return false };
        if connection.write_all(&piece).await.is_err() {
            return false;
        }
    }
    connection.flush().await.is_ok()
}

/// The reply, as it is sent; `None` for `quit`.
async fn handle_request(answers: &Answers, line: &str, from: SocketAddr) -> Option<Response> {
    let (command, rest) = line.split_once(' ').map_or((line, None), |(command, rest)| (command, Some(rest)));
    let class = match command {
        "counters" | "delcounters" => Class::Counter,
        "timers" | "deltimers" => Class::Timer,
        "gauges" | "delgauges" => Class::Gauge,
        _ => return Some(answers.sent(reply(&answers.state, line).await?).await),
    };
    // Collected by few at a time, and held until it is sent or its client is too slow.
    let _turn = answers.bodies.turn().await;
    let state = &answers.state;
    let made = match command {
        "counters" | "timers" | "gauges" => match state.flusher.list(class).await {
            Some(listing) => answers.bodies.work(move || listing_text(&listing)).await.ok(),
            None => None,
        },
        _ => delete(state, class, rest, from).await,
    };
    Some(answers.sent(made.unwrap_or_else(|| ERROR.into())).await)
}

impl Answers {
    /// A reply that is held as long as it is sent.
    async fn sent(&self, reply: String) -> Response {
        match self.bodies.whole("text/plain", reply).await {
            Ok(reply) => reply,
            // Too many are being sent.
            Err(_) => Response::new(ERROR.into()),
        }
    }
}

/// The reply to a command; `None` for `quit`.
async fn reply(state: &ManagementState, line: &str) -> Option<String> {
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
        "config" => format!("\n{}", state.config.lock().unwrap_or_else(PoisonError::into_inner)),
        "stats" => match state.flusher.stats().await {
            Some(stats) => stats_text(&stats, state.started),
            None => ERROR.into(),
        },
        _ => ERROR.into(),
    })
}

fn listing_text(listing: &Listing) -> String {
    inspect::object(&listing.entries, listing.more) + "\nEND\n\n"
}

/// Deletes, and tells what was deleted.
async fn delete(state: &ManagementState, class: Class, names: Option<&str>, from: SocketAddr) -> Option<String> {
    let names: Vec<String> = names.into_iter().flat_map(|names| names.split(' ')).map(str::to_string).collect();
    // All names in one pass over the series.
    let deleted = state.flusher.delete(class, names.clone()).await?;
    let series: u64 = deleted.iter().map(|deleted| deleted.names.len() as u64 + deleted.more).sum();
    if series > 0 {
        let name = names.first().map_or("", String::as_str);
        tracing::info!(%from, ?class, name, names = names.len(), series, "deleted over the management port");
    }
    let mut reply = String::new();
    for (name, deleted) in names.iter().zip(&deleted) {
        if deleted.names.is_empty() && deleted.more == 0 {
            reply.push_str(&format!("metric {name} not found\n"));
        }
        deleted.names.iter().for_each(|name| reply.push_str(&format!("deleted: {name}\n")));
        if deleted.more > 0 {
            reply.push_str(&format!("deleted: {}\n", inspect::rest(deleted.more)));
        }
    }
    Some(reply + "END\n\n")
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
