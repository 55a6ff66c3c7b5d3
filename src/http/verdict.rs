//! Whether the data can be trusted, in a sentence: the worst of what is wrong, and beside it the rest in few words each.
//!
//! From worst to best: data is lost; a part of the daemon does not work; alerts are not delivered; a sink loses records or takes none; services are
//! silent at once, down, degraded or say that they fail; a limit is reached or near; all is well.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use crate::flush::{FlusherHandle, LostTime, Published};
use crate::history::History;
use crate::named::named_enum;
use crate::presence::describe::how_many;
use crate::presence::observers::{ObserversView, PeerView};
use crate::presence::{BadJob, JobSummary, ServiceState, Summary, UnixTime, Unsaved};
use crate::presence_driver::PresenceHandle;
use crate::snapshot::Snapshot;
use crate::state::StateStatus;
use crate::sys::unix_time;
use crate::telemetry::{
    Concern, Ledger, ListenerAccount, NotifierAccount, QUEUE_WARNING, Refusal, SinkAccount, Warning,
};
use crate::untrusted::{Escaped, excerpt};

use super::pages::board::unheard;
use super::pages::{amount, count, grouped, percent, rfc3339};
use super::{About as Daemon, AppState};

/// Longest wait for presence: a verdict without it is better than none.
const PATIENCE: Duration = Duration::from_millis(500);

/// From here on of `max_series` a verdict warns.
const NEAR: f64 = 0.9;

/// What helps against drops of the kernel.
const MORE_ROOM: &str =
    "Give the kernel more room: receive_buffer of the listener and net.core.rmem_max; or more workers";

/// Where the number of a sentence about senders ends.
const SECOND: &str = " a second";

/// How long a loss stays the worst there is, in seconds.
const LOSS_STAYS: f64 = 60.0;

/// From so many seconds on it is an error that alerts wait; before, one that passes.
const ALERTS_WAIT: f64 = 60.0;

/// How long it is said that alerts were lost, in seconds.
const ALERTS_STAY: f64 = 3600.0;

/// How long it is said what the process before did not leave behind, in seconds.
const LEFT_STAYS: f64 = 3600.0;

/// Longest text of an error of a sink, in characters.
const MOST_SAID: usize = 400;

named_enum! {
    /// How bad something is.
    pub(super) enum Grade {
        /// Nothing is wrong.
        Ok = "ok",
        /// It can wait until the morning.
        Warning = "warning",
        /// Somebody must act.
        Error = "error",
    }
}

named_enum! {
    /// What a verdict is about.
    pub(super) enum About {
        /// Nothing has arrived.
        Empty = "empty",
        /// The first interval is open.
        First = "first",
        /// All data is accounted for.
        Fine = "fine",
        /// Data is lost.
        Loss = "loss",
        /// A part of the daemon does not work.
        Part = "part",
        /// A sink.
        Sink = "sink",
        /// Services.
        Presence = "presence",
        /// Other observers of the same services.
        Observers = "observers",
        /// Alerts that are not delivered.
        Alerts = "alerts",
        /// A bound.
        Limit = "limit",
    }
}

/// Something that is wrong and is not the worst.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Pill {
    /// How bad.
    pub(super) level: Grade,
    /// In few words.
    pub(super) text: String,
    /// What it is about.
    pub(super) about: About,
}

/// Whether the data can be trusted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Verdict {
    /// How bad the worst is.
    pub(super) level: Grade,
    /// `✓`, `▲` or `✕`; `…` while there is nothing to say.
    pub(super) sign: &'static str,
    /// What the worst is about.
    pub(super) about: About,
    /// In few words.
    pub(super) sentence: String,
    /// With numbers, names and what follows.
    pub(super) detail: String,
    /// Since when, Unix seconds, if that is known.
    pub(super) since: Option<f64>,
    /// What helps, if there is one thing.
    pub(super) action: Option<String>,
    /// What else is wrong, worst first.
    pub(super) pills: Vec<Pill>,
}

/// What of the last hour is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LastHour {
    /// Datagrams that the kernel dropped.
    pub(super) dropped: f64,
    /// How many seconds of it are known.
    pub(super) known_secs: f64,
    /// Since when each interval lost some, Unix seconds.
    pub(super) losing_since: Option<f64>,
    /// Dropped since then.
    pub(super) dropped_since: f64,
    /// Since when each interval folded values, and how many were.
    pub(super) folding_since: Option<f64>,
    pub(super) folded_since: f64,
}

/// What a verdict is made of; pages show it, too.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// Now, Unix seconds.
    pub(super) now: f64,
    pub(super) published: Arc<Published>,
    /// Counters since the start, of this moment.
    pub(super) ledger: Ledger,
    /// `None` if presence is off or does not answer.
    pub(super) presence: Option<Summary>,
    pub(super) hour: LastHour,
    /// Who or what makes series without end, in few words.
    pub(super) explosion: Option<String>,
    /// `max_series`.
    pub(super) max_series: u64,
    /// Configured seconds between flushes.
    pub(super) interval: f64,
    pub(super) verdict: Verdict,
    /// What somebody should look at.
    pub(super) warnings: Vec<Warning>,
}

impl Look {
    pub(super) fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.published.snapshot.as_ref()
    }
}

/// Looks at everything.
pub(super) async fn look(state: &AppState) -> Look {
    look_at(&state.about, &state.flusher, state.presence.as_ref(), &state.history).await
}

/// The same for those who have no more than this.
pub(super) async fn look_at(
    about: &Daemon,
    flusher: &FlusherHandle,
    presence: Option<&PresenceHandle>,
    history: &History,
) -> Look {
    let published = flusher.live().await;
    let ledger = published.ledger();
    let presence = match presence {
        Some(presence) => {
            timeout(PATIENCE, presence.ask(|presence| presence.summary())).await.ok().and_then(Result::ok)
        }
        None => None,
    };
    let now = unix_time();
    let hour = super::pages::last_hour(history, now);
    let unsaved = presence.as_ref().and_then(|presence| presence.unsaved.as_ref()).map(not_saved);
    let failed = about.reloads.failed_upgrade().map(|failed| {
        let short = "the last upgrade failed".to_string();
        let text = format!("{short} at {}: {}", UnixTime::from_secs(failed.at).clock(), failed.error);
        Warning { short: Some(short), ..Concern::Config.says(text) }
    });
    let warnings: Vec<Warning> = published
        .warnings(&ledger)
        .into_iter()
        .chain(unsaved)
        .chain(not_in_force(about, &published.behind))
        .chain(failed)
        .chain(left_behind(&published.state(), about.uptime_secs(), about.interval))
        .chain(left_spools(&published.state()))
        .collect();
    let explosion = warnings
        .iter()
        .find(|warning| warning.about == Concern::Senders && warning.text.contains("new series"))
        .and_then(|warning| warning.short.clone());
    let seen = Seen {
        now,
        recent: &published.recent,
        refused_from: published.refused_from,
        closed_lines: published.closed_lines,
        uptime: about.uptime_secs(),
        interval: about.interval.as_secs_f64(),
        max_series: about.max_series(),
        ledger: &ledger,
        last: published.snapshot.as_deref(),
        warnings: &warnings,
        presence: presence.as_ref(),
        hour,
    };
    let verdict = seen.verdict();
    Look {
        now,
        published,
        ledger,
        presence,
        hour,
        explosion,
        max_series: about.max_series(),
        interval: about.interval.as_secs_f64(),
        verdict,
        warnings,
    }
}

/// That nothing of presence would survive a restart.
fn not_saved(unsaved: &Unsaved) -> Warning {
    let sentence = format!("presence is not saved since {}", unsaved.since.clock());
    let text = format!("{sentence}: {}; a restart forgets what came since", unsaved.why);
    Warning { short: Some(sentence), ..Concern::Unsaved.says(text) }
}

/// What the process before did not leave behind, for an hour after the start.
fn left_behind(state: &StateStatus, uptime: f64, interval: Duration) -> Vec<Warning> {
    if uptime >= LEFT_STAYS {
        return Vec::new();
    }
    let says = |short: String, text: String| Warning { short: Some(short), ..Concern::LastProcess.says(text) };
    let unclean = state.unclean_stop.map(|secs| {
        // The interval that was open when it gave the last one is lost, too.
        let secs = (secs + interval.as_secs_f64()).ceil();
        let short = format!("the last process ended without a clean stop, at most {} s unaccounted", amount(secs));
        let why = "what it had received since its last interval is lost (with `keep_open_interval`, since its last state), and what sinks \
                   without a spool had not delivered";
        says(short.clone(), format!("{short}: {why}"))
    });
    let stale = state.is_stale.then(|| {
        let short = "the last process could not save its state when it ended".to_string();
        says(short.clone(), format!("{short}: this one goes on with an older one"))
    });
    let aside = state.parts.iter().filter_map(|(part, own)| {
        let reason = own.discarded.keys().find_map(|reason| match *reason {
            "damaged" => Some("damaged"),
            "format" => Some("of another format"),
            "size" => Some("too large"),
            // What is too old says nothing any more.
            _ => None,
        })?;
        let what = match (part.as_str(), part.strip_prefix("sink-")) {
            (_, Some(sink)) => format!("what the sink {sink} had not delivered is lost, and its totals begin anew"),
            ("registry", _) => "gauges and longer intervals begin anew".into(),
            ("open", _) => "what the open interval of the last process had is lost".into(),
            ("open-over", _) => "what its last interval said of gauges and longer intervals is lost".into(),
            ("spools", _) => "intervals may wait in folders of spools that nobody knows any more".into(),
            ("closed", _) => "longer intervals that it has flushed may come again".into(),
            (other, _) => format!("what `{other}` had begins anew"),
        };
        let short = format!("{part} was {reason} and set aside");
        Some(says(short.clone(), format!("{short}: {what}; the file is beside it, as .bad")))
    });
    let lost = state.lost.iter().map(|(sink, records)| {
        let sink = Escaped(sink);
        let short = format!("the last process could not keep all that the sink {sink} had not delivered");
        says(short.clone(), format!("{short}: {records} of its records are lost (`shutdown`)"))
    });
    unclean.into_iter().chain(stale).chain(aside).chain(lost).collect()
}

/// Where intervals wait that no sink delivers.
fn left_spools(state: &StateStatus) -> Vec<Warning> {
    let says = |(sink, folder): &(String, PathBuf)| {
        let (folder, sink) = (folder.display().to_string(), Escaped(sink));
        let short = format!("intervals wait in {}, where no sink spools any more", Escaped(&folder));
        let text =
            format!("{short}; the sink {sink} did: they are delivered when a sink has the folder for its spool again");
        Warning { short: Some(short), ..Concern::LastProcess.says(text) }
    };
    state.left_spools.iter().map(says).collect()
}

/// That the file says something that is not in force.
fn not_in_force(about: &Daemon, behind: &[String]) -> Vec<Warning> {
    let status = about.reloads.status();
    let at = |unix: f64| UnixTime::from_secs(unix).clock();
    let refused = status.last_refused.map(|refused| {
        let more = match refused.problems.len() {
            0 | 1 => String::new(),
            all => format!(", and {} more", all - 1),
        };
        let why = refused.problems.first().map_or("", String::as_str);
        let short = "the last reload was refused".to_string();
        let text = format!("{short}: {why}{more}; the daemon runs with the configuration of {}", at(status.loaded_at));
        Warning { short: Some(short), ..Concern::Config.says(text) }
    });
    let accepted = status.in_force_at.map(|due| {
        let short = format!("a reload is in force at {}", at(due));
        Warning { short: Some(short.clone()), ..Concern::Config.says(format!("{short}, with the next interval")) }
    });
    let waits = (!status.needs_restart.is_empty()).then(|| {
        let paths: Vec<&str> = status.needs_restart.iter().map(|one| one.path.as_str()).collect();
        let short = format!("{} of the file need a restart", count(paths.len(), "setting"));
        let short = if paths.len() == 1 { "1 setting of the file needs a restart".into() } else { short };
        Warning { short: Some(short.clone()), ..Concern::Config.says(format!("{short}: {}", paths.join(", "))) }
    });
    let behind = (!behind.is_empty()).then(|| {
        let short = "receive workers do not have the last reload yet".to_string();
        Warning { short: Some(short.clone()), ..Concern::Config.says(format!("{short}: {}", behind.join(", "))) }
    });
    refused.into_iter().chain(accepted).chain(waits).chain(behind).collect()
}

/// What is looked at.
struct Seen<'a> {
    /// Unix seconds.
    now: f64,
    /// Times of the last hour that lost data.
    recent: &'a [LostTime],
    /// Who sent what `allow` refused, if that is known.
    refused_from: Option<IpAddr>,
    /// Lines of closed intervals.
    closed_lines: u64,
    /// Seconds since the start.
    uptime: f64,
    /// Configured seconds between flushes.
    interval: f64,
    max_series: u64,
    /// Since the start.
    ledger: &'a Ledger,
    last: Option<&'a Snapshot>,
    warnings: &'a [Warning],
    presence: Option<&'a Summary>,
    hour: LastHour,
}

/// Something that is wrong.
struct Finding {
    level: Grade,
    about: About,
    sentence: String,
    detail: String,
    since: Option<f64>,
    action: Option<String>,
    /// In few words; the sentence if there are none.
    pill: Option<String>,
}

impl Finding {
    fn new(level: Grade, about: About, sentence: String, detail: String) -> Finding {
        Finding { level, about, sentence, detail, since: None, action: None, pill: None }
    }

    fn since(self, since: Option<f64>) -> Finding {
        Finding { since, ..self }
    }

    fn action(self, action: &str) -> Finding {
        Finding { action: Some(action.into()), ..self }
    }

    fn pill(self, pill: String) -> Finding {
        Finding { pill: Some(pill), ..self }
    }
}

/// Time of day, in UTC.
fn time(unix: f64) -> String {
    rfc3339(unix)[11..19].to_string()
}

fn hour_and_minute(unix: f64) -> String {
    time(unix)[..5].to_string()
}

/// The worst of what was lost, in few words.
fn in_short(lost: &LostTime) -> String {
    match lost {
        lost if lost.dropped > 0 => format!("{} % of datagrams", percent(lost.share())),
        lost if lost.limited > 0 => format!("{} values", grouped(lost.limited)),
        lost if lost.failed > 0 => count(usize::try_from(lost.failed).unwrap_or(usize::MAX), "interval"),
        lost => format!("{} records", grouped(lost.records.values().sum())),
    }
}

/// All that was lost, counted.
fn what(lost: &LostTime) -> String {
    let mut all = Vec::new();
    for (n, what) in [
        (lost.dropped, "datagrams dropped by the kernel"),
        (lost.limited, "values dropped by a bound"),
        (lost.failed, "intervals that could not be merged"),
    ] {
        if n > 0 {
            all.push(format!("{} {what}", grouped(n)));
        }
    }
    all.extend(lost.records.iter().map(|(sink, n)| format!("{} records that {sink} gave up", grouped(*n))));
    all.join(", ")
}

fn since_text(since: Option<f64>) -> String {
    since.map_or_else(String::new, |since| format!("since {} UTC. ", time(since)))
}

impl Seen<'_> {
    fn verdict(&self) -> Verdict {
        let mut findings: Vec<Finding> = Vec::new();
        findings.extend(self.loss());
        findings.extend(self.parts());
        findings.extend(alerts(self.ledger, self.now));
        findings.extend(self.sinks());
        findings.extend(self.services());
        findings.extend(self.limits());
        findings.extend(self.other_warnings());
        // What is as bad keeps its order.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        let is_quiet = self.ledger.lines.read == 0
            && self.receives()
            && findings.iter().all(|finding| finding.level != Grade::Error);
        let worst = if is_quiet || findings.is_empty() { self.calm() } else { findings.remove(0) };
        let pill = |finding: Finding| Pill {
            level: finding.level,
            about: finding.about,
            text: finding.pill.unwrap_or(finding.sentence).replace('`', ""),
        };
        let mut pills: Vec<Pill> = findings.into_iter().map(pill).collect();
        if let Some(past) = self.past_loss() {
            let at = pills.iter().position(|pill| pill.level <= past.level).unwrap_or(pills.len());
            pills.insert(at, past);
        }
        Verdict {
            level: worst.level,
            sign: match (worst.level, worst.about) {
                (Grade::Ok, About::Empty | About::First) => "…",
                (Grade::Ok, _) => "✓",
                (Grade::Warning, _) => "▲",
                (Grade::Error, _) => "✕",
            },
            about: worst.about,
            sentence: worst.sentence.replace('`', ""),
            detail: worst.detail,
            since: worst.since,
            action: worst.action,
            pills,
        }
    }

    /// Whether it listens anywhere; a node of a cluster that only merges does not.
    fn receives(&self) -> bool {
        !self.ledger.listeners.is_empty()
    }

    /// Nothing is wrong with a node that only merges.
    fn calm_merging(&self) -> Finding {
        let lines = self.last.map_or(0.0, |last| last.ledger.lines.read as f64 / last.interval_secs.max(0.001));
        let series = self.last.map_or(0, |last| last.len());
        if lines == 0.0 && series > 0 {
            // The lines are counted by the owner of the first partition.
            let detail = format!("{} of the last interval were merged here.", count(series, "record"));
            return Finding::new(Grade::Ok, About::Fine, "All data accounted for".into(), detail);
        }
        if lines == 0.0 {
            let detail = "This node listens nowhere: send lines to an edge of the cluster.".into();
            return Finding::new(Grade::Ok, About::First, "Nothing is merged yet".into(), detail);
        }
        let detail = format!("{} lines/s of all edges merged here.", amount(lines));
        Finding::new(Grade::Ok, About::Fine, "All data accounted for".into(), detail)
    }

    /// Nothing is wrong.
    fn calm(&self) -> Finding {
        if !self.receives() && self.ledger.lines.read == 0 {
            return self.calm_merging();
        }
        let read = self.ledger.lines.read;
        if let Some(refused) = self.all_refused() {
            return refused;
        }
        if read == 0 {
            let listener = self.ledger.listeners.first().map_or("udp://127.0.0.1:8125", |listener| &listener.url);
            let (listening, within) = (format!("Listening on {listener}."), amount(self.interval));
            let to = if listener.ends_with(":8125") { String::new() } else { format!(" --to {listener}") };
            let detail = format!("{listening} Try `systole send 'hello:1|c'{to}`: it shows here within {within} s.");
            return Finding::new(Grade::Ok, About::Empty, "Nothing has arrived yet".into(), detail);
        }
        let Some(last) = self.last.filter(|_| self.closed_lines > 0) else {
            let lines = count(usize::try_from(read).unwrap_or(usize::MAX), "line");
            // Ticks fall on multiples of the interval.
            let left = (self.interval - self.now % self.interval.max(0.001)).max(0.0).ceil();
            let detail = format!("{lines} so far; the first interval closes within {} s.", amount(left));
            return Finding::new(Grade::Ok, About::First, "First data has arrived".into(), detail);
        };
        let rate = last.ledger.lines.read as f64 / last.interval_secs.max(0.001);
        let rate = amount(rate);
        if let Some(lost) = self.recent.last() {
            let sentence = format!("All data accounted for since {} UTC", time(lost.ended));
            let detail = format!("{rate} lines/s. Lost at {} UTC: {}.", hour_and_minute(lost.began), what(lost));
            return Finding::new(Grade::Ok, About::Fine, sentence, detail);
        }
        let lost = if self.uptime < 3600.0 { "since the start" } else { "in the last hour" };
        let detail = format!("{rate} lines/s, nothing lost {lost}.");
        Finding::new(Grade::Ok, About::Fine, "All data accounted for".into(), detail)
    }

    /// That nothing was read, for `allow` refuses it.
    fn all_refused(&self) -> Option<Finding> {
        let of = |listener: &ListenerAccount| match listener.connections_refused.total() {
            0 => listener.refused,
            _ => listener.connections_refused.of(Refusal::NotAllowed),
        };
        let worst = self.ledger.listeners.iter().max_by_key(|listener| of(listener))?;
        let (refused, url) = (of(worst), &worst.url);
        if self.ledger.lines.read > 0 || refused == 0 {
            return None;
        }
        let from = self.refused_from.map_or_else(String::new, |from| format!(", the last from {from}"));
        let what = if worst.datagrams > 0 { "datagram" } else { "connection" };
        let refused = count(usize::try_from(refused).unwrap_or(usize::MAX), what);
        let detail = format!("{refused} refused at {url}{from}: not in its `allow`.");
        let finding =
            Finding::new(Grade::Warning, About::Empty, "All that arrives is refused by `allow`".into(), detail);
        Some(finding.action("Add the networks of those who send to `allow` of the listener"))
    }

    /// A loss of the last hour, in few words; one of the last minute is a finding of its own.
    fn past_loss(&self) -> Option<Pill> {
        let lost = self.recent.last().filter(|lost| !self.is_fresh(lost))?;
        let times = match self.recent.len() {
            1 => String::new(),
            times => format!(", the last of {times} times in the hour"),
        };
        let text = format!("{} lost at {} UTC{times}", in_short(lost), hour_and_minute(lost.began));
        Some(Pill { level: Grade::Warning, about: About::Loss, text })
    }

    fn is_fresh(&self, lost: &LostTime) -> bool {
        self.now - lost.ended < LOSS_STAYS
    }

    /// What was lost within a minute, although the last interval lost nothing.
    fn fresh_loss(&self) -> Option<Finding> {
        let lost = self.recent.last().filter(|lost| self.is_fresh(lost))?;
        if lost.dropped + lost.limited + lost.failed == 0 {
            // What sinks gave up is said with the sink.
            return None;
        }
        let sentence = format!("Lost data: {}", in_short(lost));
        let how = match lost.dropped {
            0 => String::new(),
            _ => format!(
                " The receive buffer of {} overflowed, and counters of that time read about {} % low.",
                lost.worst.0,
                percent(lost.share())
            ),
        };
        let detail =
            format!("From {} to {} UTC: {}, nothing since.{how}", time(lost.began), time(lost.ended), what(lost));
        let finding = Finding::new(Grade::Error, About::Loss, sentence, detail).since(Some(lost.began));
        Some(if lost.dropped > 0 { finding.action(MORE_ROOM) } else { finding })
    }

    /// Datagrams or values that the last interval lost, or one within a minute.
    fn loss(&self) -> Vec<Finding> {
        let now = self.loss_now();
        if now.is_empty() { self.fresh_loss().into_iter().collect() } else { now }
    }

    fn loss_now(&self) -> Vec<Finding> {
        let Some(last) = self.last else { return Vec::new() };
        let ledger = &last.ledger;
        let mut out = Vec::new();
        let (read, dropped) = ledger
            .listeners
            .iter()
            .fold((0, 0), |(read, lost), listener| (read + listener.datagrams, lost + listener.kernel_drops));
        if dropped > 0 {
            let share = dropped as f64 / (read + dropped) as f64;
            let worst = ledger.listeners.iter().max_by_key(|listener| listener.kernel_drops);
            let url = worst.map_or("the listener", |listener| &listener.url);
            let lost = self.recent.last();
            let since = self.hour.losing_since.or(lost.map(|lost| lost.began));
            let all = match self.hour.losing_since {
                Some(_) => self.hour.dropped_since as u64,
                None => lost.map_or(dropped, |lost| lost.dropped),
            };
            let percent = percent(share);
            let detail = format!(
                "{}The receive buffer of {url} overflows: {} datagrams dropped by the kernel. Counters read about {percent} % low.",
                since_text(since),
                grouped(all)
            );
            let sentence = format!("Losing data: {percent} % of datagrams");
            out.push(Finding::new(Grade::Error, About::Loss, sentence, detail).since(since).action(MORE_ROOM));
        }
        let limited = ledger.samples.limited.total();
        if limited > 0 {
            let why: Vec<String> =
                ledger.samples.limited.iter().map(|(why, n)| format!("{why} {}", grouped(n))).collect();
            let detail = format!("A bound dropped them in the last interval: {}.", why.join(", "));
            let sentence = format!("Losing data: {} values", grouped(limited));
            out.push(Finding::new(Grade::Error, About::Loss, sentence, detail));
        }
        if ledger.flush.failed > 0 {
            let detail = "The flush failed while it merged them; see the log.".into();
            out.push(Finding::new(Grade::Error, About::Loss, "Values of the last interval are missing".into(), detail));
        }
        out
    }

    fn parts(&self) -> Vec<Finding> {
        let broken = self.ledger.parts.iter().filter(|(_, part)| !part.up);
        let finding = |(name, part): (&String, &crate::telemetry::PartAccount)| {
            let why = part.last_failure.as_deref().unwrap_or("it has ended");
            let sentence = format!("{name} is {}", part.state.name());
            Finding::new(Grade::Error, About::Part, sentence, format!("{}.", cut(why)))
        };
        broken.map(finding).collect()
    }

    fn sinks(&self) -> Vec<Finding> {
        let before = |name: &str| self.last.and_then(|last| last.ledger.sinks.get(name));
        let fresh = self.recent.last().filter(|lost| self.is_fresh(lost));
        let is_fresh = |name: &str| fresh.is_some_and(|lost| lost.records.contains_key(name));
        let finding = |(name, sink): (&String, &SinkAccount)| {
            let dropped = sink.dropped.lost();
            let lost = dropped - before(name).map_or(dropped, |before| before.dropped.lost().min(dropped));
            let is_failing = sink.last_error.is_some() && sink.last_failure > sink.last_success;
            let why = cut(sink.last_error.as_deref().unwrap_or(""));
            let since = Some(sink.last_success).filter(|last| *last > 0.0);
            let waits = match (sink.spooled, sink.queued) {
                (0, 0) => String::new(),
                (0, queued) => format!(" {} records wait in memory.", grouped(queued)),
                (spooled, _) => format!(" {} records on disk.", grouped(spooled)),
            };
            let takes_nothing = match since {
                Some(since) => format!("{name} takes nothing since {} UTC", time(since)),
                None => format!("{name} has taken nothing yet"),
            };
            if lost > 0 || is_fresh(name) {
                let why = if why.is_empty() { why } else { format!("{why}. ") };
                let detail = format!("{why}{} records given up since the start.{waits}", grouped(dropped));
                let finding = Finding::new(Grade::Error, About::Sink, format!("{name} loses records"), detail);
                return Some(finding.since(since));
            }
            if is_failing {
                let finding = Finding::new(Grade::Warning, About::Sink, takes_nothing, format!("{why}.{waits}"));
                return Some(finding.since(since).pill(format!("{name} takes nothing")));
            }
            (sink.spooled > 0).then(|| {
                let sentence = format!("{name} is catching up from disk");
                Finding::new(Grade::Warning, About::Sink, sentence, waits.trim().to_string())
            })
        };
        self.ledger.sinks.iter().filter_map(finding).collect()
    }

    fn services(&self) -> Vec<Finding> {
        self.presence.map_or_else(Vec::new, services)
    }

    fn limits(&self) -> Vec<Finding> {
        let mut out = Vec::new();
        let series = &self.ledger.series;
        let held = series.counters + series.gauges + series.timers + series.sets + series.kvs;
        let max = grouped(self.max_series);
        let folded = self.last.map_or(0, |last| last.ledger.samples.folded);
        if folded > 0 {
            let since = self.hour.folding_since;
            let all = if since.is_some() { self.hour.folded_since as u64 } else { folded };
            let is_memory = self.last.is_some_and(|last| last.ledger.memory.folded > 0);
            let limit = if is_memory { "Memory is short.".into() } else { format!("Limit max_series {max}.") };
            let sentence = format!("{} values of new series folded", grouped(all));
            let detail = format!("into systole.overflow {}{limit}", since_text(since));
            let finding = Finding::new(Grade::Warning, About::Limit, sentence, detail);
            out.push(
                finding.since(since).action("See Senders for who makes them").pill("new series are folded".into()),
            );
        } else if self.max_series > 0 && held as f64 >= NEAR * self.max_series as f64 {
            let percent = percent(held as f64 / self.max_series as f64);
            let sentence = format!("{} series, {percent} % of max_series", grouped(held));
            let detail = format!("At {max}, values of new series are folded into systole.overflow.");
            out.push(
                Finding::new(Grade::Warning, About::Limit, sentence, detail).pill(format!("series at {percent} %")),
            );
        }
        for listener in self.ledger.listeners.iter().filter(|listener| listener.queue_peak >= QUEUE_WARNING) {
            let percent = percent(listener.queue_peak);
            let sentence = format!("The receive buffer of {} was {percent} % full", listener.url);
            let detail = "When it is full, the kernel drops datagrams.".into();
            let finding = Finding::new(Grade::Warning, About::Limit, sentence, detail);
            out.push(finding.pill(format!("receive buffer {percent} % full")));
        }
        if self.ledger.memory.level > 0 {
            let memory = &self.ledger.memory;
            let sentence = format!("Memory is short: level {} of 4", memory.level);
            let detail = format!("{} of {} MiB live.", grouped(memory.live >> 20), grouped(memory.max >> 20));
            let finding = Finding::new(Grade::Warning, About::Limit, sentence, detail);
            out.push(finding.pill(format!("memory at level {}", memory.level)));
        }
        out
    }

    /// Warnings of the status that no finding above is about, such as certificates.
    fn other_warnings(&self) -> Vec<Finding> {
        // What these are about is told whole above.
        let is_told = |warning: &&Warning| match warning.about {
            Concern::Queue
            | Concern::Drops
            | Concern::Part
            | Concern::Memory
            | Concern::Series
            | Concern::Values
            | Concern::Alerts
            | Concern::Sink => true,
            Concern::Events
            | Concern::Accuracy
            | Concern::Caches
            | Concern::Certificate
            | Concern::Senders
            | Concern::Unsaved
            | Concern::LastProcess
            | Concern::Config
            | Concern::Cluster
            | Concern::ClusterDown => false,
        };
        let of = |warning: &Warning| match warning.about {
            Concern::Senders => self.of_senders(warning),
            _ => {
                let (sentence, detail) = warning.text.split_once(": ").unwrap_or((&warning.text, ""));
                let (about, grade) = match warning.about {
                    Concern::ClusterDown => (About::Part, Grade::Error),
                    Concern::LastProcess => (About::Loss, Grade::Warning),
                    Concern::Unsaved | Concern::Config | Concern::Cluster => (About::Part, Grade::Warning),
                    _ => (About::Limit, Grade::Warning),
                };
                let is_cluster = matches!(warning.about, Concern::Cluster | Concern::ClusterDown);
                let short = if is_cluster { sentence } else { &*warning.text };
                let pill = warning.short.clone().unwrap_or_else(|| cut(short));
                let sentence = if is_cluster || warning.about == Concern::LastProcess {
                    upper_first(&cut(sentence))
                } else {
                    cut(sentence)
                };
                Finding::new(grade, about, sentence, upper_first(&cut(detail))).pill(pill)
            }
        };
        self.warnings.iter().filter(|warning| !is_told(warning)).map(of).collect()
    }

    /// What somebody sends that needs a look: how much in the sentence, who and where in the detail.
    fn of_senders(&self, warning: &Warning) -> Finding {
        let (sentence, rest) = match warning.text.find(SECOND) {
            Some(at) => warning.text.split_at(at + SECOND.len()),
            None => (&*warning.text, ""),
        };
        let lost = if self.recent.is_empty() { " Nothing is lost." } else { "" };
        let detail = format!("{}.{lost}", upper_first(&cut(rest.trim_start_matches([',', ' ']))));
        let finding =
            Finding::new(Grade::Warning, About::Limit, cut(sentence), detail.trim_start_matches(['.', ' ']).into());
        let finding = finding.pill(warning.short.clone().unwrap_or_else(|| cut(sentence)));
        if sentence.contains("new series") {
            finding.action(
                "See Senders for who makes them; a rule with `drop_tags` drops a tag, one with `rename` joins names",
            )
        } else {
            finding.action("See Senders for who sends them, and `systole explain LINE` for what is wrong with one")
        }
    }
}

/// Targets that alerts are not delivered to, and those that lost some within the hour.
fn alerts(ledger: &Ledger, now: f64) -> Vec<Finding> {
    let finding = |(name, target): (&String, &NotifierAccount)| {
        let name = excerpt(name.as_bytes(), MOST_SAID);
        if target.is_failing() {
            let since = target.failing_since;
            let is_grave = target.has_lost() || now - since >= ALERTS_WAIT;
            let why = upper_first(&cut(target.last_error.as_deref().unwrap_or("it fails")));
            let detail = format!("{}{}. {why}.", since_text(Some(since)), upper_first(&target.outstanding()));
            let grade = if is_grave { Grade::Error } else { Grade::Warning };
            let finding = Finding::new(grade, About::Alerts, format!("Alerts are not delivered to {name}"), detail);
            return Some(
                finding
                    .since(Some(since))
                    .action("Mend that, then try it with `systole presence test-alert`")
                    .pill(format!("alerts are not delivered to {name}")),
            );
        }
        (target.last_loss > 0.0 && now - target.last_loss < ALERTS_STAY).then(|| {
            let when = hour_and_minute(target.last_loss);
            let sentence = format!("Alerts to {name} were lost, the last at {when} UTC");
            let detail = format!("{} since the start; those after that arrive.", grouped(target.lost()));
            let pill = format!("alerts to {name} lost, the last at {when} UTC");
            Finding::new(Grade::Warning, About::Alerts, sentence, detail).since(Some(target.last_loss)).pill(pill)
        })
    };
    let mut all: Vec<Finding> = ledger.notify.iter().filter_map(finding).collect();
    all.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    all
}

/// Sentences about alerts that are not delivered, the worst first, each with what is known of it.
pub(super) fn of_alerts(ledger: &Ledger, now: f64) -> Vec<(Grade, String, String)> {
    alerts(ledger, now).into_iter().map(|finding| (finding.level, finding.sentence, finding.detail)).collect()
}

/// What is wrong with services.
fn services(seen: &Summary) -> Vec<Finding> {
    let mut out = Vec::new();
    if seen.is_mass_silence {
        let silent = count(seen.late_instances + seen.down_instances, "instance");
        let detail = format!("{silent} are silent at once, in several services: look for one cause.");
        out.push(
            Finding::new(Grade::Error, About::Presence, "Mass silence".into(), detail).pill("mass silence".into()),
        );
    }
    let up = format!("{} of {} services are up.", seen.up, seen.services);
    out.extend(of_states(seen, &up));
    out.extend(jobs(&seen.jobs));
    out.extend(seen.observers.as_ref().and_then(observers));
    out.extend(failing(seen, up));
    out
}

/// Services that are down or degraded. A mass silence stands for all of them.
fn of_states(seen: &Summary, up: &str) -> Vec<Finding> {
    let mut out = Vec::new();
    if seen.is_mass_silence {
        return out;
    }
    for (state, all) in [(ServiceState::Down, seen.down), (ServiceState::Degraded, seen.degraded)] {
        let named: Vec<_> = seen.bad.iter().filter(|bad| bad.state == state).collect();
        let grade = if state == ServiceState::Down { Grade::Error } else { Grade::Warning };
        if all == 1
            && let [bad] = named[..]
        {
            let present = how_many(bad.present, bad.total, bad.min);
            let sentence = format!("{} is {state}: {present}", bad.service);
            let pill = format!("{} {state}, {present}", bad.service);
            out.push(Finding::new(grade, About::Presence, sentence, up.into()).pill(pill));
        } else if all > 0 {
            let names: Vec<&str> = named.iter().map(|bad| &*bad.service).collect();
            let more = if all > names.len() { ", …" } else { "" };
            let sentence = format!("{all} services {state}: {}{more}", names.join(", "));
            out.push(Finding::new(grade, About::Presence, sentence, up.into()).pill(format!("{all} services {state}")));
        }
    }
    out
}

/// Instances that say themselves that they fail, unless there is a mass silence.
fn failing(seen: &Summary, up: String) -> Option<Finding> {
    if seen.failing == 0 || seen.is_mass_silence {
        return None;
    }
    let named = seen.named_failing.iter().map(|failing| {
        let message = failing.message.as_deref().map_or_else(String::new, |message| format!(", {message}"));
        format!("{}/{}{message}", failing.service, failing.instance)
    });
    let (named, says) = (named.collect::<Vec<_>>(), if seen.failing == 1 { "says" } else { "say" });
    let more = if seen.failing > named.len() { "; …" } else { "" };
    let sentence = format!("{} of {} {says} critical: {}{more}", seen.failing, seen.present, named.join("; "));
    let grade = if seen.is_whole_service_failing { Grade::Error } else { Grade::Warning };
    let pill = format!("{} {says} critical", count(seen.failing, "instance"));
    Some(Finding::new(grade, About::Presence, sentence, up).pill(pill))
}

/// What is wrong with other observers, and whom nobody hears for that.
fn observers(seen: &ObserversView) -> Option<Finding> {
    let name = |peer: &PeerView| peer.node.as_ref().map_or(peer.url.clone(), ToString::to_string);
    if let Some(peer) = seen.peers.iter().find(|peer| peer.same_name) {
        let sentence = format!("Two observers have one name: the one at {} has another's", peer.url);
        let finding = Finding::new(Grade::Error, About::Observers, sentence, "They do not hear each other.".into());
        return Some(finding.action("Set presence.node").pill("two observers have one name".into()));
    }
    let is_bad = |peer: &&PeerView| !peer.reachable && (peer.gone || seen.unwatched > 0);
    let lost: Vec<&PeerView> = seen.peers.iter().filter(is_bad).collect();
    let first = lost.first()?;
    let who = match lost.len() {
        1 => format!("The observer {} does not answer", name(first)),
        n => format!(
            "{n} observers do not answer: {}",
            lost.iter().map(|peer| name(peer)).collect::<Vec<_>>().join(", ")
        ),
    };
    let sentence = match seen.unwatched {
        0 => who,
        n => format!("{who}, and nobody hears {}", count(n, "instance")),
    };
    let why = first.problem.as_ref().map_or(String::new(), |problem| format!("{}. ", upper_first(problem)));
    let unheard = if seen.unwatched > 0 { format!("Nobody hears {}.", unheard(seen)) } else { String::new() };
    let grade = if lost.iter().any(|peer| peer.gone) { Grade::Error } else { Grade::Warning };
    let pill = format!("{} not answering", count(lost.len(), "observer"));
    Some(Finding::new(grade, About::Observers, sentence, why + &unheard).pill(pill))
}

/// What is wrong with jobs.
fn jobs(seen: &JobSummary) -> Option<Finding> {
    let bad = seen.critical + seen.warning;
    let first = seen.bad.first()?;
    let name = |job: &BadJob| match &*job.instance {
        "-" => format!("{} {}", job.service, job.state),
        instance => format!("{}/{instance} {}", job.service, job.state),
    };
    let named: Vec<String> = seen.bad.iter().map(name).collect();
    let more = if bad > named.len() { ", …" } else { "" };
    let sentence = match bad {
        1 => format!("The job {} is not well: {}", first.service, first.state),
        _ => format!("{bad} jobs are not well: {}{more}", named.join(", ")),
    };
    // Who is in maintenance is looked at already.
    let (grade, sentence) = match seen.bad_in_maintenance {
        0 if seen.critical > 0 => (Grade::Error, sentence),
        0 => (Grade::Warning, sentence),
        n if n == bad => (Grade::Warning, format!("{sentence}, in maintenance")),
        n if seen.critical > 0 => (Grade::Error, format!("{sentence} ({n} in maintenance)")),
        n => (Grade::Warning, format!("{sentence} ({n} in maintenance)")),
    };
    let in_pill = named.iter().take(2).cloned().collect::<Vec<_>>().join(", ");
    let pill = match bad {
        1 => format!("job {in_pill}"),
        2 => format!("jobs {in_pill}"),
        _ => format!("jobs {in_pill}, and {} more", bad - 2),
    };
    let detail = format!("{} of {} are well.", seen.jobs - bad, count(seen.jobs, "job"));
    Some(Finding::new(grade, About::Presence, sentence, detail).pill(pill))
}

/// The verdict on presence alone.
pub(super) fn of_presence(seen: &Summary) -> (Grade, String) {
    if let Some(worst) =
        services(seen).into_iter().max_by(|a, b| a.level.cmp(&b.level).then(std::cmp::Ordering::Greater))
    {
        return (worst.level, worst.sentence);
    }
    match seen {
        // `check` says of these that nobody knows.
        seen if seen.jobs.unheard > 0 && is_well(seen) => {
            let were = if seen.jobs.unheard == 1 { "was" } else { "were" };
            (Grade::Ok, format!("{} of {} {were} not heard yet", seen.jobs.unheard, count(seen.jobs.jobs, "job")))
        }
        seen if seen.services == 0 && seen.jobs.jobs > 0 => {
            (Grade::Ok, format!("All is well: {}", count(seen.jobs.jobs, "job")))
        }
        seen if seen.services == 0 => (Grade::Ok, "Nobody was heard yet".into()),
        seen if seen.down_instances > 0 => {
            let are = if seen.down_instances == 1 { "is" } else { "are" };
            let late = if seen.late_instances > 0 { format!(", {} late", seen.late_instances) } else { String::new() };
            let down = count(seen.down_instances, "instance");
            let (grade, maintained) = match seen.down_in_maintenance {
                0 => (Grade::Warning, String::new()),
                n if n == seen.down_instances => (Grade::Ok, " in maintenance".into()),
                n => (Grade::Warning, format!(" ({n} in maintenance)")),
            };
            (grade, format!("{down} {are} down{maintained}{late}, no service is"))
        }
        // Who is late may be well, and nobody knows yet.
        seen if seen.late_instances > 0 => {
            let are = if seen.late_instances == 1 { "is" } else { "are" };
            let present = count(seen.present, "instance");
            (Grade::Ok, format!("{} of {present} {are} late, none is down", seen.late_instances))
        }
        seen if seen.unconfirmed > 0 => {
            let are = if seen.unconfirmed == 1 { "is" } else { "are" };
            let present = count(seen.present, "instance");
            (Grade::Ok, format!("{} of {present} {are} not confirmed since our restart", seen.unconfirmed))
        }
        seen if seen.up < seen.services => {
            (Grade::Ok, format!("{} of {} are up, none is down", seen.up, count(seen.services, "service")))
        }
        seen => {
            let are = if seen.services == 1 { "is" } else { "are" };
            (Grade::Ok, format!("All is well: {} {are} up, {} present", count(seen.services, "service"), seen.present))
        }
    }
}

/// Whether instances and services are.
fn is_well(seen: &Summary) -> bool {
    seen.down_instances == 0 && seen.late_instances == 0 && seen.unconfirmed == 0 && seen.up == seen.services
}

/// The same with a capital, unless it begins with a path or a key, which are written as they are.
fn upper_first(text: &str) -> String {
    let first = text.split(' ').next().unwrap_or("");
    if first.contains(['.', '_', '/', '[']) || first.ends_with(':') {
        return text.into();
    }
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn cut(text: &str) -> String {
    let text = text.trim_end_matches('.');
    text.char_indices().nth(MOST_SAID).map_or_else(|| text.into(), |(at, _)| format!("{}…", &text[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{BadJob, BadService, JobState, JobSummary};

    /// The verdict at a time, 16:45:20 plus so many seconds, after a loss that ended then.
    fn after(secs: f64) -> Verdict {
        const END: f64 = 1_764_175_520.0;
        let mut ledger = Ledger::default();
        ledger.lines.read = 500;
        let recent = [LostTime {
            began: END - 5.0,
            ended: END,
            dropped: 1_056_145,
            arrived: 1_600_000,
            worst: ("udp://127.0.0.1:8125".into(), 1_056_145, 4096),
            ..LostTime::default()
        }];
        let last = Snapshot { interval_secs: 5.0, ..Snapshot::default() };
        let last = Snapshot { ledger: ledger.clone(), ..last };
        let seen = Seen {
            now: END + secs,
            recent: &recent,
            refused_from: None,
            closed_lines: 500,
            uptime: 1000.0,
            interval: 5.0,
            max_series: 1000,
            ledger: &ledger,
            last: Some(&last),
            warnings: &[],
            presence: None,
            hour: LastHour::default(),
        };
        seen.verdict()
    }

    /// One job, whose last run failed.
    fn failed_job() -> JobSummary {
        let bad = BadJob {
            service: "backup".into(),
            instance: "-".into(),
            state: JobState::Failed,
            host: None,
            exit: Some(3),
            duration_s: None,
            last_success: None,
            due: None,
        };
        JobSummary { jobs: 1, critical: 1, bad: vec![bad], ..JobSummary::default() }
    }

    #[test]
    fn a_job_that_fails_in_its_maintenance_is_no_error() {
        let of = |bad_in_maintenance: usize| {
            let jobs = JobSummary { bad_in_maintenance, ..failed_job() };
            of_presence(&Summary { jobs, ..Summary::default() })
        };
        let sentence = "The job backup is not well: failed";
        assert_eq!(of(0), (Grade::Error, sentence.into()));
        assert_eq!(of(1), (Grade::Warning, format!("{sentence}, in maintenance")));
    }

    #[test]
    fn a_mass_silence_hides_neither_jobs_nor_lost_observers() {
        let peer = PeerView { gone: true, ..PeerView::default() };
        let down = BadService { service: "a".into(), state: ServiceState::Down, present: 0, total: 2, min: None };
        let seen = Summary {
            is_mass_silence: true,
            down: 1,
            bad: vec![down],
            failing: 1,
            jobs: failed_job(),
            observers: Some(ObserversView { peers: vec![peer], ..ObserversView::default() }),
            ..Summary::default()
        };
        let found: Vec<String> = services(&seen).into_iter().map(|finding| finding.sentence).collect();
        assert_eq!(found, ["Mass silence", "The job backup is not well: failed", "The observer  does not answer"]);
        assert_eq!(of_presence(&seen).1, "Mass silence");
    }

    #[test]
    fn a_job_that_was_not_heard_is_no_good_news() {
        let of = |services: usize, jobs: usize, unheard: usize| {
            let jobs = JobSummary { jobs, unheard, ..JobSummary::default() };
            of_presence(&Summary { services, up: services, jobs, ..Summary::default() }).1
        };
        assert_eq!(of(0, 1, 1), "1 of 1 job was not heard yet");
        assert_eq!(of(3, 5, 2), "2 of 5 jobs were not heard yet");
        assert_eq!(of(0, 1, 0), "All is well: 1 job");
        assert_eq!(of(1, 1, 0), "All is well: 1 service is up, 0 present");
    }

    #[test]
    fn a_loss_stays_an_error_for_a_minute_and_a_mark_for_the_hour() {
        let fresh = after(59.0);
        assert_eq!((fresh.level, fresh.about, fresh.pills.len()), (Grade::Error, About::Loss, 0));
        assert_eq!(fresh.sentence, "Lost data: 66 % of datagrams");
        assert_eq!(
            fresh.detail,
            "From 16:45:15 to 16:45:20 UTC: 1,056,145 datagrams dropped by the kernel, nothing since. The receive buffer of \
             udp://127.0.0.1:8125 overflowed, and counters of that time read about 66 % low."
        );
        let later = after(61.0);
        assert_eq!((later.level, later.sentence.as_str()), (Grade::Ok, "All data accounted for since 16:45:20 UTC"));
        assert_eq!(later.detail, "100 lines/s. Lost at 16:45 UTC: 1,056,145 datagrams dropped by the kernel.");
        let pill =
            Pill { level: Grade::Warning, text: "66 % of datagrams lost at 16:45 UTC".into(), about: About::Loss };
        assert_eq!(later.pills, [pill]);
    }
}
