//! PostgreSQL: rows of one narrow table, a row for each number of a series, brought by COPY into a staging table and from there by
//! an upsert, so that an interval that is written twice is there once; events, checks and changes of presence in a second
//! table. Both are made when they are missing (`create`). The primary key ends in the time, as TimescaleDB asks of a hypertable:
//! `SELECT create_hypertable('systole', 'time')`.
//!
//! Data that the server refuses (SQLSTATE classes 22 and 23) is dropped and counted (`refused`), an interval at a time; every other
//! error is tried again.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, pin_mut};
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::fetch::Tls;
use crate::inert::is_active;
use crate::presence::rfc3339;
use crate::snapshot::{RecordType, Snapshot, json_tags, notices, write_number};

use super::http::tls;
use super::spec::{plain_name, reach};
use super::{Delivery, Field, Form, Receipt, Sink, SinkError, Site, Spec};

/// Bytes of a piece of a COPY.
const PIECE_BYTES: usize = 256 << 10;

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
    fn options(&mut self, form: &mut dyn Form) {
        form.field("url", Field::Secret(&mut self.url));
        form.demand("url", !self.url.is_empty(), "\"postgres://systole@127.0.0.1/metrics\"");
        if !self.url.is_empty() {
            form.insist("url", self.config().map(drop));
        }
        form.field("table", Field::Text(&mut self.table));
        form.insist("table", plain_name(&self.table));
        form.field("create", Field::Flag(&mut self.create));
        tls(form, &mut self.tls);
    }

    fn locate(&mut self, place: &str) -> Result<(), String> {
        self.url = format!("postgres:{place}");
        Ok(())
    }

    fn place(&self) -> String {
        self.address()
    }

    fn probe(&self) -> Result<String, String> {
        reach(&self.address())
    }

    fn takes_old(&self) -> bool {
        true
    }

    fn open(&self, _: &Site) -> Result<Box<dyn Sink>, String> {
        let tls = self.tls.client().map_err(|error| format!("cannot set up TLS: {error}"))?;
        let (config, tls) = (self.config()?, MakeRustlsConnect::new(tls));
        Ok(Box::new(PostgresSink { spec: self.clone(), config, tls, client: None }))
    }
}

/// A database.
struct PostgresSink {
    spec: PostgresSpec,
    config: Config,
    tls: MakeRustlsConnect,
    client: Option<Client>,
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

/// JSON without the NUL, which is no text to PostgreSQL.
fn without_nul(json: &str) -> String {
    json.replace("\\u0000", "_")
}

impl PostgresSink {
    async fn connect(&self) -> Result<Client, Error> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        tokio::spawn(async move {
            // Whoever uses the client is told.
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
                       record jsonb NOT NULL, PRIMARY KEY (time, type, name, record));"
                ))
                .await?;
        }
        Ok(client)
    }

    /// Writes an interval; how many bytes.
    async fn write(&mut self, snapshot: &Snapshot) -> Result<u64, Error> {
        let mut client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.connect().await?,
        };
        let table = &self.spec.table;
        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&format!(
                "CREATE TEMP TABLE systole_stage (LIKE {table}) ON COMMIT DROP;
                 CREATE TEMP TABLE systole_stage_notices (LIKE {table}_notices) ON COMMIT DROP;"
            ))
            .await?;
        let mut bytes = 0;
        {
            let copy =
                transaction.copy_in("COPY systole_stage (time, name, type, tags, field, value) FROM STDIN").await?;
            pin_mut!(copy);
            let mut piece = Vec::new();
            for (_, row) in snapshot.rows(0) {
                let kind = RecordType::of(row.series.kind());
                let (time, tags) = (rfc3339(row.time), without_nul(&json_tags(row.series)));
                for (field, value) in &row.fields {
                    piece.extend_from_slice(time.as_bytes());
                    for part in [row.series.name(), kind.name(), &tags, field] {
                        piece.push(b'\t');
                        text(part, &mut piece);
                    }
                    piece.push(b'\t');
                    write_number(&mut piece, *value);
                    piece.push(b'\n');
                }
                if piece.len() >= PIECE_BYTES {
                    bytes += piece.len() as u64;
                    copy.send(Bytes::from(std::mem::take(&mut piece))).await?;
                }
            }
            bytes += piece.len() as u64;
            copy.send(Bytes::from(piece)).await?;
            copy.finish().await?;
        }
        let notices = notices(snapshot);
        if !notices.is_empty() {
            let copy = transaction.copy_in("COPY systole_stage_notices (time, type, name, record) FROM STDIN").await?;
            pin_mut!(copy);
            let mut piece = Vec::new();
            for notice in &notices {
                piece.extend_from_slice(rfc3339(notice.time).as_bytes());
                for part in [notice.kind, &notice.name, &without_nul(&notice.record)] {
                    piece.push(b'\t');
                    text(part, &mut piece);
                }
                piece.push(b'\n');
            }
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
        self.client = Some(client);
        Ok(bytes)
    }
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
            match self.write(snapshot).await {
                Ok(bytes) => Ok(Receipt::new(bytes, [])),
                Err(error) if error.code().is_some_and(|code| ["22", "23"].contains(&&code.code()[..2])) => {
                    tracing::warn!(error = causes(&error), "the database refused an interval; it is dropped");
                    Ok(Receipt::new(0, [("refused", snapshot.len() as u64)]))
                }
                Err(error) => Err(SinkError::new(format!("{}: {}", self.spec.place(), causes(&error)))),
            }
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        self.client = None;
        Box::pin(std::future::ready(()))
    }
}
