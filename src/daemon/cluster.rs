//! The place of the daemon in a cluster: the bus, and the threads of the edge and of the owner.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use compact_str::CompactString;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::assemble;
use crate::cluster::{IntervalContent, NodeName, NodeOptions, SessionId};
use crate::cluster_bus::{Bus, BusError, Responder};
use crate::cluster_driver::{EdgeDriver, EdgeDriverOptions, EdgeState, OwnerDriver, OwnerDriverOptions, StatusBoard};
use crate::config::{self, Config};
use crate::flush::{ClusterLinks, ClusterProblems};
use crate::presence_driver::{self, AskNode, ClusterLink, PresenceHandle, Seen};
use crate::supervise::{Part, Readiness, Role, Supervisor};
use crate::sys::unix_time;

use super::StartError;
use super::thread::join_by;

/// Intervals of this node that wait for the edge, and intervals of the cluster that wait for the flusher.
const QUEUE: usize = 8;

/// How often the streams are looked for, until they are as they should be, and after that: servers that keep one in memory lose
/// it when all of them are started again.
const PREPARE_EVERY: Duration = Duration::from_millis(250);
const PREPARE_AGAIN: Duration = Duration::from_secs(15);

/// How often it is looked whether an edge is ready.
const READY_POLL: Duration = Duration::from_millis(5);

/// How long a thread may take to save its state and end.
const ENDING: Duration = Duration::from_millis(300);

/// A thread and how it is told to stop.
#[derive(Debug)]
struct Running {
    deadline: watch::Sender<Option<Instant>>,
    thread: JoinHandle<()>,
}

impl Running {
    async fn stop(self, deadline: Instant, what: &'static str) {
        // It has to end by the deadline, not to begin with that.
        let until = deadline.checked_sub(ENDING).unwrap_or(deadline);
        self.deadline.send_replace(Some(until));
        join_by(deadline, what, move || self.thread.join()).await;
    }
}

/// The task that answers other nodes; it ends when this is dropped.
#[derive(Debug)]
struct Answering(tokio::task::JoinHandle<()>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The part of the daemon that is in a cluster; without one there is none of it.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    owner: Option<Running>,
    edge: Option<Running>,
    /// Whether owners wait for what this edge hears.
    edge_ready: Option<watch::Receiver<bool>>,
    status: Option<StatusBoard>,
    /// Answers what other nodes ask.
    answering: Option<Answering>,
    /// How others are asked, if this node judges.
    link: Option<ClusterLink>,
    /// The connection, if it is ours to close.
    bus: Option<Arc<dyn Bus>>,
}

impl Cluster {
    /// Connects with the bus in the background and starts the threads. An edge is waited for.
    pub(super) fn start(
        config: &Config,
        bus: Option<Arc<dyn Bus>>,
        seed: u64,
        presence: Option<PresenceHandle>,
        supervisor: &Supervisor,
    ) -> Result<(Cluster, ClusterLinks), StartError> {
        let role = config.cluster.role;
        if role == config::Role::Standalone {
            return Ok(Default::default());
        }
        let cannot = |problem: String| StartError(format!("cluster: {problem}"));
        let node = assemble::cluster_node(config).map_err(cannot)?;
        let is_own = bus.is_none();
        let bus = bus.map_or_else(|| connect(config), Ok).map_err(cannot)?;
        let (prepared, is_prepared) = watch::channel(false);
        let status = StatusBoard::new(assemble::board_options(config, &node), Arc::clone(&bus));
        let part = supervisor.part("cluster:streams", Role::Ordinary);
        tokio::spawn(prepare(Arc::clone(&bus), prepared, status.clone(), part));
        let part = supervisor.part("cluster:answers", Role::Ordinary);
        let mut cluster = Cluster {
            status: Some(status.clone()),
            answering: Some(Answering(part.task(serve(Arc::clone(&bus), node.clone(), presence, part.clone())))),
            link: role.is_global().then(|| link(&bus, &status)),
            bus: is_own.then(|| Arc::clone(&bus)),
            ..Cluster::default()
        };
        let board = status.clone();
        let problems = Some(ClusterProblems::new(move || {
            let status = board.read();
            (status.problems, status.errors)
        }));
        let mut links = ClusterLinks { problems, ..ClusterLinks::default() };
        let now = (unix_time() * 1e3) as u64;
        let path = assemble::cluster_state_file(config, |name| std::env::var(name).ok());
        let shown = path.as_ref().map_or_else(String::new, |path| path.display().to_string());
        let (state, saved) = EdgeState::open(path, now).map_err(|error| {
            cannot(format!("cannot read `cluster.state_file` {shown}: {error}; move it away to begin anew"))
        })?;
        let id = SessionId { node: node.clone(), start: state.boot() };
        let (queue, merged) = mpsc::channel(QUEUE);
        links.merged = role.is_global().then_some(merged);
        let content = Arc::new(IntervalContent::new(assemble::cluster_content(config)));
        let owner = OwnerDriverOptions {
            node: NodeOptions { id, terms: assemble::cluster_terms(config), seed },
            content,
            only_watches: !role.is_global(),
        };
        let driver = OwnerDriver::new(owner, Arc::clone(&bus), is_prepared.clone(), queue, status.clone());
        let (name, weight) = match role.is_global() {
            true => ("cluster:owner", Role::Essential),
            false => ("cluster:watch", Role::Ordinary),
        };
        let part = supervisor.part(name, weight);
        let run = |deadline, part: &Part, on: &Runtime| on.block_on(driver.run(deadline, part));
        cluster.owner = Some(thread(&part, "cluster-owner", run)?);
        if role.is_edge() {
            let (queue, intervals) = mpsc::channel(QUEUE);
            links.edge = Some(queue);
            let options = EdgeDriverOptions {
                edge: assemble::edge_options(config, node, seed),
                interval_secs: config.interval.as_secs_f64(),
            };
            let driver = EdgeDriver::new(options, (state, saved), bus, is_prepared, status);
            cluster.edge_ready = Some(driver.ready());
            let part = supervisor.part("cluster:edge", Role::Essential);
            let run = |deadline, part: &Part, on: &Runtime| on.block_on(driver.run(intervals, deadline, part));
            cluster.edge = Some(thread(&part, "cluster-edge", run)?);
        }
        cluster.wait_for_edge();
        Ok((cluster, links))
    }

    /// What is known of the cluster; `None` if this node is in none.
    pub(super) fn status(&self) -> Option<StatusBoard> {
        self.status.clone()
    }

    /// Is not ready while the cluster has no use for this node.
    pub(super) fn readiness(&self, readiness: Readiness) -> Readiness {
        match self.status.clone() {
            Some(board) => readiness.if_not(move || board.obstacle()),
            None => readiness,
        }
    }

    /// Waits until owners know that they are to wait for what this node hears: else an interval may be sealed without its end
    /// of it. That takes a moment, or two seconds where nobody answers.
    fn wait_for_edge(&self) {
        let Some(ready) = &self.edge_ready else { return };
        // The thread may have failed.
        while !*ready.borrow() && ready.has_changed().is_ok() {
            std::thread::sleep(READY_POLL);
        }
    }

    /// How the other nodes are asked what they have heard, if this node judges.
    pub(super) fn link(&self) -> Option<ClusterLink> {
        self.link.clone()
    }

    /// Gives up all partitions, in a third of the time that is left.
    pub(super) fn stop_owner(&mut self, deadline: Instant) -> impl Future<Output = ()> + Send + use<> {
        let owner = self.owner.take();
        let now = Instant::now();
        let until = now + deadline.saturating_duration_since(now) / 3;
        async move {
            if let Some(owner) = owner {
                owner.stop(until, "the owner of partitions").await;
            }
        }
    }

    /// Sends the last interval.
    pub(super) async fn stop(self, deadline: Instant) {
        if let Some(edge) = self.edge {
            edge.stop(deadline, "the edge of the cluster").await;
        }
        drop(self.answering);
        if let Some(bus) = self.bus {
            // What is not sent is saved.
            let _ = bus.close().await;
        }
    }
}

/// Starts a thread with a runtime of its own, so that it can end after that of the daemon.
fn thread(
    part: &Part,
    name: &str,
    work: impl FnOnce(watch::Receiver<Option<Instant>>, &Part, &Runtime) + Send + 'static,
) -> Result<Running, StartError> {
    let (deadline, stopped) = watch::channel(None);
    let cannot = |error: io::Error| StartError(format!("cannot start the thread {name}: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let thread = part.thread(name, move |part| work(stopped, part, &runtime)).map_err(cannot)?;
    Ok(Running { deadline, thread })
}

/// Answers what other nodes ask, again and again.
async fn serve(bus: Arc<dyn Bus>, node: NodeName, presence: Option<PresenceHandle>, part: Part) {
    let name = CompactString::from(node.as_str());
    let responder: Responder =
        Arc::new(move |question| Box::pin(presence_driver::respond(presence.clone(), name.clone(), question)));
    loop {
        part.alive();
        // The nodes that ask say why they have no answer.
        let _ = bus.serve(&node, Arc::clone(&responder)).await;
        tokio::time::sleep(PREPARE_EVERY).await;
    }
}

/// How other nodes are asked what they have heard.
fn link(bus: &Arc<dyn Bus>, status: &StatusBoard) -> ClusterLink {
    let (asked, seen, status) = (Arc::clone(bus), Arc::clone(bus), status.clone());
    let ask: AskNode = Arc::new(move |node, question| {
        let (bus, node) = (Arc::clone(&asked), node.parse::<NodeName>());
        Box::pin(async move {
            let node = node.map_err(|error| error.to_string())?;
            bus.ask(&node, question).await.map_err(|error| error.to_string())
        })
    });
    let see = move || {
        let bus = seen.status();
        let no_bus = (!bus.connected).then(|| bus.to_string());
        let status = status.read();
        let live = status.nodes.into_iter().filter(|node| node.is_live && !node.has_left);
        Seen { bus_answers: status.answers, nodes: live.map(|node| node.id.node.as_str().into()).collect(), no_bus }
    };
    ClusterLink { ask, see: Arc::new(see) }
}

/// Creates the streams, or compares them with what they should be, again and again. With others nothing can work, and this node is
/// not ready while they are so; other bounds are a warning.
async fn prepare(bus: Arc<dyn Bus>, prepared: watch::Sender<bool>, status: StatusBoard, part: Part) {
    // Once nobody waits for it any more the node has stopped.
    while !prepared.is_closed() {
        part.alive();
        match bus.prepare().await {
            Ok(()) => {
                status.differs(None);
                if !prepared.send_replace(true) {
                    tracing::info!(bus = %bus.status(), "the streams of the cluster are there");
                }
                tokio::time::sleep(PREPARE_AGAIN).await;
            }
            Err(error @ BusError::Different { .. }) => {
                if error.is_of_bounds() {
                    prepared.send_replace(true);
                }
                status.differs(Some(error));
                tokio::time::sleep(PREPARE_AGAIN).await;
            }
            Err(error) => {
                status.fails(&error.to_string());
                tokio::time::sleep(PREPARE_EVERY).await;
            }
        }
    }
}

/// Connects in the background.
///
/// # Errors
/// If credentials cannot be read, and the like; a server that is not there is none.
#[cfg(feature = "nats")]
pub(crate) fn connect(config: &Config) -> Result<Arc<dyn Bus>, String> {
    let options = assemble::bus_options(config, super::random_seed())?;
    let bus = crate::cluster_bus::JetStreamBus::connect(options).map_err(|error| error.to_string())?;
    Ok(bus)
}

/// Connects in the background.
///
/// # Errors
/// That this build knows no bus.
#[cfg(not(feature = "nats"))]
pub(crate) fn connect(_: &Config) -> Result<Arc<dyn Bus>, String> {
    Err("this build knows no bus; build it with `--features nats`".into())
}
