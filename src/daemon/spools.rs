//! The folders that sinks spool to, kept in the state folder: a configuration that takes a spool from its sink, or puts it elsewhere,
//! must not make anybody forget what lies in the folder so far. The process that empties it may end before that is done, and the next
//! one knows nothing of that folder.
//!
//! The part `spools` is JSON: folders, each with the sink that spools there, or did last. A folder leaves it when no sink is to have it
//! and nothing waits there. All that asks a disk is done by a thread that nobody waits for: the disk of a folder that was given up
//! may be the reason for that.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::config::Config;
use crate::sinks::{is_spool_held, spooled_bytes};
use crate::state::{Discarded, Limits, StateFolder};
use crate::sys::yielding_thread;

/// The part.
pub(crate) const PART: &str = "spools";

/// Its format.
const FORMAT: u32 = 1;

/// How often the folders are looked at that no sink is to have.
const AGAIN: Duration = Duration::from_secs(10);

/// Sinks by folder.
pub(crate) type Folders = BTreeMap<PathBuf, String>;

/// What is in the bytes of the part.
pub(crate) fn decode(bytes: &[u8]) -> Option<Folders> {
    serde_json::from_slice(bytes).ok()
}

/// Those of a configuration.
fn configured(config: &Config) -> Folders {
    let of = |sink: &crate::config::Sink| Some((sink.spool.as_ref()?.path.clone(), sink.name.clone()));
    config.sinks.iter().filter_map(of).collect()
}

/// Notes the folders of a daemon; it ends with this.
#[derive(Debug)]
pub(super) struct KnownSpools(Sender<Folders>);

impl KnownSpools {
    /// Begins with those of this configuration, and those that are known from before.
    pub(super) fn start(config: &Config, state: &StateFolder) -> KnownSpools {
        let (configurations, changes) = channel();
        let (own, state) = (configured(config), state.clone());
        let watch = move || {
            yielding_thread();
            Noting::new(state, own).run(&changes);
        };
        if let Err(error) = std::thread::Builder::new().name("spools".into()).spawn(watch) {
            tracing::warn!(%error, "a thread for the folders of spools cannot be started");
        }
        KnownSpools(configurations)
    }

    /// Goes on with those of this configuration.
    pub(super) fn change(&self, next: &Config) {
        // Without the thread nothing is noted, which is logged.
        let _ = self.0.send(configured(next));
    }
}

/// What is to be said of a reload that takes folders, which these sinks have, from them while intervals wait there.
pub(super) fn taken(
    next: &Config,
    held: &[(String, PathBuf)],
    spooled: impl Fn(&str) -> u64,
) -> impl Iterator<Item = String> {
    let after = configured(next);
    let losing = held.iter().filter(move |(sink, folder)| after.get(folder) != Some(sink) && spooled(sink) > 0);
    losing.map(|(sink, folder)| {
        let is_there = next.sinks.iter().any(|one| one.name == *sink);
        let until = if is_there {
            "they are delivered before the sink does without that folder".into()
        } else {
            format!("the sink has {} s to deliver them", next.shutdown_grace.as_secs_f64())
        };
        format!(
            "sink {sink}: intervals wait in its spool {}: {until}; what is left there, or when the daemon ends before, is delivered once a \
             sink has the folder for its spool again",
            folder.display()
        )
    })
}

/// The thread.
struct Noting {
    state: StateFolder,
    configured: Folders,
    /// As they are in the part.
    known: Folders,
    /// Those in which intervals wait though no sink has them, as it was logged.
    left: Folders,
}

impl Noting {
    fn new(state: StateFolder, configured: Folders) -> Noting {
        let any_age = Limits { age: Duration::MAX, ..Limits::default() };
        let saved = state.read(PART, FORMAT, any_age);
        let known = saved.map_or_else(Folders::new, |saved| {
            decode(&saved.bytes).unwrap_or_else(|| {
                state.set_aside(PART, Discarded::Damaged, "it cannot be read");
                Folders::new()
            })
        });
        Noting { state, configured, known, left: Folders::new() }
    }

    /// Until nobody can change the configuration any more.
    fn run(mut self, changes: &Receiver<Folders>) {
        loop {
            self.look();
            match changes.recv_timeout(AGAIN) {
                Ok(next) => self.configured = next,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Notes what is configured, before any disk of a spool is asked, and says where intervals wait that no sink delivers.
    fn look(&mut self) {
        let mut known = self.known.clone();
        known.extend(self.configured.clone());
        self.write(known);
        let others = self.known.iter().filter(|(folder, _)| !self.configured.contains_key(*folder));
        let others: Vec<_> = others.map(|(folder, sink)| (folder.clone(), sink.clone())).collect();
        let (mut known, mut left) = (self.known.clone(), Folders::new());
        for (folder, sink) in others {
            match waits(&folder) {
                Ok(None) => {}
                Ok(Some(0)) => _ = known.remove(&folder),
                Ok(Some(bytes)) => {
                    if !self.left.contains_key(&folder) {
                        tracing::warn!(
                            sink,
                            folder = %folder.display(),
                            bytes,
                            "intervals wait in a folder that no sink spools to any more: they are delivered when a sink has it for its \
                             spool again"
                        );
                    }
                    left.insert(folder, sink);
                }
                // It may be back later.
                Err(error) => tracing::debug!(folder = %folder.display(), %error, "a folder of a spool cannot be read"),
            }
        }
        self.write(known);
        self.left.clone_from(&left);
        self.state.set_left_spools(left.into_iter().map(|(folder, sink)| (sink, folder)).collect());
    }

    fn write(&mut self, known: Folders) {
        if known == self.known {
            return;
        }
        // A problem is logged, and in the status.
        self.state.write(PART, FORMAT, |out| serde_json::to_writer(out, &known).map_err(io::Error::from));
        self.known = known;
    }
}

/// Bytes of intervals that wait in a folder; `None` while a sink, which is to leave it, has it still.
fn waits(folder: &Path) -> io::Result<Option<u64>> {
    match is_spool_held(folder) {
        Ok(true) => Ok(None),
        Ok(false) => spooled_bytes(folder).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(0)),
        Err(error) => Err(error),
    }
}
