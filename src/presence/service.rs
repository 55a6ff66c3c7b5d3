//! One service: what its instances make of it, and what of that is notified.

use std::collections::BTreeSet;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::named::named_enum;

use super::crash_loop::CrashLoop;
use super::habit::Habit;
use super::instance::{Instance, State};
use super::policy::{Policy, Rules};
use super::replacement::{Sizes, TOGETHER_KEPT};
use super::roster::InstanceId;
use super::runs::Runs;
use super::time::EngineTime;

named_enum! {
    /// What is known of a service.
    pub enum ServiceState {
        /// Expected, and not heard yet.
        Unknown = "unknown",
        /// Enough instances are present.
        Up = "up",
        /// Fewer than its minimum or its quorum are present.
        Degraded = "degraded",
        /// Nobody is present, and somebody is unaccounted for.
        Down = "down",
        /// Nobody is present, as was announced.
        Maintenance = "maintenance",
        /// Everybody said goodbye.
        Left = "left",
    }
}

impl ServiceState {
    /// Somebody may have to do something.
    pub fn is_bad(self) -> bool {
        matches!(self, ServiceState::Down | ServiceState::Degraded)
    }

    /// How bad: what was notified at one level is notified again at the next.
    fn level(self) -> u8 {
        match self {
            ServiceState::Degraded => 1,
            ServiceState::Down => 2,
            ServiceState::Unknown | ServiceState::Up | ServiceState::Maintenance | ServiceState::Left => 0,
        }
    }
}

/// Beats after which a service is established, once it is older than its timeout.
pub(super) const ESTABLISHED_BEATS: u8 = 3;

/// Beats of a service that come closer, in seconds, are one: copies of a datagram.
const COPY_SECS: f64 = 0.05;

/// A shortage against the minimum that no down explains must last so long, in seconds: cold starts, clean restarts.
const SHORT_FOR: f64 = 60.0;

/// A service that was there for so long is missed when all of it has left, in seconds.
const MISSED_SECS: f64 = 3600.0;

/// That two of its instances are present together is noted so often, in seconds.
pub(super) const TOGETHER_EVERY: f64 = 60.0;

/// An instance that is not present, in the order in which they make room for others: who left before who is down, then
/// the oldest change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Absent {
    is_down: bool,
    /// When it changed; the order of the bits is that of the times, which are not negative.
    changed: u64,
    order: u64,
    id: InstanceId,
}

impl Absent {
    /// `None` if it is present.
    fn of(id: InstanceId, instance: &Instance) -> Option<Absent> {
        let changed = instance.changed().as_secs().max(0.0).to_bits();
        let absent = Absent { is_down: instance.is_down(), changed, order: instance.order(), id };
        (!instance.is_present()).then_some(absent)
    }
}

/// How many of a service's instances are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) present: usize,
    pub(super) down: usize,
    /// Down, as was announced.
    pub(super) maintained: usize,
    pub(super) left: usize,
}

/// What the end of flapping means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// There was an alarm about it.
    pub(super) was_notified: bool,
    /// What it was in the meantime is still so, and is to be notified.
    pub(super) is_due: bool,
}

/// What is remembered of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    name: CompactString,
    state: Option<ServiceState>,
    notified: bool,
    /// Its instances in the order of registration.
    #[serde(skip)]
    instances: Vec<InstanceId>,
    /// How many of them are present, and how many of these are up.
    #[serde(skip)]
    present: usize,
    #[serde(skip)]
    up: usize,
    /// Those of them that are not.
    #[serde(skip)]
    absent: BTreeSet<Absent>,
    /// When it was registered; its beats, as far as they are counted, and the last of these.
    #[serde(default)]
    born: EngineTime,
    #[serde(default)]
    beats: u8,
    #[serde(default)]
    beat_at: EngineTime,
    /// It was heard often and long enough not to give way to others.
    #[serde(default)]
    established: bool,
    maintenance_until: EngineTime,
    /// From when on its minimum holds, if it is expected.
    expect_at: Option<EngineTime>,
    flaps: Vec<EngineTime>,
    flapping: bool,
    #[serde(rename = "flapping_told")]
    flapping_notified: bool,
    stable: EngineTime,
    changed: EngineTime,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    limit_warned: bool,
    /// What was notified last: 0 nothing, 1 degraded, 2 down.
    level: u8,
    /// Since when it is there without a break.
    alive: Option<EngineTime>,
    /// There was a warning that it is gone.
    gone: bool,
    /// Since when it has fewer than its minimum.
    short_since: Option<EngineTime>,
    /// One of it was heard.
    #[serde(default)]
    heard: bool,
    /// When two of its instances were known to be present together for longer than the timeout.
    #[serde(default = "long_ago")]
    together_at: EngineTime,
    /// When nobody was left after a goodbye that ended a short stay.
    #[serde(default)]
    missed: Vec<EngineTime>,
    #[serde(default)]
    sizes: Sizes,
    #[serde(default)]
    runs: Runs,
    #[serde(default)]
    crash_loop: CrashLoop,
    #[serde(default)]
    habit: Habit,
    /// Transitions of its instances that sinks do not have yet, by the place in [`Service::TRANSITIONS`].
    #[serde(skip)]
    transitions: [u32; Service::TRANSITIONS.len()],
    #[serde(skip)]
    rules: Rules,
    #[serde(skip)]
    order: u64,
}

fn long_ago() -> EngineTime {
    EngineTime::LONG_AGO
}

impl Service {
    /// What an instance can go to; `None` is being forgotten.
    const TRANSITIONS: [Option<State>; 6] =
        [Some(State::Unknown), Some(State::Up), Some(State::Late), Some(State::Down), Some(State::Left), None];

    pub(super) fn new(name: &str, rules: Rules, habit: Habit, order: u64, now: EngineTime) -> Service {
        Service {
            name: name.into(),
            state: None,
            notified: false,
            instances: Vec::new(),
            present: 0,
            up: 0,
            absent: BTreeSet::new(),
            born: now,
            beats: 0,
            beat_at: EngineTime::LONG_AGO,
            established: false,
            maintenance_until: EngineTime::default(),
            expect_at: None,
            flaps: Vec::new(),
            flapping: false,
            flapping_notified: false,
            stable: now,
            changed: now,
            limit_warned: false,
            level: 0,
            alive: None,
            gone: false,
            short_since: None,
            heard: false,
            together_at: EngineTime::LONG_AGO,
            missed: Vec::new(),
            sizes: Sizes::default(),
            runs: Runs::default(),
            crash_loop: CrashLoop::default(),
            habit,
            transitions: [0; Service::TRANSITIONS.len()],
            rules,
            order,
        }
    }

    /// One that was saved at `now`, in its place in this engine; its instances are still to come.
    #[must_use]
    pub(super) fn restored(mut self, rules: Rules, order: u64, now: EngineTime) -> Service {
        self.runs.recount();
        for at in [&mut self.born, &mut self.beat_at, &mut self.stable, &mut self.changed] {
            *at = at.min(now);
        }
        for at in [&mut self.alive, &mut self.short_since].into_iter().flatten() {
            *at = at.min(now);
        }
        Service { rules, order, instances: Vec::new(), present: 0, up: 0, absent: BTreeSet::new(), ..self }
    }

    /// It is expected: it must be there a while from now on, even if it never says anything.
    pub(super) fn expect(&mut self, now: EngineTime) {
        self.state = Some(ServiceState::Unknown);
        self.expect_at = Some(now + self.rules.within);
    }

    /// It is no longer expected: without instances it is forgotten.
    pub(super) fn cancel_expectation(&mut self) {
        self.expect_at = None;
    }
}

/// What it is.
impl Service {
    pub(super) fn name(&self) -> &CompactString {
        &self.name
    }

    pub(super) fn order(&self) -> u64 {
        self.order
    }

    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn state(&self) -> Option<ServiceState> {
        self.state
    }

    /// Since when it is in its state.
    pub(super) fn changed(&self) -> EngineTime {
        self.changed
    }

    pub(super) fn is_expected(&self) -> bool {
        self.expect_at.is_some()
    }

    pub(super) fn maintenance_until(&self) -> EngineTime {
        self.maintenance_until
    }

    pub(super) fn maintain_until(&mut self, until: EngineTime) {
        self.maintenance_until = until;
    }

    /// Its instances have not left: they are something else now. So nobody is missing.
    pub(super) fn end_stay(&mut self) {
        self.alive = None;
    }

    /// `true` the first time that one of its limits is reached.
    pub(super) fn note_limit(&mut self) -> bool {
        !std::mem::replace(&mut self.limit_warned, true)
    }
}

/// Its instances.
impl Service {
    /// In the order of registration.
    pub(super) fn instances(&self) -> &[InstanceId] {
        &self.instances
    }

    /// How many are present.
    pub(super) fn present(&self) -> usize {
        self.present
    }

    /// Who makes room for a new one.
    pub(super) fn oldest_absent(&self) -> Option<InstanceId> {
        self.absent.first().map(|absent| absent.id)
    }

    /// How many are up.
    pub(super) fn up(&self) -> usize {
        self.up
    }

    /// Those that are down, in the order of registration.
    pub(super) fn down(&self) -> Vec<InstanceId> {
        let mut down: Vec<&Absent> = self.absent.iter().rev().take_while(|absent| absent.is_down).collect();
        down.sort_unstable_by_key(|absent| absent.order);
        down.into_iter().map(|absent| absent.id).collect()
    }

    /// Takes a new instance, which counts as present with its first transition.
    pub(super) fn add_instance(&mut self, id: InstanceId, instance: &Instance) {
        self.instances.push(id);
        self.runs.count(false, !instance.is_short());
        self.absent.extend(Absent::of(id, instance));
    }

    /// One that was restored counts at once.
    pub(super) fn count_restored(&mut self, instance: &Instance) {
        self.present += usize::from(instance.is_present());
    }

    pub(super) fn remove_instance(&mut self, place: usize) {
        self.instances.remove(place);
    }

    /// An instance is about to change.
    pub(super) fn before_transition(&mut self, id: InstanceId, instance: &Instance) {
        if let Some(absent) = Absent::of(id, instance) {
            self.absent.remove(&absent);
        }
    }

    /// An instance went from one state to another; `true` if the first came or the last is no longer present.
    pub(super) fn after_transition(
        &mut self,
        id: InstanceId,
        instance: &Instance,
        (from, to): (Option<State>, Option<State>),
    ) -> bool {
        self.absent.extend(Absent::of(id, instance).filter(|_| to.is_some()));
        if let Some(at) = Service::TRANSITIONS.iter().position(|known| *known == to) {
            self.transitions[at] += 1;
        }
        let (was, is) = (from.is_some_and(State::is_present), to.is_some_and(State::is_present));
        let (was_up, is_up) = (from == Some(State::Up), to == Some(State::Up));
        self.up = self.up + usize::from(is_up) - usize::from(was_up);
        let before = self.present;
        self.present = self.present + usize::from(is) - usize::from(was);
        (before == 0) != (self.present == 0)
    }

    /// Transitions of its instances since this was last asked.
    pub(super) fn take_transitions(&mut self) -> impl Iterator<Item = (Option<State>, u32)> + use<> {
        Service::TRANSITIONS.into_iter().zip(std::mem::take(&mut self.transitions)).filter(|(_, count)| *count > 0)
    }
}

/// Whether it is established: heard often enough, and for long enough, not to give way to others.
impl Service {
    /// By the timeout that counts for whoever asks, an instance's own or the least of all; it is computed if it matters.
    pub(super) fn is_established(&self, now: EngineTime, timeout: impl FnOnce() -> f64) -> bool {
        self.established || (self.beats >= ESTABLISHED_BEATS && now - self.born >= timeout())
    }

    /// It is known to be established already.
    pub(super) fn is_known_as_established(&self) -> bool {
        self.established
    }

    /// It stays established from now on.
    pub(super) fn establish(&mut self) {
        self.established = true;
    }

    /// Counts a beat of an instance with that timeout.
    pub(super) fn count_beat(&mut self, now: EngineTime, timeout: f64) {
        if now - self.beat_at >= COPY_SECS {
            self.beat_at = now;
            self.beats = self.beats.saturating_add(1);
        }
        self.established = self.is_established(now, || timeout);
    }

    /// Another node knows it since then, and has heard it so often.
    pub(super) fn adopt(&mut self, born: EngineTime, beats: u64) {
        self.born = self.born.min(born);
        self.beats = self.beats.max(beats.min(u64::from(ESTABLISHED_BEATS)) as u8);
    }

    /// Adds what an older state lacks: how many beats it had, and since when.
    pub(super) fn complete(&mut self, beats: u64, born: EngineTime) {
        self.heard |= beats > 0;
        if self.beats == 0 {
            (self.beats, self.born) = (beats.min(u64::from(ESTABLISHED_BEATS)) as u8, born);
        }
    }
}

/// What its instances make of it.
impl Service {
    /// Its state at `now`; `None` if it has no instances and nobody expects any.
    pub(super) fn evaluate(&mut self, census: Census, now: EngineTime) -> Option<ServiceState> {
        let Census { present, down, maintained, left } = census;
        let is_maintained = self.maintenance_until > now;
        let armed = self.expect_at.is_none_or(|at| now >= at);
        let min = self.minimum_in_force(census, armed, now);
        if present == 0 {
            let is_missed = min.is_some() && armed && !is_maintained && maintained == 0;
            return if down > 0 || is_missed {
                Some(ServiceState::Down)
            } else if maintained > 0 {
                Some(ServiceState::Maintenance)
            } else if self.expect_at.is_some() && !armed {
                Some(ServiceState::Unknown)
            } else {
                (left > 0).then_some(ServiceState::Left)
            };
        }
        let is_short = !is_maintained && armed && min.is_some_and(|min| present < min);
        let share = present as f64 / (present + down) as f64;
        let has_quorum = self.rules.quorum > 0.0 && !self.rules.ephemeral && !self.runs.are_known();
        let is_below = has_quorum && share < self.rules.quorum;
        Some(if is_short || is_below { ServiceState::Degraded } else { ServiceState::Up })
    }

    /// The minimum, unless the shortage is young and no down explains it.
    fn minimum_in_force(&mut self, census: Census, armed: bool, now: EngineTime) -> Option<usize> {
        let min = self.rules.min.filter(|&min| min > 0)? as usize;
        if census.present >= min {
            self.short_since = None;
            return Some(min);
        }
        let since = *self.short_since.get_or_insert(now);
        let is_young = now < since + SHORT_FOR && self.heard;
        let is_excused = armed && census.down < min - census.present && is_young;
        (!is_excused).then_some(min)
    }

    /// The next time after `now` at which time alone may change something about it, its instances left out.
    pub(super) fn next_look(&self, now: EngineTime, policy: &Policy) -> EngineTime {
        let is_leaving = self.alive.is_some() && self.state == Some(ServiceState::Left);
        let times = [
            Some(self.maintenance_until),
            self.expect_at,
            self.short_since.map(|since| since + SHORT_FOR),
            self.is_flapping().then_some(self.stable + policy.flap_quiet),
            is_leaving.then(|| self.changed + self.habit.patience()),
            // What may be a replacement from then on.
            Some(self.together_at + TOGETHER_KEPT),
            self.sizes.next(now),
        ];
        times.into_iter().flatten().filter(|&at| at > now).fold(EngineTime::NEVER, EngineTime::min)
    }
}

/// What of it is notified.
impl Service {
    pub(super) fn is_notified(&self) -> bool {
        self.notified
    }

    /// Whether it goes up and down, or its instances crash again and again.
    pub(super) fn is_flapping(&self) -> bool {
        self.flapping || self.crash_loop.is_on()
    }

    /// There is an alert about its flapping.
    pub(super) fn is_flapping_notified(&self) -> bool {
        self.flapping_notified
    }

    /// Whether a state is bad, and not notified yet or worse than what was.
    pub(super) fn is_worse(&self, new: ServiceState) -> bool {
        new.is_bad() && (!self.notified || new.level() > self.level)
    }

    /// Whether nothing of it is notified: as its owner wants, or because it is usual that nobody is present.
    pub(super) fn is_muted(&self) -> bool {
        self.rules.mutes_service() || self.rules.may_be_empty()
    }

    /// Whether a change to a bad state may be notified, if one of the downs that caused it is.
    pub(super) fn may_alarm(&self, is_real: bool) -> bool {
        !self.is_muted() && !self.flapping && (is_real || !self.crash_loop.is_on())
    }

    /// Ends flapping if it has not changed for long enough.
    pub(super) fn settle(&mut self, new: ServiceState, now: EngineTime, policy: &Policy) -> Option<Settled> {
        if !self.flapping || self.crash_loop.is_on() || now < self.stable + policy.flap_quiet {
            return None;
        }
        self.flapping = false;
        self.flaps.clear();
        self.missed.clear();
        let was_notified = std::mem::take(&mut self.flapping_notified);
        let is_due = self.state == Some(new) && self.is_worse(new) && !self.is_muted();
        Some(Settled { was_notified, is_due })
    }

    /// It flaps, for a reason of its own; `true` if that is to be reported.
    fn start_flapping(&mut self) -> bool {
        !std::mem::replace(&mut self.flapping_notified, true)
    }

    /// One of its instances goes down young, heard from `first` to `last`; whether it is one of a crash loop, and whether
    /// that has just begun and is to be reported.
    pub(super) fn note_crash(
        &mut self,
        (first, last): (EngineTime, EngineTime),
        now: EngineTime,
        policy: &Policy,
    ) -> (bool, bool) {
        if !self.crash_loop.note(first, last, now, policy) {
            return (false, false);
        }
        self.stable = now;
        (true, self.start_flapping())
    }

    /// Ends a crash loop that has been quiet for long enough; when it began. What it leaves is that of any flapping.
    pub(super) fn end_crash_loop(&mut self, now: EngineTime, policy: &Policy) -> Option<EngineTime> {
        if !self.crash_loop.is_on() || now < self.stable + policy.flap_quiet {
            return None;
        }
        self.flapping = true;
        self.crash_loop.end()
    }

    pub(super) fn is_in_crash_loop(&self) -> bool {
        self.crash_loop.is_on()
    }

    /// A goodbye that ended a short stay counts, and nobody is present; `true` if it flaps from now on and that is to be
    /// reported.
    pub(super) fn note_missed(&mut self, an_instance_flaps: bool, now: EngineTime, policy: &Policy) -> bool {
        self.missed.retain(|&at| at > now - policy.flap_within);
        self.missed.push(now);
        if self.is_flapping() {
            self.stable = now;
            return false;
        }
        if self.missed.len() < policy.flap_count || an_instance_flaps {
            return false;
        }
        self.flapping = true;
        self.stable = now;
        self.start_flapping()
    }

    /// Notes that it is about to go to a state; `true` if it flaps from now on and that is to be notified. If one of its
    /// instances flaps, that was.
    pub(super) fn note_change(
        &mut self,
        new: ServiceState,
        an_instance_flaps: bool,
        now: EngineTime,
        policy: &Policy,
    ) -> bool {
        let was_bad = self.state.is_some_and(ServiceState::is_bad);
        let mut starts = false;
        if new == ServiceState::Down || (new.is_bad() && !was_bad) {
            self.flaps.retain(|&at| at > now - policy.flap_within);
            self.flaps.push(now);
            if self.flaps.len() >= policy.flap_count {
                let is_new = !std::mem::replace(&mut self.flapping, true);
                starts = is_new && !an_instance_flaps && self.start_flapping();
            }
        }
        if new.is_bad() || was_bad {
            self.stable = now;
        }
        starts
    }

    /// Goes to a state.
    pub(super) fn transition(&mut self, new: ServiceState, notify: bool, now: EngineTime) {
        (self.state, self.changed) = (Some(new), now);
        self.notified |= notify;
        self.level = match new.is_bad() {
            true if notify => new.level(),
            true => self.level.min(new.level()),
            false => 0,
        };
    }

    /// Its problem is over.
    pub(super) fn clear_problem(&mut self) {
        self.notified = false;
    }

    /// Nothing was declared by what has left: that it is not back is no news.
    pub(super) fn excuse_departure(&mut self) {
        self.alive = None;
    }

    /// Watches for a deploy that never came back: it was there for long, and all of it has left for longer than it pauses.
    /// `true` once.
    pub(super) fn note_departure(&mut self, new: ServiceState, now: EngineTime) -> bool {
        match new {
            ServiceState::Up | ServiceState::Degraded => {
                if self.habit.note_back(now) {
                    self.alive = Some(now);
                }
                self.alive.get_or_insert(now);
                self.gone = false;
                false
            }
            ServiceState::Left if self.state == Some(new) && now - self.changed >= self.habit.patience() => {
                let is_missed = self.is_missed();
                self.alive = None;
                self.gone |= is_missed;
                is_missed
            }
            ServiceState::Left | ServiceState::Unknown | ServiceState::Down | ServiceState::Maintenance => false,
        }
    }

    /// Whether it left after so long that somebody may miss it.
    fn is_missed(&self) -> bool {
        let stayed = self.alive.is_some_and(|alive| self.changed - alive >= MISSED_SECS);
        stayed && !self.gone && self.rules.min != Some(0)
    }

    /// It is forgotten: when it is missed unless it comes back, and its habits.
    pub(super) fn depart(&mut self) -> (Option<EngineTime>, Habit) {
        let is_missed = self.state == Some(ServiceState::Left) && self.is_missed();
        (is_missed.then(|| self.changed + self.habit.patience()), std::mem::take(&mut self.habit))
    }

    /// It is about to go to a state that is no problem.
    pub(super) fn note_good(&mut self, new: ServiceState, now: EngineTime) {
        let has_left = self.state == Some(ServiceState::Left);
        if new == ServiceState::Left && !has_left {
            self.habit.note_left(self.alive.map(|alive| now - alive), now);
        }
        if has_left && self.is_flapping() {
            self.stable = now;
        }
    }

    /// An operator has forgotten all of it: nobody misses it.
    pub(super) fn forget_departure(&mut self) {
        self.alive = None;
        self.habit.forget_departure();
    }
}

/// Its habits.
impl Service {
    pub(super) fn runs(&self) -> &Runs {
        &self.runs
    }

    pub(super) fn runs_mut(&mut self) -> &mut Runs {
        &mut self.runs
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    pub(super) fn sizes_mut(&mut self) -> &mut Sizes {
        &mut self.sizes
    }

    pub(super) fn habit(&self) -> &Habit {
        &self.habit
    }

    pub(super) fn habit_mut(&mut self) -> &mut Habit {
        &mut self.habit
    }

    /// One of it was heard.
    pub(super) fn note_heard(&mut self) {
        self.heard = true;
    }

    /// When two of it were known to be present together.
    pub(super) fn together_at(&self) -> EngineTime {
        self.together_at
    }

    pub(super) fn note_together(&mut self, now: EngineTime) {
        self.together_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    fn service(min: Option<u32>) -> Service {
        Service::new("s", Rules { min, ..Rules::default() }, Habit::default(), 1, at(0.0))
    }

    fn census(present: usize, down: usize, maintained: usize, left: usize) -> Census {
        Census { present, down, maintained, left }
    }

    #[test]
    fn a_service_is_what_its_instances_make_of_it() {
        for (counts, state) in [
            (census(2, 2, 0, 0), Some(ServiceState::Up)),
            (census(1, 2, 0, 9), Some(ServiceState::Degraded)),
            (census(0, 1, 0, 3), Some(ServiceState::Down)),
            (census(0, 0, 1, 0), Some(ServiceState::Maintenance)),
            (census(0, 0, 0, 1), Some(ServiceState::Left)),
            (census(0, 0, 0, 0), None),
        ] {
            assert_eq!(service(None).evaluate(counts, at(1.0)), state, "{counts:?}");
        }
    }

    #[test]
    fn a_shortage_that_no_down_explains_must_last() {
        let mut short = service(Some(2));
        short.note_heard();
        assert_eq!(short.evaluate(census(1, 0, 0, 1), at(10.0)), Some(ServiceState::Up));
        assert_eq!(short.next_look(at(10.0), &Policy::default()), at(70.0));
        assert_eq!(short.evaluate(census(1, 0, 0, 1), at(70.0)), Some(ServiceState::Degraded));
        assert_eq!(service(Some(2)).evaluate(census(1, 1, 0, 0), at(10.0)), Some(ServiceState::Degraded));
        // One that was never heard is judged at once.
        assert_eq!(service(Some(2)).evaluate(census(0, 0, 0, 0), at(10.0)), Some(ServiceState::Down));
    }

    #[test]
    fn who_is_expected_is_unknown_until_it_is_missed() {
        let mut expected = service(Some(1));
        expected.expect(at(0.0));
        assert_eq!(expected.evaluate(Census::default(), at(1.0)), Some(ServiceState::Unknown));
        // Armed after 300 s, and short since the first look.
        assert_eq!(expected.evaluate(Census::default(), at(301.0)), Some(ServiceState::Down));
    }

    #[test]
    fn three_beats_and_a_timeout_establish_and_copies_do_not_count() {
        let mut one = service(None);
        for now in [0.0, 0.01, 0.02, 1.0] {
            one.count_beat(at(now), 5.0);
        }
        assert!(!one.is_established(at(100.0), || 5.0));
        one.count_beat(at(2.0), 5.0);
        assert!(!one.is_established(at(4.0), || 5.0) && one.is_established(at(5.0), || 5.0));
        assert!(!one.is_known_as_established());
        one.count_beat(at(6.0), 5.0);
        assert!(one.is_known_as_established());
    }

    #[test]
    fn who_was_there_for_an_hour_is_missed_ten_minutes_after_all_of_it_left() {
        let mut one = service(None);
        assert!(!one.note_departure(ServiceState::Up, at(0.0)));
        one.transition(ServiceState::Up, false, at(0.0));
        one.transition(ServiceState::Left, false, at(4000.0));
        assert!(!one.note_departure(ServiceState::Left, at(4599.0)));
        assert!(one.note_departure(ServiceState::Left, at(4600.0)));
        assert!(!one.note_departure(ServiceState::Left, at(4601.0)));
    }
}
