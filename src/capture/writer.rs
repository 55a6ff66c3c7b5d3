//! Writes captures. Receive workers put what they read into a bounded queue and never wait; what does not fit, by number, bytes
//! or the queue's share of the memory, is counted as lost.
//!
//! When the file accepts nothing (a full disk, a pipe that nobody reads for a second), that is logged at once and writing
//! is retried every second; rows that arrive meanwhile are counted as lost. The writer waits for a pipe that is full for a
//! moment; rows stay in the queue. A partially written row is truncated, so that the file contains only whole rows; a
//! pipe, which cannot be truncated, gets the rest of the row first.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::memory::{Holder, Holding, Memory, footprint, vec_footprint};
use crate::supervise::Part;
use crate::sys::wait_writable;
use crate::telemetry::CaptureAccount;

use super::hex;

/// Most queued pieces.
const QUEUE: usize = 16_384;
/// Most bytes of queued pieces.
const QUEUE_BYTES: u64 = 32 << 20;
/// Bytes of their places, which are made at once, each with a word beside.
const PLACES_BYTES: u64 = vec_footprint::<(Piece, usize)>(QUEUE) as u64;
/// Bytes of rows that are written at once.
const BUFFER_BYTES: usize = 64 << 10;
/// Longest time that a row waits for further ones.
const LINGER: Duration = Duration::from_millis(100);
/// Pause before a failed write is retried.
const PAUSE: Duration = Duration::from_secs(1);
/// A pipe that has been full for this long counts as not being read.
const PATIENCE: Duration = Duration::from_secs(1);

/// A datagram, or lines of a stream.
#[derive(Debug)]
struct Piece {
    /// Unix seconds.
    at: f64,
    bytes: Vec<u8>,
    from: Option<SocketAddr>,
    via: &'static str,
}

#[derive(Debug)]
struct Counts {
    rows: AtomicU64,
    lost: AtomicU64,
    /// Bytes of the queue.
    held: Holding,
}

impl Counts {
    fn new(memory: &Memory) -> Counts {
        let held = memory.holding(Holder::Capture);
        held.set(PLACES_BYTES);
        Counts { rows: AtomicU64::new(0), lost: AtomicU64::new(0), held }
    }
}

/// The sending side. Cheap to clone; the capture ends when all clones are dropped.
#[derive(Clone, Debug)]
pub struct CaptureWriter {
    sender: SyncSender<Piece>,
    counts: Arc<Counts>,
}

impl CaptureWriter {
    /// Records a datagram, or whole lines of a stream, received at `at` Unix seconds.
    pub fn put(&self, at: f64, bytes: &[u8], from: Option<SocketAddr>, via: &'static str) {
        if !self.try_put(at, bytes, from, via) {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn try_put(&self, at: f64, bytes: &[u8], from: Option<SocketAddr>, via: &'static str) -> bool {
        let (held, size) = (&self.counts.held, footprint(bytes.len()) as u64);
        if held.bytes() + size > PLACES_BYTES + QUEUE_BYTES || held.would_exceed(size) {
            return false;
        }
        // Before the writer takes it out again.
        held.add(size);
        let is_put = self.sender.try_send(Piece { at, bytes: bytes.to_vec(), from, via }).is_ok();
        if !is_put {
            held.sub(size);
        }
        is_put
    }

    /// A view of the account that does not keep the capture alive.
    pub fn counter(&self) -> CaptureCounter {
        CaptureCounter(Arc::clone(&self.counts))
    }
}

/// The account of a capture.
#[derive(Clone, Debug)]
pub struct CaptureCounter(Arc<Counts>);

impl CaptureCounter {
    /// Rows written and lost so far.
    pub fn account(&self) -> CaptureAccount {
        // Independent counters: nothing else is published through them.
        CaptureAccount { rows: self.0.rows.load(Ordering::Relaxed), lost: self.0.lost.load(Ordering::Relaxed) }
    }
}

/// The result of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureSummary {
    /// Rows written.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Rows lost: the file was too slow or full, or `max_size` was reached.
    pub lost: u64,
    /// The last error of the file.
    pub problem: Option<String>,
}

/// In place of a file: the standard output.
const OUTPUT: &str = "-";

/// Opens the file of a capture; how long it is already.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let options = &mut OpenOptions::new();
    // A pipe that nobody reads must fail instead of blocking the thread.
    options.write(true).custom_flags(libc::O_NONBLOCK);
    if path != Path::new(OUTPUT) {
        return Ok((options.create(true).truncate(true).open(path)?, 0));
    }
    // Opened anew, so that whoever has it, too, keeps it blocking. A shell has truncated it, or has not for a purpose.
    let mut file = options.open("/dev/stdout")?;
    let is_file = file.metadata()?.is_file();
    let length = if is_file { file.seek(SeekFrom::End(0))? } else { 0 };
    Ok((file, length))
}

/// Starts a capture that begins at `started` Unix seconds, of at most `max_size` bytes, as this part of the daemon. `-` is the
/// standard output.
///
/// # Errors
/// If the file cannot be opened, or the thread cannot be started.
pub fn start(
    path: &Path,
    started: f64,
    max_size: Option<u64>,
    memory: &Memory,
    part: &Part,
) -> io::Result<(CaptureWriter, JoinHandle<CaptureSummary>)> {
    let (file, length) = open(path)?;
    let (sender, pieces) = sync_channel(QUEUE);
    let counts = Arc::new(Counts::new(memory));
    let header = format!("{{\"format\":\"systole-capture/1\",\"started\":{started}}}\n").into_bytes();
    let mut file = CaptureFile {
        path: path.to_path_buf(),
        out: file,
        counts: Arc::clone(&counts),
        length,
        first: header,
        buffer: Vec::new(),
        failing: None,
        problem: None,
        in_work: 0,
        is_full: false,
    };
    let thread = part.thread("capture", move |part| {
        part.keep(|| {
            // Left by a panic. A row that it cut is in the file; what follows begins on a line of its own.
            let lost = std::mem::take(&mut file.in_work);
            file.counts.lost.fetch_add(lost, Ordering::Relaxed);
            write(&mut file, started, max_size.unwrap_or(u64::MAX), &pieces, part)
        })
    })?;
    Ok((CaptureWriter { sender, counts }, thread))
}

fn write(
    file: &mut CaptureFile<File>,
    started: f64,
    max_size: u64,
    pieces: &Receiver<Piece>,
    part: &Part,
) -> CaptureSummary {
    let counts = Arc::clone(&file.counts);
    file.flush();
    let mut due: Option<Instant> = None;
    loop {
        let next = match due {
            None => pieces.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => pieces.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        match next {
            Ok(piece) => {
                counts.held.sub(footprint(piece.bytes.len()) as u64);
                file.in_work = 1;
                part.alive();
                let row = row(&piece, started);
                file.is_full |= file.size() + row.len() as u64 > max_size;
                if file.is_full || file.is_resting() {
                    file.in_work = 0;
                    counts.lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                file.buffer.extend_from_slice(row.as_bytes());
                file.in_work = 0;
                let is_due = due.get_or_insert_with(|| Instant::now() + LINGER);
                if file.buffer.len() < BUFFER_BYTES && *is_due > Instant::now() {
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        due = None;
        file.flush();
    }
    file.flush();
    let CaptureAccount { rows, lost } = CaptureCounter(counts).account();
    CaptureSummary { rows, bytes: file.length, lost, problem: file.problem.take() }
}

/// The output of a capture.
trait Medium: Write {
    /// Truncates to `length`; fails where that is not possible.
    fn cut(&mut self, length: u64) -> io::Result<()>;

    /// Waits until it is writable, or fails, with a timeout.
    fn wait(&self, longest: Duration);
}

impl Medium for File {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.seek(SeekFrom::Start(length)).map(|_| ())
    }

    fn wait(&self, longest: Duration) {
        // The next write reports the error.
        wait_writable(self, longest);
    }
}

/// The file, and the bytes that are not written yet.
struct CaptureFile<M> {
    path: PathBuf,
    out: M,
    counts: Arc<Counts>,
    /// Bytes written.
    length: u64,
    /// Bytes that are written first and are not a row: the header, or the rest of a row.
    first: Vec<u8>,
    /// Whole rows.
    buffer: Vec<u8>,
    failing: Option<Failing>,
    /// The last error.
    problem: Option<String>,
    /// Rows that a panic now would lose.
    in_work: u64,
    /// `max_size` was reached.
    is_full: bool,
}

/// A failed write.
struct Failing {
    again: Instant,
    /// Rows lost before.
    lost: u64,
}

fn rows(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

impl<M: Medium> CaptureFile<M> {
    /// Size of the file when everything is written.
    fn size(&self) -> u64 {
        self.length + (self.first.len() + self.buffer.len()) as u64
    }

    /// Whether the last write failed.
    fn is_resting(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.again > Instant::now())
    }

    /// Writes everything, or as many whole rows as the file accepts; the others are lost.
    fn flush(&mut self) {
        let first = self.first.len();
        let mut bytes = std::mem::take(&mut self.first);
        bytes.append(&mut self.buffer);
        if bytes.is_empty() {
            return;
        }
        self.in_work = rows(&bytes[first..]);
        let Err((error, written)) = write_all(&mut self.out, &bytes) else {
            self.length += bytes.len() as u64;
            self.counts.rows.fetch_add(std::mem::take(&mut self.in_work), Ordering::Relaxed);
            if let Some(failing) = self.failing.take() {
                let lost = self.counts.lost.load(Ordering::Relaxed) - failing.lost;
                tracing::info!(file = %self.path.display(), lost, "the capture goes on");
            }
            return;
        };
        // Keep what is written up to its last whole row; `first` is not lost.
        let whole = bytes[..written].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let kept = if whole == written || self.out.cut(self.length + whole as u64).is_ok() { whole } else { written };
        // Nothing is lost up to here: whole rows, `first`, and the row that cannot be truncated.
        let safe = if kept > whole {
            bytes[kept..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| kept + at + 1)
        } else {
            kept
        }
        .max(first);
        self.length += kept as u64;
        self.first = bytes[kept..safe].to_vec();
        self.counts.rows.fetch_add(rows(&bytes[first..safe]), Ordering::Relaxed);
        let lost_before = self.counts.lost.fetch_add(rows(&bytes[safe..]), Ordering::Relaxed);
        let lost = self.failing.as_ref().map_or(lost_before, |failing| failing.lost);
        if self.failing.is_none() {
            tracing::error!(
                file = %self.path.display(),
                %error,
                "the capture's file takes nothing; what comes is not recorded until it does"
            );
        }
        self.in_work = 0;
        self.failing = Some(Failing { again: Instant::now() + PAUSE, lost });
        self.problem = Some(error.to_string());
    }
}

/// Fails with the number of bytes written.
fn write_all(out: &mut impl Medium, bytes: &[u8]) -> Result<(), (io::Error, usize)> {
    let mut written = 0;
    let mut until = Instant::now() + PATIENCE;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), written)),
            Ok(more) => {
                written += more;
                until = Instant::now() + PATIENCE;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                out.wait(until.saturating_duration_since(Instant::now()));
            }
            Err(error) => return Err((error, written)),
        }
    }
    Ok(())
}

fn row(piece: &Piece, started: f64) -> String {
    let mut row = Map::new();
    // Microseconds are enough; a clock that was set back gives no negative time.
    let t = ((piece.at - started).max(0.0) * 1e6).round() / 1e6;
    row.insert("t".into(), t.into());
    match std::str::from_utf8(&piece.bytes) {
        Ok(text) => row.insert("data".into(), text.into()),
        Err(_) => row.insert("hex".into(), hex::encode(&piece.bytes).into()),
    };
    if let Some(from) = piece.from {
        row.insert("from".into(), from.to_string().into());
    }
    row.insert("via".into(), piece.via.into());
    Value::Object(row).to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use crate::log::disk::Disk;

    use super::*;

    impl Medium for Disk {
        fn cut(&mut self, length: u64) -> io::Result<()> {
            if self.is_pipe {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            self.bytes.truncate(length as usize);
            Ok(())
        }

        fn wait(&self, _: Duration) {
            unreachable!("it never says that it would block");
        }
    }

    #[test]
    fn a_full_file_holds_whole_rows_and_goes_on_and_every_row_is_counted() {
        for is_pipe in [false, true] {
            // Every place where a write can end early: in the header, in a row, between rows, twice in one row.
            for room in 0..24 {
                let out = Disk { room, is_pipe, ..Disk::default() };
                let counts = Arc::new(Counts::new(&Memory::unlimited()));
                let mut file = CaptureFile {
                    path: PathBuf::from("capture"),
                    out,
                    counts: Arc::clone(&counts),
                    length: 0,
                    first: b"header\n".to_vec(),
                    buffer: Vec::new(),
                    failing: None,
                    problem: None,
                    in_work: 0,
                    is_full: false,
                };
                file.flush();
                file.buffer.extend_from_slice(b"row1\nrow2\n");
                file.flush();
                file.out.room += 2;
                file.flush();
                file.out.room += 100;
                file.buffer.extend_from_slice(b"row3\n");
                file.flush();
                let text = String::from_utf8(file.out.bytes).expect("ASCII");
                let lines: Vec<&str> = text.lines().collect();
                assert!(text.ends_with('\n') && lines[0] == "header", "{room} {is_pipe}: {text}");
                assert!(lines[1..].iter().all(|line| ["row1", "row2", "row3"].contains(line)), "{room}: {text}");
                assert!(lines.contains(&"row3") && file.failing.is_none());
                let CaptureAccount { rows, lost } = CaptureCounter(counts).account();
                assert_eq!(
                    (rows + lost, lines.len() as u64, text.len() as u64),
                    (3, rows + 1, file.length),
                    "{room}: {text}"
                );
            }
        }
    }
}
