//! A database in a file (SQLite 3): series once, their numbers as `(series, field, time) → value`, and events, checks and changes of
//! presence beside them. An interval is one transaction, and one that is written twice is there once. What is older than
//! `retention` is deleted, at most once a minute; a step of the wall clock makes nothing old (see [`AgeClock`]).
//!
//! A file that was moved or deleted is replaced before the next interval.
//!
//! ```sql
//! SELECT datetime(time, 'unixepoch'), value FROM records WHERE name = 'api.hits' AND field = 'rate';
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::codec::{RecordType, json_tags, records};
use crate::history::{Archive, ArchiveError, ArchiveQuery, Archived, ArchivedField};
use crate::protocol::Kind;
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

    fn file(&self) -> Option<&Path> {
        Some(&self.path)
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

    fn archive(&self, prefix: &str, tags: &[(String, String)], completeness: &str) -> Option<Arc<dyn Archive>> {
        Some(Arc::new(SqliteArchive {
            path: self.path.clone(),
            prefix: prefix.to_string(),
            tags: tags.to_vec(),
            completeness: format!("{prefix}{completeness}"),
        }))
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

/// The points of a database, for the history.
#[derive(Debug)]
struct SqliteArchive {
    path: PathBuf,
    /// What series get on their way to the sink.
    prefix: String,
    tags: Vec<(String, String)>,
    /// The gauge that tells which intervals there are.
    completeness: String,
}

/// Most intervals of a field that are read, and the longest time for all.
const MOST_ROWS: i64 = 4_000_000;
const READING: Duration = Duration::from_secs(5);

/// Fields that the history has; of others there may be many.
fn is_shown(field: &str) -> bool {
    let is_percentile = |rest: &str| rest.parse::<f64>().is_ok();
    matches!(field, "value" | "rate" | "count" | "sum" | "mean" | "min" | "max" | "median")
        || field.strip_prefix("top").or(field.strip_prefix('p')).is_some_and(is_percentile)
}

/// Several intervals as one.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    number: i64,
    intervals: i64,
    sum: f64,
    min: f64,
    max: f64,
    last: f64,
}

/// Fields of a series, by name.
type Fields = Vec<(String, Vec<Bucket>)>;

/// What is read from an open database.
struct Reading<'a> {
    database: Connection,
    query: &'a ArchiveQuery,
    began: Instant,
}

impl Reading<'_> {
    fn buckets(&self, series: i64, field: &str) -> rusqlite::Result<Vec<Bucket>> {
        let mut select = self.database.prepare(
            "SELECT CAST((time - 1e-6) / ?5 AS INTEGER), count(*), sum(value), min(value), max(value), max(time)
             FROM (SELECT time, value FROM points WHERE series = ?1 AND field = ?2 AND time > ?3 AND time <= ?4 LIMIT ?6)
             GROUP BY 1 ORDER BY 1",
        )?;
        let ArchiveQuery { from, to, step, .. } = self.query;
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Bucket {
                number: row.get(0)?,
                intervals: row.get(1)?,
                sum: row.get(2)?,
                min: row.get(3)?,
                max: row.get(4)?,
                last: row.get(5)?,
            })
        };
        select.query_map(params![series, field, from, to, step, MOST_ROWS + 1], read)?.collect()
    }

    fn fields(&self, series: i64) -> rusqlite::Result<Vec<String>> {
        if !self.query.fields.is_empty() {
            return Ok(self.query.fields.clone());
        }
        // A look into the index for each; to have all points looked through takes too long.
        let mut next = self.database.prepare("SELECT min(field) FROM points WHERE series = ?1 AND field > ?2")?;
        let (mut all, mut last) = (Vec::new(), String::new());
        while let Some(field) = next.query_row(params![series, last], |row| row.get::<_, Option<String>>(0))? {
            last.clone_from(&field);
            all.push(field);
        }
        Ok(all)
    }

    fn read(&self, archive: &SqliteArchive) -> Result<Archived, ArchiveError> {
        let unreadable = |error: rusqlite::Error| ArchiveError::Unreadable(error.to_string());
        let find = "SELECT id FROM series WHERE type = ?1 AND name = ?2";
        let own = self.database.query_row(find, params!["gauge", archive.completeness], |row| row.get(0)).optional();
        let shares = match own.map_err(unreadable)? {
            Some(id) => self.checked(id, "value")?,
            None => Vec::new(),
        };
        let mut of_series = Vec::new();
        for series in &self.query.series {
            let stored = series.decorated(&archive.prefix, &archive.tags);
            let key = params![RecordType::of(stored.kind()).name(), stored.name(), json_tags(&stored)];
            let find = format!("{find} AND tags = ?3");
            let id = self.database.query_row(&find, key, |row| row.get::<_, i64>(0)).optional().map_err(unreadable)?;
            let mut fields = Vec::new();
            if let Some(id) = id {
                for field in self.fields(id).map_err(unreadable)?.into_iter().filter(|field| is_shown(field)) {
                    let buckets = self.checked(id, &field)?;
                    fields.push((field, buckets));
                }
            }
            of_series.push((stored.kind(), fields));
        }
        Ok(joined(&shares, of_series))
    }

    /// The buckets of a field, if that is not too much.
    fn checked(&self, series: i64, field: &str) -> Result<Vec<Bucket>, ArchiveError> {
        let buckets = self.buckets(series, field).map_err(|error| ArchiveError::Unreadable(error.to_string()))?;
        if buckets.iter().map(|bucket| bucket.intervals).sum::<i64>() > MOST_ROWS {
            return Err(ArchiveError::TooMuch(format!(
                "`max_rows`: more than {MOST_ROWS} intervals of a series in the database; ask for a shorter time"
            )));
        }
        if self.began.elapsed() > READING {
            return Err(ArchiveError::TooMuch(format!(
                "`max_time`: the database took longer than {} s; ask for fewer series or fields, or a shorter time",
                READING.as_secs()
            )));
        }
        Ok(buckets)
    }
}

/// Numbers as the history has them.
fn single(value: f64) -> Option<f32> {
    (!value.is_nan()).then(|| (value as f32).clamp(f32::MIN, f32::MAX))
}

/// Puts the buckets of all fields onto one time axis; `shares` has those of the completeness, which every interval has.
fn joined(shares: &[Bucket], of_series: Vec<(Kind, Fields)>) -> Archived {
    let mut axis: BTreeMap<i64, (f64, i64)> = BTreeMap::new();
    let all = of_series.iter().flat_map(|(_, fields)| fields).flat_map(|(_, buckets)| buckets);
    for bucket in shares.iter().chain(all) {
        let known = axis.entry(bucket.number).or_insert((bucket.last, bucket.intervals));
        *known = (known.0.max(bucket.last), known.1.max(bucket.intervals));
    }
    let places: BTreeMap<i64, usize> = axis.keys().enumerate().map(|(place, number)| (*number, place)).collect();
    let mut archived = Archived {
        times: axis.values().map(|(last, _)| *last).collect(),
        completeness: vec![None; axis.len()],
        series: Vec::new(),
    };
    for share in shares {
        archived.completeness[places[&share.number]] = single(share.sum / share.intervals as f64);
    }
    for (kind, fields) in of_series {
        let mut own = BTreeMap::new();
        for (name, buckets) in fields {
            // What is summed up is nothing in intervals without it.
            let is_summed = match kind {
                Kind::Counter | Kind::Meter => true,
                Kind::Timer | Kind::Histogram | Kind::Distribution => matches!(&*name, "count" | "rate" | "sum"),
                Kind::Gauge | Kind::Set | Kind::Kv => false,
            };
            let none = || vec![None; axis.len()];
            let mut field = ArchivedField { mean: none(), min: none(), max: none() };
            for bucket in buckets {
                let place = places[&bucket.number];
                let intervals = if is_summed { axis[&bucket.number].1 } else { bucket.intervals };
                field.mean[place] = match (&*name, kind) {
                    ("min", _) => single(bucket.min),
                    ("max", _) => single(bucket.max),
                    _ => single(bucket.sum / intervals as f64),
                };
                (field.min[place], field.max[place]) = (single(bucket.min), single(bucket.max));
            }
            own.insert(name, field);
        }
        archived.series.push(own);
    }
    archived
}

impl Archive for SqliteArchive {
    fn read(&self, query: &ArchiveQuery) -> Result<Archived, ArchiveError> {
        let unreadable = |error: rusqlite::Error| ArchiveError::Unreadable(error.to_string());
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(&self.path, flags).map_err(unreadable)?;
        database.busy_timeout(Duration::from_secs(1)).map_err(unreadable)?;
        Reading { database, query, began: Instant::now() }.read(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Gauge;
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
