//! Lines of several samples, `name:1|c:2|g`, and lines that may concern presence.
//!
//! What the samples of a line have in common is worked out once a line, however many there are: who beats, and the key of
//! those that have the name's tags alone. Samples with tags of their own need a key each, which repeats the tags of the
//! name; what that takes is bounded by the length of the line.

use std::net::SocketAddr;

use crate::protocol::{Kind, Metric, ParseError, Reason, Signal};
use crate::series::Series;

use super::shard::{Place, Shard, bad_time, class_of, own_time};

/// How much longer than their line the keys of its samples may be, all together, beside [`FREE_EFFORT`] for each of them.
const EFFORT: usize = 16;
/// What a sample's key may take in any case, in bytes.
const FREE_EFFORT: usize = 256;

/// What presence makes of a line.
#[derive(Clone, Copy, PartialEq)]
enum HeartbeatOutcome {
    /// It is a metric.
    Nothing,
    /// It is a heartbeat, and a metric too.
    Forwarded,
    /// It is a heartbeat.
    Consumed,
}

/// What became of the first sample of a kind under the name's tags alone.
#[derive(Clone, Copy, Debug)]
enum Destination {
    /// A rule drops it.
    Dropped,
    /// It goes there.
    Recorded(Place),
}

/// What the samples of a line know of each other.
#[derive(Default)]
struct Shared {
    /// By kind.
    destinations: [Option<Destination>; Kind::ALL.len()],
    /// Of samples with a time of their own, by kind: the series, and the rule that treats it.
    stamped: [Option<(Series, u32)>; Kind::ALL.len()],
    /// What keys took so far, in bytes.
    effort: usize,
    /// How many samples there were.
    samples: usize,
}

impl Shard {
    /// Records the samples of a line; whether all were good.
    #[inline(never)]
    pub(super) fn several<'s>(
        &mut self,
        mut samples: impl Iterator<Item = Result<Metric<'s>, ParseError>> + Clone,
        line: &[u8],
        from: Option<SocketAddr>,
        now: f64,
    ) -> bool {
        let (mut first_good, mut first_error) = (None, None);
        for sample in samples.by_ref() {
            match sample {
                Ok(metric) => {
                    first_good = Some(metric);
                    break;
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        let mut heartbeat = HeartbeatOutcome::Nothing;
        if let Some(first) = first_good {
            let good = std::iter::once(Ok(first)).chain(samples);
            heartbeat = self.try_heartbeat(&first, &good, from);
            let later = match heartbeat {
                HeartbeatOutcome::Consumed => good.filter_map(Result::err).next(),
                HeartbeatOutcome::Nothing | HeartbeatOutcome::Forwarded => {
                    self.record_several(good, heartbeat, line, now)
                }
            };
            first_error = first_error.or(later);
        }
        match first_error {
            Some(error) => self.refuse(line, error, from),
            None if heartbeat == HeartbeatOutcome::Nothing => self.open.tally.metrics += 1,
            None => self.open.tally.heartbeats += 1,
        }
        first_error.is_none()
    }

    /// Records samples; the first fault.
    fn record_several<'s>(
        &mut self,
        samples: impl Iterator<Item = Result<Metric<'s>, ParseError>>,
        heartbeat: HeartbeatOutcome,
        line: &[u8],
        now: f64,
    ) -> Option<ParseError> {
        let (mut shared, mut first_error) = (Shared::default(), None);
        for sample in samples {
            let outcome = match sample {
                Ok(mut metric) => {
                    if !self.is_believed(&metric, now) {
                        if heartbeat == HeartbeatOutcome::Nothing {
                            first_error.get_or_insert_with(|| bad_time(line, b"T"));
                            continue;
                        }
                        // A heartbeat counts when it comes, whatever its sender's clock says.
                        metric.timestamp = None;
                    }
                    self.one_of_several(&metric, line, &mut shared, now)
                }
                Err(error) => Err(error),
            };
            first_error = first_error.or(outcome.err());
        }
        first_error
    }

    /// What a line says of presence whose first good sample begins the rest of them.
    fn try_heartbeat<'s>(
        &mut self,
        first: &Metric<'s>,
        samples: &(impl Iterator<Item = Result<Metric<'s>, ParseError>> + Clone),
        from: Option<SocketAddr>,
    ) -> HeartbeatOutcome {
        let Some(heartbeats) = &self.options.heartbeats else { return HeartbeatOutcome::Nothing };
        self.concerns_presence = heartbeats.may_concern(first);
        if !self.concerns_presence && !heartbeats.assist {
            return HeartbeatOutcome::Nothing;
        }
        let signal = heartbeats.of_line(samples.clone(), from.map(|from| from.ip()));
        let Some(signal) = signal else { return HeartbeatOutcome::Nothing };
        let heartbeat = match &signal {
            Signal::Heartbeat(_) if heartbeats.forward => HeartbeatOutcome::Forwarded,
            Signal::Heartbeat(_) => HeartbeatOutcome::Consumed,
            // They are metrics like any other, too.
            Signal::Maintenance { .. } | Signal::Assist { .. } | Signal::Ignored(_) => HeartbeatOutcome::Nothing,
        };
        self.signals.push(signal);
        heartbeat
    }

    fn one_of_several(
        &mut self,
        metric: &Metric<'_>,
        line: &[u8],
        shared: &mut Shared,
        now: f64,
    ) -> Result<(), ParseError> {
        let kind = self.kind_of(metric.kind);
        let stamp = own_time(metric, kind);
        let is_alike = !metric.tags.has_own();
        shared.samples += 1;
        match (stamp, &shared.stamped[kind as usize], shared.destinations[kind as usize]) {
            (_, _, Some(Destination::Dropped)) if is_alike => {
                self.count_dropped(metric);
                return Ok(());
            }
            (Some((time, value)), Some((series, rule)), _) if is_alike => {
                self.matched_rule = *rule;
                self.stamp(metric, series.clone(), time, value);
                return Ok(());
            }
            (None, _, Some(Destination::Recorded(place))) if is_alike => {
                self.open.tally.sections_skipped += u64::from(metric.skipped);
                self.update_at(place, metric, now);
                return Ok(());
            }
            _ => {}
        }
        if shared.effort > EFFORT * line.len() + FREE_EFFORT * shared.samples {
            return Err(ParseError::new(Reason::TooLong, metric.tags.place_in(line)));
        }
        self.keys.metric(metric, kind);
        self.open.tally.tags_cut += self.keys.cut();
        shared.effort += self.keys.effort();
        if self.options.rules.is_some() && self.is_dropped() {
            self.count_dropped(metric);
            if is_alike {
                shared.destinations[kind as usize] = Some(Destination::Dropped);
            }
            return Ok(());
        }
        if let Some((time, value)) = stamp {
            let series = Series::from_key(self.keys.last());
            if is_alike {
                shared.stamped[kind as usize] = Some((series.clone(), self.matched_rule));
            }
            self.stamp(metric, series, time, value);
            return Ok(());
        }
        let class = class_of(kind);
        let hash = self.hasher.hash(self.keys.last());
        let known = self.indexes[class as usize].find(hash, self.keys.last());
        let place = match known {
            Some(id) => Place { class, id, folded: false },
            None => self.new_place(metric, kind, hash),
        };
        if is_alike {
            shared.destinations[kind as usize] = Some(Destination::Recorded(place));
        }
        self.open.tally.sections_skipped += u64::from(metric.skipped);
        self.update_at(place, metric, now);
        Ok(())
    }
}
