//! A database in a file (SQLite 3): series once, their numbers as `(series, field, time) → value`, and events, checks and changes of
//! presence beside them. An interval is one transaction, and one that is written twice is there once. What is older than
//! `retention` is deleted, at most once a minute; a step of the wall clock makes nothing old (see [`AgeClock`]).
//!
//! A file that was moved or deleted is replaced before the next interval.
//!
//! ```sql
//! SELECT datetime(time, 'unixepoch'), value FROM records WHERE name = 'api.hits' AND field = 'rate';
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};

use crate::codec::{RecordType, json_tags, records};
use crate::snapshot::Snapshot;
use crate::sys::unix_time;

use super::blocking::{Blocking, Writer};
use super::file::{FileId, file_id};
use super::spec::bare;
use super::{Delivery, LONG, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec, Unencodable};

/// Seconds between two deletions of what is too old.
const DELETE_EVERY_SECS: f64 = 60.0;

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS series (
    id INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    tags TEXT NOT NULL,
    UNIQUE (type, name, tags)
);
CREATE TABLE IF NOT EXISTS points (
    series INTEGER NOT NULL REFERENCES series (id),
    field TEXT NOT NULL,
    time REAL NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (series, field, time)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS points_by_time ON points (time);
CREATE TABLE IF NOT EXISTS notices (
    time REAL NOT NULL,
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (time, type, name, record)
) WITHOUT ROWID;
CREATE VIEW IF NOT EXISTS records AS
    SELECT time, type, name, tags, field, value FROM points JOIN series ON series.id = points.series;
";

/// `sqlite` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteSpec {
    path: PathBuf,
    retention: Duration,
}

impl Default for SqliteSpec {
    fn default() -> SqliteSpec {
        SqliteSpec { path: PathBuf::new(), retention: Duration::from_secs(7 * 86_400) }
    }
}

impl Spec for SqliteSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        visitor.field("path", "File of the database.", Opt::Path(&mut self.path));
        visitor.require_one("path", !self.path.as_os_str().is_empty(), "\"/var/lib/systole/records.db\"");
        visitor.field(
            "retention",
            "Older rows are deleted.",
            Opt::Duration(&mut self.retention, Duration::from_secs(60)..=LONG * 100),
        );
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        if bare(place).is_empty() {
            return Err("no path; `sqlite:///var/lib/systole/records.db` is right".into());
        }
        self.path = place.strip_prefix("//").unwrap_or(place).into();
        Ok(())
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn probe(&self) -> Result<String, String> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        match (self.path.exists(), folder.is_none_or(|folder| folder.is_dir())) {
            (true, _) => match open(self) {
                Ok(_) => Ok(format!("{} is a database", self.place())),
                Err(error) => Err(format!("{} cannot be opened: {error}", self.place())),
            },
            (false, true) => Ok(format!("{} can be made", self.place())),
            (false, false) => Err(format!("the folder of {} is not there", self.place())),
        }
    }

    fn accepts_out_of_order(&self) -> bool {
        true
    }

    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let writer = Database::open(self.clone(), unix_time()).map_err(|error| {
            format!("cannot open {}: {error}; make the folder, or choose another file", self.place())
        })?;
        Ok(Box::new(SqliteSink(Blocking::new(writer))))
    }
}

fn open(spec: &SqliteSpec) -> rusqlite::Result<Connection> {
    let database = Connection::open(&spec.path)?;
    database.busy_timeout(Duration::from_secs(5))?;
    database.execute_batch(SCHEMA)?;
    Ok(database)
}

struct SqliteSink(Blocking<Database>);

/// The time by which stored intervals age: the wall clock, but it goes no faster than time passes. An interval is deleted once
/// `retention` has passed since it was written, and not because the wall clock was set forward.
#[derive(Clone, Copy, Debug, PartialEq)]
struct AgeClock {
    /// What it shows when no time has passed, Unix seconds.
    start: f64,
}

impl AgeClock {
    /// A clock that starts at the wall clock's time; or, if that would make everything old that is stored, at the time of the
    /// newest: the wall clock may be wrong.
    fn new(wall: f64, newest: Option<f64>, retention_secs: f64) -> AgeClock {
        AgeClock { start: newest.filter(|newest| newest + retention_secs < wall).unwrap_or(wall) }
    }

    /// What it shows `passed` seconds after its start. When all that is stored (since `oldest`) was written after a step of the
    /// wall clock, the step is over: that is the time from then on.
    fn now(&mut self, passed: f64, wall: f64, oldest: Option<f64>, retention_secs: f64) -> f64 {
        let shown = self.start + passed;
        if let Some(oldest) = oldest.filter(|oldest| *oldest > shown) {
            self.start += ((oldest + retention_secs).min(wall) - shown).max(0.0);
        }
        (self.start + passed).min(wall)
    }
}

struct Database {
    spec: SqliteSpec,
    /// `None` if it could not be opened anew.
    database: Option<Connection>,
    /// The file that is open; `None` if the path names no file, as `:memory:` does.
    id: Option<FileId>,
    opened: Instant,
    clock: AgeClock,
    /// Seconds from the opening to the last deletion of what was too old.
    deleted: Option<f64>,
}

impl Database {
    fn open(spec: SqliteSpec, wall: f64) -> io::Result<Database> {
        let database = open(&spec).map_err(io::Error::other)?;
        let newest = time_of(&database, "max").map_err(io::Error::other)?;
        let clock = AgeClock::new(wall, newest, spec.retention.as_secs_f64());
        let id = file_id(&spec.path)?;
        Ok(Database { spec, database: Some(database), id, opened: Instant::now(), clock, deleted: None })
    }

    /// Opens the database anew if the path names another file by now, or none.
    fn follow_path(&mut self) -> io::Result<()> {
        if self.database.is_some() && (self.id.is_none() || file_id(&self.spec.path)? == self.id) {
            return Ok(());
        }
        // The write-ahead log has one name for both files. What it holds belongs to the old one, which may be kept elsewhere, and
        // must not be taken for the new one's.
        if let Some(old) = self.database.take()
            && let Err(error) = old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        {
            tracing::debug!(%error, "the database that was moved or deleted is left as it is");
        }
        *self = Database::open(self.spec.clone(), unix_time())?;
        tracing::info!(path = self.spec.place(), "the database was moved or deleted; writing to a new one");
        Ok(())
    }

    /// Writes an interval, at a time of the wall clock and so many seconds after the opening.
    fn transact(&mut self, snapshot: &Snapshot, wall: f64, passed: f64) -> rusqlite::Result<Unencodable> {
        let Some(database) = &mut self.database else { return Err(rusqlite::Error::InvalidQuery) };
        let transaction = database.transaction()?;
        let unencodable = insert(&transaction, snapshot)?;
        if self.deleted.is_none_or(|last| passed - last >= DELETE_EVERY_SECS) {
            let retention = self.spec.retention.as_secs_f64();
            let oldest = time_of(&transaction, "min")?;
            delete_before(&transaction, self.clock.now(passed, wall, oldest, retention) - retention)?;
            self.deleted = Some(passed);
        }
        transaction.commit()?;
        Ok(unencodable)
    }
}

/// The time of the oldest point (`min`) or the newest (`max`).
fn time_of(database: &Connection, which: &str) -> rusqlite::Result<Option<f64>> {
    database.query_row(&format!("SELECT {which}(time) FROM points"), [], |row| row.get(0))
}

/// Deletes what is older than a time.
fn delete_before(database: &Connection, oldest: f64) -> rusqlite::Result<()> {
    let gone = database.execute("DELETE FROM points WHERE time < ?1", [oldest])?;
    database.execute("DELETE FROM notices WHERE time < ?1", [oldest])?;
    if gone > 0 {
        database.execute(
            "DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM points WHERE points.series = series.id)",
            [],
        )?;
    }
    Ok(())
}

/// Writes the rows and the records of an interval; what of it has no form.
fn insert(database: &Connection, snapshot: &Snapshot) -> rusqlite::Result<Unencodable> {
    let mut unencodable = Unencodable::default();
    let mut find = database.prepare("SELECT id FROM series WHERE type = ?1 AND name = ?2 AND tags = ?3")?;
    let mut add = database.prepare("INSERT INTO series (type, name, tags) VALUES (?1, ?2, ?3)")?;
    let mut put = database.prepare(
        "INSERT INTO points (series, field, time, value) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET value = excluded.value",
    )?;
    for (_, row) in snapshot.rows(0) {
        let kind = RecordType::of(row.series.kind());
        let key = params![kind.name(), row.series.name(), json_tags(row.series)];
        let mut write = || {
            let id = match find.query_row(key, |found| found.get::<_, i64>(0)).optional()? {
                Some(id) => id,
                None => add.insert(key)?,
            };
            for (field, value) in &row.fields {
                put.execute(params![id, field, row.time, value])?;
            }
            Ok(())
        };
        if let Some(why) = final_error(write())? {
            unencodable.add(row.series, why);
        }
    }
    let mut put =
        database.prepare("INSERT OR IGNORE INTO notices (time, type, name, record) VALUES (?1, ?2, ?3, ?4)")?;
    for record in records(snapshot) {
        let written = put.execute(params![record.time, record.kind, record.name, record.record]);
        if let Some(why) = final_error(written.map(drop))? {
            unencodable.add(&record.name, why);
        }
    }
    Ok(unencodable)
}

/// An error that is the row's own, and will be there at each attempt; the others are of the database.
fn final_error(written: rusqlite::Result<()>) -> rusqlite::Result<Option<String>> {
    use rusqlite::ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};

    match written {
        Ok(()) => Ok(None),
        Err(error @ rusqlite::Error::ToSqlConversionFailure(_)) => Ok(Some(error.to_string())),
        Err(error) => match error.sqlite_error_code() {
            Some(ConstraintViolation | TooBig | TypeMismatch) => Ok(Some(error.to_string())),
            _ => Err(error),
        },
    }
}

impl Writer for Database {
    fn write(&mut self, snapshot: &Snapshot) -> io::Result<Receipt> {
        self.follow_path()?;
        let passed = self.opened.elapsed().as_secs_f64();
        let unencodable = self.transact(snapshot, unix_time(), passed).map_err(io::Error::other)?;
        if file_id(&self.spec.path)? != self.id {
            return Err(io::Error::other("the database was moved or deleted while it was written"));
        }
        Ok(Receipt::default().with(unencodable))
    }
}

impl Sink for SqliteSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(self.0.deliver(snapshot))
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Gauge;
    use crate::protocol::Kind;
    use crate::series::Series;
    use crate::snapshot::GaugePoint;

    const HOUR: f64 = 3600.0;

    /// A database with a retention of a day that an interval is written to each hour, and the clocks of its host.
    struct Fixture {
        database: Database,
        wall: f64,
        passed: f64,
    }

    impl Fixture {
        fn new(folder: &std::path::Path, wall: f64) -> Fixture {
            let spec = SqliteSpec { path: folder.join("db"), retention: Duration::from_secs(86_400) };
            Fixture { database: Database::open(spec, wall).expect("opened"), wall, passed: 0.0 }
        }

        fn run(&mut self, hours: usize) {
            for _ in 0..hours {
                (self.wall, self.passed) = (self.wall + HOUR, self.passed + HOUR);
                let point = GaugePoint { series: Series::new(Kind::Gauge, "g", &[]), gauge: Gauge::default() };
                let snapshot = Snapshot { end: self.wall, gauges: vec![point], ..Snapshot::default() };
                self.database.transact(&snapshot, self.wall, self.passed).expect("written");
            }
        }

        fn stored(&self) -> Vec<f64> {
            let database = self.database.database.as_ref().expect("it is open");
            let mut query = database.prepare("SELECT time FROM points ORDER BY time").expect("a query");
            let times = query.query_map([], |row| row.get(0)).expect("it runs");
            times.map(|time| time.expect("a time")).collect()
        }
    }

    #[test]
    fn an_interval_is_deleted_when_its_retention_is_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut fixture = Fixture::new(folder.path(), 1.7e9);
        fixture.run(100);
        assert_eq!((fixture.stored().len(), fixture.stored()[0]), (25, fixture.wall - 24.0 * HOUR));
    }

    #[test]
    fn a_step_of_the_wall_clock_deletes_nothing_before_its_time() {
        for days in [400.0, 3.0, 0.5, -0.5, -3.0, -400.0] {
            let folder = tempfile::tempdir().expect("a folder");
            let mut fixture = Fixture::new(folder.path(), 1.7e9);
            fixture.run(48);
            let before = fixture.stored();
            assert_eq!(before.len(), 25);
            fixture.wall += days * 24.0 * HOUR;
            fixture.run(1);
            assert!(fixture.stored().len() >= 25, "{days} days: {:?}", fixture.stored());
            fixture.run(11);
            // What was written in the last half of a day before the step is still there.
            let kept = |time: &&f64| before[13..].contains(time);
            assert_eq!(fixture.stored().iter().filter(kept).count(), before[13..].len(), "{days} days");
            // Without end nothing grows: what the step has mixed up is over after a while.
            fixture.run(100);
            if days > 0.0 {
                assert!(fixture.stored().len() <= 38, "{days} days: {}", fixture.stored().len());
            }
            assert!(fixture.stored().contains(&fixture.wall));
        }
    }

    #[test]
    fn a_wall_clock_that_is_wrong_at_the_start_deletes_nothing_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut fixture = Fixture::new(folder.path(), 1.7e9);
        fixture.run(10);
        drop(fixture);
        let mut fixture = Fixture::new(folder.path(), 1.7e9 + 1e8);
        fixture.run(5);
        assert_eq!(fixture.stored().len(), 15);
        fixture.run(60);
        assert!((25..=26).contains(&fixture.stored().len()), "{:?}", fixture.stored());
    }
}
