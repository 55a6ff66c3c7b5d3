//! PostgreSQL: rows of one narrow table, a row for each number of a series, brought by COPY into a staging table and from there by
//! an upsert, so that an interval that is written twice is there once; events, checks and changes of presence in a second
//! table. Both are made when they are missing (`create`). The primary key ends in the time, as TimescaleDB asks of a hypertable:
//! `SELECT create_hypertable('systole', 'time')`.
//!
//! An interval with data that the server refuses (SQLSTATE classes 22, 23 and 54) is written again in halves, until what is
//! wrong stands alone and is dropped (`refused`); every other error is retried. A series whose name and tags are longer than
//! what the key of a row may be, and a time without a date, have no form (`unencodable`).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, pin_mut};
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::codec::{Record, RecordType, json_tags, records};
use crate::http_client::Tls;
use crate::presence::rfc3339;
use crate::snapshot::{Point, Row, Snapshot, write_number};
use crate::untrusted::is_active;

use super::http::{Ready, tls};
use super::spec::{reach, sql_name};
use super::{Delivery, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec, Unencodable, has_date};

/// Bytes of a piece of a COPY.
const PIECE_BYTES: usize = 256 << 10;

/// Most bytes of a row's name, tags and field: an index holds 2,704 of them.
const MOST_KEY_BYTES: usize = 2600;

/// How often an interval that was refused is written again as two.
const MOST_SPLITS: u64 = 1000;

/// `postgres` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresSpec {
    /// `postgres://user:password@host/database`, or `host=… user=…`.
    url: String,
    table: String,
    create: bool,
    tls: Tls,
}

impl Default for PostgresSpec {
    fn default() -> PostgresSpec {
        PostgresSpec { url: String::new(), table: "systole".into(), create: true, tls: Tls::default() }
    }
}

impl PostgresSpec {
    fn config(&self) -> Result<Config, String> {
        // The library's message may hold what is secret.
        let example = "`postgres://systole@127.0.0.1/metrics` is right";
        self.url.parse().map_err(|_| format!("it is no address of a database; {example}"))
    }

    /// The first server.
    fn address(&self) -> String {
        let Ok(config) = self.config() else { return String::new() };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        match config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => format!("{host}:{port}"),
            Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
            None => format!("localhost:{port}"),
        }
    }
}

impl Spec for PostgresSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        visitor.field("url", "URL of the database.", Opt::Secret(&mut self.url));
        visitor.require_one("url", !self.url.is_empty(), "\"postgres://systole@127.0.0.1/metrics\"");
        if !self.url.is_empty() {
            visitor.require("url", self.config().map(drop));
        }
        visitor.field("table", "Table of the records.", Opt::TextOrNone(&mut self.table));
        visitor.require("table", sql_name(&self.table));
        visitor.field("create", "Create the tables if they are missing.", Opt::Flag(&mut self.create));
        tls(visitor, &mut self.tls);
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        self.url = format!("postgres:{place}");
        Ok(())
    }

    fn has_query(&self) -> bool {
        true
    }

    fn place(&self) -> String {
        self.address()
    }

    fn probe(&self) -> Result<String, String> {
        reach(&self.address())
    }

    fn accepts_out_of_order(&self) -> bool {
        true
    }

    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let tls = self.tls.client().map_err(|error| format!("cannot set up TLS: {error}"))?;
        let (config, tls) = (self.config()?, MakeRustlsConnect::new(tls));
        Ok(Box::new(PostgresSink { spec: self.clone(), config, tls, client: None, ready: Ready::default(), splits: 0 }))
    }
}

/// A database.
struct PostgresSink {
    spec: PostgresSpec,
    config: Config,
    tls: MakeRustlsConnect,
    client: Option<Client>,
    ready: Ready<Part>,
    /// How often the interval was split.
    splits: u64,
}

/// A part of an interval: of its points, with those that have times of their own, and of its events.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    points: Range<usize>,
    events: Range<usize>,
}

impl Part {
    fn whole(snapshot: &Snapshot) -> Part {
        let points = snapshot.counters.len()
            + snapshot.gauges.len()
            + snapshot.timers.len()
            + snapshot.sets.len()
            + snapshot.kvs.len()
            + snapshot.timestamped.len();
        Part { points: 0..points, events: 0..snapshot.count_events() as usize }
    }

    /// Two halves; `None` if there is one thing alone.
    fn halves(&self) -> Option<(Part, Part)> {
        let (points, events) = (self.points.clone(), self.events.clone());
        let middle = |range: &Range<usize>| range.start + range.len() / 2;
        let none = |range: &Range<usize>| range.start..range.start;
        match (points.len(), events.len()) {
            (0 | 1, 0) | (0, 1) => None,
            (1.., 1..) => {
                Some((Part { points: points.clone(), events: none(&events) }, Part { points: none(&points), events }))
            }
            (_, 0) => {
                let middle = middle(&points);
                Some((
                    Part { points: points.start..middle, events: events.clone() },
                    Part { points: middle..points.end, events },
                ))
            }
            (_, _) => {
                let middle = middle(&events);
                Some((
                    Part { points: points.clone(), events: events.start..middle },
                    Part { points, events: middle..events.end },
                ))
            }
        }
    }

    /// How many records are in it.
    fn records(&self, snapshot: &Snapshot) -> u64 {
        let of = |n: usize| match snapshot.point(n) {
            Some(Point::Kv(point)) => point.values.len() as u64,
            _ => 1,
        };
        self.points.clone().map(of).sum::<u64>() + self.events.len() as u64
    }

    fn rows<'a>(&self, snapshot: &'a Snapshot) -> impl Iterator<Item = Row<'a>> {
        let end = self.points.end;
        snapshot.rows(self.points.start).take_while(move |(n, _)| *n < end).map(|(_, row)| row)
    }

    /// What in it has no form.
    fn unencodable(&self, snapshot: &Snapshot) -> Unencodable {
        let mut unencodable = Unencodable::default();
        for row in self.rows(snapshot) {
            if let Err(why) = fits(&row) {
                unencodable.add(row.series, why);
            }
        }
        let is_bad = |event: &&Record| !has_date(event.time);
        for event in records(snapshot).get(self.events.clone()).unwrap_or(&[]).iter().filter(is_bad) {
            unencodable.add(&event.name, NO_DATE);
        }
        unencodable
    }
}

const NO_DATE: &str = "its time has no date";

/// Whether a row has a form.
fn fits(row: &Row<'_>) -> Result<(), &'static str> {
    if !has_date(row.time) {
        return Err(NO_DATE);
    }
    // Escapes and what stands between tags in JSON, about; most series are far below.
    let text = row.series.key().len();
    if text > MOST_KEY_BYTES / 8 {
        let field = row.fields.iter().map(|(field, _)| field.len()).max().unwrap_or(0);
        if row.series.name().len() + json_tags(row.series).len() + field > MOST_KEY_BYTES {
            return Err("its name and tags are longer than a key may be");
        }
    }
    Ok(())
}

/// Appends the lines of a COPY for a row.
fn row_lines(row: &Row<'_>, piece: &mut Vec<u8>) {
    let kind = RecordType::of(row.series.kind());
    let (time, tags) = (rfc3339(row.time), without_nul(&json_tags(row.series)));
    for (field, value) in &row.fields {
        piece.extend_from_slice(time.as_bytes());
        for part in [row.series.name(), kind.name(), &tags, field] {
            piece.push(b'\t');
            text(part, piece);
        }
        piece.push(b'\t');
        write_number(piece, *value);
        piece.push(b'\n');
    }
}

/// Appends the line of a COPY for a event.
fn event_line(event: &Record, piece: &mut Vec<u8>) {
    piece.extend_from_slice(rfc3339(event.time).as_bytes());
    for part in [event.kind, &event.name, &without_nul(&event.record)] {
        piece.push(b'\t');
        text(part, piece);
    }
    piece.push(b'\n');
}

/// Text of a COPY: what ends a value or a row is escaped, what no text may hold becomes `_`.
fn text(value: &str, out: &mut Vec<u8>) {
    let mut buffer = [0; 4];
    for c in value.chars() {
        match c {
            '\\' => out.extend_from_slice(b"\\\\"),
            c if is_active(c) => out.push(b'_'),
            c => out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes()),
        }
    }
}

/// JSON without the NUL, which is no text to PostgreSQL. A backslash of a text, which is two in JSON, may stand before `u0000`.
fn without_nul(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("\\u0000") {
            out.push('_');
            rest = after;
        } else {
            // What follows a backslash is ASCII.
            let (escape, after) = rest.split_at(2.min(rest.len()));
            out.push_str(escape);
            rest = after;
        }
    }
    out + rest
}

impl PostgresSink {
    async fn connect(&self) -> Result<Client, Error> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        tokio::spawn(async move {
            // Requests of the client fail with it.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the database ended");
            }
        });
        if self.spec.create {
            let table = &self.spec.table;
            client
                .batch_execute(&format!(
                    "SET client_min_messages = warning;
                     CREATE TABLE IF NOT EXISTS {table} (time timestamptz NOT NULL, name text NOT NULL, type text NOT NULL,
                       tags jsonb NOT NULL, field text NOT NULL, value double precision NOT NULL,
                       PRIMARY KEY (name, type, tags, field, time));
                     CREATE TABLE IF NOT EXISTS {table}_notices (time timestamptz NOT NULL, type text NOT NULL, name text NOT NULL,
                       record jsonb NOT NULL, hash text GENERATED ALWAYS AS (md5(record::text)) STORED,
                       PRIMARY KEY (time, type, hash));"
                ))
                .await?;
        }
        Ok(client)
    }

    /// Writes a part of an interval; how many bytes.
    async fn write(&mut self, snapshot: &Snapshot, part: &Part) -> Result<u64, Error> {
        let mut client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.connect().await?,
        };
        let written = self.write_to(&mut client, snapshot, part).await;
        if written.as_ref().err().is_none_or(is_data) {
            self.client = Some(client);
        }
        written
    }

    async fn write_to(&self, client: &mut Client, snapshot: &Snapshot, part: &Part) -> Result<u64, Error> {
        let table = &self.spec.table;
        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&format!(
                "CREATE TEMP TABLE systole_stage (LIKE {table}) ON COMMIT DROP;
                 CREATE TEMP TABLE systole_stage_notices (LIKE {table}_notices INCLUDING GENERATED) ON COMMIT DROP;"
            ))
            .await?;
        let mut bytes = 0;
        {
            let copy =
                transaction.copy_in("COPY systole_stage (time, name, type, tags, field, value) FROM STDIN").await?;
            pin_mut!(copy);
            let mut piece = Vec::new();
            for row in part.rows(snapshot).filter(|row| fits(row).is_ok()) {
                row_lines(&row, &mut piece);
                if piece.len() >= PIECE_BYTES {
                    bytes += piece.len() as u64;
                    copy.send(Bytes::from(std::mem::take(&mut piece))).await?;
                }
            }
            bytes += piece.len() as u64;
            copy.send(Bytes::from(piece)).await?;
            copy.finish().await?;
        }
        let events = if part.events.is_empty() { Vec::new() } else { records(snapshot) };
        let events = events.get(part.events.clone()).unwrap_or(&[]);
        if !events.is_empty() {
            let copy = transaction.copy_in("COPY systole_stage_notices (time, type, name, record) FROM STDIN").await?;
            pin_mut!(copy);
            let mut piece = Vec::new();
            events.iter().filter(|event| has_date(event.time)).for_each(|event| event_line(event, &mut piece));
            copy.send(Bytes::from(piece)).await?;
            copy.finish().await?;
        }
        transaction
            .batch_execute(&format!(
                "INSERT INTO {table} (time, name, type, tags, field, value)
                   SELECT DISTINCT ON (name, type, tags, field, time) time, name, type, tags, field, value FROM systole_stage
                   ON CONFLICT (name, type, tags, field, time) DO UPDATE SET value = excluded.value;
                 INSERT INTO {table}_notices (time, type, name, record)
                   SELECT DISTINCT time, type, name, record FROM systole_stage_notices ON CONFLICT DO NOTHING;"
            ))
            .await?;
        transaction.commit().await?;
        Ok(bytes)
    }
}

/// Whether an error is that of the data: it will be there at each attempt.
fn is_data(error: &Error) -> bool {
    error.code().is_some_and(|code| ["22", "23", "54"].contains(&&code.code()[..2]))
}

/// An error with what the server said of it.
fn causes(error: &Error) -> String {
    match error.as_db_error() {
        Some(said) => said.to_string(),
        None => std::error::Error::source(error).map_or(error.to_string(), |cause| format!("{error}: {cause}")),
    }
}

impl Sink for PostgresSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            if !self.ready.is_of(snapshot) {
                self.ready.set(snapshot, vec![Part::whole(snapshot)]);
                self.splits = 0;
            }
            let (mut bytes, mut refused) = (0, None);
            while let Some(part) = self.ready.next() {
                match self.write(snapshot, &part).await {
                    Ok(written) => {
                        bytes += written;
                        self.ready.done();
                    }
                    Err(error) if is_data(&error) => match part.halves().filter(|_| self.splits < MOST_SPLITS) {
                        Some((first, second)) => {
                            self.splits += 1;
                            self.ready.split(first, second);
                        }
                        None => {
                            let records = part.records(snapshot).saturating_sub(part.unencodable(snapshot).records);
                            self.ready.refused += records;
                            refused.get_or_insert(causes(&error));
                            self.ready.done();
                        }
                    },
                    Err(error) => return Err(SinkError::new(format!("{}: {}", self.spec.place(), causes(&error)))),
                }
            }
            let records = self.ready.refused;
            if let Some(error) = refused {
                tracing::warn!(error, records, "the database refused records; they are dropped");
            }
            let unencodable = Part::whole(snapshot).unencodable(snapshot);
            Ok(Receipt::new(bytes, [("refused", records)]).with(unencodable))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        self.client = None;
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

    #[test]
    fn a_nul_goes_and_every_other_escape_stays() {
        for (json, expected) in [
            (r#"{"k":"a\u0000b"}"#, r#"{"k":"a\u0000b"}"#),
            (r#"{"k":"a\\u0000b"}"#, r#"{"k":"a\\u0000b"}"#),
            (r#"{"k":"\u0000\u0000\\"}"#, r#"{"k":"\u0000\u0000\\"}"#),
        ] {
            let text: serde_json::Value = serde_json::from_str(json).expect("JSON");
            let without = without_nul(expected);
            let read: serde_json::Value = serde_json::from_str(&without).expect("still JSON");
            let expected = text["k"].as_str().expect("a text").replace('\0', "_");
            assert_eq!(read["k"], expected.as_str(), "{without}");
        }
    }

    #[test]
    fn halves_of_a_part_are_all_of_it_down_to_one_thing() {
        let mut parts = vec![Part { points: 0..7, events: 0..3 }];
        let mut alone = Vec::new();
        while let Some(part) = parts.pop() {
            match part.halves() {
                Some((first, second)) => parts.extend([second, first]),
                None => alone.push((part.points, part.events)),
            }
        }
        assert_eq!(alone.len(), 10);
        assert_eq!(alone.iter().flat_map(|(points, _)| points.clone()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(alone.iter().flat_map(|(_, events)| events.clone()).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_series_longer_than_a_key_has_no_form() {
        let gauge = |tag: usize| GaugePoint {
            series: Series::new(Kind::Gauge, "g", &[("k", Some(&"x".repeat(tag)))]),
            gauge: Gauge::absolute(1.0, 0.0),
        };
        let snapshot = Snapshot { gauges: vec![gauge(10), gauge(2000), gauge(3000)], ..Snapshot::default() };
        let unencodable = Part::whole(&snapshot).unencodable(&snapshot);
        assert_eq!(unencodable.records, 1);
        assert_eq!(Part::whole(&snapshot).rows(&snapshot).filter(|row| fits(row).is_ok()).count(), 2);
    }
}
