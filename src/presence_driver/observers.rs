//! The presence thread among other observers: what it tells them, what it takes from them, and when it notifies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use compact_str::CompactString;

use crate::notify::{Outbox, SavedTarget};
use crate::presence::observers::{ActRow, Cursor, Digest, Heard, Missed, Mistaken, Observers, ObserversView, PeerView};
use crate::presence::{Alarm, AlertKey, AlertName, Engine, EngineTime, Notification, Reading, UnixTime, peer_reading};

use super::state::PresenceState;

/// Most names of peers that are told that this node is leaving.
const MOST_FAREWELLS: usize = 64;

/// This node among others, and what it gives to its targets. It needs no thread and no runtime.
#[derive(Debug)]
pub struct Among {
    /// What this node knows of the others.
    pub observers: Observers,
    /// Peers that were told that this node is leaving, by the names that they say.
    farewells: BTreeSet<CompactString>,
    is_leaving: bool,
    /// They are told nothing any more.
    has_left: bool,
}

impl Among {
    /// A node that has notified nobody yet.
    pub fn new(observers: Observers) -> Among {
        Among { observers, farewells: BTreeSet::new(), is_leaving: false, has_left: false }
    }

    /// Notifies, if it is for this node to do: puts into the queues of the targets what they are to be sent now, and takes back
    /// what others have sent.
    pub fn speak(&mut self, engine: &Engine, outboxes: &[Arc<Outbox>]) {
        self.note_targets(outboxes, engine.now());
        // The same for all targets.
        let mut details = BTreeMap::new();
        for outbox in outboxes {
            let mut spoken = self.observers.speak(engine, outbox.name());
            if spoken.is_silenced {
                outbox.stand_down();
            }
            outbox.withdraw(&spoken.overtaken);
            spoken.learned.iter().for_each(|(alarm, is_out)| outbox.follow(alarm, *is_out));
            let again = spoken.again.iter_mut().flatten();
            for one in again.chain(&mut spoken.notifications) {
                let text = details.entry(one.alarm.key.clone()).or_insert_with_key(|key| match key.name {
                    AlertName::PeerUnreachable => self.observers.unwatched(key.nodes.as_ref(), engine),
                    _ => detail(engine, key),
                });
                one.detail.clone_from(text);
            }
            if let Some(again) = &spoken.again {
                outbox.take_over(again);
            }
            if !spoken.notifications.is_empty() {
                outbox.put(&spoken.notifications);
            }
        }
    }

    /// Takes whether the targets can be reached, and what they have dealt with.
    pub fn note_targets(&mut self, outboxes: &[Arc<Outbox>], now: EngineTime) {
        for outbox in outboxes {
            self.observers.note_target(outbox.name(), !outbox.fails());
            for one in outbox.take_settled() {
                self.observers.note_arrived(outbox.name(), &one, now);
            }
        }
    }

    /// After a start: takes what the targets know of what fires. `saved` has that of a start without other observers.
    pub(super) fn resume(
        &mut self,
        outboxes: &[Arc<Outbox>],
        saved: Option<Option<&[SavedTarget]>>,
        firing: &[Alarm],
        times: (EngineTime, UnixTime),
    ) {
        for outbox in outboxes {
            let known = outbox.resume_among().or_else(|| Some(outbox.known_of(saved?, firing)));
            if let Some(known) = known {
                self.observers.adopt(outbox.name(), known, times);
            }
        }
    }
}

/// Puts notifications into every target's queue.
pub(super) fn pass_on(engine: &Engine, outboxes: &[Arc<Outbox>], mut notifications: Vec<Notification>) {
    if notifications.is_empty() || outboxes.is_empty() {
        return;
    }
    notifications.iter_mut().for_each(|one| one.detail = detail(engine, &one.alarm.key));
    outboxes.iter().for_each(|outbox| outbox.put(&notifications));
}

/// More about an alarm in words.
pub(super) fn detail(engine: &Engine, key: &AlertKey) -> String {
    let (service, instance) = (key.service.as_deref(), key.instance.as_deref());
    match (key.name, service) {
        // Observers say that themselves; there are no others now.
        (AlertName::PeerUnreachable, _) => String::new(),
        (AlertName::Job, Some(service)) => engine.job_detail(service, instance.unwrap_or("-")),
        (AlertName::Watch, Some(service)) => {
            engine.watch_detail(service, instance.unwrap_or("-")) + &engine.detail(Some(service), instance)
        }
        _ => engine.detail(service, instance),
    }
}

/// For the tasks that ask peers, and the route that answers them.
impl PresenceState {
    /// How the observers are; `None` if this is the only one.
    pub fn observers(&self) -> Option<ObserversView> {
        self.shared.as_ref().map(|shared| shared.observers.view(self.engine()))
    }

    /// Whether this node is one of a cluster that only receives, and judges nobody.
    pub fn listens_only(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.observers.listens_only())
    }

    /// What is new to a peer that calls itself so; `None` if there are no observers beside this one, or it has left them.
    pub fn digest(&mut self, since: Option<Cursor>, asker: &str) -> Option<Digest> {
        let unix = self.unix_now();
        let shared = self.shared.as_mut().filter(|shared| !shared.has_left)?;
        shared.observers.note_asker(asker, self.engine.now());
        if shared.is_leaving && shared.farewells.len() < MOST_FAREWELLS {
            shared.farewells.insert(asker.into());
        }
        Some(shared.observers.digest(&self.engine, since, unix))
    }

    /// Takes which nodes of the cluster are seen, why the bus cannot be reached, and whether it stores anything; whom to ask.
    pub(super) fn set_members(
        &mut self,
        seen: &[CompactString],
        bus: (Option<&str>, bool),
    ) -> Vec<(usize, CompactString)> {
        let Some(shared) = &mut self.shared else { return Vec::new() };
        shared.observers.set_members(seen, bus, &mut self.engine)
    }

    /// The time before a peer is asked, where to go on, and who asks.
    pub(super) fn before_poll(&mut self, peer: usize) -> (EngineTime, Option<Cursor>, CompactString) {
        let observers = self.shared.as_ref().map(|shared| &shared.observers);
        let node = observers.map(|observers| observers.node().clone());
        (self.engine.now(), observers.and_then(|observers| observers.cursor(peer)), node.unwrap_or_default())
    }

    /// Takes a part of a peer's answer; the rest of it follows.
    pub(super) fn take_part(
        &mut self,
        peer: usize,
        asked: EngineTime,
        node: &str,
        part: (Vec<ActRow>, Vec<Heard>),
    ) -> Result<(), Mistaken> {
        let Some(shared) = &mut self.shared else { return Ok(()) };
        shared.observers.take_part(peer, node, part, &mut self.engine, asked)
    }

    /// Takes a peer's answer; whether there is more.
    pub(super) fn take_digest(&mut self, peer: usize, asked: EngineTime, digest: Digest) -> Result<bool, Mistaken> {
        let unix = self.unix_now();
        let Some(shared) = &mut self.shared else { return Ok(false) };
        shared.observers.take_digest(peer, digest, &mut self.engine, (asked, unix))
    }

    /// A poll of a peer had no whole answer.
    pub(super) fn miss_peer(&mut self, peer: usize, why: Missed, trouble: &str) {
        if let Some(shared) = &mut self.shared {
            shared.observers.note_trouble(peer, trouble);
            shared.observers.miss(peer, why, &mut self.engine);
        }
    }

    /// The daemon is about to stop.
    pub(super) fn say_farewell(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.observers.leave();
            shared.is_leaving = true;
        }
    }

    /// It is one of them no longer: it hears nothing, and what it would tell were the silence of those whom it alone hears.
    pub(super) fn leave_observers(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.has_left = true;
        }
    }

    /// Whether so many peers have been told of that, or all that answer.
    pub(super) fn has_said_farewell(&mut self, peers: usize) -> bool {
        self.shared.as_ref().is_none_or(|Among { observers, farewells, .. }| {
            let is_told = |name: Option<&CompactString>| name.is_some_and(|name| farewells.contains(name));
            // Who asks a node of a cluster is not known but by that.
            let are_askers_told = observers.are_all_askers(|asker| farewells.contains(asker));
            (farewells.len() >= peers || observers.answering().all(is_told)) && are_askers_told
        })
    }
}

/// For the thread.
impl PresenceState {
    /// Whether silence may be judged now.
    pub(super) fn may_judge(&mut self) -> bool {
        let now = self.engine.now();
        self.shared.as_mut().is_none_or(|shared| shared.observers.may_judge(now))
    }

    /// Lets time pass among observers.
    pub(super) fn tick_observers(&mut self) {
        let unix = self.unix_now();
        if let Some(shared) = &mut self.shared {
            shared.observers.tick(&mut self.engine, unix);
        }
    }

    /// What this node's own machine would notify goes to the targets, or, among observers, to what they know.
    pub(super) fn notify(&mut self, notifications: Vec<Notification>) {
        let now = self.engine.now();
        match &mut self.shared {
            Some(shared) => shared.observers.note(notifications, now),
            None => pass_on(&self.engine, &self.outboxes, notifications),
        }
    }

    /// Whether each peer answers, as series.
    pub(super) fn peer_readings(&self) -> Vec<Reading> {
        let peers = self.observers().map_or_else(Vec::new, |observers| observers.peers);
        let name = |peer: &PeerView| peer.node.clone().unwrap_or_else(|| peer.url.as_str().into());
        peers.iter().map(|peer| peer_reading(name(peer), peer.reachable)).collect()
    }

    /// Takes what the targets have dealt with, to be saved.
    pub(super) fn note_deliveries(&mut self) {
        let now = self.engine.now();
        if let Some(shared) = &mut self.shared {
            shared.note_targets(&self.outboxes, now);
        }
    }

    /// Notifies, if it is for this node to do.
    pub(super) fn speak(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.speak(&self.engine, &self.outboxes);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::memory::{Holder, Memory};
    use crate::notify::{Outcome, Route};
    use crate::presence::observers::SavedObservers;
    use crate::presence::{AlertBook, AlertState, Ending, Epoch, Identity, Policy, Severity, which};

    /// A node with a queue for each of two targets.
    struct Node {
        engine: Engine,
        among: Among,
        outboxes: Vec<Arc<Outbox>>,
    }

    const GOOD: usize = 0;
    const BAD: usize = 1;

    fn alarm(service: &str, severity: Severity) -> Alarm {
        let key = AlertKey { service: Some(service.into()), ..AlertKey::of(AlertName::Job) };
        let since = UnixTime::from_secs(1000.0);
        Alarm { key, severity, text: String::new(), since, until: None, state: AlertState::Firing }
    }

    fn observers(name: &str, saved: SavedObservers, firing: Vec<Alarm>) -> Observers {
        let times = (EngineTime::default(), UnixTime::from_secs(1000.0));
        Observers::new(name, 1, &["http://peer".to_string()], saved, firing.into_iter(), times)
    }

    impl Node {
        fn new(name: &str) -> Node {
            let queue = |target: &str| Arc::new(Outbox::new(target, Route::default(), false, false));
            Node {
                engine: Engine::new(Policy::default(), EngineTime::default(), 1).shared(),
                among: Among::new(observers(name, SavedObservers::default(), Vec::new())),
                outboxes: vec![queue("good"), queue("bad")],
            }
        }

        fn note(&mut self, alarm: &Alarm, resolved: bool) {
            let one = Notification {
                alarm: alarm.clone(),
                resolved,
                event: None,
                detail: String::new(),
                version: 0,
                ending: None,
            };
            self.among.observers.note(vec![one], self.engine.now());
        }

        fn speak(&mut self) {
            self.among.speak(&self.engine, &self.outboxes);
        }

        /// What a target gets now, whether it is an end.
        fn deliver(&self, target: usize) -> Vec<bool> {
            let sent = self.outboxes[target].take(9);
            self.outboxes[target].note_success();
            self.outboxes[target].finish(&sent.iter().map(which).collect::<Vec<_>>(), Outcome::Delivered);
            sent.iter().map(|one| one.resolved).collect()
        }

        fn ask(&mut self, peer: &mut Node) {
            let unix = UnixTime::from_secs(1000.0);
            let digest = peer.among.observers.digest(&peer.engine, self.among.observers.cursor(0), unix);
            let digest = Digest::read(&serde_json::to_vec(&digest).expect("JSON")).expect("a digest");
            let asked = self.engine.now();
            self.among.observers.take_digest(0, digest, &mut self.engine, (asked, unix)).expect("taken");
        }

        fn lose_peer(&mut self) {
            (0..3).for_each(|_| self.among.observers.miss(0, Missed::Silent, &mut self.engine));
        }
    }

    /// A quarter of a second of both.
    fn turn(a: &mut Node, b: &mut Node) {
        for one in [&mut *a, &mut *b] {
            let later = one.engine.now() + 0.25;
            one.engine.at(later);
            one.speak();
        }
        a.ask(b);
        b.ask(a);
        a.speak();
        b.speak();
    }

    #[test]
    fn a_dead_target_makes_nobody_repeat_what_arrived_at_another() {
        let (mut a, mut b) = (Node::new("a"), Node::new("b"));
        let fail = |node: &Node| {
            // It is in work, and tried again and again.
            node.outboxes[BAD].take(9);
            node.outboxes[BAD].note_failure("nobody is there");
        };
        turn(&mut a, &mut b);
        let problem = alarm("pay", Severity::Critical);
        a.note(&problem, false);
        b.note(&problem, false);
        turn(&mut a, &mut b);
        assert_eq!((a.deliver(GOOD), b.deliver(GOOD), b.deliver(BAD)), (vec![false], vec![], vec![]));
        fail(&a);
        // The other one tries that target, and no other; a does not try it again.
        turn(&mut a, &mut b);
        turn(&mut a, &mut b);
        assert_eq!((b.outboxes[GOOD].is_idle(), b.outboxes[BAD].is_idle()), (true, false));
        assert!(a.outboxes[BAD].is_idle() && b.among.observers.view(&b.engine).speaker.as_deref() == Some("a"));
        assert_eq!(b.among.observers.view(&b.engine).targets["bad"], "b");
        fail(&b);
        // Nobody can reach it: the first goes on trying, and it stays with that.
        for _ in 0..20 {
            turn(&mut a, &mut b);
            fail(&a);
        }
        assert!(b.outboxes[BAD].is_idle() && a.outboxes[GOOD].is_idle() && b.outboxes[GOOD].is_idle());
        assert!(!a.outboxes[BAD].is_idle());
        // The first is gone: the other repeats nothing, and tells the end to whom the problem was told.
        drop(a);
        b.lose_peer();
        b.speak();
        assert!(b.outboxes[GOOD].is_idle());
        assert_eq!(b.deliver(BAD), [false]);
        b.note(&problem, true);
        b.speak();
        b.speak();
        assert_eq!((b.deliver(GOOD), b.deliver(BAD)), (vec![true], vec![true]));
        b.speak();
        assert!(b.outboxes.iter().all(|outbox| outbox.is_idle()));
    }

    #[test]
    fn an_end_that_another_has_seen_is_told_in_its_words_and_not_in_those_of_the_beginning() {
        let (mut a, mut b) = (Node::new("a"), Node::new("b"));
        turn(&mut a, &mut b);
        // b alone sees both, and how they end.
        for (service, text, ending) in
            [("left", "left said goodbye", Ending::Left), ("back", "back is up", Ending::Over)]
        {
            let begun = Alarm { text: format!("{service} is down"), ..alarm(service, Severity::Critical) };
            b.note(&begun, false);
            (0..6).for_each(|_| turn(&mut a, &mut b));
            let told = a.outboxes[GOOD].take(9);
            assert_eq!(told.len(), 1);
            a.outboxes[GOOD].finish(&[which(&told[0])], Outcome::Delivered);
            let alarm = Alarm { text: text.into(), ..begun };
            let end = Notification {
                alarm,
                resolved: true,
                event: None,
                detail: String::new(),
                version: 0,
                ending: Some(ending),
            };
            b.among.observers.note(vec![end], b.engine.now());
            (0..6).for_each(|_| turn(&mut a, &mut b));
            let told = a.outboxes[GOOD].take(9);
            assert_eq!(told.iter().map(|one| (&*one.alarm.text, one.ending())).collect::<Vec<_>>(), [(text, ending)]);
            a.outboxes[GOOD].finish(&[which(&told[0])], Outcome::Delivered);
        }
    }

    #[test]
    fn what_is_on_its_way_at_one_that_speaks_no_longer_is_dropped() {
        let (mut a, mut b) = (Node::new("a"), Node::new("b"));
        turn(&mut a, &mut b);
        let problem = alarm("pay", Severity::Critical);
        a.note(&problem, false);
        b.note(&problem, false);
        turn(&mut a, &mut b);
        let mut in_work = a.outboxes[BAD].take(9);
        a.outboxes[BAD].note_failure("nobody is there");
        turn(&mut a, &mut b);
        turn(&mut a, &mut b);
        assert_eq!(b.deliver(BAD), [false]);
        b.note(&problem, true);
        a.note(&problem, true);
        turn(&mut a, &mut b);
        assert_eq!(b.deliver(BAD), [true]);
        // The receiver is back: what a had in work is not to be sent.
        a.outboxes[BAD].keep_wanted(&mut in_work);
        assert!(in_work.is_empty());
    }

    #[test]
    fn a_second_start_in_one_process_ends_nothing_and_repeats_nothing() {
        let mut node = Node::new("a");
        node.lose_peer();
        let (told, over) = (alarm("pay", Severity::Critical), alarm("mail", Severity::Warning));
        node.note(&told, false);
        node.note(&over, false);
        node.speak();
        assert_eq!(node.deliver(GOOD), [false, false]);
        // What was saved is from before that, or from after it; and what waits for the other target has to be told still.
        for is_saved in [false, true] {
            let mut file = Vec::new();
            node.among.observers.store(&mut file).expect("JSON");
            let saved = if is_saved {
                serde_json::from_slice(&file).expect("what was saved")
            } else {
                SavedObservers::default()
            };
            let firing = [told.clone(), over.clone()];
            node.among = Among::new(observers("a", saved, firing.to_vec()));
            node.among.resume(&node.outboxes, None, &firing, (EngineTime::default(), UnixTime::from_secs(1000.0)));
            node.lose_peer();
            node.speak();
            assert!(node.outboxes[GOOD].is_idle(), "{is_saved}");
            assert_eq!(node.outboxes[BAD].account().queued, 2);
        }
        node.note(&over, true);
        node.speak();
        // The other target was not told of it.
        assert_eq!((node.deliver(GOOD), node.deliver(BAD)), (vec![true], vec![false]));
    }

    #[test]
    fn that_a_lost_node_is_back_is_told_by_the_one_that_spoke_meanwhile() {
        let mut b = Node::new("b");
        b.lose_peer();
        let nodes = Some(["a".into(), "b".into()]);
        let key = AlertKey { nodes, ..AlertKey::of(AlertName::PeerUnreachable) };
        let lost = Alarm { key, ..alarm("", Severity::Critical) };
        b.note(&lost, false);
        b.speak();
        assert_eq!(b.deliver(GOOD), [false]);
        // a has not said yet which targets it has, so b speaks still, and what it tells is on its way when a asks.
        let mut a = Node::new("a");
        b.ask(&mut a);
        b.note(&lost, true);
        b.speak();
        a.ask(&mut b);
        a.speak();
        assert!(a.deliver(GOOD).is_empty());
        assert_eq!(b.deliver(GOOD), [true]);
        (0..20).for_each(|_| turn(&mut a, &mut b));
        assert!(a.deliver(GOOD).is_empty());
    }

    #[test]
    fn what_grows_worse_is_told_again_by_one() {
        let (mut a, mut b) = (Node::new("a"), Node::new("b"));
        turn(&mut a, &mut b);
        let mut told = Vec::new();
        for severity in [Severity::Warning, Severity::Critical, Severity::Critical] {
            a.note(&alarm("job", severity), false);
            b.note(&alarm("job", severity), false);
            for _ in 0..3 {
                turn(&mut a, &mut b);
            }
            told.append(&mut a.deliver(GOOD));
            a.deliver(BAD);
        }
        assert_eq!(told, [false, false]);
        turn(&mut a, &mut b);
        drop(a);
        b.lose_peer();
        b.speak();
        assert!(b.outboxes.iter().all(|outbox| outbox.is_idle()), "a has told that it is worse");
    }

    #[test]
    fn what_grows_worse_while_it_is_on_its_way_is_told_by_the_other_if_that_is_lost() {
        let (mut a, mut b) = (Node::new("a"), Node::new("b"));
        turn(&mut a, &mut b);
        let note = |node: &mut Node, severity| node.note(&alarm("job", severity), false);
        note(&mut a, Severity::Warning);
        note(&mut b, Severity::Warning);
        turn(&mut a, &mut b);
        let sent = a.outboxes[GOOD].take(9);
        assert_eq!(sent.len(), 1);
        note(&mut a, Severity::Critical);
        note(&mut b, Severity::Critical);
        turn(&mut a, &mut b);
        a.outboxes[GOOD].finish(&[which(&sent[0])], Outcome::Delivered);
        assert_eq!(a.outboxes[GOOD].account().queued, 1);
        turn(&mut a, &mut b);
        drop(a);
        b.lose_peer();
        b.speak();
        assert_eq!(b.deliver(GOOD), [false], "the receiver has not been told that it is worse");
    }

    #[test]
    fn what_is_delivered_after_its_node_has_stood_down_counts_for_all() {
        let (mut a, mut b) = (Node::new("a"), Node::new("b"));
        turn(&mut a, &mut b);
        b.lose_peer();
        let problem = alarm("pay", Severity::Critical);
        b.note(&problem, false);
        b.speak();
        let sent = b.outboxes[GOOD].take(9);
        assert_eq!(sent.len(), 1);
        // The other is back, and speaks, before the receiver answers.
        b.ask(&mut a);
        b.speak();
        assert!(b.outboxes[GOOD].is_idle());
        b.outboxes[GOOD].finish(&[which(&sent[0])], Outcome::Delivered);
        for _ in 0..8 {
            turn(&mut a, &mut b);
        }
        assert!(a.outboxes[GOOD].is_idle(), "the receiver has it");
        b.note(&problem, true);
        turn(&mut a, &mut b);
        turn(&mut a, &mut b);
        assert_eq!(a.deliver(GOOD), [true]);
        let account = b.outboxes[GOOD].account();
        assert_eq!(account.offered, account.delivered + account.queued + account.dropped.total());
    }

    fn state(peers: &[&str]) -> PresenceState {
        let now = EngineTime::default();
        let urls: Vec<String> = peers.iter().map(|peer| format!("http://{peer}")).collect();
        let times = (now, UnixTime::from_secs(0.0));
        let observers = Observers::new("a", 1, &urls, SavedObservers::default(), std::iter::empty(), times);
        let mut state = PresenceState::new(
            Engine::new(Policy::default(), now, 1).shared(),
            Epoch::UNIX,
            Identity { node: "a".into(), boot: 0 },
            AlertBook::new(0.0, Vec::new()),
            Vec::new(),
            watch::channel(0).0,
            Memory::unlimited().holding(Holder::Presence),
        );
        state.shared = Some(Among::new(observers));
        state
    }

    #[test]
    fn a_stop_waits_for_those_who_answer_and_for_nobody_who_is_lost() {
        let mut state = state(&["b", "c"]);
        let b = Node::new("b");
        let digest = b.among.observers.digest(&b.engine, None, UnixTime::from_secs(1000.0));
        state.take_digest(0, EngineTime::default(), digest).expect("taken");
        (0..3).for_each(|_| state.miss_peer(1, Missed::Silent, "refused"));
        state.say_farewell();
        assert!(!state.has_said_farewell(2));
        // It is lost to this node, and asks all the same.
        state.digest(None, "c");
        assert!(!state.has_said_farewell(3));
        state.digest(None, "b");
        assert!(state.has_said_farewell(3));
    }

    #[test]
    fn every_peer_is_told_of_a_stop_and_one_that_asks_twice_is_one() {
        let mut state = state(&["b", "c"]);
        state.digest(None, "b");
        state.say_farewell();
        assert!(!state.has_said_farewell(2));
        for (asker, is_done) in [("b", false), ("b", false), ("c", true)] {
            let digest = state.digest(None, asker);
            assert!(digest.is_some_and(|digest| digest.leaving));
            assert_eq!(state.has_said_farewell(2), is_done, "{asker}");
        }
    }
}
