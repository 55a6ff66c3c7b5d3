//! Presence in `replay`: the engine on the virtual clock, with the daemon's own rhythm of judging and saving.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::aggregate::Shard;
use crate::presence::policy::{Expected, Misses, Notify, Override, Policy};
use crate::presence::{CronSchedule, Engine, EngineTime, Epoch, Event, JobRule, NamedZone, Saved, UnixTime};
use crate::watches::{Evidence, MetricWatch, Template, Watches};

/// Nanoseconds between two judgements, and between two saved states.
const TICK: u64 = 250_000_000;
const SAVE_EVERY: u64 = 10_000_000_000;

/// The engine and its rhythm; times are nanoseconds of the virtual clock.
pub(super) struct ReplayPresence {
    policy: Policy,
    engine: Engine,
    /// Where the engine's clock stands in wall time.
    epoch: Epoch,
    /// When the clock began.
    began: u64,
    tick: u64,
    save_every: u64,
    /// The next judgement.
    next: u64,
    saved: Saved,
    saved_at: u64,
    /// While the daemon stands still it judges nothing; since when.
    stalled_since: u64,
    events: Vec<Event>,
}

/// The engine's clock is the virtual one.
fn time(nanos: u64) -> EngineTime {
    EngineTime::from_secs(nanos as f64 / 1e9)
}

impl ReplayPresence {
    /// An engine that judges by a policy, from the beginning of the virtual clock on.
    pub(super) fn new(policy: Policy) -> ReplayPresence {
        let engine = Engine::new(policy.clone(), EngineTime::default(), 0);
        ReplayPresence {
            saved: engine.save(),
            policy,
            engine,
            epoch: Epoch::UNIX,
            began: 0,
            tick: TICK,
            save_every: SAVE_EVERY,
            next: TICK,
            saved_at: 0,
            stalled_since: 0,
            events: Vec::new(),
        }
    }

    /// Takes the configuration of a trace's header, over that of the file.
    ///
    /// # Errors
    /// A key or a value that means nothing.
    pub(super) fn configure(&mut self, config: &Map<String, Value>) -> Result<(), String> {
        for (key, value) in config {
            let seconds =
                || value.as_f64().filter(|s| *s >= 0.0).ok_or(format!("`{key}` is {value}; seconds are right"));
            let nanos = || seconds().map(|s| ((s * 1e9).round() as u64).max(1));
            match key.as_str() {
                "tick" => self.tick = nanos()?,
                "snapshot_every" => self.save_every = nanos()?,
                "forget_left" => self.policy.forget_left = seconds()?,
                "forget_down" => self.policy.forget_down = seconds()?,
                "forget_ephemeral" => self.policy.forget_ephemeral = seconds()?,
                "forget_service" => self.policy.forget_service = seconds()?,
                "flap_window" => self.policy.flap_quiet = seconds()?,
                "mass_hold" => self.policy.mass_hold = seconds()?,
                "mass_fraction" => self.policy.mass_fraction = seconds()?,
                "notify" => {
                    let level = Notify::from_name(value.as_str().unwrap_or_default());
                    self.policy.rules.notify = level.ok_or(format!("`notify` is {value}"))?;
                }
                "epoch" => self.epoch = Epoch::new(UnixTime::from_secs(seconds()?), EngineTime::default()),
                "health" => self.policy.rules.health_alerts = value == "alert",
                "jobs" => {
                    for job in value.as_array().into_iter().flatten() {
                        self.policy.jobs.push(job_rule(job)?);
                    }
                }
                "implicit" => self.policy.assist = value == "assist",
                "services" => {
                    for (pattern, rules) in value.as_object().into_iter().flatten() {
                        self.policy.overrides.push(overrides(pattern, rules)?);
                    }
                }
                "expect" => {
                    for expected in value.as_array().into_iter().flatten() {
                        self.policy.expect.push(Expected {
                            service: expected["service"].as_str().ok_or("`expect` wants a `service`")?.to_string(),
                            min: expected["min"].as_u64().map_or(1, |min| min as u32),
                            within: expected["within"].as_f64(),
                        });
                    }
                }
                "watch" => {
                    let all: Result<_, String> = value.as_array().into_iter().flatten().map(watch).collect();
                    self.policy.watches = Arc::new(Watches::new(all?));
                }
                _ => return Err(format!("unknown key `{key}` in the configuration of a presence trace")),
            }
        }
        self.begin_at(self.began);
        Ok(())
    }

    /// Begins at `now` instead of 0.
    pub(super) fn begin_at(&mut self, now: u64) {
        self.engine = Engine::new(self.policy.clone(), time(now), 0);
        self.engine.set_epoch(self.epoch);
        self.began = now;
        self.next = now + self.tick;
        (self.saved, self.saved_at) = (self.engine.save(), now);
    }

    /// The engine, told the time.
    pub(super) fn engine(&mut self, at: u64) -> &mut Engine {
        self.engine.at(time(at));
        &mut self.engine
    }

    /// A second in which the kernel dropped so many datagrams.
    pub(super) fn kernel_drops(&mut self, at: u64, dropped: u64, received: u64) {
        self.engine.kernel_drops(time(at), dropped, received);
    }

    /// The wall clock is set by so many seconds.
    pub(super) fn clock_stepped(&mut self, at: u64, step: f64) {
        self.epoch = self.epoch.stepped(step);
        let epoch = self.epoch;
        let engine = self.engine(at);
        engine.clock_stepped(step);
        engine.set_epoch(epoch);
    }

    /// Judges at every tick before `now`, by what is watched in these shards, too.
    pub(super) fn advance(&mut self, now: u64, shards: &mut [Shard]) {
        let is_watching = !self.policy.watches.is_empty();
        while self.next < now {
            if is_watching {
                self.look_at_watched(self.next, shards);
            }
            self.engine.tick(time(self.next));
            if self.next - self.saved_at >= self.save_every {
                self.saved = self.engine.save();
                self.saved_at = self.next;
            }
            self.next += self.tick;
            self.skip_idle(now);
        }
    }

    /// Leaves out the judgements before `now` that change nothing, and of the states that would have been saved all but the
    /// last: a capture of days is mostly silence.
    fn skip_idle(&mut self, now: u64) {
        // A microsecond earlier: times in seconds are rounded.
        let idle = (self.engine.idle_until().as_secs() * 1e9) as u64;
        let until = idle.saturating_sub(1000).min(now);
        let Some(skipped) = until.checked_sub(self.next + 1) else { return };
        let last = self.next + skipped / self.tick * self.tick;
        let on_tick = |length: u64| length.div_ceil(self.tick) * self.tick;
        let first_save = self.next + on_tick((self.saved_at + self.save_every).saturating_sub(self.next));
        if let Some(more) = last.checked_sub(first_save) {
            let period = on_tick(self.save_every);
            self.saved_at = first_save + more / period * period;
            self.engine.at(time(self.saved_at));
            self.saved = self.engine.save();
        }
        self.next = last + self.tick;
    }

    /// Takes what is watched in these shards.
    pub(super) fn look_at_watched(&mut self, at: u64, shards: &mut [Shard]) {
        self.engine.at(time(at));
        for shard in shards {
            shard.look_at_watched();
            shard.take_signals().for_each(|signal| self.engine.signal(&signal));
        }
    }

    /// The capture is over: what is due up to its end is judged, and nothing after that.
    pub(super) fn ends(&mut self, at: u64, shards: &mut [Shard]) {
        self.advance(at + 1, shards);
        self.next = u64::MAX;
    }

    /// The daemon runs again, after it stood still since its last judgement or what it heard then.
    pub(super) fn wakes(&mut self, at: u64) {
        let since = std::mem::take(&mut self.stalled_since);
        self.engine.stalled(time(at), time(at) - time(since.min(at)));
        self.next = at.div_ceil(self.tick) * self.tick;
    }

    /// The daemon stands still from now on.
    pub(super) fn stands_still(&mut self, at: u64) {
        self.stalled_since = at;
    }

    /// The daemon stops, and starts again with what it saved.
    pub(super) fn restart(&mut self, at: u64, boot: u64, crash: bool) {
        self.engine.at(time(at));
        let saved = if crash { self.saved.clone() } else { self.engine.save() };
        // What is not written to a state file does not survive.
        let saved = serde_json::to_vec(&saved).and_then(|state| serde_json::from_slice(&state));
        let saved = saved.expect("a state that was saved can be read");
        self.collect();
        self.engine = Engine::restored(self.policy.clone(), saved, time(boot), 0);
        self.engine.set_epoch(self.epoch);
        self.next = boot.div_ceil(self.tick) * self.tick;
        (self.saved, self.saved_at) = (self.engine.save(), boot);
    }

    /// Whether something happened that was not taken.
    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty() || self.engine.has_events()
    }

    /// What happened since this was last asked.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        self.collect();
        std::mem::take(&mut self.events)
    }

    fn collect(&mut self) {
        let events = self.engine.take_events().into_iter();
        self.events.extend(events.map(|event| event.in_unix_time(Epoch::UNIX)));
    }

    /// What is watched.
    pub(super) fn watches(&self) -> &Arc<Watches> {
        &self.policy.watches
    }

    /// Whether heartbeats are wanted of metrics too.
    pub(super) fn assists(&self) -> bool {
        self.policy.assist
    }
}

/// A watch, as a trace has it.
fn watch(value: &Value) -> Result<MetricWatch, String> {
    let text = |key: &str| value[key].as_str();
    let pattern = text("match").ok_or("`watch` wants a `match`")?.to_string();
    let stars = pattern.matches('*').count();
    let evidence = text("evidence").unwrap_or("any");
    Ok(MetricWatch {
        service: Template::parse(text("service").ok_or("`watch` wants a `service`")?, stars)?,
        instance: Template::parse(text("instance").unwrap_or("{host}"), stars)?,
        interval: value["interval"].as_f64(),
        evidence: Evidence::from_name(evidence).ok_or(format!("`{evidence}` is no evidence"))?,
        floor: value["floor"].as_u64().map(|floor| floor as u32),
        max_instances: value["max_instances"].as_u64().map_or(1000, |max| max as usize),
        pattern,
    })
}

/// A job of a trace's header.
fn job_rule(job: &Value) -> Result<JobRule, String> {
    let text = |key: &str| job[key].as_str();
    let schedule = text("schedule").map(|fields| {
        let name = text("timezone").unwrap_or("UTC");
        let zone = NamedZone::new(name).ok_or(format!("`{name}` is no time zone"))?;
        CronSchedule::new(fields, &zone).map_err(|problem| format!("`{fields}` is no schedule: {problem}"))
    });
    let keys = ["service", "instance", "schedule", "timezone", "every", "grace", "max_runtime"];
    if let Some(key) =
        job.as_object().into_iter().flatten().map(|(key, _)| key).find(|key| !keys.contains(&key.as_str()))
    {
        return Err(format!("unknown key `{key}` for a job in a presence trace"));
    }
    Ok(JobRule {
        service: text("service").ok_or("`jobs` want a `service`")?.into(),
        instance: text("instance").map(Into::into),
        schedule: schedule.transpose()?,
        every: job["every"].as_f64(),
        grace: job["grace"].as_f64(),
        max_runtime: job["max_runtime"].as_f64(),
    })
}

fn overrides(pattern: &str, rules: &Value) -> Result<Override, String> {
    let mut o = Override { pattern: pattern.to_string(), ..Override::default() };
    for (key, value) in rules.as_object().into_iter().flatten() {
        match key.as_str() {
            "misses" if value == "auto" => o.misses = Some(Misses::Auto),
            "misses" => o.misses = value.as_u64().map(|misses| Misses::Fixed(misses as u32)),
            "grace" => o.grace = value.as_f64(),
            "quorum" => o.quorum = value.as_f64(),
            "min" => o.min = value.as_u64().map(|min| min as u32),
            "ephemeral" => o.ephemeral = value.as_bool(),
            "within" => o.within = value.as_f64(),
            "notify" => o.notify = Notify::from_name(value.as_str().unwrap_or_default()),
            "health" => o.health_alerts = Some(value == "alert"),
            _ => return Err(format!("unknown key `{key}` for services `{pattern}` in a presence trace")),
        }
    }
    Ok(o)
}
