//! TCP: lines over streams. One thread serves all connections of a listener and owns its shard, so that
//! connections share it without a lock; a sender that is too fast is slowed down by TCP itself.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use crate::aggregate::Shard;
use crate::protocol::Reason;
use crate::sys::unix_time;
use crate::vigil::Vigil;

use super::framing::{Chunk, LineBuffer};
use super::{Command, Spec, close, count_bytes, pass_on};

/// While stopping, a connection that is silent for so long has been read to its end.
const QUIET: Duration = Duration::from_millis(100);

/// Bytes read from a connection before the others have their turn.
const READ_BYTES: usize = 64 << 10;

/// Pause after a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection of a listener shares.
struct Shared {
    spec: Spec,
    shard: RefCell<Shard>,
    vigil: Option<Vigil>,
    /// Where connections read into, each in its turn.
    scratch: RefCell<Box<[u8]>>,
}

pub(super) async fn run(
    spec: Spec,
    socket: &Arc<Socket>,
    shard: Shard,
    vigil: Option<Vigil>,
    mut inbox: mpsc::Receiver<Command>,
) {
    let listener = socket.try_clone().map(std::net::TcpListener::from).and_then(TcpListener::from_std);
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot watch the socket; this listener reads nothing");
            return;
        }
    };
    let shared = Rc::new(Shared {
        spec,
        shard: RefCell::new(shard),
        vigil,
        scratch: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
    });
    let (stopping, stop) = watch::channel(None::<Instant>);
    let mut connections = JoinSet::new();
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            loop {
                tokio::select! {
                    biased;
                    command = inbox.recv() => match command {
                        Some(Command::Close { retire, spare, reply }) => {
                            close(&mut shared.shard.borrow_mut(), &retire, *spare, reply);
                        }
                        Some(Command::Stop { deadline, done }) => {
                            // Connections that the kernel completed already may hold data.
                            while let Ok(Ok((stream, from))) = timeout(Duration::from_millis(1), listener.accept()).await {
                                admit(&shared, &mut connections, stream, from, &stop);
                            }
                            let _ = stopping.send(Some(deadline));
                            while connections.join_next().await.is_some() {}
                            let _ = done.send(());
                        }
                        None => return,
                    },
                    accepted = listener.accept(), if stopping.borrow().is_none() => match accepted {
                        Ok((stream, from)) => admit(&shared, &mut connections, stream, from, &stop),
                        Err(error) => {
                            tracing::warn!(%error, "cannot accept a connection");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    },
                    Some(ended) = connections.join_next() => {
                        if let Err(error) = ended {
                            tracing::error!(%error, "a connection failed; what it had not read is lost");
                        }
                    }
                }
            }
        })
        .await;
}

fn admit(
    shared: &Rc<Shared>,
    connections: &mut JoinSet<()>,
    stream: TcpStream,
    from: SocketAddr,
    stop: &watch::Receiver<Option<Instant>>,
) {
    let allowed = shared.spec.allow.permits(Some(from.ip()));
    if !allowed || connections.len() >= shared.spec.max_connections {
        shared.shard.borrow_mut().tally().refused += 1;
        return;
    }
    shared.shard.borrow_mut().tally().connections += 1;
    connections.spawn_local(serve(Rc::clone(shared), stream, from, stop.clone()));
}

/// Reads a connection to its end.
async fn serve(shared: Rc<Shared>, stream: TcpStream, from: SocketAddr, mut stop: watch::Receiver<Option<Instant>>) {
    let spec = &shared.spec;
    let mut lines = LineBuffer::new(spec.max_datagram);
    let mut ended = false;
    loop {
        let deadline = *stop.borrow_and_update();
        let patience = match deadline {
            Some(deadline) if Instant::now() >= deadline => break,
            Some(_) => QUIET,
            None => spec.idle_timeout,
        };
        let ready = tokio::select! {
            ready = timeout(patience, stream.readable()) => ready,
            _ = stop.changed(), if deadline.is_none() => continue,
        };
        if !matches!(ready, Ok(Ok(()))) {
            break;
        }
        let read = stream.try_read(&mut shared.scratch.borrow_mut());
        match read {
            Ok(0) => {
                ended = true;
                break;
            }
            Ok(count) => ingest(&shared, &mut lines, count, from),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    if let Some(rest) = lines.rest() {
        let mut shard = shared.shard.borrow_mut();
        if ended {
            // `printf 'x:1|c' | nc` ends without a newline and means a whole line.
            shard.tally().chunks += 1;
            shard.ingest(&rest, &spec.options, Some(from), unix_time());
            pass_on(&mut shard, shared.vigil.as_ref());
        } else {
            shard.refuse_fragment(&rest, Reason::BadFrame, Some(from));
        }
    }
}

/// Ingests the first `count` bytes of the scratch buffer.
fn ingest(shared: &Shared, lines: &mut LineBuffer, count: usize, from: SocketAddr) {
    lines.extend(&shared.scratch.borrow()[..count]);
    let mut shard = shared.shard.borrow_mut();
    count_bytes(shard.tally(), count);
    let now = unix_time();
    let mut whole = false;
    while let Some(chunk) = lines.take() {
        match chunk {
            Chunk::Lines(bytes) => {
                whole = true;
                shard.ingest(&bytes, &shared.spec.options, Some(from), now);
            }
            Chunk::TooLong(start) => shard.refuse_fragment(&start, Reason::TooLong, Some(from)),
        }
    }
    pass_on(&mut shard, shared.vigil.as_ref());
    shard.tally().chunks += u64::from(whole);
    lines.rest_easy();
}
