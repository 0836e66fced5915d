//! Answers that go on: lines, as they come.

use std::future::Future;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use tokio::sync::mpsc;

use super::Api;

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
    let (sender, mut receiver) = mpsc::channel(64);
    let writing = write(Lines { sender: sender.clone() });
    tokio::spawn(async move {
        tokio::select! {
            _ = writing => {}
            () = sender.closed() => {}
            () = api.stop.cancelled() => {}
        }
    });
    let body = Body::from_stream(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)));
    ([(CONTENT_TYPE, kind)], body).into_response()
}
