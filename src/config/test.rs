//! `[[test]]`: lines, and what is expected to be flushed of them. `systole check` runs them; the daemon does not look at them.

use std::collections::BTreeMap;

use crate::codec::RecordType;
use crate::settings::{Opt, OptionVisitor, TablesOf, count, maybe, maybe_choice};

/// Most malformed lines that a test may ask for.
const MOST_LINES: u64 = 1_000_000;

/// Types that are expected: those of series.
const TYPES: [(&str, RecordType); 7] = [
    ("counter", RecordType::Counter),
    ("gauge", RecordType::Gauge),
    ("timer", RecordType::Timer),
    ("histogram", RecordType::Histogram),
    ("distribution", RecordType::Distribution),
    ("set", RecordType::Set),
    ("kv", RecordType::Kv),
];

/// Lines of one interval, and what is expected of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Test {
    /// What it is called where it fails.
    pub name: String,
    /// What comes in, in this order, within one interval.
    pub lines: Vec<String>,
    /// How many of them are malformed.
    pub malformed: u64,
    /// Whether nothing else may come out.
    pub only: bool,
    /// What comes out.
    pub expect: Vec<Expectation>,
}

/// A record that is expected, or that must not come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expectation {
    /// Pattern of its name.
    pub name: String,
    /// Its type; `None` is any.
    pub kind: Option<RecordType>,
    /// Whether `tags` stands there: then it has these tags and no others.
    pub has_tags: bool,
    /// Its tags.
    pub tags: Vec<(String, String)>,
    /// Whether no such record may come.
    pub absent: bool,
    /// Its numbers, by the names that they have in records.
    pub numbers: Vec<(&'static str, f64)>,
    /// Its percentiles.
    pub percentiles: BTreeMap<String, f64>,
    /// Its buckets.
    pub buckets: BTreeMap<String, f64>,
}

/// Numbers of a record, and what they are.
const NUMBERS: [(&str, &str); 11] = [
    ("value", "Value of a counter, a gauge, a set (its members) or a key-value pair."),
    ("rate", "Events per second."),
    ("count", "Events of a timer, a histogram or a distribution."),
    ("samples", "Samples of it that arrived."),
    ("sum", "Their sum."),
    ("sum_squares", "The sum of their squares."),
    ("min", "The smallest."),
    ("max", "The largest."),
    ("mean", "Their mean."),
    ("median", "Their median."),
    ("stddev", "Their standard deviation."),
];

pub(super) fn describe(visitor: &mut dyn OptionVisitor, _: &str, doc: &'static str, tests: &mut Vec<Test>) {
    visitor.sections("test", doc, &mut TablesOf { tables: tests, new: |_| Test::default(), describe: one });
}

fn one(test: &mut Test, v: &mut dyn OptionVisitor) {
    required_text(v, "name", "What it is called where it fails.", &mut test.name, "\"verbs become a tag\"");
    let mut is_there = !test.lines.is_empty();
    let lines = Opt::Texts(&mut test.lines);
    v.field("lines", "What comes in, within one interval.", Opt::Maybe(&mut is_there, Box::new(lines)));
    v.require_one("lines", !test.lines.is_empty(), "[\"api.get.hits:2|c\", \"api.get.hits:1|c\"]");
    v.example("lines", "[\"api.get.hits:2|c\", \"api.get.hits:1|c\"]");
    count(v, "malformed", "How many of them are malformed.", &mut test.malformed, 0..=MOST_LINES);
    v.field("only", "Nothing comes out but what is expected.", Opt::Flag(&mut test.only));
    let doc = "What comes out: `expect = [{ name = \"api.hits\", value = 3 }, { name = \"debug.*\", absent = true }]` in short. \
               Numbers are equal if they are to six digits.";
    let expect = &mut test.expect;
    v.sections("expect", doc, &mut TablesOf { tables: expect, new: |_| Expectation::default(), describe: expectation });
    let is_some = test.only || test.malformed > 0 || !test.expect.is_empty();
    let right = "it expects nothing; say what comes out, such as `expect = [{ name = \"api.hits\", value = 3 }]`";
    v.require("", if is_some { Ok(()) } else { Err(right.into()) });
}

fn required_text(
    v: &mut dyn OptionVisitor,
    key: &'static str,
    doc: &'static str,
    text: &mut String,
    example: &'static str,
) {
    let mut is_there = !v.is_reader() && !text.is_empty();
    v.field(key, doc, Opt::Maybe(&mut is_there, Box::new(Opt::Text(text))));
    v.require_one(key, is_there && !text.is_empty(), example);
    v.example(key, example);
}

fn expectation(expected: &mut Expectation, v: &mut dyn OptionVisitor) {
    required_text(v, "name", "Pattern of its name.", &mut expected.name, "\"api.hits\"");
    maybe_choice(v, "type", "Its type; without it any.", &TYPES, &mut expected.kind);
    v.example("type", "\"counter\"");
    // An empty table says that there are no tags.
    let mut tags: BTreeMap<String, String> = std::mem::take(&mut expected.tags).into_iter().collect();
    let doc = "All its tags; `{}` is none, and without this any are right. Those that `tags` of the root adds may be left out.";
    v.field("tags", doc, Opt::Maybe(&mut expected.has_tags, Box::new(Opt::Map(&mut tags))));
    v.example("tags", "{ verb = \"get\" }");
    expected.tags = tags.into_iter().collect();
    v.field("absent", "No such record comes.", Opt::Flag(&mut expected.absent));
    let known = std::mem::take(&mut expected.numbers);
    for (key, doc) in NUMBERS {
        let mut number = known.iter().find(|(name, _)| *name == key).map(|(_, number)| *number);
        maybe(v, key, doc, &mut number, |number| Opt::Number(number, f64::MIN..=f64::MAX));
        v.example(key, if key == "value" { "3" } else { "0.3" });
        expected.numbers.extend(number.map(|number| (key, number)));
    }
    let by_key = [
        ("percentiles", "Its percentiles.", "{ 50 = 12, \"99.9\" = 31 }", &mut expected.percentiles),
        ("buckets", "How many lie at or below each bound.", "{ 10 = 1, 50 = 3 }", &mut expected.buckets),
    ];
    for (key, doc, example, numbers) in by_key {
        let mut is_there = !numbers.is_empty();
        v.field(key, doc, Opt::Maybe(&mut is_there, Box::new(Opt::NumbersByKey(numbers))));
        v.example(key, example);
    }
    let has_numbers = !(expected.numbers.is_empty() && expected.percentiles.is_empty() && expected.buckets.is_empty());
    let right = "what does not come has no numbers; leave them out";
    v.require("absent", if expected.absent && has_numbers { Err(right.into()) } else { Ok(()) });
}
