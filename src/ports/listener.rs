//! A listener: accepts connections within limits, sets TLS up, and closes those whose time is over.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use socket2::Type;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::acl::AccessList;
use crate::memory::{Holder, Holding, Memory, footprint};
use crate::settings::{OptionVisitor, count};
use crate::supervise::{Part, caught};
use crate::sys::{self, Descriptors, Permit};
use crate::telemetry::Refusal;
use crate::web::{Bodies, limit_unsent};

use super::connection::{Conn, Slot, machine};
use super::counters::{PortCounters, Ports};
use super::handshake::refusal;
use super::tls::ServerTls;
use super::victim::{Buffers, Patience, Phase};

/// Connections that the kernel may hold before they are accepted; `net.core.somaxconn` may be lower.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often is looked for connections whose time is over.
const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// Bytes that the TLS of a connection allocates, beside its task.
const TLS_BYTES: usize = 7600;

/// How many connections there may be at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all.
    pub in_all: usize,
    /// From one address; from one /64 of IPv6.
    pub per_address: usize,
}

/// Shows the limits of a port.
pub fn limit_options(visitor: &mut dyn OptionVisitor, limits: &mut ConnectionLimits) {
    const RANGE: std::ops::RangeInclusive<u64> = 1..=65_536;
    let doc = "Most connections at once; then the one that has been longest without a complete request is closed.";
    count(visitor, "max_connections", doc, &mut limits.in_all, RANGE);
    let doc = "Most of them from one address, or from one /64 of IPv6.";
    count(visitor, "max_connections_per_address", doc, &mut limits.per_address, RANGE);
}

/// How a port treats its clients.
#[derive(Clone, Debug)]
pub struct PortOptions {
    /// How many connections there may be.
    pub limits: ConnectionLimits,
    /// How long is waited for what.
    pub patience: Patience,
    /// What a connection allocates.
    pub buffers: Buffers,
    /// Who may connect.
    pub allow: AccessList,
}

/// Binds a listener, or goes on with that of the process before this one; its address has the port that the kernel chose. A
/// restart does not wait for old connections to time out.
///
/// # Errors
/// What the kernel says.
pub fn bind(address: SocketAddr, ports: &Ports) -> io::Result<(Arc<TcpListener>, SocketAddr)> {
    let listener = match sys::take_bound(Type::STREAM, &address.into()) {
        Some(socket) => {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket.into())?
        }
        None => {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)?
        }
    };
    limit_unsent(&listener);
    let address = listener.local_addr()?;
    let listener = Arc::new(listener);
    ports.note_listener(&listener);
    Ok((listener, address))
}

/// A listener that one sink after the other uses: who has it next waits for its turn. So a reload that changes a sink, or gives it
/// another name, refuses nobody.
#[derive(Debug)]
pub struct Shareable {
    /// The socket.
    pub listener: Arc<TcpListener>,
    /// Who has this accepts.
    pub turn: tokio::sync::Mutex<()>,
}

/// The same as [`bind`] for a sink. Where one listens at this address already, both have its listener.
///
/// # Errors
/// What the kernel says.
pub fn bind_shareable(address: SocketAddr, ports: &Ports) -> io::Result<(Arc<Shareable>, SocketAddr)> {
    let known = ports.shareable().get(&address).and_then(Weak::upgrade);
    // Each port that the kernel chooses is another one.
    if let Some(known) = known.filter(|_| address.port() != 0) {
        let address = known.listener.local_addr()?;
        return Ok((known, address));
    }
    let (listener, bound) = bind(address, ports)?;
    let new = Arc::new(Shareable { listener, turn: tokio::sync::Mutex::default() });
    let mut all = ports.shareable();
    all.retain(|_, known| known.strong_count() > 0);
    all.insert(address, Arc::downgrade(&new));
    Ok((new, bound))
}

/// A port: its limits, and the connections that are open. Clones are the same.
#[derive(Clone, Debug)]
pub struct Port(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    url: String,
    tls: Option<ServerTls>,
    options: PortOptions,
    counters: Arc<PortCounters>,
    memory: Memory,
    /// What all connections have allocated, as of the last look.
    holding: Holding,
    /// Bytes of the task of a connection.
    task_bytes: AtomicUsize,
    descriptors: Descriptors,
    table: Mutex<Table>,
    /// A connection has ended.
    ended: Notify,
    part: Part,
    /// It is one of them.
    ports: Ports,
}

/// After so many connections in a row their tasks have a turn: a request that is here shall be read before its connection is
/// taken for one that sends nothing, and gives way.
const IN_A_ROW: u32 = 16;

/// Connections that may give way next are found this many at a time: a flood shall not look through all for each.
const CANDIDATES: usize = 32;

/// The open connections of a port.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    slots: HashMap<u64, Arc<Slot>>,
    by_address: HashMap<IpAddr, usize>,
    /// Of all, and of one address: connections that give way next, with what their rank came from.
    candidates: HashMap<Option<IpAddr>, VecDeque<(u64, Instant)>>,
}

impl Table {
    fn insert(&mut self, slot: Arc<Slot>) -> u64 {
        self.next += 1;
        *self.by_address.entry(machine(slot.from.ip())).or_default() += 1;
        self.slots.insert(self.next, slot);
        self.next
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Slot>> {
        let slot = self.slots.remove(&number)?;
        let machine = machine(slot.from.ip());
        if let Some(count) = self.by_address.get_mut(&machine) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&machine);
                self.candidates.remove(&Some(machine));
            }
        }
        Some(slot)
    }

    /// The connection that gives way, of one address or of all.
    fn victim(&mut self, of: Option<IpAddr>, now: Instant) -> Option<u64> {
        let known = self.candidates.entry(of).or_default();
        while let Some((number, moment)) = known.pop_front() {
            // One that has gone on since is no candidate any more; those that came since are younger.
            let rank = self.slots.get(&number).and_then(|slot| slot.progress().rank(now));
            if rank.is_some_and(|(_, of_now)| of_now == moment) {
                return Some(number);
            }
        }
        let those = self.slots.iter().filter(|(_, slot)| of.is_none_or(|of| machine(slot.from.ip()) == of));
        let ranked = those.filter_map(|(number, slot)| Some((slot.progress().rank(now)?, *number)));
        let mut ranked: Vec<_> = ranked.collect();
        if ranked.len() > CANDIDATES {
            ranked.select_nth_unstable(CANDIDATES);
            ranked.truncate(CANDIDATES);
        }
        // Of the same moment the first.
        ranked.sort_unstable();
        *known = ranked.into_iter().map(|((_, moment), number)| (number, moment)).collect();
        known.pop_front().map(|(number, _)| number)
    }
}

impl Port {
    /// A port that is accounted for among others. Its URL names it in the ledger and in the log.
    pub fn new(url: String, tls: Option<ServerTls>, options: PortOptions, ports: &Ports) -> Port {
        let counters = ports.counters(&url);
        counters.with_tls(tls.as_ref());
        let (table, memory) = (Mutex::new(Table::default()), ports.memory().clone());
        let part = ports.part(&url);
        let (holding, descriptors) = (memory.holding(Holder::Connections), Descriptors::for_port());
        let task_bytes = AtomicUsize::new(0);
        Port(Arc::new(Shared {
            url,
            tls,
            options,
            counters,
            memory,
            holding,
            task_bytes,
            descriptors,
            table,
            ended: Notify::new(),
            part,
            ports: ports.clone(),
        }))
    }

    /// The large bodies that are sent. To be called inside a Tokio runtime.
    pub fn bodies(&self) -> Bodies {
        self.0.counters.bodies(&self.0.memory, || self.0.ports.part_of_bodies(&self.0.url))
    }

    /// What it has counted.
    pub fn counters(&self) -> Arc<PortCounters> {
        Arc::clone(&self.0.counters)
    }

    /// Its TLS, if it has that.
    pub fn tls(&self) -> Option<&ServerTls> {
        self.0.tls.as_ref()
    }

    /// What it is among the parts of the daemon.
    pub fn part(&self) -> Part {
        self.0.part.clone()
    }

    /// What it is called.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Waits until no connection is open.
    pub async fn all_ended(&self) {
        loop {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            // Before the look, so that none that ends after it is missed.
            ended.as_mut().enable();
            if self.0.table().slots.is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Accepts connections until `stop` turns true, and calls with each once it is set up. A connection ends with the future
    /// that comes back, or when its time is over. After a panic it goes on with the same socket, so that who connects
    /// meanwhile waits.
    pub async fn serve<F>(
        &self,
        listener: &TcpListener,
        mut stop: watch::Receiver<bool>,
        serve: impl Fn(Conn) -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        while let Err(panic) = caught(self.accept(listener, &mut stop, &serve)).await {
            self.0.part.restart(panic).await;
        }
    }

    async fn accept<F>(
        &self,
        listener: &TcpListener,
        stop: &mut watch::Receiver<bool>,
        serve: &(impl Fn(Conn) -> F + Clone + Send + Sync + 'static),
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut sweep = interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut in_a_row = 0;
        loop {
            if in_a_row == IN_A_ROW {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = sweep.tick() => {
                    self.0.sweep(Instant::now());
                    continue;
                }
                // An error means that whoever could stop us is gone, which is a stop too.
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((stream, from)) => {
                    self.0.part.alive();
                    self.admit(stream, from, serve);
                    in_a_row += 1;
                }
                Err(error) => {
                    tracing::warn!(port = self.0.url, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Starts a task for a connection, unless there is no room for it.
    fn admit<F>(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        serve: &(impl Fn(Conn) -> F + Clone + Send + Sync + 'static),
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(held) = self.0.place(from) else { return };
        // Answers are written whole; those in pieces shall not wait for each other.
        let _ = stream.set_nodelay(true);
        let serve = serve.clone();
        let shared = Arc::clone(&self.0);
        let task = async move {
            let slot = Arc::clone(&held.slot);
            tokio::select! {
                biased;
                () = slot.closing.notified() => {}
                () = shared.part.one_of_many(async {
                    if let Some(connection) = shared.secure(stream, &held).await {
                        serve(connection).await;
                    }
                }) => {}
            }
            drop(held);
        };
        self.0.task_bytes.store(footprint(size_of_val(&task)), Ordering::Relaxed);
        tokio::spawn(task);
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change leaves it whole, so a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection, which another may have to leave.
    fn place(self: &Arc<Self>, from: SocketAddr) -> Option<Held> {
        if !self.options.allow.permits(Some(from.ip())) {
            tracing::warn!(port = self.url, %from, "a connection was refused: it is not in `allow`");
            self.counters.refuse(Refusal::NotAllowed);
            return None;
        }
        let (now, machine) = (Instant::now(), machine(from.ip()));
        let mut table = self.table();
        let limits = self.options.limits;
        let mut permit = None;
        if table.by_address.get(&machine).is_some_and(|count| *count >= limits.per_address) {
            permit = Some(self.make_room(&mut table, Some(machine), Refusal::PerAddress, now)?);
        }
        if table.slots.len() >= limits.in_all {
            permit = Some(self.make_room(&mut table, None, Refusal::Full, now)?);
        }
        // Where others hold the share, a probe of this port shall get in nevertheless.
        if self.holding.is_over() && self.holding.bytes() > self.holding.cap() / 4 {
            permit = Some(self.make_room(&mut table, None, Refusal::Memory, now)?);
        }
        let permit = match permit.flatten().or_else(|| self.descriptors.try_take()) {
            Some(permit) => permit,
            // No descriptor is left to all ports together; one of ours changes hands.
            None => self.make_room(&mut table, None, Refusal::Full, now)??,
        };
        let phase = if self.tls.is_some() { Phase::Handshake } else { Phase::Waiting };
        let slot = Arc::new(Slot::new(from, phase, Arc::clone(&self.counters), permit));
        let number = table.insert(Arc::clone(&slot));
        self.counters.open();
        Some(Held { shared: Arc::clone(self), number, slot })
    }

    /// Closes the connection that gives way, and takes its permit over. `None` if none does: then the new one is refused.
    fn make_room(&self, table: &mut Table, of: Option<IpAddr>, why: Refusal, now: Instant) -> Option<Option<Permit>> {
        self.counters.refuse(why);
        let slot = table.victim(of, now).and_then(|number| table.remove(number))?;
        slot.closing.notify_one();
        Some(slot.take_permit())
    }

    /// Publishes what connections hold, and closes those whose time is over.
    fn sweep(&self, now: Instant) {
        let mut table = self.table();
        let each = self.task_bytes.load(Ordering::Relaxed) + if self.tls.is_some() { TLS_BYTES } else { 0 };
        let held = table.slots.values().map(|slot| each + slot.progress().allocated(&self.options.buffers));
        self.holding.set(held.sum::<usize>() as u64);
        let is_over = |slot: &Slot| slot.progress().is_over(&self.options.patience, now);
        let over: Vec<(u64, bool)> =
            table.slots.iter().filter_map(|(number, slot)| Some((*number, is_over(slot)?))).collect();
        for (number, is_cut) in over {
            if let Some(slot) = table.remove(number) {
                slot.closing.notify_one();
                if is_cut {
                    self.counters.refuse(Refusal::Timeout);
                }
            }
        }
    }

    /// The connection, once its TLS is set up where the port has that.
    async fn secure(&self, stream: TcpStream, held: &Held) -> Option<Conn> {
        let Some(tls) = &self.tls else { return Some(Conn::plain(stream, Arc::clone(&held.slot))) };
        match tls.acceptor().accept(stream).await {
            Ok(stream) => {
                held.slot.progress().secured(Instant::now());
                Some(Conn::secured(stream, Arc::clone(&held.slot)))
            }
            Err(error) => {
                if let Some(why) = refusal(&error).filter(|_| held.is_in_place()) {
                    self.counters.refuse(Refusal::Tls);
                    tracing::warn!(port = self.url, from = %held.slot.from, "a connection was refused: {why}");
                }
                None
            }
        }
    }
}

/// A connection's place, as long as its task runs.
struct Held {
    shared: Arc<Shared>,
    number: u64,
    slot: Arc<Slot>,
}

impl Held {
    /// Whether it did not have to give way.
    fn is_in_place(&self) -> bool {
        self.shared.table().slots.contains_key(&self.number)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.table().remove(self.number);
        self.shared.counters.close();
        self.shared.ended.notify_waiters();
    }
}
