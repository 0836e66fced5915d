//! A look at a head through its dashboard: what kind of machine it is, and whether our agent's port there can be
//! reached from here. The only way to know that is to try: somebody must serve there for a moment.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use crate::action::EffectError;
use crate::provider::ray::agent::AgentClient;
use crate::provider::ray::dashboard::Dashboard;
use crate::provider::ray::jobs::Submission;
use crate::provider::ray::{RayError, ask};
use crate::provider::{rejected, unavailable};

/// How long the head may take to start a Ray job: a few seconds on a good day.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How long the port is served, and how long it is tried: it is served before that is known here.
const SERVE: Duration = Duration::from_secs(8);
const TRY: Duration = Duration::from_secs(3);
/// How long what remains of the probe is tried to be removed.
const FORGET: Duration = Duration::from_secs(60);
/// How long one try may take.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);

const SCRIPT: &str = include_str!("probe.py");

/// Runs the script: where Ray jobs run, `python` may be another or none.
const COMMAND: &str = "for p in python python3; do \
    command -v $p >/dev/null && exec $p -c \"$RAYCONCILE_PROBE\" $RAYCONCILE_PROBE_ARGUMENTS; done; \
    echo 'neither python nor python3 is on the PATH of Ray' >&2; exit 1";

/// What a head is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its operating system, as `uname` has it.
    pub system: String,
    /// Its processor, as `uname -m` has it.
    pub machine: String,
    /// The version of its glibc, if it has that.
    pub glibc: Option<(u32, u32)>,
    /// Whether the agent's port was free, so that the probe served there.
    pub listens: bool,
}

impl Head {
    /// Reads what the probe has written, if it has.
    pub fn parse(output: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Answer {
            system: String,
            machine: String,
            libc: (String, String),
            listens: bool,
        }
        let answer: Answer = output.lines().find_map(|line| serde_json::from_str(line).ok())?;
        let (family, version) = answer.libc;
        let mut numbers = version.split('.').map(|number| number.parse().ok());
        let version = numbers.next().flatten().zip(numbers.next().flatten());
        Some(Self {
            system: answer.system,
            machine: answer.machine,
            glibc: version.filter(|_| family == "glibc"),
            listens: answer.listens,
        })
    }
}

/// Whether an agent answers already at its port of a cluster, or a probe of somebody else's.
pub async fn agent_answers(dashboard: &Dashboard, port: u16) -> bool {
    let Ok(agent) = dashboard.beside(port).and_then(|address| AgentClient::new(&address, String::new()))
    else {
        return false;
    };
    tokio::time::timeout(ANSWER, agent.controller_heard()).await.is_ok_and(|answer| answer.is_ok())
}

/// Looks at a head: what it is, and whether a port of it can be reached.
///
/// # Errors
/// If no Ray job runs there.
pub async fn look(dashboard: &Dashboard, port: u16) -> Result<(Head, bool), EffectError> {
    let nonce = Uuid::new_v4().simple().to_string();
    let id = format!("rayconcile-probe-{nonce}");
    let arguments = format!("{port} {nonce} {}", SERVE.as_secs());
    let job = Submission {
        id: &id,
        entrypoint: COMMAND,
        runtime_env: json!({"env_vars": {"RAYCONCILE_PROBE": SCRIPT, "RAYCONCILE_PROBE_ARGUMENTS": arguments}}),
        metadata: BTreeMap::from([("started-by".to_owned(), "rayconcile".to_owned())]),
    };
    patiently(|| dashboard.submit_job(&job)).await?;
    let found = look_through(dashboard, &id, port, &nonce).await;
    // It ends by itself; what remains of it in lists is of no use to anybody. Ray takes its time for that.
    let dashboard = dashboard.clone();
    tokio::spawn(tokio::time::timeout(FORGET, async move {
        let _ = dashboard.stop(&id).await;
        while dashboard.forget_job(&id).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }));
    found
}

async fn look_through(
    dashboard: &Dashboard,
    id: &str,
    port: u16,
    nonce: &str,
) -> Result<(Head, bool), EffectError> {
    let head = answer(dashboard, id).await?;
    if !head.listens {
        return Ok((head, agent_answers(dashboard, port).await));
    }
    let url = format!("{}/{nonce}", dashboard.beside(port)?);
    let deadline = Instant::now() + TRY;
    while Instant::now() < deadline {
        match ask(&url, ANSWER).await {
            // Another's answer, such as a proxy's, would not be the agent's either.
            Ok(text) => return Ok((head, text.contains(nonce))),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    Ok((head, false))
}

/// What the probe has found out, as soon as it has.
async fn answer(dashboard: &Dashboard, id: &str) -> Result<Head, EffectError> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        let output = dashboard.output(id).await.unwrap_or_default();
        if let Some(head) = Head::parse(&output) {
            return Ok(head);
        }
        match dashboard.listed_job(id).await {
            Ok(job) if job.has_ended() => {
                let said = output.lines().last().map(str::to_owned).or(job.message).unwrap_or_default();
                return Err(rejected(format!(
                    "the head cannot be looked at, a Ray job on it ends at once: {said}"
                )));
            }
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            _ if Instant::now() > deadline => {
                return Err(unavailable(format!(
                    "the head starts no Ray job within {} s",
                    START_PATIENCE.as_secs()
                )));
            }
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Does something again for a while, when what it needs is not ready.
pub(super) async fn patiently<F>(attempt: impl Fn() -> F) -> Result<(), RayError>
where
    F: Future<Output = Result<(), RayError>>,
{
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        match attempt().await {
            Err(RayError::Unavailable { .. }) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_among_what_else_is_written() {
        let output = "2026-11-28 INFO job_manager.py\n{\"system\": \"Linux\", \"machine\": \"x86_64\", \
                      \"libc\": [\"glibc\", \"2.36\"], \"listens\": true}\n";
        let head = Head::parse(output);
        let wanted = Head {
            system: "Linux".to_owned(),
            machine: "x86_64".to_owned(),
            glibc: Some((2, 36)),
            listens: true,
        };
        assert_eq!(head, Some(wanted));
        assert_eq!(Head::parse("Traceback (most recent call last)\n{}\n"), None);
    }
}
