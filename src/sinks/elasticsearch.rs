//! Elasticsearch and OpenSearch by their bulk API: every record is a document of `index-YYYY.MM.DD`, with `@timestamp`, and an id of
//! its interval and series, so that one that is written twice is there once. Of a bulk that is taken in part, what is refused
//! permanently is dropped and counted (`refused`); if the cluster had no room for a part (429, 5xx), the whole is retried.

use std::sync::Arc;

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use rapidhash::v3::rapidhash_v3;
use serde_json::{Value, json};

use crate::codec::{EncodedRecord, Records, write_json};
use crate::presence::rfc3339;
use crate::snapshot::Snapshot;

use super::http::{Endpoint, Outcome, Post, gzip};
use super::spec::reach_url;
use super::{Delivery, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec, Unencodable, has_date};

/// Bytes of a bulk from which on it is sent.
const BULK_BYTES: usize = 4 << 20;

/// `elasticsearch` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElasticsearchSpec {
    endpoint: Endpoint,
    index: String,
    /// A new index every day (UTC).
    daily: bool,
}

impl Default for ElasticsearchSpec {
    fn default() -> ElasticsearchSpec {
        ElasticsearchSpec { endpoint: Endpoint::default(), index: "systole".into(), daily: true }
    }
}

impl Spec for ElasticsearchSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        self.endpoint.options(visitor, "\"http://127.0.0.1:9200\"");
        visitor.field("index", "Name of the index.", Opt::TextOrNone(&mut self.index));
        visitor.field("daily", "One index for each day, with the date behind its name.", Opt::Flag(&mut self.daily));
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
        Ok(Box::new(ElasticsearchSink { spec: self.clone(), post: Post::new(self.endpoint.clone(), context)? }))
    }
}

impl ElasticsearchSpec {
    /// Two lines of a bulk: where a record goes, and the record with `@timestamp`.
    ///
    /// # Errors
    /// Why it has no form.
    fn document(&self, record: EncodedRecord<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
        if !has_date(record.time) {
            return Err("its time has no date");
        }
        let time = rfc3339(record.time);
        let index = match self.daily {
            true => format!("{}-{}", self.index, time[..10].replace('-', ".")),
            false => self.index.clone(),
        };
        let hashed = if record.has_interval { record.key.as_bytes() } else { record.json };
        let id = format!("{time}-{}-{:016x}", record.kind.name(), rapidhash_v3(hashed));
        write_json(&json!({"index": {"_index": index, "_id": id}}), out);
        out.extend_from_slice(b"\n{\"@timestamp\":\"");
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(b"\",");
        // A record is an object with members.
        out.extend_from_slice(record.json.strip_prefix(b"{").unwrap_or_default());
        out.push(b'\n');
        Ok(())
    }
}

/// A cluster.
struct ElasticsearchSink {
    spec: ElasticsearchSpec,
    post: Post,
}

impl ElasticsearchSink {
    /// How many records were refused permanently.
    async fn send(&mut self, bulk: &[u8], records: u64) -> Result<u64, SinkError> {
        let url = self.post.url("/_bulk");
        let headers = [(CONTENT_TYPE, "application/x-ndjson"), (CONTENT_ENCODING, "gzip")];
        let Outcome::Taken(answer) = self.post.send(&url, &headers, gzip(bulk)?).await? else { return Ok(records) };
        let said: Value = serde_json::from_slice(&answer.body)
            .map_err(|error| SinkError::new(format!("{}: the answer is no JSON: {error}", self.spec.place())))?;
        let items = said["items"].as_array().map_or(&[][..], Vec::as_slice);
        let failed = items.iter().map(|item| &item["index"]).filter(|item| item["status"].as_u64() >= Some(300));
        let (mut refused, mut example) = (0, None);
        for item in failed {
            let status = item["status"].as_u64().unwrap_or(0);
            if status == 429 || status >= 500 {
                return Err(SinkError::new(format!("{} has no room: {}", self.spec.place(), item["error"])));
            }
            refused += 1;
            example.get_or_insert_with(|| item["error"].to_string());
        }
        if let Some(example) = example {
            self.post.log_refusal(&example);
        }
        Ok(refused)
    }
}

impl Sink for ElasticsearchSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let mut bulks: Vec<(Vec<u8>, u64)> = Vec::new();
            let mut unencodable = Unencodable::default();
            let records = Records { ledger: false, ..Records::ALL };
            records.each(snapshot, |record| {
                if bulks.last().is_none_or(|(bulk, _)| bulk.len() >= BULK_BYTES) {
                    bulks.push((Vec::new(), 0));
                }
                if let Some((bulk, count)) = bulks.last_mut() {
                    match self.spec.document(record, bulk) {
                        Ok(()) => *count += 1,
                        Err(why) => unencodable.add(record.key, why),
                    }
                }
            });
            let (mut refused, mut bytes) = (0, 0);
            for (bulk, count) in bulks.into_iter().filter(|(_, count)| *count > 0) {
                bytes += bulk.len() as u64;
                refused += self.send(&bulk, count).await?;
            }
            Ok(Receipt::new(bytes, [("refused", refused)]).with(unencodable))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Sum;
    use crate::protocol::Kind;
    use crate::series::Series;
    use crate::snapshot::{CounterPoint, GaugePoint};

    #[test]
    fn a_document_is_its_record_with_a_timestamp_and_keeps_its_id() {
        let counter = CounterPoint { series: Series::new(Kind::Counter, "a\u{1b}b", &[]), sum: Sum::default() };
        let gauge = GaugePoint { series: Series::new(Kind::Gauge, "g", &[]), gauge: Default::default() };
        let snapshot = Snapshot {
            end: 1_700_000_010.0,
            interval_secs: 10.0,
            counters: vec![counter],
            gauges: vec![gauge],
            ..Snapshot::default()
        };
        let (mut bulk, mut records) = (Vec::new(), Vec::new());
        Records { ledger: false, ..Records::ALL }.each(&snapshot, |record| {
            records.push(serde_json::from_slice::<Value>(record.json).expect("JSON"));
            ElasticsearchSpec::default().document(record, &mut bulk).expect("it has a date");
        });
        let bulk = String::from_utf8(bulk).expect("text");
        let lines: Vec<Value> = bulk.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 4);
        for (lines, record) in lines.chunks(2).zip(&mut records) {
            let kind = record["type"].as_str().expect("text");
            let id = lines[0]["index"]["_id"].as_str().expect("text");
            assert!(id.starts_with(&format!("2023-11-14T22:13:30.000Z-{kind}-")), "{id}");
            assert_eq!(lines[0]["index"]["_index"], "systole-2023.11.14");
            record["@timestamp"] = "2023-11-14T22:13:30.000Z".into();
            assert_eq!(&lines[1], record);
        }
    }

    #[test]
    fn a_time_without_a_date_is_no_document() {
        for time in [-1.0, 1e12, f64::NAN] {
            let record = EncodedRecord {
                kind: crate::codec::RecordType::Event,
                key: "event",
                time,
                has_interval: false,
                json: b"{\"time\":0}",
            };
            assert!(ElasticsearchSpec::default().document(record, &mut Vec::new()).is_err(), "{time}");
        }
    }
}
