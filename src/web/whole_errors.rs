//! Errors that hyper sends by itself, for a request that it cannot read: they come without a body, and this gives them one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use hyper::rt::{Read, ReadBufCursor, Write};

use super::{code, line, message};

/// Longest head that hyper sends with such an error, in bytes.
const MOST_HEAD: usize = 256;

/// A connection on whose way out errors without a body get the one that is promised.
#[derive(Debug)]
pub struct WholeErrors<T> {
    inner: T,
    /// What takes the place of an error, as far as it is not sent yet.
    pending: Vec<u8>,
}

impl<T> WholeErrors<T> {
    /// Over a connection.
    pub fn new(inner: T) -> WholeErrors<T> {
        WholeErrors { inner, pending: Vec::new() }
    }
}

/// The whole error, if this is one of hyper's: a head that is sent alone.
fn whole(sent: &[u8]) -> Option<Vec<u8>> {
    if sent.len() > MOST_HEAD || !sent.starts_with(b"HTTP/1.1 4") {
        return None;
    }
    let head = std::str::from_utf8(sent).ok()?.strip_suffix("\r\n\r\n")?;
    if head.contains("\r\n\r\n") || !head.contains("\r\ncontent-length: 0") {
        return None;
    }
    let status = StatusCode::from_bytes(head.as_bytes().get(9..12)?).ok()?;
    let body = line(&serde_json::json!({"error": {"code": code(status), "message": message(status)}}));
    let length = format!("\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
    let head = head.replacen("\r\ncontent-length: 0", &length, 1);
    Some([head.as_bytes(), b"\r\n\r\n", &body].concat())
}

impl<T: Write + Unpin> WholeErrors<T> {
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.pending))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Read + Unpin> Read for WholeErrors<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for WholeErrors<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(cx))?;
        if let Some(whole) = whole(buf) {
            // It is sent by the flush that follows every head.
            self.pending = whole;
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [one] = bufs {
            return self.poll_write(cx, one);
        }
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_a_body_gets_one_and_nothing_else_does() {
        let head =
            "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let whole_head = String::from_utf8(whole(head.as_bytes()).expect("an error")).expect("text");
        let (head_of_whole, body) = whole_head.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head_of_whole.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{whole_head}");
        assert!(body.starts_with("{\"error\":{\"code\":\"headers_too_large\",") && body.ends_with("}\n"), "{body}");
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 10\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n",
        ] {
            assert_eq!(whole(other.as_bytes()), None, "{other}");
        }
    }
}
