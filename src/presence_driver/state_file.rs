//! The state file: what presence knows, on one line, and a trailer with the time and a checksum on a second one. A file
//! that was cut off, changed or is too old is not read; a new one replaces the old one in one step. A lock beside it keeps
//! other processes away: whoever reads another daemon's state takes its services for silent ones.
//!
//! A state is written by the presence thread, and gets onto the disk and into the place of the old one on a thread of its own:
//! nobody is judged while a disk is waited for.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::notify::SavedTarget;
use crate::presence::observers::{Observers, SavedObservers};
use crate::presence::{Alarm, AlertBook, Engine, Saved, UnixTime, Unsaved};
use crate::sys::unix_time;

/// A saved state of that age says nothing any more, in seconds.
const STALE_SECS: f64 = 86_400.0;

/// How often the lock of a state file is tried for, and the time between two tries.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Furthest from its start that the engine's clock may stand, in seconds: 300 years.
const MOST_CLOCK_SECS: f64 = 1e10;

/// Format of a state file, and of those that are read, too: what they lack is as if nothing had been noted.
const FORMAT: &str = "systole-presence/2";
const OLDER: [&str; 1] = ["systole-presence/1"];

/// What the state file holds.
#[derive(Debug, Deserialize)]
pub(super) struct SavedState {
    pub(super) presence: Saved,
    pub(super) alarms: Vec<Alarm>,
    /// What each target was told; absent from versions that did not keep that.
    #[serde(default)]
    pub(super) told: Option<Vec<SavedTarget>>,
    /// What other observers are to be told; absent where there are none.
    #[serde(default)]
    pub(super) observers: Option<SavedObservers>,
}

/// The last line: it is written when everything before it is.
#[derive(Serialize, Deserialize)]
struct Trailer {
    format: String,
    written: UnixTime,
    crc32: u32,
}

/// What came of claiming a state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It is ours to read and write.
    Held,
    /// Another process keeps its state in it.
    Taken,
    /// The lock cannot be made: nothing is written, but what is there may be read.
    Failed,
}

/// Where the state is kept: nowhere, if it is kept in memory only.
#[derive(Debug, Default)]
pub(super) struct StateFile {
    path: Option<PathBuf>,
    /// Keeps other processes away, once the file is read or written.
    lock: Option<File>,
    /// Why it is not saved; that was logged.
    unsaved: Option<Unsaved>,
    /// A state on its way to the disk.
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl StateFile {
    /// Claims a state file and reads what is in it, with its age in seconds; the problem, if it cannot be read.
    pub(super) fn open(path: Option<PathBuf>) -> (StateFile, Result<Option<(SavedState, f64)>, String>) {
        let mut file = StateFile { path, lock: None, unsaved: None, syncing: None };
        let Some(path) = file.path.clone() else { return (file, Ok(None)) };
        let claim = match fs::metadata(&path) {
            Ok(found) if found.is_file() => file.claim(),
            // A pipe would hold up the start until somebody writes to it, and could not be replaced by the next state.
            Ok(_) => {
                file.give_up("its state file is no regular file".into());
                file.path = None;
                return (file, Ok(None));
            }
            // Nothing is left behind where there was never anybody: the lock is made with the first state.
            Err(_) => Claim::Held,
        };
        // What is in a folder that cannot be written to is worth reading all the same.
        let saved = if claim == Claim::Taken { Ok(None) } else { load(&path) };
        if let Err(problem) = &saved {
            tracing::warn!(file = %path.display(), problem, "presence starts empty: the saved state is lost");
        }
        (file, saved)
    }

    /// Whether there is a file to write to, and none was written yet.
    pub(super) fn is_missing(&self) -> bool {
        self.path.as_ref().is_none_or(|path| !path.exists())
    }

    /// Whether the last state is still on its way to the disk.
    pub(super) fn is_syncing(&self) -> bool {
        self.syncing.as_ref().is_some_and(|syncing| !syncing.is_finished())
    }

    /// Waits until the last state is on the disk.
    pub(super) fn sync(&mut self) {
        if let Some(syncing) = self.syncing.take() {
            self.note(syncing.join().unwrap_or_else(|_| Err(io::Error::other("its thread failed"))));
        }
    }

    /// Why the state is not saved, if it is not, once the last attempt has ended.
    pub(super) fn unsaved(&mut self) -> Option<&Unsaved> {
        if !self.is_syncing() {
            self.sync();
        }
        self.unsaved.as_ref()
    }

    /// Notes what came of a state.
    fn note(&mut self, outcome: io::Result<()>) {
        match outcome {
            Ok(()) if self.unsaved.take().is_some() => tracing::info!("the state of presence is saved again"),
            Ok(()) => {}
            Err(error) => self.give_up(format!("its state cannot be written: {error}")),
        }
    }

    /// The state is not saved for now. That is logged once.
    fn give_up(&mut self, why: String) {
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.why = why;
            return;
        }
        let file = self.path.as_deref().unwrap_or(Path::new(""));
        tracing::warn!(file = %file.display(), "presence is kept in memory only: {why}");
        self.unsaved = Some(Unsaved { since: UnixTime::from_secs(unix_time()), why });
    }

    /// Writes a state, which gets onto the disk later: [`StateFile::sync`] waits for that.
    pub(super) fn save(
        &mut self,
        engine: &Engine,
        alerts: &AlertBook,
        told: &[SavedTarget],
        observers: Option<&Observers>,
    ) {
        if self.lock.is_none() && self.path.is_some() && self.claim() != Claim::Held {
            return;
        }
        self.sync();
        let Some(path) = self.path.clone() else { return };
        match write(&path, engine, alerts, told, observers).inspect_err(|_| drop(fs::remove_file(fresh(&path)))) {
            Ok(file) => {
                let syncs = move || replace(&path, &file);
                match Builder::new().name("presence-sync".into()).spawn(syncs) {
                    Ok(thread) => self.syncing = Some(thread),
                    Err(error) => self.note(Err(error)),
                }
            }
            Err(error) => self.note(Err(error)),
        }
    }

    /// Takes the lock; without it the state is kept in memory only: for ever if another process has it, else until the next try.
    fn claim(&mut self) -> Claim {
        let Some(path) = &self.path else { return Claim::Failed };
        match lock(path) {
            Ok(Some(lock)) => {
                self.lock = Some(lock);
                Claim::Held
            }
            Ok(None) => {
                let advice = "set `presence.state_file` to a file of its own";
                self.give_up(format!("another process keeps its state in this file; {advice}"));
                self.path = None;
                Claim::Taken
            }
            Err(error) => {
                self.note(Err(error));
                Claim::Failed
            }
        }
    }
}

impl Drop for StateFile {
    /// The lock is held until the last state is in its place.
    fn drop(&mut self) {
        self.sync();
    }
}

/// The lock of a state file; `None` if another process has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut name = OsString::from(path);
    name.push(".lock");
    let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(name)?;
    for _ in 0..LOCK_TRIES {
        match lock.try_lock() {
            Ok(()) => return Ok(Some(lock)),
            // A child that was begun while the file was open holds the lock, too, until it is another program.
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(None)
}

/// A writer that keeps a checksum.
struct Checked<W> {
    inner: W,
    hash: crc32fast::Hasher,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Where a new state is written.
fn fresh(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

/// Puts a state that was written onto the disk, and in the place of the old one.
fn replace(path: &Path, file: &File) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(fresh(path), path)
}

/// A file of our own in the place of whatever is there: a pipe would hold up presence, and a link may point anywhere.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Writes a state and its trailer beside the old one.
fn write(
    path: &Path,
    engine: &Engine,
    alerts: &AlertBook,
    told: &[SavedTarget],
    observers: Option<&Observers>,
) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = BufWriter::with_capacity(1 << 16, create(&fresh(path))?);
    let mut out = Checked { inner: file, hash: crc32fast::Hasher::new() };
    // As `SavedState` has it, without a copy of everything.
    out.write_all(b"{\"presence\":")?;
    engine.store(&mut out)?;
    out.write_all(b",\"alarms\":")?;
    serde_json::to_writer(&mut out, &alerts.open().collect::<Vec<_>>())?;
    out.write_all(b",\"told\":")?;
    serde_json::to_writer(&mut out, told)?;
    if let Some(observers) = observers {
        out.write_all(b",\"observers\":")?;
        observers.store(&mut out)?;
    }
    out.write_all(b"}")?;
    let written = UnixTime::from_secs(unix_time());
    let trailer = Trailer { format: FORMAT.into(), written, crc32: out.hash.finalize() };
    let mut file = out.inner;
    file.write_all(b"\n")?;
    serde_json::to_writer(&mut file, &trailer)?;
    file.write_all(b"\n")?;
    Ok(file.into_inner()?)
}

/// What is in a state file, for people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held {
    /// Seconds since it was written.
    pub age_secs: f64,
    /// How many services, instances and jobs it has.
    pub counts: (usize, usize, usize),
}

/// How many bytes a state file has, and what is in there, or why it cannot be used; `None` if there is none. It only reads, whoever
/// has the file.
pub fn inspect(path: &Path) -> Option<(u64, Result<Held, String>)> {
    let found = fs::metadata(path).ok()?;
    let read = if found.is_file() { load(path) } else { Err("it is no regular file".into()) };
    let held = |(saved, age_secs): (SavedState, f64)| Held { age_secs, counts: saved.presence.counts() };
    Some((found.len(), read.transpose()?.map(held)))
}

/// Reads a state and its age in seconds; `None` if there is none.
fn load(path: &Path) -> Result<Option<(SavedState, f64)>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let cut = "it was cut off";
    let rest = bytes.strip_suffix(b"\n").ok_or(cut)?;
    let end = memchr::memrchr(b'\n', rest).ok_or(cut)?;
    let trailer: Trailer = serde_json::from_slice(&rest[end..]).map_err(|_| "its last line cannot be read")?;
    if trailer.format != FORMAT && !OLDER.contains(&&*trailer.format) {
        return Err(format!("its format is `{}`, not `{FORMAT}`", trailer.format));
    }
    let body = &rest[..end];
    if crc32fast::hash(body) != trailer.crc32 {
        return Err("its checksum is wrong".into());
    }
    // A clock that was set back makes it no younger than new.
    let age = (UnixTime::from_secs(unix_time()) - trailer.written).max(0.0);
    if age > STALE_SECS {
        return Err(format!("it is {:.0} hours old", age / 3600.0));
    }
    let saved: SavedState = serde_json::from_slice(body).map_err(|error| format!("it cannot be read: {error}"))?;
    // Beyond that an interval is lost in rounding.
    let now = saved.presence.now().as_secs();
    if now.abs() > MOST_CLOCK_SECS {
        return Err(format!("its clock stands at {now:e} s"));
    }
    Ok(Some((saved, age)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{EngineTime, Epoch, JobState, Policy, ServiceState, State};
    use crate::protocol::Heartbeat;

    fn store(path: &Path) {
        store_of(&engine(), path);
    }

    fn store_of(engine: &Engine, path: &Path) {
        let file = write(path, engine, &alerts(), &[], None).expect("written");
        replace(path, &file).expect("in its place");
    }

    fn engine() -> Engine {
        let at = EngineTime::from_secs;
        let mut engine = Engine::new(Policy::default(), at(0.0), 1);
        engine.at(at(5.0));
        engine.beat(&Heartbeat {
            service: "a".into(),
            instance: "b".into(),
            interval: Some(10.0),
            version: Some("1.2".into()),
            ..Heartbeat::default()
        });
        engine.tick(at(5.25));
        engine
    }

    fn alerts() -> AlertBook {
        AlertBook::new(10.0, Vec::new())
    }

    #[test]
    fn states_beside_each_other_are_written_apart() {
        let [one, other] = ["presence.a", "presence.b"].map(|name| fresh(Path::new(name)));
        assert_ne!(one, other);
    }

    #[test]
    fn a_state_is_written_through_no_link_and_into_no_pipe() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, other) = (dir.path().join("presence.json"), dir.path().join("other"));
        fs::write(&other, "precious").expect("a file");
        std::os::unix::fs::symlink(&other, fresh(&path)).expect("a link");
        store(&path);
        assert_eq!(fs::read(&other).expect("a file"), b"precious");
        assert!(fs::symlink_metadata(&path).expect("a state").is_file());
        assert!(std::process::Command::new("mkfifo").arg(fresh(&path)).status().expect("mkfifo runs").success());
        store(&path);
        assert!(matches!(load(&path), Ok(Some(_))));
    }

    #[test]
    fn a_state_that_cannot_be_locked_is_read_and_not_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("presence.json");
        store(&path);
        let before = fs::read(&path).expect("a state");
        // A folder in the lock's place: not even root makes a file of it.
        fs::create_dir(dir.path().join("presence.json.lock")).expect("a folder");
        let (mut file, saved) = StateFile::open(Some(path.clone()));
        assert!(saved.is_ok_and(|saved| saved.is_some()));
        let mut later = engine();
        later.tick(EngineTime::from_secs(10.0));
        file.save(&later, &alerts(), &[], None);
        file.sync();
        assert_eq!(fs::read(&path).expect("a state"), before);
    }

    #[test]
    fn a_state_that_cannot_be_written_is_unsaved_until_it_can() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("state");
        let (mut file, _) = StateFile::open(Some(folder.join("presence.json")));
        let mut saves = || {
            file.save(&engine(), &alerts(), &[], None);
            file.sync();
            file.unsaved().cloned()
        };
        assert_eq!(saves(), None);
        // The lock is held, and not even root makes a folder where a file is.
        fs::remove_dir_all(&folder).and_then(|()| fs::write(&folder, "")).expect("a file");
        let first = saves().expect("it is not saved");
        assert!(first.why.starts_with("its state cannot be written: "), "{first:?}");
        assert_eq!(saves().map(|unsaved| unsaved.since), Some(first.since));
        fs::remove_file(&folder).expect("it was there");
        assert_eq!(saves(), None);
    }

    #[test]
    fn a_state_that_another_holds_is_neither_read_nor_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("presence.json");
        let (mut first, _) = StateFile::open(Some(path.clone()));
        assert!(first.is_missing());
        first.save(&engine(), &alerts(), &[], None);
        first.sync();
        assert!(!first.is_missing());
        let (second, saved) = StateFile::open(Some(path.clone()));
        assert!(second.is_missing() && saved.is_ok_and(|saved| saved.is_none()));
        drop(first);
        let (_, saved) = StateFile::open(Some(path));
        assert!(saved.is_ok_and(|saved| saved.is_some()));
    }

    #[test]
    fn a_lock_that_goes_within_a_moment_is_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("presence.json");
        let first = lock(&path).expect("a lock");
        let second = thread::spawn(move || lock(&path));
        thread::sleep(3 * LOCK_PAUSE);
        assert!(first.is_some() && !second.is_finished());
        drop(first);
        assert!(second.join().expect("no panic").is_ok_and(|lock| lock.is_some()));
    }

    #[test]
    fn a_state_file_gives_back_what_was_saved_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("deep/presence.json");
        assert!(matches!(load(&path), Ok(None)));
        store(&path);
        let (saved, age) = load(&path).expect("a state").expect("it is there");
        assert!(age < 5.0);
        assert_eq!(saved.presence.now(), EngineTime::from_secs(5.25));
        let restored = Engine::restored(Policy::default(), saved.presence, EngineTime::from_secs(6.0), 1);
        let view = restored.view(Epoch::UNIX);
        assert_eq!(
            (&*view[0].service, view[0].state, view[0].instances[0].state),
            ("a", ServiceState::Up, State::Unknown)
        );
        assert_eq!(view[0].instances[0].version.as_deref(), Some("1.2"));
        let late = Engine::restored(Policy::default(), engine().save(), EngineTime::from_secs(9e15), 1);
        store_of(&late, &path);
        assert!(load(&path).is_err_and(|problem| problem == "its clock stands at 9e15 s"));
        store(&path);
        let mut bytes = fs::read(&path).expect("a file");
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(&path, &bytes).expect("written");
        assert!(load(&path).is_err_and(|problem| problem.contains("checksum")));
        fs::write(&path, b"{}").expect("written");
        assert!(load(&path).is_err());
    }

    #[test]
    fn a_state_of_an_older_version_is_read_with_its_jobs_and_what_was_notified() {
        // Written by a daemon of the first version with jobs and observers, of which the other one notified.
        let older = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/presence-state/2-before-ended-runs.json");
        let body = fs::read_to_string(older).expect("a state");
        let body = body.trim_end();
        let (written, crc32) = (UnixTime::from_secs(unix_time()), crc32fast::hash(body.as_bytes()));
        let trailer = serde_json::to_string(&Trailer { format: FORMAT.into(), written, crc32 }).expect("JSON");
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("presence.json");
        fs::write(&path, format!("{body}\n{trailer}\n")).expect("written");
        let (saved, _) = load(&path).expect("it can be read").expect("it is there");
        let now = saved.presence.now();
        let mut engine = Engine::restored(Policy::default(), saved.presence, now, 1).shared();
        let jobs = engine.view_jobs(None, None, None, (9, 9), Epoch::UNIX);
        let states: Vec<(&str, JobState, usize)> =
            jobs.iter().map(|job| (&*job.service, job.state, job.runs.len())).collect();
        let known = [("bad", JobState::Failed, 1), ("good", JobState::Ok, 1), ("open", JobState::Running, 0)];
        assert_eq!(states, known);
        // What every target was told then is told to none again.
        let urls = ["http://127.0.0.1:47812".to_string()];
        let observers = saved.observers.expect("there is another observer");
        observers.place_peers(&urls, &mut engine);
        let firing = saved.alarms.into_iter();
        let mut observers = Observers::new("b", 1, &urls, observers, firing, (now, written));
        observers.note_target("hook", true);
        let told = serde_json::to_value(observers.digest(&engine, None, written)).expect("JSON");
        assert_eq!(told["problems"][0]["told"]["hook"]["version"], 1, "{told}");
    }
}
