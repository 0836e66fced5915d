//! Ray's dashboard: packages, and the one Ray job that our agent is.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Clients, RayError, send};
use crate::action::EffectError;
use crate::provider::rejected;

const TIMEOUT: Duration = Duration::from_secs(30);
/// A package of 100 MiB over a slow line.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);

/// A client of one cluster's dashboard.
#[derive(Clone)]
pub struct Dashboard {
    clients: &'static Clients,
    base: Url,
    token: Option<String>,
}

/// A Ray job, as far as we look at it.
#[derive(Clone, Debug, Deserialize)]
pub struct RayJob {
    /// `PENDING`, `RUNNING`, `STOPPED`, `SUCCEEDED` or `FAILED`.
    pub status: String,
    /// Why.
    pub message: Option<String>,
}

impl RayJob {
    /// Whether it will do nothing more.
    pub fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "STOPPED" | "SUCCEEDED" | "FAILED")
    }
}

impl Dashboard {
    /// A client of the dashboard at an address.
    ///
    /// # Errors
    /// If the address is no URL.
    pub fn new(address: &str, token: Option<String>) -> Result<Self, EffectError> {
        let base =
            Url::parse(address).map_err(|error| rejected(format!("{address} is no address: {error}")))?;
        Ok(Self { clients: Clients::get()?, base, token })
    }

    /// The address of another port on the same host.
    ///
    /// # Errors
    /// If the address has no host.
    pub fn beside(&self, port: u16) -> Result<String, EffectError> {
        let host = self.base.host_str().ok_or_else(|| rejected(format!("{} names no host", self.base)))?;
        Ok(format!("http://{host}:{port}"))
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.endless(method, path).timeout(TIMEOUT)
    }

    /// A request whose answer may come as slowly as it likes.
    pub(super) fn endless(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(path);
        let request = self.clients.patient.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The version of Ray.
    ///
    /// # Errors
    /// If it cannot be found out.
    pub async fn version(&self) -> Result<String, RayError> {
        #[derive(Deserialize)]
        struct Version {
            ray_version: String,
        }
        let response = send(self.request(Method::GET, "/api/version")).await?;
        let url = response.url().to_string();
        let version: Version = response.json().await.map_err(|error| super::unavailable(&url, &error))?;
        Ok(version.ray_version)
    }

    /// Brings a package to the cluster, unless it is there. Ray forgets packages that nothing uses.
    ///
    /// # Errors
    /// If it cannot be brought there.
    pub async fn ensure_package(&self, name: &str, contents: Vec<u8>) -> Result<(), RayError> {
        let path = format!("/api/packages/gcs/{name}");
        match send(self.request(Method::GET, &path)).await {
            Err(RayError::NotFound { .. }) => {}
            other => return other.map(|_| ()),
        }
        let request = self.request(Method::PUT, &path).body(contents).timeout(UPLOAD_TIMEOUT);
        send(request).await.map(|_| ())
    }

    /// Submits a Ray job, unless it was submitted before.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn submit(
        &self,
        submission: &str,
        entrypoint: &str,
        runtime_env: Value,
    ) -> Result<(), RayError> {
        let body = json!({
            "submission_id": submission,
            "entrypoint": entrypoint,
            "runtime_env": runtime_env,
            "metadata": {"started-by": "rayconcile"},
        });
        match send(self.request(Method::POST, "/api/jobs/").json(&body)).await {
            Err(RayError::Rejected { reason, .. }) if reason.contains("already exists") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// A Ray job.
    ///
    /// # Errors
    /// If it is not there, or cannot be asked for.
    pub async fn job(&self, submission: &str) -> Result<RayJob, RayError> {
        let response = send(self.request(Method::GET, &format!("/api/jobs/{submission}"))).await?;
        let url = response.url().to_string();
        response.json().await.map_err(|error| super::unavailable(&url, &error))
    }

    /// The end of what a Ray job has written.
    ///
    /// # Errors
    /// If it cannot be asked for.
    pub async fn job_output(&self, submission: &str) -> Result<String, RayError> {
        #[derive(Deserialize)]
        struct Logs {
            logs: String,
        }
        let response = send(self.request(Method::GET, &format!("/api/jobs/{submission}/logs"))).await?;
        let url = response.url().to_string();
        let Logs { logs } = response.json().await.map_err(|error| super::unavailable(&url, &error))?;
        let lines: Vec<&str> = logs.trim_end().lines().collect();
        Ok(lines[lines.len().saturating_sub(8)..].join("\n"))
    }

    /// Stops a Ray job, if it is there.
    ///
    /// # Errors
    /// If it cannot be stopped.
    pub async fn stop(&self, submission: &str) -> Result<(), RayError> {
        match send(self.request(Method::POST, &format!("/api/jobs/{submission}/stop"))).await {
            Err(RayError::NotFound { .. }) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}
