//! A listener without sockets and threads, for simulations: lines are handed to its workers, which are tasks.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::aggregate::Shard;
use crate::protocol::Options;
use crate::supervise::{Role, Supervisor};
use crate::sys::unix_time;

use super::Transport;
use super::listener::{COMMANDS, Changes, Listener, Outlives, ReadDeadline, Worker, WorkerCommand};
use super::queue::Queues;

/// Where lines go in.
#[derive(Clone, Debug)]
pub struct SimulatedSocket {
    shard: Arc<Mutex<Shard>>,
    is_reading: Arc<AtomicBool>,
}

impl SimulatedSocket {
    /// Takes a datagram in; `false` if the worker reads nothing now, so that it waits where datagrams wait.
    pub fn receive(&self, lines: &[u8]) -> bool {
        let is_reading = self.is_reading.load(Ordering::Relaxed);
        if is_reading {
            let mut shard = self.shard();
            let tally = &mut shard.tally().listener;
            tally.datagrams += 1;
            tally.bytes += lines.len() as u64;
            shard.ingest(lines, &Options::default(), None, unix_time());
        }
        is_reading
    }

    fn shard(&self) -> MutexGuard<'_, Shard> {
        self.shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// A listener with a worker for each shard, on the current runtime.
    ///
    /// # Errors
    /// If this process may have no more descriptors.
    pub fn simulated(url: &str, shards: Vec<Shard>) -> io::Result<(Listener, Vec<SimulatedSocket>)> {
        let supervisor = Supervisor::default();
        let (mut workers, mut inlets) = (Vec::new(), Vec::new());
        for (n, shard) in shards.into_iter().enumerate() {
            let (commands, mut inbox) = mpsc::channel(COMMANDS);
            let inlet =
                SimulatedSocket { shard: Arc::new(Mutex::new(shard)), is_reading: Arc::new(AtomicBool::new(true)) };
            inlets.push(inlet.clone());
            tokio::spawn(async move {
                while let Some(command) = inbox.recv().await {
                    match command {
                        WorkerCommand::Run(question) => question(&mut inlet.shard()),
                        WorkerCommand::Stop(done) => {
                            inlet.is_reading.store(false, Ordering::Relaxed);
                            let _ = done.send(());
                        }
                        WorkerCommand::Pause(done) => {
                            inlet.is_reading.store(false, Ordering::Relaxed);
                            let _ = done.send(Vec::new());
                        }
                        // There are no connections.
                        WorkerCommand::Adopt(_) => {}
                        WorkerCommand::Resume => inlet.is_reading.store(true, Ordering::Relaxed),
                    }
                }
            });
            let thread = std::thread::spawn(|| ());
            while !thread.is_finished() {
                std::thread::yield_now();
            }
            let part = supervisor.part(&format!("worker:{n}"), Role::Essential);
            let (wake, changes) = (Arc::new(UnixStream::pair()?.0), Changes::default());
            workers.push(Worker { commands, wake, thread, part, changes, is_asked: Arc::default() });
        }
        let listener = Listener {
            url: url.to_string(),
            protocol: Options::default(),
            receive_buffer: 0,
            _file: None,
            transport: Transport::Tcp,
            sockets: Vec::new(),
            name: String::new(),
            is_kept: Outlives::default(),
            is_held: false,
            is_paused: false,
            workers,
            deadline: ReadDeadline::default(),
            queues: Arc::new(Queues::new(url, Transport::Tcp, &[])),
            drops_seen: Vec::new(),
            passed: 0,
            received: Arc::default(),
            received_seen: 0,
        };
        Ok((listener, inlets))
    }
}
