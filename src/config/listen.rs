//! `[[listen]]`.

use crate::settings::{Described, OptionVisitor, TablesOf};

use super::schema::Listen;

/// Each begins as the first of those that hold without the file: with the protocol of all.
pub(super) fn describe(visitor: &mut dyn OptionVisitor, _: &str, doc: &'static str, listen: &mut Vec<Listen>) {
    let first = listen.first().cloned().unwrap_or_default();
    let mut tables = TablesOf { tables: listen, new: |_| first.clone(), describe: Listen::describe };
    visitor.sections("listen", doc, &mut tables);
}
