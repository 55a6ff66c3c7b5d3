//! Many clients that are slow: each connects, sends a byte now and then, never a whole request, and connects again when it is
//! cut off.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// How long such a client waits before it connects again.
const PAUSE: Duration = Duration::from_millis(250);

/// What slow clients do.
#[derive(Clone, Copy)]
pub struct Slow {
    pub clients: usize,
    /// Of 127.0.0.0/8, from 127.0.0.1 on.
    pub addresses: usize,
    /// Time between two bytes.
    pub every: Duration,
    /// What is sent byte by byte, and then again from its middle on.
    pub text: &'static str,
}

/// Running slow clients; they end when it is dropped.
pub struct SlowClients {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    open: AtomicUsize,
    connected: AtomicUsize,
}

impl SlowClients {
    pub fn start(to: SocketAddr, slow: Slow) -> SlowClients {
        // Those of the test and of the daemon.
        let _ = systole::internals::sys::raise_descriptor_limit();
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for n in 0..slow.clients {
                    let from =
                        Ipv4Addr::new(127, 0, (n % slow.addresses / 250) as u8, (n % slow.addresses % 250 + 1) as u8);
                    tokio::spawn(client(to, from, slow, n, Arc::clone(&of_thread)));
                }
                while !of_thread.stop.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        });
        SlowClients { shared, thread: Some(thread) }
    }

    /// Connections that are open, as the clients see it.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Connections since the start.
    pub fn connected(&self) -> usize {
        self.shared.connected.load(Ordering::Relaxed)
    }
}

impl Drop for SlowClients {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn client(to: SocketAddr, from: Ipv4Addr, slow: Slow, number: usize, shared: Arc<Shared>) {
    loop {
        let socket = TcpSocket::new_v4().expect("a socket");
        let connected = match socket.bind(SocketAddr::from((from, 0))) {
            Ok(()) => socket.connect(to).await,
            Err(error) => Err(error),
        };
        if let Ok(stream) = connected {
            shared.connected.fetch_add(1, Ordering::Relaxed);
            shared.open.fetch_add(1, Ordering::Relaxed);
            drip(stream, slow, number).await;
            shared.open.fetch_sub(1, Ordering::Relaxed);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sends a byte now and then until it is cut off.
async fn drip(mut stream: TcpStream, slow: Slow, number: usize) {
    let (first, rest) = (slow.text.as_bytes(), &slow.text.as_bytes()[slow.text.len() / 2..]);
    let bytes = first.iter().chain(rest.iter().cycle());
    // Not all at the same moment.
    let mut wait = slow.every.mul_f64((number % 97) as f64 / 97.0);
    let mut answer = [0; 512];
    for byte in bytes {
        let end = tokio::time::sleep(wait);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => break,
                read = stream.read(&mut answer) => if !matches!(read, Ok(1..)) { return },
            }
        }
        wait = slow.every;
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
    }
}
