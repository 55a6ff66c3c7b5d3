//! URLs of listeners, `udp://host:port`, `tcp://host:port`, `unix:///path`, `unixgram:///path`, `fd://name`, and what is
//! in those of others.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::http_client::{split_login, without_login};
use crate::settings::suggestion;
use crate::sys;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenUrl {
    /// Datagrams.
    Udp(SocketAddr),
    /// Streams.
    Tcp(SocketAddr),
    /// Streams of a unix socket.
    Unix(PathBuf),
    /// Datagrams of a unix socket.
    Unixgram(PathBuf),
    /// A socket that whoever started us has opened (systemd's socket activation), by its name or number.
    Fd(String),
}

impl Default for ListenUrl {
    /// StatsD's port on loopback.
    fn default() -> ListenUrl {
        ListenUrl::Udp(SocketAddr::from(([127, 0, 0, 1], 8125)))
    }
}

impl ListenUrl {
    /// The same with another address, once the port is known.
    pub fn at(self, address: Option<SocketAddr>) -> ListenUrl {
        match (self, address) {
            (ListenUrl::Udp(_), Some(address)) => ListenUrl::Udp(address),
            (ListenUrl::Tcp(_), Some(address)) => ListenUrl::Tcp(address),
            (other, _) => other,
        }
    }

    /// Whether the kernel may let only one of both listen.
    pub fn collides_with(&self, other: &ListenUrl) -> bool {
        match (self, other) {
            (ListenUrl::Udp(one), ListenUrl::Udp(other)) | (ListenUrl::Tcp(one), ListenUrl::Tcp(other)) => {
                sys::may_collide(one, other)
            }
            (ListenUrl::Unix(one) | ListenUrl::Unixgram(one), ListenUrl::Unix(other) | ListenUrl::Unixgram(other)) => {
                one == other
            }
            _ => false,
        }
    }

    /// Whether a listener of this URL, as it is shown, may have to close first. Of a socket that was passed that is not known.
    pub fn is_kept_from(&self, by: &str) -> bool {
        match listen_url(by) {
            Ok(ListenUrl::Fd(_)) | Err(_) => true,
            Ok(by) => matches!(self, ListenUrl::Fd(_)) || self.collides_with(&by),
        }
    }
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenUrl::Udp(address) => write!(f, "udp://{address}"),
            ListenUrl::Tcp(address) => write!(f, "tcp://{address}"),
            ListenUrl::Unix(path) => write!(f, "unix://{}", path.display()),
            ListenUrl::Unixgram(path) => write!(f, "unixgram://{}", path.display()),
            ListenUrl::Fd(name) => write!(f, "fd://{name}"),
        }
    }
}

/// Reads the URL of a listener, or of one that lines are sent to.
///
/// # Errors
/// What would be right.
pub fn listen_url(url: &str) -> Result<ListenUrl, String> {
    let example = "`udp://127.0.0.1:8125` is right";
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(format!("`{url}` has no scheme; {example}"));
    };
    let build = match scheme {
        "udp" => ListenUrl::Udp,
        "tcp" => ListenUrl::Tcp,
        "unix" | "unixgram" => {
            // The longest path that fits a socket's address, with its NUL.
            if !rest.starts_with('/') || rest.len() > 107 {
                return Err(format!(
                    "`{rest}` is no absolute path of at most 107 bytes; `{scheme}:///run/systole.sock` is right"
                ));
            }
            let build = if scheme == "unix" { ListenUrl::Unix } else { ListenUrl::Unixgram };
            return Ok(build(rest.into()));
        }
        "fd" if rest.is_empty() => return Err("`fd://` has no name; `fd://statsd` or `fd://0` is right".into()),
        "fd" => return Ok(ListenUrl::Fd(rest.into())),
        "tls" | "ssl" | "tcps" | "tcp+tls" => {
            return Err(format!(
                "unknown scheme `{scheme}`; a listener has TLS with `url = \"tcp://{rest}\"` and `tls = {{ cert = \"…\", key = \
                 \"…\" }}`"
            ));
        }
        _ => {
            let hint = suggestion(scheme, ["udp", "tcp", "unix", "unixgram", "fd"].into_iter());
            return Err(format!("unknown scheme `{scheme}`{hint}; {example}"));
        }
    };
    address(rest).map(build).map_err(|problem| format!("{problem}; {example}"))
}

/// Checks a URL as [`listen_url`] does, but looks no name up: for who can ask for it again later.
///
/// # Errors
/// As [`listen_url`].
pub fn check_listen_url(url: &str) -> Result<(), String> {
    match url.split_once("://") {
        Some(("udp" | "tcp", rest)) if host(rest).is_ok() => Ok(()),
        _ => listen_url(url).map(drop),
    }
}

/// An address with a port; a name is looked up.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let host = host(text)?;
    use std::net::ToSocketAddrs;
    match text.to_socket_addrs().ok().and_then(|mut all| all.next()) {
        Some(address) => Ok(address),
        None => Err(format!("`{host}` is no address of this machine, nor a name that can be looked up")),
    }
}

/// The host of `host:port`.
fn host(text: &str) -> Result<&str, String> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("`{text}` has no port"));
    };
    if port.parse::<u16>().is_err() {
        return Err(format!("`{port}` is no port"));
    }
    if host.is_empty() {
        return Err(format!("`{text}` has no host"));
    }
    Ok(host)
}

/// Checks the URL of something that is asked over HTTP.
///
/// # Errors
/// What would be right.
pub fn http_url(url: &str) -> Result<(), String> {
    let example = "`http://HOST:PORT` is right";
    let shown = without_login(url);
    if !url.starts_with("http://") && !url.starts_with("https://") {
        let rest = shown.split_once("://").map_or(&*shown, |(_, rest)| rest);
        let rest = if rest.is_empty() || rest.starts_with(['/', ':']) { "HOST:PORT" } else { rest };
        let example = format!("`https://{rest}` is right, or `http://` if it has no TLS");
        return Err(format!("`{shown}` begins with neither `http://` nor `https://`; {example}"));
    }
    let (plain, login) = split_login(url);
    let host = plain.split_once("://").map_or("", |(_, host)| host);
    if host.is_empty() || host.starts_with(['/', ':', '?', '#']) {
        return Err(format!("`{shown}` has no host; {example}"));
    }
    if plain.contains('#') {
        return Err(format!("`{shown}` has a part behind `#`, which no server is told; {example}"));
    }
    if let Some(Err(problem)) = login.map(|login| login.authorization()) {
        return Err(format!("`{shown}` has a login that cannot be read: {problem}"));
    }
    match plain.parse::<axum::http::Uri>() {
        Ok(uri) => match uri.authority() {
            Some(all) if all.port_u16().is_none() && all.as_str() != all.host() => {
                Err(format!("`{shown}` is no URL: its port is no number; {example}"))
            }
            Some(_) | None => Ok(()),
        },
        Err(problem) => Err(format!("`{shown}` is no URL: {problem}; {example}")),
    }
}

/// Checks `host:port` without looking the name up: a backend may come up later.
pub(super) fn host_and_port(text: &str) -> Result<(), String> {
    if let Some((_, host)) = text.rsplit_once('@') {
        return Err(format!("`***@{host}` has a login, which is not used"));
    }
    if let Some(odd) = text.chars().find(|c| c.is_whitespace() || "/?#".contains(*c)) {
        return Err(format!("`{text}` has more than a host and a port: `{odd}`"));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(()),
        Some(("", _)) => Err(format!("`{text}` has no host")),
        Some((_, port)) => Err(format!("`{port}` is no port")),
        None => Err(format!("`{text}` has no port")),
    }
}
