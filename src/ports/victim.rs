//! How far the request of a connection is, when its time is over, and which connection gives way when there is no room.
//! Time is an argument.

use std::time::{Duration, Instant};

/// A connection that is younger than this gives way only when no older one can: it may be about to send its request.
const YOUNG: Duration = Duration::from_millis(500);

/// A request whose answer has not begun after this time gives way when nothing else can: too many ask for too much.
const UNANSWERED: Duration = Duration::from_secs(1);

/// How long is waited for what, on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the first byte of the first request.
    pub first: Duration,
    /// For the first byte of a later one.
    pub idle: Duration,
    /// For a handshake, or for all of a request but its body.
    pub head: Duration,
    /// For all of the body of a request.
    pub body: Duration,
    /// For the client to take any byte of what is sent.
    pub write: Duration,
}

impl Patience {
    /// Of HTTP.
    pub const HTTP: Patience = Patience {
        first: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        head: Duration::from_secs(10),
        body: Duration::from_secs(30),
        write: Duration::from_secs(30),
    };

    /// Of people who type commands.
    pub const COMMANDS: Patience =
        Patience { first: Duration::from_secs(600), idle: Duration::from_secs(600), ..Patience::HTTP };
}

/// Bytes that a connection has allocated beside its task, as they were measured with 600 connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// Whatever it does.
    pub idle: usize,
    /// More while the head of a request, or a command, is read: the first buffer for that. Further ones are powers of two.
    pub head: usize,
}

impl Buffers {
    /// Of HTTP.
    pub const HTTP: Buffers = Buffers { idle: 17_100, head: 8192 };

    /// Of commands.
    pub const COMMANDS: Buffers = Buffers { idle: 700, head: 0 };
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its TLS is not set up yet.
    Handshake,
    /// No byte of the next request is here.
    Waiting,
    /// A part of its head is here.
    Head,
    /// The head is here, and a part of the body.
    Body,
    /// The whole request is here and is being answered.
    Answering,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    phase: Phase,
    /// When the phase began.
    since: Instant,
    /// When the last request was answered; without one, when the connection was accepted.
    rested: Instant,
    /// Whether any request was answered.
    is_proven: bool,
    /// Since when the client takes nothing of what is sent.
    stalled: Option<Instant>,
    /// Whether a part of the answer was sent.
    has_begun: bool,
    /// Bytes of the head of a request that is not whole yet.
    head: usize,
}

impl Progress {
    pub(super) fn new(phase: Phase, now: Instant) -> Progress {
        Progress { phase, since: now, rested: now, is_proven: false, stalled: None, has_begun: false, head: 0 }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        (self.phase, self.since, self.head) = (phase, now, 0);
    }

    /// The handshake is over.
    pub(super) fn secured(&mut self, now: Instant) {
        self.enter(Phase::Waiting, now);
    }

    /// Bytes came in.
    pub(super) fn heard(&mut self, count: usize, now: Instant) {
        if self.phase == Phase::Waiting {
            self.enter(Phase::Head, now);
        }
        if self.phase == Phase::Head {
            self.head += count;
        }
    }

    /// Bytes that it has allocated.
    pub(super) fn allocated(&self, buffers: &Buffers) -> usize {
        match self.head {
            0 => buffers.idle,
            head if head <= buffers.head => buffers.idle + buffers.head,
            head => buffers.idle + buffers.head + head.next_power_of_two(),
        }
    }

    /// A request is here, but for its body if it has one.
    pub(super) fn begin(&mut self, has_body: bool, now: Instant) {
        self.enter(if has_body { Phase::Body } else { Phase::Answering }, now);
        self.has_begun = false;
    }

    /// The body is read, or nobody wants the rest of it.
    pub(super) fn body_is_here(&mut self, now: Instant) {
        if self.phase == Phase::Body {
            self.enter(Phase::Answering, now);
        }
    }

    /// The answer is written.
    pub(super) fn done(&mut self, now: Instant) {
        self.enter(Phase::Waiting, now);
        (self.rested, self.is_proven) = (now, true);
    }

    /// Bytes were sent.
    pub(super) fn sent(&mut self) {
        (self.stalled, self.has_begun) = (None, true);
    }

    /// Nothing more is to be sent.
    pub(super) fn flushed(&mut self) {
        self.stalled = None;
    }

    /// The client did not take what was to be sent.
    pub(super) fn stall(&mut self, now: Instant) {
        self.stalled.get_or_insert(now);
    }

    /// Whether its time is over; `Some(true)` if that cuts a request or an answer short.
    pub(super) fn is_over(&self, patience: &Patience, now: Instant) -> Option<bool> {
        let passed = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        if self.stalled.is_some_and(|since| passed(since, patience.write)) {
            return Some(true);
        }
        let (limit, is_cut) = match self.phase {
            Phase::Waiting if self.is_proven => (patience.idle, false),
            Phase::Waiting => (patience.first, true),
            Phase::Handshake | Phase::Head => (patience.head, true),
            Phase::Body => (patience.body, true),
            Phase::Answering => return None,
        };
        passed(self.since, limit).then_some(is_cut)
    }

    /// How gladly it gives way: the least one goes first. `None` must stay.
    pub(super) fn rank(&self, now: Instant) -> Option<(Rank, Instant)> {
        let is_young = now.saturating_duration_since(self.rested) < YOUNG;
        match (self.phase, self.stalled) {
            (Phase::Answering, Some(since)) => Some((Rank::Stalled, since)),
            (Phase::Answering, None) => {
                let is_late = !self.has_begun && now.saturating_duration_since(self.since) >= UNANSWERED;
                is_late.then_some((Rank::Unanswered, self.since))
            }
            (Phase::Handshake | Phase::Waiting, _) if is_young && !self.is_proven => Some((Rank::Silent, self.rested)),
            _ if is_young => Some((Rank::Young, self.rested)),
            _ if self.is_proven => Some((Rank::Resting, self.rested)),
            _ => Some((Rank::Unproven, self.rested)),
        }
    }
}

/// Kinds of connections, in the order in which they give way. Of one kind the oldest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// It has never sent a complete request.
    Unproven,
    /// It has sent requests, and none is being answered.
    Resting,
    /// It does not take its answer.
    Stalled,
    /// It came a moment ago, and has sent nothing yet.
    Silent,
    /// It came a moment ago and has sent something, or was answered a moment ago.
    Young,
    /// Its answer has not begun for long.
    Unanswered,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_request_that_drips_has_a_total_time() {
        let start = Instant::now();
        let is_over = |progress: &Progress, at: u64| progress.is_over(&Patience::HTTP, start + secs(at));
        let mut progress = Progress::new(Phase::Handshake, start);
        assert_eq!([is_over(&progress, 9), is_over(&progress, 10)], [None, Some(true)]);
        progress.secured(start + secs(9));
        assert_eq!([is_over(&progress, 18), is_over(&progress, 19)], [None, Some(true)]);
        progress.heard(1, start + secs(18));
        // Later bytes of the head win no time.
        progress.heard(1, start + secs(23));
        assert_eq!([is_over(&progress, 27), is_over(&progress, 28)], [None, Some(true)]);
        progress.begin(true, start + secs(27));
        progress.heard(1, start + secs(55));
        assert_eq!([is_over(&progress, 56), is_over(&progress, 57)], [None, Some(true)]);
        progress.body_is_here(start + secs(56));
        assert_eq!(is_over(&progress, 100_000), None, "an answer may take its time");
        progress.stall(start + secs(60));
        progress.stall(start + secs(80));
        assert_eq!([is_over(&progress, 89), is_over(&progress, 90)], [None, Some(true)]);
        progress.sent();
        assert_eq!(is_over(&progress, 100_000), None);
        progress.done(start + secs(100));
        assert_eq!([is_over(&progress, 159), is_over(&progress, 160)], [None, Some(false)]);
        // Of a body that nobody wants nothing is known any more.
        progress.body_is_here(start + secs(101));
        assert_eq!(is_over(&progress, 160), Some(false));
    }

    #[test]
    fn those_without_a_request_give_way_first_and_those_that_are_answered_never() {
        let start = Instant::now();
        let now = start + secs(100);
        let at = |ago: u64| now - secs(ago);
        let unproven = |ago| Progress::new(Phase::Waiting, at(ago));
        let resting = |ago| {
            let mut progress = unproven(99);
            progress.begin(false, at(98));
            progress.done(at(ago));
            progress
        };
        let mut answered = unproven(99);
        answered.begin(false, at(98));
        let unanswered = answered;
        let mut asked_now = answered;
        asked_now.begin(false, at(0));
        answered.sent();
        let mut stalled = answered;
        stalled.stall(at(3));
        let mut dripping = unproven(50);
        dripping.heard(1, at(1));
        let mut young = unproven(0);
        young.heard(1, at(0));
        let mut order = vec![
            ("young", young),
            ("silent", unproven(0)),
            ("stalled", stalled),
            ("resting 1 s", resting(1)),
            ("resting 80 s", resting(80)),
            ("unproven 40 s", unproven(40)),
            ("dripping 50 s", dripping),
            ("answered", answered),
            ("asked now", asked_now),
            ("unanswered", unanswered),
        ];
        order.retain(|(_, progress)| progress.rank(now).is_some());
        order.sort_by_key(|(_, progress)| progress.rank(now));
        let names: Vec<&str> = order.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "dripping 50 s",
                "unproven 40 s",
                "resting 80 s",
                "resting 1 s",
                "stalled",
                "silent",
                "young",
                "unanswered"
            ]
        );
    }
}
