//! The tape: records the wire with times, as a capture that `replay` reads. Receive workers put what they read into a
//! bounded queue and never wait; what does not fit is counted.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use serde_json::{Map, Value};

/// Pieces that may wait to be written.
const QUEUE: usize = 16_384;

/// A piece of the wire.
#[derive(Debug)]
struct Piece {
    /// Unix seconds.
    at: f64,
    bytes: Vec<u8>,
    from: Option<SocketAddr>,
    via: &'static str,
}

/// Where pieces are put. Cheap to clone; the tape ends when every one is gone.
#[derive(Clone, Debug)]
pub struct Tape {
    sender: SyncSender<Piece>,
    lost: Arc<AtomicU64>,
}

impl Tape {
    /// Records a datagram, or whole lines of a stream, that came at `at` Unix seconds.
    pub fn put(&self, at: f64, bytes: &[u8], from: Option<SocketAddr>, via: &'static str) {
        if self.sender.try_send(Piece { at, bytes: bytes.to_vec(), from, via }).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What is on a tape when it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Taped {
    /// Rows written.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Pieces that are not on it, because the disk was too slow or `max_size` was reached.
    pub lost: u64,
}

/// Starts a tape that begins at `started` Unix seconds. It takes no more than `max_size` bytes.
///
/// # Errors
/// If the file cannot be written, or the thread not be started.
pub fn start(path: &Path, started: f64, max_size: Option<u64>) -> io::Result<(Tape, JoinHandle<io::Result<Taped>>)> {
    let mut file = BufWriter::new(File::create(path)?);
    let header = format!("{{\"format\":\"systole-capture/1\",\"started\":{started}}}\n");
    file.write_all(header.as_bytes())?;
    let (sender, pieces) = sync_channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let tape = Tape { sender, lost: Arc::clone(&lost) };
    let write = move || write(file, started, max_size.unwrap_or(u64::MAX), header.len() as u64, &pieces, &lost);
    let thread = std::thread::Builder::new().name("tape".into()).spawn(write)?;
    Ok((tape, thread))
}

fn write(
    mut file: BufWriter<File>,
    started: f64,
    max_size: u64,
    header: u64,
    pieces: &Receiver<Piece>,
    lost: &AtomicU64,
) -> io::Result<Taped> {
    let mut taped = Taped { bytes: header, ..Taped::default() };
    let mut is_full = false;
    for piece in pieces {
        let row = row(&piece, started);
        is_full |= taped.bytes + row.len() as u64 > max_size;
        if is_full {
            lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        file.write_all(row.as_bytes())?;
        taped.rows += 1;
        taped.bytes += row.len() as u64;
    }
    file.flush()?;
    taped.lost = lost.load(Ordering::Relaxed);
    Ok(taped)
}

fn row(piece: &Piece, started: f64) -> String {
    let mut row = Map::new();
    // Microseconds are what a capture needs; a clock that was set back makes no negative time.
    let t = ((piece.at - started).max(0.0) * 1e6).round() / 1e6;
    row.insert("t".into(), t.into());
    match std::str::from_utf8(&piece.bytes) {
        Ok(text) => row.insert("data".into(), text.into()),
        Err(_) => row.insert("hex".into(), piece.bytes.iter().map(|b| format!("{b:02x}")).collect::<String>().into()),
    };
    if let Some(from) = piece.from {
        row.insert("from".into(), from.to_string().into());
    }
    row.insert("via".into(), piece.via.into());
    Value::Object(row).to_string() + "\n"
}
