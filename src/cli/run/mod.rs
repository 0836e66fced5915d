//! `run`: run a job to its end.
//!
//! Without a controller for the state directory one is embedded for as long as the job runs; beside one, `run` is
//! its client. What the run brought along, it takes away: clusters that its manifests made are deleted at its end.

mod live;
mod script;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use futures_util::{StreamExt as _, pin_mut};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::controller::Running;
use super::delete::wait_until_gone;
use super::printer::Printer;
use super::signals::Signals;
use super::target::name;
use super::{Context, ExitStatus, input, status, wrong};
use crate::api::meta::{DEFAULT_NAMESPACE, ObjectKey};
use crate::api::object::{AdaptDLJob, AnyObject, Kind};
use crate::api::status::JobPhase;
use crate::api::units::Span;
use crate::client::{Client, ClientError, WatchEvent};
use live::View;

/// The built-in cluster is given back as soon as the run is over.
const BUILT_IN_IDLE: Span = Span::from_secs(0);

/// How long after a job has finished its last events may come.
const LAST_WORDS: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// A manifest with one job, and the clusters it needs; or a Python script
    #[arg(value_name = "MANIFEST|SCRIPT")]
    what: PathBuf,
    /// For a script: its arguments
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
    /// For a script: the job's name, by default the script's
    #[arg(long)]
    name: Option<String>,
    /// For a script: never more workers than this
    #[arg(long, value_name = "N")]
    max_replicas: Option<u32>,
    /// For a script: CPUs of each worker
    #[arg(long, value_name = "CPUS")]
    cpu: Option<String>,
    /// For a script: GPUs of each worker
    #[arg(long, value_name = "N")]
    gpu: Option<u32>,
    /// The namespace
    #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// Keep the clusters of the manifest when the job is over
    #[arg(long)]
    keep_clusters: bool,
}

pub(super) async fn run(context: &Context, args: RunArgs) -> Result<ExitStatus> {
    let packages = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (objects, job) = wanted(context, &args, packages.path())?;
    let embedded = Running::embedded(&context.state_dir, BUILT_IN_IDLE).await?;
    let client = context.client()?;
    let run = Run {
        printer: context.printer.persistent(),
        context,
        client,
        job,
        keep_clusters: args.keep_clusters,
        embedded: embedded.is_some(),
    };
    let outcome = run.run(&objects, packages.path()).await;
    if let Some(running) = embedded {
        running.stop().await;
    }
    outcome
}

/// The objects of the manifest, or of the script, and the one job among them.
fn wanted(context: &Context, args: &RunArgs, packages: &Path) -> Result<(Vec<AnyObject>, ObjectKey)> {
    let is_script = script::is_script(&args.what);
    script::check_flags(args, is_script)?;
    let manifests = if is_script {
        script::manifests(args)?
    } else {
        input::read(std::slice::from_ref(&args.what), false, &args.namespace)?
    };
    input::warn(context, &manifests);
    let objects = input::admit(&manifests, packages)?;
    let jobs: Vec<ObjectKey> =
        objects.iter().filter(|object| object.kind() == Kind::AdaptDLJob).map(AnyObject::key).collect();
    match jobs.as_slice() {
        [job] => Ok((objects, job.clone())),
        [] => Err(wrong(format!("{} has no AdaptDLJob", args.what.display()))),
        _ => Err(wrong(format!(
            "{} has {} AdaptDLJobs; `run` runs one, `apply` takes several",
            args.what.display(),
            jobs.len()
        ))),
    }
}

struct Run<'a> {
    printer: Printer,
    context: &'a Context,
    client: Client,
    job: ObjectKey,
    keep_clusters: bool,
    embedded: bool,
}

/// How a run came to its end.
enum End {
    Finished(Box<AdaptDLJob>),
    Interrupted,
    Deleted,
}

impl Run<'_> {
    async fn run(&self, objects: &[AnyObject], packages: &Path) -> Result<ExitStatus> {
        let mut signals = Signals::new()?;
        let view = View::new(self.printer);
        let mut brought = Vec::new();
        let end = tokio::select! {
            end = self.attend(objects, packages, &view, &mut brought) => end,
            _ = signals.next() => self.interrupt(&view, &mut signals).await,
        };
        view.finish();
        if let Ok(End::Finished(job)) = &end {
            self.printer.page(&status::object_page(&AnyObject::Job(job.clone()), self.printer.screen()));
        }
        let given_back = tokio::select! {
            done = self.give_back(&brought) => done,
            _ = signals.next() => {
                self.printer.warn("left at once; clusters may still be running: `rayconcile run` or `controller` goes on with them");
                Ok(())
            }
        };
        // What went wrong first is what there is to say.
        let end = end?;
        given_back?;
        Ok(match end {
            End::Finished(job) if job.status.phase == JobPhase::Succeeded => ExitStatus::Success,
            End::Finished(_) => ExitStatus::Failure,
            End::Interrupted => ExitStatus::Interrupted,
            End::Deleted => bail!("the job was deleted"),
        })
    }

    /// Makes what is wanted, and shows the job until it has finished; `brought` are the clusters that were not there.
    async fn attend(
        &self,
        objects: &[AnyObject],
        packages: &Path,
        view: &View,
        brought: &mut Vec<ObjectKey>,
    ) -> Result<End> {
        self.clear_finished().await?;
        for cluster in input::clusters(objects) {
            if self.client.get(Kind::RayCluster, &cluster).await.is_err_and(|error| error.is_not_found()) {
                brought.push(cluster);
            }
        }
        input::send_packages(&self.client, objects, packages).await?;
        for object in objects {
            let (word, _) = self.client.apply(object, false).await?;
            self.printer.talk(&format!("{} {word}", name(object.kind(), &object.key())));
        }
        let started = jiff::Timestamp::now();
        loop {
            match self.follow(view, started).await {
                // Too slow for the changes there were: from the present state again.
                Err(error) if error.downcast_ref().is_some_and(ClientError::is_expired) => {}
                other => return other,
            }
        }
    }

    /// A job of this name that has finished makes way for the new run.
    async fn clear_finished(&self) -> Result<()> {
        let Ok(AnyObject::Job(job)) = self.client.get(Kind::AdaptDLJob, &self.job).await else {
            return Ok(());
        };
        let old = name(Kind::AdaptDLJob, &self.job);
        if job.status.phase.is_final() {
            let message = format!("{old} finished before ({}); it is run afresh", job.status.phase);
            self.printer.talk(&message);
            let going = self.client.delete(Kind::AdaptDLJob, &self.job, false).await?;
            wait_until_gone(self.context, &self.client, &going).await?;
        } else if job.status.checkpoint.is_some() {
            self.printer.talk(&format!("{old} goes on from its checkpoint"));
        }
        Ok(())
    }

    /// Shows the job until it has finished.
    async fn follow(&self, view: &View, started: jiff::Timestamp) -> Result<End> {
        let objects = self.client.watch(Kind::AdaptDLJob, Some(&self.job.namespace), None).await?;
        let selector = format!("involvedObject.name={}", self.job.name);
        let events = self.client.watch_events(Some(&self.job.namespace), &selector).await?;
        pin_mut!(objects, events);
        let mut finished: Option<(Box<AdaptDLJob>, Instant)> = None;
        loop {
            let until = finished.as_ref().map(|(_, until)| *until);
            tokio::select! {
                biased;
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
                Some(event) = events.next() => {
                    let event = event?;
                    if event.last_timestamp >= started {
                        view.tell(&event);
                    }
                }
                Some(event) = objects.next() => match event? {
                    WatchEvent::Now(AnyObject::Job(job)) if job.metadata.key() == self.job => {
                        view.show(&job);
                        if finished.is_none() && job.status.phase.is_final() {
                            finished = Some((job, Instant::now() + LAST_WORDS));
                        }
                    }
                    WatchEvent::Gone(object) if object.key() == self.job => break,
                    _ => {}
                },
                else => bail!("the controller ended"),
            }
        }
        Ok(finished.map_or(End::Deleted, |(job, _)| End::Finished(job)))
    }

    /// Ctrl-C: the job saves its state and stops; a second one leaves at once.
    async fn interrupt(&self, view: &View, signals: &mut Signals) -> Result<End> {
        view.say("interrupted: the job saves its state and stops (Ctrl-C again leaves at once)");
        match self.client.patch(Kind::AdaptDLJob, &self.job, &json!({"spec": {"suspend": true}})).await {
            Err(error) if error.is_not_found() => return Ok(End::Interrupted), // It had not even been made.
            other => other?,
        };
        let suspended = async {
            loop {
                if let AnyObject::Job(job) = self.client.get(Kind::AdaptDLJob, &self.job).await? {
                    view.show(&job);
                    if job.status.phase == JobPhase::Suspended || job.status.phase.is_final() {
                        let checkpoint = job.status.checkpoint.as_ref().map(|checkpoint| checkpoint.id);
                        return Ok::<_, anyhow::Error>(checkpoint);
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::select! {
            checkpoint = suspended => {
                match checkpoint? {
                    Some(id) => view.say(&format!("stopped at checkpoint {id}; the same command goes on from there")),
                    None => view.say("stopped; it had no checkpoint yet"),
                }
                Ok(End::Interrupted)
            }
            _ = signals.next() => {
                view.finish();
                self.printer.warn("left at once; the job goes on: `rayconcile run` or `controller` finds it again");
                std::process::exit(130);
            }
        }
    }

    /// Deletes the clusters that this run brought along; an embedded controller also sees the built-in one out.
    async fn give_back(&self, brought: &[ObjectKey]) -> Result<()> {
        let mut leaving = Vec::new();
        if !self.keep_clusters {
            for cluster in brought {
                leaving.push(self.client.delete(Kind::RayCluster, cluster, false).await?);
            }
        }
        let built_in = ObjectKey::new(DEFAULT_NAMESPACE, crate::plan::LOCAL_CLUSTER);
        if self.embedded && !brought.contains(&built_in) {
            leaving.extend(self.unused_built_in(&built_in).await);
        }
        for cluster in &leaving {
            wait_until_gone(self.context, &self.client, cluster).await?;
        }
        Ok(())
    }

    /// The built-in cluster, if it is there for no job that still wants to run.
    async fn unused_built_in(&self, key: &ObjectKey) -> Option<AnyObject> {
        let Ok(AnyObject::Cluster(cluster)) = self.client.get(Kind::RayCluster, key).await else {
            return None;
        };
        let jobs = self.client.list(Kind::AdaptDLJob, None, None).await.unwrap_or_default();
        let wanted = jobs.iter().any(|object| match object {
            AnyObject::Job(job) => {
                job.spec.cluster_ref.is_none() && !job.status.phase.is_final() && !job.spec.suspend
            }
            AnyObject::Cluster(_) => false,
        });
        let unused = cluster.metadata.labels.contains_key(crate::api::meta::BUILT_IN) && !wanted;
        unused.then_some(AnyObject::Cluster(cluster))
    }
}
