//! What an edge keeps over its starts: a file of one line that says what it is, and its content after that.
//!
//! It is written when an interval is sealed, before any of it is sent: numbers of batches never repeat. What waits in
//! memory is written at a stop alone.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cluster::SavedEdge;

/// The first line.
const FORMAT: &[u8] = b"systole-cluster/1\n";

/// The content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    /// The last start.
    boot: u64,
    edge: SavedEdge,
}

/// The state of an edge; without a file it is kept in memory alone.
#[derive(Debug, Default)]
pub struct EdgeState {
    path: Option<PathBuf>,
    boot: u64,
    has_failed: bool,
}

impl EdgeState {
    /// Reads what the last start has left. A start has a number greater than that of each before, and of `least`.
    ///
    /// # Errors
    /// If there is a file that cannot be read, or is none of ours; it is left as it is.
    pub fn open(path: Option<PathBuf>, least: u64) -> io::Result<(EdgeState, SavedEdge)> {
        let state = |boot| EdgeState { path: path.clone(), boot, has_failed: false };
        let bytes = match path.as_deref().map(fs::read) {
            Some(Ok(bytes)) => bytes,
            // Nothing was sent before, so nothing can be missed.
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((state(least), SavedEdge { is_clean: true, ..SavedEdge::default() }));
            }
            Some(Err(error)) => return Err(error),
            None => return Ok((state(least), SavedEdge::default())),
        };
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let content = bytes.strip_prefix(FORMAT).ok_or_else(|| invalid("it is no state of a node of a cluster"))?;
        match postcard::from_bytes::<Content>(content) {
            Ok(content) => Ok((state(least.max(content.boot.saturating_add(1))), content.edge)),
            Err(error) => {
                let shown = path.as_deref().unwrap_or(Path::new("")).display().to_string();
                tracing::error!(path = shown, %error, "the state of this node of the cluster is damaged; its numbers begin anew");
                Ok((state(least), SavedEdge::default()))
            }
        }
    }

    /// The number of this start.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Goes on as another start.
    pub fn start_again(&mut self, boot: u64) {
        self.boot = boot;
    }

    /// Writes it anew; whether that went well. A failure is logged when it is the first.
    pub fn save(&mut self, edge: SavedEdge) -> bool {
        let Some(path) = &self.path else { return false };
        let written = write(path, &Content { boot: self.boot, edge });
        let is_first = !std::mem::replace(&mut self.has_failed, written.is_err());
        match written {
            Ok(()) => return true,
            Err(error) if is_first => {
                tracing::error!(
                    path = %path.display(), %error,
                    "the state of this node of the cluster cannot be saved; after a crash owners may count batches as lost"
                );
            }
            Err(_) => {}
        }
        false
    }
}

fn write(path: &Path, content: &Content) -> io::Result<()> {
    let fresh = path.with_extension("new");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::File::create(&fresh)?;
    file.write_all(FORMAT)?;
    file.write_all(&postcard::to_stdvec(content).map_err(io::Error::other)?)?;
    file.sync_all()?;
    drop(file);
    fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_the_count_of_starts_outlive_a_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/cluster.state");
        let (mut state, saved) = EdgeState::open(Some(path.clone()), 100).expect("no file yet");
        assert_eq!((state.boot(), saved.is_clean), (100, true));
        let kept = SavedEdge { numbers: vec![3, 7], spool: vec![Vec::new(); 2], is_clean: false };
        assert!(state.save(kept.clone()));
        // A clock that was set back makes no smaller one.
        let (state, saved) = EdgeState::open(Some(path.clone()), 50).expect("a file");
        assert_eq!((state.boot(), saved), (101, kept));
        fs::write(&path, [FORMAT, &[0xFF; 9]].concat()).expect("written");
        let (state, saved) = EdgeState::open(Some(path.clone()), 50).expect("a damaged one is none");
        assert_eq!((state.boot(), saved), (50, SavedEdge::default()));
        fs::write(&path, "something else").expect("written");
        let error = EdgeState::open(Some(path), 50).expect_err("not ours").to_string();
        assert_eq!(error, "it is no state of a node of a cluster");
    }
}
