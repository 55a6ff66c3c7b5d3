//! What somebody on call is notified of where several rules of presence meet: mass silence, flapping, replacement,
//! schedules and other observers. The corpus has long traces of single rules; these are short, and on the engine itself.

use systole::internals::presence::observers::{Missed, Observers, SavedObservers};
use systole::internals::presence::policy::{Override, Policy};
use systole::internals::presence::{
    CronSchedule, Engine, EngineTime, Epoch, Event, JobRule, NamedZone, Sighting, UnixTime,
};
use systole::internals::protocol::{Heartbeat, JobStatus, JobTags};

fn at(secs: f64) -> EngineTime {
    EngineTime::from_secs(secs)
}

fn beat(who: &str, interval: f64) -> Heartbeat {
    let (service, instance) = who.split_once('/').expect("a service and an instance");
    Heartbeat { service: service.into(), instance: instance.into(), interval: Some(interval), ..Heartbeat::default() }
}

/// A fleet that is heard as it is meant to be, except when it is not.
struct Fleet {
    engine: Engine,
    now: u32,
    /// Who beats, and how often, in seconds.
    members: Vec<(String, u32)>,
}

impl Fleet {
    fn new(policy: Policy, members: &[(&str, u32)]) -> Fleet {
        let members = members.iter().map(|&(who, every)| (who.to_string(), every)).collect();
        Fleet { engine: Engine::new(policy, at(0.0), 1), now: 0, members }
    }

    /// Lets time pass until then. Whoever is not `silent` beats.
    fn run(&mut self, until: u32, silent: &[&str]) {
        while self.now < until {
            self.engine.at(at(f64::from(self.now)));
            for (who, every) in &self.members {
                if self.now.is_multiple_of(*every) && !silent.iter().any(|prefix| who.starts_with(prefix)) {
                    self.engine.beat(&beat(who, f64::from(*every)));
                }
            }
            for quarter in 0..4 {
                self.engine.tick(at(f64::from(self.now) + f64::from(quarter) / 4.0));
            }
            self.now += 1;
        }
    }

    fn goodbye(&mut self, who: &str) {
        self.engine.beat(&Heartbeat { goodbye: true, ..beat(who, 10.0) });
    }

    /// What was notified since this was last asked.
    fn told(&mut self) -> Vec<String> {
        let events = self.engine.take_events().into_iter().filter(|event| event.notify);
        let line = |event: Event<EngineTime>| {
            let names = [event.service.as_deref(), event.instance.as_deref()];
            let names: Vec<&str> = names.into_iter().flatten().collect();
            let what = event.change.to_name().unwrap_or("warning");
            format!("{} {} {what}", event.change.kind(), names.join("/")).replace("  ", " ")
        };
        events.map(line).collect()
    }
}

const TWO_OF_THREE: [(&str, u32); 6] = [("a/1", 10), ("a/2", 10), ("b/1", 10), ("b/2", 10), ("c/1", 10), ("c/2", 10)];

#[test]
fn laptops_that_are_closed_hide_nobody_who_dies_then() {
    let laptops = Override { pattern: "laptop".into(), ephemeral: Some(true), min: Some(0), ..Override::default() };
    let policy = Policy { overrides: vec![laptops], ..Policy::default() };
    let names: Vec<String> = (0..10).map(|n| format!("laptop/{n}")).collect();
    let mut members: Vec<(&str, u32)> = names.iter().map(|name| (&**name, 10)).collect();
    members.extend([("a/1", 10), ("a/2", 10), ("b/1", 10)]);
    let mut fleet = Fleet::new(policy, &members);
    fleet.run(301, &[]);
    fleet.run(400, &["laptop", "a/1"]);
    assert_eq!(fleet.told(), ["instance a/1 down"]);
}

#[test]
fn one_that_dies_during_a_mass_silence_and_was_heard_in_it_is_told_of() {
    let mut fleet = Fleet::new(Policy::default(), &TWO_OF_THREE);
    fleet.run(301, &[]);
    fleet.run(371, &["a/", "b/"]);
    assert_eq!(fleet.told(), ["mass_silence start"]);
    // The last beat of c/1 is that of 370.
    fleet.run(420, &["a/", "b/", "c/1"]);
    assert_eq!(fleet.told(), ["instance c/1 down"]);
    fleet.run(440, &["c/1"]);
    assert_eq!(fleet.told(), ["mass_silence end"]);
}

#[test]
fn one_that_dies_with_some_of_whom_the_mass_silence_was_notified_is_told_of() {
    let mut members = TWO_OF_THREE.to_vec();
    members.extend([("d/1", 10), ("d/2", 10), ("e/1", 10)]);
    let mut fleet = Fleet::new(Policy::default(), &members);
    fleet.run(301, &[]);
    fleet.run(361, &["a/", "b/", "c/"]);
    assert_eq!(fleet.told(), ["mass_silence start"]);
    // Two of six are back for a while: that is no end, and when they go again it says so still.
    fleet.run(391, &["b/", "c/"]);
    fleet.run(440, &["a/", "b/", "c/", "d/1"]);
    assert_eq!(fleet.told(), ["instance d/1 down"]);
}

#[test]
fn who_beats_rarely_and_missed_its_beats_in_a_mass_silence_has_time_to_come_back() {
    let mut members = TWO_OF_THREE.to_vec();
    members.push(("rare/1", 60));
    let mut fleet = Fleet::new(Policy::default(), &members);
    fleet.run(601, &[]);
    // Three of its beats are due in here; the one at 840 is lost for itself.
    fleet.run(800, &["a/", "b/", "rare/"]);
    fleet.run(890, &["rare/"]);
    fleet.run(1200, &[]);
    assert_eq!(fleet.told(), ["mass_silence start", "mass_silence end"]);
    // It has no more than that.
    fleet.run(1600, &["rare/"]);
    assert_eq!(fleet.told(), ["service rare down"]);
}

#[test]
fn a_service_that_loses_a_real_one_when_the_hold_expires_is_told_of() {
    let mut members = TWO_OF_THREE.to_vec();
    members.extend([("c/3", 10), ("d/1", 10), ("d/2", 10)]);
    let mut fleet = Fleet::new(Policy::default(), &members);
    fleet.run(301, &[]);
    // Silent since 300: held from 345 on, and down quietly at 645.
    fleet.run(601, &["a/", "b/", "c/1", "c/2"]);
    assert_eq!(fleet.told(), ["mass_silence start"]);
    // The last of c was heard at 600, and is down in the same tick.
    fleet.run(650, &["a/", "b/", "c/"]);
    assert_eq!(fleet.told(), ["service c down"]);
}

#[test]
fn a_mass_silence_outlasts_our_restart_and_has_one_end() {
    let mut fleet = Fleet::new(Policy::default(), &TWO_OF_THREE);
    fleet.run(301, &[]);
    fleet.run(350, &["a/", "b/"]);
    assert_eq!(fleet.told(), ["mass_silence start"]);
    let saved = serde_json::to_string(&fleet.engine.save()).expect("JSON");
    let saved = serde_json::from_str(&saved).expect("what was saved");
    fleet.engine = Engine::restored(Policy::default(), saved, at(360.0), 1);
    fleet.now = 361;
    fleet.run(500, &["a/", "b/"]);
    assert!(fleet.engine.is_mass_silence());
    assert_eq!(fleet.told(), Vec::<String>::new());
    fleet.run(520, &[]);
    assert_eq!(fleet.told(), ["mass_silence end"]);
}

#[test]
fn a_service_that_is_degraded_again_and_again_flaps() {
    let mut fleet = Fleet::new(Policy::default(), &[("a/1", 10), ("a/2", 10), ("a/3", 10), ("b/1", 10)]);
    fleet.run(301, &[]);
    for round in 0..4 {
        // Other instances each time, so that none of them flaps.
        let silent = [["a/1", "a/2"], ["a/2", "a/3"], ["a/1", "a/3"], ["a/1", "a/2"]][round as usize];
        fleet.run(360 + 120 * round, &silent);
        fleet.run(420 + 120 * round, &[]);
    }
    let told = fleet.told();
    let count = |line: &str| told.iter().filter(|told| *told == line).count();
    assert_eq!(
        (count("service a degraded"), count("service a up"), count("flapping a/* start")),
        (2, 2, 1),
        "{told:#?}"
    );
}

#[test]
fn who_has_settled_after_flapping_is_told_of_when_it_dies() {
    let mut fleet = Fleet::new(Policy::default(), &[("a/1", 10), ("a/2", 10), ("a/3", 10)]);
    fleet.run(301, &[]);
    for round in 0..3 {
        fleet.run(360 + 120 * round, &["a/1"]);
        fleet.run(420 + 120 * round, &[]);
    }
    let start = fleet.told();
    assert_eq!(start.iter().filter(|line| *line == "flapping a/1 start").count(), 1, "{start:#?}");
    fleet.run(1301, &[]);
    assert_eq!(fleet.told(), ["flapping a/1 end"]);
    fleet.run(1400, &["a/1"]);
    assert_eq!(fleet.told(), ["instance a/1 down"]);
}

#[test]
fn of_two_that_work_side_by_side_one_that_comes_back_does_not_stand_for_the_other() {
    let mut fleet = Fleet::new(Policy::default(), &[("a/1", 10), ("a/2", 10), ("b/1", 10)]);
    fleet.run(3601, &[]);
    fleet.goodbye("a/1");
    fleet.run(3621, &["a/1"]);
    // The last beat of a/2 is that of 3620; a/1 is back at 3630.
    fleet.run(3700, &["a/2"]);
    assert_eq!(fleet.told(), ["instance a/2 down"]);
}

#[test]
fn a_nightly_job_may_run_at_either_time_of_an_hour_that_comes_twice() {
    let zone = NamedZone::new("Europe/Berlin").expect("a zone");
    let schedule = Some(CronSchedule::new("30 2 * * *", &zone).expect("a schedule"));
    let rule = JobRule {
        service: "backup".into(),
        instance: None,
        schedule,
        every: None,
        grace: Some(300.0),
        max_runtime: None,
    };
    // Noon before the night in which 02:30 comes twice: at 00:30 and at 01:30 in UTC.
    let noon = UnixTime::from_secs(1_792_843_200.0);
    for (runs_at, told) in [(Some(13.5), vec![]), (None, vec!["job backup/- missed"])] {
        let mut engine = Engine::new(Policy { jobs: vec![rule.clone()], ..Policy::default() }, at(0.0), 1);
        engine.set_epoch(Epoch::new(noon, at(0.0)));
        for minute in 0..16 * 60 {
            engine.tick(at(60.0 * f64::from(minute)));
            if runs_at == Some(f64::from(minute) / 60.0) {
                let tags = JobTags { status: Some(JobStatus::Ok), ..JobTags::default() };
                engine.beat(&Heartbeat { interval: None, job: Some(Box::new(tags)), ..beat("backup/box", 1.0) });
            }
        }
        assert_eq!(Fleet { engine, now: 0, members: Vec::new() }.told(), told);
    }
}

/// What another observer has heard of somebody just now.
fn sighting(who: &str) -> Sighting {
    let Heartbeat { service, instance, interval, .. } = beat(who, 10.0);
    Sighting { service, instance, interval, known: 100.0, beats: 10, ..Sighting::default() }
}

#[test]
fn more_than_half_of_a_lost_observers_instances_must_be_heard_here_before_the_rest_is_judged() {
    let mut engine = Engine::new(Policy::default(), at(0.0), 1).shared();
    let all = ["a/1", "a/2", "b/1", "b/2"];
    all.iter().for_each(|who| engine.observe_elsewhere(0, &sighting(who), at(0.0)));
    engine.lose_peer(0);
    for (found, unwatched) in [(1, 3), (2, 2), (3, 0)] {
        engine.at(at(f64::from(found)));
        engine.beat(&beat(all[found as usize - 1], 10.0));
        engine.tick(at(f64::from(found)));
        assert_eq!(engine.unwatched(), unwatched, "{found} are found");
    }
}

#[test]
fn what_we_dropped_excuses_nobody_whom_another_observer_hears() {
    let mut engine = Engine::new(Policy::default(), at(0.0), 1).shared();
    for who in ["a/both", "a/here"] {
        engine.beat(&beat(who, 10.0));
    }
    engine.observe_elsewhere(0, &sighting("a/both"), at(0.0));
    engine.kernel_drops(at(3.0), 50, 50);
    let down = ["both", "here"].map(|instance| engine.down_at("a", instance));
    assert_eq!(down, [Some(at(45.0)), Some(at(46.0))]);
}

#[test]
fn silence_is_judged_with_answers_that_are_younger_than_three_quarters_of_a_second() {
    let node = |name: &str, other: &str| {
        let start = (EngineTime::default(), UnixTime::default());
        Observers::new(name, 1, &[format!("https://{other}")], SavedObservers::default(), std::iter::empty(), start)
    };
    let (mut here, there) = (node("here", "there"), node("there", "here"));
    let mut engine = Engine::new(Policy::default(), at(0.0), 1).shared();
    let answer = there.digest(&engine, None, UnixTime::default());
    assert!(!here.may_judge(at(0.0)), "it has had no answer");
    let more = here.take_digest(0, answer, &mut engine, (at(0.0), UnixTime::default()));
    assert_eq!(more, Ok(false));
    assert!(here.may_judge(at(0.75)) && !here.may_judge(at(0.76)));
    (0..2).for_each(|_| here.miss(0, Missed::Silent, &mut engine));
    assert!(!here.may_judge(at(1.4)));
    // Whoever does not answer three times is not waited for.
    here.miss(0, Missed::Silent, &mut engine);
    assert!(here.may_judge(at(1.5)));
}

#[test]
fn answers_that_are_never_fresh_make_judging_rare_and_do_not_end_it() {
    let node = |name: &str, other: &str| {
        let start = (EngineTime::default(), UnixTime::default());
        Observers::new(name, 1, &[format!("https://{other}")], SavedObservers::default(), std::iter::empty(), start)
    };
    let (mut here, there) = (node("here", "there"), node("there", "here"));
    let mut engine = Engine::new(Policy::default(), at(0.0), 1).shared();
    let mut judged = Vec::new();
    for n in 0..24 {
        let now = f64::from(n) * 0.25;
        // Each answer takes 1.25 s.
        if n % 5 == 0 && n > 0 {
            let answer = there.digest(&engine, None, UnixTime::default());
            let taken = here.take_digest(0, answer, &mut engine, (at(now - 1.25), UnixTime::default()));
            assert_eq!(taken, Ok(false));
        }
        if here.may_judge(at(now)) {
            judged.push(now);
        }
    }
    assert_eq!(judged, [1.25, 2.25, 3.25, 4.25, 5.25]);
}
