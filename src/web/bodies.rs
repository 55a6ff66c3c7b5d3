//! Bodies that are made while they are read: a client that does not read holds a few pieces, not the whole.
//!
//! A body is asked for its next piece when the connection has room for it; the piece is made on a thread for blocking work,
//! of which few are used at a time. What all bodies hold is bounded: their number, the number of different states that they
//! keep alive (an old snapshot that somebody still reads), and the bytes that they have for themselves. Where a bound is
//! reached, the body that waits longest for its reader gives way: what it holds is freed at once, and its connection ends
//! short of the whole, which the client sees. If none waits, the new request does, and is answered 503 in the end.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{error, with_type};

/// Size of a piece, in bytes. A connection has as much room for what is to be sent, so a client that does not read holds up
/// to two of them.
pub const PIECE: usize = 32 << 10;

/// Most large bodies at a time.
const MOST_BODIES: usize = 128;

/// Most different states that bodies keep alive.
const MOST_STATES: usize = 4;

/// Most bytes that bodies have for themselves; a single one may have more.
const MOST_BYTES: usize = 32 << 20;

/// Most threads that make pieces.
const MAKERS: usize = 2;

/// Most answers at a time for which everything is collected before it is written.
const TURNS: usize = 2;

/// A body that waits so long for its reader may be cut for another.
const STALLED: Duration = Duration::from_secs(2);

/// Longest wait of a request for its place.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two looks for one who stalls.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a body holds while it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A state, by its address, that others read as well.
    State(usize),
    /// So many bytes that nobody else has.
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

struct Shared {
    open: Mutex<Vec<Arc<Open>>>,
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

impl Default for Bodies {
    fn default() -> Bodies {
        Bodies(Arc::new(Shared {
            open: Mutex::default(),
            ended: Notify::new(),
            makers: Arc::new(Semaphore::new(MAKERS)),
            turns: Arc::new(Semaphore::new(TURNS)),
            cut: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
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
        while let Some(over) = over(&open, held) {
            let victims = longest_stalled(over, now)?;
            for victim in victims {
                self.cut.fetch_add(1, Ordering::Relaxed);
                // What it holds is freed here, however long its connection lives.
                let freed = victim.lock().source.take();
                open.retain(|open| !Arc::ptr_eq(open, &victim));
                drop(freed);
            }
        }
        let state = OpenState { source: source.take(), waits_since: Some(now) };
        let admitted = Arc::new(Open { held, state: Mutex::new(state) });
        open.push(Arc::clone(&admitted));
        Some(admitted)
    }
}

/// Groups of bodies of which one must give way before another is taken in; `None` if there is room.
fn over(open: &[Arc<Open>], held: Held) -> Option<Vec<Vec<Arc<Open>>>> {
    let each = |open: &mut dyn Iterator<Item = &Arc<Open>>| open.map(|one| vec![Arc::clone(one)]).collect();
    if open.len() >= MOST_BODIES {
        return Some(each(&mut open.iter()));
    }
    match held {
        Held::State(wanted) => {
            let mut groups: HashMap<usize, Vec<Arc<Open>>> = HashMap::new();
            for one in open {
                if let Held::State(state) = one.held
                    && state != wanted
                {
                    groups.entry(state).or_default().push(Arc::clone(one));
                }
            }
            (groups.len() >= MOST_STATES).then(|| groups.into_values().collect())
        }
        Held::Bytes(wanted) => {
            let of = |one: &Arc<Open>| if let Held::Bytes(bytes) = one.held { bytes } else { 0 };
            let sum: usize = open.iter().map(of).sum();
            let is_over = sum > 0 && sum + wanted > MOST_BYTES;
            is_over.then(|| each(&mut open.iter().filter(|one| of(one) > 0)))
        }
    }
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
        self.sliced(Held::State(body.as_ptr() as usize), kind, body).await
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
        let deadline = Instant::now() + PATIENCE;
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
        let open = Arc::clone(&this.open);
        let mut state = open.lock();
        let Some(source) = &mut state.source else {
            return Poll::Ready(Some(Err(io::Error::other("this answer was cut: its reader was too slow"))));
        };
        match source.as_mut().poll_next(cx) {
            Poll::Pending => {
                state.waits_since = None;
                Poll::Pending
            }
            Poll::Ready(None) => {
                this.is_whole = true;
                state.source = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(piece)) => {
                state.waits_since = Some(Instant::now());
                if let (Ok(piece), Some(left)) = (&piece, &mut this.left) {
                    *left = left.saturating_sub(piece.len() as u64);
                }
                Poll::Ready(Some(piece.map(Frame::data)))
            }
        }
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
        self.bodies.lock().retain(|open| !Arc::ptr_eq(open, &self.open));
        self.bodies.ended.notify_waiters();
    }
}
