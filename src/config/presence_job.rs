//! `[[presence.job]]`: when jobs are to run.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::presence::{CronSchedule, JobRule, NamedZone};
use crate::protocol::{TAKEN, is_presence_name};
use crate::settings::{Opt, OptionVisitor, TablesOf, maybe, maybe_seconds};

const DAY: u64 = 86_400;

/// Time between two runs, and the longest run.
const PERIOD: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * DAY);

/// How late a run may be.
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(31 * DAY);

/// The zone of a schedule that names none.
const UTC: &str = "UTC";

/// A table, as it is written.
struct Job {
    rule: JobRule,
    schedule: Option<String>,
    timezone: Option<String>,
}

impl Job {
    fn new() -> Job {
        let rule = JobRule {
            service: String::new(),
            instance: None,
            schedule: None,
            every: None,
            grace: None,
            max_runtime: None,
        };
        Job { rule, schedule: None, timezone: None }
    }

    fn of(rule: JobRule) -> Job {
        let schedule = rule.schedule.as_ref();
        let (fields, zone) = (schedule.map(|s| s.fields().to_string()), schedule.map(|s| s.zone().to_string()));
        Job { rule, schedule: fields, timezone: zone }
    }

    fn describe(&mut self, known: &mut BTreeSet<(String, Option<String>)>, v: &mut dyn OptionVisitor) {
        let rule = &mut self.rule;
        let mut is_there = !v.is_reader();
        v.field("service", "Its service.", Opt::Maybe(&mut is_there, Box::new(Opt::Text(&mut rule.service))));
        v.require_one("service", is_there, "\"backup\"");
        v.example("service", "\"backup\"");
        let doc = "This instance only; without it, whoever runs it is the same job.";
        maybe(v, "instance", doc, &mut rule.instance, |name| Opt::Text(name));
        v.example("instance", "\"box7\"");
        let doc = "When it runs: minute, hour, day of month, month, day of week.";
        maybe(v, "schedule", doc, &mut self.schedule, |fields| Opt::Text(fields));
        v.example("schedule", "\"0 2 * * 1-5\"");
        let doc = "Time zone of the schedule; UTC without it.";
        maybe(v, "timezone", doc, &mut self.timezone, |zone| Opt::Text(zone));
        v.example("timezone", "\"Europe/Berlin\"");
        maybe_seconds(v, "every", "Time between two runs, in place of a schedule.", &mut rule.every, PERIOD);
        v.example("every", "\"1h\"");
        let doc = "How long after its time a run may come; without it 5 min for a schedule of a job that says when it starts, \
                   else by the time between runs.";
        maybe_seconds(v, "grace", doc, &mut rule.grace, GRACE);
        v.example("grace", "\"5m\"");
        maybe_seconds(v, "max_runtime", "How long a run may take.", &mut rule.max_runtime, PERIOD);
        v.example("max_runtime", "\"1h\"");
        self.check(is_there, known, v);
    }

    /// Says what is wrong with the table, and finds the schedule.
    fn check(&mut self, is_there: bool, known: &mut BTreeSet<(String, Option<String>)>, v: &mut dyn OptionVisitor) {
        let rule = &self.rule;
        if is_there {
            v.require("service", name(&rule.service));
            let is_new = known.insert((rule.service.clone(), rule.instance.clone()));
            let twice = || format!("the job `{}` is configured twice", who(rule));
            v.require("service", if is_new { Ok(()) } else { Err(twice()) });
        }
        if let Some(instance) = &rule.instance {
            v.require("instance", name(instance));
        }
        if self.schedule.is_some() && rule.every.is_some() {
            v.require("every", Err("a job has a `schedule` or runs `every` so often, not both".into()));
        }
        if self.schedule.is_none() && self.timezone.is_some() {
            v.require("timezone", Err("it says where a `schedule` is told, and there is none".into()));
        }
        let Some(fields) = &self.schedule else {
            self.rule.schedule = None;
            return;
        };
        let zone_name = self.timezone.as_deref().unwrap_or(UTC);
        let Some(zone) = NamedZone::new(zone_name) else {
            v.require("timezone", Err(format!("`{zone_name}` is no time zone; a name such as Europe/Berlin is right")));
            return;
        };
        match CronSchedule::new(fields, &zone) {
            Ok(schedule) => self.rule.schedule = Some(schedule),
            Err(problem) => v.require("schedule", Err(format!("`{fields}` is no schedule: {problem}"))),
        }
    }
}

fn who(rule: &JobRule) -> String {
    rule.instance.as_ref().map_or_else(|| rule.service.clone(), |instance| format!("{}/{instance}", rule.service))
}

/// Whether senders can have this name.
pub(super) fn name(name: &str) -> Result<(), String> {
    if !is_presence_name(name) {
        return Err("names have 1 to 128 bytes".into());
    }
    if TAKEN.contains(&name) {
        return Err(format!("no service is called `{name}`: the API has that word in its paths"));
    }
    Ok(())
}

/// Shows all tables.
pub(super) fn jobs(all: &mut Vec<JobRule>, v: &mut dyn OptionVisitor) {
    let mut tables: Vec<Job> = std::mem::take(all).into_iter().map(Job::of).collect();
    let mut known = BTreeSet::new();
    let doc = "A job: something that runs and ends. It is reported if it fails, hangs, or does not run when it is due.";
    let describe = |job: &mut Job, v: &mut dyn OptionVisitor| job.describe(&mut known, v);
    v.sections("job", doc, &mut TablesOf { tables: &mut tables, new: |_| Job::new(), describe });
    *all = tables.into_iter().map(|job| job.rule).collect();
}
