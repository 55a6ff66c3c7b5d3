//! What watched metrics say: a beat of an instance, that it is irregular, and that it has too few lines.

use super::Engine;
use crate::presence::admission::Refusal;
use crate::presence::event::{Change, WarningCode, WatchReason, WatchState};
use crate::presence::instance::{Instance, State};
use crate::presence::roster::InstanceId;
use crate::presence::watching::{Verdict, Watching};
use crate::protocol::{Heartbeat, Seen};

impl Engine {
    /// Takes a beat of an instance whose metric was seen.
    pub fn watched(&mut self, seen: &Seen) {
        let Some(watch) = self.policy.watches.get(seen.watch) else { return };
        self.taken_watches.insert(seen.watch);
        let (interval, has_floor, max) = (watch.interval, watch.floor.is_some(), watch.max_instances);
        let service = self.roster.find_service(&seen.service);
        if seen.refused > 0 {
            self.admission.refuse_many(Refusal::Limit, u64::from(seen.refused));
            self.warn_of_limit(service);
            return;
        }
        let known = self.roster.find(&seen.service, &seen.instance);
        if let (None, Some(id)) = (known, service)
            && self.roster.service(id).instances().len() >= max
        {
            self.admission.refuse(Refusal::Limit, seen.source, self.now);
            self.warn_of_limit(service);
            return;
        }
        let was = known.map(|id| self.roster.instance(id).state());
        if seen.is_first && seen.value.is_some() && self.value_before_start(known) == seen.value {
            return;
        }
        let (service, instance) = (seen.service.clone(), seen.instance.clone());
        self.beat(&Heartbeat { service, instance, interval, source: seen.source, ..Heartbeat::default() });
        let Some(id) = self.roster.find(&seen.service, &seen.instance) else { return };
        let now = self.now;
        let declares = self.roster.instance(id).detector().declared_interval().is_some();
        let returns = was == Some(State::Down) && !declares;
        let note = |one: &mut Instance| {
            one.watching_mut().note_watch(seen.watch, declares);
            one.watching_mut().note_value(seen.value);
            returns && one.watching_mut().note_return(now)
        };
        // What it takes in memory changes only then.
        let is_other = returns || self.roster.instance(id).watching().is_none();
        let is_irregular =
            if is_other { self.roster.change_texts(id, note) } else { note(self.roster.instance_mut(id)) };
        if is_irregular {
            let notify = !self.rules(id).mutes_service();
            self.warn_of_instance(id, WarningCode::WatchIrregular, notify);
        }
        let one = self.roster.instance_mut(id);
        let order = one.order();
        let watching = one.watching_mut();
        // One that was low before our restart is listed already.
        if has_floor && watching.count(seen.lines, now) && !watching.is_low() {
            self.counted.push((order, id));
        }
    }

    /// The value that showed an instance last, if that was before we started.
    fn value_before_start(&self, id: Option<InstanceId>) -> Option<f64> {
        let watching = self.roster.instance(id?).watching()?;
        watching.value().filter(|_| watching.watch().is_none())
    }

    /// A peer has counted so many lines of an instance until now: its lines are those of all nodes together.
    pub(super) fn count_elsewhere(&mut self, id: InstanceId, peer: u16, lines: Option<u64>) {
        let now = self.now;
        let Some(lines) = lines.filter(|_| self.roster.instance(id).watching().is_some()) else { return };
        let one = self.roster.instance_mut(id);
        let order = one.order();
        let watching = one.watching_mut();
        if watching.lines().is_some() && watching.count_elsewhere(peer, lines, now) && !watching.is_low() {
            self.counted.push((order, id));
        }
    }

    /// The same of those whose lines a lost peer has counted, too.
    pub(super) fn note_blind_minutes_of(&mut self, peer: u16) {
        self.for_each_counted(|watching| watching.note_blind_of(peer));
    }

    /// Part of the minute in which lines are counted was not seen.
    pub(super) fn note_blind_minutes(&mut self) {
        self.for_each_counted(Watching::note_blind);
    }

    fn for_each_counted(&mut self, note: impl Fn(&mut Watching)) {
        let counted = std::mem::take(&mut self.counted);
        for &(order, id) in &counted {
            if self.is_counted(order, id) {
                note(self.roster.instance_mut(id).watching_mut());
            }
        }
        self.counted = counted;
    }

    fn is_counted(&self, order: u64, id: InstanceId) -> bool {
        self.roster.get_instance(id).is_some_and(|one| one.order() == order)
    }

    /// What a watch wants of an instance and what came, in words; empty if nothing feeds it, or there is no floor.
    pub fn watch_detail(&self, service: &str, instance: &str) -> String {
        let Some(id) = self.roster.find(service, instance) else { return String::new() };
        let Some(watching) = self.roster.instance(id).watching() else { return String::new() };
        let watch = watching.watch().and_then(|watch| self.policy.watches.get(watch));
        let Some((watch, floor)) = watch.and_then(|watch| Some((watch, watch.floor?))) else { return String::new() };
        let had = match watching.last_lines() {
            Some(1) => "had 1 line in the last minute".to_string(),
            Some(lines) => format!("had {lines} lines in the last minute"),
            None => "has too few lines".to_string(),
        };
        format!("`{}` {had}; at least {floor} are wanted. ", watch.pattern)
    }

    /// Who is not known any more has no floor.
    pub(super) fn end_low(&mut self, id: InstanceId) {
        if self.roster.instance(id).watching().is_some()
            && let Some(notify) = self.roster.instance_mut(id).watching_mut().stop_counting()
        {
            let reason = WatchReason::Forgotten;
            self.report_instance(id, Change::Watch { from: WatchState::Low, to: WatchState::Ok, reason }, notify);
        }
    }

    /// Compares the lines of minutes that are over with their floors.
    pub(super) fn look_at_floors(&mut self) {
        let now = self.now;
        for (order, id) in std::mem::take(&mut self.counted) {
            if !self.is_counted(order, id) {
                continue;
            }
            let instance = self.roster.instance(id);
            if instance.state() == State::Unknown {
                // Not heard since our restart.
                self.counted.push((order, id));
                continue;
            }
            let is_quiet = self.roster.is_maintained(instance, now) || self.rules(id).mutes_service();
            let is_present = matches!(instance.state(), State::Up | State::Late);
            let watch = instance.watching().and_then(|watching| watching.watch());
            let floor = watch.and_then(|watch| self.policy.watches.get(watch)?.floor);
            // One that was low before our restart may have no floor any more.
            let is_counted = is_present && floor.is_some();
            let watching = self.roster.instance_mut(id).watching_mut();
            let verdict = watching.look(floor.unwrap_or(0), is_counted, now);
            let (low, ok) = (WatchState::Low, WatchState::Ok);
            let (change, notify) = match verdict {
                Verdict::Same => (None, false),
                Verdict::Low => {
                    watching.set_low_notified(!is_quiet);
                    (Some(Change::Watch { from: ok, to: low, reason: WatchReason::Floor }), !is_quiet)
                }
                Verdict::Fine(notify) => {
                    (Some(Change::Watch { from: low, to: ok, reason: WatchReason::Floor }), notify)
                }
                Verdict::Over(was_low) => {
                    let reason = if is_present { WatchReason::Floor } else { WatchReason::Down };
                    let over = Change::Watch { from: low, to: ok, reason };
                    (was_low.map(|_| over), was_low == Some(true))
                }
            };
            if let Some(change) = change {
                self.report_instance(id, change, notify);
            }
            if !matches!(verdict, Verdict::Over(_)) {
                self.counted.push((order, id));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::engine::Flag;
    use crate::presence::policy::Policy;
    use crate::presence::time::{EngineTime, Epoch};
    use crate::watches::{Evidence, MetricWatch, Template, Watches};

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    fn policy(floor: Option<u32>) -> Policy {
        let template = |text: &str| Template::parse(text, 0).expect("a template");
        let watch = MetricWatch {
            pattern: "x".into(),
            service: template("s"),
            instance: template("i"),
            interval: Some(10.0),
            evidence: Evidence::Any,
            floor,
            max_instances: 10,
        };
        Policy { watches: std::sync::Arc::new(Watches::new(vec![watch])), ..Policy::default() }
    }

    fn beat(engine: &mut Engine, secs: f64) {
        engine.at(at(secs));
        engine.watched(&Seen { service: "s".into(), instance: "i".into(), lines: 1, ..Seen::default() });
        engine.tick(at(secs));
    }

    fn notified(engine: &mut Engine) -> Vec<&'static str> {
        let events = engine.take_events().into_iter().filter(|event| event.notify);
        events.filter_map(|event| event.change.to_name()).collect()
    }

    #[test]
    fn after_our_restart_the_value_that_an_instance_had_before_shows_nothing() {
        let seen = |engine: &mut Engine, secs: f64, value: f64, is_first: bool| {
            engine.at(at(secs));
            let (service, instance, value) = ("s".into(), "i".into(), Some(value));
            engine.watched(&Seen { service, instance, value, is_first, ..Seen::default() });
            engine.tick(at(secs));
        };
        // Over a file, for what is not saved must not come back.
        let restart = |engine: &Engine, secs: f64| {
            let saved = serde_json::to_vec(&engine.save()).expect("JSON");
            Engine::restored(policy(None), serde_json::from_slice(&saved).expect("a state"), at(secs), 1)
        };
        let state = |engine: &Engine| engine.view_of("s", Epoch::default()).expect("a service").instances[0].state;
        let mut engine = Engine::new(policy(None), at(0.0), 1);
        // A value with as many digits as there are: it must come back from the file as it was.
        let last = 1_764_216_337.722_450_3;
        (0..20).for_each(|n| seen(&mut engine, f64::from(n) * 10.0, if n < 19 { f64::from(n) } else { last }, n == 0));
        (191..300).for_each(|secs| engine.tick(at(f64::from(secs))));
        assert_eq!(notified(&mut engine), ["down"]);
        let mut engine = restart(&engine, 300.0);
        seen(&mut engine, 310.0, last, true);
        assert_eq!((notified(&mut engine), state(&engine)), (vec![], State::Down));
        // One whose value moved meanwhile is back with its first line.
        let mut moved = restart(&engine, 320.0);
        seen(&mut moved, 320.0, 20.0, true);
        assert_eq!(notified(&mut moved), ["up"]);
        // Once it was heard, the first value of a series that was forgotten in between is evidence.
        seen(&mut engine, 320.0, 20.0, false);
        (321..400).for_each(|secs| engine.tick(at(f64::from(secs))));
        seen(&mut engine, 400.0, 20.0, true);
        assert_eq!(notified(&mut engine), ["up", "down", "up"]);
        // One that was up is not confirmed by it either.
        let mut engine = restart(&engine, 410.0);
        seen(&mut engine, 411.0, 20.0, true);
        assert_eq!(state(&engine), State::Unknown);
        seen(&mut engine, 421.0, 21.0, false);
        assert_eq!(state(&engine), State::Up);
    }

    #[test]
    fn a_low_ends_when_its_instance_is_forgotten() {
        let mut engine = Engine::new(policy(Some(100)), at(0.0), 1);
        (0..20).for_each(|n| beat(&mut engine, f64::from(n) * 10.0));
        assert_eq!(notified(&mut engine), ["low"]);
        engine.forget("s", Some("i"));
        engine.tick(at(191.0));
        assert_eq!(notified(&mut engine), ["ok"]);
        // It counts anew if it is back.
        beat(&mut engine, 192.0);
        assert_eq!(notified(&mut engine), Vec::<&str>::new());
    }

    #[test]
    fn a_low_of_a_watch_that_has_no_floor_any_more_ends_when_it_is_heard() {
        let mut engine = Engine::new(policy(Some(100)), at(0.0), 1);
        let empty = engine.heap_bytes();
        (0..20).for_each(|n| beat(&mut engine, f64::from(n) * 10.0));
        assert_eq!(notified(&mut engine), ["low"]);
        assert_eq!(engine.watch_detail("s", "i"), "`x` had 6 lines in the last minute; at least 100 are wanted. ");
        assert_eq!(engine.watch_detail("s", "j"), "");
        let shown = &engine.view_of("s", Epoch::default()).expect("a service").instances[0];
        assert_eq!((shown.floor, shown.lines_per_minute, &shown.flags[..]), (Some(100), Some(6), &[Flag::Low][..]));
        assert!(engine.heap_bytes() >= empty + size_of::<crate::presence::watching::Watching>());
        let mut engine = Engine::restored(policy(None), engine.save(), at(200.0), 1);
        engine.tick(at(200.25));
        assert_eq!(notified(&mut engine), Vec::<&str>::new());
        beat(&mut engine, 201.0);
        assert_eq!(notified(&mut engine), ["ok"]);
    }
}
