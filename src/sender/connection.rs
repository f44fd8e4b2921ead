//! One connection to a receiver: a stream that counts its bytes, and its data for attempts.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper_util::client::legacy::connect::{Connected, Connection};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::wire_meter::{WireError, WireMeter};

/// Maximum number of reads in a row before a connection yields to others.
const READS_IN_A_ROW: u32 = 16;

/// A connection as seen by the attempts that use it one after the other.
#[derive(Debug)]
pub(super) struct ConnectionInfo {
    /// The attempt that opened it.
    pub(super) opened_by: u64,
    /// Address of the receiver.
    pub(super) remote: SocketAddr,
    /// Time from which it is no longer reused.
    pub(super) retire_at: Instant,
    meter: Mutex<WireMeter>,
}

impl ConnectionInfo {
    pub(super) fn new(opened_by: u64, remote: SocketAddr, retire_at: Instant) -> Self {
        Self {
            opened_by,
            remote,
            retire_at,
            meter: Mutex::new(WireMeter::new()),
        }
    }

    pub(super) fn meter(&self) -> MutexGuard<'_, WireMeter> {
        // The meter is consistent after every call, so a panic elsewhere cannot leave it half
        // updated.
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The underlying stream, with or without TLS.
pub(super) enum UnderlyingStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection with its bytes counted by a [`WireMeter`].
pub(super) struct MeteredStream {
    io: UnderlyingStream,
    info: Arc<ConnectionInfo>,
    reads: u32,
}

impl MeteredStream {
    pub(super) fn new(io: UnderlyingStream, info: Arc<ConnectionInfo>) -> Self {
        Self { io, info, reads: 0 }
    }

    /// Checks right before a request's first byte if the receiver has closed the connection or sent
    /// data: a byte at that point cannot be a response to the request.
    fn poll_before_request(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.info.meter().is_between_requests() {
            return Poll::Ready(Ok(()));
        }
        let looked = match &mut self.io {
            UnderlyingStream::Plain(tcp) => peek(tcp).map(|found| found.map(|bytes| bytes > 0)),
            UnderlyingStream::Tls(session) => ready!(poll_session(session, cx)),
        };
        let error = match looked {
            Ok(None) => return Poll::Ready(Ok(())),
            Ok(Some(false)) => io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the receiver had closed the connection",
            ),
            Ok(Some(true)) => io::Error::other(WireError::Unsolicited),
            Err(error) => error,
        };
        self.info.meter().note_closed_before_request();
        Poll::Ready(Err(error))
    }

    /// Notes a failed write at a request's first byte: nothing of the request was sent.
    fn note_write(&self, result: io::Result<usize>) -> io::Result<usize> {
        if result.is_err() && self.info.meter().is_between_requests() {
            self.info.meter().note_closed_before_request();
        }
        result
    }
}

/// Asks the system, not the runtime's cached state, for the bytes waiting on a socket: `None` if it
/// is open without any, 0 if it was closed.
fn peek(tcp: &TcpStream) -> io::Result<Option<usize>> {
    let mut byte = [MaybeUninit::uninit(); 1];
    match SockRef::from(tcp).peek(&mut byte) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Does the same as [`peek`] for a TLS session: true for data, false for its end. Session tickets
/// and the like are consumed here and count as neither.
fn poll_session(
    session: &mut TlsStream<TcpStream>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<bool>>> {
    let mut byte = [0; 1];
    let mut buffer = ReadBuf::new(&mut byte);
    match Pin::new(&mut *session).poll_read(cx, &mut buffer) {
        Poll::Ready(Ok(())) => Poll::Ready(Ok(Some(!buffer.filled().is_empty()))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => match peek(session.get_ref().0) {
            // The runtime has not noticed yet that there are bytes to read.
            Ok(Some(bytes)) if bytes > 0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(Some(_)) => Poll::Ready(Ok(Some(false))),
            Ok(None) => Poll::Ready(Ok(None)),
            Err(error) => Poll::Ready(Err(error)),
        },
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.reads >= READS_IN_A_ROW {
            this.reads = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = match &mut this.io {
            UnderlyingStream::Plain(io) => Pin::new(io).poll_read(cx, buffer),
            UnderlyingStream::Tls(io) => Pin::new(io.as_mut()).poll_read(cx, buffer),
        };
        if read.is_pending() {
            this.reads = 0;
        }
        ready!(read)?;
        this.reads += 1;
        Poll::Ready(
            this.info
                .meter()
                .read(&buffer.filled()[before..])
                .map_err(io::Error::other),
        )
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_before_request(cx))?;
        let wrote = ready!(match &mut this.io {
            UnderlyingStream::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            UnderlyingStream::Tls(io) => Pin::new(io.as_mut()).poll_write(cx, bytes),
        });
        let wrote = this.note_write(wrote)?;
        this.info.meter().wrote(&bytes[..wrote]);
        Poll::Ready(Ok(wrote))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_before_request(cx))?;
        let wrote = ready!(match &mut this.io {
            UnderlyingStream::Plain(io) => Pin::new(io).poll_write_vectored(cx, slices),
            UnderlyingStream::Tls(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, slices),
        });
        let wrote = this.note_write(wrote)?;
        let mut left = wrote;
        let mut meter = this.info.meter();
        for slice in slices {
            let now = slice.len().min(left);
            meter.wrote(&slice[..now]);
            left -= now;
        }
        Poll::Ready(Ok(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            UnderlyingStream::Plain(io) => io.is_write_vectored(),
            UnderlyingStream::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            UnderlyingStream::Plain(io) => Pin::new(io).poll_flush(cx),
            UnderlyingStream::Tls(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            UnderlyingStream::Plain(io) => Pin::new(io).poll_shutdown(cx),
            UnderlyingStream::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }
}

impl Connection for MeteredStream {
    fn connected(&self) -> Connected {
        Connected::new().extra(Arc::clone(&self.info))
    }
}
