//! InfluxDB over HTTP: line protocol to the write endpoints of versions 1, 2 and 3, gzipped.
//!
//! A series is a measurement of its name, with its tags and, as telegraf has it, a tag `metric_type`; fields are those of
//! [`crate::snapshot::Row`], or with [`Naming::Telegraf`] those of telegraf. Times are in milliseconds. The same interval written
//! twice is the same points, so that a delivery that failed halfway is repeated as it is. Events, checks and changes of presence are points of `systole_notices`.
//!
//! What Influx refuses permanently (a status 4xx other than those that pass or that a change of configuration ends) is dropped and counted
//! (`refused`), batch by batch; of a partial write what it says that it dropped. A time that nanoseconds since 1970 do not hold, and
//! an event longer than a text field, have no form (`unencodable`).

use std::borrow::Cow;
use std::sync::Arc;

use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};

use crate::codec::{Record, RecordType, records};
use crate::http_client::{Tls, append, masked};
use crate::protocol::Kind;
use crate::series::Series;
use crate::settings::choice;
use crate::snapshot::{FieldName, Snapshot, write_number};
use crate::untrusted::{in_url, is_active};

use super::http::{Endpoint, Outcome, Post, gzip, one_login, tls};
use super::spec::reach_url;
use super::{Delivery, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec, Unencodable};

/// Bytes of a batch from which on it is sent.
const BATCH_BYTES: usize = 1 << 20;

/// Most bytes of a text field.
const MOST_TEXT_BYTES: usize = 64_000;

/// Unix seconds from which on a time has no form: Influx keeps nanoseconds.
const TOO_LATE: f64 = 9.2e9;

/// What measurements and fields are called, and of which type fields are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// Names as they are, fields as everywhere here, all of them floats.
    #[default]
    Systole,
    /// As telegraf's input statsd has it (its README, "Measurements"), so that a database of its goes on: `_` for dots, `lower`, `upper`
    /// and `90_percentile`, `timing` for `timer`, and counters, sets and counts are whole numbers.
    Telegraf,
}

impl Naming {
    /// Each with its word in the configuration.
    const NAMES: [(&'static str, Naming); 2] = [("systole", Naming::Systole), ("telegraf", Naming::Telegraf)];

    fn measurement(self, name: &str) -> Cow<'_, str> {
        match self {
            Naming::Systole => name.into(),
            Naming::Telegraf => name.replace('.', "_").into(),
        }
    }

    fn kind(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Naming::Telegraf, Kind::Timer) => "timing",
            _ => RecordType::of(kind).name(),
        }
    }

    fn field<'a>(self, name: &'a str) -> Cow<'a, str> {
        if self == Naming::Systole {
            return name.into();
        }
        match name {
            "min" => "lower".into(),
            "max" => "upper".into(),
            name => match name.strip_prefix('p') {
                Some(percentile) => format!("{percentile}_percentile").into(),
                None => name.into(),
            },
        }
    }

    /// Whether a field is a whole number. A type of a field is for ever in a database.
    fn is_whole(self, kind: Kind, field: &str) -> bool {
        let is_counted = matches!(kind, Kind::Counter | Kind::Meter | Kind::Set) && field == "value";
        self == Naming::Telegraf && (is_counted || field == "count")
    }
}

/// `influx` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfluxSpec {
    /// Base URL.
    url: String,
    /// Of the write endpoint: 1 to 3.
    version: u64,
    /// Of versions 1 and 3.
    database: String,
    /// Of version 1; the database's default without one.
    retention_policy: String,
    username: String,
    password: String,
    /// Of version 2.
    org: String,
    bucket: String,
    /// Of versions 2 and 3.
    token: String,
    naming: Naming,
    /// Compress batches.
    gzip: bool,
    tls: Tls,
}

impl Default for InfluxSpec {
    fn default() -> InfluxSpec {
        let none = String::new;
        InfluxSpec {
            url: none(),
            version: 1,
            database: none(),
            retention_policy: none(),
            username: none(),
            password: none(),
            org: none(),
            bucket: none(),
            token: none(),
            naming: Naming::Systole,
            gzip: true,
            tls: Tls::default(),
        }
    }
}

impl Spec for InfluxSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        visitor.field("url", "URL of the receiver.", Opt::Url(&mut self.url));
        visitor.require_one("url", !self.url.is_empty(), "\"http://127.0.0.1:8086\"");
        visitor.field("version", "Version of the write endpoint: 1 takes `database`, `retention_policy`, `username` and `password`; 2 takes `org`, `bucket` and `token`; 3 takes `database` and `token`.", Opt::Whole(&mut self.version, 1..=3));
        visitor.field("database", "Database of versions 1 and 3.", Opt::TextOrNone(&mut self.database));
        visitor.example("database", "\"metrics\"");
        visitor.field(
            "retention_policy",
            "Retention policy of version 1.",
            Opt::TextOrNone(&mut self.retention_policy),
        );
        visitor.example("retention_policy", "\"a_week\"");
        visitor.field("username", "Name of version 1.", Opt::TextOrNone(&mut self.username));
        visitor.example("username", "\"systole\"");
        visitor.field("password", "Password of version 1.", Opt::Secret(&mut self.password));
        visitor.example("password", "\"a secret\"");
        visitor.field("org", "Organization of version 2.", Opt::TextOrNone(&mut self.org));
        visitor.example("org", "\"acme\"");
        visitor.field("bucket", "Bucket of version 2.", Opt::TextOrNone(&mut self.bucket));
        visitor.example("bucket", "\"metrics\"");
        visitor.field("token", "Token of versions 2 and 3.", Opt::Secret(&mut self.token));
        visitor.example("token", "\"a secret\"");
        let doc = "What measurements and fields are called: with \"telegraf\" as telegraf has it, counters, sets and counts as whole numbers.";
        choice(visitor, "naming", doc, &Naming::NAMES, &mut self.naming);
        visitor.field("gzip", "Compress requests.", Opt::Flag(&mut self.gzip));
        one_login(visitor, &self.url, !self.username.is_empty() || !self.token.is_empty());
        tls(visitor, &mut self.tls);
        let needed: &[(&'static str, &String)] = match self.version {
            2 => &[("org", &self.org), ("bucket", &self.bucket)],
            _ => &[("database", &self.database)],
        };
        needed.iter().for_each(|(key, value)| visitor.require_one(key, !value.is_empty(), "\"metrics\""));
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        self.url = format!("http:{place}");
        Ok(())
    }

    fn has_query(&self) -> bool {
        true
    }

    fn place(&self) -> String {
        masked(&self.url)
    }

    fn accepts_out_of_order(&self) -> bool {
        true
    }

    fn probe(&self) -> Result<String, String> {
        reach_url(&self.url)
    }

    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let endpoint = Endpoint { url: self.url.clone(), tls: self.tls.clone(), ..Endpoint::default() };
        Ok(Box::new(InfluxSink { target: self.clone(), post: Post::new(endpoint, context)? }))
    }
}

impl InfluxSpec {
    /// What everything is called.
    pub(crate) fn naming(&self) -> Naming {
        self.naming
    }

    fn endpoint(&self) -> String {
        let query = |name: &str, value: &str| match value {
            "" => String::new(),
            value => format!("&{name}={}", in_url(value)),
        };
        let path = match self.version {
            1 => {
                let policy = query("rp", &self.retention_policy);
                let login = match self.username.as_str() {
                    "" => String::new(),
                    name => format!("&u={}&p={}", in_url(name), in_url(&self.password)),
                };
                format!("/write?db={}&precision=ms{policy}{login}", in_url(&self.database))
            }
            2 => {
                format!("/api/v2/write?org={}&bucket={}&precision=ms", in_url(&self.org), in_url(&self.bucket))
            }
            _ => format!("/api/v3/write_lp?db={}&precision=millisecond", in_url(&self.database)),
        };
        append(&self.url, &path)
    }

    fn authorization(&self) -> Option<String> {
        match (self.version, self.token.as_str()) {
            (1, _) | (_, "") => None,
            (2, token) => Some(format!("Token {token}")),
            (_, token) => Some(format!("Bearer {token}")),
        }
    }
}

/// An Influx database.
pub struct InfluxSink {
    target: InfluxSpec,
    post: Post,
}

impl InfluxSink {
    /// Writes lines; how many of them were refused permanently.
    async fn write(&mut self, lines: &[u8], count: u64) -> Result<u64, SinkError> {
        let authorization = self.target.authorization();
        let mut headers = vec![(CONTENT_TYPE, "text/plain; charset=utf-8")];
        headers.extend(authorization.as_deref().map(|shown| (AUTHORIZATION, shown)));
        let body = if self.target.gzip {
            headers.push((CONTENT_ENCODING, "gzip"));
            gzip(lines)?
        } else {
            lines.to_vec()
        };
        let url = self.target.endpoint();
        let Outcome::Refused(answer) = self.post.send(&url, &headers, body).await? else { return Ok(0) };
        let text = String::from_utf8_lossy(&answer.body);
        let dropped = text.rsplit_once("dropped=").and_then(|(_, rest)| {
            rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse::<u64>().ok())
        });
        Ok(dropped.filter(|_| text.contains("partial write")).unwrap_or(count).min(count))
    }
}

impl Sink for InfluxSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let mut encoder = Encoder::new(snapshot).named(self.target.naming);
            let (mut refused, mut bytes) = (0, 0);
            let mut batch = Vec::new();
            loop {
                batch.clear();
                let lines = encoder.fill(&mut batch, BATCH_BYTES);
                if lines == 0 {
                    break;
                }
                bytes += batch.len() as u64;
                refused += self.write(&batch, lines).await?;
            }
            Ok(Receipt::new(bytes, [("refused", refused)]).with(encoder.unencodable))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// An interval as line protocol, batch by batch (docs.influxdata.com, "Line protocol").
pub struct Encoder<'a> {
    snapshot: &'a Snapshot,
    naming: Naming,
    /// The next point; `None` when only events are left.
    next: Option<usize>,
    is_done: bool,
    unencodable: Unencodable,
}

impl<'a> Encoder<'a> {
    /// Begins an interval.
    pub fn new(snapshot: &'a Snapshot) -> Encoder<'a> {
        let unencodable = Unencodable::default();
        Encoder { snapshot, naming: Naming::Systole, next: Some(0), is_done: false, unencodable }
    }

    /// What everything is called.
    #[must_use]
    pub fn named(self, naming: Naming) -> Encoder<'a> {
        Encoder { naming, ..self }
    }

    /// Appends lines until `limit` bytes or a little more are there; how many. 0 if there is nothing left.
    pub fn fill(&mut self, out: &mut Vec<u8>, limit: usize) -> u64 {
        let mut lines = 0;
        if let Some(from) = self.next {
            for (place, row) in self.snapshot.rows(from) {
                // Rows of one point stay together.
                if out.len() >= limit && Some(place) != self.next {
                    self.next = Some(place);
                    return lines;
                }
                self.next = Some(place);
                if row.time.abs() >= TOO_LATE {
                    self.unencodable.add(row.series, "its time is beyond what nanoseconds hold");
                    continue;
                }
                line(self.naming, row.series, &row.fields, (row.time * 1e3).round() as i64, out);
                lines += 1;
            }
            self.next = None;
        }
        if !std::mem::replace(&mut self.is_done, true) {
            for event in records(self.snapshot) {
                if event.time.abs() >= TOO_LATE || event.record.len() > MOST_TEXT_BYTES {
                    self.unencodable.add(&event.name, "its text is too long, or its time too late");
                    continue;
                }
                event_line(&event, out);
                lines += 1;
            }
        }
        lines
    }
}

/// An event, a check or a change of presence: text fields of the measurement `systole_notices`.
fn event_line(event: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(b"systole_notices,metric_type=");
    out.extend_from_slice(event.kind.as_bytes());
    out.extend_from_slice(b",name=");
    escape(&event.name, ",= ", out);
    out.extend_from_slice(b" record=\"");
    out.extend_from_slice(event.record.replace('\\', "\\\\").replace('"', "\\\"").as_bytes());
    out.extend_from_slice(b"\" ");
    out.extend_from_slice(itoa::Buffer::new().format((event.time * 1e3).round() as i64).as_bytes());
    out.push(b'\n');
}

fn line(naming: Naming, series: &Series, fields: &[(FieldName, f64)], time: i64, out: &mut Vec<u8>) {
    let start = out.len();
    escape(&naming.measurement(series.name()), ", ", out);
    if out[start] == b'#' {
        // The line would be a comment.
        out[start] = b'_';
    }
    out.extend_from_slice(b",metric_type=");
    out.extend_from_slice(naming.kind(series.kind()).as_bytes());
    let mut tags = series.tags().peekable();
    while let Some((key, value)) = tags.next() {
        out.push(b',');
        let key = if ["metric_type", "time"].contains(&key) { format!("{key}_") } else { key.to_string() };
        escape(&key, ",= ", out);
        out.push(b'=');
        // Influx has no tag without a value, and no empty one.
        let mut all = value.filter(|value| !value.is_empty()).unwrap_or("true").to_string();
        while let Some((_, Some(more))) = tags.next_if(|(next, _)| *next == key) {
            all.push('|');
            all.push_str(more);
        }
        escape(&all, ",= ", out);
    }
    for (n, (name, value)) in fields.iter().enumerate() {
        out.push(if n == 0 { b' ' } else { b',' });
        out.extend_from_slice(naming.field(name).as_bytes());
        out.push(b'=');
        if naming.is_whole(series.kind(), name) {
            // Beyond 64 bits it is the most of them.
            out.extend_from_slice(itoa::Buffer::new().format(value.round() as i64).as_bytes());
            out.push(b'i');
        } else {
            write_number(out, *value);
        }
    }
    out.push(b' ');
    out.extend_from_slice(itoa::Buffer::new().format(time).as_bytes());
    out.push(b'\n');
}

/// Appends text with a backslash before what is special; what acts on a terminal becomes `_`, and so does a backslash at
/// the end, which would escape what follows.
fn escape(text: &str, special: &str, out: &mut Vec<u8>) {
    let mut buffer = [0; 4];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let next_is_special = chars.peek().is_none_or(|next| special.contains(*next));
        if special.contains(c) {
            out.push(b'\\');
        }
        let shown = if is_active(c) || (c == '\\' && next_is_special) { '_' } else { c };
        out.extend_from_slice(shown.encode_utf8(&mut buffer).as_bytes());
    }
    if text.is_empty() {
        out.push(b'_');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tags_and_values_are_escaped() {
        let tags =
            [("a b", Some("c,d=e")), ("k", None), ("m", Some("1")), ("m", Some("2")), ("metric_type", Some("x\\"))];
        let mut out = Vec::new();
        line(
            Naming::Systole,
            &Series::new(Kind::Counter, "api hits,x=y\n", &tags),
            &[("value".into(), 3.0), ("rate".into(), 0.3)],
            1_700_000_000_000,
            &mut out,
        );
        let mut comment = Vec::new();
        line(Naming::Systole, &Series::new(Kind::Gauge, "#g", &[]), &[("value".into(), 1.0)], 5, &mut comment);
        assert_eq!(comment, b"_g,metric_type=gauge value=1 5\n");
        let expected = "api\\ hits\\,x=y_,metric_type=counter,a\\ b=c\\,d\\=e,k=true,m=1|2,metric_type_=x_ value=3,rate=0.3 \
                        1700000000000\n";
        assert_eq!(String::from_utf8(out).as_deref(), Ok(expected));
    }
}
