//! Lines of several samples, `name:1|c:2|g`, and lines that may concern presence.
//!
//! What the samples of a line have in common is computed once per line, however many there are: the heartbeat, and the
//! key of samples that have only the name's tags. Samples with further tags need a key each, which repeats the tags of
//! the name; the total size of those is bounded by the length of the line.

use std::net::SocketAddr;

use crate::protocol::{Kind, Metric, ParseError, Reason, Signal};
use crate::series::Series;

use super::shard::{Folded, Place, Shard, bad_time, class_of, own_time};

/// The total size of the keys of a line's samples, as a multiple of the line, beyond [`FREE_EFFORT`] for each of them.
const EFFORT: usize = 16;
/// Size of a sample's key that is always allowed, in bytes.
const FREE_EFFORT: usize = 256;

/// Whether a line is a heartbeat.
#[derive(Clone, Copy, PartialEq)]
enum HeartbeatOutcome {
    /// A metric.
    Nothing,
    /// A heartbeat that is also a metric.
    Forwarded,
    /// A heartbeat.
    Consumed,
}

/// The outcome of the first sample of a kind that has only the name's tags.
#[derive(Clone, Copy, Debug)]
enum Destination {
    /// Dropped by a rule.
    Dropped,
    /// Recorded here, times this.
    Recorded(Place, f64),
}

/// Shared state of the samples of a line.
#[derive(Default)]
struct Shared {
    /// By kind.
    destinations: [Option<Destination>; Kind::ALL.len()],
    /// For samples with a timestamp, by kind: the series, the rule that applies, and what values are multiplied by.
    timestamped: [Option<(Series, u32, f64)>; Kind::ALL.len()],
    /// Size of the keys so far, in bytes.
    effort: usize,
    /// The number of samples so far.
    samples: usize,
}

impl Shard {
    /// Records the samples of a line; returns whether all were valid.
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
                    self.record_several(good, heartbeat, line, from, now)
                }
            };
            first_error = first_error.or(later);
        }
        match first_error {
            Some(error) => self.refuse(line, error, from),
            None if heartbeat == HeartbeatOutcome::Nothing => self.open.tally.lines.metrics += 1,
            None => self.open.tally.lines.heartbeats += 1,
        }
        first_error.is_none()
    }

    /// Records samples; returns the first error.
    fn record_several<'s>(
        &mut self,
        samples: impl Iterator<Item = Result<Metric<'s>, ParseError>>,
        heartbeat: HeartbeatOutcome,
        line: &[u8],
        from: Option<SocketAddr>,
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
                        // A heartbeat counts when it arrives, whatever its sender's clock says.
                        metric.timestamp = None;
                    }
                    self.one_of_several(&metric, line, &mut shared, from, now)
                }
                Err(error) => Err(error),
            };
            first_error = first_error.or(outcome.err());
        }
        first_error
    }

    /// Handles the presence part of a line, from its first valid sample on.
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
            // They are also ordinary metrics.
            Signal::Maintenance { .. } | Signal::Assist { .. } | Signal::Ignored(_) | Signal::Watched(_) => {
                HeartbeatOutcome::Nothing
            }
        };
        self.signals.push(signal);
        heartbeat
    }

    fn one_of_several(
        &mut self,
        metric: &Metric<'_>,
        line: &[u8],
        shared: &mut Shared,
        from: Option<SocketAddr>,
        now: f64,
    ) -> Result<(), ParseError> {
        let kind = self.kind_of(metric.kind);
        let stamp = own_time(metric, kind);
        let is_alike = !metric.tags.has_own();
        shared.samples += 1;
        match (stamp, &shared.timestamped[kind as usize], shared.destinations[kind as usize]) {
            (_, _, Some(Destination::Dropped)) if is_alike => {
                self.count_dropped(metric);
                return Ok(());
            }
            (Some((time, value)), Some((series, rule, scale)), _) if is_alike => {
                (self.matched_rule, self.scale) = (*rule, *scale);
                self.stamp(metric, series.clone(), time, value);
                return Ok(());
            }
            (None, _, Some(Destination::Recorded(place, scale))) if is_alike => {
                self.scale = scale;
                self.open.tally.lines.sections_skipped += u64::from(metric.skipped);
                self.update_at(place, metric, now);
                return Ok(());
            }
            _ => {}
        }
        if shared.effort > EFFORT * line.len() + FREE_EFFORT * shared.samples {
            return Err(ParseError::new(Reason::TooLong, metric.tags.place_in(line)));
        }
        self.keys.metric(metric, kind);
        self.open.tally.lines.tags_cut += self.keys.cut();
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
                shared.timestamped[kind as usize] = Some((series.clone(), self.matched_rule, self.scale));
            }
            self.stamp(metric, series, time, value);
            return Ok(());
        }
        let class = class_of(kind);
        let hash = self.hasher.hash(self.keys.last());
        let known = self.indexes[class as usize].find(hash, self.keys.last());
        let place = match known {
            Some(id) => Place { class, id, folded: Folded::No },
            None => self.new_place(metric, kind, hash, &from),
        };
        if is_alike {
            shared.destinations[kind as usize] = Some(Destination::Recorded(place, self.scale));
        }
        self.open.tally.lines.sections_skipped += u64::from(metric.skipped);
        self.update_at(place, metric, now);
        Ok(())
    }
}
