//! The folders that sinks spool to, kept in the state folder: a configuration that takes a spool from its sink, or puts it elsewhere,
//! must not make anybody forget what lies in the folder so far. The process that empties it may end before that is done, and the next
//! one knows nothing of that folder.
//!
//! The part `spools` is JSON: folders, each with the sink that spools there, or did last. A folder stays there while intervals wait
//! in it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::sinks::spooled_bytes;
use crate::state::{Discarded, Limits, StateFolder};

/// The part.
pub(crate) const PART: &str = "spools";

/// Its format.
const FORMAT: u32 = 1;

/// Sinks by folder.
type Folders = BTreeMap<PathBuf, String>;

/// Those of a configuration.
fn configured(config: &Config) -> Folders {
    let of = |sink: &crate::config::Sink| Some((sink.spool.as_ref()?.path.clone(), sink.name.clone()));
    config.sinks.iter().filter_map(of).collect()
}

/// What is in the bytes of the part.
pub(crate) fn decode(bytes: &[u8]) -> Option<BTreeMap<PathBuf, String>> {
    serde_json::from_slice(bytes).ok()
}

fn write(state: &StateFolder, folders: &Folders) {
    // A problem is logged, and in the status.
    state.write(PART, FORMAT, |out| serde_json::to_writer(out, folders).map_err(io::Error::from));
}

/// Says at a start in which folders intervals wait that no sink spools to any more, and notes those of this configuration.
pub(super) fn begin(config: &Config, state: &StateFolder) {
    let any_age = Limits { age: std::time::Duration::MAX, ..Limits::default() };
    let noted = state.read(PART, FORMAT, any_age);
    let mut folders = noted.map_or_else(Folders::new, |saved| {
        decode(&saved.bytes).unwrap_or_else(|| {
            state.set_aside(PART, Discarded::Damaged, "it cannot be read");
            Folders::new()
        })
    });
    let own = configured(config);
    folders.retain(|folder, _| !own.contains_key(folder) && spooled_bytes(folder) > 0);
    for (folder, sink) in &folders {
        tracing::warn!(
            sink,
            folder = %folder.display(),
            bytes = spooled_bytes(folder),
            "intervals wait in a folder that no sink spools to any more: they are delivered when a sink has it for its spool again"
        );
    }
    state.set_left_spools(folders.iter().map(|(folder, sink)| (sink.clone(), folder.clone())).collect());
    folders.extend(own);
    if !folders.is_empty() {
        write(state, &folders);
    }
}

/// Notes the folders of the next configuration beside those of the one so far, without waiting for the disk. What is to be said of
/// those that lose their sinks, and have not been emptied.
pub(super) fn change(was: &Config, next: &Config, state: &StateFolder) -> Vec<String> {
    let (before, after) = (configured(was), configured(next));
    if before == after {
        return Vec::new();
    }
    let mut left = state.status().left_spools;
    left.retain(|(_, folder)| !after.contains_key(folder));
    state.set_left_spools(left.clone());
    let mut folders: Folders = left.into_iter().map(|(sink, folder)| (folder, sink)).collect();
    folders.extend(before.clone());
    folders.extend(after.clone());
    let own = state.clone();
    let noting = async move { write(&own, &folders) };
    if let Err(error) = state.disk().go_aside("state-spools", Box::pin(noting)) {
        tracing::warn!(%error, "a thread for the state folder cannot be started");
    }
    let waits = |folder: &Path| spooled_bytes(folder) > 0;
    let losing = before.into_iter().filter(|(folder, sink)| after.get(folder) != Some(sink) && waits(folder));
    let says = |(folder, sink): (PathBuf, String)| {
        format!(
            "sink {sink}: intervals wait in its spool {}: they are delivered before that is not used any more; what is left there \
             when the daemon ends is delivered once a sink has the folder for its spool again",
            folder.display()
        )
    };
    losing.map(says).collect()
}
