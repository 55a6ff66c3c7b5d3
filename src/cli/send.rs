//! `systole send`: sends lines, each as a datagram of its own, or all over one connection.

use std::io::{self, Write};
use std::net::Shutdown;
use std::time::Duration;

use clap::Args;
use socket2::{SockAddr, Socket, Type};

use crate::config::{ListenUrl, listen_url, show_duration};
use crate::http_client::refuses_lines;

use super::{FAILED, USAGE, print_error};

/// Longest connect or send. The kernel repeats a lost connection request after a second.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How long is waited for the other end of a TCP connection to close it, or to refuse the lines.
const ANSWER: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(super) struct SendArgs {
    /// Lines, such as 'api.hits:1|c'
    #[arg(required = true, value_name = "LINE")]
    lines: Vec<String>,
    /// Where to: udp://HOST:PORT, tcp://HOST:PORT, unix:///PATH or unixgram:///PATH
    #[arg(long, value_name = "URL", default_value = "udp://127.0.0.1:8125")]
    to: String,
}

pub(super) fn run(args: &SendArgs) -> u8 {
    let url = match listen_url(&args.to) {
        Ok(url) => url,
        Err(problem) => {
            print_error(format_args!("--to: {problem}"));
            return USAGE;
        }
    };
    match lines(&url, &args.lines) {
        Ok(()) => 0,
        Err(error) => {
            print_error(format_args!("cannot send to {}: {error}", args.to));
            FAILED
        }
    }
}

/// Sends lines, each as a datagram, or all over one connection, with a timeout: neither a full backlog nor a suspended
/// daemon blocks the caller.
pub(super) fn lines(to: &ListenUrl, lines: &[String]) -> io::Result<()> {
    let (address, kind) = match to {
        ListenUrl::Udp(address) => (SockAddr::from(*address), Type::DGRAM),
        ListenUrl::Tcp(address) => (SockAddr::from(*address), Type::STREAM),
        ListenUrl::Unix(path) => (SockAddr::unix(path)?, Type::STREAM),
        ListenUrl::Unixgram(path) => (SockAddr::unix(path)?, Type::DGRAM),
        ListenUrl::Fd(_) => return Err(io::Error::other("`fd://` is for listening")),
    };
    deliver(&address, kind, lines).map_err(|error| match error.raw_os_error() {
        // The errors of a connect and a send that timed out.
        Some(libc::EINPROGRESS | libc::EAGAIN) => {
            io::Error::new(io::ErrorKind::TimedOut, format!("nothing was taken for {}", show_duration(PATIENCE)))
        }
        _ => error,
    })
}

fn deliver(to: &SockAddr, kind: Type, lines: &[String]) -> io::Result<()> {
    let mut socket = Socket::new(to.domain(), kind, None)?;
    // Linux applies it to connect too (socket(7)).
    socket.set_write_timeout(Some(PATIENCE))?;
    uninterrupted(|| socket.connect(to))?;
    if kind == Type::STREAM {
        let sent = lines.iter().try_for_each(|line| socket.write_all(format!("{line}\n").as_bytes()));
        let sent = sent.and_then(|()| socket.shutdown(Shutdown::Write));
        if !to.is_unix() {
            refuses_lines(&socket, ANSWER)?;
        }
        sent
    } else {
        lines.iter().try_for_each(|line| uninterrupted(|| socket.send(line.as_bytes()).map(drop)))
    }
}

/// Retries a call that a signal interrupted; with a timeout set the kernel does not restart it (signal(7)).
fn uninterrupted(call: impl Fn() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
