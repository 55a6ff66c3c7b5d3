//! `[presence]`: other observers of the same fleet.

use std::path::PathBuf;

use crate::settings::{Opt, OptionVisitor};

use super::kinds::secret;

/// The observers beside this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// The name of this node; empty for the host's.
    pub node: String,
    /// URLs of the pages of the others.
    pub urls: Vec<String>,
    /// What observers show each other.
    pub token: Option<String>,
    /// Root certificates (PEM) that the others' are checked against; empty for the system's.
    pub ca: PathBuf,
}

impl Peers {
    /// Whether this node tells others what it hears, or asks them.
    pub fn are_on(&self) -> bool {
        self.token.is_some()
    }
}

/// Longest name of a node, in bytes.
const MOST_NODE: usize = 128;

/// Most peers.
const MOST_PEERS: usize = 8;

pub(super) fn describe(all: &mut Peers, v: &mut dyn OptionVisitor) {
    let doc = "Name of this node among observers, in events and in alerts; without it that of the host.";
    v.field("node", doc, Opt::Text(&mut all.node));
    let is_right = all.node.len() <= MOST_NODE && !all.node.contains(|c: char| c.is_control() || c == ',' || c == '/');
    let problem = || format!("the name of a node has at most {MOST_NODE} bytes, and neither `,` nor `/`");
    v.require("node", if is_right { Ok(()) } else { Err(problem()) });
    let doc = "URLs of the pages of other observers of the same fleet: one notifies for all.";
    v.field("peers", doc, Opt::Urls(&mut all.urls));
    let is_right = all.urls.len() <= MOST_PEERS;
    v.require("peers", if is_right { Ok(()) } else { Err(format!("there are at most {MOST_PEERS} peers")) });
    secret(v, "peer_token", "What observers show each other; the same at all of them.", &mut all.token);
    v.example("peer_token", "\"a secret\"");
    let is_right = all.urls.is_empty() || all.token.is_some();
    v.require("peer_token", if is_right { Ok(()) } else { Err("`peers` need a `peer_token`".into()) });
    let doc = "Root certificates that the certificates of peers are checked against, in place of the system's.";
    v.field("peer_ca", doc, Opt::Path(&mut all.ca));
    v.example("peer_ca", "\"/etc/systole/ca.pem\"");
}
