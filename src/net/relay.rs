//! Relays: raw lines, before anybody parses them, to other StatsD servers, to all of them (`mirror`) or each to one of them
//! (`spread`). Receive workers put a copy of what they read into a bounded queue and never wait; what does not fit is counted.
//!
//! Spread lines go by their name, up to the first `:`, with rendezvous hashing (D. Thaler and C. V. Ravishankar, "Using
//! name-based mappings to increase hit rates", 1998): a server that goes away moves its own names alone, and gets the same ones
//! when it is back. A server is down while its management port does not say `health: up`, where one is asked, or for a while
//! after the kernel said that nobody listens. Lines are packed into datagrams of at most `max_datagram` bytes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rapidhash::v3::rapidhash_v3;
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;
use crate::telemetry::{RelayAccount, TargetAccount};

/// Longest time that a line waits for company.
const LINGER: Duration = Duration::from_millis(10);
/// Most bytes of a send that the kernel cuts into datagrams.
const SEGMENTED_BYTES: usize = 60_000;
/// Longest answer to a question for health.
const HEALTH_PATIENCE: Duration = Duration::from_secs(1);

/// Who gets a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All targets.
    #[default]
    Mirror,
    /// One of them, by its name.
    Spread,
}

/// What a relay is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySpec {
    /// Label in status and ledger.
    pub name: String,
    /// Servers.
    pub targets: Vec<SocketAddr>,
    /// Who gets a line.
    pub mode: Mode,
    /// Longest datagram sent, bytes.
    pub max_datagram: usize,
    /// Datagrams, or pieces of streams, that may wait.
    pub queue: usize,
    /// Management port of the servers, which is asked for their health.
    pub health_port: Option<u16>,
    /// How often; and how long one is left alone that nobody listens at.
    pub health_every: Duration,
    /// Send many datagrams as one, filled up to equal length with newlines, and let the kernel cut it (`UDP_SEGMENT`).
    pub gso: bool,
}

/// Where workers put what they read. Cheap to clone; the relay ends when every one is gone.
#[derive(Clone, Debug)]
pub struct Inlet {
    sender: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

/// Numbers since the start.
#[derive(Debug, Default)]
struct Counts {
    pieces: AtomicU64,
    lost: AtomicU64,
    targets: Mutex<BTreeMap<String, TargetAccount>>,
}

impl Inlet {
    /// Hands a datagram, or whole lines of a stream, over. Never waits.
    pub fn put(&self, bytes: &[u8]) {
        self.counts.pieces.fetch_add(1, Ordering::Relaxed);
        if self.sender.try_send(bytes.to_vec()).is_err() {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A relay as the house looks at it.
#[derive(Clone, Debug)]
pub struct Relayed {
    name: String,
    counts: Arc<Counts>,
}

impl Relayed {
    /// Label in status and ledger.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The account so far.
    pub fn account(&self) -> RelayAccount {
        RelayAccount {
            pieces: self.counts.pieces.load(Ordering::Relaxed),
            lost: self.counts.lost.load(Ordering::Relaxed),
            targets: self.counts.targets.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Starts a relay's threads.
///
/// # Errors
/// If a socket cannot be made, or a thread not be started.
pub fn start(spec: RelaySpec) -> io::Result<(Inlet, Relayed, JoinHandle<()>)> {
    let (sender, pieces) = sync_channel(spec.queue);
    let counts = Arc::new(Counts::default());
    let mut targets = Vec::new();
    for &address in &spec.targets {
        let target = Target::open(address, &spec)?;
        if let Some(port) = spec.health_port {
            let (is_up, every) = (Arc::downgrade(&target.is_healthy), spec.health_every);
            let management = SocketAddr::new(address.ip(), port);
            let watch = move || {
                // It ends with the relay.
                while let Some(is_up) = is_up.upgrade() {
                    let now = is_healthy(management);
                    if is_up.swap(now, Ordering::Relaxed) != now {
                        tracing::warn!(target = %address, up = now, "a relay's target changed its health");
                    }
                    drop(is_up);
                    std::thread::sleep(every);
                }
            };
            std::thread::Builder::new().name("health".into()).spawn(watch)?;
        }
        targets.push(target);
    }
    let name = spec.name.clone();
    let relay = Relay { spec, targets, counts: Arc::clone(&counts) };
    relay.publish();
    let thread = std::thread::Builder::new().name(format!("relay-{name}")).spawn(move || relay.run(&pieces))?;
    Ok((Inlet { sender, counts: Arc::clone(&counts) }, Relayed { name, counts }, thread))
}

/// What the original's management port says.
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

struct Target {
    address: SocketAddr,
    /// Text of the address, which lines are spread by.
    label: String,
    socket: Socket,
    is_healthy: Arc<AtomicBool>,
    /// Left alone until then: nobody listened.
    down_until: Option<Instant>,
    /// Datagrams that are full.
    ready: Vec<Vec<u8>>,
    /// The one being filled.
    open: Vec<u8>,
    account: TargetAccount,
}

impl Target {
    fn open(address: SocketAddr, spec: &RelaySpec) -> io::Result<Target> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.connect(&address.into())?;
        socket.set_nonblocking(true)?;
        if spec.gso {
            sys::send_segmented(&socket, u16::try_from(spec.max_datagram).unwrap_or(u16::MAX))?;
        }
        Ok(Target {
            address,
            label: address.to_string(),
            socket,
            is_healthy: Arc::new(AtomicBool::new(true)),
            down_until: None,
            ready: Vec::new(),
            open: Vec::new(),
            account: TargetAccount { up: true, ..TargetAccount::default() },
        })
    }

    fn is_up(&self, now: Instant) -> bool {
        self.is_healthy.load(Ordering::Relaxed) && self.down_until.is_none_or(|until| now >= until)
    }

    fn push(&mut self, line: &[u8], most: usize) {
        if !self.open.is_empty() && self.open.len() + 1 + line.len() > most {
            self.ready.push(std::mem::take(&mut self.open));
        }
        if !self.open.is_empty() {
            self.open.push(b'\n');
        }
        self.open.extend_from_slice(line);
    }

    /// Everything that waits, in sends of one or many datagrams.
    fn take(&mut self, spec: &RelaySpec) -> Vec<(Vec<u8>, u64)> {
        if !self.open.is_empty() {
            self.ready.push(std::mem::take(&mut self.open));
        }
        let all = std::mem::take(&mut self.ready);
        if !spec.gso {
            return all.into_iter().map(|datagram| (datagram, 1)).collect();
        }
        let mut sends: Vec<(Vec<u8>, u64)> = Vec::new();
        for datagram in all {
            // One that is longer than any other must be, a single long line, cannot be cut.
            match sends.last_mut() {
                Some((send, count))
                    if send.len() + spec.max_datagram <= SEGMENTED_BYTES && (*count as usize) < sys::MAX_SEGMENTS =>
                {
                    send.resize(*count as usize * spec.max_datagram, b'\n');
                    send.extend_from_slice(&datagram);
                    *count += 1;
                }
                Some(_) | None => sends.push((datagram, 1)),
            }
        }
        sends
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty()).count() as u64
}

struct Relay {
    spec: RelaySpec,
    targets: Vec<Target>,
    counts: Arc<Counts>,
}

impl Relay {
    fn run(mut self, pieces: &Receiver<Vec<u8>>) {
        let mut flushed = Instant::now();
        loop {
            match pieces.recv_timeout(LINGER) {
                Ok(piece) => self.route(&piece),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush();
                    // What has moved to others.
                    self.flush();
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

    fn route(&mut self, piece: &[u8]) {
        let now = Instant::now();
        let most = self.spec.max_datagram;
        for line in piece.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            match self.spec.mode {
                Mode::Mirror => self.targets.iter_mut().for_each(|target| target.push(line, most)),
                Mode::Spread => {
                    let name = &line[..memchr::memchr(b':', line).unwrap_or(line.len())];
                    match choose(name, self.targets.iter().map(|t| (t.label.as_str(), t.is_up(now)))) {
                        Some(chosen) => self.targets[chosen].push(line, most),
                        None => {
                            // Nobody is up: the one that would have it has lost it.
                            let home = choose(name, self.targets.iter().map(|t| (t.label.as_str(), true)));
                            if let Some(home) = home {
                                self.targets[home].account.lost += 1;
                            }
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
            for (send, datagrams) in target.take(&self.spec) {
                // An error may belong to an earlier send, which nobody took.
                let outcome = if target.is_up(now) { target.socket.send(&send) } else { Ok(0) };
                match outcome {
                    Ok(1..) => {
                        target.account.lines += count_lines(&send);
                        target.account.datagrams += datagrams;
                        continue;
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        tracing::warn!(target = %target.address, "nobody listens at a relay's target; it is left alone for a while");
                        target.down_until = Some(now + self.spec.health_every);
                    }
                    Err(error) => tracing::debug!(target = %target.address, %error, "a relay cannot send"),
                }
                if is_spread && !target.is_up(now) {
                    homeless.push(send);
                } else {
                    target.account.lost += count_lines(&send);
                }
            }
            target.account.up = target.is_up(now);
        }
        // Whoever is up takes over, with the next flush.
        homeless.iter().for_each(|send| self.route(send));
        self.publish();
    }

    fn publish(&self) {
        let accounts = self.targets.iter().map(|target| (target.label.clone(), target.account.clone())).collect();
        *self.counts.targets.lock().unwrap_or_else(PoisonError::into_inner) = accounts;
    }
}

/// The number of the target, among those that are up, to which a name belongs.
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
            lines.iter().for_each(|line| target.push(line.as_bytes(), spec.max_datagram));
            let sends = target.take(&spec);
            let pieces: Vec<&[u8]> = sends.iter().flat_map(|(send, _)| send.chunks(100)).collect();
            assert!(pieces.iter().all(|piece| piece.len() <= 100));
            let whole = pieces.join(&b'\n');
            let seen: Vec<&[u8]> = whole.split(|&b| b == b'\n').filter(|line| !line.is_empty()).collect();
            assert!(seen.iter().zip(&lines).all(|(seen, line)| *seen == line.as_bytes()) && seen.len() == 50);
            assert_eq!(sends.len() == 1, gso);
        }
    }
}
