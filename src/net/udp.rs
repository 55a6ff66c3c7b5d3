//! UDP: each worker reads its socket in batches. Between turns it looks at its commands; a turn is bounded.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use socket2::Socket;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::aggregate::Shard;
use crate::protocol::Reason;
use crate::sys::{Batch, unix_time};

use super::{Command, Spec, close, count_bytes};

/// Batches read before the worker looks at its commands again.
const BATCHES_A_TURN: usize = 16;

/// Datagrams of an interval whose senders are asked for in any case.
const DATAGRAMS_WITH_SENDERS: u64 = 10_000;

pub(super) async fn run(spec: &Spec, socket: &Arc<Socket>, mut shard: Shard, mut inbox: mpsc::Receiver<Command>) {
    let watched = socket.try_clone().map(std::net::UdpSocket::from).and_then(UdpSocket::from_std);
    let watched = match watched {
        Ok(watched) => watched,
        Err(error) => {
            tracing::error!(%error, "cannot watch the socket; this listener reads nothing");
            return;
        }
    };
    let mut batch = Batch::new();
    let mut stopped = false;
    loop {
        tokio::select! {
            biased;
            command = inbox.recv() => match command {
                Some(Command::Close { retire, spare, reply }) => close(&mut shard, &retire, *spare, reply),
                Some(Command::Stop { deadline, done }) => {
                    drain(spec, socket, &mut batch, &mut shard, deadline);
                    stopped = true;
                    let _ = done.send(());
                }
                None => return,
            },
            ready = watched.readable(), if !stopped => {
                if ready.is_err() {
                    return;
                }
                for _ in 0..BATCHES_A_TURN {
                    match watched.try_io(Interest::READABLE, || read(spec, socket, &mut batch, &mut shard)) {
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => {
                            // An ICMP error that a peer provoked, say: it concerns no datagram of ours.
                            tracing::debug!(%error, "receive failed");
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// Reads and ingests one batch.
fn read(spec: &Spec, socket: &Socket, batch: &mut Batch, shard: &mut Shard) -> io::Result<()> {
    // A sender costs 30 ns a datagram, so they are only asked for where somebody looks: at an allow-list, at the
    // first datagrams of an interval, and from a malformed line on until one with its sender can be told.
    let with_senders = spec.allow.is_restricted()
        || shard.tally().datagrams < DATAGRAMS_WITH_SENDERS
        || shard.lacks_sender_of_example();
    batch.receive(socket.as_raw_fd(), with_senders)?;
    let now = unix_time();
    for datagram in batch.datagrams() {
        shard.tally().datagrams += 1;
        count_bytes(shard.tally(), datagram.bytes.len());
        if !spec.allow.permits(datagram.from.map(|from| from.ip())) {
            shard.tally().refused += 1;
            continue;
        }
        let mut bytes = datagram.bytes;
        if datagram.truncated || bytes.len() > spec.max_datagram {
            // The whole lines are good; the last was cut and might read as something it is not.
            bytes = &bytes[..bytes.len().min(spec.max_datagram)];
            shard.tally().truncated += 1;
            let whole = memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1);
            shard.refuse_fragment(&bytes[whole..], Reason::TooLong, datagram.from);
            bytes = &bytes[..whole];
        }
        shard.ingest(bytes, &spec.options, datagram.from, now);
    }
    Ok(())
}

/// Reads until the kernel holds nothing more, or until the deadline.
fn drain(spec: &Spec, socket: &Socket, batch: &mut Batch, shard: &mut Shard, deadline: Instant) {
    loop {
        match read(spec, socket, batch, shard) {
            Ok(()) if Instant::now() < deadline => {}
            Ok(()) => {
                tracing::warn!("senders did not pause; datagrams still queued at the deadline are lost");
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
