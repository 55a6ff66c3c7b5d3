//! Where a stream comes from: a port that servers write to, a file, or standard input. It is passed on in pieces of whole lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::config::{ListenUrl, listen_url};
use crate::sys::unix_time;

use super::super::print_error;

/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;
/// What a file begins with that gzip has packed (RFC 1952).
const PACKED: [u8; 2] = [0x1f, 0x8b];
/// Longest line; a longer one is malformed.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Pieces that may wait.
const QUEUE: usize = 64;

/// What the command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Listen(SocketAddr),
    File(PathBuf),
    Stdin,
}

impl Input {
    pub(super) fn parse(text: &str) -> Result<Input, String> {
        if text == "-" {
            return Ok(Input::Stdin);
        }
        if !text.contains("://") {
            return Ok(Input::File(text.into()));
        }
        const RIGHT: &str = "tcp://127.0.0.1:2003, a file, or - is right";
        if text.starts_with("http://") || text.starts_with("https://") {
            return Err(format!(
                "{RIGHT}: a scrape is no stream; docs/guides/from-statsd-exporter.md shows how two are compared"
            ));
        }
        if !text.starts_with("tcp://") {
            return Err(RIGHT.into());
        }
        match listen_url(text)? {
            ListenUrl::Tcp(address) => Ok(Input::Listen(address)),
            _ => Err(RIGHT.into()),
        }
    }

    /// Whether the kernel chooses the port.
    pub(super) fn is_any_port(&self) -> bool {
        matches!(self, Input::Listen(address) if address.port() == 0)
    }

    /// Whether a server writes it, which must not be kept waiting.
    pub(super) fn is_live(&self) -> bool {
        matches!(self, Input::Listen(_))
    }
}

/// Whole lines, and when they arrived.
struct Piece {
    lines: Vec<u8>,
    arrived: Option<f64>,
}

/// A stream, being read.
pub(super) struct Feed {
    receiver: mpsc::Receiver<Result<Piece, String>>,
    is_live: bool,
    is_closed: bool,
    piece: Piece,
    /// Where the next line of it begins.
    at: usize,
    /// Why it ended, if that is no good end.
    pub(super) problem: Option<String>,
}

impl Feed {
    pub(super) async fn open(label: &str, input: &Input) -> Result<Feed, String> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        match input {
            Input::Listen(address) => {
                let listener = TcpListener::bind(address).await;
                let listener = listener.map_err(|error| format!("cannot listen on tcp://{address}: {error}"))?;
                let bound = listener.local_addr().unwrap_or(*address);
                print_error(format_args!("{label} listens on tcp://{bound}"));
                tokio::spawn(accept(listener, sender));
            }
            Input::File(path) => {
                let problem = |error| format!("cannot read {}: {error}", path.display());
                let mut file = BufReader::new(File::open(path).map_err(problem)?);
                let is_packed = file.fill_buf().map_err(problem)?.starts_with(&PACKED);
                let from: Box<dyn Read + Send> =
                    if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
                let name = path.display().to_string();
                std::thread::spawn(move || read(from, &name, &sender));
            }
            Input::Stdin => {
                std::thread::spawn(move || read(Box::new(io::stdin()), "standard input", &sender));
            }
        }
        let piece = Piece { lines: Vec::new(), arrived: None };
        Ok(Feed { receiver, is_live: input.is_live(), is_closed: false, piece, at: 0, problem: None })
    }

    pub(super) fn is_live(&self) -> bool {
        self.is_live
    }

    /// Whether nothing more comes.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether nothing more comes, and all of it is taken.
    pub(super) fn has_ended(&self) -> bool {
        self.is_closed && self.at >= self.piece.lines.len()
    }

    /// When the next line arrived, where that says something.
    pub(super) fn arrived(&self) -> Option<f64> {
        self.piece.arrived
    }

    /// The next line that is there.
    pub(super) fn next_line(&mut self) -> Option<&[u8]> {
        let rest = self.piece.lines.get(self.at..).filter(|rest| !rest.is_empty())?;
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        self.at += end + 1;
        Some(&rest[..end])
    }

    /// Waits for more; does nothing before all that is there is taken.
    pub(super) async fn more(&mut self) {
        match self.receiver.recv().await {
            Some(Ok(piece)) => (self.piece, self.at) = (piece, 0),
            Some(Err(problem)) => self.problem = Some(problem),
            None => self.is_closed = true,
        }
    }
}

impl Feed {
    /// Takes what a server has sent already, once all before it is taken; whether there was something.
    pub(super) fn more_at_once(&mut self) -> bool {
        if !self.is_live || self.at < self.piece.lines.len() {
            return false;
        }
        match self.receiver.try_recv() {
            Ok(Ok(piece)) => {
                (self.piece, self.at) = (piece, 0);
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

/// Cuts what is read into pieces of whole lines.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Whether the line in work is too long: the rest of it is left out.
    is_cut: bool,
}

impl Lines {
    /// Takes more bytes; gives the lines that are whole.
    fn add(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        if self.is_cut {
            let end = memchr::memchr(b'\n', bytes)?;
            (self.is_cut, bytes) = (false, &bytes[end + 1..]);
        }
        self.buffer.extend_from_slice(bytes);
        let whole = memchr::memrchr(b'\n', &self.buffer).map_or(0, |end| end + 1);
        let rest = self.buffer.split_off(whole);
        let mut lines = std::mem::replace(&mut self.buffer, rest);
        if self.buffer.len() > MAX_LINE_BYTES {
            // What is left of it is malformed.
            (self.is_cut, lines) = (true, [&lines[..], b"too long\n"].concat());
            self.buffer.clear();
        }
        (!lines.is_empty()).then_some(lines)
    }

    /// What is left at the end.
    fn end(self) -> Option<Vec<u8>> {
        (!self.buffer.is_empty()).then_some(self.buffer)
    }
}

fn read(mut from: Box<dyn Read + Send>, name: &str, sender: &mpsc::Sender<Result<Piece, String>>) {
    let (mut lines, mut bytes) = (Lines::default(), vec![0; READ_BYTES]);
    // Nobody listens any more: nothing is to be read.
    let send = |lines: Vec<u8>| sender.blocking_send(Ok(Piece { lines, arrived: None })).is_ok();
    loop {
        match from.read(&mut bytes) {
            Ok(0) => {
                let _ = lines.end().map(send);
                break;
            }
            Ok(count) => {
                if lines.add(&bytes[..count]).is_some_and(|lines| !send(lines)) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let _ = sender.blocking_send(Err(format!("cannot read {name}: {error}")));
                break;
            }
        }
    }
}

async fn accept(listener: TcpListener, sender: mpsc::Sender<Result<Piece, String>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(receive(stream, sender.clone()))),
            // Such as too many open files: others may end.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
}

async fn receive(mut stream: TcpStream, sender: mpsc::Sender<Result<Piece, String>>) {
    let (mut lines, mut bytes) = (Lines::default(), vec![0; READ_BYTES]);
    loop {
        // A connection that breaks has ended.
        let count = stream.read(&mut bytes).await.unwrap_or(0);
        let whole = if count == 0 { std::mem::take(&mut lines).end() } else { lines.add(&bytes[..count]) };
        if let Some(lines) = whole
            && sender.send(Ok(Piece { lines, arrived: Some(unix_time()) })).await.is_err()
        {
            return;
        }
        if count == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_cut_into_whole_lines() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b"a 1"), None);
        assert_eq!(lines.add(b" 2\nb"), Some(b"a 1 2\n".to_vec()));
        assert_eq!(lines.add(&[b'x'; MAX_LINE_BYTES]), Some(b"too long\n".to_vec()));
        assert_eq!(lines.add(b"rest"), None);
        assert_eq!(lines.add(b"end\nc 1 2\nd"), Some(b"c 1 2\n".to_vec()));
        assert_eq!(lines.end(), Some(b"d".to_vec()));
    }

    #[test]
    fn a_stream_is_a_port_a_file_or_standard_input() {
        assert_eq!(Input::parse("-"), Ok(Input::Stdin));
        assert_eq!(Input::parse("a/b.gz"), Ok(Input::File("a/b.gz".into())));
        assert!(Input::parse("tcp://127.0.0.1:0").is_ok_and(|input| input.is_live()));
        for url in ["udp://127.0.0.1:1", "http://127.0.0.1:9102/metrics", "kafka://a"] {
            let problem = Input::parse(url).expect_err("no stream");
            assert!(
                problem.starts_with("tcp://127.0.0.1:2003, a file, or - is right") && !problem.contains("udp"),
                "{problem}"
            );
        }
    }
}
