//! Ray, as it is reached from outside: its dashboard's REST interface, and our agent's.

pub mod agent;
mod bounded;
pub mod dashboard;
pub mod document;
pub mod jobs;
pub mod package;
pub mod tokens;

use std::sync::LazyLock;
use std::time::Duration;

use reqwest::Client;

use super::rejected;
use crate::action::{EffectError, ErrorKind};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The versions of Ray that are supported, for people.
pub const RAY_VERSIONS: &str = "2.55 to 2.x";

/// Whether a version of Ray is supported: from 2.55 on, which has token authentication, node labels and the REST
/// calls we use as they are in 2.60, the version everything was tried with.
pub fn is_supported(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    matches!((numbers.next().flatten(), numbers.next().flatten()), (Some(2), Some(minor)) if minor >= 55)
}

/// Why a call did not do what was asked, as far as anybody can act on it.
#[derive(Debug, thiserror::Error)]
pub enum RayError {
    /// It cannot be reached, or did not answer as it should in time: it may or may not have been done.
    #[error("{url} cannot be reached: {reason}")]
    Unavailable {
        /// What was called.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The token is missing or wrong.
    #[error("{url} refuses the token (status {status})")]
    Unauthorized {
        /// What was called.
        url: String,
        /// The status it answered with.
        status: u16,
    },
    /// What was asked for is not there.
    #[error("{url}: not found")]
    NotFound {
        /// What was called.
        url: String,
    },
    /// It was refused, and will be again until something changes.
    #[error("{url} refuses (status {status}): {reason}")]
    Rejected {
        /// What was called.
        url: String,
        /// The status it answered with.
        status: u16,
        /// What it says.
        reason: String,
    },
}

impl From<RayError> for EffectError {
    fn from(error: RayError) -> Self {
        let kind = match error {
            RayError::Unavailable { .. } => ErrorKind::Unavailable,
            RayError::NotFound { .. } => ErrorKind::NotFound,
            RayError::Unauthorized { .. } | RayError::Rejected { .. } => ErrorKind::Rejected,
        };
        Self { kind, message: error.to_string() }
    }
}

/// Connections to one address that are kept for the next request: when hundreds of jobs are told something at once,
/// there are hundreds for a moment, each with its buffers.
const IDLE_CONNECTIONS: usize = 4;

/// The HTTP clients that all clusters share, for they keep connections, and making one reads the machine's certificates.
struct Clients {
    /// Gives up when nothing comes for a while.
    steady: Client,
    /// Waits for an answer as long as the request says, for it begins after an upload.
    patient: Client,
}

impl Clients {
    fn get() -> Result<&'static Self, EffectError> {
        static CLIENTS: LazyLock<Result<Clients, String>> = LazyLock::new(|| {
            let plain = || {
                // Ray refuses to be asked by what calls itself a browser.
                let agent = concat!("rayconcile/", env!("CARGO_PKG_VERSION"));
                let client = Client::builder().user_agent(agent).connect_timeout(CONNECT_TIMEOUT).no_proxy();
                client.pool_max_idle_per_host(IDLE_CONNECTIONS)
            };
            let steady = plain().read_timeout(READ_TIMEOUT).build().map_err(|error| error.to_string())?;
            let patient = plain().build().map_err(|error| error.to_string())?;
            Ok(Clients { steady, patient })
        });
        CLIENTS.as_ref().map_err(|error| rejected(error.clone()))
    }
}

/// A request, sent; its answer, if it is a good one.
async fn send(request: reqwest::RequestBuilder) -> Result<reqwest::Response, RayError> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| unavailable("the request", &error))?;
    let url = request.url().to_string();
    let response = client.execute(request).await.map_err(|error| unavailable(&url, &error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let code = status.as_u16();
    let reason = essence(&bounded::beginning(response).await);
    Err(match code {
        401 | 403 if !reason.contains("head is not drained") => RayError::Unauthorized { url, status: code },
        404 => RayError::NotFound { url },
        // Ray answers 500 both to what is wrong and to what is not ready.
        500 if reason.contains("No available agent") => RayError::Unavailable { url, reason },
        // Of our agent: something newer is under way, or something older must end first.
        409 | 502..=504 => RayError::Unavailable { url, reason },
        _ => RayError::Rejected { url, status: code, reason },
    })
}

/// What is answered at an address, if anything is within this time.
///
/// # Errors
/// If nothing is, or it is no good answer.
pub async fn ask(url: &str, patience: Duration) -> Result<String, RayError> {
    let clients = Clients::get()
        .map_err(|error| RayError::Unavailable { url: url.to_owned(), reason: error.message })?;
    let response = send(clients.steady.get(url).timeout(patience)).await?;
    response.text().await.map_err(|error| unavailable(url, &error))
}

/// What an answer says: of a traceback, which may hold others, the last line; of anything else the beginning.
fn essence(text: &str) -> String {
    let last =
        text.lines().rev().map(|line| line.trim_matches(['"', '.', ' '])).find(|line| !line.is_empty());
    let essence =
        if text.contains("Traceback (most recent call last)") { last.unwrap_or_default() } else { text };
    essence.chars().take(1000).collect()
}

/// An error of the client, with its causes, which it does not print itself.
fn unavailable(url: &str, error: &reqwest::Error) -> RayError {
    let mut reason = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        if !reason.is_empty() {
            reason.push_str(": ");
        }
        reason.push_str(&deeper.to_string());
        cause = deeper.source();
    }
    if error.is_timeout() {
        "no answer in time".clone_into(&mut reason);
    } else if reason.is_empty() {
        reason = error.to_string();
    }
    RayError::Unavailable { url: url.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::is_supported;

    #[test]
    fn versions_are_compared_by_number() {
        for version in ["2.55.0", "2.60.1", "2.100.0", "2.61.0rc0"] {
            assert!(is_supported(version), "{version}");
        }
        for version in ["2.9.3", "2.54.9", "3.0.0", "1.13", "", "nightly"] {
            assert!(!is_supported(version), "{version}");
        }
    }
}
