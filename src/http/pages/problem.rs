//! Errors as pages: a browser that asks for a page gets a sentence and a way on instead of JSON.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use maud::html;

use crate::http::access::is_browser;
use crate::http::{HTML, assets};
use crate::web::Problem;

use super::parts::{DOCTYPE, Wire};

/// Paths of programs: their errors are JSON whoever asks.
const FOR_PROGRAMS: [&str; 5] = ["/api/", "/metrics", "/health", "/ready", "/assets/"];

/// A middleware: turns an error into a page if a browser asked for one. Status and headers stay.
pub(in crate::http) async fn for_people(request: Request, next: Next) -> Response {
    let is_for_people = request.method() == Method::GET
        && is_browser(request.headers())
        && !FOR_PROGRAMS.iter().any(|path| request.uri().path().starts_with(path));
    let mut response = next.run(request).await;
    let Some(Problem(said)) = response.extensions_mut().remove::<Problem>().filter(|_| is_for_people) else {
        return response;
    };
    let status = response.status();
    let what = status.canonical_reason().unwrap_or("Error");
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (what) " · Systole" }
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="stylesheet" href=(assets::url("style.css"));
            }
            body {
                main.login {
                    h1 { (what) }
                    p { (Wire(&said)) }
                    p.sub { a href="/" { "Now" } " · " a href="/series" { "Metrics" } " · " a href="/presence" { "Presence" } }
                }
            }
        }
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(HTML));
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(page.into_string());
    response
}
