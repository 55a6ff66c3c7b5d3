//! Stylesheets and scripts of the pages, which are part of the program. They hold no data, so everybody may read them.
//!
//! A page links to `/assets/NAME?v=VERSION`; the version is that of all of them together, so that what is cached under such a
//! URL never changes. Modules that import each other by `./NAME` are given the version as well.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{Context, SHA256};

use crate::web::{self, FromGiven, Given, Parameters, error, takes_gzip};

use super::caching;

/// Names and contents; the ending of a name says what it is.
const FILES: [(&str, &[u8]); 23] = [
    ("chart.js", include_bytes!("assets/chart.js")),
    ("charts.js", include_bytes!("assets/charts.js")),
    ("draw.js", include_bytes!("assets/draw.js")),
    ("format.js", include_bytes!("assets/format.js")),
    ("history.js", include_bytes!("assets/history.js")),
    ("icon.svg", include_bytes!("assets/icon.svg")),
    ("ids.js", include_bytes!("assets/ids.js")),
    ("keys.js", include_bytes!("assets/keys.js")),
    ("live.js", include_bytes!("assets/live.js")),
    ("main.js", include_bytes!("assets/main.js")),
    ("pins.js", include_bytes!("assets/pins.js")),
    ("pointer.js", include_bytes!("assets/pointer.js")),
    ("points.js", include_bytes!("assets/points.js")),
    ("scale.js", include_bytes!("assets/scale.js")),
    ("spark.js", include_bytes!("assets/spark.js")),
    ("state.js", include_bytes!("assets/state.js")),
    ("stream.js", include_bytes!("assets/stream.js")),
    ("style.css", include_bytes!("assets/style.css")),
    ("table.js", include_bytes!("assets/table.js")),
    ("tail.js", include_bytes!("assets/tail.js")),
    ("theme.js", include_bytes!("assets/theme.js")),
    ("times.js", include_bytes!("assets/times.js")),
    ("url.js", include_bytes!("assets/url.js")),
];

/// Bytes of the digest in a version.
const VERSION_BYTES: usize = 8;

/// Longest time that a browser keeps a version: a year, as RFC 9111 takes it for "always".
const ALWAYS: &str = "public, max-age=31536000, immutable";

struct Asset {
    kind: &'static str,
    plain: Bytes,
    gzipped: Bytes,
    url: String,
}

struct Assets {
    version: String,
    by_name: BTreeMap<&'static str, Asset>,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets::new(&FILES));

impl Assets {
    fn new(files: &'static [(&'static str, &'static [u8])]) -> Assets {
        let mut digest = Context::new(&SHA256);
        for (name, contents) in files {
            digest.update(name.as_bytes());
            digest.update(&contents.len().to_le_bytes());
            digest.update(contents);
        }
        let version = web::hex(&digest.finish().as_ref()[..VERSION_BYTES]);
        let by_name = files.iter().map(|(name, contents)| {
            let is_script = name.ends_with(".js");
            let plain = if is_script { with_versions(contents, files, &version) } else { Bytes::from_static(contents) };
            let kind = match name.rsplit('.').next() {
                Some("css") => "text/css; charset=utf-8",
                Some("js") => "text/javascript; charset=utf-8",
                Some("svg") => "image/svg+xml",
                _ => "application/octet-stream",
            };
            (*name, Asset { kind, gzipped: gzipped(&plain), plain, url: format!("/assets/{name}?v={version}") })
        });
        Assets { by_name: by_name.collect(), version }
    }
}

/// A module whose imports of others have their version.
fn with_versions(contents: &[u8], files: &[(&str, &[u8])], version: &str) -> Bytes {
    let mut text = String::from_utf8_lossy(contents).into_owned();
    for (name, _) in files {
        for quote in ['"', '\''] {
            text = text.replace(&format!("{quote}./{name}{quote}"), &format!("{quote}./{name}?v={version}{quote}"));
        }
    }
    text.into()
}

fn gzipped(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // It writes to memory, where nothing fails.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default().into()
}

/// Where a page finds one of them.
pub(super) fn url(name: &str) -> &'static str {
    ASSETS.by_name.get(name).map_or("/assets/", |asset| &asset.url)
}

/// The same of one that there may not be.
pub(super) fn known(name: &str) -> Option<&'static str> {
    ASSETS.by_name.get(name).map(|asset| &*asset.url)
}

/// The version of all.
pub(super) fn version() -> &'static str {
    &ASSETS.version
}

pub(super) struct Wanted {
    version: Option<String>,
}

impl FromGiven for Wanted {
    const NAMES: &'static [&'static str] = &["v"];

    fn from_given(given: &Given) -> Result<Wanted, String> {
        Ok(Wanted { version: given.text("v").map(String::from) })
    }
}

/// A stylesheet or a script of the pages
#[utoipa::path(
    get,
    path = "/assets/{name}",
    params(
        ("name" = String, Path, description = "Its name; a page has those that there are"),
        ("v" = Option<String>, Query, description = "A version; under the present one it never changes"),
    ),
    responses(
        (status = 200, description = "Its content", content_type = "text/css"),
        (status = 304, description = "What `If-None-Match` names is still right"),
    ),
)]
pub(super) async fn asset(
    Path(name): Path<String>,
    Parameters(wanted): Parameters<Wanted>,
    headers: HeaderMap,
) -> Response {
    let Some(asset) = ASSETS.by_name.get(&*name) else {
        return error(StatusCode::NOT_FOUND, "not_found", "there is no such file; a page names those that there are");
    };
    // Who asks for another version gets this one, and has to ask again.
    let is_version = wanted.version.as_deref() == Some(version());
    let lifetime = if is_version { ALWAYS } else { caching::ASK_AGAIN };
    let tag = caching::tag(&[version()]);
    if let Some(mut unchanged) = caching::unchanged(&headers, &tag) {
        unchanged.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(lifetime));
        return unchanged;
    }
    let is_gzipped = takes_gzip(&headers);
    let body = if is_gzipped { &asset.gzipped } else { &asset.plain };
    let mut response = ([(header::CONTENT_TYPE, asset.kind)], body.clone()).into_response();
    caching::mark(&mut response, &tag, lifetime);
    if is_gzipped {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/assets");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        there.sort();
        let served: Vec<&str> = ASSETS.by_name.keys().copied().collect();
        assert_eq!(served, there);
        for (name, asset) in &ASSETS.by_name {
            assert_ne!(asset.kind, "application/octet-stream", "{name}");
        }
    }

    #[test]
    fn modules_import_others_with_their_version() {
        static FILES: [(&str, &[u8]); 2] = [
            ("a.js", b"import { x } from \"./b.js\";\nimport './b.js';\nlet y = \"b.js\";"),
            ("b.js", b"export let x;"),
        ];
        let assets = Assets::new(&FILES);
        let v = &assets.version;
        let expected = format!("import {{ x }} from \"./b.js?v={v}\";\nimport './b.js?v={v}';\nlet y = \"b.js\";");
        assert_eq!(assets.by_name["a.js"].plain, expected);
        assert_eq!(assets.by_name["b.js"].url, format!("/assets/b.js?v={v}"));
    }
}
