//! `systole beat`: heartbeats for programs that cannot send their own, and a goodbye when they end without an error.
//!
//! A command that fails says no goodbye, and its silence is reported one timeout later. Until then it would be up, and
//! one that is restarted before that, by cron or a supervisor, would be up for ever. So a failure is sent as a service
//! check with status 2, which is a heartbeat too and stands until a check with status 0: the goodbye of a successful run,
//! or the heartbeats of one that has outlived its own timeout.
//!
//! A separate thread looks the name up and sends: the receiver may be slow, and neither a signal to the command nor its
//! end waits for that.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time;

use crate::config::{ListenUrl, check_listen_url, listen_url, show_duration};
use crate::presence::{grace_for, misses_for};
use crate::protocol::{TAKEN, is_instance_name};
use crate::sys::{host_name, signal_process, unix_time};
use crate::untrusted::Escaped;

use super::{beat_job, duration, print_error, send};

/// Exit codes for own errors, a command that cannot be executed, and one that does not exist, as in `env` and `nohup`.
const OWN: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Time between heartbeats unless it is given.
const EVERY: Duration = Duration::from_secs(10);

/// The last message is sent this often, with a pause, because any may be lost.
pub(super) const COPIES: u32 = 3;
pub(super) const BETWEEN: Duration = Duration::from_millis(100);
/// How long the exit waits for the last message.
pub(super) const LAST: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct BeatArgs {
    /// Whose heartbeats to send; the instance is the host name unless given
    #[arg(value_name = "SERVICE[/INSTANCE]")]
    who: String,
    /// Time between heartbeats, which each of them promises: 1s to 7days; 10s without it. With `--job` the time between two
    /// runs, if the daemon has no schedule for the job
    #[arg(long, value_name = "DUR", value_parser = duration)]
    every: Option<Duration>,
    /// CMD is a job, which runs and ends: instead of heartbeats, its start and its end are sent, with an id of the run, the
    /// exit status and the duration, three times each. CMD runs whether the daemon can be reached or not
    #[arg(long, requires = "command")]
    job: bool,
    /// How long the job may run before it is reported
    #[arg(long, value_name = "DUR", requires = "job", value_parser = duration)]
    max_runtime: Option<Duration>,
    /// Sends the last lines that CMD writes to its standard error along with its end, at most 50 and 1000 bytes; they are
    /// passed on, too. What CMD leaves running in the background cannot write there any more
    #[arg(long, value_name = "N", requires = "job", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=50))]
    stderr_lines: u16,
    /// Where to: udp://HOST:PORT, tcp://HOST:PORT, unix:///PATH or unixgram:///PATH
    #[arg(long, value_name = "URL", default_value = "udp://127.0.0.1:8125")]
    to: String,
    /// Sends heartbeats while this runs, passes SIGTERM and SIGINT on to it, and says goodbye when it exits 0 or was asked to
    /// stop; when it fails, the instance's health is critical until a run succeeds or outlives its timeout. Exits with its
    /// status; own errors are 125, not executable 126, not found 127
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(super) struct Sender {
    to: String,
    /// The address, once the name was looked up; after a failure it is looked up again.
    found: Option<ListenUrl>,
    /// Tags, without the interval.
    who: String,
    every: f64,
    failed: bool,
}

impl BeatArgs {
    /// Time between heartbeats.
    fn every(&self) -> Duration {
        self.every.unwrap_or(EVERY)
    }

    fn as_job(&self) -> beat_job::Job<'_> {
        beat_job::Job {
            command: &self.command,
            every: self.every,
            max_runtime: self.max_runtime,
            stderr_lines: usize::from(self.stderr_lines),
        }
    }
}

/// A message.
#[derive(Clone, Copy)]
enum Word {
    /// A heartbeat.
    Here,
    /// A heartbeat that ends an earlier failure.
    Well,
    /// The command exited with 0.
    Done,
    /// The command was asked to stop.
    Stopped,
    /// The command failed with this code.
    Failed(u8),
}

impl Sender {
    fn say(&mut self, word: Word) {
        let Sender { who, every, .. } = self;
        let line = match word {
            Word::Here => format!("heartbeat:{every}|g|#{who},interval:{every}"),
            Word::Well => format!("_sc|heartbeat|0|#{who},interval:{every}"),
            Word::Done => format!("_sc|heartbeat|0|#{who},interval:0"),
            Word::Stopped => format!("heartbeat:0|g|#{who},interval:0"),
            Word::Failed(code) => format!("_sc|heartbeat|2|#{who},interval:{every}|m:exited with {code}"),
        };
        self.say_line(line);
    }

    /// Whom messages are about, as tags.
    pub(super) fn who(&self) -> &str {
        &self.who
    }

    pub(super) fn say_line(&mut self, line: String) {
        let sent = self.send(line);
        // Nobody may be listening for a while; the next message retries.
        if let Err(problem) = &sent
            && !self.failed
        {
            print_error(format_args!("cannot send to {}: {problem}; retrying with every message", self.to));
        }
        self.failed = sent.is_err();
    }

    fn send(&mut self, line: String) -> Result<(), String> {
        let to = self.found.take().map_or_else(|| listen_url(&self.to), Ok)?;
        send::lines(&to, &[line]).map_err(|error| error.to_string())?;
        self.found = Some(to);
        Ok(())
    }

    /// Starts the thread that sends messages.
    fn start(mut self) -> Voice {
        let (words, mut next) = mpsc::channel(1);
        let ended = tokio::task::spawn_blocking(move || {
            while let Some(word) = next.blocking_recv() {
                self.say(word);
            }
        });
        Voice { words, ended }
    }
}

/// Passes messages to the thread that sends them.
struct Voice {
    words: mpsc::Sender<Word>,
    ended: JoinHandle<()>,
}

impl Voice {
    /// Queues a heartbeat, unless an earlier one is still queued.
    fn beat(&self, word: Word) {
        let _ = self.words.try_send(word);
    }

    /// Sends the last message.
    async fn end(self, word: Word) {
        let Voice { words, ended } = self;
        let all = async {
            for n in 0..COPIES {
                if n > 0 {
                    time::sleep(BETWEEN).await;
                }
                let _ = words.send(word).await;
            }
            drop(words);
            let _ = ended.await;
        };
        if time::timeout(LAST, all).await.is_err() {
            print_error(format_args!(
                "the last message may not have been received: not sent within {}",
                show_duration(LAST)
            ));
        }
    }
}

pub(super) fn run(args: &BeatArgs) -> u8 {
    match begin(args) {
        Ok(sender) => {
            let outcome = super::runtime().map_err(io::Error::other).and_then(|runtime| {
                let outcome = runtime.block_on(async {
                    if args.job { beat_job::run(args.as_job(), sender).await } else { beat(args, sender).await }
                });
                // Dropping it would wait for the sending thread.
                runtime.shutdown_background();
                outcome
            });
            outcome.unwrap_or_else(|error| {
                print_error(error);
                OWN
            })
        }
        Err(problem) => {
            print_error(problem);
            OWN
        }
    }
}

/// Whether a name can be that of an instance, is the same in each form of a heartbeat, and can be a tag's value.
pub(super) fn is_name(name: &str) -> bool {
    let is_wrong = |c: char| ",|#:/".contains(c) || c.is_whitespace() || c.is_control();
    is_instance_name(name) && !name.contains(is_wrong)
}

fn begin(args: &BeatArgs) -> Result<Sender, String> {
    check_listen_url(&args.to).map_err(|problem| format!("--to: {problem}"))?;
    let (service, instance) = match args.who.split_once('/') {
        Some((service, instance)) => (service.to_string(), instance.to_string()),
        None => (
            args.who.clone(),
            host_name().map_err(|error| format!("cannot determine the host name: {error}; give SERVICE/INSTANCE"))?,
        ),
    };
    if !is_name(&service) || !is_name(&instance) {
        return Err(format!(
            "`{}` is no SERVICE[/INSTANCE]: names have 1 to 128 bytes, no white space and none of , | # : / in them, and no \
             instance is called `*`",
            Escaped(&args.who)
        ));
    }
    if TAKEN.contains(&&*service) {
        return Err(format!("no service is called `{service}`: the API has that word in its paths; give another name"));
    }
    let every = args.every().as_secs_f64();
    if !(1.0..=604_800.0).contains(&every) {
        return Err("--every: from 1s to 7days is right".into());
    }
    let start = unix_time() as u64;
    let who = format!("service:{service},instance:{instance},start:{start}");
    Ok(Sender { to: args.to.clone(), found: None, who, every, failed: false })
}

async fn beat(args: &BeatArgs, sender: Sender) -> io::Result<u8> {
    let mut stops = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let every = sender.every;
    let voice = sender.start();
    let mut child = match args.command.split_first() {
        None => None,
        Some((program, rest)) => match Command::new(program).args(rest).spawn() {
            Ok(child) => Some(child),
            Err(error) => {
                print_error(format_args!("cannot run {}: {error}", program.display()));
                let code = code_of_error(&error);
                voice.end(Word::Failed(code)).await;
                return Ok(code);
            }
        },
    };
    let mut beats = time::interval(args.every());
    // The first heartbeat is always sent, even for a command that ends at once.
    beats.tick().await;
    voice.beat(Word::Here);
    let began = Instant::now();
    let timeout = Duration::from_secs_f64(f64::from(misses_for(every)) * every + grace_for(every));
    let mut asked_to_stop = false;
    let code = loop {
        tokio::select! {
            _ = beats.tick() => {
                let outlived = child.is_some() && began.elapsed() >= timeout;
                voice.beat(if outlived { Word::Well } else { Word::Here });
            }
            number = stop(&mut stops) => {
                asked_to_stop = true;
                match child.as_ref().and_then(Child::id) {
                    // If it has just ended, its status follows.
                    Some(pid) => drop(signal_process(pid, number)),
                    None => break 0,
                }
            }
            status = wait(&mut child) => break code_of(status?),
        }
    };
    let word = match code {
        0 if child.is_some() => Word::Done,
        _ if asked_to_stop => Word::Stopped,
        _ => Word::Failed(code),
    };
    voice.end(word).await;
    Ok(code)
}

/// The number of the next signal to stop.
pub(super) async fn stop(signals: &mut [Signal; 2]) -> i32 {
    let [terminate, interrupt] = signals;
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
        _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
    }
}

/// The end of the command; never, if there is none.
async fn wait(child: &mut Option<Child>) -> io::Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// The exit code for a command that cannot be run.
pub(super) fn code_of_error(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
}

/// The exit code; 128 plus the signal's number for a command that a signal ended, as in shells.
pub(super) fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(OWN)
}
