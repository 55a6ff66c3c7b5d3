//! Timers, histograms and distributions as an HdrHistogram interval log (github.com/HdrHistogram, "Histogram Log Format" 1.3), a
//! line for each series and interval, which the tools of that family read and merge. The tag is the series (`name;k=v`) with
//! commas and white space as `_`. Values are whole: they are multiplied by `scale` (1000 by default, so that milliseconds are
//! microseconds), and so is the maximum in its column. What is below zero has no place (`negative`), other kinds neither
//! (`unsupported`), nor has a timer with a value or a number of events beyond 2^63 (`unencodable`).

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};

use crate::snapshot::{Snapshot, number};
use crate::untrusted::is_active;

use super::blocking::{Blocking, Writer};
use super::file::{FileSpec, FileWriter};
use super::{Delivery, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec, Unencodable};

/// Beyond what the log's signed integers hold.
const TOO_LARGE: f64 = i64::MAX as f64;

/// `hdrlog` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HdrlogSpec {
    file: FileSpec,
    scale: u64,
    digits: u64,
}

impl Default for HdrlogSpec {
    fn default() -> HdrlogSpec {
        HdrlogSpec { file: FileSpec::default(), scale: 1000, digits: 3 }
    }
}

impl Spec for HdrlogSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        self.file.options_with("\"/var/log/systole/histograms.hlog\"", visitor);
        visitor.field(
            "scale",
            "Values are multiplied by it before they are rounded to whole numbers.",
            Opt::Whole(&mut self.scale, 1..=1_000_000_000),
        );
        visitor.field("digits", "Significant digits of the histograms.", Opt::Whole(&mut self.digits, 1..=5));
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        self.file.set_from_url(place)
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.file.path)
    }

    fn place(&self) -> String {
        self.file.place()
    }

    fn probe(&self) -> Result<String, String> {
        self.file.probe()
    }

    fn accepts_out_of_order(&self) -> bool {
        true
    }

    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let file = FileWriter::open(self.file.clone()).map_err(|error| self.file.cannot_write(&error))?;
        Ok(Box::new(HdrlogSink(Blocking::new(LogWriter { file, spec: self.clone() }))))
    }
}

struct HdrlogSink(Blocking<LogWriter>);

struct LogWriter {
    file: FileWriter,
    spec: HdrlogSpec,
}

impl Sink for HdrlogSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(self.0.deliver(snapshot))
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl LogWriter {
    /// Values, each with the number of events that it stands for, as the log has them; and the largest.
    ///
    /// # Errors
    /// Why they have no form there.
    fn pack(&self, values: &[(f64, f64)]) -> Result<(u64, Vec<u8>), String> {
        let mut histogram: Histogram<u64> =
            Histogram::new(self.spec.digits as u8).map_err(|error| error.to_string())?;
        histogram.auto(true);
        let mut events = 0.0;
        for (value, count) in values {
            let scaled = (value * self.spec.scale as f64).round();
            if scaled >= TOO_LARGE {
                return Err(format!("the value {} is too large", number(*value)));
            }
            let count = count.round().max(1.0);
            events += count;
            if events >= TOO_LARGE {
                return Err(format!("{} events are too many", number(events)));
            }
            histogram.record_n(scaled as u64, count as u64).map_err(|error| error.to_string())?;
        }
        let mut packed = Vec::new();
        V2DeflateSerializer::new().serialize(&histogram, &mut packed).map_err(|error| error.to_string())?;
        Ok((histogram.max(), packed))
    }
}

impl Writer for LogWriter {
    fn write(&mut self, snapshot: &Snapshot) -> std::io::Result<Receipt> {
        let (mut text, mut negative, mut unencodable) = (String::new(), 0, Unencodable::default());
        for point in &snapshot.timers {
            let values = snapshot.values(point);
            let Some((smallest, _)) = values.first() else { continue };
            if *smallest < 0.0 {
                // A part of it would be wrong.
                negative += 1;
                continue;
            }
            let (largest, packed) = match self.pack(&values) {
                Ok(packed) => packed,
                Err(why) => {
                    unencodable.add(&point.series, why);
                    continue;
                }
            };
            let tag: String = point
                .series
                .to_string()
                .chars()
                .map(|c| if c == ',' || c.is_whitespace() || is_active(c) { '_' } else { c })
                .collect();
            let length = snapshot.interval_secs_of(&point.series);
            // Writing to memory cannot fail.
            let _ = writeln!(
                text,
                "Tag={tag},{:.3},{length:.3},{}.0,{}",
                snapshot.end - length,
                largest,
                BASE64_STANDARD.encode(packed)
            );
        }
        let head = "#[Histogram log format version 1.3]\n\
                    \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";
        self.file.append(head, text.as_bytes())?;
        let others = (snapshot.len() - snapshot.timers.len()) as u64;
        Ok(Receipt::new(0, [("negative", negative), ("unsupported", others)]).with(unencodable))
    }
}
