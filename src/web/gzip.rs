//! Answers compressed on their way out, for clients that take gzip. The state of a compressor is large against a piece, so
//! few answers are compressed at a time: those beyond are sent as they are.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::memory::Holding;

use super::{Bodies, PIECE};

/// Most answers that are compressed at a time.
const MOST: usize = 16;

/// Bytes of the state of a compressor.
const STATE: u64 = 320 << 10;

/// Answers that are known to be shorter are sent as they are.
const WORTH_IT: u64 = 1024;

/// Compresses answers. Clones are the same.
#[derive(Clone, Debug)]
pub struct Gzip {
    places: Arc<Semaphore>,
    holding: Arc<Holding>,
}

impl Gzip {
    /// What it holds counts with these bodies.
    pub fn new(bodies: &Bodies) -> Gzip {
        Gzip { places: Arc::new(Semaphore::new(MOST)), holding: Arc::new(bodies.holding()) }
    }
}

/// Whether `Accept-Encoding` names gzip and does not rule it out (RFC 9110, 12.5.3).
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut codings = all.flat_map(|value| value.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f64>);
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_ok_and(|weight| weight > 0.0)
    })
}

/// Whether an answer is text that comes to an end. A stream would wait for the compressor.
fn is_worth_it(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    let is_text = (kind.starts_with("text/") && kind != "text/event-stream")
        || matches!(kind, "application/json" | "application/openmetrics-text");
    is_text
        && !response.headers().contains_key(header::CONTENT_ENCODING)
        && response.body().size_hint().upper().is_none_or(|length| length >= WORTH_IT)
}

/// A middleware: compresses what the routes answer.
pub async fn compressed(State(gzip): State<Gzip>, request: Request, next: Next) -> Response {
    let is_wanted = request.method() != Method::HEAD && takes_gzip(request.headers());
    let mut response = next.run(request).await;
    if !is_worth_it(&response) {
        return response;
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    let place = if is_wanted { Arc::clone(&gzip.places).try_acquire_owned().ok() } else { None };
    let Some(place) = place else { return response };
    gzip.holding.add(STATE);
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.map(|inner| {
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        Body::new(GzipBody { inner, encoder: Some(encoder), held: Held { holding: gzip.holding, _place: place } })
    })
}

/// The place of a compressor.
struct Held {
    holding: Arc<Holding>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.holding.sub(STATE);
    }
}

/// A body that is compressed while it is read.
struct GzipBody {
    inner: Body,
    /// `None` when all is written.
    encoder: Option<GzEncoder<Vec<u8>>>,
    #[expect(dead_code, reason = "it is given back when the body is dropped")]
    held: Held,
}

impl HttpBody for GzipBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        loop {
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            let piece = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let rest = this.encoder.take().map_or_else(|| Ok(Vec::new()), GzEncoder::finish);
                    return Poll::Ready(Some(rest.map(|rest| Frame::data(rest.into())).map_err(axum::Error::new)));
                }
            };
            let written: io::Result<()> = encoder.write_all(&piece);
            if let Err(error) = written {
                return Poll::Ready(Some(Err(axum::Error::new(error))));
            }
            // Several pieces are one when they are compressed, but nobody waits for many.
            if encoder.get_ref().len() >= PIECE / 8 {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(encoder.get_mut()).into()))));
            }
        }
    }
}
