//! Answers that go on, as they come.

use futures_util::{Stream, StreamExt as _};
use reqwest::Response;
use serde_json::Value;

use super::ClientError;

/// What a watched thing is after a change.
pub(super) enum Change {
    /// There: new, or another than before.
    Now,
    /// Gone.
    Gone,
}

/// What a watch tells, as it comes.
pub(super) fn changes(response: Response) -> impl Stream<Item = Result<(Change, Value), ClientError>> {
    lines(response).map(|line| {
        let mut line = line?;
        let body = line["object"].take();
        match line["type"].as_str() {
            Some("ADDED" | "MODIFIED") => Ok((Change::Now, body)),
            Some("DELETED") => Ok((Change::Gone, body)),
            // A `Status`, as Kubernetes has it.
            _ => Err(ClientError::Refused {
                code: body["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500),
                reason: body["reason"].as_str().unwrap_or("Unknown").to_owned(),
                message: format!(
                    "the watch ended: {}",
                    body["message"].as_str().unwrap_or("no reason is given")
                ),
            }),
        }
    })
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
