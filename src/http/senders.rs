//! `/api/v1/senders`: who sends what, and which tags explode.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::named::named_enum;
use crate::senders::{Prefix, Rates, Report, Sender, SenderStat};
use crate::web::{FromGiven, Given, Parameters, error, json};

use super::AppState;

/// Entries of each list, unless `limit` says otherwise, and most of them.
const LIMIT: u64 = 50;
const MOST: u64 = 200;

/// Longest text to look for, in characters.
const MOST_TEXT: usize = 1024;

named_enum! {
    /// What senders are told apart by.
    enum By {
        /// The address.
        Address = "address",
        /// The container that the lines name.
        Container = "container",
        /// The name of the process.
        Process = "process",
        /// Senders as they are; prefixes are what is of interest.
        Prefix = "prefix",
    }
}

/// The same, for the document.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it describes a parameter")]
pub(super) enum ByName {
    Address,
    Container,
    Process,
    Prefix,
}

pub(super) struct Asked {
    by: Option<By>,
    sender: Option<String>,
    q: Option<String>,
    limit: usize,
}

impl FromGiven for Asked {
    const NAMES: &'static [&'static str] = &["by", "sender", "q", "limit"];

    fn from_given(given: &Given) -> Result<Asked, String> {
        let all: Vec<&str> = By::ALL.iter().map(|by| by.as_str()).collect();
        let by = given.one_of("by", &all, |text| By::ALL.into_iter().find(|by| by.as_str() == text))?;
        Ok(Asked {
            by,
            sender: given.bounded("sender", MOST_TEXT)?.map(String::from),
            q: given.bounded("q", MOST_TEXT)?.map(str::to_lowercase).filter(|q| !q.is_empty()),
            limit: given.number("limit", 1..=MOST)?.unwrap_or(LIMIT) as usize,
        })
    }
}

/// Who sends what, as of the last tick.
#[derive(Serialize, ToSchema)]
#[schema(as = SendersReport)]
pub(super) struct Answer {
    /// The end of the last interval, Unix seconds.
    pub(super) time: f64,
    /// Its length, seconds.
    pub(super) interval: f64,
    /// Over how many seconds rates are averaged.
    pub(super) window: f64,
    /// How many datagrams each that was looked at stands for, on average.
    pub(super) sampled_one_in: u64,
    /// By how much a share may be wrong, in 95 of 100 cases.
    pub(super) error: f64,
    /// Senders, about.
    pub(super) seen: u64,
    /// Senders that can be told apart.
    pub(super) capacity: usize,
    pub(super) lines_per_sec: f64,
    pub(super) senders: Vec<SenderEntry>,
    pub(super) prefixes: Vec<PrefixEntry>,
    pub(super) tag_keys: Vec<TagKeyEntry>,
    pub(super) examples: Vec<ExampleEntry>,
    pub(super) warnings: Vec<String>,
}

/// A sender, or several that have in common what was asked by; what they do not have in common is null.
#[derive(Serialize, ToSchema)]
pub(super) struct SenderEntry {
    /// What `sender` takes.
    pub(super) id: String,
    pub(super) address: Option<String>,
    /// The listener that it was first seen at.
    pub(super) listener: String,
    /// The number and the user of a process of this machine, and its name.
    pub(super) pid: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) process: Option<String>,
    /// The container that its lines name.
    pub(super) container: Option<String>,
    /// Share of all lines, 0 to 1.
    pub(super) share: f64,
    #[serde(flatten)]
    pub(super) rates: RatesEntry,
    /// Lines per second of the last intervals, the oldest first.
    pub(super) spark: Vec<f32>,
}

/// What names begin with.
#[derive(Serialize, ToSchema)]
pub(super) struct PrefixEntry {
    pub(super) prefix: String,
    /// Share of all lines, or of those of the sender, 0 to 1.
    pub(super) share: f64,
    #[serde(flatten)]
    pub(super) rates: RatesEntry,
}

/// Per second, over the window.
#[derive(Serialize, ToSchema)]
pub(super) struct RatesEntry {
    pub(super) lines_per_sec: f64,
    pub(super) bytes_per_sec: f64,
    pub(super) malformed_per_sec: f64,
    pub(super) new_series_per_sec: f64,
    /// Samples of names that would be new series and found no room.
    pub(super) folded_per_sec: f64,
}

impl From<&Rates> for RatesEntry {
    fn from(rates: &Rates) -> RatesEntry {
        RatesEntry {
            lines_per_sec: rates.lines,
            bytes_per_sec: rates.bytes,
            malformed_per_sec: rates.malformed,
            new_series_per_sec: rates.new_series,
            folded_per_sec: rates.folded,
        }
    }
}

/// A key of tags.
#[derive(Serialize, ToSchema)]
pub(super) struct TagKeyEntry {
    pub(super) key: String,
    /// Distinct values since the start, about.
    pub(super) values: u64,
    /// New ones of the last interval, per second.
    pub(super) new_per_sec: f64,
    /// What most of the new series with it begin with.
    pub(super) under: Option<String>,
    /// The id of who sends most of them.
    pub(super) sender: Option<String>,
}

/// A line that was refused, one a reason.
#[derive(Serialize, ToSchema)]
pub(super) struct ExampleEntry {
    pub(super) reason: &'static str,
    pub(super) line: String,
    pub(super) sender: Option<String>,
    pub(super) per_sec: f64,
}

/// Who sends what, and which tags explode
///
/// Senders, prefixes of names, keys of tags by their distinct values, and examples of refused lines, as of the last tick.
#[utoipa::path(
    get,
    path = "/api/v1/senders",
    params(
        ("by" = Option<ByName>, Query, description = "What senders are told apart by"),
        ("sender" = Option<String>, Query, description = "An id, an address, a container or a process: prefixes are those of this sender", max_length = 1024),
        ("q" = Option<String>, Query, description = "A part of an id, a process, a container or a prefix", max_length = 1024),
        ("limit" = Option<u64>, Query, description = "Most entries of each list", minimum = 1, maximum = 200),
    ),
    responses((status = 200, description = "As of the last tick", body = Answer)),
)]
pub(super) async fn senders(
    State(state): State<AppState>,
    Parameters(asked): Parameters<Asked>,
) -> Result<Response, Response> {
    let unknown = || {
        error(StatusCode::NOT_FOUND, "unknown", "no sender of that id has sent lines lately, or too few to be counted")
    };
    collect(&state.senders.report(), &asked).map(|answer| json(&answer)).ok_or_else(unknown)
}

/// What is asked for; `None` if the sender is not known.
fn collect(report: &Report, asked: &Asked) -> Option<Answer> {
    let prefixes = match &asked.sender {
        None => report.prefixes.iter().map(|(prefix, rates)| (*prefix, *rates, report.share_of(rates))).collect(),
        Some(id) => prefixes_of(report, id)?,
    };
    Some(found(report, asked, &prefixes))
}

/// What a page shows; of a sender that is not known, no prefixes.
pub(super) fn shown(report: &Report, by: Option<&str>, sender: Option<&str>, q: Option<&str>) -> Answer {
    let by = by.and_then(By::from_name);
    let q = q.map(str::to_lowercase);
    let asked = Asked { by, sender: sender.map(String::from), q, limit: MOST as usize };
    collect(report, &asked).unwrap_or_else(|| found(report, &asked, &[]))
}

fn found(report: &Report, asked: &Asked, prefixes: &[(Prefix, Rates, f64)]) -> Answer {
    let is_wanted = |text: &str| asked.q.as_ref().is_none_or(|q| text.to_lowercase().contains(q.as_str()));
    let mut senders = entries(report, asked.by);
    senders.retain(|entry| {
        let texts = [Some(&entry.id), entry.process.as_ref(), entry.container.as_ref()];
        asked.q.is_none() || texts.into_iter().flatten().any(|text| is_wanted(text))
    });
    senders.truncate(asked.limit);
    let prefix = |(prefix, rates, share): &(Prefix, Rates, f64)| PrefixEntry {
        prefix: prefix.to_string(),
        share: *share,
        rates: rates.into(),
    };
    Answer {
        time: report.time,
        interval: report.interval,
        window: report.window_secs,
        sampled_one_in: report.sampled_one_in.round() as u64,
        error: report.error,
        seen: report.seen as u64,
        capacity: crate::senders::COUNTERS,
        lines_per_sec: report.lines_per_sec,
        senders,
        prefixes: prefixes.iter().map(prefix).filter(|entry| is_wanted(&entry.prefix)).take(asked.limit).collect(),
        tag_keys: report
            .tag_keys
            .iter()
            .map(|key| TagKeyEntry {
                key: key.key.clone(),
                values: key.values as u64,
                new_per_sec: key.new_per_sec,
                under: key.under.map(|under| under.to_string()),
                sender: key.sender.map(|sender| sender.to_string()),
            })
            .take(asked.limit)
            .collect(),
        examples: report
            .examples
            .iter()
            .map(|example| ExampleEntry {
                reason: example.reason,
                line: example.line.clone(),
                sender: example.sender.map(|sender| sender.to_string()),
                per_sec: example.per_sec,
            })
            .collect(),
        warnings: report.warnings.iter().map(|notice| notice.text.clone()).collect(),
    }
}

/// The senders by this, those with most lines first.
fn entries(report: &Report, by: Option<By>) -> Vec<SenderEntry> {
    let key = |stat: &SenderStat| match by {
        None | Some(By::Prefix) => Some(stat.sender.to_string()),
        Some(By::Address) => stat.sender.address().map(|address| address.to_string()),
        Some(By::Container) => stat.sender.container(),
        Some(By::Process) => stat.process.as_deref().map(String::from),
    };
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<(String, Vec<&SenderStat>)> = Vec::new();
    for stat in &report.senders {
        let Some(key) = key(stat) else { continue };
        let at = *places.entry(key.clone()).or_insert(groups.len());
        match groups.get_mut(at) {
            Some((_, group)) => group.push(stat),
            None => groups.push((key, vec![stat])),
        }
    }
    let mut entries: Vec<SenderEntry> = groups.into_iter().map(|(id, group)| entry(report, id, &group)).collect();
    entries.sort_by(|a, b| b.rates.lines_per_sec.total_cmp(&a.rates.lines_per_sec));
    entries
}

/// Senders with something in common as one; what they do not have in common is left out.
fn entry(report: &Report, id: String, group: &[&SenderStat]) -> SenderEntry {
    fn common<T: PartialEq>(group: &[&SenderStat], of: impl Fn(&SenderStat) -> Option<T>) -> Option<T> {
        let first = of(group.first()?)?;
        group.iter().all(|stat| of(stat).as_ref() == Some(&first)).then_some(first)
    }
    let (mut rates, mut spark) = (Rates::default(), Vec::new());
    for stat in group {
        rates.add(&stat.rates);
        if spark.len() < stat.spark.len() {
            let missing = stat.spark.len() - spark.len();
            spark.splice(0..0, std::iter::repeat_n(0.0, missing));
        }
        spark.iter_mut().rev().zip(stat.spark.iter().rev()).for_each(|(sum, point)| *sum += point);
    }
    let of = |sender: &Sender| sender.process();
    SenderEntry {
        id,
        address: common(group, |stat| stat.sender.address()).map(|address| address.to_string()),
        listener: group.first().map(|stat| stat.listener.to_string()).unwrap_or_default(),
        pid: common(group, |stat| of(&stat.sender).map(|(pid, _)| pid)),
        uid: common(group, |stat| of(&stat.sender).map(|(_, uid)| uid)),
        process: common(group, |stat| stat.process.as_deref().map(String::from)),
        container: common(group, |stat| stat.sender.container()),
        share: report.share_of(&rates),
        rates: (&rates).into(),
        spark,
    }
}

/// The prefixes of a sender, those with most lines first, each with its share of the sender's lines; `None` if there is no
/// such sender. The id may be that of a group: an address, a container, the name of a process.
fn prefixes_of(report: &Report, id: &str) -> Option<Vec<(Prefix, Rates, f64)>> {
    let is_it = |stat: &SenderStat| {
        let (sender, process) = (&stat.sender, stat.process.as_deref());
        sender.to_string() == id
            || sender.address().is_some_and(|address| address.to_string() == id)
            || sender.container().as_deref() == Some(id)
            || process == Some(id)
    };
    let mine: Vec<bool> = report.senders.iter().map(is_it).collect();
    let lines: f64 =
        report.senders.iter().zip(&mine).filter(|(_, mine)| **mine).map(|(stat, _)| stat.rates.lines).sum();
    if !mine.contains(&true) {
        return None;
    }
    let mut sums: HashMap<u32, Rates> = HashMap::new();
    for (_, prefix, rates) in report.pairs.iter().filter(|(sender, ..)| mine.get(*sender as usize) == Some(&true)) {
        sums.entry(*prefix).or_default().add(rates);
    }
    let share = |rates: &Rates| if lines > 0.0 { (rates.lines / lines).min(1.0) } else { 0.0 };
    let named = |(at, rates): (u32, Rates)| Some((report.prefixes.get(at as usize)?.0, rates, share(&rates)));
    let mut all: Vec<_> = sums.into_iter().filter_map(named).collect();
    all.sort_by(|a, b| b.1.lines.total_cmp(&a.1.lines).then_with(|| a.0.bytes().cmp(b.0.bytes())));
    Some(all)
}
