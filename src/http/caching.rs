//! Answers that a client may keep as long as their tag is the same.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::snapshot::Snapshot;

use super::AppState;

/// To be kept by nobody but the client itself, which asks each time whether it is still right.
pub(super) const ASK_AGAIN: &str = "private, no-cache";

/// The tag of what is made of these. It is weak: the same answer may be sent compressed or not.
pub(super) fn tag(parts: &[&str]) -> String {
    format!("W/\"{}\"", parts.join("-"))
}

/// The tag of what is made of a closed interval alone.
pub(super) fn interval_tag(snapshot: &Snapshot) -> String {
    let (sequence, end, part) = snapshot.identity();
    tag(&[sequence, end, part].map(|number| format!("{number:x}")).each_ref().map(String::as_str))
}

/// The tag of what is made of the history alone: it changes with the interval. `None` before the first.
pub(super) fn history_tag(state: &AppState) -> Option<String> {
    let end = state.history.last_end()?;
    Some(tag(&["h", &format!("{:x}", end.to_bits())]))
}

/// The answer to a client that has what is tagged so, if it has.
pub(super) fn unchanged(headers: &HeaderMap, tag: &str) -> Option<Response> {
    let strong = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_string();
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    known.any(|known| known == "*" || strong(known) == strong(tag)).then(|| {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        mark(&mut response, tag, ASK_AGAIN);
        response
    })
}

/// Gives an answer its tag, and says how long it may be kept.
pub(super) fn mark(response: &mut Response, tag: &str, lifetime: &'static str) {
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(lifetime));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_as_weak_ones() {
        let ours = tag(&["5f", "12"]);
        for (sent, expected) in [
            (&["W/\"5f-12\""][..], true),
            (&["\"5f-12\""], true),
            (&["\"a\", W/\"5f-12\""], true),
            (&["\"a\"", "\"5f-12\""], true),
            (&["*"], true),
            (&["\"5f-13\""], false),
            (&["5f-12"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in sent {
                headers.append(header::IF_NONE_MATCH, HeaderValue::from_str(value).expect("a header"));
            }
            let unchanged = unchanged(&headers, &ours);
            assert_eq!(unchanged.is_some(), expected, "{sent:?}");
            if let Some(answer) = unchanged {
                assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
                assert_eq!(answer.headers()[header::ETAG], &*ours);
            }
        }
    }
}
