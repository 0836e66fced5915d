//! What a change would come to: asked of whoever plans, before anything is done.

use std::path::Path;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request, State};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use tokio::sync::oneshot;

use super::Api;
use super::error::ApiError;
use crate::api::meta::DEFAULT_NAMESPACE;
use crate::api::object::AnyObject;
use crate::api::review::{ObjectName, Proposal, Review};
use crate::manifest::{self, Problem};
use crate::store::{StoreError, blocking};

/// More objects than this are not looked at together.
const MOST_OBJECTS: usize = 10_000;
/// Nor more values than such objects have: as values, a little text can be large.
const MOST_VALUES: usize = 2_000_000;
/// How long what is sent may take to come, while others wait.
const ARRIVAL: Duration = Duration::from_secs(60);

/// What whoever plans is asked.
pub struct Question {
    /// The objects that would be applied.
    pub objects: Vec<AnyObject>,
    /// Those that would be deleted.
    pub deletions: Vec<ObjectName>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Review, StoreError>>,
}

pub(super) async fn plan(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let Some(planner) = &api.planner else {
        return Err(ApiError::not_found("nobody plans here"));
    };
    let gone = || ApiError::internal("the controller is stopping");
    // Before it comes: who waits for room takes none.
    let _room = api.proposals.acquire().await.map_err(|_| gone())?;
    let read = tokio::time::timeout(ARRIVAL, Bytes::from_request(request, &())).await;
    let body = match read.map_err(|_| ApiError::bad_request("what was sent took too long to come"))? {
        Ok(body) => body,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    let packages = api.state.join("packages");
    let (objects, deletions) = blocking(move || proposal(&body, &packages)).await?;
    let (answer, answered) = oneshot::channel();
    planner.send(Question { objects, deletions, answer }).await.map_err(|_| gone())?;
    Ok(Json(answered.await.map_err(|_| gone())??).into_response())
}

/// What is proposed.
fn proposal(body: &Bytes, packages: &Path) -> Result<(Vec<AnyObject>, Vec<ObjectName>), ApiError> {
    let unreadable = |error: serde_json::Error| ApiError::bad_request(error.to_string());
    manifest::Room::of(MOST_VALUES)
        .take(&mut serde_json::Deserializer::from_slice(body))
        .map_err(unreadable)?;
    let Proposal { objects, deletions } = serde_json::from_slice(body).map_err(unreadable)?;
    if objects.len() + deletions.len() > MOST_OBJECTS {
        return Err(ApiError::bad_request(format!("more than {MOST_OBJECTS} objects at once")));
    }
    let objects = read(packages, objects).map_err(|problems| ApiError::invalid(&problems))?;
    Ok((objects, deletions))
}

/// Reads the objects. That their packages are here is not asked: they come when it is done.
fn read(packages: &Path, objects: Vec<Value>) -> Result<Vec<AnyObject>, Vec<Problem>> {
    let (mut read, mut problems) = (Vec::new(), Vec::new());
    for object in objects {
        let admitted = manifest::read_json(object, DEFAULT_NAMESPACE, None)
            .and_then(|manifest| manifest.admit(packages));
        match admitted {
            Ok(object) => read.push(object),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(read) } else { Err(problems) }
}
