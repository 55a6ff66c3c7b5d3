//! Series that somebody deleted: sinks that remember series from interval to interval forget these, too.

use serde::{Deserialize, Serialize};

use crate::aggregate::{Class, class_of};
use crate::protocol::Kind;
use crate::series::Series;

use super::Snapshot;

/// What was deleted while an interval was open. What the interval has of it came later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deletion {
    /// One series.
    Series(Series),
    /// Every series of a class whose name begins so.
    Folder(Class, String),
}

impl Deletion {
    /// What a name of the management port stands for: `NAME`, `NAME;KEY=VALUE` or `FOLDER.*`. A sink may still tell a series that
    /// the daemon has forgotten long ago.
    pub fn of_name(class: Class, name: &str) -> Vec<Deletion> {
        if let Some(folder) = name.strip_suffix('*').filter(|folder| folder.ends_with('.')) {
            return vec![Deletion::Folder(class, folder.to_string())];
        }
        let mut parts = name.split(';');
        let bare = parts.next().unwrap_or("");
        let tags: Vec<(&str, Option<&str>)> =
            parts.map(|tag| tag.split_once('=').map_or((tag, None), |(key, value)| (key, Some(value)))).collect();
        let kinds = Kind::ALL.into_iter().filter(|kind| class_of(*kind) == class);
        kinds.map(|kind| Deletion::Series(Series::new(kind, bare, &tags))).collect()
    }

    /// Whether it takes a series.
    pub fn matches(&self, series: &Series) -> bool {
        match self {
            Deletion::Series(deleted) => deleted == series,
            Deletion::Folder(class, folder) => {
                class_of(series.kind()) == *class && series.name().starts_with(folder.as_str())
            }
        }
    }

    /// The same where series have a prefix before their names, and more tags.
    #[must_use]
    pub fn decorated(&self, prefix: &str, tags: &[(String, String)]) -> Deletion {
        match self {
            Deletion::Series(series) => Deletion::Series(series.decorated(prefix, tags)),
            Deletion::Folder(class, folder) => Deletion::Folder(*class, format!("{prefix}{folder}")),
        }
    }
}

impl Snapshot {
    /// Takes out what was deleted in an interval that follows.
    pub(super) fn without(mut self, deleted: &[Deletion]) -> Snapshot {
        if deleted.is_empty() {
            return self;
        }
        let stays = |series: &Series| !deleted.iter().any(|deletion| deletion.matches(series));
        self.counters.retain(|point| stays(&point.series));
        self.gauges.retain(|point| stays(&point.series));
        self.timers.retain(|point| stays(&point.series));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_its_series_and_a_folder_for_all_in_it() {
        let series = |kind, name: &str, tags: &[(&str, Option<&str>)]| Series::new(kind, name, tags);
        let hit = |name: &str, class, of: &Series| Deletion::of_name(class, name).iter().any(|d| d.matches(of));
        let plain = series(Kind::Counter, "a.b", &[]);
        let tagged = series(Kind::Counter, "a.b", &[("k", Some("v")), ("bare", None)]);
        assert!(hit("a.b", Class::Counter, &plain) && !hit("a.b", Class::Counter, &tagged));
        assert!(hit("a.b;k=v;bare", Class::Counter, &tagged) && !hit("a.b", Class::Gauge, &plain));
        assert!(hit("a.*", Class::Counter, &tagged) && !hit("a*", Class::Counter, &tagged));
        assert!(hit("a.b", Class::Timer, &series(Kind::Histogram, "a.b", &[])));
        let there = Deletion::of_name(Class::Counter, "a.*")[0].decorated("x.", &[]);
        assert!(there.matches(&series(Kind::Counter, "x.a.b", &[])));
    }
}
