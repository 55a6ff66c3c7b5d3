//! The disk, as the state folder and the spools of sinks use it: few operations, each of them one that a crash, a full disk or a
//! power cut may come between. Everything else that touches files does so by itself.
//!
//! [`DiskHandle`] is the real one by default. Tests put one in its place that knows what was synced, and loses the rest.

use std::any::Any;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is done where blocking is allowed.
pub type Work = Box<dyn FnOnce() + Send>;

/// Something that goes on beside everything else.
pub type Aside = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Resolves when work is done; an error is what it panicked with, or `None` if it was not done because the runtime ends.
pub type Done = Pin<Box<dyn Future<Output = Result<(), Option<Box<dyn Any + Send>>>> + Send>>;

/// How a file is opened. All are read and written but [`Opened::ToRead`]. What is written is never opened through a link, which
/// could lead to any file that this process may write. What is no regular file is not opened: a pipe would hold up whoever uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is there, and is read.
    ToRead,
    /// It is there, or made.
    Made,
    /// It is made, or emptied.
    Emptied,
    /// It is made, for its owner alone, and was not there.
    Fresh,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FileFacts {
    /// How long it is.
    pub bytes: u64,
    /// It is neither a folder nor a pipe.
    pub is_regular: bool,
    /// When it was written or touched last, Unix seconds.
    pub modified: f64,
}

/// Folders and files. Everything may block.
///
/// What was written is on the disk when [`DiskFile::sync`] says so, and that a file is there, or not any more, or has another
/// name, when [`Disk::sync_folder`] does.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes a folder with those above it, for its owner alone if `is_private`, if it is not there.
    ///
    /// # Errors
    /// What the disk says; so it is of all that follow.
    fn make_folder(&self, folder: &Path, is_private: bool) -> io::Result<()>;

    /// What is in a folder, in any order.
    ///
    /// # Errors
    /// What the disk says.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// What is known of a file.
    ///
    /// # Errors
    /// What the disk says; `NotFound` if it is not there.
    fn facts(&self, path: &Path) -> io::Result<FileFacts>;

    /// Opens a file.
    ///
    /// # Errors
    /// What the disk says.
    fn open(&self, path: &Path, how: Opened) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in place of what has that.
    ///
    /// # Errors
    /// What the disk says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the disk says; `NotFound` if it is not there.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Waits until the names in a folder are on the disk.
    ///
    /// # Errors
    /// What the disk says.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Does work that may block where nothing else waits for it. It is done also if nobody waits for its end.
    fn work(&self, work: Work) -> Done {
        let done = tokio::task::spawn_blocking(work);
        Box::pin(async move { done.await.map_err(|error| error.try_into_panic().ok()) })
    }

    /// Lets something that may block go on aside, on a thread of this name.
    ///
    /// # Errors
    /// If there can be no thread.
    fn go_aside(&self, name: &str, what: Aside) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        std::thread::Builder::new().name(name.into()).spawn(move || runtime.block_on(what)).map(|_| ())
    }
}

/// A file that is open. It is closed when it is dropped.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// How long it is.
    ///
    /// # Errors
    /// What the disk says; so it is of all that follow.
    fn bytes(&self) -> io::Result<u64>;

    /// Reads as many bytes as there is room for.
    ///
    /// # Errors
    /// What the disk says; `UnexpectedEof` if there are fewer.
    fn read_at(&self, room: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all bytes. If that fails, some of them may be written.
    ///
    /// # Errors
    /// What the disk says.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Cuts it to so many bytes.
    ///
    /// # Errors
    /// What the disk says.
    fn cut(&self, bytes: u64) -> io::Result<()>;

    /// Waits until what it has is on the disk.
    ///
    /// # Errors
    /// What the disk says.
    fn sync(&self) -> io::Result<()>;

    /// Says that it was written at this time, Unix seconds.
    ///
    /// # Errors
    /// What the disk says.
    fn touch(&self, at: f64) -> io::Result<()>;

    /// Whether the file at a path is this one, and was not moved away or replaced.
    ///
    /// # Errors
    /// What the disk says.
    fn is_at(&self, _: &Path) -> io::Result<bool> {
        Ok(true)
    }

    /// Locks it, until it is closed; `false` if another process, or another one who has it open here, has locked it.
    ///
    /// # Errors
    /// What the disk says.
    fn try_lock(&self) -> io::Result<bool>;
}

/// A disk; clones are the same one.
#[derive(Clone, Debug)]
pub struct DiskHandle(Arc<dyn Disk>);

impl DiskHandle {
    /// Another disk than the real one.
    pub fn new(disk: impl Disk + 'static) -> DiskHandle {
        DiskHandle(Arc::new(disk))
    }
}

impl Default for DiskHandle {
    /// The real one.
    fn default() -> DiskHandle {
        DiskHandle(Arc::new(RealDisk))
    }
}

impl Deref for DiskHandle {
    type Target = dyn Disk;

    fn deref(&self) -> &(dyn Disk + 'static) {
        &*self.0
    }
}

impl PartialEq for DiskHandle {
    /// There is one in a process.
    fn eq(&self, _: &DiskHandle) -> bool {
        true
    }
}

impl Eq for DiskHandle {}

#[derive(Debug)]
struct RealDisk;

impl Disk for RealDisk {
    fn make_folder(&self, folder: &Path, is_private: bool) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(if is_private { 0o700 } else { 0o777 }).create(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        let found = fs::metadata(path)?;
        let modified = found.modified()?.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        Ok(FileFacts { bytes: found.len(), is_regular: found.is_file(), modified })
    }

    fn open(&self, path: &Path, how: Opened) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let own = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        match how {
            Opened::ToRead => &mut options,
            Opened::Made => options.write(true).create(true).truncate(false).custom_flags(own),
            Opened::Emptied => options.write(true).create(true).truncate(true).custom_flags(own),
            Opened::Fresh => options.write(true).create_new(true).mode(0o600),
        };
        match options.open(path) {
            Ok(file) if file.metadata()?.is_file() => Ok(Box::new(file)),
            Ok(_) => Err(io::Error::other(format!("{} is no regular file; remove it", path.display()))),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) && how != Opened::ToRead => Err(io::Error::other(
                format!("{} is a symbolic link, which is not followed; remove it", path.display()),
            )),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

impl DiskFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, room: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(room, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn touch(&self, at: f64) -> io::Result<()> {
        let since = Duration::try_from_secs_f64(at).map_err(io::Error::other)?;
        self.set_modified(SystemTime::UNIX_EPOCH + since)
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let own = self.metadata()?;
        match fs::symlink_metadata(path) {
            Ok(other) => Ok((own.dev(), own.ino()) == (other.dev(), other.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn try_lock(&self) -> io::Result<bool> {
        match File::try_lock(self) {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
