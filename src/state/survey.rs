//! What is in a folder, for people. It reads alone, and takes no lock: the daemon may run.

use std::fs::{OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::disk::{Disk, DiskHandle, Opened};

use super::lock::LOCK;
use super::part::{self, Limits, SUFFIX, SavedPart};
use super::{RUNNING, Unsaved};

/// Longest text of `running` that is read, in bytes.
const MOST_PID_BYTES: u64 = 32;

/// A file of the folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The part, or the name of a file that was set aside.
    pub part: String,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Whether it was set aside.
    pub is_aside: bool,
    /// Format, version and age in seconds by its trailer, or what is wrong with that.
    pub trailer: Result<(u32, String, f64), String>,
}

/// The parts in a folder by name, and those set aside.
///
/// # Errors
/// If the folder cannot be read.
pub fn survey(folder: &Path) -> io::Result<Vec<Found>> {
    survey_on(&*DiskHandle::default(), folder)
}

/// The same on a disk.
pub(super) fn survey_on(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<Found>> {
    let mut all = Vec::new();
    for path in disk.list(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_aside = name.ends_with(".bad");
        let Some(part) = name.trim_end_matches(".bad").strip_suffix(SUFFIX) else { continue };
        let Ok(found) = disk.facts(&path) else { continue };
        // The state of a node of a cluster is a file of its own kind.
        if !found.is_regular || part.starts_with("cluster-") {
            continue;
        }
        let trailer = disk.open(&path, Opened::ToRead).map_err(|error| error.to_string());
        let trailer = trailer.and_then(|file| part::trailer(&*file));
        let trailer = trailer.map(|(trailer, _)| (trailer.format, trailer.version.clone(), trailer.age_secs()));
        all.push(Found { part: part.into(), file_bytes: found.bytes, is_aside, trailer });
    }
    all.sort_by(|a, b| (a.is_aside, &a.part).cmp(&(b.is_aside, &b.part)));
    Ok(all)
}

/// What a part has, whoever holds the folder, and however old it is; what is wrong with it, if it cannot be read.
///
/// # Errors
/// What is wrong with it.
pub fn inspect(folder: &Path, part: &str) -> Result<SavedPart, String> {
    let limits = Limits { age: Duration::MAX, bytes: u64::MAX };
    let saved = part::read(&*DiskHandle::default(), folder, part, u32::MAX, limits).map_err(|(_, problem)| problem)?;
    saved.ok_or_else(|| "it is gone".into())
}

/// The process that has begun a run there and not ended it cleanly: it runs, or ended otherwise.
pub fn begun_by(folder: &Path) -> Option<u32> {
    let file = DiskHandle::default().open(&folder.join(RUNNING), Opened::ToRead).ok()?;
    let mut text = vec![0; file.bytes().ok()?.min(MOST_PID_BYTES) as usize];
    file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

/// Whether the last process there could not save its state when it ended.
pub fn is_unsaved(folder: &Path) -> bool {
    Unsaved::read(&*DiskHandle::default(), folder).is_some_and(|unsaved| unsaved.state)
}

/// Whether a process has the folder. To know that, its lock is shared for a moment, which a daemon that starts waits for.
pub fn is_held(folder: &Path) -> bool {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let lock = OpenOptions::new().read(true).custom_flags(flags).open(folder.join(LOCK));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}
