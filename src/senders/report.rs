//! What is published of the senders: numbers and keys; texts are made for those who ask.

use std::sync::Arc;

use crate::memory::{footprint, vec_footprint};

use super::origin::Sender;
use super::prefix::{Prefix, prefix_of};

/// Most senders of a series.
const MOST_SHARES: usize = 10;

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Lines.
    pub lines: f64,
    /// Bytes of lines.
    pub bytes: f64,
    /// Malformed lines.
    pub malformed: f64,
    /// New series.
    pub new_series: f64,
    /// Samples of names that would be new series and found no room.
    pub folded: f64,
}

impl Rates {
    /// Adds others.
    pub fn add(&mut self, other: &Rates) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.malformed += other.malformed;
        self.new_series += other.new_series;
        self.folded += other.folded;
    }
}

/// A sender.
#[derive(Clone, Debug)]
pub struct SenderStat {
    /// Who.
    pub sender: Sender,
    /// The listener that it was first seen at.
    pub listener: Arc<str>,
    /// The name of its process, if it is one of this machine that was there at the end of an interval.
    pub process: Option<Arc<str>>,
    /// Its rates.
    pub rates: Rates,
    /// Lines per second of the last intervals, the oldest first, since it was among those with most lines.
    pub spark: Vec<f32>,
}

/// A key of tags.
#[derive(Clone, Debug)]
pub struct TagKeyStat {
    /// The key.
    pub key: String,
    /// Distinct values since the start, about.
    pub values: f64,
    /// New ones of the last interval, per second.
    pub new_per_sec: f64,
    /// What most new series with it begin with.
    pub under: Option<Prefix>,
    /// Who sends most of them, of those whose sender is known.
    pub sender: Option<Sender>,
}

/// A line that was refused.
#[derive(Clone, Debug)]
pub struct ExampleStat {
    /// Why: the name of a [`Reason`](crate::protocol::Reason).
    pub reason: &'static str,
    /// The line, escaped, without secrets, truncated.
    pub line: String,
    /// Who sent it.
    pub sender: Option<Sender>,
    /// How many lines were refused for this reason in the last interval, per second.
    pub per_sec: f64,
}

/// What somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderWarning {
    /// In a sentence, with who and where.
    pub text: String,
    /// In few words.
    pub short: String,
}

/// Who sends a series.
#[derive(Clone, Debug, PartialEq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = SenderOf)]
pub struct Share {
    /// The id of the sender.
    pub id: String,
    /// The name of its process or container, if it has one, else its address.
    pub label: String,
    /// Share of the lines, 0 to 1.
    pub share: f64,
}

/// What is known as of the end of an interval. Rates are over `window_secs`.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The end of the last interval, Unix seconds; 0 before the first.
    pub time: f64,
    /// Its length, seconds.
    pub interval: f64,
    /// Over how many seconds rates are averaged: an interval, or more where lines are sampled.
    pub window_secs: f64,
    /// How many datagrams each that was looked at stands for.
    pub sampled_one_in: f64,
    /// By how much a share may be wrong, 0 to 1, in 95 of 100 cases.
    pub error: f64,
    /// Senders, about.
    pub seen: f64,
    /// Lines per second, of all.
    pub lines_per_sec: f64,
    /// The senders, those with most lines first.
    pub senders: Vec<SenderStat>,
    /// Prefixes of names, those with most lines first.
    pub prefixes: Vec<(Prefix, Rates)>,
    /// Which sender (its place in `senders`) sends what (its place in `prefixes`).
    pub pairs: Vec<(u32, u32, Rates)>,
    /// Keys of tags, those with most new values first.
    pub tag_keys: Vec<TagKeyStat>,
    /// Lines that were refused, one a reason.
    pub examples: Vec<ExampleStat>,
    /// What somebody should look at.
    pub warnings: Vec<SenderWarning>,
    /// Who sent how many lines under which prefix since the start, as far as that is remembered.
    pub(super) past: Vec<(Sender, Prefix, f64)>,
    /// What names of series have before the names that are sent.
    pub(super) prepended: Arc<str>,
}

impl Report {
    /// What part of all lines these are, 0 to 1.
    pub fn share_of(&self, rates: &Rates) -> f64 {
        if self.lines_per_sec > 0.0 { (rates.lines / self.lines_per_sec).min(1.0) } else { 0.0 }
    }

    /// What is known of a sender.
    pub fn stat_of(&self, sender: &Sender) -> Option<&SenderStat> {
        self.senders.iter().find(|stat| stat.sender == *sender)
    }

    /// Bytes that it takes beside itself.
    pub fn heap_bytes(&self) -> usize {
        let sparks = self.senders.iter().map(|stat| vec_footprint::<f32>(stat.spark.capacity()));
        let examples = self.examples.iter().map(|example| footprint(example.line.capacity()));
        vec_footprint::<SenderStat>(self.senders.capacity())
            + vec_footprint::<(Prefix, Rates)>(self.prefixes.capacity())
            + vec_footprint::<(u32, u32, Rates)>(self.pairs.capacity())
            + vec_footprint::<(Sender, Prefix, f64)>(self.past.capacity())
            + vec_footprint::<TagKeyStat>(self.tag_keys.capacity())
            + self.tag_keys.iter().map(|key| footprint(key.key.capacity())).sum::<usize>()
            + vec_footprint::<ExampleStat>(self.examples.capacity())
            + sparks.chain(examples).sum::<usize>()
    }

    /// See [`super::Senders::of_series`].
    pub(super) fn of_series(&self, name: &str) -> Vec<Share> {
        let prefix = prefix_of(name.strip_prefix(&*self.prepended).unwrap_or(name).as_bytes());
        let now = self.sending(prefix);
        if now.is_empty() { self.have_sent(prefix) } else { now }
    }

    /// Who sends under a prefix in the last interval.
    fn sending(&self, prefix: &[u8]) -> Vec<Share> {
        let Some(at) = self.prefixes.iter().position(|(known, _)| known.bytes() == prefix) else { return Vec::new() };
        let pairs = || self.pairs.iter().filter(|(_, prefix, _)| *prefix as usize == at);
        let all: f64 = pairs().map(|(_, _, rates)| rates.lines).sum();
        let mut shares: Vec<Share> = pairs()
            .filter(|(_, _, rates)| rates.lines > 0.0)
            .map(|(sender, _, rates)| {
                let stat = &self.senders[*sender as usize];
                Share { id: stat.sender.to_string(), label: stat.label(), share: rates.lines / all }
            })
            .collect();
        shares.sort_by(|a, b| b.share.total_cmp(&a.share));
        shares.truncate(MOST_SHARES);
        shares
    }

    /// Who sent under a prefix since the start.
    fn have_sent(&self, prefix: &[u8]) -> Vec<Share> {
        let of = || self.past.iter().filter(|(_, known, lines)| known.bytes() == prefix && *lines > 0.0);
        let all: f64 = of().map(|(.., lines)| lines).sum();
        let share = |(sender, _, lines): &(Sender, Prefix, f64)| {
            let label = self.stat_of(sender).map(SenderStat::label).or_else(|| sender.container());
            Share { id: sender.to_string(), label: label.unwrap_or_else(|| sender.to_string()), share: lines / all }
        };
        let mut shares: Vec<Share> = of().map(share).collect();
        shares.sort_by(|a, b| b.share.total_cmp(&a.share));
        shares.truncate(MOST_SHARES);
        shares
    }
}

impl SenderStat {
    /// The name of its process or container, if it has one, else its id.
    pub fn label(&self) -> String {
        let process = self.process.as_deref().map(String::from);
        process.or_else(|| self.sender.container()).unwrap_or_else(|| self.sender.to_string())
    }
}
