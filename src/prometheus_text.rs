//! Prometheus' text formats: 0.0.4 and OpenMetrics 1.0 (prometheus.io, "Exposition formats"; the OpenMetrics specification).
//! `/metrics` and the `prometheus` sink write with this.
//!
//! A counter's samples end in `_total`; its family does so in 0.0.4 only. What acts on a terminal becomes `_` in help texts and
//! label values.
#![deny(clippy::disallowed_methods)]

use std::fmt::Write;

use crate::snapshot::number;
use crate::untrusted::is_active;

/// What a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Quantiles, a sum and a count.
    Summary,
    /// Buckets, a sum and a count.
    Histogram,
}

impl Shape {
    /// As `# TYPE` has it.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Counter => "counter",
            Shape::Gauge => "gauge",
            Shape::Summary => "summary",
            Shape::Histogram => "histogram",
        }
    }
}

/// A text that is being written.
#[derive(Debug)]
pub struct PrometheusText {
    out: String,
    is_open: bool,
}

impl PrometheusText {
    /// An empty text; `is_open` for OpenMetrics.
    pub fn new(is_open: bool) -> PrometheusText {
        PrometheusText { out: String::new(), is_open }
    }

    /// Begins a family; its samples must follow.
    pub fn family(&mut self, name: &str, shape: Shape, help: &str) {
        let total = if shape == Shape::Counter && !self.is_open { "_total" } else { "" };
        self.family_as(&format!("{name}{total}"), shape, help);
    }

    /// The same under exactly this name.
    pub fn family_as(&mut self, name: &str, shape: Shape, help: &str) {
        let shape = shape.name();
        // Quotes are escaped in a help text of OpenMetrics only.
        let help = escape(help, self.is_open);
        // Writing to memory cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {shape}");
    }

    /// A sample of a family: the suffix of its name, its labels as [`labels`] makes them, and one label that only it has.
    pub fn sample(&mut self, family: &str, suffix: &str, labels: &str, own: Option<(&str, &str)>, value: f64) {
        let out = &mut self.out;
        out.push_str(family);
        out.push_str(suffix);
        match own {
            Some((key, own)) => {
                let comma = if labels.is_empty() { "" } else { "," };
                // Writing to memory cannot fail.
                let _ = write!(out, "{{{labels}{comma}{key}=\"{own}\"}}");
            }
            None if labels.is_empty() => {}
            None => {
                out.push('{');
                out.push_str(labels);
                out.push('}');
            }
        }
        out.push(' ');
        out.push_str(&number(value));
        out.push('\n');
    }

    /// Passes on what was written since the last time, once it is so many bytes.
    ///
    /// # Errors
    /// Those of `pass`.
    pub fn drain<E>(&mut self, bytes: usize, pass: impl FnOnce(&str) -> Result<(), E>) -> Result<(), E> {
        if self.out.len() >= bytes {
            pass(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    /// The whole text, or the rest of what was passed on.
    pub fn finish(mut self) -> String {
        if self.is_open {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

/// `key="value",…`, the values escaped.
pub fn labels<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> String {
    let mut out = String::new();
    for (key, value) in pairs {
        if !out.is_empty() {
            out.push(',');
        }
        // Writing to memory cannot fail.
        let _ = write!(out, "{}=\"{}\"", key.as_ref(), escape(value.as_ref(), true));
    }
    out
}

fn escape(text: &str, with_quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' if with_quotes => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if is_active(c) => out.push('_'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_in_a_help_text_are_escaped_where_the_format_says_so() {
        let text = "a\"b\\c\nd\u{202e}";
        let written = |is_open| {
            let mut out = PrometheusText::new(is_open);
            out.family("n", Shape::Counter, text);
            out.finish()
        };
        assert_eq!(written(false), "# HELP n_total a\"b\\\\c\\nd_\n# TYPE n_total counter\n");
        assert_eq!(written(true), "# HELP n a\\\"b\\\\c\\nd_\n# TYPE n counter\n# EOF\n");
    }

    #[test]
    fn labels_are_escaped_and_joined() {
        assert_eq!(labels([("a", "x\"\n\\"), ("b", "")]), "a=\"x\\\"\\n\\\\\",b=\"\"");
    }

    #[test]
    fn a_label_of_its_own_stands_last() {
        let mut out = PrometheusText::new(false);
        out.sample("n", "_bucket", "a=\"b\"", Some(("le", "+Inf")), 3.0);
        out.sample("n", "_sum", "", None, 0.5);
        assert_eq!(out.finish(), "n_bucket{a=\"b\",le=\"+Inf\"} 3\nn_sum 0.5\n");
    }
}
