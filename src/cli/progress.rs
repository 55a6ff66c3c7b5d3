//! What takes longer than a second says on a terminal how far it is: in one line of standard error, which is gone at the end.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// What is over sooner says nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two texts.
const AGAIN: Duration = Duration::from_millis(250);

/// Shows progress until it is dropped.
pub(super) struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows what `text` says after so long.
    pub(super) fn start(text: impl Fn(Duration) -> String + Send + 'static) -> Progress {
        if !io::stderr().is_terminal() {
            return Progress { stop: None, thread: None };
        }
        let (stop, stopped) = channel();
        let show = move || {
            let (began, mut pause) = (Instant::now(), PATIENCE);
            // If standard error is closed, nobody reads it.
            let write = |text: &str| drop(write!(io::stderr(), "\r\x1b[K{text}"));
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = AGAIN;
                write(&text(began.elapsed()));
            }
            if pause == AGAIN {
                write("");
            }
        };
        // Without a thread it works all the same, and says nothing.
        Progress { stop: Some(stop), thread: Builder::new().name("progress".into()).spawn(show).ok() }
    }

    /// Shows how much of a time is over, or how long it takes if the end is not known.
    pub(super) fn of_time(what: &'static str, length: Option<Duration>) -> Progress {
        Progress::start(move |elapsed| match length {
            Some(length) => format!("{what}: {} of {} s", elapsed.as_secs(), length.as_secs()),
            None => format!("{what}: {} s", elapsed.as_secs()),
        })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It never panics, and if it did there would be nothing to clear.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
