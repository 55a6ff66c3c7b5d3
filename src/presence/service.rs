//! One service: what its instances make of it.

use std::collections::BTreeSet;

use compact_str::CompactString;

use serde::{Deserialize, Serialize};

use crate::named::named_enum;

use super::instance::State;
use super::policy::Rules;
use super::roster::Gone;

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

    /// How bad: what was told at one level is told again at the next.
    pub(super) fn level(self) -> u8 {
        match self {
            ServiceState::Degraded => 1,
            ServiceState::Down => 2,
            ServiceState::Unknown | ServiceState::Up | ServiceState::Maintenance | ServiceState::Left => 0,
        }
    }
}

/// What is remembered of a service. Times are seconds of the engine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    pub(super) name: CompactString,
    pub(super) state: Option<ServiceState>,
    pub(super) notified: bool,
    /// Its instances in the order of registration.
    #[serde(skip)]
    pub(super) instances: Vec<u32>,
    /// How many of them are present.
    #[serde(skip)]
    pub(super) present: usize,
    /// Those of them that are not, in the order in which they make room for others.
    #[serde(skip)]
    pub(super) absent: BTreeSet<Gone>,
    /// When it was registered; its beats, as far as they are counted, and the last of these.
    #[serde(default)]
    pub(super) born: f64,
    #[serde(default)]
    pub(super) beats: u8,
    #[serde(default)]
    pub(super) beat_at: f64,
    /// It was heard often and long enough not to give way to others.
    #[serde(default)]
    pub(super) established: bool,
    pub(super) maintenance_until: f64,
    /// From when on its minimum holds, if it is expected.
    pub(super) expect_at: Option<f64>,
    pub(super) flaps: Vec<f64>,
    pub(super) flapping: bool,
    pub(super) flapping_told: bool,
    pub(super) stable: f64,
    pub(super) changed: f64,
    #[serde(skip)]
    pub(super) limit_warned: bool,
    /// What was told last: 0 nothing, 1 degraded, 2 down.
    pub(super) level: u8,
    /// Since when it is there without a break.
    pub(super) alive: Option<f64>,
    /// It was told that it is gone.
    pub(super) gone: bool,
    /// Since when it has fewer than its minimum.
    pub(super) short_since: Option<f64>,
    /// Transitions of its instances since sinks were told, by the place in [`Service::TRANSITIONS`].
    #[serde(skip)]
    pub(super) transitions: [u32; 6],
    /// What holds for it.
    #[serde(skip)]
    pub(super) rules: Rules,
    #[serde(skip)]
    pub(super) order: u64,
    #[serde(skip)]
    pub(super) queued: f64,
}

impl Service {
    /// What an instance can go to, by the place in `transitions`; `None` is being forgotten.
    pub(super) const TRANSITIONS: [Option<State>; 6] =
        [Some(State::Unknown), Some(State::Up), Some(State::Late), Some(State::Down), Some(State::Left), None];

    /// Counts a transition of one of its instances.
    pub(super) fn count_transition(&mut self, to: Option<State>) {
        if let Some(at) = Service::TRANSITIONS.iter().position(|known| *known == to) {
            self.transitions[at] += 1;
        }
    }

    pub(super) fn new(name: &str, rules: Rules, order: u64, now: f64) -> Service {
        Service {
            name: name.into(),
            state: None,
            notified: false,
            instances: Vec::new(),
            present: 0,
            absent: BTreeSet::new(),
            born: now,
            beats: 0,
            beat_at: -1e9,
            established: false,
            maintenance_until: 0.0,
            expect_at: None,
            flaps: Vec::new(),
            flapping: false,
            flapping_told: false,
            stable: now,
            changed: now,
            limit_warned: false,
            level: 0,
            alive: None,
            gone: false,
            short_since: None,
            transitions: [0; 6],
            rules,
            order,
            queued: f64::INFINITY,
        }
    }
}
