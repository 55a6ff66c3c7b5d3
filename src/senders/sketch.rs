//! What a receive worker counts of its senders in an interval.

use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

use crate::hyperloglog::observe;
use crate::memory::{footprint, vec_footprint};
use crate::protocol::{BINARY_MAGIC, Reason};

use super::origin::{Origin, Sender, container_of};
use super::prefix::{Prefix, prefix_of};
use super::table::{Counts, Table, Taken};
use super::tag_keys::{NewSeries, TagKeys};

/// Of so many batches at most one is looked at.
pub const MOST_BATCHES: u32 = 64;

/// Datagrams of an interval that are looked at, about, until [`MOST_BATCHES`] is reached: enough for shares that are right to
/// half a percentage point, and few enough to cost nothing.
const ENOUGH_DATAGRAMS: u64 = 8192;

/// Where one in [`MOST_BATCHES`] is looked at, the prefixes of one datagram in so many of it are enough.
const PREFIX_PART: f64 = 4.0;

/// New series, and malformed lines, of an interval and a worker from which on every batch asks for its senders; of malformed
/// lines, if they are at least one in [`MALFORMED_PART`] besides.
const MANY_NEW_SERIES: u64 = 1000;
const MANY_MALFORMED: u64 = 1000;
const MALFORMED_PART: u64 = 100;

/// Samples of names without room that are all looked at in an interval; beyond it, one in [`FOLDED_PART`] stands for the others:
/// a flood of them is to cost little.
const ALL_FOLDED: u64 = 10_000;
const FOLDED_PART: u64 = 16;

/// Registers that tell how many senders there were beyond what the table holds: a standard error of 3.3 %.
pub(super) const SEEN_REGISTERS: usize = 1 << 10;

/// A sender and a prefix, by the hashes that they have in their own tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) sender: u64,
    pub(super) prefix: u64,
}

/// A line that was refused: of each reason and interval one is kept, preferably one whose sender is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Why.
    pub reason: Reason,
    /// The line, without secrets, truncated.
    pub line: Vec<u8>,
    /// Who sent it.
    pub sender: Option<Sender>,
}

/// What a worker counted in an interval.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    pub(super) senders: Taken<Sender>,
    pub(super) prefixes: Taken<Prefix>,
    pub(super) pairs: Taken<Pair>,
    pub(super) tag_keys: TagKeys,
    pub(super) examples: Vec<Example>,
    /// How many were refused, by reason.
    pub(super) refused: [u64; Reason::ALL.len()],
    pub(super) seen: Option<Box<[u8; SEEN_REGISTERS]>>,
    /// Datagrams, or pieces of streams, that were looked at, and what they stand for.
    pub(super) looked_at: f64,
    pub(super) stand_for: f64,
    /// Lines that those stand for.
    pub(super) lines: f64,
    /// A limit was near in a batch of the interval.
    pub(super) is_limit_near: bool,
}

impl Gathered {
    /// Bytes that it takes beside itself.
    pub fn heap_bytes(&self) -> usize {
        self.senders.heap_bytes()
            + self.prefixes.heap_bytes()
            + self.pairs.heap_bytes()
            + self.tag_keys.heap_bytes()
            + vec_footprint::<Example>(self.examples.capacity())
            + self.examples.iter().map(|example| footprint(example.line.capacity())).sum::<usize>()
            + self.seen.as_ref().map_or(0, |_| footprint(SEEN_REGISTERS))
    }
}

/// The senders of a worker in the open interval.
#[derive(Debug)]
pub struct Sketch {
    secrets: RapidSecrets,
    random: u64,
    /// The senders of all batches are known, whether they are asked for or not.
    always_known: bool,
    /// Lines may come in the binary protocol.
    binary: bool,
    /// The next batch is looked at; else so many are skipped before one is.
    is_due: bool,
    skip: u32,
    /// Each that is looked at stands for so many.
    one_in: u32,
    /// The next batch asks for senders because a limit is near.
    is_near: bool,
    /// What a line of the batch in work stands for, 0 if it is not looked at; and what a malformed line or a new series
    /// stands for, 0 if its sender is not known.
    weight: f64,
    event_weight: f64,
    /// Whether the senders of the batch in work are of interest.
    attends: bool,
    /// Datagrams, or pieces of streams, of the last interval.
    last_received: u64,
    /// The sender of the datagram in work.
    origin: Origin,
    origin_hash: Option<u64>,
    senders: Table<Sender>,
    prefixes: Table<Prefix>,
    pairs: Table<Pair>,
    tag_keys: TagKeys,
    examples: Vec<Example>,
    refused: [u64; Reason::ALL.len()],
    new_series: u64,
    folded: u64,
    malformed: u64,
    seen: Box<[u8; SEEN_REGISTERS]>,
    looked_at: f64,
    stand_for: f64,
    lines: f64,
    was_limit_near: bool,
}

/// Lines of a datagram, one after the other, with the same prefix and the same container.
#[derive(Clone, Copy, Default)]
struct Run<'a> {
    prefix: &'a [u8],
    container: &'a [u8],
    lines: u32,
    bytes: usize,
}

impl Sketch {
    /// An empty one; `seed` is the same for all workers. `always_known` says that the senders of all batches are known, and
    /// `binary` that lines may come in the binary protocol.
    pub fn new(seed: u64, always_known: bool, binary: bool) -> Sketch {
        Sketch {
            secrets: RapidSecrets::seed(seed),
            random: seed | 1,
            always_known,
            binary,
            is_due: true,
            skip: 0,
            one_in: 1,
            is_near: false,
            weight: 0.0,
            event_weight: 0.0,
            attends: false,
            last_received: 0,
            origin: Origin::Unknown,
            origin_hash: None,
            senders: Table::default(),
            prefixes: Table::default(),
            pairs: Table::default(),
            tag_keys: TagKeys::default(),
            examples: Vec::new(),
            refused: [0; Reason::ALL.len()],
            new_series: 0,
            folded: 0,
            malformed: 0,
            seen: Box::new([0; SEEN_REGISTERS]),
            looked_at: 0.0,
            stand_for: 0.0,
            lines: 0.0,
            was_limit_near: false,
        }
    }

    /// Whether the next batch is to ask the kernel for senders.
    #[inline]
    pub fn asks(&self) -> bool {
        self.is_due || self.is_near
    }

    /// Begins a batch. `received` is how many datagrams, or pieces of streams, the interval has had before it, `lines` how
    /// many lines; `is_limit_near` says whether new series will soon find no room, or memory is short.
    #[inline]
    pub fn begin_batch(&mut self, received: u64, lines: u64, is_limit_near: bool) {
        self.weight = if self.is_due { f64::from(self.one_in) } else { 0.0 };
        self.event_weight = if self.is_near || self.always_known { 1.0 } else { self.weight };
        self.attends = self.event_weight > 0.0;
        (self.origin, self.origin_hash) = (Origin::Unknown, None);
        if self.is_due {
            self.choose(received);
        } else {
            self.skip -= 1;
            self.is_due = self.skip == 0;
        }
        self.was_limit_near |= is_limit_near;
        self.is_near = is_limit_near
            || self.new_series >= MANY_NEW_SERIES
            || (self.malformed >= MANY_MALFORMED && self.malformed * MALFORMED_PART >= lines);
    }

    /// Chooses the next batch that is looked at, at random: a sender may have a rhythm.
    fn choose(&mut self, received: u64) {
        let wanted = received.max(self.last_received) / ENOUGH_DATAGRAMS;
        self.one_in = u32::try_from(wanted).unwrap_or(MOST_BATCHES).clamp(1, MOST_BATCHES);
        // `one_in` batches from now on average.
        self.skip = (self.next_random() % u64::from(2 * self.one_in - 1)) as u32;
        self.is_due = self.skip == 0;
    }

    /// Xorshift (Marsaglia 2003).
    #[inline]
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Whether the senders of the batch in work are of interest.
    #[inline]
    pub fn attends(&self) -> bool {
        self.attends
    }

    /// Begins a datagram, or whole lines of a stream, of a batch in which senders are of interest.
    #[inline]
    pub fn begin_lines(&mut self, text: &[u8], origin: Origin) {
        (self.origin, self.origin_hash) = (origin, None);
        if self.weight > 0.0 {
            self.look_at(text);
        }
    }

    #[inline(never)]
    fn look_at(&mut self, text: &[u8]) {
        self.looked_at += 1.0;
        self.stand_for += self.weight;
        if self.binary && text.first() == Some(&BINARY_MAGIC) {
            // Its frames are counted one by one.
            return;
        }
        if self.weight < f64::from(MOST_BATCHES) {
            self.count_lines(text, 1.0);
        } else if (self.next_random() as f64) < u64::MAX as f64 / PREFIX_PART {
            self.count_lines(text, PREFIX_PART);
        } else {
            let newlines = memchr::memchr_iter(b'\n', text).count();
            let lines = newlines + usize::from(text.last().is_some_and(|&last| last != b'\n'));
            let first = &text[..memchr::memchr(b'\n', text).unwrap_or(text.len())];
            let container = container_of(first.strip_suffix(b"\r").unwrap_or(first));
            self.add_sender(&Run { prefix: b"", container, lines: lines as u32, bytes: text.len() });
        }
    }

    #[inline]
    fn origin_hash(&mut self) -> u64 {
        match self.origin_hash {
            Some(hash) => hash,
            None => {
                let hash = self.hash_origin();
                self.origin_hash = Some(hash);
                hash
            }
        }
    }

    fn hash_origin(&self) -> u64 {
        match self.origin {
            Origin::Unknown => rapidhash_v3_seeded(b"", &self.secrets),
            Origin::Address(std::net::IpAddr::V4(address)) => rapidhash_v3_seeded(&address.octets(), &self.secrets),
            Origin::Address(std::net::IpAddr::V6(address)) => rapidhash_v3_seeded(&address.octets(), &self.secrets),
            Origin::Process { pid, uid } => {
                // Another length than any address has.
                rapidhash_v3_seeded([pid.to_le_bytes(), uid.to_le_bytes()].as_flattened(), &self.secrets)
            }
        }
    }

    /// The hash of the sender in work that names this container.
    #[inline]
    fn hash_sender(&mut self, container: &[u8]) -> u64 {
        let origin = self.origin_hash();
        if container.is_empty() {
            return origin;
        }
        origin.rotate_left(29) ^ rapidhash_v3_seeded(container, &self.secrets)
    }

    /// Counts the lines of a text; its prefixes stand for those of so many datagrams.
    fn count_lines(&mut self, text: &[u8], prefix_part: f64) {
        let (mut run, mut rest) = (Run::default(), text);
        // What the sender has sent is added once, unless lines name another container.
        let mut of_sender = Run::default();
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line = &rest[..end];
            let bytes = (end + 1).min(rest.len());
            rest = &rest[bytes..];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let (prefix, container) = (prefix_of(line), container_of(line));
            if prefix != run.prefix || container != run.container || run.lines == 0 {
                self.add_prefix(&run, prefix_part);
                if container != of_sender.container {
                    self.add_sender(&of_sender);
                    of_sender = Run { container, ..Run::default() };
                }
                run = Run { prefix, container, lines: 0, bytes: 0 };
            }
            run.lines += 1;
            run.bytes += bytes;
            of_sender.lines += 1;
            of_sender.bytes += bytes;
        }
        self.add_prefix(&run, prefix_part);
        self.add_sender(&of_sender);
    }

    fn counts(&self, run: &Run<'_>) -> Counts {
        let (lines, bytes) = (f64::from(run.lines) * self.weight, run.bytes as f64 * self.weight);
        Counts { lines, bytes, ..Counts::default() }
    }

    fn add_prefix(&mut self, run: &Run<'_>, part: f64) {
        if run.lines == 0 {
            return;
        }
        let (counts, prefix) = (self.counts(run).times(part), rapidhash_v3_seeded(run.prefix, &self.secrets));
        let sender = self.hash_sender(run.container);
        self.prefixes.add(prefix, &counts, || Prefix::new(run.prefix));
        self.pairs.add(hash_pair(sender, prefix), &counts, || Pair { sender, prefix });
    }

    fn add_sender(&mut self, run: &Run<'_>) {
        if run.lines == 0 {
            return;
        }
        let counts = self.counts(run);
        self.lines += counts.lines;
        self.add_counts_of_sender(run.container, &counts);
    }

    #[inline]
    fn add_counts_of_sender(&mut self, container: &[u8], counts: &Counts) {
        let (hash, origin) = (self.hash_sender(container), self.origin);
        let seen = &mut self.seen;
        self.senders.add(hash, counts, || {
            observe(seen, hash);
            Sender::new(origin, container)
        });
    }

    /// Counts a line that came in another form than text, by its name.
    #[cold]
    pub fn binary_line(&mut self, name: &[u8], bytes: usize) {
        if self.weight > 0.0 {
            let run = Run { prefix: prefix_of(name), container: b"", lines: 1, bytes };
            self.add_prefix(&run, 1.0);
            self.add_sender(&run);
        }
    }

    /// Counts what a line did that is not ordinary; returns the hashes of its prefix and of its sender, if that is known.
    fn add_event(&mut self, prefix: &[u8], container: &[u8], counts: &Counts) -> (u64, Option<u64>) {
        let hash = rapidhash_v3_seeded(prefix, &self.secrets);
        self.prefixes.add(hash, counts, || Prefix::new(prefix));
        if self.event_weight == 0.0 {
            return (hash, None);
        }
        let (sender, counts) = (self.hash_sender(container), counts.times(self.event_weight));
        self.pairs.add(hash_pair(sender, hash), &counts, || Pair { sender, prefix: hash });
        self.add_counts_of_sender(container, &counts);
        (hash, Some(sender))
    }

    /// Counts a malformed line; `true` if it is wanted as an example.
    pub fn malformed(&mut self, line: &[u8], reason: Reason) -> bool {
        self.malformed += 1;
        self.refused[reason as usize] += 1;
        let counts = Counts { malformed: 1.0, ..Counts::default() };
        let (_, sender) = self.add_event(prefix_of(line), container_of(line), &counts);
        match self.examples.iter().find(|example| example.reason == reason) {
            Some(example) => example.sender.is_none() && sender.is_some(),
            None => true,
        }
    }

    /// Keeps a malformed line as the example of its reason; `shown` is the line as it may be shown.
    #[cold]
    pub fn keep_example(&mut self, line: &[u8], reason: Reason, shown: Vec<u8>) {
        let sender = self.attends().then(|| Sender::new(self.origin, container_of(line)));
        let sender = sender.filter(|sender| sender.origin != Origin::Unknown);
        self.examples.retain(|example| example.reason != reason);
        self.examples.push(Example { reason, line: shown, sender });
    }

    /// Counts a new series, or a sample of one that found no room, by the name as it was sent and the tags that it has.
    #[cold]
    pub fn new_series<'t>(
        &mut self,
        name: &[u8],
        container: impl FnOnce() -> &'t [u8],
        tags: impl Iterator<Item = (&'t [u8], &'t [u8])>,
        is_folded: bool,
    ) {
        self.new_series += 1;
        let (mut counts, mut weight) = (Counts { new_series: 1.0, ..Counts::default() }, 1);
        if is_folded {
            self.folded += 1;
            weight = match self.folded {
                0..=ALL_FOLDED => 1,
                n if n.is_multiple_of(FOLDED_PART) => FOLDED_PART,
                _ => return,
            };
            counts = Counts { folded: weight as f64, ..Counts::default() };
        }
        let container = container();
        let prefix = prefix_of(name);
        let (hash, sender) = self.add_event(prefix, container, &counts);
        let sender = sender.filter(|_| self.origin != Origin::Unknown);
        let series = NewSeries {
            weight,
            prefix: (hash, Prefix::new(prefix)),
            sender: sender.map(|hash| (hash, Sender::new(self.origin, container))),
        };
        for (key, value) in tags {
            let hash = |text: &[u8]| rapidhash_v3_seeded(text, &self.secrets);
            let (key, value) = ((hash(key), key), hash(value));
            self.tag_keys.add(key, value, &series);
        }
    }

    /// Closes the interval, which had so many datagrams, or pieces of streams.
    pub fn close(&mut self, received: u64) -> Gathered {
        self.last_received = received;
        (self.new_series, self.folded, self.malformed) = (0, 0, 0);
        let has_seen = !self.senders.entries().is_empty();
        let gathered = Gathered {
            senders: self.senders.take(),
            prefixes: self.prefixes.take(),
            pairs: self.pairs.take(),
            tag_keys: self.tag_keys.take(),
            examples: std::mem::take(&mut self.examples),
            refused: std::mem::take(&mut self.refused),
            seen: has_seen.then(|| self.seen.clone()),
            looked_at: std::mem::take(&mut self.looked_at),
            stand_for: std::mem::take(&mut self.stand_for),
            lines: std::mem::take(&mut self.lines),
            is_limit_near: std::mem::take(&mut self.was_limit_near),
        };
        if has_seen {
            self.seen.fill(0);
        }
        gathered
    }

    /// Bytes that it takes beside itself.
    pub fn heap_bytes(&self) -> usize {
        self.senders.heap_bytes()
            + self.prefixes.heap_bytes()
            + self.pairs.heap_bytes()
            + self.tag_keys.heap_bytes()
            + vec_footprint::<Example>(self.examples.capacity())
            + self.examples.iter().map(|example| footprint(example.line.capacity())).sum::<usize>()
            + footprint(SEEN_REGISTERS)
    }
}

#[inline]
fn hash_pair(sender: u64, prefix: u64) -> u64 {
    sender.rotate_left(23) ^ prefix
}
