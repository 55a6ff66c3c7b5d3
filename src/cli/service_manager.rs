//! Notifies the service manager that started the daemon (systemd, sd_notify(3)). A separate thread does so, because a
//! manager that does not read its socket must not block a start or a stop.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};

use std::os::fd::{AsFd, OwnedFd};

pub(super) use sd_notify::NotifyState;

use crate::supervise::Part;
use crate::sys::{KEPT_NAME, MOST_PASSED};

/// Queued notifications. Further ones are dropped: a watchdog notification that is minutes old says nothing.
const QUEUE: usize = 8;

/// Says how many sockets the service manager keeps for the next process (`FileDescriptorStoreMax=`). systemd sets it from
/// version 254 on; before that the unit has to.
const STORE: &str = "FDSTORE";

/// What is sent to the service manager.
#[derive(Debug)]
enum Message {
    State(NotifyState<'static>),
    /// A reload begins, at this time.
    Reloading(NotifyState<'static>),
    /// Sockets that it is to keep.
    Sockets(Vec<OwnedFd>),
}

impl Message {
    fn send(&self) -> io::Result<()> {
        let sockets = match self {
            Message::State(state) => return sd_notify::notify(std::slice::from_ref(state)),
            Message::Reloading(at) => return sd_notify::notify(&[NotifyState::Reloading, at.clone()]),
            Message::Sockets(sockets) => sockets,
        };
        let states = [NotifyState::FdStore, NotifyState::FdName(KEPT_NAME)];
        for some in sockets.chunks(MOST_PASSED) {
            let borrowed: Vec<_> = some.iter().map(AsFd::as_fd).collect();
            sd_notify::notify_with_fds(&states, &borrowed)?;
        }
        Ok(())
    }
}

/// A handle to the notifying thread.
#[derive(Clone, Debug)]
pub(super) struct ServiceManager(Option<(SyncSender<Message>, Part)>);

impl ServiceManager {
    /// Starts the thread, if there is a service manager.
    pub(super) fn start() -> io::Result<ServiceManager> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(ServiceManager(None));
        }
        let (sender, messages) = sync_channel::<Message>(QUEUE);
        let send = move |part: &Part| {
            part.keep(|| {
                for message in &messages {
                    part.alive();
                    if let Err(error) = message.send() {
                        tracing::warn!(%error, "cannot notify the service manager");
                    }
                }
            });
        };
        let part = Part::new("manager");
        part.thread("manager", send)?;
        Ok(ServiceManager(Some((sender, part))))
    }

    /// Its thread, if there is one.
    pub(super) fn part(&self) -> Option<&Part> {
        self.0.as_ref().map(|(_, part)| part)
    }

    /// Queues a notification, in order. Never waits.
    pub(super) fn notify(&self, state: NotifyState<'static>) {
        self.queue(Message::State(state));
    }

    /// Queues that a reload begins (`Type=notify-reload`), which ends with [`NotifyState::Ready`].
    pub(super) fn notify_reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.queue(Message::Reloading(now)),
            Err(error) => tracing::warn!(%error, "cannot tell the service manager when the reload begins"),
        }
    }

    /// Whether it keeps sockets for the next process.
    pub(super) fn keeps_sockets(&self) -> bool {
        let most = std::env::var(STORE).ok().and_then(|most| most.parse::<u32>().ok());
        self.0.is_some() && most.is_some_and(|most| most > 0)
    }

    /// Gives it sockets to keep. Those that it has already stay as they are.
    pub(super) fn keep_sockets(&self, sockets: Vec<OwnedFd>) {
        self.queue(Message::Sockets(sockets));
    }

    fn queue(&self, message: Message) {
        let Some((sender, _)) = &self.0 else { return };
        if sender.try_send(message).is_err() {
            tracing::warn!("the service manager does not read its socket");
        }
    }
}
