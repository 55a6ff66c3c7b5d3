//! When a job is to run: five fields of cron in a time zone.
//!
//! The fields are matched against the time that a clock on the wall shows, and only then is that time placed in the zone. So a
//! time that a clock change leaves out asks for no run, where most crons run an hour later, and of one that comes twice the
//! first asks for one.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::presence::time::UnixTime;

/// Times in a row that a clock change may leave out, or that lie before the first of an hour that comes twice: a schedule of
/// every minute has 180 in the longest change of any zone.
const SKIPPED: usize = 400;

/// Times at which a job is to run.
#[derive(Clone, Debug)]
pub struct CronSchedule {
    fields: String,
    zone_name: String,
    cron: Cron,
    zone: TimeZone,
}

impl PartialEq for CronSchedule {
    fn eq(&self, other: &CronSchedule) -> bool {
        (&self.fields, &self.zone_name) == (&other.fields, &other.zone_name)
    }
}

/// A time at which a run is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Occurrence {
    /// When.
    pub at: UnixTime,
    /// Clocks show this time twice that night, and a run at either is right.
    pub is_twice: bool,
}

impl CronSchedule {
    /// A schedule of five fields (minute, hour, day of month, month, day of week), or `@daily` and its like.
    ///
    /// # Errors
    /// What is wrong with the fields.
    pub fn new(fields: &str, zone: &NamedZone) -> Result<CronSchedule, String> {
        // `5/10` is "from 5 on, every 10", as everywhere.
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).sloppy_ranges(true).build();
        let text = fields.trim();
        let count = text.split_whitespace().count();
        if let Some(every) = text.strip_prefix("every ").or(text.strip_prefix("@every ")) {
            return Err(format!("`every = \"{}\"` in its place is right", every.trim()));
        }
        if count != 5 && !text.starts_with('@') {
            return Err(format!("it has {count} fields; minute, hour, day of month, month and day of week are right"));
        }
        let text = if text.eq_ignore_ascii_case("@midnight") { "@daily" } else { text };
        let cron = parser.parse(text).map_err(|error| what_is_wrong(&parser, text).unwrap_or(error.to_string()))?;
        let (fields, zone_name, zone) = (fields.to_string(), zone.name.clone(), zone.zone.clone());
        let schedule = CronSchedule { fields, zone_name, cron, zone };
        // 2000 and the years up to the next leap year have every day that there is.
        let has_any = schedule.next(UnixTime::from_secs(946_684_800.0)).is_some();
        if has_any { Ok(schedule) } else { Err("it never comes".into()) }
    }

    /// The first time after one.
    pub fn next_time(&self, after: UnixTime) -> Option<UnixTime> {
        Some(self.next(after)?.at)
    }

    /// The five fields, as they were given.
    pub fn fields(&self) -> &str {
        &self.fields
    }

    /// Name of the time zone.
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// The first time after `after`; `None` if there is none.
    pub(super) fn next(&self, after: UnixTime) -> Option<Occurrence> {
        let nanos = after.as_secs() * 1e9;
        let stamp = Timestamp::from_nanosecond(nanos as i128).ok()?;
        let mut local = self.zone.to_datetime(stamp);
        for _ in 0..SKIPPED {
            local = self.next_local(local)?;
            let placed = self.zone.to_ambiguous_timestamp(local);
            let (is_twice, at) = match placed.offset() {
                AmbiguousOffset::Unambiguous { offset } => (false, offset.to_timestamp(local).ok()?),
                AmbiguousOffset::Fold { before, .. } => (true, before.to_timestamp(local).ok()?),
                AmbiguousOffset::Gap { .. } => continue,
            };
            let at = UnixTime::from_secs(at.as_nanosecond() as f64 / 1e9);
            if at > after {
                return Some(Occurrence { at, is_twice });
            }
        }
        None
    }

    /// The first time of a clock on the wall after `local` that the fields match.
    fn next_local(&self, local: DateTime) -> Option<DateTime> {
        // In UTC every such time is there once.
        let local = local.to_zoned(TimeZone::UTC).ok()?;
        Some(self.cron.find_next_occurrence(&local, false).ok()?.datetime())
    }
}

/// The fields, and what each may have.
const FIELDS: [(&str, &str); 5] = [
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of month", "1 to 31"),
    ("month", "1 to 12, or jan to dec"),
    ("day of week", "0 to 7, or sun to sat; a range does not pass its end: `fri-sun,mon`, not `fri-mon`"),
];

/// Which of the fields is wrong, and what would be right.
fn what_is_wrong(parser: &CronParser, text: &str) -> Option<String> {
    if text.starts_with('@') {
        let known = "@hourly, @daily, @midnight, @weekly, @monthly or @yearly";
        return Some(format!("{known} is right; what runs at no certain time, such as at a start, has no schedule"));
    }
    let given: Vec<&str> = text.split_whitespace().collect();
    let is_wrong = |at: &usize| {
        let alone: Vec<&str> = (0..FIELDS.len()).map(|n| if n == *at { given[n] } else { "*" }).collect();
        parser.parse(&alone.join(" ")).is_err()
    };
    let at = (0..FIELDS.len().min(given.len())).find(is_wrong)?;
    let (name, right) = FIELDS[at];
    Some(format!("its {name} is `{}`; {right} is right", given[at]))
}

/// A time zone with its name.
#[derive(Clone, Debug)]
pub struct NamedZone {
    name: String,
    zone: TimeZone,
}

impl NamedZone {
    /// The zone of a name such as `Europe/Berlin`: by the system's zone files, else by those that are built in. `None` if it
    /// is unknown.
    pub fn new(name: &str) -> Option<NamedZone> {
        let zone = if name.eq_ignore_ascii_case("utc") { TimeZone::UTC } else { TimeZone::get(name).ok()? };
        Some(NamedZone { name: name.into(), zone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(fields: &str, zone: &str) -> CronSchedule {
        CronSchedule::new(fields, &NamedZone::new(zone).expect("a zone")).expect("a schedule")
    }

    fn unix(text: &str) -> UnixTime {
        UnixTime::from_secs(text.parse::<Timestamp>().expect("a time").as_second() as f64)
    }

    /// The next times after one, as RFC 3339, with a star where clocks show it twice.
    fn times(schedule: &CronSchedule, after: &str, count: usize) -> Vec<String> {
        let mut after = unix(after);
        let mut all = Vec::new();
        for _ in 0..count {
            let next = schedule.next(after).expect("a next one");
            let star = if next.is_twice { "*" } else { "" };
            all.push(format!("{}{star}", Timestamp::from_second(next.at.as_secs() as i64).expect("a time")));
            after = next.at;
        }
        all
    }

    #[test]
    fn a_time_that_does_not_exist_asks_for_no_run_and_one_that_comes_twice_for_one() {
        let nightly = schedule("30 2 * * *", "Europe/Berlin");
        let spring = ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"];
        assert_eq!(times(&nightly, "2026-03-28T00:00:00Z", 3), spring);
        let autumn = ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z*", "2026-10-26T01:30:00Z"];
        assert_eq!(times(&nightly, "2026-10-24T00:00:00Z", 3), autumn);
        // Within the hour that comes for the second time.
        assert_eq!(times(&nightly, "2026-10-25T01:10:00Z", 1), ["2026-10-26T01:30:00Z"]);
        let often = schedule("*/20 2 * * *", "Europe/Berlin");
        assert_eq!(times(&often, "2026-03-28T12:00:00Z", 1), ["2026-03-30T00:00:00Z"]);
        let minutes = schedule("* * * * *", "Europe/Berlin");
        assert_eq!(times(&minutes, "2026-10-25T01:10:00Z", 1), ["2026-10-25T02:00:00Z"]);
        assert_eq!(times(&minutes, "2026-03-29T00:59:30Z", 2), ["2026-03-29T01:00:00Z", "2026-03-29T01:01:00Z"]);
    }

    #[test]
    fn fields_are_those_of_cron() {
        for (fields, after, expected) in [
            // Friday evening to Monday morning.
            ("0 8,18 * * 1-5", "2026-11-27T18:00:00Z", "2026-11-30T08:00:00Z"),
            ("0 0 1 * 1", "2026-11-27T00:00:00Z", "2026-11-30T00:00:00Z"),
            ("0 0 1 * 1", "2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("0 0 * * 0", "2026-11-27T00:00:00Z", "2026-11-29T00:00:00Z"),
            ("0 0 * * 7", "2026-11-27T00:00:00Z", "2026-11-29T00:00:00Z"),
            ("0 0 * * fri-sun", "2026-11-28T12:00:00Z", "2026-11-29T00:00:00Z"),
            ("5/20 * * * *", "2026-11-27T00:06:00Z", "2026-11-27T00:25:00Z"),
            ("0 0 29 feb *", "2026-11-27T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("@daily", "2026-11-27T00:00:00Z", "2026-11-28T00:00:00Z"),
            ("@midnight", "2026-11-27T00:00:00Z", "2026-11-28T00:00:00Z"),
        ] {
            assert_eq!(times(&schedule(fields, "UTC"), after, 1), [expected], "{fields}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        let utc = NamedZone::new("UTC").expect("a zone");
        for fields in [
            "",
            "0 2 * *",
            "0 0 2 * * *",
            "60 2 * * *",
            "0 24 * * *",
            "0 2 30 2 *",
            "x 2 * * *",
            "@reboot",
            "0 2 * * 9",
        ] {
            assert!(CronSchedule::new(fields, &utc).is_err(), "{fields}");
        }
        for (fields, says) in [
            ("0 25 * * *", "its hour is `25`; 0 to 23 is right"),
            ("0 2 * * fri-mon", "its day of week is `fri-mon`"),
            ("every 5m", "`every = \"5m\"` in its place"),
            ("@reboot", "@hourly, @daily"),
        ] {
            let said = CronSchedule::new(fields, &utc).expect_err(fields);
            assert!(said.contains(says), "{fields}: {said}");
        }
        assert!(NamedZone::new("Europe/Berlim").is_none() && NamedZone::new("").is_none());
    }
}
