//! `[protocol]`: how lines are read.

use toml::Value;

use crate::protocol::{GaugeSign, MAX_NAME_BYTES, NameTags, Options};
use crate::settings::{Items, List, Opt, OptionVisitor, Wrong, choice, count, suggestion};

const SIGNS: [(&str, GaugeSign); 2] = [("delta", GaugeSign::Delta), ("absolute", GaugeSign::Absolute)];

pub(super) fn describe(visitor: &mut dyn OptionVisitor, key: &'static str, doc: &'static str, options: &mut Options) {
    visitor.section(key, doc, &mut |v| {
        let form = "of \"graphite\", \"influx\", \"signalfx\", \"librato\"";
        let styles = &mut Styles(&mut options.name_tags);
        v.field(
            "name_tags",
            "Styles of tags inside names: \"graphite\" `a;k=v`, \"influx\" `a,k=v`, \"signalfx\" `a[k=v]`, \"librato\" \
             `a#k=v`. Without any, names are taken whole.",
            Opt::List(List { items: styles, form, takes_numbers: false, or_one: false }),
        );
        v.field("sanitize", "Clean names as the original does.", Opt::Flag(&mut options.sanitize));
        choice(
            v,
            "gauge_sign",
            "Whether `-10|g` subtracts 10 (\"delta\") or sets -10 (\"absolute\").",
            &SIGNS,
            &mut options.gauge_sign,
        );
        v.field(
            "abbreviated_meter",
            "A bare name counts once, `name:3` three times.",
            Opt::Flag(&mut options.abbreviated_meter),
        );
        v.field(
            "absolute_counters",
            "`|C` is a counter's total: what was added since the last one counts.",
            Opt::Flag(&mut options.absolute_counters),
        );
        v.field("binary", "statsite's binary protocol, known by its first byte.", Opt::Flag(&mut options.binary));
        count(v, "max_name", "Longest name, in bytes.", &mut options.max_name, 1..=MAX_NAME_BYTES as u64);
    });
}

/// Styles of tags inside names.
struct Styles<'a>(&'a mut NameTags);

impl Items for Styles<'_> {
    fn clear(&mut self) {
        *self.0 = NameTags::NONE;
    }

    fn add(&mut self, style: &str) -> Result<(), Wrong> {
        // An empty variable means no style at all.
        if style.is_empty() || self.0.enable(style) {
            return Ok(());
        }
        let hint = suggestion(style, NameTags::NAMES.into_iter());
        let known = NameTags::NAMES.map(|name| format!("`{name}`")).join(", ");
        Err(Wrong::Because(format!("`{style}` is none of {known}{hint}")))
    }

    fn show(&self) -> Option<Vec<Value>> {
        Some(self.0.names().into_iter().map(Value::from).collect())
    }
}
