//! Who took the place of an instance that fell silent: a newer id of its service; a whole newer generation; or one that came
//! back when it fell silent, where they take turns. One stands for one, and whoever is replaced is no outage.
//!
//! Instances of a service are in the order in which they were registered, so newcomers are found by halving.

use serde::{Deserialize, Serialize};

use super::instance::{Instance, State};
use super::policy::Policy;
use super::roster::{InstanceId, Roster};
use super::service::Service;
use super::time::EngineTime;

/// How long before or after the silence of an instance its replacement may have come, in seconds.
const WITHIN: f64 = 600.0;

/// How long before that silence a newer generation may have come, in seconds, if the silent one was there alone for as long.
const SIDE_BY_SIDE: f64 = 3600.0;

/// Who went down or was replaced in these last seconds counts for the size of a service.
const COUNTED_FOR: f64 = 3600.0;

/// Seconds for which the size of a service is remembered, and sizes that are remembered.
const SIZE_KEPT: f64 = 7.0 * 86_400.0;
const SIZES: usize = 64;

/// Two of a service that were present together are remembered for so long, in seconds: until then they take no turns.
pub(super) const TOGETHER_KEPT: f64 = 86_400.0;

/// What took the place of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    /// This instance.
    By(InstanceId),
    /// A newer generation, each of which stands for another one already.
    Generation,
}

/// How large a service was when some of it was replaced, in the last days. Largest, and oldest, first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Sizes(Vec<(EngineTime, usize)>);

impl Sizes {
    pub(super) fn note(&mut self, size: usize, now: EngineTime) {
        self.0.retain(|&(at, known)| now - at < SIZE_KEPT && known > size);
        if self.0.len() == SIZES {
            self.0.pop();
        }
        self.0.push((now, size));
    }

    fn largest(&self, now: EngineTime) -> usize {
        let sizes = self.0.iter().filter(|&&(at, _)| now - at < SIZE_KEPT);
        sizes.map(|&(_, size)| size).max().unwrap_or(0)
    }

    /// The next time at which one is forgotten.
    pub(super) fn next(&self, now: EngineTime) -> Option<EngineTime> {
        self.0.iter().map(|&(at, _)| at + SIZE_KEPT).filter(|&at| at > now).reduce(EngineTime::min)
    }
}

/// The search for whom took the place of one instance.
struct Search<'a> {
    roster: &'a Roster,
    service: &'a Service,
    gone: &'a Instance,
    /// Its last sign of life.
    last: EngineTime,
    /// The silence that means down.
    timeout: f64,
    now: EngineTime,
}

/// Who took the place of an instance that fell silent, if anybody did.
pub(super) fn replacement_of(id: InstanceId, roster: &Roster, policy: &Policy, now: EngineTime) -> Option<Replacement> {
    let gone = roster.instance(id);
    let service = roster.service_of(gone);
    let timing = gone.detector().timing(policy, service.rules());
    let search = Search { roster, service, gone, last: gone.detector().last_life(), timeout: timing.down, now };
    let by = search.newer().map(Replacement::By);
    by.or_else(|| search.generation()).or_else(|| search.turn(timing.first()).map(Replacement::By))
}

impl<'a> Search<'a> {
    /// The instances of the service from the first on for which `is_late_enough` holds, and which were registered within
    /// [`WITHIN`] after the last sign of life.
    fn registered(&self, is_late_enough: impl Fn(EngineTime) -> bool) -> &'a [InstanceId] {
        let (all, first) = (self.service.instances(), |id: InstanceId| self.roster.instance(id).first());
        let from =
            all.partition_point(|&id| !(first(id) > self.gone.first() + self.timeout && is_late_enough(first(id))));
        let rest = &all[from..];
        &rest[..rest.partition_point(|&id| first(id) <= self.last + WITHIN)]
    }

    /// Whether an instance is up, was heard twice, and is another one.
    fn is_established(&self, id: InstanceId) -> bool {
        let instance = self.roster.instance(id);
        instance.state() == State::Up && instance.received() >= 2 && instance.order() != self.gone.order()
    }

    fn is_free(&self, id: InstanceId) -> bool {
        !self.roster.instance(id).replaces()
    }

    /// A newer id that came about when this one fell silent.
    fn newer(&self) -> Option<InstanceId> {
        let newer = self.registered(|first| first >= self.last - WITHIN);
        newer.iter().copied().find(|&id| self.is_established(id) && self.is_free(id))
    }

    /// All that are older than the newcomers are silent: those are a newer generation. Each stands for one; when all do,
    /// they stand for the rest, too, if they are about as many as the service was.
    fn generation(&self) -> Option<Replacement> {
        let alone = |first: EngineTime| (first - self.gone.first()).clamp(WITHIN, SIDE_BY_SIDE);
        let newcomers = self.registered(|first| first >= self.last - alone(first));
        let start = newcomers.iter().position(|&id| self.is_established(id))?;
        let newcomers = &newcomers[start..];
        let cut = self.roster.instance(newcomers[0]).first();
        if self.service.up() > self.up_since(cut) {
            return None;
        }
        let newcomers = || newcomers.iter().copied().filter(|&id| self.is_established(id));
        if let Some(free) = newcomers().find(|&id| self.is_free(id)) {
            return Some(Replacement::By(free));
        }
        let size = size_before(self.service, cut, self.roster, self.now).max(self.service.sizes().largest(self.now));
        (newcomers().count() >= size - size / 4).then_some(Replacement::Generation)
    }

    /// How many that were registered at `cut` or later are up.
    fn up_since(&self, cut: EngineTime) -> usize {
        let all = self.service.instances();
        let from = all.partition_point(|&id| self.roster.instance(id).first() < cut);
        all[from..].iter().filter(|&&id| self.roster.instance(id).state() == State::Up).count()
    }

    /// One that came back about when this one fell silent, in a service of which one is present at a time.
    fn turn(&self, patience: f64) -> Option<InstanceId> {
        if self.now - self.service.together_at() <= TOGETHER_KEPT {
            return None;
        }
        let is_turn = |back: EngineTime| back >= self.last - patience && back <= self.last + WITHIN;
        self.service.instances().iter().copied().find(|&id| {
            let instance = self.roster.instance(id);
            instance.order() != self.gone.order() && instance.came_back().is_some_and(is_turn)
        })
    }
}

/// How many a service was before `cut`: those of before that are there, or went down or were replaced within the hour.
pub(super) fn size_before(service: &Service, cut: EngineTime, roster: &Roster, now: EngineTime) -> usize {
    let is_counted = |instance: &Instance| match instance.state() {
        State::Up | State::Late | State::Unknown => true,
        State::Down => now - instance.detector().last_life() < COUNTED_FOR,
        State::Left => instance.was_replaced() && instance.left_at() > now - COUNTED_FOR,
    };
    let older = roster.instances_of(service).take_while(|instance| instance.first() < cut);
    older.filter(|instance| !instance.replaces() && is_counted(instance)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    #[test]
    fn the_largest_size_of_the_last_week_counts() {
        let mut sizes = Sizes::default();
        for (day, size) in [(0.0, 5), (1.0, 9), (2.0, 4), (3.0, 6)] {
            sizes.note(size, at(86_400.0 * day));
        }
        assert_eq!(sizes.0.len(), 2);
        assert_eq!((sizes.largest(at(86_400.0 * 7.9)), sizes.largest(at(86_400.0 * 8.1))), (9, 6));
        assert_eq!(sizes.next(at(86_400.0 * 5.0)), Some(at(86_400.0 * 8.0)));
        (0..1000).rev().for_each(|size| sizes.note(size, at(86_400.0 * 4.0)));
        assert!(sizes.0.len() <= SIZES);
    }
}
