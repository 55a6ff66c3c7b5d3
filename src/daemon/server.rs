//! The two TCP servers: HTTP and the management port.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::acl::AccessList;
use crate::config::{self, Config};
use crate::flush::FlusherHandle;
use crate::http::{self, About, AppState, LastRead};
use crate::management::ManagementState;
use crate::ports::{ServerTls, TlsFiles};
use crate::presence_driver::PresenceHandle;
use crate::sys::unix_time;
use crate::web::Bodies;

use super::StartError;
use super::listeners::cannot_listen;

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: u32 = 1024;

/// A server whose port is bound.
#[derive(Debug)]
pub(super) struct BoundServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundServer {
    pub(super) fn bind(scheme: &str, address: SocketAddr) -> Result<BoundServer, StartError> {
        let bind = || -> io::Result<BoundServer> {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A restart does not wait for old connections to time out.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok(BoundServer { listener, address })
        };
        bind().map_err(|error| cannot_listen(&format!("{scheme}://{address}"), &error))
    }

    /// The address, with the port that the kernel chose.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts a task that serves until the flag it gets turns true.
    pub(super) fn serve<F>(self, serve: impl FnOnce(TcpListener, watch::Receiver<bool>) -> F) -> Server
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        Server { stop, task: tokio::spawn(serve(self.listener, stopped)) }
    }
}

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Closes the port at once; open connections end by themselves, and hold up no stop.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(true);
        self.task.abort();
        // When the task is gone its port is free.
        let _ = self.task.await;
    }
}

/// TLS of a port; its files are followed.
pub(super) fn tls(port: &str, files: &TlsFiles) -> Result<Option<ServerTls>, StartError> {
    let tls = ServerTls::load(files).map_err(|error| StartError(format!("cannot set up TLS of {port}: {error}")))?;
    if let Some(tls) = &tls {
        tls.follow(port);
    }
    Ok(tls)
}

pub(super) fn http_state(
    config: &Config,
    started: Instant,
    flusher: FlusherHandle,
    ready: &Arc<AtomicBool>,
    presence: Option<PresenceHandle>,
) -> AppState {
    let http = &config.http;
    let is_local = http.address.is_some_and(|address| address.ip().is_loopback());
    AppState {
        about: About { profile: config.profile.name(), interval: config.interval, started },
        flusher,
        ready: Arc::clone(ready),
        presence,
        write_token: http.token.as_deref().map(Arc::from),
        streams: Arc::new(Semaphore::new(http::STREAMS)),
        bodies: Bodies::default(),
        last_read: LastRead::default(),
        token: if is_local { None } else { http.token.as_deref().map(Arc::from) },
        hosts: is_local.then(|| http.hosts.clone().into()),
    }
}

pub(super) fn management_state(config: &Config, flusher: FlusherHandle) -> ManagementState {
    ManagementState {
        flusher,
        config: config::flat(config),
        started: unix_time(),
        healthy: AtomicBool::new(config.management.health),
        allow: AccessList::new(config.management.allow.clone()),
    }
}
