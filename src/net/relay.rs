//! Relays: pass raw lines, before they are parsed, on to other StatsD servers, to all of them (`mirror`) or each to one of
//! them (`spread`). Receive workers put a copy of what they read into a bounded queue and never wait; what does not fit is
//! counted.
//!
//! Spread lines are assigned by their name, up to the first `:`, with rendezvous hashing (D. Thaler and C. V. Ravishankar,
//! "Using name-based mappings to increase hit rates", 1998): when a server goes down only its own names move, and they
//! return with it. A server is down while its management port does not answer `health: up`, where one is configured, and
//! for a while after the kernel reported that nobody listens. Lines are packed into datagrams of at most `max_datagram`
//! bytes.
//!
//! The account counts what came in, datagrams and pieces of streams: `offered = delivered + queued + dropped`. One is
//! delivered when the kernel accepted each of its lines for every target that should have it, and dropped, once, by the
//! first reason for which a line of it was not sent: `queue_full`, `memory`, `target_down`, `send_failed`, `failed` (the relay's
//! own thread failed while it had it). Lines sent and lost are
//! counted per target as well.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rapidhash::v3::rapidhash_v3;
use socket2::{Domain, Protocol, Socket, Type};

use crate::fault;
use crate::memory::{Holder, Holding, Level, Memory, footprint, vec_footprint};
use crate::supervise::{Part, Role, Supervisor};
use crate::sys;
use crate::telemetry::{RelayAccount, TargetAccount};

/// Longest time that a line waits for further ones.
const LINGER: Duration = Duration::from_millis(10);
/// Most bytes of a send that the kernel cuts into datagrams.
const SEGMENTED_BYTES: usize = 60_000;
/// Longest wait for the answer to `health`.
const HEALTH_PATIENCE: Duration = Duration::from_secs(1);

/// Why something was dropped.
#[derive(Clone, Copy)]
enum Loss {
    /// The queue was full.
    QueueFull,
    /// The queues of relays had their share of the memory, or memory was short altogether.
    Memory,
    /// The target was down, and no other took over.
    TargetDown,
    /// The kernel refused the send.
    SendFailed,
    /// The relay's thread panicked while it worked on it.
    Failed,
}

/// Their names in the ledger, in the order of [`Loss`].
const LOSSES: [&str; 5] = ["queue_full", "memory", "target_down", "send_failed", "failed"];

/// Which targets get a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All targets.
    #[default]
    Mirror,
    /// One of them, by its name.
    Spread,
}

/// The options of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySpec {
    /// Label in status and ledger.
    pub name: String,
    /// The servers.
    pub targets: Vec<SocketAddr>,
    /// Who gets a line.
    pub mode: Mode,
    /// Longest datagram sent, bytes.
    pub max_datagram: usize,
    /// Most queued datagrams, or pieces of streams.
    pub queue: usize,
    /// Management port of the servers, for health checks.
    pub health_port: Option<u16>,
    /// Time between health checks; also how long a target is left alone after nobody listened.
    pub health_every: Duration,
    /// Send many datagrams as one, padded to equal length with newlines, and let the kernel cut it (`UDP_SEGMENT`).
    pub gso: bool,
}

/// The sending side for workers. Cheap to clone; the relay ends when all clones are dropped.
#[derive(Clone, Debug)]
pub struct RelayHandle {
    sender: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
    /// Bytes of what is queued.
    held: Arc<Holding>,
}

/// Counters since the start.
#[derive(Debug, Default)]
struct Counts {
    offered: AtomicU64,
    delivered: AtomicU64,
    dropped: [AtomicU64; LOSSES.len()],
    targets: Mutex<BTreeMap<String, TargetAccount>>,
}

/// A datagram or piece in flight: it is counted when its last line is sent or lost.
struct Ticket {
    counts: Arc<Counts>,
    /// The number of the first [`Loss`], from 1; 0 for none.
    lost: AtomicU8,
}

impl Ticket {
    fn lose(&self, loss: Loss) {
        // Only the relay's thread writes it; the first reason stays.
        if self.lost.load(Ordering::Relaxed) == 0 {
            self.lost.store(loss as u8 + 1, Ordering::Relaxed);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lose(Loss::Failed);
        }
        let counted = match self.lost.load(Ordering::Relaxed) {
            0 => &self.counts.delivered,
            n => &self.counts.dropped[usize::from(n - 1)],
        };
        // A reader that sees this has seen it offered.
        counted.fetch_add(1, Ordering::Release);
    }
}

/// A piece whose lines are being routed. If that panics, the rest of them is lost, whatever becomes of those before.
struct Routing<'a>(&'a Ticket);

impl Drop for Routing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lose(Loss::Failed);
        }
    }
}

/// The datagrams that lines belong to, in order, with the number of lines of each. Lines that go with a panic are lost, even
/// if others of their datagrams are still to be sent.
struct Tickets {
    list: Vec<(Arc<Ticket>, u64)>,
    /// Lines of the target that went with a panic.
    failed: Arc<AtomicU64>,
}

impl Tickets {
    fn new(failed: &Arc<AtomicU64>) -> Tickets {
        Tickets { list: Vec::new(), failed: Arc::clone(failed) }
    }

    fn lines(&self) -> u64 {
        self.list.iter().map(|(_, lines)| lines).sum()
    }

    fn lose(&self, loss: Loss) {
        self.list.iter().for_each(|(ticket, _)| ticket.lose(loss));
    }
}

impl Drop for Tickets {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lose(Loss::Failed);
            self.failed.fetch_add(self.lines(), Ordering::Relaxed);
        }
    }
}

impl RelayHandle {
    /// Queues a datagram, or whole lines of a stream. Never waits.
    pub fn put(&self, bytes: &[u8]) {
        self.counts.offered.fetch_add(1, Ordering::Relaxed);
        if let Err(loss) = self.try_put(bytes) {
            self.counts.dropped[loss as usize].fetch_add(1, Ordering::Release);
        }
    }

    fn try_put(&self, bytes: &[u8]) -> Result<(), Loss> {
        let size = footprint(bytes.len()) as u64;
        if self.held.would_exceed(size) || self.held.memory().level() >= Level::Events {
            return Err(Loss::Memory);
        }
        // Before the relay takes it out again.
        self.held.add(size);
        self.sender.try_send(bytes.to_vec()).map_err(|_| {
            self.held.sub(size);
            Loss::QueueFull
        })
    }
}

/// A view of a relay's account.
#[derive(Clone, Debug)]
pub struct RelayStats {
    name: String,
    counts: Arc<Counts>,
}

impl RelayStats {
    /// Label in status and ledger.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The account so far.
    pub fn account(&self) -> RelayAccount {
        // Finished ones are read first, because they were offered before.
        let delivered = self.counts.delivered.load(Ordering::Acquire);
        let dropped: [u64; LOSSES.len()] = std::array::from_fn(|n| self.counts.dropped[n].load(Ordering::Acquire));
        let offered = self.counts.offered.load(Ordering::Relaxed);
        RelayAccount {
            offered,
            delivered,
            queued: offered - delivered - dropped.iter().sum::<u64>(),
            dropped: LOSSES.into_iter().zip(dropped).collect(),
            targets: self.counts.targets.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Starts a relay's threads, which `supervisor` watches.
///
/// # Errors
/// If a socket cannot be created, or a thread cannot be started.
pub fn start(
    spec: RelaySpec,
    memory: &Memory,
    supervisor: &Supervisor,
) -> io::Result<(RelayHandle, RelayStats, JoinHandle<()>)> {
    let (sender, pieces) = sync_channel(spec.queue);
    let held = Arc::new(memory.holding(Holder::Relays));
    // The places of the queue are made at once, each with a word beside.
    held.add(vec_footprint::<(Vec<u8>, usize)>(spec.queue) as u64);
    let counts = Arc::new(Counts::default());
    let mut targets = Vec::new();
    for &address in &spec.targets {
        let target = Target::open(address, &spec)?;
        if let Some(port) = spec.health_port {
            let (is_up, every) = (Arc::downgrade(&target.is_healthy), spec.health_every);
            let management = SocketAddr::new(address.ip(), port);
            let check = move |part: &Part| {
                // The thread ends with the relay.
                while let Some(is_up) = is_up.upgrade() {
                    part.alive();
                    let now = is_healthy(management);
                    if is_up.swap(now, Ordering::Relaxed) != now {
                        tracing::warn!(target = %address, up = now, "a relay's target changed its health");
                    }
                    drop(is_up);
                    std::thread::sleep(every);
                }
            };
            let part = supervisor.part(&format!("relay:{}:health", spec.name), Role::Ordinary);
            part.thread("health", move |part| part.keep(|| check(part)))?;
        }
        targets.push(target);
    }
    let name = spec.name.clone();
    let relay = Relay { spec, targets, counts: Arc::clone(&counts), held: Arc::clone(&held) };
    relay.publish();
    let part = supervisor.part(&format!("relay:{name}"), Role::Ordinary);
    let mut relay = relay;
    // What the targets hold stays; the piece in work was counted when it was dropped.
    let thread = part.thread(&format!("relay-{name}"), move |part| part.keep(|| relay.run(&pieces, part)))?;
    Ok((RelayHandle { sender, counts: Arc::clone(&counts), held }, RelayStats { name, counts }, thread))
}

/// Queries the original's management port.
fn is_healthy(address: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, HEALTH_PATIENCE)?;
        stream.set_read_timeout(Some(HEALTH_PATIENCE))?;
        stream.write_all(b"health\n")?;
        let mut said = [0; 64];
        let count = stream.read(&mut said)?;
        Ok(said[..count].starts_with(b"health: up"))
    };
    ask().unwrap_or(false)
}

/// Lines of one datagram.
struct Datagram {
    bytes: Vec<u8>,
    tickets: Tickets,
}

/// One or many datagrams for one system call.
struct Send {
    bytes: Vec<u8>,
    datagrams: u64,
    tickets: Tickets,
}

impl Send {
    /// Whether it is a single line that is longer than a datagram.
    fn is_long(&self, spec: &RelaySpec) -> bool {
        self.bytes.len() > self.datagrams as usize * spec.max_datagram
    }
}

struct Target {
    address: SocketAddr,
    /// The address as text, for the hash of `spread`.
    label: String,
    socket: Socket,
    is_healthy: Arc<AtomicBool>,
    /// Considered down until then, because nobody listened.
    down_until: Option<Instant>,
    /// Full datagrams.
    ready: Vec<Datagram>,
    /// The one being filled.
    open: Datagram,
    /// What is to be sent now.
    sending: VecDeque<Send>,
    failed: Arc<AtomicU64>,
    account: TargetAccount,
}

impl Target {
    fn open(address: SocketAddr, spec: &RelaySpec) -> io::Result<Target> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.connect(&address.into())?;
        socket.set_nonblocking(true)?;
        if spec.gso {
            sys::send_segmented(&socket, segment(spec))?;
        }
        let failed = Arc::<AtomicU64>::default();
        Ok(Target {
            address,
            label: address.to_string(),
            socket,
            is_healthy: Arc::new(AtomicBool::new(true)),
            down_until: None,
            ready: Vec::new(),
            open: Datagram { bytes: Vec::new(), tickets: Tickets::new(&failed) },
            sending: VecDeque::new(),
            failed,
            account: TargetAccount { up: true, ..TargetAccount::default() },
        })
    }

    fn is_up(&self, now: Instant) -> bool {
        self.is_healthy.load(Ordering::Relaxed) && self.down_until.is_none_or(|until| now >= until)
    }

    /// Whether anything is pending.
    fn has_lines(&self) -> bool {
        !self.ready.is_empty() || !self.open.bytes.is_empty() || !self.sending.is_empty()
    }

    fn push(&mut self, line: &[u8], ticket: &Arc<Ticket>, most: usize) {
        if !self.open.bytes.is_empty() && self.open.bytes.len() + 1 + line.len() > most {
            self.finish_open();
        }
        let Datagram { bytes, tickets } = &mut self.open;
        if !bytes.is_empty() {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line);
        match tickets.list.last_mut() {
            Some((last, lines)) if Arc::ptr_eq(last, ticket) => *lines += 1,
            Some(_) | None => tickets.list.push((Arc::clone(ticket), 1)),
        }
    }

    fn send(&self, send: &Send, spec: &RelaySpec) -> io::Result<usize> {
        if !spec.gso || !send.is_long(spec) {
            return self.socket.send(&send.bytes);
        }
        // The kernel would cut the line.
        sys::send_segmented(&self.socket, 0)?;
        let outcome = self.socket.send(&send.bytes);
        sys::send_segmented(&self.socket, segment(spec))?;
        outcome
    }

    /// The open datagram is full, or has to go.
    fn finish_open(&mut self) {
        let next = Datagram { bytes: Vec::new(), tickets: Tickets::new(&self.failed) };
        self.ready.push(std::mem::replace(&mut self.open, next));
    }

    /// Packs everything that is pending into sends of one or many datagrams. A line longer than a datagram is sent alone.
    fn pack(&mut self, spec: &RelaySpec) {
        if !self.open.bytes.is_empty() {
            self.finish_open();
        }
        let sends = &mut self.sending;
        for Datagram { bytes, mut tickets } in std::mem::take(&mut self.ready) {
            match sends.back_mut() {
                Some(send)
                    if spec.gso
                        && bytes.len() <= spec.max_datagram
                        && !send.is_long(spec)
                        && send.bytes.len() + spec.max_datagram <= SEGMENTED_BYTES
                        && (send.datagrams as usize) < sys::MAX_SEGMENTS =>
                {
                    send.bytes.resize(send.datagrams as usize * spec.max_datagram, b'\n');
                    send.bytes.extend_from_slice(&bytes);
                    send.datagrams += 1;
                    send.tickets.list.append(&mut tickets.list);
                }
                Some(_) | None => sends.push_back(Send { bytes, datagrams: 1, tickets }),
            }
        }
    }
}

/// Size of the datagrams that the kernel cuts a send into.
fn segment(spec: &RelaySpec) -> u16 {
    u16::try_from(spec.max_datagram).unwrap_or(u16::MAX)
}

fn lines_of(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty())
}

struct Relay {
    spec: RelaySpec,
    targets: Vec<Target>,
    counts: Arc<Counts>,
    held: Arc<Holding>,
}

impl Relay {
    fn run(&mut self, pieces: &Receiver<Vec<u8>>, part: &Part) {
        let mut flushed = Instant::now();
        loop {
            match pieces.recv_timeout(LINGER) {
                Ok(piece) => {
                    self.held.sub(footprint(piece.len()) as u64);
                    let ticket = Arc::new(Ticket { counts: Arc::clone(&self.counts), lost: AtomicU8::new(0) });
                    part.alive();
                    let _routing = Routing(&ticket);
                    lines_of(&piece).for_each(|line| self.route(line, &ticket));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // Lines that move to another target may have to move again.
                    while self.targets.iter().any(Target::has_lines) {
                        self.flush();
                    }
                    return;
                }
            }
            let is_much = self.targets.iter().any(|target| target.ready.len() >= sys::MAX_SEGMENTS / 2);
            if is_much || flushed.elapsed() >= LINGER {
                self.flush();
                flushed = Instant::now();
            }
        }
    }

    fn route(&mut self, line: &[u8], ticket: &Arc<Ticket>) {
        fault::pass("relay:line");
        let most = self.spec.max_datagram;
        match self.spec.mode {
            Mode::Mirror => self.targets.iter_mut().for_each(|target| target.push(line, ticket, most)),
            Mode::Spread => {
                let now = Instant::now();
                let name = &line[..memchr::memchr(b':', line).unwrap_or(line.len())];
                match choose(name, self.targets.iter().map(|t| (t.label.as_str(), t.is_up(now)))) {
                    Some(chosen) => self.targets[chosen].push(line, ticket, most),
                    None => {
                        ticket.lose(Loss::TargetDown);
                        // No target is up: the loss counts for the preferred one.
                        let home = choose(name, self.targets.iter().map(|t| (t.label.as_str(), true)));
                        if let Some(home) = home {
                            self.targets[home].account.lost += 1;
                        }
                    }
                }
            }
        }
    }

    fn flush(&mut self) {
        let now = Instant::now();
        let is_spread = self.spec.mode == Mode::Spread;
        let mut homeless = Vec::new();
        for target in &mut self.targets {
            target.pack(&self.spec);
            // Those behind one that fails stay for the next flush.
            while let Some(send) = target.sending.pop_front() {
                fault::pass("relay:send");
                // An error may belong to an earlier send that was refused.
                let outcome = if target.is_up(now) { target.send(&send, &self.spec) } else { Ok(0) };
                let loss = match outcome {
                    Ok(1..) => {
                        target.account.lines += send.tickets.lines();
                        target.account.datagrams += send.datagrams;
                        continue;
                    }
                    Ok(_) => Loss::TargetDown,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        tracing::warn!(target = %target.address, "nobody listens at a relay's target; it is skipped for a while");
                        target.down_until = Some(now + self.spec.health_every);
                        Loss::TargetDown
                    }
                    Err(error) => {
                        tracing::debug!(target = %target.address, %error, "a relay cannot send");
                        Loss::SendFailed
                    }
                };
                if is_spread && !target.is_up(now) {
                    homeless.push(send);
                } else {
                    target.account.lost += send.tickets.lines();
                    send.tickets.lose(loss);
                }
            }
            target.account.up = target.is_up(now);
        }
        // The targets that are up take over, with the next flush.
        for send in homeless {
            let mut lines = lines_of(&send.bytes);
            for (ticket, count) in &send.tickets.list {
                lines.by_ref().take(*count as usize).for_each(|line| self.route(line, ticket));
            }
        }
        self.publish();
    }

    fn publish(&self) {
        let account = |target: &Target| {
            let lost = target.account.lost + target.failed.load(Ordering::Relaxed);
            (target.label.clone(), TargetAccount { lost, ..target.account.clone() })
        };
        let accounts = self.targets.iter().map(account).collect();
        *self.counts.targets.lock().unwrap_or_else(PoisonError::into_inner) = accounts;
    }
}

/// The index of the target, among those that are up, that a name is assigned to.
fn choose<'a>(name: &[u8], targets: impl Iterator<Item = (&'a str, bool)>) -> Option<usize> {
    let weight = |label: &str| rapidhash_v3(&[name, b"\0", label.as_bytes()].concat());
    let up = targets.enumerate().filter(|(_, (_, is_up))| *is_up);
    up.max_by_key(|(_, (label, _))| weight(label)).map(|(n, _)| n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_goes_away_moves_its_own_names_alone() {
        let labels = ["10.0.0.1:8125", "10.0.0.2:8125", "10.0.0.3:8125"];
        let with = |down: Option<usize>| {
            let of = |n: u32| {
                let up = labels.iter().enumerate().map(|(at, label)| (*label, Some(at) != down));
                choose(format!("name.{n}").as_bytes(), up).expect("one is up")
            };
            (0..3000).map(of).collect::<Vec<_>>()
        };
        let (all, without) = (with(None), with(Some(1)));
        for (home, refuge) in all.iter().zip(&without) {
            assert!(*refuge != 1 && (*home == 1 || home == refuge));
        }
        for n in 0..3 {
            let share = all.iter().filter(|&&home| home == n).count();
            assert!((900..1100).contains(&share), "{share}");
        }
        assert_eq!(choose(b"x", [("a", false)].into_iter()), None);
    }

    #[test]
    fn lines_are_packed_and_segments_are_of_one_length() {
        let address = "127.0.0.1:9".parse().expect("an address");
        for gso in [false, true] {
            let spec = RelaySpec {
                name: "r".into(),
                targets: vec![address],
                mode: Mode::Mirror,
                max_datagram: 100,
                queue: 10,
                health_port: None,
                health_every: Duration::from_secs(1),
                gso: false,
            };
            let mut target = Target::open(address, &spec).expect("a socket");
            let spec = RelaySpec { gso, ..spec };
            let lines: Vec<String> = (0..50).map(|n| format!("some.name.{n}:1|c")).collect();
            let ticket = Arc::new(Ticket { counts: Arc::default(), lost: AtomicU8::new(0) });
            lines.iter().for_each(|line| target.push(line.as_bytes(), &ticket, spec.max_datagram));
            target.pack(&spec);
            let sends = &target.sending;
            let pieces: Vec<&[u8]> = sends.iter().flat_map(|send| send.bytes.chunks(100)).collect();
            assert!(pieces.iter().all(|piece| piece.len() <= 100));
            let whole = pieces.join(&b'\n');
            let seen: Vec<&[u8]> = whole.split(|&b| b == b'\n').filter(|line| !line.is_empty()).collect();
            assert!(seen.iter().zip(&lines).all(|(seen, line)| *seen == line.as_bytes()) && seen.len() == 50);
            assert_eq!(sends.len() == 1, gso);
        }
    }
}
