//! Notifies the service manager that started the daemon (systemd, sd_notify(3)). A separate thread does so, because a
//! manager that does not read its socket must not block a start or a stop.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};

pub use sd_notify::NotifyState;

/// Queued notifications. Further ones are dropped: a watchdog notification that is minutes old says nothing.
const QUEUE: usize = 8;

/// A handle to the notifying thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Manager(Option<SyncSender<NotifyState<'static>>>);

impl Manager {
    /// Starts the thread, if there is a service manager.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start() -> io::Result<Manager> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Manager(None));
        }
        let (sender, states) = sync_channel::<NotifyState<'static>>(QUEUE);
        let tell = move || {
            for state in states {
                if let Err(error) = sd_notify::notify(&[state]) {
                    tracing::warn!(%error, "cannot notify the service manager");
                }
            }
        };
        std::thread::Builder::new().name("manager".into()).spawn(tell)?;
        Ok(Manager(Some(sender)))
    }

    /// Queues a notification, in order. Never waits.
    pub fn tell(&self, state: NotifyState<'static>) {
        let Some(sender) = &self.0 else { return };
        if sender.try_send(state).is_err() {
            tracing::warn!("the service manager does not read its socket");
        }
    }
}
