//! A typed client of the API, for the command line.

mod error;
mod stream;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use reqwest::{Certificate, Method, RequestBuilder, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::api::ids::{CheckpointId, Digest, GroupNumber};
use crate::api::meta::ObjectKey;
use crate::api::object::{AnyObject, Kind};
use crate::api::record::CheckpointRecord;
use crate::api::review::{Proposal, Review};
use crate::api::source::{SourceRequest, SourceStatus};
use crate::api::token::{NewToken, Role, TokenView};
pub use error::ClientError;
use stream::{Change, Watched, lines};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(30);
/// A package of the largest size, to a disk that is busy.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);
const TOKENS: &str = "/apis/rayconcile.dev/v1/tokens";

/// What became of an object that was applied: `created`, `configured`, `unchanged`.
pub type AppliedWord = String;

/// An event as the API gives it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// What it is about.
    pub involved_object: InvolvedObject,
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// A word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// How often.
    pub count: u64,
    /// When first.
    pub first_timestamp: jiff::Timestamp,
    /// When last.
    pub last_timestamp: jiff::Timestamp,
}

/// What an event is about.
#[derive(Clone, Debug, Deserialize)]
pub struct InvolvedObject {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A piece of a worker's output.
#[derive(Clone, Debug, Deserialize)]
pub struct LogText {
    /// The worker's group.
    pub group: GroupNumber,
    /// Its rank.
    pub rank: u32,
    /// What it wrote.
    pub text: String,
    /// What is to be said of output that is not there any more.
    #[serde(default)]
    pub note: Option<String>,
}

/// A change of an object, as it is watched.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// It is new, or another than before.
    Now(AnyObject),
    /// It is gone.
    Gone(AnyObject),
}

/// A client of one controller.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    secure_url: String,
    token: String,
    ca: Option<String>,
    state: PathBuf,
}

#[derive(Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct StatusBody {
    reason: String,
    message: String,
}

impl Client {
    /// A client of the controller that serves a state directory.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(state: &Path) -> Result<Self, ClientError> {
        #[derive(Deserialize)]
        struct Endpoint {
            url: String,
            #[serde(default)]
            secure_url: String,
            ca: Option<PathBuf>,
        }
        let none = || ClientError::NoController { state: state.to_owned() };
        let text = std::fs::read_to_string(state.join("api.json")).map_err(|_| none())?;
        let endpoint: Endpoint = serde_json::from_str(&text).map_err(|_| none())?;
        let token = std::fs::read_to_string(state.join("api-token")).map_err(|_| none())?;
        let broken = |error: reqwest::Error| ClientError::Broken(error.to_string());
        let ca = endpoint
            .ca
            .as_ref()
            .map(|ca| std::fs::read_to_string(state.join(ca)).map_err(|_| none()))
            .transpose()?;
        let plain = endpoint.url.starts_with("http://");
        let authority = ca.as_ref().filter(|_| !plain);
        let authority =
            authority.map(|ca| Certificate::from_pem(ca.as_bytes())).transpose().map_err(broken)?;
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("rayconcile/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        // Reading the machine's certificates takes longer than any answer of a controller that is on it.
        if authority.is_some() || plain {
            http = http.tls_certs_only(authority);
        }
        let http = http.build().map_err(broken)?;
        let Endpoint { url: base, secure_url, .. } = endpoint;
        Ok(Self { http, base, secure_url, token, ca, state: state.to_owned() })
    }

    /// The API's address with TLS.
    pub fn secure_url(&self) -> &str {
        &self.secure_url
    }

    /// The token that it is asked with.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The authority that signed the API's certificate, in PEM, if it is the controller's own.
    pub fn authority(&self) -> Option<&str> {
        self.ca.as_deref()
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| {
            if error.is_connect() {
                ClientError::NoController { state: self.state.clone() }
            } else {
                ClientError::Broken(error.to_string())
            }
        })?;
        let code = response.status().as_u16();
        if response.status().is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let body = serde_json::from_str(&text);
        let StatusBody { reason, message } = body.unwrap_or_else(|_| StatusBody {
            reason: "Unknown".to_owned(),
            message: format!("status {code}: {text}"),
        });
        Err(ClientError::Refused { code, reason, message })
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request.timeout(TIMEOUT)).await?;
        response.json().await.map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// Whether the controller answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn ping(&self) -> Result<(), ClientError> {
        self.send(self.request(Method::GET, "/healthz").timeout(TIMEOUT)).await.map(|_| ())
    }

    /// The controller's version.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn version(&self) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        let Version { version } = self.json(self.request(Method::GET, "/version")).await?;
        Ok(version)
    }

    /// The objects of a kind, in one namespace or in all, with these labels.
    ///
    /// # Errors
    /// If they cannot be had.
    pub async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        selector: Option<&str>,
    ) -> Result<Vec<AnyObject>, ClientError> {
        let query = selector.map(|selector| [("labelSelector", selector)]);
        let request = self
            .request(Method::GET, &collection(kind, namespace))
            .query(&query.iter().flatten().collect::<Vec<_>>());
        let items: Items<Value> = self.json(request).await?;
        items.items.into_iter().map(object).collect()
    }

    /// One object.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn get(&self, kind: Kind, key: &ObjectKey) -> Result<AnyObject, ClientError> {
        object(self.json(self.request(Method::GET, &address(kind, key))).await?)
    }

    /// Makes an object what it should be.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn apply(
        &self,
        wanted: &AnyObject,
        dry_run: bool,
    ) -> Result<(AppliedWord, AnyObject), ClientError> {
        let request = self.request(Method::PUT, &address(wanted.kind(), &wanted.key()));
        let request = request.query(&[("create", "true")]).json(&wanted.to_json());
        let request = if dry_run { request.query(&[("dryRun", "All")]) } else { request };
        let response = self.send(request.timeout(TIMEOUT)).await?;
        let word = response
            .headers()
            .get("x-applied")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("applied")
            .to_owned();
        let body = response.json().await.map_err(|error| ClientError::Broken(error.to_string()))?;
        Ok((word, object(body)?))
    }

    /// Changes some fields of an object (a merge patch).
    ///
    /// # Errors
    /// If it is not there, or refused.
    pub async fn patch(&self, kind: Kind, key: &ObjectKey, patch: &Value) -> Result<AnyObject, ClientError> {
        object(self.json(self.request(Method::PATCH, &address(kind, key)).json(patch)).await?)
    }

    /// Asks an object to go.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn delete(&self, kind: Kind, key: &ObjectKey, force: bool) -> Result<AnyObject, ClientError> {
        let request = self.request(Method::DELETE, &address(kind, key)).query(&[("force", force)]);
        object(self.json(request).await?)
    }

    /// The objects of a kind, with these labels, and then every change of them.
    ///
    /// # Errors
    /// If they cannot be had.
    pub async fn watch(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        selector: Option<&str>,
    ) -> Result<impl Stream<Item = Result<WatchEvent, ClientError>> + use<>, ClientError> {
        let selector = ("labelSelector", selector.unwrap_or_default().to_owned());
        let changes = Watched { path: collection(kind, namespace), selector }.changes(self.clone()).await?;
        Ok(changes.map(|change| match change? {
            (Change::Now, body) => Ok(WatchEvent::Now(object(body)?)),
            (Change::Gone, body) => Ok(WatchEvent::Gone(object(body)?)),
        }))
    }

    /// Events, oldest first.
    ///
    /// # Errors
    /// If they cannot be had.
    pub async fn events(
        &self,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Vec<EventView>, ClientError> {
        let request = self.request(Method::GET, &events(namespace)).query(&[("fieldSelector", selector)]);
        let items: Items<EventView> = self.json(request).await?;
        Ok(items.items)
    }

    /// Events, oldest first, and then every new one.
    ///
    /// # Errors
    /// If they cannot be had.
    pub async fn watch_events(
        &self,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<impl Stream<Item = Result<EventView, ClientError>> + use<>, ClientError> {
        let selector = ("fieldSelector", selector.to_owned());
        let changes = Watched { path: events(namespace), selector }.changes(self.clone()).await?;
        Ok(changes.map(|change| parse(change?.1)))
    }

    /// A job's output.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn logs(
        &self,
        key: &ObjectKey,
        query: &[(&str, String)],
    ) -> Result<impl Stream<Item = Result<LogText, ClientError>> + use<>, ClientError> {
        let path = format!("{}/log", address(Kind::AdaptDLJob, key));
        let lines = lines(self.send(self.request(Method::GET, &path).query(query)).await?);
        Ok(lines.map(|line| parse(line?)))
    }

    /// A job's durable checkpoints, oldest first.
    ///
    /// # Errors
    /// If the job is not there.
    pub async fn checkpoints(&self, key: &ObjectKey) -> Result<Vec<CheckpointRecord>, ClientError> {
        let path = format!("{}/checkpoints", address(Kind::AdaptDLJob, key));
        let items: Items<CheckpointRecord> = self.json(self.request(Method::GET, &path)).await?;
        Ok(items.items)
    }

    /// Brings a checkpoint's archive into a file.
    ///
    /// # Errors
    /// If it is not there, or the file cannot be written.
    pub async fn fetch_checkpoint(
        &self,
        key: &ObjectKey,
        id: CheckpointId,
        path: &Path,
    ) -> Result<(), ClientError> {
        let io = |source| ClientError::Io { path: path.to_owned(), source };
        let url = format!("{}/checkpoints/{id}", address(Kind::AdaptDLJob, key));
        let response = self.send(self.request(Method::GET, &url)).await?;
        let mut file = tokio::fs::File::create(path).await.map_err(io)?;
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| ClientError::Broken(error.to_string()))?;
            file.write_all(&chunk).await.map_err(io)?;
        }
        file.sync_all().await.map_err(io)
    }

    /// Brings a package to the controller, unless it has it.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn ensure_package(&self, digest: &Digest, path: &Path) -> Result<(), ClientError> {
        let url = format!("/apis/rayconcile.dev/v1/packages/{digest}");
        match self.send(self.request(Method::GET, &url).timeout(TIMEOUT)).await {
            Err(error) if error.is_not_found() => {}
            other => return other.map(|_| ()),
        }
        let body = std::fs::read(path).map_err(|source| ClientError::Io { path: path.to_owned(), source })?;
        self.send(self.request(Method::PUT, &url).body(body).timeout(UPLOAD_TIMEOUT)).await.map(|_| ())
    }

    /// Makes a token for somebody. It is told this once.
    ///
    /// # Errors
    /// If the name is taken, or none.
    pub async fn create_token(&self, name: &str, role: Role) -> Result<NewToken, ClientError> {
        self.json(self.request(Method::POST, TOKENS).json(&json!({"name": name, "role": role}))).await
    }

    /// What is known of the tokens that were made.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn tokens(&self) -> Result<Vec<TokenView>, ClientError> {
        let items: Items<TokenView> = self.json(self.request(Method::GET, TOKENS)).await?;
        Ok(items.items)
    }

    /// Takes a token back.
    ///
    /// # Errors
    /// If there is none of that name.
    pub async fn revoke_token(&self, name: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &format!("{TOKENS}/{name}"));
        self.send(request.timeout(TIMEOUT)).await.map(|_| ())
    }

    /// What would come of a change. Nothing is changed.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn review(&self, proposal: &Proposal) -> Result<Review, ClientError> {
        let request = self.request(Method::POST, "/apis/rayconcile.dev/v1/plan").json(proposal);
        let response = self.send(request.timeout(UPLOAD_TIMEOUT)).await?;
        response.json().await.map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// Asks something of a source, and says how it is afterwards.
    ///
    /// # Errors
    /// If it refuses.
    pub async fn ask_source(&self, request: &SourceRequest) -> Result<SourceStatus, ClientError> {
        let post = self.request(Method::POST, "/apis/rayconcile.dev/v1/sources").json(request);
        // A large repository takes a while to be fetched.
        self.json(post.timeout(UPLOAD_TIMEOUT)).await
    }

    /// The directories and repositories that objects come from.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn sources(&self) -> Result<Vec<SourceStatus>, ClientError> {
        let items: Items<SourceStatus> =
            self.json(self.request(Method::GET, "/apis/rayconcile.dev/v1/sources")).await?;
        Ok(items.items)
    }
}

fn collection(kind: Kind, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("/apis/rayconcile.dev/v1/namespaces/{namespace}/{}", kind.plural()),
        None => format!("/apis/rayconcile.dev/v1/{}", kind.plural()),
    }
}

fn address(kind: Kind, key: &ObjectKey) -> String {
    format!("{}/{}", collection(kind, Some(&key.namespace)), key.name)
}

fn events(namespace: Option<&str>) -> String {
    namespace.map_or_else(
        || "/api/v1/events".to_owned(),
        |namespace| format!("/api/v1/namespaces/{namespace}/events"),
    )
}

fn object(mut value: Value) -> Result<AnyObject, ClientError> {
    // Who has set which fields is for server-side apply, and for nobody to read.
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    AnyObject::from_json(value).map_err(|error| ClientError::Broken(error.to_string()))
}

fn parse<T: DeserializeOwned>(value: Value) -> Result<T, ClientError> {
    serde_json::from_value(value).map_err(|error| ClientError::Broken(error.to_string()))
}
