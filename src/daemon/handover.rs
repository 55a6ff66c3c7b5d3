//! The hand-over of a running daemon to a new process, which may be of another version: an upgrade.
//!
//! Both run side by side for a moment. The one that runs ([`Successor`]) starts the new one with one end of a pair of sockets
//! as its standard input, and passes every socket that it listens on. The new one ([`Predecessor`]) reads its configuration,
//! takes the sockets whose addresses it is to listen on, reads them, and says so. From then on the old one stops as ever,
//! but that its sockets stay open: what waits in them is for the new one. When the old one has saved its state and let its
//! files go, it says so and ends; the new one reads the state, starts its sinks, and closes intervals.
//!
//! A new process that fails before it reads costs nothing: the old one goes on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::{Config, Role};
use crate::http::{HandedOver, Upgrading};
use crate::sys::{self, MOST_PASSED};

use super::StartError;

/// Tells a process that its standard input comes from the one that hands over to it. It is no setting, and so begins in
/// another way than those.
const VARIABLE: &str = "_SYSTOLE_PREDECESSOR";

/// Longest time until the new process reads: it reads its configuration and binds what is new.
const STARTING: Duration = Duration::from_secs(30);

/// Longest time that the old process takes to end, beside its `shutdown_grace`.
const LEAVING: Duration = Duration::from_secs(10);

/// Variables that the service manager has made for this process alone.
const OF_THIS_PROCESS: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// What the processes say to each other, as JSON, one in each message. Fields that are unknown are skipped, so that versions
/// can differ.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// Sockets are in this message, with the names under which the service manager passed them.
    Sockets { names: Vec<String> },
    /// There are no more. Who hands over, and how long its stop takes at most, in seconds.
    Begin { version: String, grace_secs: f64 },
    /// The new process reads the sockets.
    Reading { version: String },
    /// The old process has read for the last time then, has saved its state, and ends.
    Left { stopped_reading: f64 },
}

/// Seconds on a clock that never steps and that all processes of the machine share.
pub(super) fn shared_clock() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn send(link: &UnixStream, message: &Message, descriptors: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    sys::send_with_descriptors(link, &serde_json::to_vec(message)?, &borrowed)
}

/// The next message; `None` at the end, which a process that died makes as well.
fn receive(link: &UnixStream) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let (text, descriptors) = sys::receive_with_descriptors(link)?;
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&text)?, descriptors)))
}

/// Where the program of this process is. It is asked for first at the start: an upgrade puts another file in its place.
pub(crate) fn program() -> Option<&'static PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::current_exe().ok()).as_ref()
}

/// Why a daemon cannot hand over to another process, if so.
pub(super) fn obstacle(config: &Config, has_capture: bool) -> Option<&'static str> {
    if config.cluster.role != Role::Standalone {
        return Some(
            "this is a node of a cluster, which loses nothing when its nodes restart one after the other: restart it",
        );
    }
    has_capture.then_some("two processes cannot write one capture: restart without `--capture`")
}

/// The new process, as the old one sees it.
#[derive(Debug)]
pub(crate) struct Successor {
    link: UnixStream,
    child: Child,
    version: String,
}

impl Successor {
    /// Starts the program anew, with the arguments of this process, passes it these sockets, and waits until it reads them.
    ///
    /// # Errors
    /// In words, if it cannot be started, fails, or does not read in time; it has ended then.
    pub(crate) fn start(sockets: Vec<(String, OwnedFd)>, grace: Duration) -> Result<Successor, String> {
        let program = program().ok_or("it is not known which program this process runs")?;
        let (link, input) = sys::message_pair().map_err(|error| format!("cannot make a pair of sockets: {error}"))?;
        link.set_read_timeout(Some(STARTING)).map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, "1").stdin(Stdio::from(OwnedFd::from(input)));
        for variable in OF_THIS_PROCESS {
            command.env_remove(variable);
        }
        let child = command.spawn().map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        // With the command goes its copy of the other end: an end of the child is seen.
        drop(command);
        let mut successor = Successor { link, child, version: String::new() };
        match successor.pass(sockets, grace) {
            Ok(()) => Ok(successor),
            Err(problem) => {
                successor.end();
                Err(problem)
            }
        }
    }

    fn pass(&mut self, mut sockets: Vec<(String, OwnedFd)>, grace: Duration) -> Result<(), String> {
        let cannot = |error: io::Error| format!("cannot talk to the new process: {error}");
        while !sockets.is_empty() {
            let some = sockets.split_off(sockets.len().saturating_sub(MOST_PASSED));
            let (names, descriptors): (Vec<_>, Vec<_>) = some.into_iter().unzip();
            send(&self.link, &Message::Sockets { names }, &descriptors).map_err(cannot)?;
        }
        let version = env!("CARGO_PKG_VERSION").to_string();
        send(&self.link, &Message::Begin { version, grace_secs: grace.as_secs_f64() }, &[]).map_err(cannot)?;
        match receive(&self.link) {
            Ok(Some((Message::Reading { version, .. }, _))) => {
                self.version = version;
                Ok(())
            }
            Ok(Some(_)) => Err("the new process says something else than expected".into()),
            Ok(None) => Err("the new process has ended; its messages are in the log".into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(format!("the new process does not read after {} s", STARTING.as_secs()))
            }
            Err(error) => Err(cannot(error)),
        }
    }

    /// What is said of it.
    pub(crate) fn upgrading(&self) -> Upgrading {
        Upgrading { pid: self.child.id(), version: self.version.clone(), from: env!("CARGO_PKG_VERSION") }
    }

    /// Says that this process has saved everything, and when it has read for the last time.
    pub(super) fn leave(self, stopped_reading: f64) {
        if let Err(error) = send(&self.link, &Message::Left { stopped_reading }, &[]) {
            tracing::error!(%error, "the new process cannot be told that this one has left");
        }
    }

    /// Ends it.
    pub(crate) fn end(mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The old process, as the new one sees it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    link: UnixStream,
    version: String,
    patience: Duration,
}

impl Predecessor {
    /// Who hands over to this process, if somebody does, with the sockets offered to whoever binds their addresses.
    ///
    /// # Errors
    /// In words, if it ends, or says what is not expected.
    pub(crate) fn find() -> Result<Option<Predecessor>, String> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let cannot = |error: io::Error| format!("cannot talk to the process before this one: {error}");
        let link = sys::message_socket_of_input().map_err(cannot)?;
        link.set_read_timeout(Some(STARTING)).map_err(cannot)?;
        loop {
            match receive(&link).map_err(cannot)? {
                Some((Message::Sockets { names }, sockets)) => {
                    names.iter().zip(sockets).for_each(|(name, socket)| sys::offer_socket(name, socket));
                }
                Some((Message::Begin { version, grace_secs }, _)) => {
                    let grace = Duration::try_from_secs_f64(grace_secs).unwrap_or_default();
                    return Ok(Some(Predecessor { link, version, patience: grace + LEAVING }));
                }
                Some(_) => return Err("the process before this one says something else than expected".into()),
                None => return Err("the process before this one has ended".into()),
            }
        }
    }

    /// Says that this process reads the sockets, and waits until the old one has left, however it does.
    ///
    /// # Errors
    /// If the old process is gone before.
    pub(super) fn take_over(self) -> Result<HandedOver, StartError> {
        let began = Instant::now();
        let began_reading = shared_clock();
        let version = env!("CARGO_PKG_VERSION").to_string();
        send(&self.link, &Message::Reading { version }, &[])
            .map_err(|error| StartError(format!("the process before this one is gone: {error}")))?;
        // A timeout of zero is none that can be set.
        let _ = self.link.set_read_timeout(Some(self.patience.max(LEAVING)));
        let left = receive(&self.link);
        let took_secs = began.elapsed().as_secs_f64();
        let stopped = match left {
            Ok(Some((Message::Left { stopped_reading }, _))) => Some(stopped_reading),
            Ok(_) => {
                tracing::error!("the process before this one ended before it had saved its state");
                None
            }
            Err(error) => {
                tracing::error!(%error, took_secs, "the process before this one does not leave; its state is not waited for");
                None
            }
        };
        // What fits no address here was of a listener that is configured no more.
        sys::close_untaken();
        let pause_secs = stopped.map_or(0.0, |stopped| (began_reading - stopped).max(0.0));
        tracing::info!(from = self.version, pause_secs, took_secs, "took over from another process");
        Ok(HandedOver { from: self.version, pause_secs, took_secs, is_clean: stopped.is_some() })
    }
}
