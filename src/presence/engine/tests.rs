//! The engine as a whole, in what several of its parts do together.

use std::net::IpAddr;

use super::*;
use crate::presence::admission::Refusal;
use crate::presence::policy::Expected;
use crate::presence::time::Epoch;
use crate::protocol::Heartbeat;

fn at(secs: f64) -> EngineTime {
    EngineTime::from_secs(secs)
}

fn beat(service: &str, from: u32) -> Heartbeat {
    Heartbeat {
        service: service.into(),
        instance: "-".into(),
        interval: Some(1.0),
        source: Some(IpAddr::from((0x7f00_0000 + from).to_be_bytes())),
        ..Heartbeat::default()
    }
}

fn engine(policy: Policy) -> Engine {
    Engine::new(policy, at(0.0), 1)
}

fn names(engine: &Engine) -> Vec<String> {
    engine.view(Epoch::UNIX).into_iter().map(|view| view.service.to_string()).collect()
}

#[test]
fn the_oldest_service_that_is_not_established_gives_way_and_an_established_one_never() {
    let expect = vec![Expected { service: "payments".into(), min: 1, within: None }];
    let policy = Policy { max_services: 4, expect, ..Policy::default() };
    let mut engine = Engine::new(policy, at(0.0), 1);
    let mut now = 0.0;
    // At an interval of 1 s: established after three beats and 5 s.
    while now < 6.0 {
        engine.at(at(now));
        engine.beat(&beat("real", 2));
        now += 1.0;
    }
    for name in ["a", "b", "c"] {
        engine.beat(&beat(name, 3));
    }
    assert_eq!(names(&engine), ["b", "c", "payments", "real"]);
    engine.beat(&beat("b", 3));
    engine.beat(&beat("d", 4));
    assert_eq!(names(&engine), ["c", "d", "payments", "real"]);
    // After a restart the same holds.
    let saved = serde_json::to_string(&engine.save()).expect("JSON");
    let policy = engine.policy.clone();
    let saved = serde_json::from_str(&saved).expect("what was saved");
    let mut engine = Engine::restored(policy, saved, at(now), 1);
    for name in ["e", "f", "g"] {
        engine.beat(&beat(name, 5));
    }
    assert_eq!(names(&engine), ["f", "g", "payments", "real"]);
    assert_eq!((engine.refusals().evicted(), engine.refusals().of(Refusal::Limit)), (3, 0));
}

#[test]
fn three_copies_of_a_beat_establish_nobody_and_a_state_of_before_counts_what_it_knows() {
    let mut engine = engine(Policy { max_services: 2, ..Policy::default() });
    for name in ["old", "copied"] {
        for _ in 0..3 {
            engine.beat(&beat(name, 2));
        }
    }
    engine.at(at(10.0));
    engine.beat(&beat("old", 2));
    engine.at(at(11.0));
    engine.beat(&beat("old", 2));
    engine.beat(&beat("new", 2));
    assert_eq!(names(&engine), ["new", "old"]);
    let mut saved = serde_json::to_value(engine.save()).expect("JSON");
    for service in saved["services"].as_array_mut().expect("services") {
        for key in ["born", "beats", "beat_at", "established"] {
            service[0].as_object_mut().expect("a service").remove(key);
        }
    }
    let saved = serde_json::from_value(saved).expect("an older state");
    let mut engine = Engine::restored(engine.policy.clone(), saved, at(12.0), 1);
    engine.beat(&beat("newer", 2));
    assert_eq!(names(&engine), ["newer", "old"]);
}

#[test]
fn a_source_registers_so_many_in_a_minute_while_it_is_crowded_and_others_are_let_in() {
    let mut engine = engine(Policy::default());
    for n in 0..500 {
        engine.beat(&beat(&format!("invented-{n}"), 2));
    }
    assert!(engine.is_crowded());
    // A hundred arrive before it is a crowd.
    assert_eq!((names(&engine).len(), engine.refusals().of(Refusal::Source)), (100, 400));
    engine.beat(&beat("real", 3));
    assert!(names(&engine).contains(&"real".to_string()));
    let source = IpAddr::from([127, 0, 0, 2]);
    assert_eq!((engine.take_most_refused(), engine.take_most_refused()), (Some((source, 400)), None));
    engine.at(at(59.0));
    engine.beat(&beat("more", 2));
    assert_eq!(engine.refusals().of(Refusal::Source), 401);
    // When the crowd has gone, everybody may.
    engine.at(at(61.0));
    engine.beat(&beat("more", 2));
    assert!(!engine.is_crowded() && names(&engine).contains(&"more".to_string()));
}

#[test]
fn instances_of_an_invented_service_do_not_fill_the_table() {
    let policy = Policy { max_instances: 20, max_registrations_per_second: 50, ..Policy::default() };
    let mut engine = engine(policy);
    for n in 0..30 {
        engine.beat(&Heartbeat { instance: format!("i{n}").into(), ..beat("invented", 2) });
    }
    assert_eq!((engine.len(), engine.refusals().of(Refusal::Limit)), (20, 10));
    engine.beat(&beat("real", 3));
    assert_eq!((names(&engine), engine.len()), (vec!["real".to_string()], 1));
    for n in 0..100 {
        engine.beat(&beat(&format!("s{n}"), 4));
    }
    assert_eq!(engine.refusals().of(Refusal::Rate), 100 - (50 - 21));
}

#[test]
fn at_the_limit_of_a_service_who_left_makes_room_before_who_is_down() {
    let mut engine = engine(Policy { max_instances_per_service: 3, ..Policy::default() });
    let of = |instance: &str, goodbye| Heartbeat { instance: instance.into(), goodbye, ..beat("s", 2) };
    for name in ["down", "left", "up"] {
        engine.beat(&of(name, false));
    }
    let mut now = 0.0;
    while now < 8.0 {
        now += 0.25;
        engine.at(at(now));
        engine.beat(&of("up", false));
        engine.beat(&of("left", false));
        engine.tick(at(now));
    }
    engine.beat(&of("left", true));
    let instances = |engine: &Engine| -> Vec<String> {
        engine.view(Epoch::UNIX)[0].instances.iter().map(|one| format!("{} {}", one.instance, one.state)).collect()
    };
    assert_eq!(instances(&engine), ["down down", "left left", "up up"]);
    engine.beat(&of("a", false));
    assert_eq!(instances(&engine), ["a up", "down down", "up up"]);
    engine.beat(&of("b", false));
    assert_eq!(instances(&engine), ["a up", "b up", "up up"]);
    engine.beat(&of("c", false));
    assert_eq!(
        (instances(&engine), engine.refusals().of(Refusal::Limit)),
        (vec!["a up".into(), "b up".into(), "up up".into()], 1)
    );
}

#[test]
fn a_goodbye_counts_only_from_where_the_beats_come() {
    let mut engine = Engine::new(Policy { goodbye_same_ip: true, ..Policy::default() }, at(0.0), 1);
    let state = |engine: &Engine| engine.view(Epoch::UNIX)[0].instances[0].state;
    let goodbye = |from| Heartbeat { goodbye: true, ..beat("s", from) };
    engine.beat(&beat("s", 2));
    engine.at(at(1.0));
    engine.beat(&beat("s", 2));
    // A beat, or several, and a goodbye in one datagram.
    for _ in 0..5 {
        engine.beat(&beat("s", 3));
        engine.beat(&goodbye(3));
    }
    assert_eq!((state(&engine), engine.refusals().of(Refusal::GoodbyeFrom)), (State::Up, 5));
    // It moves: the old address is silent, two beats come from the new one.
    for now in [2.0, 3.0, 4.0] {
        engine.at(at(now));
        engine.beat(&beat("s", 4));
    }
    engine.beat(&goodbye(2));
    assert_eq!((state(&engine), engine.refusals().of(Refusal::GoodbyeFrom)), (State::Up, 6));
    engine.beat(&goodbye(4));
    assert_eq!(state(&engine), State::Left);
    // Who said goodbye may come back from anywhere.
    engine.at(at(20.0));
    engine.beat(&beat("s", 5));
    engine.beat(&goodbye(5));
    assert_eq!(state(&engine), State::Left);
}

/// Whether a mass silence is notified when so many established services, heard every second, fall silent together with
/// a dozen names that were heard so often; and the services that were notified to be down.
fn silence(services: u32, invented: &str, times: u32) -> (bool, Vec<String>) {
    let mut engine = engine(Policy::default());
    for second in 0..10_u32 {
        engine.at(at(f64::from(second)));
        for n in 0..services {
            engine.beat(&beat(&format!("real-{n}"), 2));
        }
        for n in (0..12).filter(|_| second + times >= 10) {
            let (service, instance) = match invented {
                "service" => (format!("e{n}"), "x".to_string()),
                // As if they were of services that are known.
                _ => (format!("real-{}", n % services), format!("e{n}")),
            };
            engine.beat(&Heartbeat { instance: instance.into(), interval: Some(2.0), ..beat(&service, 3) });
        }
        engine.tick(at(f64::from(second)));
    }
    // The real ones are down after 5 s, and the dozen is late, but not down.
    for quarter in 0..24 {
        engine.tick(at(9.0 + f64::from(quarter) / 4.0));
    }
    let events = engine.take_events();
    let is_down = |event: &&Event<EngineTime>| match event.change {
        Change::Instance { to, .. } => to == Some(State::Down),
        Change::Service { to, .. } => to == Some(ServiceState::Down),
        _ => false,
    };
    let down = events.iter().filter(|event| event.notify).filter(is_down);
    let names = down.filter_map(|event| Some(event.service.as_ref()?.to_string())).collect();
    (events.iter().any(|event| event.change == Change::MassSilence(MassSilencePhase::Start)), names)
}

#[test]
fn invented_names_make_no_mass_silence_and_who_is_established_does() {
    let (is_mass, down) = silence(1, "service", 1);
    assert!(!is_mass && down.contains(&"real-0".to_string()), "{down:?}");
    let (is_mass, down) = silence(2, "service", 2);
    assert!(!is_mass && down.contains(&"real-1".to_string()), "{down:?}");
    let (is_mass, down) = silence(2, "instance", 2);
    assert!(!is_mass && !down.is_empty(), "{down:?}");
    // Enough that are known need no others, and nobody else prevents it.
    assert_eq!(silence(3, "service", 1), (true, vec![]));
    // Three beats are not enough before the timeout; who is kept up for longer than that is believed.
    assert!(!silence(1, "service", 3).0);
    assert_eq!(silence(1, "service", 8), (true, vec![]));
}

#[test]
fn a_second_in_which_the_queue_was_full_counts_against_nobody() {
    let mut engine = engine(Policy::default());
    engine.beat(&beat("s", 2));
    engine.queue_drops(at(1.0), 1, 1000);
    assert_eq!(engine.blind().queue, 0.0);
    engine.queue_drops(at(2.0), 20, 1000);
    engine.kernel_drops(at(2.1), 20, 1000);
    assert_eq!((engine.blind().queue, engine.blind().drops), (1.0, 0.0));
    assert_eq!(engine.down_at("s", "-"), Some(at(6.0)));
    let codes: Vec<_> = engine.take_events().into_iter().filter_map(|event| event.change.code()).collect();
    assert_eq!(codes, [WarningCode::QueueDrops, WarningCode::IngestDrops]);
}

/// Restarts an engine with another policy, at the time at which it was saved.
fn restarted(engine: &Engine, policy: Policy) -> Engine {
    let saved = serde_json::to_string(&engine.save()).expect("JSON");
    Engine::restored(policy, serde_json::from_str(&saved).expect("what was saved"), engine.now(), 1)
}

/// The changes of services among the events since the last take, and whether they are notified.
fn service_changes(engine: &mut Engine) -> Vec<(String, Option<ServiceState>, bool)> {
    let change = |event: Event<EngineTime>| match event.change {
        Change::Service { to, .. } => Some((event.service?.to_string(), to, event.notify)),
        _ => None,
    };
    engine.take_events().into_iter().filter_map(change).collect()
}

#[test]
fn what_is_no_longer_expected_after_a_restart_is_forgotten_or_an_ordinary_service() {
    let expected = |service: &str| Expected { service: service.into(), min: 1, within: Some(10.0) };
    let expect = vec![expected("kept"), expected("left"), expected("never")];
    let mut engine = engine(Policy { expect: expect.clone(), ..Policy::default() });
    engine.beat(&beat("left", 2));
    engine.beat(&Heartbeat { goodbye: true, ..beat("left", 2) });
    for quarter in 0..400 {
        engine.tick(at(f64::from(quarter) / 4.0));
    }
    let down = ["kept", "left", "never"].map(|name| (name.to_string(), Some(ServiceState::Down), true));
    let mut changes = service_changes(&mut engine);
    changes.retain(|(_, to, _)| *to == Some(ServiceState::Down));
    changes.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(changes, down);
    // With the same configuration nothing changes.
    let mut same = restarted(&engine, Policy { expect: expect.clone(), ..Policy::default() });
    same.tick(same.now());
    assert_eq!(
        (service_changes(&mut same), names(&same)),
        (vec![], ["kept", "left", "never"].map(String::from).into())
    );
    let rules = Rules { min: Some(1), ..Rules::default() };
    for rules in [Rules::default(), rules] {
        let mut other = restarted(&engine, Policy { expect: vec![expected("kept")], rules, ..Policy::default() });
        other.tick(other.now());
        let mut changes = service_changes(&mut other);
        assert_eq!(names(&other), ["kept", "left"]);
        assert_eq!(changes.remove(0), ("never".to_string(), None, true));
        // Whoever has a minimum without being expected is still short of it.
        let left = ("left".to_string(), Some(ServiceState::Left), true);
        assert_eq!(changes, if rules.min.is_none() { vec![left] } else { vec![] });
    }
}

#[test]
fn a_minimum_keeps_no_service_that_an_operator_has_forgotten_unless_it_is_expected() {
    for (is_expected, together) in [(false, true), (false, false), (true, true)] {
        let expected = Expected { service: "s".into(), min: 2, within: None };
        let expect = if is_expected { vec![expected] } else { Vec::new() };
        let rules = Rules { min: Some(2), ..Rules::default() };
        let mut engine = engine(Policy { expect, rules, ..Policy::default() });
        for goodbye in [false, true] {
            for instance in ["a", "b"] {
                engine.beat(&Heartbeat { instance: instance.into(), goodbye, ..beat("s", 2) });
            }
            engine.tick(at(1.0));
        }
        engine.tick(at(400.0));
        let down = ("s".to_string(), Some(ServiceState::Down), true);
        assert_eq!(service_changes(&mut engine).last(), Some(&down));
        let whom = if together { vec![None] } else { vec![Some("a"), Some("b")] };
        whom.into_iter().for_each(|instance| assert!(engine.forget("s", instance)));
        engine.tick(at(400.25));
        let gone = ("s".to_string(), None, true);
        let (changes, known) = if is_expected { (vec![], vec!["s".to_string()]) } else { (vec![gone], vec![]) };
        assert_eq!((service_changes(&mut engine), names(&engine)), (changes, known));
    }
}

/// The ends of flapping among the events since the last take, by instance.
fn flapping_ends(engine: &mut Engine) -> Vec<String> {
    let events = engine.take_events().into_iter();
    let ends = events.filter(|event| event.notify && event.change == Change::Flapping(Phase::End));
    ends.filter_map(|event| Some(event.instance?.to_string())).collect()
}

/// An engine in which instances of a service come for a moment and go down, three times in a minute, by their names.
fn flapping(policy: Policy, rounds: [&str; 3]) -> Engine {
    let mut engine = engine(policy);
    for (round, instance) in (0_u32..).zip(rounds) {
        for quarter in 0..80_u32 {
            let now = at(f64::from(80 * round + quarter) / 4.0);
            engine.at(now);
            // The timeout is 5 s.
            if [0, 4, 8].contains(&quarter) {
                engine.beat(&Heartbeat { instance: instance.into(), ..beat("s", 2) });
            }
            engine.tick(now);
        }
    }
    let starts = |event: &Event<EngineTime>| event.notify && event.change == Change::Flapping(Phase::Start);
    assert_eq!(engine.take_events().iter().filter(|event| starts(event)).count(), 1);
    engine
}

#[test]
fn flapping_is_over_when_its_instance_or_service_is_forgotten_or_gives_way() {
    let mut one = flapping(Policy::default(), ["a", "a", "a"]);
    assert!(one.forget("s", Some("a")));
    assert_eq!(flapping_ends(&mut one), ["a"]);
    let mut full = flapping(Policy { max_instances_per_service: 1, ..Policy::default() }, ["a", "a", "a"]);
    full.beat(&Heartbeat { instance: "b".into(), ..beat("s", 2) });
    assert_eq!(flapping_ends(&mut full), ["a"]);
    // It is the service that flaps.
    let mut service = flapping(Policy::default(), ["a", "b", "c"]);
    assert!(service.forget("s", None));
    service.tick(service.now());
    assert_eq!((flapping_ends(&mut service), names(&service)), (vec!["*".to_string()], vec![]));
}

#[test]
fn who_is_down_when_its_flapping_ends_in_maintenance_is_told_when_that_is_over() {
    // It went down at 55 s, the last time.
    let mut engine = flapping(Policy { flap_quiet: 100.0, ..Policy::default() }, ["a", "a", "a"]);
    engine.maintenance("s", None, 300.0);
    let (mut ends, mut downs) = (Vec::new(), Vec::new());
    for second in 60..400 {
        engine.tick(at(f64::from(second)));
        for event in engine.take_events().into_iter().filter(|event| event.notify) {
            match event.change {
                Change::Flapping(Phase::End) => ends.push(second),
                Change::Instance { to: Some(State::Down), .. }
                | Change::Service { to: Some(ServiceState::Down), .. } => {
                    downs.push(second);
                }
                _ => {}
            }
        }
    }
    assert_eq!((ends, downs), (vec![147], vec![360]));
}

#[test]
fn nobody_is_judged_once_receiving_has_ended_and_that_time_is_blind_after_the_restart() {
    let mut engine = engine(Policy::default());
    // Silence is judged after 45 s, and after 90 s if some of it was blind.
    engine.beat(&Heartbeat { interval: Some(10.0), ..beat("s", 2) });
    engine.tick(at(8.0));
    engine.take_events();
    engine.stop_judging();
    for second in 9..60 {
        engine.tick(at(f64::from(second)));
    }
    assert!(engine.take_events().is_empty());
    let mut engine = restarted(&engine, Policy::default());
    engine.take_events();
    let downs = |engine: &mut Engine| engine.take_events().iter().filter(|event| event.notify).count();
    for (second, told) in [(60, 0), (89, 0), (106, 1)] {
        engine.tick(at(f64::from(second)));
        assert_eq!(downs(&mut engine).min(1), told, "{second}");
    }
}
