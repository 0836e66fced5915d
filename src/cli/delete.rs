//! `delete`: ask objects to go, and wait until they have gone.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCandidates;

use super::sync::warn_of_source;
use super::target::{name, objects};
use super::{Context, ExitStatus, Scope, complete, input, wrong};
use crate::api::object::AnyObject;
use crate::api::status::{ClusterPhase, JobPhase};
use crate::client::{Client, ClientError};

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The objects: KIND NAME..., or KIND/NAME...
    #[arg(add = ArgValueCandidates::new(complete::objects))]
    objects: Vec<String>,
    /// The objects of these manifests
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "objects")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    scope: Scope,
    /// Do not wait until they have gone
    #[arg(long)]
    no_wait: bool,
    /// Give up what cannot be reached: workers may remain on a cluster that is lost
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(context: &Context, args: DeleteArgs) -> Result<ExitStatus> {
    if args.scope.all_namespaces {
        return Err(wrong("objects are deleted in one namespace at a time"));
    }
    let mut wanted = if args.files.is_empty() {
        objects(&args.objects, &args.scope.namespace)?
    } else {
        let manifests = input::read(&args.files, false, &args.scope.namespace)?;
        manifests.iter().map(|manifest| (manifest.object.kind(), manifest.object.key())).collect()
    };
    // Jobs before the clusters that they are on.
    wanted.sort_by_key(|(kind, _)| std::cmp::Reverse(*kind));
    let client = context.client()?;
    let mut status = ExitStatus::Success;
    let mut asked = Vec::new();
    for (kind, key) in &wanted {
        match client.delete(*kind, key, args.force).await {
            Ok(object) => {
                warn_of_source(context, &object, "delete its manifest there");
                if args.no_wait {
                    context.printer.data(&format!("{} is being deleted", name(*kind, key)));
                } else {
                    asked.push(object);
                }
            }
            Err(error) if error.is_not_found() => {
                context.printer.error(&error.into());
                status = ExitStatus::Failure;
            }
            Err(error) => return Err(error.into()),
        }
    }
    for object in asked {
        wait_until_gone(context, &client, &object).await?;
        context.printer.data(&format!("{} deleted", name(object.kind(), &object.key())));
    }
    Ok(status)
}

/// Waits until an object that was asked to go has gone, telling what it waits for. Another one of its name is not it: a
/// watched directory makes it anew at once.
pub(super) async fn wait_until_gone(
    context: &Context,
    client: &Client,
    asked: &AnyObject,
) -> Result<(), ClientError> {
    let (kind, key) = (asked.kind(), asked.key());
    let mut said = String::new();
    while let Some(object) = still_there(client, asked).await? {
        let (stopping, message) = match &object {
            AnyObject::Job(job) => (job.status.phase == JobPhase::Stopping, job.status.message.clone()),
            AnyObject::Cluster(cluster) => {
                (cluster.status.phase == ClusterPhase::Stopping, cluster.status.message.clone())
            }
        };
        if message != said && !message.is_empty() && stopping {
            context.printer.talk(&format!("{}: {message}", name(kind, &key)));
            said = message;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    Ok(())
}

/// An object as it is now, unless it has gone.
pub(super) async fn still_there(
    client: &Client,
    object: &AnyObject,
) -> Result<Option<AnyObject>, ClientError> {
    match client.get(object.kind(), &object.key()).await {
        Err(error) if error.is_not_found() => Ok(None),
        found => Ok(Some(found?).filter(|found| found.uid() == object.uid())),
    }
}
