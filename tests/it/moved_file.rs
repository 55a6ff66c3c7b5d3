//! Files that are moved or deleted under a running daemon: the next interval is in a new file at the same path.

use std::path::Path;

use serde_json::Value;

use crate::support::{Daemon, until};

fn start(dir: &Path, kind: &str, file: &Path) -> Daemon {
    let config = format!(
        "interval = \"100ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\nname = \"it\"\ntype = \"{kind}\"\npath = \"{}\"\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n",
        file.display()
    );
    Daemon::start(dir, &config)
}

fn delivered(status: &Value) -> Option<u64> {
    status["sinks"]["it"]["delivered"].as_u64()
}

/// Polls until a file says something of a series.
fn wait_for(what: &str, path: &Path, has: impl Fn(&Path, &str) -> bool) {
    until(what, || has(path, what));
}

fn has_text(path: &Path, name: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.contains(name))
}

/// Sends a timer before and after the file goes; it is moved, deleted, and deleted with its folder.
fn goes_on_in_a_new_file(kind: &str, has: impl Fn(&Path, &str) -> bool + Copy) {
    let dir = tempfile::tempdir().expect("a folder");
    let (folder, elsewhere) = (dir.path().join("data"), dir.path().join("moved"));
    std::fs::create_dir(&folder).expect("a folder");
    let file = folder.join("it");
    let mut daemon = start(dir.path(), kind, &file);
    daemon.send_udp(&[b"first:1|ms"]);
    daemon.status_when("the first", |status| delivered(status) == Some(1));
    wait_for("first", &file, has);

    std::fs::rename(&file, &elsewhere).expect("moved");
    daemon.send_udp(&[b"second:2|ms"]);
    daemon.status_when("the second", |status| delivered(status) == Some(2));
    wait_for("second", &file, has);
    assert!(has(&elsewhere, "first") && !has(&elsewhere, "second") && !has(&file, "first"));

    std::fs::remove_file(&file).expect("deleted");
    daemon.send_udp(&[b"third:3|ms"]);
    daemon.status_when("the third", |status| delivered(status) == Some(3));
    wait_for("third", &file, has);
    assert!(!has(&file, "second"));

    // Without its folder there is nothing to write to: the interval waits.
    std::fs::remove_dir_all(&folder).expect("deleted");
    daemon.send_udp(&[b"fourth:4|ms"]);
    daemon.status_when("a failure", |status| status["sinks"]["it"]["last_error"].is_string());
    std::fs::create_dir(&folder).expect("a folder");
    daemon.status_when("the fourth", |status| delivered(status) == Some(4));
    wait_for("fourth", &file, has);
    daemon
        .wait_for("a word of each", |lines| lines.iter().filter(|line| line.contains("moved or deleted")).count() == 3);
    daemon.stop();
}

#[test]
fn records_go_on_in_a_new_file() {
    goes_on_in_a_new_file("file", has_text);
}

#[test]
fn a_histogram_log_goes_on_in_a_new_file_with_its_head() {
    goes_on_in_a_new_file("hdrlog", |path, name| has_text(path, name) && has_text(path, "#[Histogram log format"));
}

#[test]
fn a_histogram_log_that_is_cut_in_place_has_its_head_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("it");
    let daemon = start(dir.path(), "hdrlog", &file);
    daemon.send_udp(&[b"first:1|ms"]);
    daemon.status_when("the first", |status| delivered(status) == Some(1));
    std::fs::OpenOptions::new().write(true).truncate(true).open(&file).expect("cut");
    daemon.send_udp(&[b"second:2|ms"]);
    daemon.status_when("the second", |status| delivered(status) == Some(2));
    wait_for("second", &file, has_text);
    assert!(has_text(&file, "#[Histogram log format") && !has_text(&file, "first"));
    daemon.stop();
}

#[cfg(feature = "sqlite")]
#[test]
fn a_database_goes_on_in_a_new_file_and_the_moved_one_is_whole() {
    goes_on_in_a_new_file("sqlite", |path, name| {
        let read_only = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let Ok(database) = rusqlite::Connection::open_with_flags(path, read_only) else { return false };
        let count =
            database.query_row("SELECT count(*) FROM series WHERE name = ?1", [name], |row| row.get::<_, i64>(0));
        count == Ok(1)
    });
}
