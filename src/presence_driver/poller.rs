//! Asks the other observers what they have heard, each in a task of its own, twice a second.

use std::time::Duration;

use hyper::header::AUTHORIZATION;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::http_client::{HttpClient, OpenAnswer, append, masked};
use crate::presence::observers::{Digest, Mistaken, POLL_SECS};
use crate::supervise::{Part, Role, Supervisor, caught};
use crate::untrusted::Escaped;

use super::PresenceHandle;

/// Longest wait for an answer: the time between two polls.
const DEADLINE: Duration = Duration::from_millis((POLL_SECS * 1000.0) as u64);

/// Longest answer, in bytes: what it may hold is bounded by number, with names of ordinary length.
const MOST_BYTES: usize = 16 << 20;

/// Longest wait for a peer to notice that this node is leaving.
const FAREWELL: Duration = Duration::from_millis(750);

/// The tasks that ask.
#[derive(Debug)]
pub struct Pollers {
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

/// What a task needs.
struct Poller {
    presence: PresenceHandle,
    client: HttpClient,
    /// Which peer, in the order of the configuration.
    peer: usize,
    url: String,
    token: String,
    stop: watch::Receiver<bool>,
    part: Part,
    /// The last problem that was logged.
    problem: Option<String>,
}

/// Why an answer was not one.
enum Failure {
    /// There was none.
    Missing(String),
    /// It cannot be used, and is counted.
    Broken(String),
}

/// Starts a task for each peer on the current runtime, which `supervisor` watches.
pub fn start(
    presence: &PresenceHandle,
    client: &HttpClient,
    urls: &[String],
    token: &str,
    supervisor: &Supervisor,
) -> Pollers {
    let (stop, stopped) = watch::channel(false);
    let task = |(peer, url): (usize, &String)| {
        let part = supervisor.part("presence:peer", Role::Ordinary);
        let poller = Poller {
            presence: presence.clone(),
            client: client.clone(),
            peer,
            url: url.clone(),
            token: token.to_string(),
            stop: stopped.clone(),
            part: part.clone(),
            problem: None,
        };
        part.task(poller.run())
    };
    Pollers { tasks: urls.iter().enumerate().map(task).collect(), stop }
}

impl Pollers {
    /// Says to the peers that this node is leaving, and waits a moment for them to ask; then asks no more.
    pub async fn stop(self, presence: &PresenceHandle) {
        let peers = self.tasks.len();
        let _ = presence.ask(super::PresenceState::say_farewell).await;
        let noticed = async {
            while !presence.ask(move |state| state.has_said_farewell(peers)).await.unwrap_or(true) {
                tokio::time::sleep(DEADLINE / 10).await;
            }
        };
        let _ = timeout(FAREWELL, noticed).await;
        let _ = self.stop.send(true);
        for task in self.tasks {
            // A poll ends at its deadline.
            let _ = task.await;
        }
    }
}

impl Poller {
    async fn run(mut self) {
        let mut stop = self.stop.clone();
        let mut ticks = interval(DEADLINE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            self.part.alive();
            if let Err(panic) = caught(self.poll()).await {
                self.part.restart(panic).await;
            }
        }
    }

    /// Asks, and asks again at once as long as there is more.
    async fn poll(&mut self) {
        loop {
            match self.ask().await {
                Ok(true) => {}
                Ok(false) => return self.note(None),
                Err(failure) => {
                    let (is_broken, problem) = match failure {
                        Failure::Missing(problem) => (false, problem),
                        Failure::Broken(problem) => (true, problem),
                    };
                    self.note(Some(problem));
                    let peer = self.peer;
                    let _ = self.presence.ask(move |state| state.miss_peer(peer, is_broken)).await;
                    return;
                }
            }
        }
    }

    /// Asks once; whether there is more.
    async fn ask(&self) -> Result<bool, Failure> {
        let busy = || Failure::Missing("presence does not answer here".into());
        let peer = self.peer;
        let (asked, since) = self.presence.ask(move |state| state.before_poll(peer)).await.map_err(|_| busy())?;
        let since = since.map_or_else(String::new, |cursor| format!("?since={cursor}"));
        let url = append(&self.url, &format!("/api/v1/presence/peer{since}"));
        let body = timeout(DEADLINE, self.body(&url)).await;
        let body = body.map_err(|_| Failure::Missing(format!("no answer within {} s", DEADLINE.as_secs_f64())))??;
        let digest = Digest::read(&body).map_err(Failure::Broken)?;
        let taken = self.presence.ask(move |state| state.take_digest(peer, asked, digest)).await.map_err(|_| busy())?;
        taken.map_err(|mistaken| match mistaken {
            // It is counted with the peer.
            Mistaken::Namesake(_) => Failure::Missing(mistaken.to_string()),
            Mistaken::Broken(problem) => Failure::Broken(problem),
        })
    }

    async fn body(&self, url: &str) -> Result<Vec<u8>, Failure> {
        let missing = |problem: &dyn std::fmt::Display| Failure::Missing(problem.to_string());
        let headers = vec![(AUTHORIZATION, format!("Bearer {}", self.token))];
        let answer = self.client.open(url, headers, DEADLINE).await.map_err(|error| missing(&error))?;
        let mut answer = OpenAnswer::new(answer);
        if answer.status != 200 {
            let hint = if answer.status == 401 { "; `peer_token` must be the same at both" } else { "" };
            return Err(Failure::Missing(format!("it answers {}{hint}", answer.status)));
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.piece().await.map_err(|error| missing(&error))? {
            if body.len() + piece.len() > MOST_BYTES {
                return Err(Failure::Broken(format!("its answer is longer than {MOST_BYTES} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Logs what is new.
    fn note(&mut self, problem: Option<String>) {
        match &problem {
            Some(new) if self.problem.as_ref() != Some(new) => {
                tracing::warn!(peer = masked(&self.url), problem = %Escaped(new), "an observer does not answer as it should");
            }
            None if self.problem.is_some() => tracing::info!(peer = masked(&self.url), "an observer answers again"),
            Some(_) | None => {}
        }
        self.problem = problem;
    }
}
