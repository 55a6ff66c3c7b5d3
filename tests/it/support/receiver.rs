//! An HTTP server for the tests of sinks: it answers as it is told, well or badly, and hands over what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A request, its body unpacked.
#[derive(Clone, Debug)]
pub struct Request {
    pub first: String,
    /// As they came, a line each, in lower case.
    pub headers: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What a request is answered with.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status and a body.
    Says(u16, &'static str),
    /// Status 200 and a body that is made for this answer.
    Made(String),
    /// A status, a header and a body.
    With(u16, &'static str, &'static str),
    /// Nothing, for ever.
    Nothing,
    /// A byte a second.
    Drips,
    /// What is no HTTP.
    Garbage,
    /// The beginning of an answer, and then the connection is closed.
    Breaks,
}

/// Answers each request with the next reply, the last for ever.
pub fn receiver(replies: Vec<Reply>) -> (SocketAddr, Receiver<Request>) {
    let (send, requests) = channel();
    let mut replies = replies.into_iter().peekable();
    let address = serve("127.0.0.1:0".parse().expect("an address"), move |request| {
        let _ = send.send(request);
        let reply = replies.peek().expect("a reply").clone();
        if replies.len() > 1 {
            replies.next();
        }
        reply
    });
    (address, requests)
}

/// Answers each request as it is told.
pub fn serve(address: SocketAddr, mut reply: impl FnMut(Request) -> Reply + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
            while let Some(request) = read(&mut reader) {
                if !answer(&stream, &reply(request)) {
                    break;
                }
            }
        }
    });
    address
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let (mut first, mut headers, mut length) = (String::new(), String::new(), 0);
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return None;
    }
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        headers.push_str(&header.to_lowercase());
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if headers.contains("content-encoding: gzip") {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).expect("a gzipped body");
        body = plain;
    }
    Some(Request { first: first.trim().to_string(), headers, body })
}

/// Whether the connection goes on.
fn answer(mut stream: &TcpStream, reply: &Reply) -> bool {
    let whole = |status: u16, header: &str, said: &str| {
        format!("HTTP/1.1 {status} x\r\n{header}Content-Length: {}\r\n\r\n{said}", said.len())
    };
    match reply {
        Reply::Says(status, said) => stream.write_all(whole(*status, "", said).as_bytes()).is_ok(),
        Reply::Made(said) => stream.write_all(whole(200, "", said).as_bytes()).is_ok(),
        Reply::With(status, header, said) => {
            stream.write_all(whole(*status, &format!("{header}\r\n"), said).as_bytes()).is_ok()
        }
        Reply::Nothing => {
            // Until the other side has had enough.
            let mut byte = [0];
            let _ = stream.read(&mut byte);
            false
        }
        Reply::Drips => {
            for byte in whole(200, "", "slowly").bytes() {
                if stream.write_all(&[byte]).is_err() {
                    return false;
                }
                std::thread::sleep(Duration::from_secs(1));
            }
            true
        }
        Reply::Garbage => {
            let _ = stream.write_all(b"\x00\xff no HTTP at all\r\n\r\n");
            false
        }
        Reply::Breaks => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf");
            false
        }
    }
}
