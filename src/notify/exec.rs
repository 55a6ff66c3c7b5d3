//! Commands: each notification is a process that gets the event as one line of JSON on its standard input.
//!
//! A process has a group of its own, the least environment, and a time limit, at which the whole group is killed; what it
//! leaves behind in its group when it ends is killed, too. Its standard output goes nowhere, of its standard error the last
//! line is logged when it fails. There are no more than `processes` at a time, and notifications of one alarm follow one
//! another. Exit code 0 is delivered; everything else is tried again, for as long as it takes. One that waits for its next attempt
//! holds no place: what is new and what is tried again take turns.

use std::convert::Infallible;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;

use crate::presence::{AlertKey, Notification, which};
use crate::supervise::caught;
use crate::sys;
use crate::untrusted::excerpt;

use super::outbox::Outcome;
use super::sender::Sender;
use super::{FIRST_PAUSE, LONGEST_PAUSE, Target, message};

/// Most notifications that wait for their next attempt; beyond it what is queued waits, too.
const WAITING: usize = 200;

/// Longest wait for the rest of what a command has printed.
const REST: Duration = Duration::from_millis(100);

/// Bytes of standard error that are kept, and characters of its last line that are logged.
const KEPT: usize = 4096;
const EXCERPT_CHARS: usize = 200;

pub(super) async fn run(mut target: Target) {
    while let Err(panic) = caught(deliver(&mut target)).await {
        target.restart(panic).await;
    }
}

/// A notification whose command has ended, or is to be run again.
struct Attempt {
    notification: Notification,
    /// When it was tried first.
    first: Instant,
    pause: Duration,
    outcome: Result<(), String>,
}

/// What is in work.
#[derive(Default)]
struct Work {
    running: JoinSet<Attempt>,
    /// The alarms of those.
    busy: Vec<AlertKey>,
    /// Attempts that wait: when each is due.
    waiting: Vec<(Instant, Attempt)>,
    /// The next place is for an attempt that waited.
    is_turn_of_waiting: bool,
}

async fn deliver(target: &mut Target) {
    let mut work = Work::default();
    loop {
        target.part.alive();
        if target.renew() {
            let now = Instant::now();
            work.waiting.iter_mut().for_each(|(due, _)| *due = now);
        }
        if work.running.is_empty() && work.waiting.is_empty() {
            target.recover();
        }
        let is_stopping = *target.stop.borrow();
        work.start(target, is_stopping);
        if is_stopping && work.running.is_empty() {
            if !work.waiting.is_empty() || !target.outbox.is_empty() {
                target.give_up_at_stop();
            }
            return;
        }
        let due = work.waiting.iter().map(|(due, _)| *due).min().filter(|_| work.running.len() < target.places());
        let pause = due.map_or(LONGEST_PAUSE, |due| due.saturating_duration_since(Instant::now()));
        let outbox = Arc::clone(&target.outbox);
        let (mut stop, mut newest) = (target.stop.clone(), target.newest.clone());
        tokio::select! {
            Some(ended) = work.running.join_next() => match ended {
                Ok(attempt) => work.note(target, attempt),
                // Its notification is in work, and lost with everything that is.
                Err(error) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            },
            () = tokio::time::sleep(pause.min(LONGEST_PAUSE)) => {}
            () = outbox.wait() => {}
            Ok(()) = newest.changed() => {}
            _ = stop.wait_for(|stop| *stop), if !is_stopping => {}
        }
    }
}

impl Target {
    /// Most processes at a time.
    fn places(&self) -> usize {
        self.sender.options.processes
    }
}

impl Work {
    /// Starts what may be started: what is queued, and attempts that are due. At a stop what is queued is tried once more.
    fn start(&mut self, target: &Target, is_stopping: bool) {
        self.waiting.retain(|(_, attempt)| target.outbox.wants(&attempt.notification));
        let now = Instant::now();
        while self.running.len() < target.places() {
            let due = self.waiting.iter().position(|(due, _)| *due <= now && !is_stopping);
            let has_room = self.waiting.len() < WAITING || is_stopping;
            let fresh = if has_room && (due.is_none() || !self.is_turn_of_waiting) { self.fresh(target) } else { None };
            self.is_turn_of_waiting = fresh.is_some();
            let Some(attempt) = fresh.or_else(|| due.map(|at| self.waiting.swap_remove(at).1)) else { return };
            self.busy.push(attempt.notification.alarm.key.clone());
            let sender = target.sender.clone();
            self.running.spawn(async move {
                let outcome = attempt_once(&sender, &attempt.notification).await;
                Attempt { outcome, ..attempt }
            });
        }
    }

    /// The next of the queue.
    fn fresh(&self, target: &Target) -> Option<Attempt> {
        let notification = target.outbox.take_next(|key| self.busy.contains(key))?;
        Some(Attempt { notification, first: Instant::now(), pause: FIRST_PAUSE, outcome: Ok(()) })
    }

    /// What became of a command.
    fn note(&mut self, target: &mut Target, attempt: Attempt) {
        let one = which(&attempt.notification);
        if let Some(at) = self.busy.iter().position(|key| *key == one.key) {
            self.busy.swap_remove(at);
        }
        match &attempt.outcome {
            Ok(()) => {
                target.note(Ok(()));
                target.outbox.finish(&[one], Outcome::Delivered);
            }
            Err(problem) => {
                let consequence = "an alert makes the command fail, and others do not; it is run again";
                target.note_failure_of_one(attempt.first, problem, consequence);
                let due = Instant::now() + attempt.pause;
                let pause = (attempt.pause * 2).min(LONGEST_PAUSE);
                self.waiting.push((due, Attempt { pause, ..attempt }));
            }
        }
    }
}

/// Runs the command once.
pub(super) async fn attempt_once(sender: &Sender, notification: &Notification) -> Result<(), String> {
    let event = message::event(notification, &sender.identity, sender.page.as_deref());
    let mut input = event.to_string().into_bytes();
    input.push(b'\n');
    let options = &sender.options;
    let (program, arguments) = options.command.split_first().ok_or("there is no command")?;
    let mut child = Command::from(sys::command_of(program, arguments, &options.env))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    // Killed with its whole group when this ends, however it does.
    let group = child.id().map(Group);
    let (mut last, mut stderr) = (Tail::default(), child.stderr.take());
    let exchange = exchange(&mut child, &input, stderr.as_mut().map(|stderr| last.read(stderr)));
    let ended = tokio::time::timeout(options.timeout, exchange).await;
    drop(group);
    if let Some(stderr) = &mut stderr {
        // What it printed just before its end. A descendant that has left the group may hold the pipe.
        let _ = tokio::time::timeout(REST, last.read(stderr)).await;
    }
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("`{program}` {}{}", ending(status), last.said())),
        Ok(Err(error)) => Err(format!("`{program}` cannot be watched: {error}")),
        Err(_) => {
            let limit = options.timeout.as_secs_f64();
            Err(format!("`{program}` did not end within {limit} s and was killed with its group{}", last.said()))
        }
    }
}

/// A group of processes, which is killed when this is dropped.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        // Nobody is left, most likely.
        let _ = sys::kill_group(self.0);
    }
}

/// Gives a command its input, reads what it says, and waits for its end.
async fn exchange(
    child: &mut Child,
    input: &[u8],
    read: Option<impl Future<Output = ()>>,
) -> std::io::Result<ExitStatus> {
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that does not read its input is none the worse.
            let _ = stdin.write_all(input).await;
        }
    };
    let pipes = async {
        tokio::join!(write, async {
            if let Some(read) = read {
                read.await;
            }
        });
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        status = child.wait() => status,
        never = pipes => match never {},
    }
}

/// How a command ended, in words.
fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// The end of what a command prints.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    /// Reads to the end, however much it is.
    async fn read(&mut self, from: &mut ChildStderr) {
        let mut piece = vec![0; KEPT];
        while let Ok(read @ 1..) = from.read(&mut piece).await {
            self.0.extend_from_slice(&piece[..read]);
            let surplus = self.0.len().saturating_sub(KEPT);
            self.0.drain(..surplus);
            // One that prints without end holds nobody else up.
            tokio::task::yield_now().await;
        }
    }

    /// Its last line, as the end of a sentence.
    fn said(&self) -> String {
        let text = self.0.trim_ascii_end();
        let line = text.rsplit(|&byte| byte == b'\n').next().unwrap_or(&[]);
        if line.is_empty() { String::new() } else { format!(": {}", excerpt(line, EXCERPT_CHARS)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::{Outboxes, TargetKind, TargetOptions, Targets};
    use crate::presence::{Alarm, AlertKey, AlertName, AlertState, Identity, Severity, UnixTime};

    #[test]
    fn a_command_that_fails_is_run_again_for_as_long_as_it_takes() {
        let identity = Some(Identity { node: "n".into(), boot: 1 });
        let all = vec![TargetOptions::new("t", TargetKind::Exec)];
        let mut outboxes = Outboxes::new(Targets { all, identity, ..Targets::default() }).expect("no files");
        let (mut target, mut work) = (outboxes.targets.remove(0), Work::default());
        let key = AlertKey::of(AlertName::MassSilence);
        let (severity, since, until) = (Severity::Critical, UnixTime::default(), None);
        let alarm = Alarm { key, severity, text: String::new(), since, until, state: AlertState::Firing };
        let (resolved, detail) = (false, String::new());
        let one = Notification { alarm: alarm.clone(), resolved, event: None, detail, version: 0, ending: None };
        target.outbox.put(std::slice::from_ref(&one));
        let mut attempt = work.fresh(&target).expect("it waits");
        // For more than a day.
        for _ in 0..1500 {
            attempt.outcome = Err("it does not work".into());
            work.note(&mut target, attempt);
            attempt = work.waiting.pop().expect("it is to be run again").1;
        }
        assert_eq!((attempt.pause, target.outbox.account().queued), (LONGEST_PAUSE, 1));
        assert!(target.outbox.fails());
        // It takes another alert: the target works, whatever this one does.
        let other = Notification { alarm: Alarm { key: AlertKey::of(AlertName::PeerUnreachable), ..alarm }, ..one };
        target.outbox.put(&[other]);
        let other = work.fresh(&target).expect("it waits");
        work.note(&mut target, other);
        attempt.outcome = Err("it does not work".into());
        work.note(&mut target, attempt);
        assert!(!target.outbox.fails() && work.waiting.len() == 1);
    }
}
