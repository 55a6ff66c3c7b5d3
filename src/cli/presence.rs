//! `systole presence`: queries a running daemon for presence, and sends it an operator's changes.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::config::parse_duration;
use crate::presence::describe::{how_many, length};
use crate::presence::{UnixTime, rfc3339};
use crate::sys::unix_time;
use crate::untrusted::{Escaped, in_url};

use super::client::{ClientArgs, DaemonClient, refusal};
use super::progress::Progress;
use super::{FAILED, colours, duration, print_error, status, test_alert};

/// Exit codes of monitoring plug-ins: OK, warning, critical, unknown.
const FINE: u8 = 0;
const WARNING: u8 = 1;
const CRITICAL: u8 = 2;
/// Also for bad usage of `check` and `wait`.
pub(super) const UNKNOWN: u8 = 3;

/// Time between two requests of `wait` and `events -f`.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Args)]
#[command(
    after_help = "SERVICE/INSTANCE names one instance. `check` and `wait` exit as monitoring plug-ins do: 0 up; 1 degraded, \
                  late, flapping, absent in maintenance, with too few lines of a watched metric, or with an instance whose service check is critical; 2 down, or all of \
                  them critical; who is up in its maintenance is 0, and the text says so; 3 unknown, left, never seen, heard only by an observer that \
                  is lost, not heard since the daemon started again, the daemon cannot be reached or there is a mass silence: never 0 when we do not know. For a service with jobs `check` exits 2 if one failed or did \
                  not run, 1 if one lasts too long, never ended or is in maintenance, 3 if one was not heard; with instances too, the \
                  worse of both. Wrong usage of the two is 3 too."
)]
pub(super) struct PresenceArgs {
    #[command(subcommand)]
    command: Ask,
    #[command(flatten)]
    daemon: ClientArgs,
}

/// Values of `list --state`: states of services and instances, and those that only jobs have.
const STATES: [&str; 15] = [
    "up",
    "late",
    "down",
    "left",
    "unknown",
    "degraded",
    "maintenance",
    "waiting",
    "running",
    "ok",
    "failed",
    "overrun",
    "lost",
    "missed",
    "unheard",
];

/// How many of these services and instances have.
const STATES_OF_SERVICES: usize = 7;

/// Values of `test-alert --severity`.
const SEVERITIES: [&str; 3] = ["critical", "warning", "info"];

#[derive(Subcommand)]
enum Ask {
    /// List all services with their instances, and all jobs
    List {
        /// Only instances (and services, and jobs that are as bad) in this state: up, late, down, left, unknown, degraded,
        /// maintenance; or only jobs: waiting, running, ok, failed, overrun, lost, missed, unheard
        #[arg(long, value_name = "STATE", hide_possible_values = true, value_parser = STATES)]
        state: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one service, with its jobs and their runs, or one instance
    Show {
        #[arg(value_name = "SERVICE[/INSTANCE]")]
        who: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the state of a service, or of one instance or job, and exit with a code for it
    Check {
        #[arg(value_name = "SERVICE[/INSTANCE]")]
        who: String,
        /// This many instances are enough, 1 or more
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        min: Option<u64>,
    },
    /// Wait until a number of instances of a service are heard; a job is none: `check` says how it is
    Wait {
        #[arg(value_name = "SERVICE")]
        service: String,
        /// This many, 1 or more
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        up: u64,
        /// Longest wait: 60 or 60s
        #[arg(long, value_name = "DUR", default_value = "60s", value_parser = patience)]
        timeout: Duration,
    },
    /// Show the last 1,000 events
    Events {
        /// Continue with new ones
        #[arg(short, long)]
        follow: bool,
        /// As JSON, one a line
        #[arg(long)]
        json: bool,
    },
    /// Start maintenance of a service or an instance; 0s ends it
    Maintenance {
        #[arg(value_name = "SERVICE[/INSTANCE]")]
        who: String,
        /// How long: 90s, 30m or 2h; at most 4h; prints what was granted
        #[arg(value_name = "DUR", value_parser = any_duration)]
        length: Duration,
        /// The reason, which `list`, `show` and the page say
        why: Option<String>,
    },
    /// Send a test alert and its end to the targets of notifications, and print what became of it at each
    ///
    /// The running daemon sends it, to all targets that take alerts of the severity, whatever services they are for. Needs
    /// the token. Exits with 0 if everything that was sent was delivered, else with 1.
    TestAlert {
        /// Only this target, by its `name`
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
        /// critical, warning or info
        #[arg(long, value_name = "SEVERITY", default_value = "critical", hide_possible_values = true,
              value_parser = SEVERITIES)]
        severity: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget an instance, or a service with all of its instances
    Forget {
        #[arg(value_name = "SERVICE[/INSTANCE]")]
        who: String,
    },
}

fn any_duration(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(0) => Ok(Duration::ZERO),
        // Minutes are as likely to be meant as seconds.
        Ok(n) => Err(format!("it has no unit: {n}s, {n}m or {n}h is right; 0 ends the maintenance")),
        Err(_) => parse_duration(text).ok_or_else(|| "90s, 30m or 2h is right; 0 ends the maintenance".into()),
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| duration(text))
}

pub(super) fn run(args: &PresenceArgs) -> u8 {
    let is_plugin = matches!(args.command, Ask::Check { .. } | Ask::Wait { .. });
    let outcome = super::runtime().and_then(|runtime| {
        let daemon = args.daemon.client()?;
        runtime.block_on(run_command(&args.command, daemon))
    });
    outcome.unwrap_or_else(|problem| {
        if is_plugin {
            // Monitoring shows what its plug-ins write to standard output.
            let _ = print(&format!("PRESENCE UNKNOWN - {problem}\n"));
            return UNKNOWN;
        }
        print_error(problem);
        FAILED
    })
}

async fn run_command(command: &Ask, daemon: DaemonClient) -> Result<u8, String> {
    match command {
        Ask::List { state, json } => {
            let query = state.as_ref().map_or(String::new(), |state| format!("?state={}", in_url(state)));
            let is_of_jobs = state.as_ref().is_some_and(|state| STATES[STATES_OF_SERVICES..].contains(&&**state));
            let services = if is_of_jobs {
                json!([])
            } else {
                daemon.good(Method::GET, &format!("/api/v1/presence{query}"), None).await?
            };
            if *json && !is_of_jobs {
                return print(&pretty(&services));
            }
            let mut jobs = jobs(&daemon).await?;
            if let (Some(state), Some(all)) = (state, jobs.as_array_mut()) {
                all.retain(|job| is_job_in(job, state));
            }
            if *json {
                return print(&pretty(&jobs));
            }
            let status = daemon.good(Method::GET, "/api/v1/status", None).await?;
            let observers = status::observers(&status).into_iter().map(|line| format!("observers: {line}\n"));
            let idle = status::idle_watches(&status).map(|line| format!("watches: {line}\n"));
            let services = if is_of_jobs { String::new() } else { table(&services) };
            let tables = coloured(&(services + &job_table(&jobs)));
            print(&(tables + &observers.chain(idle).collect::<String>()))
        }
        Ask::Show { who, json } => {
            let found = match split(who) {
                (service, Some(CHECK)) => {
                    let service = daemon.good(Method::GET, &path(service), None).await?;
                    called_check(&service).cloned().ok_or(NOBODY)?
                }
                _ => daemon.good(Method::GET, &path(who), None).await?,
            };
            print(&if *json { pretty(&found) } else { details(&found) })
        }
        Ask::Check { who, min } => {
            let (code, text) = match who.split_once('/') {
                Some(_) if min.is_some() => return Err("--min is for a service".into()),
                Some((service, _)) => check_one(&daemon, who, service).await?,
                None => check(&daemon, who, *min).await?,
            };
            print(&text)?;
            Ok(code)
        }
        Ask::Wait { service, up, timeout } => {
            let _waiting = Progress::of_time("waiting", Some(*timeout));
            wait(&daemon, service, *up, *timeout).await
        }
        Ask::Events { follow, json } => events(&daemon, *follow, *json).await,
        Ask::Maintenance { who, length, why } => {
            let (service, instance) = split(who);
            let by = std::env::var("USER").unwrap_or_default();
            let wanted = json!({"service": service, "instance": instance, "seconds": length.as_secs_f64(), "by": by, "why": why});
            let granted = daemon.good(Method::POST, "/api/v1/presence/maintenance", Some(wanted)).await?;
            print(&announced(who, *length, &granted))
        }
        Ask::TestAlert { target, severity, json } => {
            let (is_good, text) = test_alert::run(&daemon, target.as_deref(), severity, *json).await?;
            print(&text).map(|_| if is_good { FINE } else { FAILED })
        }
        Ask::Forget { who } => {
            let answer = daemon.good(Method::DELETE, &path(who), None).await?;
            let again = if answer["awaited"] == true {
                "; the job is configured, so its next run is awaited all the same"
            } else {
                ""
            };
            print(&format!("{}: forgotten{again}\n", Escaped(who)))
        }
    }
}

/// The maintenance that was granted.
fn announced(who: &str, wanted: Duration, granted: &Value) -> String {
    let seconds = granted["seconds"].as_f64().unwrap_or(0.0);
    if seconds == 0.0 {
        return format!("{}: the maintenance is over\n", Escaped(who));
    }
    let most =
        if seconds < wanted.as_secs_f64() { format!(" ({} is the most)", length(seconds)) } else { String::new() };
    format!("{}: in maintenance until {}{most}\n", Escaped(who), time_of(text(granted, "until")))
}

/// A time, such as 2026-11-26T07:50:00.000Z, to the minute; its day only if that is another one.
fn time_of(time: &str) -> String {
    let (day, clock) = time.split_once('T').unwrap_or(("", time));
    let clock = Escaped(clock.get(..5).unwrap_or(clock)).to_string();
    let is_today = rfc3339(unix_time()).starts_with(day);
    if is_today { format!("{clock} UTC") } else { format!("{} {clock} UTC", Escaped(day)) }
}

/// Until when something is in maintenance, who announced that, and why; `None` if it is in none.
fn maintained(of: &Value) -> Option<String> {
    let until = time_of(of["maintenance_until"].as_str()?);
    let said =
        |key: &str, before: &str| of[key].as_str().map_or(String::new(), |text| format!("{before}{}", Escaped(text)));
    let (by, why) = (said("maintenance_by", ", by "), said("maintenance_why", ": "));
    Some(format!("maintenance until {until}{by}{why}"))
}

fn split(who: &str) -> (&str, Option<&str>) {
    who.split_once('/').map_or((who, None), |(service, instance)| (service, Some(instance)))
}

/// An instance of this name has no path that can be asked: it is that of the check of its service.
const CHECK: &str = "check";

/// What is said of one that is not there.
const NOBODY: &str = "no instance or job of that name was ever heard, or it is forgotten";

/// The instance or the job of that name in the view of its service.
fn called_check(service: &Value) -> Option<&Value> {
    let all = ["instances", "jobs"].into_iter().filter_map(|key| service[key].as_array()).flatten();
    all.into_iter().find(|one| text(one, "instance") == CHECK)
}

fn path(who: &str) -> String {
    match split(who) {
        (service, None) => format!("/api/v1/presence/{}", in_url(service)),
        (service, Some(instance)) => format!("/api/v1/presence/{}/{}", in_url(service), in_url(instance)),
    }
}

/// Writes text; a reader that has gone is not an error.
fn print(text: &str) -> Result<u8, String> {
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        Ok(()) | Err(_) => Ok(FINE),
    }
}

fn pretty(value: &Value) -> String {
    // Its strings come from the wire: JSON escapes controls, this the marks that reorder text.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.lines().map(|line| format!("{}\n", Escaped(line))).collect()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or("")
}

fn seconds(value: &Value, key: &str) -> String {
    value[key].as_f64().map_or("-".into(), length)
}

/// Whether an instance is present and its service check is critical.
fn is_failing(instance: &Value) -> bool {
    matches!(text(instance, "state"), "up" | "late" | "unknown") && instance["health"] == 2
}

/// The status and the message of an instance's last service check.
fn health(instance: &Value) -> Option<String> {
    let word = match instance["health"].as_u64()? {
        0 => "ok",
        1 => "warning",
        2 => "critical",
        _ => "unknown",
    };
    let message = instance["message"].as_str().map_or(String::new(), |message| format!(": {}", Escaped(message)));
    Some(format!("{word}{message}"))
}

fn rows(service: &Value) -> impl Iterator<Item = [String; 7]> {
    service["instances"].as_array().into_iter().flatten().map(move |instance| {
        let lines = (instance["lines_per_minute"].as_u64(), instance["floor"].as_u64());
        let says = |flag: &str| match (flag, lines) {
            ("low", (Some(lines), Some(floor))) => format!("low ({lines} of {floor} lines/min)"),
            ("maintenance", _) => maintained(instance).unwrap_or_else(|| flag.to_string()),
            (flag, _) => flag.to_string(),
        };
        let flags: Vec<String> = flags(instance).chain(is_failing(instance).then_some("critical")).map(says).collect();
        [
            format!("{}/{}", Escaped(text(service, "service")), Escaped(text(instance, "instance"))),
            Escaped(text(instance, "state")).to_string(),
            seconds(instance, "silence_s"),
            seconds(instance, "timeout_s"),
            seconds(instance, "interval_s"),
            Escaped(text(instance, "version")).to_string(),
            Escaped(&flags.join(" ")).to_string(),
        ]
    })
}

fn table(services: &Value) -> String {
    let mut lines = vec![["WHO", "STATE", "SILENT", "TIMEOUT", "INTERVAL", "VERSION", "FLAGS"].map(String::from)];
    for service in services.as_array().into_iter().flatten() {
        let number = |key: &str| service[key].as_u64().unwrap_or(0);
        let total = (number("present") + number("down")).max(number("min"));
        let instances = || service["instances"].as_array().into_iter().flatten();
        let unconfirmed = match instances().filter(|instance| text(instance, "state") == "unknown").count() {
            0 => None,
            n => Some(format!("{n} not confirmed yet")),
        };
        let flags: Vec<String> = maintained(service).into_iter().chain(unconfirmed).collect();
        lines.push([
            Escaped(text(service, "service")).to_string(),
            Escaped(text(service, "state")).to_string(),
            format!("{} of {total}", number("present")),
            String::new(),
            String::new(),
            String::new(),
            flags.join("; "),
        ]);
        lines.extend(rows(service));
    }
    columns(&lines)
}

/// Tables of who is there with their states, which stand behind the names, in colours.
fn coloured(tables: &str) -> String {
    let paint = |line: &str| {
        let mut cells = line.split_whitespace();
        let (who, state) = (cells.next().unwrap_or(""), cells.next().unwrap_or(""));
        let style = match state {
            "up" | "ok" => colours::FINE,
            "late" | "degraded" | "flapping" | "overrun" | "unheard" => colours::WARNING,
            "down" | "failed" | "lost" | "missed" => colours::BAD,
            _ => return format!("{line}\n"),
        };
        let rest = &line[who.len()..];
        format!("{who}{}\n", rest.replacen(state, &colours::painted(style, state), 1))
    };
    tables.lines().map(paint).collect()
}

/// Cells under each other.
fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |n: usize| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// All jobs, in as many requests as it takes; none of a daemon that does not know jobs.
async fn jobs(daemon: &DaemonClient) -> Result<Value, String> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let after = all.last().map_or(String::new(), |job| {
            let pair = format!("{}/{}", in_url(text(job, "service")), in_url(text(job, "instance")));
            format!("?after={}", in_url(&pair))
        });
        let more = match daemon.ask(Method::GET, &format!("/api/v1/jobs{after}"), None).await? {
            (200..300, Value::Array(more)) => more,
            (404, _) => Vec::new(),
            (status, answer) => return Err(refusal(status, &answer)),
        };
        // A page that does not go on behind the last one says nothing new.
        let goes_on = |last: &Value, first: &Value| name_of(first) > name_of(last);
        match (all.last(), more.first()) {
            (_, None) => return Ok(Value::Array(all)),
            (Some(last), Some(first)) if !goes_on(last, first) => return Ok(Value::Array(all)),
            _ => all.extend(more),
        }
    }
}

/// What jobs are in order by.
fn name_of(job: &Value) -> (&str, &str) {
    (text(job, "service"), text(job, "instance"))
}

/// The name of a job; one that whoever runs it is has that of its service.
fn job_name(job: &Value) -> String {
    match text(job, "instance") {
        "-" => Escaped(text(job, "service")).to_string(),
        instance => format!("{}/{}", Escaped(text(job, "service")), Escaped(instance)),
    }
}

/// Whether a job is in a state, or as bad as a service in one.
fn is_job_in(job: &Value, state: &str) -> bool {
    let is_unheard = matches!(text(job, "state"), "waiting" | "unheard");
    match (state, job["level"].as_u64()) {
        ("maintenance", _) => job["maintenance"] == true,
        ("down", level) => level >= Some(2),
        ("degraded", level) => level == Some(1),
        ("unknown", level) => level == Some(0) && is_unheard,
        ("up", level) => level == Some(0) && !is_unheard,
        _ => text(job, "state") == state,
    }
}

/// The exit code for a job.
fn code_of_job(job: &Value) -> u8 {
    match job["level"].as_u64() {
        Some(2..) => CRITICAL,
        Some(1) => WARNING,
        _ if matches!(text(job, "state"), "waiting" | "unheard") => UNKNOWN,
        Some(_) => u8::from(job["maintenance"] == true),
        None => UNKNOWN,
    }
}

fn flags(instance: &Value) -> impl Iterator<Item = &str> {
    instance["flags"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Whether an instance counts as present because an observer that is lost has heard it.
fn is_unwatched(instance: &Value) -> bool {
    flags(instance).any(|flag| flag == "unwatched")
}

/// The exit code for an instance.
fn code_of_instance(instance: &Value) -> u8 {
    match text(instance, "state") {
        _ if is_failing(instance) => CRITICAL,
        "up" | "late" if is_unwatched(instance) => UNKNOWN,
        "up" if flags(instance).any(|flag| flag == "flapping" || flag == "low") => WARNING,
        "up" => FINE,
        "late" => WARNING,
        "down" if flags(instance).any(|flag| flag == "maintenance") => WARNING,
        "down" => CRITICAL,
        _ => UNKNOWN,
    }
}

/// The state of one instance or job: an exit code, and the line of a monitoring plug-in.
async fn check_one(daemon: &DaemonClient, who: &str, service: &str) -> Result<(u8, String), String> {
    let of_service = split(who).1 == Some(CHECK);
    let (status, mut found) = daemon.ask(Method::GET, &path(if of_service { service } else { who }), None).await?;
    if status == 200 && of_service {
        let unknown = || json!({"error": {"code": "unknown", "message": NOBODY}});
        found = called_check(&found).cloned().unwrap_or_else(unknown);
    }
    if found["error"]["code"] == "unknown" {
        let why = found["error"]["message"].as_str().unwrap_or("it is unknown");
        return Ok((UNKNOWN, format!("PRESENCE UNKNOWN - {}: {}\n", Escaped(who), Escaped(why))));
    }
    if !(200..300).contains(&status) {
        return Err(refusal(status, &found));
    }
    let state = match text(&found, "state") {
        "left" => "has left".to_string(),
        state => format!("is {}", Escaped(state)),
    };
    let (code, line) = if found["runs"].is_array() {
        (code_of_job(&found), format!("{state}{}", job_detail(&of_last_run(&found))))
    } else {
        let said = health(&found).filter(|_| is_failing(&found)).map_or(String::new(), |said| format!(", {said}"));
        let silent = match is_unwatched(&found) {
            true => "heard only by an observer that is lost".to_string(),
            false => format!("silent for {}", seconds(&found, "silence_s")),
        };
        (code_of_instance(&found), format!("{state}, {silent}{}", said.replace('|', "/")))
    };
    let mass = daemon.ask(Method::GET, &format!("{}/check", path(service)), None).await?.1;
    let (code, mass) = match mass["mass_silence"] == true && !found["runs"].is_array() {
        true => (UNKNOWN, "; there is a mass silence"),
        false => (code, ""),
    };
    let word = ["OK", "WARNING", "CRITICAL", "UNKNOWN"][usize::from(code.min(3))];
    Ok((code, format!("PRESENCE {word} - {} {line}{mass}\n", Escaped(who))))
}

/// A job as the check of a service has it, by its last run.
fn of_last_run(job: &Value) -> Value {
    let last = &job["runs"][0];
    json!({
        "instance": job["instance"], "host": last["host"], "exit": last["exit"], "duration_s": last["duration_s"], "last_success": job["last_success"],
        "due": job["due"],
    })
}

fn job_table(jobs: &Value) -> String {
    let jobs = jobs.as_array().map_or(&[][..], Vec::as_slice);
    if jobs.is_empty() {
        return String::new();
    }
    let mut lines =
        vec![["JOB", "STATE", "EXIT", "TOOK", "LAST GOOD RUN (UTC)", "NEXT RUN (UTC)", "WHEN"].map(String::from)];
    let minute = |job: &Value, key: &str| text(job, key).get(..16).unwrap_or("-").replace('T', " ");
    for job in jobs {
        let when = match job["schedule"].as_str() {
            Some(fields) => format!("{fields} {}", text(job, "timezone")),
            None => job["every_s"].as_f64().map_or("-".into(), |every| format!("every {}", length(every))),
        };
        let flag = maintained(job).map_or(String::new(), |maintained| format!(" ({maintained})"));
        lines.push([
            job_name(job),
            format!("{}{flag}", text(job, "state")),
            job["runs"][0]["exit"].as_i64().map_or("-".into(), |exit| exit.to_string()),
            seconds(job, "last_duration_s"),
            minute(job, "last_success"),
            minute(job, "due"),
            Escaped(&when).to_string(),
        ]);
    }
    columns(&lines)
}

/// The runs of jobs: those that go on, and the last ones.
fn run_table(jobs: &Value) -> String {
    let mut lines = vec![["JOB", "RUN", "ON", "BEGAN (UTC)", "RESULT", "TOOK", "EXIT", "IT SAID"].map(String::from)];
    let minute = |text: &str| text.get(..19).unwrap_or("-").replace('T', " ");
    for job in jobs.as_array().into_iter().flatten() {
        for run in job["running"].as_array().into_iter().flatten() {
            let result = if run["overrun"] == true { "overrun" } else { "running" };
            let id = Escaped(run["run"].as_str().unwrap_or("-")).to_string();
            let (began, lasts) = (minute(text(run, "since")), seconds(run, "running_s"));
            let on = Escaped(run["host"].as_str().unwrap_or("-")).to_string();
            lines.push([job_name(job), id, on, began, result.into(), lasts, String::new(), String::new()]);
        }
        for run in job["runs"].as_array().into_iter().flatten() {
            let began = run["started"].as_str().or(run["ended"].as_str()).unwrap_or("");
            lines.push([
                job_name(job),
                Escaped(run["run"].as_str().unwrap_or("-")).to_string(),
                Escaped(run["host"].as_str().unwrap_or("-")).to_string(),
                minute(began),
                text(run, "result").into(),
                seconds(run, "duration_s"),
                run["exit"].as_i64().map_or(String::new(), |exit| exit.to_string()),
                Escaped(text(run, "message")).to_string(),
            ]);
        }
    }
    if lines.len() > 1 { columns(&lines) } else { String::new() }
}

fn details(found: &Value) -> String {
    if found["instances"].is_array() {
        let failing = found["instances"].as_array().into_iter().flatten().filter(|instance| is_failing(instance));
        let told = failing.filter_map(|instance| Some((text(instance, "instance"), health(instance)?)));
        let told = told
            .map(|(name, health)| format!("{}/{}: health {health}\n", Escaped(text(found, "service")), Escaped(name)));
        let has_instances = found["instances"].as_array().is_some_and(|all| !all.is_empty());
        let jobs = job_table(&found["jobs"]) + &run_table(&found["jobs"]);
        let head = if has_instances || jobs.is_empty() { table(&json!([found])) } else { String::new() };
        return told.fold(head, |out, line| out + &line) + &jobs;
    }
    if found["runs"].is_array() {
        let alone = json!([found]);
        return job_table(&alone) + &run_table(&alone);
    }
    let mut out = String::new();
    for (key, value) in found.as_object().into_iter().flatten() {
        let value = match value {
            Value::Null => continue,
            _ if key == "health" => health(found).unwrap_or_default(),
            // The health column has it, and the flag says all of a maintenance.
            _ if key == "message" || key.starts_with("maintenance_") => continue,
            _ if key == "flags" => rows(&json!({"instances": [found]})).map(|row| row[6].clone()).collect(),
            Value::String(text) if key == "start" => {
                let at = UnixTime::of_start(text).map(UnixTime::clock);
                at.unwrap_or_else(|| Escaped(text).to_string())
            }
            Value::String(text) => Escaped(text).to_string(),
            Value::Array(items) => {
                Escaped(&items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")).to_string()
            }
            Value::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or(0.0)),
            other => Escaped(&other.to_string()).to_string(),
        };
        out.push_str(&format!("{:16} {value}\n", Escaped(key).to_string()));
    }
    out
}

/// The state of a service: an exit code, and the line of a monitoring plug-in.
async fn check(daemon: &DaemonClient, service: &str, min: Option<u64>) -> Result<(u8, String), String> {
    let (status, said) = daemon.ask(Method::GET, &format!("{}/check", path(service)), None).await?;
    if status == 404 && said["error"]["code"] == "unknown" {
        let why = said["error"]["message"].as_str().unwrap_or("it is unknown");
        return Ok((UNKNOWN, format!("PRESENCE UNKNOWN - {}: {}\n", Escaped(service), Escaped(why))));
    }
    // It is a plug-in's line on a terminal, whoever answers.
    let Some(state) = said["state"].as_str().map(|state| Escaped(state).to_string()) else {
        return Err(Escaped(said["error"]["message"].as_str().unwrap_or("the daemon does not answer")).to_string());
    };
    let number = |key: &str| said[key].as_u64().unwrap_or(0);
    let (present, down, late, critical) = (number("present"), number("down"), number("late"), number("critical"));
    let (unwatched, unconfirmed) = (number("unwatched"), number("unconfirmed"));
    let heard = present.saturating_sub(unwatched + unconfirmed);
    let is_odd = late > 0 || critical > 0 || unwatched > 0 || number("low") > 0 || said["flapping"] == true;
    let state = state.as_str();
    let code = match (said["mass_silence"] == true, state, min) {
        (true, ..) => UNKNOWN,
        (_, "maintenance", _) => WARNING,
        (_, _, Some(min)) if present < min => CRITICAL,
        // All present instances report a failure.
        (_, "up" | "degraded", _) if critical > 0 && critical == present => CRITICAL,
        (_, _, Some(min)) if heard < min => UNKNOWN,
        (_, _, Some(min)) => u8::from(number("well") < min),
        (_, "down", _) => CRITICAL,
        // Also after `presence forget`, until the service is evaluated as expected: nobody is there to be well.
        (_, "up", _) if heard == 0 => UNKNOWN,
        (_, "up", _) => u8::from(is_odd),
        (_, "degraded", _) => WARNING,
        _ => UNKNOWN,
    };
    let jobs = &said["jobs"];
    let has_instances = !jobs.is_object() || said["instances"].as_u64() != Some(0);
    let code = match job_code(jobs) {
        None => code,
        Some(jobs) if !has_instances && min.is_none() => jobs,
        // Down beats unknown, as a fact beats none.
        Some(jobs) if jobs == CRITICAL || code == CRITICAL => CRITICAL,
        Some(jobs) => jobs.max(code),
    };
    let word = ["OK", "WARNING", "CRITICAL", "UNKNOWN"][usize::from(code.min(3))];
    let mass = if said["mass_silence"] == true { "; there is a mass silence" } else { "" };
    let failing = if critical > 0 {
        format!(", {critical} critical{}", failing(service, critical, &said))
    } else {
        String::new()
    };
    let unwatched = match unwatched {
        0 => String::new(),
        n => format!(", {n} heard only by an observer that is lost"),
    };
    let unconfirmed = match unconfirmed {
        0 => String::new(),
        n => format!(", {n} not confirmed yet"),
    };
    let maintained = match number("maintenance") {
        0 => String::new(),
        _ if state == "maintenance" => String::new(),
        n if n == present + down => ", in maintenance".into(),
        n => format!(", {n} in maintenance"),
    };
    let who = Escaped(service);
    let min_of_service = said["min"].as_u64().and_then(|min| u32::try_from(min).ok());
    let here = how_many(present as usize, (present + down) as usize, min_of_service);
    let head = match min {
        Some(min) if !has_instances => {
            let s = if min == 1 { "" } else { "s" };
            format!("{who} has jobs and no instance: {min} instance{s} wanted")
        }
        Some(min) if present < min => format!("{who}: {present} present, {min} wanted"),
        _ if state == "maintenance" && !has_instances => format!("{who} is in maintenance{}", job_text(service, jobs)),
        _ if state == "maintenance" => format!("{who} is in maintenance: {here}"),
        _ if critical > 0 && critical == present => format!("{who} is {state}, and all of it says critical: {here}"),
        // Its jobs follow.
        _ if !has_instances => format!("{who} is {state}{}", job_text(service, jobs)),
        _ => format!("{who} is {state}: {here}"),
    };
    let numbers = format!("| present={present} down={down} late={late} critical={critical}");
    if !has_instances && min.is_none() {
        return Ok((code, format!("PRESENCE {word} - {head}{mass} {numbers}\n")));
    }
    let failing = failing + &low_text(&said) + &job_text(service, jobs);
    Ok((
        code,
        format!("PRESENCE {word} - {head}, {late} late{unwatched}{unconfirmed}{failing}{maintained}{mass} {numbers}\n"),
    ))
}

/// Which watched metrics have too few lines, and how many they should have.
fn low_text(said: &Value) -> String {
    let of = |one: &Value| match (one["lines"].as_u64(), one["floor"].as_u64()) {
        (Some(lines), Some(floor)) => {
            let metric = Escaped(text(one, "watch")).to_string();
            format!("{}: {metric} had {lines} of {floor} lines a minute", Escaped(text(one, "instance")))
        }
        _ => Escaped(text(one, "instance")).to_string(),
    };
    let named: Vec<String> = said["named_low"].as_array().into_iter().flatten().map(of).collect();
    match said["low"].as_u64().unwrap_or(0) as usize {
        0 => String::new(),
        n if n > named.len() => format!(", {n} low ({}, …)", named.join(", ")),
        n => format!(", {n} low ({})", named.join(", ")),
    }
}

/// The exit code for the jobs of a service; `None` if it has none.
fn job_code(jobs: &Value) -> Option<u8> {
    let number = |key: &str| jobs[key].as_u64().unwrap_or(0);
    let _ = jobs.as_object()?;
    Some(match (number("critical"), number("unknown"), number("warning") + number("maintenance")) {
        (1.., ..) => CRITICAL,
        (_, 1.., _) => UNKNOWN,
        (.., 1..) => WARNING,
        _ => FINE,
    })
}

/// How many jobs a service has, and those that are not well.
fn job_text(service: &str, jobs: &Value) -> String {
    let Some(total) = jobs["total"].as_u64() else { return String::new() };
    let bad = jobs["bad"].as_array().into_iter().flatten();
    let bad: Vec<String> = bad
        .map(|job| {
            let state = Escaped(text(job, "state")).to_string();
            format!("{} {state}{}", job_name(&with_service(service, job)), job_detail(job))
        })
        .collect();
    let s = if total == 1 { "" } else { "s" };
    if bad.is_empty() { format!(", {total} job{s}") } else { format!(", {total} job{s}: {}", bad.join(", ")) }
}

/// What somebody on call asks first of a job that is not well.
fn job_detail(job: &Value) -> String {
    let minute =
        |key: &str| job[key].as_str().and_then(|at| at.get(..16)).map(|at| Escaped(&at.replace('T', " ")).to_string());
    let said = [
        job["host"].as_str().filter(|host| job["instance"] != **host).map(|host| format!("on {}", Escaped(host))),
        job["exit"].as_i64().map(|exit| format!("exit {exit}")),
        job["duration_s"].as_f64().map(|lasted| format!("took {}", length(lasted))),
        minute("last_success").map(|at| format!("last good run {at}")),
        minute("due").map(|at| format!("next due {at} UTC")),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}

fn with_service(service: &str, job: &Value) -> Value {
    json!({"service": service, "instance": job["instance"]})
}

/// The failing instances, with their messages: as many as the daemon names.
fn failing(service: &str, critical: u64, said: &Value) -> String {
    let named = said["failing"].as_array().into_iter().flatten().map(|instance| {
        // Text after a bar is parsed as performance data.
        let message = instance["message"].as_str().map_or(String::new(), |m| format!(": {}", m.replace('|', "/")));
        Escaped(&format!("{service}/{}{message}", text(instance, "instance"))).to_string()
    });
    let named: Vec<String> = named.collect();
    match named.len() as u64 {
        0 => String::new(),
        n if n < critical => format!(" ({}, …)", named.join(", ")),
        _ => format!(" ({})", named.join(", ")),
    }
}

async fn wait(daemon: &DaemonClient, service: &str, up: u64, timeout: Duration) -> Result<u8, String> {
    if service.contains('/') {
        return Err(format!("wait takes a service; for one instance: presence show {}", Escaped(service)));
    }
    let deadline = Instant::now() + timeout;
    loop {
        let found = daemon.ask(Method::GET, &path(service), None).await;
        if let Ok((200, view)) = &found {
            let instances = view["instances"].as_array().into_iter().flatten();
            let is_heard = |one: &&Value| matches!(text(one, "state"), "up" | "late") && !is_unwatched(one);
            let heard = instances.filter(is_heard).count() as u64;
            if heard >= up {
                print(&format!("{}: {heard} heard\n", Escaped(service)))?;
                return Ok(FINE);
            }
        }
        if Instant::now() >= deadline {
            let (code, line) = check(daemon, service, Some(up)).await?;
            print(&line)?;
            // Instances that are not confirmed yet count as present, but were not heard.
            return Ok(code.max(WARNING));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn events(daemon: &DaemonClient, follow: bool, json: bool) -> Result<u8, String> {
    let mut since = String::new();
    let mut is_first = true;
    loop {
        match daemon.good(Method::GET, &format!("/api/v1/presence/events?since={}", in_url(&since)), None).await {
            Ok(events) => {
                for event in events.as_array().into_iter().flatten() {
                    since = text(event, "id").to_string();
                    let line = match json {
                        true => Escaped(&event.to_string()).to_string(),
                        false => format!(
                            "{}  {:8}  {}",
                            Escaped(text(event, "time")),
                            Escaped(text(event, "severity")).to_string(),
                            Escaped(text(event, "text"))
                        ),
                    };
                    if io::stdout().lock().write_all(format!("{line}\n").as_bytes()).is_err() {
                        return Ok(FINE);
                    }
                }
            }
            Err(problem) if is_first => return Err(problem),
            // The daemon may be restarting; its next response begins with its first event.
            Err(_) => {}
        }
        if !follow {
            return Ok(FINE);
        }
        is_first = false;
        tokio::time::sleep(AGAIN).await;
    }
}
