//! The trial before an upgrade: what this process is to save for the next one is written beside what is there, while it goes on as
//! ever. So it is known that it can be saved while all of it is still here; and the room stays taken until the next process reads.

use std::io::{self, Read};

use tokio::sync::oneshot;

use crate::sinks::Handover;
use crate::state::{StateFolder, Trial, sink_part};

use super::Flusher;
use super::state::{CLOSED, FORMAT, KeptInterval, KeptRegistry, OPEN, OPEN_OVER, REGISTRY, encode};

/// Room beside what is written: for what comes meanwhile, and what sinks have to know, an eighth; and for small files.
const SPARE_PART: u64 = 8;
const SPARE_BYTES: u64 = 64 << 10;

/// What is written for trial.
struct Tried {
    registry: KeptRegistry,
    open: KeptInterval,
    /// By name what sinks have not delivered.
    sinks: Vec<(String, Handover)>,
}

impl Flusher {
    /// Takes out what the next process is to go on with, and has it written for trial. Nothing here waits for the disk.
    pub(super) async fn try_state(&mut self, reply: oneshot::Sender<Result<Vec<Trial>, String>>) {
        self.await_state().await;
        let folder = self.sources.state.clone();
        if self.is_loading() {
            // Whoever asked may have gone; so it is below.
            let _ = reply.send(Err("what the last process knew is still being read: ask again later".into()));
            return;
        }
        self.cut_open().await;
        let sinks = self.drivers.iter().map(|driver| (driver.name().to_string(), driver.waiting())).collect();
        let tried = Tried { registry: self.kept_registry(), open: self.kept_interval(), sinks };
        let disk = folder.disk();
        let write = async move {
            let written = try_all(&folder, &tried).map_err(|error| {
                let folder = folder.status().folder.unwrap_or_default();
                format!("what the new process is to go on with cannot be saved in {}: {error}", folder.display())
            });
            let _ = reply.send(written);
        };
        if let Err(error) = disk.go_aside("state-trial", Box::pin(write)) {
            tracing::warn!(%error, "a thread for the state folder cannot be started");
        }
    }

    /// Lets go of the room that is held for the last state. Resolves when the disk has it.
    pub(super) fn end_trial(&mut self) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        let trial = std::mem::take(&mut self.trial);
        if trial.is_empty() {
            // It is done.
            let _ = done.send(());
            return is_done;
        }
        let end = async move {
            drop(trial);
            // Nobody may wait for it.
            let _ = done.send(());
        };
        if let Err(error) = self.sources.state.disk().go_aside("state-trial", Box::pin(end)) {
            tracing::warn!(%error, "a thread for the state folder cannot be started");
        }
        is_done
    }
}

/// Writes all of it.
fn try_all(folder: &StateFolder, Tried { registry, open, sinks }: &Tried) -> io::Result<Vec<Trial>> {
    let mut all = vec![
        folder.try_part(REGISTRY, FORMAT, |out| encode(registry, out))?,
        folder.try_part(OPEN, FORMAT, |out| encode(open, out))?,
    ];
    for (name, waiting) in sinks {
        let part = sink_part(name);
        if waiting.is_empty() {
            // At the end it may have something, in the spare room.
            folder.try_place(&part)?;
        } else {
            all.push(folder.try_part(&part, Handover::FORMAT, |out| waiting.write(out))?);
        }
    }
    let is_other = |part: &str| ![REGISTRY, OPEN, OPEN_OVER, CLOSED].contains(&part) && !part.starts_with("sink-");
    let others = folder.status().parts.into_iter().filter(|(part, _)| is_other(part)).map(|(_, known)| known.bytes);
    let spare = all.iter().map(Trial::bytes).sum::<u64>() / SPARE_PART + SPARE_BYTES + others.sum::<u64>();
    all.push(folder.try_part("spare", FORMAT, |out| io::copy(&mut io::repeat(0).take(spare), out).map(|_| ()))?);
    Ok(all)
}
