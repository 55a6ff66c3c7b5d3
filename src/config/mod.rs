//! The configuration: TOML, everything with a default, unknown keys refused with a suggestion, all mistakes
//! of a file at once. What it holds is plain data; rooms get the parts they need as their own options.
//!
//! The table of settings is in `schema`; settings that are options of a room are described beside their kin. Visitors
//! read them (`load`), print them (`print`) and list them (`reference`).

mod changes;
mod cluster;
mod effective;
mod environment;
mod etsy;
mod kinds;
mod listen;
mod load;
mod notify;
mod presence;
mod presence_job;
mod presence_peers;
mod presence_watch;
mod print;
mod protocol;
mod reader;
mod reference;
mod relay;
mod rule;
mod schema;
mod sink;
mod test;
mod url;
mod value;

pub use changes::{Plan, compare};
pub use cluster::{Cluster, Role};
pub use effective::{Origins, effective};
pub use environment::{CONFIG, PREFIX, TOKEN, unknown_variables};
pub use load::{ConfigError, Sources, load, load_with_origins};
pub use notify::targets;
pub use presence::{Presence, StatePath};
pub use presence_peers::Peers;
pub use print::{flat, print};
pub use reader::Problem;
#[cfg(feature = "internals")]
pub use reference::reference;
pub use reference::{OrderedTable, example, order};
pub use schema::{
    Config, Dogstatsd, Etsy, Framing, Http, Idle, Lifetime, Listen, Log, LogFormat, Management, Profile, Sink, Workers,
};
pub use test::{Expectation, Test};
pub use url::{ListenUrl, check_listen_url, http_url, listen_url};
pub use value::{parse_duration, parse_size, show_duration, show_size};
