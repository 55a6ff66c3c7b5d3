//! What a status of the daemon says, for people: the verdict, the equations of the ledger, and the states of sinks. It
//! reads `/api/v1/status` as JSON, so that a daemon of another version is shown as far as it goes.

use serde_json::Value;

use crate::untrusted::Escaped;

use super::figures::{Grade, clock, grouped, percent};

/// Whether the data can be trusted, in words.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) grade: Grade,
    pub(super) sentence: String,
    pub(super) detail: String,
    /// What helps.
    pub(super) action: Option<String>,
    /// What else there is to look at.
    pub(super) pills: Vec<(Grade, String)>,
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(String::new, |text| Escaped(text).to_string())
}

/// A counter, or the sum of one that is kept by reason.
pub(super) fn count(value: &Value) -> u64 {
    match value {
        Value::Object(by_reason) => by_reason.values().filter_map(Value::as_u64).sum(),
        other => other.as_u64().unwrap_or(0),
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn grade(level: &Value) -> Grade {
    match level.as_str() {
        Some("ok") => Grade::Fine,
        Some("error") => Grade::Bad,
        _ => Grade::Warning,
    }
}

/// The verdict of the daemon; of a daemon that gives none, what its ledger, parts and warnings come to.
pub(super) fn verdict(status: &Value) -> Verdict {
    let given = &status["verdict"];
    if given.is_object() {
        let pills = given["pills"].as_array().into_iter().flatten();
        return Verdict {
            grade: match given["about"].as_str() {
                Some("empty" | "first") if given["level"] == "ok" => Grade::Waiting,
                _ => grade(&given["level"]),
            },
            sentence: text(&given["sentence"]),
            detail: text(&given["detail"]),
            action: given["action"].as_str().map(|action| Escaped(action).to_string()),
            pills: pills.map(|pill| (grade(&pill["level"]), text(&pill["text"]))).collect(),
        };
    }
    let warnings = warnings(status);
    let (broken, lost) = (broken_parts(status), count_all(status, "kernel_drops") + count_all(status, "unread"));
    let off = [lines(status), samples(status)].into_iter().find(|equation| equation.off() != 0);
    let (grade, sentence) = match (&off, broken.first(), warnings.len()) {
        (Some(off), ..) => (Grade::Bad, format!("The ledger is off by {}", off.off())),
        (None, Some((name, state, _)), _) => (Grade::Bad, format!("{name} is {state}")),
        (None, None, 0) if status["ready"] == false => (Grade::Warning, "Starting or stopping".into()),
        (None, None, 0) => (Grade::Fine, "All data accounted for".into()),
        (None, None, 1) => (Grade::Warning, "Something needs a look".into()),
        (None, None, n) => (Grade::Warning, format!("{n} things need a look")),
    };
    let detail = match lost {
        0 => "No datagram was lost since the start.".to_string(),
        lost => {
            let whole = status["completeness"].as_f64().unwrap_or(1.0);
            format!("{} datagrams were lost since the start: {} arrived.", grouped(lost), percent(whole))
        }
    };
    Verdict { grade, sentence, detail, action: None, pills: Vec::new() }
}

/// What the daemon asks somebody to look at, a sentence each.
pub(super) fn warnings(status: &Value) -> Vec<String> {
    status["warnings"].as_array().into_iter().flatten().map(text).collect()
}

/// Parts that do not work: name, state, and why.
pub(super) fn broken_parts(status: &Value) -> Vec<(String, String, String)> {
    let broken = entries(&status["parts"]).filter(|(_, part)| part["up"] == false);
    let why =
        |part: &Value| part["last_failure"].as_str().map_or("it has ended".into(), |why| Escaped(why).to_string());
    broken.map(|(name, part)| (Escaped(name).to_string(), text(&part["state"]), why(part))).collect()
}

/// The sum of a counter over all listeners.
pub(super) fn count_all(status: &Value, counter: &str) -> u64 {
    status["listeners"].as_array().into_iter().flatten().map(|listener| count(&listener[counter])).sum()
}

/// A whole and its parts, which must add up to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Equation {
    pub(super) whole: u64,
    pub(super) parts: Vec<(&'static str, u64)>,
}

/// The word for so many of what is named in the plural.
pub(super) fn one_of(plural: &str, number: u64) -> &str {
    let is_plural = plural.ends_with('s') && !plural.contains(' ');
    if number == 1 && is_plural { &plural[..plural.len() - 1] } else { plural }
}

impl Equation {
    /// How far the parts are from the whole: 0 if the equation holds.
    pub(super) fn off(&self) -> i128 {
        let sum: i128 = self.parts.iter().map(|(_, n)| i128::from(*n)).sum();
        i128::from(self.whole) - sum
    }

    /// What was added since an earlier reading; the whole since the start if that was another start's.
    #[cfg(feature = "top")]
    pub(super) fn since(&self, earlier: &Equation) -> Equation {
        let is_later = self.whole >= earlier.whole && self.parts.len() == earlier.parts.len();
        let is_later = is_later && self.parts.iter().zip(&earlier.parts).all(|(now, then)| now.1 >= then.1);
        if !is_later {
            return self.clone();
        }
        let parts = self.parts.iter().zip(&earlier.parts).map(|(now, then)| (now.0, now.1 - then.1));
        Equation { whole: self.whole - earlier.whole, parts: parts.collect() }
    }

    /// `1,842 read = 1,800 metrics + 42 malformed`: the first part always, of the others those that are not zero.
    pub(super) fn sentence(&self) -> String {
        let shown = self.parts.iter().enumerate().filter(|(at, (_, n))| *at == 0 || *n > 0);
        let terms: Vec<String> = shown.map(|(_, (name, n))| format!("{} {}", grouped(*n), one_of(name, *n))).collect();
        format!("{} read = {}", grouped(self.whole), terms.join(" + "))
    }

    /// The same in at most so many columns, if that can be: with what is neither usual nor a loss in one.
    #[cfg(feature = "top")]
    pub(super) fn sentence_within(&self, columns: usize) -> String {
        let whole = self.sentence();
        if whole.len() <= columns {
            return whole;
        }
        let is_named = |name: &str| matches!(name, "metrics" | "recorded" | "malformed");
        let mut parts: Vec<_> = self.parts.iter().copied().filter(|(name, _)| is_named(name)).collect();
        let others = self.parts.iter().filter(|(name, _)| !is_named(name)).map(|(_, n)| n).sum();
        parts.insert(1, ("others", others));
        Equation { whole: self.whole, parts }.sentence()
    }

    /// Whether it holds, with its sign.
    pub(super) fn verdict(&self, utf8: bool) -> String {
        match self.off() {
            0 => Grade::Fine.sign(utf8).to_string(),
            off => format!("{} off by {off}", Grade::Bad.sign(utf8)),
        }
    }
}

/// The parts of the lines: the word, and the counter.
pub(super) const LINE_PARTS: [(&str, &str); 7] = [
    ("metrics", "metrics"),
    ("events", "events"),
    ("checks", "service_checks"),
    ("beats", "heartbeats"),
    ("blank", "empty"),
    ("malformed", "malformed"),
    ("in failures", "internal_error"),
];

/// What became of the lines.
pub(super) fn lines(ledger: &Value) -> Equation {
    let lines = &ledger["lines"];
    let parts = LINE_PARTS.into_iter().map(|(name, field)| (name, count(&lines[field])));
    Equation { whole: count(&lines["read"]), parts: parts.collect() }
}

/// What became of the samples.
pub(super) fn samples(ledger: &Value) -> Equation {
    let samples = &ledger["samples"];
    let parts = [
        ("recorded", "recorded"),
        ("folded", "folded"),
        ("timestamped", "timestamped"),
        ("dropped by rules", "dropped_by_rule"),
        ("over a limit", "limited"),
    ];
    let parts = parts.into_iter().map(|(name, field)| (name, count(&samples[field])));
    Equation { whole: count(&samples["read"]), parts: parts.collect() }
}

/// How a sink or a relay does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flow {
    /// It takes nothing.
    Failing,
    /// It is behind.
    Behind,
    /// It takes what it is given.
    Delivering,
    /// It was given nothing yet.
    Idle,
}

impl Flow {
    pub(super) fn sign(self, utf8: bool) -> char {
        match (self, utf8) {
            (Flow::Failing, _) => Grade::Bad.sign(utf8),
            (Flow::Behind, _) => '~',
            (Flow::Delivering, _) => Grade::Fine.sign(utf8),
            (Flow::Idle, true) => '·',
            (Flow::Idle, false) => '.',
        }
    }
}

/// A sink, and what it does.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SinkState {
    pub(super) name: String,
    pub(super) flow: Flow,
    /// `delivering`, `catching up, 3,212 records on disk`, `takes nothing since 02:20:00: connection refused`.
    pub(super) text: String,
    /// Without what its format has no form for.
    pub(super) offered: u64,
    pub(super) delivered: u64,
    pub(super) waiting: u64,
    /// Lost: without what its format has no form for.
    pub(super) dropped: u64,
    /// The same by reason.
    pub(super) dropped_by: Vec<(String, u64)>,
    /// How long the last delivery took, in seconds.
    pub(super) took_secs: Option<f64>,
    /// Unix seconds; 0 for never.
    pub(super) last_success: f64,
}

/// All sinks, by name.
pub(super) fn sinks(status: &Value) -> Vec<SinkState> {
    let (now, interval) = (status["as_of"].as_f64(), status["interval"].as_f64().unwrap_or(10.0));
    let all = entries(&status["sinks"]);
    all.map(|(name, sink)| {
        let (queued, spooled) = (count(&sink["queued"]), count(&sink["spooled"]));
        // What its format has no form for is not meant for it.
        let unsupported = count(&sink["dropped"]["unsupported"]);
        let reasons = entries(&sink["dropped"]).filter(|(reason, n)| *reason != "unsupported" && count(n) > 0);
        let dropped_by = reasons.map(|(reason, n)| (Escaped(reason).to_string(), count(n))).collect();
        let dropped = count(&sink["dropped"]).saturating_sub(unsupported);
        let last_success = sink["last_success"].as_f64().unwrap_or(0.0);
        let error = sink["last_error"].as_str().map(|error| Escaped(error).to_string());
        let oldest = sink["oldest_waiting"].as_f64();
        // Records of the last interval are on their way, not late.
        let is_late = oldest.zip(now).is_some_and(|(oldest, now)| now - oldest > interval * 1.5);
        let waits = match (queued, spooled) {
            (0, 0) => String::new(),
            (queued, 0) => format!("{} records wait", grouped(queued)),
            (0, spooled) => format!("{} records on disk", grouped(spooled)),
            (queued, spooled) => {
                format!("{} records wait, {} of them on disk", grouped(queued + spooled), grouped(spooled))
            }
        };
        let also = if waits.is_empty() { String::new() } else { format!("; {waits}") };
        // A delivery that succeeds names what it left out as an error, too. An older daemon does not say when it failed.
        let is_failing = match sink["last_failure"].as_f64() {
            Some(last_failure) => last_failure > last_success,
            None => is_late || queued + spooled > 0 || last_success == 0.0,
        };
        let (flow, text) = match error {
            Some(error) if is_failing => {
                let since = if last_success > 0.0 {
                    format!("nothing since {}", clock(last_success))
                } else {
                    "nothing yet".to_string()
                };
                (Flow::Failing, format!("takes {since}: {error}{also}"))
            }
            Some(error) => (Flow::Behind, format!("left something out: {error}")),
            None if spooled > 0 || is_late => (Flow::Behind, format!("catching up, {waits}")),
            None if last_success == 0.0 && queued == 0 => (Flow::Idle, "nothing to deliver yet".into()),
            None => (Flow::Delivering, "delivering".into()),
        };
        let took_secs = sink["delivery_ms"].as_f64().map(|ms| ms / 1e3);
        let (offered, delivered) = (count(&sink["offered"]).saturating_sub(unsupported), count(&sink["delivered"]));
        let (name, waiting) = (Escaped(name).to_string(), queued + spooled);
        SinkState { name, flow, text, offered, delivered, waiting, dropped, dropped_by, took_secs, last_success }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_verdict_is_the_daemons_or_made_from_what_an_older_one_says() {
        let given = json!({"verdict": {"level": "error", "sentence": "Losing data: 2.1 % of datagrams", "detail": "d\u{1b}",
            "action": "raise it", "pills": [{"level": "warning", "text": "checkout degraded"}]}});
        let verdict = super::verdict(&given);
        assert_eq!((verdict.grade, verdict.detail.as_str()), (Grade::Bad, "d\\u{1b}"));
        assert_eq!(verdict.pills, [(Grade::Warning, "checkout degraded".to_string())]);
        for (status, grade, sentence, detail) in [
            (json!({"ready": true}), Grade::Fine, "All data accounted for", "No datagram was lost"),
            (json!({"ready": false}), Grade::Warning, "Starting or stopping", ""),
            (json!({"warnings": ["a"]}), Grade::Warning, "Something needs a look", ""),
            (json!({"warnings": ["a", "b"]}), Grade::Warning, "2 things need a look", ""),
            (json!({"parts": {"flush": {"up": false, "state": "failed"}}}), Grade::Bad, "flush is failed", ""),
            (json!({"lines": {"read": 3, "metrics": 1}}), Grade::Bad, "The ledger is off by 2", ""),
            (
                json!({"completeness": 0.979, "listeners": [{"kernel_drops": 2100}]}),
                Grade::Fine,
                "All data accounted for",
                "2,100 datagrams were lost since the start: 97.9 % arrived.",
            ),
        ] {
            let verdict = super::verdict(&status);
            assert_eq!((verdict.grade, verdict.sentence.as_str()), (grade, sentence));
            assert!(verdict.detail.starts_with(detail), "{}", verdict.detail);
        }
    }

    #[test]
    fn equations_show_what_there_is_and_say_when_they_are_off() {
        let ledger = json!({"lines": {"read": 1045, "metrics": 1000, "heartbeats": 40, "malformed": {"bad_value": 3, "no_name": 2}}});
        let equation = lines(&ledger);
        assert_eq!(equation.sentence(), "1,045 read = 1,000 metrics + 40 beats + 5 malformed");
        assert_eq!((equation.off(), equation.verdict(true).as_str()), (0, "✓"));
        #[cfg(feature = "top")]
        {
            assert_eq!(equation.sentence_within(80), equation.sentence());
            let short = equation.sentence_within(40);
            assert_eq!(short, "1,045 read = 1,000 metrics + 40 others + 5 malformed");
        }
        let later = Equation { whole: 1050, ..equation.clone() };
        assert_eq!((later.verdict(true).as_str(), later.verdict(false).as_str()), ("✕ off by 5", "x off by 5"));
    }

    #[test]
    fn a_sink_is_failing_behind_or_delivering() {
        let status = json!({"as_of": 1000.0, "interval": 10.0, "sinks": {
            "a": {"last_success": 1000.0, "queued": 3, "last_error": null, "oldest_waiting": 1000.0},
            "b": {"last_success": 1000.0, "spooled": 3212, "last_error": null, "oldest_waiting": 500.0},
            "c": {"last_success": 940.0, "queued": 5, "last_error": "connection refused", "dropped": {"queue_full": 2}},
            "d": {"last_success": 0.0},
            "e": {"last_success": 1000.0, "last_failure": 10.0, "queued": 5, "last_error": "1 record cannot be encoded"},
            "f": {"last_success": 940.0, "last_failure": 1000.0, "last_error": "connection refused"}}});
        let all = sinks(&status);
        let said: Vec<_> = all.iter().map(|sink| (sink.flow, sink.text.as_str())).collect();
        assert_eq!(
            said,
            [
                (Flow::Delivering, "delivering"),
                (Flow::Behind, "catching up, 3,212 records on disk"),
                (Flow::Failing, "takes nothing since 00:15:40: connection refused; 5 records wait"),
                (Flow::Idle, "nothing to deliver yet"),
                (Flow::Behind, "left something out: 1 record cannot be encoded"),
                (Flow::Failing, "takes nothing since 00:15:40: connection refused"),
            ]
        );
        assert_eq!(all[2].dropped, 2);
    }
}
