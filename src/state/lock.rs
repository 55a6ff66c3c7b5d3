//! The lock of the folder.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::disk::{Disk, DiskFile, Opened};

/// Its name.
pub(super) const LOCK: &str = "lock";

/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// Takes the lock; `None` if another process has it for so long.
pub(super) fn claim(disk: &dyn Disk, folder: &Path, patience: Duration) -> io::Result<Option<Box<dyn DiskFile>>> {
    let lock = disk.open(&folder.join(LOCK), Opened::Made)?;
    let end = Instant::now() + patience;
    while !lock.try_lock()? {
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(PAUSE);
    }
    Ok(Some(lock))
}
