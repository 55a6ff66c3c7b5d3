//! The pages: HTML with real numbers that works without a script, which scripts then keep current.
//!
//! | route | the question it answers |
//! |---|---|
//! | `/` | can I trust the data, how much arrives, what changed? |
//! | `/series` | which series are there, how do they run? |
//! | `/series/show?kind=&name=&tag=` | what did one do, who sends it, where does it go? |
//! | `/presence`, `/presence/SERVICE[/INSTANCE]`, `/maintenance?q=SERVICE` | who is up, since when, what happens next? |
//! | `/senders` | who sends what, and who is too loud? |
//! | `/events` | what happened, in order? |
//! | `/explain?line=` | how would this line be read, and where would it end? |
//! | `/config` | what is in force, and where is it set? |
//!
//! A page never grows with what it is about: a list has at most 200 rows. Text that came over the wire is escaped by
//! `parts::Wire`; nothing else puts it into a page.

pub(super) mod board;
mod cluster;
pub(super) mod config;
mod data;
pub(super) mod events;
pub(super) mod explain;
mod frame;
pub(super) mod metrics;
pub(super) mod now;
mod parts;
pub(super) mod problem;
mod query;
pub(super) mod senders;
pub(super) mod service;
pub(super) mod show;

use axum::Router;
use axum::routing::get;

use super::Live;

pub(super) use data::last_hour;
pub(super) use parts::{amount, count, grouped, percent, rfc3339};

pub(super) fn routes() -> Router<Live> {
    Router::new()
        .route("/", get(now::page))
        .route("/series", get(metrics::page))
        .route("/series/show", get(show::page))
        .route("/presence", get(board::page))
        .route("/presence/{service}", get(service::page).post(service::change))
        .route("/presence/{service}/{instance}", get(service::instance))
        .route("/maintenance", get(service::maintenance))
        .route("/senders", get(senders::page))
        .route("/events", get(events::page))
        .route("/explain", get(explain::page))
        .route("/config", get(config::page))
}
