//! Notifies the service manager that started the daemon (systemd, sd_notify(3)). A separate thread does so, because a
//! manager that does not read its socket must not block a start or a stop.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};

pub(super) use sd_notify::NotifyState;

use crate::supervise::Part;

/// Queued notifications. Further ones are dropped: a watchdog notification that is minutes old says nothing.
const QUEUE: usize = 8;

/// A handle to the notifying thread.
#[derive(Debug)]
pub(super) struct ServiceManager(Option<(SyncSender<NotifyState<'static>>, Part)>);

impl ServiceManager {
    /// Starts the thread, if there is a service manager.
    pub(super) fn start() -> io::Result<ServiceManager> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(ServiceManager(None));
        }
        let (sender, states) = sync_channel::<NotifyState<'static>>(QUEUE);
        let send = move |part: &Part| {
            part.keep(|| {
                for state in &states {
                    part.alive();
                    if let Err(error) = sd_notify::notify(&[state]) {
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
        let Some((sender, _)) = &self.0 else { return };
        if sender.try_send(state).is_err() {
            tracing::warn!("the service manager does not read its socket");
        }
    }
}
