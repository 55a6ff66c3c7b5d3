//! NATS with JetStream: an interval as records (JSON Lines), in messages of at most 512 KiB to one subject, each acknowledged by
//! the stream. A message has an id of the node, the interval and its place in it (`Nats-Msg-Id`), so that a stream takes what is
//! sent again within its `duplicate_window` for one. With `create` the stream is made when it is missing. A record that is longer
//! than what the server takes has no form (`unencodable`).

use std::sync::Arc;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, stream};
use bytes::Bytes;

use crate::codec::{EncodedRecord, RecordType, Records};
use crate::nats_client::NatsLogin;
use crate::snapshot::Snapshot;
use crate::sys::host_name;

use super::http::nats_login;
use super::spec::{bare, reach};
use super::{Delivery, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec, Unencodable};

/// Most bytes of a message: a server takes 1 MiB by default.
const MESSAGE_BYTES: usize = 512 << 10;

/// Bytes that headers take of what a server takes, about.
const HEADER_BYTES: usize = 512;

/// `nats` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsSpec {
    /// `host:port` of each server.
    servers: Vec<String>,
    subject: String,
    stream: String,
    create: bool,
    login: NatsLogin,
}

impl Default for NatsSpec {
    fn default() -> NatsSpec {
        NatsSpec {
            servers: Vec::new(),
            subject: "systole.records".into(),
            stream: "systole".into(),
            create: true,
            login: NatsLogin::default(),
        }
    }
}

impl Spec for NatsSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        visitor.field("servers", "Servers that are asked first.", Opt::Texts(&mut self.servers));
        visitor.require_one("servers", !self.servers.is_empty(), "[\"127.0.0.1:4222\"]");
        let with_login = self.servers.iter().any(|server| server.contains('@'));
        visitor.require(
            "servers",
            if with_login { Err("say who we are with `username` and `password`".into()) } else { Ok(()) },
        );
        visitor.field("subject", "Subject of the records.", Opt::TextOrNone(&mut self.subject));
        visitor.field("stream", "Stream of JetStream.", Opt::TextOrNone(&mut self.stream));
        visitor.field("create", "Create the stream if it is missing.", Opt::Flag(&mut self.create));
        nats_login(visitor, &mut self.login);
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        self.servers = vec![bare(place).to_string()];
        Ok(())
    }

    fn place(&self) -> String {
        self.servers.join(", ")
    }

    fn probe(&self) -> Result<String, String> {
        self.servers.iter().map(|server| reach(server)).collect::<Result<Vec<_>, _>>().map(|found| found.join("; "))
    }

    fn accepts_out_of_order(&self) -> bool {
        true
    }

    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let node = host_name().unwrap_or_else(|_| "systole".into());
        Ok(Box::new(NatsSink { spec: self.clone(), id: format!("{node}/{}", context.name), context: None }))
    }
}

/// A stream.
struct NatsSink {
    spec: NatsSpec,
    /// What ids of messages begin with.
    id: String,
    context: Option<Context>,
}

impl NatsSink {
    async fn connect(&self) -> Result<Context, String> {
        let spec = &self.spec;
        let options = spec.login.options()?.name("systole").max_reconnects(1);
        let client = options.connect(&spec.servers[..]).await.map_err(|error| error.to_string())?;
        let context = jetstream::new(client);
        if spec.create {
            let config = stream::Config {
                name: spec.stream.clone(),
                subjects: vec![spec.subject.clone()],
                ..stream::Config::default()
            };
            context.get_or_create_stream(config).await.map_err(|error| error.to_string())?;
        }
        Ok(context)
    }

    /// Sends an interval; how many bytes, and what was too long.
    async fn send(&mut self, snapshot: &Snapshot) -> Result<(u64, Unencodable), String> {
        let context = match self.context.take() {
            Some(context) => context,
            None => self.connect().await?,
        };
        let taken = context.client().server_info().max_payload;
        let (messages, unencodable) = pack(snapshot, taken.saturating_sub(HEADER_BYTES));
        let bytes = messages.iter().map(Vec::len).sum::<usize>() as u64;
        let mut acknowledged = Vec::new();
        for (n, message) in messages.into_iter().enumerate() {
            let id = format!("{}/{:.3}/{}/{}/{n}", self.id, snapshot.end, snapshot.sequence, snapshot.part);
            let publish = PublishMessage::build().payload(Bytes::from(message)).message_id(id);
            let sent = context.send_publish(self.spec.subject.clone(), publish).await;
            acknowledged.push(sent.map_err(|error| error.to_string())?);
        }
        for one in acknowledged {
            one.await.map_err(|error| error.to_string())?;
        }
        self.context = Some(context);
        Ok((bytes, unencodable))
    }
}

/// An interval as messages of which none is longer than `most` bytes, and the records that are.
fn pack(snapshot: &Snapshot, most: usize) -> (Vec<Vec<u8>>, Unencodable) {
    let (mut messages, mut unencodable): (Vec<Vec<u8>>, _) = (Vec::new(), Unencodable::default());
    Records::ALL.each(snapshot, |EncodedRecord { kind, key, json, .. }| match messages.last_mut() {
        // The ledger is not among the records that were offered.
        _ if json.len() >= most && kind == RecordType::Ledger => {}
        _ if json.len() >= most => unencodable.add(key, format_args!("{} bytes are too many", json.len())),
        Some(last) if last.len() + json.len() < MESSAGE_BYTES.min(most) => {
            last.extend_from_slice(json);
            last.push(b'\n');
        }
        Some(_) | None => messages.push([json, b"\n"].concat()),
    });
    (messages, unencodable)
}

impl Sink for NatsSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let sent = self.send(snapshot).await;
            let (bytes, unencodable) =
                sent.map_err(|error| SinkError::new(format!("{}: {error}", self.spec.place())))?;
            Ok(Receipt::new(bytes, []).with(unencodable))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        self.context = None;
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{CanonicalTags, EventOrCheck, EventOrCheckBody, Gauge};
    use crate::protocol::Kind;
    use crate::series::Series;
    use crate::snapshot::GaugePoint;

    #[test]
    fn a_record_longer_than_the_server_takes_is_left_out_and_no_message_is() {
        let gauge = |n: usize| GaugePoint {
            series: Series::new(Kind::Gauge, &format!("g{n}"), &[]),
            gauge: Gauge::absolute(1.0, 0.0),
        };
        let event = EventOrCheck {
            time: 5.0,
            tags: CanonicalTags::new(&[]),
            host: None,
            container: None,
            external_data: None,
            cardinality: None,
            body: EventOrCheckBody::ServiceCheck { name: "n".into(), status: 0, message: Some("x".repeat(5000)) },
        };
        let snapshot =
            Snapshot { gauges: (0..100).map(gauge).collect(), events_and_checks: vec![event], ..Snapshot::default() };
        let (messages, unencodable) = pack(&snapshot, 2000);
        assert_eq!((unencodable.records, messages.iter().any(|message| message.len() > 2000)), (1, false));
        let records: usize = messages.iter().map(|message| message.iter().filter(|&&b| b == b'\n').count()).sum();
        assert_eq!(records, 101);
        assert_eq!(pack(&snapshot, 1 << 20).1, Unencodable::default());
    }
}
