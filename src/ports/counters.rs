//! What ports have counted since the start. Everybody may read it at any time.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::net::TcpListener;

use crate::memory::Memory;
use crate::supervise::{Gate, Part, Role, Supervisor};
use crate::sys::may_collide;
use crate::telemetry::{Named, PortAccount, Refusal, Refused};
use crate::web::Bodies;

use super::listener::Shareable;
use super::tls::ServerTls;

/// The ports of a daemon. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    all: Arc<Mutex<BTreeMap<String, Arc<PortCounters>>>>,
    /// The sockets that accept, as long as they do.
    listeners: Arc<Mutex<Vec<Weak<TcpListener>>>>,
    /// Those that another sink may go on with, by the addresses that are configured.
    shareable: Arc<Mutex<BTreeMap<SocketAddr, Weak<Shareable>>>>,
    memory: Memory,
    supervisor: Supervisor,
    /// Sinks answer nobody before it is open.
    gate: Gate,
}

impl Ports {
    /// Ports that hold this memory, and are parts of a daemon.
    pub fn new(memory: &Memory, supervisor: &Supervisor) -> Ports {
        Ports { memory: memory.clone(), supervisor: supervisor.clone(), ..Ports::default() }
    }

    /// The same, of a daemon whose sinks answer nobody before this is open.
    #[must_use]
    pub fn behind(self, gate: Gate) -> Ports {
        Ports { gate, ..self }
    }

    /// What sinks wait for before they answer anybody.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The parts of the daemon.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// A port as a part of the daemon.
    pub(super) fn part(&self, url: &str) -> Part {
        self.supervisor.part(&format!("port:{url}"), Role::Ordinary)
    }

    /// What looks after its large bodies, as another.
    pub(super) fn part_of_bodies(&self, url: &str) -> Part {
        self.supervisor.part(&format!("bodies:{url}"), Role::Ordinary)
    }

    pub(super) fn note_listener(&self, listener: &Arc<TcpListener>) {
        let mut all = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(listener));
    }

    pub(super) fn shareable(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Weak<Shareable>>> {
        self.shareable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of them that stands in the way of this address, if any.
    pub fn in_the_way(&self, address: SocketAddr) -> Option<InTheWay> {
        let all = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = all.iter().filter_map(Weak::upgrade).filter_map(|listener| listener.local_addr().ok());
        let at = at.find(|at| may_collide(at, &address))?;
        let is_it = |shared: Arc<Shareable>| shared.listener.local_addr().is_ok_and(|own| own == at);
        let is_of_sink = self.shareable().values().filter_map(Weak::upgrade).any(is_it);
        Some(InTheWay { at, is_of_sink })
    }

    /// The sockets that accept, for another process.
    ///
    /// # Errors
    /// If this process may have no more descriptors.
    pub fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let all = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).map(|listener| listener.as_fd().try_clone_to_owned()).collect()
    }

    /// What they hold.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The counters of the port with this URL: those that it had before, if it was here already.
    pub fn counters(&self, url: &str) -> Arc<PortCounters> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(url.to_string()).or_default())
    }

    /// The accounts of all, by URL.
    pub fn accounts(&self) -> BTreeMap<String, PortAccount> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(url, counters)| (url.clone(), counters.account())).collect()
    }
}

/// A port of this daemon that another one cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InTheWay {
    /// Where it listens.
    pub at: SocketAddr,
    /// A reload can take it out.
    pub is_of_sink: bool,
}

impl fmt::Display for InTheWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match self.is_of_sink {
            true => f.write_str(&until_reloaded(at)),
            false => write!(f, "this daemon itself listens at {at}; restart it, or choose another port"),
        }
    }
}

/// That this daemon listens somewhere until a reload takes that out, and what to do.
pub fn until_reloaded(own: impl fmt::Display) -> String {
    format!(
        "this daemon itself listens at {own} until this reload is in force; restart it, or reload twice: first without that one, \
         then with this"
    )
}

/// What a port counts. Each is a count on its own: nothing else is published through it.
#[derive(Debug, Default)]
pub struct PortCounters {
    accepted: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    tokens_refused: AtomicU64,
    tls: OnceLock<ServerTls>,
    bodies: OnceLock<Bodies>,
}

impl PortCounters {
    /// Accounts for this TLS, too.
    pub(super) fn with_tls(&self, tls: Option<&ServerTls>) {
        if let Some(tls) = tls {
            // A port that is opened again has the same files.
            let _ = self.tls.set(tls.clone());
        }
    }

    /// The large bodies of the port: those that it had before, if it was here already.
    pub(super) fn bodies(&self, memory: &Memory, part: impl FnOnce() -> Part) -> Bodies {
        self.bodies.get_or_init(|| Bodies::new(memory, &part())).clone()
    }

    pub(super) fn open(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn close(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self, why: Refusal) {
        self.refused[why.number()].fetch_add(1, Ordering::Relaxed);
    }

    /// A token was wrong, or was not looked at after too many that were.
    pub fn refuse_token(&self) {
        self.tokens_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted until now.
    pub fn account(&self) -> PortAccount {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let tls = self.tls.get();
        let (answers_cut, answers_refused) = self.bodies.get().map_or((0, 0), Bodies::counts);
        PortAccount {
            accepted: read(&self.accepted),
            open: read(&self.open),
            requests: read(&self.requests),
            refused: Refusal::ALL.iter().map(|why| (*why, read(&self.refused[why.number()]))).collect::<Refused>(),
            answers_cut,
            answers_refused,
            tokens_refused: read(&self.tokens_refused),
            tls_reloads: tls.map_or(0, ServerTls::reloads),
            tls_reloads_failed: tls.map_or(0, ServerTls::failed_reloads),
            tls_expires: tls.map_or(0.0, ServerTls::expires),
        }
    }
}
