//! `systole compare`: two streams of Graphite lines or records, held against each other while they come in.

mod feed;
mod matching;
mod points;
mod report;

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::{FAILED, USAGE, duration, print, print_error};
use feed::{Feed, Input};
use matching::{Comparison, Rules, Side};
use report::Report;

#[derive(Args)]
#[command(
    after_help = "Each stream is tcp://HOST:PORT, where a server is to write its Graphite lines to; a file of Graphite lines or records, \
                  also packed by gzip; or - for standard input.\n\
                  Exit codes: 0 no difference; 1 a difference, or nothing to compare; 2 bad usage."
)]
pub(super) struct CompareArgs {
    /// The one stream, such as tcp://127.0.0.1:2003: what the old server sends
    #[arg(value_name = "A", value_parser = Input::parse)]
    a: Input,
    /// The other one, such as tcp://127.0.0.1:2004: what the new server sends
    #[arg(value_name = "B", value_parser = Input::parse)]
    b: Input,
    /// Stop after this time; otherwise at the end of both, at SIGINT or SIGTERM
    #[arg(long = "for", value_name = "DUR", value_parser = duration)]
    length: Option<Duration>,
    /// How far two values may be apart, as a part of the larger one
    #[arg(long, value_name = "PART", default_value_t = 1e-9, value_parser = tolerance)]
    tolerance: f64,
    /// How far the times of values that belong together may be apart; without it, half of the interval
    #[arg(long, value_name = "DUR", value_parser = duration)]
    align: Option<Duration>,
    /// A value that the neighbouring interval has instead is a difference, too
    #[arg(long)]
    strict: bool,
    /// Leave out names of this pattern (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    ignore: Vec<String>,
    /// Compare these by name alone: what hangs on the server itself, such as '*.processing_time' (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    names_only: Vec<String>,
    /// How many names are listed of each kind of difference
    #[arg(long, value_name = "N", default_value_t = 20)]
    list: usize,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

fn tolerance(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|part| (0.0..1.0).contains(part))
        .ok_or("a part from 0 to below 1, such as 0.001, is right".into())
}

pub(super) fn run(args: &CompareArgs) -> u8 {
    if args.a == args.b && !args.a.is_any_port() {
        print_error("both streams are the same; give two");
        return USAGE;
    }
    let begins_cut = args.a.is_live() || args.b.is_live();
    let mut comparison = Comparison::new(Rules {
        tolerance: args.tolerance,
        align: args.align.map(|align| align.as_secs_f64()),
        ignore: args.ignore.clone(),
        names_only: args.names_only.clone(),
        begins_cut,
        strict: args.strict,
    });
    let outcome = super::runtime().and_then(|runtime| runtime.block_on(follow(args, &mut comparison)));
    if let Err(problem) = outcome {
        print_error(problem);
        return FAILED;
    }
    let report = Report::new(&comparison, args.list);
    let text = if args.json { report.json() } else { report.to_string() };
    if print(text.as_bytes()) && report.is_same() { 0 } else { FAILED }
}

/// Reads both streams to their ends, or until it is time.
async fn follow(args: &CompareArgs, comparison: &mut Comparison) -> Result<(), String> {
    // Before it says that it listens, because it may be stopped right after that.
    let listen = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (mut a, mut b) = (Feed::open("A", &args.a).await?, Feed::open("B", &args.b).await?);
    let end = args.length.map(|length| Instant::now() + length);
    loop {
        while drain(comparison, &mut a, &b, Side::A) || drain(comparison, &mut b, &a, Side::B) {}
        if a.has_ended() && b.has_ended() {
            break;
        }
        // A file waits for the other stream, so that little is kept; a server is never kept waiting.
        let (a_may, b_may) = (may_go_on(comparison, &a, &b, Side::A), may_go_on(comparison, &b, &a, Side::B));
        tokio::select! {
            () = a.more(), if a_may => {}
            () = b.more(), if b_may => {}
            () = tokio::time::sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    // What has arrived counts.
    while a.more_at_once() | b.more_at_once() {
        while drain(comparison, &mut a, &b, Side::A) || drain(comparison, &mut b, &a, Side::B) {}
    }
    comparison.finish(a.has_ended() && b.has_ended());
    match a.problem.or(b.problem) {
        Some(problem) => Err(problem),
        None => Ok(()),
    }
}

fn may_go_on(comparison: &Comparison, feed: &Feed, other: &Feed, side: Side) -> bool {
    let is_behind = comparison.clock(side) <= comparison.clock(side.other());
    !feed.is_closed() && (feed.is_live() || other.has_ended() || is_behind)
}

/// Takes the lines that are there; whether there were some.
fn drain(comparison: &mut Comparison, feed: &mut Feed, other: &Feed, side: Side) -> bool {
    let mut any = false;
    loop {
        let is_behind = comparison.clock(side) <= comparison.clock(side.other());
        if !(feed.is_live() || other.has_ended() || is_behind) {
            return any;
        }
        let arrived = feed.arrived();
        let Some(line) = feed.next_line() else { return any };
        any = true;
        let is_good = points::each(line, &mut |name, value, time| comparison.point(side, name, value, time, arrived));
        if !is_good {
            comparison.malformed(side);
        }
    }
}
