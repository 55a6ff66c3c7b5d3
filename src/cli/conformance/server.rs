//! The server that is judged: started, sent lines, listened to, and ended.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hyper::Method;

use crate::http_client::HttpClient;
use crate::sys::{kill_group, signal_process};

use super::samples::{Sample, StatsdLines, graphite, prometheus};

/// How what comes out is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Graphite's plaintext, to the TCP port {out}
    Graphite,
    /// A scrape of the port {out}
    Prometheus,
    /// StatsD lines, to the port {out} by UDP or TCP
    Statsd,
}

impl Output {
    pub(super) fn name(self) -> &'static str {
        match self {
            Output::Graphite => "graphite",
            Output::Prometheus => "prometheus",
            Output::Statsd => "statsd",
        }
    }
}

/// How lines are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Transport {
    /// A datagram each
    Udp,
    /// A connection for each vector
    Tcp,
}

/// How a server is started and listened to.
#[derive(Clone, Debug)]
pub(super) struct Start {
    /// A shell's command, with {port} and {out}.
    pub(super) command: String,
    pub(super) output: Output,
    pub(super) transport: Transport,
    /// Path of a scrape.
    pub(super) path: String,
}

/// A pause between two looks at what came out.
const LOOK: Duration = Duration::from_millis(50);
/// Between two datagrams: what a stock receive buffer holds is never reached.
const PACE: Duration = Duration::from_millis(1);
/// How long a server that was asked to end may take.
const END: Duration = Duration::from_secs(5);
/// Longest scrape.
const SCRAPE: Duration = Duration::from_secs(5);
/// Most bytes of its last words that are shown.
const LAST_WORDS: usize = 600;

/// Why nothing more can be expected of a server.
#[derive(Debug, PartialEq)]
pub(super) enum Gone {
    /// Its process has ended.
    Ended,
    /// Nothing came out in time.
    Silent,
}

/// A server that runs; it is ended when this is dropped.
pub(super) struct Server {
    child: Child,
    port: u16,
    transport: Transport,
    received: Received,
    last_words: Arc<Mutex<Vec<u8>>>,
}

impl Server {
    /// Starts one on ports that nobody has.
    ///
    /// # Errors
    /// If no port can be had, or there is no shell.
    pub(super) fn start(start: &Start) -> io::Result<Server> {
        let port = match start.transport {
            Transport::Udp => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port(),
            Transport::Tcp => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port(),
        };
        let (received, out) = Received::open(start)?;
        let command = start.command.replace("{port}", &port.to_string()).replace("{out}", &out.to_string());
        let mut child = Command::new("sh")
            .args(["-c", &command])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // What it starts ends with it.
            .process_group(0)
            .spawn()?;
        let last_words = Arc::new(Mutex::new(Vec::new()));
        if let Some(mut said) = child.stderr.take() {
            let last_words = Arc::clone(&last_words);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = said.read(&mut buffer) {
                    let mut last = last_words.lock().unwrap_or_else(PoisonError::into_inner);
                    last.extend_from_slice(&buffer[..count]);
                    let from = last.len().saturating_sub(LAST_WORDS);
                    last.drain(..from);
                }
            });
        }
        Ok(Server { child, port, transport: start.transport, received, last_words })
    }

    /// The end of what it wrote to standard error.
    pub(super) fn last_words(&self) -> String {
        String::from_utf8_lossy(&self.last_words.lock().unwrap_or_else(PoisonError::into_inner)).trim().to_string()
    }

    /// Whether its process has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends datagrams, or parts of one stream. That nobody is there is seen by what comes out.
    pub(super) fn send(&self, datagrams: &[String]) {
        // Whether it was taken shows in what comes out.
        let _ = self.try_send(datagrams);
    }

    fn try_send(&self, datagrams: &[String]) -> io::Result<()> {
        match self.transport {
            Transport::Udp => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                socket.connect((Ipv4Addr::LOCALHOST, self.port))?;
                for datagram in datagrams {
                    socket.send(datagram.as_bytes())?;
                    std::thread::sleep(PACE);
                }
            }
            Transport::Tcp => {
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
                for part in datagrams {
                    let end = if part.ends_with('\n') { "" } else { "\n" };
                    stream.write_all(format!("{part}{end}").as_bytes())?;
                }
                stream.shutdown(Shutdown::Write)?;
                // The next connection may be read before this one otherwise.
                stream.set_read_timeout(Some(LOOK))?;
                let _ = stream.read(&mut [0; 64]);
            }
        }
        Ok(())
    }

    /// What has come out so far.
    pub(super) fn samples(&mut self) -> Vec<Sample> {
        self.received.samples()
    }

    /// Sends a counter again and again until it comes out: what was sent before is then out as well, or comes with it.
    ///
    /// # Errors
    /// That the server has gone, or is silent for longer than `patience`.
    pub(super) fn await_counter(&mut self, name: &str, patience: Duration) -> Result<Vec<Sample>, Gone> {
        let end = Instant::now() + patience;
        let again = Duration::from_millis(500);
        let mut next = Instant::now();
        while Instant::now() < end {
            if self.has_ended() {
                return Err(Gone::Ended);
            }
            if Instant::now() >= next {
                self.send(&[format!("{name}:1|c")]);
                next = Instant::now() + again;
            }
            std::thread::sleep(LOOK);
            let is_it = |sample: &Sample| sample.name.contains(name) && sample.value > 0.0;
            if self.samples().iter().any(is_it) {
                return Ok(self.settled());
            }
        }
        Err(Gone::Silent)
    }

    /// What has come out when nothing more comes: the rest of a flush follows its beginning.
    fn settled(&mut self) -> Vec<Sample> {
        let mut before = self.samples();
        for _ in 0..20 {
            std::thread::sleep(2 * LOOK);
            let now = self.samples();
            if now.len() == before.len() {
                return now;
            }
            before = now;
        }
        before
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.child.id();
        if !self.has_ended() {
            let _ = signal_process(pid, libc::SIGTERM);
            let end = Instant::now() + END;
            while !self.has_ended() && Instant::now() < end {
                std::thread::sleep(LOOK);
            }
        }
        // Nobody may be left.
        let _ = kill_group(pid);
        let _ = self.child.wait();
    }
}

/// What came out, of whatever form.
enum Received {
    Written(Arc<Mutex<Vec<Sample>>>),
    Lines(Arc<Mutex<StatsdLines>>),
    Scraped { runtime: Box<tokio::runtime::Runtime>, client: Box<HttpClient>, url: String },
}

impl Received {
    /// Opens the port that a server writes to, or leaves one for it to be scraped at.
    fn open(start: &Start) -> io::Result<(Received, u16)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let out = listener.local_addr()?.port();
        let received = match start.output {
            Output::Graphite => {
                let all = Arc::new(Mutex::new(Vec::new()));
                let into = Arc::clone(&all);
                listen(listener, move |line| {
                    into.lock().unwrap_or_else(PoisonError::into_inner).extend(graphite(line));
                });
                Received::Written(all)
            }
            Output::Statsd => {
                let all = Arc::new(Mutex::new(StatsdLines::default()));
                let (of_datagrams, of_streams) = (Arc::clone(&all), Arc::clone(&all));
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, out))?;
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(count) = socket.recv(&mut buffer) {
                        let mut lines = of_datagrams.lock().unwrap_or_else(PoisonError::into_inner);
                        String::from_utf8_lossy(&buffer[..count]).lines().for_each(|line| lines.add(line));
                    }
                });
                listen(listener, move |line| of_streams.lock().unwrap_or_else(PoisonError::into_inner).add(line));
                Received::Lines(all)
            }
            Output::Prometheus => {
                let runtime = Box::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
                let url = format!("http://127.0.0.1:{out}{}", start.path);
                Received::Scraped { runtime, client: Box::new(HttpClient::new()?), url }
            }
        };
        Ok((received, out))
    }

    fn samples(&mut self) -> Vec<Sample> {
        match self {
            Received::Written(all) => all.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Received::Lines(all) => all.lock().unwrap_or_else(PoisonError::into_inner).samples(),
            Received::Scraped { runtime, client, url } => {
                let answer = runtime.block_on(client.ask(Method::GET, url, None, None, SCRAPE));
                let text = answer.ok().filter(|answer| answer.is_good());
                text.map_or(Vec::new(), |answer| prometheus(&String::from_utf8_lossy(&answer.body)))
            }
        }
    }
}

/// Passes on every line of every connection, until this process ends.
fn listen(listener: TcpListener, take: impl Fn(&str) + Clone + Send + 'static) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let take = take.clone();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream);
                let mut line = Vec::new();
                while let Ok(1..) = lines.read_until(b'\n', &mut line) {
                    take(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            });
        }
    });
}
