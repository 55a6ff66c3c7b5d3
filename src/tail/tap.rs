//! The end of the workers: what they copy, and how little that is.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use crate::memory::{Holding, footprint};
use crate::protocol::{Options, Reason};

use super::filter::{Interest, Wanted};

/// Slots a second, each with bounds of its own.
const SLOTS_PER_SECOND: f64 = 100.0;

/// Datagrams and pieces of streams that all workers together look at in a slot. A look is a search for a text.
const MOST_LOOKS: i64 = 1024;

/// Those that they copy for who wants few of all, and for who wants any: the one is not to starve the other.
const MOST_COPIES: [i64; 2] = [64, 16];

/// What these have, in bytes.
const MOST_BYTES: [i64; 2] = [64 << 10, 32 << 10];

/// Bytes of all that waits for the task.
const MOST_WAITING: u64 = 1 << 20;

/// Longest piece, in bytes.
const MOST_PIECE: usize = 64 << 10;

/// A listener.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) listener: String,
    /// How its lines are read.
    pub(super) options: Options,
}

/// What a worker copied.
#[derive(Debug)]
pub(super) struct Piece {
    /// Unix seconds.
    pub(super) at: f64,
    pub(super) bytes: Box<[u8]>,
    pub(super) from: Option<IpAddr>,
    pub(super) origin: Arc<Origin>,
    /// It is no whole line, for this reason.
    pub(super) broken: Option<Reason>,
}

/// What came in a batch.
#[derive(Clone, Copy, Debug)]
pub struct TailBatch {
    /// Unix seconds.
    pub at: f64,
    /// Lines that were read.
    pub lines: u64,
    /// Whether some of them were malformed.
    pub is_malformed: bool,
}

/// What workers and the task share.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) is_on: AtomicBool,
    /// Workers only try to read it.
    pub(super) wanted: RwLock<Wanted>,
    /// The current slot, and what is left of its bounds. Workers race for them; what is looked at is bounded all the same.
    slot: AtomicU64,
    looks: AtomicI64,
    copies: [AtomicI64; 2],
    bytes: [AtomicI64; 2],
    /// Workers only try to lock it.
    waiting: Mutex<Vec<Piece>>,
    /// Lines that nobody looked at.
    unseen: AtomicU64,
    held: Holding,
}

impl Source {
    pub(super) fn new(held: Holding) -> Source {
        Source {
            is_on: AtomicBool::new(false),
            wanted: RwLock::default(),
            slot: AtomicU64::new(u64::MAX),
            looks: AtomicI64::new(0),
            copies: Default::default(),
            bytes: Default::default(),
            waiting: Mutex::default(),
            unseen: AtomicU64::new(0),
            held,
        }
    }

    /// What was copied since the last call, and how many lines nobody looked at.
    pub(super) fn take(&self) -> (Vec<Piece>, u64) {
        let pieces = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.held.set(0);
        (pieces, self.unseen.swap(0, Ordering::Relaxed))
    }

    fn begin(&self, now: f64) {
        let slot = (now * SLOTS_PER_SECOND) as u64;
        if self.slot.load(Ordering::Relaxed) != slot {
            self.slot.store(slot, Ordering::Relaxed);
            self.looks.store(MOST_LOOKS, Ordering::Relaxed);
            for (left, most) in self.copies.iter().zip(MOST_COPIES).chain(self.bytes.iter().zip(MOST_BYTES)) {
                left.store(most, Ordering::Relaxed);
            }
        }
    }

    fn put(&self, piece: Piece, interest: Interest) -> bool {
        let size = (footprint(piece.bytes.len()) + size_of::<Piece>()) as u64;
        let takes = |left: &AtomicI64, count: i64| left.fetch_sub(count, Ordering::Relaxed) > 0;
        if self.held.bytes() + size > MOST_WAITING || self.held.would_exceed(size) {
            return false;
        }
        let (copies, bytes) = (&self.copies[interest as usize], &self.bytes[interest as usize]);
        if !takes(copies, 1) || !takes(bytes, piece.bytes.len() as i64) {
            return false;
        }
        let waiting = match self.waiting.try_lock() {
            Ok(waiting) => Some(waiting),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            // The task takes them out, or another worker puts one in.
            Err(TryLockError::WouldBlock) => None,
        };
        let Some(mut waiting) = waiting else { return false };
        self.held.add(size);
        waiting.push(piece);
        true
    }
}

/// The end of a worker.
#[derive(Clone, Debug)]
pub struct TailTap {
    source: Arc<Source>,
    origin: Arc<Origin>,
}

impl TailTap {
    pub(super) fn new(source: Arc<Source>, origin: Arc<Origin>) -> TailTap {
        TailTap { source, origin }
    }

    /// The same for a worker of a listener, whose lines are read with these options.
    #[must_use]
    pub fn of_listener(&self, listener: &str, options: Options) -> TailTap {
        let origin = Origin { listener: listener.to_string(), options };
        TailTap { source: Arc::clone(&self.source), origin: Arc::new(origin) }
    }

    /// Whether somebody looks.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.source.is_on.load(Ordering::Relaxed)
    }

    /// Looks at the datagrams of a batch, or at whole lines of a stream: each with its sender, if that is known, and whether
    /// its last line is cut.
    pub fn look<'b>(&self, batch: TailBatch, datagrams: impl Iterator<Item = (&'b [u8], Option<SocketAddr>, bool)>) {
        let source = &self.source;
        source.begin(batch.at);
        let Ok(wanted) = source.wanted.try_read() else {
            source.unseen.fetch_add(batch.lines, Ordering::Relaxed);
            return;
        };
        let (mut count, mut unseen) = (0_u64, 0_u64);
        for (bytes, from, is_cut) in datagrams {
            count += 1;
            if source.looks.fetch_sub(1, Ordering::Relaxed) <= 0 {
                unseen += 1;
                continue;
            }
            let from = from.map(|from| from.ip().to_canonical());
            // A name may be cleaned before it is compared.
            let interest = wanted.interest(bytes, from, batch.is_malformed, self.origin.options.sanitize);
            if interest.is_some_and(|interest| !self.copy(batch.at, bytes, from, is_cut, interest)) {
                unseen += 1;
            }
        }
        if unseen > 0 {
            // Where a few of many were not looked at, their lines are those of an average one.
            source.unseen.fetch_add((batch.lines * unseen).div_ceil(count), Ordering::Relaxed);
        }
    }

    /// Looks at what is no line, for this reason.
    pub fn look_at_fragment(&self, at: f64, bytes: &[u8], from: Option<SocketAddr>, reason: Reason) {
        self.source.begin(at);
        let from = from.map(|from| from.ip().to_canonical());
        let bytes = &bytes[..bytes.len().min(MOST_PIECE)];
        if !self.put(at, bytes, from, Some(reason), Interest::Few) {
            self.source.unseen.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn copy(&self, at: f64, bytes: &[u8], from: Option<IpAddr>, is_cut: bool, interest: Interest) -> bool {
        let mut whole = bytes;
        if is_cut || bytes.len() > MOST_PIECE {
            let most = &bytes[..bytes.len().min(MOST_PIECE)];
            whole = &most[..memchr::memrchr(b'\n', most).map_or(0, |end| end + 1)];
        }
        let is_put = whole.is_empty() || self.put(at, whole, from, None, interest);
        if !is_cut {
            return is_put && whole.len() == bytes.len();
        }
        is_put && self.put(at, &bytes[whole.len()..], from, Some(Reason::TooLong), interest)
    }

    fn put(&self, at: f64, bytes: &[u8], from: Option<IpAddr>, broken: Option<Reason>, interest: Interest) -> bool {
        let piece = Piece { at, bytes: bytes.into(), from, origin: Arc::clone(&self.origin), broken };
        self.source.put(piece, interest)
    }
}
