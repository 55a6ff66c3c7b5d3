//! `/api/v1/openapi.json`: what the routes take and answer, as OpenAPI 3.1. Each route is described beside its handler; here
//! they are put together, with what all have in common.

use std::sync::LazyLock;

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, Content, OpenApi as Document, Ref, ResponseBuilder};
use utoipa::{Modify, OpenApi, ToSchema};

use crate::web::{self, Nothing, Parameters};

use super::{
    assets, caching, cluster, events, history, jobs, listing, login, notify, orders, pages, presence, reload, senders,
    series, snapshot, stream, tail,
};

/// An error of any route.
#[derive(Serialize, ToSchema)]
pub(super) struct Failure {
    error: Problem,
}

/// What is wrong.
#[derive(Serialize, ToSchema)]
struct Problem {
    /// A word for programs.
    #[schema(examples("bad_request", "unknown", "busy"))]
    code: String,
    /// A sentence that says what would be right.
    message: String,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Systole",
        description = "Metrics of the last interval and their history, who sends them, who is present, and the daemon's own \
                       account. On loopback reading is open; elsewhere, and for changes, the token of `http.token` is needed.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    paths(
        super::health,
        super::ready,
        super::own_metrics,
        super::status,
        super::last_snapshot,
        super::config::config,
        super::explain::explain,
        document,
        assets::asset,
        login::form,
        login::login,
        login::logout,
        events::events,
        stream::stream,
        tail::tail,
        senders::senders,
        cluster::cluster,
        cluster::drain,
        orders::upgrade,
        series::list,
        series::details,
        history::points,
        pages::now::page,
        pages::metrics::page,
        pages::show::page,
        pages::board::page,
        pages::service::page,
        pages::service::instance,
        pages::service::change,
        pages::service::maintenance,
        pages::senders::page,
        pages::events::page,
        pages::explain::page,
        pages::config::page,
        notify::test,
        reload::reload,
        presence::list,
        jobs::list,
        presence::events,
        presence::maintenance,
        presence::peer,
        presence::service,
        presence::forget_service,
        presence::check,
        presence::instance,
        presence::forget_instance,
        presence::forget_check,
    ),
    components(schemas(
        Failure,
        events::KindName,
        jobs::StateName,
        listing::HealthName,
        listing::StateName,
        senders::ByName,
        snapshot::KindName,
        snapshot::TypeName,
    )),
    modifiers(&Common),
)]
struct Routes;

/// What all operations have: a name, a group, and how an error looks.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut Document) {
        for (path, item) in &mut document.paths.paths {
            for (method, operation) in operations(item) {
                let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
                let words: Vec<&str> = [method].into_iter().chain(words).collect();
                operation.operation_id = Some(words.join("_"));
                operation.tags = Some(vec![group(path).to_string()]);
                let failure = Content::new(Some(Ref::from_schema_name("Failure")));
                let mut failure = ResponseBuilder::new().description("An error").content(web::JSON, failure);
                if group(path) == "pages" {
                    // A browser is told in a page.
                    failure = failure.content("text/html", Content::default());
                }
                let failure = failure.build();
                operation.responses.responses.insert("default".into(), failure.into());
            }
        }
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("`http.token`")).build();
        let cookie = ApiKeyValue::with_description("systole_PORT", "What the form at `/login` sets");
        let components = document.components.get_or_insert_with(Components::new);
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
        components.add_security_scheme("cookie", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    }
}

/// The operations of a path with their methods.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let all = [("get", &mut item.get), ("post", &mut item.post), ("delete", &mut item.delete), ("put", &mut item.put)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// What a path is about.
fn group(path: &str) -> &'static str {
    match path.strip_prefix("/api/v1/") {
        Some(rest) if rest.starts_with("presence") || rest.starts_with("notify") || rest == "jobs" => "presence",
        Some(rest) if rest.starts_with("status") || rest.starts_with("config") => "daemon",
        Some(_) => "metrics",
        None if matches!(path, "/health" | "/ready" | "/metrics") => "daemon",
        None => "pages",
    }
}

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| web::line(&Routes::openapi()).into());

/// This document
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object)),
)]
pub(super) async fn document(Parameters(Nothing): Parameters<Nothing>, headers: HeaderMap) -> Response {
    let tag = caching::tag(&[env!("CARGO_PKG_VERSION"), assets::version(), &format!("{:x}", DOCUMENT.len())]);
    if let Some(unchanged) = caching::unchanged(&headers, &tag) {
        return unchanged;
    }
    let mut response = ([(header::CONTENT_TYPE, web::JSON)], DOCUMENT.clone()).into_response();
    caching::mark(&mut response, &tag, caching::ASK_AGAIN);
    response
}
