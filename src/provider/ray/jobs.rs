//! Ray jobs beside our agent, through the same dashboard: what they are, what they write, and how they end.

use std::collections::BTreeMap;

use futures_util::{Stream, TryStreamExt as _};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::dashboard::Dashboard;
use super::{RayError, send, unavailable};

/// A Ray job, as the dashboard lists it.
#[derive(Clone, Debug, Deserialize)]
pub struct ListedJob {
    /// The id that it was submitted with; a driver that somebody ran by hand has none.
    pub submission_id: Option<String>,
    /// `PENDING`, `RUNNING`, `STOPPED`, `SUCCEEDED` or `FAILED`.
    pub status: String,
    /// Why.
    pub message: Option<String>,
    /// What it was submitted with.
    pub metadata: Option<BTreeMap<String, String>>,
    /// When it began, in milliseconds since 1970.
    pub start_time: Option<i64>,
    /// When it ended, likewise.
    pub end_time: Option<i64>,
    /// What its process ended with: of a signal, the negative number.
    pub driver_exit_code: Option<i32>,
    /// The node that it ran on.
    pub driver_node_id: Option<String>,
}

impl ListedJob {
    /// Whether it will do nothing more.
    pub fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "STOPPED" | "SUCCEEDED" | "FAILED")
    }
}

/// A Ray job to submit.
pub struct Submission<'a> {
    /// Its id.
    pub id: &'a str,
    /// What a shell on the head runs.
    pub entrypoint: &'a str,
    /// Its runtime environment.
    pub runtime_env: Value,
    /// What it is remembered with.
    pub metadata: BTreeMap<String, String>,
}

impl Dashboard {
    /// Whether Ray asks for a token.
    ///
    /// # Errors
    /// If it cannot be found out.
    pub async fn asks_for_token(&self) -> Result<bool, RayError> {
        #[derive(Deserialize)]
        struct Authentication {
            authentication_mode: String,
        }
        let response = send(self.request(Method::GET, "/api/authentication_mode")).await?;
        let url = response.url().to_string();
        let found: Authentication = response.json().await.map_err(|error| unavailable(&url, &error))?;
        Ok(found.authentication_mode != "disabled")
    }

    /// Whether a package is there.
    ///
    /// # Errors
    /// If it cannot be found out.
    pub async fn has_package(&self, name: &str) -> Result<bool, RayError> {
        match send(self.request(Method::GET, &format!("/api/packages/gcs/{name}"))).await {
            Ok(_) => Ok(true),
            Err(RayError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Submits a Ray job on the head that takes no CPU of the cluster's.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn submit_job(&self, job: &Submission<'_>) -> Result<(), RayError> {
        let body = json!({
            "submission_id": job.id,
            "entrypoint": job.entrypoint,
            "runtime_env": job.runtime_env,
            "metadata": job.metadata,
        });
        match send(self.request(Method::POST, "/api/jobs/").json(&body)).await {
            Err(RayError::Rejected { reason, .. }) if reason.contains("already exists") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// All Ray jobs that are remembered.
    ///
    /// # Errors
    /// If they cannot be had.
    pub async fn jobs(&self) -> Result<Vec<ListedJob>, RayError> {
        let response = send(self.request(Method::GET, "/api/jobs/")).await?;
        let url = response.url().to_string();
        response.json().await.map_err(|error| unavailable(&url, &error))
    }

    /// One Ray job.
    ///
    /// # Errors
    /// If it is not there, or cannot be asked for.
    pub async fn listed_job(&self, submission: &str) -> Result<ListedJob, RayError> {
        let response = send(self.request(Method::GET, &format!("/api/jobs/{submission}"))).await?;
        let url = response.url().to_string();
        response.json().await.map_err(|error| unavailable(&url, &error))
    }

    /// Has a Ray job that has ended forgotten.
    ///
    /// # Errors
    /// If it is not there, or has not ended.
    pub async fn forget_job(&self, submission: &str) -> Result<(), RayError> {
        send(self.request(Method::DELETE, &format!("/api/jobs/{submission}"))).await.map(|_| ())
    }

    /// All that a Ray job has written until now.
    ///
    /// # Errors
    /// If it cannot be asked for.
    pub async fn output(&self, submission: &str) -> Result<String, RayError> {
        #[derive(Deserialize)]
        struct Logs {
            logs: String,
        }
        let response = send(self.request(Method::GET, &format!("/api/jobs/{submission}/logs"))).await?;
        let url = response.url().to_string();
        let Logs { logs } = response.json().await.map_err(|error| unavailable(&url, &error))?;
        Ok(logs)
    }

    /// What a Ray job has written, from its first byte on, and then what it writes, as it comes. This does not end
    /// when the job does.
    ///
    /// # Errors
    /// If it cannot be had, for example because nothing was written yet.
    pub async fn follow_output(
        &self,
        submission: &str,
        node: &str,
    ) -> Result<impl Stream<Item = Result<Vec<u8>, RayError>> + use<>, RayError> {
        let query = [("submission_id", submission), ("node_id", node), ("lines", "-1"), ("interval", "0.25")];
        let request = self.endless(Method::GET, "/api/v0/logs/stream").query(&query);
        Ok(pieces(send(request).await?))
    }

    /// What a Ray job has written until now, as bytes, from the first on.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn whole_output(
        &self,
        submission: &str,
        node: &str,
    ) -> Result<impl Stream<Item = Result<Vec<u8>, RayError>> + use<>, RayError> {
        let query = [("submission_id", submission), ("node_id", node), ("lines", "-1"), ("timeout", "3600")];
        Ok(pieces(send(self.endless(Method::GET, "/api/v0/logs/file").query(&query)).await?))
    }

    /// A file in the directory of a node's logs.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn log_file(
        &self,
        node: &str,
        name: &str,
    ) -> Result<impl Stream<Item = Result<Vec<u8>, RayError>> + use<>, RayError> {
        let query = [("node_id", node), ("filename", name), ("lines", "-1"), ("timeout", "3600")];
        Ok(pieces(send(self.endless(Method::GET, "/api/v0/logs/file").query(&query)).await?))
    }
}

/// The body of an answer, as it comes.
fn pieces(response: reqwest::Response) -> impl Stream<Item = Result<Vec<u8>, RayError>> {
    let url = response.url().to_string();
    response.bytes_stream().map_ok(|bytes| bytes.to_vec()).map_err(move |error| unavailable(&url, &error))
}
