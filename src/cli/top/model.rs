//! What `top` knows: the last answer of each route, typed as far as it is shown. A field that a daemon of another version does
//! not have is missing, never zero.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::super::account::{self, Equation, Verdict};
use super::super::figures::{Grade, clock, grouped};
use super::losses::{Loss, losses};

/// Readings of one's own that stand in for a history that the daemon does not have.
const OWN_READINGS: usize = 120;
/// How long a loss stays in the first line, in seconds.
const LOSS_STAYS: f64 = 60.0;
/// Numbers of the history are off by less than one in so many.
const ROUNDING: u64 = 1_000_000;
/// Raw lines that are kept.
const RAW_LINES: usize = 500;

/// What a route answered last.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Block<T> {
    /// Nothing yet.
    #[default]
    Awaited,
    /// The daemon has no such route.
    Lacking,
    /// It refuses, and says why.
    Refused(String),
    /// This.
    Known(T),
}

impl<T> Block<T> {
    pub(super) fn known(&self) -> Option<&T> {
        match self {
            Block::Known(value) => Some(value),
            Block::Awaited | Block::Lacking | Block::Refused(_) => None,
        }
    }

    /// A word for a block without content.
    pub(super) fn word(&self, route: &str) -> String {
        match self {
            Block::Awaited => "asking…".into(),
            Block::Lacking => format!("this daemon has no {route}"),
            Block::Refused(why) => why.clone(),
            Block::Known(_) => String::new(),
        }
    }
}

/// `/api/v1/series`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct SeriesPage {
    pub(super) total: u64,
    pub(super) matched: u64,
    pub(super) near: Vec<Near>,
    pub(super) series: Vec<SeriesRow>,
}

/// A word that would match.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Near {
    pub(super) text: String,
    pub(super) matched: u64,
}

/// A series in a list.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct SeriesRow {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) tags: BTreeMap<String, Value>,
    pub(super) last_seen: Option<f64>,
    pub(super) is_current: bool,
    pub(super) rate: Option<f64>,
    pub(super) field: String,
    pub(super) value: Option<f64>,
    pub(super) spark: Vec<Option<f64>>,
}

impl SeriesRow {
    /// `api.hits;route=/a`: name and tags.
    pub(super) fn label(&self) -> String {
        let mut out = self.name.clone();
        for (key, value) in &self.tags {
            match value {
                Value::String(value) => out.push_str(&format!(";{key}={value}")),
                Value::Array(values) => {
                    values.iter().filter_map(Value::as_str).for_each(|value| out.push_str(&format!(";{key}={value}")));
                }
                _ => out.push_str(&format!(";{key}")),
            }
        }
        out
    }

    /// A line that such a series comes from.
    pub(super) fn example(&self) -> String {
        let form = match self.kind.as_str() {
            "counter" => "c",
            "gauge" => "g",
            "histogram" => "h",
            "distribution" => "d",
            "set" => "s",
            "kv" => "kv",
            _ => "ms",
        };
        let tags: Vec<String> = self
            .tags
            .iter()
            .filter_map(|(key, value)| {
                let value = value.as_str();
                value.map(|value| format!("{key}:{value}")).or_else(|| Some(key.clone()))
            })
            .collect();
        let tags = if tags.is_empty() { String::new() } else { format!("|#{}", tags.join(",")) };
        format!("{}:1|{form}{tags}", self.name)
    }
}

/// `/api/v1/history` of a series.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct History {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) interval: f64,
    pub(super) step: f64,
    pub(super) times: Vec<f64>,
    pub(super) completeness: Vec<Option<f64>>,
    pub(super) series: Vec<SeriesHistory>,
    pub(super) ledger: BTreeMap<String, Vec<Option<f64>>>,
}

/// The points of one series.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct SeriesHistory {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) fields: BTreeMap<String, Vec<Option<f64>>>,
}

/// `/api/v1/senders`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct SendersPage {
    pub(super) seen: u64,
    pub(super) senders: Vec<Sender>,
    pub(super) prefixes: Vec<Prefix>,
    pub(super) tag_keys: Vec<TagKey>,
    pub(super) examples: Vec<Example>,
    pub(super) warnings: Vec<String>,
}

/// Who sends.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Sender {
    pub(super) id: String,
    pub(super) label: Option<String>,
    pub(super) listener: Option<String>,
    pub(super) pid: Option<u64>,
    pub(super) process: Option<String>,
    pub(super) container: Option<String>,
    pub(super) share: Option<f64>,
    pub(super) lines_per_sec: Option<f64>,
    pub(super) bytes_per_sec: Option<f64>,
    pub(super) malformed_per_sec: Option<f64>,
    pub(super) new_series_per_sec: Option<f64>,
    pub(super) spark: Vec<Option<f64>>,
}

impl Sender {
    /// What else is known of it: a label, the container, the process.
    pub(super) fn also(&self) -> String {
        let known = [&self.label, &self.container, &self.process].into_iter().flatten().find(|text| **text != self.id);
        match (known, self.pid) {
            (Some(known), _) => known.clone(),
            (None, Some(pid)) => format!("pid {pid}"),
            (None, None) => String::new(),
        }
    }
}

/// The names with a beginning in common.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Prefix {
    pub(super) prefix: String,
    pub(super) share: Option<f64>,
    pub(super) lines_per_sec: Option<f64>,
    pub(super) new_series_per_sec: Option<f64>,
}

/// A key of tags, by its values.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct TagKey {
    pub(super) key: String,
    pub(super) values: Option<f64>,
    pub(super) new_per_sec: Option<f64>,
    pub(super) under: Option<String>,
    pub(super) sender: Option<String>,
}

/// A line that was refused.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Example {
    pub(super) reason: String,
    pub(super) line: String,
    pub(super) sender: Option<String>,
    pub(super) per_sec: Option<f64>,
}

/// `/api/v1/presence`: a service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Service {
    pub(super) service: String,
    pub(super) state: String,
    pub(super) present: u64,
    pub(super) down: u64,
    pub(super) left: u64,
    pub(super) since: Option<String>,
    pub(super) instances: Vec<Instance>,
}

/// One of its instances.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Instance {
    pub(super) instance: String,
    pub(super) state: String,
    pub(super) late_in_s: Option<f64>,
    pub(super) down_in_s: Option<f64>,
    pub(super) flags: Vec<String>,
}

impl Service {
    /// Whether all that is not up is in maintenance.
    pub(super) fn is_maintained(&self) -> bool {
        let flagged = |one: &Instance| one.flags.iter().any(|flag| flag == "maintenance");
        self.state == "maintenance" || !self.instances.is_empty() && self.instances.iter().all(flagged)
    }

    /// How soon it is worth a look: 0 for down.
    pub(super) fn urgency(&self) -> u8 {
        match self.state.as_str() {
            _ if self.is_maintained() => 3,
            "down" => 0,
            "degraded" => 1,
            "unknown" => 2,
            _ if self.instances.iter().any(|one| one.state == "late") => 4,
            _ => 5,
        }
    }

    /// `U U D`: a letter an instance, or numbers of them.
    pub(super) fn tiles(&self) -> String {
        let letter = |one: &Instance| match one.state.as_str() {
            "up" => 'U',
            "late" => 'L',
            "down" => 'D',
            "left" => 'G',
            _ => '?',
        };
        if self.instances.len() <= 6 {
            return self.instances.iter().map(letter).collect();
        }
        let count = |wanted| self.instances.iter().filter(|one| letter(one) == wanted).count();
        let kinds = ['D', 'L', 'U', 'G', '?'].into_iter().map(|wanted| (wanted, count(wanted)));
        let parts: Vec<String> = kinds.filter(|(_, n)| *n > 0).map(|(letter, n)| format!("{letter}×{n}")).collect();
        parts.join(" ")
    }

    /// What happens next, and to whom: `late in 11 s`.
    pub(super) fn next(&self) -> String {
        let soonest = |of: fn(&Instance) -> Option<f64>, state: &str| {
            let all = self.instances.iter().filter(|one| one.state == state).filter_map(of);
            all.filter(|seconds| *seconds >= 0.0).min_by(f64::total_cmp)
        };
        let down = soonest(|one| one.down_in_s, "late").map(|seconds| format!("down in {seconds:.0} s"));
        let late = || soonest(|one| one.late_in_s, "up").map(|seconds| format!("late in {seconds:.0} s"));
        down.or_else(late).unwrap_or_default()
    }
}

/// `/api/v1/events`: one of them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Happened {
    pub(super) time: Value,
    pub(super) title: String,
    pub(super) text: String,
    pub(super) level: String,
    pub(super) severity: String,
}

impl Happened {
    /// The time of day, of Unix seconds or of `2026-11-26T12:50:09.822Z`.
    pub(super) fn clock(&self) -> String {
        match &self.time {
            Value::String(time) => time.get(11..19).unwrap_or("").to_string(),
            time => clock(time.as_f64().unwrap_or(0.0)),
        }
    }

    pub(super) fn sentence(&self) -> &str {
        if self.title.is_empty() { &self.text } else { &self.title }
    }
}

/// `/api/v1/tail`: a raw line, or how many were skipped.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct RawLine {
    pub(super) time: f64,
    pub(super) from: Option<String>,
    pub(super) line: String,
    pub(super) verdict: String,
    pub(super) reason: Option<String>,
    pub(super) skipped: u64,
}

/// No answer, since when and until when.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trouble {
    pub(super) why: String,
    /// It answers, but refuses.
    pub(super) is_refusal: bool,
    /// When the next attempt is made, Unix seconds.
    pub(super) again: f64,
}

/// One reading of the status.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reading {
    at: f64,
    lines: Equation,
}

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    pub(super) status: Option<Arc<Value>>,
    /// When that came, Unix seconds of our clock.
    pub(super) answered: Option<f64>,
    /// The daemon's clock minus ours, in seconds.
    pub(super) ahead: f64,
    pub(super) trouble: Option<Trouble>,
    pub(super) ledger: Block<History>,
    pub(super) series: Block<SeriesPage>,
    pub(super) senders: Block<SendersPage>,
    pub(super) prefixes: Block<SendersPage>,
    pub(super) presence: Block<Vec<Service>>,
    pub(super) events: Block<Vec<Happened>>,
    pub(super) chart: Block<History>,
    pub(super) details: Block<Value>,
    pub(super) explained: Block<Value>,
    pub(super) tail: Block<VecDeque<RawLine>>,
    /// The last two readings: what came between them.
    pub(super) fresh: Option<(Equation, f64)>,
    last: Option<Reading>,
    /// Losses between the last two readings, per second.
    pub(super) losses: Vec<Loss>,
    rates: VecDeque<Option<f64>>,
    /// Datagrams that the kernel dropped, as of the last reading; when they last grew, when that began, and how many since.
    drops: Option<(u64, f64, f64, u64)>,
    dropped_before: Option<u64>,
}

impl Data {
    /// Takes an answer of `/api/v1/status` that came at `now`.
    pub(super) fn take_status(&mut self, status: Value, ahead: f64, now: f64) {
        let lines = account::lines(&status);
        let restarted = self.last.as_ref().is_some_and(|last| lines.whole < last.lines.whole);
        let before = self.last.take().filter(|_| !restarted);
        let seconds = before.as_ref().map(|before| (now - before.at).max(0.001));
        self.fresh = before.as_ref().zip(seconds).map(|(before, seconds)| (lines.since(&before.lines), seconds));
        // Between two answers that are far apart nobody looked.
        if self.trouble.is_some() {
            self.rates.push_back(None);
        }
        if let Some((fresh, seconds)) = &self.fresh {
            self.rates.push_back(Some(fresh.whole as f64 / seconds));
        }
        while self.rates.len() > OWN_READINGS {
            self.rates.pop_front();
        }
        let old: BTreeMap<(String, String), u64> = match seconds {
            Some(_) => self.losses.drain(..).map(|loss| ((loss.what, loss.place), loss.total)).collect(),
            None => BTreeMap::new(),
        };
        let pace = |loss: &Loss| {
            let before = old.get(&(loss.what.clone(), loss.place.clone()));
            before.zip(seconds).map_or(0.0, |(before, seconds)| loss.total.saturating_sub(*before) as f64 / seconds)
        };
        self.losses = losses(&status).into_iter().map(|loss| Loss { per_sec: pace(&loss), ..loss }).collect();
        self.note_drops(&status, now + ahead, restarted);
        self.last = Some(Reading { at: now, lines });
        (self.status, self.answered, self.ahead, self.trouble) = (Some(Arc::new(status)), Some(now), ahead, None);
    }

    fn note_drops(&mut self, status: &Value, now: f64, restarted: bool) {
        let total = account::count_all(status, "kernel_drops");
        let before = self.dropped_before.filter(|_| !restarted);
        self.dropped_before = Some(total);
        let grown = before.map_or(0, |before| total.saturating_sub(before));
        self.drops = match self.drops {
            _ if restarted => None,
            Some((_, last, since, n)) if grown == 0 && now - last < LOSS_STAYS => Some((total, last, since, n)),
            Some((_, last, since, n)) if now - last < LOSS_STAYS => Some((total, now, since, n + grown)),
            _ if grown > 0 => Some((total, now, now, grown)),
            _ => None,
        };
    }

    /// The status as JSON; null before the first.
    pub(super) fn status(&self) -> &Value {
        self.status.as_deref().unwrap_or(&Value::Null)
    }

    /// The verdict of the daemon, or ours for a daemon that gives none.
    pub(super) fn verdict(&self) -> Verdict {
        let status = self.status();
        let verdict = account::verdict(status);
        match self.drops {
            Some((_, _, since, n)) if !status["verdict"].is_object() => Verdict {
                grade: Grade::Bad,
                sentence: format!("LOSING DATA: the kernel dropped {} datagrams since {}", grouped(n), clock(since)),
                detail: account::warnings(status).first().cloned().unwrap_or_default(),
                ..verdict
            },
            _ => verdict,
        }
    }

    /// Seconds between two flushes.
    pub(super) fn interval(&self) -> f64 {
        self.status()["interval"].as_f64().filter(|seconds| *seconds > 0.0).unwrap_or(10.0)
    }

    /// Points of an entry of the ledger, oldest first, as the daemon remembers them.
    pub(super) fn points(&self, path: &str) -> Option<&[Option<f64>]> {
        self.ledger.known()?.ledger.get(path).map(Vec::as_slice)
    }

    /// The last point that there is.
    fn latest(&self, path: &str) -> Option<f64> {
        self.points(path)?.iter().rev().find_map(|point| *point)
    }

    fn per_sec(&self, path: &str) -> Option<f64> {
        let history = self.ledger.known()?;
        let length = if history.interval > 0.0 { history.interval } else { self.interval() };
        self.latest(path).map(|count| count / length)
    }

    /// Lines a second: of the last interval, or between the last two readings.
    pub(super) fn line_rate(&self) -> Option<f64> {
        let own = || self.fresh.as_ref().map(|(fresh, seconds)| fresh.whole as f64 / seconds);
        self.per_sec("lines.read").or_else(own)
    }

    /// Lines a second, oldest first.
    pub(super) fn line_rates(&self) -> Vec<Option<f64>> {
        let own = || self.rates.iter().copied().collect();
        self.points("lines.read").map_or_else(own, |points| {
            let history = self.ledger.known().map_or(0.0, |history| history.interval);
            let length = if history > 0.0 { history } else { self.interval() };
            points.iter().map(|count| count.map(|count| count / length)).collect()
        })
    }

    /// Malformed lines a second.
    pub(super) fn malformed_rate(&self) -> Option<f64> {
        let own = || {
            let (fresh, seconds) = self.fresh.as_ref()?;
            let malformed = fresh.parts.iter().find(|(name, _)| *name == "malformed")?;
            Some(malformed.1 as f64 / seconds)
        };
        self.per_sec("lines.malformed").or_else(own)
    }

    /// Series held, oldest first.
    pub(super) fn series_counts(&self) -> Vec<Option<f64>> {
        let kinds = ["counters", "gauges", "timers", "sets", "kvs"];
        let all: Vec<&[Option<f64>]> = kinds.iter().filter_map(|kind| self.points(&format!("series.{kind}"))).collect();
        let length = all.first().map_or(0, |points| points.len());
        (0..length)
            .map(|n| {
                let known: Vec<f64> = all.iter().filter_map(|points| points.get(n).copied().flatten()).collect();
                (!known.is_empty()).then(|| known.iter().sum())
            })
            .collect()
    }

    /// The share of datagrams of the last interval that arrived.
    pub(super) fn completeness(&self) -> Option<f64> {
        let last = self.ledger.known().and_then(|history| history.completeness.iter().rev().find_map(|share| *share));
        last.or_else(|| self.status()["completeness"].as_f64())
    }

    /// The equation of the lines, with the time that it is of.
    pub(super) fn equation(&self) -> (Equation, &'static str) {
        let closed = self.ledger.known().and_then(|history| {
            let last = history.ledger.get("lines.read")?.iter().rposition(Option::is_some)?;
            let of = |path: &str| {
                let point = history.ledger.get(path).and_then(|points| points.get(last).copied().flatten());
                point.unwrap_or(0.0).max(0.0).round() as u64
            };
            let parts = account::LINE_PARTS.map(|(name, field)| (name, of(&format!("lines.{field}"))));
            let closed = Equation { whole: of("lines.read"), parts: parts.to_vec() };
            // The history keeps single precision, each number rounded for itself. Where the exact sums agree, that is all.
            let is_rounded = closed.off().unsigned_abs() <= u128::from(closed.whole / ROUNDING);
            let is_exact = account::lines(self.status()).off() == 0;
            let sum: u64 = closed.parts.iter().map(|(_, n)| n).sum();
            Some(if is_rounded && is_exact { Equation { whole: sum, ..closed } } else { closed })
        });
        match (closed, &self.fresh) {
            (Some(closed), _) => (closed, ""),
            (None, Some((fresh, _))) => (fresh.clone(), ""),
            (None, None) => (account::lines(self.status()), "since the start: "),
        }
    }

    /// Takes raw lines.
    pub(super) fn take_lines(&mut self, lines: Block<Vec<RawLine>>) {
        let lines = match lines {
            Block::Known(lines) => lines,
            Block::Awaited => return,
            Block::Lacking => return self.tail = Block::Lacking,
            Block::Refused(why) => return self.tail = Block::Refused(why),
        };
        if self.tail.known().is_none() {
            self.tail = Block::Known(VecDeque::new());
        }
        let Block::Known(kept) = &mut self.tail else { return };
        kept.extend(lines);
        while kept.len() > RAW_LINES {
            kept.pop_front();
        }
    }
}
