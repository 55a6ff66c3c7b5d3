//! Names of nodes, which are tokens of subjects and keys on the bus.

use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest name of a node, in bytes.
const MAX_BYTES: usize = 32;

/// The name of a node: 1 to 32 of the characters `A-Z`, `a-z`, `0-9`, `_` and `-`. Ordered by bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[schema(value_type = String)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(CompactString);

/// What is wrong with a name of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNodeName {
    /// It is empty, or too long.
    #[error("the name of a node has {0} bytes instead of 1 to {MAX_BYTES}")]
    Length(usize),
    /// A character that it may not have, and at which byte.
    #[error("the name of a node has {0:?} at byte {1}; only letters, digits, `_` and `-` may be in it")]
    Character(char, usize),
}

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = BadNodeName;

    fn from_str(text: &str) -> Result<NodeName, BadNodeName> {
        if text.is_empty() || text.len() > MAX_BYTES {
            return Err(BadNodeName::Length(text.len()));
        }
        let is_bad = |&(_, c): &(usize, char)| !c.is_ascii_alphanumeric() && c != '_' && c != '-';
        match text.char_indices().find(is_bad) {
            Some((at, c)) => Err(BadNodeName::Character(c, at)),
            None => Ok(NodeName(text.into())),
        }
    }
}

impl TryFrom<String> for NodeName {
    type Error = BadNodeName;

    fn try_from(text: String) -> Result<NodeName, BadNodeName> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> String {
        name.0.into()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_token_is_refused() {
        let longest = "x".repeat(32);
        for good in ["a", "web-01_B", "-", longest.as_str()] {
            assert_eq!(good.parse::<NodeName>().expect("a name").as_str(), good);
        }
        for (bad, error) in [
            ("", BadNodeName::Length(0)),
            ("a.b", BadNodeName::Character('.', 1)),
            ("web>", BadNodeName::Character('>', 3)),
            ("n\u{e9}", BadNodeName::Character('\u{e9}', 1)),
            ("a b", BadNodeName::Character(' ', 1)),
        ] {
            assert_eq!(bad.parse::<NodeName>(), Err(error), "{bad:?}");
        }
        assert_eq!("x".repeat(33).parse::<NodeName>(), Err(BadNodeName::Length(33)));
        let bytes = postcard::to_allocvec("a*").expect("memory");
        assert!(postcard::from_bytes::<NodeName>(&bytes).is_err());
    }
}
