//! `delete`: ask objects to go, and wait until they have gone.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCandidates;

use super::target::{name, objects};
use super::{Context, ExitStatus, Scope, complete, input, wrong};
use crate::api::meta::ObjectKey;
use crate::api::object::{AnyObject, Kind};
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
            Ok(_) if args.no_wait => context.printer.data(&format!("{} is being deleted", name(*kind, key))),
            Ok(_) => asked.push((*kind, key)),
            Err(error) if error.is_not_found() => {
                context.printer.error(&error.into());
                status = ExitStatus::Failure;
            }
            Err(error) => return Err(error.into()),
        }
    }
    for (kind, key) in asked {
        wait_until_gone(context, &client, kind, key).await?;
        context.printer.data(&format!("{} deleted", name(kind, key)));
    }
    Ok(status)
}

/// Waits until an object has gone, telling what it waits for.
pub(super) async fn wait_until_gone(
    context: &Context,
    client: &Client,
    kind: Kind,
    key: &ObjectKey,
) -> Result<(), ClientError> {
    let mut said = String::new();
    loop {
        let object = match client.get(kind, key).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        let (stopping, message) = match &object {
            AnyObject::Job(job) => (job.status.phase == JobPhase::Stopping, job.status.message.clone()),
            AnyObject::Cluster(cluster) => {
                (cluster.status.phase == ClusterPhase::Stopping, cluster.status.message.clone())
            }
        };
        if message != said && !message.is_empty() && stopping {
            context.printer.talk(&format!("{}: {message}", name(kind, key)));
            said = message;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}
