//! What somebody should look at, in a sentence.

/// A sentence for people, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub about: Concern,
    /// The sentence: what is wrong, and what helps.
    pub text: String,
    /// In few words, where the sentence is long.
    pub short: Option<String>,
}

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// A receive buffer is nearly full.
    Queue,
    /// The kernel dropped datagrams.
    Drops,
    /// A part of the daemon does not work.
    Part,
    /// Memory is short.
    Memory,
    /// New series found no room.
    Series,
    /// A bound dropped values.
    Values,
    /// A bound dropped events or service checks.
    Events,
    /// Values became less exact than configured.
    Accuracy,
    /// Caches were let go.
    Caches,
    /// A sink dropped records.
    Sink,
    /// A certificate ends, or cannot be read again.
    Certificate,
    /// What somebody sends.
    Senders,
    /// Alerts that do not arrive.
    Alerts,
    /// What presence knows, or what outlives a restart, is not saved.
    Unsaved,
    /// What the process before left behind is not all that it had.
    LastProcess,
    /// The configuration in force is not that of the file.
    Config,
    /// The cluster that this node is in.
    Cluster,
    /// The same, where somebody has to act.
    ClusterDown,
}

impl Concern {
    /// A warning about it.
    pub fn says(self, text: String) -> Warning {
        Warning { about: self, text, short: None }
    }
}
