//! What a node knows of its cluster, for the API, the page, the command line and the log.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use crate::cluster::{LastInterval, NodeRole, NodeView, PartitionView, SessionNote};
use crate::cluster_bus::{Bus, BusError};
use crate::telemetry::ClusterAccount;

use super::changes::ChangeLog;
use super::failures::Failures;
use super::problems::{BAD_CLOCK_SECS, is_other, off_by};
use super::watched::Watched;

/// The status of a node. Times are seconds.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ClusterStatus {
    /// Its name.
    pub node: String,
    /// What it does, as the configuration has it.
    pub role: NodeRole,
    /// Whether the bus is connected, and to which server.
    pub bus: String,
    /// Whether the bus is connected.
    pub connected: bool,
    /// Whether the bus has stored something of this node in the last 8 s. Connected and without an answer, most of its servers are away.
    pub answers: bool,
    /// Why the bus has refused something last, if nothing went well since.
    pub error: Option<String>,
    /// Whether another node has its name.
    pub has_twin: bool,
    /// By how much its wall clock is ahead of that of the bus; absent until it is known.
    pub clock_ahead_secs: Option<f64>,
    /// Another node runs under its name with a later start: what this one sends is ignored until that one is gone.
    pub is_superseded: bool,
    /// A stream is not as this node wants it.
    #[serde(skip)]
    pub(super) difference: Option<BusError>,
    /// Batches were ignored of late, for a later start of their edge's name was heard.
    #[serde(skip)]
    pub(super) ignores: bool,
    /// What is wrong, in sentences, the worst first.
    pub problems: Vec<String>,
    /// How many of them need somebody now; these are the first.
    pub errors: usize,
    /// Whether it gives its partitions up, and takes none.
    pub is_draining: bool,
    /// The edge, if it is one.
    pub edge: Option<EdgeStatus>,
    /// Edges and nodes whose settings differ from those of this node.
    pub other_settings: BTreeSet<String>,
    /// The last interval that was merged with the accounts of the edges, here or elsewhere.
    pub last: Option<LastInterval>,
    /// The last 60 of them, oldest first.
    pub intervals: Vec<LastInterval>,
    /// The length of an interval by the records, and by this node, in seconds, if they differ.
    #[serde(skip)]
    pub other_interval: Option<(f64, f64)>,
    /// All nodes that were seen and are not forgotten.
    pub nodes: Vec<NodeView>,
    /// All partitions. Of those of others a node that does not merge knows what was so some seconds ago.
    pub partitions: Vec<PartitionView>,
    /// Whether the bus answers for long enough for others to be seen.
    #[serde(skip)]
    pub(super) is_settled: bool,
    /// Partitions that had no live owner for longer than others need to take them.
    pub ownerless: Vec<u16>,
    /// Partitions that have closed no interval for long.
    pub stuck: Vec<u16>,
    /// What the intervals lack that this node has merged since its start.
    #[serde(skip)]
    pub account: ClusterAccount,
}

/// What waits at an edge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct EdgeStatus {
    /// The number of its start.
    pub boot: u64,
    /// The last interval that was sealed.
    pub sealed: u64,
    /// Batches that wait for the bus.
    pub spooled_batches: u64,
    /// Their bytes.
    pub spooled_bytes: u64,
    /// Most bytes that may wait.
    pub spool_bytes: u64,
    /// Batches that were dropped because too much waited.
    pub dropped_batches: u64,
    /// Series that are left out because they are too large for a message.
    pub left_out: u64,
    /// The bus has refused batches, and not all were sent since.
    #[serde(skip)]
    pub holds_back: bool,
}

/// What a board is told of its node.
#[derive(Clone, Debug, Default)]
pub struct BoardOptions {
    /// Its name.
    pub node: String,
    /// What it does.
    pub role: NodeRole,
    /// Its interval, in seconds.
    pub interval_secs: f64,
    /// How long an interval waits for an edge, in seconds.
    pub lateness_secs: f64,
    /// A node that is dead for longer is forgotten, in seconds.
    pub forget_secs: f64,
    /// The hash of its settings that shape records.
    pub config: u64,
}

/// How often the threads put there what they know, in seconds.
pub(super) const STATUS_SECS: f64 = 0.5;

/// A bus that has stored nothing of us for so long does not work: a session is sent every 2 s.
const ANSWER: Duration = Duration::from_secs(8);

/// Nobody is called dead when the bus was silent for so long: others are then not seen, whether they live or not.
const FRESH: Duration = Duration::from_secs(3);

/// Another node of our name is told for so long after it was seen.
const TWIN_STAYS: Duration = Duration::from_secs(60);

/// Intervals that are kept.
const INTERVALS: usize = 60;

/// Share of the room for what waits from which on an edge is not ready.
const FULL: f64 = 0.95;

/// Where both threads of a node put what they know. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StatusBoard {
    bus: Arc<dyn Bus>,
    options: Arc<BoardOptions>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    status: ClusterStatus,
    started: Instant,
    /// When the bus has stored something of ours last.
    stored: Option<Instant>,
    twin_seen: Option<Instant>,
    /// The start that it goes on with.
    start: Option<u64>,
    /// When batches were ignored last.
    ignored: Option<Instant>,
    failures: Failures,
    watched: Watched,
    changes: ChangeLog,
}

impl StatusBoard {
    /// A board of a node on this bus, of which nothing is known yet.
    pub fn new(options: BoardOptions, bus: Arc<dyn Bus>) -> StatusBoard {
        let status = ClusterStatus { node: options.node.clone(), role: options.role, ..ClusterStatus::default() };
        let inner = Inner {
            status,
            started: Instant::now(),
            stored: None,
            twin_seen: None,
            start: None,
            ignored: None,
            failures: Failures::default(),
            watched: Watched::default(),
            changes: ChangeLog::default(),
        };
        StatusBoard { bus, options: Arc::new(options), inner: Arc::new(Mutex::new(inner)) }
    }

    /// What is known.
    pub fn read(&self) -> ClusterStatus {
        self.look(&self.lock())
    }

    fn look(&self, inner: &Inner) -> ClusterStatus {
        let bus = self.bus.status();
        let is_recent = |at: Option<Instant>, within| at.is_some_and(|at| at.elapsed() < within);
        let mut status = ClusterStatus {
            connected: bus.connected,
            bus: bus.to_string(),
            answers: bus.connected && is_recent(inner.stored, ANSWER),
            has_twin: is_recent(inner.twin_seen, TWIN_STAYS),
            ignores: is_recent(inner.ignored, TWIN_STAYS),
            ..inner.status.clone()
        };
        let is_starting = inner.stored.is_none() && inner.started.elapsed() < ANSWER;
        (status.problems, status.errors) = status.find_problems(&self.options, is_starting);
        status
    }

    /// Why this node should get no traffic; `None` if it should. An edge that can keep what it hears is ready though the bus is away.
    pub fn obstacle(&self) -> Option<String> {
        self.read().obstacle()
    }

    /// What is said to who asks whether it is ready, beside that it is.
    pub fn caveat(&self) -> Option<String> {
        let status = self.read();
        let edge = status.edge.as_ref().filter(|_| !status.answers)?;
        let (batches, most) = (edge.spooled_batches, edge.spool_bytes >> 20);
        Some(format!(
            "the bus of the cluster is away; {batches} batches wait, {} of {most} MiB",
            edge.spooled_bytes >> 20
        ))
    }

    /// Lets the node give its partitions up, and take none until its next start.
    pub fn drain(&self) {
        self.change(|status| status.is_draining = true);
    }

    /// The bus refuses something, and says why.
    pub fn fails(&self, error: &str) {
        let mut inner = self.lock();
        // That there is no connection is said once for all.
        if self.bus.status().connected {
            inner.failures.fails(error, Instant::now());
        }
        inner.status.error = Some(error.to_string());
    }

    /// A stream is not as this node wants it, or all are.
    pub fn differs(&self, difference: Option<BusError>) {
        self.change(|status| {
            if let Some(error) = difference.as_ref().filter(|_| status.difference != difference) {
                tracing::error!(%error, "a stream of the cluster is not as this node wants it");
            }
            status.difference = difference;
        });
    }

    /// The bus has stored something of ours.
    pub(super) fn works(&self) {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.status.error = None;
        inner.failures.works(now);
        inner.stored = Some(now);
    }

    /// Another node has our name, and started later, or has not.
    pub(super) fn superseded(&self, is_superseded: bool) {
        self.lock().status.is_superseded = is_superseded;
    }

    /// Whether another node has our name, and started later.
    pub(super) fn is_superseded(&self) -> bool {
        self.lock().status.is_superseded
    }

    /// The node that had our name is gone: this one goes on as another start.
    pub(super) fn start_again(&self, start: u64) {
        // An edge says what it has lost.
        if !self.options.role.is_edge() {
            tracing::warn!(start, "the other node of the name of this one is gone: this one goes on, as a new start");
        }
        let mut inner = self.lock();
        (inner.start, inner.twin_seen, inner.status.is_superseded) = (Some(start), None, false);
    }

    /// The start that it goes on with, if that is not its first one.
    pub(super) fn start(&self) -> Option<u64> {
        self.lock().start
    }

    /// Another node has our name.
    pub(super) fn has_twin(&self) {
        let mut inner = self.lock();
        let now = Instant::now();
        if inner.twin_seen.replace(now).is_none_or(|seen| now - seen >= TWIN_STAYS) {
            tracing::error!(
                node = inner.status.node,
                "another node of the cluster runs under this name: what one of them sends is taken for old; set `cluster.node`"
            );
        }
    }

    /// What the node says of itself to the others.
    pub(super) fn note(&self) -> SessionNote {
        let inner = self.lock();
        let status = &inner.status;
        SessionNote {
            role: self.options.role,
            is_draining: status.is_draining,
            has_left: false,
            clock_ahead_secs: status.clock_ahead_secs,
            interval_secs: self.options.interval_secs,
            config: self.options.config,
            // What others have told is theirs to tell.
            last: inner.watched.own_last.clone(),
        }
    }

    /// An interval was merged here.
    pub(super) fn merged(&self, account: Option<&ClusterAccount>, last: Option<LastInterval>) {
        let mut inner = self.lock();
        if let Some(account) = account {
            inner.status.account.add_later(account);
            if account.batches_ignored > 0 {
                inner.ignored = Some(Instant::now());
            }
        }
        if let Some(last) = last {
            inner.watched.own_last = Some(last.clone());
            inner.status.heard_of(last);
        }
    }

    /// These edges of the last interval have other settings.
    pub(super) fn edges_differ(&self, edges: BTreeSet<String>) {
        self.lock().watched.edges_differ = edges;
    }

    /// What the node sees now.
    pub(super) fn sees(&self, nodes: Vec<NodeView>, partitions: Vec<PartitionView>, clock_ahead: Option<f64>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let status = &mut inner.status;
        let is_forgotten = |node: &NodeView| !node.is_live && node.age > self.options.forget_secs;
        status.nodes = nodes.into_iter().filter(|node| !is_forgotten(node)).collect();
        status.partitions = partitions;
        status.clock_ahead_secs = clock_ahead.or(status.clock_ahead_secs);
        let told: Vec<LastInterval> = status.nodes.iter().filter_map(|node| node.last.clone()).collect();
        told.into_iter().for_each(|last| status.heard_of(last));
        let other = |node: &&NodeView| {
            let is_other_only_so = !is_other(node.interval_secs, self.options.interval_secs);
            node.is_live && node.config != 0 && node.config != self.options.config && is_other_only_so
        };
        let others = status.nodes.iter().filter(other).map(|node| node.id.node.to_string());
        status.other_settings = others.chain(inner.watched.edges_differ.iter().cloned()).collect();
        let now = inner.started.elapsed().as_secs_f64();
        let bus = self.bus.status();
        let within = |limit| bus.connected && inner.stored.is_some_and(|at| at.elapsed() < limit);
        inner.watched.look(status, &self.options, (within(ANSWER), within(FRESH)), now);
        inner.changes.log_all(status, &bus, now);
    }

    /// Whether it was asked to.
    pub(super) fn is_draining(&self) -> bool {
        self.lock().status.is_draining
    }

    /// Batches that wait at its edge, and whether it holds them back.
    pub(super) fn spooled(&self) -> (u64, bool) {
        self.lock().status.edge.as_ref().map_or((0, false), |edge| (edge.spooled_batches, edge.holds_back))
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut ClusterStatus)) {
        change(&mut self.lock().status);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change leaves it whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClusterStatus {
    /// Keeps how complete an interval was, if it is a later one.
    fn heard_of(&mut self, last: LastInterval) {
        if self.last.as_ref().is_some_and(|known| known.end >= last.end) {
            return;
        }
        if self.intervals.len() == INTERVALS {
            self.intervals.remove(0);
        }
        self.intervals.push(last.clone());
        self.last = Some(last);
    }

    /// Why it should get no traffic.
    pub(super) fn obstacle(&self) -> Option<String> {
        if self.is_superseded {
            return Some(format!("another node runs under the name {}: what this one sends is ignored", self.node));
        }
        if let Some(error) = self.difference.as_ref().filter(|error| !error.is_of_bounds()) {
            return Some(error.to_string());
        }
        if let Some(ahead) = self.clock_ahead_secs.filter(|ahead| ahead.abs() > BAD_CLOCK_SECS) {
            return Some(format!("the clock of this node is {} that of the bus", off_by(ahead)));
        }
        match &self.edge {
            _ if self.answers => None,
            Some(edge) => {
                let is_full = edge.spooled_bytes as f64 >= FULL * edge.spool_bytes as f64 && edge.spool_bytes > 0;
                is_full.then(|| "the bus of the cluster is away, and no more can wait for it here".to_string())
            }
            None if self.role.is_edge() => None,
            None => Some(format!("nothing is merged here: the bus of the cluster is away ({})", self.bus)),
        }
    }
}
