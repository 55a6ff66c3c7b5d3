//! A door before a server: an address that is known before the server has one, and stays when another takes its place.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Passes connections on to wherever it leads. Without a target it closes them.
#[derive(Clone)]
pub struct Door {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

impl Door {
    /// One that leads nowhere.
    pub fn new() -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let door = Door { address: listener.local_addr().expect("an address"), target: Arc::default() };
        let target = Arc::clone(&door.target);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let target = *target.lock().expect("nobody panicked");
                if let Some(Ok(server)) = target.map(TcpStream::connect) {
                    let copies = || Some((stream.try_clone().ok()?, server.try_clone().ok()?));
                    let Some((from, to)) = copies() else { continue };
                    std::thread::spawn(move || pass(from, to));
                    std::thread::spawn(move || pass(server, stream));
                }
            }
        });
        door
    }

    pub fn leads_to(&self, target: Option<SocketAddr>) {
        *self.target.lock().expect("nobody panicked") = target;
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
