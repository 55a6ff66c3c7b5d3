//! Captures: JSON Lines that record the wire with times.
//!
//! ```json
//! {"format":"systole-capture/1","started":1700000000}
//! {"t":0.25,"data":"api.hits:1|c","from":"10.0.0.5:40001","via":"udp"}
//! {"t":0.5,"hex":"613a317c63"}
//! ```
//! Presence traces (`presence-trace/1`) are captures too: `in` is `data`, `n` copies, `src` the sender, `ctl`
//! rows drive faults, and `expect` rows are skipped.

use serde_json::{Map, Value};

use super::hex;

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Nanoseconds from 0.
    pub at: u64,
    /// Its content.
    pub what: What,
}

/// The content of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A datagram, `copies` times.
    Datagram {
        /// Its content.
        bytes: Vec<u8>,
        /// How often it was sent.
        copies: u32,
        /// `ip:port`.
        from: Option<String>,
    },
    /// The daemon stops and starts again after `down` nanoseconds; a crash loses the open interval.
    Restart {
        /// Nanoseconds.
        down: u64,
        /// Whether it is a crash.
        crash: bool,
    },
    /// The daemon is suspended.
    Stall {
        /// Nanoseconds.
        length: u64,
    },
    /// The kernel dropped datagrams in the last second.
    Drops {
        /// Datagrams dropped.
        dropped: u64,
        /// Datagrams received.
        received: u64,
    },
    /// The wall clock was set.
    Clock {
        /// By this many seconds, forward or back.
        step: f64,
    },
    /// An operator started maintenance.
    Maintenance {
        /// Whose.
        service: String,
        /// `None` for all of them.
        instance: Option<String>,
        /// How long; 0 ends it.
        seconds: f64,
    },
    /// An operator removed an instance.
    Forget {
        /// Whose.
        service: String,
        /// `None` for all of them.
        instance: Option<String>,
    },
    /// A capture's header: the Unix second that `t` counts from.
    Started(f64),
    /// A trace's header: settings of presence.
    Presence(Map<String, Value>),
    /// The end of the capture.
    End,
}

/// Latest `t` that counts from 0, and latest one in Unix seconds.
const LATEST: f64 = 1e9;
const LATEST_UNIX: f64 = 1e10;

/// Parses one row; `None` for rows without an effect. With `absolute`, `t` is in Unix seconds.
///
/// # Errors
/// What is wrong, and what is expected.
pub fn row(text: &str, absolute: bool) -> Result<Option<Row>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let Value::Object(row) = value else {
        return Err("an object such as {\"t\":0.5,\"data\":\"a:1|c\"} is right".into());
    };
    if let Some(format) = row.get("format") {
        return match format.as_str() {
            Some("systole-capture/1") => {
                let started =
                    row.get("started").and_then(Value::as_f64).filter(|started| (0.0..=LATEST_UNIX).contains(started));
                Ok(started.map(|started| Row { at: 0, what: What::Started(started) }))
            }
            Some("presence-trace/1") => {
                let config = row.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
                Ok(Some(Row { at: 0, what: What::Presence(config) }))
            }
            _ => Err(format!("unknown format {format}; \"systole-capture/1\" is right")),
        };
    }
    let at = if absolute { unix_nanos(&row)? } else { nanos(&row, "t")? };
    let at = at.ok_or(if absolute { "`t` is missing: Unix seconds" } else { "`t` is missing: seconds from 0" })?;
    let what = if let Some(bytes) = datagram(&row)? {
        let copies = match row.get("n") {
            None => 1,
            Some(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("`n` is no number of copies")?,
        };
        let from = row.get("from").or_else(|| row.get("src")).and_then(Value::as_str).map(str::to_string);
        What::Datagram { bytes, copies, from }
    } else {
        match row.get("ctl").map(|ctl| ctl.as_str().unwrap_or("")) {
            Some("restart") => What::Restart {
                down: nanos(&row, "down")?.unwrap_or(0),
                crash: row.get("crash").and_then(Value::as_bool).unwrap_or(false),
            },
            Some("stall") => What::Stall { length: nanos(&row, "dur")?.ok_or("`dur` is missing")? },
            Some("drops") => {
                let count = |key: &str| row.get(key).and_then(Value::as_u64).unwrap_or(0);
                What::Drops { dropped: count("dropped"), received: count("received") }
            }
            Some("clock") => What::Clock { step: number(&row, "wall_step")? },
            Some("maintenance") => {
                let (service, instance) = who(&row)?;
                What::Maintenance { service, instance, seconds: number(&row, "seconds")? }
            }
            Some("forget") => {
                let (service, instance) = who(&row)?;
                What::Forget { service, instance }
            }
            Some("end") => What::End,
            Some(other) => return Err(format!("unknown `ctl` \"{other}\"")),
            None if row.contains_key("expect") => return Ok(None),
            None => return Err("`data` or `hex` is missing".into()),
        }
    };
    Ok(Some(Row { at, what }))
}

fn number(row: &Map<String, Value>, key: &str) -> Result<f64, String> {
    row.get(key).and_then(Value::as_f64).ok_or_else(|| format!("`{key}` is missing: a number of seconds"))
}

fn who(row: &Map<String, Value>) -> Result<(String, Option<String>), String> {
    let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_string);
    Ok((text("service").ok_or("`service` is missing")?, text("instance")))
}

fn datagram(row: &Map<String, Value>) -> Result<Option<Vec<u8>>, String> {
    if let Some(text) = row.get("data").or_else(|| row.get("in")) {
        return text.as_str().map(|text| Some(text.as_bytes().to_vec())).ok_or("`data` is no string".into());
    }
    let Some(digits) = row.get("hex") else {
        return Ok(None);
    };
    let digits = digits.as_str().ok_or("`hex` is no string")?;
    hex::decode(digits.as_bytes()).map(Some).map_err(|problem| format!("`hex`: {problem}"))
}

/// Seconds as nanoseconds, so that multiples of an interval are exact.
fn nanos(row: &Map<String, Value>, key: &str) -> Result<Option<u64>, String> {
    let Some(value) = row.get(key) else {
        return Ok(None);
    };
    let seconds = value.as_f64().filter(|s| (0.0..=LATEST).contains(s));
    seconds.map(|s| Some((s * 1e9).round() as u64)).ok_or_else(|| match value.as_f64() {
        Some(s) if s > LATEST && key == "t" => {
            format!("`t` is {value}; seconds from 0 are right, or `--absolute` for Unix seconds")
        }
        _ => format!("`{key}` is {value}; seconds, 0 or more, are right"),
    })
}

/// `t` in Unix seconds, as nanoseconds. A double resolves microseconds of present times.
fn unix_nanos(row: &Map<String, Value>) -> Result<Option<u64>, String> {
    let Some(value) = row.get("t") else {
        return Ok(None);
    };
    let seconds = value.as_f64().filter(|s| (0.0..=LATEST_UNIX).contains(s));
    seconds
        .map(|s| Some((s * 1e6).round() as u64 * 1000))
        .ok_or_else(|| format!("`t` is {value}; Unix seconds, 0 or more, are right"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_captures_and_traces_are_read() {
        let datagram = |text: &str, copies, from: Option<&str>| What::Datagram {
            bytes: text.as_bytes().to_vec(),
            copies,
            from: from.map(str::to_string),
        };
        for (text, at, what) in [
            (r#"{"t":0.5,"data":"a:1|c"}"#, 500_000_000, datagram("a:1|c", 1, None)),
            (r#"{"t":1,"hex":"613a","from":"1.2.3.4:5"}"#, 1_000_000_000, datagram("a:", 1, Some("1.2.3.4:5"))),
            (r#"{"t":0,"in":"x","n":3,"src":"h"}"#, 0, datagram("x", 3, Some("h"))),
            (r#"{"t":2,"ctl":"end"}"#, 2_000_000_000, What::End),
        ] {
            assert_eq!(row(text, false), Ok(Some(Row { at, what })), "{text}");
        }
        let started = Some(Row { at: 0, what: What::Started(1.0) });
        assert_eq!(row(r#"{"format":"systole-capture/1","started":1}"#, false), Ok(started));
        assert_eq!(row(r#"{"format":"systole-capture/1"}"#, false), Ok(None));
        assert_eq!(row(r#"{"t":1,"expect":{}}"#, false), Ok(None));
        let unix = Some(Row { at: 1_700_000_000_100_000_000, what: datagram("x", 1, None) });
        assert_eq!(row(r#"{"t":1700000000.1,"data":"x"}"#, true), Ok(unix));
    }

    #[test]
    fn a_broken_row_says_what_would_be_right() {
        for (text, part) in [
            ("{", "no JSON"),
            ("[]", "an object"),
            (r#"{"data":"a"}"#, "`t` is missing"),
            (r#"{"t":-1,"data":"a"}"#, "0 or more"),
            (r#"{"t":1700000000,"data":"a"}"#, "`--absolute`"),
            (r#"{"t":0}"#, "`data` or `hex`"),
            (r#"{"t":0,"hex":"6"}"#, "two hex digits"),
            (r#"{"format":"x"}"#, "unknown format"),
        ] {
            assert!(row(text, false).is_err_and(|problem| problem.contains(part)), "{text}");
        }
    }
}
