//! Which lines are wanted.

use std::net::IpAddr;

use memchr::memmem::Finder;

use crate::acl::AccessList;
use crate::glob;
use crate::protocol::lossy;

use super::verdict::Verdict;

/// Which lines somebody wants to see: those that fit all of it.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A pattern of the whole name with `*` and `?`; without either, a text that the name contains. Of a line without a name
    /// it is what stands before the first `:` or `|`.
    pub name: Option<String>,
    /// Only malformed lines.
    pub malformed: bool,
    /// Only lines from these networks.
    pub from: AccessList,
}

impl Filter {
    fn is_pattern(name: &str) -> bool {
        name.contains(['*', '?'])
    }

    /// Whether a line is wanted.
    pub(super) fn wants(&self, line: &[u8], verdict: &Verdict<'_>, from: Option<IpAddr>) -> bool {
        if self.malformed && verdict.error.is_none() || !self.is_from(from) {
            return false;
        }
        let Some(wanted) = &self.name else { return true };
        let name = match &verdict.name {
            Some(name) => name.clone(),
            None => lossy(&line[..line.iter().position(|b| matches!(b, b':' | b'|')).unwrap_or(line.len())]),
        };
        if Filter::is_pattern(wanted) { glob::matches(wanted, &name) } else { name.contains(wanted.as_str()) }
    }

    fn is_from(&self, from: Option<IpAddr>) -> bool {
        // Who has no address is in no network.
        !self.from.is_restricted() || from.is_some() && self.from.permits(from)
    }

    /// The longest text that every name that fits has.
    fn needle(&self) -> Option<&str> {
        let texts = self.name.as_deref()?.split(['*', '?']);
        texts.max_by_key(|text| text.len()).filter(|text| !text.is_empty())
    }
}

/// How much of all that comes is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// What somebody chose.
    Few = 0,
    /// Whatever comes.
    Any = 1,
}

/// What a worker looks for, before anything is read.
#[derive(Debug, Default)]
pub(super) struct Wanted(Vec<(Filter, Option<Finder<'static>>)>);

impl Wanted {
    pub(super) fn of<'f>(filters: impl Iterator<Item = &'f Filter>) -> Wanted {
        let one = |filter: &Filter| {
            let needle = filter.needle().map(|needle| Finder::new(needle).into_owned());
            (filter.clone(), needle)
        };
        Wanted(filters.map(one).collect())
    }

    /// Whether a line of these may be wanted, and by whom. `is_cleaned` if names may change before they are compared.
    pub(super) fn interest(
        &self,
        bytes: &[u8],
        from: Option<IpAddr>,
        is_malformed: bool,
        is_cleaned: bool,
    ) -> Option<Interest> {
        let wants = |(filter, needle): &&(Filter, Option<Finder<'static>>)| {
            (is_malformed || !filter.malformed)
                && filter.is_from(from)
                && needle.as_ref().is_none_or(|needle| {
                    // Tags in brackets may stand inside a name.
                    is_cleaned || needle.find(bytes).is_some() || memchr::memchr(b'[', bytes).is_some()
                })
        };
        let is_chosen = |(filter, needle): &(Filter, Option<Finder<'static>>)| {
            needle.is_some() || filter.malformed || filter.from.is_restricted()
        };
        let interests =
            self.0.iter().filter(wants).map(|one| if is_chosen(one) { Interest::Few } else { Interest::Any });
        interests.min_by_key(|interest| *interest as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_looked_for_by_its_longest_text() {
        let needle = |name: &str| Filter { name: Some(name.into()), ..Filter::default() }.needle().map(String::from);
        for (name, expected) in [
            ("api.*.time", Some("time")),
            ("checkout.*", Some("checkout.")),
            ("a?cd", Some("cd")),
            ("*", None),
            ("", None),
        ] {
            // `.time` is as long as `time` and its dot.
            let expected = if name == "api.*.time" { Some(".time") } else { expected };
            assert_eq!(needle(name).as_deref(), expected, "{name}");
        }
        assert_eq!(Filter::default().needle(), None);
    }

    #[test]
    fn a_worker_never_rules_out_what_is_wanted() {
        let name = |name: &str| Filter { name: Some(name.into()), ..Filter::default() };
        let malformed = Filter { malformed: true, ..Filter::default() };
        let from =
            Filter { from: AccessList::new(Some(vec!["10.0.0.0/8".parse().expect("a network")])), ..Filter::default() };
        let (near, far) =
            (Some("10.1.2.3".parse().expect("an address")), Some("192.168.0.1".parse().expect("an address")));
        for (filter, bytes, from, is_malformed, is_cleaned, expected) in [
            (name("api.*"), &b"api.hits:1|c"[..], far, false, false, true),
            (name("api.*"), b"web.hits:1|c", far, false, false, false),
            (name("api.*"), b"ap[k=v]i.hits:1|c", far, false, false, true),
            (name("a_b"), b"a b:1|c", far, false, true, true),
            (malformed.clone(), b"x", near, false, false, false),
            (malformed, b"x", near, true, false, true),
            (from.clone(), b"x", near, false, false, true),
            (from.clone(), b"x", far, false, false, false),
            (from, b"x", None, false, false, false),
        ] {
            let wanted = Wanted::of(std::iter::once(&filter));
            let interest = wanted.interest(bytes, from, is_malformed, is_cleaned);
            assert_eq!(interest, expected.then_some(Interest::Few), "{filter:?}");
        }
        assert_eq!(Wanted::default().interest(b"x", None, true, false), None);
        let both = [Filter::default(), name("api.*")];
        let both = Wanted::of(both.iter());
        assert_eq!(both.interest(b"web:1|c", None, false, false), Some(Interest::Any));
        assert_eq!(both.interest(b"api.x:1|c", None, false, false), Some(Interest::Few));
    }
}
