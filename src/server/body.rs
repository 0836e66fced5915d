//! The body of a request: a value, as JSON or as YAML; a question about access also as protobuf.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use super::access::route;
use super::error::ApiError;
use super::review_proto;
use super::rights::is_question;
use crate::manifest;
use crate::store::blocking;

/// A value that was sent. Who does not say what it is sends JSON.
pub(super) struct Sent(pub(super) Value);

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let given = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let given = given.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim().to_owned();
        let read: fn(&Bytes) -> Result<Value, ApiError> = match given.as_str() {
            "" | "application/json" => json,
            "application/yaml" => yaml,
            "application/vnd.kubernetes.protobuf" if is_question(request.method(), route(&request)) => {
                protobuf
            }
            other => {
                let message = format!("what is sent is application/json or application/yaml, not {other}");
                return Err(ApiError::unsupported(message).into_response());
            }
        };
        let bytes =
            Bytes::from_request(request, state).await.map_err(axum::response::IntoResponse::into_response)?;
        // Some of it takes its time.
        blocking(move || read(&bytes)).await.map(Self).map_err(axum::response::IntoResponse::into_response)
    }
}

/// Reads JSON.
pub(super) fn json(bytes: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| unreadable(&error.to_string()))
}

/// Reads YAML.
pub(super) fn yaml(bytes: &Bytes) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| unreadable(&error.to_string()))?;
    manifest::read_value(text).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        unreadable(&lines.join("; "))
    })
}

fn protobuf(bytes: &Bytes) -> Result<Value, ApiError> {
    review_proto::decode(bytes).map_err(|error| unreadable(&error))
}

fn unreadable(why: &str) -> ApiError {
    ApiError::bad_request(format!("what was sent cannot be read: {why}"))
}
