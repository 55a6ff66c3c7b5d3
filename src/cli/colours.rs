//! Colours, on a terminal that takes them: `anstream` leaves them out of files and pipes, with NO_COLOR, and on terminals that have
//! none, and puts them in with CLICOLOR_FORCE.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

/// What is well.
pub(super) const FINE: Style = AnsiColor::Green.on_default();
/// What to look at.
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default();
/// What is wrong.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// A place.
pub(super) const PLACE: Style = Style::new().bold();

/// A text in a colour.
pub(super) fn painted(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Writes a text with colours to standard output; `false` if that failed. A reader that has gone is not an error.
pub(super) fn print(text: &str) -> bool {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            super::print_error(format_args!("cannot write: {error}"));
            false
        }
        Ok(()) | Err(_) => true,
    }
}

/// The same for standard error: if that is closed, nobody reads it.
pub(super) fn print_to_errors(text: &str) {
    let _ = anstream::stderr().lock().write_all(text.as_bytes());
}
