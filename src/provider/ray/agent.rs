//! Our agent in a cluster: the one program there that the controller talks to.

use std::path::Path;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use reqwest::{Body, Method, RequestBuilder};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio_util::io::{ReaderStream, StreamReader};

use super::{Clients, RayError, bounded, send, unavailable};
use crate::action::{EffectError, ErrorKind};
use crate::api::ids::{Digest, GroupNumber, RayNodeId, Uid};
use crate::api::keepsake::Keepsakes;
use crate::api::meta::ObjectKey;
use crate::api::record::CheckpointRecord;
use crate::api::wire::{AgentState, ResourceBundles};
use crate::provider::io;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes a second below which an upload is taken for stuck.
const SLOWEST_UPLOAD: u64 = 128 << 10;

/// A client of one cluster's agent.
#[derive(Clone)]
pub struct AgentClient {
    clients: &'static Clients,
    base: String,
    token: String,
}

/// A piece of a worker's output.
pub struct LogPiece {
    /// Where it begins.
    pub position: u64,
    /// What it is.
    pub bytes: Vec<u8>,
}

impl AgentClient {
    /// A client of the agent at an address.
    ///
    /// # Errors
    /// If this machine cannot be a client at all.
    pub fn new(address: &str, token: String) -> Result<Self, EffectError> {
        Ok(Self { clients: Clients::get()?, base: address.trim_end_matches('/').to_owned(), token })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.clients.steady.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    /// Everything observed, as soon as it is newer than `seen`, or else after a while.
    ///
    /// # Errors
    /// If the agent cannot be heard, or speaks another protocol.
    pub async fn state(&self, seen: i64, wait: Duration) -> Result<AgentState, RayError> {
        let query = [("seen", seen.to_string()), ("timeout", wait.as_secs_f64().to_string())];
        let request = self.request(Method::GET, "/v1/state").query(&query).timeout(wait + TIMEOUT);
        let response = send(request).await?;
        let url = response.url().to_string();
        let state: AgentState = bounded::json(response, bounded::STATE).await?;
        if state.protocol != crate::api::wire::PROTOCOL {
            let reason = format!("it speaks protocol {}, not {}", state.protocol, crate::api::wire::PROTOCOL);
            return Err(RayError::Rejected { url, status: 200, reason });
        }
        Ok(state)
    }

    /// How long ago a controller was heard there, if one ever was since the agent began. This asks for no token.
    ///
    /// # Errors
    /// If the agent cannot be heard.
    pub async fn controller_heard(&self) -> Result<Option<Duration>, RayError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Life {
            controller_s: Option<f64>,
        }
        let response = send(self.request(Method::GET, "/v1/life").timeout(TIMEOUT)).await?;
        let life: Life = bounded::json(response, bounded::SHORT).await?;
        Ok(life.controller_s.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 1e9))))
    }

    /// What was kept of the cluster's jobs for a controller that has lost its state directory.
    ///
    /// # Errors
    /// If it cannot be asked for.
    pub async fn keepsakes(&self) -> Result<Keepsakes, RayError> {
        let response = send(self.request(Method::GET, "/v1/keepsakes").timeout(TIMEOUT)).await?;
        bounded::json(response, bounded::STATE).await
    }

    /// A package that Ray has.
    ///
    /// # Errors
    /// If it is not there, or cannot be asked for.
    pub async fn package(&self, name: &str) -> Result<Vec<u8>, RayError> {
        let response = send(self.request(Method::GET, &format!("/v1/packages/{name}"))).await?;
        bounded::bytes(response, bounded::PACKAGE).await
    }

    /// Tells a job's bridge what is wanted, making the bridge if need be.
    ///
    /// # Errors
    /// If it cannot be told.
    pub async fn put_job(&self, uid: &Uid, document: &Value) -> Result<(), RayError> {
        let request = self.request(Method::PUT, &format!("/v1/jobs/{uid}")).json(document).timeout(TIMEOUT);
        send(request).await.map(|_| ())
    }

    /// Ends a job's bridge and everything of it, unless something newer than a revision was asked of it. What the
    /// job has on the head can be kept, for another bridge to find.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub async fn delete_job(&self, uid: &Uid, revision: u64, keep: bool) -> Result<(), RayError> {
        let request = self.request(Method::DELETE, &format!("/v1/jobs/{uid}"));
        let request = request.query(&[("revision", revision.to_string()), ("keep", keep.to_string())]);
        send(request.timeout(2 * TIMEOUT)).await.map(|_| ())
    }

    /// A worker's output from an offset on, as much as comes at once.
    ///
    /// # Errors
    /// If it cannot be asked for.
    pub async fn log(
        &self,
        uid: &Uid,
        group: GroupNumber,
        rank: u32,
        offset: u64,
    ) -> Result<LogPiece, RayError> {
        let query = [("group", group.0), ("rank", u64::from(rank)), ("offset", offset)];
        let request =
            self.request(Method::GET, &format!("/v1/jobs/{uid}/log")).query(&query).timeout(TIMEOUT);
        let response = send(request).await?;
        let header = response.headers().get("X-Log-Position").and_then(|value| value.to_str().ok());
        let position = header.and_then(|text| text.parse().ok()).unwrap_or(offset);
        let bytes = bounded::bytes(response, bounded::STATE).await?;
        Ok(LogPiece { position, bytes })
    }

    /// Brings a blob into a file. The file exists, whole and verified, or not at all.
    ///
    /// # Errors
    /// If it is not there, did not arrive whole, or cannot be written.
    pub async fn fetch_blob(&self, uid: &Uid, digest: &Digest, path: &Path) -> Result<(), EffectError> {
        if !path.exists() {
            self.download_blob(uid, digest, path).await?;
        }
        self.blob_is_kept(uid, digest).await
    }

    /// A blob, as it arrives: whoever reads it must see whether that is whole.
    ///
    /// # Errors
    /// If it is not there, or cannot be asked for.
    pub async fn blob(
        &self,
        uid: &Uid,
        digest: &Digest,
    ) -> Result<impl AsyncRead + Send + Unpin, EffectError> {
        let response = send(self.request(Method::GET, &format!("/v1/jobs/{uid}/blobs/{digest}"))).await?;
        Ok(StreamReader::new(response.bytes_stream().map_err(std::io::Error::other).boxed()))
    }

    /// Tells the head that a blob is kept elsewhere too.
    ///
    /// # Errors
    /// If it cannot be told.
    pub async fn blob_is_kept(&self, uid: &Uid, digest: &Digest) -> Result<(), EffectError> {
        // A head does not end itself while it has something that nobody else has.
        let kept = self.request(Method::PUT, &format!("/v1/jobs/{uid}/blobs/{digest}/kept"));
        match send(kept).await {
            Ok(_) | Err(RayError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn download_blob(&self, uid: &Uid, digest: &Digest, path: &Path) -> Result<(), EffectError> {
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(|error| io("make", directory, &error))?;
        let response = send(self.request(Method::GET, &format!("/v1/jobs/{uid}/blobs/{digest}"))).await?;
        let url = response.url().to_string();
        let temporary = tempfile::Builder::new()
            .prefix(".fetching-")
            .tempfile_in(directory)
            .map_err(|error| io("write in", directory, &error))?;
        let writer = temporary.reopen().map_err(|error| io("write in", directory, &error))?;
        let mut file = tokio::fs::File::from_std(writer);
        let mut hash = Sha256::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| EffectError::from(unavailable(&url, &error)))?;
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(|error| io("write in", directory, &error))?;
        }
        file.flush().await.map_err(|error| io("write in", directory, &error))?;
        file.sync_all().await.map_err(|error| io("write in", directory, &error))?;
        let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found != digest.0 {
            let message = format!("{url} did not arrive whole");
            return Err(EffectError { kind: ErrorKind::Unreadable, message });
        }
        temporary.persist(path).map_err(|error| io("write", path, &error.error))?;
        sync_directory(directory)
    }

    /// Brings a durable checkpoint to a job's bridge, making the bridge if need be.
    ///
    /// # Errors
    /// If its contents are not what was recorded, or it cannot be brought there.
    pub async fn put_checkpoint(
        &self,
        uid: &Uid,
        job: &ObjectKey,
        revision: u64,
        checkpoint: &CheckpointRecord,
        contents: impl AsyncRead + Send + 'static,
    ) -> Result<(), EffectError> {
        let query = [
            ("uid", uid.to_string()),
            ("revision", revision.to_string()),
            ("namespace", job.namespace.clone()),
            ("name", job.name.clone()),
            ("group", checkpoint.id.group.to_string()),
            ("number", checkpoint.id.number.to_string()),
            ("files", checkpoint.files.to_string()),
            ("steps", checkpoint.steps.to_string()),
        ];
        let body = Body::wrap_stream(ReaderStream::with_capacity(contents, 1 << 20));
        let url = format!("/v1/jobs/{uid}/blobs/{}", checkpoint.digest);
        let patience = TIMEOUT + Duration::from_secs(checkpoint.size.0 / SLOWEST_UPLOAD);
        let request = self.clients.patient.put(format!("{}{url}", self.base)).bearer_auth(&self.token);
        let sent = send(request.query(&query).body(body).timeout(patience)).await;
        sent.map(|_| ()).map_err(|error| match error {
            RayError::Rejected { status: 422, reason, .. } => {
                EffectError { kind: ErrorKind::Unreadable, message: reason }
            }
            other => other.into(),
        })
    }

    /// Has Ray's autoscaler make room, in the place of what it was asked for before.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub async fn request_resources(&self, bundles: &[ResourceBundles]) -> Result<(), RayError> {
        let request = self.request(Method::PUT, "/v1/resources").json(bundles).timeout(TIMEOUT);
        send(request).await.map(|_| ())
    }

    /// Has Ray start nothing more on a node.
    ///
    /// # Errors
    /// If Ray refuses.
    pub async fn drain(&self, node: &RayNodeId) -> Result<(), RayError> {
        let request = self.request(Method::POST, &format!("/v1/nodes/{node}/drain")).timeout(TIMEOUT);
        send(request).await.map(|_| ())
    }
}

/// Makes a rename last.
fn sync_directory(directory: &Path) -> Result<(), EffectError> {
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| io("sync", directory, &error))
}
