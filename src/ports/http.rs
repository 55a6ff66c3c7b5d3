//! HTTP on a port.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::web::{PIECE, Peer, WholeErrors};

use super::connection::{Answering, Slot};
use super::listener::Port;

/// Longest wait for the first request of a connection when the port stops: it has been sent, most likely.
const FIRST_REQUEST: Duration = Duration::from_millis(100);

/// Serves routes until `stop` turns true; then connections end with the request that they are at, or with their first one.
pub async fn serve_http(port: &Port, listener: &TcpListener, routes: Router, stop: watch::Receiver<bool>) {
    let routes = TowerToHyperService::new(routes);
    let mut http = http1::Builder::new();
    // The port knows what takes too long.
    http.header_read_timeout(None).max_buf_size(PIECE);
    let stopped = stop.clone();
    port.serve(listener, stop, move |connection| {
        let begun = Arc::new(Notify::new());
        let service = Tracked { routes: routes.clone(), slot: connection.slot(), begun: Arc::clone(&begun) };
        let connection = http.serve_connection(WholeErrors::new(TokioIo::new(connection)), service);
        let mut stop = stopped.clone();
        async move {
            let mut connection = std::pin::pin!(connection);
            // That a client went away, or sent no HTTP, is its business.
            tokio::select! {
                _ = connection.as_mut() => return,
                // An error means that whoever could stop us is gone, which is a stop too.
                _ = stop.wait_for(|stop| *stop) => {}
            }
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = timeout(FIRST_REQUEST, begun.notified()) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }
    })
    .await;
}

/// Routes that tell how far a request is.
struct Tracked {
    routes: TowerToHyperService<Router>,
    slot: Arc<Slot>,
    /// A request has come.
    begun: Arc<Notify>,
}

impl Service<Request<Incoming>> for Tracked {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.begun.notify_one();
        request.extensions_mut().insert(Peer(self.slot.from.ip()));
        let answering = self.slot.begin(!request.body().is_end_stream());
        let slot = Arc::clone(answering.slot());
        let answer = self.routes.call(request.map(|inner| Body::new(RequestBody { inner, slot })));
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|inner| AnswerBody { inner, _answering: answering }))
        })
    }
}

/// The body of a request, which tells when it is here.
struct RequestBody {
    inner: Incoming,
    slot: Arc<Slot>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) || self.inner.is_end_stream() {
            self.slot.progress().body_is_here(Instant::now());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.slot.progress().body_is_here(Instant::now());
    }
}

/// The body of an answer; the request is answered when it is dropped.
struct AnswerBody {
    inner: Body,
    _answering: Answering,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
