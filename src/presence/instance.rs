//! One instance: what was heard of it, and what its silence means.

use std::net::IpAddr;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::named::named_enum;
use crate::protocol::Heartbeat;

use super::arrival_window::ArrivalWindow;
use super::event::Reason;
use super::history::History;
use super::policy::{Misses, Policy, Rules, grace_for, misses_for};

named_enum! {
    /// What is known of an instance.
    pub enum State {
        /// Known, but not (re)confirmed.
        Unknown = "unknown",
        /// Heard in time.
        Up = "up",
        /// One beat was missed; still counted as present.
        Late = "late",
        /// Enough beats were missed.
        Down = "down",
        /// Said goodbye, or was replaced.
        Left = "left",
    }
}

impl State {
    /// Counted as present.
    pub fn is_present(self) -> bool {
        matches!(self, State::Unknown | State::Up | State::Late)
    }
}

/// Why a problem was not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Suppression {
    /// A mass silence speaks for it.
    MassSilence,
    /// It was announced.
    Maintenance,
    /// Instances of its service come and go.
    Ephemeral,
    /// It was told that it flaps.
    Flapping,
    /// Its service's alarm speaks for it.
    Service,
}

/// Loss measured from gaps, for [`Misses::Auto`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Loss {
    expected: u32,
    lost: u32,
    /// Runs of lost beats.
    runs: u32,
    beats: u32,
    misses: u32,
}

/// Most of what is measured before it is halved.
const LOSS_MEMORY: u32 = 20_000;

/// Beats between two computations of the misses that loss asks for.
const LOSS_EVERY: u32 = 16;

impl Loss {
    fn note(&mut self, gap: f64, interval: f64) {
        let steps = (gap / interval).round().clamp(1.0, 1000.0) as u32;
        self.expected += steps;
        self.lost += steps - 1;
        self.runs += u32::from(steps > 1);
        if self.expected >= LOSS_MEMORY {
            (self.expected, self.lost, self.runs) = (self.expected / 2, self.lost / 2, self.runs / 2);
        }
        self.beats += 1;
        if self.beats.is_multiple_of(LOSS_EVERY) {
            self.misses = self.misses_at(interval);
        }
    }

    /// Enough misses that the measured loss gives under one false down in 1000 instance-days.
    fn misses_at(&self, interval: f64) -> u32 {
        let (expected, lost, runs) = (f64::from(self.expected), f64::from(self.lost), f64::from(self.runs));
        let p = (lost + 1.0) / (expected + 100.0);
        // That a loss follows a loss: bursts make it likelier.
        let again = p.max(1.0 - (runs + 10.0) / (lost + 10.0));
        let misses = 1.0 + ((0.001 * interval / 86_400.0 / p).ln() / again.ln()).ceil();
        if misses.is_finite() { misses.clamp(3.0, 10.0) as u32 } else { 10 }
    }
}

/// Left out of what is saved.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is remembered of an instance. Times are seconds of the engine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instance {
    /// Index of its service.
    #[serde(skip)]
    pub(super) service: u32,
    /// Place in the order of registration.
    #[serde(skip)]
    pub(super) order: u64,
    pub(super) name: CompactString,
    pub(super) state: State,
    /// Last beat.
    pub(super) seen: Option<f64>,
    /// Last evidence of life; `None` after we started.
    pub(super) heard: Option<f64>,
    /// From when on silence is counted.
    pub(super) since: f64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) promise: Option<f64>,
    pub(super) gaps: ArrivalWindow,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) mismatch: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) loose: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) start: Option<CompactString>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) version: Option<CompactString>,
    /// Blind time that does not count.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) blind: f64,
    /// The part of it that dropped datagrams caused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) blind_by_drops: f64,
    /// Neither late nor down before this.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) floor: f64,
    pub(super) changed: f64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) left_at: f64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) down_at: f64,
    /// Its problem was told.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) notified: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) pending: Option<Suppression>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) flapping: bool,
    /// Last down or recovery.
    pub(super) stable: f64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) maintenance_until: f64,
    pub(super) received: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) missed: u64,
    /// Of these two, what sinks were not told.
    #[serde(skip)]
    pub(super) fresh_received: u32,
    #[serde(skip)]
    pub(super) fresh_missed: u32,
    /// It fell silent before its interval was known.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) never_established: bool,
    /// Last beat that counts for learning.
    pub(super) counted: Option<f64>,
    pub(super) first: f64,
    /// It replaced one that went down.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) replaces: bool,
    pub(super) loss: Loss,
    /// Member of the mass silence.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) member: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) health: Option<u8>,
    pub(super) source: Option<IpAddr>,
    #[serde(default)]
    pub(super) history: History,
    /// It was told that its beats are sampled.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) sampled: bool,
    /// When the queue will look at it.
    #[serde(skip)]
    pub(super) queued: f64,
    /// What few have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rare: Option<Box<Rare>>,
}

/// What is remembered of few instances.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Rare {
    /// When it went down of late.
    pub(super) flaps: Vec<f64>,
    /// When to tell of it if it is still down, and why then.
    pub(super) recheck: Option<(f64, Recheck)>,
    pub(super) previous_start: Option<CompactString>,
    /// What its last service check said.
    pub(super) message: Option<CompactString>,
    /// Last warning of two processes under one name, or of repeated goodbyes.
    pub(super) conflict_at: f64,
    /// Where its beats come from, if that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    home: Option<Home>,
}

/// The address from which goodbyes are believed. Another takes its place after two beats from there, and when the old one
/// has been silent for long enough to be late: one datagram with a beat and a goodbye is not enough.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Home {
    address: Option<IpAddr>,
    heard: f64,
    /// Another address, and the beats that came from it in a row.
    other: Option<IpAddr>,
    beats: u8,
}

/// Beats from another address that can make it the home.
const MOVED_BEATS: u8 = 2;

/// Of those who have none.
static COMMON: Rare =
    Rare { flaps: Vec::new(), recheck: None, previous_start: None, message: None, conflict_at: -1e9, home: None };

/// Why a problem that was kept quiet is told later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Recheck {
    /// The mass silence is over, and it is not back.
    NotBackAfterMassSilence,
    /// Its service is back, and it is not.
    NotBackWithService,
}

impl Recheck {
    pub(super) fn reason(self) -> Reason {
        match self {
            Recheck::NotBackAfterMassSilence => Reason::NotBackAfterMassSilence,
            Recheck::NotBackWithService => Reason::NotBackWithService,
        }
    }
}

/// When silence matters: seconds until late (never, while the interval is unknown), and until down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Silence that means late.
    pub late: Option<f64>,
    /// Silence that means down.
    pub down: f64,
}

impl Instance {
    pub(super) fn new(service: u32, name: &str, order: u64, now: f64) -> Instance {
        Instance {
            service,
            order,
            name: name.into(),
            state: State::Unknown,
            seen: None,
            heard: None,
            since: now,
            promise: None,
            gaps: ArrivalWindow::default(),
            mismatch: false,
            loose: false,
            start: None,
            version: None,
            blind: 0.0,
            blind_by_drops: 0.0,
            floor: 0.0,
            changed: now,
            left_at: 0.0,
            down_at: 0.0,
            notified: false,
            pending: None,
            flapping: false,
            stable: now,
            maintenance_until: 0.0,
            received: 0,
            missed: 0,
            fresh_received: 0,
            fresh_missed: 0,
            never_established: false,
            counted: None,
            first: now,
            replaces: false,
            loss: Loss::default(),
            member: false,
            health: None,
            source: None,
            history: History::new(now),
            sampled: false,
            queued: f64::INFINITY,
            rare: None,
        }
    }

    pub(super) fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&COMMON)
    }

    /// What a service check says of it stands until the next one.
    pub(super) fn note_health(&mut self, beat: &Heartbeat) {
        if beat.health.is_none() {
            return;
        }
        self.health = beat.health;
        if beat.message != self.rare().message {
            self.rare_mut().message.clone_from(&beat.message);
        }
    }

    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(|| Box::new(COMMON.clone()))
    }

    /// Notes where a beat came from at `now`. Its home is late after `patience` seconds; who is new has none yet.
    pub(super) fn note_home(&mut self, source: Option<IpAddr>, now: f64, patience: f64, is_new: bool) {
        let slot = &mut self.rare_mut().home;
        let settled = Home { address: source, heard: now, other: None, beats: 0 };
        match slot {
            Some(home) if !is_new && home.address != source => {
                home.beats = if home.other == source { home.beats.saturating_add(1) } else { 1 };
                home.other = source;
                if home.beats >= MOVED_BEATS && now - home.heard >= patience {
                    *slot = Some(settled);
                }
            }
            Some(home) if !is_new => (home.heard, home.other, home.beats) = (now, None, 0),
            _ => *slot = Some(settled),
        }
    }

    /// Whether a goodbye from an address is believed.
    pub(super) fn is_at_home(&self, source: Option<IpAddr>) -> bool {
        self.rare().home.map_or(self.source, |home| home.address) == source
    }

    /// Nothing is to be told of it later.
    pub(super) fn clear_recheck(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.recheck = None;
        }
    }

    /// Remembers a gap between two beats, the second at `now`; how many beats were due in it, if that is known.
    pub(super) fn remember(&mut self, gap: f64, now: f64) -> u64 {
        self.gaps.push(gap);
        let Some(interval) = self.promise else { return 0 };
        self.loss.note(gap, interval);
        let due = (gap / interval).round().clamp(1.0, 1e6) as u64;
        self.missed += due - 1;
        self.fresh_missed = self.fresh_missed.saturating_add((due - 1) as u32);
        self.history.note_loss(now, due);
        due
    }

    /// The interval in force: the promise, unless beats come clearly slower; else the learned one, if it is known.
    pub fn interval(&self, policy: &Policy) -> Option<f64> {
        if let Some(promise) = self.promise {
            if self.gaps.len() >= 4 {
                let measured = self.gaps.recent_median();
                if measured > 1.1 * promise {
                    return Some(measured);
                }
            }
            return Some(promise);
        }
        (self.gaps.len() >= policy.learn_gaps).then(|| self.gaps.median())
    }

    /// Beats that must be missed at an interval.
    pub fn misses(&self, interval: f64, rules: &Rules) -> u32 {
        match rules.misses {
            Misses::ByInterval => misses_for(interval),
            Misses::Fixed(misses) => misses,
            Misses::Auto if self.loss.misses > 0 => self.loss.misses,
            Misses::Auto => misses_for(interval),
        }
    }

    /// What silence means.
    pub fn timing(&self, policy: &Policy, rules: &Rules) -> Timing {
        let Some(interval) = self.interval(policy) else {
            return Timing { late: None, down: policy.learn_timeout };
        };
        let grace = rules.grace.unwrap_or_else(|| {
            let grace = grace_for(interval);
            if self.promise.is_some() {
                return grace;
            }
            grace.max(6.0 * self.gaps.median_deviation()).min(60.0)
        });
        let down = f64::from(self.misses(interval, rules)) * interval + grace;
        if self.promise.is_none() {
            let down = down.max(30.0).max(2.0 * self.gaps.longest());
            return Timing { late: Some((interval + grace).min(down)), down };
        }
        Timing { late: Some(interval + grace), down }
    }

    /// The instants at which it is late and down, if nothing is heard.
    pub(super) fn deadlines(&self, policy: &Policy, rules: &Rules) -> (Option<f64>, f64) {
        let timing = self.timing(policy, rules);
        let base = self.since + self.blind;
        let down = (base + timing.down).max(self.floor);
        (timing.late.map(|late| (base + late).max(self.floor.min(down))), down)
    }

    /// Whether a beat was due in the last `blind` seconds: some multiple of the interval, give or take the grace.
    pub(super) fn was_due(&self, blind: f64, now: f64, policy: &Policy, rules: &Rules) -> bool {
        let Some(interval) = self.interval(policy) else { return true };
        let grace = self.timing(policy, rules).late.unwrap_or(interval) - interval;
        let (until, from) = (now - self.since, now - self.since - blind);
        let beat = ((from - grace) / interval - 1e-9).ceil().max(1.0);
        beat * interval - grace <= until
    }

    /// A floor no later than blindness may move a silence.
    pub(super) fn cap(&self, floor: f64, policy: &Policy, rules: &Rules) -> f64 {
        floor.min(self.since + self.blind + 2.0 * self.timing(policy, rules).down)
    }
}
