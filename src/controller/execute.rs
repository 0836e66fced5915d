//! Carrying out effects. Each looks first for what it is to make, so that doing it again changes nothing.

use std::fs;
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

use super::deliver::deliver;
use crate::action::{Effect, EffectError, EffectResult, Intent};
use crate::api::cluster::RayClusterSpec;
use crate::api::ids::{CheckpointId, Digest, GroupNumber, Uid};
use crate::api::keepsake::JobKeepsake;
use crate::api::meta::ObjectKey;
use crate::api::object::AdaptDLJob;
use crate::api::record::{ArtifactsRecord, CheckpointRecord, Incarnation};
use crate::provider::ray::agent::AgentClient;
use crate::provider::ray::dashboard::Dashboard;
use crate::provider::ray::{RAY_VERSIONS, RayError, document, is_supported, package, tokens};
use crate::provider::{
    Directories, EndedNode, NodeLaunch, NodeProvider, Opening, for_cluster, io, rejected, unavailable,
};
use crate::store::places::{Place, s3};
use crate::store::{DomainRows, JobRow};

/// How long the dashboard may take to come up, within one try to submit the agent.
const DASHBOARD_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// What an effect may need to know.
pub(super) struct Context {
    pub(super) directories: Directories,
    pub(super) key: ObjectKey,
    pub(super) rows: DomainRows,
    /// Tells this controller from others.
    pub(super) controller: String,
    /// How long a slot lives without its bridge, in seconds.
    pub(super) lease_s: u64,
}

impl Context {
    /// The clients of the cluster's dashboard and agent.
    pub(super) fn clients(&self) -> Result<(Dashboard, AgentClient), EffectError> {
        clients(&self.directories, &self.key, self.spec()?, self.incarnation()?)
    }

    fn spec(&self) -> Result<&RayClusterSpec, EffectError> {
        self.rows
            .cluster
            .as_ref()
            .map(|cluster| &cluster.spec)
            .ok_or_else(|| rejected("the cluster is not there"))
    }

    fn provider(&self) -> Result<Box<dyn NodeProvider>, EffectError> {
        let cluster = self.rows.cluster.as_ref().ok_or_else(|| rejected("the cluster is not there"))?;
        for_cluster(cluster, &self.directories)
    }

    fn incarnation(&self) -> Result<&Incarnation, EffectError> {
        self.rows.record.incarnation.as_ref().ok_or_else(|| rejected("the cluster is not open"))
    }

    fn job(&self, uid: &Uid) -> Result<&JobRow, EffectError> {
        let found = self.rows.jobs.iter().find(|row| row.job.metadata.uid == *uid);
        found.ok_or_else(|| rejected("the job is not there"))
    }

    fn place(&self, path: &str) -> Place {
        Place::of(&self.directories.state, path)
    }

    fn job_directory(&self, job: &AdaptDLJob) -> PathBuf {
        self.directories.state.join("jobs").join(job.metadata.directory())
    }
}

/// The clients of a cluster's dashboard and agent.
pub(super) fn clients(
    directories: &Directories,
    key: &ObjectKey,
    spec: &RayClusterSpec,
    incarnation: &Incarnation,
) -> Result<(Dashboard, AgentClient), EffectError> {
    let dashboard = Dashboard::new(&incarnation.dashboard, tokens::for_cluster(directories, key, spec)?)?;
    let agent = AgentClient::new(&incarnation.agent, tokens::agent_token(directories, key)?)?;
    Ok((dashboard, agent))
}

/// Carries out an effect.
pub(super) async fn execute(context: &Context, intent: &Intent) -> Result<EffectResult, EffectError> {
    match &intent.effect {
        Effect::OpenCluster { incarnation } => {
            let spec = context.spec()?.clone();
            let opening =
                Opening { cluster: context.key.clone(), id: incarnation.clone(), spec: spec.clone() };
            let opened = context.provider()?.open(opening).await?;
            return Ok(EffectResult::Opened(Box::new(opened)));
        }
        Effect::CloseCluster { incarnation } => {
            context.provider()?.close(&context.key, incarnation).await?;
        }
        Effect::LaunchNode { node, group, index, template, offering } => {
            let node = NodeLaunch {
                name: node.clone(),
                launch: intent.id.clone(),
                group: group.clone(),
                index: *index,
                template: (**template).clone(),
                offering: offering.clone(),
                failure_timeout: context.spec()?.node_failure_timeout,
            };
            context.provider()?.launch(&context.key, context.incarnation()?, node).await?;
        }
        Effect::TerminateNode { launch, index, since, .. } => {
            let incarnation = context.incarnation()?.id.clone();
            let ended = EndedNode { incarnation, launch: launch.clone(), index: *index, since: *since };
            context.provider()?.terminate(&context.key, ended).await?;
        }
        Effect::TerminateInstance { instance } => context.provider()?.end_instance(instance).await?,
        Effect::DrainNode { ray, .. } => context.clients()?.1.drain(ray).await?,
        Effect::SubmitAgent { submission } => submit_agent(context, submission).await?,
        Effect::StopAgent { submission } => context.clients()?.0.stop(submission).await?,
        Effect::RequestResources { bundles } => context.clients()?.1.request_resources(bundles).await?,
        Effect::SendDocument { job, revision } => send_document(context, job, *revision).await?,
        Effect::SendCheckpoint { job, id } => send_checkpoint(context, job, *id).await?,
        Effect::RemoveBridge { job, keep } => {
            let revision = context.job(job)?.record.revision;
            context.clients()?.1.delete_job(job, revision, *keep).await?;
        }
        Effect::FetchCheckpoint { job, checkpoint } => fetch_checkpoint(context, job, checkpoint).await?,
        Effect::FetchArtifacts { job, digest, .. } => {
            let path = artifacts_path(&context.job_directory(&context.job(job)?.job), digest);
            context.clients()?.1.fetch_blob(job, digest, &path).await?;
        }
        Effect::DeliverArtifacts { job } => deliver_artifacts(context, job).await?,
        Effect::DropCheckpoint { job, id } => drop_checkpoint(context, job, *id).await?,
    }
    Ok(EffectResult::Done)
}

async fn submit_agent(context: &Context, submission: &str) -> Result<(), EffectError> {
    let (dashboard, _) = context.clients()?;
    let token = tokens::agent_token(&context.directories, &context.key)?;
    let agent = AgentToSubmit {
        submission,
        address: &context.incarnation()?.agent,
        token: &token,
        controller: &context.controller,
        lease_s: context.lease_s,
        take_over: false,
    };
    agent.submit(&dashboard).await
}

/// What an agent is started with.
pub(super) struct AgentToSubmit<'a> {
    /// The Ray job that it will be.
    pub(super) submission: &'a str,
    /// Where it will be reached.
    pub(super) address: &'a str,
    /// The token that it will ask for.
    pub(super) token: &'a str,
    /// Tells its controller from others.
    pub(super) controller: &'a str,
    /// How long a slot lives without its bridge, in seconds.
    pub(super) lease_s: u64,
    /// Whether the cluster's jobs are this controller's now, even if they were another's.
    pub(super) take_over: bool,
}

impl AgentToSubmit<'_> {
    /// Submits it, as soon as the dashboard answers.
    pub(super) async fn submit(&self, dashboard: &Dashboard) -> Result<(), EffectError> {
        let deadline = tokio::time::Instant::now() + DASHBOARD_PATIENCE;
        // A head that is just being started does not answer yet.
        let version = loop {
            match dashboard.version().await {
                Ok(version) => break version,
                Err(RayError::Unavailable { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        // What an image has is known only now.
        if !is_supported(&version) {
            return Err(rejected(format!(
                "the head runs Ray {version}, which is not supported ({RAY_VERSIONS} is)"
            )));
        }
        let package = package::agent();
        dashboard.ensure_package(&package.name, package.contents.clone()).await?;
        let port = self.address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let host =
            nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let settings = serde_json::json!({
            "controller": self.controller,
            "host": host,
            "port": port.ok_or_else(|| rejected(format!("{} has no port", self.address)))?,
            "tokenSha256": tokens::fingerprint(self.token),
            "leaseS": self.lease_s,
            "takeOver": self.take_over,
        });
        let runtime_env = serde_json::json!({
            "working_dir": package::uri(&package.name),
            "env_vars": {"RAYCONCILE_AGENT": settings.to_string()},
        });
        Ok(dashboard.submit(self.submission, AGENT_COMMAND, runtime_env).await?)
    }
}

/// Runs the agent with the first interpreter that has Ray: where Ray jobs run, `python` may be another or none.
const AGENT_COMMAND: &str = "for p in python python3; do \
    $p -c 'import importlib.util as u, sys; sys.exit(u.find_spec(\"ray\") is None)' 2>/dev/null \
    && exec $p -m rayconcile_agent.agent; done; \
    echo 'neither python nor python3 on the PATH of Ray has Ray' >&2; exit 1";

async fn send_document(context: &Context, uid: &Uid, revision: u64) -> Result<(), EffectError> {
    let JobRow { job, record } = context.job(uid)?;
    let Some(told) = record.document.as_ref().filter(|document| document.revision == revision) else {
        return Ok(()); // A newer one has taken its place.
    };
    let (dashboard, agent) = context.clients()?;
    let packages = told.slots.values().filter_map(|slot| slot.kind.package.clone());
    let packages: std::collections::BTreeSet<Digest> = packages.collect();
    if !told.slots.is_empty() {
        let own = package::agent();
        dashboard.ensure_package(&own.name, own.contents.clone()).await?;
    }
    for digest in packages {
        let path = context.directories.packages().join(format!("{digest}.zip"));
        let contents = tokio::fs::read(&path).await;
        let contents =
            contents.map_err(|error| rejected(format!("cannot read package {}: {error}", path.display())))?;
        dashboard.ensure_package(&package::name(&digest.0), contents).await?;
    }
    let mut rendered =
        document::render(told, uid, &job.metadata.key(), &context.directories, Timestamp::now())?;
    rendered["keepsake"] = serde_json::to_value(JobKeepsake::of(job, record)).unwrap_or_default();
    Ok(agent.put_job(uid, &rendered).await?)
}

async fn send_checkpoint(context: &Context, uid: &Uid, id: CheckpointId) -> Result<(), EffectError> {
    let JobRow { job, record } = context.job(uid)?;
    let checkpoint: &CheckpointRecord = record
        .checkpoints
        .iter()
        .find(|checkpoint| checkpoint.id == id)
        .ok_or_else(|| rejected(format!("there is no checkpoint {id}")))?;
    let contents = context.place(&checkpoint.path).read().await?;
    let agent = context.clients()?.1;
    agent.put_checkpoint(uid, &job.metadata.key(), record.revision, checkpoint, contents).await
}

/// Keeps a checkpoint where its record says. What goes to object storage passes through, and leaves no file here.
async fn fetch_checkpoint(
    context: &Context,
    uid: &Uid,
    checkpoint: &CheckpointRecord,
) -> Result<(), EffectError> {
    let agent = context.clients()?.1;
    let (digest, size) = (&checkpoint.digest, checkpoint.size.0);
    match context.place(&checkpoint.path) {
        Place::File(path) => agent.fetch_blob(uid, digest, &path).await,
        Place::Object(address) => {
            if !s3::holds(&address, digest, size).await? {
                let contents = agent.blob(uid, digest).await?;
                s3::write(&address, size, Some(digest), contents).await?;
            }
            agent.blob_is_kept(uid, digest).await
        }
    }
}

fn artifacts_path(job_directory: &Path, digest: &Digest) -> PathBuf {
    job_directory.join("artifacts").join(format!("{digest}.tar"))
}

/// Puts what the groups left where the manifest wants it: of a file that several left, the newest.
async fn deliver_artifacts(context: &Context, uid: &Uid) -> Result<(), EffectError> {
    let JobRow { job, record } = context.job(uid)?;
    let Some(destination) = job.spec.artifacts.destination.clone() else { return Ok(()) };
    let directory = context.job_directory(job);
    let archives: Vec<PathBuf> = record
        .artifacts
        .iter()
        .map(|ArtifactsRecord { digest, .. }| artifacts_path(&directory, digest))
        .collect();
    if let Ok(address) = destination.parse() {
        return deliver(archives, &address).await;
    }
    let work = move || archives.iter().try_for_each(|archive| unpack_into(archive, Path::new(&destination)));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(unavailable(error.to_string())))
}

/// Unpacks an archive file by file, each under a temporary name first, so that none is ever half there.
fn unpack_into(archive: &Path, destination: &Path) -> Result<(), EffectError> {
    let file = fs::File::open(archive).map_err(|error| io("read", archive, &error))?;
    let mut tar = tar::Archive::new(file);
    let entries = tar.entries().map_err(|error| io("read", archive, &error))?;
    for entry in entries {
        let mut entry = entry.map_err(|error| io("read", archive, &error))?;
        let name = entry.path().map_err(|error| io("read", archive, &error))?.into_owned();
        if !inside(&name) {
            continue;
        }
        let path = destination.join(&name);
        if entry.header().entry_type().is_dir() {
            fs::create_dir_all(&path).map_err(|error| io("make", &path, &error))?;
        } else if entry.header().entry_type().is_file() {
            let directory = path.parent().unwrap_or(destination);
            fs::create_dir_all(directory).map_err(|error| io("make", directory, &error))?;
            let mut temporary = tempfile::NamedTempFile::new_in(directory)
                .map_err(|error| io("write in", directory, &error))?;
            std::io::copy(&mut entry, &mut temporary).map_err(|error| io("write", &path, &error))?;
            readable(temporary.as_file()).map_err(|error| io("write", &path, &error))?;
            temporary
                .flush()
                .and_then(|()| temporary.as_file().sync_all())
                .map_err(|error| io("write", &path, &error))?;
            temporary.persist(&path).map_err(|error| io("write", &path, &error.error))?;
        }
    }
    Ok(())
}

/// Whether what an archive names so stays in the directory that it is unpacked in.
pub(super) fn inside(name: &Path) -> bool {
    name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Temporary files are for their owner alone; what is delivered is for whoever may read the directory.
fn readable(file: &fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

async fn drop_checkpoint(context: &Context, uid: &Uid, id: CheckpointId) -> Result<(), EffectError> {
    let record = &context.job(uid)?.record;
    let Some(dropped) = record.checkpoints.iter().find(|checkpoint| checkpoint.id == id) else {
        return Ok(());
    };
    // Two saves of equal contents are one file.
    if record.checkpoints.iter().any(|other| other.id != id && other.path == dropped.path) {
        return Ok(());
    }
    Ok(context.place(&dropped.path).remove().await?)
}

/// The newest output of a job's worker, brought from its bridge.
pub(super) async fn pull_log(
    agent: &AgentClient,
    uid: &Uid,
    group: GroupNumber,
    rank: u32,
    from: u64,
) -> Result<(u64, Vec<u8>), EffectError> {
    let piece = agent.log(uid, group, rank, from).await?;
    Ok((piece.position, piece.bytes))
}
