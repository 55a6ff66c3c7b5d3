use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::*;
use crate::disk::{Disk, FileFacts};

/// A disk that is full while it is told to be.
#[derive(Debug)]
struct SmallDisk(DiskHandle, Arc<AtomicBool>);

#[derive(Debug)]
struct SmallFile(Box<dyn DiskFile>, Arc<AtomicBool>);

impl Disk for SmallDisk {
    fn make_folder(&self, folder: &Path, is_private: bool) -> io::Result<()> {
        self.0.make_folder(folder, is_private)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(folder)
    }

    fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        self.0.facts(path)
    }

    fn open(&self, path: &Path, how: Opened) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SmallFile(self.0.open(path, how)?, Arc::clone(&self.1))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.0.sync_folder(folder)
    }
}

impl DiskFile for SmallFile {
    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }

    fn read_at(&self, room: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_at(room, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.0.write_at(bytes, at)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.0.cut(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn touch(&self, at: f64) -> io::Result<()> {
        self.0.touch(at)
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock()
    }
}

fn open(folder: &Path) -> StateFolder {
    StateFolder::open(folder, Duration::ZERO)
}

fn put(folder: &StateFolder, part: &str, bytes: &[u8]) -> bool {
    folder.write(part, 3, |out| out.write_all(bytes))
}

fn get(folder: &StateFolder, part: &str) -> Option<Vec<u8>> {
    folder.read(part, 3, Limits::default()).map(|saved| saved.bytes)
}

fn discarded(folder: &StateFolder, part: &str) -> Vec<(&'static str, u64)> {
    folder.status().parts.get(part).map(|known| known.discarded.clone().into_iter().collect()).unwrap_or_default()
}

#[test]
fn a_part_is_what_was_written_last_and_nothing_once_it_is_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path().join("deep/state");
    let folder = open(&at);
    assert!(folder.is_kept() && get(&folder, "a").is_none());
    // Bytes that look like a trailer are bytes.
    let odd = b"x\n{\"part\":\"a\"}\n";
    for bytes in [&b""[..], b"one", odd, b"\n"] {
        assert!(put(&folder, "a", bytes));
        assert_eq!(get(&folder, "a").as_deref(), Some(bytes));
    }
    assert!(put(&folder, "b", b"two"));
    assert_eq!(fs::metadata(&at).expect("a folder").permissions().mode() & 0o777, 0o700);
    folder.remove("a");
    assert_eq!((get(&folder, "a"), get(&folder, "b")), (None, Some(b"two".to_vec())));
    let saved = folder.read("b", 9, Limits::default()).expect("it is there");
    assert!(saved.format == 3 && saved.age_secs < 5.0);
}

#[test]
fn a_write_that_fails_leaves_what_was_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = open(dir.path());
    assert!(put(&folder, "a", b"old"));
    let is_written = folder.write("a", 3, |out| {
        out.write_all(b"half of the new")?;
        Err(io::Error::other("it broke"))
    });
    assert!(!is_written && get(&folder, "a").as_deref() == Some(b"old"));
    let problem = format!("`a` cannot be written to {}: it broke", dir.path().display());
    assert_eq!(folder.status().problem, Some(problem));
    assert!(put(&folder, "a", b"new") && folder.status().problem.is_none());
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 2, "the lock and one part");
}

#[test]
fn what_an_earlier_write_has_left_keeps_none_from_being_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = open(dir.path());
    // It had the number of this one, and the disk did not remove it at the start.
    fs::write(part::fresh(dir.path(), "a", 1), b"half").expect("written");
    assert!(put(&folder, "a", b"one"));
    assert_eq!(get(&folder, "a").as_deref(), Some(&b"one"[..]));
}

#[test]
fn what_is_removed_meanwhile_does_not_come_back_by_its_writer() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = open(dir.path());
    let own = folder.clone();
    let is_written = folder.write("a", 1, |out| {
        own.remove("a");
        out.write_all(b"late")
    });
    assert!(!is_written && get(&folder, "a").is_none() && folder.status().problem.is_none());
}

#[test]
fn a_turn_that_was_taken_before_a_removal_writes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = open(dir.path());
    let (early, other) = (folder.begin("a").expect("it is kept"), folder.begin("b").expect("it is kept"));
    folder.remove("a");
    assert!(!folder.write_turn(early, 1, |out| out.write_all(b"early")) && get(&folder, "a").is_none());
    assert!(folder.write_turn(other, 1, |out| out.write_all(b"b")) && get(&folder, "b").is_some());
}

#[test]
fn a_turn_that_is_taken_keeps_no_earlier_one_from_being_written_before_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = open(dir.path());
    let begin = || folder.begin("a").expect("it is kept");
    let write = |turn, text: &str| folder.write_turn(turn, 3, |out| out.write_all(text.as_bytes()));
    let (first, second, third, fourth) = (begin(), begin(), begin(), begin());
    assert!(write(first, "first") && get(&folder, "a").as_deref() == Some(b"first"));
    assert!(write(third, "third") && get(&folder, "a").as_deref() == Some(b"third"));
    assert!(!write(second, "late") && get(&folder, "a").as_deref() == Some(b"third"));
    folder.end_turns("a");
    assert!(!write(fourth, "ended") && get(&folder, "a").as_deref() == Some(b"third"));
}

#[test]
fn what_cannot_be_used_is_set_aside_and_counted_by_its_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = open(dir.path());
    let file = |part: &str| dir.path().join(format!("{part}.state"));
    for part in ["cut", "changed", "foreign", "newer", "old", "large"] {
        assert!(put(&folder, part, b"some bytes"));
    }
    let bytes = fs::read(file("cut")).expect("a part");
    fs::write(file("cut"), &bytes[..bytes.len() / 2]).expect("written");
    fs::write(file("changed"), [b"S", &bytes[1..]].concat()).expect("written");
    fs::rename(file("foreign"), file("moved")).expect("renamed");
    fs::write(file("text"), "this is no state\n").expect("written");
    fs::create_dir(file("folder")).expect("a folder");
    let old = fs::read_to_string(file("old")).expect("a part");
    let (head, tail) = old.split_once("\"written\":").expect("a trailer");
    let tail = tail.split_once(',').expect("further fields").1;
    fs::write(file("old"), format!("{head}\"written\":{},{tail}", unix_time() - 86_401.0)).expect("written");
    let small = Limits { bytes: 5, ..Limits::default() };
    for (part, format, limits, reason) in [
        ("cut", 3, Limits::default(), "damaged"),
        ("changed", 3, Limits::default(), "damaged"),
        ("moved", 3, Limits::default(), "damaged"),
        ("text", 3, Limits::default(), "damaged"),
        ("folder", 3, Limits::default(), "damaged"),
        ("newer", 2, Limits::default(), "format"),
        ("old", 3, Limits::default(), "age"),
        ("large", 3, small, "size"),
    ] {
        assert_eq!(folder.read(part, format, limits), None, "{part}");
        assert_eq!(discarded(&folder, part), [(reason, 1)], "{part}");
        assert!(!file(part).exists() && dir.path().join(format!("{part}.state.bad")).exists(), "{part}");
        assert_eq!(folder.read(part, format, limits), None, "{part}");
        assert_eq!(discarded(&folder, part), [(reason, 1)], "{part} is counted once");
    }
    assert!(folder.is_kept() && put(&folder, "cut", b"new"));
}

#[test]
fn a_folder_that_another_has_is_neither_read_nor_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = open(dir.path());
    assert!(put(&first, "a", b"first") && first.begin_run().is_none());
    let second = open(dir.path());
    assert!(!second.is_kept() && get(&second, "a").is_none() && !put(&second, "a", b"second"));
    second.remove("a");
    second.end_run();
    assert!(second.begin_run().is_none());
    assert!(second.status().problem.is_some_and(|problem| problem.contains("another process")));
    assert_eq!(get(&first, "a").as_deref(), Some(&b"first"[..]));
    drop(first);
    assert_eq!(get(&open(dir.path()), "a").as_deref(), Some(&b"first"[..]));
}

#[test]
fn a_folder_that_is_about_to_be_free_is_waited_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = open(dir.path());
    let path = dir.path().to_path_buf();
    let second = std::thread::spawn(move || StateFolder::open(&path, Duration::from_secs(20)));
    drop(first);
    assert!(second.join().expect("no panic").is_kept());
}

#[test]
fn a_folder_that_cannot_be_locked_is_read_and_not_written() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(put(&open(dir.path()), "a", b"old"));
    // A folder in the lock's place: not even root makes a file of it.
    fs::remove_file(dir.path().join("lock")).and_then(|()| fs::create_dir(dir.path().join("lock"))).expect("a folder");
    let folder = open(dir.path());
    assert!(!folder.is_kept() && folder.status().problem.is_some());
    assert_eq!(get(&folder, "a").as_deref(), Some(&b"old"[..]));
    assert!(!put(&folder, "a", b"new") && get(&folder, "a").as_deref() == Some(&b"old"[..]));
}

#[test]
fn a_run_without_a_clean_end_is_known_with_its_last_sign_of_life() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = dir.path().join("running");
    let folder = open(dir.path());
    assert_eq!(folder.begin_run(), None);
    folder.end_run();
    assert!(!running.exists());
    assert_eq!((folder.begin_run(), folder.status().unclean_stop), (None, None));
    let long_ago = SystemTime::now() - Duration::from_secs(100);
    File::options().append(true).open(&running).and_then(|file| file.set_modified(long_ago)).expect("it is there");
    drop(folder);
    let folder = open(dir.path());
    let unclean = folder.begin_run().expect("it did not end");
    assert!((100.0..130.0).contains(&unclean) && folder.status().unclean_stop == Some(unclean), "{unclean}");
    // It ended before it could tell that.
    drop(folder);
    let folder = open(dir.path());
    assert!(folder.begin_run().is_some_and(|since| since >= unclean));
    folder.touch();
    drop(folder);
    assert!(open(dir.path()).begin_run().is_some_and(|since| since < 30.0));
}

#[test]
fn no_folder_keeps_nothing_and_says_so() {
    let folder = StateFolder::off();
    assert!(!folder.is_kept() && !put(&folder, "a", b"x") && get(&folder, "a").is_none());
    folder.remove("a");
    assert_eq!((folder.begin_run(), folder.status()), (None, StateStatus::default()));
}

#[test]
fn sinks_of_any_name_have_parts_of_their_own() {
    let long = "é".repeat(100);
    let names = ["a", "A", "a/b", "a%2Fb", "..", "", "a b", &long, &format!("{long}x"), "sink-a", "over", "a-over"];
    let parts: std::collections::BTreeSet<String> = names.iter().map(|name| sink_part(name)).collect();
    assert_eq!(parts.len(), names.len());
    let dir = tempfile::tempdir().expect("a folder");
    let folder = open(dir.path());
    for part in &parts {
        assert!(put(&folder, part, part.as_bytes()));
    }
    for part in parts {
        assert_eq!(get(&folder, &part).as_deref(), Some(part.as_bytes()), "{part}");
        assert!(part.len() < 180 && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_%".contains(&c)), "{part}");
    }
}

#[test]
fn a_survey_shows_what_is_there_while_the_daemon_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = open(dir.path());
    assert!(put(&folder, "b", b"12345") && put(&folder, "a", b"") && folder.begin_run().is_none());
    folder.set_aside("b", Discarded::Damaged, "it is odd");
    fs::write(dir.path().join("c.state"), "odd").expect("written");
    fs::write(dir.path().join("cluster-x-y.state"), "of others").expect("written");
    let found = survey(dir.path()).expect("a folder");
    let shown: Vec<_> = found.iter().map(|one| (&*one.part, one.is_aside, one.trailer.is_ok())).collect();
    assert_eq!(shown, [("a", false, true), ("c", false, false), ("b", true, true)]);
    assert_eq!((begun_by(dir.path()), is_held(dir.path())), (Some(std::process::id()), true));
    assert!(inspect(dir.path(), "a").is_ok_and(|saved| saved.bytes.is_empty()) && inspect(dir.path(), "c").is_err());
}

#[test]
fn a_problem_lasts_until_what_failed_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let is_full = Arc::new(AtomicBool::new(false));
    let disk = DiskHandle::new(SmallDisk(DiskHandle::default(), Arc::clone(&is_full)));
    let folder = StateFolder::open_on(disk, dir.path(), Duration::ZERO);
    folder.begin_run();
    is_full.store(true, Ordering::Relaxed);
    // As encoders do, which say that they failed, and not why.
    let encoded =
        |out: &mut dyn Write| out.write_all(&[0; 1 << 20]).map_err(|_| io::Error::other("the buffer is full"));
    for part in ["a", "b"] {
        assert!(!folder.write(part, 3, encoded));
    }
    let problem = || folder.status().problem.unwrap_or_default();
    for text in ["`a`", "No space left on device", &dir.path().display().to_string()] {
        assert!(problem().contains(text), "{}", problem());
    }
    folder.touch();
    folder.remove("a");
    assert!(problem().contains("`a`"), "a sign of life takes no room, nor does a removal");
    is_full.store(false, Ordering::Relaxed);
    assert!(put(&folder, "a", b"new") && problem().contains("`b`"), "{}", problem());
    assert!(put(&folder, "b", b"new"));
    assert_eq!(problem(), "");
}

#[test]
fn removals_that_do_not_reach_the_disk_are_a_problem_until_they_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let is_full = Arc::new(AtomicBool::new(true));
    let disk = DiskHandle::new(SmallDisk(DiskHandle::default(), Arc::clone(&is_full)));
    let folder = StateFolder::open_on(disk, dir.path(), Duration::ZERO);
    assert!(!folder.sync());
    let problem = folder.status().problem.unwrap_or_default();
    assert!(problem.contains("`removals`") && problem.contains("No space left on device"), "{problem}");
    is_full.store(false, Ordering::Relaxed);
    assert!(folder.sync() && folder.status().problem.is_none());
}

#[test]
fn a_process_that_cannot_save_what_it_knows_leaves_that_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = open(dir.path());
    folder.begin_run();
    folder.leave_unsaved();
    folder.end_run();
    drop(folder);
    assert_eq!((begun_by(dir.path()), is_unsaved(dir.path())), (None, true));
    let folder = open(dir.path());
    assert_eq!((folder.begin_run(), folder.status().is_stale), (None, true));
    // A start that fails leaves it.
    assert!(is_unsaved(dir.path()));
    folder.forget_unsaved();
    folder.end_run();
    drop(folder);
    let folder = open(dir.path());
    assert_eq!((folder.begin_run(), folder.status().is_stale, is_unsaved(dir.path())), (None, false, false));
}

#[test]
fn what_is_over_is_not_what_it_was_and_is_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = open(dir.path());
    assert!(folder.begin("a").is_some_and(|turn| folder.end_turn(turn)));
    assert!(put(&folder, "a", b"old"));
    let early = folder.begin("a").expect("it is kept");
    assert!(folder.begin("a").is_some_and(|turn| folder.end_turn(turn)));
    assert!(!folder.write_turn(early, 3, |out| out.write_all(b"late")));
    assert_eq!((get(&folder, "a"), get(&folder, "a-over")), (None, Some(b"old".to_vec())));
    assert!(inspect(dir.path(), "a-over").is_ok() && folder.status().problem.is_none());
}

#[test]
fn a_folder_that_is_moved_away_is_written_no_more_and_a_new_one_if_nobody_has_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let (at, elsewhere) = (dir.path().join("state"), dir.path().join("elsewhere"));
    let first = open(&at);
    first.begin_run();
    assert!(put(&first, "a", b"first"));
    fs::rename(&at, &elsewhere).expect("renamed");
    assert!(!put(&first, "a", b"later") && first.status().problem.is_some() && !at.exists());
    let second = open(&at);
    second.begin_run();
    assert!(second.is_kept() && put(&second, "a", b"second"));
    assert!(!put(&first, "a", b"later"));
    assert!(first.status().problem.is_some_and(|problem| problem.contains("another process keeps its state")));
    first.remove("a");
    first.touch();
    first.end_run();
    assert!(is_held(&at) && begun_by(&at).is_some() && get(&second, "a").as_deref() == Some(b"second"));
    second.end_run();
    drop(second);
    assert!(put(&first, "a", b"later"));
    first.touch();
    assert!(first.status().problem.is_none() && begun_by(&at).is_some() && !open(&at).is_kept());
    assert_eq!(fs::read(elsewhere.join("a.state")).expect("a part")[..5], *b"first");
}

#[test]
fn a_process_is_known_by_the_lock() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join(RUNNING), "1\n").expect("written");
    assert_eq!((begun_by(dir.path()), is_held(dir.path())), (Some(1), false));
    let folder = open(dir.path());
    assert!(folder.is_kept() && is_held(dir.path()));
    drop(folder);
    assert!(!is_held(dir.path()) && open(dir.path()).is_kept(), "it is not disturbed");
}

#[test]
fn pipes_in_the_folder_hold_nobody_up() {
    for file in ["lock", RUNNING, "a.state"] {
        let dir = tempfile::tempdir().expect("a folder");
        let pipe = dir.path().join(file);
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("it runs");
        assert!(made.success());
        assert_eq!((begun_by(dir.path()), is_held(dir.path())), (None, false));
        let folder = open(dir.path());
        folder.begin_run();
        folder.touch();
        assert_eq!(get(&folder, "a"), None);
        let problem = folder.status().problem.unwrap_or_default();
        // That the process runs takes the place of what is there.
        assert_eq!(problem.contains("is no regular file") && problem.contains(file), file == "lock", "{problem}");
        assert_eq!(begun_by(dir.path()).is_some(), file != "lock");
    }
}

#[test]
fn links_in_the_folder_lead_nowhere() {
    let dir = tempfile::tempdir().expect("a folder");
    let victim = dir.path().join("victim");
    fs::write(&victim, "its own").expect("written");
    for file in ["lock", RUNNING] {
        let at = dir.path().join(format!("with-{file}"));
        fs::create_dir(&at).expect("a folder");
        std::os::unix::fs::symlink(&victim, at.join(file)).expect("a link");
        let folder = open(&at);
        folder.begin_run();
        folder.touch();
        let problem = folder.status().problem.unwrap_or_default();
        assert_eq!(problem.contains("is a symbolic link") && problem.contains(file), file == "lock", "{problem}");
        assert_eq!((folder.is_kept(), at.join(RUNNING).is_file()), (file != "lock", file != "lock"));
        assert_eq!(fs::read_to_string(&victim).expect("text"), "its own");
    }
}

#[test]
fn a_trial_says_whether_there_is_room_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let is_full = Arc::new(AtomicBool::new(false));
    let disk = DiskHandle::new(SmallDisk(DiskHandle::default(), Arc::clone(&is_full)));
    let folder = StateFolder::open_on(disk, dir.path(), Duration::ZERO);
    assert!(put(&folder, "a", b"before"));
    let files = || fs::read_dir(dir.path()).expect("a folder").count();
    let before = files();
    let trial = folder.try_part("a", 1, |out| out.write_all(b"for trial")).expect("there is room");
    assert_eq!((trial.bytes(), files()), (9, before + 1));
    drop(trial);
    is_full.store(true, Ordering::Relaxed);
    let problem = folder.try_part("a", 1, |out| out.write_all(b"for trial")).expect_err("it is full");
    assert_eq!(problem.kind(), io::ErrorKind::StorageFull);
    assert_eq!((files(), get(&folder, "a").as_deref(), folder.status().problem), (before, Some(&b"before"[..]), None));
    assert!(StateFolder::off().try_part("a", 1, |_| Ok(())).is_err());
}
