//! Answers that go on, as they come.

use futures_util::{Stream, StreamExt as _};
use reqwest::{Method, Response};
use serde_json::Value;

use super::{Client, ClientError};

/// What a watched thing is after a change.
pub(super) enum Change {
    /// There: new, or another than before.
    Now,
    /// Gone.
    Gone,
}

/// What is watched: an address, and what of it.
pub(super) struct Watched {
    pub(super) path: String,
    pub(super) selector: (&'static str, String),
}

impl Watched {
    /// Begins after a version; with what there is, if that is empty.
    async fn begin(&self, client: &Client, since: &str) -> Result<Response, ClientError> {
        let query = [("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", since)];
        let request = client.request(Method::GET, &self.path).query(&query);
        client.send(request.query(&[(self.selector.0, &self.selector.1)])).await
    }

    /// What it tells, as it comes. A watch whose time is up says up to where it has told, and is begun again there.
    pub(super) async fn changes(
        self,
        client: Client,
    ) -> Result<impl Stream<Item = Result<(Change, Value), ClientError>> + use<>, ClientError> {
        let lines = Box::pin(lines(self.begin(&client, "").await?).fuse());
        let watch = (self, client, lines, None);
        Ok(futures_util::stream::unfold(watch, |(watched, client, mut lines, mut told)| async move {
            loop {
                let change = match lines.next().await {
                    Some(Ok(mut line)) if line["type"] == "BOOKMARK" => {
                        let version = line["object"]["metadata"]["resourceVersion"].take();
                        told = version.as_str().map(str::to_owned);
                        continue;
                    }
                    Some(line) => line.and_then(change),
                    // Else it was ended: the controller stops, or the token was taken back.
                    None => match watched.begin(&client, &told.take()?).await {
                        Ok(response) => {
                            lines = Box::pin(self::lines(response).fuse());
                            continue;
                        }
                        Err(ClientError::NoController { .. }) => return None,
                        Err(error) => Err(error),
                    },
                };
                return Some((change, (watched, client, lines, None)));
            }
        }))
    }
}

/// What a line of a watch tells.
fn change(mut line: Value) -> Result<(Change, Value), ClientError> {
    let body = line["object"].take();
    match line["type"].as_str() {
        Some("ADDED" | "MODIFIED") => Ok((Change::Now, body)),
        Some("DELETED") => Ok((Change::Gone, body)),
        // A `Status`, as Kubernetes has it.
        _ => Err(ClientError::Refused {
            code: body["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500),
            reason: body["reason"].as_str().unwrap_or("Unknown").to_owned(),
            message: format!("the watch ended: {}", body["message"].as_str().unwrap_or("no reason is given")),
        }),
    }
}

/// The lines of an answer, each a value of JSON, as they come.
pub(super) fn lines(response: Response) -> impl Stream<Item = Result<Value, ClientError>> {
    let chunks = Box::pin(response.bytes_stream());
    futures_util::stream::unfold((chunks, Vec::new()), |(mut chunks, mut buffer): (_, Vec<u8>)| async move {
        loop {
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let value =
                    serde_json::from_slice(&line).map_err(|error| ClientError::Broken(error.to_string()));
                return Some((value, (chunks, buffer)));
            }
            match chunks.next().await? {
                Ok(chunk) => buffer.extend_from_slice(&chunk),
                Err(error) => {
                    return Some((Err(ClientError::Broken(error.to_string())), (chunks, Vec::new())));
                }
            }
        }
    })
}
