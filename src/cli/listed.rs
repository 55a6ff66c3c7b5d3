//! The first of some, and how many there are: what a command that finds differences lists.

use std::fmt;

use serde::Serialize;

use crate::snapshot::grouped;
use crate::untrusted::Escaped;

#[derive(Debug, Serialize)]
pub(super) struct Listed<T> {
    pub(super) count: usize,
    first: Vec<T>,
}

impl<T> Listed<T> {
    /// Counts all, and keeps the first `list` of them.
    pub(super) fn of(all: impl Iterator<Item = T>, list: usize) -> Listed<T> {
        let mut listed = Listed { count: 0, first: Vec::new() };
        for one in all {
            listed.count += 1;
            if listed.first.len() < list {
                listed.first.push(one);
            }
        }
        listed
    }

    /// Writes them under a head, if there are some; `unit` is what one is called, and what several are.
    pub(super) fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        head: &str,
        unit: [&str; 2],
        one: impl Fn(&T) -> String,
    ) -> fmt::Result {
        if self.count == 0 {
            return Ok(());
        }
        writeln!(f, "{head}: {} {}", grouped(self.count as u64), unit[usize::from(self.count > 1)])?;
        for found in &self.first {
            writeln!(f, "  {}", Escaped(&one(found)))?;
        }
        let rest = self.count - self.first.len();
        if rest > 0 {
            writeln!(f, "  and {} more (`--list N`)", grouped(rest as u64))?;
        }
        Ok(())
    }
}
