//! The terminal while it is ours: raw, on its other screen, without a cursor. It is given back at the end, at a suspension, and
//! before a panic is told.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};

/// Whether the terminal is ours.
static IS_OURS: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back when it goes out of scope.
pub(super) struct Ours;

/// What is written in one piece.
pub(super) type Out = CrosstermBackend<io::BufWriter<io::Stdout>>;

impl Ours {
    /// Takes the terminal, and gives it back before a panic is told.
    pub(super) fn take() -> io::Result<(Ours, Terminal<Out>)> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        enter()?;
        let ours = Ours;
        let terminal = Terminal::new(CrosstermBackend::new(io::BufWriter::with_capacity(1 << 16, io::stdout())))?;
        Ok((ours, terminal))
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        give_back();
    }
}

/// Takes the terminal, at the start and after a suspension.
pub(super) fn enter() -> io::Result<()> {
    IS_OURS.store(true, Ordering::SeqCst);
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen)
}

/// Whether the terminal is ours.
pub(super) fn is_ours() -> bool {
    IS_OURS.load(Ordering::SeqCst)
}

/// Gives the terminal back, once.
pub(super) fn give_back() {
    if IS_OURS.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs nothing.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = io::stdout().flush();
    }
}
