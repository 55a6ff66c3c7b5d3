//! The state folder of a daemon: opened when its sockets are bound, so that a start that fails changes nothing there.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::assemble;
use crate::config::Config;
use crate::flush::state::{self, StateOptions};
use crate::history;
use crate::journal::Journal;
use crate::sinks::Handover;
use crate::state::{LOCK_PATIENCE, PREDECESSOR_PATIENCE, StateFolder, begun_by};
use crate::sys::unix_time;

/// How long the end of a run may take, beside what the stop may take.
const ENDING: Duration = Duration::from_secs(1);

/// Where and how a process keeps its state, for the one that it hands over to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Keeping {
    /// The folder; `None` if nothing is kept.
    folder: Option<String>,
    /// By part the format that it writes, which is the newest that it reads.
    formats: BTreeMap<String, u32>,
}

impl Keeping {
    /// Of a process that has opened this folder.
    pub(super) fn of(folder: &StateFolder) -> Keeping {
        Keeping::at(folder.status().folder.filter(|_| folder.is_kept()).as_deref())
    }

    /// Of a process that is to open the configured folder.
    pub(super) fn configured(config: &Config) -> Keeping {
        Keeping::at(assemble::state_dir(config, |name| std::env::var(name).ok()).as_deref())
    }

    fn at(folder: Option<&Path>) -> Keeping {
        // One that does not exist is the other process's in no way.
        let real = folder.map(|folder| folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf()));
        let formats = [
            (state::REGISTRY, state::FORMAT),
            (state::OPEN, state::FORMAT),
            (state::CLOSED, state::FORMAT),
            ("sink", Handover::FORMAT),
            ("history", history::FORMAT),
        ];
        Keeping {
            folder: real.map(|real| real.display().to_string()),
            formats: formats.map(|(part, format)| (part.to_string(), format)).into(),
        }
    }

    /// Why the next process does not go on with what this one saves, if so.
    pub(super) fn obstacle(&self, next: &Keeping) -> Option<String> {
        let Some(folder) = &self.folder else { return Some("the old process keeps no state".into()) };
        match &next.folder {
            None => return Some(format!("the new process keeps no state; that of the old one is in {folder}")),
            Some(other) if other != folder => {
                return Some(format!("the new process keeps its state in {other}, the old one in {folder}"));
            }
            Some(_) => {}
        }
        self.formats.iter().find_map(|(part, format)| match next.formats.get(part) {
            Some(newest) if newest >= format => None,
            Some(newest) => {
                Some(format!("the new process reads formats of `{part}` up to {newest}, the old one writes {format}"))
            }
            None => Some(format!("the new process does not know `{part}`, which the old one writes")),
        })
    }
}

/// Opens the configured folder, which a process that has handed over to this one may still hold.
pub(super) fn open(config: &Config, predecessor: Option<u32>) -> StateFolder {
    let folder = assemble::state_dir(config, |name| std::env::var(name).ok());
    folder.map_or_else(StateFolder::off, |folder| StateFolder::open(&folder, patience(&folder, predecessor)))
}

/// How long another process may hold the folder: whoever has handed over ends soon, and anybody else goes on.
fn patience(folder: &Path, predecessor: Option<u32>) -> Duration {
    match (predecessor, begun_by(folder)) {
        (Some(pid), Some(begun)) if begun != pid => LOCK_PATIENCE,
        (Some(_), _) => PREDECESSOR_PATIENCE,
        (None, _) => LOCK_PATIENCE,
    }
}

/// How the flusher keeps what it knows.
pub(super) fn options(config: &Config, folder: &StateFolder, started: Instant) -> StateOptions {
    StateOptions {
        folder: folder.clone(),
        every: config.state_interval,
        keeps_open: config.keep_open_interval,
        most_series: config.max_series,
        receives_since: unix_time() - started.elapsed().as_secs_f64(),
    }
}

/// Begins a run, and says if the last one had no clean end.
pub(super) fn begin_run(folder: &StateFolder, journal: &Journal) {
    if let Some(since) = folder.begin_run() {
        // As the status has it.
        let since = since.ceil();
        let last = format!("its last sign of life was {since} s before this start");
        journal.add_start(unix_time(), "the last process ended without a clean stop", &last);
        tracing::warn!(
            last_sign_of_life = format!("{since} s ago"),
            "the last process ended without a clean stop; what it had received since its last interval (with `keep_open_interval`, \
             since its last state) is lost, and what sinks without a spool had not delivered"
        );
    }
}

/// Ends a run. A disk that hangs holds the stop up no longer than for a moment.
pub(super) async fn end_run(folder: &StateFolder) {
    let (ended, has_ended) = oneshot::channel();
    let own = folder.clone();
    let end = async move {
        own.end_run();
        // Whoever waits may have gone on.
        let _ = ended.send(());
    };
    let begun = folder.disk().go_aside("state-end", Box::pin(end));
    if begun.is_err() || timeout(ENDING, has_ended).await.is_err() {
        tracing::warn!("the state folder does not answer: the next start takes this stop for an unclean one");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_goes_on_with_the_state_of_another_if_it_finds_and_reads_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let (one, other, link) = (dir.path().join("one"), dir.path().join("other"), dir.path().join("link"));
        std::fs::create_dir(&one).expect("a folder");
        std::os::unix::fs::symlink(&one, &link).expect("a link");
        let [nowhere, one, other, link] =
            [None, Some(&one), Some(&other), Some(&link)].map(|at| Keeping::at(at.map(|at| at.as_path())));
        assert_eq!((one.obstacle(&one), one.obstacle(&link)), (None, None));
        assert!(one.obstacle(&other).is_some_and(|why| why.contains("other")));
        assert!(one.obstacle(&nowhere).is_some() && nowhere.obstacle(&one).is_some());
        let with = |format: u32| {
            let mut next = one.clone();
            next.formats.insert("registry".into(), format);
            next
        };
        // A newer version reads what an older one writes, and not the other way round.
        assert_eq!(one.obstacle(&with(state::FORMAT + 1)), None);
        assert!(with(state::FORMAT + 1).obstacle(&one).is_some_and(|why| why.contains("`registry`")));
        let mut more = one.clone();
        more.formats.insert("later".into(), 1);
        assert!(one.obstacle(&more).is_none() && more.obstacle(&one).is_some_and(|why| why.contains("`later`")));
    }

    #[test]
    fn a_folder_that_the_predecessor_does_not_hold_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let of = |predecessor| patience(dir.path(), predecessor);
        // The one that has handed over has ended its run, and its last write may be on its way.
        assert_eq!((of(None), of(Some(17))), (LOCK_PATIENCE, PREDECESSOR_PATIENCE));
        for (begun, longest) in [("17", PREDECESSOR_PATIENCE), ("18", LOCK_PATIENCE)] {
            std::fs::write(dir.path().join("running"), begun).expect("written");
            assert_eq!((of(None), of(Some(17))), (LOCK_PATIENCE, longest), "{begun}");
        }
    }
}
