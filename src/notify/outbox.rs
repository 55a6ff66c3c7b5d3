//! The queue of one target, what it knows to be told, and its account.
//!
//! The pairing rule holds here for each target: an end is queued if and only if its problem was. A problem that is given up
//! before it was delivered takes its end with it. What was delivered is saved with the state of presence, so that a start
//! tells what is not told yet, ends what ended in between, and repeats nothing.
//!
//! `offered = delivered + queued + dropped`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::presence::describe::over_text;
use crate::presence::{Alarm, AlertKey, AlertState, Event, Notification, Severity, UnixTime, Which, which};
use crate::sys::unix_time;
use crate::telemetry::NotifierAccount;

use super::route::Route;

/// Most notifications in a queue.
pub(super) const QUEUE: usize = 1000;

/// Why a notification is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The queue was full, or the problem of an end was given up.
    QueueFull,
    /// The receiver refuses it, and would again.
    Refused,
    /// Another one about the same took its place before it was sent.
    Superseded,
    /// The target's task failed while it had it.
    Failed,
    /// The daemon stopped first.
    Shutdown,
}

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Loss::QueueFull => "queue_full",
            Loss::Refused => "refused",
            Loss::Superseded => "superseded",
            Loss::Failed => "failed",
            Loss::Shutdown => "shutdown",
        }
    }
}

/// What became of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// It never will.
    Lost(Loss),
}

/// What a target knows of an alarm.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    severity: Severity,
    since: UnixTime,
    until: Option<UnixTime>,
    /// The receiver has the problem.
    delivered: bool,
    /// Its end is queued: what it says.
    ending: Option<String>,
    /// What is to be told of a problem that ends by itself, until the receiver has it: it is news when the problem is over, too.
    news: Option<Box<Notification>>,
}

/// What a target was told, as it is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedTarget {
    target: String,
    alarms: Vec<SavedAlarm>,
    /// Problems that end by themselves and that it was not told of yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    news: Vec<SavedNews>,
}

/// A notification, with the time of its event, which that does not have as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedNews {
    alarm: Alarm,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<(u64, UnixTime, Event)>,
    #[serde(default)]
    detail: String,
}

impl SavedNews {
    fn of(notification: &Notification) -> SavedNews {
        let Notification { alarm, event, detail, .. } = notification.clone();
        SavedNews { alarm, event: event.map(|(number, event)| (number, event.at, event)), detail }
    }

    fn notification(&self) -> Notification {
        let SavedNews { alarm, event, detail } = self.clone();
        let event = event.map(|(number, at, event)| (number, Event { at, ..event }));
        Notification { alarm, resolved: false, event, detail, version: 0, ending: None }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedAlarm {
    #[serde(rename = "topic")]
    key: AlertKey,
    severity: Severity,
    since: UnixTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<UnixTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ending: Option<String>,
}

/// The queue of one target.
#[derive(Debug)]
pub struct Outbox {
    name: String,
    route: RwLock<Arc<Route>>,
    /// Whether the receiver wants an end of what ends by itself.
    ends_passing: bool,
    /// Whether it forgets what is not repeated.
    forgets: bool,
    inner: Mutex<Inner>,
    wake: tokio::sync::Notify,
    /// Grows when what is to be saved has changed, or something was queued.
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Notification>,
    in_work: Vec<Which>,
    told: BTreeMap<AlertKey, Known>,
    account: NotifierAccount,
    fails: bool,
    /// It went on from an earlier start.
    is_resumed: bool,
    /// It has another route, and was not told yet what fires and is on that.
    is_rerouted: bool,
    /// Another node notifies, since this was last asked.
    stands_down: bool,
    /// This node speaks to it.
    is_spoken_to: bool,
    /// What it has dealt with since this was last asked; `None` if nobody ever asked.
    settled: Option<Vec<Which>>,
}

impl Outbox {
    /// An empty one. It needs no runtime: only [`Outbox::wait`] does. `ends_passing`: its receiver wants an end of what ends by
    /// itself; `forgets`: it forgets what is not repeated.
    pub fn new(name: &str, route: Route, ends_passing: bool, forgets: bool) -> Outbox {
        Outbox {
            name: name.to_string(),
            route: RwLock::new(Arc::new(route)),
            ends_passing,
            forgets,
            inner: Mutex::default(),
            wake: tokio::sync::Notify::new(),
            version: AtomicU64::new(0),
        }
    }

    /// One that takes everything.
    #[cfg(test)]
    pub fn for_tests() -> Outbox {
        Outbox::new("test", Route::default(), false, false)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn route(&self) -> Arc<Route> {
        Arc::clone(&self.route.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what this route lets through from now on. What the receiver has been told is ended all the same.
    pub(super) fn set_route(&self, route: &Route) {
        if *self.route() != *route {
            *self.route.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(route.clone());
            self.lock().is_rerouted = true;
        }
    }

    /// After a reload: a target that is new, or has another route, is told what fires and what it was not told of.
    pub fn catch_up(&self, firing: &[Notification]) {
        let route = self.route();
        let mut inner = self.lock();
        let is_new = !std::mem::replace(&mut inner.is_resumed, true);
        if !std::mem::take(&mut inner.is_rerouted) && !is_new {
            return;
        }
        for notification in firing {
            if !inner.told.contains_key(&notification.alarm.key) {
                inner.put(notification, &route);
            }
        }
        drop(inner);
        self.version.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Queues what this target is to be sent: problems that its route takes, and ends of those. A problem that ends before it was
    /// sent is told to nobody, and so is its end. When the queue is full the newest problem of the lowest severity is given up, and
    /// its end with it unless the receiver has it already; the end of a problem that the receiver has is never given up.
    pub fn put(&self, notifications: &[Notification]) {
        let route = self.route();
        let mut inner = self.lock();
        notifications.iter().for_each(|notification| inner.put(notification, &route));
        drop(inner);
        // What it is about is to be on disk when it is sent, or soon after.
        self.version.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Notes that the receiver knows these alarms, whoever has told it.
    pub fn adopt<'a>(&self, alarms: impl IntoIterator<Item = &'a Alarm>) {
        let route = self.route();
        let mut inner = self.lock();
        for alarm in alarms.into_iter().filter(|alarm| route.takes(alarm)) {
            inner.note(alarm).delivered = true;
        }
    }

    /// Lets time pass: what ends by itself is over, and the receiver is told so if it does not find out by itself.
    pub fn tick(&self, now: UnixTime) {
        let route = self.route();
        let mut inner = self.lock();
        // What waits still is told first: it is news, however late.
        let is_over =
            |told: &Known| told.delivered && told.ending.is_none() && told.until.is_some_and(|until| until <= now);
        let over = inner.told.iter().filter(|(_, told)| is_over(told));
        let over: Vec<Alarm> = over.map(|(key, told)| told.alarm(key, "nothing more was seen of it")).collect();
        if over.is_empty() {
            return;
        }
        for alarm in over {
            if self.ends_passing {
                inner.put(&ended(alarm), &route);
            } else {
                inner.told.remove(&alarm.key);
            }
        }
        drop(inner);
        self.version.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// After a start: `saved` is what the receiver was told before, `None` if nobody knows, and `firing` what is notified
    /// and not over. What it was not told is queued, and so is the end of what is over; who forgets is told everything.
    pub fn resume(&self, saved: Option<&[SavedTarget]>, firing: &[Notification]) {
        let route = self.route();
        let mut inner = self.lock();
        // When presence alone starts again, this queue knows better than what was saved.
        let known = inner.is_resumed.then(|| inner.told.iter().map(saved_alarm).collect::<Vec<_>>());
        inner.is_resumed = true;
        let of_file = || saved?.iter().find(|one| one.target == self.name).map(|one| &one.alarms[..]).or(Some(&[]));
        let own = known.as_deref().or_else(of_file);
        for notification in firing {
            let alarm = &notification.alarm;
            let is_told = own.is_none_or(|own| own.iter().any(|one| one.key == alarm.key && one.ending.is_none()));
            if is_told && (route.takes(alarm) || own.is_some()) {
                inner.note(alarm).delivered = true;
            }
            if !is_told || self.forgets {
                inner.put(notification, &route);
            }
        }
        for one in own.unwrap_or_default() {
            let is_open = one.ending.is_none() && firing.iter().any(|firing| firing.alarm.key == one.key);
            if !is_open {
                let (severity, since, until) = (one.severity, one.since, one.until);
                let told = Known { severity, since, until, delivered: true, ending: None, news: None };
                let text = one.ending.as_deref().unwrap_or("it was over when the daemon started again");
                let end = ended(told.alarm(&one.key, text));
                let is_passing = one.ending.is_none() && one.until.is_some();
                if one.ending.is_none() || known.is_none() {
                    inner.told.insert(one.key.clone(), told);
                }
                if !is_passing {
                    inner.put(&end, &route);
                }
            }
        }
        // In the same process they wait still.
        let of_file = saved.filter(|_| known.is_none()).into_iter().flatten().filter(|one| one.target == self.name);
        for news in of_file.flat_map(|one| &one.news) {
            let is_firing = firing.iter().any(|firing| firing.alarm.key == news.alarm.key);
            if !is_firing && route.takes(&news.alarm) {
                inner.put(&news.notification(), &route);
            }
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// After a start of presence among observers, where whoever speaks decides what is to be sent: nothing that waits is sent, and
    /// nothing is ended. What the receiver knows to be open, if an earlier start in this process spoke to it.
    pub fn resume_among(&self) -> Option<Vec<Alarm>> {
        let known = {
            let inner = self.lock();
            let open = inner.told.iter().filter(|(_, told)| told.delivered);
            inner.is_spoken_to.then(|| open.map(|(key, told)| told.alarm(key, "it was told before")).collect())
        };
        self.stand_down();
        known
    }

    /// What of alarms that fire its receiver knows, by what was saved; all that it is sent if nobody knows.
    pub fn known_of(&self, saved: Option<&[SavedTarget]>, firing: &[Alarm]) -> Vec<Alarm> {
        let route = self.route();
        let own = saved.map(|saved| saved.iter().filter(|one| one.target == self.name).flat_map(|one| &one.alarms));
        let own: Option<BTreeSet<&AlertKey>> =
            own.map(|all| all.filter(|one| one.ending.is_none()).map(|one| &one.key).collect());
        let is_known = |alarm: &&Alarm| own.as_ref().map_or(route.takes(alarm), |own| own.contains(&alarm.key));
        firing.iter().filter(is_known).cloned().collect()
    }

    /// What the receiver was told and is to be remembered.
    pub fn save(&self) -> SavedTarget {
        let inner = self.lock();
        let delivered = inner.told.iter().filter(|(_, told)| told.delivered);
        let news = inner.told.values().filter_map(|told| told.news.as_deref().map(SavedNews::of));
        SavedTarget { target: self.name.clone(), alarms: delivered.map(saved_alarm).collect(), news: news.collect() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has dealt with since this was last asked: what arrived, was given up, or is none of its business.
    pub fn take_settled(&self) -> Vec<Which> {
        self.lock().settled.get_or_insert_default().split_off(0)
    }

    /// Others have told the receiver of an alarm, or of its end.
    pub fn follow(&self, alarm: &Alarm, is_out: bool) {
        match (is_out, self.forgets) {
            (true, false) => self.adopt([alarm]),
            (false, false) => drop(self.lock().told.remove(&alarm.key)),
            (_, true) => {
                let (alarm, event, detail) = (alarm.clone(), None, String::new());
                self.put(&[Notification { alarm, resolved: !is_out, event, detail, version: 0, ending: None }]);
            }
        }
    }

    /// A number that grows when [`Outbox::save`] would say something else, or will soon.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Whether nothing waits that could be delivered soon.
    pub fn is_settled(&self) -> bool {
        let inner = self.lock();
        inner.fails || (inner.queue.is_empty() && inner.in_work.is_empty())
    }

    /// Whether its receiver has everything.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.queue.is_empty() && inner.in_work.is_empty()
    }

    /// Whether its receiver could not be reached the last time.
    pub fn fails(&self) -> bool {
        self.lock().fails
    }

    /// Tells a receiver that forgets what is not repeated of these alarms, and notes that any other knows them.
    pub fn take_over(&self, firing: &[Notification]) {
        self.lock().is_spoken_to = true;
        if self.forgets {
            self.put(firing);
        } else {
            self.adopt(firing.iter().map(|notification| &notification.alarm));
        }
    }

    /// Others have notified of these: what waits of them is not sent, and what is in work is not tried again. Who forgets what is
    /// not repeated is sent it all the same.
    pub fn withdraw(&self, keys: &[AlertKey]) {
        if keys.is_empty() || self.forgets {
            return;
        }
        let mut inner = self.lock();
        let before = inner.queue.len() + inner.in_work.len();
        inner.queue.retain(|notification| !keys.contains(&notification.alarm.key));
        inner.in_work.retain(|one| !keys.contains(&one.key));
        let count = before - inner.queue.len() - inner.in_work.len();
        inner.drop_for(Loss::Superseded, count);
        drop(inner);
        self.wake.notify_one();
    }

    /// Another node notifies from now on: what waits is not sent, what is in work is not tried again, and nothing is repeated any
    /// more.
    pub fn stand_down(&self) {
        let mut inner = self.lock();
        let count = inner.queue.len() + inner.in_work.len();
        inner.queue.clear();
        inner.in_work.clear();
        inner.told.clear();
        inner.drop_for(Loss::Superseded, count);
        (inner.stands_down, inner.is_spoken_to) = (true, false);
        drop(inner);
        self.version.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Whether it stood down since this was last asked: nothing of before is to be repeated.
    pub(super) fn take_stand_down(&self) -> bool {
        std::mem::take(&mut self.lock().stands_down)
    }

    /// Its account.
    pub fn account(&self) -> NotifierAccount {
        let inner = self.lock();
        let queued = (inner.queue.len() + inner.in_work.len()) as u64;
        NotifierAccount { queued, up: !inner.fails, ..inner.account.clone() }
    }
}

fn saved_alarm((key, told): (&AlertKey, &Known)) -> SavedAlarm {
    SavedAlarm {
        key: key.clone(),
        severity: told.severity,
        since: told.since,
        until: told.until,
        ending: told.ending.clone(),
    }
}

/// The end of an alarm that no event tells of.
fn ended(alarm: Alarm) -> Notification {
    let alarm = Alarm { text: over_text(&alarm.key), ..alarm };
    Notification { alarm, resolved: true, event: None, detail: String::new(), version: 0, ending: None }
}

/// For the target's task, or whatever takes its place.
impl Outbox {
    /// Resolves when something may wait.
    pub(super) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().queue.is_empty()
    }

    /// Takes up to a number of notifications into work, none of an alarm that is in work already.
    pub fn take(&self, most: usize) -> Vec<Notification> {
        let mut inner = self.lock();
        let busy: BTreeSet<AlertKey> = inner.in_work.iter().map(|one| one.key.clone()).collect();
        let (mut taken, mut left) = (Vec::new(), VecDeque::new());
        for notification in std::mem::take(&mut inner.queue) {
            let is_free = taken.len() < most && !busy.contains(&notification.alarm.key);
            if is_free { taken.push(notification) } else { left.push_back(notification) }
        }
        inner.queue = left;
        inner.in_work.extend(taken.iter().map(which));
        taken
    }

    /// Leaves of notifications that were taken those that are still to be sent: others may have sent them meanwhile. To be asked
    /// before every attempt.
    pub fn keep_wanted(&self, taken: &mut Vec<Notification>) {
        taken.retain(|one| self.wants(one));
    }

    /// Whether a notification that was taken is still to be sent.
    pub(super) fn wants(&self, taken: &Notification) -> bool {
        self.lock().in_work.contains(&which(taken))
    }

    /// Takes the first notification whose alarm is neither in work nor, though it was withdrawn, being tried (`is_busy`): what is
    /// told of one alarm is told in order.
    pub(super) fn take_next(&self, is_busy: impl Fn(&AlertKey) -> bool) -> Option<Notification> {
        let mut inner = self.lock();
        let is_free = |key: &AlertKey| !is_busy(key) && inner.in_work.iter().all(|other| other.key != *key);
        let at = inner.queue.iter().position(|notification| is_free(&notification.alarm.key))?;
        let taken = inner.queue.remove(at)?;
        inner.in_work.push(which(&taken));
        Some(taken)
    }

    /// Takes everything; what is in work about the same alarm gives way.
    pub(super) fn take_all(&self) -> Vec<Notification> {
        let mut inner = self.lock();
        let taken: Vec<Notification> = inner.queue.drain(..).collect();
        for notification in &taken {
            let key = &notification.alarm.key;
            let before = inner.in_work.len();
            inner.in_work.retain(|other| other.key != *key);
            let gone = before - inner.in_work.len();
            inner.drop_for(Loss::Superseded, gone);
            inner.in_work.push(which(notification));
        }
        taken
    }

    /// Puts notifications that were taken back to where they were, and says how many that are. What is not to be sent any more
    /// is left out: others may have sent it meanwhile.
    pub(super) fn put_back(&self, notifications: Vec<Notification>) -> usize {
        let mut inner = self.lock();
        let before = inner.queue.len();
        for notification in notifications.into_iter().rev() {
            if inner.take_from_work(&which(&notification)) {
                inner.queue.push_front(notification);
            }
        }
        inner.queue.len() - before
    }

    /// Notes what became of notifications that were taken. What the receiver has got counts, whoever is to send it by then.
    pub fn finish(&self, taken: &[Which], outcome: Outcome) {
        let mut inner = self.lock();
        taken.iter().for_each(|one| inner.finish(one, outcome));
        drop(inner);
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes what became of everything that was taken.
    pub fn finish_all(&self, outcome: Outcome) -> usize {
        let taken = self.lock().in_work.clone();
        self.finish(&taken, outcome);
        taken.len()
    }

    /// The daemon stops: what waits is lost for this run. How much that is.
    pub(super) fn shut_down(&self) -> usize {
        let mut inner = self.lock();
        let count = inner.queue.len() + inner.in_work.len();
        inner.queue.clear();
        inner.in_work.clear();
        // What was not delivered is no more told after this than before, and the next start tells it.
        inner.drop_for(Loss::Shutdown, count);
        count
    }

    /// Notes an attempt that succeeded; whether its receiver could not be reached before.
    pub fn note_success(&self) -> bool {
        let mut inner = self.lock();
        inner.account.last_success = unix_time();
        (inner.account.last_error, inner.account.failing_since) = (None, 0.0);
        std::mem::take(&mut inner.fails)
    }

    /// Notes an attempt that found nobody; whether its receiver could not be reached before.
    pub fn note_failure(&self, problem: &str) -> bool {
        self.note_refusal(problem);
        std::mem::replace(&mut self.lock().fails, true)
    }

    /// Notes an attempt that the receiver refused: it can be reached.
    pub(super) fn note_refusal(&self, problem: &str) {
        let mut inner = self.lock();
        let now = unix_time();
        inner.account.failures += 1;
        inner.account.last_failure = now;
        if inner.account.last_error.is_none() {
            inner.account.failing_since = now;
        }
        inner.account.last_error = Some(problem.to_string());
    }

    /// Notes that its receiver counts as one that can be reached.
    pub(super) fn note_recovered(&self) {
        self.lock().fails = false;
    }
}

impl Known {
    /// The alarm as far as it is remembered.
    fn alarm(&self, key: &AlertKey, text: &str) -> Alarm {
        Alarm {
            key: key.clone(),
            severity: self.severity,
            text: text.to_string(),
            since: self.since,
            until: None,
            state: AlertState::Firing,
        }
    }
}

impl Inner {
    /// Remembers that an alarm is told, or about to be.
    fn note(&mut self, alarm: &Alarm) -> &mut Known {
        let (severity, since) = (alarm.severity, alarm.since);
        let fresh = || Known { severity, since, until: None, delivered: false, ending: None, news: None };
        let told = self.told.entry(alarm.key.clone()).or_insert_with(fresh);
        (told.severity, told.since, told.until, told.ending) = (alarm.severity, alarm.since, alarm.until, None);
        told
    }

    fn put(&mut self, notification: &Notification, route: &Route) {
        let alarm = &notification.alarm;
        let told = self.told.get_mut(&alarm.key);
        if notification.resolved {
            let Some(told) = told.filter(|told| told.ending.is_none()) else {
                return self.note_done(which(notification));
            };
            told.ending = Some(alarm.text.clone());
            if !self.take_back(&alarm.key) || !route.resolved {
                self.told.remove(&alarm.key);
                return self.note_done(which(notification));
            }
        } else {
            if told.is_none() && !route.takes(alarm) {
                return self.note_done(which(notification));
            }
            self.note(alarm).news = alarm.until.map(|_| Box::new(notification.clone()));
        }
        self.account.offered += 1;
        self.queue.push_back(notification.clone());
        if !notification.resolved && self.queue.len() > QUEUE {
            self.give_up_least();
        }
    }

    /// An alarm is over: takes back what waits of it, be it a problem or an end of before, so that no more than an end and a problem
    /// wait, however often it comes and goes. Whether the end is to be told: not of a problem that nobody was told of.
    fn take_back(&mut self, key: &AlertKey) -> bool {
        let before = self.queue.len();
        let mut had_problem = false;
        self.queue.retain(|other| {
            let is_kept = other.alarm.key != *key;
            had_problem |= !is_kept && !other.resolved;
            is_kept
        });
        let gone = before - self.queue.len();
        self.drop_for(Loss::Superseded, gone);
        let is_told = self.told.get(key).is_some_and(|told| told.delivered);
        !had_problem || is_told || self.is_problem_in_work(key)
    }

    fn is_problem_in_work(&self, key: &AlertKey) -> bool {
        self.in_work.iter().any(|other| other.key == *key && !other.resolved)
    }

    /// Gives a problem of the lowest severity up, of several the newest: many new ones do not push out what waits.
    fn give_up_least(&mut self) {
        let problems = self.queue.iter().enumerate().filter(|(_, notification)| !notification.resolved);
        // The last one of the greatest: the graver is the less.
        let least = problems.max_by_key(|(_, notification)| notification.alarm.severity).map(|(at, _)| at);
        if let Some(gone) = least.and_then(|at| self.queue.remove(at)) {
            self.drop_for(Loss::QueueFull, 1);
            self.note_done(which(&gone));
            self.give_up(&gone.alarm.key);
        }
    }

    /// A problem was lost: unless the receiver knows of it otherwise, its end is not told.
    fn give_up(&mut self, key: &AlertKey) {
        let is_delivered = self.told.get(key).is_none_or(|told| told.delivered);
        let is_in_work = self.is_problem_in_work(key);
        let is_queued = self.queue.iter().any(|other| other.alarm.key == *key && !other.resolved);
        if is_delivered || is_in_work || is_queued {
            return;
        }
        self.told.remove(key);
        self.give_up_ends(key, Loss::QueueFull);
    }

    /// What waits of an alarm, which is its end, is not told.
    fn give_up_ends(&mut self, key: &AlertKey, loss: Loss) {
        let gone: Vec<Which> = self.queue.iter().filter(|other| other.alarm.key == *key).map(which).collect();
        self.queue.retain(|other| other.alarm.key != *key);
        self.drop_for(loss, gone.len());
        gone.into_iter().for_each(|end| self.note_done(end));
    }

    /// There is nothing more to do about a notification.
    fn note_done(&mut self, one: Which) {
        if let Some(settled) = &mut self.settled {
            settled.push(one);
        }
    }

    fn drop_for(&mut self, loss: Loss, count: usize) {
        if count > 0 {
            self.account.dropped.count(loss.name(), count as u64);
            if !matches!(loss, Loss::Superseded | Loss::Shutdown) {
                self.account.last_loss = unix_time();
            }
        }
    }

    /// Whether it was in work, which it is no more.
    fn take_from_work(&mut self, one: &Which) -> bool {
        let found = self.in_work.iter().position(|other| other == one);
        found.is_some_and(|at| {
            self.in_work.remove(at);
            true
        })
    }

    /// One was delivered that was not to be sent any more, and is counted as lost: if it is to be sent once more by now, it is not.
    fn note_late(&mut self, one: &Which) {
        let before = self.queue.len();
        self.queue.retain(|other| which(other) != *one);
        let gone = before - self.queue.len();
        self.drop_for(Loss::Superseded, gone);
        self.note_done(one.clone());
        if gone == 0 {
            return;
        }
        match self.told.get_mut(&one.key) {
            Some(told) if !one.resolved => (told.delivered, told.news) = (true, None),
            Some(told) if told.ending.is_some() => drop(self.told.remove(&one.key)),
            Some(_) | None => {}
        }
    }

    fn finish(&mut self, one: &Which, outcome: Outcome) {
        if !self.take_from_work(one) {
            if outcome == Outcome::Delivered {
                self.note_late(one);
            }
            return;
        }
        let key = &one.key;
        match outcome {
            Outcome::Delivered => self.account.delivered += 1,
            Outcome::Lost(loss) => self.drop_for(loss, 1),
        }
        // What gave way to another one, or to the stop, is told by that or after the next start.
        if !matches!(outcome, Outcome::Lost(Loss::Superseded | Loss::Shutdown)) {
            self.note_done(one.clone());
        }
        match (one.resolved, outcome) {
            // A refused end is over, too: nothing would be gained by another one.
            (true, _) => {
                let is_told_again = self.is_problem_in_work(key);
                match self.told.get_mut(key) {
                    Some(told) if told.ending.is_some() && !is_told_again => {
                        self.told.remove(key);
                        self.give_up_ends(key, Loss::Superseded);
                    }
                    // It is a problem again.
                    Some(told) => told.delivered = false,
                    None => {}
                }
            }
            (false, Outcome::Delivered) => {
                let is_told_again = self.queue.iter().any(|other| other.alarm.key == *key && !other.resolved);
                if let Some(told) = self.told.get_mut(key) {
                    told.delivered = true;
                    if !is_told_again {
                        told.news = None;
                    }
                }
            }
            (false, Outcome::Lost(_)) => self.give_up(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::AlertName;

    fn notification(n: usize, resolved: bool) -> Notification {
        let key = AlertKey {
            service: Some("a".into()),
            instance: Some(format!("{n}").into()),
            ..AlertKey::of(AlertName::InstanceDown)
        };
        let (severity, since, until) = (Severity::Warning, UnixTime::default(), None);
        let alarm = Alarm { key, severity, text: String::new(), since, until, state: AlertState::Firing };
        Notification { alarm, resolved, event: None, detail: String::new(), version: 0, ending: None }
    }

    fn outbox(route: Route) -> Outbox {
        Outbox::new("t", route, false, false)
    }

    fn numbers(taken: &[Notification]) -> Vec<(String, bool)> {
        taken.iter().map(|one| (one.alarm.key.instance.clone().expect("one").to_string(), one.resolved)).collect()
    }

    fn balanced(outbox: &Outbox) {
        let account = outbox.account();
        assert_eq!(account.offered, account.delivered + account.queued + account.dropped.total(), "{account:?}");
    }

    #[test]
    fn a_full_queue_gives_up_problems_and_with_them_their_ends() {
        let outbox = outbox(Route::default());
        // A problem that was delivered long ago, and its end.
        outbox.put(&[notification(9999, false)]);
        outbox.take(1);
        outbox.finish_all(Outcome::Delivered);
        outbox.put(&[notification(9999, true)]);
        (0..QUEUE + 4).for_each(|n| outbox.put(&[notification(n, false)]));
        outbox.put(&[notification(QUEUE + 3, true)]);
        balanced(&outbox);
        assert!(outbox.account().last_loss > 0.0, "it is told although no attempt failed");
        let taken = outbox.take(usize::MAX);
        assert_eq!((taken.len(), outbox.account().dropped.total()), (QUEUE, 5));
        assert!(taken[0].resolved, "the end is still there");
        assert!(taken[1..].iter().all(|one| !one.resolved), "the end of a problem nobody was told of is not");
    }

    #[test]
    fn a_flood_of_new_problems_does_not_push_out_what_waits_or_is_graver() {
        let outbox = outbox(Route::default());
        let mut critical = notification(0, false);
        critical.alarm.severity = Severity::Critical;
        outbox.put(&[notification(1, false), critical.clone()]);
        (2..2 * QUEUE).for_each(|n| outbox.put(&[notification(n, false)]));
        // A graver one finds room in a full queue.
        critical.alarm.key.instance = Some("grave".into());
        outbox.put(&[critical]);
        balanced(&outbox);
        let taken = numbers(&outbox.take(usize::MAX));
        assert_eq!((taken.len(), taken[0].0.as_str(), taken[1].0.as_str()), (QUEUE, "1", "0"));
        assert_eq!((taken[QUEUE - 2].0.as_str(), taken[QUEUE - 1].0.as_str()), ("998", "grave"));
    }

    #[test]
    fn an_end_is_queued_if_and_only_if_its_problem_was() {
        let route = Route { instances: vec!["1".into()], ..Route::default() };
        let outbox = outbox(route);
        outbox.put(&[notification(1, false), notification(2, false), notification(2, true), notification(3, true)]);
        assert_eq!(numbers(&outbox.take(9)), [("1".to_string(), false)]);
        outbox.put(&[notification(1, true), notification(1, true)]);
        outbox.finish_all(Outcome::Delivered);
        assert_eq!(numbers(&outbox.take(9)), [("1".to_string(), true)]);
        outbox.finish_all(Outcome::Delivered);
        outbox.put(&[notification(1, true)]);
        assert!(outbox.is_empty());
        // A refused problem has no end.
        outbox.put(&[notification(1, false)]);
        outbox.take(1);
        outbox.put(&[notification(1, true)]);
        outbox.finish_all(Outcome::Lost(Loss::Refused));
        assert!(outbox.is_empty());
        balanced(&outbox);
        // Ends that nobody wants are not sent.
        let quiet = super::tests::outbox(Route { resolved: false, ..Route::default() });
        quiet.put(&[notification(1, false)]);
        assert_eq!(numbers(&quiet.take(9)), [("1".to_string(), false)]);
        quiet.put(&[notification(1, true)]);
        assert!(quiet.is_empty());
    }

    #[test]
    fn an_alarm_that_comes_and_goes_while_nothing_is_taken_waits_as_an_end_and_a_problem_at_most() {
        let (problem, end) = (("1".to_string(), false), ("1".to_string(), true));
        let flip = |outbox: &Outbox| {
            for _ in 0..10_000 {
                outbox.put(&[notification(1, false)]);
                outbox.put(&[notification(1, true)]);
            }
            balanced(outbox);
        };
        // Nobody was told of it: nobody is told that it is over.
        let outbox = outbox(Route::default());
        assert_eq!(outbox.take_settled(), []);
        flip(&outbox);
        assert!(outbox.is_empty() && outbox.save().alarms.is_empty());
        assert_eq!(outbox.take_settled().last(), Some(&which(&notification(1, true))));
        outbox.put(&[notification(1, false)]);
        assert_eq!(numbers(&outbox.take(9)), std::slice::from_ref(&problem));
        // It may have been told of it, or has been: it is told the end once, and what came after that.
        flip(&outbox);
        assert_eq!((outbox.account().queued, outbox.save().alarms.len()), (2, 0));
        outbox.finish_all(Outcome::Delivered);
        flip(&outbox);
        outbox.put(&[notification(1, false)]);
        let taken = outbox.take(9);
        assert_eq!(numbers(&taken), [end.clone(), problem.clone()]);
        // Both are in work: the end of the second one is to come.
        flip(&outbox);
        outbox.finish_all(Outcome::Delivered);
        assert_eq!(outbox.save().alarms.len(), 1);
        assert_eq!(numbers(&outbox.take(9)), std::slice::from_ref(&end));
        // Its end is in work: another one is not to come.
        flip(&outbox);
        outbox.finish_all(Outcome::Delivered);
        assert!(outbox.is_idle() && outbox.save().alarms.is_empty());
        balanced(&outbox);
        // Without ends, too.
        let quiet = super::tests::outbox(Route { resolved: false, ..Route::default() });
        flip(&quiet);
        assert!(quiet.is_empty());
    }

    #[test]
    fn a_start_tells_what_is_not_told_and_ends_what_ended_and_repeats_nothing() {
        let before = outbox(Route::default());
        // 1 is delivered, 2 waits, 3 is delivered and its end waits, 4 is delivered and over when the next one starts.
        before.put(&[notification(1, false), notification(3, false), notification(4, false)]);
        before.take(9);
        before.finish_all(Outcome::Delivered);
        before.put(&[notification(2, false), notification(3, true)]);
        let saved = serde_json::to_string(&[before.save()]).expect("JSON");
        let saved: Vec<SavedTarget> = serde_json::from_str(&saved).expect("what was saved");
        let firing = [notification(1, false), notification(2, false)];
        let after = outbox(Route::default());
        after.resume(Some(&saved), &firing);
        let due = [("2".to_string(), false), ("3".to_string(), true), ("4".to_string(), true)];
        assert_eq!(numbers(&after.take(9)), due);
        after.put(&[notification(1, true)]);
        assert_eq!(numbers(&after.take(9)), [("1".to_string(), true)]);
        // Nobody knows what was told: what is firing was.
        let after = outbox(Route::default());
        after.resume(None, &firing);
        assert!(after.is_empty());
        after.put(&[notification(1, true)]);
        assert_eq!(numbers(&after.take(9)), [("1".to_string(), true)]);
        // A target that is new is told what is open.
        let new = Outbox::new("new", Route::default(), false, false);
        new.resume(Some(&saved), &firing);
        assert_eq!(numbers(&new.take(9)).len(), 2);
    }

    #[test]
    fn a_reload_tells_what_another_route_takes_and_ends_what_it_does_not_take_any_more() {
        let route = |name: &str| Route { instances: vec![name.into()], ..Route::default() };
        let firing = [notification(1, false), notification(2, false)];
        // One that is new is told what fires, once.
        let outbox = outbox(route("1"));
        outbox.catch_up(&firing);
        assert_eq!(numbers(&outbox.take(9)), [("1".to_string(), false)]);
        outbox.finish_all(Outcome::Delivered);
        outbox.set_route(&route("1"));
        outbox.catch_up(&firing);
        assert!(outbox.is_empty());
        outbox.set_route(&route("2"));
        outbox.catch_up(&firing);
        assert_eq!(numbers(&outbox.take(9)), [("2".to_string(), false)]);
        outbox.put(&[notification(1, true), notification(3, false)]);
        assert_eq!(numbers(&outbox.take(9)), [("1".to_string(), true)]);
        balanced(&outbox);
    }

    #[test]
    fn what_ends_by_itself_is_ended_for_those_who_do_not_find_out() {
        let at = UnixTime::from_secs;
        let mut passing = notification(1, false);
        passing.alarm.until = Some(at(300.0));
        for ends_passing in [false, true] {
            let outbox = Outbox::new("t", Route::default(), ends_passing, false);
            outbox.put(std::slice::from_ref(&passing));
            // It is news still.
            outbox.tick(at(300.0));
            outbox.take(9);
            outbox.finish_all(Outcome::Delivered);
            outbox.tick(at(299.0));
            assert!(outbox.is_empty());
            outbox.tick(at(300.0));
            assert_eq!(outbox.take(9).len(), usize::from(ends_passing));
            assert!(ends_passing || outbox.save().alarms.is_empty());
        }
    }

    #[test]
    fn what_ended_by_itself_before_it_was_told_is_told_by_the_next_start_once() {
        let passing = |n: usize| {
            let mut passing = notification(n, false);
            (passing.alarm.until, passing.detail) = (Some(UnixTime::from_secs(300.0)), "more".into());
            passing
        };
        // 1 is delivered, 2 is in work, 3 waits, 4 is in work and was seen again meanwhile.
        let before = outbox(Route::default());
        before.put(&[passing(1)]);
        before.take(9);
        before.finish_all(Outcome::Delivered);
        before.put(&[passing(2), passing(4)]);
        before.take(9);
        before.put(&[passing(3), passing(4)]);
        before.finish(&[which(&passing(4))], Outcome::Delivered);
        assert_eq!(before.shut_down(), 3);
        balanced(&before);
        let saved = serde_json::to_string(&[before.save()]).expect("JSON");
        let saved: Vec<SavedTarget> = serde_json::from_str(&saved).expect("what was saved");
        let after = outbox(Route::default());
        // 3 was seen again, so that it is told as it is now.
        after.resume(Some(&saved), &[notification(3, false)]);
        let taken = after.take(9);
        let due = [3, 2, 4].map(|n| (n.to_string(), false));
        assert_eq!(numbers(&taken), due);
        assert_eq!(taken[1], passing(2));
        after.finish_all(Outcome::Delivered);
        balanced(&after);
        let last = outbox(Route::default());
        last.resume(Some(&[after.save()]), &[notification(3, false)]);
        assert!(last.is_empty());
        // A target whose route does not take it any more is not told.
        let other = outbox(Route { instances: vec!["x".into()], ..Route::default() });
        other.resume(Some(&saved), &[]);
        assert!(other.is_empty());
    }

    #[test]
    fn one_alarm_is_told_in_order_while_others_are_in_work() {
        let outbox = outbox(Route::default());
        outbox.put(&[notification(1, false)]);
        let first = outbox.take_next(|_| false).expect("the problem");
        outbox.put(&[notification(1, true), notification(2, false)]);
        assert!(outbox.take_next(|_| false).is_some_and(|other| !other.resolved), "another one waits for nobody");
        assert!(outbox.take_next(|_| false).is_none(), "its end waits");
        outbox.finish(&[which(&first)], Outcome::Delivered);
        assert!(outbox.take_next(|key| *key == first.alarm.key).is_none(), "so it does while that is tried");
        assert!(outbox.take_next(|_| false).is_some_and(|end| end.resolved));
        balanced(&outbox);
    }

    #[test]
    fn what_another_node_is_to_send_does_not_come_back_with_what_is_put_back() {
        let outbox = outbox(Route::default());
        outbox.put(&[notification(1, false), notification(2, false), notification(3, false)]);
        let taken = outbox.take(9);
        outbox.withdraw(&[notification(2, false).alarm.key]);
        assert_eq!(outbox.put_back(taken), 2);
        balanced(&outbox);
        let taken = outbox.take(9);
        assert_eq!(numbers(&taken), [("1".to_string(), false), ("3".to_string(), false)]);
        outbox.stand_down();
        assert_eq!((outbox.put_back(taken), outbox.is_idle()), (0, true));
        balanced(&outbox);
    }

    #[test]
    fn what_others_have_sent_or_are_to_send_is_not_tried_again() {
        let outbox = outbox(Route::default());
        outbox.put(&[notification(1, false), notification(2, false), notification(3, false)]);
        let mut taken = outbox.take(2);
        outbox.withdraw(&[notification(1, false).alarm.key, notification(3, false).alarm.key]);
        outbox.keep_wanted(&mut taken);
        assert_eq!((numbers(&taken), outbox.is_empty()), (vec![("2".to_string(), false)], true));
        outbox.stand_down();
        outbox.keep_wanted(&mut taken);
        assert!(taken.is_empty() && outbox.is_idle());
        // It is for this node again, and so is another one; the attempt that was under way succeeds.
        assert_eq!(outbox.take_settled(), []);
        outbox.put(&[notification(2, false), notification(3, false)]);
        outbox.finish(&[which(&notification(2, false))], Outcome::Delivered);
        assert_eq!(outbox.take_settled(), [which(&notification(2, false))]);
        assert_eq!((outbox.account().queued, outbox.account().dropped.total()), (1, 4));
        balanced(&outbox);
        // Its end is due by that.
        outbox.put(&[notification(2, true)]);
        assert_eq!(numbers(&outbox.take(9)), [("3".to_string(), false), ("2".to_string(), true)]);
        // Who forgets what is not repeated is to be sent by whoever speaks.
        let forgetful = Outbox::new("t", Route::default(), false, true);
        forgetful.put(&[notification(1, false)]);
        forgetful.withdraw(&[notification(1, false).alarm.key]);
        assert_eq!(forgetful.take(9).len(), 1);
    }
}
