//! One request for one kind of target: what it is sent, and what an answer means.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use serde_json::{Value, json};

use crate::http_client::{Answer, HttpClient, HttpError, masked};
use crate::presence::{Identity, Notification, Severity};
use crate::untrusted::{Escaped, excerpt};

use super::message::{self, Message, cut, cut_bytes};
use super::{TargetKind, TargetOptions};

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;

/// Characters of an answer that are logged.
const EXCERPT_CHARS: usize = 300;

/// Limits of Slack (docs.slack.dev/reference/block-kit): of a section's text and of a plain text, in characters.
const SLACK_SECTION: usize = 3000;
const SLACK_FALLBACK: usize = 4000;

/// Limits of PagerDuty (Events API v2): of a summary and of a key.
const PAGERDUTY_SUMMARY: usize = 1024;
const PAGERDUTY_KEY: usize = 255;

/// Longest text for PagerDuty, in characters: a whole event has 512 kB.
const PAGERDUTY_TEXT: usize = 20_000;

/// Limits of ntfy: of a message in bytes (`message-size-limit`; a longer one becomes an attachment), and of a title.
const NTFY_MESSAGE: usize = 4096;
const NTFY_TITLE: usize = 250;

/// What is to be done about a notification that was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The receiver cannot be reached, or is busy: that passes.
    Again,
    /// It does not let us in, or is not there: somebody may mend that.
    Later,
    /// It understands this one, and would refuse it again.
    GiveUp,
}

/// Why a notification was not delivered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    /// In words, with what the receiver said.
    pub(super) problem: String,
    /// What is to be done about it.
    pub(super) remedy: Remedy,
    /// The status of the answer, if there was one.
    pub(super) status: Option<u16>,
    /// When the receiver wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    /// One without an answer: it may pass.
    pub(super) fn unanswered(problem: impl Into<String>) -> Failure {
        Failure { problem: problem.into(), remedy: Remedy::Again, status: None, retry_after: None }
    }
}

/// Sends notifications to one target over HTTP.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) options: Arc<TargetOptions>,
    pub(super) client: HttpClient,
    pub(super) page: Option<String>,
    pub(super) identity: Identity,
}

/// A request before it is sent.
#[derive(Debug, PartialEq)]
struct Request {
    url: String,
    headers: Vec<(HeaderName, String)>,
    body: Vec<u8>,
}

impl Sender {
    /// Sends notifications: a webhook takes several at a time, the others one. What the receiver said.
    pub(super) async fn send(&self, batch: &[Notification]) -> Result<String, Failure> {
        self.post(self.request(batch)).await
    }

    /// Posts JSON to a URL.
    pub(super) async fn post_json(&self, url: String, body: &Value) -> Result<String, Failure> {
        self.post(self.json_to(url, body)).await
    }

    async fn post(&self, Request { url, headers, body }: Request) -> Result<String, Failure> {
        let answer = self.client.submit(Method::POST, &url, headers, body, self.options.timeout, MAX_ANSWER).await;
        outcome(self.options.kind, answer)
    }

    fn json_to(&self, url: String, body: &Value) -> Request {
        let mut headers = vec![(CONTENT_TYPE, "application/json".to_string())];
        headers.extend(self.token());
        Request { url, headers, body: body.to_string().into_bytes() }
    }

    fn token(&self) -> Option<(HeaderName, String)> {
        let token = &self.options.token;
        (!token.is_empty()).then(|| (AUTHORIZATION, format!("Bearer {token}")))
    }

    fn request(&self, batch: &[Notification]) -> Request {
        let (url, page) = (self.options.url.clone(), self.page.as_deref());
        match (self.options.kind, batch.first()) {
            (TargetKind::Slack, Some(one)) => self.json_to(url, &slack(&Message::new(one, page))),
            (TargetKind::PagerDuty, Some(one)) => {
                self.json_to(url, &pagerduty(one, &self.options.routing_key, &self.identity, page))
            }
            (TargetKind::Ntfy, Some(one)) => {
                let (mut headers, body) = ntfy(one, page);
                headers.extend(self.token());
                Request { url, headers, body }
            }
            (TargetKind::Webhook | TargetKind::Alertmanager | TargetKind::Exec, _) | (_, None) => {
                let events: Vec<Value> = batch.iter().map(|one| message::event(one, &self.identity, page)).collect();
                let keys: Vec<String> = batch.iter().map(|one| one.alarm.key.dedup_key()).collect();
                self.json_to(url, &json!({"version": 1, "events": events, "dedup_keys": keys}))
            }
        }
    }
}

/// What an answer means. 2xx is delivered, unless its body says that it was not. 400, 413 and 422 are about this notification,
/// and would come again. 408, 425, 429, 5xx, a redirect (which is not followed: it would carry secrets elsewhere) and no answer
/// pass. Any other 4xx is about the way there: a key that is being changed, a proxy that is being rolled out.
fn outcome(kind: TargetKind, answer: Result<Answer, HttpError>) -> Result<String, Failure> {
    let answer = answer.map_err(|error| Failure::unanswered(error.to_string()))?;
    let said = excerpt(&answer.body, EXCERPT_CHARS);
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let status = Some(answer.status);
    let remedy = match answer.status {
        200..300 if !says_no(kind, &answer.body) => return Ok(answer.status.to_string()),
        300..400 => {
            let to = answer.headers.get("location").and_then(|to| to.to_str().ok()).map_or(String::new(), masked);
            let problem = format!("it answers {}, a redirect to `{to}`, which is not followed", answer.status);
            return Err(Failure { status, ..Failure::unanswered(problem) });
        }
        400 | 413 | 422 => Remedy::GiveUp,
        408 | 425 | 429 => Remedy::Again,
        200..300 | 400..500 => Remedy::Later,
        _ => Remedy::Again,
    };
    let problem = format!("it answers {}{said}", answer.status);
    Err(Failure { problem, remedy, status, retry_after: answer.retry_after() })
}

/// Whether the body of an answer with status 2xx says that nothing was taken: a page for browsers does, of a login or a proxy, to
/// all whose own answers are known. Slack's API says `ok: false`, receivers of its form
/// say `success: false`, PagerDuty has another `status` than `success`, and ntfy an `error`.
fn says_no(kind: TargetKind, body: &[u8]) -> bool {
    let is_known = match kind {
        TargetKind::Slack | TargetKind::PagerDuty | TargetKind::Ntfy | TargetKind::Alertmanager => true,
        TargetKind::Webhook | TargetKind::Exec => false,
    };
    if is_known && body.trim_ascii_start().starts_with(b"<") {
        return true;
    }
    let Ok(Value::Object(said)) = serde_json::from_slice::<Value>(body) else { return false };
    match kind {
        TargetKind::Slack => {
            said.get("ok") == Some(&Value::Bool(false)) || said.get("success") == Some(&Value::Bool(false))
        }
        TargetKind::PagerDuty => said.get("status").is_some_and(|status| status != "success"),
        TargetKind::Ntfy => said.contains_key("error"),
        TargetKind::Webhook | TargetKind::Alertmanager | TargetKind::Exec => false,
    }
}

/// Text that mentions nobody and links nowhere in receivers that read more than Slack does into the same form, as Mattermost and
/// Discord do: `@everyone` and `](` get an invisible space.
fn without_mentions(text: &str) -> String {
    const APART: char = '\u{200b}';
    const ALL: [&str; 4] = ["all", "channel", "everyone", "here"];
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let rest = &text[at + c.len_utf8()..];
        let is_word = |word: &&str| rest.get(..word.len()).is_some_and(|rest| rest.eq_ignore_ascii_case(word));
        let mentions = c == '@' && (!before.is_alphanumeric() || ALL.iter().any(is_word));
        out.push(c);
        if mentions || c == ']' && rest.starts_with('(') {
            out.push(APART);
        }
        before = c;
    }
    out
}

/// Text for Slack's `mrkdwn`: these three are escaped (docs.slack.dev/messaging/formatting-message-text).
fn slack_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A message for an incoming webhook of Slack: `text` is what notifications and receivers without blocks show.
fn slack(message: &Message) -> Value {
    let sign = match message.word {
        "CRITICAL" => "✕",
        "RESOLVED" => "✓",
        "ENDED" => "–",
        _ => "▲",
    };
    let headline = format!("{sign} {}", message.headline());
    // The longest link, and a title of which each character becomes five, have room.
    let title = slack_text(&cut(&without_mentions(&headline), 300));
    let title = match &message.link {
        Some(link) => format!("*<{link}|{}>*", title.replace('|', "¦")),
        None => format!("*{title}*"),
    };
    // Escaping makes text longer, so that is cut before: no character becomes more than five.
    let mut whole = title;
    let mut left = SLACK_SECTION.saturating_sub(whole.chars().count() + 1);
    whole.push('\n');
    for c in without_mentions(&message.text).chars() {
        let shown = slack_text(c.encode_utf8(&mut [0; 4]));
        let length = shown.chars().count();
        if length > left {
            break;
        }
        left -= length;
        whole.push_str(&shown);
    }
    let fallback = slack_text(&cut(&without_mentions(&format!("{headline}\n{}", message.text)), SLACK_FALLBACK / 5));
    json!({
        "text": fallback,
        "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": whole, "verbatim": true}}],
    })
}

/// The key of an alarm within PagerDuty's limit: a longer one keeps its beginning and gets a checksum.
fn pagerduty_key(key: &str) -> String {
    if key.len() <= PAGERDUTY_KEY {
        return key.to_string();
    }
    let sum = format!("#{:08x}", crc32fast::hash(key.as_bytes()));
    format!("{}{sum}", cut_bytes(key, PAGERDUTY_KEY - sum.len()))
}

/// An event of PagerDuty's Events API v2 (developer.pagerduty.com, "Send an Alert Event").
fn pagerduty(notification: &Notification, routing_key: &str, identity: &Identity, page: Option<&str>) -> Value {
    let alarm = &notification.alarm;
    let key = pagerduty_key(&Escaped(&alarm.key.dedup_key()).to_string());
    if notification.resolved {
        return json!({"routing_key": routing_key, "event_action": "resolve", "dedup_key": key});
    }
    let message = Message::new(notification, page);
    let mut payload = json!({
        "summary": cut(&message.title, PAGERDUTY_SUMMARY),
        "source": identity.node,
        "severity": match alarm.severity {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Info => "info",
        },
        "timestamp": alarm.since.rfc3339(),
        "group": "presence",
        "class": alarm.key.name,
        "custom_details": {"text": cut(&message.text, PAGERDUTY_TEXT)},
    });
    if let Some(service) = &alarm.key.service {
        payload["component"] = Escaped(service).to_string().into();
    }
    for (name, value) in [("instance", alarm.key.instance.as_deref()), ("code", message::code(notification))] {
        if let Some(value) = value {
            payload["custom_details"][name] = Escaped(value).to_string().into();
        }
    }
    let mut event = json!({
        "routing_key": routing_key,
        "event_action": "trigger",
        "dedup_key": key,
        "payload": payload,
        "client": "systole",
    });
    if let Some(link) = message.link {
        event["client_url"] = link.as_str().into();
        event["links"] = json!([{"href": link, "text": "Presence board"}]);
    }
    event
}

/// The value of a header that may hold any text (RFC 2047, as docs.ntfy.sh/publish has it for UTF-8).
fn header_text(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && !text.contains("=?");
    if is_plain { text.to_string() } else { format!("=?UTF-8?B?{}?=", BASE64_STANDARD.encode(text)) }
}

/// A message for ntfy: headers and the body (docs.ntfy.sh/publish).
fn ntfy(notification: &Notification, page: Option<&str>) -> (Vec<(HeaderName, String)>, Vec<u8>) {
    let message = Message::new(notification, page);
    let (priority, tag) = match (notification.resolved, notification.alarm.severity) {
        (true, _) => ("3", "white_check_mark"),
        (false, Severity::Critical) => ("5", "rotating_light"),
        (false, Severity::Warning) => ("4", "warning"),
        (false, Severity::Info) => ("2", "information_source"),
    };
    let mut headers = vec![
        (HeaderName::from_static("title"), header_text(&cut(&message.headline(), NTFY_TITLE))),
        (HeaderName::from_static("priority"), priority.to_string()),
        (HeaderName::from_static("tags"), format!("{tag},{}", notification.alarm.key.name)),
    ];
    headers.extend(message.link.map(|link| (HeaderName::from_static("click"), link)));
    (headers, cut_bytes(&message.text, NTFY_MESSAGE).as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{Alarm, AlertKey, AlertName, AlertState, UnixTime};

    fn notification(text: &str, severity: Severity, resolved: bool) -> Notification {
        let key = AlertKey { service: Some("pay".into()), ..AlertKey::of(AlertName::ServiceDown) };
        let since = UnixTime::from_secs(1e9);
        let alarm = Alarm { key, severity, text: text.into(), since, until: None, state: AlertState::Firing };
        Notification { alarm, resolved, event: None, detail: "<b>&\u{202e}".into(), version: 0, ending: None }
    }

    #[test]
    fn a_page_for_browsers_is_no_delivery_where_answers_are_known() {
        let page = b"\n<!DOCTYPE html><p>please log in";
        for (kind, is_no) in [
            (TargetKind::Slack, true),
            (TargetKind::PagerDuty, true),
            (TargetKind::Ntfy, true),
            (TargetKind::Alertmanager, true),
            (TargetKind::Webhook, false),
        ] {
            assert_eq!(says_no(kind, page), is_no, "{kind}");
        }
        assert!(!says_no(TargetKind::Slack, b"ok") && !says_no(TargetKind::Alertmanager, b""));
    }

    #[test]
    fn slack_gets_escaped_text_within_its_limits() {
        let long = format!("pay <down> & |out|; {}", "<".repeat(5000));
        let body = slack(&Message::new(&notification(&long, Severity::Critical, false), Some("http://x")));
        let block = body["blocks"][0]["text"]["text"].as_str().expect("text");
        assert!(block.starts_with("*<http://x/presence/pay|✕ CRITICAL: pay &lt;down&gt; &amp; ¦out¦>*\n"), "{block}");
        assert!(block.chars().count() <= SLACK_SECTION && !block.contains('\u{202e}'), "{block}");
        assert!(block.trim_end_matches("&lt;").ends_with('\n'), "no reference is cut: {block}");
        assert_eq!(body["blocks"][0]["text"]["verbatim"], true);
        let text = body["text"].as_str().expect("text");
        assert!(text.starts_with("✕ CRITICAL: pay &lt;down&gt;") && text.chars().count() <= SLACK_FALLBACK, "{text}");
    }

    #[test]
    fn a_text_of_any_length_fits_and_mentions_nobody() {
        let services = (0..10_000).map(|n| format!("service-{n}")).collect::<Vec<_>>().join(", ");
        let mut long = notification(&format!("{}; {services}", "&".repeat(2000)), Severity::Critical, false);
        long.alarm.key.service = Some("é<".repeat(64).into());
        let page = format!("https://{}", "h".repeat(500));
        let slack = slack(&Message::new(&long, Some(&page)));
        let block = slack["blocks"][0]["text"]["text"].as_str().expect("text");
        let fallback = slack["text"].as_str().expect("text");
        assert!(block.chars().count() <= SLACK_SECTION && fallback.chars().count() <= SLACK_FALLBACK);
        let identity = Identity { node: "n".into(), boot: 1 };
        let event = pagerduty(&long, "k", &identity, Some(&page));
        assert!(event["payload"]["summary"].as_str().is_some_and(|text| text.chars().count() <= PAGERDUTY_SUMMARY));
        assert!(event.to_string().len() < 100_000 && ntfy(&long, Some(&page)).1.len() <= NTFY_MESSAGE);

        for (text, expected) in [
            ("@everyone", "@\u{200b}everyone"),
            ("x@EVERYONE y@here", "x@\u{200b}EVERYONE y@\u{200b}here"),
            ("(@bob) svc@host", "(@\u{200b}bob) svc@host"),
            ("[a](http://b)", "[a]\u{200b}(http://b)"),
            ("é@", "é@"),
        ] {
            assert_eq!(without_mentions(text), expected);
        }
    }

    #[test]
    fn pagerduty_gets_a_key_within_its_limit_that_is_the_same_for_an_end() {
        let mut told = notification("pay is down", Severity::Critical, false);
        told.alarm.key.service = Some("é".repeat(130).into());
        let identity = Identity { node: "n".into(), boot: 1 };
        let trigger = pagerduty(&told, "k", &identity, Some("http://x"));
        told.resolved = true;
        let resolve = pagerduty(&told, "k", &identity, None);
        assert_eq!(trigger["dedup_key"], resolve["dedup_key"]);
        assert!(trigger["dedup_key"].as_str().is_some_and(|key| key.len() <= PAGERDUTY_KEY), "{trigger}");
        assert_eq!(
            (&trigger["payload"]["severity"], &resolve["event_action"]),
            (&"critical".into(), &"resolve".into())
        );
        assert!(trigger["links"][0]["href"].as_str().is_some_and(|href| href.starts_with("http://x/presence/")));
    }

    #[test]
    fn ntfy_gets_headers_of_plain_ascii() {
        for (text, expected) in [
            ("pay is down", "RESOLVED: pay is down".to_string()),
            ("pây", format!("=?UTF-8?B?{}?=", BASE64_STANDARD.encode("RESOLVED: pây"))),
            // Controls are escaped before.
            ("a\r\nX: y", "RESOLVED: a\\r\\nX: y".to_string()),
        ] {
            let (headers, body) = ntfy(&notification(text, Severity::Warning, true), None);
            assert_eq!(headers[0].1, expected);
            let is_plain = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            assert!(headers.iter().all(|(_, value)| is_plain(value)), "{headers:?}");
            assert!(body.len() <= NTFY_MESSAGE);
        }
    }

    #[test]
    fn an_answer_is_delivered_refused_or_tried_again() {
        let answer = |status: u16, header: Option<(&str, &str)>| {
            let mut headers = hyper::HeaderMap::new();
            if let Some((name, value)) = header {
                headers.insert(HeaderName::try_from(name).expect("a name"), value.parse().expect("a value"));
            }
            outcome(TargetKind::Webhook, Ok(Answer { status, headers, body: "why".into() }))
        };
        assert_eq!(answer(202, None), Ok("202".into()));
        for (remedy, all) in [
            (Remedy::GiveUp, &[400, 413, 422][..]),
            (Remedy::Later, &[401, 402, 403, 404, 405, 409, 410, 451]),
            (Remedy::Again, &[408, 425, 429, 500, 502, 503, 599, 302, 307, 100]),
        ] {
            for &status in all {
                assert_eq!(answer(status, None).expect_err("a failure").remedy, remedy, "{status}");
            }
        }
        let later = answer(429, Some(("retry-after", "7"))).expect_err("a failure");
        assert_eq!((later.retry_after, later.problem.as_str()), (Some(Duration::from_secs(7)), "it answers 429: why"));
        let elsewhere = answer(307, Some(("location", "https://h/secret"))).expect_err("a failure");
        assert!(!elsewhere.problem.contains("secret"), "{elsewhere:?}");
    }

    #[test]
    fn a_good_status_does_not_stand_for_an_answer_that_says_no() {
        use TargetKind::{Alertmanager, Ntfy, PagerDuty, Slack, Webhook};
        for (kind, body, is_delivered) in [
            (Slack, "ok", true),
            (Slack, "", true),
            (Slack, "{\"ok\":true}", true),
            (Slack, "{\"ok\":false,\"error\":\"channel_not_found\"}", false),
            (Slack, "{\"success\":false}", false),
            (PagerDuty, "{\"status\":\"success\",\"dedup_key\":\"k\"}", true),
            (PagerDuty, "{\"status\":\"invalid event\"}", false),
            (PagerDuty, "<html>", false),
            (Ntfy, "{\"id\":\"x\",\"event\":\"message\"}", true),
            (Ntfy, "{\"code\":40301,\"error\":\"forbidden\"}", false),
            (Alertmanager, "", true),
            (Alertmanager, "{\"status\":\"success\"}", true),
            (Alertmanager, "<html>", false),
            (Webhook, "{\"ok\":false,\"error\":\"mine\"}", true),
        ] {
            let answer = Answer { status: 200, headers: hyper::HeaderMap::new(), body: body.into() };
            let outcome = outcome(kind, Ok(answer));
            assert_eq!(outcome.is_ok(), is_delivered, "{kind:?} {body}: {outcome:?}");
            assert!(outcome.is_ok() || outcome.is_err_and(|failure| failure.remedy == Remedy::Later));
        }
    }
}
