//! Answers that go on: lines, as they come, for as long as whoever reads them may.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::access::OWNER;
use super::error::ApiError;

/// How many answers may go on at once for a token that was given out; so none takes all connections. The state
/// directory's own is for whoever could as well end the controller.
const MOST: usize = 100;

/// Of an answer that goes on: how it is ended, and whether it has.
#[derive(Clone)]
pub(super) struct Stream {
    over: CancellationToken,
}

impl Stream {
    pub(super) fn end(&self) {
        self.over.cancel();
    }
}

/// The answers that go on, by the name of the token that they are for.
#[derive(Clone, Default)]
pub(super) struct Streams {
    of: Arc<Mutex<BTreeMap<String, Vec<Stream>>>>,
}

impl Streams {
    /// Notes that an answer goes on, or ends it if there are too many.
    pub(super) fn begin(&self, name: &str, stream: &Stream) -> Result<(), ApiError> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let going = of.entry(name.to_owned()).or_default();
        going.retain(|stream| !stream.over.is_cancelled());
        if going.len() >= MOST && name != OWNER {
            stream.end();
            return Err(ApiError::too_many(format!("the token {name} watches {MOST} things already")));
        }
        going.push(stream.clone());
        Ok(())
    }

    /// Ends all answers for a token.
    pub(super) fn end(&self, name: &str) {
        let going = self.of.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        going.iter().flatten().for_each(Stream::end);
    }
}

/// Where a stream's lines go.
pub(super) struct Lines {
    sender: mpsc::Sender<Result<Bytes, std::convert::Infallible>>,
}

impl Lines {
    /// Sends one value as a line; `None` when nobody listens any more.
    pub(super) async fn send(&self, value: &Value) -> Option<()> {
        self.text(format!("{value}\n")).await
    }

    /// Sends a text as it is; `None` when nobody listens any more.
    pub(super) async fn text(&self, text: impl Into<Bytes>) -> Option<()> {
        self.sender.send(Ok(text.into())).await.ok()
    }
}

/// Where lines go, and where they come out.
pub(super) fn channel() -> (Lines, mpsc::Receiver<Result<Bytes, std::convert::Infallible>>) {
    let (sender, receiver) = mpsc::channel(64);
    (Lines { sender }, receiver)
}

/// An answer of values, one a line, that goes on until the writer ends, the reader leaves or the server stops.
pub(super) fn stream_lines<F>(api: Api, write: impl FnOnce(Lines) -> F) -> Response
where
    F: Future<Output = Option<()>> + Send + 'static,
{
    stream(api, "application/json", write)
}

/// The same, of whatever is said to be in it.
pub(super) fn stream<F>(api: Api, kind: &'static str, write: impl FnOnce(Lines) -> F) -> Response
where
    F: Future<Output = Option<()>> + Send + 'static,
{
    let (lines, mut receiver) = channel();
    let sender = lines.sender.clone();
    let writing = write(lines);
    let stream = Stream { over: CancellationToken::new() };
    let over = stream.over.clone();
    tokio::spawn(async move {
        let _over = over.clone().drop_guard();
        tokio::select! {
            _ = writing => {}
            () = sender.closed() => {}
            () = over.cancelled() => {}
            () = api.stop.cancelled() => {}
        }
    });
    let body = Body::from_stream(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)));
    ([(CONTENT_TYPE, kind)], Extension(stream), body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_watches_so_much_and_until_it_is_taken_back() {
        let streams = Streams::default();
        let begin = |name: &str| {
            let stream = Stream { over: CancellationToken::new() };
            streams.begin(name, &stream).map(|()| stream)
        };
        let going: Vec<Stream> = (0..MOST).flat_map(|_| begin("a")).collect();
        assert!(going.len() == MOST && begin("a").is_err());
        assert!((0..=MOST).all(|_| begin(OWNER).is_ok()));
        let other = begin("b");
        going.iter().take(1).for_each(Stream::end);
        assert!(begin("a").is_ok(), "those that are over are not counted");
        streams.end("a");
        assert!(going.iter().all(|stream| stream.over.is_cancelled()));
        assert!(other.is_ok_and(|stream| !stream.over.is_cancelled()));
    }
}
