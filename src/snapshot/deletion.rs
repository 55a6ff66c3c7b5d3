//! Deleted series: sinks that keep series over intervals remove these too.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::aggregate::{Class, class_of};
use crate::glob::Prefixes;
use crate::protocol::Kind;
use crate::series::Series;

use super::Snapshot;

/// A deletion during an open interval. Values that the interval has of it came later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deletion {
    /// One series.
    Series(Series),
    /// Every series of a class whose name has this prefix.
    Folder(Class, String),
}

impl Deletion {
    /// Parses a name of the management port: `NAME`, `NAME;KEY=VALUE` or `FOLDER.*`. A sink may still hold a series that the
    /// daemon retired long ago.
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

    /// The same for series with a prefix and further tags.
    #[must_use]
    pub fn decorated(&self, prefix: &str, tags: &[(String, String)]) -> Deletion {
        match self {
            Deletion::Series(series) => Deletion::Series(series.decorated(prefix, tags)),
            Deletion::Folder(class, folder) => Deletion::Folder(*class, format!("{prefix}{folder}")),
        }
    }
}

/// A set of deletions, for fast checks of many series.
#[derive(Debug)]
pub struct Deleted<'a> {
    series: HashSet<&'a Series>,
    /// By class.
    folders: [Prefixes; Class::ALL.len()],
}

impl<'a> Deleted<'a> {
    /// A set of these.
    pub fn new(deletions: &'a [Deletion]) -> Deleted<'a> {
        let series = deletions.iter().filter_map(|deletion| match deletion {
            Deletion::Series(series) => Some(series),
            Deletion::Folder(..) => None,
        });
        let folders = Class::ALL.map(|class| {
            Prefixes::new(deletions.iter().filter_map(|deletion| match deletion {
                Deletion::Folder(of, folder) if *of == class => Some(folder.as_str()),
                Deletion::Series(_) | Deletion::Folder(..) => None,
            }))
        });
        Deleted { series: series.collect(), folders }
    }

    /// Whether a series is deleted.
    pub fn has(&self, series: &Series) -> bool {
        self.series.contains(series) || self.has_folder_of(series)
    }

    /// Whether a series is deleted by its prefix.
    pub fn has_folder_of(&self, series: &Series) -> bool {
        self.folders[class_of(series.kind()) as usize].begin(series.name())
    }

    /// Whether there are prefixes.
    pub fn has_folders(&self) -> bool {
        self.folders.iter().any(|folders| !folders.is_empty())
    }
}

impl Snapshot {
    /// Removes what a later interval deleted.
    pub(super) fn without(mut self, deleted: &[Deletion]) -> Snapshot {
        if deleted.is_empty() {
            return self;
        }
        let deleted = Deleted::new(deleted);
        let stays = |series: &Series| !deleted.has(series);
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
        let hit = |name: &str, class, of: &Series| Deleted::new(&Deletion::of_name(class, name)).has(of);
        let plain = series(Kind::Counter, "a.b", &[]);
        let tagged = series(Kind::Counter, "a.b", &[("k", Some("v")), ("bare", None)]);
        assert!(hit("a.b", Class::Counter, &plain) && !hit("a.b", Class::Counter, &tagged));
        assert!(hit("a.b;k=v;bare", Class::Counter, &tagged) && !hit("a.b", Class::Gauge, &plain));
        assert!(hit("a.*", Class::Counter, &tagged) && !hit("a*", Class::Counter, &tagged));
        assert!(hit("a.b", Class::Timer, &series(Kind::Histogram, "a.b", &[])));
        let there = Deletion::of_name(Class::Counter, "a.*")[0].decorated("x.", &[]);
        assert!(Deleted::new(std::slice::from_ref(&there)).has(&series(Kind::Counter, "x.a.b", &[])));
    }
}
