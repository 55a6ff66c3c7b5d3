//! Bodies that are made while they are read: a client that does not read holds a few pieces, not the whole.
//!
//! A body is asked for its next piece when the connection has room for it; the piece is made on a thread for blocking work,
//! of which few are used at a time. What all bodies hold is bounded: their number, the number of different states that they
//! keep alive (an old snapshot that somebody still reads), and the bytes that they have for themselves. Where a bound is
//! reached, the body that waits longest for its reader gives way: what it holds is freed at once, and its connection ends
//! short of the whole, which the client sees. If none waits, the new request does, and is answered 503 in the end.
//!
//! A body that makes no progress for [`PATIENCE`] is cut in any case. When memory is short, those that keep an old state alive
//! are cut as soon as they stall, and then all that stall. When closed intervals come near to their share, those of old states
//! are cut at once: above it, intervals that wait for sinks would be dropped.

use std::collections::{HashMap, HashSet};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use crate::memory::{Holder, Holding, Level, Memory};
use crate::supervise::Part;

use super::{error, with_type};

/// Size of a piece, in bytes. A connection has as much room for what is to be sent, so a client that does not read holds up
/// to two of them.
pub const PIECE: usize = 32 << 10;

/// Most large bodies at a time.
const MOST_BODIES: usize = 128;

/// Most different states that bodies keep alive.
const MOST_STATES: usize = 4;

/// Most bytes that bodies have for themselves, and no more than their share of the memory; a single one may have more.
const MOST_BYTES: usize = 16 << 20;

/// Most threads that make pieces.
const MAKERS: usize = 2;

/// Most answers at a time for which everything is collected before it is written.
const TURNS: usize = 2;

/// A body that waits so long for its reader may be cut for another.
const STALLED: Duration = Duration::from_secs(2);

/// A body that waits so long for its reader is cut.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait of a request for its place.
const QUEUED: Duration = Duration::from_secs(10);

/// Time between two looks for bodies that waited too long.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// Time between two looks for one who stalls.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a body holds while it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A state, by its address, that others read as well, and the bytes of it that are accounted for nowhere else.
    State(usize, usize),
    /// So many bytes that nobody else has, beside the piece that is on its way.
    Bytes(usize),
}

/// Makes a body piece by piece.
pub trait Pieces: Send + 'static {
    /// Appends what comes next, about [`PIECE`] bytes of it. `false` when that was the last.
    fn append(&mut self, out: &mut Vec<u8>) -> bool;
}

type Source = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A body that is being sent.
struct Open {
    held: Held,
    state: Mutex<OpenState>,
}

struct OpenState {
    /// `None` when the body has ended, or was cut.
    source: Option<Source>,
    /// Since when the reader is waited for; `None` while a piece is made.
    waits_since: Option<Instant>,
    /// Bytes of the piece that is on its way.
    piece: usize,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, OpenState> {
        // A piece that panics leaves a body that ends short.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it waits for its reader.
    fn stalled(&self, now: Instant) -> Duration {
        self.lock().waits_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// What bodies held that were cut. A whole snapshot may go with the last of its readers, so it is freed where nobody waits:
/// neither under a lock nor on a thread that serves others.
#[derive(Default)]
struct Freed(Vec<Source>);

impl Drop for Freed {
    fn drop(&mut self) {
        let sources = std::mem::take(&mut self.0);
        if !sources.is_empty()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(sources));
        }
    }
}

struct Shared {
    open: Mutex<Vec<Arc<Open>>>,
    /// The state that was asked for last.
    newest: AtomicUsize,
    /// What bodies hold, and the pieces on their way.
    holding: Holding,
    pieces: Holding,
    /// One has ended.
    ended: Notify,
    makers: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    cut: AtomicU64,
    refused: AtomicU64,
}

/// The large bodies of a port. Cheap to clone.
#[derive(Clone)]
pub struct Bodies(Arc<Shared>);

impl Bodies {
    /// None yet; `part` looks after them. To be called inside a Tokio runtime.
    pub fn new(memory: &Memory, part: &Part) -> Bodies {
        let shared = Arc::new(Shared {
            open: Mutex::default(),
            newest: AtomicUsize::new(0),
            holding: memory.holding(Holder::HttpBodies),
            pieces: memory.holding(Holder::HttpBodies),
            ended: Notify::new(),
            makers: Arc::new(Semaphore::new(MAKERS)),
            turns: Arc::new(Semaphore::new(TURNS)),
            cut: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let swept = Arc::downgrade(&shared);
        let own = part.clone();
        part.keep_task(move || sweep(swept.clone(), own.clone()));
        Bodies(shared)
    }
}

/// Cuts who waited too long, until nobody has a body any more.
async fn sweep(shared: Weak<Shared>, part: Part) {
    loop {
        sleep(SWEEP_EVERY).await;
        part.alive();
        let Some(shared) = shared.upgrade() else { return };
        shared.cut_stalled();
    }
}

impl std::fmt::Debug for Bodies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bodies").field("open", &self.0.lock().len()).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Open>>> {
        // A list of handles is whole at any time.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a body in, if there is a place for it; cuts who stalls to make one.
    fn admit(&self, held: Held, source: &mut Option<Source>) -> Option<Arc<Open>> {
        let mut open = self.lock();
        let now = Instant::now();
        let most_bytes = MOST_BYTES.min(usize::try_from(self.holding.cap()).unwrap_or(usize::MAX));
        let mut freed = Freed::default();
        while let Some(over) = over(&open, held, most_bytes) {
            for victim in longest_stalled(over, now)? {
                freed.0.extend(self.cut(&mut open, &victim));
            }
        }
        if let Held::State(state, _) = held {
            self.newest.store(state, Ordering::Relaxed);
        }
        let state = OpenState { source: source.take(), waits_since: Some(now), piece: 0 };
        let admitted = Arc::new(Open { held, state: Mutex::new(state) });
        open.push(Arc::clone(&admitted));
        self.holding.set(bytes(&open) as u64);
        Some(admitted)
    }

    /// Ends a body short of the whole. What it holds comes back to be freed, however long its connection lives.
    fn cut(&self, open: &mut Vec<Arc<Open>>, victim: &Arc<Open>) -> Option<Source> {
        self.cut.fetch_add(1, Ordering::Relaxed);
        self.leave(open, victim);
        victim.lock().source.take()
    }

    fn cut_stalled(&self) {
        let (now, newest) = (Instant::now(), self.newest.load(Ordering::Relaxed));
        let memory = self.holding.memory();
        let level = memory.level();
        // Above its share, intervals that wait for sinks are dropped. Who reads an old one gives way before that.
        let is_crowded = memory.bytes(Holder::ClosedIntervals) > memory.cap(Holder::ClosedIntervals) / 3 * 2;
        let patience = |open: &Open| match open.held {
            Held::State(state, _) if state != newest && is_crowded => Duration::ZERO,
            Held::State(..) if is_crowded => STALLED,
            Held::State(state, _) if state != newest && level >= Level::Caches => STALLED,
            _ if level >= Level::Samples => STALLED,
            _ => PATIENCE,
        };
        let mut freed = Freed::default();
        let mut open = self.lock();
        let stalled = open.iter().filter(|open| open.stalled(now) >= patience(open));
        for victim in stalled.cloned().collect::<Vec<_>>() {
            freed.0.extend(self.cut(&mut open, &victim));
        }
    }

    fn leave(&self, open: &mut Vec<Arc<Open>>, one: &Arc<Open>) {
        open.retain(|open| !Arc::ptr_eq(open, one));
        self.holding.set(bytes(open) as u64);
    }

    /// Publishes that the piece of a body that is on its way has so many bytes.
    fn publish(&self, open: &Open, piece: usize) {
        let before = std::mem::replace(&mut open.lock().piece, piece);
        self.pieces.add(piece as u64);
        self.pieces.sub(before as u64);
    }
}

/// What bodies hold together: of a state that several read it counts once.
fn bytes(open: &[Arc<Open>]) -> usize {
    let mut states = HashSet::new();
    let of = |open: &Arc<Open>| match open.held {
        Held::State(state, bytes) => {
            if states.insert(state) {
                bytes
            } else {
                0
            }
        }
        Held::Bytes(bytes) => bytes,
    };
    open.iter().map(of).sum()
}

/// Groups of bodies of which one must give way before another is taken in; `None` if there is room. Those that read the same
/// state give way together: one alone frees nothing.
fn over(open: &[Arc<Open>], held: Held, most_bytes: usize) -> Option<Vec<Vec<Arc<Open>>>> {
    if open.len() >= MOST_BODIES {
        return Some(open.iter().map(|one| vec![Arc::clone(one)]).collect());
    }
    let (mut states, mut own) = (HashMap::<usize, Vec<Arc<Open>>>::new(), Vec::new());
    for one in open {
        match one.held {
            Held::State(state, _) => states.entry(state).or_default().push(Arc::clone(one)),
            Held::Bytes(_) => own.push(vec![Arc::clone(one)]),
        }
    }
    let wanted = match held {
        // It is here already.
        Held::State(state, _) if states.contains_key(&state) => return None,
        Held::State(..) if states.len() >= MOST_STATES => return Some(states.into_values().collect()),
        Held::State(_, bytes) | Held::Bytes(bytes) => bytes,
    };
    let sum = bytes(open);
    let is_over = wanted > 0 && sum > 0 && sum + wanted > most_bytes;
    is_over.then(|| states.into_values().chain(own).filter(|group| bytes(group) > 0).collect())
}

/// The group whose most diligent reader is waited for longest, if that is long enough.
fn longest_stalled(groups: Vec<Vec<Arc<Open>>>, now: Instant) -> Option<Vec<Arc<Open>>> {
    let least = |group: &[Arc<Open>]| group.iter().map(|open| open.stalled(now)).min().unwrap_or_default();
    let stalled = groups.into_iter().map(|group| (least(&group), group)).max_by_key(|(stalled, _)| *stalled);
    stalled.filter(|(stalled, _)| *stalled >= STALLED).map(|(_, group)| group)
}

impl Bodies {
    /// Bodies that were cut for another because their readers were slow, and requests that found no place.
    pub fn counts(&self) -> (u64, u64) {
        // Counts on their own: nothing else is published through them.
        (self.0.cut.load(Ordering::Relaxed), self.0.refused.load(Ordering::Relaxed))
    }

    /// For what belongs to the bodies of several.
    pub fn holding(&self) -> Holding {
        self.0.holding.memory().holding(Holder::HttpBodies)
    }

    /// Waits until it is one's turn to collect much; it ends when what is returned is dropped.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.0.turns).acquire_owned().await.ok()
    }

    /// Does work that takes a while, on one of few threads.
    ///
    /// # Errors
    /// If it panics.
    pub async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Response> {
        let made = make(&self.0.makers, work).await;
        made.map_err(|_| error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this could not be written"))
    }

    /// A body that is made while it is read.
    ///
    /// # Errors
    /// If there is no place for it.
    pub async fn made(&self, held: Held, kind: &'static str, pieces: impl Pieces) -> Result<Response, Response> {
        let makers = Arc::clone(&self.0.makers);
        let source = stream::unfold(Some(pieces), move |pieces| {
            let makers = Arc::clone(&makers);
            async move {
                let mut pieces = pieces?;
                let append = move || {
                    let mut out = Vec::with_capacity(PIECE + PIECE / 8);
                    let is_more = pieces.append(&mut out);
                    (Bytes::from(out), is_more.then_some(pieces))
                };
                Some(match make(&makers, append).await {
                    Ok((piece, rest)) => (Ok(piece), rest),
                    Err(error) => (Err(error), None),
                })
            }
        });
        self.streamed(held, kind, source).await
    }

    /// A body of pieces that come by themselves, none larger than a few times [`PIECE`].
    ///
    /// # Errors
    /// If there is no place for it.
    pub async fn streamed(
        &self,
        held: Held,
        kind: &'static str,
        source: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Response, Response> {
        self.open(held, kind, None, Box::pin(source)).await
    }

    /// A body that is in memory, for itself.
    ///
    /// # Errors
    /// If there is no place for it.
    pub async fn whole(&self, kind: &'static str, body: impl Into<Bytes>) -> Result<Response, Response> {
        let body = body.into();
        self.sliced(Held::Bytes(body.len()), kind, body).await
    }

    /// A body that is in memory, and that others are sent as well: of it no more is copied than the piece on its way.
    ///
    /// # Errors
    /// If there is no place for it.
    pub async fn shared(&self, kind: &'static str, body: Bytes) -> Result<Response, Response> {
        self.sliced(Held::State(body.as_ptr() as usize, body.len()), kind, body).await
    }

    async fn sliced(&self, held: Held, kind: &'static str, body: Bytes) -> Result<Response, Response> {
        if body.len() <= PIECE {
            return Ok(with_type(kind, body));
        }
        let length = body.len() as u64;
        let source = stream::unfold(body, |mut rest| async move {
            let piece = rest.split_to(PIECE.min(rest.len()));
            // A slice would keep the whole in memory as long as it waits to be sent, also when the body was cut.
            let piece = Bytes::copy_from_slice(&piece);
            (!piece.is_empty()).then_some((Ok(piece), rest))
        });
        self.open(held, kind, Some(length), source.boxed()).await
    }

    async fn open(
        &self,
        held: Held,
        kind: &'static str,
        length: Option<u64>,
        source: Source,
    ) -> Result<Response, Response> {
        let deadline = Instant::now() + QUEUED;
        let mut source = Some(source);
        loop {
            let ended = self.0.ended.notified();
            if let Some(open) = self.0.admit(held, &mut source) {
                let body = OpenBody { open, bodies: Arc::clone(&self.0), left: length, is_whole: false };
                return Ok(with_type(kind, Body::new(body)));
            }
            if Instant::now() >= deadline {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                let message = "too many large answers are being sent; ask again in a moment";
                return Err(error(StatusCode::SERVICE_UNAVAILABLE, "busy", message));
            }
            // Whether one ended, or it is time to look who stalls.
            let _ = timeout(LOOK_EVERY, ended).await;
        }
    }
}

async fn make<T: Send + 'static>(makers: &Arc<Semaphore>, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let maker = Arc::clone(makers).acquire_owned().await.map_err(io::Error::other)?;
    let made = spawn_blocking(move || {
        let _maker = maker;
        work()
    });
    made.await.map_err(io::Error::other)
}

/// What hyper asks for the next piece.
struct OpenBody {
    open: Arc<Open>,
    bodies: Arc<Shared>,
    /// Bytes to come, where that is known.
    left: Option<u64>,
    is_whole: bool,
}

impl HttpBody for OpenBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.is_whole {
            return Poll::Ready(None);
        }
        let polled = {
            let mut state = this.open.lock();
            let Some(source) = &mut state.source else {
                return Poll::Ready(Some(Err(io::Error::other("this answer was cut: its reader was too slow"))));
            };
            let polled = source.as_mut().poll_next(cx);
            state.waits_since = polled.is_ready().then(Instant::now);
            if let Poll::Ready(None) = polled {
                state.source = None;
            }
            polled
        };
        match polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => this.is_whole = true,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(Some(Ok(piece))) => {
                this.bodies.publish(&this.open, piece.len());
                if let Some(left) = &mut this.left {
                    *left = left.saturating_sub(piece.len() as u64);
                }
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.is_whole
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for OpenBody {
    fn drop(&mut self) {
        self.bodies.leave(&mut self.bodies.lock(), &self.open);
        // Its reader has gone before the end.
        drop(Freed(self.open.lock().source.take().into_iter().collect()));
        self.bodies.publish(&self.open, 0);
        self.bodies.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use http_body_util::BodyExt;

    use super::*;

    const KIND: &str = "text/plain";

    /// Pieces without end.
    struct Endless;

    impl Pieces for Endless {
        fn append(&mut self, out: &mut Vec<u8>) -> bool {
            out.resize(PIECE, b'x');
            true
        }
    }

    fn bodies() -> (Bodies, Memory) {
        let memory = Memory::new(1 << 30);
        (Bodies::new(&memory, &Part::new("bodies")), memory)
    }

    /// Reads the next piece: its length, 0 at the end, `None` if the body was cut.
    async fn read(response: &mut Response) -> Option<usize> {
        match response.body_mut().frame().await {
            None => Some(0),
            Some(Ok(frame)) => Some(frame.into_data().map_or(0, |data| data.len())),
            Some(Err(_)) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stalls_longest_gives_way_when_all_places_are_taken() {
        let (bodies, memory) = bodies();
        let open = || bodies.made(Held::State(1, 0), KIND, Endless);
        let mut all: Vec<Response> =
            join_all((0..MOST_BODIES).map(|_| open())).await.into_iter().map(|one| one.expect("a place")).collect();
        for response in &mut all {
            assert_eq!(read(response).await, Some(PIECE));
        }
        assert_eq!(memory.bytes(Holder::HttpBodies), (MOST_BODIES * PIECE) as u64);
        sleep(STALLED / 2).await;
        // All but the first read on.
        for response in &mut all[1..] {
            assert_eq!(read(response).await, Some(PIECE));
        }
        let began = Instant::now();
        let mut late = open().await.expect("a place in the end");
        let waited = began.elapsed();
        assert!((STALLED / 2..STALLED).contains(&(waited + LOOK_EVERY)), "{waited:?}");
        assert_eq!(read(&mut late).await, Some(PIECE));
        assert_eq!(read(&mut all[0]).await, None);
        assert_eq!(read(&mut all[1]).await, Some(PIECE));
        assert_eq!(bodies.counts(), (1, 0));
        drop((all, late));
        assert_eq!(memory.bytes(Holder::HttpBodies), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_place_is_told_so_in_the_end() {
        let (bodies, _) = bodies();
        let open = || bodies.made(Held::State(1, 0), KIND, Endless);
        let mut all: Vec<Response> =
            join_all((0..MOST_BODIES).map(|_| open())).await.into_iter().map(|one| one.expect("a place")).collect();
        let reading = async {
            loop {
                for response in &mut all {
                    assert_eq!(read(response).await, Some(PIECE));
                }
                sleep(STALLED / 4).await;
            }
        };
        let refused = tokio::select! {
            refused = open() => refused,
            () = reading => unreachable!("it has no end"),
        };
        assert_eq!(refused.expect_err("no place").status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(bodies.counts(), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn of_old_states_no_more_than_a_few_are_kept_alive() {
        let (bodies, _) = bodies();
        let open = |state| bodies.made(Held::State(state, 0), KIND, Endless);
        let mut all = Vec::new();
        for state in 0..MOST_STATES {
            // Two that read the same are one state.
            all.push(open(state).await.expect("a place"));
            all.push(open(state).await.expect("a place"));
            sleep(STALLED).await;
        }
        // One reader of the oldest goes on, so it is the next that nobody reads.
        assert_eq!(read(&mut all[0]).await, Some(PIECE));
        let mut newest = open(MOST_STATES).await.expect("a place");
        assert_eq!(read(&mut newest).await, Some(PIECE));
        for (n, response) in all.iter_mut().enumerate() {
            assert_eq!(read(response).await.is_none(), n == 2 || n == 3, "{n}");
        }
        assert_eq!(bodies.counts(), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_bodies_have_for_themselves_is_bounded_and_a_single_one_may_be_large() {
        let (bodies, memory) = bodies();
        let whole = |bytes: usize| bodies.whole(KIND, vec![0; bytes]);
        let mut large = whole(2 * MOST_BYTES).await.expect("the only one");
        assert_eq!(memory.bytes(Holder::HttpBodies), 2 * MOST_BYTES as u64);
        // Small ones need no place.
        assert_eq!(whole(PIECE).await.expect("small").status(), StatusCode::OK);
        let mut other = whole(PIECE + 1).await.expect("a place when the large one stalls");
        assert_eq!(read(&mut large).await, None);
        assert_eq!((read(&mut other).await, read(&mut other).await), (Some(PIECE), Some(1)));
        assert_eq!(read(&mut other).await, Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_makes_no_progress_is_cut_and_sooner_when_memory_is_short() {
        let (bodies, memory) = bodies();
        let open = |state| bodies.made(Held::State(state, 0), KIND, Endless);
        let (mut old, mut new) = (open(1).await.expect("a place"), open(2).await.expect("a place"));
        sleep(PATIENCE / 2).await;
        assert!(read(&mut old).await.is_some() && read(&mut new).await.is_some());
        memory.set_level(Level::Caches);
        sleep(STALLED + 2 * SWEEP_EVERY).await;
        assert_eq!(read(&mut old).await, None);
        assert_eq!(read(&mut new).await, Some(PIECE));
        memory.set_level(Level::Calm);
        sleep(PATIENCE + 2 * SWEEP_EVERY).await;
        assert_eq!(read(&mut new).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn readers_of_old_intervals_are_cut_before_sinks_have_to_drop_any() {
        let (bodies, memory) = bodies();
        let open = |state| bodies.made(Held::State(state, 0), KIND, Endless);
        let (mut old, mut new) = (open(1).await.expect("a place"), open(2).await.expect("a place"));
        let closed = memory.holding(Holder::ClosedIntervals);
        closed.set(closed.cap() / 2);
        sleep(2 * SWEEP_EVERY).await;
        assert!(read(&mut old).await.is_some() && read(&mut new).await.is_some());
        closed.set(closed.cap() / 4 * 3);
        assert!(!closed.is_over());
        // The old one is read all the time, and is cut nevertheless.
        sleep(2 * SWEEP_EVERY).await;
        assert_eq!((read(&mut old).await, read(&mut new).await), (None, Some(PIECE)));
    }

    /// Notes which thread frees it, and whether the list of bodies could be locked meanwhile.
    struct Noting(Weak<Shared>, std::sync::mpsc::Sender<(std::thread::ThreadId, bool)>);

    impl Pieces for Noting {
        fn append(&mut self, out: &mut Vec<u8>) -> bool {
            out.resize(PIECE, b'x');
            true
        }
    }

    impl Drop for Noting {
        fn drop(&mut self) {
            let is_unlocked = self.0.upgrade().is_some_and(|shared| shared.open.try_lock().is_ok());
            let _ = self.1.send((std::thread::current().id(), is_unlocked));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_body_held_that_is_cut_is_freed_where_nobody_waits() {
        let (bodies, _) = bodies();
        let (told, heard) = std::sync::mpsc::channel();
        let noting = Noting(Arc::downgrade(&bodies.0), told);
        let mut response = bodies.made(Held::State(1, 0), KIND, noting).await.expect("a place");
        assert_eq!(read(&mut response).await, Some(PIECE));
        sleep(PATIENCE + 2 * SWEEP_EVERY).await;
        let (thread, is_unlocked) = heard.recv_timeout(Duration::from_secs(20)).expect("it is freed");
        assert!(thread != std::thread::current().id() && is_unlocked);
    }
}
