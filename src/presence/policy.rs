//! What decides how silence is judged. Defaults and the tables of misses and grace are those of the design's
//! section on timing; every length is in seconds.

use std::sync::Arc;

use crate::acl::AccessList;
use crate::glob::matches;
use crate::named::named_enum;
use crate::watches::Watches;

use super::jobs::JobRule;

/// How many beats in a row must be missed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Misses {
    /// By the interval: 4 up to 30 s, 3 below 1 h, 2 below 6 h, else 1.
    ByInterval,
    /// This many.
    Fixed(u32),
    /// As many as the measured loss asks for, 3 to 10.
    Auto,
}

named_enum! {
    /// What of a service may be notified.
    pub enum Notify {
        /// Its instances and the service.
        All = "all",
        /// The service alone.
        Service = "service",
        /// Nothing.
        Never = "never",
    }
}

/// What may differ from service to service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// How many beats in a row must be missed.
    pub misses: Misses,
    /// Allowance for delay; `None` goes by the interval.
    pub grace: Option<f64>,
    /// Share of instances below which a service is degraded; 0 is off.
    pub quorum: f64,
    /// Instances that must be present.
    pub min: Option<u32>,
    /// Instances come and go: a lost one is recorded and soon forgotten, and alarms nobody.
    pub ephemeral: bool,
    /// After how long `min` holds.
    pub within: f64,
    /// What of it may be notified.
    pub notify: Notify,
    /// Whose word counts: a place in [`Policy::guards`].
    pub guard: Option<u16>,
    /// A service check with status 2 or 3 is an alert of its own.
    pub health_alerts: bool,
}

impl Rules {
    /// Whether nothing about an instance is notified.
    pub(super) fn mutes_instances(&self) -> bool {
        self.notify != Notify::All
    }

    /// Whether nothing about the service is notified.
    pub(super) fn mutes_service(&self) -> bool {
        self.notify == Notify::Never
    }

    /// Whether it is usual that nobody is present.
    pub(super) fn may_be_empty(&self) -> bool {
        self.ephemeral && self.min == Some(0)
    }
}

/// Whose word counts of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// From these networks.
    pub allow: AccessList,
    /// With this secret in the tag `key`.
    pub key: Option<String>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            misses: Misses::ByInterval,
            grace: None,
            quorum: 0.5,
            min: None,
            ephemeral: false,
            within: 300.0,
            notify: Notify::All,
            guard: None,
            health_alerts: false,
        }
    }
}

/// What a pattern changes; the first pattern that matches and says something of a key decides it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Override {
    /// Of service names: `*` is any text, `?` any character.
    pub pattern: String,
    /// See [`Rules::misses`].
    pub misses: Option<Misses>,
    /// See [`Rules::grace`].
    pub grace: Option<f64>,
    /// See [`Rules::quorum`].
    pub quorum: Option<f64>,
    /// See [`Rules::min`].
    pub min: Option<u32>,
    /// See [`Rules::ephemeral`].
    pub ephemeral: Option<bool>,
    /// See [`Rules::within`].
    pub within: Option<f64>,
    /// See [`Rules::notify`].
    pub notify: Option<Notify>,
    /// See [`Rules::guard`].
    pub guard: Option<u16>,
    /// See [`Rules::health_alerts`].
    pub health_alerts: Option<bool>,
}

/// A service that must be there even if it never spoke.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// Its name.
    pub service: String,
    /// How many instances.
    pub min: u32,
    /// From when on; `None` is the service's own.
    pub within: Option<f64>,
}

/// How presence is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Names whose metrics are heartbeats.
    pub names: Vec<String>,
    /// Metrics with tags `service` and `instance` show that a registered instance lives.
    pub assist: bool,
    /// `maintenance.*` on the wire counts.
    pub maintenance_wire: bool,
    /// Longest maintenance.
    pub maintenance_max: f64,
    /// Shortest declared interval.
    pub min_interval: f64,
    /// Gaps from which an interval is learned.
    pub learn_gaps: usize,
    /// Silence after which an instance without a declared or learned interval has left.
    pub learn_timeout: f64,
    /// How long after a goodbye beats are stragglers; `None` goes by the interval.
    pub linger: Option<f64>,
    /// An instance that left is forgotten after so long.
    pub forget_left: f64,
    /// One that is down, while others of its service are present.
    pub forget_down: f64,
    /// The same of an ephemeral service.
    pub forget_ephemeral: f64,
    /// The same while nobody of its service is present.
    pub forget_service: f64,
    /// Downs that make a flapping instance or service.
    pub flap_count: usize,
    /// Within so long.
    pub flap_within: f64,
    /// It is over after so long without a change.
    pub flap_quiet: f64,
    /// Silence of more than this share is our problem until proven otherwise.
    pub mass_fraction: f64,
    /// And of at least so many instances.
    pub mass_instances: usize,
    /// In at least so many services.
    pub mass_services: usize,
    /// How long a mass silence holds downs back.
    pub mass_hold: f64,
    /// Share of datagrams dropped in a second from which on that second does not count.
    pub drop_ratio: f64,
    /// A pause of ours of at least so long does not count.
    pub stall_min: f64,
    /// Most services.
    pub max_services: usize,
    /// Most instances of a service.
    pub max_instances_per_service: usize,
    /// Most instances.
    pub max_instances: usize,
    /// Most registrations in a second.
    pub max_registrations_per_second: usize,
    /// Most services that one source may register in a minute while it is crowded.
    pub max_services_per_source: usize,
    /// Most instances, the same.
    pub max_instances_per_source: usize,
    /// What holds where no pattern says otherwise.
    pub rules: Rules,
    /// By pattern.
    pub overrides: Vec<Override>,
    /// Services that must be there.
    pub expect: Vec<Expected>,
    /// What is configured of jobs.
    pub jobs: Vec<JobRule>,
    /// Whose word counts, for those services that ask.
    pub guards: Vec<Guard>,
    /// A goodbye counts only from the address of the beats.
    pub goodbye_same_ip: bool,
    /// Which series there are.
    pub series: SeriesOf,
    /// Which metrics are heartbeats, too.
    pub watches: Arc<Watches>,
}

/// For whom there are series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesOf {
    /// For instances up to so many, beyond for services only.
    Auto,
    /// For every instance.
    Instances,
    /// For services only.
    Services,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            names: vec!["heartbeat".into()],
            assist: false,
            maintenance_wire: true,
            maintenance_max: 14_400.0,
            min_interval: 1.0,
            learn_gaps: 5,
            learn_timeout: 300.0,
            linger: None,
            forget_left: 3600.0,
            forget_down: 86_400.0,
            forget_ephemeral: 600.0,
            forget_service: 604_800.0,
            flap_count: 3,
            flap_within: 1800.0,
            flap_quiet: 600.0,
            mass_fraction: 0.5,
            mass_instances: 3,
            mass_services: 2,
            mass_hold: 300.0,
            drop_ratio: 0.01,
            stall_min: 1.0,
            max_services: 10_000,
            max_instances_per_service: 1000,
            max_instances: 100_000,
            max_registrations_per_second: 1000,
            max_services_per_source: 100,
            max_instances_per_source: 1000,
            rules: Rules::default(),
            overrides: Vec::new(),
            expect: Vec::new(),
            jobs: Vec::new(),
            guards: Vec::new(),
            goodbye_same_ip: false,
            series: SeriesOf::Auto,
            watches: Arc::default(),
        }
    }
}

impl Policy {
    /// Whether a service must be there even if it never spoke.
    pub fn expects(&self, service: &str) -> bool {
        self.expect.iter().any(|expected| expected.service == service)
    }

    /// The silence, in seconds, after which an instance of a service that declares an interval is late, and down.
    pub fn deadlines_of(&self, service: &str, interval: f64) -> (f64, f64) {
        let rules = self.rules_of(service);
        let misses = match rules.misses {
            Misses::Fixed(misses) => misses,
            Misses::ByInterval | Misses::Auto => misses_for(interval),
        };
        let grace = rules.grace.unwrap_or_else(|| grace_for(interval));
        (interval + grace, f64::from(misses) * interval + grace)
    }

    /// What holds for a service.
    pub fn rules_of(&self, service: &str) -> Rules {
        let mut rules = self.rules;
        // The first pattern that says something decides, so the last is applied first.
        for o in self.overrides.iter().rev().filter(|o| matches(&o.pattern, service)) {
            rules.misses = o.misses.unwrap_or(rules.misses);
            rules.grace = o.grace.or(rules.grace);
            rules.quorum = o.quorum.unwrap_or(rules.quorum);
            rules.min = o.min.or(rules.min);
            rules.ephemeral = o.ephemeral.unwrap_or(rules.ephemeral);
            rules.within = o.within.unwrap_or(rules.within);
            rules.notify = o.notify.unwrap_or(rules.notify);
            rules.guard = o.guard.or(rules.guard);
            rules.health_alerts = o.health_alerts.unwrap_or(rules.health_alerts);
        }
        if let Some(expected) = self.expect.iter().find(|expected| expected.service == service) {
            rules.min = Some(expected.min);
            rules.within = expected.within.unwrap_or(rules.within);
        }
        rules
    }
}

/// Beats in a row that must be missed at an interval.
pub fn misses_for(interval: f64) -> u32 {
    match interval {
        i if i <= 30.0 => 4,
        i if i < 3600.0 => 3,
        i if i < 21_600.0 => 2,
        _ => 1,
    }
}

/// Allowance for delay and the time a job runs. From 6 h on a twelfth at least, so that the day of 25 hours is no
/// outage.
pub fn grace_for(interval: f64) -> f64 {
    if interval >= 21_600.0 { (interval / 12.0).max(3600.0) } else { (0.5 * interval).clamp(1.0, 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_says_something_decides() {
        let policy = Policy {
            overrides: vec![
                Override { pattern: "a*".into(), min: Some(2), ..Override::default() },
                Override { pattern: "*".into(), min: Some(9), ephemeral: Some(true), ..Override::default() },
            ],
            ..Policy::default()
        };
        let rules = policy.rules_of("abc");
        assert_eq!((rules.min, rules.ephemeral), (Some(2), true));
        assert_eq!(policy.rules_of("b").min, Some(9));
    }

    #[test]
    fn timeouts_are_those_of_the_table() {
        let timeout = |i: f64| f64::from(misses_for(i)) * i + grace_for(i);
        for (interval, expected) in
            [(1.0, 5.0), (5.0, 22.5), (10.0, 45.0), (30.0, 135.0), (60.0, 210.0), (300.0, 960.0), (3600.0, 7260.0)]
        {
            assert_eq!(timeout(interval), expected, "{interval}");
        }
        assert_eq!(timeout(86_400.0), 93_600.0);
    }
}
