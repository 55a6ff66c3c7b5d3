//! `systole send`: sends lines, each as a datagram of its own, or all over one connection.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};

use clap::Args;

use crate::config::{ListenUrl, listen_url};

use super::{FAILED, USAGE, complain};

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
            complain(format_args!("--to: {problem}"));
            return USAGE;
        }
    };
    match lines(&url, &args.lines) {
        Ok(()) => 0,
        Err(error) => {
            complain(format_args!("cannot send to {}: {error}", args.to));
            FAILED
        }
    }
}

/// Sends lines, a datagram each, or all over one connection.
pub(super) fn lines(to: &ListenUrl, lines: &[String]) -> io::Result<()> {
    match to {
        ListenUrl::Udp(address) => datagrams(*address, lines),
        ListenUrl::Tcp(address) => {
            let mut stream = TcpStream::connect(address)?;
            write_lines(&mut stream, lines)?;
            stream.shutdown(Shutdown::Write)
        }
        ListenUrl::Unix(path) => {
            let mut stream = UnixStream::connect(path)?;
            write_lines(&mut stream, lines)?;
            stream.shutdown(Shutdown::Write)
        }
        ListenUrl::Unixgram(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            lines.iter().try_for_each(|line| socket.send(line.as_bytes()).map(drop))
        }
        ListenUrl::Fd(_) => Err(io::Error::other("`fd://` is for listening")),
    }
}

fn datagrams(to: SocketAddr, lines: &[String]) -> io::Result<()> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    for line in lines {
        socket.send(line.as_bytes())?;
    }
    Ok(())
}

fn write_lines(out: &mut impl Write, lines: &[String]) -> io::Result<()> {
    lines.iter().try_for_each(|line| out.write_all(format!("{line}\n").as_bytes()))
}
