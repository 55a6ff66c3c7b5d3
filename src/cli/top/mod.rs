//! `systole top`: a running daemon in a terminal. It asks the API over HTTP once an interval, of this machine or another
//! ([`source`]), keeps the last answers ([`model`]), and draws them ([`draw`]); a key changes what is shown ([`keys`]).
//!
//! One thread asks, one reads keys, one waits for the end of the terminal, this one draws. Only cells that have changed are
//! written, in one piece.

mod chart;
mod draw;
mod keys;
mod lists;
mod losses;
mod model;
mod panels;
mod screen;
mod source;
mod terminal;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use clap::Args;
use ratatui::Terminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::layout::{Position, Rect};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::fault;
use crate::http_client::without_login;

use super::client::{ClientArgs, DaemonClient};
use super::figures::is_utf8;
use super::{FAILED, USAGE, print_error};
use keys::{Action, App};
use source::{Answered, Wish, unix_now};
use terminal::{Ours, Out};

/// How often the beat of the first line is drawn while nothing else happens.
const BEAT: Duration = Duration::from_millis(500);

/// The wait for the loop to end when the terminal is gone.
const LAST_WAIT: Duration = Duration::from_secs(2);

#[derive(Args)]
#[command(
    after_help = "Keys: 1-7 views, arrows select, enter opens, s sorts, / filters, space freezes, e explains a line, ? help, q quits. \
                        NO_COLOR, and a locale without UTF-8, are heeded."
)]
pub(super) struct TopArgs {
    #[command(flatten)]
    daemon: ClientArgs,
}

/// What wakes the loop.
#[derive(Debug)]
enum Message {
    Input(Event),
    /// An answer, and the wish that it is for.
    Answered(Box<Wish>, Answered),
    /// SIGTSTP.
    Suspend,
    /// SIGTERM, SIGINT or SIGHUP, no terminal any more, or the end of another thread.
    Stop,
}

pub(super) fn run(args: &TopArgs) -> u8 {
    if !io::stdout().is_terminal() {
        print_error("top needs a terminal; `systole status` prints once");
        return USAGE;
    }
    #[cfg(feature = "internals")]
    if let Err(problem) = std::env::var(fault::VARIABLE).map_or(Ok(()), |armed| fault::arm(&armed)) {
        print_error(problem);
        return USAGE;
    }
    let outcome = args.daemon.client().and_then(|client| show(args, client));
    match outcome {
        Ok(()) => 0,
        Err(problem) => {
            print_error(problem);
            FAILED
        }
    }
}

fn show(args: &TopArgs, client: DaemonClient) -> Result<(), String> {
    let mut app = App::new(without_login(&args.daemon.url), is_utf8(), has_colours());
    let (out, messages) = mpsc::channel();
    let (wishes, wished) = watch::channel(app.wish());
    ask_beside(client, wished, out.clone())?;
    let (_ours, mut terminal) = Ours::take().map_err(|error| format!("cannot use the terminal: {error}"))?;
    watch_terminal(out.clone()).and_then(|()| read_keys(out)).map_err(|error| error.to_string())?;
    draw_on(&mut app, &mut terminal, &messages, &wishes).map_err(|error| format!("cannot draw: {error}"))
}

/// Whether the terminal has colours, and they are wanted (no-color.org).
fn has_colours() -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let terminal = std::env::var("TERM").unwrap_or_default();
    !is_unwanted && !matches!(terminal.as_str(), "" | "dumb" | "vt100" | "vt102" | "vt220")
}

/// A thread that asks the daemon, and hears signals.
fn ask_beside(client: DaemonClient, wished: watch::Receiver<Wish>, out: Sender<Message>) -> Result<(), String> {
    let runtime = super::runtime()?;
    let asks = move || {
        let _end = End(out.clone());
        runtime.block_on(async {
            let ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
            for kind in ends {
                pass(kind, out.clone(), || Message::Stop);
            }
            pass(SignalKind::from_raw(Signal::TSTP.as_raw()), out.clone(), || Message::Suspend);
            let tail = source::tail_on(client.clone(), wished.clone(), out.clone());
            tokio::join!(tail, source::ask_on(client, wished, out));
        });
    };
    let thread = std::thread::Builder::new().name("ask".into()).spawn(asks);
    thread.map(drop).map_err(|error| error.to_string())
}

/// Passes a signal on to the loop, as often as it comes.
fn pass(kind: SignalKind, out: Sender<Message>, message: fn() -> Message) {
    // A signal that cannot be handled does what it does by default.
    let Ok(mut signals) = signal(kind) else { return };
    tokio::spawn(async move { while signals.recv().await.is_some() && out.send(message()).is_ok() {} });
}

/// Ends the loop when the thread that has it ends, by a panic as well.
struct End(Sender<Message>);

impl Drop for End {
    fn drop(&mut self) {
        // Without a loop there is nothing to end.
        let _ = self.0.send(Message::Stop);
    }
}

/// A thread that reads keys and sizes. It ends with the process.
fn read_keys(out: Sender<Message>) -> io::Result<()> {
    let reads = move || {
        let end = End(out);
        while let Ok(event) = event::read() {
            if end.0.send(Message::Input(event)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("keys".into()).spawn(reads).map(drop)
}

/// A thread that ends the loop when nobody is at the terminal any more. The one that reads keys would not hear of it: its
/// reader takes the end of the input for no input, and tries again at once and for ever.
fn watch_terminal(out: Sender<Message>) -> io::Result<()> {
    let watches = move || {
        let end = End(out);
        let stdout = io::stdout();
        // Without a wish for events only an end is reported.
        let mut of = [PollFd::new(&stdout, PollFlags::empty())];
        while matches!(poll(&mut of, None), Ok(0) | Err(rustix::io::Errno::INTR)) {}
        drop(end);
        // Whatever the loop waits for: nobody is there to see it.
        std::thread::sleep(LAST_WAIT);
        std::process::exit(i32::from(FAILED));
    };
    std::thread::Builder::new().name("terminal".into()).spawn(watches).map(drop)
}

/// Draws whenever something has changed, until somebody quits.
fn draw_on(
    app: &mut App,
    terminal: &mut Terminal<Out>,
    messages: &Receiver<Message>,
    wishes: &watch::Sender<Wish>,
) -> io::Result<()> {
    loop {
        if !terminal::is_ours() {
            // Another thread has panicked, and told it.
            return Err(io::Error::other("a thread has failed"));
        }
        terminal.draw(|frame| draw::draw(frame.buffer_mut(), app, unix_now()))?;
        // What has room, and what is selected, is known after drawing.
        let wish = app.wish();
        wishes.send_if_modified(|known| {
            let is_new = *known != wish;
            *known = wish;
            is_new
        });
        let mut next = match messages.recv_timeout(BEAT) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        fault::pass("top");
        // All that has come is drawn at once.
        while let Some(message) = next {
            match take(app, message) {
                Action::Quit => return Ok(()),
                Action::Redraw => redraw(terminal)?,
                Action::Suspend => suspend(terminal)?,
                Action::Draw | Action::Nothing => {}
            }
            next = messages.try_recv().ok();
        }
    }
}

fn take(app: &mut App, message: Message) -> Action {
    match message {
        Message::Input(Event::Key(key)) if key.kind != KeyEventKind::Release => app.press(key),
        // Whatever the new size is, drawing finds it out.
        Message::Input(Event::Resize(..)) => Action::Draw,
        Message::Input(_) => Action::Nothing,
        Message::Answered(of, answered) => {
            app.take(&of, answered, unix_now());
            Action::Draw
        }
        Message::Suspend => Action::Suspend,
        Message::Stop => Action::Quit,
    }
}

/// Gives the terminal to the shell until SIGCONT.
fn suspend(terminal: &mut Terminal<Out>) -> io::Result<()> {
    terminal::give_back();
    kill_process(getpid(), Signal::STOP)?;
    terminal::enter()?;
    redraw(terminal)
}

/// Has every cell written anew. (`Terminal::clear` would ask the terminal where the cursor is, and the thread that reads keys
/// would get the answer.)
fn redraw(terminal: &mut Terminal<Out>) -> io::Result<()> {
    let size = terminal.size()?;
    terminal.resize(Rect::from((Position::ORIGIN, size)))
}
