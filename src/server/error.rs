//! Errors as Kubernetes answers them: a `Status` object with a reason that programs may compare.

use axum::Json;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::manifest::Problem;
use crate::store::StoreError;

/// What the framework says of a request that it refuses is never longer.
const LONGEST_REFUSAL: usize = 4096;

/// An error of the API.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    /// Where it differs from what the status says already.
    reason: Option<&'static str>,
    /// What is wrong with which fields.
    causes: Vec<Value>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), reason: None, causes: Vec::new() }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong")
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    }

    /// What is wrong with an object that was sent.
    pub(super) fn invalid(problems: &[Problem]) -> Self {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let causes = problems.iter().map(|problem| cause(&problem.field, &problem.message)).collect();
        Self { causes, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, lines.join("\n")) }
    }

    /// What is wrong with one field of an object that was sent.
    pub(super) fn invalid_field(field: &str, message: &str) -> Self {
        let causes = vec![cause(field, message)];
        Self { causes, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{field}: {message}")) }
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub(super) fn already_exists(message: impl Into<String>) -> Self {
        Self { reason: Some("AlreadyExists"), ..Self::conflict(message) }
    }

    pub(super) fn expired() -> Self {
        Self::new(StatusCode::GONE, "changes after that resourceVersion are not known; list again")
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Whether the object was another than the client, or the patch, took it for.
    pub(super) fn is_conflict(&self) -> bool {
        self.status == StatusCode::CONFLICT
    }

    /// The error as an object.
    pub(super) fn body(&self) -> Value {
        let mut body = json!({
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "reason": self.reason.unwrap_or_else(|| reason(self.status)),
            "message": self.message,
            "code": self.status.as_u16(),
        });
        if !self.causes.is_empty() {
            body["details"] = json!({"causes": self.causes});
        }
        body
    }
}

fn cause(field: &str, message: &str) -> Value {
    json!({"reason": "FieldValueInvalid", "field": field, "message": message})
}

/// The reasons of Kubernetes, as far as a status tells them
/// (<https://github.com/kubernetes/apimachinery/blob/master/pkg/apis/meta/v1/types.go>).
fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
        StatusCode::CONFLICT => "Conflict",
        StatusCode::GONE => "Expired",
        StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "UnsupportedMediaType",
        StatusCode::UNPROCESSABLE_ENTITY => "Invalid",
        StatusCode::INSUFFICIENT_STORAGE => "InsufficientStorage",
        _ => "InternalError",
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } | StoreError::Vanished { .. } => Self::conflict(error.to_string()),
            StoreError::Full { .. } => Self::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string()),
            other => Self::internal(other.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Makes a `Status` of what the framework refuses in plain words: bad JSON, too large a body, an unknown method.
pub(super) async fn as_status(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_ours = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let words = axum::body::to_bytes(body, LONGEST_REFUSAL).await.unwrap_or_default();
    let words = String::from_utf8_lossy(&words).into_owned();
    let known = status.canonical_reason().unwrap_or_default().to_lowercase();
    let error = ApiError::new(status, if words.is_empty() { known } else { words });
    let answer = error.into_response();
    // Such as `Allow`; but not what described the old body.
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    parts.headers.extend(answer.headers().clone());
    Response::from_parts(parts, answer.into_body())
}
