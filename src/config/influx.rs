//! `[[sink]]` of type `influx`.

use crate::fetch::masked;
use crate::sinks::influx::{Target, Version};

use super::print::{MASK, Out};
use super::reader::{Section, Source};
use super::url::http_url;

pub(super) fn read(section: &mut Section<'_>, s: &mut Source<'_>, place: &str) -> Target {
    let mut url = String::new();
    match section.find(s, "url") {
        None => section.missing(s, place, "url", "\"http://127.0.0.1:8086\""),
        Some(found) => {
            url = found.string(s).unwrap_or_default();
            if let Err(problem) = http_url(&url) {
                s.problem(found.place, &found.key, problem);
            }
        }
    }
    let version = section.integer(s, "version", 1..=3).unwrap_or(1);
    let database = section.string(s, "database");
    let retention_policy = section.string(s, "retention_policy").filter(|text| !text.is_empty());
    let username = section.string(s, "username").filter(|text| !text.is_empty());
    let password = section.secret(s, "password");
    let (org, bucket) = (section.string(s, "org"), section.string(s, "bucket"));
    let token = section.secret(s, "token").filter(|token| !token.is_empty());
    let gzip = section.bool(s, "gzip").unwrap_or(true);
    let mut needed = |value: Option<String>, key: &str| match value.filter(|text| !text.is_empty()) {
        Some(text) => text,
        None => {
            section.missing(s, place, key, "\"metrics\"");
            String::new()
        }
    };
    let version = match version {
        1 => Version::One {
            database: needed(database, "database"),
            retention_policy,
            login: username.map(|name| (name, password.unwrap_or_default())),
        },
        2 => Version::Two { org: needed(org, "org"), bucket: needed(bucket, "bucket"), token },
        _ => Version::Three { database: needed(database, "database"), token },
    };
    Target { url, version, gzip }
}

pub(super) fn print(out: &mut Out, target: &Target) {
    out.set("url", masked(&target.url));
    let mut secret = |key: &str, is_set: bool| {
        if is_set {
            out.set(key, MASK);
        }
    };
    match &target.version {
        Version::One { database, retention_policy, login } => {
            secret("password", login.as_ref().is_some_and(|(_, password)| !password.is_empty()));
            out.set("version", 1);
            out.set("database", database.as_str());
            if let Some(policy) = retention_policy {
                out.set("retention_policy", policy.as_str());
            }
            if let Some((name, _)) = login {
                out.set("username", name.as_str());
            }
        }
        Version::Two { org, bucket, token } => {
            secret("token", token.is_some());
            out.set("version", 2);
            out.set("org", org.as_str());
            out.set("bucket", bucket.as_str());
        }
        Version::Three { database, token } => {
            secret("token", token.is_some());
            out.set("version", 3);
            out.set("database", database.as_str());
        }
    }
    out.set("gzip", target.gzip);
}
