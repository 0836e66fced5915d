//! Where objects come from: how those directories and repositories are, and what can be asked of them.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde_json::json;

use super::Api;
use super::audit::About;
use super::body::Sent;
use super::error::ApiError;
use crate::api::source::SourceRequest;
use crate::gitops::Refusal;

/// The sources, and how they are.
pub(super) async fn list(State(api): State<Api>) -> Response {
    Json(json!({"items": api.sources.statuses()})).into_response()
}

/// Asks something of a source: to pause, to go on, to look now, to let objects go. Says how it is afterwards.
pub(super) async fn ask(State(api): State<Api>, Sent(request): Sent) -> Result<Response, ApiError> {
    let request: SourceRequest = serde_json::from_value(request)
        .map_err(|error| ApiError::bad_request(format!("nothing can be asked so of a source: {error}")))?;
    let SourceRequest { source, action, digest } = &request;
    let action = json!(action);
    let set = digest.as_ref().map(|digest| format!(" of {digest}")).unwrap_or_default();
    let what = format!("source {source}: {}{set}", action.as_str().unwrap_or_default());
    let status = api.sources.ask(request).await.map_err(|refusal| match refusal {
        Refusal::Unknown(_) => ApiError::not_found(refusal.to_string()),
        Refusal::Conflict(message) => ApiError::conflict(message),
    })?;
    Ok((Extension(About::of(what)), Json(status)).into_response())
}
