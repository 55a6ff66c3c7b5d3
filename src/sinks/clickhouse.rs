//! ClickHouse over HTTP: rows of `FORMAT JSONEachRow` into one narrow table, a row for each number of a series, and events, checks
//! and changes of presence into a second one. With `create` both are made when they are missing, with an engine that takes the
//! same row twice for one. What is refused permanently is dropped and counted (`refused`), batch by batch. A time that is none of a
//! `DateTime`, before 1970 or after 2106, has no form (`unencodable`).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use crate::codec::{Record, RecordType, records, write_json};
use crate::presence::rfc3339;
use crate::snapshot::Snapshot;
use crate::untrusted::in_url;

use super::http::{Endpoint, Outcome, Post};
use super::spec::{reach_url, sql_name};
use super::{Delivery, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec, Unencodable};

/// Bytes of a batch from which on it is sent.
const BATCH_BYTES: usize = 4 << 20;

/// Months of a batch: a server refuses an INSERT into more than a hundred partitions every time.
const BATCH_MONTHS: usize = 100;

/// The month of a time, as partitions have it; `None` if a `DateTime` does not hold it.
fn month(secs: f64) -> Option<String> {
    (0.0..f64::from(u32::MAX)).contains(&secs).then(|| rfc3339(secs)[..7].to_string())
}

/// `clickhouse` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClickhouseSpec {
    endpoint: Endpoint,
    database: String,
    table: String,
    create: bool,
}

impl Default for ClickhouseSpec {
    fn default() -> ClickhouseSpec {
        ClickhouseSpec {
            endpoint: Endpoint::default(),
            database: "default".into(),
            table: "systole".into(),
            create: true,
        }
    }
}

impl Spec for ClickhouseSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        self.endpoint.options(visitor, "\"http://127.0.0.1:8123\"");
        visitor.field("database", "Database of the tables.", Opt::TextOrNone(&mut self.database));
        visitor.field("table", "Table of the records.", Opt::TextOrNone(&mut self.table));
        for (key, name) in [("database", &self.database), ("table", &self.table)] {
            visitor.require(key, sql_name(name));
        }
        visitor.field("create", "Create the tables if they are missing.", Opt::Flag(&mut self.create));
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        self.endpoint.url = format!("http:{place}");
        Ok(())
    }

    fn has_query(&self) -> bool {
        true
    }

    fn place(&self) -> String {
        self.endpoint.place()
    }

    fn probe(&self) -> Result<String, String> {
        reach_url(&self.endpoint.url)
    }

    fn accepts_out_of_order(&self) -> bool {
        true
    }

    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let post = Post::new(self.endpoint.clone(), context)?;
        Ok(Box::new(ClickhouseSink { spec: self.clone(), post, is_created: !self.create }))
    }
}

/// A ClickHouse server.
struct ClickhouseSink {
    spec: ClickhouseSpec,
    post: Post,
    is_created: bool,
}

impl ClickhouseSink {
    /// Asks the server; whether it takes it.
    async fn ask(&mut self, query: &str, body: Vec<u8>) -> Result<bool, SinkError> {
        let path = format!("/?database={}&query={}", in_url(&self.spec.database), in_url(query));
        let url = self.post.url(&path);
        Ok(matches!(self.post.send(&url, &[], body).await?, Outcome::Taken(_)))
    }

    async fn create(&mut self) -> Result<(), SinkError> {
        let table = self.spec.table.clone();
        let numbers = format!(
            "CREATE TABLE IF NOT EXISTS {table} (time DateTime, time_ms Int64, name String, type String, series String, \
             `tags.key` Array(String), `tags.value` Array(String), field String, value Float64) \
             ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(time) ORDER BY (name, type, series, field, time_ms)"
        );
        let events = format!(
            "CREATE TABLE IF NOT EXISTS {table}_notices (time DateTime, time_ms Int64, type String, name String, record String) \
             ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(time) ORDER BY (time_ms, type, name, record)"
        );
        for statement in [numbers, events] {
            if !self.ask("", statement.into_bytes()).await? {
                return Err(SinkError::new("the tables cannot be made; make them by hand, and say `create = false`"));
            }
        }
        self.is_created = true;
        Ok(())
    }
}

impl Sink for ClickhouseSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            if !self.is_created {
                self.create().await?;
            }
            let insert = format!("INSERT INTO {} FORMAT JSONEachRow", self.spec.table);
            let (mut refused, mut bytes, mut batch, mut series) = (0, 0, Vec::new(), 0);
            let (mut unencodable, mut months) = (Unencodable::default(), BTreeSet::new());
            for (_, row) in snapshot.rows(0) {
                let Some(month) = month(row.time) else {
                    unencodable.add(row.series, "a DateTime does not hold its time");
                    continue;
                };
                let is_full = batch.len() >= BATCH_BYTES || (months.len() == BATCH_MONTHS && !months.contains(&month));
                if is_full {
                    bytes += batch.len() as u64;
                    if !self.ask(&insert, std::mem::take(&mut batch)).await? {
                        refused += series;
                    }
                    series = 0;
                    months.clear();
                }
                months.insert(month);
                let kind = RecordType::of(row.series.kind());
                let (keys, values): (Vec<_>, Vec<_>) =
                    row.series.tags().map(|(key, value)| (key, value.unwrap_or(""))).unzip();
                for (field, value) in &row.fields {
                    let line = json!({
                        "time": row.time as i64,
                        "time_ms": (row.time * 1e3).round() as i64,
                        "name": row.series.name(),
                        "type": kind.name(),
                        "series": row.series.to_string(),
                        "tags.key": keys,
                        "tags.value": values,
                        "field": field,
                        "value": value,
                    });
                    write_json(&line, &mut batch);
                    batch.push(b'\n');
                }
                series += 1;
            }
            if series > 0 {
                bytes += batch.len() as u64;
                if !self.ask(&insert, std::mem::take(&mut batch)).await? {
                    refused += series;
                }
            }
            let mut events = records(snapshot);
            events.retain(|event| {
                let has_time = month(event.time).is_some();
                if !has_time {
                    unencodable.add(&event.name, "a DateTime does not hold its time");
                }
                has_time
            });
            events.sort_by(|a, b| a.time.total_cmp(&b.time));
            let insert = format!("INSERT INTO {}_notices FORMAT JSONEachRow", self.spec.table);
            let mut rest = &events[..];
            while !rest.is_empty() {
                let mut months = BTreeSet::new();
                let fits = |event: &&Record| {
                    months.extend(month(event.time));
                    months.len() <= BATCH_MONTHS
                };
                let (now, later) = rest.split_at(rest.iter().take_while(fits).count());
                rest = later;
                let mut batch = Vec::new();
                for event in now {
                    let (time, millis) = (event.time as i64, (event.time * 1e3).round() as i64);
                    let line = json!({"time": time, "time_ms": millis, "type": event.kind, "name": event.name, "record": event.record});
                    write_json(&line, &mut batch);
                    batch.push(b'\n');
                }
                bytes += batch.len() as u64;
                if !self.ask(&insert, batch).await? {
                    refused += now.len() as u64;
                }
            }
            Ok(Receipt::new(bytes, [("refused", refused)]).with(unencodable))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
