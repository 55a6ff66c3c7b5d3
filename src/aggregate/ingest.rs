//! How lines get into a shard: the fast path for bytes that were sent before, the slow path for all others.

use std::hint::black_box;
use std::net::SocketAddr;

use crate::fault;
use crate::protocol::{
    BINARY_MAGIC, BinaryFrame, GaugeOp, Kind, Line, Options, PlainLine, binary_frame, binary_frames, lines, newlines,
    parse_line, parse_metric, plain_line, split_line, trim,
};
use crate::series::Series;
use crate::telemetry::{Account, Tally};

use super::columns::Class;
use super::index::{Index, OWN, Slot};
use super::key_cache::CachedKey;
use super::shard::{Shard, class_of};

/// Lines looked up together, so that their cache misses overlap.
pub(super) const LOOKUP_BATCH: usize = 32;

/// With this many series or more, lookups mostly miss the processor's cache.
pub(super) const BEYOND_CACHE: usize = 16_384;

/// A line on the fast path, between parsing and recording.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingLine {
    /// Offsets in the datagram: its start, the end of its name, its tags, and the start of the next line.
    start: u32,
    name_end: u32,
    tags: u32,
    tags_end: u32,
    end: u32,
    kind: Kind,
    class: Class,
    value: f64,
    hash: u64,
    found: Found,
}

/// The progress of the search for a line's series.
#[derive(Clone, Copy, Debug)]
enum Found {
    /// The search begins here.
    Perhaps(Slot),
    /// Found: the id.
    Yes(u32),
    /// These bytes are not known.
    No,
}

impl Shard {
    /// Reads a datagram, or complete lines of a stream, received at `now` seconds.
    #[inline]
    pub fn ingest(&mut self, datagram: &[u8], options: &Options, from: Option<SocketAddr>, now: f64) {
        self.heard = now;
        if options.binary && datagram.first() == Some(&BINARY_MAGIC) {
            self.ingest_binary(datagram, options, from, now);
            return;
        }
        let together = self.indexes.iter().any(|index| index.len() > self.wait_beyond);
        let mut text = datagram;
        while !text.is_empty() {
            if let Some((plain, rest)) = plain_line(text) {
                let line = self.waiting(datagram, text, plain, rest.len());
                if together {
                    self.waiting.push(line);
                    if self.waiting.len() == LOOKUP_BATCH {
                        self.flush_pending(datagram, options, from, now);
                    }
                    text = rest;
                    continue;
                }
                if let Some(id) = self.find_known(&line, datagram) {
                    self.record_known(&line, id, from, now);
                    text = rest;
                    continue;
                }
            }
            let (line, rest) = split_line(text);
            self.flush_pending(datagram, options, from, now);
            self.read(line, options, from, now);
            text = rest;
        }
        self.flush_pending(datagram, options, from, now);
    }

    #[cold]
    fn ingest_binary(&mut self, datagram: &[u8], options: &Options, from: Option<SocketAddr>, now: f64) {
        for (frame, metric) in binary_frames(datagram, options) {
            self.is_reading = true;
            self.open.tally.lines.read += 1;
            if let (Some(senders), Ok(metric)) = (&mut self.senders, &metric) {
                senders.binary_line(metric.name.as_sent().unwrap_or_default(), frame.len());
            }
            self.samples(std::iter::once(metric), frame, from, now);
            self.is_reading = false;
        }
    }

    /// After a panic in [`Shard::ingest`]: counts the line that was in work as `internal_error`, so that the equations hold
    /// again, and returns what follows it, which was not read yet. `before` is how many lines had been read when the
    /// ingest began. Of binary frames the rest is counted so, too.
    #[cold]
    pub fn after_panic<'d>(&mut self, datagram: &'d [u8], before: u64, options: &Options) -> &'d [u8] {
        // Lines are counted in the order in which they come, so those that wait to be looked up are not counted yet.
        self.waiting = Vec::with_capacity(LOOKUP_BATCH);
        let Tally { lines, samples, .. } = &mut self.open.tally;
        if std::mem::take(&mut self.is_reading) {
            // Without a fault it was counted by what it was before the panic, such as one in the cache of its key.
            let missing = lines.check().map_or_else(|(_, read, parts)| read.saturating_sub(parts), |()| 0);
            lines.internal_error += missing;
        } else {
            // On the fast path a line is counted when all is done.
            lines.read += 1;
            lines.internal_error += 1;
        }
        // Values of it whose outcome is open went with it.
        if let Err((_, _, parts)) = samples.check() {
            samples.read = parts;
        }
        let done = lines.read.saturating_sub(before);
        if options.binary && datagram.first() == Some(&BINARY_MAGIC) {
            let rest = frames(datagram).saturating_sub(done);
            lines.read += rest;
            lines.internal_error += rest;
            return &[];
        }
        (0..done).fold(datagram, |rest, _| split_line(rest).1)
    }

    /// Counts lines as `internal_error` without reading them: the shard takes nothing more in.
    #[cold]
    pub fn abandon(&mut self, text: &[u8]) {
        let count = lines(text).count() as u64;
        self.open.tally.lines.read += count;
        self.open.tally.lines.internal_error += count;
    }

    #[inline(always)]
    fn waiting(&self, datagram: &[u8], text: &[u8], plain: PlainLine<'_>, rest: usize) -> PendingLine {
        let kind = self.kind_of(plain.kind);
        let hash = if plain.tags.is_empty() {
            self.hasher.hash_plain(plain.name)
        } else {
            self.hasher.hash_key(plain.name, plain.tags)
        };
        let place = |part: &[u8]| (part.as_ptr() as usize - datagram.as_ptr() as usize) as u32;
        let (start, tags) = (place(text), if plain.tags.is_empty() { 0 } else { place(plain.tags) });
        PendingLine {
            start,
            name_end: start + plain.name.len() as u32,
            tags,
            tags_end: tags + plain.tags.len() as u32,
            end: start + (text.len() - rest) as u32,
            kind,
            class: class_of(kind),
            value: plain.value,
            hash,
            found: Found::No,
        }
    }

    /// Records the pending lines, in order. Each step is its own loop, so that the processor loads the memory of many lines
    /// at once: with a million series a line then takes a fifth of the time.
    #[inline]
    fn flush_pending(&mut self, datagram: &[u8], options: &Options, from: Option<SocketAddr>, now: f64) {
        if self.waiting.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        for line in &mut waiting {
            line.found = Found::Perhaps(self.indexes[line.class as usize].home(line.hash));
        }
        for line in &waiting {
            if let Found::Perhaps(slot) = line.found {
                black_box(self.indexes[line.class as usize].guess(slot).map(|series| series.key()[0]));
            }
        }
        for line in &mut waiting {
            line.found = self.find_known(line, datagram).map_or(Found::No, Found::Yes);
        }
        for line in &waiting {
            if let (Found::Yes(id), Class::Counter) = (line.found, line.class) {
                black_box(self.open.columns.counters.get(id).map(|sum| sum.value()));
            }
        }
        for line in &waiting {
            match line.found {
                Found::Yes(id) => self.record_known(line, id, from, now),
                // What looked like a name may contain malformed lines.
                Found::Perhaps(_) | Found::No => {
                    let text = &datagram[line.start as usize..line.end as usize];
                    lines(text).for_each(|line| self.read(line, options, from, now));
                }
            }
        }
        waiting.clear();
        self.waiting = waiting;
    }

    /// The id of a series that was sent under the same bytes before. A shard belongs to one listener, so the same bytes
    /// always mean the same.
    #[inline(always)]
    fn find_known(&self, line: &PendingLine, datagram: &[u8]) -> Option<u32> {
        if matches!(line.class, Class::Set | Class::Kv) {
            // Their values are bounded, or not numbers.
            return None;
        }
        let index = &self.indexes[line.class as usize];
        let name = &datagram[line.start as usize..line.name_end as usize];
        let tags = &datagram[line.tags as usize..line.tags_end as usize];
        if tags.is_empty() {
            let known = index.find_plain(line.hash, line.kind, name);
            // A name that a rule changes is a key, too.
            if known.is_some() || self.options.rules.is_none() {
                return known;
            }
        }
        let (id, series) = self.key_cache.find(&CachedKey::new(line.hash, line.kind, name, tags))?;
        // The id may belong to another series by now.
        if index.series(id).is_some_and(|now| now.is_same(series)) { Some(id) } else { own_id(index, id, series) }
    }

    /// Records a line whose id is no place in a column yet, or never.
    #[cold]
    #[inline(never)]
    fn record_apart(&mut self, line: &PendingLine, id: u32, from: Option<SocketAddr>, now: f64) {
        let place = id & !OWN;
        if id != place
            && let Some(watched) = &mut self.watched
        {
            watched.count_line(line.class, place, Some(line.value), from, &self.hasher);
        }
        let columns = &mut self.open.columns;
        match line.class {
            Class::Counter => drop(columns.counters.touch(place)),
            Class::Gauge => drop(columns.gauges.touch(place)),
            Class::Timer => drop(columns.timers.touch(place)),
            Class::Set | Class::Kv => {}
        }
        self.record_known(line, place, from, now);
    }

    #[inline(always)]
    fn record_known(&mut self, line: &PendingLine, id: u32, from: Option<SocketAddr>, now: f64) {
        #[cfg(test)]
        assert!(line.value != tests::POISON, "a test wants a failure");
        match line.class {
            Class::Counter => match self.open.columns.counters.touch_known(id) {
                Some(sum) => sum.add(line.value),
                None => return self.record_apart(line, id, from, now),
            },
            Class::Gauge => {
                match self.open.columns.gauges.touch_known(id) {
                    Some(gauge) => gauge.apply(GaugeOp::Set, line.value, now),
                    None => return self.record_apart(line, id, from, now),
                }
                self.keep_level(id);
            }
            Class::Timer => {
                let policy = self.timer_policy(id);
                let Some(timer) = self.open.columns.timers.touch_known(id) else {
                    return self.record_apart(line, id, from, now);
                };
                if !timer.record_known(line.value, 1.0, &policy) && !self.record_sample(id, line.value, 1.0, &policy) {
                    let lines = &mut self.open.tally.lines;
                    (lines.read, lines.metrics) = (lines.read + 1, lines.metrics + 1);
                    return;
                }
            }
            // These are never found.
            Class::Set | Class::Kv => return,
        }
        let tally = &mut self.open.tally;
        tally.lines.read += 1;
        tally.lines.metrics += 1;
        tally.samples.read += 1;
        tally.samples.recorded += 1;
    }

    /// Parses a line on the slow path and records it.
    #[inline(never)]
    fn read(&mut self, line: &[u8], options: &Options, from: Option<SocketAddr>, now: f64) {
        let line = trim(line);
        self.is_reading = true;
        self.open.tally.lines.read += 1;
        fault::pass("line");
        if matches!(line.first(), None | Some(b'_')) || memchr::memchr(0, line).is_some() {
            self.line(line, options, from, now);
        } else {
            match parse_metric(line, options) {
                Ok(samples) => {
                    if self.samples(samples, line, from, now) {
                        self.learn(line);
                    }
                }
                Err(error) => self.refuse(line, error, from),
            }
        }
        self.is_reading = false;
    }

    /// Caches the key of a tagged line that was just recorded.
    fn learn(&mut self, line: &[u8]) {
        let Some((PlainLine { name, kind, tags, .. }, _)) = plain_line(line) else { return };
        if (tags.is_empty() && self.options.rules.is_none()) || self.concerns_presence || self.is_scaled() {
            return;
        }
        if self.memory_use.gives_way.caches {
            return;
        }
        let kind = self.kind_of(kind);
        let index = &self.indexes[class_of(kind) as usize];
        // Cut tags are counted for each line.
        if self.keys.cut() > 0 {
            return;
        }
        // The builder still has the key of the line's only sample.
        let key = self.keys.last();
        let hash = self.hasher.hash(key);
        let (id, mark) = match (index.find(hash, key), &self.watched) {
            (Some(id), _) => (id, 0),
            (None, Some(_)) => match index.find_own(hash, key) {
                Some(id) => (id, OWN),
                None => return,
            },
            (None, None) => return,
        };
        let Some(series) = index.series(id) else { return };
        if tags.is_empty() && series.is_plain(kind, name) {
            return;
        }
        let hash = if tags.is_empty() { self.hasher.hash_plain(name) } else { self.hasher.hash_key(name, tags) };
        self.key_cache.make_room(self.indexes.iter().map(Index::len).sum());
        self.key_cache.remember(CachedKey::new(hash, kind, name, tags), id | mark, series);
    }

    fn line(&mut self, line: &[u8], options: &Options, from: Option<SocketAddr>, now: f64) {
        match parse_line(line, options) {
            Ok(Line::Empty) => self.open.tally.lines.empty += 1,
            Ok(Line::Samples(samples)) => {
                self.samples(samples, line, from, now);
            }
            Ok(Line::Event(event)) => self.event(&event, line, from, now),
            Ok(Line::ServiceCheck(check)) => self.service_check(&check, line, from, now),
            Err(error) => self.refuse(line, error, from),
        }
    }
}

/// A cached id that no series has, if it is that of one whose lines are looked at.
#[cold]
#[inline(never)]
fn own_id(index: &Index, id: u32, series: &Series) -> Option<u32> {
    (id & OWN != 0 && index.series(id & !OWN).is_some_and(|now| now.is_same(series))).then_some(id)
}

/// How many frames a datagram has; what cannot be cut counts as one.
fn frames(datagram: &[u8]) -> u64 {
    let (mut rest, mut count) = (datagram, 0);
    loop {
        rest = &rest[newlines(rest)..];
        if rest.is_empty() {
            return count;
        }
        count += 1;
        let BinaryFrame::Whole(length) = binary_frame(rest) else { return count };
        rest = &rest[length..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::rules::{Rule, Rules};
    use crate::aggregate::{Columns, Quota, ShardOptions, TimeWindow, TimerPolicy};
    use crate::telemetry::Tally;
    use proptest::prelude::*;
    use std::sync::Arc;

    const NONE: [Vec<u32>; 5] = [const { Vec::new() }; 5];

    /// The effect of a text on a shard that knows `names`: series with their values, and the tally.
    fn outcome(
        rules: &Option<Arc<Rules>>,
        names: &str,
        text: &[u8],
        ingest: impl Fn(&mut Shard, &[u8]),
    ) -> (Vec<String>, Tally) {
        let quota = Quota::new(1000);
        let mut shard = Shard::new(ShardOptions {
            timers: TimerPolicy::default(),
            fold_histograms: false,
            quota,
            seed: 7,
            rules: rules.clone(),
            heartbeats: None,
            times: TimeWindow::ANY,
        });
        let feed = |shard: &mut Shard, text: &str| shard.ingest(text.as_bytes(), &Options::default(), None, 0.0);
        // The second time the keys are cached.
        feed(&mut shard, names);
        feed(&mut shard, names);
        ingest(&mut shard, text);
        let mut partial = shard.close(NONE, Columns::default());
        let name = |class: usize, id: u32| partial.created[class].iter().find(|c| c.id == id).map(|c| c.series.clone());
        let (mut all, columns) = (Vec::new(), &mut partial.columns);
        columns.counters.drain(|id, sum| all.push(format!("{:?} {}", name(0, id), sum.value())));
        columns.gauges.drain(|id, gauge| all.push(format!("{:?} {}", name(1, id), gauge.value())));
        columns.timers.drain(|id, timer| all.push(format!("{:?} {:?}", name(2, id), timer.sorted())));
        columns.sets.drain(|id, members| all.push(format!("{:?} {}", name(3, id), members.count())));
        columns.kvs.drain(|id, values| all.push(format!("{:?} {values:?}", name(4, id))));
        all.sort();
        (all, partial.tally)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The fast path and the slow path give the same result.
        #[test]
        fn known_bytes_are_read_as_unknown_ones_are(
            pieces in proptest::collection::vec(0..PIECES.len(), 0..40),
            with_rules: bool,
        ) {
            let rules = with_rules.then(|| Arc::new(Rules::new(some_rules())));
            let text: Vec<u8> = pieces.iter().flat_map(|&n| PIECES[n].bytes()).collect();
            let names = "a:1|c\nb.c:2|g\nt:3|ms\na:1|c|#x:1,y\nt:1|h|#x:1\n a b:1|c\nk:1|kv\n";
            let options = Options::default();
            let long = outcome(&rules, names, &text, |shard, text| {
                for line in lines(text) {
                    shard.open.tally.lines.read += 1;
                    shard.line(line, &options, None, 0.0);
                }
            });
            let short = outcome(&rules, names, &text, |shard, text| shard.ingest(text, &options, None, 0.0));
            prop_assert_eq!(&short, &long);
            let together = outcome(&rules, names, &text, |shard, text| {
                shard.wait_beyond = 0;
                shard.ingest(text, &options, None, 0.0);
            });
            prop_assert_eq!(&together, &long);
        }
    }

    /// A value with which a known line fails.
    pub(super) const POISON: f64 = 666_666.0;

    /// Ingests as a worker does: after a panic the next line follows.
    fn survive(shard: &mut Shard, datagram: &[u8], options: &Options) -> u32 {
        let (mut rest, mut panics) = (datagram, 0);
        while !rest.is_empty() {
            let before = shard.open.tally.lines.read;
            let ingest = std::panic::AssertUnwindSafe(|| shard.ingest(rest, options, None, 0.0));
            match std::panic::catch_unwind(ingest) {
                Ok(()) => break,
                Err(_) => panics += 1,
            }
            rest = shard.after_panic(rest, before, options);
            assert!(shard.is_sound());
        }
        assert_eq!((shard.open.tally.lines.check(), shard.open.tally.samples.check()), (Ok(()), Ok(())));
        panics
    }

    fn a_shard(wait_beyond: usize) -> Shard {
        let mut shard = Shard::new(ShardOptions {
            timers: TimerPolicy::default(),
            fold_histograms: false,
            quota: Quota::new(1000),
            seed: 7,
            rules: None,
            heartbeats: None,
            times: TimeWindow::ANY,
        });
        shard.wait_beyond = wait_beyond;
        shard
    }

    #[test]
    fn a_panic_costs_the_line_in_work_and_no_other() {
        let options = Options { binary: true, ..Options::default() };
        let fail = "a:666666|c\n";
        let poison = fail.trim_end();
        for wait_beyond in [usize::MAX, 0] {
            for (text, panics) in [
                (poison.to_string(), 1),
                (format!("{fail}a:1|c\n"), 1),
                (format!("a:1|c\n\nbad:x\n{fail}b:1|c\n_e{{1,1}}:a|b\n{fail}a:1|c\r\n{poison}"), 3),
                (format!("a:1|c\n{fail}{fail}new:1|c|#x:y\n"), 2),
                ("a:1|c\n".repeat(40) + fail + &"a:1|c\n".repeat(40), 1),
            ] {
                let mut shard = a_shard(wait_beyond);
                shard.ingest(b"a:1|c\n", &options, None, 0.0);
                let failed = survive(&mut shard, text.as_bytes(), &options);
                let lines = &shard.open.tally.lines;
                assert_eq!((failed, lines.internal_error), (panics, u64::from(panics)), "{wait_beyond} {text}");
                assert_eq!(lines.read, 1 + lines_of(&text), "{wait_beyond} {text}");
                let good = 1 + text.lines().filter(|line| line.trim() == "a:1|c").count();
                assert_eq!(shard.open.columns.counters.get(0).map(|sum| sum.value()), Some(good as f64), "{text}");
            }
        }
    }

    fn lines_of(text: &str) -> u64 {
        lines(text.as_bytes()).count() as u64
    }

    #[test]
    fn a_panic_between_a_count_and_its_kind_leaves_the_equations_whole() {
        let mut shard = a_shard(usize::MAX);
        shard.ingest(b"a:1|c\n", &Options::default(), None, 0.0);
        // As a panic in the slow path leaves them.
        let tally = &mut shard.open.tally;
        (tally.lines.read, tally.samples.read) = (tally.lines.read + 1, tally.samples.read + 1);
        shard.is_reading = true;
        let rest = shard.after_panic(b"first\nsecond\n", 1, &Options::default());
        assert_eq!((rest, shard.open.tally.lines.internal_error), (&b"second\n"[..], 1));
        assert_eq!((shard.open.tally.lines.check(), shard.open.tally.samples.check()), (Ok(()), Ok(())));
        // Of binary frames the rest goes with the one in work.
        let frame = [&[0xaa, 2, 2, 0][..], &1_f64.to_le_bytes(), b"a\0"].concat();
        let options = Options { binary: true, ..Options::default() };
        let before = shard.open.tally.lines.read;
        shard.open.tally.lines.read += 1;
        shard.is_reading = true;
        assert!(shard.after_panic(&frame.repeat(3), before, &options).is_empty());
        assert_eq!((shard.open.tally.lines.read, shard.open.tally.lines.internal_error), (before + 3, 4));
        shard.abandon(b"x\ny");
        assert_eq!(shard.open.tally.lines.check(), Ok(()));
    }

    fn some_rules() -> Vec<Rule> {
        let rule = |pattern: &str| Rule { pattern: pattern.into(), ..Rule::default() };
        vec![
            Rule { rename: Some("t".into()), ..rule("b.*") },
            Rule { drop_tags: vec!["x".into()], ..rule("a") },
            Rule { drop: true, ..rule("n*") },
        ]
    }

    const PIECES: [&str; 30] = [
        "a",
        "b.c",
        "t",
        "new",
        "k",
        " a b",
        "_e{1,1}:a|b",
        "_sc|n|0",
        ":",
        ":",
        ":1",
        ":2",
        ":-1",
        ":1.5",
        ":12:3",
        "|c",
        "|c",
        "|g",
        "|ms",
        "|h",
        "|kv",
        "|s",
        "|@0.5",
        "|#x:1,y",
        "|#x:1",
        "\n",
        "\n",
        "\r\n",
        " ",
        "\0",
    ];
}
