//! The command line: one file per subcommand. Exit codes: 0 success, 1 failed at run time (port, file, server), 2 bad
//! usage or bad configuration, 70 a part of the daemon failed that it cannot go on without.

mod account;
mod beat;
mod beat_job;
mod capture;
mod check;
mod client;
mod cluster;
mod colours;
mod compare;
mod config_tests;
mod conformance;
mod diff;
mod explain;
mod figures;
mod import;
mod listed;
mod load;
mod man;
mod man_sections;
mod presence;
mod progress;
mod reload;
mod replay;
mod replay_presence;
mod run;
mod send;
mod service_manager;
mod state;
mod status;
mod tail;
mod test_alert;
#[cfg(feature = "top")]
mod top;
mod upgrade;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{self, Config, Origins, Sources, parse_duration};
use crate::sys::{read_text_or_pipe, return_memory};
use crate::untrusted::Escaped;

use colours::{PLACE, painted};

/// Read if it exists and `-c` is not given.
const DEFAULT_FILE: &str = "/etc/systole/systole.toml";

/// In place of a file: the standard input, or output.
const INPUT: &str = "-";

/// Failed at run time.
const FAILED: u8 = 1;
/// Bad usage or bad configuration.
const USAGE: u8 = 2;
/// A part of the daemon failed that it cannot go on without (EX_SOFTWARE of sysexits.h).
const SOFTWARE: u8 = 70;

#[derive(Parser)]
#[command(
    name = "systole",
    version,
    about = "A StatsD server: reads metrics of every StatsD dialect, aggregates them per interval, pushes the roll-up to sinks, and accounts for everything it read and lost.",
    args_conflicts_with_subcommands = true,
    after_help = "`systole` alone, or with these options, is `systole run`: it listens on udp://127.0.0.1:8125, flushes every 10 s to the \
                  console, and shows itself on http://127.0.0.1:8127.\n\
                  Exit codes: 0 success; 1 failed at run time; 2 bad usage or bad configuration; 70 a part of the daemon failed \
                  that it cannot go on without."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon
    Run(run::RunArgs),
    /// Validate a configuration: all mistakes at once, each with file, line, column and key
    Check(check::CheckArgs),
    /// Show how lines are read, and what would be flushed
    Explain(explain::ExplainArgs),
    /// Feed captures through the daemon's own parser, aggregator and flusher on a virtual clock
    Replay(replay::ReplayArgs),
    /// Show what another configuration makes of captured traffic: names, values and what they cost
    Diff(diff::DiffArgs),
    /// Compare two streams of Graphite lines or records: names and values of two servers that get the same lines
    Compare(compare::CompareArgs),
    /// Record the wire with times, for replay
    Capture(capture::CaptureArgs),
    /// Send heartbeats, for as long as a command runs if one is given; exits with its status
    Beat(beat::BeatArgs),
    /// Ask a running daemon how it does: the ledger and its parts on one screen, and an exit code for scripts
    Status(status::StatusArgs),
    /// Let a running daemon read its configuration again, and show what has changed
    Reload(reload::ReloadArgs),
    /// Watch a running daemon: series, senders, tag keys, presence, sinks, losses and lines
    #[cfg(feature = "top")]
    Top(top::TopArgs),
    /// Show lines as they arrive at a running daemon, each with its verdict
    Tail(tail::TailArgs),
    /// Ask a running daemon who is there: list, show, check, wait, events, maintenance, forget
    Presence(presence::PresenceArgs),
    /// Prepare the bus of a cluster, and ask a node about it: init, status, drain, explain
    Cluster(cluster::ClusterArgs),
    /// Show what is kept over restarts
    State(state::StateArgs),
    /// Hand a running daemon over to a new process of its program, which may be of a newer version
    Upgrade(upgrade::UpgradeArgs),
    /// Judge any StatsD server over the wire by the vectors of every dialect
    Conformance(conformance::ConformanceArgs),
    /// Send lines
    Send(send::SendArgs),
    /// Generate load to size a machine; prints as JSON exactly what was sent
    Load(load::LoadArgs),
    /// Convert another server's configuration: statsd's config.js, statsd_exporter's mapping, telegraf's statsd input
    Import(import::ImportArgs),
    /// Print completions for a shell
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
    /// Print a manual page, or write all of them
    Man(man::ManArgs),
}

#[derive(Args, Clone, Debug, Default)]
struct ConfigArgs {
    /// Configuration file (TOML); without it that of SYSTOLE_CONFIG, or /etc/systole/systole.toml if it exists
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn written(text: &[u8]) -> u8 {
    // A reader that has gone is not a failure.
    let _ = io::stdout().lock().write_all(text);
    0
}

/// The exit code of bad usage. To monitoring 2 means "down", so the two commands that it runs use 3.
fn usage_code(mut args: impl Iterator<Item = String>) -> u8 {
    let is_presence = args.any(|arg| arg == "presence");
    if is_presence && args.any(|arg| arg == "check" || arg == "wait") { presence::UNKNOWN } else { USAGE }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    return_memory();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(problem) => {
            let code = if problem.use_stderr() { usage_code(std::env::args().skip(1)) } else { 0 };
            // If it cannot be printed, nobody reads it.
            let _ = match code {
                // Monitoring shows what its plug-ins write to standard output.
                presence::UNKNOWN => writeln!(io::stdout(), "PRESENCE UNKNOWN - {}", problem.render()),
                _ => problem.print(),
            };
            return ExitCode::from(code);
        }
    };
    let code = match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Capture(args) => capture::run(&args),
        Command::Beat(args) => beat::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Tail(args) => tail::run(&args),
        #[cfg(feature = "top")]
        Command::Top(args) => top::run(&args),
        Command::Presence(args) => presence::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::State(args) => state::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Conformance(args) => conformance::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "systole", &mut text);
            written(&text)
        }
        Command::Man(args) => man::run(&args),
    };
    ExitCode::from(code)
}

/// What a command runs on: its own thread.
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| format!("cannot start: {error}"))
}

/// Runs what a command asks of a daemon; its exit code. `false` is a failure that was reported.
fn asking(asks: impl Future<Output = Result<bool, String>>) -> u8 {
    match runtime().and_then(|runtime| runtime.block_on(asks)) {
        Ok(true) => 0,
        Ok(false) => FAILED,
        Err(problem) => {
            print_error(problem);
            FAILED
        }
    }
}

/// Reports an error on standard error.
fn print_error(message: impl std::fmt::Display) {
    let message = message.to_string();
    let (style, head, rest) = match message.strip_prefix("warning: ") {
        Some(rest) => (colours::WARNING, "systole: warning:", rest),
        None => (colours::BAD, "systole:", &*message),
    };
    colours::print_to_errors(&format!("{} {rest}\n", painted(style, head)));
}

/// Writes a result to standard output; `false` if that failed. A reader that has gone is not an error.
fn print(bytes: &[u8]) -> bool {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => true,
        Err(error) => {
            print_error(format_args!("cannot write: {error}"));
            false
        }
    }
}

/// Reads file and environment; the options of the command line are added by the caller.
fn sources(args: &ConfigArgs) -> Result<Sources, u8> {
    read_sources(args, read_text_or_pipe).map_err(|problem| {
        print_error(problem);
        USAGE
    })
}

/// The same; what is wrong is a sentence.
fn read_sources(args: &ConfigArgs, read: impl Fn(&Path) -> io::Result<String>) -> Result<Sources, String> {
    let of_variable = || std::env::var_os(config::CONFIG).filter(|path| !path.is_empty()).map(PathBuf::from);
    let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
    let path = args.config.clone().or_else(of_variable).or_else(default);
    let mut sources = Sources::default();
    if let Some(path) = path {
        // A file that is not text is a bad configuration; a missing one is bad usage.
        let text = read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        sources.file = Some((path.display().to_string(), text));
    }
    for (name, value) in std::env::vars_os() {
        // What is not text cannot be one of our names.
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => drop(sources.env.insert(name, value)),
            Err(_) if name.starts_with(config::PREFIX) && name != config::CONFIG => {
                return Err(format!("{}: its value is not UTF-8; text is right", Escaped(&name)));
            }
            Err(_) => {}
        }
    }
    Ok(sources)
}

/// A file, or the standard input for `-`.
fn read_text(path: &Path) -> Result<String, u8> {
    let text = if path == Path::new(INPUT) { io::read_to_string(io::stdin()) } else { read_text_or_pipe(path) };
    text.map_err(|error| {
        print_error(format_args!("cannot read {}: {error}", path.display()));
        USAGE
    })
}

/// Loads a configuration, or reports everything that is wrong with it. Unknown variables are reported in any case.
fn load_config(sources: &Sources) -> Result<Config, u8> {
    load_loudly(sources).map(|(config, _)| config)
}

/// The same, and where settings were found.
fn load_loudly(sources: &Sources) -> Result<(Config, Origins), u8> {
    for unknown in config::unknown_variables(sources) {
        print_error(format_args!("warning: {unknown}"));
    }
    load_with_origins(sources)
}

/// The same without a word about unknown variables.
fn load_with_origins(sources: &Sources) -> Result<(Config, Origins), u8> {
    config::load_with_origins(sources).map_err(|problems| {
        for problem in &problems {
            let (text, place) = (problem.to_string(), Escaped(&problem.place).to_string());
            let rest = text.strip_prefix(&place).unwrap_or(&text);
            let place = if rest.len() < text.len() { painted(PLACE, &place) } else { String::new() };
            colours::print_to_errors(&format!("{place}{rest}\n"));
        }
        let count = problems.len();
        print_error(format_args!("{count} mistake{} in the configuration", if count == 1 { "" } else { "s" }));
        USAGE
    })
}

/// For clap: a duration such as `10s`.
fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Some(duration) if duration.is_zero() => {
            Err("nothing is that short: longer than 0 is right, such as 500ms".into())
        }
        Some(duration) => Ok(duration),
        None => Err("a duration such as 10s or 500ms is right".into()),
    }
}
