//! Kafka, by librdkafka: every record (JSON) is a message to one topic, whose key is its series, so that a series stays in one
//! partition and in order. The producer is idempotent: what it sends again by itself is there once; an interval that is offered
//! again after a failure may be there twice. A message that is too large for the cluster is dropped and counted (`refused`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::codec::Records;
use crate::snapshot::Snapshot;

use super::spec::{bare, reach};
use super::{Delivery, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec};

/// Pause when librdkafka's queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// `kafka` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSpec {
    /// `host:port` of some brokers.
    brokers: Vec<String>,
    topic: String,
    username: String,
    password: String,
    /// Settings of librdkafka, by its names.
    options: BTreeMap<String, String>,
}

impl Default for KafkaSpec {
    fn default() -> KafkaSpec {
        KafkaSpec {
            brokers: Vec::new(),
            topic: "systole".into(),
            username: String::new(),
            password: String::new(),
            options: BTreeMap::new(),
        }
    }
}

impl Spec for KafkaSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        visitor.field("brokers", "Brokers that are asked first.", Opt::Texts(&mut self.brokers));
        visitor.require_one("brokers", !self.brokers.is_empty(), "[\"127.0.0.1:9092\"]");
        let with_login = self.brokers.iter().any(|broker| broker.contains('@'));
        visitor.require(
            "brokers",
            if with_login { Err("say who we are with `username` and `password`".into()) } else { Ok(()) },
        );
        visitor.field("topic", "Topic of the records.", Opt::TextOrNone(&mut self.topic));
        visitor.field("username", "Name for SASL.", Opt::TextOrNone(&mut self.username));
        visitor.example("username", "\"systole\"");
        visitor.field("password", "Password for SASL.", Opt::Secret(&mut self.password));
        visitor.example("password", "\"a secret\"");
        visitor.field("options", "Options of librdkafka.", Opt::Map(&mut self.options));
        visitor.example("options", "{ \"linger.ms\" = \"5\" }");
        let secret = self.options.keys().find(|key| key.contains("password") || key.contains("secret"));
        visitor.require(
            "options",
            match secret {
                Some(key) => Err(format!("`{key}` would be shown; say it as `password`")),
                None => Ok(()),
            },
        );
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        self.brokers = vec![bare(place).to_string()];
        Ok(())
    }

    fn place(&self) -> String {
        format!("{} of {}", self.topic, self.brokers.join(", "))
    }

    fn probe(&self) -> Result<String, String> {
        self.brokers.iter().map(|broker| reach(broker)).collect::<Result<Vec<_>, _>>().map(|found| found.join("; "))
    }

    fn accepts_out_of_order(&self) -> bool {
        true
    }

    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.brokers.join(","))
            .set("client.id", "systole")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", context.timeout.as_millis().max(1000).to_string());
        if !self.username.is_empty() {
            config.set("sasl.username", &self.username).set("sasl.password", &self.password);
        }
        for (key, value) in &self.options {
            config.set(key, value);
        }
        let producer = config.create().map_err(|error| format!("librdkafka refuses its settings: {error}"))?;
        Ok(Box::new(KafkaSink { spec: self.clone(), producer }))
    }
}

/// A topic.
struct KafkaSink {
    spec: KafkaSpec,
    producer: FutureProducer,
}

impl KafkaSink {
    /// Sends an interval: how many messages were refused, and how many bytes were sent.
    async fn send(&self, snapshot: &Snapshot) -> Result<(u64, u64), KafkaError> {
        let mut messages: Vec<(String, Vec<u8>)> = Vec::new();
        Records::ALL.each(snapshot, |record| messages.push((record.key.to_string(), record.json.to_vec())));
        let (mut refused, mut bytes, mut pending) = (0, 0, Vec::new());
        for (key, json) in &messages {
            bytes += json.len() as u64;
            let mut record = FutureRecord::to(&self.spec.topic).key(key).payload(json);
            loop {
                match self.producer.send_result(record) {
                    Ok(delivery) => {
                        pending.push(delivery);
                        break;
                    }
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                        record = again;
                        tokio::time::sleep(FULL_PAUSE).await;
                    }
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => {
                        refused += 1;
                        break;
                    }
                    Err((error, _)) => return Err(error),
                }
            }
        }
        for delivery in pending {
            match delivery.await {
                Ok(Ok(_)) => {}
                Ok(Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _))) => refused += 1,
                Ok(Err((error, _))) => return Err(error),
                Err(_) => return Err(KafkaError::Canceled),
            }
        }
        Ok((refused, bytes))
    }
}

impl Sink for KafkaSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let sent = self.send(snapshot).await;
            let (refused, bytes) = sent.map_err(|error| SinkError::new(format!("{}: {error}", self.spec.place())))?;
            Ok(Receipt::new(bytes, [("refused", refused)]))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(async move {
            let producer = self.producer.clone();
            // Everything was acknowledged before.
            let _ = tokio::task::spawn_blocking(move || producer.flush(Duration::from_secs(1))).await;
        })
    }
}
