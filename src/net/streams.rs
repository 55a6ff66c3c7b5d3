//! Streams, of TCP or unix sockets. One thread serves all connections of a listener and owns its shard, so that
//! connections share it without a lock; a sender that is too fast is slowed down by the transport itself.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use crate::aggregate::Shard;
use crate::protocol::Reason;
use crate::sys::unix_time;

use super::framing::{Chunk, Cutter};
use super::stream::{Acceptor, Stream};
use super::{Command, Others, Spec, count_bytes};

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
    others: Others,
    /// Where connections read into, each in its turn.
    scratch: RefCell<Box<[u8]>>,
}

pub(super) async fn run(
    spec: Spec,
    socket: &Arc<Socket>,
    shard: Shard,
    others: Others,
    mut inbox: mpsc::Receiver<Command>,
) {
    let listener = match Acceptor::new(socket, spec.transport) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot watch the socket; this listener reads nothing");
            return;
        }
    };
    let shared = Rc::new(Shared {
        spec,
        shard: RefCell::new(shard),
        others,
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
                        Some(Command::Do(question)) => question(&mut shared.shard.borrow_mut()),
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
    stream: Stream,
    from: Option<SocketAddr>,
    stop: &watch::Receiver<Option<Instant>>,
) {
    let allowed = shared.spec.allow.permits(from.map(|from| from.ip()));
    if !allowed || connections.len() >= shared.spec.max_connections {
        shared.shard.borrow_mut().tally().refused += 1;
        return;
    }
    shared.shard.borrow_mut().tally().connections += 1;
    connections.spawn_local(serve(Rc::clone(shared), stream, from, stop.clone()));
}

/// Reads a connection to its end.
async fn serve(
    shared: Rc<Shared>,
    stream: Stream,
    from: Option<SocketAddr>,
    mut stop: watch::Receiver<Option<Instant>>,
) {
    let spec = &shared.spec;
    let mut cutter = Cutter::new(spec.framing, spec.options.binary, spec.max_datagram);
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
            Ok(count) => {
                if !ingest(&shared, &mut cutter, count, from) {
                    // There is no way to find the next frame, or no line will come.
                    return;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    let Some(rest) = cutter.rest() else { return };
    let mut shard = shared.shard.borrow_mut();
    match rest {
        Chunk::Lines(rest) if ended => {
            // `printf 'x:1|c' | nc` ends without a newline and means a whole line.
            shard.tally().chunks += 1;
            let now = unix_time();
            shared.others.record(now, &rest, from, spec.transport.name());
            shard.ingest(&rest, &spec.options, from, now);
            shared.others.pass_on(&mut shard);
        }
        Chunk::Http(rest) => shard.refuse_fragment(&rest, Reason::HttpRequest, from),
        Chunk::Lines(rest) | Chunk::Frame(rest) | Chunk::TooLong(rest) | Chunk::Broken(rest) => {
            shard.refuse_fragment(&rest, Reason::BadFrame, from);
        }
    }
}

/// Ingests the first `count` bytes of the scratch buffer; `false` if the connection is beyond help.
fn ingest(shared: &Shared, cutter: &mut Cutter, count: usize, from: Option<SocketAddr>) -> bool {
    cutter.extend(&shared.scratch.borrow()[..count]);
    let mut shard = shared.shard.borrow_mut();
    count_bytes(shard.tally(), count);
    let now = unix_time();
    let (mut chunks, mut is_good) = (0, true);
    while let Some(chunk) = cutter.take() {
        match chunk {
            Chunk::Lines(bytes) => {
                chunks = 1;
                shared.others.record(now, &bytes, from, shared.spec.transport.name());
                shard.ingest(&bytes, &shared.spec.options, from, now);
            }
            Chunk::Frame(bytes) => {
                chunks += 1;
                shared.others.record(now, &bytes, from, shared.spec.transport.name());
                shard.ingest(&bytes, &shared.spec.options, from, now);
            }
            Chunk::TooLong(start) => shard.refuse_fragment(&start, Reason::TooLong, from),
            Chunk::Broken(bytes) => {
                shard.refuse_fragment(&bytes, Reason::BadFrame, from);
                is_good = false;
                break;
            }
            Chunk::Http(line) => {
                shard.refuse_fragment(&line, Reason::HttpRequest, from);
                is_good = false;
                break;
            }
        }
    }
    shared.others.pass_on(&mut shard);
    shard.tally().chunks += chunks;
    cutter.rest_easy();
    is_good
}
