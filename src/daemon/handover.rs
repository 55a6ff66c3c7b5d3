//! The hand-over of a running daemon to a new process, which may be of another version: an upgrade.
//!
//! Both run side by side for a moment. The one that runs ([`Successor`]) starts the new one ([`Predecessor`]) with one end of a
//! pair of sockets as its standard input, and passes every socket that it listens on. Then they take turns:
//!
//! | the new process | the old process |
//! |---|---|
//! | says `hello` | goes on as ever; a program that is none of ours gets no sockets |
//! | receives the sockets | passes them |
//! | reads its configuration, binds, opens its sinks, starts its workers, and says `bound` | goes on as ever |
//! | waits | reads what the sockets hold, and nothing more: `stopped` |
//! | asks whether it may read: `ready` | passes the connections on, and lets it: `read` |
//! | reads the sockets: `reading` | waits a moment; if the new one has ended, it reads on as if nothing had been |
//! | waits; presence, spools and intervals stand still | saves the open interval and all else, lets its files go: `left`, or `unsaved` |
//! | goes on with what was saved | ends |
//!
//! Before it stops reading the old process writes for trial what it is to save, and holds the room for it: if that fails there is no
//! upgrade.
//!
//! Both say first where their state is and which formats they know. If the new one does not find, or cannot read, what the old
//! one would save, the old one closes the open interval itself, delivers it as at any stop, and both say so.
//!
//! So what comes over one socket stays in order, and nobody reads for some milliseconds, in which the kernel holds what comes.
//! With `read` the sockets are the new process's: the old one does not take them back while that lives, however long it is
//! silent, for it may have read. Before that it reads nothing, and the old one ends it if it takes too long. If the old one is gone,
//! the new one ends by itself, and so holds no addresses that nobody reads.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::{Config, Role};
use crate::fault;
use crate::http::{HandedOver, NO_PAGE, Upgrading};
use crate::net::framing::Begun;
use crate::net::{NamedConnection, OpenConnection};
use crate::state::StateFolder;
use crate::sys::{self, MOST_PASSED};
use crate::untrusted::excerpt;

use super::StartError;
use super::state::Keeping;

/// Tells a process that its standard input comes from the one that hands over to it. It is no setting, and so begins in
/// another way than those.
const VARIABLE: &str = "_SYSTOLE_PREDECESSOR";

/// Longest time until the new process reads: it reads its configuration and binds what is new.
const STARTING: Duration = Duration::from_secs(30);

/// Longest time that it takes to ask for its turn, and to say that it reads.
pub(super) const TURN: Duration = Duration::from_secs(5);

/// What is said of a new process whose end of the link is closed.
const ENDED: &str = "the new process has ended; its messages are in the log";

/// What is said before the reason why a new process cannot start.
const CANNOT_START: &str = "the new process cannot start: ";

/// What is said of a new process that does not keep to its turns.
const UNEXPECTED: &str = "the new process says something else than expected";

/// How long is looked how a process ended that fails.
const ENDING: Duration = Duration::from_millis(500);

/// Variables that the service manager has made for this process alone.
const OF_THIS_PROCESS: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// No descriptors go with a message.
const NOTHING: [OwnedFd; 0] = [];

/// What the processes say to each other, as JSON, one in each message. Fields that are unknown are skipped, so that versions
/// can differ.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// The new process takes sockets.
    Hello,
    /// Sockets are in this message, with the names under which the service manager passed them.
    Sockets { names: Vec<String> },
    /// There are no more. Who hands over, and where it saves its state.
    Begin {
        version: String,
        #[serde(default)]
        keeping: Keeping,
    },
    /// The new process is ready to read, looks for its state there, and has its page at this URL.
    Bound {
        version: String,
        #[serde(default)]
        keeping: Keeping,
        #[serde(default)]
        page: Option<String>,
    },
    /// The old process has read for the last time, at this time on the clock that both have.
    Stopped { at: f64 },
    /// The new process asks whether it may read.
    Ready,
    /// A connection is in this message, of the listener with this URL, and what it has sent of an unfinished line.
    Connection { url: String, begun: Begun },
    /// It may.
    Read,
    /// The new process reads.
    Reading,
    /// The new process cannot start, and ends.
    Failed { why: String },
    /// The old process has saved its state, and ends.
    Left,
    /// The old process could not save its state, has delivered its interval itself, and ends.
    Unsaved { why: String },
}

/// Seconds on a clock that never steps and that all processes of the machine share.
fn shared_clock() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn send(link: &UnixStream, message: &Message, descriptors: &[impl AsFd]) -> io::Result<()> {
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

/// Where the program of this process is. It is asked for first at the start: an upgrade puts another file in its place. A link
/// stays one, which an upgrade may have lead elsewhere.
pub(crate) fn program() -> Option<&'static PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let file = std::env::current_exe().ok();
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let called = std::env::args_os().next().and_then(|name| called(Path::new(&name), &folders, file.as_deref()));
        called.or(file)
    };
    PROGRAM.get_or_init(find).as_ref()
}

/// Where a program was started from that was called so; a name alone was looked for in these folders, and leads to this file.
fn called(name: &Path, folders: &OsStr, file: Option<&Path>) -> Option<PathBuf> {
    if name.parent().is_some_and(|folder| !folder.as_os_str().is_empty()) {
        return std::path::absolute(name).ok().filter(|path| path.is_file());
    }
    let all = std::env::split_paths(folders).filter_map(|folder| std::path::absolute(folder.join(name)).ok());
    all.into_iter().find(|path| path.canonicalize().is_ok_and(|real| Some(&*real) == file))
}

/// The file that a start of the program runs now, with the link that leads to it, if one does.
fn named(program: &Path) -> String {
    let path = program.display().to_string();
    match program.canonicalize() {
        Ok(file) if file != program => format!("{} ({path})", file.display()),
        _ => path,
    }
}

/// Why a daemon cannot hand over to another process, if so.
pub(super) fn obstacle(config: &Config, has_capture: bool) -> Option<&'static str> {
    if config.cluster.role != Role::Standalone {
        return Some(
            "this is a node of a cluster, which loses nothing when its nodes restart one after the other: restart it",
        );
    }
    if std::process::id() == 1 {
        return Some("this is the first process of a container, which would end with it: replace the container");
    }
    has_capture.then_some("two processes cannot write one capture: restart without `--capture`")
}

/// The new process, as the old one sees it.
#[derive(Debug)]
pub(crate) struct Successor {
    link: UnixStream,
    child: Child,
    /// What it runs.
    program: String,
    version: String,
    /// Where its page is.
    page: Option<String>,
    /// Why it does not go on with the state of this one, if so.
    no_state: Option<String>,
    /// How long saving that took for trial.
    pub(super) saving: Duration,
}

impl Successor {
    /// Starts the program anew, with the arguments of this process, and the priority of the thread that calls this.
    ///
    /// # Errors
    /// In words, if it cannot be started.
    pub(super) fn spawn() -> Result<Successor, String> {
        let program = program().ok_or("it is not known which program this process runs")?;
        let (link, input) = sys::message_pair().map_err(|error| format!("cannot make a pair of sockets: {error}"))?;
        let timeouts = link.set_read_timeout(Some(STARTING)).and(link.set_write_timeout(Some(STARTING)));
        timeouts.map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, "1").stdin(Stdio::from(OwnedFd::from(input)));
        for variable in OF_THIS_PROCESS {
            command.env_remove(variable);
        }
        let child = command.spawn().map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        // With the command goes its copy of the other end: an end of the child is seen.
        Ok(Successor {
            link,
            child,
            program: named(program),
            version: String::new(),
            page: None,
            no_state: None,
            saving: Duration::ZERO,
        })
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it goes on with the state of this process.
    pub(super) fn goes_on_with_state(&self) -> bool {
        self.no_state.is_none()
    }

    /// Ends the new process when this is dropped.
    pub(super) fn kill_on_drop(&self) -> Ending {
        Ending(Some(self.child.id()))
    }

    /// Passes sockets on when the new process asks for them, and waits until it is ready to read them. The state of this one is kept
    /// like that.
    ///
    /// # Errors
    /// In words, if it fails, or takes too long; it has ended then.
    pub(super) fn pass(mut self, mut sockets: Vec<(String, OwnedFd)>, keeping: &Keeping) -> Result<Successor, String> {
        let mut pass = || {
            let Message::Hello = self.next()? else { return Err(UNEXPECTED.to_string()) };
            while !sockets.is_empty() {
                let some = sockets.split_off(sockets.len().saturating_sub(MOST_PASSED));
                let (names, descriptors): (Vec<_>, Vec<_>) = some.into_iter().unzip();
                send(&self.link, &Message::Sockets { names }, &descriptors).map_err(|error| cannot_talk(&error))?;
            }
            let version = env!("CARGO_PKG_VERSION").to_string();
            let begin = Message::Begin { version, keeping: keeping.clone() };
            send(&self.link, &begin, &NOTHING).map_err(|error| cannot_talk(&error))?;
            match self.next()? {
                Message::Bound { version, keeping: next, page } => Ok((version, page, keeping.obstacle(&next))),
                _ => Err(UNEXPECTED.into()),
            }
        };
        match pass() {
            Ok((version, page, no_state)) => {
                (self.version, self.page, self.no_state) = (version, page, no_state);
                Ok(self)
            }
            Err(problem) => {
                let how = self.how_it_ended();
                self.kill();
                Err(how.filter(|_| !problem.starts_with(CANNOT_START)).unwrap_or(problem))
            }
        }
    }

    /// How the new process ended by itself, if it did.
    fn how_it_ended(&mut self) -> Option<String> {
        let began = Instant::now();
        // It lets its end of the link go a moment before it has ended.
        while began.elapsed() < ENDING {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(format!(
                    "the new process has ended before it said that it is ready ({status}); its messages are in the log"
                ));
            }
            std::thread::sleep(ENDING / 50);
        }
        None
    }

    /// What the new process says next.
    fn next(&self) -> Result<Message, String> {
        match receive(&self.link) {
            Ok(Some((Message::Failed { why }, _))) => Err(cannot_start(&why)),
            Ok(Some((message, _))) => Ok(message),
            Ok(None) => Err(ENDED.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err("the new process takes too long to read".into())
            }
            Err(error) => Err(cannot_talk(&error)),
        }
    }

    /// Says that this process reads nothing more, and lets the new one read, these connections, too. It may wait for so long before
    /// each answer.
    ///
    /// # Errors
    /// In words, if it does not read; it has ended then.
    pub(super) fn let_read(self, connections: Vec<NamedConnection>, patience: Duration) -> Result<Successor, String> {
        // Nobody reads meanwhile.
        let timeouts = self.link.set_read_timeout(Some(patience)).and(self.link.set_write_timeout(Some(patience)));
        let said = timeouts.and_then(|()| send(&self.link, &Message::Stopped { at: shared_clock() }, &NOTHING));
        let lets = said.map_err(|error| cannot_talk(&error)).and_then(|()| match self.next()? {
            Message::Ready => {
                let pass = |(url, OpenConnection { socket, begun })| {
                    send(&self.link, &Message::Connection { url, begun }, &[socket])
                };
                let passed = connections.into_iter().try_for_each(pass);
                let lets = passed.and_then(|()| send(&self.link, &Message::Read, &NOTHING));
                lets.map_err(|error| cannot_talk(&error))
            }
            _ => Err(UNEXPECTED.into()),
        });
        // From here on it may read: only its end gives the sockets back.
        let reads = lets.and_then(|()| match receive(&self.link) {
            Ok(None) => Err(ENDED.into()),
            Ok(Some((Message::Failed { why }, _))) => Err(cannot_start(&why)),
            Ok(Some(_)) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the new process does not say that it reads; the sockets are its own all the same");
                Ok(())
            }
        });
        match reads {
            Ok(()) => Ok(self),
            Err(problem) => {
                self.kill();
                Err(problem)
            }
        }
    }

    /// What is said of it by the process whose page is there.
    pub(crate) fn upgrading(&self, page: Option<&str>) -> Upgrading {
        let (program, version, no_state) = (self.program.clone(), self.version.clone(), self.no_state.clone());
        let next = self.page.as_deref();
        let page = (next != page).then(|| next.unwrap_or(NO_PAGE).to_string());
        Upgrading { pid: self.child.id(), program, version, from: env!("CARGO_PKG_VERSION"), page, no_state }
    }

    /// Says that this process has saved everything there, or that it could not.
    pub(super) fn leave(&self, state: &StateFolder) {
        let message = if state.is_unsaved() {
            let why = state.status().problem.unwrap_or_else(|| "the state folder does not answer".into());
            Message::Unsaved { why: format!("the old process could not save it: {why}") }
        } else {
            Message::Left
        };
        if let Err(error) = send(&self.link, &message, &NOTHING) {
            tracing::error!(%error, "the new process cannot be told that this one has left");
        }
    }

    /// Asks it to stop, as this process was asked to.
    pub(crate) fn stop(&self) {
        if let Err(error) = sys::signal_process(self.child.id(), libc::SIGTERM) {
            tracing::error!(%error, "the new process cannot be asked to stop");
        }
    }

    /// Ends it.
    pub(super) fn kill(mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends a process when it is dropped.
#[derive(Debug)]
pub(super) struct Ending(Option<u32>);

impl Ending {
    /// The process goes on, or whoever has it ends it.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Its parent has not waited for it yet, so that the number is its own.
            let _ = sys::signal_process(pid, libc::SIGKILL);
        }
    }
}

/// What is said of a new process that has said why it cannot start.
fn cannot_start(why: &str) -> String {
    format!("{CANNOT_START}{why}")
}

/// Why there is no hand-over.
fn cannot_talk(error: &io::Error) -> String {
    format!("cannot talk to the other process: {error}")
}

/// Why a new process ends.
fn goes_on() -> StartError {
    StartError("the process before this one goes on, or is gone: it does not hand over".into())
}

/// Calls `end` when the other end of the link is closed, unless what is returned is set by then.
fn end_with(link: &UnixStream, end: impl FnOnce() + Send + 'static) -> io::Result<Arc<AtomicBool>> {
    let (link, is_waiting) = (link.try_clone()?, Arc::new(AtomicBool::new(false)));
    let own = Arc::clone(&is_waiting);
    let watch = move || {
        sys::wait_for_end(&link);
        if !own.load(Ordering::Relaxed) {
            end();
        }
    };
    std::thread::Builder::new().name("predecessor".into()).spawn(watch)?;
    Ok(is_waiting)
}

/// Longest reason why a new process cannot start, in characters.
const MOST_WHY: usize = 2000;

/// The link to the old process, for a new one that cannot start, until it may read.
static LINK: Mutex<Option<UnixStream>> = Mutex::new(None);

/// Says to whoever hands over to this process, if somebody does, why it cannot start.
pub(crate) fn say_failure(why: &str) {
    if let Some(link) = LINK.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // If it is gone nobody waits for that; its log has it anyway.
        let _ = send(&link, &Message::Failed { why: excerpt(why.as_bytes(), MOST_WHY) }, &NOTHING);
    }
}

/// The old process, as the new one sees it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    link: UnixStream,
    version: String,
    keeping: Keeping,
    /// This process sees by itself whether the old one is gone.
    is_waiting: Arc<AtomicBool>,
}

/// The old process does not read any more.
#[derive(Debug)]
pub(super) struct Stopped {
    link: UnixStream,
    version: String,
    /// When it read for the last time.
    at: f64,
    /// Why this process does not go on with its state, if so.
    no_state: Option<String>,
    /// Those that this process goes on with.
    connections: Vec<NamedConnection>,
}

impl Predecessor {
    /// Who hands over to this process, if somebody does, with the sockets offered to whoever binds their addresses. If it is gone
    /// while this one starts, `end` is called: nobody reads those sockets.
    ///
    /// # Errors
    /// In words, if it ends, or says what is not expected.
    pub(crate) fn find(end: impl FnOnce() + Send + 'static) -> Result<Option<Predecessor>, String> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let link = sys::message_socket_of_input().map_err(|error| cannot_talk(&error))?;
        link.set_read_timeout(Some(STARTING)).map_err(|error| cannot_talk(&error))?;
        let own = link.try_clone().map_err(|error| cannot_talk(&error))?;
        *LINK.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
        let is_waiting = end_with(&link, end).map_err(|error| format!("cannot start a thread: {error}"))?;
        send(&link, &Message::Hello, &NOTHING).map_err(|error| cannot_talk(&error))?;
        loop {
            match receive(&link).map_err(|error| cannot_talk(&error))? {
                Some((Message::Sockets { names }, sockets)) => {
                    names.iter().zip(sockets).for_each(|(name, socket)| sys::offer_socket(name, socket));
                }
                Some((Message::Begin { version, keeping }, _)) => {
                    return Ok(Some(Predecessor { link, version, keeping, is_waiting }));
                }
                Some(_) => return Err("the process before this one says something else than expected".into()),
                None => return Err("the process before this one has ended".into()),
            }
        }
    }

    /// Says that this process is ready to read, and waits until the old one does not read any more and lets it. The state of this
    /// one is kept like that, and its page is there.
    ///
    /// # Errors
    /// If the old process goes on, or is gone.
    pub(super) fn await_turn(self, keeping: Keeping, page: Option<String>) -> Result<Stopped, StartError> {
        self.is_waiting.store(true, Ordering::Relaxed);
        let version = env!("CARGO_PKG_VERSION").to_string();
        let no_state = self.keeping.obstacle(&keeping);
        let bound = Message::Bound { version, keeping, page };
        let (Message::Stopped { at }, _) = self.ask(&bound)? else { return Err(goes_on()) };
        // From here on its end alone says that it does not read.
        LINK.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (mut answer, mut connections) = (self.ask(&Message::Ready)?, Vec::new());
        while let (Message::Connection { url, begun }, socket) = answer {
            let socket = socket.into_iter().next().ok_or_else(goes_on)?;
            connections.push((url, OpenConnection { socket: Arc::new(socket), begun }));
            answer = self.message()?;
        }
        let (Message::Read, _) = answer else { return Err(goes_on()) };
        fault::pass("turn");
        Ok(Stopped { link: self.link, version: self.version, at, no_state, connections })
    }

    /// Says something; what the old process says to it.
    fn ask(&self, message: &Message) -> Result<(Message, Vec<OwnedFd>), StartError> {
        send(&self.link, message, &NOTHING).map_err(|error| StartError(cannot_talk(&error)))?;
        self.message()
    }

    /// What the old process says next.
    fn message(&self) -> Result<(Message, Vec<OwnedFd>), StartError> {
        receive(&self.link).map_err(|error| StartError(cannot_talk(&error)))?.ok_or_else(goes_on)
    }
}

impl Stopped {
    /// Connections that the old process has read so far.
    pub(super) fn take_connections(&mut self) -> Vec<NamedConnection> {
        std::mem::take(&mut self.connections)
    }

    /// Says that this process reads, and waits until the old one has left, however it does.
    ///
    /// # Errors
    /// If the old process is gone before, and has saved nothing.
    pub(super) fn take_over(mut self) -> Result<HandedOver, StartError> {
        let (began, pause_secs) = (Instant::now(), shared_clock() - self.at);
        send(&self.link, &Message::Reading, &NOTHING).map_err(|error| StartError(cannot_talk(&error)))?;
        // As long as it lives it has files and locks that this process needs.
        let is_clean = loop {
            match receive(&self.link) {
                Ok(Some((Message::Left, _))) => break true,
                Ok(Some((Message::Unsaved { why }, _))) => {
                    self.no_state.get_or_insert(why);
                    break true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tracing::warn!(
                    waited_secs = began.elapsed().as_secs(),
                    "the process before this one does not leave; intervals are closed when it has"
                ),
                Ok(_) | Err(_) => {
                    tracing::error!("the process before this one ended before it had saved its state");
                    break false;
                }
            }
        };
        let took_secs = began.elapsed().as_secs_f64();
        let Stopped { version: from, no_state, .. } = self;
        match &no_state {
            None => tracing::info!(from, pause_secs, took_secs, "took over from another process"),
            Some(why) => {
                tracing::warn!(from, pause_secs, took_secs, "took over from another process without its state: {why}")
            }
        }
        Ok(HandedOver { from, pause_secs, took_secs, is_clean, no_state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    /// A process that only waits, and what it would say comes from the other end.
    fn successor() -> (Successor, UnixStream) {
        let (link, other) = sys::message_pair().expect("a pair");
        let child = Command::new("sleep").arg("1000").spawn().expect("it starts");
        let program = String::new();
        (
            Successor {
                link,
                child,
                program,
                version: String::new(),
                page: None,
                no_state: None,
                saving: Duration::ZERO,
            },
            other,
        )
    }

    fn says(other: &UnixStream) -> Message {
        receive(other).expect("a message").expect("no end").0
    }

    fn is_alive(pid: u32) -> bool {
        // It has no parent any more that would keep its number.
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_new_process_that_was_not_let_read_is_ended() {
        for is_silent in [true, false] {
            let (successor, other) = successor();
            let pid = successor.child.id();
            if !is_silent {
                // As one of which nothing is known.
                send(&other, &Message::Reading, &NOTHING).expect("sent");
            }
            assert!(successor.let_read(Vec::new(), PATIENCE).is_err());
            assert!(!is_alive(pid));
            assert!(matches!(says(&other), Message::Stopped { .. }));
            assert!(receive(&other).expect("the end").is_none(), "it was not let read");
        }
    }

    #[test]
    fn a_new_process_that_was_let_read_is_not_ended_however_slow_it_is() {
        let (successor, other) = successor();
        send(&other, &Message::Ready, &NOTHING).expect("sent");
        let mut successor = successor.let_read(Vec::new(), PATIENCE).expect("it may have read");
        assert!(matches!(says(&other), Message::Stopped { .. }));
        assert!(matches!(says(&other), Message::Read));
        assert!(successor.child.try_wait().expect("a child").is_none(), "it lives");
        successor.kill();
    }

    #[test]
    fn a_new_process_that_fails_when_it_was_let_read_gives_the_sockets_back() {
        let (successor, other) = successor();
        send(&other, &Message::Ready, &NOTHING).expect("sent");
        send(&other, &Message::Failed { why: "of this".into() }, &NOTHING).expect("sent");
        let problem = successor.let_read(Vec::new(), Duration::from_secs(20)).err();
        assert_eq!(problem.as_deref(), Some("the new process cannot start: of this"));
    }

    #[test]
    fn a_new_process_that_ends_when_it_was_let_read_gives_the_sockets_back() {
        let (successor, other) = successor();
        send(&other, &Message::Ready, &NOTHING).expect("sent");
        let ends = std::thread::spawn(move || {
            assert!(matches!(says(&other), Message::Stopped { .. }));
            assert!(matches!(says(&other), Message::Read));
        });
        assert_eq!(successor.let_read(Vec::new(), Duration::from_secs(20)).err().as_deref(), Some(ENDED));
        ends.join().expect("it ends");
    }
}
