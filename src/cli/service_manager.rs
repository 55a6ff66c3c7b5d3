//! Notifies the service manager that started the daemon (systemd, sd_notify(3)). A separate thread does so, because a
//! manager that does not read its socket must not block a start or a stop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{SyncSender, sync_channel};

pub(super) use sd_notify::NotifyState;

use crate::supervise::Part;

/// Queued notifications, sockets among them. Further ones are dropped: a watchdog notification that is minutes old says nothing.
const QUEUE: usize = 256;

/// Says how many sockets the service manager keeps for the next process (`FileDescriptorStoreMax=`). systemd sets it from
/// version 254 on; before that the unit has to.
const STORE: &str = "FDSTORE";

/// What is sent to the service manager.
#[derive(Debug)]
enum Message {
    State(NotifyState<'static>),
    /// A reload begins, at this time.
    Reloading(NotifyState<'static>),
    /// A socket that it is to keep, under this name.
    Keep(String, OwnedFd),
    /// Sockets of this name are kept no more.
    Forget(String),
}

impl Message {
    fn send(&self) -> io::Result<()> {
        match self {
            Message::State(state) => sd_notify::notify(std::slice::from_ref(state)),
            Message::Reloading(at) => sd_notify::notify(&[NotifyState::Reloading, at.clone()]),
            Message::Keep(name, socket) => {
                sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[socket.as_fd()])
            }
            Message::Forget(name) => sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]),
        }
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

    /// Gives it a socket to keep under a name. One that it has already stays as it is.
    pub(super) fn keep(&self, name: String, socket: OwnedFd) {
        self.queue(Message::Keep(name, socket));
    }

    /// Has it close the sockets of this name.
    pub(super) fn forget(&self, name: String) {
        self.queue(Message::Forget(name));
    }

    fn queue(&self, message: Message) {
        let Some((sender, _)) = &self.0 else { return };
        if sender.try_send(message).is_err() {
            tracing::warn!("the service manager does not read its socket");
        }
    }
}
