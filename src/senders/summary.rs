//! The sketches of all workers, interval by interval.
//!
//! Shares of an interval of which enough datagrams were looked at, or all of them, are those of this interval. Else earlier
//! intervals count, too, each less than the one after it, so that a share is right to about half a percentage point.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::hyperloglog::{estimate, merge};
use crate::memory::{footprint, map_footprint, vec_footprint};
use crate::protocol::Reason;
use crate::untrusted::{Escaped, excerpt};

use super::origin::{Origin, Sender};
use super::prefix::Prefix;
use super::report::{ExampleStat, Rates, Report, SenderStat, SenderWarning, TagKeyStat};
use super::sketch::{Example, Gathered, Pair, SEEN_REGISTERS};
use super::table::{COUNTERS, Counts, Entry, Table};
use super::tag_keys::{KeyNow, TagTotals};

/// Senders whose lines per second are kept for some intervals, and for how many.
pub const SPARKS: usize = 256;
/// Points of a sender.
pub const SPARK_POINTS: usize = 60;

/// Datagrams for shares that are right to 0.7 percentage points in 95 of 100 cases.
const ENOUGH: f64 = 20_000.0;

/// The most that is left of an interval's counts after the next.
const MOST_LEFT: f64 = 0.7;

/// Intervals after which the example of a reason that does not occur any more leaves.
const EXAMPLE_INTERVALS: u32 = 60;

/// Characters of an example.
const EXAMPLE_CHARS: usize = 120;

/// A key of tags explodes that has so many new values in two intervals one after the other, and at least so many a second.
const EXPLODING_VALUES: f64 = 100.0;
const EXPLODING_PER_SEC: f64 = 50.0;
/// The same of names under a prefix while a limit is near.
const FLOODING_SERIES: f64 = 100.0;
const FLOODING_PER_SEC: f64 = 50.0;
/// Malformed lines are worth a sentence from so many on in an interval, if they are more than a share of all.
const MANY_MALFORMED: f64 = 1000.0;
const MALFORMED_SHARE: f64 = 0.01;

/// Intervals after the start in which everything is new.
const FIRST_INTERVALS: u64 = 2;

/// Most sentences of a sort.
const MOST_SENTENCES: usize = 3;

/// An interval that has closed.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// Its end, Unix seconds.
    pub end: f64,
    /// Its measured length, seconds.
    pub length_secs: f64,
}

/// What a worker hands over.
#[derive(Debug)]
pub struct Part {
    /// Its listener.
    pub listener: Arc<str>,
    /// Lines that it read, without blank ones.
    pub lines: u64,
    /// What it gathered.
    pub gathered: Gathered,
}

/// The lines per second of a sender.
#[derive(Debug, Default)]
struct Spark {
    points: VecDeque<f32>,
}

/// An example of a reason.
#[derive(Debug)]
struct Remembered {
    example: Example,
    per_sec: f64,
    intervals: u32,
}

/// A sender, and the listener that it was first seen at.
type At = (Sender, u16);

/// A sender, and a prefix of what it sent.
type Known = (Sender, Prefix);

/// The senders since the start. The flusher owns it.
#[derive(Debug, Default)]
pub struct Summary {
    prepended: Arc<str>,
    listeners: Vec<Arc<str>>,
    senders: Table<At>,
    prefixes: Table<Prefix>,
    pairs: Table<Pair>,
    /// Who sent under which prefix since the start, as far as there is room: for series that have stopped.
    past: Table<Known>,
    /// What the counts are of: seconds, lines, and datagrams that were looked at (and the sum of the squares of their weights).
    seconds: f64,
    lines: f64,
    looked_at: f64,
    squares: f64,
    stand_for: f64,
    seen: f64,
    tag_keys: TagTotals,
    examples: Vec<Remembered>,
    sparks: HashMap<u64, Spark>,
    /// Names of processes; `None` of one that was gone.
    processes: HashMap<u32, Option<Arc<str>>>,
    /// Prefixes under which there were many new series in the last interval.
    flooding: HashSet<u64>,
    intervals: u64,
}

impl Summary {
    /// What names of series have before the names that are sent, from now on.
    pub fn prepend(&mut self, prepended: &str) {
        self.prepended = prepended.into();
    }

    /// Nothing so far; `prepended` is what names of series have before the names that are sent.
    pub fn new(prepended: &str) -> Summary {
        Summary { prepended: prepended.into(), ..Summary::default() }
    }

    /// Adds an interval. `process` finds the name of a process by its number.
    pub fn close(&mut self, closed: &Closed, parts: &[Part], process: impl Fn(u32) -> Option<String>) -> Report {
        self.intervals += 1;
        let mut now = Tables::default();
        for part in parts {
            let listener = self.number_of(&part.listener);
            now.merge(part, listener);
        }
        self.fade_for(&now, closed);
        self.senders.merge(&now.senders.clone().take(), 1.0, |key| key);
        self.prefixes.merge(&now.prefixes.clone().take(), 1.0, |key| key);
        self.pairs.merge(&now.pairs.clone().take(), 1.0, |key| key);
        self.keep_past(&now);
        self.seen = now.count_seen();
        self.tag_keys.close(parts.iter().map(|part| &part.gathered.tag_keys));
        let least = EXPLODING_VALUES.max(EXPLODING_PER_SEC * closed.length_secs.max(f64::MIN_POSITIVE));
        self.tag_keys.find_exploding(least);
        self.keep_examples(parts, closed.length_secs);
        self.keep_sparks(&now.senders, closed.length_secs);
        self.keep_processes(process);
        let mut report = self.report(closed);
        report.warnings = self.warnings(&report, &now, closed);
        let secs = closed.length_secs.max(f64::MIN_POSITIVE);
        let many = |entry: &&Entry<Prefix>| is_flood(&entry.counts, secs);
        self.flooding = now.prefixes.entries().iter().filter(many).map(|entry| entry.hash).collect();
        report
    }

    fn number_of(&mut self, listener: &Arc<str>) -> u16 {
        let at = self.listeners.iter().position(|known| known == listener).unwrap_or_else(|| {
            self.listeners.push(Arc::clone(listener));
            self.listeners.len() - 1
        });
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    /// Lets earlier intervals fade as far as this one is enough, and adds what it is of.
    fn fade_for(&mut self, now: &Tables, closed: &Closed) {
        let is_exact = now.stand_for <= now.looked_at;
        let left =
            if is_exact { 0.0 } else { ((ENOUGH - now.looked_at) / (ENOUGH + now.looked_at)).clamp(0.0, MOST_LEFT) };
        self.senders.fade(left);
        self.prefixes.fade(left);
        self.pairs.fade(left);
        self.seconds = self.seconds * left + closed.length_secs;
        self.lines = self.lines * left + now.lines;
        self.looked_at = self.looked_at * left + now.looked_at;
        self.squares = self.squares * left * left + now.looked_at;
        self.stand_for = self.stand_for * left + now.stand_for;
    }

    fn keep_past(&mut self, now: &Tables) {
        for entry in now.pairs.entries() {
            let known = now.senders.get(entry.key.sender).zip(now.prefixes.get(entry.key.prefix));
            if let Some((sender, prefix)) = known {
                self.past.add(entry.hash, &entry.counts, || (sender.key.0, prefix.key));
            }
        }
    }

    fn keep_examples(&mut self, parts: &[Part], secs: f64) {
        for known in &mut self.examples {
            known.intervals += 1;
            known.per_sec = 0.0;
        }
        self.examples.retain(|known| known.intervals < EXAMPLE_INTERVALS);
        let mut fresh: Vec<&Example> = Vec::new();
        for example in parts.iter().flat_map(|part| &part.gathered.examples) {
            match fresh.iter_mut().find(|known| known.reason == example.reason) {
                Some(known) if known.sender.is_none() && example.sender.is_some() => *known = example,
                Some(_) => {}
                None => fresh.push(example),
            }
        }
        for example in fresh {
            let refused: u64 = parts.iter().map(|part| part.gathered.refused[example.reason as usize]).sum();
            let per_sec = refused as f64 / secs.max(f64::MIN_POSITIVE);
            let kept = Remembered { example: example.clone(), per_sec, intervals: 0 };
            self.examples.retain(|known| known.example.reason != example.reason);
            self.examples.push(kept);
        }
        self.examples.sort_by(|a, b| b.per_sec.total_cmp(&a.per_sec));
    }

    fn keep_sparks(&mut self, now: &Table<At>, secs: f64) {
        let rate = |counts: &Counts| (counts.lines / secs.max(f64::MIN_POSITIVE)) as f32;
        for (hash, spark) in &mut self.sparks {
            spark.points.push_back(now.get(*hash).map_or(0.0, |entry| rate(&entry.counts)));
            if spark.points.len() > SPARK_POINTS {
                spark.points.pop_front();
            }
        }
        self.sparks.retain(|_, spark| spark.points.iter().any(|&point| point > 0.0));
        let mut most: Vec<&Entry<At>> = now.entries().iter().collect();
        most.sort_unstable_by(|a, b| b.counts.lines.total_cmp(&a.counts.lines));
        for entry in most.into_iter().take(SPARKS) {
            self.sparks.entry(entry.hash).or_insert_with(|| Spark { points: [rate(&entry.counts)].into() });
        }
        if self.sparks.len() > SPARKS {
            let sum = |spark: &Spark| spark.points.iter().sum::<f32>();
            let mut sums: Vec<(u64, f32)> = self.sparks.iter().map(|(hash, spark)| (*hash, sum(spark))).collect();
            sums.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
            for (hash, _) in &sums[SPARKS..] {
                self.sparks.remove(hash);
            }
        }
    }

    /// Finds the names of processes that are new, and forgets those that send nothing any more.
    fn keep_processes(&mut self, process: impl Fn(u32) -> Option<String>) {
        let Summary { senders, processes, .. } = self;
        let pid = |entry: &Entry<At>| entry.key.0.process().map(|(pid, _)| pid);
        let present: HashSet<u32> = senders.entries().iter().filter_map(pid).collect();
        processes.retain(|pid, _| present.contains(pid));
        for pid in present {
            processes.entry(pid).or_insert_with(|| process(pid).map(Arc::from));
        }
    }

    fn report(&self, closed: &Closed) -> Report {
        let secs = self.seconds.max(f64::MIN_POSITIVE);
        let (senders, sender_at) = sorted(&self.senders);
        let (prefixes, prefix_at) = sorted(&self.prefixes);
        let stat = |entry: &Entry<At>| {
            let (sender, listener) = entry.key;
            let process = sender.process().and_then(|(pid, _)| self.processes.get(&pid)?.clone());
            let spark = self.sparks.get(&entry.hash).map(|spark| spark.points.iter().copied().collect());
            SenderStat {
                sender,
                listener: self.listeners.get(usize::from(listener)).cloned().unwrap_or_default(),
                process,
                rates: within_lines(rates(&entry.counts, secs)),
                spark: spark.unwrap_or_default(),
            }
        };
        let pair = |entry: &Entry<Pair>| {
            let at = (*sender_at.get(&entry.key.sender)?, *prefix_at.get(&entry.key.prefix)?);
            Some((at.0, at.1, rates(&entry.counts, secs)))
        };
        let example = |known: &Remembered| ExampleStat {
            reason: known.example.reason.name(),
            line: excerpt(&known.example.line, EXAMPLE_CHARS),
            sender: known.example.sender,
            per_sec: known.per_sec,
        };
        Report {
            time: closed.end,
            interval: closed.length_secs,
            window_secs: self.seconds,
            sampled_one_in: if self.looked_at > 0.0 { (self.stand_for / self.looked_at).max(1.0) } else { 1.0 },
            error: self.error(),
            seen: self.seen,
            lines_per_sec: self.lines / secs,
            senders: senders.into_iter().map(stat).collect(),
            prefixes: prefixes.into_iter().map(|entry| (entry.key, rates(&entry.counts, secs))).collect(),
            pairs: self.pairs.entries().iter().filter_map(pair).collect(),
            tag_keys: self.tag_keys.now().iter().map(|key| self.tag_key(key, closed.length_secs)).collect(),
            examples: self.examples.iter().map(example).collect(),
            warnings: Vec::new(),
            past: self.past.entries().iter().map(|entry| (entry.key.0, entry.key.1, entry.counts.lines)).collect(),
            prepended: Arc::clone(&self.prepended),
        }
    }

    fn tag_key(&self, key: &KeyNow, secs: f64) -> TagKeyStat {
        TagKeyStat {
            key: key.key.to_string(),
            values: key.values.round(),
            new_per_sec: key.fresh / secs.max(f64::MIN_POSITIVE),
            under: key.under,
            sender: key.sender,
        }
    }

    /// Half of the interval that a share lies in with 95 % certainty, at worst, and what the table may lack of it.
    fn error(&self) -> f64 {
        if self.lines <= 0.0 {
            return 0.0;
        }
        let sampling = if self.stand_for <= self.looked_at || self.squares <= 0.0 {
            0.0
        } else {
            1.96 * 0.5 / (self.looked_at * self.looked_at / self.squares).sqrt()
        };
        (sampling + self.senders.lacking() / self.lines).min(1.0)
    }

    /// What somebody should look at.
    fn warnings(&self, report: &Report, now: &Tables, closed: &Closed) -> Vec<SenderWarning> {
        let secs = closed.length_secs.max(f64::MIN_POSITIVE);
        let mut out = Vec::new();
        if self.intervals <= FIRST_INTERVALS && !now.is_limit_near {
            return out;
        }
        let mut named: HashSet<Vec<u8>> = HashSet::new();
        for key in self.tag_keys.now().iter().filter(|key| key.explodes).take(MOST_SENTENCES) {
            let under = key.under.map_or(String::new(), |under| format!(", under `{}`", Escaped(&under.to_string())));
            named.extend(key.under.map(|under| under.bytes().to_vec()));
            let (name, rate) = (key.key.to_string(), grouped(key.fresh / secs));
            let from = key.sender.map_or(String::new(), |sender| format!(", from {}", described(report, &sender)));
            let text = format!("Tag `{}` makes {rate} new series a second{under}{from}", Escaped(&name));
            out.push(SenderWarning { text, short: format!("{rate} new/s by {}", Escaped(&name)) });
        }
        if now.is_limit_near {
            let flooding = |entry: &&Entry<Prefix>| {
                is_flood(&entry.counts, secs)
                    && self.flooding.contains(&entry.hash)
                    && !named.contains(entry.key.bytes())
            };
            let mut prefixes: Vec<&Entry<Prefix>> = now.prefixes.entries().iter().filter(flooding).collect();
            prefixes.sort_by(|a, b| unknown_names(&b.counts).total_cmp(&unknown_names(&a.counts)));
            for entry in prefixes.into_iter().take(MOST_SENTENCES) {
                let of = |pair: &&Entry<Pair>| pair.key.prefix == entry.hash;
                let pairs =
                    now.pairs.entries().iter().filter(of).map(|pair| (pair.key.sender, unknown_names(&pair.counts)));
                let (name, rate) = (entry.key.to_string(), grouped(unknown_names(&entry.counts) / secs));
                let from = now.most(pairs);
                let from = from.map_or(String::new(), |sender| format!(", from {}", described(report, &sender)));
                let text = format!("Names that begin with `{}` make {rate} new series a second{from}", Escaped(&name));
                out.push(SenderWarning { text, short: format!("{rate} new/s under {}", Escaped(&name)) });
            }
        }
        out.extend(self.of_malformed(report, now, secs));
        out
    }

    /// The sentence of a flood of malformed lines.
    fn of_malformed(&self, report: &Report, now: &Tables, secs: f64) -> Option<SenderWarning> {
        let malformed: f64 = now.refused.iter().map(|&count| count as f64).sum();
        if malformed < MANY_MALFORMED || malformed < now.lines * MALFORMED_SHARE {
            return None;
        }
        let worst = Reason::ALL.into_iter().max_by_key(|reason| now.refused[*reason as usize])?;
        let example = self.examples.iter().find(|known| known.example.reason == worst);
        let example = example
            .map_or(String::new(), |known| format!(", such as `{}`", excerpt(&known.example.line, EXAMPLE_CHARS)));
        let from = now.most(now.senders.entries().iter().map(|entry| (entry.hash, entry.counts.malformed)));
        let from = from.map_or(String::new(), |sender| format!(", most of them from {}", described(report, &sender)));
        let rate = grouped(malformed / secs);
        let text = format!("{rate} malformed lines a second ({}){example}{from}", worst.name());
        Some(SenderWarning { text, short: format!("{rate} malformed lines/s") })
    }

    /// Lets go what is least missed: the lines per second of earlier intervals, and examples.
    pub fn give_way(&mut self) {
        (self.sparks, self.examples, self.past) = (HashMap::new(), Vec::new(), Table::default());
    }

    /// Bytes that it takes beside itself.
    pub fn heap_bytes(&self) -> usize {
        self.senders.heap_bytes()
            + self.prefixes.heap_bytes()
            + self.pairs.heap_bytes()
            + self.past.heap_bytes()
            + self.tag_keys.heap_bytes()
            + vec_footprint::<Remembered>(self.examples.capacity())
            + self.examples.iter().map(|known| footprint(known.example.line.capacity())).sum::<usize>()
            + map_footprint::<u64, Spark>(self.sparks.capacity())
            + self.sparks.values().map(|spark| vec_footprint::<f32>(spark.points.capacity())).sum::<usize>()
            + map_footprint::<u32, Option<Arc<str>>>(self.processes.capacity())
            + map_footprint::<u64, ()>(self.flooding.capacity())
    }
}

/// One interval of all workers.
#[derive(Debug)]
struct Tables {
    senders: Table<At>,
    prefixes: Table<Prefix>,
    pairs: Table<Pair>,
    refused: [u64; Reason::ALL.len()],
    seen: Box<[u8; SEEN_REGISTERS]>,
    lines: f64,
    looked_at: f64,
    stand_for: f64,
    /// New series find no room, or will soon, or memory is short.
    is_limit_near: bool,
}

impl Default for Tables {
    fn default() -> Tables {
        Tables {
            senders: Table::default(),
            prefixes: Table::default(),
            pairs: Table::default(),
            refused: [0; Reason::ALL.len()],
            seen: Box::new([0; SEEN_REGISTERS]),
            lines: 0.0,
            looked_at: 0.0,
            stand_for: 0.0,
            is_limit_near: false,
        }
    }
}

impl Tables {
    fn merge(&mut self, part: &Part, listener: u16) {
        let gathered = &part.gathered;
        // How many lines there were is known exactly; what was looked at says only whose they are.
        let scale = if gathered.lines > 0.0 { part.lines as f64 / gathered.lines } else { 1.0 };
        self.senders.merge(&gathered.senders, scale, |sender| (sender, listener));
        self.prefixes.merge(&gathered.prefixes, scale, |prefix| prefix);
        self.pairs.merge(&gathered.pairs, scale, |pair| pair);
        self.refused.iter_mut().zip(&gathered.refused).for_each(|(all, count)| *all += count);
        if let Some(seen) = &gathered.seen {
            merge(&mut self.seen, seen);
        }
        self.lines += part.lines as f64;
        self.looked_at += gathered.looked_at;
        self.stand_for += gathered.stand_for;
        self.is_limit_near |= gathered.is_limit_near;
    }

    fn count_seen(&self) -> f64 {
        let held = self.senders.entries().len();
        if held < COUNTERS && self.senders.lacking() == 0.0 {
            held as f64
        } else {
            estimate(&self.seen).max(held as f64).round()
        }
    }

    /// The sender that stands for more than half of these counts, if its origin is known.
    fn most(&self, counts: impl Iterator<Item = (u64, f64)>) -> Option<Sender> {
        let (mut all, mut most) = (0.0, (0, 0.0));
        for (sender, count) in counts {
            all += count;
            if count > most.1 {
                most = (sender, count);
            }
        }
        let (sender, _) = self.senders.get(most.0)?.key;
        (most.1 * 2.0 > all && sender.origin != Origin::Unknown).then_some(sender)
    }
}

/// Samples of names that were not known.
fn unknown_names(counts: &Counts) -> f64 {
    counts.new_series + counts.folded
}

/// New names of a sender are extrapolated from some of its batches, and are never more than its lines: each has one name.
fn within_lines(rates: Rates) -> Rates {
    let Rates { lines, new_series, folded, .. } = rates;
    Rates { new_series: new_series.min(lines), folded: folded.min(lines), ..rates }
}

fn is_flood(counts: &Counts, secs: f64) -> bool {
    unknown_names(counts) >= FLOODING_SERIES.max(FLOODING_PER_SEC * secs)
}

fn rates(counts: &Counts, secs: f64) -> Rates {
    let Counts { lines, bytes, malformed, new_series, folded } = counts.times(1.0 / secs);
    Rates { lines, bytes, malformed, new_series, folded }
}

/// The entries, those with most lines first, and the place of each hash.
fn sorted<K: Copy>(table: &Table<K>) -> (Vec<&Entry<K>>, HashMap<u64, u32>) {
    let mut all: Vec<&Entry<K>> = table.entries().iter().collect();
    all.sort_by(|a, b| b.counts.lines.total_cmp(&a.counts.lines));
    let places = all.iter().zip(0..).map(|(entry, at)| (entry.hash, at)).collect();
    (all, places)
}

/// A sender in a sentence: `10.4.9.3 (ci-0e2d)`, `pid 4121 (nginx)`.
fn described(report: &Report, sender: &Sender) -> String {
    let who = match sender.origin {
        Origin::Unknown => "an unknown sender".to_string(),
        Origin::Address(address) => address.to_string(),
        Origin::Process { pid, .. } => format!("pid {pid}"),
    };
    let process = report.stat_of(sender).and_then(|stat| stat.process.as_deref().map(String::from));
    let names: Vec<String> = process.into_iter().chain(sender.container()).collect();
    if names.is_empty() { who } else { format!("{who} ({})", Escaped(&names.join(", "))) }
}

/// A number without fraction, with a comma after each thousand.
fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
