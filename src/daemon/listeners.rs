//! The listeners. Running ones belong to the flusher, which asks their workers for intervals; see [`crate::net`] for how one
//! is bound, started and stopped.

use std::io;

use socket2::SockAddr;

use crate::aggregate::Shard;
use crate::assemble;
use crate::config::{Config, Listen, ListenUrl, show_size};
use crate::net::{self, BoundListener, Hold, ListenAddress, ListenerOptions, Listeners, Taps};
use crate::supervise::Supervisor;
use crate::sys::close_unwanted;

use super::StartError;
use super::reload::Listening;

/// Bound listeners by URL, in the order of the configuration.
#[derive(Debug)]
pub(super) struct BoundListeners(Vec<(ListenUrl, BoundListener)>);

impl BoundListeners {
    /// Binds them all.
    pub(super) fn bind(config: &Config, supervisor: &Supervisor) -> Result<BoundListeners, StartError> {
        let bind = |listen: &Listen| {
            let url = listen.url.to_string();
            let tls = super::server::tls(&url, &listen.tls, supervisor)?;
            let options = ListenerOptions { tls, ..assemble::listener(config, listen) };
            let bound = net::bind(options).map_err(|error| cannot_listen(&url, &error))?;
            Ok((listen.url.clone().at(bound.address()), bound))
        };
        config.listen.iter().map(bind).collect::<Result<_, _>>().map(BoundListeners)
    }

    /// Closes sockets that the service manager has kept and that are not configured any more; the names that it has for them.
    pub(super) fn close_others(config: &Config) -> Vec<String> {
        let address = |listen: &Listen| match assemble::listener(config, listen).address {
            ListenAddress::Ip(address) => Some(SockAddr::from(address)),
            ListenAddress::Path(path, _) => SockAddr::unix(path).ok(),
            ListenAddress::Inherited(_) => None,
        };
        let wanted: Vec<SockAddr> = config.listen.iter().filter_map(address).collect();
        close_unwanted(|address| wanted.contains(address))
    }

    /// Their URLs, with the ports that the kernel chose.
    pub(super) fn urls(&self) -> Vec<String> {
        self.0.iter().map(|(url, _)| url.to_string()).collect()
    }

    /// What each was configured as, in order, with its TLS.
    pub(super) fn listening(&self, config: &Config) -> Vec<Listening> {
        let of = |(listen, (_, bound)): (&Listen, &(ListenUrl, BoundListener))| Listening {
            listen: listen.clone(),
            tls: bound.tls().cloned(),
        };
        config.listen.iter().zip(&self.0).map(of).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(ListenUrl, BoundListener)> {
        self.0.iter()
    }

    /// Receive workers of all together, each of which has a shard.
    pub(super) fn workers(&self) -> usize {
        self.0.iter().map(|(_, bound)| bound.workers()).sum()
    }

    /// Starts the workers; `shard` makes one for each. Nothing is read before what comes beside them is dropped.
    pub(super) fn start(
        self,
        mut shard: impl FnMut() -> Shard,
        taps: Taps,
        supervisor: &Supervisor,
    ) -> Result<(Listeners, Vec<Hold>), StartError> {
        let (mut running, mut holds) = (Listeners::default(), Vec::new());
        for (url, bound) in self.0 {
            if bound.is_short_of_buffer() {
                tracing::warn!(
                    listener = %url,
                    granted = show_size(bound.receive_buffer()),
                    "the kernel granted a smaller receive buffer than asked for; raise it with `sysctl -w net.core.rmem_max=…`"
                );
            }
            let (listener, hold) = bound
                .start_held(&url.to_string(), &mut shard, &taps, supervisor)
                .map_err(|error| StartError(format!("cannot start receive workers for {url}: {error}")))?;
            tracing::info!(listener = %url, "listening");
            running.add(listener);
            holds.push(hold);
        }
        Ok((running, holds))
    }
}

/// Why a URL cannot be listened on, and what to do.
pub(super) fn cannot_listen(url: &str, error: &io::Error) -> StartError {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse if url.starts_with("unix") => {
            "another process listens there, or it is no socket: stop it, or choose another path"
        }
        io::ErrorKind::AddrInUse => "another process has this port: stop it, or choose another",
        io::ErrorKind::PermissionDenied => "ports below 1024 need more rights: choose a higher one",
        io::ErrorKind::NotFound if url.starts_with("fd:") => {
            "start it by socket activation, or listen at udp://127.0.0.1:8125"
        }
        io::ErrorKind::NotFound => "make its folder, or choose another path",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address: choose one of its own, or 0.0.0.0",
        _ => "check the address",
    };
    StartError(format!("cannot listen on {url}: {error}; {advice}"))
}
