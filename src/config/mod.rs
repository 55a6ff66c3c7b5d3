//! The configuration: TOML, everything with a default, unknown keys refused with a suggestion, all mistakes
//! of a file at once. What it holds is plain data; rooms get the parts they need as their own options.

mod load;
mod presence;
mod print;
mod reader;
mod relay;
mod rule;
mod schema;
mod sink;
mod url;
mod value;

pub use load::{ConfigError, Sources, known_keys, load};
pub use presence::{Presence, StatePath};
pub use print::{flat, print};
pub use reader::Problem;
pub use schema::{
    Config, Etsy, Framing, Http, Idle, Lifetime, Listen, Log, LogFormat, Management, Profile, Sink, Workers,
};
pub use url::{ListenUrl, check_listen_url, listen_url};
pub use value::{parse_duration, parse_size, show_duration, show_size};
