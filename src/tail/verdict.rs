//! What a line is, as its listener reads it.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::aggregate::{TimeWindow, bad_time};
use crate::protocol::{
    BINARY_MAGIC, Heartbeats, Line, Metric, Options, ParseError, Signal, binary_frames, lines, parse_line,
};

use super::tap::Piece;

/// What a line is.
#[derive(Debug, Default)]
pub(super) struct Verdict<'a> {
    /// What is wrong with it: the first that is.
    pub(super) error: Option<ParseError>,
    /// `counter` and so on, `event`, `service_check` or `heartbeat`; `None` if nothing of it can be read.
    pub(super) kind: Option<&'static str>,
    /// The name of a metric or a check, the title of an event.
    pub(super) name: Option<Cow<'a, str>>,
}

/// How lines are read beside the options of their listener.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) heartbeats: Option<Heartbeats>,
    pub(super) times: TimeWindow,
}

impl Reading {
    /// Passes on every line of a piece that is not blank.
    pub(super) fn lines(&self, piece: &Piece, mut pass_on: impl FnMut(&[u8], Verdict<'_>)) {
        let bytes = &piece.bytes[..];
        if let Some(reason) = piece.broken {
            let error = Some(ParseError::new(reason, bytes.len()));
            return pass_on(bytes, Verdict { error, ..Verdict::default() });
        }
        let options = &piece.origin.options;
        if options.binary && bytes.first() == Some(&BINARY_MAGIC) {
            for (frame, metric) in binary_frames(bytes, options) {
                pass_on(frame, self.of_samples(std::iter::once(metric), frame, piece.from, piece.at));
            }
            return;
        }
        for line in lines(bytes).filter(|line| !line.is_empty()) {
            pass_on(line, self.verdict(line, options, piece.from, piece.at));
        }
    }

    /// A line that may be shown: without keys of presence.
    pub(super) fn masked<'l>(&self, line: &'l [u8]) -> Cow<'l, [u8]> {
        match &self.heartbeats {
            Some(heartbeats) => heartbeats.masked(line).into(),
            None => line.into(),
        }
    }

    fn verdict<'l>(&self, line: &'l [u8], options: &Options, from: Option<IpAddr>, at: f64) -> Verdict<'l> {
        let untimely = |time: Option<u64>, mark: &[u8]| {
            time.filter(|time| !self.times.holds(*time, at)).map(|_| bad_time(line, mark))
        };
        match parse_line(line, options) {
            Ok(Line::Empty) => Verdict::default(),
            Ok(Line::Samples(samples)) => self.of_samples(samples, line, from, at),
            Ok(Line::Event(event)) => {
                Verdict { error: untimely(event.timestamp, b"d:"), kind: Some("event"), name: Some(event.title) }
            }
            Ok(Line::ServiceCheck(check)) => {
                let signal = self.heartbeats.as_ref().and_then(|heartbeats| heartbeats.of_check(&check, from));
                let is_heartbeat = matches!(signal, Some(Signal::Heartbeat(_)));
                Verdict {
                    error: if is_heartbeat { None } else { untimely(check.timestamp, b"d:") },
                    kind: Some(if is_heartbeat { "heartbeat" } else { "service_check" }),
                    name: Some(check.name.into()),
                }
            }
            Err(error) => Verdict { error: Some(error), ..Verdict::default() },
        }
    }

    fn of_samples<'l>(
        &self,
        samples: impl Iterator<Item = Result<Metric<'l>, ParseError>> + Clone,
        line: &[u8],
        from: Option<IpAddr>,
        at: f64,
    ) -> Verdict<'l> {
        let signal = self.heartbeats.as_ref().and_then(|heartbeats| heartbeats.of_line(samples.clone(), from));
        let is_heartbeat = matches!(signal, Some(Signal::Heartbeat(_) | Signal::Maintenance { .. }));
        let mut verdict = Verdict::default();
        for sample in samples {
            let metric = match sample {
                Ok(metric) => metric,
                Err(error) => {
                    verdict.error.get_or_insert(error);
                    continue;
                }
            };
            // A heartbeat counts when it arrives, whatever its sender's clock says.
            if !is_heartbeat && metric.timestamp.is_some_and(|time| !self.times.holds(time.get(), at)) {
                verdict.error.get_or_insert_with(|| bad_time(line, b"T"));
            }
            if verdict.name.is_none() {
                verdict.kind = Some(if is_heartbeat { "heartbeat" } else { metric.kind.name() });
                verdict.name = Some(metric.name.to_string().into());
            }
        }
        verdict
    }
}
