//! `systole send`: sends lines, each as a datagram of its own, or all over one connection.

use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use clap::Args;

use crate::config::{ListenUrl, listen_url};

use super::{FAILED, USAGE, complain};

#[derive(Args)]
pub(super) struct SendArgs {
    /// Lines, such as 'api.hits:1|c'
    #[arg(required = true, value_name = "LINE")]
    lines: Vec<String>,
    /// Where to: udp://HOST:PORT or tcp://HOST:PORT
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
    let sent = match url {
        ListenUrl::Udp(address) => datagrams(address, &args.lines),
        ListenUrl::Tcp(address) => stream(address, &args.lines),
    };
    match sent {
        Ok(()) => 0,
        Err(error) => {
            complain(format_args!("cannot send to {}: {error}", args.to));
            FAILED
        }
    }
}

pub(super) fn datagrams(to: SocketAddr, lines: &[String]) -> std::io::Result<()> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    for line in lines {
        socket.send(line.as_bytes())?;
    }
    Ok(())
}

pub(super) fn stream(to: SocketAddr, lines: &[String]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    for line in lines {
        stream.write_all(format!("{line}\n").as_bytes())?;
    }
    stream.shutdown(std::net::Shutdown::Write)
}
