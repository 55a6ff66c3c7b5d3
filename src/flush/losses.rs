//! What an interval lost, in sentences that say what helps: for the log, and for the status until the next tick.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::aggregate::{MAX_EVENTS_AND_CHECKS, MAX_TIMESTAMPED, Partial};
use crate::presence::UnixTime;
use crate::telemetry::{Account, Concern, Ledger, Limit, ListenerAccount, PortAccount, Tally, Warning};
use crate::untrusted::Escaped;

use super::repeats::Repeats;
use super::worst;

/// A certificate that ends within this time, in seconds, is worth a sentence.
const NEAR_END: f64 = 7.0 * 86_400.0;

/// What the last interval lost.
#[derive(Debug, Default)]
pub(super) struct Losses {
    warnings: Vec<Warning>,
    /// Who sent what `allow` refused, of the last interval that has one.
    pub(super) refused_from: Option<IpAddr>,
    /// Ports whose certificates could not be read again when that was tried last.
    stale: BTreeSet<String>,
}

impl Losses {
    /// Begins with what workers and listeners saw of an interval, and logs what bounds made be dropped.
    pub(super) fn begin(&mut self, partials: &[Partial], listeners: &[ListenerAccount], repeats: &mut Repeats) {
        self.warnings.clear();
        self.refused_from = partials.iter().find_map(|partial| partial.refused_from).or(self.refused_from);
        for listener in listeners.iter().filter(|listener| listener.kernel_drops > 0) {
            self.warnings.push(Concern::Drops.says(format!(
                "{}: the kernel dropped {} datagrams in the last interval: raise `receive_buffer` or `workers`",
                listener.url, listener.kernel_drops
            )));
        }
        let limits = limits(partials);
        for warning in &limits {
            let what = match warning.about {
                Concern::Series => "intervals with `max_series` reached",
                Concern::Events => "intervals with events over a limit",
                _ => "intervals with values over a limit",
            };
            if repeats.is_new(what, 1) {
                tracing::warn!("{}", warning.text);
            }
        }
        self.warnings.extend(limits);
    }

    /// Adds further ones.
    pub(super) fn add(&mut self, more: Vec<Warning>) {
        self.warnings.extend(more);
    }

    /// Adds what sinks and ports lost between two readings. A receiver that takes everything, and too slowly, is logged: one that
    /// fails is in the log already.
    pub(super) fn of_sources(&mut self, now: &Ledger, before: &Ledger, repeats: &mut Repeats) {
        for (name, sink) in &now.sinks {
            let fresh = before.sinks.get(name).map_or_else(|| sink.clone(), |before| sink.since(before));
            let late = fresh.dropped.of("queue_full");
            let what = || {
                format!("records that the sink {name} dropped, for its receiver takes them more slowly than they come")
            };
            // What is on disk may wait for that.
            if late > 0 && sink.last_error.is_none() && sink.spooled == 0 && repeats.is_new(&what(), late) {
                let took = format!("{:.0} ms", sink.delivery_ms);
                tracing::warn!(
                    sink = name,
                    records = late,
                    took,
                    "the receiver takes intervals more slowly than they come: the oldest that waited are dropped"
                );
            }
            let mut lost = fresh.dropped;
            // It is not meant for it, and no loss.
            lost.clear("unsupported");
            if let Some((most, _)) = lost.iter().max_by_key(|(_, n)| *n) {
                let error = sink.last_error.as_ref().map_or_else(String::new, |error| format!("; {error}"));
                self.warnings.push(Concern::Sink.says(format!(
                    "sink {name} dropped {} records in the last interval ({}){error}: {}",
                    lost.total(),
                    lost.text(),
                    remedy(most)
                )));
            }
        }
        for (name, port) in &now.ports {
            let fresh = before.ports.get(name).map_or_else(|| port.clone(), |before| port.since(before));
            if fresh.tls_reloads_failed > 0 {
                self.stale.insert(name.clone());
            } else if fresh.tls_reloads > 0 {
                self.stale.remove(name);
            }
        }
        let stale = self.stale.iter().map(|port| {
            Concern::Certificate.says(format!(
                "{port}: the changed certificate cannot be used, and the old one stays: the log says why"
            ))
        });
        self.warnings.extend(stale);
    }

    /// All of them.
    pub(super) fn warnings(&self) -> Arc<[Warning]> {
        self.warnings.iter().cloned().collect()
    }
}

/// What helps where a sink drops for this reason.
fn remedy(reason: &str) -> &'static str {
    match reason {
        "queue_full" => "see to its receiver, and give it a `spool`",
        "memory" => "see to its receiver, or raise `max_memory`",
        "spool_full" => "see to its receiver, or raise `max` of its `spool`",
        "spool_expired" => "see to its receiver, or raise `max_age` of its `spool`",
        "spool_damaged" => "see to the disk of its `spool`",
        "max_series" => "raise `max_series`, or give the sink an `exclude`",
        "refused" => "see to its receiver: the log has its answer",
        "conflict" => "rename one of the series with a rule: the log has their name",
        "closed" => "let somebody read its standard output",
        _ => "the log says why",
    }
}

/// What was dropped, or went elsewhere, because a bound other than `max_memory` was reached.
fn limits(partials: &[Partial]) -> Vec<Warning> {
    let sum = |of: fn(&Tally) -> u64| partials.iter().map(|partial| of(&partial.tally)).sum::<u64>();
    let most = |of: fn(&Partial) -> &_| match worst(partials, of) {
        Some((prefix, about)) => {
            format!("; most of their names begin with `{}` (about {about})", Escaped(&prefix))
        }
        None => String::new(),
    };
    let mut out = Vec::new();
    let folded = sum(|tally| tally.samples.folded - tally.memory.folded);
    if folded > 0 {
        out.push(Concern::Series.says(format!(
            "`max_series` is reached: {folded} samples of new names went to `systole.overflow`{}: drop or rename the \
             identifier with a rule, or raise `max_series`",
            most(|partial| &partial.offenders)
        )));
    }
    let timestamped = sum(|tally| tally.samples.limited.of(Limit::Timestamped));
    if timestamped > 0 {
        out.push(Concern::Values.says(format!(
            "{timestamped} samples with a timestamp were dropped: a worker keeps {MAX_TIMESTAMPED} of them, or 32 MiB \
             of their names, an interval{}: send them without one, or shorten `interval`",
            most(|partial| &partial.dropped)
        )));
    }
    let kv = sum(|tally| tally.samples.limited.of(Limit::KvValues));
    if kv > 0 {
        out.push(Concern::Values.says(format!(
            "{kv} values of `kv` pairs were dropped: a series had more in the interval than are kept: send fewer, or \
             shorten `interval`"
        )));
    }
    let notes = sum(|tally| tally.lines.notes_dropped - tally.memory.events_dropped);
    if notes > 0 {
        out.push(Concern::Events.says(format!(
            "{notes} events and service checks were dropped: a worker keeps {MAX_EVENTS_AND_CHECKS} of them, or 32 MiB, \
             an interval{}: send fewer, or shorten `interval`",
            most(|partial| &partial.dropped)
        )));
    }
    out
}

/// Certificates that end soon or have ended, at `now` Unix seconds.
pub(super) fn certificates(ledger: &Ledger, now: f64) -> impl Iterator<Item = Warning> {
    let with_tls = ledger.ports.iter().filter(|(_, port)| port.tls_expires > 0.0);
    let sentence = move |(port, account): (&String, &PortAccount)| {
        let left = account.tls_expires - now;
        if left <= 0.0 {
            Some(format!("{port}: the certificate has ended, and clients refuse it: replace its file"))
        } else if left < NEAR_END {
            let hours = (left / 3600.0).ceil();
            let left = if hours < 48.0 { format!("{hours} hours") } else { format!("{} days", (hours / 24.0).floor()) };
            Some(format!("{port}: the certificate ends in {left}: replace its file"))
        } else {
            None
        }
    };
    with_tls.filter_map(sentence).map(|text| Concern::Certificate.says(text))
}

/// Targets that alerts are not delivered to.
pub(super) fn alerts(ledger: &Ledger) -> impl Iterator<Item = Warning> {
    let failing = ledger.notify.iter().filter(|(_, target)| target.is_failing());
    failing.map(|(name, target)| {
        let (outstanding, since) = (target.outstanding(), UnixTime::from_secs(target.failing_since).clock());
        let why = target.last_error.as_deref().unwrap_or("it fails");
        Concern::Alerts.says(format!("alerts are not delivered to `{name}`: {outstanding}, since {since}: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::SinkAccount;

    #[test]
    fn each_bound_has_a_sentence_with_its_worst_prefix() {
        let mut partial = Partial::default();
        partial.tally.samples.limited.count(Limit::Timestamped, 5);
        partial.dropped.add(b"backfill.x");
        partial.tally.samples.folded = 3;
        partial.offenders.add(b"user.1");
        let (about, said): (Vec<_>, Vec<_>) =
            limits(&[partial]).into_iter().map(|warning| (warning.about, warning.text)).unzip();
        assert_eq!(about, [Concern::Series, Concern::Values]);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("`max_series` is reached: 3 samples") && said[0].contains("`user`"), "{said:?}");
        assert!(said[1].starts_with("5 samples with a timestamp") && said[1].contains("`backfill`"), "{said:?}");
        assert!(said[1].contains("100000"), "{said:?}");
    }

    #[test]
    fn a_sink_that_drops_and_certificates_that_fail_are_named_while_that_holds() {
        let port = |ok, failed| PortAccount { tls_reloads: ok, tls_reloads_failed: failed, ..PortAccount::default() };
        let at = |dropped, port| {
            let mut sink = SinkAccount::default();
            sink.dropped.count("queue_full", dropped);
            sink.dropped.count("unsupported", dropped * 2);
            Ledger {
                sinks: [("a".into(), sink)].into(),
                ports: [("https://x".into(), port)].into(),
                ..Ledger::default()
            }
        };
        let states = [at(0, port(0, 0)), at(4, port(0, 1)), at(4, port(0, 1)), at(4, port(1, 1))];
        let mut losses = Losses::default();
        let mut said = states.windows(2).map(|two| {
            losses.begin(&[], &[], &mut Repeats::default());
            losses.of_sources(&two[1], &two[0], &mut Repeats::default());
            losses.warnings().iter().map(|warning| warning.text.clone()).collect::<Vec<_>>()
        });
        let first = said.next().expect("sentences");
        let advice =
            "sink a dropped 4 records in the last interval (queue_full 4): see to its receiver, and give it a `spool`";
        assert_eq!(first[0], advice);
        assert!(!remedy("max_series").contains("spool"));
        assert!(first[1].starts_with("https://x: the changed certificate cannot be used"), "{first:?}");
        assert_eq!((first.len(), said.next().expect("sentences").len()), (2, 1));
        assert_eq!(said.next().expect("sentences").len(), 0);
    }

    #[test]
    fn certificates_are_named_a_week_before_they_end_and_after() {
        let of = |expires| {
            let port = PortAccount { tls_expires: expires, ..PortAccount::default() };
            let ledger = Ledger { ports: [("https://x".into(), port)].into(), ..Ledger::default() };
            certificates(&ledger, 1e9).map(|warning| warning.text).collect::<String>()
        };
        assert_eq!((of(0.0).as_str(), of(1e9 + 8.0 * 86_400.0).as_str()), ("", ""));
        assert!(of(1e9 - 1.0).contains("has ended") && of(1e9 + 3.5 * 86_400.0).contains("ends in 3 days"));
        assert!(of(1e9 + 7200.0).contains("ends in 2 hours"));
    }
}
