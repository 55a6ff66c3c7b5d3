//! `systole beat JOB --job -- CMD`: says when a run of a job begins and how it ends.
//!
//! Nothing of this holds the job up: messages are sent by a thread of their own, so a name that cannot be looked up or a
//! receiver that does not answer delays neither the start of CMD nor a signal to it, and its end by a second at most.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, PipeReader, Read, Write};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time;

use crate::config::show_duration;
use crate::sys::{host_name, signal_process, unix_time};

use super::beat::{BETWEEN, COPIES, LAST, Sender, code_of, code_of_error, is_name, stop};
use super::print_error;

/// Most bytes of what CMD wrote that the last message holds: with the names it still fits into one datagram.
const MESSAGE_BYTES: usize = 1000;

/// Most bytes of one line that are kept.
const LINE_BYTES: usize = 500;

/// How long the end of what CMD writes is waited for after its exit: what it left behind may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// What of a job's command line matters here.
pub(super) struct Job<'a> {
    pub(super) command: &'a [OsString],
    /// Time between two runs, if it is declared.
    pub(super) every: Option<Duration>,
    pub(super) max_runtime: Option<Duration>,
    /// Lines of what CMD writes to its standard error that the last message holds.
    pub(super) stderr_lines: usize,
}

/// Runs a job; its exit code.
pub(super) async fn run(job: Job<'_>, sender: Sender) -> io::Result<u8> {
    let mut stops = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let lines = Lines::new(&job, &sender);
    let voice = Voice::start(sender);
    let Some((program, rest)) = job.command.split_first() else { return Ok(0) };
    let mut command = Command::new(program);
    command.args(rest);
    let tail = (job.stderr_lines > 0).then(|| Tail::of(&mut command, job.stderr_lines)).transpose()?;
    let began = Instant::now();
    let spawned = command.spawn();
    // The pipe ends when CMD does, and not with us.
    drop(command);
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let problem = format!("cannot run {}: {error}", program.display());
            print_error(&problem);
            let code = code_of_error(&error);
            voice.end(lines.end(code, Duration::ZERO, &problem)).await;
            return Ok(code);
        }
    };
    voice.begin(lines.start());
    let code = loop {
        tokio::select! {
            number = stop(&mut stops) => {
                // If it has just ended, its status follows.
                if let Some(pid) = child.id() {
                    drop(signal_process(pid, number));
                }
            }
            status = child.wait() => break code_of(status?),
        }
    };
    let lasted = began.elapsed();
    let said = match tail {
        Some(tail) => tail.end().await,
        None => String::new(),
    };
    voice.end(lines.end(code, lasted, &said)).await;
    Ok(code)
}

/// The messages of one run.
struct Lines {
    /// Tags of every message.
    who: String,
    /// The time between two runs that is declared, as a tag: a value of 1 would promise nothing.
    promise: String,
    max_runtime: Option<f64>,
}

impl Lines {
    fn new(job: &Job<'_>, sender: &Sender) -> Lines {
        // Unique among those that run on this and on other hosts, for as long as it matters.
        let run = format!("{:x}-{}", (unix_time() * 1000.0) as u64, std::process::id());
        // The instance may be another name, such as one for whoever runs it.
        let is_told = |host: &str| sender.who().contains(&format!("instance:{host},"));
        let host = host_name().ok().filter(|host| is_name(host) && !is_told(host));
        let host = host.map_or(String::new(), |host| format!(",host:{host}"));
        Lines {
            who: format!("{},run:{run}{host}", sender.who()),
            promise: job.every.map_or(String::new(), |every| format!(",interval:{}", every.as_secs_f64())),
            max_runtime: job.max_runtime.map(|longest| longest.as_secs_f64()),
        }
    }

    fn start(&self) -> String {
        let longest = self.max_runtime.map_or(String::new(), |secs| format!(",max_runtime:{secs}"));
        format!("heartbeat:1|g|#{},status:start{longest}{}", self.who, self.promise)
    }

    fn end(&self, code: u8, lasted: Duration, said: &str) -> String {
        let (promise, who, lasted) = (&self.promise, &self.who, lasted.as_secs_f64());
        let (word, status) = if code == 0 { ("ok", 0) } else { ("fail", 2) };
        let tags = format!("{who},status:{word},exit:{code},duration:{lasted:.3}{promise}");
        match said {
            "" => format!("heartbeat:1|g|#{tags}"),
            said => format!("_sc|heartbeat|{status}|#{tags}|m:{}", message(said)),
        }
    }
}

/// What CMD wrote, as a message can have it: its end, in one line without bars.
fn message(said: &str) -> String {
    let lines = said.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join(" / ");
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.replace('|', "/");
    let mut from = text.len().saturating_sub(MESSAGE_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_string()
}

/// Passes messages to the thread that sends them.
struct Voice {
    lines: mpsc::UnboundedSender<String>,
    ended: JoinHandle<()>,
}

impl Voice {
    /// Starts the thread that sends messages. There are never more than those of one run.
    fn start(mut sender: Sender) -> Voice {
        let (lines, mut next) = mpsc::unbounded_channel();
        let ended = tokio::task::spawn_blocking(move || {
            while let Some(line) = next.blocking_recv() {
                sender.say_line(line);
            }
        });
        Voice { lines, ended }
    }

    /// Sends the first message, and its copies while CMD runs.
    fn begin(&self, line: String) {
        let lines = self.lines.clone();
        let _ = lines.send(line.clone());
        tokio::spawn(async move {
            for _ in 1..COPIES {
                time::sleep(BETWEEN).await;
                let _ = lines.send(line.clone());
            }
        });
    }

    /// Sends the last message.
    async fn end(self, line: String) {
        let Voice { lines, ended } = self;
        let all = async {
            for n in 0..COPIES {
                if n > 0 {
                    time::sleep(BETWEEN).await;
                }
                let _ = lines.send(line.clone());
            }
            drop(lines);
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

/// The last lines that CMD writes to its standard error, which is passed on to ours.
struct Tail {
    kept: Arc<Mutex<LastLines>>,
    ended: oneshot::Receiver<()>,
}

/// The last lines.
#[derive(Default)]
struct LastLines {
    lines: VecDeque<Vec<u8>>,
    /// The last of them has not ended.
    is_open: bool,
}

impl Tail {
    fn of(command: &mut Command, most: usize) -> io::Result<Tail> {
        let (reader, writer) = io::pipe()?;
        command.stderr(Stdio::from(writer));
        let kept = Arc::new(Mutex::new(LastLines::default()));
        let (end, ended) = oneshot::channel();
        let keeps = Arc::clone(&kept);
        std::thread::Builder::new().name("stderr".into()).spawn(move || {
            pass_on(reader, &keeps, most);
            let _ = end.send(());
        })?;
        Ok(Tail { kept, ended })
    }

    /// What was written up to now, once CMD has ended.
    async fn end(self) -> String {
        let _ = time::timeout(LAST_WORDS, self.ended).await;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = kept.lines.iter().map(|line| String::from_utf8_lossy(line).into_owned());
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Passes on what comes, and keeps the last lines.
fn pass_on(mut reader: PipeReader, kept: &Mutex<LastLines>, most: usize) {
    let mut buffer = [0; 8192];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                // Who does not read ours is no reason to stop CMD.
                let _ = io::stderr().write_all(&buffer[..count]);
                kept.lock().unwrap_or_else(PoisonError::into_inner).take(&buffer[..count], most);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

impl LastLines {
    fn take(&mut self, bytes: &[u8], most: usize) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !std::mem::replace(&mut self.is_open, !piece.ends_with(b"\n")) {
                if self.lines.len() >= most {
                    self.lines.pop_front();
                }
                self.lines.push_back(Vec::new());
            }
            if let Some(line) = self.lines.back_mut() {
                let text = piece.strip_suffix(b"\n").unwrap_or(piece);
                let room = LINE_BYTES.saturating_sub(line.len());
                line.extend_from_slice(&text[..text.len().min(room)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_whatever_they_come_in() {
        let mut kept = LastLines::default();
        for piece in ["a\nb", "b\n\nccc\n", "d"] {
            kept.take(piece.as_bytes(), 3);
        }
        assert_eq!(kept.lines, [b"".to_vec(), b"ccc".to_vec(), b"d".to_vec()]);
        kept.take(&[b'x'; 2 * LINE_BYTES], 3);
        assert_eq!(kept.lines.back().map(Vec::len), Some(LINE_BYTES));
    }

    #[test]
    fn a_message_is_one_line_without_bars_and_ends_as_the_text_does() {
        assert_eq!(message("disk full\n\n\tcode 5|x \n"), "disk full /  code 5/x");
        let long = format!("{}é{}", "x".repeat(500), "y".repeat(999));
        assert_eq!(message(&long), "y".repeat(999));
    }
}
