//! Answers that are only read as far as they may be long: what answers may not be what it should be.

use futures_util::StreamExt as _;
use reqwest::Response;
use serde::de::DeserializeOwned;

use super::{RayError, unavailable};

/// An answer in JSON of a few numbers or of the reason for a refusal.
pub(super) const SHORT: usize = 1 << 20;
/// Everything that an agent observes: a few kilobytes for each node and each job, of which there may be thousands.
pub(super) const STATE: usize = 64 << 20;
/// A package of the largest size that Ray takes, and a little more.
pub(super) const PACKAGE: usize = 101 << 20;

/// An answer's bytes, if they are no more than they may be.
pub(super) async fn bytes(response: Response, most: usize) -> Result<Vec<u8>, RayError> {
    let (url, status) = (response.url().to_string(), response.status().as_u16());
    let mut read = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| unavailable(&url, &error))?;
        if read.len() + chunk.len() > most {
            let reason = format!("its answer is longer than {most} bytes");
            return Err(RayError::Rejected { url, status, reason });
        }
        read.extend_from_slice(&chunk);
    }
    Ok(read)
}

/// An answer in JSON.
pub(super) async fn json<T: DeserializeOwned>(response: Response, most: usize) -> Result<T, RayError> {
    let (url, status) = (response.url().to_string(), response.status().as_u16());
    let bytes = bytes(response, most).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let reason = error.to_string();
        RayError::Rejected { url, status, reason }
    })
}

/// The beginning of an answer that is only looked at.
pub(super) async fn beginning(response: Response) -> String {
    let mut read = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(Ok(chunk)) = chunks.next().await {
        read.extend_from_slice(&chunk);
        if read.len() > SHORT {
            break;
        }
    }
    read.truncate(SHORT);
    String::from_utf8_lossy(&read).into_owned()
}
