//! `systole tail`: lines as they arrive at a running daemon, each with its verdict.

use std::io::{self, IsTerminal, Write};

use clap::Args;
use serde_json::Value;

use crate::http_client::OpenAnswer;
use crate::presence::rfc3339;
use crate::untrusted::{Escaped, in_url};

use super::client::ClientArgs;
use super::colours::{BAD, painted};
use super::{asking, print_error};

/// Longest line of an answer, in bytes; those of a daemon are far shorter.
const MOST_ROW: usize = 1 << 20;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  systole tail                        every line, sampled\n  systole tail 'checkout.*'           of names that match\n  \
                  systole tail latency                of names that contain it\n  systole tail --invalid              what cannot be read, and why\n  \
                  systole tail --from 10.4.9.0/24     of these senders\n  systole tail hits --limit 1         wait for one, for scripts\n\n\
                  The daemon shows at most 100 lines a second, and looks at a part of those that come fast; standard error says how many \
                  were not shown. It costs the daemon nothing while nobody looks. Times are UTC. Exit codes: 0 as many lines as asked for, or \
                  nobody reads them any more; 1 the daemon does not answer, or has gone."
)]
pub(super) struct TailArgs {
    /// Only names that match this pattern (`*` any text, `?` any character), or contain this text
    #[arg(value_name = "GLOB")]
    name: Option<String>,
    /// Only malformed lines
    #[arg(long)]
    invalid: bool,
    /// Only lines from this address or network, such as 10.0.0.0/8
    #[arg(long, value_name = "ADDR")]
    from: Option<String>,
    /// End after so many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    limit: Option<u64>,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: ClientArgs,
}

/// What came of a row.
enum Shown {
    Line,
    /// It is none of the wire.
    Other,
    /// Nobody reads any more.
    Nobody,
}

pub(super) fn run(args: &TailArgs) -> u8 {
    asking(async { follow(args).await.map(|()| true) })
}

fn path(args: &TailArgs) -> String {
    let mut query = Vec::new();
    if let Some(name) = &args.name {
        query.push(format!("match={}", in_url(name)));
    }
    if args.invalid {
        query.push("invalid=1".to_string());
    }
    if let Some(from) = &args.from {
        query.push(format!("from={}", in_url(from)));
    }
    if let Some(limit) = args.limit {
        query.push(format!("limit={limit}"));
    }
    let mark = if query.is_empty() { "" } else { "?" };
    format!("/api/v1/tail{mark}{}", query.join("&"))
}

/// Shows lines until there are no more, or nobody reads them.
async fn follow(args: &TailArgs) -> Result<(), String> {
    let daemon = args.daemon.client()?;
    let mut answer = OpenAnswer::new(daemon.open(&path(args)).await?);
    if answer.status != 200 {
        let status = answer.status;
        let body = answer.whole().await.unwrap_or_default();
        return Err(daemon.refused(status, &serde_json::from_slice(&body).unwrap_or_default()));
    }
    if io::stdout().is_terminal() && io::stderr().is_terminal() {
        print_error(format_args!("lines as they arrive; Ctrl-C ends"));
    }
    let (mut rest, mut shown) = (Vec::new(), 0);
    loop {
        let piece = match answer.piece().await {
            Ok(Some(piece)) => piece,
            Ok(None) if args.limit == Some(shown) => return Ok(()),
            Ok(None) => return Err("the daemon has closed the stream: it stops, or was too busy".into()),
            Err(error) => return Err(format!("the daemon has gone: {error}")),
        };
        rest.extend_from_slice(&piece);
        while let Some(end) = memchr::memchr(b'\n', &rest) {
            let row: Vec<u8> = rest.drain(..=end).collect();
            match show(&row, args.json)? {
                Shown::Line => shown += 1,
                Shown::Other => {}
                Shown::Nobody => return Ok(()),
            }
        }
        if rest.len() > MOST_ROW {
            return Err("it answers, but not as systole does".into());
        }
    }
}

/// Shows a row of the answer.
fn show(row: &[u8], is_json: bool) -> Result<Shown, String> {
    let row = row.trim_ascii();
    if row.is_empty() {
        return Ok(Shown::Other);
    }
    let value: Value = serde_json::from_slice(row).map_err(|_| "it answers, but not as systole does".to_string())?;
    let skipped = value["skipped"].as_u64();
    let text = match skipped {
        _ if is_json => Escaped(&String::from_utf8_lossy(row)).to_string(),
        Some(count) => {
            // What is read by a program is the lines alone; if standard error is closed, nobody reads it.
            let _ = writeln!(io::stderr(), "… {count} lines were not shown");
            return Ok(Shown::Other);
        }
        None => line(&value),
    };
    let mut out = anstream::stdout().lock();
    match out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush()) {
        Ok(()) if skipped.is_some() => Ok(Shown::Other),
        Ok(()) => Ok(Shown::Line),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Shown::Nobody),
        Err(error) => Err(format!("cannot write: {error}")),
    }
}

/// A line with its time, its sender, its verdict, and what is wrong with it.
fn line(value: &Value) -> String {
    let text = |key: &str| Escaped(value[key].as_str().unwrap_or("-")).to_string();
    let time = rfc3339(value["time"].as_f64().unwrap_or(0.0));
    let time = time.get(11..23).unwrap_or(&time).to_string();
    let (what, why) = match value["reason"].as_str() {
        None => (text("kind"), String::new()),
        Some(reason) => {
            let message = value["message"].as_str().unwrap_or("");
            let why = format!("  <- byte {}: {message}", value["at"].as_u64().unwrap_or(0));
            (Escaped(reason).to_string(), Escaped(&why).to_string())
        }
    };
    let coloured = |text: String| if value["reason"].is_null() { text } else { painted(BAD, text) };
    let (verdict, why) = (coloured(format!("{:9}", text("verdict"))), coloured(why));
    format!("{time}  {:15}  {verdict}  {what:13}  {}{why}", text("from"), text("line"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_with_its_verdict_and_nothing_of_it_acts() {
        let good = serde_json::json!({"time": 1_700_000_000.25, "from": "10.4.9.3", "line": "a:1|c", "verdict": "ok", "kind": "counter"});
        assert_eq!(line(&good), "22:13:20.250  10.4.9.3         ok         counter        a:1|c");
        let bad = serde_json::json!({
            "time": 0.0, "from": null, "line": "a\u{1b}[2J:x|c", "verdict": "malformed", "reason": "bad_value", "at": 2,
            "message": "not a number", "kind": null,
        });
        let expected =
            "00:00:00.000  -                malformed  bad_value      a\\u{1b}[2J:x|c  <- byte 2: not a number";
        assert_eq!(anstream::adapter::strip_str(&line(&bad)).to_string(), expected);
        assert!(line(&bad).contains(&painted(BAD, "malformed")) && !line(&good).contains('\u{1b}'));
    }

    #[test]
    fn what_is_asked_for_is_in_the_query() {
        use clap::Parser;
        #[derive(Parser)]
        struct Whole {
            #[command(flatten)]
            tail: TailArgs,
        }
        let asked = |args: &[&str]| path(&Whole::parse_from([&["x"], args].concat()).tail);
        assert_eq!(asked(&[]), "/api/v1/tail");
        let all = ["a*b&c", "--invalid", "--from", "10.0.0.0/8", "--limit", "3"];
        assert_eq!(asked(&all), "/api/v1/tail?match=a%2Ab%26c&invalid=1&from=10.0.0.0%2F8&limit=3");
    }
}
