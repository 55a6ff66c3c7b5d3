//! InfluxDB over HTTP: line protocol to the write endpoints of versions 1, 2 and 3, gzipped.
//!
//! A series is a measurement of its name, with its tags and, as telegraf has it, a tag `metric_type`. Fields: `value` and
//! `rate` of a counter; `value` of a gauge, a set, a key-value pair; `count`, `rate`, `sum`, `min`, `max`, `mean`, `median`,
//! `stddev`, percentiles as `p99.9` and buckets as `le_100` of a timer. Times are in milliseconds. The same interval written
//! twice is the same points, so that a delivery that failed halfway is simply repeated.
//!
//! What Influx refuses for good (a status 4xx but 401, 403, 404, 408 and 429, which somebody can mend or which pass) is
//! dropped and counted (`refused`), batch by batch; of a partial write what it says that it dropped.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};

use crate::fetch::{Fetch, masked};
use crate::inert::{excerpt, in_url, is_active};
use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::{Point, Snapshot, number, write_number};

use super::spec::reach_url;
use super::{Delivery, Field, Form, Receipt, Sink, SinkError, Site, Spec};

/// Bytes of a batch from which on it is sent.
const BATCH_BYTES: usize = 1 << 20;

/// Characters of a refusal that are logged.
const EXCERPT_CHARS: usize = 300;

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
    /// Compress batches.
    gzip: bool,
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
            gzip: true,
        }
    }
}

impl Spec for InfluxSpec {
    fn options(&mut self, form: &mut dyn Form) {
        form.field("url", Field::Url(&mut self.url));
        form.demand("url", !self.url.is_empty(), "\"http://127.0.0.1:8086\"");
        form.field("version", Field::Whole(&mut self.version, 1..=3));
        form.field("database", Field::Text(&mut self.database));
        form.field("retention_policy", Field::Text(&mut self.retention_policy));
        form.field("username", Field::Text(&mut self.username));
        form.field("password", Field::Secret(&mut self.password));
        form.field("org", Field::Text(&mut self.org));
        form.field("bucket", Field::Text(&mut self.bucket));
        form.field("token", Field::Secret(&mut self.token));
        form.field("gzip", Field::Flag(&mut self.gzip));
        let needed: &[(&'static str, &String)] = match self.version {
            2 => &[("org", &self.org), ("bucket", &self.bucket)],
            _ => &[("database", &self.database)],
        };
        needed.iter().for_each(|(key, value)| form.demand(key, !value.is_empty(), "\"metrics\""));
    }

    fn locate(&mut self, _: &str) -> Result<(), String> {
        Err("a database must be said: write a [[sink]] of type \"influx\"".into())
    }

    fn place(&self) -> String {
        masked(&self.url)
    }

    fn probe(&self) -> Result<String, String> {
        reach_url(&self.url)
    }

    fn open(&self, site: &Site) -> Result<Box<dyn Sink>, String> {
        let opened = InfluxSink::new(self.clone(), site.timeout, site.interval);
        Ok(Box::new(opened.map_err(|error| format!("cannot set up TLS for {}: {error}", self.place()))?))
    }
}

impl InfluxSpec {
    fn endpoint(&self) -> String {
        let base = self.url.trim_end_matches('/');
        let query = |name: &str, value: &str| match value {
            "" => String::new(),
            value => format!("&{name}={}", in_url(value)),
        };
        match self.version {
            1 => {
                let policy = query("rp", &self.retention_policy);
                let login = match self.username.as_str() {
                    "" => String::new(),
                    name => format!("&u={}&p={}", in_url(name), in_url(&self.password)),
                };
                format!("{base}/write?db={}&precision=ms{policy}{login}", in_url(&self.database))
            }
            2 => {
                format!("{base}/api/v2/write?org={}&bucket={}&precision=ms", in_url(&self.org), in_url(&self.bucket))
            }
            _ => format!("{base}/api/v3/write_lp?db={}&precision=millisecond", in_url(&self.database)),
        }
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
    fetch: Fetch,
    timeout: Duration,
    log_every: Duration,
    refusal_logged: Option<Instant>,
}

impl InfluxSink {
    /// A database; each batch is answered within `timeout`. Refusals are logged at most once in `log_every`.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(target: InfluxSpec, timeout: Duration, log_every: Duration) -> std::io::Result<InfluxSink> {
        Ok(InfluxSink { target, fetch: Fetch::new()?, timeout, log_every, refusal_logged: None })
    }

    /// Writes lines; how many of them were refused for good.
    async fn write(&mut self, lines: &[u8], count: u64) -> Result<u64, SinkError> {
        let mut headers = vec![(CONTENT_TYPE, "text/plain; charset=utf-8".to_string())];
        headers.extend(self.target.authorization().map(|shown| (AUTHORIZATION, shown)));
        let body = if self.target.gzip {
            headers.push((CONTENT_ENCODING, "gzip".into()));
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(lines).and_then(|()| encoder.finish())?
        } else {
            lines.to_vec()
        };
        let answer = self.fetch.send(Method::POST, &self.target.endpoint(), headers, body, self.timeout).await;
        let answer = answer.map_err(|error| SinkError::new(format!("{}: {error}", masked(&self.target.url))))?;
        if answer.is_good() {
            return Ok(0);
        }
        let said = excerpt(&answer.body, EXCERPT_CHARS);
        if !(400..500).contains(&answer.status) || [401, 403, 404, 408, 429].contains(&answer.status) {
            return Err(SinkError::new(format!("{} answered {}: {said}", masked(&self.target.url), answer.status)));
        }
        if self.refusal_logged.is_none_or(|last| last.elapsed() >= self.log_every) {
            self.refusal_logged = Some(Instant::now());
            tracing::warn!(status = answer.status, said, "Influx refused points; they are dropped");
        }
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
            let mut encoder = Encoder::new(snapshot);
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
            let (events, checks) = snapshot.count_notes();
            let unsupported = (events + checks + snapshot.presence.len()) as u64;
            let all = [("refused", refused), ("unsupported", unsupported)];
            Ok(Receipt { dropped: all.into_iter().filter(|(_, count)| *count > 0).collect(), bytes })
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// An interval as line protocol, batch by batch (docs.influxdata.com, "Line protocol").
pub struct Encoder<'a> {
    snapshot: &'a Snapshot,
    next: usize,
}

impl<'a> Encoder<'a> {
    /// Begins an interval.
    pub fn new(snapshot: &'a Snapshot) -> Encoder<'a> {
        Encoder { snapshot, next: 0 }
    }

    /// Appends lines until `limit` bytes or a little more are there; how many. 0 if there is nothing left.
    pub fn fill(&mut self, out: &mut Vec<u8>, limit: usize) -> u64 {
        let mut lines = 0;
        while out.len() < limit {
            match self.snapshot.point(self.next) {
                Some(point) => lines += self.point(point, out),
                None => match self.stamped() {
                    Some(one) => {
                        let time = (one.time * 1e3).round() as i64;
                        line(&one.series, &[("value", one.value)], time, out);
                        lines += 1;
                    }
                    None => break,
                },
            }
            self.next += 1;
        }
        lines
    }

    fn stamped(&self) -> Option<&'a crate::aggregate::Stamped> {
        let s = self.snapshot;
        let points = s.counters.len() + s.timers.len() + s.gauges.len() + s.sets.len() + s.kvs.len();
        s.stamped.get(self.next - points)
    }

    fn point(&self, point: Point<'_>, out: &mut Vec<u8>) -> u64 {
        let time = (self.snapshot.end * 1e3).round() as i64;
        match point {
            Point::Counter(point) => {
                let value = point.sum.value();
                let rate = self.snapshot.rate(&point.series, value);
                line(&point.series, &[("value", value), ("rate", rate)], time, out);
            }
            Point::Gauge(point) => line(&point.series, &[("value", point.gauge.value())], time, out),
            Point::Set(point) => line(&point.series, &[("value", point.members.count())], time, out),
            Point::Timer(point) => {
                let s = self.snapshot.summary(point);
                let rate = self.snapshot.rate(&point.series, s.count);
                let mut names: Vec<(String, f64)> = Vec::new();
                for p in &s.percentiles {
                    let text = number(p.percentile.abs());
                    names.push((format!("{}{text}", if p.percentile < 0.0 { "top" } else { "p" }), p.value));
                }
                for (bound, count) in &s.buckets {
                    names.push((bound.map_or("le_inf".into(), |bound| format!("le_{}", number(bound))), *count));
                }
                let mut fields = vec![("count", s.count), ("rate", rate)];
                if s.samples > 0 {
                    fields.extend([
                        ("sum", s.sum),
                        ("min", s.min),
                        ("max", s.max),
                        ("mean", s.mean),
                        ("median", s.median),
                        ("stddev", s.stddev),
                    ]);
                }
                fields.extend(names.iter().map(|(name, value)| (name.as_str(), *value)));
                line(&point.series, &fields, time, out);
            }
            Point::Kv(point) => {
                // Points of one time are one: a millisecond apart they stay several.
                for (n, &value) in point.values.iter().enumerate() {
                    line(&point.series, &[("value", value)], time - (point.values.len() - 1 - n) as i64, out);
                }
                return point.values.len() as u64;
            }
        }
        1
    }
}

fn line(series: &Series, fields: &[(&str, f64)], time: i64, out: &mut Vec<u8>) {
    escape(series.name(), ", ", out);
    out.extend_from_slice(b",metric_type=");
    let kind = if series.kind() == Kind::Meter { Kind::Counter } else { series.kind() };
    out.extend_from_slice(kind.name().as_bytes());
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
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        write_number(out, *value);
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
            &Series::new(Kind::Counter, "api hits,x=y\n", &tags),
            &[("value", 3.0), ("rate", 0.3)],
            1_700_000_000_000,
            &mut out,
        );
        let expected = "api\\ hits\\,x=y_,metric_type=counter,a\\ b=c\\,d\\=e,k=true,m=1|2,metric_type_=x_ value=3,rate=0.3 \
                        1700000000000\n";
        assert_eq!(String::from_utf8(out).as_deref(), Ok(expected));
    }
}
