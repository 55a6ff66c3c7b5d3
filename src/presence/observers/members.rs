//! Observers that are nodes of one cluster. Who they are is not configured but seen on the bus that all of them share, and it
//! changes: nodes come, are stopped for good, or die.
//!
//! Nodes that only receive judge nobody: they are asked what they have heard, and that is all. The others judge as observers
//! do. When the bus is away nobody has anybody's answer; then nobody is judged, and that is one alarm, and not one for each
//! node.

use std::collections::BTreeSet;

use compact_str::CompactString;

use super::peer::{GRACE, Peer};
use super::{Observers, in_order};
use crate::presence::engine::Engine;
use crate::presence::event::{PeerContext, PeerKind, Phase};
use crate::presence::time::EngineTime;

/// Most nodes of a cluster, those included that were forgotten in the last day.
const MOST_MEMBERS: usize = 4096;

/// A place of one that is no member any more is another's after so many seconds.
const REUSED_AFTER: f64 = 86_400.0;

/// That nobody answers is taken for the bus for so many seconds, if there is one; after that they are dead.
const MOST_BLIND: f64 = 300.0;

/// Who is a member is waited for after a start for so many seconds; then those count that an earlier start knew.
const UNSEEN: f64 = 30.0;

/// How a node is an observer in a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberOptions {
    /// The name of the cluster.
    pub cluster: CompactString,
    /// It only receives: it is asked, and judges nobody.
    pub listens_only: bool,
    /// A node that does not answer for so many seconds is forgotten.
    pub forget_after: f64,
}

/// What a node knows of its cluster beside its peers.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) options: MemberOptions,
    /// Who is a member was seen since the start, or was waited for.
    is_seen: bool,
    /// Who was seen last, and since when the bus is there.
    seen: BTreeSet<CompactString>,
    bus_since: Option<EngineTime>,
    /// Why the bus cannot be reached.
    no_bus: Option<CompactString>,
    /// Since when nobody can be asked, and from when on those who can judge.
    blind_since: Option<EngineTime>,
    sees_at: EngineTime,
    /// It stores what this node sends.
    bus_answers: bool,
    /// All others are dead.
    is_alone: bool,
    /// The alarm that nobody can be asked, as it was reported.
    alarm: Option<[CompactString; 2]>,
}

impl Membership {
    pub(super) fn new(options: MemberOptions, now: EngineTime) -> Membership {
        Membership {
            options,
            is_seen: false,
            seen: BTreeSet::new(),
            bus_since: None,
            no_bus: None,
            blind_since: None,
            sees_at: now,
            bus_answers: false,
            is_alone: false,
            alarm: None,
        }
    }

    /// The bus, as alarms have it; no node has that name.
    fn bus(&self) -> CompactString {
        format!("the bus of {}", self.options.cluster).into()
    }

    /// Whether it is known who is a member, or cannot be known.
    pub(super) fn may_speak(&self) -> bool {
        self.is_seen || self.blind_since.is_some()
    }

    /// Takes the alarm that an earlier start has reported out of these.
    pub(super) fn adopt_alarm(&mut self, node: &str, firing: &mut Vec<[CompactString; 2]>) {
        let nodes = in_order(&self.bus(), node);
        if let Some(place) = firing.iter().position(|known| *known == nodes) {
            self.alarm = Some(firing.swap_remove(place));
        }
    }

    /// What is to be known of the bus beside that a node does not reach it.
    fn context(&self, by: &CompactString, why: Option<CompactString>) -> PeerContext {
        PeerContext { peer: self.bus(), by: by.clone(), why, kind: PeerKind::Bus, former: false }
    }

    /// Whether silence may be judged, as far as the cluster is concerned.
    pub(super) fn may_judge(&self, now: EngineTime) -> bool {
        self.options.listens_only || self.is_seen && self.blind_since.is_none() && now >= self.sees_at
    }
}

/// Whether a text may name a node of a cluster; the URL of a peer may not.
pub(super) fn is_member_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

impl Observers {
    /// Takes which other nodes are seen on the bus, why it cannot be reached, and whether it stores what this node sends. Whom to
    /// ask: a place among the peers, and the name. A node that is not seen any more is asked until it is forgotten.
    pub fn set_members(
        &mut self,
        seen: &[CompactString],
        (no_bus, bus_answers): (Option<&str>, bool),
        engine: &mut Engine,
    ) -> Vec<(usize, CompactString)> {
        let now = engine.now();
        let Some(membership) = &mut self.membership else { return Vec::new() };
        membership.no_bus = no_bus.map(CompactString::from);
        membership.bus_answers = bus_answers;
        membership.bus_since = no_bus.map_or(Some(membership.bus_since.unwrap_or(now)), |_| None);
        membership.seen = seen.iter().cloned().collect();
        let is_late = membership.bus_since.is_some_and(|since| now - since >= UNSEEN) && !self.peers.is_empty();
        let is_first = !membership.is_seen;
        membership.is_seen |= !seen.is_empty() || is_late;
        for name in seen {
            if *name != self.node {
                self.add_member(name, is_first, engine);
            }
        }
        let members = self.peers.iter().enumerate().filter(|(_, peer)| !peer.is_former);
        members.map(|(place, peer)| (place, peer.url.as_str().into())).collect()
    }

    /// Takes a node that is seen; `is_awaited`: nothing is done before it has answered.
    fn add_member(&mut self, name: &CompactString, is_awaited: bool, engine: &mut Engine) {
        let now = engine.now();
        let known = self.peers.iter().position(|peer| peer.url == *name);
        match known {
            Some(place) if self.peers[place].is_former => {
                self.peers[place].come_back(now);
                engine.lose_peer(u16::try_from(place).unwrap_or(u16::MAX));
            }
            Some(_) => {}
            None => {
                let peer = Peer::new(name, Some(name.clone()), now);
                let peer = if is_awaited { peer } else { peer.not_heard_yet(now) };
                let is_old = |peer: &Peer| peer.is_former_for(now).is_some_and(|secs| secs >= REUSED_AFTER);
                if self.peers.len() < MOST_MEMBERS {
                    self.peers.push(peer);
                } else if let Some(place) = self.peers.iter().position(is_old) {
                    self.peers[place] = peer;
                }
            }
        }
    }

    /// Whether this node gives its sinks what is known of services: in a cluster one node does, whichever targets it can reach.
    pub fn reports(&self) -> bool {
        self.membership.is_none() || self.lowest(|_| Some(true)) == Some(self.node.as_str())
    }

    /// Whether it is a node of a cluster, and only receives.
    pub fn listens_only(&self) -> bool {
        self.membership.as_ref().is_some_and(|membership| membership.options.listens_only)
    }

    /// Whether all who ask this node of a cluster are such.
    pub fn are_all_askers(&self, are: impl Fn(&CompactString) -> bool) -> bool {
        self.membership.is_none() || self.askers.keys().all(are)
    }

    /// What the alarm that a peer does not answer is about.
    pub(super) fn nodes_with(&self, peer: &str) -> [CompactString; 2] {
        match &self.membership {
            // All who ask it say the same.
            Some(membership) => in_order(&membership.options.cluster, peer),
            None => in_order(&self.node, peer),
        }
    }

    /// Finds out whether anybody can be asked, and forgets who is gone. Whether peers that do not answer are to be reported.
    pub(super) fn follow_members(&mut self, engine: &mut Engine) -> bool {
        let now = engine.now();
        let Some(membership) = &mut self.membership else { return true };
        let awaited = || self.peers.iter().filter(|peer| !peer.is_former && !peer.is_leaving);
        let is_nobody = !membership.bus_answers && awaited().count() > 1 && awaited().all(|peer| !peer.answers());
        let is_long = membership.blind_since.is_some_and(|since| now - since >= MOST_BLIND);
        if membership.no_bus.is_none() && (!is_nobody || is_long || membership.is_alone) {
            // What all of them do for so long is not the bus.
            membership.is_alone = is_nobody;
            if membership.blind_since.take().is_some() {
                // All of them are given the time to find the bus again.
                membership.sees_at = now + GRACE;
                self.peers.iter_mut().for_each(|peer| peer.begin_to_be_lost(now));
                engine.see_again();
            }
            if let Some(nodes) = membership.alarm.take() {
                let context = membership.context(&self.node, None);
                engine.report_peer(Phase::End, nodes, Some(context));
            }
            self.forget_members(engine);
            return true;
        }
        let since = *membership.blind_since.get_or_insert(now);
        if now - since >= GRACE && membership.alarm.is_none() {
            let nodes = in_order(&membership.bus(), &self.node);
            let why = membership.no_bus.clone().unwrap_or_else(|| "no node of the cluster answers".into());
            let context = membership.context(&self.node, Some(why));
            engine.report_peer(Phase::Start, nodes.clone(), Some(context));
            membership.alarm = Some(nodes);
        }
        false
    }

    /// Who was stopped and is not back, or is away for very long, is no member any more.
    fn forget_members(&mut self, engine: &mut Engine) {
        let now = engine.now();
        let Some(membership) = &self.membership else { return };
        let (limit, seen) = (membership.options.forget_after, membership.seen.clone());
        for (peer, id) in self.peers.iter_mut().zip(0..) {
            let is_away = peer.lost_at.is_some_and(|lost| now - lost >= limit);
            let is_stopped = peer.is_leaving && peer.is_gone(now);
            // Who is seen and does not answer is not gone.
            if !peer.is_former && (is_away || is_stopped) && !seen.contains(peer.url.as_str()) {
                peer.is_former = true;
                // Whom it alone had heard has a timeout to be heard by another one.
                engine.regain_peer(id);
                if let Some(nodes) = peer.alarm.take() {
                    let context = PeerContext { former: true, ..peer.context(&self.node, PeerKind::Node) };
                    engine.report_peer(Phase::End, nodes, Some(context));
                }
            }
        }
    }
}
