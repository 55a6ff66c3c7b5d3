//! Lines as they arrive, for whoever looks at them: sampled, bounded, and free when nobody does.
//!
//! A receive worker asks once a batch whether somebody looks ([`TailTap::is_on`], one relaxed load). If so it looks at some of
//! the datagrams, at most so many in 10 ms, and copies those that may be wanted into a bounded queue, without ever waiting.
//! Everything else happens in a task ([`Tail::run`]): lines are cut, read by the parser and the settings of their listener,
//! and given to those who want them, at most [`MOST_PER_SECOND`] a second each. What was not looked at and what was not shown
//! is counted for them. Nothing of it changes what is received: it is no loss, and stands in no ledger.
//!
//! | file | does |
//! |---|---|
//! | `tap` | the end of the workers |
//! | `filter` | which lines are wanted |
//! | `verdict` | what a line is |
//! | `reader` | the end of those who look |

mod filter;
mod reader;
mod tap;
mod verdict;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::aggregate::TimeWindow;
use crate::memory::{Holder, Memory};
use crate::protocol::{Heartbeats, Options};
use crate::supervise::Part;

pub use filter::Filter;
pub use reader::{TailItem, TailLine, TailReader};
pub use tap::{TailBatch, TailTap};

use filter::Wanted;
use reader::Client;
use tap::{Origin, Source};
use verdict::Reading;

/// Most who look at a time.
pub const MOST_CLIENTS: usize = 8;

/// Most lines that are shown to one of them in a second.
pub const MOST_PER_SECOND: u32 = 100;

/// How often what was copied is read.
const EVERY: Duration = Duration::from_millis(50);

/// How often the task gives a sign of life while nobody looks.
const IDLE: Duration = Duration::from_secs(5);

/// How often those who look are told how much they do not see.
const SKIPPED_EVERY: Duration = Duration::from_secs(1);

/// The tail of a daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tail(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: Arc<Source>,
    clients: Mutex<Vec<Arc<Client>>>,
    came: Notify,
    reading: Mutex<Arc<Reading>>,
    memory: Memory,
}

impl Default for Tail {
    fn default() -> Tail {
        Tail::new(None, TimeWindow::ANY, &Memory::unlimited())
    }
}

impl Tail {
    /// One that nobody looks at. `heartbeats` are what presence reads, and hides keys; `times` are the accepted timestamps.
    pub fn new(heartbeats: Option<Heartbeats>, times: TimeWindow, memory: &Memory) -> Tail {
        Tail(Arc::new(Shared {
            source: Arc::new(Source::new(memory.holding(Holder::HttpBodies))),
            clients: Mutex::default(),
            came: Notify::new(),
            reading: Mutex::new(Arc::new(Reading { heartbeats, times })),
            memory: memory.clone(),
        }))
    }

    /// Reads lines in this way from now on.
    pub fn read_as(&self, heartbeats: Option<Heartbeats>, times: TimeWindow) {
        *self.reading() = Arc::new(Reading { heartbeats, times });
    }

    fn reading(&self) -> MutexGuard<'_, Arc<Reading>> {
        // A handle is whole at any time.
        self.0.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of a worker of a listener, whose lines are read with these options.
    pub fn tap(&self) -> TailTap {
        TailTap::new(
            Arc::clone(&self.0.source),
            Arc::new(Origin { listener: String::new(), options: Options::default() }),
        )
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Client>>> {
        // A list of handles is whole at any time.
        self.0.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at lines, at most `limit` if there is one; `None` if too many look already.
    pub fn open(&self, filter: Filter, limit: Option<u64>) -> Option<TailReader> {
        let mut clients = self.lock();
        if clients.len() >= MOST_CLIENTS {
            return None;
        }
        let client = Arc::new(Client::new(filter, limit));
        clients.push(Arc::clone(&client));
        self.publish(&clients);
        self.0.came.notify_one();
        Some(TailReader::new(client, self.clone()))
    }

    /// One who looked has left.
    fn leave(&self, client: &Arc<Client>) {
        let mut clients = self.lock();
        clients.retain(|one| !Arc::ptr_eq(one, client));
        self.publish(&clients);
    }

    /// Says to the workers what is wanted.
    fn publish(&self, clients: &[Arc<Client>]) {
        let source = &self.0.source;
        *source.wanted.write().unwrap_or_else(PoisonError::into_inner) =
            Wanted::of(clients.iter().map(|client| &client.filter));
        source.is_on.store(!clients.is_empty(), Ordering::Relaxed);
    }

    /// Reads what workers copy, and hands it on, until `stop` turns true; for the task that is this part of the daemon.
    pub async fn run(self, part: Part, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.go_on(&part) => {}
            // An error means that whoever could stop us is gone, which is a stop too.
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn go_on(&self, part: &Part) {
        loop {
            part.alive();
            if self.lock().is_empty() {
                // Left from the last who looked.
                drop(self.0.source.take());
                // A sign of life is due now and then.
                let _ = timeout(IDLE, self.0.came.notified()).await;
            }
            let mut last = Instant::now();
            while !self.lock().is_empty() {
                sleep(EVERY).await;
                part.alive();
                let is_due = last.elapsed() >= SKIPPED_EVERY;
                if is_due {
                    last = Instant::now();
                }
                self.hand_on(is_due);
            }
        }
    }

    /// Hands what was copied since the last time to those who want it; `is_due` if they are also told what they do not see.
    fn hand_on(&self, is_due: bool) {
        let (clients, reading) = (self.lock().clone(), Arc::clone(&self.reading()));
        let (pieces, unseen) = self.0.source.take();
        clients.iter().for_each(|client| client.begin_turn(EVERY, unseen));
        for piece in &pieces {
            reading.lines(piece, |line, verdict| {
                let mut shown = None;
                for client in clients.iter().filter(|client| client.filter.wants(line, &verdict, piece.from)) {
                    if client.has_room() {
                        let shown = shown.get_or_insert_with(|| {
                            Arc::new(TailLine::new(piece, line, &verdict, &reading, &self.0.memory))
                        });
                        client.put(Arc::clone(shown));
                    } else {
                        client.skip(1);
                    }
                }
            });
        }
        if is_due {
            clients.iter().for_each(|client| client.tell_skipped());
        }
    }
}

#[cfg(test)]
mod tests;
