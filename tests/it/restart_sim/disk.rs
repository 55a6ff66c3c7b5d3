//! The disk of the simulation. It knows what was synced: a power cut loses, keeps or tears everything else, as the seed says. It
//! can be full, slow, or fail; and it decides when the process dies, at any of its operations.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use systole::internals::disk::{Aside, Disk, DiskFile, Done, FileFacts, Opened, Work};
use systole::internals::random::Random;
use systole::internals::sys::unix_time;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

/// How the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskMode {
    Well,
    Full,
    Failing,
    Slow,
    /// It takes longer for anything than the state is written anew.
    Crawling,
}

impl DiskMode {
    /// Whether what is asked of it may have no answer in time, or a wrong one.
    pub fn answers(self) -> bool {
        matches!(self, DiskMode::Well | DiskMode::Full)
    }
}

/// Most calls in the time of a world: a process that makes more goes on without end.
const MOST_CALLS: u64 = 50_000;

/// What was done to a file, and is not on the disk yet.
#[derive(Clone, Debug)]
enum Change {
    Written(u64, Vec<u8>),
    Cut(u64),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Written(at, bytes) => {
                let end = *at as usize + bytes.len();
                to.resize(to.len().max(end), 0);
                to[*at as usize..end].copy_from_slice(bytes);
            }
            Change::Cut(bytes) => to.resize(*bytes as usize, 0),
        }
    }
}

/// What was done to a name, and is not on the disk yet.
#[derive(Clone, Debug)]
enum NameChange {
    Made(PathBuf, usize),
    Gone(PathBuf),
    Renamed(PathBuf, PathBuf, usize),
}

impl NameChange {
    fn apply(&self, to: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Made(path, file) => _ = to.insert(path.clone(), *file),
            NameChange::Gone(path) => _ = to.remove(path),
            NameChange::Renamed(from, path, file) => {
                to.remove(from);
                to.insert(path.clone(), *file);
            }
        }
    }

    fn is_in(&self, folder: &Path) -> bool {
        let (NameChange::Made(path, _) | NameChange::Gone(path) | NameChange::Renamed(path, ..)) = self;
        path.parent() == Some(folder)
    }
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    modified: f64,
    locked_by: Option<u64>,
}

#[derive(Debug)]
struct Inner {
    files: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<NameChange>,
    folders: BTreeSet<PathBuf>,
    mode: DiskMode,
    random: Random,
    /// Operations that change something until the process dies.
    life: Option<u64>,
    is_dead: bool,
    /// Handles of earlier processes do nothing.
    generation: u64,
    handles: u64,
    operations: u64,
    /// Of any kind, also those that change nothing.
    calls: u64,
}

/// Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    death: Arc<Notify>,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
    handle: u64,
    generation: u64,
    can_write: bool,
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

impl Inner {
    /// Before something is changed: fails if the disk is so, or the process dies. `room` is how much of it is done then.
    fn change(&mut self, death: &Notify) -> (bool, io::Result<()>) {
        if self.is_dead {
            return (false, Err(dead()));
        }
        self.operations += 1;
        if let Some(left) = &mut self.life {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.is_dead = true;
                death.notify_one();
                return (self.random.below(2) == 0, Err(dead()));
            }
        }
        match self.mode {
            DiskMode::Failing if self.random.below(3) == 0 => {
                (self.random.below(2) == 0, Err(io::Error::other("the disk fails")))
            }
            DiskMode::Well | DiskMode::Slow | DiskMode::Crawling | DiskMode::Full | DiskMode::Failing => (true, Ok(())),
        }
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        let inner = Inner {
            files: Vec::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            folders: BTreeSet::new(),
            mode: DiskMode::Well,
            random: Random::new(seed),
            life: None,
            is_dead: false,
            generation: 0,
            handles: 0,
            operations: 0,
            calls: 0,
        };
        SimDisk { inner: Arc::new(Mutex::new(inner)), death: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics with it")
    }

    /// The same for a call of the process.
    fn called(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner();
        inner.calls += 1;
        if inner.calls > MOST_CALLS && !inner.is_dead {
            inner.is_dead = true;
            self.death.notify_one();
        }
        inner
    }

    /// Whether a process has made so many calls that it goes on without end.
    pub fn is_worn_out(&self) -> bool {
        self.inner().calls > MOST_CALLS
    }

    pub fn set_mode(&self, mode: DiskMode) {
        self.inner().mode = mode;
    }

    /// The process dies at the so manieth change from now on.
    pub fn die_after(&self, operations: u64) {
        self.inner().life = Some(operations.max(1));
    }

    /// The process dies now.
    pub fn die(&self) {
        self.inner().is_dead = true;
        self.death.notify_one();
    }

    pub fn is_dead(&self) -> bool {
        self.inner().is_dead
    }

    pub fn operations(&self) -> u64 {
        self.inner().operations
    }

    pub fn calls(&self) -> u64 {
        self.inner().calls
    }

    /// When a file was written last; 0 if it is not there.
    pub fn written(&self, path: &Path) -> f64 {
        let inner = self.inner();
        inner.names.get(path).map_or(0.0, |file| inner.files[*file].modified)
    }

    /// Resolves when the process is dead.
    pub async fn death(&self) {
        while !self.is_dead() {
            self.death.notified().await;
        }
    }

    /// One of two processes is gone, with its locks.
    pub fn leave(&self) {
        let mut inner = self.inner();
        inner.generation += 1;
        inner.files.iter_mut().for_each(|file| file.locked_by = None);
    }

    /// The process is gone; what it wrote is there, unless the power was cut.
    pub fn next_process(&self, is_power_cut: bool) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.generation += 1;
        (inner.life, inner.is_dead) = (None, false);
        inner.files.iter_mut().for_each(|file| file.locked_by = None);
        if is_power_cut {
            // Names are journalled in their order.
            let kept = inner.random.below(inner.unsynced_names.len() as u64 + 1) as usize;
            inner.unsynced_names.truncate(kept);
            for change in std::mem::take(&mut inner.unsynced_names) {
                change.apply(&mut inner.synced_names);
            }
            inner.names = inner.synced_names.clone();
            for file in &mut inner.files {
                for change in std::mem::take(&mut file.unsynced) {
                    match (inner.random.below(4), change) {
                        (0, _) => {}
                        (1, Change::Written(at, mut bytes)) => {
                            bytes.truncate(inner.random.below(bytes.len() as u64 + 1) as usize);
                            Change::Written(at, bytes).apply(&mut file.synced);
                        }
                        (_, change) => change.apply(&mut file.synced),
                    }
                }
                file.bytes.clone_from(&file.synced);
            }
        }
    }

    fn latency(&self) -> Duration {
        let mut inner = self.called();
        let (least_us, most_us) = match inner.mode {
            DiskMode::Crawling => (1_600_000, 400_000),
            DiskMode::Slow => (500, 700_000),
            DiskMode::Well | DiskMode::Full | DiskMode::Failing => (500, 4_000),
        };
        Duration::from_micros(least_us + inner.random.below(most_us))
    }

    fn changing<T>(&self, change: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.called();
        let (is_done, outcome) = inner.change(&self.death);
        let changed = if is_done { Some(change(&mut inner)) } else { None };
        outcome?;
        changed.unwrap_or_else(|| Err(dead()))
    }
}

impl Disk for SimDisk {
    fn make_folder(&self, folder: &Path, _: bool) -> io::Result<()> {
        self.inner().folders.insert(folder.to_path_buf());
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let inner = self.called();
        if inner.is_dead {
            return Err(dead());
        }
        Ok(inner.names.keys().filter(|path| path.parent() == Some(folder)).cloned().collect())
    }

    fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        let inner = self.called();
        let file = inner.names.get(path).map(|file| &inner.files[*file]);
        let file = file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(FileFacts { bytes: file.bytes.len() as u64, is_regular: true, modified: file.modified })
    }

    fn open(&self, path: &Path, how: Opened) -> io::Result<Box<dyn DiskFile>> {
        let known = self.called().names.get(path).copied();
        let file = match (known, how) {
            (None, Opened::ToRead) => return Err(io::ErrorKind::NotFound.into()),
            (Some(_), Opened::Fresh) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), Opened::ToRead | Opened::Made) => file,
            (Some(file), Opened::Emptied) => self.changing(|inner| {
                inner.files[file].bytes.clear();
                inner.files[file].unsynced.push(Change::Cut(0));
                inner.files[file].modified = unix_time();
                Ok(file)
            })?,
            (None, Opened::Made | Opened::Emptied | Opened::Fresh) => self.changing(|inner| {
                let file = inner.files.len();
                inner.files.push(Inode { modified: unix_time(), ..Inode::default() });
                inner.rename(NameChange::Made(path.to_path_buf(), file));
                Ok(file)
            })?,
        };
        let mut inner = self.inner();
        inner.handles += 1;
        let (handle, generation) = (inner.handles, inner.generation);
        Ok(Box::new(SimFile { disk: self.clone(), file, handle, generation, can_write: how != Opened::ToRead }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.changing(|inner| {
            let file = inner.names.get(from).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            inner.rename(NameChange::Renamed(from.to_path_buf(), to.to_path_buf(), file));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.inner().names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.changing(|inner| {
            inner.rename(NameChange::Gone(path.to_path_buf()));
            Ok(())
        })
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.changing(|inner| {
            let (own, others) = inner.unsynced_names.drain(..).partition(|change| change.is_in(folder));
            inner.unsynced_names = others;
            let own: Vec<NameChange> = own;
            own.iter().for_each(|change| change.apply(&mut inner.synced_names));
            Ok(())
        })
    }

    fn work(&self, work: Work) -> Done {
        let (before, after) = (self.latency(), self.latency());
        let done = tokio::spawn(async move {
            sleep(before).await;
            work();
            sleep(after).await;
        });
        Box::pin(async move { done.await.map_err(|error| error.try_into_panic().ok()) })
    }

    fn go_aside(&self, _: &str, what: Aside) -> io::Result<()> {
        tokio::spawn(Slowly { disk: self.clone(), pause: None, what });
        Ok(())
    }
}

/// Goes on some time after it could.
struct Slowly {
    disk: SimDisk,
    pause: Option<Pin<Box<Sleep>>>,
    what: Aside,
}

impl Future for Slowly {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let pause = this.pause.get_or_insert_with(|| Box::pin(sleep(this.disk.latency())));
        ready!(pause.as_mut().poll(context));
        this.pause = None;
        this.what.as_mut().poll(context)
    }
}

impl SimFile {
    fn is_gone(&self, inner: &Inner) -> bool {
        self.generation != inner.generation || inner.is_dead
    }

    fn changing(&self, change: impl FnOnce(&mut Inode) -> io::Result<()>) -> io::Result<()> {
        if !self.can_write || self.is_gone(&self.disk.inner()) {
            return Err(dead());
        }
        self.disk.changing(|inner| change(&mut inner.files[self.file]))
    }
}

impl DiskFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.inner().files[self.file].bytes.len() as u64)
    }

    fn read_at(&self, room: &mut [u8], at: u64) -> io::Result<()> {
        let inner = self.disk.called();
        if self.is_gone(&inner) {
            return Err(dead());
        }
        let from = inner.files[self.file].bytes.get(at as usize..).unwrap_or_default();
        let found = from.get(..room.len()).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        room.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if !self.can_write || self.is_gone(&self.disk.inner()) {
            return Err(dead());
        }
        let mut inner = self.disk.called();
        let (is_begun, outcome) = inner.change(&self.disk.death);
        let is_full = inner.mode == DiskMode::Full;
        let mut written = bytes;
        if outcome.is_err() || is_full {
            let some = if is_begun { inner.random.below(bytes.len() as u64 + 1) } else { 0 };
            written = &bytes[..some as usize];
        }
        let change = Change::Written(at, written.to_vec());
        let file = &mut inner.files[self.file];
        change.apply(&mut file.bytes);
        file.unsynced.push(change);
        file.modified = unix_time();
        outcome?;
        if is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.changing(|file| {
            file.bytes.resize(bytes as usize, 0);
            file.unsynced.push(Change::Cut(bytes));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.changing(|file| {
            file.unsynced.clear();
            file.synced.clone_from(&file.bytes);
            Ok(())
        })
    }

    fn touch(&self, at: f64) -> io::Result<()> {
        self.changing(|file| {
            file.modified = at;
            Ok(())
        })
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut inner = self.disk.inner();
        let is_free = inner.files[self.file].locked_by.is_none_or(|by| by == self.handle);
        if is_free {
            inner.files[self.file].locked_by = Some(self.handle);
        }
        Ok(is_free)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut inner = self.disk.inner();
        let is_own = inner.generation == self.generation && inner.files[self.file].locked_by == Some(self.handle);
        if is_own {
            inner.files[self.file].locked_by = None;
        }
    }
}
