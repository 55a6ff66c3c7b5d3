//! The form that asks for the token, and what it sets.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use maud::{DOCTYPE, html};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::untrusted::in_url;
use crate::web::{self, Fields, FromGiven, Given, Nothing, Parameters};

use super::access::{self, Caller, Judged, TOO_MANY, WRONG, is_browser, local, see_other, too_many, without_token};
use super::{AppState, Live, assets};

/// Longest place to go on to, in characters.
const MOST_NEXT: usize = 2000;

pub(super) fn routes() -> Router<Live> {
    Router::new().route("/login", get(form).post(login)).route("/logout", post(logout))
}

/// The parameters of the form's page.
pub(super) struct Next {
    next: String,
}

impl FromGiven for Next {
    const NAMES: &'static [&'static str] = &["next"];

    fn from_given(given: &Given) -> Result<Next, String> {
        Ok(Next { next: local(given.bounded("next", MOST_NEXT)?.unwrap_or("/")) })
    }
}

/// The fields of the form.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    /// Where to go on to.
    #[schema(max_length = 2000, required = false)]
    next: String,
    /// The token.
    token: String,
}

impl FromGiven for Login {
    const NAMES: &'static [&'static str] = &["next", "token"];

    fn from_given(given: &Given) -> Result<Login, String> {
        let Next { next } = Next::from_given(given)?;
        Ok(Login { next, token: given.text("token").unwrap_or("").to_string() })
    }
}

/// The page with the form; `again` is where a browser looks once more whether it has the cookie.
fn page(status: StatusCode, next: &str, judged: Option<Judged>, again: Option<&str>) -> Response {
    let problem = match judged {
        Some(Judged::Wrong) => Some("That is not the token."),
        Some(Judged::TooMany) => Some(TOO_MANY),
        _ => None,
    };
    let mut response = access::html(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "Token · Systole" }
                meta name="viewport" content="width=device-width,initial-scale=1";
                @if let Some(again) = again { meta http-equiv="refresh" content={ "0; url=" (again) }; }
                link rel="stylesheet" href=(assets::url("style.css"));
            }
            body {
                main.login {
                    h1 { "This page needs the token." }
                    p.sub { "It is " code { "http.token" } " of the configuration." }
                    form method="post" action="/login" {
                        input type="hidden" name="next" value=(next);
                        input #token type="password" name="token" required autofocus
                            autocomplete="current-password" aria-label="Token"
                            aria-describedby=[problem.map(|_| "problem")];
                        button { "Open" }
                    }
                    @if let Some(problem) = problem { p #problem .bad role="alert" { (problem) } }
                }
            }
        }
    });
    *response.status_mut() = status;
    response
}

/// The answer to who reads without the token, or with a wrong one.
pub(super) fn refused(request: &Request, judged: Option<Judged>) -> Response {
    let is_wrong = judged.is_some();
    if !is_browser(request.headers()) {
        return match judged {
            Some(Judged::TooMany) => too_many(),
            Some(_) => web::unauthorized(WRONG),
            None => web::unauthorized("this needs `Authorization: Bearer TOKEN` with the token of `http.token`"),
        };
    }
    let next = without_token(request.uri());
    // Who follows a link of another site comes without the cookie, which is strict; who goes on from here has it.
    let again = format!("/login?next={}", in_url(&next));
    let may_have_cookie = !is_wrong && comes_from_elsewhere(request.headers());
    let (status, headers) = match judged {
        Some(Judged::TooMany) => (StatusCode::TOO_MANY_REQUESTS, too_many().into_parts().0.headers),
        _ => (StatusCode::UNAUTHORIZED, web::unauthorized("").into_parts().0.headers),
    };
    let mut response = page(status, &next, judged, may_have_cookie.then_some(&*again));
    for name in [axum::http::header::WWW_AUTHENTICATE, axum::http::header::RETRY_AFTER] {
        if let Some(value) = headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// Whether a browser may have come by a link of another site. Without TLS it does not say.
fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers.get(HeaderName::from_static("sec-fetch-site")).and_then(|site| site.to_str().ok());
    !matches!(site, Some("same-origin" | "same-site" | "none"))
}

/// The form that asks for the token
#[utoipa::path(
    get,
    path = "/login",
    params(
        ("next" = Option<String>, Query, description = "Where to go on to", max_length = 2000),
    ),
    responses(
        (status = 200, description = "The form", content_type = "text/html", body = String),
        (status = 303, description = "The browser has the cookie already"),
    ),
)]
pub(super) async fn form(
    State(state): State<AppState>,
    Parameters(wanted): Parameters<Next>,
    caller: Caller,
) -> Response {
    if caller.is_known || !state.access.has_token() {
        return see_other(&wanted.next);
    }
    page(StatusCode::OK, &wanted.next, None, None)
}

/// Shows the token, for a cookie
#[utoipa::path(
    post,
    path = "/login",
    request_body(content = Login, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 303, description = "It is right: the answer sets the cookie"),
        (status = 401, description = "It is wrong", content_type = "text/html", body = String),
        (status = 429, description = "Too many wrong ones came from this address", content_type = "text/html", body = String),
    ),
)]
pub(super) async fn login(
    State(state): State<AppState>,
    Parameters(Nothing): Parameters<Nothing>,
    caller: Caller,
    Fields(login): Fields<Login>,
) -> Response {
    let judged = state.access.evaluate(caller.peer, &[&login.token]);
    let status = match judged {
        Judged::Right => {
            let mut response = see_other(&login.next);
            state.access.set_cookie(&mut response);
            return response;
        }
        Judged::Wrong => StatusCode::UNAUTHORIZED,
        Judged::TooMany => StatusCode::TOO_MANY_REQUESTS,
    };
    page(status, &login.next, Some(judged), None)
}

/// Takes the cookie away
#[utoipa::path(
    post,
    path = "/logout",
    responses(
        (status = 303, description = "It is away"),
    ),
)]
pub(super) async fn logout(State(state): State<AppState>, Parameters(Nothing): Parameters<Nothing>) -> Response {
    let mut response = see_other("/login");
    state.access.drop_cookie(&mut response);
    response
}
