//! `systole diff`: what another configuration makes of captured traffic. Both replay the same rows side by side, interval by
//! interval, and what each would have flushed is compared.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::assemble;
use crate::codec::{RecordType, Records};
use crate::config::{Config, show_duration};
use crate::presence::UnixTime;
use crate::sinks::graphite::{self, GraphiteNames};
use crate::snapshot::{Snapshot, grouped, number, short_number};

use super::listed::Listed;
use super::replay::{self, Capture};
use super::{ConfigArgs, FAILED, USAGE, duration, load_config, print, print_error, sources};

/// Intervals that one of the two may be ahead.
const AHEAD: usize = 2;

/// Times from here on are Unix seconds, not seconds from the beginning of the capture.
const EARLIEST_UNIX: f64 = 1e9;

#[derive(Args)]
#[command(after_help = "Exit codes: 0 no difference; 1 a difference; 2 bad usage or bad configuration.")]
pub(super) struct DiffArgs {
    /// The configuration that holds
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The one that is to hold
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Captures (JSON Lines), also packed by gzip; several are merged by time; `-` is the standard input
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// Time between flushes of both, such as 10s
    #[arg(long, value_name = "DUR", value_parser = duration)]
    interval: Option<Duration>,
    /// Times are Unix seconds, as in replay
    #[arg(long)]
    absolute: bool,
    /// How many series are listed of each kind of difference
    #[arg(long, value_name = "N", default_value_t = 20)]
    list: usize,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DiffArgs) -> u8 {
    let load = |file: &Path| {
        let mut sources = sources(&ConfigArgs { config: Some(file.to_path_buf()) })?;
        sources.interval = args.interval;
        // What the daemon says of itself is not what a configuration makes of the traffic.
        load_config(&sources).map(|config| Config { self_metrics: false, ..config })
    };
    let (old, new) = match load(&args.old).and_then(|old| load(&args.new).map(|new| (old, new))) {
        Ok(both) => both,
        Err(code) => return code,
    };
    if old.interval != new.interval {
        print_error(format_args!(
            "{} flushes every {}, {} every {}: their values cannot be compared; `--interval {}` replays both with one",
            args.old.display(),
            show_duration(old.interval),
            args.new.display(),
            show_duration(new.interval),
            show_duration(old.interval)
        ));
        return USAGE;
    }
    let capture = match Capture::read(&args.captures, args.absolute) {
        Ok(capture) => capture,
        Err(problem) => {
            print_error(problem);
            return FAILED;
        }
    };
    let Some(report) = compare(old, new, &capture, args.list) else { return FAILED };
    let text = if args.json { report.json() } else { report.to_string() };
    if print(text.as_bytes()) && report.same { 0 } else { FAILED }
}

/// Replays with both; `None` if one of them failed, which was reported.
fn compare(old: Config, new: Config, capture: &Capture, list: usize) -> Option<Report> {
    let names = [&old, &new].map(assemble::graphite_names);
    let mut diff = Diff::default();
    let is_whole = thread::scope(|scope| {
        let (old_sender, old_receiver) = sync_channel(AHEAD);
        let (new_sender, new_receiver) = sync_channel(AHEAD);
        let both = [(old, old_sender), (new, new_sender)];
        let replays = both.map(|(config, sender)| scope.spawn(move || replay::pass_on(config, capture, sender)));
        diff.read(&[old_receiver, new_receiver], &names);
        // A panic is reported by itself.
        replays.map(|replay| replay.join().unwrap_or(false)) == [true, true]
    });
    is_whole.then(|| diff.report(list))
}

/// What one of the two flushes in all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Cost {
    /// Different ones.
    series: u64,
    /// The most in one interval.
    series_at_once: u64,
    records: u64,
    record_bytes: u64,
    graphite_bytes: u64,
    malformed: u64,
}

/// What is known of a series.
#[derive(Default)]
struct Series {
    /// Intervals that have it, of both.
    intervals: [u64; 2],
    differing: u64,
    first: Option<Change>,
}

/// The first number that is another one.
#[derive(Clone, Debug, Serialize)]
struct Change {
    time: f64,
    field: String,
    old: Option<Value>,
    new: Option<Value>,
}

#[derive(Default)]
struct Diff {
    series: HashMap<String, Series>,
    costs: [Cost; 2],
    intervals: u64,
}

impl Diff {
    /// Reads both to their ends. Intervals of the same end are compared.
    fn read(&mut self, receivers: &[Receiver<Snapshot>; 2], names: &[GraphiteNames; 2]) {
        let mut heads: [Option<Snapshot>; 2] = [0, 1].map(|n: usize| receivers[n].recv().ok());
        while let Some(end) = heads.iter().flatten().map(|snapshot| snapshot.end).reduce(f64::min) {
            self.intervals += 1;
            let mut records = [HashMap::new(), HashMap::new()];
            for n in [0, 1] {
                let Some(snapshot) = heads[n].take_if(|head| head.end <= end) else { continue };
                records[n] = self.costs[n].add(&snapshot, &names[n]);
                heads[n] = receivers[n].recv().ok();
            }
            self.add(end, &records);
        }
    }

    fn add(&mut self, time: f64, [old, new]: &[HashMap<String, Vec<u8>>; 2]) {
        for (n, records) in [old, new].into_iter().enumerate() {
            for key in records.keys() {
                self.series.entry(key.clone()).or_default().intervals[n] += 1;
            }
        }
        for (key, was) in old {
            let Some(is) = new.get(key).filter(|is| *is != was) else { continue };
            if let Some(series) = self.series.get_mut(key) {
                series.differing += 1;
                series.first.get_or_insert_with(|| change(time, was, is));
            }
        }
        // What only one of them has in an interval is a difference of both that have it elsewhere.
        for (key, is_old) in old.keys().map(|key| (key, true)).chain(new.keys().map(|key| (key, false))) {
            let other = if is_old { new } else { old };
            if other.contains_key(key) {
                continue;
            }
            if let Some(series) = self.series.get_mut(key) {
                series.differing += 1;
                let there = Some(Value::from("there"));
                let (old, new) = if is_old { (there, None) } else { (None, there) };
                series.first.get_or_insert(Change { time, field: String::new(), old, new });
            }
        }
    }

    fn report(mut self, list: usize) -> Report {
        let mut names: Vec<(&String, &Series)> = self.series.iter().collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        let alone = |side: usize| {
            let own = |(name, series): &(&String, &Series)| {
                let is_alone = series.intervals[1 - side] == 0;
                is_alone.then(|| Alone { series: (*name).clone(), intervals: series.intervals[side] })
            };
            Listed::of(names.iter().filter_map(own), list)
        };
        let differing = names.iter().filter(|(_, series)| !series.intervals.contains(&0) && series.differing > 0);
        let differing = differing.filter_map(|(name, series)| {
            let intervals = series.intervals[0].max(series.intervals[1]);
            let (differing, first) = (series.differing, series.first.clone()?);
            Some(Differing { series: (*name).clone(), intervals, differing, first })
        });
        let (only_in_old, only_in_new, differing) = (alone(0), alone(1), Listed::of(differing, list));
        for (n, cost) in self.costs.iter_mut().enumerate() {
            cost.series = names.iter().filter(|(_, series)| series.intervals[n] > 0).count() as u64;
        }
        let [old, new] = self.costs;
        let is_equal = only_in_old.count + only_in_new.count + differing.count == 0 && old == new;
        Report { same: is_equal, intervals: self.intervals, old, new, only_in_old, only_in_new, differing }
    }
}

impl Cost {
    /// Counts an interval; gives its records by series.
    fn add(&mut self, snapshot: &Snapshot, names: &GraphiteNames) -> HashMap<String, Vec<u8>> {
        let mut all: HashMap<String, Vec<u8>> = HashMap::new();
        Records { only: None, sorted: true, ledger: false }.each(snapshot, |record| {
            self.records += 1;
            self.record_bytes += record.json.len() as u64 + 1;
            if record.kind != RecordType::Presence {
                let text = all.entry(format!("{} {}", record.kind.name(), record.key)).or_default();
                text.extend_from_slice(record.json);
                text.push(b'\n');
            }
        });
        self.series_at_once = self.series_at_once.max(all.len() as u64);
        self.graphite_bytes += graphite::encode(snapshot, names).len() as u64;
        self.malformed += snapshot.ledger.malformed_total();
        all
    }
}

/// The first of the numbers of two texts of records that differs.
fn change(time: f64, was: &[u8], is: &[u8]) -> Change {
    let flat = |text: &[u8]| {
        let mut all = BTreeMap::new();
        for (n, line) in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()).enumerate() {
            // A series with several records in an interval has them one after the other.
            let path = if n == 0 { String::new() } else { format!("[{n}]") };
            flatten(&path, &serde_json::from_slice(line).unwrap_or_default(), &mut all);
        }
        all
    };
    let (was, is) = (flat(was), flat(is));
    let differs = |key: &&String| was.get(*key) != is.get(*key);
    let field = was.keys().chain(is.keys()).filter(differs).min().cloned().unwrap_or_default();
    Change { time, old: was.get(&field).cloned(), new: is.get(&field).cloned(), field }
}

fn flatten(path: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    let Value::Object(table) = value else {
        all.insert(path.to_string(), value.clone());
        return;
    };
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        flatten(&path, value, all);
    }
}

/// What is different.
#[derive(Debug, Serialize)]
struct Report {
    same: bool,
    intervals: u64,
    old: Cost,
    new: Cost,
    only_in_old: Listed<Alone>,
    only_in_new: Listed<Alone>,
    differing: Listed<Differing>,
}

#[derive(Debug, Serialize)]
struct Alone {
    series: String,
    intervals: u64,
}

#[derive(Debug, Serialize)]
struct Differing {
    series: String,
    intervals: u64,
    differing: u64,
    first: Change,
}

impl Report {
    fn json(&self) -> String {
        // Numbers and texts alone cannot fail.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// How much more or less, such as `+12 %`.
fn growth(old: u64, new: u64) -> String {
    match (old, new) {
        (old, new) if old == new => "=".into(),
        (0, _) => "new".into(),
        (old, new) => format!("{:+.1} %", (new as f64 - old as f64) / old as f64 * 100.0),
    }
}

fn at(time: f64) -> String {
    if time < EARLIEST_UNIX { format!("{} s", number(time)) } else { UnixTime::from_secs(time).clock() }
}

fn shown(value: Option<&Value>) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    value.map_or("nothing".into(), |value| value.as_f64().map_or_else(|| plain(value), short_number))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = (&self.old, &self.new);
        writeln!(f, "{:<24} {:>14} {:>14}", format!("{} intervals", grouped(self.intervals)), "OLD", "NEW")?;
        for (what, old, new) in [
            ("series", old.series, new.series),
            ("series in an interval", old.series_at_once, new.series_at_once),
            ("records", old.records, new.records),
            ("bytes as records", old.record_bytes, new.record_bytes),
            ("bytes as Graphite lines", old.graphite_bytes, new.graphite_bytes),
            ("malformed lines", old.malformed, new.malformed),
        ] {
            let mut line = String::new();
            // Writing to memory cannot fail.
            let _ = write!(line, "{what:<24} {:>14} {:>14}  {}", grouped(old), grouped(new), growth(old, new));
            writeln!(f, "{line}")?;
        }
        let alone = |one: &Alone| format!("{}  {} intervals", one.series, one.intervals);
        self.only_in_old.write(f, "only in OLD", ["series"; 2], alone)?;
        self.only_in_new.write(f, "only in NEW", ["series"; 2], alone)?;
        self.differing.write(f, "different", ["series"; 2], |one| {
            let Differing { series, intervals, differing, first: Change { time, field, old, new } } = one;
            let (old, new) = (shown(old.as_ref()), shown(new.as_ref()));
            let field = if field.is_empty() { String::new() } else { format!("{field} ") };
            format!("{series}  {differing} of {intervals} intervals, first at {}: {field}{old} -> {new}", at(*time))
        })?;
        writeln!(f, "{}", if self.same { "no difference" } else { "different" })
    }
}
