//! Records, one a line, on the standard input of a command: a sink in any language.
//!
//! The command is started when there is something to deliver and runs on; when it has ended, it is started again with the
//! next delivery. An interval of which it did not take everything is written again from the start, to a new one. At the end
//! its input is closed, and it has what is left of `shutdown_grace` to finish.

use std::process::Stdio;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use crate::snapshot::{Records, Snapshot};

use super::{Delivery, Receipt, Sink, SinkError};

/// A command that reads records.
pub struct ExecSink {
    command: Vec<String>,
    running: Option<(Child, ChildStdin)>,
}

impl ExecSink {
    /// A program and its arguments; no shell is in between.
    pub fn new(command: Vec<String>) -> ExecSink {
        ExecSink { command, running: None }
    }

    fn fail(&self, what: &str, error: impl std::fmt::Display) -> SinkError {
        SinkError(format!("{}: {what}: {error}", self.command.join(" ")))
    }

    fn start(&self) -> Result<(Child, ChildStdin), SinkError> {
        let (program, arguments) = self.command.split_first().ok_or_else(|| SinkError("no command".into()))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| self.fail("cannot be started", error))?;
        let stdin = child.stdin.take().ok_or_else(|| SinkError("no standard input".into()))?;
        Ok((child, stdin))
    }
}

impl Sink for ExecSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            // A command is only kept after a whole delivery.
            let (mut child, mut stdin) = match self.running.take() {
                Some((mut child, stdin)) => match child.try_wait() {
                    Ok(None) => (child, stdin),
                    Ok(Some(status)) => {
                        tracing::warn!(command = self.command.join(" "), %status, "the command ended; it is started again");
                        self.start()?
                    }
                    Err(error) => return Err(self.fail("cannot be watched", error)),
                },
                None => self.start()?,
            };
            let mut records = Vec::new();
            Records::ALL.write(snapshot, &mut records);
            let written = async {
                stdin.write_all(&records).await?;
                stdin.flush().await
            };
            if let Err(error) = written.await {
                // Gone already, most likely; it must not stay behind.
                let _ = child.start_kill();
                let status = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(self.fail(&format!("does not take records ({status})"), error));
            }
            self.running = Some((child, stdin));
            Ok(Receipt { dropped: Vec::new(), bytes: records.len() as u64 })
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(async move {
            if let Some((mut child, stdin)) = self.running.take() {
                drop(stdin);
                // Whoever drives this waits no longer than the grace, and then it is killed.
                if let Ok(status) = child.wait().await
                    && !status.success()
                {
                    tracing::warn!(command = self.command.join(" "), %status, "the command failed at its end");
                }
            }
        })
    }
}
