//! Delivers the queue of a target over HTTP, in order. What finds nobody is tried again after 1, 2, 4 … 60 s, or when the
//! receiver wants to be asked again; nothing else is tried meanwhile. What is not let in is set aside and tried again after
//! 30 s … 5 min, while the others go on: who is set up may mend that. So is what a receiver has failed at five times, for that
//! may be its own fault. What is refused for good is counted and given up.

use std::time::{Duration, Instant};

use crate::presence::{Notification, which};
use crate::supervise::caught;

use super::outbox::{Loss, Outcome};
use super::sender::{Failure, Remedy, Sender};
use super::{FIRST_PAUSE, LONGEST_PAUSE, Target, TargetKind};

/// Notifications in one request to a webhook; the others take one.
const BATCH: usize = 100;

/// Longest pause that a receiver may ask for (`Retry-After`).
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Pauses of what is set aside: 30, 60, 120, 240, 300 s.
const FIRST_ASIDE: Duration = Duration::from_secs(30);
const LONGEST_ASIDE: Duration = Duration::from_secs(300);

/// Most notifications that are set aside.
const ASIDE: usize = 200;

/// So often in a row a receiver may fail at the same request (5xx) before others are tried.
const FAILURES: u32 = 5;

pub(super) async fn run(mut target: Target) {
    // What was in work at a panic is not tried again.
    while let Err(panic) = caught(deliver(&mut target)).await {
        target.restart(panic).await;
    }
}

/// A notification that was not let in.
struct Aside {
    notification: Notification,
    /// When it was refused first.
    first: Instant,
    /// When it is tried again, and how long it waits after that.
    due: Instant,
    pause: Duration,
}

/// What is in work.
#[derive(Default)]
struct Work {
    /// To be sent in one request.
    batch: Vec<Notification>,
    /// What `batch` was before, if it was set aside.
    again: Option<Aside>,
    aside: Vec<Aside>,
    /// So many of the next are sent one by one: a receiver has refused them together.
    alone: usize,
    /// How often the receiver has failed at `batch`.
    failures: u32,
}

impl Work {
    /// Takes what is to be sent next: what was set aside and is due, or what is queued.
    fn take(&mut self, target: &Target, is_stopping: bool) {
        self.failures = 0;
        self.aside.retain(|one| target.outbox.wants(&one.notification));
        let now = Instant::now();
        if let Some(at) = self.aside.iter().position(|one| one.due <= now) {
            return self.take_aside(at);
        }
        self.again = None;
        if !is_stopping && self.aside.len() >= ASIDE && !self.give_one_up(target) {
            return;
        }
        let most = if target.sender.options.kind == TargetKind::Webhook { BATCH } else { 1 };
        self.batch = target.outbox.take(if self.alone > 0 { 1 } else { most });
        // At a stop all is tried once more; what is queued may wait for what is aside.
        if is_stopping && self.batch.is_empty() && !self.aside.is_empty() {
            self.take_aside(0);
        }
    }

    fn take_aside(&mut self, at: usize) {
        let again = self.aside.remove(at);
        self.batch = vec![again.notification.clone()];
        self.again = Some(again);
    }

    /// Gives up one that is not let in while others are; whether there is one.
    fn give_one_up(&mut self, target: &Target) -> bool {
        let Some(at) = self.aside.iter().position(|one| target.has_taken_since(one.first)) else { return false };
        let lost = self.aside.remove(at);
        target.outbox.finish(&[which(&lost.notification)], Outcome::Lost(Loss::Refused));
        true
    }

    /// The batch is dealt with.
    fn finish(&mut self, target: &Target, outcome: Outcome) {
        let taken: Vec<_> = self.batch.drain(..).map(|one| which(&one)).collect();
        target.outbox.finish(&taken, outcome);
        self.alone = self.alone.saturating_sub(taken.len());
        self.again = None;
    }

    /// What is to be done about the batch: one that makes its receiver fail holds the others up no longer than some attempts.
    fn remedy(&mut self, failure: &Failure) -> Remedy {
        if failure.status.is_none_or(|status| status < 500) {
            return failure.remedy;
        }
        self.failures += 1;
        if self.failures >= FAILURES || self.again.is_some() { Remedy::Later } else { failure.remedy }
    }

    /// Sets the only one of the batch aside.
    fn set_aside(&mut self, target: &mut Target, failure: &Failure) {
        let Some(notification) = self.batch.pop() else { return };
        let now = Instant::now();
        let (first, pause) = self.again.take().map_or((now, FIRST_ASIDE), |before| (before.first, before.pause));
        target.note_failure_of_one(
            first,
            &failure.problem,
            "an alert is refused, and others are not; it is tried again",
        );
        let due = now + failure.retry_after.map_or(pause, |wanted| wanted.clamp(FIRST_ASIDE, LONGEST_RETRY_AFTER));
        self.aside.push(Aside { notification, first, due, pause: (pause * 2).min(LONGEST_ASIDE) });
        self.alone = self.alone.saturating_sub(1);
    }

    /// The receiver is back, or another one: what was set aside because it failed is tried at once.
    fn hurry(&mut self) {
        let now = Instant::now();
        for one in &mut self.aside {
            (one.due, one.pause) = (now, FIRST_ASIDE);
        }
    }

    /// Waits for something to do, or the stop.
    async fn rest(&self, target: &mut Target) {
        let due = self.aside.iter().map(|one| one.due).min();
        let longest = due.map_or(LONGEST_PAUSE, |due| due.saturating_duration_since(Instant::now()));
        target.rest(longest.min(LONGEST_PAUSE), true).await;
    }
}

async fn deliver(target: &mut Target) {
    let mut work = Work::default();
    let mut pause = FIRST_PAUSE;
    loop {
        if target.renew() {
            work.hurry();
            pause = FIRST_PAUSE;
        }
        target.outbox.keep_wanted(&mut work.batch);
        let is_stopping = *target.stop.borrow();
        if work.batch.is_empty() {
            work.take(target, is_stopping);
        }
        if work.batch.is_empty() {
            if is_stopping {
                return;
            }
            target.recover();
            work.alone = 0;
            work.rest(target).await;
            continue;
        }
        target.part.alive();
        let Err(failure) = target.sender.send(&work.batch).await else {
            if target.outbox.fails() {
                work.hurry();
            }
            target.note(Ok(()));
            work.finish(target, Outcome::Delivered);
            pause = FIRST_PAUSE;
            continue;
        };
        match work.remedy(&failure) {
            Remedy::Again | Remedy::Later if is_stopping => {
                target.note(Err(&failure.problem));
                target.give_up_at_stop();
                return;
            }
            Remedy::Again => {
                target.note(Err(&failure.problem));
                target.rest_with(&mut work.batch, wait(&failure, pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Remedy::Later | Remedy::GiveUp if work.batch.len() > 1 => {
                work.alone = target.outbox.put_back(std::mem::take(&mut work.batch));
                pause = FIRST_PAUSE;
            }
            Remedy::Later => work.set_aside(target, &failure),
            Remedy::GiveUp => {
                target.note_refused(&failure.problem, "an alert is refused, and given up");
                work.finish(target, Outcome::Lost(Loss::Refused));
            }
        }
    }
}

/// How long to wait before the next attempt.
fn wait(failure: &Failure, pause: Duration) -> Duration {
    failure.retry_after.map_or(pause, |wanted| wanted.clamp(FIRST_PAUSE, LONGEST_RETRY_AFTER))
}

/// One attempt by its own, outside of the queue.
pub(super) async fn attempt(sender: &Sender, notification: &Notification) -> Result<String, String> {
    sender.send(std::slice::from_ref(notification)).await.map_err(|failure| failure.problem)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::notify::{Outboxes, TargetOptions, Targets};
    use crate::presence::{Alarm, AlertKey, AlertName, AlertState, Identity, Severity, UnixTime};

    fn notification(service: &str, resolved: bool) -> Notification {
        let key = AlertKey { service: Some(service.into()), ..AlertKey::of(AlertName::ServiceDown) };
        let (severity, since, until) = (Severity::Critical, UnixTime::default(), None);
        let alarm = Alarm { key, severity, text: String::new(), since, until, state: AlertState::Firing };
        Notification { alarm, resolved, event: None, detail: String::new(), version: 0, ending: None }
    }

    fn target() -> Target {
        let identity = Some(Identity { node: "n".into(), boot: 1 });
        let all = vec![TargetOptions::new("t", TargetKind::Slack)];
        let mut outboxes = Outboxes::new(Targets { all, identity, ..Targets::default() }).expect("no files");
        outboxes.targets.remove(0)
    }

    /// Takes the next one; for which service it is, and whether it is an end.
    fn take(work: &mut Work, target: &Target) -> Option<(String, bool)> {
        work.take(target, false);
        let one = work.batch.first()?;
        Some((one.alarm.key.service.clone()?.to_string(), one.resolved))
    }

    fn locked() -> Failure {
        Failure { problem: "it answers 403".into(), remedy: Remedy::Later, status: Some(403), retry_after: None }
    }

    #[test]
    fn what_a_receiver_fails_at_again_and_again_is_set_aside_and_who_does_not_answer_is_waited_for() {
        let (mut target, mut work) = (target(), Work::default());
        let outbox = Arc::clone(&target.outbox);
        let of = |service: &str| Some((service.to_string(), false));
        outbox.put(&[notification("a", false), notification("b", false)]);
        assert_eq!(take(&mut work, &target), of("a"));
        let failed = |status| Failure { status, remedy: Remedy::Again, ..locked() };
        for status in [None, Some(302), Some(408), Some(429)] {
            assert!((0..2 * FAILURES).all(|_| work.remedy(&failed(status)) == Remedy::Again), "{status:?}");
        }
        assert!((1..FAILURES).all(|_| work.remedy(&failed(Some(500))) == Remedy::Again));
        assert_eq!(work.remedy(&failed(Some(500))), Remedy::Later);
        work.set_aside(&mut target, &failed(Some(500)));
        assert_eq!(take(&mut work, &target), of("b"));
        assert_eq!(work.remedy(&failed(Some(500))), Remedy::Again);
        target.note(Ok(()));
        work.finish(&target, Outcome::Delivered);
        // It was tried often enough: the next time once.
        work.aside[0].due = Instant::now();
        assert_eq!(take(&mut work, &target), of("a"));
        assert_eq!(work.remedy(&failed(Some(503))), Remedy::Later);
        work.set_aside(&mut target, &failed(Some(503)));
        assert!(!outbox.fails(), "others are taken");
    }

    #[test]
    fn what_is_not_let_in_is_set_aside_while_others_go_on_and_tried_again_until_it_is() {
        let (mut target, mut work) = (target(), Work::default());
        let outbox = Arc::clone(&target.outbox);
        let of = |service: &str, resolved| Some((service.to_string(), resolved));
        outbox.put(&[notification("a", false)]);
        assert_eq!(take(&mut work, &target), of("a", false));
        outbox.put(&[notification("a", true), notification("b", false)]);
        work.set_aside(&mut target, &locked());
        assert!(outbox.fails());
        // Its end waits for it; another one does not.
        assert_eq!(take(&mut work, &target), of("b", false));
        target.note(Ok(()));
        work.finish(&target, Outcome::Delivered);
        assert_eq!(take(&mut work, &target), None);
        for pause in [120, 240, 300, 300] {
            work.aside[0].due = Instant::now();
            assert_eq!(take(&mut work, &target), of("a", false));
            work.set_aside(&mut target, &locked());
            assert_eq!(work.aside[0].pause, Duration::from_secs(pause));
            // Others are let in, so the receiver can be reached.
            assert!(!outbox.fails());
        }
        work.aside[0].due = Instant::now();
        assert_eq!(take(&mut work, &target), of("a", false));
        work.finish(&target, Outcome::Delivered);
        assert_eq!(take(&mut work, &target), of("a", true));
        work.finish(&target, Outcome::Delivered);
        let account = outbox.account();
        assert_eq!((account.delivered, account.queued, account.dropped.total()), (3, 0, 0));
    }

    #[test]
    fn what_others_have_sent_is_not_tried_again_and_what_alone_is_not_let_in_gives_way_in_the_end() {
        let (mut target, mut work) = (target(), Work::default());
        let outbox = Arc::clone(&target.outbox);
        outbox.put(&[notification("a", false)]);
        assert!(take(&mut work, &target).is_some());
        work.set_aside(&mut target, &locked());
        outbox.stand_down();
        work.aside[0].due = Instant::now();
        assert_eq!(take(&mut work, &target), None);
        // As many as there are places: as long as none is let in, the queue waits for somebody to mend that.
        let names: Vec<String> = (0..=ASIDE).map(|n| format!("s{n}")).collect();
        outbox.put(&names.iter().map(|name| notification(name, false)).collect::<Vec<_>>());
        for _ in 0..ASIDE {
            assert!(take(&mut work, &target).is_some());
            work.set_aside(&mut target, &locked());
        }
        assert_eq!((take(&mut work, &target), work.aside.len()), (None, ASIDE));
        // At a stop that is tried all the same, and so is what is aside, though the end of one is queued.
        outbox.put(&[notification("s0", true)]);
        work.take(&target, true);
        assert_eq!(work.batch[0].alarm.key.service.as_deref(), Some("s200"));
        work.set_aside(&mut target, &locked());
        work.take(&target, true);
        assert_eq!(work.batch[0].alarm.key.service.as_deref(), Some("s0"));
        assert_eq!(outbox.put_back(std::mem::take(&mut work.batch)), 1);
        outbox.withdraw(&[notification("s0", false).alarm.key]);
        outbox.put(&[notification("t", false)]);
        assert_eq!((take(&mut work, &target), work.aside.len()), (None, ASIDE));
        // If others are, the one that was refused first is given up.
        target.took_at = Some(Instant::now());
        assert_eq!(take(&mut work, &target), Some(("t".to_string(), false)));
        assert_eq!((work.aside.len(), outbox.account().dropped.total()), (ASIDE - 1, 4));
    }

    #[test]
    fn a_refusal_is_no_unreachable_receiver_and_an_idle_target_recovers() {
        let mut target = target();
        target.note_refused("it answers 400", "given up");
        assert!(!target.outbox.fails() && target.outbox.account().failures == 1);
        target.note(Err("nobody is there"));
        target.recover();
        assert!(target.outbox.fails(), "it was tried just now");
        target.failed_at = Instant::now().checked_sub(super::super::RECOVERS_AFTER);
        target.recover();
        assert!(!target.outbox.fails());
    }
}
