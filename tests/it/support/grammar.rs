//! Hostile and ordinary lines, made from the grammar of the wire: for `benches/adversary`, for the fuzz targets and for
//! property tests.
//!
//! A [`Shape`] is one way to write lines: a kind, a form of its name, its values, its sample rate, its tags and so on.
//! [`shapes`] lists those that are measured by name, [`random_shape`] draws any other. Every decision comes from a
//! [`Choices`], so that a seed, or the bytes of a fuzzer, stand for the same text each time.
//!
//! ```text
//! NAME [name tags] : VALUE {: VALUE} | KIND [|@RATE] [|#TAGS] [|T…] [|c:…] {|unknown} [fault]
//! _e{n,m}:TITLE|TEXT…      _sc|NAME|STATUS…      heartbeat…      binary frames      bytes that mean nothing
//! ```
#![allow(dead_code, unreachable_pub)] // Each user takes its part.

/// Where decisions come from.
pub trait Choices {
    /// A number below `n`; 0 if `n` is 0.
    fn below(&mut self, n: usize) -> usize;

    /// One of several.
    fn pick<T: Copy>(&mut self, all: &[T]) -> T
    where
        Self: Sized,
    {
        all[self.below(all.len())]
    }
}

/// Decisions from a seed (SplitMix64, Steele et al. 2014).
pub struct Random(pub u64);

impl Choices for Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * n as u128) >> 64) as usize
    }
}

/// Decisions from bytes, 0 when they are used up.
pub struct FromBytes<'a>(pub &'a [u8]);

impl Choices for FromBytes<'_> {
    fn below(&mut self, n: usize) -> usize {
        let mut drawn = 0;
        let mut left = n.saturating_sub(1);
        while left > 0 {
            let Some((&byte, rest)) = self.0.split_first() else { return drawn % n };
            drawn = drawn << 8 | usize::from(byte);
            (self.0, left) = (rest, left >> 8);
        }
        if n == 0 { 0 } else { drawn % n }
    }
}

/// What a line is called.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Name {
    /// Always the same.
    Same,
    /// One of so many.
    Among(usize),
    /// A new one each time.
    Fresh,
    /// As long as allowed, the same each time.
    Long,
    /// As long as allowed, new each time.
    LongFresh,
    /// Nothing but slashes, spaces and semicolons.
    Unclean,
    /// Bytes that are no UTF-8.
    Invalid,
}

/// How values stand in a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Packing {
    /// One value.
    One,
    /// So many, by colons.
    Packed(usize),
    /// As many as there is room for, by colons.
    PackedFull,
    /// `1|c:2|ms:3|g`, as many as there is room for.
    ManyBits,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    One,
    Any,
    Signed,
    NegativeZero,
    ManyDigits,
    Exponent,
    Extreme,
    Word,
    LongWord,
    Nothing,
}

/// A sample rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    None,
    Tenth,
    Any,
    Tiny,
    ManyDigits,
    Bad,
}

/// Which tags a line carries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tags {
    None,
    /// So many, the same each time.
    Few(usize),
    /// So many, of which the first is new each time.
    FewFresh(usize),
    /// As many short ones as there is room for, the keys in falling order.
    Many,
    /// The same, in an order of its own each time.
    ManyShuffled,
    /// One tag again and again.
    Repeated,
    /// One key with a value as long as there is room for.
    Long,
    /// So many with values of so many bytes, of which the first is new each time.
    WideFresh(usize, usize),
    /// Commas only.
    Empty,
    /// A value of bytes that are no UTF-8.
    Invalid,
    /// Many keys that share a long beginning.
    SharedPrefix,
}

/// Where tags stand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dialect {
    Dogstatsd,
    Graphite,
    Influx,
    SignalFx,
    Librato,
    /// A section `|#` for each tag.
    Sections,
}

/// What else a line says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum More {
    None,
    Container,
    Now,
    AnyTime,
    Unknown(usize),
    UnknownFull,
    ExternalData,
    Carriage,
}

/// A metric line.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub kind: &'static str,
    pub name: Name,
    pub packing: Packing,
    pub number: Number,
    pub rate: Rate,
    pub tags: Tags,
    pub dialect: Dialect,
    pub more: More,
}

/// A plain counter.
pub const PLAIN: Metric = Metric {
    kind: "c",
    name: Name::Among(1000),
    packing: Packing::One,
    number: Number::One,
    rate: Rate::None,
    tags: Tags::None,
    dialect: Dialect::Dogstatsd,
    more: More::None,
};

/// What a line is.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Metric(Metric),
    /// Title and text of so many bytes.
    Event(usize, usize, Tags, More),
    Check(Name, Tags, More),
    /// A heartbeat: services, instances among so many; packed values.
    Beat(usize, usize, usize),
    BeatTags(usize, Tags),
    /// A heartbeat of one of so many services and of a new instance, with names and versions as long as they are kept.
    BeatFresh(usize),
    BeatCheck(usize),
    Maintenance(usize),
    Blank,
    Spaces,
    /// A name without anything, as long as there is room for.
    Bare,
    Colons,
    Bars,
    Zeros,
    Noise,
    Binary(bool),
    /// Two halves that look plain until their end.
    AlmostPlain,
}

/// A way to write lines.
#[derive(Clone, Debug)]
pub struct Shape {
    pub name: String,
    pub form: Form,
}

/// What has to be new each time.
#[derive(Clone, Debug, Default)]
pub struct State {
    fresh: u64,
}

impl State {
    /// One whose new names do not meet those of another that starts far from it.
    pub fn starting_at(fresh: u64) -> State {
        State { fresh }
    }
}

/// Longest text of tags that is accepted, bytes: some above it are written as well.
const TAG_ROOM: usize = 16 << 10;
const LONG_NAME: usize = 1000;

/// A datagram of at most `room` bytes, full of lines of a shape; `now` is what the clock says, Unix seconds.
pub fn datagram<C: Choices>(shape: &Shape, state: &mut State, room: usize, now: u64, choices: &mut C) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(room + 64);
    loop {
        let before = out.len();
        line(&shape.form, state, room - before, now, choices, &mut out);
        if !matches!(shape.form, Form::Binary(_)) {
            out.push(b'\n');
        }
        if out.len() > room && before > 0 {
            out.truncate(before);
            return out;
        }
        if out.len() >= room || out.len() == before {
            out.truncate(room);
            return out;
        }
    }
}

/// Writes one line of at most about `room` bytes, without its end.
pub fn line<C: Choices>(form: &Form, state: &mut State, room: usize, now: u64, choices: &mut C, out: &mut Vec<u8>) {
    match *form {
        Form::Metric(metric) => self::metric(&metric, state, room, now, choices, out),
        Form::Event(title, text, tags, more) => {
            let (title, text) = (title.min(room / 4), text.min(room / 2));
            push(out, format_args!("_e{{{title},{text}}}:"));
            out.extend(std::iter::repeat_n(b't', title));
            out.push(b'|');
            out.extend(std::iter::repeat_n(b'x', text));
            sections(
                Rate::None,
                tags,
                Dialect::Dogstatsd,
                more,
                state,
                room.saturating_sub(title + text),
                now,
                choices,
                out,
            );
        }
        Form::Check(name, tags, more) => {
            out.extend(b"_sc|");
            self::name(name, state, choices, out);
            push(out, format_args!("|{}", choices.below(4)));
            sections(Rate::None, tags, Dialect::Dogstatsd, more, state, room, now, choices, out);
        }
        Form::Beat(services, instances, packed) => {
            push(out, format_args!("heartbeat.s{}.i{}", choices.below(services), choices.below(instances)));
            let room = room / 3;
            (0..packed.min(room).max(1)).for_each(|_| out.extend(b":10"));
            out.extend(b"|g");
        }
        Form::BeatTags(services, tags) => {
            push(out, format_args!("heartbeat:10|g|#service:s{},instance:a", choices.below(services)));
            sections(Rate::None, tags, Dialect::Sections, More::None, state, room, now, choices, out);
        }
        Form::BeatFresh(services) => {
            state.fresh += 1;
            let (service, instance) = (choices.below(services), state.fresh);
            push(out, format_args!("heartbeat:1.5|g|#service:{service:s>100},instance:{instance:i>128}"));
            push(out, format_args!(",start:{instance:b>128},version:{instance:v>128}"));
        }
        Form::BeatCheck(services) => {
            push(out, format_args!("_sc|heartbeat|0|#service:s{}|m:fine", choices.below(services)));
        }
        Form::Maintenance(services) => push(out, format_args!("maintenance.s{}:60|g", choices.below(services))),
        Form::Blank => {}
        Form::Spaces => out.extend(b"   \t "),
        Form::Bare => out.extend(std::iter::repeat_n(b'a', room)),
        Form::Colons => out.extend(std::iter::repeat_n(b':', room)),
        Form::Bars => {
            out.extend(b"a:1|c");
            out.extend(std::iter::repeat_n(b'|', room.saturating_sub(5)));
        }
        Form::Zeros => out.extend(b"a\0:1|c"),
        Form::Noise => out.extend((0..room.min(40)).map(|_| choices.below(256) as u8)),
        Form::Binary(fresh) => {
            // magic, type 3 (counter), key length with its NUL, value.
            let key = if fresh {
                state.fresh += 1;
                format!("bin.{}", state.fresh)
            } else {
                "bin".to_string()
            };
            out.extend([0xaa, 3]);
            out.extend((key.len() as u16 + 1).to_le_bytes());
            out.extend(1.0f64.to_le_bytes());
            out.extend(key.as_bytes());
            out.push(0);
        }
        Form::AlmostPlain => push(out, format_args!("app.requests.{:04}:1|cc", choices.below(1000))),
    }
}

fn metric<C: Choices>(metric: &Metric, state: &mut State, room: usize, now: u64, choices: &mut C, out: &mut Vec<u8>) {
    let start = out.len();
    let used = |out: &Vec<u8>| out.len() - start;
    name(metric.name, state, choices, out);
    let in_name = !matches!(metric.dialect, Dialect::Dogstatsd | Dialect::Sections);
    // Full packing and full tags share the room.
    let share = if matches!(metric.packing, Packing::PackedFull | Packing::ManyBits) { room / 3 } else { room };
    if in_name {
        tags(metric.tags, metric.dialect, state, share.saturating_sub(used(out) + 8), choices, out);
    }
    out.push(b':');
    match metric.packing {
        Packing::One => number(metric.number, choices, out),
        Packing::Packed(count) => {
            for n in 0..count {
                if n > 0 {
                    out.push(b':');
                }
                number(metric.number, choices, out);
                if used(out) + 16 > room {
                    break;
                }
            }
        }
        Packing::PackedFull => {
            number(metric.number, choices, out);
            let room = if in_name || metric.tags == Tags::None { room } else { share };
            while used(out) + 24 < room {
                out.push(b':');
                number(metric.number, choices, out);
            }
        }
        Packing::ManyBits => {
            number(metric.number, choices, out);
            let room = if in_name || metric.tags == Tags::None { room } else { share };
            while used(out) + 40 < room {
                push(out, format_args!("|{}:", choices.pick(&["c", "ms", "g", "h"])));
                number(metric.number, choices, out);
            }
        }
    }
    push(out, format_args!("|{}", metric.kind));
    let left = room.saturating_sub(used(out));
    let (here, dialect) = if in_name { (Tags::None, Dialect::Dogstatsd) } else { (metric.tags, metric.dialect) };
    sections(metric.rate, here, dialect, metric.more, state, left, now, choices, out);
}

#[allow(clippy::too_many_arguments)] // The parts of a line, in order.
fn sections<C: Choices>(
    rate: Rate,
    tags: Tags,
    dialect: Dialect,
    more: More,
    state: &mut State,
    room: usize,
    now: u64,
    choices: &mut C,
    out: &mut Vec<u8>,
) {
    match rate {
        Rate::None => {}
        Rate::Tenth => out.extend(b"|@0.1"),
        Rate::Any => push(out, format_args!("|@0.{:06}", 1 + choices.below(999_998))),
        Rate::Tiny => out.extend(b"|@1e-300"),
        Rate::ManyDigits => push(out, format_args!("|@0.{:0>300}", choices.below(usize::MAX))),
        Rate::Bad => out.extend(b"|@-1"),
    }
    if tags != Tags::None {
        if dialect == Dialect::Dogstatsd {
            out.extend(b"|#");
        }
        self::tags(tags, dialect, state, room.saturating_sub(24), choices, out);
    }
    match more {
        More::None => {}
        More::Container => out.extend(b"|c:ci-0123456789abcdef"),
        More::Now => push(out, format_args!("|T{now}")),
        More::AnyTime => push(out, format_args!("|T{}", 1 + choices.below(4_000_000_000))),
        More::Unknown(count) => (0..count).for_each(|_| out.extend(b"|x:1")),
        More::UnknownFull => (0..room / 4).for_each(|_| out.extend(b"|x:1")),
        More::ExternalData => out.extend(b"|e:it-false,cn-web,pu-0123|card:high"),
        More::Carriage => out.push(b'\r'),
    }
}

fn name<C: Choices>(name: Name, state: &mut State, choices: &mut C, out: &mut Vec<u8>) {
    if matches!(name, Name::Fresh | Name::LongFresh) {
        state.fresh += 1;
    }
    match name {
        Name::Same => out.extend(b"app.requests"),
        Name::Among(count) => push(out, format_args!("app.web.requests.endpoint_{:04}", choices.below(count))),
        Name::Fresh => push(out, format_args!("app.user_{}", state.fresh)),
        Name::Long => out.extend(std::iter::repeat_n(b'n', LONG_NAME)),
        Name::LongFresh => push(out, format_args!("{:n>LONG_NAME$}", state.fresh)),
        Name::Unclean => out.extend(b"// ; a b//\t;;c"),
        Name::Invalid => out.extend(b"\xff\xfe\xc3(name\xf0\x9f"),
    }
}

fn number<C: Choices>(number: Number, choices: &mut C, out: &mut Vec<u8>) {
    match number {
        Number::One => out.push(b'1'),
        Number::Any => push(out, format_args!("{}.{}", choices.below(100_000), choices.below(1000))),
        Number::Signed => push(out, format_args!("{}{}", choices.pick(&["+", "-"]), choices.below(1000))),
        Number::NegativeZero => out.extend(b"-0.0"),
        Number::ManyDigits => push(out, format_args!("0.{:0>200}", choices.below(usize::MAX))),
        Number::Exponent => push(out, format_args!("1e{}", choices.below(300))),
        Number::Extreme => out.extend(choices.pick(&[&b"1e308"[..], b"5e-324", b"1.7976931348623157e308", b"0"])),
        Number::Word => push(out, format_args!("user{}", choices.below(usize::MAX))),
        Number::LongWord => push(out, format_args!("{:w>1000}", choices.below(usize::MAX))),
        Number::Nothing => {}
    }
}

fn tags<C: Choices>(tags: Tags, dialect: Dialect, state: &mut State, room: usize, choices: &mut C, out: &mut Vec<u8>) {
    let (open, equals, between, close) = match dialect {
        Dialect::Dogstatsd => ("", ":", ",", ""),
        Dialect::Graphite => (";", "=", ";", ""),
        Dialect::Influx => (",", "=", ",", ""),
        Dialect::SignalFx => ("[", "=", ",", "]"),
        Dialect::Librato => ("#", "=", ",", ""),
        Dialect::Sections => ("|#", ":", "|#", ""),
    };
    let room = room.min(TAG_ROOM - 32);
    let start = out.len();
    let mut first = true;
    let mut tag = |out: &mut Vec<u8>, key: std::fmt::Arguments<'_>, value: &[u8]| {
        out.extend(if std::mem::take(&mut first) { open } else { between }.as_bytes());
        push(out, key);
        out.extend(equals.as_bytes());
        out.extend(value);
        out.len() - start + 32 < room
    };
    match tags {
        Tags::None => return,
        Tags::Few(count) => (0..count).for_each(|n| {
            tag(out, format_args!("key{n}"), b"value");
        }),
        Tags::FewFresh(count) => {
            state.fresh += 1;
            tag(out, format_args!("id"), state.fresh.to_string().as_bytes());
            (1..count).for_each(|n| {
                tag(out, format_args!("key{n}"), b"value");
            });
        }
        Tags::WideFresh(count, width) => {
            state.fresh += 1;
            (0..count).for_each(|n| {
                let value = format!("{:v>width$}", state.fresh * u64::from(n == 0));
                tag(out, format_args!("key{n}"), value.as_bytes());
            });
        }
        Tags::Many => {
            let mut n = 9999;
            while tag(out, format_args!("{n}"), b"v") {
                n -= 1;
            }
        }
        Tags::ManyShuffled => while tag(out, format_args!("{}", choices.below(100_000)), b"v") {},
        Tags::Repeated => while tag(out, format_args!("k"), b"v") {},
        Tags::Long => {
            tag(out, format_args!("k"), &vec![b'v'; room.saturating_sub(8)]);
        }
        Tags::Empty => {
            tag(out, format_args!(""), b"");
            out.extend(std::iter::repeat_n(b',', room.saturating_sub(8)));
        }
        Tags::Invalid => {
            tag(out, format_args!("k"), &vec![0xff; room.saturating_sub(8)]);
        }
        Tags::SharedPrefix => {
            let mut n = 0;
            while tag(out, format_args!("{:p>60}", 99_999 - n), b"v") && out.len() - start + 70 < room {
                n += 1;
            }
        }
    }
    out.extend(close.as_bytes());
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    out.write_fmt(text).expect("memory takes every byte");
}

const KINDS: [&str; 8] = ["c", "g", "ms", "h", "d", "s", "m", "kv"];
const NAMES: [Name; 7] =
    [Name::Same, Name::Among(1000), Name::Fresh, Name::Long, Name::LongFresh, Name::Unclean, Name::Invalid];
const PACKINGS: [Packing; 5] =
    [Packing::One, Packing::One, Packing::Packed(10), Packing::PackedFull, Packing::ManyBits];
const NUMBERS: [Number; 10] = [
    Number::One,
    Number::Any,
    Number::Signed,
    Number::NegativeZero,
    Number::ManyDigits,
    Number::Exponent,
    Number::Extreme,
    Number::Word,
    Number::LongWord,
    Number::Nothing,
];
const RATES: [Rate; 6] = [Rate::None, Rate::Tenth, Rate::Any, Rate::Tiny, Rate::ManyDigits, Rate::Bad];
const TAGS: [Tags; 10] = [
    Tags::None,
    Tags::Few(3),
    Tags::FewFresh(3),
    Tags::Many,
    Tags::ManyShuffled,
    Tags::Repeated,
    Tags::Long,
    Tags::Empty,
    Tags::Invalid,
    Tags::SharedPrefix,
];
const DIALECTS: [Dialect; 6] =
    [Dialect::Dogstatsd, Dialect::Graphite, Dialect::Influx, Dialect::SignalFx, Dialect::Librato, Dialect::Sections];
const MORES: [More; 8] = [
    More::None,
    More::Container,
    More::Now,
    More::AnyTime,
    More::Unknown(5),
    More::UnknownFull,
    More::ExternalData,
    More::Carriage,
];

/// Any form at all.
pub fn random_form<C: Choices>(choices: &mut C) -> Form {
    match choices.below(24) {
        0 => Form::Event(choices.below(2000), choices.below(8000), choices.pick(&TAGS), choices.pick(&MORES)),
        1 => Form::Check(choices.pick(&NAMES), choices.pick(&TAGS), choices.pick(&MORES)),
        2 => Form::Beat(1 + choices.below(2000), 1 + choices.below(2000), 1 + choices.below(50)),
        3 => Form::BeatTags(1 + choices.below(2000), choices.pick(&TAGS)),
        4 => Form::BeatCheck(1 + choices.below(2000)),
        5 => Form::Maintenance(1 + choices.below(2000)),
        6 => choices.pick(&[Form::Blank, Form::Spaces, Form::Bare, Form::Colons, Form::Bars, Form::Zeros]),
        7 => choices.pick(&[Form::Noise, Form::AlmostPlain, Form::Binary(false), Form::Binary(true)]),
        _ => Form::Metric(Metric {
            kind: choices.pick(&KINDS),
            name: choices.pick(&NAMES),
            packing: choices.pick(&PACKINGS),
            number: choices.pick(&NUMBERS),
            rate: choices.pick(&RATES),
            tags: choices.pick(&TAGS),
            dialect: choices.pick(&DIALECTS),
            more: choices.pick(&MORES),
        }),
    }
}

/// Any shape at all, called by what it is.
pub fn random_shape<C: Choices>(choices: &mut C) -> Shape {
    let form = random_form(choices);
    Shape { name: format!("{form:?}"), form }
}

/// The shapes that are measured by name.
pub fn shapes() -> Vec<Shape> {
    let mut all = Vec::new();
    let mut add = |name: String, form: Form| all.push(Shape { name, form });
    let metric = |change: &dyn Fn(&mut Metric)| {
        let mut metric = PLAIN;
        change(&mut metric);
        Form::Metric(metric)
    };
    for kind in KINDS {
        add(format!("{kind}, one series"), metric(&|m| (m.kind, m.name) = (kind, Name::Same)));
        add(format!("{kind}, any values"), metric(&|m| (m.kind, m.number) = (kind, Number::Any)));
        add(format!("{kind}, new names"), metric(&|m| (m.kind, m.name) = (kind, Name::Fresh)));
        add(
            format!("{kind}, packed, name tags"),
            metric(&|m| {
                (m.kind, m.packing, m.tags) = (kind, Packing::PackedFull, Tags::ManyShuffled);
                m.dialect = Dialect::Influx;
            }),
        );
    }
    for tags in TAGS {
        add(format!("tags {tags:?}"), metric(&|m| m.tags = tags));
        add(format!("packed, tags {tags:?}"), metric(&|m| (m.packing, m.tags) = (Packing::PackedFull, tags)));
    }
    for dialect in DIALECTS {
        add(
            format!("{dialect:?} tags, many, shuffled"),
            metric(&|m| (m.tags, m.dialect) = (Tags::ManyShuffled, dialect)),
        );
        add(
            format!("{dialect:?} tags, many, shuffled, many bits"),
            metric(&|m| (m.packing, m.tags, m.dialect) = (Packing::ManyBits, Tags::ManyShuffled, dialect)),
        );
        add(
            format!("{dialect:?} tags, few, many bits"),
            metric(&|m| (m.packing, m.tags, m.dialect) = (Packing::ManyBits, Tags::Few(3), dialect)),
        );
        add(format!("{dialect:?} tags, new series"), metric(&|m| (m.tags, m.dialect) = (Tags::FewFresh(3), dialect)));
    }
    for rate in RATES {
        add(
            format!("one timer, rate {rate:?}"),
            metric(&|m| {
                (m.kind, m.name, m.rate, m.number) = ("ms", Name::Same, rate, Number::Any);
            }),
        );
        add(format!("counters, rate {rate:?}"), metric(&|m| m.rate = rate));
    }
    for number in NUMBERS {
        add(format!("gauges, {number:?}"), metric(&|m| (m.kind, m.number) = ("g", number)));
        add(
            format!("one histogram, {number:?}"),
            metric(&|m| {
                (m.kind, m.name, m.number) = ("h", Name::Same, number);
            }),
        );
        add(format!("one set, {number:?}"), metric(&|m| (m.kind, m.name, m.number) = ("s", Name::Same, number)));
    }
    for name in NAMES {
        add(format!("name {name:?}"), metric(&|m| m.name = name));
    }
    for more in MORES {
        add(format!("section {more:?}"), metric(&|m| m.more = more));
    }
    add("many bits".into(), metric(&|m| (m.packing, m.number) = (Packing::ManyBits, Number::Any)));
    add("many bits, many tags".into(), metric(&|m| (m.packing, m.tags) = (Packing::ManyBits, Tags::ManyShuffled)));
    add(
        "timers packed, any rate".into(),
        metric(&|m| {
            (m.kind, m.packing, m.rate, m.number) = ("ms", Packing::Packed(10), Rate::Any, Number::Any);
        }),
    );
    add("timestamps with many tags".into(), metric(&|m| (m.tags, m.more) = (Tags::Many, More::Now)));
    add("events, short".into(), Form::Event(5, 5, Tags::None, More::None));
    add("events, long".into(), Form::Event(1000, 8000, Tags::None, More::None));
    add("events, many tags".into(), Form::Event(5, 5, Tags::ManyShuffled, More::None));
    add("events, unknown sections".into(), Form::Event(5, 5, Tags::None, More::UnknownFull));
    add("checks, short".into(), Form::Check(Name::Same, Tags::None, More::None));
    add("checks, many tags".into(), Form::Check(Name::Same, Tags::ManyShuffled, More::None));
    add("checks, invalid tags".into(), Form::Check(Name::Same, Tags::Invalid, More::None));
    add("heartbeats of one instance".into(), Form::Beat(1, 1, 1));
    add("heartbeats of many instances".into(), Form::Beat(100, 10, 1));
    add("heartbeats of new services".into(), Form::Beat(1_000_000, 1, 1));
    add("heartbeats of new instances".into(), Form::Beat(1, 1_000_000, 1));
    add("heartbeats, packed".into(), Form::Beat(1, 1, usize::MAX));
    add("heartbeats with many tags".into(), Form::BeatTags(10, Tags::Many));
    add("heartbeats as checks".into(), Form::BeatCheck(10));
    add("maintenance".into(), Form::Maintenance(10));
    for form in
        [Form::Blank, Form::Spaces, Form::Bare, Form::Colons, Form::Bars, Form::Zeros, Form::Noise, Form::AlmostPlain]
    {
        add(format!("{form:?}"), form);
    }
    add("binary frames".into(), Form::Binary(false));
    add("binary frames, new names".into(), Form::Binary(true));
    all
}
