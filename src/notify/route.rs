//! Which alarms a target is sent.

use crate::glob;
use crate::presence::{Alarm, Severity};

/// Which alarms a target is sent. Alarms about no single service, such as a mass silence, pass whatever `services` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Patterns of services; empty for all.
    pub services: Vec<String>,
    /// Of those, all but these.
    pub except: Vec<String>,
    /// Patterns of instances, for alarms about an instance; empty for all.
    pub instances: Vec<String>,
    /// Alarms about no single service, too.
    pub general: bool,
    /// The least severity that is sent.
    pub least: Severity,
    /// Whether ends are sent.
    pub resolved: bool,
}

impl Default for Route {
    fn default() -> Route {
        Route {
            services: Vec::new(),
            except: Vec::new(),
            instances: Vec::new(),
            general: true,
            least: Severity::Info,
            resolved: true,
        }
    }
}

impl Route {
    /// Whether a problem is sent.
    pub fn takes(&self, alarm: &Alarm) -> bool {
        let any = |patterns: &[String], name: &str| patterns.iter().any(|pattern| glob::matches(pattern, name));
        let is_named = |patterns: &[String], name: &str| patterns.is_empty() || any(patterns, name);
        let is_about_ours = match alarm.key.service.as_deref() {
            Some(service) => is_named(&self.services, service) && !any(&self.except, service),
            None => self.general,
        };
        let is_instance_ours = alarm.key.instance.as_deref().is_none_or(|name| is_named(&self.instances, name));
        self.is_grave_enough(alarm.severity) && is_about_ours && is_instance_ours
    }

    /// Whether a problem of a severity may be sent.
    pub fn is_grave_enough(&self, severity: Severity) -> bool {
        // The gravest comes first.
        severity <= self.least
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{AlertKey, AlertName, AlertState, UnixTime};

    fn alarm(service: Option<&str>, instance: Option<&str>, severity: Severity) -> Alarm {
        let name = if instance.is_some() { AlertName::InstanceDown } else { AlertName::ServiceDown };
        let key =
            AlertKey { service: service.map(Into::into), instance: instance.map(Into::into), ..AlertKey::of(name) };
        let (text, since, until, state) = (String::new(), UnixTime::default(), None, AlertState::Firing);
        Alarm { key, severity, text, since, until, state }
    }

    #[test]
    fn patterns_and_severity_decide_and_what_is_general_passes() {
        let texts = |all: &[&str]| all.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        let pay = Route {
            services: texts(&["pay*", "checkout"]),
            except: texts(&["*-staging"]),
            instances: texts(&["web-*"]),
            least: Severity::Warning,
            ..Route::default()
        };
        use Severity::{Critical, Info, Warning};
        for (service, instance, severity, expected) in [
            (Some("payments"), None, Critical, true),
            (Some("checkout"), None, Warning, true),
            (Some("checkout"), None, Info, false),
            (Some("pay-staging"), None, Critical, false),
            (Some("mail"), None, Critical, false),
            (Some("payments"), Some("web-1"), Warning, true),
            (Some("payments"), Some("db-1"), Warning, false),
            (None, None, Critical, true),
        ] {
            assert_eq!(pay.takes(&alarm(service, instance, severity)), expected, "{service:?} {instance:?} {severity}");
            assert!(Route::default().takes(&alarm(service, instance, severity)));
        }
        let own = Route { general: false, ..pay };
        assert!(!own.takes(&alarm(None, None, Critical)));
    }
}
