//! Who announced a maintenance, and why: for people. Until when it lasts is known where it is about, this is beside it.

use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::text_bytes;
use super::time::EngineTime;

/// Most of them that are kept; the maintenance of more is in force without it.
const MOST: usize = 1000;

/// Longest text of each kind, in characters.
pub const MOST_ANNOUNCED: usize = 200;

/// What somebody said who announced a maintenance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Who, as they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<CompactString>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<CompactString>,
}

impl Announced {
    /// Whether its texts are no longer than may be: [`MOST_ANNOUNCED`].
    pub fn is_short(&self) -> bool {
        let is_short = |text: &CompactString| text.chars().nth(MOST_ANNOUNCED).is_none();
        self.by.iter().chain(&self.why).all(is_short)
    }

    fn is_empty(&self) -> bool {
        *self == Announced::default()
    }

    /// Bytes that it takes beside itself.
    pub(super) fn heap_bytes(&self) -> usize {
        self.by.iter().chain(&self.why).map(text_bytes).sum()
    }
}

/// A service, and one of its instances or all of it.
type About = (CompactString, Option<CompactString>);

/// One that is kept, as it survives a restart, too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Announcement {
    service: CompactString,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance: Option<CompactString>,
    until: EngineTime,
    #[serde(flatten)]
    announced: Announced,
}

/// Those of all that is in maintenance.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    all: BTreeMap<About, Announcement>,
}

impl Announcements {
    /// Those that an earlier engine had saved.
    pub(super) fn restored(all: Vec<Announcement>) -> Announcements {
        let about = |entry: Announcement| ((entry.service.clone(), entry.instance.clone()), entry);
        Announcements { all: all.into_iter().map(about).take(MOST).collect() }
    }

    /// Those that are still in force.
    pub(super) fn saved(&self, now: EngineTime) -> Vec<&Announcement> {
        self.all.values().filter(|entry| entry.until > now).collect()
    }

    /// A maintenance was announced that takes the place of any before about the same.
    pub(super) fn set(
        &mut self,
        (service, instance): (&str, Option<&str>),
        until: EngineTime,
        announced: Announced,
        now: EngineTime,
    ) {
        let about: About = (service.into(), instance.map(CompactString::from));
        self.all.remove(&about);
        if announced.is_empty() || until <= now {
            return;
        }
        self.all.retain(|_, entry| entry.until > now);
        if self.all.len() < MOST {
            let (service, instance) = about.clone();
            self.all.insert(about, Announcement { service, instance, until, announced });
        }
    }

    /// What was said of the maintenance of an instance or a job, or of a service, that lasts until then: of its own, or of that
    /// of all of its service.
    pub(super) fn of(&self, service: &str, instance: Option<&str>, until: EngineTime) -> Announced {
        if self.all.is_empty() {
            return Announced::default();
        }
        let find = |instance: Option<&str>| {
            let entry = self.all.get(&(service.into(), instance.map(CompactString::from)))?;
            (entry.until == until).then(|| entry.announced.clone())
        };
        let own = instance.and_then(|instance| find(Some(instance)));
        own.or_else(|| find(None)).unwrap_or_default()
    }

    /// Bytes that it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        let texts = |((service, instance), entry): (&About, &Announcement)| {
            2 * (text_bytes(service) + instance.as_ref().map_or(0, text_bytes)) + entry.announced.heap_bytes()
        };
        // Nodes of a tree are two thirds full.
        self.all.len() * size_of::<(About, Announcement)>() * 3 / 2 + self.all.iter().map(texts).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_goes_with_its_maintenance() {
        let at = EngineTime::from_secs;
        let said = |why: &str| Announced { by: Some("me".into()), why: Some(why.into()) };
        let mut all = Announcements::default();
        all.set(("web", None), at(100.0), said("upgrade"), at(0.0));
        all.set(("web", Some("a")), at(50.0), said("disk"), at(0.0));
        assert_eq!(all.of("web", Some("a"), at(50.0)), said("disk"));
        // One that joined meanwhile, or whose own is shorter, is in that of its service.
        assert_eq!(all.of("web", Some("a"), at(100.0)), said("upgrade"));
        assert_eq!(all.of("web", None, at(100.0)), said("upgrade"));
        assert_eq!(all.of("web", None, at(99.0)), Announced::default());
        let saved = serde_json::to_string(&all.saved(at(60.0))).expect("JSON");
        let restored = Announcements::restored(serde_json::from_str(&saved).expect("entries"));
        assert_eq!((restored.all.len(), restored.of("web", None, at(100.0))), (1, said("upgrade")));
        // The next one takes its place, also without a word, and so does its end.
        all.set(("web", None), at(200.0), Announced::default(), at(10.0));
        assert_eq!(all.of("web", None, at(200.0)), Announced::default());
        for n in 0..MOST + 10 {
            all.set((&n.to_string(), None), at(300.0), said("all of them"), at(60.0));
        }
        assert_eq!(all.all.len(), MOST);
        assert!(said(&"é".repeat(MOST_ANNOUNCED)).is_short() && !said(&"x".repeat(MOST_ANNOUNCED + 1)).is_short());
    }
}
