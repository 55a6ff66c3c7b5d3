//! Asks the other observers what they have heard, each in a task of its own, twice a second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use compact_str::CompactString;
use hyper::header::AUTHORIZATION;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::http_client::{HttpClient, OpenAnswer, append, masked};
use crate::presence::EngineTime;
use crate::presence::observers::{Cursor, Digest, MOST_BYTES, Missed, Mistaken, POLL_SECS, Question};
use crate::supervise::{Part, Role, Supervisor, caught};
use crate::untrusted::{Escaped, in_url};

use super::PresenceHandle;
use super::members::AskNode;

/// Longest wait for an answer to begin, and for each piece of it: the time between two polls.
pub(super) const DEADLINE: Duration = Duration::from_millis((POLL_SECS * 1000.0) as u64);

/// Longest wait for all of an answer whose pieces come: a page over a link of half a megabit per second.
const PAGE_DEADLINE: Duration = Duration::from_secs(5);

/// Most answers of one poll; there is no further one when the next poll is due. What is missing then comes with that.
const MOST_PAGES: usize = 64;

/// Most instances that are given to the presence thread at a time: heartbeats and ticks come between.
const PART: usize = 500;

/// An answer of so many bytes is read where it holds up no receiver.
const LONG_BYTES: usize = 32 << 10;

/// Longest wait for a peer to notice that this node is leaving, and for the presence thread to leave.
const FAREWELL: Duration = Duration::from_millis(750);

/// The tasks that ask.
#[derive(Debug)]
pub struct Pollers {
    pub(super) tasks: Vec<JoinHandle<()>>,
    pub(super) stop: watch::Sender<bool>,
}

/// How a peer is asked.
pub(super) enum Way {
    /// Over HTTP, at its pages.
    Http { client: HttpClient, url: String, token: String },
    /// Over the bus of its cluster.
    Bus { ask: AskNode, node: CompactString },
}

/// What a task needs.
pub(super) struct Poller {
    pub(super) presence: PresenceHandle,
    pub(super) way: Way,
    /// Which peer it is: its place among them.
    pub(super) peer: usize,
    /// How it is shown.
    pub(super) shown: String,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) part: Part,
    /// The last problem that was logged.
    pub(super) problem: Option<String>,
}

/// Why an answer was not one.
enum Failure {
    /// There was none.
    Missing(String),
    /// It cannot be used, and is counted.
    Broken(String),
    /// Two observers have one name.
    Namesake(String),
}

/// URLs of peers as they are shown: without what is secret, and all different.
pub fn shown(urls: &[String]) -> Vec<String> {
    let mut known: HashMap<String, usize> = HashMap::new();
    let shown = urls.iter().map(|url| {
        let masked = masked(url);
        let count = known.entry(masked.clone()).or_default();
        *count += 1;
        if *count == 1 { masked } else { format!("{masked} ({count})") }
    });
    shown.collect()
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
    let task = |(peer, (url, shown)): (usize, (&String, String))| {
        let part = supervisor.part("presence:peer", Role::Ordinary);
        let poller = Poller {
            presence: presence.clone(),
            way: Way::Http { client: client.clone(), url: url.clone(), token: token.to_string() },
            peer,
            shown,
            stop: stopped.clone(),
            part: part.clone(),
            problem: None,
        };
        part.task(poller.run())
    };
    Pollers { tasks: urls.iter().zip(shown(urls)).enumerate().map(task).collect(), stop }
}

impl Default for Pollers {
    /// Nobody is asked, and others are told when this node leaves.
    fn default() -> Pollers {
        Pollers { tasks: Vec::new(), stop: watch::channel(false).0 }
    }
}

impl Pollers {
    /// Says to the peers that this node is leaving, and waits a moment for them to ask; then asks and answers no more.
    pub async fn stop(self, presence: &PresenceHandle) {
        // Who asks nobody is asked by one at least.
        let peers = self.tasks.len().max(1);
        let noticed = async {
            let _ = presence.ask(super::PresenceState::say_farewell).await;
            while !presence.ask(move |state| state.has_said_farewell(peers)).await.unwrap_or(true) {
                tokio::time::sleep(DEADLINE / 10).await;
            }
        };
        let _ = timeout(FAREWELL, noticed).await;
        let _ = timeout(FAREWELL, presence.ask(super::PresenceState::leave_observers)).await;
        let _ = self.stop.send(true);
        for task in self.tasks {
            // It ends at once, whatever it waits for.
            let _ = task.await;
        }
    }
}

impl Poller {
    pub(super) async fn run(mut self) {
        let mut stop = self.stop.clone();
        let mut ticks = interval(DEADLINE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            self.part.alive();
            let polled = tokio::select! {
                polled = caught(self.poll()) => polled,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            if let Err(panic) = polled {
                self.part.restart(panic).await;
            }
        }
    }

    /// Asks, and asks again at once as long as there is more and the next poll is not due.
    async fn poll(&mut self) {
        let began = Instant::now();
        let (mut missed, mut trouble) = (Missed::More, "it has told only a part of what it knows".to_string());
        for _ in 0..MOST_PAGES {
            match self.ask().await {
                Ok(true) if began.elapsed() < DEADLINE => {}
                Ok(true) => break,
                Ok(false) => return self.note(None),
                Err(failure) => {
                    let (why, problem) = match failure {
                        Failure::Missing(problem) => (Missed::Silent, problem),
                        Failure::Broken(problem) => (Missed::Broken, problem),
                        Failure::Namesake(problem) => (Missed::Namesake, problem),
                    };
                    trouble.clone_from(&problem);
                    self.note(Some((why, problem)));
                    missed = why;
                    break;
                }
            }
        }
        let peer = self.peer;
        let _ = self.presence.ask(move |state| state.miss_peer(peer, missed, &trouble)).await;
    }

    /// Asks once; whether there is more.
    async fn ask(&self) -> Result<bool, Failure> {
        let peer = self.peer;
        let (asked, since, node) = self.presence.ask(move |state| state.before_poll(peer)).await.map_err(|_| busy())?;
        let body = timeout(PAGE_DEADLINE, self.body(&node, since)).await;
        let body = body.map_err(|_| Failure::Missing(slow(PAGE_DEADLINE)))??;
        let digest = read(body).await.map_err(Failure::Broken)?;
        digest.check_step(since).map_err(Failure::Broken)?;
        self.take(asked, digest).await
    }

    /// Gives an answer to the presence thread, in parts; whether there is more. Only the last one moves the cursor on: what
    /// breaks off before it is asked for again.
    async fn take(&self, asked: EngineTime, mut digest: Digest) -> Result<bool, Failure> {
        let peer = self.peer;
        while digest.heard.len() > PART {
            let node = digest.node.clone();
            let part = (digest.take_forgotten(), digest.heard.drain(..PART).collect());
            let take = move |state: &mut super::PresenceState| state.take_part(peer, asked, &node, part);
            self.presence.ask(take).await.map_err(|_| busy())?.map_err(failure)?;
        }
        let taken = self.presence.ask(move |state| state.take_digest(peer, asked, digest)).await;
        taken.map_err(|_| busy())?.map_err(failure)
    }

    /// What the peer answers to this node.
    async fn body(&self, node: &str, since: Option<Cursor>) -> Result<Vec<u8>, Failure> {
        match &self.way {
            Way::Bus { ask, node: peer } => {
                let question = Question { node: node.into(), since: since.map(|since| since.to_string()) };
                let answer = timeout(DEADLINE, ask(peer, question.encode().into())).await;
                let answer = answer.map_err(|_| Failure::Missing(slow(DEADLINE)))?;
                answer.map(Vec::from).map_err(Failure::Missing)
            }
            Way::Http { client, url, token } => {
                let cursor = since.map_or_else(String::new, |cursor| format!("&since={cursor}"));
                let url = append(url, &format!("/api/v1/presence/peer?node={}{cursor}", in_url(node)));
                from_page(client, &url, token).await
            }
        }
    }
    /// Logs what is new.
    fn note(&mut self, problem: Option<(Missed, String)>) {
        let (why, problem) = problem.map_or((Missed::Silent, None), |(why, problem)| (why, Some(problem)));
        match &problem {
            Some(new) if self.problem.as_ref() == Some(new) => {}
            Some(new) if why == Missed::Namesake => {
                tracing::error!(peer = self.shown, problem = %Escaped(new), "two observers have one name: set `presence.node`");
            }
            Some(new) => {
                tracing::warn!(peer = self.shown, problem = %Escaped(new), "an observer does not answer as it should");
            }
            None if self.problem.is_some() => tracing::info!(peer = self.shown, "an observer answers again"),
            None => {}
        }
        self.problem = problem;
    }
}

/// What a page of a peer answers.
async fn from_page(client: &HttpClient, url: &str, token: &str) -> Result<Vec<u8>, Failure> {
    let missing = |problem: &dyn std::fmt::Display| Failure::Missing(problem.to_string());
    let headers = vec![(AUTHORIZATION, format!("Bearer {token}"))];
    let answer = client.open(url, headers, DEADLINE).await.map_err(|error| missing(&error))?;
    let mut answer = OpenAnswer::new(answer);
    if answer.status != 200 {
        return Err(Failure::Missing(refusal(answer.status)));
    }
    let mut body = Vec::new();
    loop {
        let piece = timeout(DEADLINE, answer.piece()).await.map_err(|_| Failure::Missing(slow(DEADLINE)))?;
        let Some(piece) = piece.map_err(|error| missing(&error))? else { break };
        if body.len() + piece.len() > MOST_BYTES {
            return Err(Failure::Broken(format!("its answer is longer than {MOST_BYTES} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The presence thread of this node has no time, or is gone.
fn busy() -> Failure {
    Failure::Missing("presence does not answer here".into())
}

fn failure(mistaken: Mistaken) -> Failure {
    match mistaken {
        // It is counted with the peer.
        Mistaken::Namesake(_) => Failure::Namesake(mistaken.to_string()),
        Mistaken::Broken(problem) => Failure::Broken(problem),
    }
}

/// What an answer that is none says of the peer.
fn refusal(status: u16) -> String {
    let hint = match status {
        401 => ": it is there, and refuses our token; `peer_token` must be the same at both",
        404 => {
            ": it is no observer, or is about to stop; is the address that of its pages, and `peer_token` set there?"
        }
        429 => ": it has refused our token too often, and waits; `peer_token` must be the same at both",
        _ => "",
    };
    format!("it answers {status}{hint}")
}

fn slow(deadline: Duration) -> String {
    format!("no answer within {} s", deadline.as_secs_f64())
}

/// Reads an answer; a long one on a thread that nothing else waits for.
async fn read(body: Vec<u8>) -> Result<Digest, String> {
    if body.len() < LONG_BYTES {
        return Digest::read(&body);
    }
    let read = tokio::task::spawn_blocking(move || Digest::read(&body)).await;
    read.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_presence_thread_that_is_busy_does_not_hold_up_the_stop() {
        let options = super::super::tests::options(None);
        let (presence, thread) = super::super::start(options, Vec::new(), &Part::new("presence")).expect("started");
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let busy = presence.ask(move |_| held.recv().is_err());
        let pollers = Pollers::default();
        timeout(4 * FAREWELL, pollers.stop(&presence)).await.expect("it stops");
        drop(hold);
        assert_eq!(busy.await, Ok(true));
        presence.stop();
        thread.join().expect("it ends");
    }

    #[test]
    fn peers_are_told_apart_without_their_secrets() {
        let urls = ["http://a:1@x", "http://b:2@x", "http://x/one", "http://x/two", "http://y"].map(String::from);
        let expected = ["http://***@x", "http://***@x (2)", "http://x/***", "http://x/*** (2)", "http://y"];
        assert_eq!(shown(&urls), expected);
    }
}
