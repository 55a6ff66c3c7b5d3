//! The merged grammar, from the lines of a datagram to borrowed samples. The module doc of `protocol` has the grammar.

use nom::bytes::complete::{tag, take_till};
use nom::sequence::terminated;
use nom::{IResult, Parser};

use super::error::{ParseError, Reason};
use super::event::{Event, event};
use super::fields::{Field, TagBytes, field, rate, timestamp};
use super::metric::{
    Cardinality, GaugeOp, GaugeSign, Kind, Metric, Name, SampleRate, Values, gauge_item, items, trim_blanks,
};
use super::name::{split_name, survey};
use super::number::decimal;
use super::plain::plain_sample;
use super::service_check::{ServiceCheck, service_check};
use super::tags::{MAX_TAG_BYTES, MAX_TAGS, NameTags, Tags};

/// Longest accepted metric name, in bytes: what `max_name` may be at most, and its default.
pub const MAX_NAME_BYTES: usize = 1024;

/// How a listener reads lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Styles of tags inside names.
    pub name_tags: NameTags,
    /// Clean names as the original does.
    pub sanitize: bool,
    /// How a gauge's sign is read.
    pub gauge_sign: GaugeSign,
    /// Longest accepted name, in bytes (1..=1024, default 1024).
    pub max_name: usize,
    /// Most tags of a sample, an event or a service check (1..=8192, default 256); further ones are cut.
    pub max_tags: u32,
    /// A bare name counts once, `name:3` three times.
    pub abbreviated_meter: bool,
    /// `|C` is a counter's total, not its increment.
    pub absolute_counters: bool,
    /// Input that begins with 0xAA is statsite's binary protocol.
    pub binary: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            name_tags: NameTags::ALL,
            sanitize: false,
            gauge_sign: GaugeSign::Delta,
            max_name: MAX_NAME_BYTES,
            max_tags: MAX_TAGS,
            abbreviated_meter: false,
            absolute_counters: false,
            binary: false,
        }
    }
}

/// What a line is.
#[derive(Debug)]
pub enum Line<'a> {
    /// Nothing but blanks.
    Empty,
    /// Samples of one name, each valid or malformed by itself.
    Samples(Samples<'a>),
    /// An event.
    Event(Event<'a>),
    /// A service check.
    ServiceCheck(ServiceCheck<'a>),
}

/// The lines of a datagram, trimmed. A final newline ends a line, it does not begin one.
///
/// ```
/// use systole::internals::protocol::lines;
/// assert_eq!(lines(b"a:1|c\r\n b:2|c\n").collect::<Vec<_>>(), [&b"a:1|c"[..], b"b:2|c"]);
/// assert_eq!(lines(b"").count(), 0);
/// ```
pub fn lines(datagram: &[u8]) -> Lines<'_> {
    Lines { rest: datagram }
}

/// Iterator of [`lines`].
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let line;
        (line, self.rest) = split_line(self.rest);
        Some(trim(line))
    }
}

/// The first line of a text, untrimmed, and what follows its newline.
#[inline]
pub fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'\n', text) {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, &[]),
    }
}

/// Trims blanks, CR and NUL from both ends; of an event only from the start, because its lengths define the end.
#[inline]
pub fn trim(mut line: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r' | 0, rest @ ..] = line {
        line = rest;
    }
    if line.starts_with(b"_e{") { line } else { trim_end(line) }
}

#[inline]
pub(super) fn trim_end(mut line: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t' | b'\r' | 0] = line {
        line = rest;
    }
    line
}

/// Reads one trimmed line.
///
/// # Errors
/// The reason and the byte, if nothing of the line is usable. Errors of single samples come out of the [`Samples`]
/// iterator.
///
/// ```
/// use systole::internals::protocol::{Line, Options, parse_line};
/// let Ok(Line::Samples(mut samples)) = parse_line(b"api.hits:2|c|@0.1|#route:a", &Options::default()) else { panic!() };
/// let hit = samples.next().unwrap().unwrap();
/// assert_eq!(hit.name.to_string(), "api.hits");
/// assert_eq!(hit.rate.weight(), 10.0);
/// ```
#[inline]
pub fn parse_line<'a>(line: &'a [u8], options: &Options) -> Result<Line<'a>, ParseError> {
    if let Some(at) = memchr::memchr(0, line)
        && at < trim_end(line).len()
    {
        return Err(ParseError::new(Reason::Nul, at));
    }
    parse_line_without_nul(line, options)
}

/// The samples of a line that is known to be a metric: not empty, without NUL, and not beginning with `_`, like nearly
/// all traffic. A reader of whole datagrams searches for NUL once instead of in each line.
///
/// # Errors
/// As [`parse_line`].
#[inline]
pub fn parse_metric<'a>(line: &'a [u8], options: &Options) -> Result<Samples<'a>, ParseError> {
    Samples::start(line, options)
}

fn parse_line_without_nul<'a>(line: &'a [u8], options: &Options) -> Result<Line<'a>, ParseError> {
    let Some(&first) = line.first() else {
        return Ok(Line::Empty);
    };
    if first == b'_' {
        if line.starts_with(b"_e{") {
            return event(line, options.max_tags).map(Line::Event);
        }
        if line.starts_with(b"_sc|") {
            return service_check(line, options.max_tags).map(Line::ServiceCheck);
        }
    }
    Samples::start(line, options).map(Line::Samples)
}

/// The samples of one metric line: `name:values|type|fields`, more after a `:` where the older multi-value form allows
/// it. A malformed sample does not affect the others.
#[derive(Clone, Debug)]
pub struct Samples<'a> {
    line: &'a [u8],
    name: Name<'a>,
    tags: Tags<'a>,
    gauge_sign: GaugeSign,
    /// A value without a type is a meter.
    abbreviated: bool,
    /// `|C` is a counter's total.
    absolute: bool,
    /// Where the next sample's values begin.
    next: Option<usize>,
}

impl<'a> Samples<'a> {
    #[inline]
    fn start(line: &'a [u8], options: &Options) -> Result<Samples<'a>, ParseError> {
        let colon = match memchr::memchr2(b':', b'|', line) {
            None if options.abbreviated_meter => line.len(),
            None => return Err(ParseError::new(Reason::MissingType, line.len())),
            Some(0) if line[0] == b':' => return Err(ParseError::new(Reason::EmptyName, 0)),
            Some(at) if line[at] == b'|' => return Err(ParseError::new(Reason::BadName, at)),
            Some(at) => at,
        };
        let raw = &line[..colon];
        let mut tags = Tags::none(options.max_tags);
        let mut name = Name { head: raw, tail: &[], sanitize: options.sanitize };
        let found = survey(raw);
        if found.non_ascii
            && let Err(error) = std::str::from_utf8(raw)
        {
            return Err(ParseError::new(Reason::NotUtf8, error.valid_up_to()));
        }
        if found.special {
            split_name(&options.name_tags, &mut name, &mut tags);
            if tags.name_text_len() > MAX_TAG_BYTES {
                return Err(ParseError::new(Reason::TooLong, name.head.len() + MAX_TAG_BYTES));
            }
        }
        if (found.special || options.sanitize) && name.is_empty() {
            return Err(ParseError::new(Reason::EmptyName, 0));
        }
        if name.raw_len() > options.max_name {
            return Err(ParseError::new(Reason::TooLong, options.max_name));
        }
        Ok(Samples {
            line,
            name,
            tags,
            gauge_sign: options.gauge_sign,
            abbreviated: options.abbreviated_meter,
            absolute: options.absolute_counters,
            next: Some(colon + 1),
        })
    }

    /// Reads the sample whose values begin at `start`; also returns where the next one begins.
    #[inline]
    fn sample(&self, start: usize) -> (Result<Metric<'a>, ParseError>, Option<usize>) {
        let line = self.line;
        if start > line.len() {
            // A bare name, which only an option allows.
            return (Ok(self.plain(Kind::Meter, 1.0)), None);
        }
        if let Some((kind, number)) = plain_sample(&line[start..]) {
            return (Ok(self.plain(kind, number)), None);
        }
        let Some(bar) = memchr::memchr(b'|', &line[start..]) else {
            if self.abbreviated {
                let values = self.read_values(Kind::Meter, (start, line.len()));
                return (values.map(|values| Metric { values, ..self.plain(Kind::Meter, 1.0) }), None);
            }
            return (Err(ParseError::new(Reason::MissingType, line.len())), None);
        };
        let values = (start, start + bar);
        let token_start = values.1 + 1;
        let token_len =
            line[token_start..].iter().position(|&b| b == b'|' || b == b':').unwrap_or(line.len() - token_start);
        let token_end = token_start + token_len;

        let fields_start;
        let fields_end;
        let next;
        match line.get(token_end) {
            None => {
                (fields_start, fields_end, next) = (token_end, token_end, None);
            }
            Some(b':') => {
                (fields_start, fields_end, next) = (token_end, token_end, Some(token_end + 1));
            }
            Some(_) => {
                fields_start = token_end + 1;
                (fields_end, next) = end_of_fields(line, fields_start);
            }
        }
        let token = &line[token_start..token_end];
        (self.build(values, token, token_start, (fields_start, fields_end)), next)
    }

    #[inline]
    fn build(
        &self,
        values: (usize, usize),
        token: &[u8],
        token_start: usize,
        fields: (usize, usize),
    ) -> Result<Metric<'a>, ParseError> {
        let token = trim_blanks(token);
        let is_total = self.absolute && token == b"C";
        let Some(kind) = (if is_total { Some(Kind::Counter) } else { Kind::from_token(token) }) else {
            let reason = if token.is_empty() { Reason::MissingType } else { Reason::UnknownType };
            return Err(ParseError::new(reason, token_start));
        };
        let mut metric = self.plain(kind, 0.0);
        if fields.0 < fields.1 {
            self.read_fields(fields, &mut metric)?;
        }
        metric.values = self.read_values(kind, values)?;
        if let (true, Values::Numbers { first, packed }) = (is_total, metric.values) {
            if packed.is_some() || first < 0.0 {
                return Err(ParseError::new(Reason::BadValue, values.0));
            }
            metric.values = Values::Total(first);
        }
        Ok(metric)
    }

    /// A sample of one number without fields.
    #[inline]
    fn plain(&self, kind: Kind, number: f64) -> Metric<'a> {
        let values = match kind {
            Kind::Gauge => Values::Gauge { first: (GaugeOp::Set, number), packed: None, sign: self.gauge_sign },
            _ => Values::Numbers { first: number, packed: None },
        };
        Metric {
            name: self.name,
            tags: self.tags,
            kind,
            values,
            rate: SampleRate::ONE,
            timestamp: None,
            skipped: 0,
            fields: &[],
        }
    }

    fn read_fields(&self, (start, end): (usize, usize), metric: &mut Metric<'a>) -> Result<(), ParseError> {
        let text = &self.line[start..end];
        metric.fields = text;
        let mut at = start;
        let mut tag_bytes = TagBytes::after(metric.tags.name_text_len());
        for section in text.split(|&b| b == b'|') {
            match field(section) {
                Field::Empty => {}
                Field::Rate(text) => {
                    metric.rate = rate(text).map_err(|reason| ParseError::new(reason, at + 1))?;
                }
                Field::Tags(tags) => {
                    tag_bytes.add(tags, at + section.len())?;
                    metric.tags.fields = text;
                }
                Field::Container(_) | Field::ExternalData(_) => {}
                Field::Cardinality(level) => metric.skipped += u32::from(Cardinality::from_text(level).is_none()),
                Field::Timestamp(digits) => {
                    let seconds = timestamp(digits).map_err(|reason| ParseError::new(reason, at + 1))?;
                    metric.timestamp = Some(seconds);
                }
                Field::Unknown => metric.skipped += 1,
            }
            at += section.len() + 1;
        }
        Ok(())
    }

    #[inline]
    fn read_values(&self, kind: Kind, (start, end): (usize, usize)) -> Result<Values<'a>, ParseError> {
        let text = &self.line[start..end];
        let refuse = |item: &[u8]| {
            // `item` is a part of `text`, so the distance of their starts is its offset.
            let offset = (item.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
            let at = start + offset.min(text.len());
            match decimal(item) {
                Some(number) if kind == Kind::Timer && number < 0.0 => ParseError::negative_duration(at),
                _ => ParseError::new(Reason::BadValue, at),
            }
        };
        if kind == Kind::Set {
            if text.is_empty() {
                return Err(ParseError::new(Reason::BadMember, start));
            }
            return Ok(Values::Member(text));
        }
        let sign = self.gauge_sign;
        let is_bad = |item: &[u8]| match decimal(item) {
            Some(number) => kind == Kind::Timer && number < 0.0,
            None => true,
        };
        let packed = memchr::memchr(b':', text).is_some();
        let mut all = items(text);
        let Some(first) = all.next() else {
            return Err(refuse(text));
        };
        let more = if packed {
            let mut more = false;
            for item in all {
                if is_bad(item) {
                    return Err(refuse(item));
                }
                more = true;
            }
            more
        } else {
            false
        };
        let packed = more.then_some(text);
        if kind == Kind::Gauge {
            let first = gauge_item(first, sign).ok_or_else(|| refuse(first))?;
            return Ok(Values::Gauge { first, packed, sign });
        }
        match decimal(first) {
            Some(number) if kind != Kind::Timer || number >= 0.0 => Ok(Values::Numbers { first: number, packed }),
            _ => Err(refuse(first)),
        }
    }
}

impl<'a> Iterator for Samples<'a> {
    type Item = Result<Metric<'a>, ParseError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let start = self.next?;
        let (sample, next) = self.sample(start);
        self.next = next;
        Some(sample)
    }
}

/// Where the fields that begin at `start` end, and where the next sample begins: behind a `:` inside an `@`
/// field, or behind a `:` at the start of a field when `value|known-type` follows.
fn end_of_fields(line: &[u8], start: usize) -> (usize, Option<usize>) {
    let mut at = start;
    loop {
        let end = memchr::memchr(b'|', &line[at..]).map_or(line.len(), |bar| at + bar);
        let field = &line[at..end];
        match field.first() {
            Some(b'@') => {
                if let Some(colon) = memchr::memchr(b':', field) {
                    return (at + colon, Some(at + colon + 1));
                }
            }
            Some(b':') if looks_like_sample(&line[at + 1..]) => return (at, Some(at + 1)),
            _ => {}
        }
        if end == line.len() {
            return (end, None);
        }
        at = end + 1;
    }
}

/// `value|known-type` follows.
fn looks_like_sample(text: &[u8]) -> bool {
    fn value_and_type(text: &[u8]) -> IResult<&[u8], (&[u8], &[u8])> {
        (terminated(take_till(|b| b == b'|'), tag("|")), take_till(|b| b == b'|' || b == b':')).parse(text)
    }
    matches!(value_and_type(text), Ok((_, (value, token))) if !value.is_empty() && Kind::from_token(trim_blanks(token)).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (Vec<String>, Vec<(&'static str, u32)>) {
        read_with(line, &Options::default())
    }

    fn read_with(line: &str, options: &Options) -> (Vec<String>, Vec<(&'static str, u32)>) {
        let mut good = Vec::new();
        let mut bad = Vec::new();
        match parse_line(trim(line.as_bytes()), options) {
            Ok(Line::Samples(samples)) => {
                for sample in samples {
                    match sample {
                        Ok(m) => {
                            let tags: Vec<String> = m
                                .tags
                                .iter()
                                .map(|t| {
                                    format!(
                                        "{}={:?}",
                                        String::from_utf8_lossy(t.key),
                                        t.value.map(String::from_utf8_lossy)
                                    )
                                })
                                .collect();
                            good.push(
                                format!("{} {} {}", m.name, m.kind.name(), tags.join(",")).trim_end().to_string(),
                            );
                        }
                        Err(e) => bad.push((e.reason.name(), e.at)),
                    }
                }
            }
            Ok(_) => {}
            Err(e) => bad.push((e.reason.name(), e.at)),
        }
        (good, bad)
    }

    #[test]
    fn a_malformed_line_says_why_and_at_which_byte() {
        for (line, reason, at) in [
            (":1|c", "empty_name", 0),
            ("a|b:1|c", "bad_name", 1),
            ("a", "missing_type", 1),
            ("a:1", "missing_type", 3),
            ("a:1|", "missing_type", 4),
            ("a:1|z", "unknown_type", 4),
            ("a:x|c", "bad_value", 2),
            ("a:1:x|c", "bad_value", 4),
            ("a:|c", "bad_value", 2),
            ("a:-1|ms", "bad_value", 2),
            ("a:1|c|@-1", "bad_rate", 7),
            ("a:1|c|@", "bad_rate", 7),
            ("a:1|c|T0", "bad_timestamp", 7),
            ("a:|s", "bad_member", 2),
            ("a\0b:1|c", "nul", 1),
            ("_e{1,1}:", "bad_event", 8),
            ("_sc||1", "bad_service_check", 4),
        ] {
            assert_eq!(read(line), (vec![], vec![(reason, at)]), "{line}");
        }
        let long = format!("{}:1|c", "a".repeat(1025));
        assert_eq!(read(&long).1, [("too_long", 1024)]);
        let invalid = parse_line(b"a\xff:1|c", &Options::default());
        assert!(matches!(invalid, Err(ParseError { reason: Reason::NotUtf8, at: 1, .. })));
    }

    #[test]
    fn the_short_way_reads_what_the_general_way_reads() {
        let shown = |line: &str| match parse_line(line.as_bytes(), &Options::default()) {
            Ok(Line::Samples(samples)) => samples
                .map(|s| {
                    s.map(|m| format!("{} {:?} {:?} {}", m.name, m.kind, m.values, m.rate.weight()))
                        .map_err(|e| e.reason)
                })
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        for kind in ["c", "g", "ms", "h", "d", "m", "kv", "s", "z", ""] {
            for value in ["0", "7", "123456789012345", "1234567890123456", "", "1.5", "-3", "+3", "1:2", " 4 "] {
                let (short, general) = (format!("a.name:{value}|{kind}"), format!("a.name:{value}|{kind}|"));
                assert_eq!(shown(&short), shown(&general), "{short}");
            }
        }
    }

    #[test]
    fn a_bad_sample_does_not_spoil_the_others_of_its_line() {
        assert_eq!(read("m:bad|c:1|c"), (vec!["m counter".into()], vec![("bad_value", 2)]));
    }

    #[test]
    fn a_colon_begins_a_new_sample_in_exactly_three_places() {
        assert_eq!(read("a:1:2|ms:3|c").0, ["a timer", "a counter"]);
        assert_eq!(read("a:1|c|@0.5:2|ms").0, ["a counter", "a timer"]);
        assert_eq!(read("a:1|c|:2|ms").0, ["a counter", "a timer"]);
        assert_eq!(read("a:1|c|c:2|ms").0, ["a counter"]);
        assert_eq!(read("a:1|c|#k:2|ms").0, ["a counter k=Some(\"2\")"]);
    }

    #[test]
    fn tags_of_every_dialect_are_found() {
        let k = |name: &str| vec![format!("{name} counter k=Some(\"v\")")];
        for line in ["a,k=v:1|c", "a#k=v:1|c", "a;k=v:1|c", "a[k=v]:1|c", "a:1|c|#k:v", "a:1|c|##k:v"] {
            assert_eq!(read(line).0, k("a"), "{line}");
        }
        assert_eq!(read("a[k=v].b:1|c").0, k("a.b"));
        assert_eq!(read("a]b[k=v]:1|c").0, ["a]b[k=v] counter"]);
        assert_eq!(read("a,b:1|c").0, ["a,b counter"]);
        let whole = Options { name_tags: NameTags::NONE, ..Options::default() };
        assert_eq!(read_with("a;k=v:1|c", &whole).0, ["a;k=v counter"]);
    }

    #[test]
    fn nothing_of_a_name_left_after_cleaning_is_an_empty_name() {
        let clean = Options { sanitize: true, ..Options::default() };
        assert_eq!(read_with("+++:1|c", &clean).1, [("empty_name", 0)]);
        assert_eq!(read_with("a b/c+:1|c", &clean).0, ["a_b-c counter"]);
    }
}
