//! A database in a file (SQLite 3): series once, their numbers as `(series, field, time) → value`, and events, checks and changes of
//! presence beside them. An interval is one transaction, and one that is written twice is there once. What is older than
//! `retention` is deleted, at most once a minute.
//!
//! ```sql
//! SELECT datetime(time, 'unixepoch'), value FROM records WHERE name = 'api.hits' AND field = 'rate';
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::codec::{RecordType, json_tags, records};
use crate::snapshot::Snapshot;

use super::blocking::{Blocking, Writer};
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
        visitor.field("path", Opt::Path(&mut self.path));
        visitor.require_one("path", !self.path.as_os_str().is_empty(), "\"/var/lib/systole/records.db\"");
        visitor.field("retention", Opt::Duration(&mut self.retention, Duration::from_secs(60)..=LONG * 100));
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
        let database = open(self).map_err(|error| {
            format!("cannot open {}: {error}; make the folder, or choose another file", self.place())
        })?;
        let writer = Database { database, retention_secs: self.retention.as_secs_f64(), deleted: f64::NEG_INFINITY };
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

struct Database {
    database: Connection,
    retention_secs: f64,
    /// When what was too old was deleted last.
    deleted: f64,
}

impl Database {
    fn transact(&mut self, snapshot: &Snapshot) -> rusqlite::Result<Unencodable> {
        let mut unencodable = Unencodable::default();
        let transaction = self.database.transaction()?;
        {
            let mut find = transaction.prepare("SELECT id FROM series WHERE type = ?1 AND name = ?2 AND tags = ?3")?;
            let mut add = transaction.prepare("INSERT INTO series (type, name, tags) VALUES (?1, ?2, ?3)")?;
            let mut put = transaction.prepare(
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
            let mut note = transaction
                .prepare("INSERT OR IGNORE INTO notices (time, type, name, record) VALUES (?1, ?2, ?3, ?4)")?;
            for notice in records(snapshot) {
                let written = note.execute(params![notice.time, notice.kind, notice.name, notice.record]);
                if let Some(why) = final_error(written.map(drop))? {
                    unencodable.add(&notice.name, why);
                }
            }
            if snapshot.end - self.deleted >= DELETE_EVERY_SECS {
                let oldest = snapshot.end - self.retention_secs;
                let gone = transaction.execute("DELETE FROM points WHERE time < ?1", [oldest])?;
                transaction.execute("DELETE FROM notices WHERE time < ?1", [oldest])?;
                if gone > 0 {
                    transaction.execute(
                        "DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM points WHERE points.series = series.id)",
                        [],
                    )?;
                }
                self.deleted = snapshot.end;
            }
        }
        transaction.commit()?;
        Ok(unencodable)
    }
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
        self.transact(snapshot).map(|left_out| Receipt::default().with(left_out)).map_err(io::Error::other)
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
