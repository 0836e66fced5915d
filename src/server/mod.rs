//! The HTTP API, as far as `kubectl` and client libraries can tell that of Kubernetes: with bearer tokens, and with TLS
//! anywhere but on loopback.
//!
//! It reads and writes objects in the store and knows nothing of how they come true.
//!
//! ```text
//! connections ── tls      who asks: access ── audit      what there is: resource ── discovery, openapi
//!      └─> router ─> list, objects, delete, scale: change ── patch, ownership ─> store
//!                 └> kubernetes: views; events; logs                    in the form asked for: form, pages, stream
//! ```

mod access;
mod audit;
mod body;
mod change;
mod checkpoints;
mod connections;
mod delete;
mod discovery;
mod error;
mod events;
mod form;
mod kubernetes;
mod list;
mod logs;
mod objects;
mod openapi;
mod openapi_proto;
mod ownership;
mod pages;
mod patch;
mod plan;
mod query;
mod resource;
mod review_proto;
mod rights;
mod scale;
mod selector;
mod sources;
mod stream;
mod tls;
mod views;

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{delete, get, post, put};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::gitops::Sources;
use crate::store::Store;
use audit::Audit;
use error::{ApiError, as_status};
use pages::Pages;
pub use plan::Question;
use stream::Streams;
pub use tls::Tls;

/// A package of the largest size that Ray takes.
const MAX_PACKAGE: usize = 100 << 20;
/// An object, as large as Kubernetes takes one.
const MAX_OBJECT: usize = 3 << 20;
/// A change of many objects.
const MAX_PLAN: usize = 16 << 20;
/// How many of them are looked at together.
const PROPOSALS: usize = 2;
/// A question of who may do what.
const MAX_REVIEW: usize = 64 << 10;
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
    /// Its address with TLS.
    pub secure_url: String,
    /// The process that serves it.
    pub pid: u32,
    /// The file, in the state directory, with the authority that signed its certificate, if it is one of our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// Where the API is to be served, and how.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// With which certificate TLS is spoken.
    pub tls: Tls,
    /// Whether those are answered too who do not speak TLS.
    pub plain: bool,
    /// By which name this machine finds it, if the certificate is not for its address.
    pub host: Option<String>,
}

impl From<SocketAddr> for Listen {
    /// As it is on loopback: with TLS and without, for `kubectl` tells its token to nobody who has none.
    fn from(address: SocketAddr) -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        Self { address, tls: Tls::Own { names }, plain: true, host: None }
    }
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
    audit: Audit,
    pages: Pages,
    streams: Streams,
    /// Room for proposals that are read and planned at once.
    proposals: Arc<Semaphore>,
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
    /// A file that was given cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There can be no TLS.
    #[error("TLS is not possible: {0}")]
    Tls(String),
}

/// A server that listens but does not answer yet.
pub struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
    plain: bool,
    api: Api,
    endpoint: Endpoint,
}

impl Server {
    /// Listens on an address, and leaves word in the state directory where that is.
    ///
    /// # Errors
    /// If the address is in use, there can be no TLS, or the files cannot be written.
    pub async fn listen(
        place: impl Into<Listen>,
        store: Store,
        state: &Path,
        sources: Sources,
        stop: CancellationToken,
    ) -> Result<Self, ServeError> {
        let Listen { address, tls, plain, host } = place.into();
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let token = token(state)?;
        let (tls, ca) = tls.acceptor(state)?;
        let found = match host {
            Some(host) => format!("{host}:{}", address.port()),
            None => SocketAddr::new(reachable(address.ip()), address.port()).to_string(),
        };
        let url = format!("{}://{found}", if plain { "http" } else { "https" });
        let secure_url = format!("https://{found}");
        let endpoint = Endpoint { url, secure_url, pid: std::process::id(), ca };
        let text = serde_json::to_string(&endpoint).unwrap_or_default();
        replace(&state.join(ENDPOINT), &text)?;
        let (audit, pages) = (Audit::new(state), Pages::default());
        let (state, token) = (Arc::new(state.to_owned()), Arc::new(token));
        let (streams, proposals) = (Streams::default(), Arc::new(Semaphore::new(PROPOSALS)));
        let api = Api { store, state, token, sources, planner: None, audit, pages, streams, proposals, stop };
        Ok(Self { listener, tls, plain, api, endpoint })
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
    pub async fn serve(self) {
        let stop = self.api.stop.clone();
        let path = self.api.state.join(ENDPOINT);
        let serving = connections::serve(self.listener, self.tls, self.plain, router(self.api), stop.clone());
        // Who has sent half a request, or does not read the answer, would keep it for ever.
        let left = async {
            stop.cancelled().await;
            tokio::time::sleep(LEAVE).await;
        };
        tokio::select! {
            () = serving => {}
            () = left => {}
        }
        let _ = fs::remove_file(path);
    }
}

/// Where this machine finds what listens on an address: on any of its own, if it listens on all.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

fn router(api: Api) -> Router {
    Router::new()
        .nest("/apis/rayconcile.dev/v1", our_routes())
        .merge(kubernetes_routes())
        .fallback(|| async { ApiError::no_such_address() })
        .layer(middleware::from_fn(form::acceptable))
        .layer(middleware::from_fn_with_state(api.clone(), access::admit))
        .route("/healthz", get(|| async { "ok" }))
        .route("/version", get(discovery::version))
        .route("/version/", get(discovery::version))
        .layer(DefaultBodyLimit::max(MAX_OBJECT))
        .layer(middleware::from_fn(as_status))
        .with_state(api)
}

/// Our own kinds, and what belongs to them.
fn our_routes() -> Router<Api> {
    Router::new()
        .route("/{plural}", get(list::list_all))
        .route(
            "/namespaces/{namespace}/{plural}",
            get(list::list).post(objects::create).delete(delete::delete_collection),
        )
        .route(
            "/namespaces/{namespace}/{plural}/{name}",
            get(objects::get).put(objects::put).patch(objects::patch).delete(delete::delete),
        )
        .route(
            "/namespaces/{namespace}/{plural}/{name}/status",
            get(scale::status).fallback(scale::refuse_status),
        )
        .route(
            "/namespaces/{namespace}/adaptdljobs/{name}/scale",
            get(scale::get).put(scale::put).patch(scale::patch),
        )
        .route("/namespaces/{namespace}/adaptdljobs/{name}/log", get(logs::log))
        .route("/namespaces/{namespace}/adaptdljobs/{name}/checkpoints", get(checkpoints::list))
        .route("/namespaces/{namespace}/adaptdljobs/{name}/checkpoints/{id}", get(checkpoints::get))
        .route("/packages/{digest}", put(checkpoints::put_package).get(checkpoints::has_package))
        .route("/plan", post(plan::plan).layer(DefaultBodyLimit::max(MAX_PLAN)))
        .route("/sources", get(sources::list).post(sources::ask))
        .route("/tokens", get(access::tokens).post(access::create_token))
        .route("/tokens/{name}", delete(access::revoke_token))
}

/// What is Kubernetes' own: discovery, reviews, and views of what there is.
fn kubernetes_routes() -> Router<Api> {
    Router::new()
        // Some clients end these with a slash.
        .route("/api", get(discovery::core))
        .route("/api/", get(discovery::core))
        .route("/apis", get(discovery::groups))
        .route("/apis/", get(discovery::groups))
        .route("/apis/{group}", get(discovery::one_group))
        .route("/apis/{group}/", get(discovery::one_group))
        .route("/apis/{group}/v1", get(discovery::resources))
        .route("/apis/{group}/v1/", get(discovery::resources))
        .route("/api/v1", get(discovery::core_resources))
        .route("/api/v1/", get(discovery::core_resources))
        .route("/openapi/v2", get(openapi::v2))
        .route("/openapi/v3", get(openapi::v3))
        .route("/openapi/v3/apis/{group}/{version}", get(openapi::v3_group))
        .merge(reviews())
        .route("/api/v1/events", get(events::list_all).fallback(kubernetes::read_only))
        .route("/api/v1/namespaces/{namespace}/events", get(events::list).fallback(kubernetes::read_only))
        .route(
            "/api/v1/namespaces/{namespace}/events/{name}",
            get(events::get).fallback(kubernetes::read_only),
        )
        .route("/api/v1/{plural}", get(kubernetes::list_all).fallback(kubernetes::read_only))
        .route("/api/v1/{plural}/{name}", get(kubernetes::get).fallback(kubernetes::read_only))
        .route(
            "/api/v1/namespaces/{namespace}/{plural}",
            get(kubernetes::list).fallback(kubernetes::read_only),
        )
        .route(
            "/api/v1/namespaces/{namespace}/{plural}/{name}",
            get(kubernetes::get_in).fallback(kubernetes::read_only),
        )
        .route("/api/v1/namespaces/{namespace}/pods/{name}/log", get(logs::of_pod))
}

/// Who may do what.
fn reviews() -> Router<Api> {
    Router::new()
        .route("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", post(access::access_review))
        .route("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", post(access::rules_review))
        .route("/apis/authentication.k8s.io/v1/selfsubjectreviews", post(access::subject_review))
        .layer(DefaultBodyLimit::max(MAX_REVIEW))
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
