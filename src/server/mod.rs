//! The HTTP API: Kubernetes-shaped, on loopback, with a bearer token.
//!
//! It reads and writes objects in the store and knows nothing of how they come true.

mod checkpoints;
mod error;
mod events;
mod logs;
mod objects;
mod plan;
mod selector;
mod sources;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::gitops::Sources;
use crate::store::Store;
use error::{ApiError, as_status};
pub use plan::Question;

/// A package of the largest size that Ray takes.
const MAX_PACKAGE: usize = 100 << 20;
/// An object, as large as Kubernetes takes one.
const MAX_OBJECT: usize = 3 << 20;
/// A change of many objects.
const MAX_PLAN: usize = 64 << 20;
/// How long clients may take to leave when the server is to stop.
const LEAVE: Duration = Duration::from_secs(2);
/// The file in the state directory that says where the API is.
const ENDPOINT: &str = "api.json";
/// The file in the state directory with the API's token.
const TOKEN: &str = "api-token";

/// Where the API of a state directory is, and whose it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub url: String,
    /// The process that serves it.
    pub pid: u32,
}

/// What requests are answered from.
#[derive(Clone)]
struct Api {
    store: Store,
    state: Arc<PathBuf>,
    token: Arc<String>,
    sources: Sources,
    /// Whoever says what a change would come to.
    planner: Option<mpsc::Sender<Question>>,
    stop: CancellationToken,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another --listen, or port 0 for a free one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of the state directory cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// A server that listens but does not answer yet.
pub struct Server {
    listener: TcpListener,
    api: Api,
    endpoint: Endpoint,
}

impl Server {
    /// Listens on an address, and leaves word in the state directory where that is.
    ///
    /// # Errors
    /// If the address is in use, or the files cannot be written.
    pub async fn listen(
        address: SocketAddr,
        store: Store,
        state: &Path,
        sources: Sources,
        stop: CancellationToken,
    ) -> Result<Self, ServeError> {
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let token = token(state)?;
        let endpoint = Endpoint { url: format!("http://{address}"), pid: std::process::id() };
        let text = serde_json::to_string(&endpoint).unwrap_or_default();
        replace(&state.join(ENDPOINT), &text)?;
        let api = Api {
            store,
            state: Arc::new(state.to_owned()),
            token: Arc::new(token),
            sources,
            planner: None,
            stop,
        };
        Ok(Self { listener, api, endpoint })
    }

    /// The same, with somebody to ask what a change would come to.
    #[must_use]
    pub fn with_planner(mut self, planner: mpsc::Sender<Question>) -> Self {
        self.api.planner = Some(planner);
        self
    }

    /// Where the API is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Answers requests until it is to stop.
    ///
    /// # Errors
    /// If the connection to the network breaks.
    pub async fn serve(self) -> std::io::Result<()> {
        let stop = self.api.stop.clone();
        let path = self.api.state.join(ENDPOINT);
        let serving = axum::serve(self.listener, router(self.api))
            .with_graceful_shutdown(stop.clone().cancelled_owned())
            .into_future();
        // Who has sent half a request, or does not read the answer, would keep it for ever.
        let left = async {
            stop.cancelled().await;
            tokio::time::sleep(LEAVE).await;
        };
        let served = tokio::select! {
            served = serving => served,
            () = left => Ok(()),
        };
        let _ = fs::remove_file(path);
        served
    }
}

fn router(api: Api) -> Router {
    let group = Router::new()
        .route("/{plural}", get(objects::list_all))
        .route("/namespaces/{namespace}/{plural}", get(objects::list).post(objects::create))
        .route(
            "/namespaces/{namespace}/{plural}/{name}",
            get(objects::get).put(objects::put).patch(objects::patch).delete(objects::delete),
        )
        .route("/namespaces/{namespace}/adaptdljobs/{name}/log", get(logs::log))
        .route("/namespaces/{namespace}/adaptdljobs/{name}/checkpoints", get(checkpoints::list))
        .route("/namespaces/{namespace}/adaptdljobs/{name}/checkpoints/{id}", get(checkpoints::get))
        .route(
            "/packages/{digest}",
            put(checkpoints::put_package)
                .get(checkpoints::has_package)
                .layer(DefaultBodyLimit::max(MAX_PACKAGE)),
        )
        .route("/plan", post(plan::plan).layer(DefaultBodyLimit::max(MAX_PLAN)))
        .route("/sources", get(sources::list).post(sources::ask));
    Router::new()
        .nest("/apis/rayconcile.dev/v1", group)
        .route("/api/v1/events", get(events::list_all))
        .route("/api/v1/namespaces/{namespace}/events", get(events::list))
        .fallback(|| async { ApiError::not_found("no such address") })
        .layer(middleware::from_fn_with_state(api.clone(), authenticate))
        .route("/healthz", get(|| async { "ok" }))
        .route(
            "/version",
            get(|| async { axum::Json(serde_json::json!({"version": env!("CARGO_PKG_VERSION")})) }),
        )
        .layer(DefaultBodyLimit::max(MAX_OBJECT))
        .layer(middleware::from_fn(as_status))
        .with_state(api)
}

async fn authenticate(State(api): State<Api>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    // The scheme's case does not matter (RFC 9110, 11.1).
    let token = given.and_then(|value| value.split_once(' '));
    let token =
        token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map_or("", |(_, token)| token);
    if equal(token.as_bytes(), api.token.as_bytes()) {
        next.run(request).await
    } else {
        ApiError::unauthorized().into_response()
    }
}

/// Compares without telling by the time it takes how much was right.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// The API's token, made when it is first asked for.
fn token(state: &Path) -> Result<String, ServeError> {
    let path = state.join(TOKEN);
    // An empty one would let everybody in.
    if let Some(token) = fs::read_to_string(&path).ok().filter(|token| token.len() >= 32) {
        return Ok(token);
    }
    let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    replace(&path, &token)?;
    Ok(token)
}

/// Writes a file that only this user may read, whole or not at all.
fn replace(path: &Path, text: &str) -> Result<(), ServeError> {
    let io = |source| ServeError::Io { path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    let mut file = fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&temporary, path).map_err(io)
}
