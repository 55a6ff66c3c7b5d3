//! What lasts for a while, found in the ledgers of intervals: it has an entry when it begins and one when it is over.

use std::collections::BTreeMap;

use crate::telemetry::{Account, Ledger, Limit, PartState, SinkAccount};

use super::{Entry, EntryKind, Severity};

/// A loss is over when so many intervals in a row had none: one that comes and goes is one.
const QUIET_INTERVALS: u32 = 3;

/// Something that lasts, as one interval has it.
#[derive(Clone, Debug, PartialEq)]
struct Condition {
    kind: EntryKind,
    level: Severity,
    /// What begins.
    title: String,
    text: String,
    /// What to say when it is over.
    over: String,
    /// How much of it the interval had; 0 for what is not counted.
    count: u64,
    /// Intervals without it until it is over.
    quiet: u32,
}

/// A condition that has begun.
#[derive(Debug)]
struct Lasting {
    kind: EntryKind,
    over: String,
    /// How much of it there was since it began.
    count: u64,
    began: f64,
    /// When it was seen last.
    last: f64,
    quiet_left: u32,
    quiet: u32,
}

/// What lasts now, by what identifies it, and the ledger before.
#[derive(Debug, Default)]
pub(super) struct Changes {
    lasting: BTreeMap<String, Lasting>,
    before: Option<Ledger>,
}

impl Changes {
    /// Entries for what began and what is over in the interval that ended at `end` Unix seconds.
    pub(super) fn of(&mut self, ledger: &Ledger, end: f64) -> Vec<Entry> {
        let before = self.before.take().unwrap_or_default();
        let mut out = restarts(ledger, &before, end);
        let mut now = conditions(ledger, &before);
        self.lasting.retain(|key, lasting| {
            if let Some(again) = now.remove(key) {
                lasting.count += again.count;
                (lasting.last, lasting.quiet_left) = (end, lasting.quiet);
                return true;
            }
            lasting.quiet_left = lasting.quiet_left.saturating_sub(1);
            if lasting.quiet_left == 0 {
                out.push(lasting.end(end));
            }
            lasting.quiet_left > 0
        });
        for (key, begun) in now {
            let Condition { kind, level, title, text, over, count, quiet } = begun;
            out.push(Entry::new(end, kind, level, &title, &text));
            let lasting = Lasting { kind, over, count, began: end, last: end, quiet_left: quiet, quiet };
            self.lasting.insert(key, lasting);
        }
        self.before = Some(ledger.clone());
        out
    }
}

impl Lasting {
    fn end(&self, end: f64) -> Entry {
        // The first interval that had it is a part of it.
        let secs = (self.last - self.began).max(0.0);
        let text = match (self.count, secs > 0.0) {
            (0, _) => format!("after {}", crate::presence::describe::length(end - self.began)),
            (count, true) => format!("{} in {}", grouped(count), crate::presence::describe::length(secs)),
            (count, false) => format!("{} in one interval", grouped(count)),
        };
        Entry::new(end, self.kind, Severity::Ok, &self.over, &text)
    }
}

/// A count with a comma after each thousand.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Parts that failed and were started again, each time.
fn restarts(ledger: &Ledger, before: &Ledger, end: f64) -> Vec<Entry> {
    let failed = ledger.parts.iter().filter_map(|(name, part)| {
        let times = part.restarts - before.parts.get(name).map_or(0, |part| part.restarts).min(part.restarts);
        let why = part.last_failure.as_deref().unwrap_or("it has ended");
        let title = match times {
            0 => return None,
            1 => format!("{name} failed and was started again"),
            times => format!("{name} failed {times} times and was started again"),
        };
        Some(Entry::new(end, EntryKind::Part, Severity::Error, &title, why))
    });
    failed.collect()
}

/// What an interval has of all that may last.
fn conditions(ledger: &Ledger, before: &Ledger) -> BTreeMap<String, Condition> {
    let mut all = BTreeMap::new();
    losses(ledger, before, &mut all);
    limits(ledger, &mut all);
    of_sinks(ledger, before, &mut all);
    of_relays(ledger, before, &mut all);
    for (name, part) in ledger.parts.iter().filter(|(_, part)| part.state == PartState::Failed) {
        let why = part.last_failure.as_deref().unwrap_or("it has ended").to_string();
        let condition = Condition {
            kind: EntryKind::Part,
            level: Severity::Error,
            title: format!("{name} has failed"),
            text: why,
            over: format!("{name} works again"),
            count: 0,
            quiet: 1,
        };
        all.insert(format!("part {name}"), condition);
    }
    all
}

/// A loss that is counted; none if there was nothing.
fn counted(
    all: &mut BTreeMap<String, Condition>,
    (kind, level): (EntryKind, Severity),
    count: u64,
    title: &str,
    text: &str,
    over: &str,
) {
    if count > 0 {
        let text = if text.is_empty() { String::new() } else { format!("; {text}") };
        let condition = Condition {
            kind,
            level,
            title: title.to_string(),
            text: format!("{} in the first interval{text}", grouped(count)),
            over: over.to_string(),
            count,
            quiet: QUIET_INTERVALS,
        };
        all.insert(title.to_string(), condition);
    }
}

fn losses(ledger: &Ledger, before: &Ledger, all: &mut BTreeMap<String, Condition>) {
    let loss = (EntryKind::Loss, Severity::Error);
    for listener in &ledger.listeners {
        counted(
            all,
            loss,
            listener.kernel_drops,
            &format!("datagrams are lost at {}: the kernel drops them", listener.url),
            "raise `receive_buffer` or `workers`",
            &format!("no more datagrams are lost at {}", listener.url),
        );
        counted(
            all,
            (EntryKind::Loss, Severity::Warning),
            listener.truncated,
            &format!("datagrams at {} are longer than `max_datagram`", listener.url),
            "their last lines are lost",
            &format!("datagrams at {} fit into `max_datagram` again", listener.url),
        );
    }
    let warning = (EntryKind::Loss, Severity::Warning);
    for (count, title, text, over) in [
        (
            ledger.presence.queue_drops,
            "heartbeats are lost: the queue of presence is full",
            "",
            "no more heartbeats are lost",
        ),
        (
            ledger.log.lines_lost,
            "lines of the log are lost",
            "nobody reads it in time",
            "no more lines of the log are lost",
        ),
        (
            ledger.capture.as_ref().map_or(0, |capture| capture.lost),
            "rows of the capture are lost",
            "its file takes too little",
            "the capture has all rows again",
        ),
        (
            ledger.lines.internal_error,
            "lines made a receive worker fail",
            "the log has them",
            "no more lines make a receive worker fail",
        ),
        (
            ledger.flush.failed,
            "an interval could not be merged",
            "its values are lost, its lines are counted",
            "intervals are whole again",
        ),
    ] {
        counted(all, warning, count, title, text, over);
    }
    for (name, relay) in &ledger.relays {
        let known = before.relays.get(name).map_or(0, |relay| relay.dropped.total());
        let dropped = relay.dropped.total().saturating_sub(known);
        counted(
            all,
            loss,
            dropped,
            &format!("relay {name} drops datagrams"),
            "its targets are down or too slow",
            &format!("relay {name} drops nothing any more"),
        );
    }
}

fn limits(ledger: &Ledger, all: &mut BTreeMap<String, Condition>) {
    let limit = (EntryKind::Limit, Severity::Warning);
    let of_memory = ledger.memory.folded;
    for (count, title, text, over) in [
        (
            ledger.samples.folded.saturating_sub(of_memory),
            "`max_series` is reached: samples of new series go to `systole.overflow`",
            "drop or rename the identifier in their names or tags with a rule, or raise `max_series`",
            "new series fit into `max_series` again",
        ),
        (
            of_memory,
            "memory is short: samples of new series go to `systole.overflow`",
            "drop or rename the identifier in their names or tags with a rule, or raise `max_memory`",
            "there is memory for new series again",
        ),
        (
            ledger.samples.limited.of(Limit::Memory),
            "memory is short: samples are dropped",
            "raise `max_memory`",
            "memory is enough for all samples again",
        ),
        (
            ledger.samples.limited.of(Limit::Timestamped),
            "samples with a timestamp are dropped",
            "more come in an interval than are kept",
            "samples with a timestamp are kept again",
        ),
        (
            ledger.samples.limited.of(Limit::KvValues),
            "values of `kv` pairs are dropped",
            "more come in an interval than are kept",
            "values of `kv` pairs are kept again",
        ),
        (
            ledger.lines.notes_dropped,
            "events and service checks are dropped",
            "more come in an interval than are kept",
            "events and service checks are kept again",
        ),
        (
            ledger.lines.tags_cut,
            "tags beyond `max_tags` are cut",
            "send fewer, or raise `max_tags`",
            "no more tags are cut",
        ),
        (
            ledger.memory.early_estimates,
            "memory is short: timers and sets are less exact than configured",
            "lower `exact_samples`, or raise `max_memory`",
            "timers and sets are as exact as configured",
        ),
    ] {
        counted(all, limit, count, title, text, over);
    }
}

/// Whether the last delivery of a sink failed.
fn is_failing(sink: &SinkAccount) -> bool {
    sink.last_failure > sink.last_success
}

fn of_sinks(ledger: &Ledger, before: &Ledger, all: &mut BTreeMap<String, Condition>) {
    for (name, sink) in &ledger.sinks {
        if is_failing(sink) {
            let condition = Condition {
                kind: EntryKind::Sink,
                level: Severity::Error,
                title: format!("{name} takes nothing"),
                text: sink.last_error.clone().unwrap_or_default(),
                over: format!("{name} takes records again"),
                count: 0,
                quiet: 1,
            };
            all.insert(format!("sink {name}"), condition);
        }
        let fresh = before.sinks.get(name).map_or_else(|| sink.clone(), |before| sink.since(before));
        let reasons: Vec<String> = fresh.dropped.iter().map(|(why, count)| format!("{why} {count}")).collect();
        counted(
            all,
            (EntryKind::Loss, Severity::Error),
            fresh.dropped.total(),
            &format!("{name} drops records"),
            &reasons.join(", "),
            &format!("{name} drops nothing any more"),
        );
    }
}

fn of_relays(ledger: &Ledger, before: &Ledger, all: &mut BTreeMap<String, Condition>) {
    for (name, relay) in &ledger.relays {
        for (target, account) in relay.targets.iter().filter(|(_, account)| !account.up) {
            let was = before.relays.get(name).and_then(|relay| relay.targets.get(target));
            let lost = account.lost - was.map_or(0, |was| was.lost).min(account.lost);
            let condition = Condition {
                kind: EntryKind::Sink,
                level: Severity::Warning,
                title: format!("relay {name}: {target} is down"),
                text: if lost > 0 { format!("{lost} lines were not sent") } else { String::new() },
                over: format!("relay {name}: {target} is up"),
                count: 0,
                quiet: 1,
            };
            all.insert(format!("relay {name} {target}"), condition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{ListenerAccount, PartAccount};

    fn said(changes: &mut Changes, ledger: &Ledger, end: f64) -> Vec<String> {
        let entries = changes.of(ledger, end);
        entries.iter().map(|entry| format!("{} {} {} | {}", entry.kind, entry.level, entry.title, entry.text)).collect()
    }

    #[test]
    fn a_loss_that_comes_and_goes_begins_and_ends_once() {
        let mut changes = Changes::default();
        let with = |kernel_drops| {
            let listener = ListenerAccount { url: "udp://a".into(), kernel_drops, ..ListenerAccount::default() };
            Ledger { listeners: vec![listener], ..Ledger::default() }
        };
        let drops = [0, 5, 0, 7, 0, 0, 0, 0];
        let all: Vec<_> =
            drops.iter().zip(1..).flat_map(|(n, i)| said(&mut changes, &with(*n), f64::from(i) * 10.0)).collect();
        assert_eq!(
            all,
            [
                "loss error datagrams are lost at udp://a: the kernel drops them | 5 in the first interval; raise \
                 `receive_buffer` or `workers`",
                "loss ok no more datagrams are lost at udp://a | 12 in 20 s",
            ]
        );
    }

    #[test]
    fn a_sink_fails_and_recovers_and_a_part_is_started_again() {
        let mut changes = Changes::default();
        let with = |failure: f64, success: f64, restarts: u64| {
            let error = (failure > success).then(|| "connection refused".to_string());
            let sink = SinkAccount {
                last_failure: failure,
                last_success: success,
                last_error: error,
                ..SinkAccount::default()
            };
            let part = PartAccount {
                state: PartState::Running,
                up: true,
                restarts,
                last_failure: Some("why".into()),
                ..PartAccount::default()
            };
            Ledger {
                sinks: [("graphite".into(), sink)].into(),
                parts: [("sink:graphite".into(), part)].into(),
                ..Ledger::default()
            }
        };
        let states =
            [with(0.0, 0.0, 0), with(5.0, 0.0, 0), with(15.0, 0.0, 1), with(15.0, 22.0, 1), with(15.0, 30.0, 1)];
        let all: Vec<_> =
            states.iter().zip(1..).flat_map(|(state, i)| said(&mut changes, state, f64::from(i) * 10.0)).collect();
        assert_eq!(
            all,
            [
                "sink error graphite takes nothing | connection refused",
                "part error sink:graphite failed and was started again | why",
                "sink ok graphite takes records again | after 20 s",
            ]
        );
    }
}
