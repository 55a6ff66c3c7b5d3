//! Heartbeats of any making, in any order and at any time, over restarts: no panic, the limits hold, and what survives a
//! restart is what was known.
#![no_main]

#[path = "../../it/support/grammar.rs"]
mod grammar;

use std::sync::Arc;

use grammar::{Choices, Form, FromBytes, State};
use libfuzzer_sys::fuzz_target;
use systole::internals::aggregate::{Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
use systole::internals::presence::{Engine, EngineTime, Epoch};
use systole::internals::presence::policy::Policy;
use systole::internals::protocol::{Heartbeats, Options};

const MAX_SERVICES: usize = 8;
const MAX_INSTANCES: usize = 4;

fuzz_target!(|data: &[u8]| {
    let mut choices = FromBytes(data);
    let policy = Policy { max_services: MAX_SERVICES, max_instances_per_service: MAX_INSTANCES, ..Policy::default() };
    let mut engine = Engine::new(policy.clone(), EngineTime::default(), 1);
    let mut shard = Shard::new(ShardOptions {
        timers: TimerPolicy::default(),
        fold_histograms: false,
        quota: Quota::new(100),
        seed: 1,
        rules: None,
        heartbeats: Some(Arc::new(Heartbeats { assist: true, ..Heartbeats::default() })),
        times: TimeWindow::ANY,
    });
    let (mut now, mut state) = (0.0, State::default());
    while !choices.0.is_empty() {
        let form = match choices.below(10) {
            0 => Form::Maintenance(12),
            1 => Form::BeatCheck(12),
            2 => Form::BeatTags(12, grammar::Tags::Few(2)),
            3 => {
                engine.at(EngineTime::from_secs(now));
                let saved = serde_json::to_string(&engine.save()).expect("JSON");
                let known = engine.len();
                let saved = serde_json::from_str(&saved).expect("what we wrote");
                engine = Engine::restored(policy.clone(), saved, EngineTime::from_secs(now), 1);
                assert!(engine.len() <= known, "a restart invents nobody");
                continue;
            }
            4 => {
                engine.kernel_drops(EngineTime::from_secs(now), choices.below(100) as u64, 100);
                continue;
            }
            _ => Form::Beat(12, 6, 1),
        };
        let mut line = Vec::new();
        // A line as it is, or with bytes of the fuzzer's own behind its name.
        grammar::line(&form, &mut state, 200, 0, &mut choices, &mut line);
        if choices.below(4) == 0 {
            let at = choices.below(line.len());
            line[at] = choices.below(256) as u8;
        }
        shard.ingest(&line, &Options::default(), None, now);
        engine.at(EngineTime::from_secs(now));
        shard.take_signals().for_each(|signal| engine.signal(&signal));
        now += [0.0, 0.1, 3.0, 40.0, 4000.0][choices.below(5)];
        engine.tick(EngineTime::from_secs(now));
        engine.take_events();
        let view = engine.view(Epoch::UNIX);
        assert!(view.len() <= MAX_SERVICES, "{} services", view.len());
        assert!(view.iter().all(|service| service.instances.len() <= MAX_INSTANCES));
    }
});
