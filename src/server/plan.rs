//! What a change would come to: asked of whoever plans, before anything is done.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use tokio::sync::oneshot;

use super::Api;
use super::error::ApiError;
use crate::api::meta::DEFAULT_NAMESPACE;
use crate::api::object::AnyObject;
use crate::api::review::{ObjectName, Proposal, Review};
use crate::manifest::{self, Problem};
use crate::store::StoreError;

/// More objects than this are not looked at together.
const MOST_OBJECTS: usize = 10_000;

/// What whoever plans is asked.
pub struct Question {
    /// The objects that would be applied.
    pub objects: Vec<AnyObject>,
    /// Those that would be deleted.
    pub deletions: Vec<ObjectName>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Review, StoreError>>,
}

pub(super) async fn plan(State(api): State<Api>, Json(body): Json<Value>) -> Result<Response, ApiError> {
    let proposal: Proposal =
        serde_json::from_value(body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let Some(planner) = &api.planner else {
        return Err(ApiError::not_found("nobody plans here"));
    };
    if proposal.objects.len() + proposal.deletions.len() > MOST_OBJECTS {
        return Err(ApiError::bad_request(format!("more than {MOST_OBJECTS} objects at once")));
    }
    let objects = read(&api, proposal.objects).map_err(|problems| ApiError::invalid(&problems))?;
    let (answer, answered) = oneshot::channel();
    let gone = || ApiError::internal("the controller is stopping");
    let question = Question { objects, deletions: proposal.deletions, answer };
    planner.send(question).await.map_err(|_| gone())?;
    Ok(Json(answered.await.map_err(|_| gone())??).into_response())
}

/// Reads the objects. That their packages are here is not asked: they come when it is done.
fn read(api: &Api, objects: Vec<Value>) -> Result<Vec<AnyObject>, Vec<Problem>> {
    let packages = api.state.join("packages");
    let (mut read, mut problems) = (Vec::new(), Vec::new());
    for object in objects {
        let admitted = manifest::read_json(object, DEFAULT_NAMESPACE, None)
            .and_then(|manifest| manifest.admit(&packages));
        match admitted {
            Ok(object) => read.push(object),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(read) } else { Err(problems) }
}
