//! Reloads: the configuration is read again from where it was read at the start, validated whole, and what it takes is opened: ports
//! are bound, files of TLS are read, sinks are opened, relays started. Only when all of that is done is anything changed, by the
//! flusher at the next tick ([`Changeover`]). One reload follows the other.

mod sinks;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::timeout;

use crate::aggregate::{Quota, Shard};
use crate::assemble;
use crate::config::{self, Config, Listen, ListenUrl, Origins, Plan};
use crate::fault;
use crate::flush::{Changeover, FlusherHandle, NewListener, NextListener, next_tick};
use crate::http::{Access, AppState};
use crate::journal::{Journal, Severity};
use crate::memory::Memory;
use crate::net::relay::{self, RelayHandle, RelaySpec, RelayStats};
use crate::net::{self, BoundListener, ListenerOptions, NextShards, Taps};
use crate::notify::{NextTargets, Notifiers, Targets};
use crate::ports::{OtherFiles, Ports, ServerTls, until_reloaded};
use crate::presence::{Identity, UnixTime};
use crate::reloads::{Change, Inbox, Meanwhile, Outcome, Reloads, Report, Request};
use crate::state::StateFolder;
use crate::supervise::{Part, Role, Supervisor, caught};
use crate::sys::unix_time;

use super::StartError;
use super::listeners::cannot_listen;
use super::relays::SharedRelays;
use super::server::Shown;
use super::spools::{self, KnownSpools};

/// Longest wait of a stop for a reload that is on its way.
const ENDING: Duration = Duration::from_millis(500);

/// Longest time for reading the configuration: a disk may hang.
const READING: Duration = Duration::from_secs(20);

/// Who asks for a reload waits until it is in force, if that is so soon.
const SOON: Duration = Duration::from_secs(15);

/// Longest wait for listeners that leave, beside two intervals.
const LEAVING: Duration = Duration::from_secs(10);

/// Longest wait until presence puts nothing into the queues of targets that are gone.
const NOTIFYING: Duration = Duration::from_secs(5);

/// What is read for a start, and again for each reload.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) origins: Origins,
    /// What is allowed and most likely not meant.
    pub(crate) warnings: Vec<String>,
}

/// Where a reload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It begins.
    Begun,
    /// It has ended, whatever became of it.
    Ended,
}

/// Reads the configuration; all mistakes, each in a line.
pub(crate) type Load = Arc<dyn Fn() -> Result<Loaded, Vec<String>> + Send + Sync>;

/// How a daemon reads its configuration again, and who is told.
pub(crate) struct Reloading {
    pub(crate) load: Load,
    /// Told of each step.
    pub(crate) note: Box<dyn Fn(Step) + Send>,
    /// Makes what belongs to the process be as a configuration says: the log.
    pub(crate) apply: Arc<dyn Fn(&Config) + Send + Sync>,
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reloading")
    }
}

/// A listener as it was configured, with what is known of it beside that.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listen: Listen,
    pub(super) tls: Option<ServerTls>,
}

/// A relay that runs.
#[derive(Debug)]
pub(super) struct Relaying {
    pub(super) spec: RelaySpec,
    pub(super) handle: RelayHandle,
    pub(super) stats: RelayStats,
}

/// What a reload has to know of the daemon as a whole.
pub(super) struct Whole {
    pub(super) config: Config,
    /// Sinks beside the configured ones.
    pub(super) own_sinks: usize,
    pub(super) memory: Memory,
    pub(super) ports: Ports,
    pub(super) supervisor: Supervisor,
    pub(super) flusher: FlusherHandle,
    pub(super) state: StateFolder,
    pub(super) known_spools: KnownSpools,
    pub(super) notifying: Notifying,
}

/// Of who is notified.
pub(super) struct Notifying {
    pub(super) notifiers: Notifiers,
    pub(super) identity: Identity,
    /// URL of the page as it is bound.
    pub(super) page: Option<String>,
}

impl Notifying {
    fn targets(&self, config: &Config) -> Targets {
        assemble::targets(config, &self.identity, self.page.clone())
    }
}

/// Of what is received.
pub(super) struct Receiving {
    pub(super) quota: Quota,
    pub(super) seed: u64,
    pub(super) listening: Vec<Listening>,
    pub(super) relaying: Vec<Relaying>,
    pub(super) relays: SharedRelays,
}

/// Of what is shown.
pub(super) struct Showing {
    pub(super) reloads: Reloads,
    pub(super) journal: Journal,
    pub(super) page: Option<Shown>,
    /// What the management port shows.
    pub(super) shown: Arc<Mutex<String>>,
    /// Longest stop.
    pub(super) grace: Arc<Mutex<Duration>>,
}

/// Reloads.
pub(super) struct Reloader {
    config: Config,
    reloading: Reloading,
    reloads: Reloads,
    flusher: FlusherHandle,
    state: StateFolder,
    known_spools: KnownSpools,
    notifying: Notifying,
    memory: Memory,
    ports: Ports,
    supervisor: Supervisor,
    journal: Journal,
    quota: Quota,
    seed: u64,
    /// Those of a new worker, but for the relays.
    taps: Taps,
    listening: Vec<Listening>,
    own_sinks: usize,
    relaying: Vec<Relaying>,
    relays: SharedRelays,
    page: Option<Shown>,
    shown: Arc<Mutex<String>>,
    grace: Arc<Mutex<Duration>>,
}

/// Everything that is ready for a changeover, and what is to be known afterwards.
struct Prepared {
    change: Changeover,
    listening: Vec<Listening>,
    relaying: Vec<Relaying>,
    threads: Vec<JoinHandle<()>>,
    /// The targets of notifications, if they are others.
    targets: Option<NextTargets>,
}

impl Reloader {
    pub(super) fn new(
        (reloading, taps): (Reloading, Taps),
        whole: Whole,
        receiving: Receiving,
        showing: Showing,
    ) -> Reloader {
        let Whole { config, own_sinks, memory, ports, supervisor, flusher, state, known_spools, notifying } = whole;
        let Receiving { quota, seed, listening, relaying, relays } = receiving;
        let Showing { reloads, journal, page, shown, grace } = showing;
        Reloader {
            config,
            reloading,
            reloads,
            flusher,
            state,
            known_spools,
            notifying,
            memory,
            ports,
            supervisor,
            journal,
            quota,
            seed,
            taps,
            listening,
            own_sinks,
            relaying,
            relays,
            page,
            shown,
            grace,
        }
    }

    /// Starts the task.
    pub(super) fn start(self, inbox: Inbox) -> ReloadTask {
        let part = self.supervisor.part("reload", Role::Ordinary);
        let own = part.clone();
        ReloadTask(part.task(self.run(inbox, own)))
    }

    /// Reloads when somebody asks, until nobody can.
    async fn run(mut self, mut inbox: Inbox, part: Part) {
        while let Some(mut request) = inbox.next().await {
            // Who asked while another reload was on its way gets a reload of its own: the file may have changed since.
            (self.reloading.note)(Step::Begun);
            let report = match caught(self.reload(&mut inbox, &mut request)).await {
                Ok(report) => report,
                Err(panic) => {
                    let problem = format!("it failed, which is a mistake of systole: {panic:?}");
                    part.restart(panic).await;
                    Some(self.refuse(None, vec![problem]))
                }
            };
            (self.reloading.note)(Step::Ended);
            let Some(report) = report else { return };
            if let Some(request) = request {
                // Whoever asked may have gone.
                let _ = request.send(Arc::new(report));
            }
        }
    }

    /// Reloads once; `None` if the daemon ends meanwhile. Who asked is told before that is done if it takes long.
    async fn reload(&mut self, inbox: &mut Inbox, request: &mut Option<Request>) -> Option<Report> {
        let read_at = unix_time();
        fault::pass("reload");
        // A file may be on a disk that hangs, or no file at all.
        let load = Arc::clone(&self.reloading.load);
        let loaded = match timeout(READING, spawn_blocking(move || load())).await {
            Ok(Ok(Ok(loaded))) => loaded,
            Ok(Ok(Err(problems))) => return Some(self.refuse(None, problems)),
            Ok(Err(error)) => return Some(self.refuse(None, vec![error.to_string()])),
            Err(_) => {
                let problem =
                    format!("reading the configuration, and the files that it names, takes more than {READING:?}");
                return Some(self.refuse(None, vec![problem]));
            }
        };
        let Loaded { config, origins, mut warnings } = loaded;
        let file = origins.file.clone();
        let plan = match config::compare(&self.config, assemble::of_role(config)) {
            Ok(plan) => plan,
            Err(problems) => return Some(self.refuse(file, problems)),
        };
        let Plan { config, changes, needs_restart } = plan;
        // Those that the last reload took out have to read what the kernel holds, and are in one more interval.
        let is_new = |url: &&ListenUrl| self.listening.iter().all(|known| known.listen.url != **url);
        let new: Vec<&ListenUrl> = config.listen.iter().map(|listen| &listen.url).filter(is_new).collect();
        let is_in_the_way = |left: &str| new.iter().any(|url| url.is_kept_from(left));
        self.flusher.listeners_have_left(is_in_the_way, LEAVING + 2 * config.interval).await;
        let prepared = match block_in_place(|| self.prepare(&config, &origins)) {
            Ok(prepared) => prepared,
            Err(problem) => return Some(self.refuse(file, vec![problem.to_string()])),
        };
        let Prepared { change, listening, relaying, threads, targets } = prepared;
        let result = Outcome::Accepted;
        let (held, ledger) = (self.flusher.spools().await, self.flusher.published().ledger());
        let spooled = |sink: &str| ledger.sinks.get(sink).map_or(0, |sink| sink.spooled);
        warnings.extend(spools::taken(&config, &held, spooled));
        // Before any interval goes to one of them.
        self.known_spools.change(&config);
        let due = next_tick(unix_time(), config.interval);
        let (waiting_for, problems) = (Vec::new(), Vec::new());
        let in_force_at = Some(due).filter(|due| change.needs_tick() && due - unix_time() > SOON.as_secs_f64());
        let report = Report {
            result,
            in_force_at,
            file,
            loaded_at: read_at,
            changes,
            needs_restart,
            waiting_for,
            problems,
            warnings,
        };
        let answer = self.flusher.change_over(change).await;
        let waiting_for = self.in_force(answer, &report, inbox, request).await?;
        if self.config.presence != config.presence
            && let Some(presence) = self.taps.presence.clone()
        {
            let (policy, group_wait) = (assemble::policy(&config), config.presence.group_wait);
            // Its queue may be full for a moment.
            let _ = spawn_blocking(move || presence.set_policy(policy, group_wait)).await;
        }
        if let Some(targets) = targets {
            self.change_targets(targets, config.shutdown_grace).await;
        }
        (self.listening, self.relaying, self.config) = (listening, relaying, config);
        self.relays.replace(self.relaying.iter().map(|relay| relay.stats.clone()).collect(), threads);
        let report = Report { result: Outcome::Applied, in_force_at: None, waiting_for, ..report };
        self.log_outcome(&report);
        Some(report)
    }

    /// Has these notified, and those that are gone end.
    async fn change_targets(&mut self, targets: NextTargets, grace: Duration) {
        let notifiers = self.notifying.notifiers.clone();
        let removed = notifiers.change(targets);
        if let Some(presence) = self.taps.presence.clone() {
            let queues = notifiers.queues();
            // Its queue may be full for a moment.
            let set = spawn_blocking(move || presence.set_targets(queues));
            let _ = timeout(NOTIFYING, async { set.await.ok()?.await.ok() }).await;
        }
        removed.end(grace);
    }

    /// Waits until a change is in force; the workers that it has not reached. If that takes a while, who asked is told that it will
    /// be, and who asks meanwhile is told to wait. A signal has its turn after it.
    async fn in_force(
        &mut self,
        mut answer: oneshot::Receiver<Vec<String>>,
        accepted: &Report,
        inbox: &mut Inbox,
        request: &mut Option<Request>,
    ) -> Option<Vec<String>> {
        let Some(at) = accepted.in_force_at else { return answer.await.ok() };
        let at = UnixTime::from_secs(at).clock();
        tracing::info!("the configuration is accepted, and in force with the next interval, at {at}");
        self.reloads.note(accepted);
        (self.reloading.note)(Step::Ended);
        if let Some(request) = request.take() {
            let _ = request.send(Arc::new(accepted.clone()));
        }
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.ok(),
                later = inbox.meanwhile() => {
                    (self.reloading.note)(Step::Begun);
                    match later {
                        Meanwhile::Asked(later) => {
                            let problem = format!("the reload before this one is in force at {at}; ask again then");
                            let _ = later.send(Arc::new(self.refuse(None, vec![problem])));
                        }
                        Meanwhile::Signalled => tracing::info!(
                            "the reload before this one is in force at {at}; the configuration is read again then"
                        ),
                    }
                    (self.reloading.note)(Step::Ended);
                }
            }
        }
    }

    fn refuse(&self, file: Option<String>, problems: Vec<String>) -> Report {
        let report = Report {
            result: Outcome::Refused,
            in_force_at: None,
            file,
            loaded_at: self.reloads.status().loaded_at,
            changes: Vec::new(),
            needs_restart: Vec::new(),
            waiting_for: Vec::new(),
            problems,
            warnings: Vec::new(),
        };
        self.log_outcome(&report);
        report
    }

    /// Notes and logs what became of a reload.
    fn log_outcome(&self, report: &Report) {
        self.reloads.note(report);
        if report.result == Outcome::Refused {
            for problem in &report.problems {
                tracing::error!("the reload is refused, and nothing has changed: {problem}");
            }
            self.journal.add_reload(unix_time(), Severity::Error, "a reload was refused", &report.problems.join("\n"));
            return;
        }
        for warning in &report.warnings {
            tracing::warn!("{warning}");
        }
        for one in &report.needs_restart {
            tracing::warn!(in_force = %one.was, "{} = {} needs a restart; the rest is in force", one.path, one.is);
        }
        let paths: Vec<String> = report.changes.iter().map(named).collect();
        let what = if paths.is_empty() { "nothing has changed".to_string() } else { paths.join(", ") };
        tracing::info!(changes = paths.len(), "reloaded: {what}");
        let severity = if report.needs_restart.is_empty() { Severity::Info } else { Severity::Warning };
        self.journal.add_reload(unix_time(), severity, "the configuration was reloaded", &what);
    }

    /// Opens all that the next configuration takes.
    fn prepare(&self, next: &Config, origins: &Origins) -> Result<Prepared, StartError> {
        let was = &self.config;
        // What may fail, before what would have to be taken back.
        let (bound, listening) = self.bind(next)?;
        let sinks = self.open_sinks(next)?;
        let (relaying, threads, relays_anew) = self.relays(next)?;
        let cannot = |error| StartError(format!("cannot set up TLS of the page: {error}"));
        let has_other_files = next.http.tls.is_on() && next.http.tls != was.http.tls;
        let files = has_other_files.then(|| ServerTls::read(&next.http.tls).map_err(cannot)).transpose()?;
        let targets = self.notifying.targets(next);
        let targets_differ = targets != self.notifying.targets(was);
        let cannot = |error| StartError(format!("cannot send alerts: {error}"));
        let targets = targets_differ.then(|| self.notifying.notifiers.open(targets).map_err(cannot)).transpose()?;
        let relays_differ = relays_anew.is_some();
        let taps = Taps { relays: relaying.iter().map(|relay| relay.handle.clone()).collect(), ..self.taps.clone() };

        let mut change = Changeover {
            taps: relays_differ.then(|| taps.clone()),
            shards: self.shards(next),
            registry: closes_differently(was, next).then(|| assemble::registry_options(next, true)),
            prepended: (was.prefix != next.prefix).then(|| next.prefix.clone()),
            relays: relays_anew.map(|anew| (relaying.iter().map(|relay| relay.stats.clone()).collect(), anew)),
            grace: next.shutdown_grace,
            commit: Some(self.commit(next, origins, files)),
            ..Changeover::default()
        };
        change.listeners = self.start_listeners(bound, next, &taps)?;
        // The last: it takes what sinks have that leave.
        change.drivers = self.start_sinks(sinks)?;
        Ok(Prepared { change, listening, relaying, threads, targets })
    }

    /// For each listener the place of the one that it was, with other options if it has them, or a new one that is bound.
    fn bind(&self, next: &Config) -> Result<(Vec<Bound>, Vec<Listening>), StartError> {
        let mut left: VecDeque<(usize, &Listening)> = self.listening.iter().enumerate().collect();
        let (mut bound, mut listening) = (Vec::new(), Vec::new());
        for listen in &next.listen {
            let url = listen.url.to_string();
            let known = left.iter().position(|(_, known)| known.listen.url == listen.url);
            let known = known.and_then(|at| left.remove(at));
            let tls = match known {
                Some((_, known)) if known.listen.tls == listen.tls => known.tls.clone(),
                _ => super::server::tls(&url, &listen.tls, &self.supervisor)?,
            };
            let options = ListenerOptions { tls: tls.clone(), ..assemble::listener(next, listen) };
            match known {
                Some((place, known)) => {
                    let is_same = known.listen == *listen && reads_alike(&self.config, next);
                    bound.push(Bound::Kept(place, (!is_same).then(|| Box::new(options))));
                }
                None => {
                    let socket = net::bind(options).map_err(|error| match self.in_the_way(&listen.url) {
                        Some(own) if error.kind() == io::ErrorKind::AddrInUse => {
                            StartError(format!("cannot listen on {url}: {own}"))
                        }
                        _ => cannot_listen(&url, &error),
                    })?;
                    let url = listen.url.clone().at(socket.address()).to_string();
                    bound.push(Bound::New(url, Box::new(socket)));
                }
            }
            listening.push(Listening { listen: listen.clone(), tls });
        }
        Ok((bound, listening))
    }

    /// What of this daemon listens where a URL wants to, and what to do.
    fn in_the_way(&self, url: &ListenUrl) -> Option<String> {
        let known = self.listening.iter().map(|known| &known.listen.url).find(|known| known.collides_with(url));
        let port = || match url {
            ListenUrl::Tcp(address) => self.ports.in_the_way(*address),
            ListenUrl::Udp(_) | ListenUrl::Unix(_) | ListenUrl::Unixgram(_) | ListenUrl::Fd(_) => None,
        };
        known.map(until_reloaded).or_else(|| port().map(|own| own.to_string()))
    }

    /// Starts the workers of new listeners, which read nothing yet. `None` if all listeners are as they were.
    fn start_listeners(
        &self,
        bound: Vec<Bound>,
        next: &Config,
        taps: &Taps,
    ) -> Result<Option<Vec<NextListener>>, StartError> {
        let is_same = |(n, one): (usize, &Bound)| matches!(one, Bound::Kept(place, None) if *place == n);
        if bound.len() == self.listening.len() && bound.iter().enumerate().all(is_same) {
            return Ok(None);
        }
        let watches = assemble::watches(next);
        let options = assemble::shard_options(next, &self.quota, self.seed);
        let shard = || Shard::new(options.clone()).watching(&watches);
        let start = |one| match one {
            Bound::Kept(place, options) => Ok(NextListener::Kept(place, options)),
            Bound::New(url, socket) => {
                let held = socket.start_held(&url, shard, taps, &self.supervisor);
                let held =
                    held.map_err(|error| StartError(format!("cannot start receive workers for {url}: {error}")))?;
                Ok(NextListener::New(NewListener::new(held)))
            }
        };
        bound.into_iter().map(start).collect::<Result<_, _>>().map(Some)
    }

    /// Starts new relays. What comes last are the names of those, `None` if the relays are as they were.
    #[expect(clippy::type_complexity, reason = "what is there, what ends with it, and what is new")]
    fn relays(&self, next: &Config) -> Result<(Vec<Relaying>, Vec<JoinHandle<()>>, Option<Vec<String>>), StartError> {
        let (mut all, mut threads, mut anew) = (Vec::new(), Vec::new(), Vec::new());
        for spec in &next.relays {
            if let Some(Relaying { spec, handle, stats }) = self.relaying.iter().find(|known| known.spec == *spec) {
                all.push(Relaying { spec: spec.clone(), handle: handle.clone(), stats: stats.clone() });
                continue;
            }
            let (handle, stats, thread) = relay::start(spec.clone(), &self.memory, &self.supervisor)
                .map_err(|error| StartError(format!("cannot start the relay {}: {error}", spec.name)))?;
            anew.push(spec.name.clone());
            threads.push(thread);
            all.push(Relaying { spec: spec.clone(), handle, stats });
        }
        let is_same = self.config.relays == next.relays;
        Ok((all, threads, (!is_same).then_some(anew)))
    }

    fn shards(&self, next: &Config) -> NextShards {
        let was = &self.config;
        let reads_heartbeats_alike = assemble::heartbeats(was) == assemble::heartbeats(next);
        if was.rules != next.rules || !reads_heartbeats_alike || assemble::watches(was) != assemble::watches(next) {
            let options = assemble::shard_options(next, &self.quota, self.seed);
            return NextShards::Renewed(Box::new(options), assemble::watches(next));
        }
        let (timers, times) = (assemble::timer_policy(next), assemble::time_window(next));
        if timers == assemble::timer_policy(was) && times == assemble::time_window(was) {
            NextShards::Same
        } else {
            NextShards::Policies(timers, times)
        }
    }

    /// What changes at the same moment, outside of the flusher.
    fn commit(&self, next: &Config, origins: &Origins, files: Option<OtherFiles>) -> Box<dyn FnOnce() + Send> {
        let (apply, quota, memory) = (Arc::clone(&self.reloading.apply), self.quota.clone(), self.memory.clone());
        let (shown, grace) = (Arc::clone(&self.shown), Arc::clone(&self.grace));
        let page = self.page.as_ref().map(|page| {
            let now = page.live.now();
            let was = super::server::access_options(&self.config, page.port);
            let options = super::server::access_options(next, page.port);
            // Wrong tokens that were shown are forgotten with the token alone.
            let access = match options == was {
                true => Arc::clone(&now.access),
                false => Arc::new(Access::new(options, Arc::clone(&page.counters))),
            };
            let state = AppState {
                access,
                past: assemble::archive(next).map(crate::http::Past::new),
                explainer: assemble::explainer(next, origins),
                config: Arc::new(config::effective(next, origins)),
                ..AppState::clone(&now)
            };
            let (heartbeats, times) = (assemble::heartbeats(next), assemble::time_window(next));
            (page.live.clone(), state, heartbeats, times)
        });
        let tls = self.page.as_ref().and_then(|page| page.tls.clone()).zip(files);
        let (flat, config) = (config::flat(next), next.clone());
        Box::new(move || {
            quota.set_max(config.max_series);
            memory.set_max(assemble::memory(&config).max().unwrap_or(u64::MAX));
            *shown.lock().unwrap_or_else(PoisonError::into_inner) = flat;
            *grace.lock().unwrap_or_else(PoisonError::into_inner) = config.shutdown_grace;
            if let Some((live, state, heartbeats, times)) = page {
                state.tail.read_as(heartbeats, times);
                state.about.max_series.store(config.max_series as u64, Ordering::Relaxed);
                live.replace(state);
            }
            if let Some((tls, files)) = tls {
                tls.replace(files);
            }
            apply(&config);
        })
    }
}

/// A listener of the next configuration.
enum Bound {
    /// The one at this place, with these options if they are others.
    Kept(usize, Option<Box<ListenerOptions>>),
    /// A new one, with its URL.
    New(String, Box<BoundListener>),
}

/// A change in the log: its path, and of a table as a whole how that is called.
fn named(Change { path, was, is }: &Change) -> String {
    match (path.ends_with(']'), is.is_null()) {
        (false, _) => path.clone(),
        (true, false) => format!("{path} {is}"),
        (true, true) => format!("{path} {was} is gone"),
    }
}

/// Whether all listeners read lines alike, whatever each says of itself.
fn reads_alike(was: &Config, next: &Config) -> bool {
    was.max_tags == next.max_tags && assemble::asks_for_senders(was) == assemble::asks_for_senders(next)
}

/// Whether intervals are closed in another way.
fn closes_differently(was: &Config, next: &Config) -> bool {
    was.percentiles != next.percentiles
        || was.exact_samples != next.exact_samples
        || was.digits != next.digits
        || was.gauge_ttl != next.gauge_ttl
        || was.series_ttl != next.series_ttl
        || was.idle != next.idle
        || was.prefix != next.prefix
        || was.tags != next.tags
        || was.self_metrics != next.self_metrics
        || was.rules != next.rules
        || was.etsy != next.etsy
}

/// The task that reloads. It ends when this is dropped, and before the daemon stops.
#[derive(Debug)]
pub(super) struct ReloadTask(tokio::task::JoinHandle<()>);

impl ReloadTask {
    /// Nothing is reloaded any more.
    pub(super) async fn stop(mut self) {
        self.0.abort();
        // What it opens may hang.
        let _ = timeout(ENDING, &mut self.0).await;
    }
}

impl Drop for ReloadTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
