//! The service manager that started us (systemd, sd_notify(3)). It is told from a thread of its own: one that does not
//! read its socket must not hold up a start or a stop.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};

pub use sd_notify::NotifyState;

/// States that may wait for it. More are not told: it learns nothing from a sign of life that is minutes old.
const QUEUE: usize = 8;

/// Where states are told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Manager(Option<SyncSender<NotifyState<'static>>>);

impl Manager {
    /// Starts the thread, if there is somebody to tell.
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
                    tracing::warn!(%error, "cannot tell the service manager how we are");
                }
            }
        };
        std::thread::Builder::new().name("manager".into()).spawn(tell)?;
        Ok(Manager(Some(sender)))
    }

    /// Tells a state, in order. Never waits.
    pub fn tell(&self, state: NotifyState<'static>) {
        let Some(sender) = &self.0 else { return };
        if sender.try_send(state).is_err() {
            tracing::warn!("the service manager does not read what it is told");
        }
    }
}
