//! Discovery: what there is, for clients that know Kubernetes and not us. In the shape that each asks for.

use axum::Json;
use axum::extract::Path;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::error::ApiError;
use super::resource::{GROUP, RESOURCES, Resource};

/// The version of Kubernetes that the API is like: the one whose `kubectl` it is tested with.
const LIKE: (&str, &str) = ("1", "20");

/// Reviews: questions that are asked by making an object, of which nothing stays. Group, name, kind.
const REVIEWS: [(&str, &str, &str); 3] = [
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
];

/// The groups with a name.
const GROUPS: [&str; 3] = [GROUP, "authentication.k8s.io", "authorization.k8s.io"];

/// Our version, and that of Kubernetes which clients ask for.
pub(super) async fn version() -> Json<Value> {
    let ours = env!("CARGO_PKG_VERSION");
    Json(json!({
        "major": LIKE.0,
        "minor": LIKE.1,
        "gitVersion": format!("v{}.{}.0+rayconcile-{ours}", LIKE.0, LIKE.1),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        "version": ours,
    }))
}

/// `/api`: the versions of the group without a name.
pub(super) async fn core(headers: HeaderMap) -> Response {
    aggregated(&headers, &[""]).unwrap_or_else(|| {
        let addresses = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}]);
        let body = json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": addresses,
        });
        Json(body).into_response()
    })
}

/// `/apis`: the groups with a name.
pub(super) async fn groups(headers: HeaderMap) -> Response {
    aggregated(&headers, &GROUPS).unwrap_or_else(|| {
        let groups = GROUPS.map(group);
        Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})).into_response()
    })
}

/// One group.
pub(super) async fn one_group(Path(name): Path<String>) -> Result<Response, ApiError> {
    if !GROUPS.contains(&name.as_str()) {
        return Err(ApiError::no_such_address());
    }
    let mut body = group(&name);
    body["kind"] = json!("APIGroup");
    body["apiVersion"] = json!("v1");
    Ok(Json(body).into_response())
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

/// What is in the group without a name.
pub(super) async fn core_resources() -> Json<Value> {
    Json(resource_list(""))
}

/// What is in a group.
pub(super) async fn resources(Path(group): Path<String>) -> Result<Response, ApiError> {
    if !GROUPS.contains(&group.as_str()) {
        return Err(ApiError::no_such_address());
    }
    Ok(Json(resource_list(&group)).into_response())
}

fn of_group(group: &str) -> impl Iterator<Item = &'static Resource> {
    RESOURCES.into_iter().filter(move |resource| resource.group == group)
}

fn resource_list(group: &str) -> Value {
    let mut resources = Vec::new();
    for resource in of_group(group) {
        resources.push(json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": resource.verbs,
            "shortNames": resource.short_names,
            "categories": resource.categories,
        }));
        for below in resource.below {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, below.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": below.verbs,
            });
            if let Some((group, version, kind)) = below.kind {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
                entry["kind"] = json!(kind);
            }
            resources.push(entry);
        }
    }
    for (_, name, kind) in REVIEWS.iter().filter(|(of, ..)| *of == group) {
        resources.push(json!({
            "name": name, "singularName": "", "namespaced": false, "kind": kind, "verbs": ["create"],
        }));
    }
    let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})
}

/// All groups with all that is in them, if that is what is asked for, as newer clients do.
fn aggregated(headers: &HeaderMap, groups: &[&str]) -> Option<Response> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    let wanted = accept.split(',').find(|kind| kind.contains("as=APIGroupDiscoveryList"))?;
    let version = if wanted.contains("v=v2beta1") { "v2beta1" } else { "v2" };
    let items: Vec<Value> = groups.iter().map(|group| aggregated_group(group)).collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let kind = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    Some(([(CONTENT_TYPE, kind)], body.to_string()).into_response())
}

fn aggregated_group(group: &str) -> Value {
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let mut resources: Vec<Value> = of_group(group)
        .map(|resource| {
            let below: Vec<Value> = resource
                .below
                .iter()
                .map(|below| {
                    let (group, version, kind) = below.kind.unwrap_or((group, "v1", resource.kind));
                    let kind = json!({"group": group, "version": version, "kind": kind});
                    json!({"subresource": below.name, "responseKind": kind, "verbs": below.verbs})
                })
                .collect();
            json!({
                "resource": resource.plural,
                "responseKind": {"group": group, "version": "v1", "kind": resource.kind},
                "scope": scope(resource.namespaced),
                "singularResource": resource.singular,
                "verbs": resource.verbs,
                "shortNames": resource.short_names,
                "categories": resource.categories,
                "subresources": below,
            })
        })
        .collect();
    for (_, name, kind) in REVIEWS.iter().filter(|(of, ..)| *of == group) {
        resources.push(json!({
            "resource": name,
            "responseKind": {"group": group, "version": "v1", "kind": kind},
            "scope": scope(false),
            "singularResource": "",
            "verbs": ["create"],
        }));
    }
    let version = json!({"version": "v1", "freshness": "Current", "resources": resources});
    json!({"metadata": {"name": group}, "versions": [version]})
}
