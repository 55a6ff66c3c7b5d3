//! The running listeners, and the order in which they stop.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::sys;

use super::listener::WatchedWorker;
use super::{Listener, OpenConnection, Transport};

/// A worker looks at the deadline of a stop after each datagram; one that is so much later does not answer.
const STOP_SLACK: Duration = Duration::from_millis(100);

/// A connection, with the URL of its listener.
pub type NamedConnection = (String, OpenConnection);

/// Running listeners, each with its URL, in the order in which they were added: that of their workers' shards.
#[derive(Debug, Default)]
pub struct Listeners(Vec<Listener>);

impl Listeners {
    /// Adds a running listener.
    pub fn add(&mut self, listener: Listener) {
        self.0.push(listener);
    }

    /// All of them, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Listener> {
        self.0.iter()
    }

    /// All of them, in order.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Listener> {
        self.0.iter_mut()
    }

    /// All of them, in order, to be put in another.
    pub fn into_vec(self) -> Vec<Listener> {
        self.0
    }

    /// What makes every worker pass on to presence who was seen by what is watched since it was asked last.
    pub fn look_at_watched(&self) -> impl Fn() + Send + Sync + use<> {
        let workers: Vec<_> = self.0.iter().flat_map(Listener::watched_workers).collect();
        move || workers.iter().for_each(WatchedWorker::ask)
    }

    /// Makes all workers read what the kernel holds until `deadline`, and then nothing more: see [`stop`].
    pub async fn stop(&self, deadline: Instant) {
        stop(&self.0.iter().collect::<Vec<_>>(), deadline).await;
    }

    /// Makes all workers read what the kernel holds of datagrams, at most until `deadline`, and nothing more of connections, for another
    /// process is to go on with the sockets: they stay open. Returns the connections that it can go on with.
    pub async fn pause(&mut self, deadline: Instant) -> Vec<NamedConnection> {
        self.0.iter().for_each(Listener::give_away);
        let (datagrams, streams): (Vec<&Listener>, Vec<&Listener>) =
            self.0.iter().partition(|listener| listener.transport.has_datagrams());
        let paused: Vec<_> = streams.iter().map(|listener| (listener.url(), listener.pause(deadline))).collect();
        let mut connections = Vec::new();
        for (url, paused) in paused {
            match timeout_at((deadline + STOP_SLACK / 2).into(), paused).await {
                Ok(Ok(open)) => connections.extend(open.into_iter().map(|open| (url.to_string(), open))),
                Ok(Err(_)) | Err(_) => tracing::error!(listener = url, "a receive worker does not pause"),
            }
        }
        stop(&datagrams, deadline).await;
        connections
    }

    /// After a pause: reads those connections to their ends that no other process goes on with.
    pub async fn end_connections(&self, deadline: Instant) {
        let streams: Vec<&Listener> = self.0.iter().filter(|listener| !listener.transport.has_datagrams()).collect();
        stop(&streams, deadline).await;
    }

    /// Goes on with connections that another process has read so far, each with the URL of its listener. Those of listeners that are
    /// not there are closed.
    pub fn adopt(&self, mut connections: Vec<NamedConnection>) {
        for listener in self.0.iter().filter(|listener| !listener.transport.has_datagrams()) {
            let own: Vec<_> =
                connections.extract_if(.., |(url, _)| *url == listener.url()).map(|(_, open)| open).collect();
            if !own.is_empty() {
                listener.adopt(own);
            }
        }
        if !connections.is_empty() {
            tracing::warn!(closed = connections.len(), "connections of listeners that are gone are closed");
        }
    }

    /// The sockets are this process's from now on; what those of another one have dropped is counted there.
    pub fn begin(&mut self) {
        self.0.iter_mut().for_each(Listener::begin);
    }

    /// Counts no more what the sockets drop, which another process does.
    pub fn end_counting(&mut self) {
        self.0.iter_mut().for_each(Listener::end_counting);
    }

    /// Makes all workers read on after a pause.
    pub fn resume(&mut self) {
        self.0.iter_mut().for_each(Listener::resume);
    }

    /// Ends all workers and closes the sockets, by `deadline`.
    pub async fn join(self, deadline: Instant) {
        for listener in self.0 {
            listener.join(deadline).await;
        }
    }
}

/// Makes the workers of these listeners read what the kernel holds until `deadline`, and then nothing more. Datagrams are
/// read as ever until the last connection has ended, then refused, and those that are queued are read to the last. What is
/// not read by then is counted as `unread`. Returns [`STOP_SLACK`] after the deadline at the latest, with the number of workers
/// that hang.
pub async fn stop(listeners: &[&Listener], deadline: Instant) -> usize {
    let (datagrams, streams): (Vec<&Listener>, Vec<&Listener>) =
        listeners.iter().partition(|listener| listener.transport.has_datagrams());
    // If the workers of streams hang, those of datagrams still have time to count what they do not read.
    let reading = streams.iter().flat_map(|listener| listener.finish_reading(deadline)).collect();
    let hung = wait_for_workers(reading, deadline + STOP_SLACK / 2).await;
    // All before any is drained: of sockets that share a port, those that are left get what the others refuse.
    datagrams.iter().for_each(|listener| listener.refuse());
    if datagrams.iter().any(|listener| listener.transport == Transport::Udp && !listener.is_kept()) {
        // A processor may have looked a socket up before it refused, and is about to queue a datagram there.
        sys::await_deliveries();
    }
    let reading = datagrams.iter().flat_map(|listener| listener.finish_reading(deadline)).collect();
    hung + wait_for_workers(reading, deadline + STOP_SLACK).await
}

/// Waits until workers have read to the end, or until `latest`; returns the number of those that have not.
async fn wait_for_workers(workers: Vec<oneshot::Receiver<()>>, latest: Instant) -> usize {
    let mut hung = 0;
    for worker in workers {
        if !matches!(timeout_at(latest.into(), worker).await, Ok(Ok(()))) {
            tracing::error!("a receive worker does not stop; what it has not read is lost, and in no count");
            hung += 1;
        }
    }
    hung
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::net::{SocketAddr, UdpSocket};

    use crate::acl::AccessList;
    use crate::aggregate::{Columns, Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
    use crate::net::bind::open;
    use crate::net::listener::WorkerCommand;
    use crate::net::{Framing, ListenAddress, ListenerOptions, Taps, bind};
    use crate::protocol::Options;
    use crate::supervise::Supervisor;
    use crate::telemetry::Tally;

    fn listener(transport: Transport, address: &str, workers: usize) -> Listener {
        let options = ListenerOptions {
            transport,
            address: ListenAddress::Ip(address.parse().expect("an address")),
            framing: Framing::Newline,
            workers,
            receive_buffer: 1 << 20,
            receive_buffer_force: false,
            max_datagram: 65_536,
            cores: Vec::new(),
            busy_poll_us: None,
            realtime: false,
            allow: AccessList::default(),
            with_senders: false,
            max_connections: 1,
            max_connections_per_address: 1,
            idle_timeout: Duration::from_secs(1),
            tls: None,
            protocol: Options::default(),
        };
        let shard = || {
            Shard::new(ShardOptions {
                timers: TimerPolicy { exact_samples: 64, digits: 3, weighted: true },
                fold_histograms: false,
                quota: Quota::new(1000),
                seed: 1,
                rules: None,
                heartbeats: None,
                times: TimeWindow::ANY,
            })
        };
        bind(options)
            .expect("bound")
            .start("udp://test", shard, &Taps::default(), &Supervisor::default())
            .expect("started")
    }

    /// Connected sockets to a listener's port at `host`: they are told of refusals.
    fn senders(listener: &Listener, host: &str, count: usize) -> Vec<UdpSocket> {
        let port = listener.sockets[0].local_addr().ok().and_then(|a| a.as_socket()).expect("bound").port();
        let to = SocketAddr::new(host.parse().expect("an address"), port);
        let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let sender = || UdpSocket::bind(from).and_then(|socket| socket.connect(to).map(|()| socket));
        (0..count).map(|_| sender().expect("a socket")).collect()
    }

    /// Holds all workers up until the sender is dropped.
    fn hold(listener: &Listener) -> Vec<std::sync::mpsc::Sender<()>> {
        let hold = |worker: usize| {
            let (held, until) = std::sync::mpsc::channel::<()>();
            let (tell, is_held) = std::sync::mpsc::channel::<()>();
            let wait = move |_: &mut Shard| {
                drop(tell);
                // It ends with an error, when the sender is dropped.
                let _ = until.recv();
            };
            let worker = &listener.workers[worker];
            worker.commands.try_send(WorkerCommand::Run(Box::new(wait))).expect("room");
            worker.wake();
            let _ = is_held.recv();
            held
        };
        (0..listener.workers()).map(hold).collect()
    }

    async fn tally(listener: &Listener) -> Tally {
        let mut all = Tally::default();
        for worker in 0..listener.workers() {
            let partial = listener.close(worker, Default::default(), Columns::default()).await;
            all.add(&partial.expect("it answers").tally);
        }
        all
    }

    #[tokio::test]
    async fn a_stop_reads_what_is_queued_and_lets_the_kernel_refuse_the_rest() {
        let places = [
            ("127.0.0.1:0", 1, "127.0.0.1"),
            ("127.0.0.1:0", 3, "127.0.0.1"),
            ("0.0.0.0:0", 2, "127.0.0.2"),
            ("[::]:0", 2, "127.0.0.1"),
            ("[::]:0", 1, "::1"),
            ("[::1]:0", 2, "::1"),
        ];
        for (address, workers, host) in places {
            let mut listener = listener(Transport::Udp, address, workers);
            let senders = senders(&listener, host, 16);
            let held = hold(&listener);
            for sender in &senders {
                sender.send(b"x:1|c").expect("queued");
            }
            drop(held);
            let deadline = Instant::now() + Duration::from_secs(20);
            stop(&[&listener], deadline).await;
            // The sockets are still open: it is the kernel that refuses.
            for sender in &senders {
                let refused = |result: io::Result<usize>| {
                    result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
                };
                while !refused(sender.send(b"x:1|c")) {
                    assert!(Instant::now() < deadline, "{address}: never refused");
                }
            }
            let tally = tally(&listener).await;
            assert_eq!(
                (tally.listener.datagrams, tally.listener.unread, listener.take_kernel_drops()),
                (16, 0, 0),
                "{address}"
            );
            listener.join(deadline).await;
        }
    }

    #[tokio::test]
    async fn a_deadline_ends_reading_between_two_datagrams_and_the_rest_is_counted() {
        let listener = listener(Transport::Udp, "127.0.0.1:0", 1);
        let held = hold(&listener);
        let sender = senders(&listener, "127.0.0.1", 1).remove(0);
        for _ in 0..100 {
            sender.send(b"x:1|c").expect("queued");
        }
        let deadline = Instant::now();
        let done = listener.finish_reading(deadline);
        drop(held);
        for done in done {
            done.await.expect("it stops");
        }
        let tally = tally(&listener).await;
        assert_eq!(
            (tally.listener.datagrams, tally.listener.unread, tally.listener.unread_bytes, tally.lines.read),
            (0, 100, 500, 0)
        );
        listener.join(deadline + Duration::from_secs(20)).await;
    }

    #[tokio::test]
    async fn a_worker_that_is_held_up_does_not_hide_how_full_its_buffer_is() {
        let listener = listener(Transport::Udp, "127.0.0.1:0", 2);
        let held = hold(&listener);
        let sender = senders(&listener, "127.0.0.1", 1).remove(0);
        let watch = listener.queue_watch();
        let mut last = 0.0;
        while last < 0.8 {
            for _ in 0..20 {
                sender.send(&[b'x'; 1000]).expect("queued");
            }
            let full = watch.look().expect("an account");
            // One sender fills the buffer of one worker: the fullest counts, not the mean.
            assert!(full > last && listener.queue_peak() == full, "{full} after {last}");
            last = full;
        }
        assert_eq!(listener.kernel_drops(), 0);
        assert_eq!((listener.take_queue_peak(), listener.queue_peak()), (last, 0.0));
        drop(held);
        let end = Instant::now() + Duration::from_secs(20);
        stop(&[&listener], end).await;
        watch.look();
        assert!(listener.queue_peak() <= last);
        listener.join(end).await;
        assert_eq!(watch.look(), None, "nothing is left to look at");
    }

    #[tokio::test]
    async fn a_connection_that_gives_way_is_read_for_what_it_has_sent() {
        use std::io::Write;
        use std::net::TcpStream;

        let listener = listener(Transport::Tcp, "127.0.0.1:0", 1);
        let to = listener.sockets[0].local_addr().ok().and_then(|a| a.as_socket()).expect("bound");
        let mut first = TcpStream::connect(to).expect("connected");
        let mut all = Tally::default();
        let deadline = Instant::now() + Duration::from_secs(20);
        while all.listener.connections == 0 {
            assert!(Instant::now() < deadline, "it is never accepted");
            all.add(&tally(&listener).await);
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        let held = hold(&listener);
        first.write_all(b"a:1|c\nb:2|c\nhal").expect("sent");
        let mut second = TcpStream::connect(to).expect("connected");
        second.write_all(b"c:3|c\n").expect("sent");
        drop(held);
        // Whether its lines are seen before the other connection or after: they count, and one of both is closed.
        let is_open = |stream: &TcpStream| {
            stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
            stream.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        while is_open(&first) && is_open(&second) {
            assert!(Instant::now() < deadline, "neither gives way");
        }
        stop(&[&listener], deadline).await;
        all.add(&tally(&listener).await);
        let (lines, listened) = (&all.lines, &all.listener);
        assert!(lines.metrics >= 2 && lines.malformed.total() == 1, "{lines:?}");
        assert_eq!((listened.unread_bytes, listened.connections_refused.total()), (0, 1), "{listened:?}");
        listener.join(deadline).await;
    }

    #[tokio::test]
    async fn connections_that_hang_leave_datagrams_the_time_to_be_counted() {
        let streams = listener(Transport::Tcp, "127.0.0.1:0", 1);
        let held = hold(&streams);
        let datagrams = listener(Transport::Udp, "127.0.0.1:0", 1);
        let sender = senders(&datagrams, "127.0.0.1", 1).remove(0);
        for _ in 0..10 {
            sender.send(b"x:1|c").expect("queued");
        }
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(stop(&[&streams, &datagrams], deadline).await, 1, "only the one that hangs");
        let tally = tally(&datagrams).await;
        assert_eq!(tally.listener.datagrams + tally.listener.unread, 10);
        drop(held);
        let end = Instant::now() + Duration::from_secs(20);
        streams.join(end).await;
        datagrams.join(end).await;
    }

    #[test]
    fn workers_share_a_port_with_nobody_else() {
        let first = listener(Transport::Udp, "127.0.0.1:0", 2);
        let address = first.sockets[0].local_addr().ok().and_then(|a| a.as_socket()).expect("bound");
        // As a second daemon binds its first socket.
        let error = open(Transport::Udp, address, false).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
