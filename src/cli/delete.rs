//! `delete`: ask objects to go, and wait until they have gone.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::target::{name, objects};
use super::{Context, ExitStatus, Scope, input, wrong};
use crate::api::meta::ObjectKey;
use crate::api::object::Kind;
use crate::client::{Client, ClientError};

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The objects: KIND NAME..., or KIND/NAME...
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
    for (kind, key) in &wanted {
        match client.delete(*kind, key, args.force).await {
            Ok(_) if args.no_wait => context.printer.data(&format!("{} is being deleted", name(*kind, key))),
            Ok(_) => {}
            Err(error) if error.is_not_found() => {
                context.printer.error(&error.into());
                status = ExitStatus::Failure;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if !args.no_wait {
        for (kind, key) in &wanted {
            if wait_until_gone(context, &client, *kind, key).await? {
                context.printer.data(&format!("{} deleted", name(*kind, key)));
            }
        }
    }
    Ok(status)
}

/// Waits until an object has gone, telling what it waits for; says whether it was there.
pub(super) async fn wait_until_gone(
    context: &Context,
    client: &Client,
    kind: Kind,
    key: &ObjectKey,
) -> Result<bool, ClientError> {
    let mut there = false;
    let mut said = String::new();
    loop {
        let object = match client.get(kind, key).await {
            Err(error) if error.is_not_found() => return Ok(there),
            other => other?,
        };
        there = true;
        let message = match &object {
            crate::api::object::AnyObject::Job(job) => job.status.message.clone(),
            crate::api::object::AnyObject::Cluster(cluster) => cluster.status.message.clone(),
        };
        if message != said && !message.is_empty() && object.metadata().is_deleting() {
            context.printer.talk(&format!("{}: {message}", name(kind, key)));
            said = message;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}
