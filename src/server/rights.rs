//! Which role each address needs: to be read, and for all else. It stands beside the router (`mod.rs`), and a test
//! holds the two together.

use axum::http::Method;

use crate::api::token::Role::{self, Admin, Edit, View};

/// The addresses, as the router writes them, and what they need.
const RIGHTS: [(&str, Role, Role); 38] = [
    ("/apis/rayconcile.dev/v1/{plural}", View, Edit),
    ("/apis/rayconcile.dev/v1/namespaces/{namespace}/{plural}", View, Edit),
    ("/apis/rayconcile.dev/v1/namespaces/{namespace}/{plural}/{name}", View, Edit),
    ("/apis/rayconcile.dev/v1/namespaces/{namespace}/{plural}/{name}/status", View, Edit),
    ("/apis/rayconcile.dev/v1/namespaces/{namespace}/adaptdljobs/{name}/scale", View, Edit),
    ("/apis/rayconcile.dev/v1/namespaces/{namespace}/adaptdljobs/{name}/log", View, Edit),
    ("/apis/rayconcile.dev/v1/namespaces/{namespace}/adaptdljobs/{name}/checkpoints", View, Edit),
    ("/apis/rayconcile.dev/v1/namespaces/{namespace}/adaptdljobs/{name}/checkpoints/{id}", View, Edit),
    ("/apis/rayconcile.dev/v1/packages/{digest}", View, Edit),
    ("/apis/rayconcile.dev/v1/plan", View, View),
    ("/apis/rayconcile.dev/v1/sources", View, Admin),
    ("/apis/rayconcile.dev/v1/tokens", Admin, Admin),
    ("/apis/rayconcile.dev/v1/tokens/{name}", Admin, Admin),
    ("/api", View, Edit),
    ("/api/", View, Edit),
    ("/apis", View, Edit),
    ("/apis/", View, Edit),
    ("/apis/{group}", View, Edit),
    ("/apis/{group}/", View, Edit),
    ("/apis/{group}/v1", View, Edit),
    ("/apis/{group}/v1/", View, Edit),
    ("/api/v1", View, Edit),
    ("/api/v1/", View, Edit),
    ("/openapi/v2", View, Edit),
    ("/openapi/v3", View, Edit),
    ("/openapi/v3/apis/{group}/{version}", View, Edit),
    ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", View, View),
    ("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", View, View),
    ("/apis/authentication.k8s.io/v1/selfsubjectreviews", View, View),
    ("/api/v1/events", View, Edit),
    ("/api/v1/namespaces/{namespace}/events", View, Edit),
    ("/api/v1/namespaces/{namespace}/events/{name}", View, Edit),
    ("/api/v1/{plural}", View, Edit),
    ("/api/v1/{plural}/{name}", View, Edit),
    ("/api/v1/namespaces/{namespace}/{plural}", View, Edit),
    ("/api/v1/namespaces/{namespace}/{plural}/{name}", View, Edit),
    ("/api/v1/namespaces/{namespace}/pods/{name}/log", View, Edit),
    // Where there is nothing.
    ("", View, Edit),
];

/// The role that a request for an address needs, by the route that was found for it. What is not in the table is the
/// administrator's.
pub(super) fn needed(method: &Method, route: &str) -> Role {
    let found = RIGHTS.iter().find(|(known, ..)| *known == route);
    found.map_or(Admin, |(_, read, write)| if reads(method) { *read } else { *write })
}

/// Whether a request only asks, by its method or though it makes an object to do so.
pub(super) fn is_question(method: &Method, route: &str) -> bool {
    reads(method) || needed(method, route) == View
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use axum::response::Response;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use jiff::Timestamp;
    use tokio::sync::Semaphore;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::api::token::TokenView;
    use crate::server::access::BESIDE;
    use crate::server::{Api, Audit, Pages, Sources, Streams, router};
    use crate::store::Store;

    /// Everybody's, and asked before anybody is let in.
    const PUBLIC: [&str; 3] = ["/healthz", "/version", "/version/"];

    /// The API of a state directory, with a token for each role, which is the role's name.
    fn api(state: &std::path::Path) -> Api {
        let store = Store::open(state).unwrap();
        for role in [View, Edit] {
            let token = TokenView { name: role.to_string(), role, created: Timestamp::UNIX_EPOCH };
            let digest = crate::server::access::digest(&role.to_string());
            assert!(store.write_now(|tx| tx.add_token(&token, &digest)).unwrap());
        }
        Api {
            store,
            state: Arc::new(state.to_owned()),
            token: Arc::new(Admin.to_string()),
            sources: Sources::default(),
            planner: None,
            audit: Audit::new(state),
            pages: Pages::default(),
            streams: Streams::default(),
            proposals: Arc::new(Semaphore::new(1)),
            stop: CancellationToken::new(),
        }
    }

    /// The routes of the router, as it is written.
    fn routes() -> BTreeSet<String> {
        let text = include_str!("mod.rs");
        let (before, ours) = text.split_once("fn our_routes()").unwrap();
        let (ours, after) = ours.split_once("\n}\n").unwrap();
        let paths = |text: &str| {
            let calls = text.split(".route(").skip(1);
            calls.map(|call| call.split('"').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
        };
        let others = paths(before).into_iter().chain(paths(after));
        let ours = paths(ours).into_iter().map(|path| format!("/apis/rayconcile.dev/v1{path}"));
        others.chain(ours).filter(|path| !PUBLIC.contains(&path.as_str())).collect()
    }

    #[test]
    fn every_route_has_its_rights() {
        let known: BTreeSet<String> =
            RIGHTS.iter().map(|(route, ..)| (*route).to_owned()).filter(|route| !route.is_empty()).collect();
        assert_eq!(known, routes());
        assert_eq!(needed(&Method::GET, "/not/in/the/table"), Admin);
        for (group, name, _, place) in BESIDE {
            assert!(known.contains(&format!("/apis/{group}/v1/{place}")), "{name} is said to be elsewhere");
        }
    }

    #[tokio::test]
    async fn each_role_is_let_in_where_it_may_and_nowhere_else() {
        let state = tempfile::tempdir().unwrap();
        let router = TowerToHyperService::new(router(api(state.path())));
        let ask = async |method: &Method, path: &str, token: Option<Role>| -> Response {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(role) = token {
                request = request.header("authorization", format!("Bearer {role}"));
            }
            router.call(request.body(Body::empty()).unwrap()).await.unwrap()
        };
        let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        for (route, read, write) in RIGHTS {
            let path = match route {
                "" => "/no/such/address".to_owned(),
                route => route.replace("{plural}", "adaptdljobs").replace(['{', '}'], ""),
            };
            for method in &methods {
                let needs = if method == Method::GET { read } else { write };
                let stranger = ask(method, &path, None).await.status();
                assert_eq!(stranger, StatusCode::UNAUTHORIZED, "{method} {path}");
                for role in [View, Edit, Admin] {
                    let refused = ask(method, &path, Some(role)).await.status() == StatusCode::FORBIDDEN;
                    assert_eq!(refused, role < needs, "{method} {path} with the role {role}");
                }
            }
        }
        let impersonation = Request::get("/api").header("authorization", "Bearer admin");
        let request = impersonation.header("Impersonate-Group", "system:masters").body(Body::empty());
        assert_eq!(router.call(request.unwrap()).await.unwrap().status(), StatusCode::FORBIDDEN);
        for path in PUBLIC {
            assert_eq!(ask(&Method::GET, path, None).await.status(), StatusCode::OK, "{path}");
        }
    }
}
