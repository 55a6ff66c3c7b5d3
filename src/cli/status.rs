//! `systole status`: the ledger and the health of the parts on one screen, with an exit code for scripts.

use std::fmt::Write as _;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::untrusted::Escaped;

use super::account::{self, Flow, SinkState};
use super::client::{ClientArgs, refusal};
use super::figures::{Grade, bytes, clock, delay, grouped, interval, is_utf8, percent, up_for};
use super::{asking, colours, print, print_error};

/// Nothing is wrong.
const FINE: u8 = 0;
/// Something is wrong, and the text says what.
const WRONG: u8 = 1;
/// The daemon does not answer, or not to us.
const UNKNOWN: u8 = 2;

const NOT_OURS: &str = "it answers, but not as systole does";

/// Rows of each list; of the rest the number is shown.
const MAX_ROWS: usize = 8;

#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 nothing is wrong; 1 data is lost, a warning, a part that does not work, a sink that takes nothing, alerts that are not delivered, \
                        or an equation of the ledger that does not hold; 2 the daemon does not answer, or wants a token. \
                        With `--ready` 0 it works; 1 it does not, or does not answer. \
                        A loss counts for a minute after its last interval; for the rest of the hour it is shown, and the code is 0. \
                        A service that is down is shown, but is not the daemon's fault: for it there is `systole presence check`."
)]
pub(super) struct StatusArgs {
    /// As JSON, as the daemon gives it
    #[arg(long)]
    json: bool,
    /// Ask no more than whether it works, which takes no token: the health check of a container
    #[arg(long, conflicts_with = "json")]
    ready: bool,
    #[command(flatten)]
    daemon: ClientArgs,
}

pub(super) fn run(args: &StatusArgs) -> u8 {
    if args.ready {
        return asking(ready(&args.daemon));
    }
    let (status, presence, examples) = match super::runtime().and_then(|runtime| runtime.block_on(ask(args))) {
        Ok(answers) => answers,
        Err(problem) => {
            print_error(problem);
            return UNKNOWN;
        }
    };
    let text = if args.json { pretty(&status) } else { report(&status, presence.as_ref(), &examples, is_utf8()) };
    let is_written = colours::print(&coloured(&text));
    if is_wrong(&status) || !is_written { WRONG } else { FINE }
}

/// The screen with its signs in colours.
fn coloured(text: &str) -> String {
    let styles = [(Grade::Fine, colours::FINE), (Grade::Warning, colours::WARNING), (Grade::Bad, colours::BAD)];
    styles.into_iter().fold(text.to_string(), |text, (grade, style)| {
        let sign = grade.sign(is_utf8());
        text.replace(sign, &colours::painted(style, sign))
    })
}

/// Prints what `/ready` says; whether it says that the daemon works.
async fn ready(daemon: &ClientArgs) -> Result<bool, String> {
    let answer = daemon.client()?.request(Method::GET, "/ready", None).await?;
    let text = String::from_utf8_lossy(&answer.body);
    if answer.status == 200 && text.starts_with("ready") {
        return Ok(print(Escaped(text.trim_end()).to_string().as_bytes()) && print(b"\n"));
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status == 200 { Err(NOT_OURS.into()) } else { Err(refusal(answer.status, &body)) }
}

/// The status, the services if the daemon has presence, and a line of each reason for which lines were malformed lately.
async fn ask(args: &StatusArgs) -> Result<(Value, Option<Value>, Value), String> {
    let daemon = args.daemon.client()?;
    let (code, status) = daemon.ask(Method::GET, "/api/v1/status", None).await?;
    if code != 200 {
        return Err(daemon.refused(code, &status));
    }
    if !status["lines"].is_object() {
        return Err(NOT_OURS.into());
    }
    let presence = if args.json { None } else { daemon.good(Method::GET, "/api/v1/presence", None).await.ok() };
    let is_malformed = status["lines"]["malformed"].as_object().is_some_and(|reasons| !reasons.is_empty());
    let senders = match is_malformed && !args.json {
        true => daemon.good(Method::GET, "/api/v1/senders?limit=1", None).await.unwrap_or_default(),
        false => Value::Null,
    };
    Ok((status, presence, senders["examples"].clone()))
}

fn pretty(value: &Value) -> String {
    // Its strings come from the wire: JSON escapes controls, this the marks that reorder text.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.lines().map(|line| format!("{}\n", Escaped(line))).collect()
}

/// Whether the verdict has something of the daemon itself that is an error. What it says of the services it watches is theirs.
fn has_error(status: &Value) -> bool {
    let given = &status["verdict"];
    if !given.is_object() {
        return account::verdict(status).grade == Grade::Bad;
    }
    let pills = given["pills"].as_array().into_iter().flatten();
    std::iter::once(given).chain(pills).any(|found| found["level"] == "error" && found["about"] != "presence")
}

/// Whether a script should be told.
fn is_wrong(status: &Value) -> bool {
    let is_off = account::lines(status).off() != 0 || account::samples(status).off() != 0;
    let fails = account::sinks(status).iter().any(|sink| sink.flow == Flow::Failing);
    has_error(status)
        || !account::warnings(status).is_empty()
        || !account::broken_parts(status).is_empty()
        || is_off
        || fails
        || status["ready"] == false
}

/// The screen.
fn report(status: &Value, presence: Option<&Value>, examples: &Value, utf8: bool) -> String {
    let mut out = String::new();
    let verdict = account::verdict(status);
    let sign = verdict.grade.sign(utf8);
    let _ = writeln!(out, "{sign} {}  {}", verdict.sentence.trim_end_matches('.'), verdict.detail);
    if let Some(action) = &verdict.action {
        let _ = writeln!(out, "  What to do: {action}");
    }
    for (grade, pill) in &verdict.pills {
        let _ = writeln!(out, "{} {pill}", grade.sign(utf8));
    }
    // The verdict has them all, each once.
    let warnings = if status["verdict"].is_object() { Vec::new() } else { account::warnings(status) };
    for warning in warnings {
        let _ = writeln!(out, "{} {warning}", Grade::Warning.sign(utf8));
    }
    out.push('\n');
    let said = |key: &str| Escaped(status[key].as_str().unwrap_or("")).to_string();
    let node = if said("node").is_empty() { String::new() } else { format!(" on {}", said("node")) };
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let mut put = |name: &str, text: &str| {
        let _ = writeln!(out, "{name:<10} {text}");
    };
    put(
        "Daemon",
        &format!(
            "systole {}{node}, up {}, {} intervals, profile {}",
            said("version"),
            up_for(number(&status["uptime_secs"])),
            interval(number(&status["interval"])),
            said("profile")
        ),
    );
    rows("Listeners", status["listeners"].as_array().into_iter().flatten().map(listener), &mut put);
    let lines = account::lines(status);
    put("Lines", &format!("{}  {}", lines.sentence(), lines.verdict(utf8)));
    let malformed = status["lines"]["malformed"].as_object().into_iter().flatten();
    let mut reasons: Vec<(u64, String)> =
        malformed.map(|(reason, n)| (account::count(n), format!("{} {reason}", grouped(account::count(n))))).collect();
    reasons.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    if !reasons.is_empty() {
        let reasons: Vec<_> = reasons.into_iter().take(MAX_ROWS).map(|(_, text)| text).collect();
        put("Malformed", &reasons.join(", "));
    }
    let examples = examples.as_array().into_iter().flatten();
    rows("Examples", examples.map(example), &mut put);
    let samples = account::samples(status);
    put("Samples", &format!("{}  {}", samples.sentence(), samples.verdict(utf8)));
    let is_open = status["verdict"]["about"] == "first";
    put("Series", if is_open { "the first interval is open".into() } else { series(&status["series"]) }.as_str());
    rows("Sinks", account::sinks(status).iter().map(|one| sink(one, utf8)), &mut put);
    let relays = status["relays"].as_object().into_iter().flatten();
    rows("Relays", relays.map(|(name, relay)| relay_row(name, relay)), &mut put);
    if let Some(services) = presence.and_then(Value::as_array) {
        put("Presence", &presence_row(services));
    }
    let targets = status["notify"].as_object().into_iter().flatten();
    rows("Alerts", targets.map(|(name, target)| target_row(name, target, utf8)), &mut put);
    rows("Observers", observers(status).into_iter(), &mut put);
    rows("Watches", idle_watches(status), &mut put);
    let hints = status["hints"].as_array().into_iter().flatten().filter_map(Value::as_str);
    rows("Hints", hints.map(|hint| Escaped(hint).to_string()), &mut put);
    let memory = &status["memory"];
    let share = number(&memory["live"]) / number(&memory["max"]).max(1.0);
    put(
        "Memory",
        &format!(
            "{} of {} live, {}, level {} of 4",
            bytes(number(&memory["live"])),
            bytes(number(&memory["max"])),
            percent(share),
            account::count(&memory["level"])
        ),
    );
    let flush = &status["flush"];
    put("Flush", &format!("{}, {} late", delay(number(&flush["duration_secs"])), delay(number(&flush["late_secs"]))));
    let broken = account::broken_parts(status);
    let parts = status["parts"].as_object().map_or(0, serde_json::Map::len);
    match broken.is_empty() {
        true => put("Parts", &format!("all {parts} work")),
        false => {
            put("Parts", &format!("{} of {parts} do not work", broken.len()));
            let sign = Grade::Bad.sign(utf8);
            rows("", broken.into_iter().map(|(name, state, why)| format!("{sign} {name} is {state}: {why}")), &mut put);
        }
    }
    out
}

/// Most characters of a line that is an example.
const MOST_OF_LINE: usize = 120;

/// A malformed line.
fn example(example: &Value) -> String {
    let said = |key: &str| example[key].as_str().unwrap_or("");
    let from = if said("sender").is_empty() { String::new() } else { format!("  from {}", said("sender")) };
    let line: String = said("line").chars().take(MOST_OF_LINE).collect();
    Escaped(&format!("{}: {line}{from}", said("reason"))).to_string()
}

/// A list under one name.
fn rows(name: &str, all: impl Iterator<Item = String>, put: &mut dyn FnMut(&str, &str)) {
    let mut left = 0;
    for (at, text) in all.enumerate() {
        match at {
            0 => put(name, &text),
            at if at < MAX_ROWS => put("", &text),
            _ => left += 1,
        }
    }
    if left > 0 {
        put("", &format!("and {left} more"));
    }
}

fn listener(listener: &Value) -> String {
    let url = Escaped(listener["url"].as_str().unwrap_or("")).to_string();
    let n = |key: &str| account::count(&listener[key]);
    let is_stream = n("receive_buffer") == 0 && n("kernel_drops") == 0;
    let taken_over = match n("connections_taken_over") {
        0 => String::new(),
        n => format!(" and {} taken over", grouped(n)),
    };
    let mut text = match is_stream {
        true => {
            format!("{url}  {} connections{taken_over}, {} read", grouped(n("connections")), bytes(n("bytes") as f64))
        }
        false => {
            let peak = percent(listener["queue_peak"].as_f64().unwrap_or(0.0));
            let (datagrams, drops) = (grouped(n("datagrams")), grouped(n("kernel_drops")));
            format!("{url}  {datagrams} datagrams, {drops} dropped by the kernel, buffer at most {peak} full")
        }
    };
    for (key, what) in [("refused", "refused"), ("truncated", "too large"), ("unread", "unread")] {
        if n(key) > 0 {
            let _ = write!(text, ", {} {what}", grouped(n(key)));
        }
    }
    text
}

fn series(series: &Value) -> String {
    let kinds: Vec<(&str, u64)> = ["counters", "gauges", "timers", "sets", "kvs"]
        .into_iter()
        .map(|kind| (kind, account::count(&series[kind])))
        .filter(|(_, n)| *n > 0)
        .collect();
    let total: u64 = kinds.iter().map(|(_, n)| n).sum();
    let kinds: Vec<String> =
        kinds.into_iter().map(|(kind, n)| format!("{} {}", grouped(n), account::one_of(kind, n))).collect();
    if kinds.is_empty() { "none".into() } else { format!("{}: {}", grouped(total), kinds.join(", ")) }
}

fn sink(sink: &SinkState, utf8: bool) -> String {
    let reasons: Vec<String> = sink.dropped_by.iter().map(|(why, n)| format!("{} {why}", grouped(*n))).collect();
    let dropped = match sink.dropped {
        0 => String::new(),
        n => format!(", {} dropped ({})", grouped(n), reasons.join(", ")),
    };
    format!(
        "{} {}  {}; {} of {} records delivered{dropped}",
        sink.flow.sign(utf8),
        sink.name,
        sink.text,
        grouped(sink.delivered),
        grouped(sink.offered)
    )
}

fn relay_row(name: &str, relay: &Value) -> String {
    let n = |key: &str| grouped(account::count(&relay[key]));
    let targets = relay["targets"].as_object().into_iter().flatten();
    let down: Vec<String> =
        targets.filter(|(_, target)| target["up"] == 0).map(|(name, _)| Escaped(name).to_string()).collect();
    let down = if down.is_empty() { String::new() } else { format!(", down: {}", down.join(", ")) };
    let name = Escaped(name);
    format!("{name}  {} of {} datagrams passed on, {} dropped{down}", n("delivered"), n("offered"), n("dropped"))
}

/// A target of notifications.
fn target_row(name: &str, target: &Value, utf8: bool) -> String {
    let n = |key: &str| account::count(&target[key]);
    let since = target["failing_since"].as_f64().filter(|since| *since > 0.0 && !target["last_error"].is_null());
    let state = match since {
        Some(since) => {
            let why = Escaped(target["last_error"].as_str().unwrap_or("")).to_string();
            format!("fails since {} UTC: {why}", clock(since))
        }
        None if n("offered") == 0 => "nothing to tell yet".into(),
        None => "delivering".into(),
    };
    let sign = if since.is_some() { Grade::Bad } else { Grade::Fine }.sign(utf8);
    let mut text = format!("{sign} {}  {state}", Escaped(name));
    if n("offered") > 0 {
        let _ = write!(text, "; {} of {} delivered", grouped(n("delivered")), grouped(n("offered")));
    }
    // What a newer one, another observer or the next start tells is not lost.
    let told_otherwise =
        account::count(&target["dropped"]["superseded"]) + account::count(&target["dropped"]["shutdown"]);
    for (n, what) in [(n("queued"), "waiting"), (n("dropped").saturating_sub(told_otherwise), "lost")] {
        if n > 0 {
            let _ = write!(text, ", {} {what}", grouped(n));
        }
    }
    text
}

/// Watches that have taken no line since the start: they watch over nobody.
pub(super) fn idle_watches(status: &Value) -> impl Iterator<Item = String> {
    let idle = status["idle_watches"].as_array().into_iter().flatten().filter_map(Value::as_str);
    idle.map(|pattern| format!("{} has taken no line since the start", Escaped(pattern)))
}

/// Most observers that are named though all is well.
const MOST_NAMED: usize = 3;

/// The other observers of the same fleet, and who notifies.
pub(super) fn observers(status: &Value) -> Vec<String> {
    let all = &status["observers"];
    let said = |value: &Value| Escaped(value.as_str().unwrap_or("")).to_string();
    let mut out: Vec<String> = Vec::new();
    if all["listens_only"] == true {
        out.push("this node only receives: who is there is judged by the nodes of the cluster that merge".into());
    }
    let peers = all["peers"].as_array().map_or(&[][..], Vec::as_slice);
    let are_many = peers.len() > MOST_NAMED;
    if are_many {
        let answering = peers.iter().filter(|peer| peer["reachable"] == true).count();
        out.push(format!("{answering} of {} nodes answer", peers.len()));
    }
    for peer in peers.iter().filter(|peer| !(are_many && peer["reachable"] == true)) {
        let name = if peer["node"].is_null() { said(&peer["url"]) } else { said(&peer["node"]) };
        let age = peer["digest_age_s"].as_f64().unwrap_or(0.0);
        out.push(match (peer["same_name"] == true, peer["reachable"] == true) {
            (true, _) => format!("{} has the name of another observer: set `presence.node`", said(&peer["url"])),
            (false, true) => format!("{name} answers, {} ago", delay(age)),
            (false, false) if peer["problem"].is_string() => {
                format!("{name} does not answer, for {}: {}", delay(age), said(&peer["problem"]))
            }
            (false, false) => format!("{name} does not answer, for {}", delay(age)),
        });
    }
    if let Some(first) = out.first_mut()
        && all["speaker"].is_string()
    {
        let others = all["targets"].as_object().into_iter().flatten();
        let others: String = others.map(|(target, by)| format!(", {} {}", said(by), Escaped(target))).collect();
        let also = all["also"].as_array().into_iter().flatten();
        let also: String = also.map(|by| format!(", {} as well, for not all reach each other", said(by))).collect();
        *first = format!("{} notifies{others}{also}; {first}", said(&all["speaker"]));
    }
    let unwatched = account::count(&all["unwatched"]);
    if unwatched > 0 {
        let names: Vec<String> = all["unwatched_names"].as_array().into_iter().flatten().map(said).collect();
        let more = unwatched.saturating_sub(names.len() as u64);
        let more = if more > 0 { format!(" and {} more", grouped(more)) } else { String::new() };
        let (what, are) = if unwatched == 1 { ("instance", "is") } else { ("instances", "are") };
        out.push(format!("{} {what} {are} heard by nobody: {}{more}", grouped(unwatched), names.join(", ")));
    }
    out
}

/// How many services are in each state, and which are not up.
fn presence_row(services: &[Value]) -> String {
    if services.is_empty() {
        return "nobody was heard yet".into();
    }
    let is_up = |service: &&Value| service["state"] == "up";
    let up = services.iter().filter(is_up).count();
    let odd = services.iter().filter(|service| !is_up(service)).map(|service| {
        let (name, state) = (service["service"].as_str().unwrap_or(""), service["state"].as_str().unwrap_or(""));
        format!("{} {state}", Escaped(name))
    });
    let mut odd: Vec<String> = odd.collect();
    let more = odd.len().saturating_sub(MAX_ROWS);
    odd.truncate(MAX_ROWS);
    let odd = if odd.is_empty() { String::new() } else { format!("; {}", odd.join(", ")) };
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let instances = services.iter().flat_map(|service| service["instances"].as_array().into_iter().flatten());
    let unconfirmed = match instances.filter(|instance| instance["state"] == "unknown").count() {
        0 => String::new(),
        n => format!(", {} not confirmed yet", grouped(n as u64)),
    };
    format!("{up} of {} services up{unconfirmed}{odd}{more}", services.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fine() -> Value {
        json!({
            "version": "0.2.0", "node": "edge-2", "uptime_secs": 533_460.0, "profile": "systole", "interval": 10.0, "ready": true,
            "as_of": 1000.0, "warnings": [],
            "verdict": {"level": "ok", "sentence": "All data accounted for", "detail": "184,232 lines/s, nothing lost in the last hour.",
                "action": null, "pills": [{"level": "warning", "text": "checkout degraded, 1 of 3 present"}]},
            "listeners": [{"url": "udp://127.0.0.1:8125", "receive_buffer": 33_554_432, "datagrams": 1_842_317, "kernel_drops": 0,
                "queue_peak": 0.12, "refused": 3}],
            "lines": {"read": 1045, "metrics": 1000, "heartbeats": 40, "malformed": {"bad_value": 3, "no_name": 2}},
            "samples": {"read": 1000, "recorded": 1000}, "series": {"counters": 40, "timers": 2},
            "sinks": {"graphite": {"offered": 9000, "delivered": 9000, "last_success": 1000.0, "last_error": null}},
            "memory": {"live": 201_326_592, "max": 268_435_456, "level": 0}, "flush": {"duration_secs": 0.041, "late_secs": 0.0004},
            "parts": {"flush": {"state": "running", "up": true}},
        })
    }

    #[test]
    fn one_screen_has_the_verdict_the_ledger_and_the_parts() {
        let services = json!([{"service": "search", "state": "up", "instances": [{"state": "unknown"}, {"state": "up"}]}, {"service": "check\u{202e}out", "state": "degraded"}]);
        let examples = json!([{"reason": "bad_value", "line": "a:\u{1}x|c", "sender": "127.0.0.1"}]);
        let screen = report(&fine(), Some(&services), &examples, true);
        assert_eq!(
            screen,
            "✓ All data accounted for  184,232 lines/s, nothing lost in the last hour.\n\
             ▲ checkout degraded, 1 of 3 present\n\n\
             Daemon     systole 0.2.0 on edge-2, up 6 d 04:11, 10 s intervals, profile systole\n\
             Listeners  udp://127.0.0.1:8125  1,842,317 datagrams, 0 dropped by the kernel, buffer at most 12 % full, 3 refused\n\
             Lines      1,045 read = 1,000 metrics + 40 beats + 5 malformed  ✓\n\
             Malformed  3 bad_value, 2 no_name\n\
             Examples   bad_value: a:\\u{1}x|c  from 127.0.0.1\n\
             Samples    1,000 read = 1,000 recorded  ✓\n\
             Series     42: 40 counters, 2 timers\n\
             Sinks      ✓ graphite  delivering; 9,000 of 9,000 records delivered\n\
             Presence   1 of 2 services up, 1 not confirmed yet; check\\u{202e}out degraded\n\
             Memory     192 MiB of 256 MiB live, 75 %, level 0 of 4\n\
             Flush      41 ms, 0.4 ms late\n\
             Parts      all 1 work\n"
        );
        assert!(report(&fine(), None, &Value::Null, false).is_ascii());
        assert!(!is_wrong(&fine()));
        for (about, is_ours) in [("presence", false), ("loss", true)] {
            let mut status = fine();
            status["verdict"]["level"] = json!("error");
            status["verdict"]["about"] = json!(about);
            assert_eq!(is_wrong(&status), is_ours, "a service that is down is not the daemon's fault");
            status["verdict"] =
                json!({"level": "error", "about": "presence", "pills": [{"level": "error", "about": about}]});
            assert_eq!(is_wrong(&status), is_ours);
        }
    }

    #[test]
    fn whatever_is_wrong_makes_the_exit_code_1() {
        for (pointer, value) in [
            ("/warnings", json!(["udp://…: the receive buffer was 80 % full"])),
            ("/parts/flush", json!({"state": "restarting", "up": false, "last_failure": "a panic"})),
            ("/verdict/level", json!("error")),
            ("/lines/read", json!(1046)),
            ("/samples/recorded", json!(999)),
            ("/ready", json!(false)),
            ("/sinks/graphite", json!({"last_success": 0.0, "last_error": "connection refused"})),
        ] {
            let mut status = fine();
            *status.pointer_mut(pointer).expect("a field") = value;
            assert!(is_wrong(&status), "{pointer}");
            let screen = report(&status, None, &Value::Null, true);
            assert!(screen.contains('✕') || screen.contains('▲') || pointer == "/ready", "{screen}");
        }
    }
}
