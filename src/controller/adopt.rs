//! Adopting a cluster on EC2 whose state directory is lost: what can be found of it becomes this controller's own, and
//! its jobs go on.
//!
//! Its instances are found by their tags, its manifest and Ray's token in Systems Manager, its jobs at the agent, to
//! which each was given with what was decided for it. Nothing is written here before all of that is there.

mod rebuilt;

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::execute::{AgentToSubmit, clients};
use super::id_of;
use crate::action::EffectError;
use crate::api::cluster::AuthMode;
use crate::api::event::{EventType, NewEvent};
use crate::api::ids::Digest;
use crate::api::meta::ObjectKey;
use crate::api::object::{AdaptDLJob, AnyObject, Kind, RayCluster};
use crate::api::record::{AgentRecord, ClusterRecord, Incarnation, JobRecord};
use crate::api::units::Span;
use crate::api::wire::AgentState;
use crate::api::words::count;
use crate::provider::aws::{FoundCluster, ray_token};
use crate::provider::ray::agent::AgentClient;
use crate::provider::ray::dashboard::Dashboard;
use crate::provider::ray::{RayError, package, tokens};
use crate::provider::{Directories, Opening, for_cluster, io, rejected};
use crate::store::{Store, StoreError, Tx};

/// After so long without a word from it a controller is taken to be gone: it asks all the time.
const SILENCE: Duration = Duration::from_secs(15);
/// How long it is waited for that silence: a question of one that has just died is held for ten seconds.
const SILENCE_PATIENCE: Duration = Duration::from_secs(40);
/// How long the new agent may take to answer.
const AGENT_PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const POLL: Duration = Duration::from_millis(500);

/// Why a cluster cannot be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// This state directory has it already, or another of its name.
    #[error("{0}")]
    Here(String),
    /// Another controller has it.
    #[error(
        "a controller has spoken with the agent of {0} within the last {silence} seconds, and two of them would work \
         against each other",
        silence = SILENCE.as_secs()
    )]
    InUse(ObjectKey),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something of it cannot be had.
    #[error(transparent)]
    Effect(#[from] EffectError),
}

/// What is needed to adopt a cluster.
pub struct Adoption<'a> {
    /// Where it will be kept.
    pub store: &'a Store,
    /// Where its files will be.
    pub directories: &'a Directories,
    /// What was found of it.
    pub found: &'a FoundCluster,
    /// Its manifest, with its uid.
    pub cluster: RayCluster,
    /// How long a slot lives without its bridge.
    pub lease: Span,
    /// Whether a controller that is there is ignored.
    pub force: bool,
}

/// What was adopted.
#[derive(Debug)]
pub struct Adopted {
    /// How many nodes.
    pub nodes: usize,
    /// Its jobs: each with the newest group that was known.
    pub jobs: Vec<ObjectKey>,
    /// What could not be had.
    pub warnings: Vec<String>,
}

/// Adopts a cluster. If it fails, or is interrupted, it can be repeated.
///
/// # Errors
/// If something of it cannot be had, or it is somebody's.
pub async fn adopt(adoption: &Adoption<'_>, say: &(dyn Fn(&str) + Sync)) -> Result<Adopted, AdoptError> {
    let Adoption { store, directories, found, cluster, .. } = adoption;
    let key = cluster.metadata.key();
    if let Some(obstacle) = store.read_now(|tx| obstacle(tx, cluster, &[]))? {
        return Err(AdoptError::Here(obstacle));
    }
    let head = found.head().ok_or_else(|| {
        rejected(format!(
            "{key} has no head any more: there is nothing to go on with; destroy it and apply it again"
        ))
    })?;
    take_token(adoption, &key).await?;
    let opening = Opening { cluster: key.clone(), id: head.incarnation.clone(), spec: cluster.spec.clone() };
    let opened = for_cluster(cluster, directories)?.open(opening).await?;
    let incarnation = Incarnation { since: head.launched.unwrap_or(opened.since), ..opened };
    let (dashboard, agent) = clients(directories, &key, &cluster.spec, &incarnation)?;
    if !adoption.force {
        wait_for_silence(&agent, &key, say).await?;
    }

    let submission = format!("rayconcile-agent-{}", Uuid::new_v4().simple());
    let token = tokens::agent_token(directories, &key)?;
    let new = AgentToSubmit {
        submission: &submission,
        address: &incarnation.agent,
        token: &token,
        controller: &id_of(store)?,
        lease_s: adoption.lease.millis / 1000,
        take_over: true,
    };
    new.submit(&dashboard).await?;
    say("the agent is being started");
    let state = wait_for_agent(&agent, &dashboard, &submission).await?;
    let keepsakes = agent.keepsakes().await.map_err(EffectError::from)?;

    let mut warnings = Vec::new();
    let jobs = rebuilt::jobs(keepsakes, &state, &key, &incarnation.id, &mut warnings);
    for (job, _) in &jobs {
        if let Some(digest) = &job.spec.working_dir_digest
            && let Err(error) = fetch_package(&agent, directories, digest).await
        {
            warnings.push(format!("the package of job {} cannot be had: {error}", job.metadata.name));
        }
    }
    let now = Timestamp::now();
    let record = ClusterRecord {
        agent: Some(AgentRecord { submission, since: now, answered: true }),
        ..rebuilt::record(found, &cluster.spec, incarnation, &state, &jobs, now)
    };
    let adopted = Adopted {
        nodes: record.nodes.len(),
        jobs: jobs.iter().map(|(job, _)| job.metadata.key()).collect(),
        warnings,
    };
    let obstacle = store.write_now(|tx| {
        let obstacle = obstacle(tx, cluster, &jobs)?;
        if obstacle.is_none() {
            keep(tx, cluster, &record, &jobs, now)?;
        }
        Ok(obstacle)
    })?;
    match obstacle {
        Some(obstacle) => Err(AdoptError::Here(obstacle)),
        None => Ok(adopted),
    }
}

/// What is here already stays what it is: why a cluster and its jobs cannot be kept, if so.
fn obstacle(
    tx: &Tx<'_>,
    cluster: &RayCluster,
    jobs: &[(AdaptDLJob, JobRecord)],
) -> Result<Option<String>, StoreError> {
    let key = cluster.metadata.key();
    if tx.get_by_uid(&cluster.metadata.uid)?.is_some() {
        return Ok(Some(format!("this state directory has cluster {key} already")));
    }
    let jobs = jobs.iter().map(|(job, _)| (Kind::AdaptDLJob, job.metadata.key()));
    for (kind, key) in std::iter::once((Kind::RayCluster, key)).chain(jobs) {
        if let Some(other) = tx.get(kind, &key)? {
            let (kind, uid) = (kind.singular(), other.uid());
            return Ok(Some(format!(
                "this state directory has another {kind} {key}, with uid {uid}: delete that first, or use another \
                 --state-dir"
            )));
        }
    }
    Ok(None)
}

/// Ray's token as the instances have it, before anything asks for one and makes another.
async fn take_token(adoption: &Adoption<'_>, key: &ObjectKey) -> Result<(), AdoptError> {
    if adoption.cluster.spec.auth.mode == AuthMode::None {
        return Ok(());
    }
    let token = ray_token(adoption.found).await?.ok_or_else(|| {
        rejected(format!(
            "the token of {key}'s Ray is not in Systems Manager any more: nobody can speak with it"
        ))
    })?;
    Ok(tokens::take_ray_token(adoption.directories, key, &token)?)
}

/// Waits until no controller can be there. An agent that does not answer has none: it would have made another.
async fn wait_for_silence(
    agent: &AgentClient,
    key: &ObjectKey,
    say: &(dyn Fn(&str) + Sync),
) -> Result<(), AdoptError> {
    let deadline = Instant::now() + SILENCE_PATIENCE;
    let mut said = false;
    while let Ok(Some(heard)) = agent.controller_heard().await
        && heard < SILENCE
    {
        if Instant::now() > deadline {
            return Err(AdoptError::InUse(key.clone()));
        }
        if !said {
            say("a controller was heard a moment ago: it is looked whether it is still there");
            said = true;
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn wait_for_agent(
    agent: &AgentClient,
    dashboard: &Dashboard,
    submission: &str,
) -> Result<AgentState, EffectError> {
    let deadline = Instant::now() + AGENT_PATIENCE;
    loop {
        // The agent before this one refuses the token, until it has gone.
        let error = match agent.state(-1, Duration::ZERO).await {
            Ok(state) if !state.nodes.is_empty() => return Ok(state),
            Ok(_) => None,
            Err(error @ (RayError::Unavailable { .. } | RayError::Unauthorized { .. })) => Some(error),
            Err(error) => return Err(error.into()),
        };
        if dashboard.job(submission).await.is_ok_and(|job| job.has_ended()) {
            let output = dashboard.job_output(submission).await.unwrap_or_default();
            return Err(rejected(format!("the agent has ended: {output}")));
        }
        if Instant::now() > deadline {
            let reason = error.map_or_else(|| "it sees no node".to_owned(), |error| error.to_string());
            return Err(crate::provider::unavailable(format!("the agent does not answer: {reason}")));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Brings a job's package here, under its digest.
async fn fetch_package(
    agent: &AgentClient,
    directories: &Directories,
    digest: &Digest,
) -> Result<(), EffectError> {
    let path = directories.packages().join(format!("{digest}.zip"));
    if path.exists() {
        return Ok(());
    }
    let contents = agent.package(&package::name(&digest.0)).await?;
    let found: String = Sha256::digest(&contents).iter().map(|byte| format!("{byte:02x}")).collect();
    if found != digest.0 {
        return Err(rejected(format!("it is not what its digest says, but {found}")));
    }
    let directory = directories.packages();
    std::fs::create_dir_all(&directory).map_err(|error| io("make", &directory, &error))?;
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, contents).map_err(|error| io("write", &temporary, &error))?;
    std::fs::rename(&temporary, &path).map_err(|error| io("write", &path, &error))
}

fn keep(
    tx: &Tx<'_>,
    cluster: &RayCluster,
    record: &ClusterRecord,
    jobs: &[(AdaptDLJob, JobRecord)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let key = cluster.metadata.key();
    tx.apply(AnyObject::Cluster(Box::new(cluster.clone())), None, cluster.metadata.uid.clone(), now)?;
    tx.put_cluster_record(&key, record)?;
    let event = |kind: Kind, object, uid, message| NewEvent {
        kind: kind.into(),
        object,
        uid,
        event_type: EventType::Normal,
        reason: "Adopted".to_owned(),
        message,
    };
    let message = format!("the cluster was found in EC2, with {}", count(record.nodes.len(), "node"));
    tx.record_event(&event(Kind::RayCluster, key, cluster.metadata.uid.clone(), message), now)?;
    for (job, record) in jobs {
        let (key, uid) = (job.metadata.key(), job.metadata.uid.clone());
        tx.apply(AnyObject::Job(Box::new(job.clone())), None, uid.clone(), now)?;
        tx.put_job_record(&uid, record)?;
        let message = match record.groups.last() {
            Some(group) => format!("the job was found on its cluster, with group {}", group.number),
            None => "the job was found on its cluster".to_owned(),
        };
        tx.record_event(&event(Kind::AdaptDLJob, key, uid, message), now)?;
    }
    Ok(())
}
