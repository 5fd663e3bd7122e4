//! A stream that gives up on a peer that does not read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};

/// A Unix stream on which a write may wait only so long.
#[derive(Debug)]
pub(super) struct Patient {
    stream: UnixStream,
    patience: Duration,
    /// When the write that waits has waited long enough.
    ends: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(super) fn new(stream: UnixStream, patience: Duration) -> Self {
        Self { stream, patience, ends: None }
    }

    /// The stream itself.
    pub(super) fn into_inner(self) -> UnixStream {
        self.stream
    }

    fn bound<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.ends = None;
            return polled;
        }
        let patience = self.patience;
        let ends = self.ends.get_or_insert_with(|| Box::pin(sleep(patience)));
        match ends.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound(polled, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.bound(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test(flavor = "current_thread")]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (ours, _silent) = UnixStream::pair().unwrap();
        let mut ours = Patient::new(ours, Duration::from_millis(50));
        // More than any socket's buffer takes.
        let much = vec![0; 16 << 20];
        let error = ours.write_all(&much).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // One that reads, however slowly, is waited for.
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = Patient::new(ours, Duration::from_millis(500));
        let reader = tokio::spawn(async move {
            let mut count = 0;
            let mut bytes = vec![0; 64 << 10];
            while let Ok(more @ 1..) = tokio::io::AsyncReadExt::read(&mut theirs, &mut bytes).await
            {
                count += more;
                sleep(Duration::from_millis(2)).await;
            }
            count
        });
        ours.write_all(&much[..1 << 20]).await.unwrap();
        drop(ours);
        assert_eq!(reader.await.unwrap(), 1 << 20);
    }
}
