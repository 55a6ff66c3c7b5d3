//! The state folder: what the daemon knows and a restart would forget, in parts. A part is a file `NAME.state` with bytes of its
//! owner, of which this room knows nothing, and a trailer with format, version, time and checksum ([`part`]).
//!
//! A lock keeps other processes away. A part is written beside the old one, and takes its place when it is on the disk; one
//! that is too old, damaged, too large or of another format is moved to `NAME.state.bad`, said once and counted. Without a
//! folder everything works, and nothing outlives the process.
//!
//! A file `running` is there from the start of a process to its clean end, and touched with each state: what is found at a start
//! says that the last process ended without one, and when it last gave a sign of life. A process that cannot save all that it knows
//! when it ends leaves `unsaved` instead, which says what the next one counts as lost.
//!
//! Before anything is written the lock is looked at: a folder that was moved away is not ours any more, and one that is in its
//! place is taken only if nobody has it.
//!
//! Reading and writing block: nothing here is for the receive path.

mod lock;
mod part;
mod survey;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rapidhash::v3::rapidhash_v3;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskFile, DiskHandle, Opened};
use crate::sys::unix_time;

pub use part::{Discarded, Limits, SavedPart};
pub use survey::{Found, begun_by, inspect, is_held, is_unsaved, survey};

/// How long another process may hold the lock while a daemon starts: a child holds it, too, until it is another program.
pub const LOCK_PATIENCE: Duration = Duration::from_millis(200);

/// The same where that process has handed over: its last write may still be on its way to the disk.
pub const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(20);

/// The number of a trial: turns have others.
const TRIAL: u64 = 0;

/// Longest name of a sink that is the name of its part, in bytes after escaping; a longer one is cut, with a hash.
const MOST_NAME_BYTES: usize = 150;

/// Kept in the names of parts.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// The file that says that a process has not ended cleanly.
pub const RUNNING: &str = "running";

/// The same before it takes its place.
const BEGUN: &str = "running.new";

/// The file that says what a process that ended cleanly could not save.
const UNSAVED: &str = "unsaved";

/// Most records of a sink that it may have: more is nonsense.
const MOST_LOST: u64 = 1 << 40;

/// Most bytes of it that are read.
const MOST_UNSAVED_BYTES: u64 = 1 << 20;

/// What the log and the status call removals that are not on the disk.
const REMOVED: &str = "removals";

/// What became of a part in this process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartStatus {
    /// When it was written last, Unix seconds; 0 for never.
    pub written: f64,
    /// Bytes of what was written last.
    pub bytes: u64,
    /// Writes that failed.
    pub failures: u64,
    /// How often it was set aside, by reason.
    pub discarded: BTreeMap<&'static str, u64>,
}

/// How the folder is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateStatus {
    /// Where it is; `None` if there is none.
    pub folder: Option<PathBuf>,
    /// Why nothing is saved there.
    pub problem: Option<String>,
    /// By name.
    pub parts: BTreeMap<String, PartStatus>,
    /// Seconds between the last sign of life of a process that ended without a clean stop, and the start of this one.
    pub unclean_stop: Option<f64>,
    /// The last process ended cleanly, but could not save what it knew.
    pub is_stale: bool,
    /// Records by sink that it had not delivered, and could not keep either.
    pub lost: BTreeMap<String, u64>,
    /// Folders that no sink spools to any more, with the sink that did, and in which intervals wait.
    pub left_spools: Vec<(String, PathBuf)>,
}

/// What a process leaves unsaved when it ends: the file [`UNSAVED`], as JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Unsaved {
    /// The state itself.
    state: bool,
    /// Records by sink that are lost.
    lost: BTreeMap<String, u64>,
    /// Those that are lost unless the part of the sink is there after all: the disk was asked for that, and did not answer in time.
    unkept: BTreeMap<String, u64>,
}

impl Unsaved {
    /// All records by sink, as if none were kept after all.
    fn of_all(&self) -> BTreeMap<String, u64> {
        let mut all = self.lost.clone();
        for (sink, records) in &self.unkept {
            let sum = all.entry(sink.clone()).or_default();
            *sum = sum.saturating_add(*records);
        }
        all
    }

    /// What the last process has left so; `None` if it saved everything.
    fn read(disk: &dyn Disk, folder: &Path) -> Option<Unsaved> {
        let path = folder.join(UNSAVED);
        let found = disk.facts(&path).ok().filter(|found| found.is_regular)?;
        let bytes = found.bytes.min(MOST_UNSAVED_BYTES);
        let mut text = vec![0; bytes as usize];
        let read = disk.open(&path, Opened::ToRead).and_then(|file| file.read_at(&mut text, 0));
        let unsaved = read.ok().and_then(|()| serde_json::from_slice(&text).ok());
        // An earlier version says nothing in it.
        Some(unsaved.unwrap_or(Unsaved { state: true, ..Unsaved::default() }))
    }
}

/// The turn of somebody who writes or removes a part.
#[derive(Debug)]
pub struct Turn {
    part: String,
    number: u64,
}

/// A part that was written for trial. There is room for it until this is dropped, which blocks.
#[derive(Debug)]
pub struct Trial {
    disk: DiskHandle,
    file: PathBuf,
    bytes: u64,
}

impl Trial {
    /// Bytes that were written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = self.disk.remove(&self.file);
    }
}

/// The turns of a part.
#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    /// How many were taken.
    taken: u64,
    /// Up to this one they are over: the part was removed, or is in its place as it was in this turn.
    over: u64,
}

impl Turns {
    /// This one and those before it are over.
    fn end(&mut self, turn: u64) {
        self.over = self.over.max(turn);
    }
}

/// The folder; clones are the same one. It stays locked until the last is gone.
#[derive(Clone, Debug, Default)]
pub struct StateFolder(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    disk: DiskHandle,
    /// Another process keeps its state there: it is neither read nor written.
    is_taken: bool,
    /// Without it nothing is written.
    lock: Option<Mutex<Box<dyn DiskFile>>>,
    /// Held while a file is put in its place or taken from it, which may take long.
    placing: Mutex<()>,
    /// Never held while the disk works: whoever only asks does not wait for it.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    status: StateStatus,
    /// By part.
    turns: BTreeMap<String, Turns>,
    /// Why parts are not up to date.
    problems: BTreeMap<String, String>,
    /// What this process cannot save when it ends.
    unsaved: Unsaved,
    /// What the last one could not, until it is counted.
    uncounted: Unsaved,
}

impl StateFolder {
    /// No folder: nothing is read, and nothing is kept.
    pub fn off() -> StateFolder {
        StateFolder(None)
    }

    /// Makes the folder and takes its lock, which another process may hold for so long. If that fails, it is logged, and the
    /// daemon works without: what is in a folder that cannot be written to is read all the same, what another process keeps
    /// there is not.
    pub fn open(folder: &Path, patience: Duration) -> StateFolder {
        StateFolder::open_on(DiskHandle::default(), folder, patience)
    }

    /// The same on a disk.
    pub fn open_on(disk: DiskHandle, folder: &Path, patience: Duration) -> StateFolder {
        let made = disk.make_folder(folder, true);
        let claimed = made.and_then(|()| lock::claim(&*disk, folder, patience));
        let is_taken = matches!(claimed, Ok(None));
        let (lock, problem) = match claimed {
            Ok(Some(lock)) => (Some(Mutex::new(lock)), None),
            Ok(None) => {
                let advice = "set `state_dir` to a folder of its own";
                (None, Some(format!("another process keeps its state in this folder; {advice}")))
            }
            Err(error) => (None, Some(format!("it cannot be written to: {error}"))),
        };
        if let Some(problem) = &problem {
            tracing::warn!(folder = %folder.display(), "nothing outlives a restart: {problem}");
        }
        let status = StateStatus { folder: Some(folder.to_path_buf()), problem, ..StateStatus::default() };
        let inner = Mutex::new(Inner { status, ..Inner::default() });
        let (folder, placing) = (folder.to_path_buf(), Mutex::default());
        let opened = StateFolder(Some(Arc::new(Shared { folder, disk, is_taken, lock, placing, inner })));
        opened.tidy();
        opened
    }

    /// What it lies on.
    pub fn disk(&self) -> DiskHandle {
        self.0.as_ref().map_or_else(DiskHandle::default, |shared| shared.disk.clone())
    }

    /// Whether there is a folder, whatever can be done with it.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether what is written outlives the process.
    pub fn is_kept(&self) -> bool {
        self.kept().is_some()
    }

    /// How it is.
    pub fn status(&self) -> StateStatus {
        self.shared().map_or_else(StateStatus::default, |(_, inner)| inner.status.clone())
    }

    /// Reads a part of a format up to this one. What cannot be used is set aside.
    pub fn read(&self, part: &str, newest_format: u32, limits: Limits) -> Option<SavedPart> {
        let shared = self.0.as_ref().filter(|shared| !shared.is_taken)?;
        match part::read(&*shared.disk, &shared.folder, part, newest_format, limits) {
            Ok(saved) => saved,
            Err((reason, problem)) => {
                self.set_aside(part, reason, &problem);
                None
            }
        }
    }

    /// Moves a part that cannot be used out of the way, says so, and counts it.
    pub fn set_aside(&self, part: &str, reason: Discarded, problem: &str) {
        let Some(shared) = &self.0 else { return };
        let path = part::path(&shared.folder, part);
        let moved = shared.lock.is_some() && shared.disk.rename(&path, &aside(&path)).is_ok();
        let file = path.display();
        let kept = if moved { "it is kept as .bad beside it" } else { "it stays where it is" };
        tracing::warn!(part, file = %file, reason = reason.name(), "a saved state is not used: {problem}; {kept}");
        let mut inner = shared.inner();
        *inner.status.parts.entry(part.into()).or_default().discarded.entry(reason.name()).or_default() += 1;
    }

    /// Writes a part anew; whether it is on the disk. It takes the place of the old one when it is whole, unless the part was
    /// removed meanwhile, or one of a later turn is there.
    pub fn write(&self, part: &str, format: u32, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> bool {
        self.begin(part).is_some_and(|turn| self.write_turn(turn, format, write))
    }

    /// Takes a turn for writing or removing a part later: what is begun from now on is later than that. `None` if nothing is kept.
    pub fn begin(&self, part: &str) -> Option<Turn> {
        let mut inner = self.kept()?.inner();
        let turns = inner.turns(part);
        turns.taken += 1;
        Some(Turn { part: part.into(), number: turns.taken })
    }

    /// Ends all turns of a part that were taken so far: what is still to be written of it is not.
    pub fn end_turns(&self, part: &str) {
        if let Some((_, mut inner)) = self.shared() {
            let turns = inner.turns(part);
            turns.end(turns.taken);
        }
    }

    /// Writes a part in its turn.
    pub fn write_turn(&self, turn: Turn, format: u32, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> bool {
        let Turn { part, number: turn } = turn;
        let part = &*part;
        let Some(shared) = &self.0 else { return false };
        if shared.inner().turns(part).over >= turn {
            return false;
        }
        if let Err(error) = shared.check_lock() {
            let mut inner = shared.inner();
            inner.status.parts.entry(part.into()).or_default().failures += 1;
            return inner.note(&shared.folder, part, Some(error));
        }
        let fresh = part::fresh(&shared.folder, part, turn);
        let written = part::write(&*shared.disk, &fresh, part, format, write);
        let placing = shared.placing();
        let is_due = shared.inner().turns(part).over < turn;
        let placed = written.and_then(|bytes| {
            if is_due {
                shared.clear_place(part)?;
                shared.disk.rename(&fresh, &part::path(&shared.folder, part))?;
            }
            Ok(bytes)
        });
        if placed.is_err() || !is_due {
            // What is left of it is of no use.
            let _ = shared.disk.remove(&fresh);
        }
        if placed.is_ok() {
            shared.inner().turns(part).end(turn);
        }
        drop(placing);
        // A rename is on the disk when its folder is.
        let is_placed = placed.is_ok() && is_due;
        let synced = if is_placed { shared.disk.sync_folder(&shared.folder) } else { Ok(()) };
        let mut inner = shared.inner();
        if is_placed && synced.is_ok() {
            // So are removals that came before.
            inner.note(&shared.folder, REMOVED, None);
        }
        let known = inner.status.parts.entry(part.into()).or_default();
        let problem = match placed {
            Ok(bytes) if is_due => {
                (known.written, known.bytes) = (unix_time(), bytes);
                synced.err()
            }
            Ok(_) => return false,
            Err(error) => {
                known.failures += 1;
                Some(error)
            }
        };
        inner.note(&shared.folder, part, problem)
    }

    /// Makes sure that a part can take its place, if it can be written.
    ///
    /// # Errors
    /// What is in the way.
    pub fn try_place(&self, part: &str) -> io::Result<()> {
        let shared = self.kept().ok_or_else(|| io::Error::other("nothing is kept"))?;
        let _placing = shared.placing();
        shared.clear_place(part)
    }

    /// Writes a part for trial, beside the one that is there, which stays.
    ///
    /// # Errors
    /// Why it cannot be written, or could not take its place.
    pub fn try_part(
        &self,
        part: &str,
        format: u32,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<Trial> {
        let shared = self.kept().ok_or_else(|| io::Error::other("nothing is kept"))?;
        shared.check_lock()?;
        self.try_place(part)?;
        let file = part::fresh(&shared.folder, part, TRIAL);
        let mut trial = Trial { disk: shared.disk.clone(), file: file.clone(), bytes: 0 };
        let written = part::write(&*shared.disk, &file, part, format, write);
        trial.bytes = written.map_err(|error| match error.kind() {
            io::ErrorKind::IsADirectory => io::Error::other(format!("{} is a folder; remove it", file.display())),
            _ => error,
        })?;
        Ok(trial)
    }

    /// Removes a part, so that no later process finds it, also one that is being written. A power cut may bring it back until
    /// [`StateFolder::sync`] says that it does not. `false` if it stays.
    pub fn remove(&self, part: &str) -> bool {
        self.begin(part).is_some_and(|turn| self.remove_turn(turn))
    }

    /// Removes a part in its turn: what was written in a later one stays.
    pub fn remove_turn(&self, turn: Turn) -> bool {
        self.take_away(turn, |shared, path, _| shared.disk.remove(path))
    }

    /// The same, but what it had is a part with `-over` after its name from now on.
    pub fn end_turn(&self, turn: Turn) -> bool {
        self.take_away(turn, |shared, path, part| {
            shared.disk.rename(path, &part::path(&shared.folder, &part::over(part)))
        })
    }

    /// Waits until what was removed is gone from the disk, too; whether it is.
    pub fn sync(&self) -> bool {
        let Some(shared) = self.kept() else { return false };
        let synced = shared.disk.sync_folder(&shared.folder);
        shared.inner().note(&shared.folder, REMOVED, synced.err())
    }

    fn take_away(&self, turn: Turn, take: impl FnOnce(&Shared, &Path, &str) -> io::Result<()>) -> bool {
        let Some(shared) = self.kept() else { return false };
        let Turn { part, number } = turn;
        // What was to be written before is not, from now on.
        shared.inner().turns(&part).end(number);
        let _placing = shared.placing();
        if shared.inner().turns(&part).over > number {
            return true;
        }
        match shared.check_lock().and_then(|()| take(shared, &part::path(&shared.folder, &part), &part)) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => shared.inner().note(&shared.folder, &part, Some(error)),
        }
    }

    /// A part that could not be written is not needed any more.
    pub fn forget_problem(&self, part: &str) {
        if let Some((shared, mut inner)) = self.shared().filter(|(_, inner)| inner.problems.contains_key(part)) {
            inner.note(&shared.folder, part, None);
        }
    }

    /// Whether what this process knows last could not be saved.
    pub fn is_unsaved(&self) -> bool {
        self.shared().is_some_and(|(_, inner)| inner.unsaved.state)
    }

    /// What this process knows last cannot be saved: the next one is to say so.
    pub fn leave_unsaved(&self) {
        if let Some((_, mut inner)) = self.shared() {
            inner.unsaved.state = true;
        }
    }

    /// Records that a sink had not delivered when it ended are not kept either: the next process is to count them.
    pub fn leave_lost(&self, sink: &str, records: u64) {
        if let Some((_, mut inner)) = self.shared().filter(|_| records > 0) {
            *inner.unsaved.lost.entry(sink.into()).or_default() += records;
        }
    }

    /// The same of records that may be kept after all: the disk did not answer in time.
    pub fn leave_unkept(&self, sink: &str, records: u64) {
        if let Some((_, mut inner)) = self.shared().filter(|_| records > 0) {
            *inner.unsaved.unkept.entry(sink.into()).or_default() += records;
        }
    }

    /// What the last process has left so of a sink, whose part is there or not; it is counted now.
    pub fn take_lost(&self, sink: &str, has_part: bool) -> u64 {
        let Some((_, mut inner)) = self.shared() else { return 0 };
        let lost = inner.uncounted.lost.remove(sink).unwrap_or(0);
        let unkept = inner.uncounted.unkept.remove(sink).filter(|_| !has_part).unwrap_or(0);
        if has_part {
            inner.status.lost.remove(sink);
        }
        let all = lost.saturating_add(unkept).min(MOST_LOST);
        if all > 0 {
            inner.status.lost.insert(sink.into(), all);
        }
        all
    }

    /// What nobody has taken of that.
    pub fn uncounted(&self) -> BTreeMap<String, u64> {
        let Some((_, inner)) = self.shared() else { return BTreeMap::new() };
        inner.uncounted.of_all()
    }

    /// What the last process could not save is known, and counted: no later start reads of it.
    pub fn forget_unsaved(&self) {
        if let Some(shared) = self.kept() {
            // There may be none. What stays is counted once more.
            let _ = shared.disk.remove(&shared.folder.join(UNSAVED));
        }
    }

    /// Folders with intervals that no sink spools to any more, as the status is to have them.
    pub fn set_left_spools(&self, left: Vec<(String, PathBuf)>) {
        if let Some((_, mut inner)) = self.shared() {
            inner.status.left_spools = left;
        }
    }

    /// Names of parts that begin so, but for those that are known, which are their owners' business; the others are set aside when
    /// nobody could use them any more.
    pub fn others(&self, prefix: &str, known: &HashSet<String>, newest_format: u32, limits: Limits) -> Vec<String> {
        let shared = self.0.as_ref().filter(|shared| !shared.is_taken);
        let found = shared.and_then(|shared| survey::survey_on(&*shared.disk, &shared.folder).ok()).unwrap_or_default();
        let others = found.into_iter().filter(|found| !found.is_aside).map(|found| found.part);
        let others = others.filter(|part| part.starts_with(prefix) && !known.contains(part));
        others.filter(|part| self.read(part, newest_format, limits).is_some()).collect()
    }

    /// Begins a run. If the last one had no clean end, the seconds between its last sign of life and now; that stays the last one
    /// until [`StateFolder::touch`].
    pub fn begin_run(&self) -> Option<f64> {
        let shared = self.kept()?;
        let begun = shared.disk.facts(&shared.folder.join(RUNNING)).ok().filter(|found| found.is_regular);
        let last_sign = begun.map(|found| found.modified);
        let unclean = last_sign.map(|at| (unix_time() - at).max(0.0));
        let unsaved = Unsaved::read(&*shared.disk, &shared.folder).unwrap_or_default();
        // A process that ends before it has told of this leaves it to the next one.
        let begun = shared.begin_running(last_sign);
        let mut inner = shared.inner();
        inner.note(&shared.folder, RUNNING, begun.err());
        let status = &mut inner.status;
        (status.unclean_stop, status.is_stale, status.lost) = (unclean, unsaved.state, unsaved.of_all());
        inner.uncounted = unsaved;
        unclean
    }

    /// Gives a sign of life.
    pub fn touch(&self) {
        self.change_running(|shared, path| {
            // What somebody has removed stays away.
            shared.disk.facts(path)?;
            shared.disk.open(path, Opened::Made)?.touch(unix_time())
        });
    }

    /// Ends a run cleanly.
    pub fn end_run(&self) {
        self.change_running(|shared, path| {
            let unsaved = {
                let inner = shared.inner();
                let has_all = !inner.unsaved.state && inner.unsaved.of_all().is_empty();
                (!has_all).then(|| serde_json::to_vec(&inner.unsaved)).transpose()?
            };
            if let Some(text) = unsaved {
                let file = shared.disk.open(path, Opened::Emptied)?;
                // Also if it cannot be written: the name alone says that something is missing.
                let written = file.write_at(&text, 0).and_then(|()| file.sync());
                shared.disk.rename(path, &shared.folder.join(UNSAVED)).and(written)?;
            } else {
                shared.disk.remove(path)?;
            }
            shared.disk.sync_folder(&shared.folder)
        });
    }

    fn change_running(&self, change: impl FnOnce(&Shared, &Path) -> io::Result<()>) {
        if let Some(shared) = self.kept() {
            let changed = shared.check_lock().and_then(|()| change(shared, &shared.folder.join(RUNNING)));
            shared.inner().note(&shared.folder, RUNNING, changed.err());
        }
    }

    /// Removes what an interrupted write has left.
    fn tidy(&self) {
        let Some(shared) = &self.0 else { return };
        let Some(found) = shared.lock.as_ref().and_then(|_| shared.disk.list(&shared.folder).ok()) else { return };
        for path in found {
            if path.file_name().is_some_and(part::is_fresh) {
                let _ = shared.disk.remove(&path);
            }
        }
    }

    /// The folder, if this process may write there.
    fn kept(&self) -> Option<&Shared> {
        self.0.as_deref().filter(|shared| shared.lock.is_some())
    }

    fn shared(&self) -> Option<(&Shared, MutexGuard<'_, Inner>)> {
        self.0.as_deref().map(|shared| (shared, shared.inner()))
    }
}

impl Shared {
    fn placing(&self) -> MutexGuard<'_, ()> {
        self.placing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what is no file out of the place of a part: none could take it. To be called by whoever places.
    ///
    /// # Errors
    /// If it stays there.
    fn clear_place(&self, part: &str) -> io::Result<()> {
        let path = part::path(&self.folder, part);
        if self.disk.facts(&path).is_ok_and(|found| !found.is_regular) {
            // A folder takes the place of no file.
            if self.disk.facts(&aside(&path)).is_ok_and(|found| found.is_regular) {
                self.disk.remove(&aside(&path))?;
            }
            let moved = self.disk.rename(&path, &aside(&path));
            moved.map_err(|error| {
                io::Error::other(format!("{} is no regular file, and cannot be moved away: {error}", path.display()))
            })?;
            tracing::warn!(part, file = %path.display(), "in the place of a state was no regular file: it is kept as .bad beside it");
        }
        Ok(())
    }

    /// Makes sure that the folder is the one that is locked. One that is in its place is taken if nobody has it.
    ///
    /// # Errors
    /// If another process has it, and what the disk says.
    fn check_lock(&self) -> io::Result<()> {
        let Some(lock) = &self.lock else { return Ok(()) };
        let mut lock = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_at(&self.folder.join(lock::LOCK))? {
            return Ok(());
        }
        let Some(claimed) = lock::claim(&*self.disk, &self.folder, Duration::ZERO)? else {
            return Err(io::Error::other("another folder is there by now, in which another process keeps its state"));
        };
        tracing::warn!(folder = %self.folder.display(), "the state folder, or its lock, was moved away or removed: it is written anew");
        *lock = claimed;
        self.begin_running(None)
    }

    /// Says that this process runs, and gave its last sign of life at this time, or now.
    fn begin_running(&self, last_sign: Option<f64>) -> io::Result<()> {
        let (path, fresh) = (self.folder.join(RUNNING), self.folder.join(BEGUN));
        let file = self.disk.open(&fresh, Opened::Emptied)?;
        file.write_at(format!("{}\n", std::process::id()).as_bytes(), 0)?;
        last_sign.map_or(Ok(()), |at| file.touch(at))?;
        self.disk.rename(&fresh, &path)?;
        self.disk.sync_folder(&self.folder)
    }
}

impl Inner {
    /// The turns of a part.
    fn turns(&mut self, part: &str) -> &mut Turns {
        self.turns.entry(part.into()).or_default()
    }

    /// Notes what came of a write; whether all is well. A problem is over when what failed is written.
    fn note(&mut self, folder: &Path, part: &str, problem: Option<io::Error>) -> bool {
        let is_written = problem.is_none();
        match problem {
            Some(error) => {
                let problem = format!("`{part}` cannot be written to {}: {error}", folder.display());
                if self.problems.insert(part.into(), problem.clone()).is_none() {
                    tracing::warn!("the state folder is not up to date: {problem}");
                }
            }
            None if self.problems.remove(part).is_some() => {
                tracing::info!(part, folder = %folder.display(), "the state folder is written to again");
            }
            None => {}
        }
        self.status.problem = self.problems.values().next().cloned();
        is_written
    }
}

/// Where a file is moved that is not used.
fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_os_string();
    aside.push(".bad");
    aside.into()
}

/// The part of a sink, whose name may be any text: safe as the name of a file, and another one for every other name.
pub fn sink_part(name: &str) -> String {
    let mut part = format!("sink-{}", utf8_percent_encode(name, ESCAPED));
    if part.len() > MOST_NAME_BYTES {
        part.truncate(MOST_NAME_BYTES);
        part.push_str(&format!("-{:016x}", rapidhash_v3(name.as_bytes())));
    }
    part
}

#[cfg(test)]
mod tests;
