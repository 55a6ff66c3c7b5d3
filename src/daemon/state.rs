//! The state folder of a daemon: opened when its sockets are bound, so that a start that fails changes nothing there.

use crate::assemble;
use crate::config::Config;
use crate::state::{LOCK_PATIENCE, StateFolder};

/// Opens the configured folder.
pub(super) fn open(config: &Config) -> StateFolder {
    let folder = assemble::state_dir(config, |name| std::env::var(name).ok());
    folder.map_or_else(StateFolder::off, |folder| StateFolder::open(&folder, LOCK_PATIENCE))
}

/// Begins a run, and says if the last one had no clean end.
pub(super) fn begin_run(folder: &StateFolder) {
    if let Some(since) = folder.begin_run() {
        tracing::warn!(
            last_sign_of_life = format!("{since:.0} s ago"),
            "the last process ended without a clean stop; what it had received since its last state, and not delivered, is lost"
        );
    }
}
