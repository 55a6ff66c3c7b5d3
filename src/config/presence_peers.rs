//! `[presence]`: other observers of the same fleet.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use axum::http::Uri;

use crate::settings::{Opt, OptionVisitor};

use super::kinds::{in_header, secret};
use crate::http_client::split_login;
use crate::presence::observers::is_node_name;

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

/// The first names in the paths of pages of a daemon.
const PAGES: [&str; 4] = ["api", "presence", "metrics", "config"];

/// Most peers.
const MOST_PEERS: usize = 8;

pub(super) fn describe(all: &mut Peers, v: &mut dyn OptionVisitor) {
    let doc = "Name of this node among observers, in events and in alerts; without it that of the host.";
    v.field("node", doc, Opt::Text(&mut all.node));
    let is_right = all.node.is_empty() || is_node_name(&all.node);
    let problem = "the name of a node has at most 128 characters, and neither `,` nor `/`";
    v.require("node", if is_right { Ok(()) } else { Err(problem.into()) });
    let doc = "URLs of the pages of other observers of the same fleet: one notifies for all.";
    v.field("peers", doc, Opt::Urls(&mut all.urls));
    let is_right = all.urls.len() <= MOST_PEERS;
    v.require("peers", if is_right { Ok(()) } else { Err(format!("there are at most {MOST_PEERS} peers")) });
    v.require("peers", distinct(&all.urls));
    secret(v, "peer_token", "What observers show each other; the same at all of them.", &mut all.token);
    v.example("peer_token", "\"a secret\"");
    v.require("peer_token", in_header(all.token.as_deref().unwrap_or("")));
    let is_right = all.urls.is_empty() || all.token.is_some();
    v.require("peer_token", if is_right { Ok(()) } else { Err("`peers` need a `peer_token`".into()) });
    let doc = "Root certificates that the certificates of peers are checked against, in place of the system's.";
    v.field("peer_ca", doc, Opt::Path(&mut all.ca));
    v.example("peer_ca", "\"/etc/systole/ca.pem\"");
}

/// Whether a URL leads to an address of this node.
pub(super) fn is_at(url: &str, own: SocketAddr) -> bool {
    let Ok(uri) = split_login(url).0.parse::<Uri>() else { return false };
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let host = uri.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']');
    let is_here = match host.parse::<IpAddr>() {
        Ok(ip) => ip == own.ip() || own.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified()),
        Err(_) => host == "localhost" && (own.ip().is_loopback() || own.ip().is_unspecified()),
    };
    // The kernel chooses a port 0.
    port == own.port() && port != 0 && is_here
}

/// Where the pages begin, of the URL of one of them.
pub(super) fn before_page(url: &str) -> Option<String> {
    let plain = split_login(url).0;
    let (scheme, rest) = plain.split_once("://")?;
    let (host, path) = rest.split_once('/')?;
    let path = path.split(['?', '#']).next().unwrap_or("");
    let names: Vec<&str> = path.split('/').collect();
    let page = names.iter().position(|name| PAGES.contains(name))?;
    let before: String = names[..page].iter().map(|name| format!("/{name}")).collect();
    Some(format!("{scheme}://{host}{before}"))
}

/// Whether no peer is there twice. Their logins do not count: a peer is shown the token.
fn distinct(urls: &[String]) -> Result<(), String> {
    let place = |url: &String| split_login(url).0.trim_end_matches('/').to_string();
    let places: Vec<String> = urls.iter().map(place).collect();
    let twice = (1..places.len()).find(|&n| places[..n].contains(&places[n]));
    twice.map_or(Ok(()), |n| Err(format!("peer {} is there twice", n + 1)))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn what_is_wrong_with_peers_is_said() {
        for (text, says) in [
            ("peers = [\"http://b\"]", "`peers` need a `peer_token`"),
            ("peer_token = \"a\\nb\"", "cannot stand in a header"),
            ("peers = [\"http://x:1@b\", \"http://y:2@b/\"]\npeer_token = \"t\"", "peer 2 is there twice"),
            ("node = \"a/b\"", "neither `,` nor `/`"),
            (
                "peers = [\"http://b:8127/presence\"]\npeer_token = \"t\"",
                "`http://b:8127/presence` is one page of it; `http://b:8127` is right",
            ),
            ("peers = [\"http://gate/b/api/v1/\"]\npeer_token = \"t\"", "`http://gate/b` is right"),
            (
                "peers = [\"http://127.0.0.1:8127/\"]\npeer_token = \"t\"\n[http]\naddress = \"127.0.0.1:8127\"",
                "is this node itself",
            ),
            (
                "peers = [\"http://localhost:8127\"]\npeer_token = \"t\"\n[http]\naddress = \"0.0.0.0:8127\"\ntoken = \"x\"",
                "is this node itself",
            ),
        ] {
            let problem = Config::parse(&format!("[presence]\n{text}\n")).expect_err(text).to_string();
            assert!(problem.contains(says), "{text}: {problem}");
        }
        let two = "[presence]\npeers = [\"http://gate/b\", \"http://gate/c\"]\npeer_token = \"t\"\n";
        assert_eq!(Config::parse(two).expect("two places").presence.peers.urls.len(), 2);
    }
}
