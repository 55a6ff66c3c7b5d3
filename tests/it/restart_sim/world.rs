//! The world of the simulation: processes one after the other on one disk, each of them the daemon's own flusher, shards, sink
//! drivers, spools and state folder, on tokio's paused clock. What happens is a history of steps, which the seed makes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use systole::Config;
use systole::internals::aggregate::{Quota, Shard};
use systole::internals::assemble;
use systole::internals::daemon::{end_sink, resume_sinks};
use systole::internals::disk::DiskHandle;
use systole::internals::flush::state::StateOptions;
use systole::internals::flush::{self, Changeover, Flusher, FlusherHandle, FlusherInputs, NextDriver, StopStep};
use systole::internals::memory::Memory;
use systole::internals::net::{Listener, Listeners, NextShards, SimulatedSocket};
use systole::internals::random::Random;
use systole::internals::rollup::Registry;
use systole::internals::sinks::{DriverOptions, NextSink, Order, SinkChange, SinkDriver, SpoolOptions};
use systole::internals::state::StateFolder;
use systole::internals::supervise::{Gate, Supervisor};
use systole::internals::sys::{now, set_unix_time, unix_time};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::disk::{DiskMode, SimDisk};
use super::receiver::{Receiver, SinkMode};

/// Unix seconds at which the world begins; a tick.
pub const EPOCH: f64 = 1_700_000_000.0;
/// Seconds in which things happen; then everything is well, until all is delivered.
pub const EVENTFUL: f64 = 30.0;
/// Seconds of the calm after that.
const CALM: f64 = 25.0;
/// Longest time of a world, whatever has to be waited for, seconds.
const LONGEST: u64 = 600;
/// How often the state is written, seconds.
pub const STATE_EVERY: f64 = 1.5;
/// How much older than that the state may be.
const YOUNG: f64 = 0.5;

/// How long a state is tried to be written before an upgrade.
const TRIAL: Duration = Duration::from_secs(5);
/// So long after a time in which a disk was not well something of it may still be felt.
pub const DISK_AFTER: f64 = 3.0;
/// Longer points end at ticks of so many intervals.
pub const LONGER: u64 = 3;

/// The life of a process that never was whole.
pub const NOBODY: usize = usize::MAX - 1;

/// What a sink is.
#[derive(Clone, Debug)]
pub struct SinkShape {
    pub name: String,
    pub has_spool: bool,
    pub order: Order,
    pub every: u32,
}

/// What a world is from its begin to its end.
#[derive(Clone, Debug)]
pub struct Shape {
    pub seed: u64,
    pub interval: u64,
    pub keeps_open: bool,
    pub gauge_ttl: u64,
    pub workers: usize,
    pub sinks: Vec<SinkShape>,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum What {
    /// So many datagrams come.
    Lines(u64),
    /// The process is killed, after so many changes of the disk if that is sooner than a second later.
    Kill(u64),
    /// The same, and what is not synced is lost.
    PowerCut(u64),
    /// A clean restart, with so many seconds without a process.
    Restart(f64),
    Upgrade,
    /// Another process begins, and fails.
    FailedUpgrade,
    /// Rules and percentiles change.
    ReloadRules,
    /// The receiver at this place is reached by a new sink.
    ReloadSink(usize),
    /// The last sink is removed, or is there again.
    ReloadSinks,
    Sink(usize, SinkMode, f64),
    Disk(DiskMode, f64),
}

/// A step of a history.
#[derive(Clone, Debug)]
pub struct Step {
    /// Seconds after the begin.
    pub at: f64,
    pub what: What,
}

/// A datagram that was received.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub at: f64,
    pub life: usize,
    pub worker: usize,
    pub value: u64,
    pub lines: u64,
    pub has_longer: bool,
    pub has_timer: bool,
    pub has_member: bool,
    pub has_gauge: bool,
}

/// How a life has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Killed,
    PowerCut,
    Stopped,
    HandedOver,
}

/// A process.
#[derive(Clone, Debug)]
pub struct Life {
    pub born: f64,
    /// It reads since then: before it is whole, if another process hands over.
    pub reads: f64,
    pub ended: f64,
    pub how: End,
    /// When it was told to stop, and how it would end then: it closes no interval later. It may die before that is done.
    pub stops: Option<(f64, End)>,
    /// When the parts `registry` and `open` were written last; 0 for never.
    pub registry: f64,
    pub open: f64,
}

/// How a process ends.
enum Ending {
    Died {
        is_power_cut: bool,
    },
    /// The next one begins after so many seconds.
    Stopped {
        pause: f64,
    },
    Over,
}

struct Process {
    state: StateFolder,
    flusher: JoinHandle<(Vec<SinkDriver>, bool)>,
    handle: FlusherHandle,
    deadline: watch::Sender<Option<std::time::Instant>>,
    steps: mpsc::Sender<(StopStep, oneshot::Sender<()>)>,
    inlets: Vec<SimulatedSocket>,
}

/// A time in which something was not well.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    pub from: f64,
    pub until: f64,
}

pub struct World {
    pub shape: Shape,
    history: Vec<Step>,
    pub disk: SimDisk,
    pub receivers: Vec<Receiver>,
    pub datagrams: Vec<Datagram>,
    pub lives: Vec<Life>,
    pub disk_troubles: Vec<Trouble>,
    /// Those of them in which it does not answer in time, or fails.
    pub unanswered: Vec<Trouble>,
    pub sink_troubles: Vec<Vec<Trouble>>,
    /// When the last sink is there.
    pub last_sink: Vec<Trouble>,
    pub wrong: Vec<String>,
    pub figures: BTreeMap<&'static str, u64>,
    random: Random,
    now: f64,
    next: usize,
    /// Modes that end.
    ends: Vec<(f64, Option<usize>)>,
    /// What the kernel holds while nobody reads.
    kernel: Vec<u64>,
    rules: u64,
    has_last: bool,
    /// Answered when the last reload is in force.
    reload: Option<oneshot::Receiver<Vec<String>>>,
    published_at: Option<std::time::Instant>,
}

impl Shape {
    pub fn of_seed(seed: u64) -> Shape {
        let mut random = Random::new(seed);
        let mut sinks = Vec::new();
        for n in 0..2 + random.below(2) {
            sinks.push(SinkShape {
                name: format!("s{n}"),
                has_spool: random.below(3) > 0,
                order: if random.below(2) == 0 { Order::Strict } else { Order::Interleave },
                every: if random.below(4) == 0 { 2 } else { 1 },
            });
        }
        Shape {
            seed,
            interval: 1 + random.below(3),
            keeps_open: random.below(2) == 0,
            gauge_ttl: 5 + random.below(20),
            workers: 1 + random.below(2) as usize,
            sinks,
        }
    }

    /// The history of the seed.
    pub fn history(&self) -> Vec<Step> {
        let mut random = Random::new(self.seed ^ 0x0068_6973_746f_7279);
        let mut steps = Vec::new();
        for _ in 0..20 + random.below(40) {
            steps.push(Step { at: random.unit() * EVENTFUL, what: What::Lines(1 + random.below(6)) });
        }
        let sinks = self.sinks.len() as u64;
        for _ in 0..2 + random.below(9) {
            let secs = 0.5 + random.unit() * 8.0;
            let place = random.below(sinks) as usize;
            let what = match random.below(13) {
                0 | 1 => What::Kill(1 + random.below(40)),
                2 => What::PowerCut(1 + random.below(40)),
                3 | 4 => What::Restart(random.unit() * 3.0),
                5 | 6 => What::Upgrade,
                7 => What::FailedUpgrade,
                8 => What::ReloadRules,
                9 => [What::ReloadSink(place), What::ReloadSinks][random.below(2) as usize].clone(),
                10 | 11 => {
                    let mode = [SinkMode::Failing, SinkMode::Mute, SinkMode::Slow][random.below(3) as usize];
                    What::Sink(place, mode, secs)
                }
                _ => {
                    let mode = [DiskMode::Full, DiskMode::Failing, DiskMode::Slow][random.below(3) as usize];
                    What::Disk(mode, secs.min(4.0))
                }
            };
            steps.push(Step { at: random.unit() * EVENTFUL, what });
        }
        steps.sort_by(|a, b| a.at.total_cmp(&b.at));
        steps
    }
}

impl World {
    pub fn new(shape: &Shape, history: &[Step]) -> World {
        let seed = shape.seed;
        let disk = SimDisk::new(seed ^ 1);
        let receivers = (0..shape.sinks.len() as u64).map(|n| Receiver::new(seed ^ (2 + n), &disk)).collect();
        World {
            history: history.to_vec(),
            disk,
            receivers,
            datagrams: Vec::new(),
            lives: Vec::new(),
            disk_troubles: Vec::new(),
            unanswered: Vec::new(),
            sink_troubles: vec![Vec::new(); shape.sinks.len()],
            last_sink: vec![Trouble { from: 0.0, until: f64::MAX }],
            wrong: Vec::new(),
            figures: BTreeMap::new(),
            random: Random::new(seed ^ 0x77),
            now: EPOCH + 0.3,
            next: 0,
            ends: Vec::new(),
            kernel: Vec::new(),
            rules: 0,
            has_last: true,
            reload: None,
            published_at: None,
            shape: shape.clone(),
        }
    }

    /// Lets everything happen.
    pub fn run(&mut self) {
        loop {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(async { set_unix_time(Some(self.now)) });
            let lives = async { timeout(Duration::from_secs(LONGEST), self.live()).await };
            let ending = tokio::task::LocalSet::new().block_on(&runtime, lives);
            if ending.is_err() || self.disk.is_worn_out() {
                self.wrong.push(format!(
                    "{}: a process goes on without end",
                    ["it waits", "it works"][usize::from(ending.is_ok())]
                ));
            }
            let ending = ending.ok().filter(|_| !self.disk.is_worn_out()).unwrap_or(Ending::Over);
            self.now = runtime.block_on(async { unix_time() });
            drop(runtime);
            set_unix_time(None);
            self.disk.next_process(matches!(ending, Ending::Died { is_power_cut: true }));
            if let Some(life) = self.lives.last_mut().filter(|life| life.ended == f64::MAX) {
                life.ended = self.now;
            }
            self.now += match ending {
                Ending::Over => break,
                Ending::Died { .. } => 0.2 + self.random.unit() * 2.0,
                Ending::Stopped { pause } => pause,
            };
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.figures.entry(what).or_default() += 1;
    }

    fn config(&self) -> Config {
        let Shape { interval, gauge_ttl, .. } = self.shape;
        let percentiles = ["[50]", "[50, 99]"][self.rules as usize % 2];
        let text = format!(
            "interval = \"{interval}s\"\ngauge_ttl = \"{gauge_ttl}s\"\nself_metrics = false\npercentiles = {percentiles}\n\
             [[rule]]\nmatch = \"slow.*\"\ninterval = {LONGER}\n[presence]\nenabled = false\n"
        );
        Config::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn driver_options(&self, place: usize) -> DriverOptions {
        let shape = &self.shape.sinks[place];
        let path = PathBuf::from(format!("/spool/{}", shape.name));
        let disk = DiskHandle::new(self.disk.clone());
        let spool = SpoolOptions { path, order: shape.order, disk, rate: 0, ..SpoolOptions::default() };
        DriverOptions {
            queue: 64,
            timeout: Duration::from_secs(3),
            every: shape.every,
            spool: shape.has_spool.then_some(spool),
            ..DriverOptions::new(&shape.name, "sim", Duration::from_secs(self.shape.interval))
        }
    }

    fn driver(&self, place: usize, gate: &Gate) -> std::io::Result<SinkDriver> {
        let receiver = self.receivers[place].clone();
        let reopen = move || Ok(receiver.sink());
        let (options, sink) = (self.driver_options(place), self.receivers[place].sink());
        SinkDriver::supervised(
            &Memory::unlimited(),
            options,
            sink,
            Some(Box::new(reopen)),
            &Supervisor::default(),
            gate,
        )
    }

    fn shard(&self, config: &Config) -> Shard {
        Shard::new(assemble::shard_options(config, &Quota::new(config.max_series), 7))
    }

    /// A listener that reads from now on.
    fn listen(&self) -> (Listener, Vec<SimulatedSocket>) {
        let config = self.config();
        let shards = (0..self.shape.workers).map(|_| self.shard(&config)).collect();
        Listener::simulated("sim://", shards).expect("descriptors")
    }

    /// Starts a process as the daemon does, whose workers read already.
    fn start(&mut self, reads: (f64, Listener, Vec<SimulatedSocket>)) -> std::io::Result<Process> {
        let (since, listener, inlets) = reads;
        let (config, disk) = (self.config(), DiskHandle::new(self.disk.clone()));
        let reading_since = now() - Duration::from_secs_f64(unix_time() - since);
        let state = StateFolder::open_on(disk, Path::new("/state"), Duration::ZERO);
        state.begin_run();
        let places = self.shape.sinks.len() - usize::from(!self.has_last);
        let gate = Gate::closed();
        let drivers = (0..places).map(|place| self.driver(place, &gate)).collect::<std::io::Result<Vec<_>>>()?;
        resume_sinks(&drivers, &Memory::unlimited(), &state);
        gate.open();
        let mut listeners = Listeners::default();
        listeners.add(listener);
        let registry = Registry::new(assemble::registry_options(&config, true), self.shape.workers);
        let ((handle, inbox), (deadline, its_deadline)) = (flush::channel(), watch::channel(None));
        let (steps, its_steps) = mpsc::channel(1);
        let options = StateOptions {
            folder: state.clone(),
            every: Duration::from_secs_f64(STATE_EVERY),
            keeps_open: self.shape.keeps_open,
            most_series: config.max_series,
            receives_since: since,
        };
        let flusher = Flusher::new(config.interval, listeners, registry, drivers, inbox, None, None)
            .reading_since(reading_since)
            .keeping(options)
            .controlled_by(FlusherInputs { deadline: its_deadline, steps: its_steps });
        let flusher = tokio::task::spawn_local(flusher.run());
        let born = unix_time();
        let life =
            Life { born, reads: since, ended: f64::MAX, how: End::Killed, stops: None, registry: 0.0, open: 0.0 };
        self.lives.push(life);
        Ok(Process { state, flusher, handle, deadline, steps, inlets })
    }

    /// What one runtime sees: a process, and those that it hands over to.
    async fn live(&mut self) -> Ending {
        self.end_modes(unix_time());
        let (listener, inlets) = self.listen();
        let Ok(mut process) = self.start((unix_time(), listener, inlets)) else {
            // The service manager starts it again.
            self.count("starts that failed");
            return match self.disk.is_dead() {
                true => Ending::Died { is_power_cut: false },
                false => Ending::Stopped { pause: 1.0 },
            };
        };
        for waiting in std::mem::take(&mut self.kernel) {
            self.receive(&process.inlets, 1, waiting);
        }
        let mut is_power_cut = false;
        let mut dies_at = f64::MAX;
        loop {
            self.observe(&process);
            let end_of_calm = EPOCH + EVENTFUL + CALM;
            let step_at = self.history.get(self.next).map_or(f64::MAX, |step| EPOCH + step.at);
            let mode_ends = self.ends.iter().map(|(at, _)| *at).fold(f64::MAX, f64::min);
            let look_at = unix_time() + 0.25;
            let until = step_at.min(mode_ends).min(dies_at).min(look_at).min(end_of_calm);
            let wait = Duration::from_secs_f64((until - unix_time()).max(0.0));
            if timeout(wait, self.disk.death()).await.is_ok() {
                return self.died(is_power_cut);
            }
            let time = unix_time();
            if time >= dies_at {
                self.disk.die();
                continue;
            }
            if time >= mode_ends {
                self.end_modes(time);
            } else if time >= step_at {
                let what = self.history[self.next].what.clone();
                self.next += 1;
                match what {
                    What::Kill(operations) | What::PowerCut(operations) => {
                        is_power_cut = matches!(what, What::PowerCut(_));
                        self.count(if is_power_cut { "power cuts" } else { "kills" });
                        self.disk.die_after(operations);
                        dies_at = time + self.random.unit();
                    }
                    What::Restart(pause) => {
                        self.count("restarts");
                        return match self.stop(process, StopStep::CloseLastInterval).await {
                            true => Ending::Stopped { pause },
                            false => self.died(is_power_cut),
                        };
                    }
                    What::Upgrade => {
                        self.count("upgrades");
                        match self.upgrade(process).await {
                            Ok(next) => process = next,
                            Err(ending) => return ending.unwrap_or_else(|| self.died(is_power_cut)),
                        }
                    }
                    other => {
                        let disk = self.disk.clone();
                        tokio::select! {
                            biased;
                            () = disk.death() => return self.died(is_power_cut),
                            () = self.happen(&process, other) => {}
                        }
                    }
                }
            } else if time >= end_of_calm {
                return match self.stop(process, StopStep::CloseLastInterval).await {
                    true => Ending::Over,
                    false => self.died(is_power_cut),
                };
            }
        }
    }

    fn died(&mut self, is_power_cut: bool) -> Ending {
        if let Some(life) = self.lives.last_mut() {
            (life.ended, life.how) = (unix_time(), if is_power_cut { End::PowerCut } else { End::Killed });
        }
        Ending::Died { is_power_cut }
    }

    /// What somebody outside sees of a process.
    fn observe(&mut self, process: &Process) {
        if self.disk.is_dead() {
            return;
        }
        let parts = process.state.status().parts;
        let written = |part: &str| parts.get(part).map_or(0.0, |part| part.written);
        if let Some(life) = self.lives.last_mut() {
            (life.registry, life.open) = (written("registry"), written("open"));
        }
        self.parts_are_young(written);
        let published = process.handle.published();
        if published.at == self.published_at {
            return;
        }
        self.published_at = published.at;
        if let Err(problem) = published.ledger().check() {
            self.wrong.push(format!("{:.3}: the ledger: {problem}", unix_time() - EPOCH));
        }
    }

    /// On a disk that is well each part is written as often as promised, and is there.
    fn parts_are_young(&mut self, told: impl Fn(&str) -> f64) {
        let time = unix_time();
        let oldest = time - STATE_EVERY - YOUNG;
        let born = self.lives.last().map_or(time, |life| life.born);
        let well = self.disk_troubles.iter().map(|trouble| trouble.until + DISK_AFTER).fold(born, f64::max);
        // What is closed needs no part any more.
        let tick = tick_after(time - self.shape.interval as f64, self.shape.interval);
        let parts = [("registry", well), ("open", if self.shape.keeps_open { well.max(tick) } else { time })];
        for (part, since) in parts {
            let path = |name: String| PathBuf::from(format!("/state/{name}.state"));
            let there = [part.to_string(), format!("{part}-over")].map(|name| self.disk.written(&path(name)));
            let found = there.into_iter().fold(0.0, f64::max);
            if since < oldest && told(part).min(found) < oldest {
                let [told, found] = [told(part), found].map(|at| time - at);
                let at = time - EPOCH;
                self.wrong
                    .push(format!("{at:.3}: the part {part} is said to be {told:.3} s old, and is {found:.3} s old"));
            }
        }
    }

    async fn happen(&mut self, process: &Process, what: What) {
        match what {
            What::Lines(count) => (0..count).for_each(|_| {
                let random = self.random.bits();
                self.receive(&process.inlets, 1, random);
            }),
            What::FailedUpgrade => {
                self.count("failed upgrades");
                let trial = process.handle.try_state(TRIAL).await.and_then(Result::ok);
                if process.handle.pause_reading(trial.unwrap_or_default()).await.is_some() {
                    sleep(Duration::from_millis(self.random.below(200))).await;
                    process.handle.resume_reading().await;
                }
                for waiting in std::mem::take(&mut self.kernel) {
                    self.receive(&process.inlets, 1, waiting);
                }
            }
            What::ReloadRules | What::ReloadSink(_) | What::ReloadSinks => self.reload(process, what).await,
            What::Sink(place, mode, secs) => {
                self.count("failing receivers");
                let from = unix_time();
                self.receivers[place].set_mode(mode);
                self.sink_troubles[place].push(Trouble { from, until: from + secs });
                self.ends.push((from + secs, Some(place)));
            }
            What::Disk(mode, secs) => {
                self.count("bad disks");
                let from = unix_time();
                self.disk.set_mode(mode);
                let trouble = Trouble { from, until: from + secs };
                self.disk_troubles.push(trouble);
                self.unanswered.extend((!mode.answers()).then_some(trouble));
                self.ends.push((from + secs, None));
            }
            What::Kill(_) | What::PowerCut(_) | What::Restart(_) | What::Upgrade => {}
        }
    }

    /// Waits until something is well again.
    async fn get_well(&mut self) {
        let at = self.ends.iter().map(|(at, _)| *at).fold(unix_time() + LONGEST as f64, f64::min);
        sleep(Duration::from_secs_f64((at - unix_time()).max(0.0))).await;
        self.end_modes(unix_time());
    }

    fn end_modes(&mut self, time: f64) {
        for (at, place) in std::mem::take(&mut self.ends) {
            match place {
                _ if at > time => self.ends.push((at, place)),
                Some(place) => self.receivers[place].set_mode(SinkMode::Well),
                None => self.disk.set_mode(DiskMode::Well),
            }
        }
    }

    /// A datagram comes to the last life, or to the one after it; what it is depends on a number.
    fn receive(&mut self, inlets: &[SimulatedSocket], before: usize, number: u64) {
        if self.disk.is_dead() {
            return;
        }
        let mut random = Random::new(number);
        let (id, worker) = (self.datagrams.len(), random.below(self.shape.workers as u64) as usize);
        let value = 1 + random.below(9);
        let mut text = format!("d{id}:1|c\nsum:{value}|c");
        let mut has = |more: String| {
            let is_there = random.below(3) == 0;
            if is_there {
                text.push('\n');
                text.push_str(&more);
            }
            is_there
        };
        let (has_longer, has_timer) = (has(format!("slow.d{id}:1|c")), has(format!("t:{value}|ms")));
        let (has_member, has_gauge) = (has(format!("s:{id}|s")), has(format!("g{worker}:{id}|g")));
        let lines = text.lines().count() as u64;
        if !inlets[worker].receive(text.as_bytes()) {
            self.kernel.push(number);
            return;
        }
        let (at, life) = (unix_time(), self.lives.len() - before);
        let datagram = Datagram { at, life, worker, value, lines, has_longer, has_timer, has_member, has_gauge };
        self.datagrams.push(datagram);
    }

    async fn reload(&mut self, process: &Process, what: What) {
        // One that is asked for before the last one is in force is refused.
        if self.reload.as_mut().is_some_and(|last| matches!(last.try_recv(), Err(oneshot::error::TryRecvError::Empty)))
        {
            return;
        }
        self.count("reloads");
        let mut change = Changeover::default();
        let places = self.shape.sinks.len() - usize::from(!self.has_last);
        let kept = |n| NextDriver::Kept(n, None);
        match what {
            What::ReloadSink(place) if place < places => {
                let (receiver, sink) = (self.receivers[place].clone(), self.receivers[place].sink());
                let reopen = Box::new(move || Ok(receiver.sink()));
                let next = NextSink { sink, reopen, goes_on: true };
                let changed = SinkChange { options: self.driver_options(place), sink: Some(next) };
                let changed = NextDriver::Kept(place, Some(Box::new(changed)));
                let mut all: Vec<NextDriver> = (0..places).map(kept).collect();
                all[place] = changed;
                change.drivers = Some(all);
            }
            What::ReloadSinks if self.has_last => {
                change.drivers = Some((0..places - 1).map(kept).collect());
            }
            What::ReloadSinks => match self.driver(places, &Gate::default()) {
                Ok(driver) => {
                    let new = NextDriver::New(process.handle.hold(driver, change.grace));
                    change.drivers = Some((0..places).map(kept).chain([new]).collect());
                }
                // The one that leaves still has the spool: the reload is refused.
                Err(_) => return,
            },
            _ => {
                self.rules += 1;
                let config = self.config();
                let options = assemble::shard_options(&config, &Quota::new(config.max_series), 7);
                change.shards = NextShards::Renewed(Box::new(options), assemble::watches(&config));
                change.registry = Some(assemble::registry_options(&config, true));
            }
        }
        if matches!(what, What::ReloadSinks) {
            self.has_last = !self.has_last;
            let time = unix_time();
            match self.has_last {
                true => self.last_sink.push(Trouble { from: time, until: f64::MAX }),
                false => self.last_sink.iter_mut().for_each(|there| there.until = there.until.min(time)),
            }
        }
        // It is in force at the next tick; meanwhile things happen.
        self.reload = Some(process.handle.change_over(change).await);
    }

    /// Stops a process as the daemon does; `false` if it died meanwhile.
    async fn stop(&mut self, process: Process, last: StopStep) -> bool {
        let dies = self.disk.clone();
        let is_handed_over = last == StopStep::KeepLastInterval;
        let how = if is_handed_over { End::HandedOver } else { End::Stopped };
        if let Some(life) = self.lives.last_mut() {
            life.stops = Some((unix_time(), how));
        }
        let Process { state, flusher, handle, deadline, steps, inlets: _ } = process;
        let its_state = state.clone();
        let ends = async {
            let end = now() + Duration::from_secs(if is_handed_over { 5 } else { 8 });
            deadline.send_replace(Some(end));
            for step in [StopStep::StopListeners(now() + Duration::from_secs(2)), last] {
                let (done, is_done) = oneshot::channel();
                steps.send((step, done)).await.expect("it runs");
                is_done.await.expect("it runs");
            }
            drop(steps);
            let (drivers, _) = flusher.await.expect("it ends");
            drop(handle);
            let mut accounts = Vec::new();
            let mut ending = tokio::task::JoinSet::new();
            let mut names = std::collections::HashSet::new();
            for driver in drivers {
                accounts.push(driver.stats());
                let is_first = names.insert(driver.name().to_string());
                let state = if is_first { state.clone() } else { StateFolder::off() };
                ending.spawn(end_sink(driver, state, end));
            }
            ending.join_all().await;
            state.end_run();
            accounts
        };
        let mut ends = std::pin::pin!(ends);
        let accounts = loop {
            tokio::select! {
                biased;
                () = dies.death() => return false,
                accounts = &mut ends => break accounts,
                () = self.get_well() => {}
            }
        };
        if dies.is_dead() {
            return false;
        }
        for stats in accounts {
            let account = stats.account();
            let sum = account.delivered + account.queued + account.spooled + account.dropped.total();
            if account.offered != sum {
                self.wrong.push(format!("{:.3}: account of {}: {account:?}", unix_time() - EPOCH, stats.name()));
            }
        }
        let parts = its_state.status().parts;
        if let Some(life) = self.lives.last_mut() {
            (life.ended, life.how) = (unix_time(), how);
            life.registry = parts.get("registry").map_or(0.0, |part| part.written);
        }
        true
    }

    /// Another process goes on. `Err(None)` is the death of both.
    async fn upgrade(&mut self, process: Process) -> Result<Process, Option<Ending>> {
        let next = self.lives.len();
        let outcome = self.hand_over(process).await;
        if outcome.is_err() {
            // What the new one has read already is gone with it.
            let read = self.datagrams.iter_mut().filter(|datagram| datagram.life == self.lives.len().max(next));
            read.for_each(|datagram| datagram.life = NOBODY);
        }
        outcome
    }

    async fn hand_over(&mut self, process: Process) -> Result<Process, Option<Ending>> {
        let dies = self.disk.clone();
        let pause = async {
            let trial = process.handle.try_state(TRIAL).await.and_then(Result::ok)?;
            process.handle.pause_reading(trial).await
        };
        let paused = tokio::select! {
            biased;
            () = dies.death() => return Err(None),
            paused = pause => paused,
        };
        if paused.is_none() {
            self.count("refused upgrades");
            return Ok(process);
        }
        // The new one reads on at once, and waits for the rest.
        let (since, (listener, inlets)) = (unix_time(), self.listen());
        for _ in 0..self.random.below(4) {
            let number = self.random.bits();
            self.receive(&inlets, 0, number);
        }
        if !self.stop(process, StopStep::KeepLastInterval).await {
            return Err(None);
        }
        self.disk.leave();
        let started = self.start((since, listener, inlets));
        if started.is_err() {
            self.count("starts that failed");
        }
        let next = started.map_err(|_| (!dies.is_dead()).then_some(Ending::Stopped { pause: 1.0 }))?;
        for waiting in std::mem::take(&mut self.kernel) {
            self.receive(&next.inlets, 1, waiting);
        }
        Ok(next)
    }
}

/// Where a tick is that ends the interval of a time.
pub fn tick_after(time: f64, interval: u64) -> f64 {
    let interval = interval as f64;
    ((time / interval).floor() + 1.0) * interval
}
