//! Search: the names and tags of all series as one text in lower case, in segments that never change, so that nobody who
//! searches keeps anybody who records waiting.
//!
//! ```text
//! text of a series   name { 0x01 key ':' value }* 0x00
//! ```

use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memchr::memmem::Finder;

use crate::glob::Budget;
use crate::memory::{footprint, vec_footprint};
use crate::presence::SERIES;
use crate::protocol::Kind;
use crate::series::Series;

use super::store::{Cell, place_of};

/// Most series of a segment.
const SEGMENT: usize = 1 << 16;

/// Segments are merged while the one before is not twice as large as the last.
const GROWTH: usize = 2;

/// Series up to which all are looked at for facets; of those beyond, one in [`STRIDE`] stands for all.
const EXACT_FACETS: usize = 20_000;
const STRIDE: usize = 32;

/// Most different values that facets are counted for.
const MOST_VALUES: usize = 50_000;

/// Most facets of a kind.
const TOP: usize = 10;

/// Series whose names are looked at for what is near to a word that nothing matches.
const NEAR_SERIES: usize = 20_000;

/// Longest word for which near ones are looked for, in bytes: comparing two takes the product of their lengths.
const MOST_NEAR_WORD: usize = 40;

/// Most bytes of a text in a cursor.
const MOST_CURSOR: usize = 2000;

/// The lowest score of a series that has stopped.
const STOPPED: u32 = 1 << 31;

const TAG: u8 = 1;
const END: u8 = 0;

fn lower(text: &str, out: &mut Vec<u8>) {
    if text.is_ascii() {
        out.extend(text.bytes().map(|byte| byte.to_ascii_lowercase()));
    } else {
        out.extend_from_slice(text.to_lowercase().as_bytes());
    }
}

/// Some series, as text.
#[derive(Debug, Default)]
pub(super) struct Segment {
    text: Vec<u8>,
    /// Where the text of each begins.
    starts: Vec<u32>,
    ids: Vec<u32>,
    kinds: Vec<u8>,
}

impl Segment {
    fn push(&mut self, id: u32, series: &Series) {
        self.starts.push(self.text.len() as u32);
        self.ids.push(id);
        self.kinds.push(series.kind() as u8);
        lower(series.name(), &mut self.text);
        for (key, value) in series.tags() {
            self.text.push(TAG);
            lower(key, &mut self.text);
            self.text.push(b':');
            lower(value.unwrap_or(""), &mut self.text);
        }
        self.text.push(END);
    }

    /// Takes over one of another's.
    fn copy(&mut self, other: &Segment, n: usize) {
        self.starts.push(self.text.len() as u32);
        self.ids.push(other.ids[n]);
        self.kinds.push(other.kinds[n]);
        self.text.extend_from_slice(other.text(n));
        self.text.push(END);
    }

    fn clear(&mut self) {
        self.text.clear();
        self.starts.clear();
        self.ids.clear();
        self.kinds.clear();
    }

    fn text(&self, n: usize) -> &[u8] {
        let end = self.starts.get(n + 1).map_or(self.text.len(), |start| *start as usize);
        &self.text[self.starts[n] as usize..end - 1]
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.starts.shrink_to_fit();
        self.ids.shrink_to_fit();
        self.kinds.shrink_to_fit();
    }

    fn heap_bytes(&self) -> usize {
        footprint(size_of::<Segment>() + 16)
            + vec_footprint::<u8>(self.text.capacity())
            + vec_footprint::<u8>(self.kinds.capacity())
            + vec_footprint::<u32>(self.starts.capacity())
            + vec_footprint::<u32>(self.ids.capacity())
    }
}

/// Whether a name, in lower case, is that of one of the daemon's own series, which begin so: `systole.`, `systole_` and
/// `presence_`.
pub(super) fn is_own(name: &[u8], own_prefix: &[u8]) -> bool {
    let Some(stem) = own_prefix.strip_suffix(b"systole.") else { return name.starts_with(own_prefix) };
    let Some(rest) = name.strip_prefix(stem) else { return false };
    rest.starts_with(b"systole.")
        || rest.starts_with(b"systole_")
        || rest.starts_with(b"presence_") && SERIES.iter().any(|own| own.as_bytes() == rest)
}

fn name_of(text: &[u8]) -> &[u8] {
    &text[..memchr::memchr(TAG, text).unwrap_or(text.len())]
}

/// Whether the series of an id is still there.
fn is_alive(cells: &[Arc<Cell>], id: u32) -> bool {
    let (cell, place) = place_of(id);
    cells.get(cell).is_some_and(|cell| cell.is_alive(place))
}

/// All segments.
#[derive(Clone, Debug, Default)]
pub(super) struct Segments(pub(super) Vec<Arc<Segment>>);

impl Segments {
    /// Adds new series, and merges small segments.
    pub(super) fn add(&mut self, fresh: &[(u32, Series)]) {
        for part in fresh.chunks(SEGMENT) {
            let mut segment = Segment::default();
            part.iter().for_each(|(id, series)| segment.push(*id, series));
            segment.shrink();
            self.0.push(Arc::new(segment));
        }
        while let [.., before, last] = &self.0[..]
            && last.len() * GROWTH > before.len()
            && last.len() + before.len() <= SEGMENT
        {
            let mut merged = Segment::default();
            for segment in [before, last] {
                (0..segment.len()).for_each(|n| merged.copy(segment, n));
            }
            merged.shrink();
            self.0.truncate(self.0.len() - 2);
            self.0.push(Arc::new(merged));
        }
    }

    /// Takes series that are gone out of segments where they are many, or all of them; their ids, which are free from then on.
    pub(super) fn bury(&mut self, cells: &[Arc<Cell>], all: bool) -> Vec<u32> {
        let mut free = Vec::new();
        for segment in &mut self.0 {
            let dead = segment.ids.iter().filter(|id| !is_alive(cells, **id)).count();
            if dead == 0 || (!all && dead * 4 < segment.len()) {
                continue;
            }
            let mut kept = Segment::default();
            for n in 0..segment.len() {
                match is_alive(cells, segment.ids[n]) {
                    true => kept.copy(segment, n),
                    false => free.push(segment.ids[n]),
                }
            }
            kept.shrink();
            *segment = Arc::new(kept);
        }
        self.0.retain(|segment| segment.len() > 0);
        free
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.0.iter().map(|segment| segment.heap_bytes()).sum::<usize>()
            + vec_footprint::<Arc<Segment>>(self.0.capacity())
    }
}

/// One word of a search.
#[derive(Clone, Debug)]
enum Word {
    /// It is part of a name or of a tag.
    Text(Finder<'static>),
    /// A tag with this key and, if it is exact, just this value; else a value that begins so.
    Tag(Finder<'static>, bool),
    /// A pattern of the whole name, and its longest text, if it has one.
    Pattern(String, Option<Finder<'static>>),
}

impl Word {
    fn text(word: &str) -> Word {
        let mut needle = Vec::new();
        if word.contains(['*', '?']) {
            lower(word, &mut needle);
            let longest = needle.split(|byte| matches!(byte, b'*' | b'?')).max_by_key(|text| text.len());
            let finder = longest.filter(|text| !text.is_empty()).map(|text| Finder::new(text).into_owned());
            return Word::Pattern(String::from_utf8_lossy(&needle).into_owned(), finder);
        }
        if word.contains(':') {
            return Word::tag(word, false);
        }
        lower(word, &mut needle);
        Word::Text(Finder::new(&needle).into_owned())
    }

    fn tag(pair: &str, is_exact: bool) -> Word {
        let mut needle = vec![TAG];
        lower(pair, &mut needle);
        if !pair.contains(':') {
            needle.push(b':');
        }
        Word::Tag(Finder::new(&needle).into_owned(), is_exact)
    }

    /// The text that must be there, and whether being there is enough.
    fn finder(&self) -> Option<(&Finder<'static>, bool)> {
        match self {
            Word::Text(finder) => Some((finder, true)),
            Word::Tag(finder, is_exact) => Some((finder, !is_exact)),
            Word::Pattern(_, finder) => Some((finder.as_ref()?, false)),
        }
    }

    fn matches(&self, text: &[u8], budget: &Budget) -> bool {
        match self {
            Word::Text(finder) => finder.find(text).is_some(),
            Word::Tag(finder, false) => finder.find(text).is_some(),
            Word::Tag(finder, true) => finder.find_iter(text).any(|at| {
                let next = text.get(at + finder.needle().len());
                next.is_none_or(|byte| *byte == TAG)
            }),
            Word::Pattern(pattern, _) => {
                std::str::from_utf8(name_of(text)).is_ok_and(|name| budget.matches(pattern, name))
            }
        }
    }
}

/// How a list is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// By name.
    #[default]
    Name,
    /// Most values or events a second first.
    Loudest,
    /// What differs most from what it usually is first.
    Changed,
    /// The last that came first.
    Newest,
}

impl Sort {
    /// Every order, by its name.
    pub const ALL: [(&'static str, Sort); 4] =
        [("name", Sort::Name), ("loudest", Sort::Loudest), ("changed", Sort::Changed), ("newest", Sort::Newest)];
}

/// Which series are looked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    words: Vec<Word>,
    /// What its patterns may take.
    budget: Budget,
    kind: Option<Kind>,
    prefix: Option<Vec<u8>>,
    /// The series of a name, as it stands.
    own_prefix: Vec<u8>,
    wants_own: bool,
    /// What was searched for, in lower case.
    query: Vec<u8>,
}

/// What is wrong with a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// Characters that no name is searched by.
    #[error("a search has no control characters")]
    Control,
    /// Too long.
    #[error("`q` has at most {} words and {} bytes", Wanted::MOST_WORDS, Wanted::MOST_BYTES)]
    Long,
    /// Patterns that are compared with too many names for too long.
    #[error("the patterns of `q` take more than {} steps: use longer texts, and fewer `*` and `?`", Wanted::MOST_STEPS)]
    Costly,
}

impl Default for Wanted {
    fn default() -> Wanted {
        Wanted {
            words: Vec::new(),
            budget: Budget::new(Wanted::MOST_STEPS),
            kind: None,
            prefix: None,
            own_prefix: Vec::new(),
            wants_own: false,
            query: Vec::new(),
        }
    }
}

impl Wanted {
    /// Most words of a search, and most bytes of each of its texts.
    pub const MOST_WORDS: usize = 16;
    /// See there.
    pub const MOST_BYTES: usize = 1000;
    /// Most steps that the patterns of a search take, about a quarter of a second; a usual one takes 40 a name.
    pub const MOST_STEPS: u64 = 200_000_000;

    /// Series that match every word of `query`, are of this kind, have all these tags (`key:value`), and begin so.
    ///
    /// # Errors
    /// If it is too long, or holds control characters.
    pub fn new(query: &str, kind: Option<Kind>, tags: &[String], prefix: Option<&str>) -> Result<Wanted, SearchError> {
        let texts = || tags.iter().map(String::as_str).chain([query]).chain(prefix);
        if texts().any(|text| text.chars().any(char::is_control)) {
            return Err(SearchError::Control);
        }
        let count = query.split_whitespace().count() + tags.len();
        if count > Wanted::MOST_WORDS || texts().any(|text| text.len() > Wanted::MOST_BYTES) {
            return Err(SearchError::Long);
        }
        let words = query.split_whitespace().map(Word::text).chain(tags.iter().map(|tag| Word::tag(tag, true)));
        let prefix = prefix.map(|prefix| {
            let mut lowered = Vec::new();
            lower(prefix, &mut lowered);
            lowered
        });
        let mut lowered = Vec::new();
        lower(query.trim(), &mut lowered);
        let wanted = Wanted { words: words.collect(), kind, prefix, query: lowered, ..Wanted::default() };
        Ok(Wanted { wants_own: wanted.begins(b"systole") || wanted.begins(b"presence"), ..wanted })
    }

    /// Whether its patterns took too long, so that what was found is not all.
    pub(super) fn is_spent(&self) -> bool {
        self.budget.is_spent()
    }

    /// Whether it asks for names that begin so.
    fn begins(&self, own: &[u8]) -> bool {
        self.query.starts_with(own) || self.prefix.as_ref().is_some_and(|prefix| prefix.starts_with(own))
    }

    /// Leaves out the daemon's own series, which begin so, unless they are asked for.
    pub(super) fn without(mut self, own_prefix: &str) -> Wanted {
        lower(own_prefix, &mut self.own_prefix);
        let stem = self.own_prefix.strip_suffix(b".").unwrap_or(&self.own_prefix);
        let of_presence = [stem.strip_suffix(b"systole").unwrap_or(stem), b"presence"].concat();
        self.wants_own |= self.begins(stem) || self.begins(&of_presence);
        self
    }

    fn passes(&self, segment: &Segment, n: usize, but: Option<usize>) -> bool {
        let text = segment.text(n);
        self.kind.is_none_or(|kind| segment.kinds[n] == kind as u8)
            && self.prefix.as_ref().is_none_or(|prefix| text.starts_with(prefix))
            && (self.wants_own || self.own_prefix.is_empty() || !is_own(name_of(text), &self.own_prefix))
            && self.words.iter().enumerate().all(|(at, word)| Some(at) == but || word.matches(text, &self.budget))
    }

    /// Shows every series that matches: its segment, and where it is there.
    fn each<'a>(&self, segments: &'a Segments, cells: &[Arc<Cell>], mut visit: impl FnMut(&'a Segment, usize)) {
        // The longest is the rarest, as a rule.
        let finders = self.words.iter().enumerate().filter_map(|(n, word)| Some((n, word.finder()?)));
        let first = finders.max_by_key(|(_, (finder, _))| finder.needle().len());
        for segment in &segments.0 {
            let mut show = |n: usize, but| {
                if self.passes(segment, n, but) && is_alive(cells, segment.ids[n]) {
                    visit(segment, n);
                }
            };
            let Some((at, (finder, is_enough))) = first else {
                (0..segment.len()).for_each(|n| show(n, None));
                continue;
            };
            let but = is_enough.then_some(at);
            let (mut from, mut n) = (0, 0);
            while let Some(found) = finder.find(&segment.text[from..]) {
                let place = from + found;
                // Hits are near to each other, or far apart.
                let mut step = 1;
                while segment.starts.get(n + step).is_some_and(|start| *start as usize <= place) {
                    n += step;
                    step *= 2;
                }
                while step > 0 {
                    if segment.starts.get(n + step).is_some_and(|start| *start as usize <= place) {
                        n += step;
                    }
                    step /= 2;
                }
                show(n, but);
                match segment.starts.get(n + 1) {
                    Some(next) => from = *next as usize,
                    None => break,
                }
            }
        }
    }
}

/// Tells of series, one by one, whether they are wanted.
pub(super) fn filter(wanted: Wanted) -> impl FnMut(&Series) -> bool {
    let mut one = Segment::default();
    move |series| {
        one.clear();
        one.push(0, series);
        wanted.passes(&one, 0, None)
    }
}

/// Where a series stands in a list: by score, then by text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    score: u32,
    text: &'a [u8],
    kind: u8,
    id: u32,
}

/// Where the next page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    score: u32,
    text: Vec<u8>,
    kind: u8,
    id: u32,
}

impl Cursor {
    fn place(&self) -> Rank<'_> {
        Rank { score: self.score, text: &self.text, kind: self.kind, id: self.id }
    }

    fn after(place: &Rank<'_>) -> Cursor {
        let mut text = place.text[..place.text.len().min(MOST_CURSOR)].to_vec();
        if text.len() < place.text.len() {
            // Behind all that begin so: none is shown twice.
            text.push(u8::MAX);
        }
        Cursor { score: place.score, text, kind: place.kind, id: place.id }
    }

    /// As text for a URL.
    pub fn text(&self) -> String {
        let head = [&self.score.to_be_bytes()[..], &[self.kind], &self.id.to_be_bytes()].concat();
        URL_SAFE_NO_PAD.encode([&head[..], &self.text].concat())
    }

    /// Reads the text of one.
    pub fn parse(text: &str) -> Option<Cursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (score, rest) = bytes.split_first_chunk()?;
        let (&kind, rest) = rest.split_first()?;
        let (id, text) = rest.split_first_chunk()?;
        let (score, id) = (u32::from_be_bytes(*score), u32::from_be_bytes(*id));
        (text.len() <= MOST_CURSOR + 1).then(|| Cursor { score, text: text.to_vec(), kind, id })
    }
}

/// How many series have something.
pub(super) type Facet = (Vec<u8>, usize, u32);

/// How many series have each text, with one that does.
type Examples = HashMap<Vec<u8>, (usize, u32)>;

/// What is counted of the series that match.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) kinds: HashMap<u8, usize>,
    /// By the first part of the name, with an example.
    prefixes: Examples,
    /// By key and value of a tag.
    tags: HashMap<Vec<u8>, Examples>,
    values: usize,
}

impl Counted {
    fn add(&mut self, segment: &Segment, n: usize, weight: usize) {
        let (text, id) = (segment.text(n), segment.ids[n]);
        *self.kinds.entry(segment.kinds[n]).or_default() += weight;
        let mut parts = text.split(|byte| *byte == TAG);
        let name = parts.next().unwrap_or(text);
        if let Some(dot) = memchr::memchr(b'.', name) {
            self.prefix(&name[..=dot], id, weight);
        }
        for tag in parts {
            let Some(colon) = memchr::memchr(b':', tag) else { continue };
            let (key, value) = (&tag[..colon], &tag[colon + 1..]);
            if !self.tags.contains_key(key) {
                if self.values >= MOST_VALUES {
                    continue;
                }
                self.values += 1;
                self.tags.insert(key.to_vec(), HashMap::new());
            }
            let Some(values) = self.tags.get_mut(key) else { continue };
            match values.get_mut(value) {
                Some((count, _)) => *count += weight,
                None if self.values < MOST_VALUES => {
                    self.values += 1;
                    values.insert(value.to_vec(), (weight, id));
                }
                None => {}
            }
        }
    }

    fn prefix(&mut self, prefix: &[u8], id: u32, weight: usize) {
        match self.prefixes.get_mut(prefix) {
            Some((count, _)) => *count += weight,
            None if self.values < MOST_VALUES => {
                self.values += 1;
                self.prefixes.insert(prefix.to_vec(), (weight, id));
            }
            None => {}
        }
    }

    /// The prefixes that most have.
    pub(super) fn top_prefixes(&self) -> Vec<Facet> {
        top(&self.prefixes)
    }

    /// The keys of tags that most have, each with the values that most have.
    pub(super) fn top_tags(&self) -> Vec<(Vec<u8>, Vec<Facet>)> {
        let all = |values: &Examples| values.values().map(|(count, _)| count).sum::<usize>();
        let mut keys: Vec<_> = self.tags.iter().map(|(key, values)| (all(values), key, values)).collect();
        keys.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        keys.into_iter().take(TOP).map(|(_, key, values)| (key.clone(), top(values))).collect()
    }
}

fn top(counts: &Examples) -> Vec<Facet> {
    let mut all: Vec<Facet> = counts.iter().map(|(text, (count, id))| (text.clone(), *count, *id)).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(TOP);
    all
}

/// A page of what was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) matched: usize,
    pub(super) ids: Vec<u32>,
    pub(super) next: Option<Cursor>,
    pub(super) counted: Option<Counted>,
}

/// How a page is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    pub(super) sort: Sort,
    pub(super) limit: usize,
    pub(super) cursor: Option<&'a Cursor>,
    pub(super) has_facets: bool,
    /// The number of the last interval, modulo 2^32.
    pub(super) last: u32,
}

impl Page<'_> {
    /// The score of a series: the lower, the earlier.
    fn score(&self, cells: &[Arc<Cell>], id: u32) -> u32 {
        use std::sync::atomic::Ordering::Relaxed;

        let (cell, place) = place_of(id);
        let Some(cell) = cells.get(cell) else { return u32::MAX };
        // Bits of numbers that are not negative are in the order of the numbers.
        let is_current = cell.last[place].load(Relaxed).wrapping_sub(self.last) < u32::MAX / 2;
        match self.sort {
            Sort::Name => 0,
            // Behind all that are current, the last that stopped first.
            Sort::Loudest if !is_current => STOPPED | (!cell.last[place].load(Relaxed) >> 1),
            Sort::Loudest => STOPPED - 1 - (cell.rate[place].load(Relaxed) & (STOPPED - 1)),
            Sort::Changed if !is_current => u32::MAX,
            Sort::Changed => !cell.change[place].load(Relaxed),
            Sort::Newest => !cell.first_seen[place].load(Relaxed),
        }
    }
}

/// Searches.
pub(super) fn search(segments: &Segments, cells: &[Arc<Cell>], wanted: &Wanted, page: Page<'_>) -> Found {
    let mut found = Found { counted: page.has_facets.then(Counted::default), ..Found::default() };
    let after = page.cursor.map(Cursor::place);
    let mut first: BinaryHeap<Rank<'_>> = BinaryHeap::new();
    wanted.each(segments, cells, |segment, n| {
        found.matched += 1;
        if let Some(counted) = &mut found.counted {
            let is_exact = found.matched <= EXACT_FACETS;
            if is_exact || found.matched.is_multiple_of(STRIDE) {
                counted.add(segment, n, if is_exact { 1 } else { STRIDE });
            }
        }
        let id = segment.ids[n];
        let score = page.score(cells, id);
        let last = first.peek().filter(|_| first.len() > page.limit);
        if last.is_some_and(|last| score > last.score) {
            return;
        }
        let place = Rank { score, text: segment.text(n), kind: segment.kinds[n], id };
        if after.is_some_and(|after| place <= after) || last.is_some_and(|last| place >= *last) {
            return;
        }
        first.push(place);
        if first.len() > page.limit + 1 {
            first.pop();
        }
    });
    let mut places = first.into_sorted_vec();
    if places.len() > page.limit {
        places.truncate(page.limit);
        found.next = places.last().map(Cursor::after);
    }
    found.ids = places.into_iter().map(|place| place.id).collect();
    found
}

/// Words near to one that nothing matches: parts of names and tags that differ in few letters, the nearest first.
pub(super) fn near(segments: &Segments, word: &str, most: usize) -> Vec<String> {
    if word.len() > MOST_NEAR_WORD {
        return Vec::new();
    }
    let mut lowered = Vec::new();
    lower(word, &mut lowered);
    let word = String::from_utf8_lossy(&lowered).into_owned();
    let all: usize = segments.0.iter().map(|segment| segment.len()).sum();
    let stride = all.div_ceil(NEAR_SERIES).max(1);
    let mut parts: HashMap<&[u8], usize> = HashMap::new();
    for segment in &segments.0 {
        for n in (0..segment.len()).step_by(stride) {
            for part in segment.text(n).split(|byte| !byte.is_ascii_alphanumeric() && *byte < 0x80) {
                if part.len().abs_diff(word.len()) <= 2 && parts.len() < MOST_VALUES {
                    *parts.entry(part).or_default() += 1;
                }
            }
        }
    }
    let most_apart = (word.chars().count() / 3).clamp(1, 2);
    let apart = |(part, count): (&[u8], usize)| {
        let part = std::str::from_utf8(part).ok()?.to_string();
        let apart = strsim::osa_distance(&part, &word);
        (1..=most_apart).contains(&apart).then_some((apart, usize::MAX - count, part))
    };
    let mut near: Vec<_> = parts.into_iter().filter_map(apart).collect();
    near.sort();
    near.into_iter().take(most).map(|(_, _, part)| part).collect()
}

/// Ids of the series of a kind that have a name, at most so many.
pub(super) fn of_name(segments: &Segments, cells: &[Arc<Cell>], kind: Kind, name: &str, most: usize) -> Vec<u32> {
    let mut lowered = Vec::new();
    lower(name, &mut lowered);
    let words = vec![Word::Text(Finder::new(&lowered).into_owned())];
    let wanted =
        Wanted { words, kind: Some(kind), wants_own: true, prefix: Some(lowered.clone()), ..Wanted::default() };
    let mut ids = Vec::new();
    wanted.each(segments, cells, |segment, n| {
        if ids.len() < most && name_of(segment.text(n)) == lowered {
            ids.push(segment.ids[n]);
        }
    });
    ids
}
