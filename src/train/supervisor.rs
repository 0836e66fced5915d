//! AdaptDL's supervisor, as a worker asks it: HTTP, without a proxy, for it is on this machine or within the cluster.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::runtime::Builder;
use tokio::time::sleep;

use super::TrainError;

/// A question is held for at most 20 s and then answered with 408: ask again.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a supervisor that cannot be reached is tried.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// Where a worker asks.
#[derive(Clone)]
pub(super) struct Supervisor {
    url: String,
    job: String,
}

impl Supervisor {
    /// The supervisor at a base address, for a job `namespace/name`.
    pub(super) fn new(url: &str, job: String) -> Self {
        Self { url: url.trim_end_matches('/').to_owned(), job }
    }

    /// The addresses of a group's replicas in rank order, as soon as they may meet; `None` if `stop` says so first.
    pub(super) fn discover(
        &self,
        group: u64,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Vec<String>>, TrainError> {
        let path = format!("discover/{}/{group}?held", self.job);
        let Some(answer) = self.wait("the other replicas", &path, stop)? else { return Ok(None) };
        let invalid = |error: serde_json::Error| TrainError::Supervisor {
            what: "the other replicas",
            reason: format!("its answer is no list of addresses: {error}"),
        };
        serde_json::from_slice(&answer).map(Some).map_err(invalid)
    }

    /// Waits until this group may load its checkpoint and train; `false` if `stop` says so first.
    pub(super) fn release(&self, stop: &(dyn Fn() -> bool + Sync)) -> Result<bool, TrainError> {
        Ok(self.wait("the release", "release", stop)?.is_some())
    }

    /// Tells something that the slot would otherwise notice a little later; that it cannot be told does no harm.
    pub(super) fn tell(&self, what: &str) {
        let _ = finish(self.request(Method::POST, what, None));
    }

    /// Reports hints, beside the training. One report that is lost is followed by the next.
    pub(super) fn report(&self, hints: Value) {
        let supervisor = self.clone();
        std::thread::spawn(move || {
            let path = format!("hints/{}", supervisor.job);
            match finish(supervisor.request(Method::PUT, &path, Some(&hints))) {
                Ok(Ok((status, _))) if status.is_success() => {}
                Ok(Ok((status, _))) => tracing::warn!("the supervisor answers hints with {status}"),
                Ok(Err(error)) => tracing::warn!("hints are not reported: {}", reason(&error)),
                Err(error) => tracing::warn!("hints are not reported: {error}"),
            }
        });
    }

    /// Asks until there is an answer.
    fn wait(
        &self,
        what: &'static str,
        path: &str,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Vec<u8>>, TrainError> {
        let stopped = async || {
            while !stop() {
                sleep(PAUSE).await;
            }
        };
        let answered = async || {
            let mut heard = Instant::now();
            loop {
                match self.request(Method::GET, path, None).await {
                    Ok((StatusCode::OK, body)) => return Ok(Some(body)),
                    Ok((StatusCode::REQUEST_TIMEOUT, _)) => heard = Instant::now(),
                    Ok((status, _)) => {
                        return Err(TrainError::Supervisor { what, reason: format!("it answers {status}") });
                    }
                    Err(error) if heard.elapsed() > PATIENCE => {
                        return Err(TrainError::Supervisor { what, reason: reason(&error) });
                    }
                    Err(_) => sleep(PAUSE).await,
                }
            }
        };
        let first = async {
            tokio::select! {
                biased;
                () = stopped() => Ok(None),
                answer = answered() => answer,
            }
        };
        finish(first).unwrap_or_else(|error| Err(TrainError::Supervisor { what, reason: error.to_string() }))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<(StatusCode, Vec<u8>)> {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build()?;
        let request = client.request(method, format!("{}/{path}", self.url));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await?;
        Ok((response.status(), response.bytes().await?.to_vec()))
    }
}

/// Waits for what is done, on a thread of its own: the program's may belong to a runtime, which must not be waited in.
fn finish<T: Send>(work: impl Future<Output = T> + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let done = scope.spawn(|| Ok(Builder::new_current_thread().enable_all().build()?.block_on(work)));
        done.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread has died")))
    })
}

/// All that an error of the client says, without the address, which has a secret in it.
fn reason(error: &reqwest::Error) -> String {
    let mut text = match (error.is_timeout(), error.is_connect()) {
        (true, _) => "it does not answer".to_owned(),
        (_, true) => "it cannot be reached".to_owned(),
        _ => "the connection has failed".to_owned(),
    };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
