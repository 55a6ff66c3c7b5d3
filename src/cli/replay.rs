//! `systole replay`: captures through the daemon's own parser, aggregator and flusher, on a virtual clock
//! that starts at 0. Same input, same bytes.

use std::io::{IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use clap::{Args, ValueEnum};
use flate2::read::MultiGzDecoder;
use rapidhash::v3::rapidhash_v3;

use crate::aggregate::{Columns, Partial, Quota, Shard, ShardOptions};
use crate::assemble;
use crate::codec::{RecordType, Records};
use crate::config::Config;
use crate::protocol::{Heartbeats, Options};
use crate::rollup::{Interval, Registry};
use crate::sinks::SinkKind;
use crate::sinks::graphite::{self, GraphiteNames};
use crate::sinks::influx;
use crate::sinks::prometheus::{self, Distributions, Exposition};
use crate::sinks::statsd;
use crate::snapshot::Snapshot;
use crate::telemetry::{ListenerAccount, Tally};
use crate::untrusted::Escaped;

use super::figures::grouped;
use super::progress::Progress;
use super::replay_presence::ReplayPresence;
use super::{ConfigArgs, FAILED, INPUT, duration, load_config, print, print_error, sources};
use crate::capture::reader::{Row, What, row};

#[derive(Args)]
pub(super) struct ReplayArgs {
    /// Captures (JSON Lines), also packed by gzip; several are merged by time; `-` is the standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// What a sink of this kind would be sent
    #[arg(long = "as", value_name = "KIND", default_value = "json")]
    format: Format,
    /// Time between flushes, such as 10s
    #[arg(long, value_name = "DUR", value_parser = duration)]
    interval: Option<Duration>,
    /// Flush the whole intervals up to so many seconds, and no more
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    until: Option<f64>,
    /// Print Unix seconds, not seconds from 0: those of `started` in the capture and the rows' `t` after it, or of `t` alone
    #[arg(long)]
    absolute: bool,
    /// Only records of these types, such as counter,timer,ledger
    #[arg(long, value_name = "TYPE", value_delimiter = ',', value_parser = record_type)]
    only: Option<Vec<RecordType>>,
    /// Receive workers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// Records, one a line
    Json,
    /// Graphite plaintext
    Graphite,
    /// Influx line protocol
    Influx,
    /// What a scrape would be told after the last flush
    Prometheus,
    /// Lines for another StatsD server
    Statsd,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s| (0.0..=1e10).contains(s)).ok_or("seconds, 0 or more, are right".into())
}

fn record_type(text: &str) -> Result<RecordType, String> {
    let known = RecordType::NAMES.map(|(_, name)| name).join(", ");
    RecordType::from_name(text).ok_or(format!("one of {known} is right"))
}

pub(super) fn run(args: &ReplayArgs) -> u8 {
    let config = sources(&args.config).and_then(|mut sources| {
        sources.interval = args.interval;
        load_config(&sources)
    });
    let config = match config {
        Ok(config) => config,
        Err(code) => return code,
    };
    let Capture { rows, begin } = match Capture::read(&args.files, args.absolute) {
        Ok(capture) => capture,
        Err(problem) => {
            print_error(problem);
            return FAILED;
        }
    };
    let mut replay = Replay::new(config, args);
    begin.into_iter().for_each(|begin| replay.begin_at(begin));
    // What is printed on the same terminal shows how far it is.
    let replaying = (!std::io::stdout().is_terminal()).then(|| {
        let (done, all) = (Arc::clone(&replay.done), rows.len().max(1) as u64);
        Progress::start(move |_| {
            let done = done.load(Ordering::Relaxed);
            format!("replaying: {} % of {} rows", done * 100 / all, grouped(all))
        })
    });
    let replayed = replay.rows(&rows);
    drop(replaying);
    if let Some(first) = replay.first_malformed {
        let (count, reasons) = (replay.malformed.malformed_total(), replay.malformed.malformed_by_reason());
        let file = args.files[first.file].display();
        print_error(format_args!("malformed lines: {count} ({reasons}), the first at {file}:{}", first.line));
    }
    let written = replayed && print(&replay.finish());
    if written { 0 } else { FAILED }
}

/// The rows of captures, by time.
pub(super) struct Capture {
    rows: Vec<Placed>,
    /// When the clock begins, nanoseconds; `None` is at 0.
    begin: Option<u64>,
}

impl Capture {
    pub(super) fn read(files: &[PathBuf], absolute: bool) -> Result<Capture, String> {
        let mut rows = Vec::new();
        for (n, file) in files.iter().enumerate() {
            rows.extend(read(file, n, absolute)?);
        }
        rows.sort_by_key(|(row, _)| row.at);
        let is_header = |row: &Row| matches!(row.what, What::Presence(_));
        let first = rows.iter().find(|(row, _)| !is_header(row)).map(|(row, _)| row.at);
        let begin = first.filter(|_| absolute);
        if let Some(begin) = begin {
            // A header holds from the beginning.
            rows.iter_mut().filter(|(row, _)| is_header(row)).for_each(|(row, _)| row.at = begin);
        }
        Ok(Capture { rows, begin })
    }
}

/// Replays a capture and passes each closed interval on; `false` if that failed, which is reported.
pub(super) fn pass_on(config: Config, capture: &Capture, sender: SyncSender<Snapshot>) -> bool {
    let args = ReplayArgs {
        files: Vec::new(),
        config: ConfigArgs::default(),
        format: Format::Json,
        interval: None,
        until: None,
        absolute: false,
        only: None,
        workers: 1,
    };
    let mut replay = Replay { passed_on: Some(sender), ..Replay::new(config, &args) };
    capture.begin.into_iter().for_each(|begin| replay.begin_at(begin));
    replay.rows(&capture.rows)
}

/// Where a row comes from.
#[derive(Clone, Copy)]
struct Source {
    /// The Unix second that its time counts from, where that is known: then times of samples' own are judged.
    origin: Option<f64>,
    /// The number of the file, from 0, and of the row in it, from 1.
    file: usize,
    line: usize,
}

type Placed = (Row, Source);

fn read(file: &Path, number: usize, absolute: bool) -> Result<Vec<Placed>, String> {
    let (bytes, is_cut) = bytes_of(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let mut rows = Vec::new();
    let mut origin = absolute.then_some(0.0);
    // What `t` counts from, nanoseconds.
    let mut start = 0;
    let mut lines = bytes.split(|&b| b == b'\n').enumerate().peekable();
    while let Some((n, line)) = lines.next() {
        let text = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_string());
        let found = match text.and_then(|text| row(text, absolute)) {
            // Whoever wrote it ended in the middle of a row, or of the packed file.
            Err(_) if lines.peek().is_none() && has_no_end(line) => {
                print_error(format_args!("warning: {}:{}: the last row is cut; it is left out", file.display(), n + 1));
                break;
            }
            found => found.map_err(|problem| format!("{}:{}: {problem}", file.display(), n + 1))?,
        };
        match found {
            Some(Row { what: What::Started(started), .. }) if absolute => start = (started * 1e6).round() as u64 * 1000,
            Some(Row { what: What::Started(started), .. }) => origin = Some(started),
            None => {}
            Some(mut row) => {
                // Unix seconds, even behind a header, stay what they are.
                if row.at < EARLIEST_UNIX {
                    row.at += start;
                }
                rows.push((row, Source { origin, file: number, line: n + 1 }));
            }
        }
    }
    if is_cut && bytes.ends_with(b"\n") {
        print_error(format_args!(
            "warning: {}: the packed file is cut; what there is of it is replayed",
            file.display()
        ));
    }
    Ok(rows)
}

/// Whether more bytes could make a row of it.
fn has_no_end(line: &[u8]) -> bool {
    match std::str::from_utf8(line) {
        Ok(text) => serde_json::from_str::<serde::de::IgnoredAny>(text).is_err_and(|error| error.is_eof()),
        Err(error) => error.error_len().is_none(),
    }
}

/// Nanoseconds from which on a time is no distance from a start but counts from 1970: the year 2001.
const EARLIEST_UNIX: u64 = 1_000_000_000_000_000_000;

/// What a file begins with that gzip has packed (RFC 1952).
const PACKED: [u8; 2] = [0x1f, 0x8b];

/// A file's content, or that of the standard input for `-`, unpacked; whether the packed one has no end.
fn bytes_of(file: &Path) -> std::io::Result<(Vec<u8>, bool)> {
    let bytes = if file == Path::new(INPUT) {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes)?;
        bytes
    } else {
        std::fs::read(file)?
    };
    if !bytes.starts_with(&PACKED) {
        return Ok((bytes, false));
    }
    let mut unpacked = Vec::new();
    match MultiGzDecoder::new(&*bytes).read_to_end(&mut unpacked) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok((unpacked, true)),
        outcome => outcome.map(|_| (unpacked, false)),
    }
}

/// Output is written when so much of it has gathered.
const WRITE_BYTES: usize = 1 << 20;

struct Replay {
    config: Config,
    protocol: Options,
    format: Format,
    records: Records,
    names: GraphiteNames,
    until: Option<u64>,
    interval: u64,
    workers: usize,
    shards: Vec<Shard>,
    spare: Vec<Columns>,
    registry: Registry,
    /// End of the last closed interval, in nanoseconds.
    closed: u64,
    /// Since when the daemon runs, or when it runs again.
    runs_from: u64,
    /// While it stands still, until when.
    stalled_until: u64,
    held: Vec<(What, Source)>,
    /// The last tick, once it is known.
    ends_at: Option<u64>,
    presence: ReplayPresence,
    datagrams: usize,
    /// How many of them were there when the last interval was closed.
    closed_datagrams: usize,
    /// Malformed lines, and where the first is.
    malformed: Tally,
    first_malformed: Option<Source>,
    listener: ListenerAccount,
    exposition: Exposition,
    out: Vec<u8>,
    /// How many rows are done.
    done: Arc<AtomicU64>,
    /// Who gets what is flushed, in place of it being printed.
    passed_on: Option<SyncSender<Snapshot>>,
}

/// What a scrape is told, under the names of the configuration's first sink for scrapes.
fn exposition(config: &Config) -> Exposition {
    // A scrape after the last flush sees everything of the capture.
    let all = Exposition::new(f64::INFINITY, Distributions::Summary);
    let first = config.sinks.iter().find_map(|sink| match &sink.kind {
        SinkKind::Prometheus(spec) => Some(spec),
        _ => None,
    });
    first.map_or(all.clone(), |spec| spec.names_of(all))
}

/// What the configuration's first sink for Influx calls things.
fn influx_naming(config: &Config) -> influx::Naming {
    let naming = config.sinks.iter().find_map(|sink| match &sink.kind {
        SinkKind::Influx(spec) => Some(spec.naming()),
        _ => None,
    });
    naming.unwrap_or_default()
}

impl Replay {
    fn new(config: Config, args: &ReplayArgs) -> Replay {
        let only = args.only.clone();
        let ledger = only.as_ref().is_some_and(|only| only.contains(&RecordType::Ledger));
        let nanos = |seconds: f64| (seconds * 1e9).round() as u64;
        let workers = usize::from(args.workers);
        let presence = ReplayPresence::new(assemble::policy(&config));
        let (shards, registry) = daemon(&config, workers, &presence);
        Replay {
            exposition: exposition(&config),
            names: assemble::graphite_names(&config),
            interval: nanos(config.interval.as_secs_f64()).max(1),
            protocol: assemble::protocol(&config, &config.protocol),
            config,
            format: args.format,
            records: Records { only, sorted: true, ledger },
            until: args.until.map(nanos),
            workers,
            shards,
            spare: Vec::new(),
            registry,
            closed: 0,
            runs_from: 0,
            stalled_until: 0,
            held: Vec::new(),
            ends_at: None,
            presence,
            datagrams: 0,
            closed_datagrams: 0,
            malformed: Tally::default(),
            first_malformed: None,
            listener: ListenerAccount { url: "capture:".into(), ..ListenerAccount::default() },
            out: Vec::new(),
            done: Arc::default(),
            passed_on: None,
        }
    }

    /// Lets the clock begin with the interval that holds `at` nanoseconds, instead of at 0.
    fn begin_at(&mut self, at: u64) {
        let begin = at / self.interval * self.interval;
        (self.closed, self.runs_from) = (begin, begin);
        self.presence.begin_at(begin);
    }

    /// What is left to print.
    fn finish(mut self) -> Vec<u8> {
        if self.format == Format::Prometheus {
            self.out.extend_from_slice(&self.exposition.encode(prometheus::Format::Text));
        }
        self.out
    }

    fn rows(&mut self, rows: &[Placed]) -> bool {
        let end = rows.iter().position(|(row, _)| row.what == What::End);
        let rows = end.map_or(rows, |end| &rows[..=end]);
        for (row, source) in rows {
            if self.until.is_some_and(|until| row.at >= until) {
                break;
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            self.advance(row.at);
            if row.at < self.runs_from && row.what != What::End {
                continue;
            }
            match &row.what {
                What::Presence(config) => {
                    if let Err(problem) = self.presence.configure(config) {
                        print_error(problem);
                        return false;
                    }
                    (self.shards, self.registry) = daemon(&self.config, self.workers, &self.presence);
                }
                What::Restart { down, crash } => self.restart(row.at, *down, *crash),
                What::Stall { length } => {
                    self.presence.stands_still(row.at);
                    self.stalled_until = self.stalled_until.max(row.at + length);
                }
                What::End => self.presence.ends(row.at, &mut self.shards),
                what if self.stalled_until > row.at => self.held.push((what.clone(), *source)),
                what => self.happens(row.at, what, *source),
            }
            if self.out.len() >= WRITE_BYTES && !print(&std::mem::take(&mut self.out)) {
                return false;
            }
        }
        let last = rows.last().map_or(0, |(row, _)| row.at.max(self.stalled_until));
        let until = match (self.until, rows.last().map(|(row, _)| &row.what)) {
            (Some(until), _) => until / self.interval * self.interval,
            (None, None) => 0,
            // What the open interval holds came before the end.
            (None, Some(What::End)) if !self.presence.has_events() => last.div_ceil(self.interval) * self.interval,
            (None, Some(_)) => (last / self.interval + 1) * self.interval,
        };
        // Only who reads to the end sees the daemon's end.
        self.ends_at = self.until.is_none().then_some(until);
        self.advance(until);
        true
    }

    /// Something that reaches a daemon which runs.
    fn happens(&mut self, at: u64, what: &What, source: Source) {
        match what {
            What::Datagram { bytes, copies, from } => {
                for _ in 0..*copies {
                    self.ingest(at, bytes, from.as_deref(), source);
                }
            }
            What::Drops { dropped, received } => {
                self.listener.kernel_drops += dropped;
                self.presence.kernel_drops(at, *dropped, *received);
            }
            What::Clock { step } => self.presence.clock_stepped(at, *step),
            What::Maintenance { service, instance, seconds } => {
                self.presence.engine(at).maintenance(service, instance.as_deref(), *seconds);
            }
            What::Forget { service, instance } => {
                self.presence.engine(at).forget(service, instance.as_deref());
            }
            What::Started(_) | What::Restart { .. } | What::Stall { .. } | What::Presence(_) | What::End => {}
        }
    }

    /// Lets time pass: judges presence, and closes the intervals that end up to `now`.
    fn advance(&mut self, now: u64) {
        if self.stalled_until > 0 {
            if now < self.stalled_until {
                return;
            }
            // Awake: what came meanwhile is read first, then one late tick closes it all.
            let woken = std::mem::take(&mut self.stalled_until);
            self.presence.wakes(woken);
            for (what, source) in std::mem::take(&mut self.held) {
                self.happens(woken, &what, source);
            }
            let tick = woken / self.interval * self.interval;
            if tick > self.closed {
                self.close(tick, false);
            }
        }
        loop {
            let tick = (self.closed / self.interval + 1) * self.interval;
            if tick > now || tick <= self.runs_from {
                if tick <= self.runs_from && tick <= now {
                    self.closed = tick;
                    continue;
                }
                break;
            }
            // What happens at the very end of an interval is in the next one, as rows are.
            self.presence.advance(tick, &mut self.shards);
            let is_last = self.ends_at == Some(tick);
            if is_last || !self.is_idle() {
                self.close(tick, is_last);
            }
            self.closed = tick;
        }
        self.presence.advance(now, &mut self.shards);
    }

    /// Whether nothing came that `--only` asks for: a capture of heartbeats may be one of days.
    fn is_idle(&self) -> bool {
        let is_presence = self.records.only.as_deref() == Some(&[RecordType::Presence]);
        is_presence && self.datagrams == self.closed_datagrams && !self.presence.has_events()
    }

    fn ingest(&mut self, at: u64, bytes: &[u8], from: Option<&str>, source: Source) {
        // A sender keeps its worker, as the kernel does it; without a sender every datagram is its own.
        let shard = match from {
            Some(from) => rapidhash_v3(from.as_bytes()) as usize % self.workers,
            None => self.datagrams % self.workers,
        };
        self.datagrams += 1;
        self.listener.datagrams += 1;
        self.listener.bytes += bytes.len() as u64;
        let shard = &mut self.shards[shard];
        shard.tally().listener.datagrams += 1;
        shard.set_origin(source.origin);
        let before = shard.tally().lines.malformed;
        shard.ingest(bytes, &self.protocol, from.and_then(address), secs(at));
        let mut fresh = shard.tally().lines.malformed;
        fresh.subtract(&before);
        if fresh.total() > 0 {
            self.first_malformed.get_or_insert(source);
            self.malformed.lines.malformed.add(&fresh);
        }
        let engine = self.presence.engine(at);
        shard.take_signals().for_each(|signal| engine.signal(&signal));
    }

    fn restart(&mut self, at: u64, down: u64, crash: bool) {
        if !crash {
            self.presence.look_at_watched(at, &mut self.shards);
        }
        if !crash && at > self.closed {
            self.close(at, true);
        }
        let (shards, registry) = daemon(&self.config, self.workers, &self.presence);
        (self.shards, self.registry, self.spare) = (shards, registry, Vec::new());
        self.listener = ListenerAccount { url: "capture:".into(), ..ListenerAccount::default() };
        self.runs_from = at + down;
        self.presence.restart(at, at + down, crash);
        self.closed = self.closed.max(at);
    }

    fn close(&mut self, end: u64, is_last: bool) {
        let began = self.closed.max(self.runs_from.min(end));
        let mut partials: Vec<Partial> = Vec::new();
        for (n, shard) in self.shards.iter_mut().enumerate() {
            let retire = self.registry.retirements(n, secs(self.closed));
            partials.push(shard.close(retire, self.spare.pop().unwrap_or_default()));
        }
        let interval = Interval::new(secs(end), secs(end - began), secs(end), Duration::from_nanos(self.interval));
        let interval = Interval { is_last, ..interval };
        let mut snapshot = self.registry.close(&mut partials, interval);
        self.spare.extend(partials.into_iter().map(|partial| partial.columns));
        let fresh = ListenerAccount { url: self.listener.url.clone(), ..ListenerAccount::default() };
        snapshot.ledger.listeners = vec![std::mem::replace(&mut self.listener, fresh)];
        snapshot.ledger.update_completeness();
        snapshot.presence = self.presence.take_events();
        (self.closed, self.closed_datagrams) = (end, self.datagrams);
        self.write(snapshot);
    }

    /// Takes out what `--only` does not ask for.
    fn leave_out(&self, snapshot: &mut Snapshot) {
        let Some(only) = &self.records.only else { return };
        let wanted = |kind| only.contains(&RecordType::of(kind));
        snapshot.counters.retain(|point| wanted(point.series.kind()));
        snapshot.gauges.retain(|point| wanted(point.series.kind()));
        snapshot.timers.retain(|point| wanted(point.series.kind()));
        snapshot.sets.retain(|point| wanted(point.series.kind()));
        snapshot.kvs.retain(|point| wanted(point.series.kind()));
        snapshot.timestamped.retain(|one| wanted(one.series.kind()));
    }

    fn write(&mut self, mut snapshot: Snapshot) {
        if let Some(sender) = &self.passed_on {
            // Whoever reads has ended by himself.
            let _ = sender.send(snapshot);
            return;
        }
        match self.format {
            Format::Json => self.records.write(&snapshot, &mut self.out),
            Format::Influx => {
                self.leave_out(&mut snapshot);
                snapshot.sort();
                influx::Encoder::new(&snapshot).named(influx_naming(&self.config)).fill(&mut self.out, usize::MAX);
            }
            Format::Statsd => {
                self.leave_out(&mut snapshot);
                snapshot.sort();
                statsd::Encoder::new(statsd::Dialect::Dogstatsd, statsd::Sign::Delta, usize::MAX).each(
                    &snapshot,
                    |item| {
                        self.out.extend_from_slice(item);
                        self.out.push(b'\n');
                    },
                );
            }
            Format::Prometheus => {
                self.leave_out(&mut snapshot);
                snapshot.sort();
                let outcome = self.exposition.apply(&snapshot);
                if let Some(first) = outcome.fallen {
                    let first = first.to_string();
                    print_error(format_args!(
                        "{} counters fell, such as {}; they are left out",
                        outcome.negative,
                        Escaped(&first)
                    ));
                }
                for conflict in outcome.conflicts {
                    let prometheus::Conflict { holder, other, name } = conflict;
                    print_error(format_args!(
                        "`{name}` belongs to {}; {} is left out",
                        Escaped(&holder),
                        Escaped(&other)
                    ));
                }
            }
            Format::Graphite => {
                self.leave_out(&mut snapshot);
                snapshot.sort();
                let lines = graphite::encode(&snapshot, &self.names);
                // Writing to memory cannot fail.
                let _ = self.out.write_all(&lines);
            }
        }
    }
}

/// A fresh daemon's shards and registry, without series of its own that would differ from run to run.
fn daemon(config: &Config, workers: usize, presence: &ReplayPresence) -> (Vec<Shard>, Registry) {
    let (quota, assist) = (Quota::new(config.max_series), presence.assists());
    let heartbeats = assemble::heartbeats(config).map(|heartbeats| Arc::new(Heartbeats { assist, ..heartbeats }));
    let options = || ShardOptions { heartbeats: heartbeats.clone(), ..assemble::shard_options(config, &quota, 0) };
    let shards = (0..workers).map(|_| Shard::new(options()).watching(presence.watches())).collect();
    let registry = Registry::new(assemble::registry_options(config, false), workers);
    (shards, registry)
}

/// A sender, with its port or without.
fn address(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, 0)))
}

fn secs(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
