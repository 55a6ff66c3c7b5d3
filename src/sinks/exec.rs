//! Records, one a line, on the standard input of a command: a sink in any language.
//!
//! The command is started when there is something to deliver and runs on; when it has ended, it is started again with the
//! next delivery. An interval of which it did not take everything is written again from the start, to a new one. At the end
//! its input is closed, and it has what is left of `shutdown_grace` to finish.
//!
//! It does not inherit the daemon's environment, which holds secrets (`SYSTOLE_HTTP__TOKEN`, and whatever `${VARIABLES}` a
//! configuration is filled from) and descriptors' numbers: only what says where and how programs run, and what `env` gives it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use crate::codec::Records;
use crate::settings::environment;
use crate::snapshot::Snapshot;
use crate::sys;

use super::spec::bare;
use super::{Delivery, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec};

/// `exec` in the configuration: a program and its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    command: Vec<String>,
    /// More variables.
    env: BTreeMap<String, String>,
}

impl Spec for ExecSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        let doc = "The program and its arguments, run without a shell; only the program is ever shown.";
        visitor.field("command", doc, Opt::Command(&mut self.command));
        let is_there = self.command.first().is_some_and(|program| !program.is_empty());
        visitor.require_one("command", is_there, "[\"/usr/local/bin/my-sink\", \"--quiet\"]");
        environment(visitor, &mut self.env);
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        if bare(place).is_empty() {
            return Err("no command; `exec:///usr/local/bin/my-sink` is right".into());
        }
        self.command = vec![place.strip_prefix("//").unwrap_or(place).to_string()];
        Ok(())
    }

    fn place(&self) -> String {
        // Arguments may hold secrets.
        self.command.first().cloned().unwrap_or_default()
    }

    fn accepts_out_of_order(&self) -> bool {
        true
    }

    fn probe(&self) -> Result<String, String> {
        let program = self.command.first().map_or("", String::as_str);
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let is_there = |path: &Path| path.is_file();
        let found = program.contains('/') && is_there(program.as_ref())
            || std::env::split_paths(&folders).any(|folder| is_there(&folder.join(program)));
        if found { Ok(format!("{program} is there")) } else { Err(format!("there is no {program}")) }
    }

    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, String> {
        Ok(Box::new(ExecSink { env: self.env.clone(), ..ExecSink::new(self.command.clone()) }))
    }
}

/// A command that reads records.
pub struct ExecSink {
    command: Vec<String>,
    env: BTreeMap<String, String>,
    running: Option<(Child, ChildStdin)>,
}

impl ExecSink {
    /// A program and its arguments; no shell is in between.
    pub fn new(command: Vec<String>) -> ExecSink {
        ExecSink { command, env: BTreeMap::new(), running: None }
    }

    /// What of the command may be shown.
    fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    fn fail(&self, what: &str, error: impl std::fmt::Display) -> SinkError {
        SinkError::new(format!("{}: {what}: {error}", self.program()))
    }

    fn start(&self) -> Result<(Child, ChildStdin), SinkError> {
        let (program, arguments) = self.command.split_first().ok_or_else(|| SinkError::new("no command"))?;
        let mut child = Command::from(sys::command_of(program, arguments, &self.env))
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| self.fail("cannot be started", error))?;
        let stdin = child.stdin.take().ok_or_else(|| SinkError::new("no standard input"))?;
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
                        tracing::warn!(command = self.program(), %status, "the command ended; it is started again");
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
            Ok(Receipt::new(records.len() as u64, []))
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
                    tracing::warn!(command = self.program(), %status, "the command failed at its end");
                }
            }
        })
    }
}
