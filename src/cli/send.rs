//! `systole send`: sends lines, each as a datagram of its own, or all over one connection.

use std::io::{self, BufRead, IsTerminal, Write};
use std::net::Shutdown;
use std::time::Duration;

use clap::Args;
use socket2::{SockAddr, Socket, Type};

use crate::config::{ListenUrl, listen_url, show_duration};
use crate::http_client::refuses_lines;
use crate::protocol::{self, Line, Options, lossy};
use crate::untrusted::Escaped;

use super::{FAILED, INPUT, USAGE, print_error};

/// Longest connect or send. The kernel repeats a lost connection request after a second.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How long is waited for the other end of a TCP connection to close it, or to refuse the lines.
const ANSWER: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(super) struct SendArgs {
    /// Lines, such as 'api.hits:1|c'; without any, or for `-`, the rows of standard input
    #[arg(value_name = "LINE")]
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
    let is_of_input = args.lines.is_empty() || args.lines == [INPUT];
    if args.lines.is_empty() && io::stdin().is_terminal() {
        print_error("no line; give some, such as 'api.hits:1|c', or `-` to write them here");
        return USAGE;
    }
    let mut look = Look::default();
    let mut looked_at = |line: io::Result<Vec<u8>>| line.inspect(|line| look.at(line));
    let sent = if is_of_input {
        let rows =
            io::stdin().lock().split(b'\n').filter(|row| row.as_ref().map_or(true, |row| !row.trim_ascii().is_empty()));
        let why = |error| io::Error::other(format!("cannot read standard input: {error}"));
        each(&url, rows.map(|row| looked_at(row.map_err(why))))
    } else {
        each(&url, args.lines.iter().map(|line| looked_at(Ok(line.as_bytes().to_vec()))))
    };
    look.end();
    match sent {
        Ok(()) if look.count == 0 && args.lines.is_empty() => {
            print_error("there is no line on standard input; nothing was sent");
            USAGE
        }
        Ok(()) => 0,
        Err(error) => {
            print_error(format_args!("cannot send to {}: {error}", args.to));
            FAILED
        }
    }
}

/// Most lines that are named because they are no metrics.
const MOST_NAMED: u64 = 10;

/// Looks at what is sent: what a server would refuse is sent all the same, and warned of.
#[derive(Default)]
struct Look {
    count: u64,
    odd: u64,
}

impl Look {
    fn at(&mut self, sent: &[u8]) {
        self.count += 1;
        for line in protocol::lines(sent) {
            let problem = match protocol::parse_line(line, &Options::default()) {
                Ok(Line::Samples(mut samples)) => samples.find_map(Result::err),
                Ok(Line::Event(_) | Line::ServiceCheck(_) | Line::Empty) => None,
                Err(problem) => Some(problem),
            };
            let Some(problem) = problem else { continue };
            self.odd += 1;
            if self.odd <= MOST_NAMED {
                let (line, n) = (lossy(line), self.count);
                print_error(format_args!(
                    "warning: line {n}, `{}`, is no metric: {}",
                    Escaped(&line),
                    problem.message()
                ));
            }
        }
    }

    fn end(&self) {
        if self.odd > MOST_NAMED {
            print_error(format_args!("warning: {} more lines are no metrics", self.odd - MOST_NAMED));
        }
    }
}

/// Sends lines, each as a datagram, or all over one connection, with a timeout: neither a full backlog nor a suspended
/// daemon blocks the caller.
pub(super) fn lines(to: &ListenUrl, lines: &[String]) -> io::Result<()> {
    each(to, lines.iter().map(|line| Ok(line.as_bytes().to_vec())))
}

/// The same of lines as they come.
fn each(to: &ListenUrl, lines: impl Iterator<Item = io::Result<Vec<u8>>>) -> io::Result<()> {
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

fn deliver(to: &SockAddr, kind: Type, mut lines: impl Iterator<Item = io::Result<Vec<u8>>>) -> io::Result<()> {
    let mut socket = Socket::new(to.domain(), kind, None)?;
    // Linux applies it to connect too (socket(7)).
    socket.set_write_timeout(Some(PATIENCE))?;
    uninterrupted(|| socket.connect(to))?;
    if kind == Type::STREAM {
        let sent = lines.try_for_each(|line| {
            let mut line = line?;
            line.push(b'\n');
            socket.write_all(&line)
        });
        let sent = sent.and_then(|()| socket.shutdown(Shutdown::Write));
        if !to.is_unix() {
            refuses_lines(&socket, ANSWER)?;
        }
        sent
    } else {
        lines.try_for_each(|line| {
            let line = line?;
            uninterrupted(|| socket.send(&line).map(drop))
        })
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
