//! Errors as Kubernetes answers them: a `Status` object with a reason that programs may compare.

use axum::Json;
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_TYPE, WWW_AUTHENTICATE};
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
    /// Which object it is about.
    about: Option<Value>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), reason: None, causes: Vec::new(), about: None }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn no_such_address() -> Self {
        Self::not_found("no such address")
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub(super) fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, message)
    }

    pub(super) fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, message)
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
        let help =
            |problem: &Problem| problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        let lines: Vec<String> =
            problems.iter().map(|problem| format!("{problem}{}", help(problem))).collect();
        let cause =
            |problem: &Problem| cause(&problem.field, &format!("{}{}", problem.message, help(problem)));
        let causes = problems.iter().map(cause).collect();
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

    /// Fields that are somebody else's: who has them, and which.
    pub(super) fn managed_by_others(conflicts: &[(String, String)]) -> Self {
        let list: Vec<String> =
            conflicts.iter().map(|(manager, field)| format!("conflict with {manager:?}: {field}")).collect();
        let count = crate::api::words::count(conflicts.len(), "conflict");
        let message = format!("apply failed with {count}: {}", list.join(", "));
        let cause = |(manager, field): &(String, String)| {
            let message = format!("conflict with {manager:?}");
            json!({"reason": "FieldManagerConflict", "message": message, "field": field})
        };
        Self { causes: conflicts.iter().map(cause).collect(), ..Self::conflict(message) }
    }

    /// A version that is yet to come.
    pub(super) fn too_new(version: u64, newest: u64) -> Self {
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        let message = format!("resourceVersion {version} is yet to come: the newest is {newest}");
        Self { causes: vec![cause], ..Self::new(StatusCode::GATEWAY_TIMEOUT, message) }
    }

    pub(super) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    pub(super) fn expired(message: &str) -> Self {
        Self::new(StatusCode::GONE, format!("{message}; list again"))
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The same, about an object.
    pub(super) fn about(mut self, group: &str, plural: &str, name: &str) -> Self {
        self.about = Some(json!({"group": group, "kind": plural, "name": name}));
        self
    }

    /// The error as an object.
    pub(super) fn body(&self) -> Value {
        let mut body = json!({
            "apiVersion": "v1",
            "kind": "Status",
            "metadata": {},
            "status": "Failure",
            "reason": self.reason.unwrap_or_else(|| reason(self.status)),
            "message": self.message,
            "code": self.status.as_u16(),
        });
        if let Some(about) = &self.about {
            body["details"] = about.clone();
        }
        if !self.causes.is_empty() {
            body["details"]["causes"] = json!(self.causes);
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
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::NOT_ACCEPTABLE => "NotAcceptable",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
        StatusCode::CONFLICT => "Conflict",
        StatusCode::GONE => "Expired",
        StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "UnsupportedMediaType",
        StatusCode::UNPROCESSABLE_ENTITY => "Invalid",
        StatusCode::GATEWAY_TIMEOUT => "Timeout",
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
    let mut response = next.run(request).await;
    let status = response.status();
    // The rest of what was sent is not read: nothing more can come on this connection.
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
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
