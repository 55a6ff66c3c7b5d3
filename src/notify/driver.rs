//! Delivers the queue of a target over HTTP, in order: what fails is tried again after 1, 2, 4 … 60 s, or when the receiver
//! wants to be asked again; what it refuses for good is counted and given up, so that it holds nothing up.

use std::time::Duration;

use crate::presence::Notification;
use crate::supervise::caught;

use super::outbox::{Loss, Outcome};
use super::sender::{Failure, Sender};
use super::{FIRST_PAUSE, LONGEST_PAUSE, Target, TargetKind};

/// Notifications in one request to a webhook; the others take one.
const BATCH: usize = 100;

/// Longest pause that a receiver may ask for (`Retry-After`).
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

pub(super) async fn run(mut target: Target) {
    // What was in work at a panic is not tried again.
    while let Err(panic) = caught(deliver(&mut target)).await {
        target.restart(panic).await;
    }
}

async fn deliver(target: &mut Target) {
    let most = if target.sender.options.kind == TargetKind::Webhook { BATCH } else { 1 };
    let mut batch: Vec<Notification> = Vec::new();
    // So many of the next are sent one by one: a receiver has refused them together.
    let mut alone = 0_usize;
    let mut pause = FIRST_PAUSE;
    loop {
        if batch.is_empty() {
            batch = target.outbox.take(if alone > 0 { 1 } else { most });
        }
        let is_stopping = *target.stop.borrow();
        if batch.is_empty() {
            if is_stopping {
                return;
            }
            alone = 0;
            target.rest(LONGEST_PAUSE, true).await;
            continue;
        }
        target.part.alive();
        match target.sender.send(&batch).await {
            Ok(_) => {
                target.note(Ok(()));
                target.outbox.finish_all(Outcome::Delivered);
                (alone, pause) = (alone.saturating_sub(batch.len()), FIRST_PAUSE);
                batch.clear();
            }
            Err(failure) if failure.is_permanent && batch.len() > 1 => {
                alone = batch.len();
                target.outbox.put_back(std::mem::take(&mut batch));
            }
            Err(failure) if failure.is_permanent => {
                target.note_refused(&failure.problem);
                target.outbox.finish_all(Outcome::Lost(Loss::Refused));
                alone = alone.saturating_sub(1);
                batch.clear();
            }
            Err(failure) => {
                target.note(Err(&failure.problem));
                if is_stopping {
                    target.give_up_at_stop();
                    return;
                }
                let wait = wait(&failure, pause);
                target.rest(wait, false).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
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
