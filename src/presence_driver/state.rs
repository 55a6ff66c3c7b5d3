//! What the presence thread knows: the engine, the last events, and which alarms are out. Whatever happens is logged,
//! remembered for the API, kept for the next flush, and put into the queues of the notifiers.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::memory::{Holder, Holding, Level};
use crate::notify::{Outbox, SavedTarget};
use crate::presence::describe::describe;
use crate::presence::{
    AlertBook, Announced, Engine, Epoch, Event, EventKind, Identity, InstanceView, JobState, JobSummary, JobView,
    Notification, Policy, Reading, Refusal, Refusals, ServicePart, ServiceView, Severity, Summary, UnixTime, Unsaved,
    ViewCursor,
};
use crate::telemetry::{Account, PresenceAccount};
use crate::untrusted::Escaped;

use super::observers::{Among, detail};

/// Events that are remembered for the API.
const REMEMBERED: usize = 1000;

/// Most events that wait for the next flush; more are lost and counted.
const WAITING: usize = 100_000;

/// One in so many bytes of presence's share of the memory is theirs at most.
const EVENTS_PART: u64 = 4;

/// What a flush takes with it.
#[derive(Debug, Default)]
pub struct Report {
    /// The values of this moment.
    pub readings: Vec<Reading>,
    /// What happened since the last flush.
    pub events: Vec<Event>,
    /// What was lost and refused since the last flush.
    pub account: PresenceAccount,
}

/// What the presence thread knows; questions get to see it.
#[derive(Debug)]
pub struct PresenceState {
    pub(super) engine: Engine,
    epoch: Epoch,
    /// The last events, each with its number.
    remembered: VecDeque<(u64, Event)>,
    /// Those that the next flush takes.
    waiting: Vec<Event>,
    next_event: u64,
    newest: watch::Sender<u64>,
    identity: Identity,
    alerts: AlertBook,
    pub(super) outboxes: Vec<Arc<Outbox>>,
    /// Why nothing of this survives a restart for now.
    pub(super) unsaved: Option<Unsaved>,
    /// This node among other observers.
    pub(super) shared: Option<Among>,
    /// How often what the targets were told had changed when it was looked at last.
    told: u64,
    /// What the queue lost, and the events that found no room in `waiting`, until a flush takes both; and what was refused
    /// up to the last one.
    queue_drops: u64,
    events_dropped: u64,
    reported: Refusals,
    /// Bytes of `waiting`, and what it takes together with what is remembered.
    waiting_bytes: usize,
    held: Holding,
    /// Events that another node of the cluster is to report are kept for so many seconds.
    pub(super) kept: f64,
    /// Heartbeats that a failure of the thread lost, until a flush takes that, and what a state before this one counted.
    failed: u64,
    before: PresenceAccount,
}

/// What a state that failed leaves to the next one.
#[derive(Debug)]
pub(super) struct Left {
    remembered: VecDeque<(u64, Event)>,
    waiting: Vec<Event>,
    next_event: u64,
    account: PresenceAccount,
}

impl PresenceState {
    pub(super) fn new(
        engine: Engine,
        epoch: Epoch,
        identity: Identity,
        alerts: AlertBook,
        outboxes: Vec<Arc<Outbox>>,
        newest: watch::Sender<u64>,
        held: Holding,
    ) -> PresenceState {
        PresenceState {
            engine,
            epoch,
            remembered: VecDeque::new(),
            waiting: Vec::new(),
            next_event: 1,
            newest,
            identity,
            alerts,
            outboxes,
            unsaved: None,
            shared: None,
            told: 0,
            queue_drops: 0,
            events_dropped: 0,
            reported: Refusals::default(),
            waiting_bytes: 0,
            held,
            kept: 0.0,
            failed: 0,
            before: PresenceAccount::default(),
        }
    }
}

/// For whoever asks.
impl PresenceState {
    /// All services with their instances and their worst jobs, and how many jobs each has.
    pub fn services_and_jobs(&self) -> Vec<(ServiceView, JobSummary)> {
        self.engine.view_with_jobs(self.epoch)
    }

    /// How the jobs of a service are.
    pub fn jobs_of(&self, service: &str) -> JobSummary {
        self.engine.job_summary_of(service)
    }

    /// One service with its instances.
    pub fn service(&self, name: &str) -> Option<ServiceView> {
        self.engine.view_of(name, self.epoch)
    }

    /// One instance.
    pub fn instance(&self, service: &str, instance: &str) -> Option<InstanceView> {
        self.engine.view_of_instance(service, instance, self.epoch)
    }

    /// One job with all of its runs.
    pub fn job(&self, service: &str, instance: &str) -> Option<JobView> {
        self.engine.view_of_job(service, instance, self.epoch)
    }

    /// The next part of all services, or of one, by name; at most so many services and instances.
    pub fn part(
        &self,
        only: Option<&str>,
        after: Option<&ViewCursor>,
        most: usize,
    ) -> (Vec<ServicePart>, Option<ViewCursor>) {
        self.engine.view_part(only, after, most, self.epoch)
    }

    /// The service whose name is most like this one, which is not its own.
    pub fn like(&self, name: &str) -> Option<String> {
        self.engine.like(name).filter(|near| *near != name).map(String::from)
    }

    /// Whether a service is known.
    pub fn knows(&self, service: &str) -> bool {
        self.engine.knows(service)
    }

    /// Jobs by name: of one service or all, in a state or any, after one of a name; at most so many, and of each so many runs.
    pub fn jobs(
        &self,
        service: Option<&str>,
        state: Option<JobState>,
        after: Option<(&str, &str)>,
        most: (usize, usize),
    ) -> Vec<JobView> {
        self.engine.view_jobs(service, state, after, most, self.epoch)
    }

    /// Whether there is a mass silence.
    pub fn is_mass_silence(&self) -> bool {
        self.engine.is_mass_silence()
    }

    /// How everything is, in a few numbers and names.
    pub fn summary(&self) -> Summary {
        Summary { observers: self.observers(), unsaved: self.unsaved.clone(), ..self.engine.summary() }
    }

    /// The values of this moment for a scrape.
    pub fn scraped(&self) -> Vec<Reading> {
        [self.engine.scraped(), self.peer_readings()].concat()
    }

    /// The last events, newest first.
    pub fn last_events(&self) -> impl Iterator<Item = &Event> {
        self.remembered.iter().rev().map(|(_, event)| event)
    }

    /// The events after the one with an id, or with a number of this start, as they are published, oldest first; all that
    /// are remembered if it is not ours. No more than the first so many.
    pub fn events_since(&self, id: Option<&str>, most: usize) -> Vec<(u64, Value)> {
        let since = id.and_then(|id| self.identity.number(id).or_else(|| id.parse().ok())).unwrap_or(0);
        let after = self.remembered.iter().filter(|(number, _)| *number > since).take(most);
        after.map(|(number, event)| (*number, self.identity.publish(*number, event))).collect()
    }

    /// Suppresses what happens to a service, or to one of its instances, for so many seconds; for how many. `None` if it
    /// is unknown. `announced` is shown with it.
    pub fn announce_maintenance(
        &mut self,
        service: &str,
        instance: Option<&str>,
        secs: f64,
        announced: Announced,
    ) -> Option<f64> {
        self.engine.announce(service, instance, secs, announced)
    }

    /// Whether a job of a service, or one of them, is configured: it is awaited again when it is forgotten.
    pub fn has_configured_job(&self, service: &str, instance: Option<&str>) -> bool {
        self.engine.has_configured_job(service, instance)
    }

    /// Forgets a service, or one of its instances. `false` if it is unknown.
    pub fn forget(&mut self, service: &str, instance: Option<&str>) -> bool {
        self.engine.forget(service, instance)
    }

    /// Counts a change by an operator that was refused.
    pub fn refuse_change(&mut self) {
        self.engine.refuse_change();
    }

    /// What was lost and refused since the last flush.
    pub fn unreported(&self) -> PresenceAccount {
        let (all, before) = (self.engine.refusals(), &self.reported);
        let mut account = PresenceAccount {
            queue_drops: self.queue_drops,
            events_dropped: self.events_dropped,
            failed: self.failed,
            refused: all.by_reason().map(|(why, all)| (why.as_str(), all - before.of(why))).into_iter().collect(),
            evicted: all.evicted() - before.evicted(),
        };
        account.add(&self.before);
        account
    }

    /// What the next flush takes with it.
    pub fn report(&mut self) -> Report {
        let account = self.unreported();
        self.reported = self.engine.refusals();
        (self.queue_drops, self.events_dropped, self.failed) = (0, 0, 0);
        self.before = PresenceAccount::default();
        log_losses(&account, self.engine.take_most_refused());
        if self.shared.as_ref().is_some_and(|shared| !shared.observers.reports()) {
            // Another node of the cluster does; if it dies before it has, this one does.
            let kept = self.unix_now() - self.kept;
            self.waiting.retain(|event| event.at >= kept);
            self.waiting_bytes = self.waiting.iter().map(|event| size_of::<Event>() + event.heap_bytes()).sum();
            // What counts is counted from now on, if this one is the next.
            drop(self.engine.readings());
            return Report { account, ..Report::default() };
        }
        self.waiting_bytes = 0;
        let readings = [self.engine.readings(), self.peer_readings()].concat();
        Report { readings, events: std::mem::take(&mut self.waiting), account }
    }
}

/// For who reloads the configuration.
impl PresenceState {
    /// Judges as this policy says from now on; warnings about instances wait so many seconds.
    pub fn set_policy(&mut self, policy: Policy, group_wait: f64) {
        self.engine.set_policy(policy);
        self.alerts.set_group_wait(group_wait);
    }
}

/// For the thread that drives it.
impl PresenceState {
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    pub(super) fn alerts(&self) -> &AlertBook {
        &self.alerts
    }

    /// So many signals found no room in the queue.
    pub(super) fn count_queue_drops(&mut self, lost: u64) {
        self.queue_drops += lost;
    }

    /// So many signals were lost because the thread failed.
    pub(super) fn count_failed(&mut self, lost: u64) {
        self.failed += lost;
    }

    /// What the next state takes over from this one, which failed: what has happened, and what was counted.
    pub(super) fn leave(&mut self) -> Left {
        Left {
            account: self.unreported(),
            remembered: std::mem::take(&mut self.remembered),
            waiting: std::mem::take(&mut self.waiting),
            next_event: self.next_event,
        }
    }

    /// Takes over what the state before this one left.
    pub(super) fn take_over(&mut self, left: Left) {
        let Left { remembered, waiting, next_event, account } = left;
        (self.remembered, self.waiting, self.next_event, self.before) = (remembered, waiting, next_event, account);
        self.waiting_bytes = self.waiting.iter().map(|event| size_of::<Event>() + event.heap_bytes()).sum();
    }

    /// Notes what the wall clock shows; if it was set, the engine hears of it.
    pub(super) fn set_wall_clock(&mut self, now: UnixTime) {
        let epoch = Epoch::new(now, self.engine.now());
        let step = epoch.step_since(self.epoch);
        if step.abs() >= 2.0 {
            self.engine.clock_stepped(step);
        }
        self.engine.set_epoch(epoch);
        self.epoch = epoch;
    }

    /// Takes over what has happened.
    pub(super) fn collect(&mut self) {
        let events = self.engine.take_events();
        if events.is_empty() {
            return;
        }
        let mut notifications = Vec::new();
        for event in events {
            let event = event.in_unix_time(self.epoch);
            log_event(&event);
            notifications.append(&mut self.alerts.take(self.next_event, &event));
            if self.remembered.len() == REMEMBERED {
                self.remembered.pop_front();
            }
            self.remembered.push_back((self.next_event, event.clone()));
            self.next_event += 1;
            if self.waiting.len() < WAITING && self.has_memory_for_events() {
                self.waiting_bytes += size_of::<Event>() + event.heap_bytes();
                self.waiting.push(event);
            } else {
                self.events_dropped += 1;
            }
        }
        let remembered = self.remembered.iter().map(|(_, event)| size_of::<(u64, Event)>() + event.heap_bytes());
        self.held.set((self.waiting_bytes + remembered.sum::<usize>()) as u64);
        self.newest.send_replace(self.next_event - 1);
        self.notify(notifications);
    }

    /// Whether events may wait for the next flush: they have a part of presence's share of the memory.
    fn has_memory_for_events(&self) -> bool {
        let memory = self.held.memory();
        memory.level() < Level::Events && (self.waiting_bytes as u64) < memory.cap(Holder::Presence) / EVENTS_PART
    }

    /// Lets time pass for the alarms; `true` if one that waited is notified now.
    pub(super) fn tick_alerts(&mut self) -> bool {
        let now = self.epoch.to_unix(self.engine.now());
        let waited = self.alerts.tick(now, |service, instance| self.engine.is_maintained(service, instance));
        let has_notified = !waited.is_empty();
        self.notify(waited);
        self.speak();
        self.outboxes.iter().for_each(|outbox| outbox.tick(now));
        has_notified
    }

    /// The wall clock, as the engine's clock shows it.
    pub(super) fn unix_now(&self) -> UnixTime {
        self.epoch.to_unix(self.engine.now())
    }

    /// After a start: targets go on from what they were told before; `None` if nobody knows that. `was_among`: there were other
    /// observers then.
    pub(super) fn resume(&mut self, told: Option<&[SavedTarget]>, was_among: bool) {
        if let Some(shared) = &mut self.shared {
            // Whoever speaks tells the targets what they do not know.
            let now = self.engine.now();
            let (told, times) = ((!was_among).then_some(told), (now, self.epoch.to_unix(now)));
            let firing: Vec<_> = self.alerts.firing().cloned().collect();
            return shared.resume(&self.outboxes, told, &firing, times);
        }
        let firing = self.firing();
        self.outboxes.iter().for_each(|outbox| outbox.resume(told, &firing));
    }

    /// What is notified and not over.
    fn firing(&self) -> Vec<Notification> {
        let firing = self.alerts.firing().map(|alarm| Notification {
            alarm: alarm.clone(),
            resolved: false,
            event: None,
            detail: detail(&self.engine, &alarm.key),
            version: 0,
            ending: None,
        });
        firing.collect()
    }

    /// These are the targets from now on: those that are new are told what fires.
    pub(super) fn set_targets(&mut self, outboxes: Vec<Arc<Outbox>>) {
        let mut gone = std::mem::replace(&mut self.outboxes, outboxes);
        gone.retain(|gone| !self.outboxes.iter().any(|outbox| Arc::ptr_eq(outbox, gone)));
        // Something else is to be saved.
        self.told = u64::MAX;
        let now = self.engine.now();
        if let Some(shared) = &mut self.shared {
            // Whoever speaks tells the others what they do not know.
            return gone.iter().for_each(|gone| shared.observers.forget_target(gone.name(), now));
        }
        let firing = self.firing();
        self.outboxes.iter().for_each(|outbox| outbox.catch_up(&firing));
    }

    /// What the targets were told, to be saved.
    pub(super) fn saved_targets(&self) -> Vec<SavedTarget> {
        self.outboxes.iter().map(|outbox| outbox.save()).collect()
    }

    /// Whether that has changed, or something is about to be sent, since it was asked last.
    pub(super) fn has_delivered(&mut self) -> bool {
        let now = self.outboxes.iter().map(|outbox| outbox.version()).sum();
        std::mem::replace(&mut self.told, now) != now
    }

    /// Whether everything is delivered that can be delivered soon.
    pub(super) fn is_settled(&self) -> bool {
        self.outboxes.iter().all(|outbox| outbox.is_settled())
    }
}

/// Logs what was lost and refused, at most once an interval.
fn log_losses(account: &PresenceAccount, most: Option<(IpAddr, u64)>) {
    if account.queue_drops > 0 {
        tracing::warn!(heartbeats = account.queue_drops, "presence's queue was full; these were not heard");
    }
    if account.failed > 0 {
        tracing::warn!(
            heartbeats = account.failed,
            "presence failed while it worked on heartbeats; these were not heard"
        );
    }
    if account.events_dropped > 0 {
        tracing::warn!(
            events = account.events_dropped,
            "presence had more events than may wait for a flush; these have no record"
        );
    }
    if account.evicted > 0 {
        tracing::warn!(services = account.evicted, "services that were not established gave way to new ones");
    }
    // A change without the token was logged at once.
    let refused = account.refused.iter().filter(|(reason, _)| *reason != Refusal::Token.as_str());
    let reasons: Vec<String> = refused.map(|(reason, count)| format!("{reason} {count}")).collect();
    if !reasons.is_empty() {
        let from = most.map_or("unknown senders".to_string(), |(from, count)| format!("{from} ({count})"));
        tracing::warn!(reasons = reasons.join(", "), most_from = from, "heartbeats were refused");
    }
}

/// Logs what somebody is to be notified of, and at `debug` everything else.
fn log_event(event: &Event) {
    let text = describe(event);
    let text = Escaped(&text);
    match (event.notify, event.severity()) {
        (true, Severity::Critical | Severity::Warning) => tracing::warn!("presence: {text}"),
        (true, Severity::Info) => tracing::info!("presence: {text}"),
        (false, _) if event.change.kind() == EventKind::Warning => tracing::warn!("presence: {text}"),
        (false, Severity::Critical | Severity::Warning | Severity::Info) => tracing::debug!("presence: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::presence::observers::{MemberOptions, Observers, SavedObservers};
    use crate::presence::{AlertName, EngineTime, Policy};
    use crate::protocol::Heartbeat;

    fn state(group_wait: f64) -> PresenceState {
        let engine = Engine::new(Policy::default(), EngineTime::default(), 1);
        let identity = Identity { node: "here".into(), boot: 0 };
        let alerts = AlertBook::new(group_wait, Vec::new());
        PresenceState::new(
            engine,
            Epoch::UNIX,
            identity,
            alerts,
            Vec::new(),
            watch::channel(0).0,
            Memory::unlimited().holding(Holder::Presence),
        )
    }

    fn beat(instance: &str) -> Heartbeat {
        Heartbeat { service: "s".into(), instance: instance.into(), interval: Some(1.0), ..Heartbeat::default() }
    }

    #[test]
    fn who_reports_in_place_of_another_counts_from_then_on() {
        let mut state = state(0.0);
        let options = MemberOptions { cluster: "systole".into(), listens_only: false, forget_after: 7200.0 };
        let times = (EngineTime::default(), UnixTime::from_secs(0.0));
        let observers = Observers::in_cluster("here", 1, options, SavedObservers::default(), std::iter::empty(), times);
        (state.kept, state.shared) = (15.0, Some(Among::new(observers)));
        let beats = |report: Report| {
            let counts = |reading: &&Reading| reading.name == "presence_beats_total";
            report.readings.iter().filter(counts).map(|reading| reading.value).sum::<f64>()
        };
        (0..5).for_each(|_| state.engine_mut().beat(&beat("a")));
        state.collect();
        let report = state.report();
        assert!(report.readings.is_empty() && report.events.is_empty(), "another node reports: {report:?}");
        state.engine_mut().beat(&beat("a"));
        // It is seen that there is no other one.
        state.set_members(&["here".into()], (None, true));
        let report = state.report();
        assert!(!report.events.is_empty(), "what nobody may have reported");
        assert_eq!(beats(report), 1.0);
    }

    #[test]
    fn a_warning_that_has_waited_is_a_change_to_save() {
        let mut state = state(10.0);
        state.engine.beat(&beat("silent"));
        let mut notified = Vec::new();
        for second in 0..30 {
            let now = EngineTime::from_secs(f64::from(second));
            state.engine.at(now);
            state.engine.beat(&beat("heard"));
            state.engine.tick(now);
            state.collect();
            if state.tick_alerts() {
                notified.push(second);
            }
        }
        // Down after 5 s, and notified 10 s later.
        assert_eq!(notified, [15]);
        assert_eq!(state.alerts.firing().count(), 1);
    }

    #[test]
    fn maintenance_of_a_dead_service_ends_its_alarm_and_tells_of_no_instance() {
        let mut state = state(10.0);
        let mut notified = Vec::new();
        for second in 0..400 {
            let now = EngineTime::from_secs(f64::from(second));
            state.engine.at(now);
            let heard = [("dies", 0), ("follows", 3)].into_iter().filter(|&(_, last)| second <= last);
            heard.for_each(|(instance, _)| state.engine.beat(&beat(instance)));
            if second == 100 {
                state.announce_maintenance("s", None, 200.0, Announced::default());
            }
            state.engine.tick(now);
            let before: Vec<_> = state.alerts.firing().map(|alarm| alarm.key.name).collect();
            state.collect();
            state.tick_alerts();
            let after: Vec<_> = state.alerts.firing().map(|alarm| alarm.key.name).collect();
            if before != after {
                notified.push((second, after));
            }
        }
        // Both are down after 5 s, and at the end of the maintenance the service is, not its instances.
        let down = vec![AlertName::ServiceDown];
        assert_eq!(notified, [(8, down.clone()), (100, vec![]), (300, down)]);
    }

    #[test]
    fn events_beyond_what_waits_for_a_flush_are_counted_once() {
        let mut state = state(0.0);
        state.engine.beat(&beat("a"));
        for _ in 0..WAITING {
            state.announce_maintenance("s", None, 1.0, Announced::default());
        }
        state.collect();
        let report = state.report();
        assert_eq!((report.events.len(), report.account.events_dropped), (WAITING, 1));
        assert_eq!(state.report().account.events_dropped, 0);
    }
}
