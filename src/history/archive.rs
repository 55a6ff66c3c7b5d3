//! What lies further back than the history: points that a sink has kept, joined with those in memory.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::series::Series;

use super::points::{MOST_POINTS, Numbers, PointsQuery, Resolution};
use super::{History, Points};

/// Points that are wanted of an archive.
#[derive(Clone, Debug)]
pub struct ArchiveQuery {
    /// Of these series.
    pub series: Vec<Series>,
    /// Only these fields; all that there are without any.
    pub fields: Vec<String>,
    /// Ends of intervals after this, Unix seconds.
    pub from: f64,
    /// And not after this.
    pub to: f64,
    /// Distance of points, seconds: a point has the intervals that end in one of its multiples.
    pub step: f64,
}

/// A field over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArchivedField {
    /// Mean of the intervals.
    pub mean: Numbers,
    /// The smallest and the largest.
    pub min: Numbers,
    /// See there.
    pub max: Numbers,
}

/// Points of an archive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Archived {
    /// Ends of the points, Unix seconds, ascending.
    pub times: Vec<f64>,
    /// Share of datagrams that were read; `null` where that is not known.
    pub completeness: Numbers,
    /// Of each series, by name of the field.
    pub series: Vec<BTreeMap<String, ArchivedField>>,
}

/// Why an archive has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// It would take too long.
    #[error("{0}")]
    TooMuch(String),
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(String),
}

/// Who keeps points for longer than the history.
pub trait Archive: Debug + Send + Sync {
    /// Reads points. It may block for seconds.
    ///
    /// # Errors
    /// If that would take too long, or cannot be done.
    fn read(&self, query: &ArchiveQuery) -> Result<Archived, ArchiveError>;
}

impl History {
    /// What of a query lies before the history, if something does: what to ask an archive for, and what is left then. A step that
    /// is finer than minutes is not what the minutes in memory have.
    pub fn before(&self, query: &PointsQuery) -> Option<(ArchiveQuery, PointsQuery)> {
        let axis = self.0.axis();
        let interval = axis.interval_secs();
        let begin = axis.begin()?;
        let oldest =
            axis.minutes.front().map_or(begin, |first| super::axis::minute_end(first.number) - 60.0).min(begin);
        let most = MOST_POINTS as f64;
        let step = query.step.unwrap_or_else(|| {
            let finest = 60.0_f64.max(interval);
            finest * ((query.to - query.from) / finest / most).ceil().max(1.0)
        });
        let begin = if step < 60.0 { begin } else { oldest };
        // Where a point is several intervals, at a multiple of the step, so that none is cut.
        let border = if step < interval * 1.5 { begin } else { (begin / step).ceil() * step };
        if query.series.is_empty() || query.from >= begin - interval / 2.0 {
            return None;
        }
        let archived = ArchiveQuery {
            series: query.series.clone(),
            fields: query.fields.clone(),
            from: query.from,
            to: border.min(query.to),
            step,
        };
        // An interval that ends at the border is the archive's.
        let rest = PointsQuery { from: border + interval / 100.0, step: Some(step), ..query.clone() };
        Some((archived, rest))
    }
}

impl Points {
    /// Puts the points of an archive before these.
    pub fn prepend(&mut self, from: f64, archived: Archived) {
        let (before, after) = (archived.times.len(), self.times.len());
        let join = |numbers: Option<Numbers>, later: Option<&mut Numbers>| {
            let mut all = numbers.unwrap_or_else(|| vec![None; before]);
            match later {
                Some(later) => all.append(later),
                None => all.resize(before + after, None),
            }
            all
        };
        for (series, mut fields) in self.series.iter_mut().zip(archived.series) {
            let has_extremes = !series.min.is_empty();
            let names: Vec<String> = series.fields.keys().chain(fields.keys()).cloned().collect();
            for name in names {
                let own = fields.remove(&name);
                if own.is_none() && series.fields.get(&name).is_some_and(|known| known.len() > after) {
                    continue;
                }
                let (mean, min, max) =
                    own.map_or((None, None, None), |own| (Some(own.mean), Some(own.min), Some(own.max)));
                let mean = join(mean, series.fields.get_mut(&name));
                series.fields.insert(name.clone(), mean);
                if has_extremes {
                    let (min, max) = (join(min, series.min.get_mut(&name)), join(max, series.max.get_mut(&name)));
                    series.min.insert(name.clone(), min);
                    series.max.insert(name, max);
                }
            }
            if !series.updated.is_empty() {
                series.updated.splice(0..0, vec![None; before]);
            }
            if let Some(heat) = &mut series.heat {
                heat.counts.splice(0..0, vec![None; before]);
            }
        }
        for numbers in self.ledger.values_mut() {
            numbers.splice(0..0, vec![None; before]);
        }
        self.times.splice(0..0, archived.times);
        self.completeness.splice(0..0, archived.completeness);
        (self.from, self.resolution) = (from, Resolution::Sqlite);
    }
}
