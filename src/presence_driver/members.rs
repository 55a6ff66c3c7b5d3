//! Observers that are nodes of one cluster: watches which nodes are seen on the bus, and asks each of them over it.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use compact_str::CompactString;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::presence::observers::{Digest, Question};
use crate::supervise::{Part, Role, Supervisor};

use super::poller::{DEADLINE, Poller, Pollers, Way};
use super::{PresenceHandle, PresenceState};

/// What a node of a cluster answers, or why it does not.
type Asked = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// Asks a node of the cluster, by its name.
pub type AskNode = Arc<dyn Fn(&str, Bytes) -> Asked + Send + Sync>;

/// What is seen of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Nodes that live.
    pub nodes: Vec<CompactString>,
    /// Why the bus cannot be reached.
    pub no_bus: Option<String>,
    /// Whether it stores what this node sends: then it is not the bus if no other node answers.
    pub bus_answers: bool,
}

/// The cluster, as presence needs it.
#[derive(Clone)]
pub struct ClusterLink {
    /// Asks a node.
    pub ask: AskNode,
    /// What is seen now.
    pub see: Arc<dyn Fn() -> Seen + Send + Sync>,
}

impl fmt::Debug for ClusterLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterLink").finish_non_exhaustive()
    }
}

/// Answers a question of another node; `None` if it is none, or presence has no time. A node where presence is off has heard
/// nobody.
pub async fn respond(presence: Option<PresenceHandle>, node: CompactString, question: Bytes) -> Option<Bytes> {
    let (asker, since) = Question::read(&question)?;
    let digest = match presence {
        Some(presence) => presence.ask(move |state| state.digest(since, &asker)).await.ok()??,
        None => Digest::of_nobody(node),
    };
    let written = tokio::task::spawn_blocking(move || serde_json::to_vec(&digest)).await;
    written.ok()?.ok().map(Bytes::from)
}

/// Starts a task on the current runtime that asks all nodes of the cluster, whoever they are.
pub fn start(presence: &PresenceHandle, link: ClusterLink, supervisor: &Supervisor) -> Pollers {
    let (stop, stopped) = watch::channel(false);
    let part = supervisor.part("presence:members", Role::Ordinary);
    let members =
        Members { presence: presence.clone(), link, asked: BTreeMap::new(), part: part.clone(), stop: stopped };
    Pollers { tasks: vec![part.task(members.run())], stop }
}

/// The task that asks one node, and how it is told to stop.
type Asking = (watch::Sender<bool>, JoinHandle<()>);

/// Who is asked.
struct Members {
    presence: PresenceHandle,
    link: ClusterLink,
    /// By place and name.
    asked: BTreeMap<(usize, CompactString), Asking>,
    part: Part,
    stop: watch::Receiver<bool>,
}

impl Members {
    async fn run(mut self) {
        let mut ticks = interval(DEADLINE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            self.part.alive();
            let Seen { nodes, no_bus, bus_answers } = (self.link.see)();
            let set = move |state: &mut PresenceState| state.set_members(&nodes, (no_bus.as_deref(), bus_answers));
            tokio::select! {
                // If presence is busy it is told the next time.
                members = self.presence.ask(set) => self.ask_all(members.unwrap_or_default()),
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        for (stop, task) in self.asked.into_values() {
            let _ = stop.send(true);
            // It ends at once, whatever it waits for.
            let _ = task.await;
        }
    }

    /// Asks these nodes and no others; if there is none, nothing is known of them.
    fn ask_all(&mut self, members: Vec<(usize, CompactString)>) {
        if members.is_empty() {
            return;
        }
        let gone: Vec<_> = self.asked.keys().filter(|asked| !members.contains(asked)).cloned().collect();
        for member in gone {
            if let Some((stop, _)) = self.asked.remove(&member) {
                let _ = stop.send(true);
            }
        }
        for (place, node) in members {
            if self.asked.contains_key(&(place, node.clone())) {
                continue;
            }
            let (stop, stopped) = watch::channel(false);
            let poller = Poller {
                presence: self.presence.clone(),
                way: Way::Bus { ask: Arc::clone(&self.link.ask), node: node.clone() },
                peer: place,
                shown: node.to_string(),
                stop: stopped,
                part: self.part.clone(),
                problem: None,
            };
            // It ends when its node is forgotten, which is no failure.
            self.asked.insert((place, node), (stop, tokio::spawn(poller.run())));
        }
    }
}
