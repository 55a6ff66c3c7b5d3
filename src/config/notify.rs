//! `[[notify]]`: who is notified, of what, and how.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::notify::{Route, TargetKind, TargetOptions};
use crate::presence::Severity;
use crate::settings::{Opt, OptionVisitor, Parsed, TablesOf, Wrong, choice, count, environment, suggestion};

use super::kinds::in_header;
use super::schema::Config;

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);

/// Longest name, in bytes: it is a tag.
const MOST_NAME: usize = 100;

const SEVERITIES: [(&str, Severity); 3] =
    [("info", Severity::Info), ("warning", Severity::Warning), ("critical", Severity::Critical)];

pub(super) fn describe(visitor: &mut dyn OptionVisitor, _: &str, doc: &'static str, targets: &mut Vec<TargetOptions>) {
    let new = |_| TargetOptions::new("webhook", TargetKind::Webhook);
    visitor.sections("notify", doc, &mut TablesOf { tables: targets, new, describe: one });
}

fn one(target: &mut TargetOptions, v: &mut dyn OptionVisitor) {
    let mut is_known = !v.is_reader();
    let shown = Some(target.kind.as_str().into());
    let mut read = |word: &str| {
        let kind = kind(word).map_err(Wrong::Because)?;
        *target = TargetOptions::new(kind.as_str(), kind);
        is_known = true;
        Ok(())
    };
    let form = "webhook, slack, pagerduty, ntfy, alertmanager or exec";
    v.field("type", "What it is.", Opt::Parsed(Parsed { shown, form, takes_numbers: false, read: &mut read }));
    v.require_one("type", is_known, "\"slack\"");
    if !is_known {
        // Nothing shall be said of two unknown ones of one name.
        target.name.clear();
        v.give_up();
        return;
    }
    let shown = Some(target.name.as_str().into());
    let mut read = |text: &str| {
        target.name = text.to_string();
        let is_name = !text.is_empty() && text.len() <= MOST_NAME && !text.chars().any(char::is_control);
        if is_name { Ok(()) } else { Err(Wrong::Not("a name of at most 100 bytes".into())) }
    };
    let doc = "Label in status, ledger and `presence test-alert`; its type by default.";
    v.field("name", doc, Opt::Parsed(Parsed { shown, form: "a name", takes_numbers: false, read: &mut read }));
    place(target, v);
    let doc = "Longest attempt; 30s by default for a command, which is killed then, with its whole process group.";
    v.field("timeout", doc, Opt::Duration(&mut target.timeout, TIMEOUT));
    let has_ends = target.kind != TargetKind::Alertmanager;
    route(&mut target.route, has_ends, v);
}

/// What a type has beside what all have, for the reference.
pub(super) fn describe_kind(kind: TargetKind, v: &mut dyn OptionVisitor) {
    let mut target = TargetOptions::new(kind.as_str(), kind);
    let shown = Some(kind.as_str().into());
    let mut read = |_: &str| Ok(());
    v.field("type", "", Opt::Parsed(Parsed { shown, form: "a type", takes_numbers: false, read: &mut read }));
    place(&mut target, v);
}

/// The kind of a word.
fn kind(word: &str) -> Result<TargetKind, String> {
    TargetKind::from_name(word).ok_or_else(|| {
        let all = TargetKind::ALL.map(|kind| format!("`{kind}`")).join(", ");
        format!("`{word}` is none of {all}{}", suggestion(word, TargetKind::ALL.iter().map(|kind| kind.as_str())))
    })
}

/// Where it is, and with which credentials.
fn place(target: &mut TargetOptions, v: &mut dyn OptionVisitor) {
    let kind = target.kind;
    if kind == TargetKind::Exec {
        return command(target, v);
    }
    let (doc, example) = match kind {
        TargetKind::Slack => ("URL of the incoming webhook.", "\"https://hooks.slack.com/services/T000/B000/XXXX\""),
        TargetKind::PagerDuty => ("Where events go; \"https://events.eu.pagerduty.com/v2/enqueue\" in Europe.", ""),
        TargetKind::Ntfy => ("URL of the topic.", "\"https://ntfy.sh/my-topic\""),
        TargetKind::Alertmanager => ("Base URL of the Alertmanager.", "\"http://127.0.0.1:9093\""),
        TargetKind::Webhook | TargetKind::Exec => {
            ("URL that gets every alert, and its end, as JSON.", "\"https://hooks.example.org/presence\"")
        }
    };
    if kind == TargetKind::PagerDuty {
        // It is no secret: the key is.
        let shown = Some(target.url.as_str().into());
        let mut read = |text: &str| {
            target.url = text.to_string();
            if is_url(text) { Ok(()) } else { Err(Wrong::Not("a URL".into())) }
        };
        v.field("url", doc, Opt::Parsed(Parsed { shown, form: "a URL", takes_numbers: false, read: &mut read }));
    } else {
        v.field("url", doc, Opt::Url(&mut target.url));
    }
    v.require_one("url", !target.url.is_empty(), example);
    let problem = (kind == TargetKind::Ntfy && !target.url.is_empty() && !has_topic(&target.url))
        .then(|| format!("a topic is missing; {} is right", "\"https://ntfy.sh/my-topic\""));
    v.require("url", problem.map_or(Ok(()), Err));
    if kind == TargetKind::PagerDuty {
        let doc = "Integration key of a service or an event orchestration (Events API v2).";
        v.field("routing_key", doc, Opt::Secret(&mut target.routing_key));
        v.require_one("routing_key", !target.routing_key.is_empty(), "\"0123456789abcdef0123456789abcdef\"");
        v.example("routing_key", "\"0123456789abcdef0123456789abcdef\"");
    }
    if matches!(kind, TargetKind::Webhook | TargetKind::Ntfy | TargetKind::Alertmanager) {
        v.field("token", "Token for `Authorization: Bearer`.", Opt::Secret(&mut target.token));
        v.example("token", "\"a secret\"");
        v.require("token", in_header(&target.token));
    }
    let tls = &mut target.tls;
    v.in_table("tls", &mut |v| {
        v.field("ca", "Root certificates that are trusted in place of the system's.", Opt::Path(&mut tls.ca));
        v.example("ca", "\"/etc/ssl/certs/ca-certificates.crt\"");
        v.field("certificate", "Certificate of the client.", Opt::Path(&mut tls.certificate));
        v.example("certificate", "\"/etc/systole/client.pem\"");
        v.field("key", "Private key of the client's certificate.", Opt::Path(&mut tls.key));
        v.example("key", "\"/etc/systole/client.key\"");
        let has_key = !tls.key.as_os_str().is_empty();
        let is_asked_for = !tls.certificate.as_os_str().is_empty();
        v.require_one("key", has_key || !is_asked_for, "\"/etc/systole/client.key\"");
        v.require_one("certificate", is_asked_for || !has_key, "\"/etc/systole/client.pem\"");
    });
}

fn is_url(text: &str) -> bool {
    let is_http = text.starts_with("http://") || text.starts_with("https://");
    is_http && text.parse::<hyper::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

/// Whether a URL has a path.
fn has_topic(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    !path.split(['?', '#']).next().unwrap_or("").trim_matches('/').is_empty()
}

fn command(target: &mut TargetOptions, v: &mut dyn OptionVisitor) {
    let doc = "The program and its arguments, run without a shell for each alert and each end, which it gets as a line \
               of JSON on its standard input; only the program is ever shown.";
    v.field("command", doc, Opt::Command(&mut target.command));
    let is_there = target.command.first().is_some_and(|program| !program.is_empty());
    v.require_one("command", is_there, "[\"/usr/local/bin/send-sms\", \"--to\", \"+49123\"]");
    environment(v, &mut target.env);
    count(v, "processes", "Most of them at a time.", &mut target.processes, 1..=32);
}

/// What it is sent.
fn route(route: &mut Route, has_ends: bool, v: &mut dyn OptionVisitor) {
    v.field("service", "Patterns of services: only alerts about these.", Opt::Texts(&mut route.services));
    v.example("service", "[\"pay*\", \"checkout\"]");
    v.field("except", "Patterns of services: of those, all but these.", Opt::Texts(&mut route.except));
    v.example("except", "[\"*-staging\"]");
    let doc = "Patterns of instances: of alerts about an instance, only those about these.";
    v.field("instance", doc, Opt::Texts(&mut route.instances));
    v.example("instance", "[\"web-*\"]");
    let doc = "Whether alerts about no single service are sent, too: mass silence, what hinders our sight, peers.";
    v.field("general", doc, Opt::Flag(&mut route.general));
    choice(v, "severity", "The least severity that is sent.", &SEVERITIES, &mut route.least);
    if has_ends {
        v.field("resolved", "Whether ends are sent.", Opt::Flag(&mut route.resolved));
    }
}

/// All targets: those of `[[notify]]`, and the short forms of `[presence]`.
pub fn targets(config: &Config) -> Vec<TargetOptions> {
    let mut all = config.notify.clone();
    let presence = &config.presence;
    let short = [(TargetKind::Alertmanager, &presence.alertmanager), (TargetKind::Webhook, &presence.webhook)];
    for (kind, urls) in short {
        for url in urls {
            // Those of one kind are told apart by number.
            let names = (1..).map(|n| if n == 1 { kind.to_string() } else { format!("{kind}{n}") });
            let name = names.into_iter().find(|name| all.iter().all(|one: &TargetOptions| one.name != *name));
            all.push(TargetOptions { url: url.clone(), ..TargetOptions::new(&name.unwrap_or_default(), kind) });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_targets_with_names_of_their_own() {
        let text = "[presence]\nwebhook = [\"http://a/1\", \"http://a/2\"]\nalertmanager = [\"http://b\"]\n\
                    [[notify]]\ntype = \"webhook\"\nurl = \"http://c\"\n";
        let config = Config::parse(text).expect("a configuration");
        let names: Vec<String> = targets(&config).into_iter().map(|target| target.name).collect();
        assert_eq!(names, ["webhook", "alertmanager", "webhook2", "webhook3"]);
    }

    #[test]
    fn what_a_target_needs_is_said() {
        for (text, says) in [
            ("type = \"slak\"", "did you mean `slack`"),
            ("url = \"http://x\"", "type"),
            ("type = \"slack\"", "url"),
            ("type = \"pagerduty\"", "routing_key"),
            ("type = \"ntfy\"\nurl = \"https://ntfy.sh\"", "a topic is missing"),
            ("type = \"exec\"", "command"),
            ("type = \"exec\"\ncommand = [\"x\"]\nurl = \"http://x\"", "url"),
            ("type = \"slack\"\nurl = \"http://x\"\nseverity = \"fatal\"", "critical"),
            ("type = \"alertmanager\"\nurl = \"http://x\"\nresolved = false", "resolved"),
            ("type = \"webhook\"\nurl = \"http://x\"\ntoken = \"a\\nb\"", "header"),
        ] {
            let problem = Config::parse(&format!("[[notify]]\n{text}\n")).expect_err(text).to_string();
            assert!(problem.contains(says), "{text}: {problem}");
        }
        let two = "[[notify]]\ntype = \"exec\"\ncommand = [\"x\"]\n".repeat(2);
        let problem = Config::parse(&two).expect_err("one name").to_string();
        assert!(problem.contains("two targets are called `exec`"), "{problem}");
    }
}
