//! Whom the API lets in, and what for.
//!
//! The state directory's own token is its administrator's. Others are made with `rayconcile token create`, each for
//! one of three roles; of them only digests are kept.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, MatchedPath, Path, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::Api;
use super::audit::{About, Entry};
use super::body::Sent;
use super::connections::Stranger;
use super::error::ApiError;
use super::resource::GROUP;
use super::rights::needed;
use super::stream::Stream;
use crate::api::ids::Digest;
use crate::api::meta::name_problem;
use crate::api::token::{NewToken, Role, TokenView};

/// Whom the token in the state directory stands for.
pub(super) const OWNER: &str = "state-directory";

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The name of the token.
    pub(super) name: String,
    /// What it opens.
    pub(super) role: Role,
}

impl Caller {
    /// Refuses who may less than a role.
    pub(super) fn must_be(&self, role: Role, what: &str) -> Result<(), ApiError> {
        if self.role >= role {
            return Ok(());
        }
        let message = format!("the token {} has the role {}, and {what} needs {role}", self.name, self.role);
        Err(ApiError::forbidden(message))
    }
}

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(super) struct From {
    pub(super) address: SocketAddr,
    /// The place that its connection has until a token is shown on it.
    pub(super) stranger: Arc<Stranger>,
}

/// Lets in who has a token, for what its role allows, and has writes noted down.
pub(super) async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let entry = Entry::of(&request);
    let token = bearer(&request);
    let (caller, response) = match authenticate(&api, token.as_deref()).await {
        Ok(caller) => {
            if let Some(From { stranger, .. }) = request.extensions().get() {
                stranger.is_known();
            }
            let response = answer(&api, &caller, token.as_deref(), request, next).await;
            (Some(caller), response.unwrap_or_else(ApiError::into_response))
        }
        Err(refusal) => (None, refusal.into_response()),
    };
    if let Some(entry) = entry {
        api.audit.note(entry.answered(caller.as_ref(), &response)).await;
    }
    response
}

/// Answers somebody who is known, if the role allows what is asked.
async fn answer(
    api: &Api,
    caller: &Caller,
    token: Option<&str>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let what = format!("{} {}", request.method(), request.uri().path());
    caller.must_be(needed(request.method(), route(&request)), &what)?;
    // To go on as oneself would be to do more than was asked for.
    if request.headers().keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Err(ApiError::forbidden("nobody is impersonated here; use a token of that role"));
    }
    request.extensions_mut().insert(caller.clone());
    let response = next.run(request).await;
    if let Some(stream) = response.extensions().get::<Stream>() {
        api.streams.begin(&caller.name, stream)?;
        // It may have been taken back in the meantime, when this was none of its streams yet.
        if let Err(refusal) = authenticate(api, token).await {
            stream.end();
            return Err(refusal);
        }
    }
    Ok(response)
}

/// The route that was found for a request; nothing if there is none.
pub(super) fn route(request: &Request) -> &str {
    request.extensions().get().map_or("", MatchedPath::as_str)
}

/// The token that a request has.
fn bearer(request: &Request) -> Option<String> {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    // The scheme's case does not matter (RFC 9110, 11.1).
    let (scheme, token) = given?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

async fn authenticate(api: &Api, token: Option<&str>) -> Result<Caller, ApiError> {
    let token = token.ok_or_else(ApiError::unauthorized)?;
    if equal(token.as_bytes(), api.token.as_bytes()) {
        return Ok(Caller { name: OWNER.to_owned(), role: Role::Admin });
    }
    let digest = digest(token);
    let known = api.store.read(move |tx| tx.token_of(&digest)).await?;
    known.map(|TokenView { name, role, .. }| Caller { name, role }).ok_or_else(ApiError::unauthorized)
}

pub(super) fn digest(token: &str) -> Digest {
    Digest(Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Compares without telling by the time it takes how much was right.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// What is asked of a new token.
#[derive(Deserialize)]
pub(super) struct Wish {
    name: String,
    role: Role,
}

/// Makes a token. It is told this once.
pub(super) async fn create_token(State(api): State<Api>, Sent(wish): Sent) -> Result<Response, ApiError> {
    let Wish { name, role } = serde_json::from_value(wish)
        .map_err(|error| ApiError::bad_request(format!("a token has a name and a role: {error}")))?;
    if let Some(problem) = name_problem(&name) {
        return Err(ApiError::invalid_field("name", problem));
    }
    if name == OWNER {
        return Err(ApiError::invalid_field("name", "is that of the state directory's own token"));
    }
    let token = format!("rc_{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let (view, digest) = (TokenView { name, role, created: Timestamp::now() }, digest(&token));
    let kept = view.clone();
    if !api.store.write(move |tx| tx.add_token(&kept, &digest)).await? {
        let message = format!("there is a token {} already; revoke it first", view.name);
        return Err(ApiError::already_exists(message));
    }
    let about = Extension(About::of(format!("token {}, role {}", view.name, view.role)));
    Ok((StatusCode::CREATED, about, Json(NewToken { view, token })).into_response())
}

/// What is known of the tokens.
pub(super) async fn tokens(State(api): State<Api>) -> Result<Response, ApiError> {
    let tokens = api.store.read(|tx| tx.tokens()).await?;
    Ok(Json(json!({"items": tokens})).into_response())
}

/// Takes a token back: it opens nothing any more, and what it watches ends.
pub(super) async fn revoke_token(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let wanted = name.clone();
    if !api.store.write(move |tx| tx.remove_token(&wanted)).await? {
        return Err(ApiError::not_found(format!("there is no token {name}")));
    }
    api.streams.end(&name);
    let about = Extension(About::of(format!("token {name}")));
    Ok((about, Json(json!({"apiVersion": "v1", "kind": "Status", "status": "Success"}))).into_response())
}

/// `kubectl auth can-i`: whether who asks may do something.
pub(super) async fn access_review(
    Extension(caller): Extension<Caller>,
    Sent(mut review): Sent,
) -> Result<Response, ApiError> {
    if !review.is_object() {
        return Err(ApiError::bad_request("a review is an object"));
    }
    let asked = &review["spec"]["resourceAttributes"];
    let text = |field: &str| asked[field].as_str().unwrap_or_default();
    let (allowed, reason) = if asked.is_object() {
        may(&caller, text("verb"), text("group"), text("resource"), text("subresource"))
    } else {
        let asked = &review["spec"]["nonResourceAttributes"];
        let reads = matches!(asked["verb"].as_str(), Some("get" | "head"));
        (reads || caller.role == Role::Admin, format!("the role is {}", caller.role))
    };
    review["status"] = json!({"allowed": allowed, "reason": reason});
    Ok((StatusCode::CREATED, Json(review)).into_response())
}

/// What there is beside what is discovered: its group, its name, what can be done with it, and where: which role that
/// needs is said of the address.
pub(super) const BESIDE: [(&str, &str, &[&str], &str); 9] = [
    (GROUP, "adaptdljobs/log", &["get"], "namespaces/{namespace}/adaptdljobs/{name}/log"),
    (GROUP, "adaptdljobs/checkpoints", &["get"], "namespaces/{namespace}/adaptdljobs/{name}/checkpoints"),
    (GROUP, "packages", &["get", "update"], "packages/{digest}"),
    (GROUP, "plan", &["create"], "plan"),
    (GROUP, "sources", &["list", "create"], "sources"),
    (GROUP, "tokens", &["create", "delete", "list"], "tokens"),
    ("authentication.k8s.io", "selfsubjectreviews", &["create"], "selfsubjectreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", &["create"], "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", &["create"], "selfsubjectrulesreviews"),
];

/// The role that a verb needs where one of these is.
fn needed_beside(verb: &str, group: &str, place: &str) -> Role {
    let method = if reads(verb) { Method::GET } else { Method::POST };
    needed(&method, &format!("/apis/{group}/v1/{place}"))
}

fn reads(verb: &str) -> bool {
    matches!(verb, "get" | "list" | "watch")
}

/// Whether somebody may do something, and why.
fn may(caller: &Caller, verb: &str, group: &str, resource: &str, below: &str) -> (bool, String) {
    let by_role = |needed| match caller.role >= needed {
        true => (true, format!("the role is {}", caller.role)),
        false => (false, format!("the role is {}, and {verb} needs {needed}", caller.role)),
    };
    if resource == "*" {
        // Tokens are only an admin's; what can only be seen nobody changes.
        return by_role(match verb {
            "*" => Role::Admin,
            _ if reads(verb) => Role::View,
            _ => Role::Edit,
        });
    }
    let whole = if below.is_empty() { resource.to_owned() } else { format!("{resource}/{below}") };
    let only = |what: &str, verbs: &[&str]| (false, format!("{what} can only be {}", verbs.join(", ")));
    let is_asked = |of: &str| group == "*" || group == of;
    if let Some((of, _, verbs, place)) = BESIDE.iter().find(|(of, name, ..)| *name == whole && is_asked(of)) {
        let asked = verbs.iter().filter(|known| verb == "*" || **known == verb);
        let needed = asked.map(|verb| needed_beside(verb, of, place)).max();
        return needed.map_or_else(|| only(&whole, verbs), by_role);
    }
    let known =
        super::resource::RESOURCES.iter().find(|known| known.plural == resource && is_asked(known.group));
    let Some(known) = known else { return (false, format!("there are no {resource} here")) };
    let verbs = match known.below.iter().find(|known| known.name == below) {
        Some(below) => below.verbs,
        None if below.is_empty() => known.verbs,
        None => return (false, format!("{resource} have no {below}")),
    };
    match verb {
        "*" if verbs.len() > 3 => by_role(Role::Edit),
        verb if verbs.contains(&verb) => by_role(if reads(verb) { Role::View } else { Role::Edit }),
        _ => only(resource, verbs),
    }
}

/// `kubectl auth can-i --list`: all that who asks may do.
pub(super) async fn rules_review(
    Extension(caller): Extension<Caller>,
    Sent(mut review): Sent,
) -> Result<Response, ApiError> {
    if !review.is_object() {
        return Err(ApiError::bad_request("a review is an object"));
    }
    let mut rules = Vec::new();
    for resource in super::resource::RESOURCES {
        let names = std::iter::once((resource.plural.to_owned(), resource.verbs));
        let below = resource.below.iter();
        let below = below.map(|below| (format!("{}/{}", resource.plural, below.name), below.verbs));
        for (name, verbs) in names.chain(below) {
            let verbs: Vec<&str> = verbs
                .iter()
                .copied()
                .filter(|verb| may(&caller, verb, resource.group, resource.plural, "").0 || *verb == "get")
                .collect();
            rules.push(json!({"apiGroups": [resource.group], "resources": [name], "verbs": verbs}));
        }
    }
    for (group, name, verbs, place) in BESIDE {
        let may = |verb: &&&str| caller.role >= needed_beside(verb, group, place);
        let verbs: Vec<&str> = verbs.iter().filter(may).copied().collect();
        if !verbs.is_empty() {
            rules.push(json!({"apiGroups": [group], "resources": [name], "verbs": verbs}));
        }
    }
    review["status"] = json!({
        "resourceRules": rules,
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["*"]}],
        "incomplete": false,
    });
    Ok((StatusCode::CREATED, Json(review)).into_response())
}

/// `kubectl auth whoami`: who asks.
pub(super) async fn subject_review(
    Extension(caller): Extension<Caller>,
    Sent(mut review): Sent,
) -> Result<Response, ApiError> {
    if !review.is_object() {
        return Err(ApiError::bad_request("a review is an object"));
    }
    review["status"] = json!({"userInfo": {"username": caller.name, "groups": [caller.role]}});
    Ok((StatusCode::CREATED, Json(review)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_done_depends_on_the_role_and_on_what_there_is() {
        let caller = |role| Caller { name: "x".to_owned(), role };
        let may = |role, verb, resource| may(&caller(role), verb, "*", resource, "").0;
        assert!(may(Role::View, "list", "adaptdljobs") && may(Role::View, "get", "nodes"));
        assert!(!may(Role::View, "delete", "adaptdljobs") && !may(Role::View, "*", "*"));
        assert!(may(Role::Edit, "delete", "rayclusters") && may(Role::Edit, "*", "adaptdljobs"));
        assert!(!may(Role::Admin, "delete", "nodes") && !may(Role::Admin, "get", "secrets"));
        assert!(may(Role::Admin, "*", "*") && !may(Role::Edit, "*", "*") && may(Role::Edit, "delete", "*"));
        assert!(may(Role::Admin, "create", "tokens") && !may(Role::Edit, "list", "tokens"));
        assert!(may(Role::View, "create", "plan") && !may(Role::Admin, "delete", "sources"));
    }
}
