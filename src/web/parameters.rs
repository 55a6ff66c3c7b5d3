//! The parameters of a route and the fields of its form. A type says which there are; everything else is an error that says
//! what would be right.

use std::ops::RangeInclusive;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::settings::suggestion;
use crate::untrusted::{Escaped, from_url};

use super::{bad_request, error};

/// Longest part of what was sent that an error repeats, in characters.
const REPEATED: usize = 60;

/// What a type of parameters is read from.
pub trait FromGiven: Sized {
    /// The names that there are.
    const NAMES: &'static [&'static str];

    /// Those of them that may be given several times.
    const REPEATED: &'static [&'static str] = &[];

    /// Reads them.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    fn from_given(given: &Given) -> Result<Self, String>;
}

/// Names and values as they were sent, decoded; no name twice, but for those of [`FromGiven::REPEATED`].
#[derive(Clone, Debug, Default)]
pub struct Given(Vec<(String, String)>);

impl Given {
    /// The value of a name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Every value of a name that may be repeated, in the order given.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The value of a name that is one of several words.
    ///
    /// # Errors
    /// If it is none of them.
    pub fn one_of<T>(
        &self,
        name: &str,
        words: &[&str],
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, String> {
        self.parsed(name, &format!("one of {}", words.join(", ")), parse)
    }

    /// The value of a name that is a whole number of a range.
    ///
    /// # Errors
    /// If it is none of them.
    pub fn number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, String> {
        let right = format!("a whole number of {} to {}", range.start(), range.end());
        self.parsed(name, &right, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// The value of a name that is 0 or 1, which is `true`; without it `false`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn flag(&self, name: &str) -> Result<bool, String> {
        let parse = |text: &str| ["0", "1"].iter().position(|known| *known == text).map(|at| at == 1);
        Ok(self.parsed(name, "0 or 1", parse)?.unwrap_or(false))
    }

    /// The text of a name, of at most so many characters.
    ///
    /// # Errors
    /// If it is longer.
    pub fn bounded(&self, name: &str, most: usize) -> Result<Option<&str>, String> {
        match self.text(name) {
            Some(text) if !fits(text, most) => Err(format!("`{name}` has more than {most} characters")),
            text => Ok(text),
        }
    }

    /// All texts of a name that may be given several times, so many at most, and each of at most so many
    /// characters.
    ///
    /// # Errors
    /// If there are more, or one is longer.
    pub fn several(&self, name: &str, most: usize, most_characters: usize) -> Result<Vec<String>, String> {
        let all: Vec<String> = self.all(name).map(String::from).collect();
        if all.len() > most {
            return Err(format!("`{name}` is given {} times; at most {most}", all.len()));
        }
        if !all.iter().all(|text| fits(text, most_characters)) {
            return Err(format!("`{name}` has more than {most_characters} characters"));
        }
        Ok(all)
    }

    /// The value of a name, read; `right` says how it is written.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn parsed<T>(
        &self,
        name: &str,
        right: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.text(name) else { return Ok(None) };
        match parse(value) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(format!("`{name}` is {right}, and not `{}`", short(value))),
        }
    }
}

/// Whether a text has at most so many characters.
fn fits(text: &str, most: usize) -> bool {
    text.chars().nth(most).is_none()
}

/// Text of a client for an error.
fn short(text: &str) -> String {
    let cut: String = text.chars().take(REPEATED).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{}{more}", Escaped(&cut))
}

/// Splits `a=1&b=2`, percent-encoded, into its names and values.
///
/// # Errors
/// If it cannot be decoded, or has a name twice.
pub fn given(encoded: &str) -> Result<Given, String> {
    given_with(encoded, &[])
}

/// The same where some names may be repeated.
fn given_with(encoded: &str, repeated: &[&str]) -> Result<Given, String> {
    let mut all: Vec<(String, String)> = Vec::new();
    for pair in encoded.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| {
            from_url(&text.replace('+', " "))
                .map_err(|problem| format!("`{}` cannot be decoded: {problem}", short(pair)))
        };
        let (name, value) = (decoded(name)?, decoded(value)?);
        if !repeated.contains(&&*name) && all.iter().any(|(known, _)| *known == name) {
            return Err(format!("`{}` is given more than once; once is right", short(&name)));
        }
        all.push((name, value));
    }
    Ok(Given(all))
}

/// Reads a type from what was sent; `what` is the word for one of them.
fn read<T: FromGiven>(encoded: &str, what: &str) -> Result<T, String> {
    let given = given_with(encoded, T::REPEATED)?;
    let known = || T::NAMES.iter().copied();
    if let Some((unknown, _)) = given.0.iter().find(|(name, _)| known().all(|known| known != name)) {
        let near = suggestion(unknown, known());
        let all: Vec<String> = known().map(|name| format!("`{name}`")).collect();
        let right = match &*all {
            [] => format!("there are no {what}s here"),
            [one] => format!("the {what} here is {one}"),
            _ => format!("the {what}s here are {}", all.join(", ")),
        };
        return Err(format!("unknown {what} `{}`{near}; {right}", short(unknown)));
    }
    T::from_given(&given)
}

/// The parameters of a route: `?name=value&…`.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<T>(pub T);

impl<S: Sync, T: FromGiven> FromRequestParts<S> for Parameters<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let read = read(parts.uri.query().unwrap_or(""), "parameter");
        read.map(Parameters).map_err(|message| bad_request(&message))
    }
}

/// The fields of a form in the body of a request.
#[derive(Clone, Copy, Debug)]
pub struct Fields<T>(pub T);

impl<S: Send + Sync, T: FromGiven> FromRequest<S> for Fields<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let form = "application/x-www-form-urlencoded";
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        if !kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case(form) {
            let message = format!("a form is sent as `Content-Type: {form}`");
            return Err(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", &message));
        }
        let body = Bytes::from_request(request, state).await.map_err(IntoResponse::into_response)?;
        let encoded = std::str::from_utf8(&body).map_err(|_| bad_request("a form is text in UTF-8"))?;
        read(encoded, "field").map(Fields).map_err(|message| bad_request(&message))
    }
}

/// No parameters but a token, which is of use elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct TokenAlone;

impl FromGiven for TokenAlone {
    const NAMES: &'static [&'static str] = &["token"];

    fn from_given(_: &Given) -> Result<TokenAlone, String> {
        Ok(TokenAlone)
    }
}

/// No parameters.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl FromGiven for Nothing {
    const NAMES: &'static [&'static str] = &[];

    fn from_given(_: &Given) -> Result<Nothing, String> {
        Ok(Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Two {
        since: Option<String>,
        min: Option<u32>,
    }

    impl FromGiven for Two {
        const NAMES: &'static [&'static str] = &["since", "min"];

        fn from_given(given: &Given) -> Result<Two, String> {
            let min = given.parsed("min", "a whole number", |text| text.parse().ok())?;
            Ok(Two { since: given.text("since").map(String::from), min })
        }
    }

    struct Many(Vec<String>);

    impl FromGiven for Many {
        const NAMES: &'static [&'static str] = &["id", "n"];
        const REPEATED: &'static [&'static str] = &["id"];

        fn from_given(given: &Given) -> Result<Many, String> {
            Ok(Many(given.all("id").map(String::from).collect()))
        }
    }

    #[test]
    fn what_is_given_is_read_or_said_to_be_wrong() {
        let two = |since: Option<&str>, min| Ok(Two { since: since.map(String::from), min });
        for (encoded, expected) in [
            ("", two(None, None)),
            ("&", two(None, None)),
            ("since=a+b%26%c3%bc&min=7", two(Some("a b&ü"), Some(7))),
            ("since", two(Some(""), None)),
            ("sinc=1", Err("unknown parameter `sinc` (did you mean `since`?); the parameters here are `since`, `min`")),
            ("x%1b=1", Err("unknown parameter `x\\u{1b}`; the parameters here are `since`, `min`")),
            ("min=-1", Err("`min` is a whole number, and not `-1`")),
            ("min=", Err("`min` is a whole number, and not ``")),
            ("min=1&min=1", Err("`min` is given more than once; once is right")),
            ("min=%zz", Err("`min=%zz` cannot be decoded: a `%` is written `%25` in a URL")),
            ("%ff=1", Err("`%ff=1` cannot be decoded: what follows `%` is no UTF-8")),
        ] {
            assert_eq!(read::<Two>(encoded, "parameter"), expected.map_err(String::from), "{encoded}");
        }
        let many = read::<Many>("id=a&id=b%3dc&id=a", "parameter").expect("they may be repeated");
        assert_eq!(many.0, ["a", "b=c", "a"]);
        assert!(read::<Many>("id=a&n=1&n=1", "parameter").is_err_and(|error| error.contains("more than once")));
        let none = read::<Nothing>("a=1", "parameter").expect_err("there is none");
        assert_eq!(none, "unknown parameter `a`; there are no parameters here");
        assert!(short(&"ü".repeat(1000)).chars().count() == REPEATED + 1);
    }
}
