//! One instance: who it is, in which state, and what of that was notified. What its silence means is its
//! [`Detector`]'s.

use std::net::IpAddr;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::named::named_enum;
use crate::protocol::Heartbeat;

use super::crash_loop::YOUNG;
use super::detector::{Detector, Gap};
use super::event::{Health, Reason};
use super::history::History;
use super::policy::{Policy, grace_for};
use super::roster::ServiceId;
use super::text_bytes;
use super::time::EngineTime;
use super::watching::Watching;

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

/// Why a problem was not notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Suppression {
    /// A mass silence stands for it.
    MassSilence,
    /// It was announced.
    Maintenance,
    /// Instances of its service come and go.
    Ephemeral,
    /// It is known to flap.
    Flapping,
    /// Its service's alarm stands for it.
    Service,
    /// Nothing about instances of its service is notified.
    Muted,
    /// It is one of the runs that its service is made of.
    Run,
    /// The peer that alone had heard it is gone, and that alarm stands for it.
    Peer,
}

/// Why a problem that was suppressed is notified later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Recheck {
    /// The mass silence is over, and it is not back.
    NotBackAfterMassSilence,
    /// Its service is back, and it is not.
    NotBackWithService,
    /// Others whom a lost peer alone had heard have found another node, and it has not.
    #[serde(rename = "not_back_after_peer")]
    Astray,
}

impl Recheck {
    pub(super) fn reason(self) -> Reason {
        match self {
            Recheck::NotBackAfterMassSilence => Reason::NotBackAfterMassSilence,
            Recheck::NotBackWithService => Reason::NotBackWithService,
            Recheck::Astray => Reason::NotBackAfterPeer,
        }
    }
}

/// Seconds between two warnings about the same instance.
const WARN_EVERY: f64 = 3600.0;

/// How long a conflict is shown after it was seen, in seconds.
const CONFLICT_SHOWN: f64 = 3600.0;

/// Goodbyes that follow the first by more than that, in seconds, are no copies of it.
const GOODBYE_COPIES: f64 = 15.0;

/// A replacement is looked for so long after the silence began, in seconds.
const REPLACED_UNTIL: f64 = 1200.0;

/// Beats from another address that can make it the home.
const MOVED_BEATS: u8 = 2;

/// The least interval of a run, in seconds, of which the first beat may be the only one.
const RUN_INTERVAL: f64 = 60.0;

/// A goodbye that ends a stay of less than that, in seconds, may be one of a crash loop.
const SHORT_STAY: f64 = 300.0;

/// Left out of what is saved.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is remembered of an instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instance {
    #[serde(skip)]
    service: ServiceId,
    /// Place in the order of registration.
    #[serde(skip)]
    order: u64,
    name: CompactString,
    state: State,
    #[serde(flatten)]
    detector: Detector,
    #[serde(default, skip_serializing_if = "is_default")]
    start: Option<CompactString>,
    #[serde(default, skip_serializing_if = "is_default")]
    version: Option<CompactString>,
    changed: EngineTime,
    #[serde(default, skip_serializing_if = "is_default")]
    left_at: EngineTime,
    #[serde(default, skip_serializing_if = "is_default")]
    down_at: EngineTime,
    /// Its problem was notified.
    #[serde(default, skip_serializing_if = "is_default")]
    notified: bool,
    #[serde(rename = "pending", default, skip_serializing_if = "is_default")]
    suppression: Option<Suppression>,
    #[serde(default, skip_serializing_if = "is_default")]
    flapping: bool,
    /// Last down or recovery.
    stable: EngineTime,
    #[serde(default, skip_serializing_if = "is_default")]
    maintenance_until: EngineTime,
    received: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    missed: u64,
    /// Of these two, what sinks do not have yet.
    #[serde(skip)]
    fresh_received: u32,
    #[serde(skip)]
    fresh_missed: u32,
    /// When it was registered.
    first: EngineTime,
    /// It replaced one that fell silent.
    #[serde(default, skip_serializing_if = "is_default")]
    replaces: bool,
    /// Another one replaced it.
    #[serde(default, skip_serializing_if = "is_default")]
    was_replaced: bool,
    /// Another one came when its second beat was due, and it was not heard since.
    #[serde(default, skip_serializing_if = "is_default")]
    followed: bool,
    /// It went down young, and was not heard since.
    #[serde(default, skip_serializing_if = "is_default")]
    crashed: bool,
    /// Member of the mass silence.
    #[serde(default, skip_serializing_if = "is_default")]
    member: bool,
    /// A lost peer alone had heard it.
    #[serde(skip)]
    unwatched: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    health: Option<u8>,
    #[serde(default)]
    health_at: EngineTime,
    /// What its last service check said, where that is an alert, and whether it was notified.
    #[serde(default, skip_serializing_if = "is_default")]
    health_alert: (Option<Health>, bool),
    source: Option<IpAddr>,
    #[serde(default)]
    history: History,
    /// There was a warning that its beats are sampled.
    #[serde(default, skip_serializing_if = "is_default")]
    sampled: bool,
    /// What few have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rare: Option<Box<Rare>>,
    /// Of those that a watch feeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    watching: Option<Box<Watching>>,
}

/// What is remembered of few instances.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Rare {
    /// When it went down of late.
    flaps: Vec<EngineTime>,
    /// When to notify its problem if it is still down, and why then.
    recheck: Option<(EngineTime, Recheck)>,
    previous_start: Option<CompactString>,
    /// What its last service check said.
    message: Option<CompactString>,
    /// Last warning of two processes under one name, or of repeated goodbyes.
    conflict_at: EngineTime,
    /// Where its beats come from, if that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    home: Option<Home>,
    /// Its present stay, if that is not its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stay: Option<Stay>,
    /// When it replaced another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced_at: Option<EngineTime>,
    /// It said goodbye after a short stay: unless it is back by then, that counts like a down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missed_at: Option<EngineTime>,
}

/// The time since an instance came back after it had left or was down.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Stay {
    since: EngineTime,
    /// Its beats, as far as they are counted.
    beats: u8,
}

/// The address from which goodbyes are believed. Another takes its place after two beats from there, and when the old one
/// has been silent for long enough to be late: one datagram with a beat and a goodbye is not enough.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Home {
    address: Option<IpAddr>,
    heard: EngineTime,
    /// Another address, and the beats that came from it in a row.
    other: Option<IpAddr>,
    beats: u8,
}

/// Of those who have none.
static COMMON: Rare = Rare {
    flaps: Vec::new(),
    recheck: None,
    previous_start: None,
    message: None,
    conflict_at: EngineTime::LONG_AGO,
    home: None,
    stay: None,
    replaced_at: None,
    missed_at: None,
};

/// What the `start` of a beat says of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Identified {
    /// It is another process than before.
    pub(super) is_restarted: bool,
    /// Two processes use the name in turn, and there was no warning of it of late.
    pub(super) is_conflict: bool,
}

/// What became of an instance's going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WentDown {
    pub(super) is_notified: bool,
    /// It flaps, from now on.
    pub(super) starts_flapping: bool,
}

impl Instance {
    pub(super) fn new(service: ServiceId, name: &str, order: u64, now: EngineTime) -> Instance {
        Instance {
            service,
            order,
            name: name.into(),
            state: State::Unknown,
            detector: Detector::new(now),
            start: None,
            version: None,
            changed: now,
            left_at: EngineTime::default(),
            down_at: EngineTime::default(),
            notified: false,
            suppression: None,
            flapping: false,
            stable: now,
            maintenance_until: EngineTime::default(),
            received: 0,
            missed: 0,
            fresh_received: 0,
            fresh_missed: 0,
            first: now,
            replaces: false,
            was_replaced: false,
            followed: false,
            crashed: false,
            member: false,
            unwatched: false,
            health: None,
            health_at: EngineTime::LONG_AGO,
            health_alert: (None, false),
            source: None,
            history: History::new(now),
            sampled: false,
            rare: None,
            watching: None,
        }
    }

    /// One that was saved at `now`, in its place in this engine.
    #[must_use]
    pub(super) fn restored(mut self, service: ServiceId, order: u64, now: EngineTime) -> Instance {
        let state = if self.state.is_present() { State::Unknown } else { self.state };
        for at in [&mut self.changed, &mut self.left_at, &mut self.down_at, &mut self.stable, &mut self.first] {
            *at = at.min(now);
        }
        let (detector, history) = (self.detector.restored(now), self.history.restored(now));
        Instance { service, order, state, detector, history, ..self }
    }

    fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&COMMON)
    }

    fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(|| Box::new(COMMON.clone()))
    }
}

/// Who it is, and what is shown of it.
impl Instance {
    pub(super) fn service(&self) -> ServiceId {
        self.service
    }

    pub(super) fn order(&self) -> u64 {
        self.order
    }

    /// Bytes that its texts take beside itself, and what a watch says of it.
    pub(super) fn text_bytes(&self) -> usize {
        let rare = self.rare();
        let texts = [&self.start, &self.version, &rare.previous_start, &rare.message];
        let watching = self.watching.as_ref().map_or(0, |watching| watching.bytes());
        text_bytes(&self.name) + texts.into_iter().flatten().map(text_bytes).sum::<usize>() + watching
    }

    pub(super) fn name(&self) -> &CompactString {
        &self.name
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn is_present(&self) -> bool {
        self.state.is_present()
    }

    pub(super) fn is_down(&self) -> bool {
        self.state == State::Down
    }

    pub(super) fn detector(&self) -> &Detector {
        &self.detector
    }

    pub(super) fn detector_mut(&mut self) -> &mut Detector {
        &mut self.detector
    }

    pub(super) fn start(&self) -> Option<&CompactString> {
        self.start.as_ref()
    }

    pub(super) fn version(&self) -> Option<&CompactString> {
        self.version.as_ref()
    }

    pub(super) fn source(&self) -> Option<IpAddr> {
        self.source
    }

    pub(super) fn health(&self) -> Option<u8> {
        self.health
    }

    /// What its last service check said, and when.
    pub(super) fn checked(&self) -> Option<(u8, EngineTime)> {
        self.health.map(|status| (status, self.health_at))
    }

    /// What its last service check said.
    pub(super) fn message(&self) -> Option<&CompactString> {
        self.rare().message.as_ref()
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn missed(&self) -> u64 {
        self.missed
    }

    /// When it was registered.
    pub(super) fn first(&self) -> EngineTime {
        self.first
    }

    /// Since when it is in its state.
    pub(super) fn changed(&self) -> EngineTime {
        self.changed
    }

    pub(super) fn left_at(&self) -> EngineTime {
        self.left_at
    }

    pub(super) fn down_at(&self) -> EngineTime {
        self.down_at
    }

    /// Two processes used its name of late, or its goodbyes were repeated.
    pub(super) fn has_conflict(&self, now: EngineTime) -> bool {
        now - self.rare().conflict_at < CONFLICT_SHOWN
    }

    /// What is known of it by the watch that feeds it.
    pub(super) fn watching(&self) -> Option<&Watching> {
        self.watching.as_deref()
    }

    /// The same; from now on a watch feeds it.
    pub(super) fn watching_mut(&mut self) -> &mut Watching {
        self.watching.get_or_insert_default()
    }

    /// Beats received and missed since this was last asked, and the share of the time since `reported_at` that it was
    /// present.
    pub(super) fn take_fresh(&mut self, now: EngineTime, reported_at: EngineTime) -> (u32, u32, f64) {
        let share = self.history.take_availability(now, self.changed, reported_at, self.first, self.state);
        (std::mem::take(&mut self.fresh_received), std::mem::take(&mut self.fresh_missed), share)
    }
}

/// What it says.
impl Instance {
    /// Takes a beat; it was in a state before, or was not known.
    pub(super) fn observe(&mut self, now: EngineTime, was: Option<State>, beat: &Heartbeat, policy: &Policy) -> Gap {
        let gap = self.detector.observe(now, was, beat.interval, policy);
        self.note_stay(now, was);
        if gap.due > 0 {
            self.missed += gap.due - 1;
            self.fresh_missed = self.fresh_missed.saturating_add((gap.due - 1) as u32);
            self.history.note_loss(now, gap.due);
        }
        self.received = self.received.saturating_add(1);
        self.fresh_received = self.fresh_received.saturating_add(1);
        self.clear_recheck();
        if beat.version.is_some() && beat.version != self.version {
            self.version.clone_from(&beat.version);
        }
        self.note_health(beat, now);
        self.source = beat.source.or(self.source);
        gap
    }

    /// A beat begins a stay, or goes on with one.
    fn note_stay(&mut self, now: EngineTime, was: Option<State>) {
        (self.followed, self.crashed) = (false, false);
        if matches!(was, Some(State::Left | State::Down)) {
            let rare = self.rare_mut();
            (rare.stay, rare.missed_at) = (Some(Stay { since: now, beats: 1 }), None);
            self.was_replaced = false;
        } else if let Some(stay) = self.rare.as_mut().and_then(|rare| rare.stay.as_mut()) {
            stay.beats = stay.beats.saturating_add(1);
        }
    }

    /// Another node knows it since then, and has heard it so often.
    pub(super) fn adopt(&mut self, first: EngineTime, received: u64) {
        (self.first, self.received) = (self.first.min(first), self.received.max(received));
    }

    /// Takes a beat of `at` that another node has heard, too.
    pub(super) fn observe_copy(&mut self, at: EngineTime, beat: &Heartbeat) {
        self.detector.note_alive(at);
        self.received = self.received.saturating_add(1);
        self.fresh_received = self.fresh_received.saturating_add(1);
        self.clear_recheck();
        self.note_health(beat, at);
        self.source = beat.source.or(self.source);
    }

    /// What a service check says of it stands until the next one.
    pub(super) fn note_health(&mut self, beat: &Heartbeat, at: EngineTime) {
        if beat.health.is_none() {
            return;
        }
        (self.health, self.health_at) = (beat.health, at);
        if beat.message != self.rare().message {
            self.rare_mut().message.clone_from(&beat.message);
        }
    }

    /// Takes what a service check says, where that is an alert; what it said before, and whether to notify, if there is
    /// something to report. What maintenance kept quiet is notified when it is over and the check says so again.
    pub(super) fn change_health(&mut self, to: Health, is_quiet: bool) -> Option<(Option<Health>, bool)> {
        let (from, was_notified) = self.health_alert;
        let (is_bad, was_bad) = (to.is_bad(), from.is_some_and(Health::is_bad));
        let begins = is_bad && !was_notified && !is_quiet;
        let notify = begins || (!is_bad && was_notified);
        self.health_alert = (Some(to), is_bad && (begins || was_notified));
        let is_other = from != Some(to) && (is_bad || was_bad || from.is_some());
        (is_other || notify).then_some((from, notify))
    }

    /// Ends the alert of its service check; what that said, if it was notified.
    pub(super) fn end_health_alert(&mut self) -> Option<Health> {
        let (said, was_notified) = std::mem::take(&mut self.health_alert);
        said.filter(|_| was_notified)
    }

    /// Its beats are sampled; `true` if that was not known.
    pub(super) fn note_sampled(&mut self) -> bool {
        !std::mem::replace(&mut self.sampled, true)
    }

    /// Whether a beat or a goodbye is of another process than the last.
    pub(super) fn is_of_another_process(&self, beat: &Heartbeat) -> bool {
        beat.start.is_some() && self.start.is_some() && beat.start != self.start
    }

    /// Whether a beat is one that its goodbye has overtaken.
    pub(super) fn is_straggler(&self, beat: &Heartbeat, now: EngineTime, policy: &Policy) -> bool {
        // Asked for every beat: what nearly all answer comes first.
        if self.state != State::Left {
            return false;
        }
        let linger =
            policy.linger.unwrap_or_else(|| (0.5 * self.detector.interval(policy).unwrap_or(4.0)).clamp(2.0, 10.0));
        let is_restarted = beat.start.is_some() && beat.start != self.start;
        now < self.left_at + linger && !is_restarted
    }

    /// Notes which process a beat is of.
    pub(super) fn identify(&mut self, beat: &Heartbeat, now: EngineTime) -> Identified {
        if beat.start.is_none() || beat.start == self.start {
            return Identified::default();
        }
        let mut identified = Identified::default();
        if self.start.is_some() {
            if beat.start == self.rare().previous_start {
                // Two values in turn are two processes.
                identified.is_conflict = self.warn_of_conflict(now);
            } else {
                identified.is_restarted = true;
            }
        }
        if let Some(start) = self.start.take() {
            self.rare_mut().previous_start = Some(start);
        }
        self.start.clone_from(&beat.start);
        identified
    }

    /// Notes a goodbye of one that has left; `true` if they are repeated, and there was no warning of late.
    pub(super) fn note_repeated_goodbye(&mut self, now: EngineTime) -> bool {
        now > self.left_at + GOODBYE_COPIES && self.warn_of_conflict(now)
    }

    fn warn_of_conflict(&mut self, now: EngineTime) -> bool {
        let is_new = now - self.rare().conflict_at > WARN_EVERY;
        if is_new {
            self.rare_mut().conflict_at = now;
        }
        is_new
    }

    /// Notes where a beat came from at `now`. Its home is late after `patience` seconds; who is new has none yet.
    pub(super) fn note_home(&mut self, source: Option<IpAddr>, now: EngineTime, patience: f64, is_new: bool) {
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
            Some(_) | None => *slot = Some(settled),
        }
    }

    /// Whether a goodbye from an address is believed.
    pub(super) fn is_at_home(&self, source: Option<IpAddr>) -> bool {
        self.rare().home.map_or(self.source, |home| home.address) == source
    }
}

/// Its state, and what of its problems is notified.
impl Instance {
    /// Moves to another state, `None` being forgotten. Sinks were reported to at `reported_at`.
    pub(super) fn transition(
        &mut self,
        (from, to): (Option<State>, Option<State>),
        reason: Reason,
        now: EngineTime,
        reported_at: EngineTime,
    ) {
        self.history.change(now, self.changed, reported_at, from, to);
        self.changed = now;
        if let Some(to) = to {
            self.state = to;
        }
        if to == Some(State::Down) || reason == Reason::Recovered || (self.flapping && reason == Reason::Returned) {
            self.stable = now;
        }
    }

    /// Prepares going down: whether it is notified, or why not.
    pub(super) fn go_down(&mut self, cause: Option<Suppression>, now: EngineTime, policy: &Policy) -> WentDown {
        self.down_at = now;
        if !matches!(cause, Some(Suppression::MassSilence | Suppression::Peer)) {
            self.note_flap(now, policy);
        }
        let starts_flapping = cause.is_none() && !self.flapping && self.rare().flaps.len() >= policy.flap_count;
        self.flapping |= starts_flapping;
        self.suppression = cause.or(self.flapping.then_some(Suppression::Flapping));
        self.notified = self.suppression.is_none();
        WentDown { is_notified: self.notified, starts_flapping }
    }

    fn note_flap(&mut self, now: EngineTime, policy: &Policy) {
        let flaps = &mut self.rare_mut().flaps;
        flaps.retain(|&at| at > now - policy.flap_within);
        flaps.push(now);
    }

    /// It left at `now`.
    pub(super) fn leave(&mut self, now: EngineTime) {
        self.left_at = now;
        self.unwatched = false;
        self.clear_problem();
        self.clear_recheck();
    }

    /// Its flapping is over, if it flapped.
    pub(super) fn stop_flapping(&mut self) -> bool {
        std::mem::take(&mut self.flapping)
    }

    /// Its problem is over.
    pub(super) fn clear_problem(&mut self) {
        self.notified = false;
        self.suppression = None;
    }

    /// Its problem is notified by itself, after all.
    pub(super) fn notify(&mut self) {
        self.notified = true;
        self.suppression = None;
    }

    /// Its service's alarm stands for its own.
    pub(super) fn inhibit(&mut self) {
        self.suppress(Suppression::Service);
    }

    /// Whether it is down and that was notified: then its end is, too.
    pub(super) fn has_notified_problem(&self) -> bool {
        self.state == State::Down && self.notified
    }

    pub(super) fn suppression(&self) -> Option<Suppression> {
        self.suppression
    }

    /// When to notify its problem if it is still down, and why then.
    pub(super) fn recheck(&self) -> Option<(EngineTime, Recheck)> {
        self.rare().recheck
    }

    pub(super) fn recheck_at(&mut self, at: EngineTime, why: Recheck) {
        self.rare_mut().recheck = Some((at, why));
    }

    pub(super) fn clear_recheck(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.recheck = None;
        }
    }

    pub(super) fn is_flapping(&self) -> bool {
        self.flapping
    }

    /// When its flapping is over if nothing changes; `None` if it does not flap.
    pub(super) fn settles_at(&self, policy: &Policy) -> Option<EngineTime> {
        self.flapping.then_some(self.stable + policy.flap_quiet)
    }

    /// Ends its flapping.
    pub(super) fn settle(&mut self) {
        self.flapping = false;
        self.rare_mut().flaps.clear();
    }

    pub(super) fn maintenance_until(&self) -> EngineTime {
        self.maintenance_until
    }

    pub(super) fn maintain_until(&mut self, until: EngineTime) {
        self.maintenance_until = until;
    }

    /// Whether it belongs to the mass silence.
    pub(super) fn is_member(&self) -> bool {
        self.member
    }

    /// Whether a lost peer alone had heard it.
    pub(super) fn is_unwatched(&self) -> bool {
        self.unwatched
    }

    pub(super) fn set_unwatched(&mut self, unwatched: bool) {
        self.unwatched = unwatched;
    }

    /// Makes it a member of the mass silence, or no longer one; whether that is a change.
    pub(super) fn set_member(&mut self, member: bool) -> bool {
        std::mem::replace(&mut self.member, member) != member
    }

    /// Whether a replacement is still looked for.
    pub(super) fn may_be_replaced(&self, now: EngineTime) -> bool {
        self.state == State::Down && now - self.detector.last_life() < REPLACED_UNTIL
    }

    /// It stands for one that fell silent.
    pub(super) fn replace_another(&mut self, now: EngineTime) {
        self.replaces = true;
        self.rare_mut().replaced_at = Some(now);
    }

    /// Whether it stands for another one.
    pub(super) fn replaces(&self) -> bool {
        self.replaces
    }

    /// Another one stands for it.
    pub(super) fn note_replaced(&mut self) {
        self.was_replaced = true;
    }

    pub(super) fn was_replaced(&self) -> bool {
        self.was_replaced
    }
}

/// Its stays.
impl Instance {
    /// When its present stay began.
    pub(super) fn joined(&self) -> EngineTime {
        self.rare().stay.map_or(self.first, |stay| stay.since)
    }

    /// When it came back, if it was away and has been heard twice since and replaced nobody.
    pub(super) fn came_back(&self) -> Option<EngineTime> {
        let (rare, state) = (self.rare(), self.state);
        let stay = rare.stay.filter(|stay| state == State::Up && stay.beats >= 2)?;
        rare.replaced_at.is_none_or(|at| at < stay.since).then_some(stay.since)
    }

    /// Whether its last beat was the second since it came, or came back.
    pub(super) fn was_just_confirmed(&self) -> bool {
        self.received == 2 || self.rare().stay.is_some_and(|stay| stay.beats == 2)
    }

    /// Whether it has sent nothing since before its second beat was due: it may be a run, of which there is one beat.
    pub(super) fn is_short(&self) -> bool {
        let interval = self.detector.declared_interval().filter(|&interval| interval >= RUN_INTERVAL);
        interval.is_some_and(|interval| {
            self.detector.seen().is_some_and(|seen| seen - self.first < interval - grace_for(interval))
        })
    }

    /// Its second beat is due when another one comes, which may be the next run.
    pub(super) fn follow(&mut self) -> bool {
        !std::mem::replace(&mut self.followed, true)
    }

    pub(super) fn is_followed(&self) -> bool {
        self.followed
    }

    /// It said goodbye at `now`: after a short stay that counts like a down, unless it is back after `timeout` seconds.
    pub(super) fn leave_early(&mut self, now: EngineTime, timeout: f64) -> bool {
        let is_early = now - self.joined() < SHORT_STAY;
        if is_early {
            self.rare_mut().missed_at = Some(now + timeout);
        }
        is_early
    }

    /// When its goodbye after a short stay counts, if it has said one.
    pub(super) fn missed_at(&self) -> Option<EngineTime> {
        self.rare().missed_at
    }

    /// Whether its goodbye after a short stay counts from now on.
    pub(super) fn take_missed(&mut self, now: EngineTime) -> bool {
        let Some(rare) = self.rare.as_mut().filter(|rare| rare.missed_at.is_some_and(|at| now >= at)) else {
            return false;
        };
        rare.missed_at = None;
        self.state == State::Left
    }

    /// Its goodbye counts; whether it flaps from now on.
    pub(super) fn note_missed(&mut self, is_muted: bool, now: EngineTime, policy: &Policy) -> bool {
        self.stable = now;
        self.note_flap(now, policy);
        let starts = !is_muted && !self.flapping && self.rare().flaps.len() >= policy.flap_count;
        self.flapping |= starts;
        starts
    }

    /// Whether it is young: it has never been away, and was heard for a short time only.
    pub(super) fn is_young(&self) -> bool {
        self.rare().stay.is_none() && self.detector.seen().is_some_and(|seen| seen - self.first < YOUNG)
    }

    /// It goes down young.
    pub(super) fn crash(&mut self) {
        self.crashed = true;
    }

    pub(super) fn has_crashed(&self) -> bool {
        self.crashed
    }

    /// Something else suppresses its problem from now on.
    pub(super) fn suppress(&mut self, cause: Suppression) {
        self.notified = false;
        self.suppression = Some(cause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    #[test]
    fn a_hundred_thousand_of_them_find_room_in_fifty_megabytes_with_their_tables() {
        assert!(size_of::<Option<Instance>>() <= 416, "{} bytes", size_of::<Option<Instance>>());
    }

    fn instance() -> Instance {
        Instance::new(ServiceId::default(), "i", 1, at(0.0))
    }

    fn beat(start: &str) -> Heartbeat {
        Heartbeat { interval: Some(10.0), start: Some(start.into()), ..Heartbeat::default() }
    }

    #[test]
    fn another_start_is_a_restart_and_two_in_turn_are_a_conflict_once_an_hour() {
        let mut one = instance();
        let restarted = Identified { is_restarted: true, is_conflict: false };
        let conflict = Identified { is_restarted: false, is_conflict: true };
        assert_eq!(one.identify(&beat("a"), at(0.0)), Identified::default());
        assert_eq!(one.identify(&beat("b"), at(10.0)), restarted);
        assert_eq!(one.identify(&beat("a"), at(20.0)), conflict);
        assert_eq!(one.identify(&beat("b"), at(30.0)), Identified::default());
        assert_eq!(one.identify(&beat("a"), at(4000.0)), conflict);
        assert!(one.has_conflict(at(4100.0)) && !one.has_conflict(at(9000.0)));
    }

    #[test]
    fn the_third_down_within_half_an_hour_is_flapping_and_is_not_notified() {
        let (mut one, policy) = (instance(), Policy::default());
        for (minute, is_notified, starts_flapping) in
            [(0.0, true, false), (10.0, true, false), (20.0, false, true), (30.0, false, false)]
        {
            let went = one.go_down(None, at(60.0 * minute), &policy);
            assert_eq!(went, WentDown { is_notified, starts_flapping }, "minute {minute}");
        }
        one.settle();
        assert!(!one.is_flapping());
        // In a mass silence it does not count.
        let mut held = instance();
        for minute in 0..5 {
            held.go_down(Some(Suppression::MassSilence), at(60.0 * f64::from(minute)), &policy);
        }
        assert!(!held.is_flapping());
    }

    #[test]
    fn what_is_saved_comes_back_and_a_state_of_before_is_read() {
        let mut one = instance();
        one.observe(at(1.0), None, &beat("a"), &Policy::default());
        one.transition((None, Some(State::Up)), Reason::Registered, at(1.0), at(0.0));
        let text = serde_json::to_string(&one).expect("JSON");
        let back: Instance = serde_json::from_str(&text).expect("an instance");
        assert_eq!(serde_json::to_string(&back).expect("JSON"), text);
        assert_eq!(back.restored(ServiceId::default(), 7, at(100.0)).state(), State::Unknown);
        let before = r#"{"name":"web-1","state":"down","seen":10.5,"heard":10.5,"since":10.5,"promise":2.0,"gaps":[2.0,2.0],
            "start":"77","blind":1.5,"floor":20.0,"changed":25.0,"down_at":25.0,"notified":true,"pending":"service",
            "stable":25.0,"received":6,"missed":1,"counted":0.5,"first":0.5,
            "loss":{"expected":6,"lost":1,"runs":1,"beats":5,"misses":0},"source":"127.0.0.1",
            "history":{"cells":[2,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"cell":0,"bucket":0,
            "losses":[[6,1],[0,0],[0,0],[0,0],[0,0],[0,0]],"present":1.0},
            "rare":{"flaps":[25.0],"recheck":[60.0,"not_back_with_service"],"previous_start":null,"message":null,
            "conflict_at":-1000000000.0}}"#;
        let back: Instance = serde_json::from_str(before).expect("an instance");
        assert_eq!((back.state(), back.suppression(), back.received()), (State::Down, Some(Suppression::Service), 6));
        assert_eq!(back.recheck(), Some((at(60.0), Recheck::NotBackWithService)));
        assert_eq!(back.detector().declared_interval(), Some(2.0));
    }
}
