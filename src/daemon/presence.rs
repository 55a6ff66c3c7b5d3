//! The presence thread.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::assemble;
use crate::config::{self, Config};
use crate::http_client::{HttpClient, Tls};
use crate::memory::Memory;
use crate::notify::Outbox;
use crate::presence::Identity;
use crate::presence_driver::{self, Pollers, PresenceHandle, PresenceOptions};
use crate::supervise::{Gate, Role, Supervisor};

use super::StartError;
use super::cluster::Cluster;
use super::thread::join_by;

/// Presence, where it is on.
#[derive(Debug)]
pub(super) struct Presence {
    handle: PresenceHandle,
    thread: JoinHandle<()>,
    /// What asks other observers.
    pollers: Option<Pollers>,
}

impl Presence {
    pub(super) fn start(
        config: &Config,
        memory: &Memory,
        (seed, identity): (u64, Identity),
        outboxes: Vec<Arc<Outbox>>,
        gate: &Gate,
        supervisor: &Supervisor,
    ) -> Result<Option<Presence>, StartError> {
        let env = |name: &str| std::env::var(name).ok();
        let Some(options) = assemble::presence(config, seed, identity, env) else { return Ok(None) };
        let options = PresenceOptions { memory: memory.clone(), gate: gate.clone(), ..options };
        let part = supervisor.part("presence", Role::Essential);
        let cannot = |error: io::Error| StartError(format!("cannot start the presence thread: {error}"));
        let (handle, thread) = presence_driver::start(options, outboxes, &part).map_err(cannot)?;
        let peers = &config.presence.peers;
        let client = || HttpClient::with(&Tls { ca: peers.ca.clone(), ..Tls::default() });
        let is_alone = config.cluster.role == config::Role::Standalone;
        let pollers = peers.token.as_deref().filter(|_| is_alone).map(|token| {
            let client = client().map_err(|error| StartError(format!("cannot ask other observers: {error}")))?;
            Ok(presence_driver::start_pollers(&handle, &client, &peers.urls, token, supervisor))
        });
        Ok(Some(Presence { handle, thread, pollers: pollers.transpose()? }))
    }

    /// Is asked by the nodes of the cluster from now on what it has heard, and asks them if it judges.
    pub(super) fn join(&mut self, cluster: &Cluster, supervisor: &Supervisor) {
        if cluster.status().is_none() {
            return;
        }
        let members = |link| presence_driver::start_members(&self.handle, link, supervisor);
        self.pollers = Some(cluster.link().map_or_else(Pollers::default, members));
    }

    pub(super) fn handle(&self) -> PresenceHandle {
        self.handle.clone()
    }

    /// Nothing is received any more: nobody is judged, and other observers are told that this node is leaving.
    pub(super) fn stop_judging(&mut self) -> impl Future<Output = ()> + Send + 'static {
        self.handle.stop_judging();
        let (pollers, handle) = (self.pollers.take(), self.handle.clone());
        async move {
            if let Some(pollers) = pollers {
                pollers.stop(&handle).await;
            }
        }
    }

    /// Takes in what is queued, puts the last notifications into the queues of the notifiers, and saves the state.
    pub(super) fn finish(&self, deadline: Instant) -> impl Future<Output = ()> + Send + 'static {
        let handle = self.handle.clone();
        async move {
            join_by(deadline, "presence", move || Ok(handle.finish().blocking_recv())).await;
        }
    }

    /// Saves what the notifiers have told since, and ends.
    pub(super) async fn stop(self, deadline: Instant) {
        let end = move || {
            self.handle.stop();
            self.thread.join()
        };
        join_by(deadline, "presence", end).await;
    }
}
