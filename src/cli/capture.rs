//! `systole capture`: records the wire with times, for `replay`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use crate::aggregate::{Columns, Quota, Shard};
use crate::config::{Sources, parse_size};
use crate::log::Log;
use crate::memory::Memory;
use crate::net::{self, Listeners, Taps};
use crate::supervise::{Part, Supervisor};
use crate::sys::{survive_file_size_limit, unix_time};
use crate::{assemble, capture};

use super::progress::Progress;
use super::{FAILED, INPUT, duration, load_config, print_error};

/// How often kernel drops are read, and the unused aggregation is discarded.
const TIDY: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct CaptureArgs {
    /// Listen here: udp://HOST:PORT, tcp://HOST:PORT, unix:///PATH, unixgram:///PATH or fd://NAME (may be repeated)
    #[arg(long, required = true, value_name = "URL")]
    listen: Vec<String>,
    /// Write to this file, which is truncated first; `-` is the standard output, and what is said at the end goes to standard error
    #[arg(long, value_name = "FILE", value_parser = unpacked)]
    out: PathBuf,
    /// Stop after this time; otherwise at SIGINT or SIGTERM
    #[arg(long = "for", value_name = "DUR", value_parser = duration)]
    length: Option<Duration>,
    /// Stop at this size: 64MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
}

/// A file that is written as it is: one that ends with `.gz` would not be what it says.
fn unpacked(text: &str) -> Result<PathBuf, String> {
    match text.ends_with(".gz") {
        true => Err(format!("a capture is written plain; `--out - | gzip > {text}` packs it")),
        false => Ok(text.into()),
    }
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "a size such as 64MiB is right".into())
}

pub(super) fn run(args: &CaptureArgs) -> u8 {
    let config = match load_config(&Sources { listen: args.listen.clone(), ..Sources::default() }) {
        Ok(config) => config,
        Err(code) => return code,
    };
    survive_file_size_limit();
    let log = match Log::start(LevelFilter::INFO, false) {
        Ok(log) => log,
        Err(error) => {
            print_error(format_args!("cannot start the log: {error}"));
            return FAILED;
        }
    };
    let _ending = log.ending();
    let outcome = super::runtime().and_then(|runtime| {
        runtime.block_on(async {
            // Before it reports that it listens, because it may be stopped right after that.
            let listen = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
            let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
            let stop = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            let (memory, part) = (Memory::unlimited(), Part::new("capture"));
            let (writer, thread) = capture::start(&args.out, unix_time(), args.max_size, &memory, &part)
                .map_err(|error| format!("cannot write {}: {error}", args.out.display()))?;
            let mut listeners = Listeners::default();
            let taps = Taps { capture: Some(writer), ..Taps::default() };
            for listen in &config.listen {
                let bound = net::bind(assemble::listener(&config, listen));
                let bound = bound.map_err(|error| format!("cannot listen on {}: {error}", listen.url))?;
                let url = listen.url.clone().at(bound.address()).to_string();
                log.say(&format!("listening on {url}\n"));
                let quota = Quota::new(config.max_series);
                let shard = || Shard::new(assemble::shard_options(&config, &quota, 0));
                let listener = bound.start(&url, shard, &taps, &Supervisor::default()).map_err(|error| error.to_string())?;
                listeners.add(listener);
            }
            drop(taps);
            let recording = Progress::of_time("recording", args.length);
            let (dropped, unread) = listen_until_told(args.length, stop, &mut listeners).await;
            drop(recording);
            listeners.join(Instant::now() + TIDY).await;
            let summary = thread.join().map_err(|_| "the capture failed; its message is above")?;
            let said = json!({
                "rows": summary.rows, "bytes": summary.bytes, "lost": summary.lost, "kernel_drops": dropped, "unread": unread,
            });
            let _ = match args.out == Path::new(INPUT) {
                true => writeln!(std::io::stderr(), "{said}"),
                false => writeln!(std::io::stdout(), "{said}"),
            };
            match summary.problem {
                Some(problem) => Err(format!("{} is not whole: {problem}", args.out.display())),
                None => Ok(0),
            }
        })
    });
    outcome.unwrap_or_else(|problem: String| {
        log.say(&format!("systole: {problem}\n"));
        FAILED
    })
}

/// Waits for the end; returns the datagrams that the kernel dropped, and those left unread.
async fn listen_until_told(
    length: Option<Duration>,
    stop: impl Future<Output = ()>,
    listeners: &mut Listeners,
) -> (u64, u64) {
    let mut stop = std::pin::pin!(stop);
    let end = length.map(|length| Instant::now() + length);
    let (mut dropped, mut unread) = (0, 0);
    loop {
        let pause = end.map_or(TIDY, |end| end.saturating_duration_since(Instant::now()).min(TIDY));
        let ended = tokio::select! {
            () = tokio::time::sleep(pause) => end.is_some_and(|end| Instant::now() >= end),
            () = &mut stop => true,
        };
        if ended {
            listeners.stop(Instant::now() + TIDY).await;
        }
        for listener in listeners.iter_mut() {
            dropped += listener.take_kernel_drops();
            for worker in 0..listener.workers() {
                // The aggregated values are not used.
                let closed = listener.close(worker, Default::default(), Columns::default()).await;
                unread += closed.map_or(0, |partial| partial.tally.listener.unread);
            }
        }
        if ended {
            return (dropped, unread);
        }
    }
}
