//! `clusters adopt`: make a cluster this state directory's own.

use std::slice::from_ref;

use anyhow::{Context as _, Result, bail};

use super::{AdoptArgs, find};
use crate::api::keepsake::ClusterKeepsake;
use crate::api::meta::DEFAULT_NAMESPACE;
use crate::api::object::{AnyObject, RayCluster};
use crate::api::words::count;
use crate::cli::apply::start_controller;
use crate::cli::controller::LEASE;
use crate::cli::{Context, ExitStatus, Hinted, input, wrong};
use crate::controller::adopt::{AdoptError, Adopted, Adoption, adopt};
use crate::provider::Directories;
use crate::provider::aws::{FoundCluster, manifest};
use crate::store::Store;

pub(super) async fn run(context: &Context, args: AdoptArgs) -> Result<ExitStatus> {
    if running(context).await {
        return Err(Hinted {
            message: "a controller runs on this state directory, and would not see what is put there"
                .to_owned(),
            hint: "stop it, adopt the cluster, and start it again: what trains goes on meanwhile".to_owned(),
            status: ExitStatus::Failure,
        }
        .into());
    }
    let found = find::one(&args.which).await?;
    let cluster = cluster(&args, &found).await?;
    let name = find::name(&found);
    let store = Store::open(&context.state_dir)?;
    let directories = Directories { state: context.state_dir.clone() };
    let printer = context.printer;
    let adoption = Adoption {
        store: &store,
        directories: &directories,
        found: &found,
        cluster,
        lease: LEASE,
        force: args.force,
    };
    let adopted = adopt(&adoption, &|text| printer.talk(text)).await;
    let Adopted { nodes, jobs, warnings } = adopted.map_err(|error| explain(error, &name))?;
    // Whoever is started next needs it.
    drop(store);
    for warning in warnings {
        printer.warn(&warning);
    }
    printer.data(&format!("cluster/{name} adopted with {}", count(nodes, "node")));
    for job in &jobs {
        printer.data(&format!("job/{job} adopted"));
    }
    if jobs.is_empty() {
        printer.talk("no job was on it");
    }
    if args.start_controller {
        start_controller(context).await?;
    } else {
        printer.talk("start a controller for it: rayconcile controller");
    }
    Ok(ExitStatus::Success)
}

async fn running(context: &Context) -> bool {
    match context.client() {
        Ok(client) => client.ping().await.is_ok(),
        Err(_) => false,
    }
}

/// What the cluster is to be: as a manifest says, or as it has kept it.
async fn cluster(args: &AdoptArgs, found: &FoundCluster) -> Result<RayCluster> {
    let name = find::name(found);
    let kept = match &args.file {
        Some(_) => from_file(args, found)?,
        None => manifest(found).await?.ok_or_else(|| Hinted {
            message: format!("the manifest of {name} is not in Systems Manager"),
            hint: "give it with -f".to_owned(),
            status: ExitStatus::Failure,
        })?,
    };
    if found.key.as_ref().is_some_and(|key| *key != kept.key()) {
        bail!("the manifest is of {}, and the cluster is {name}", kept.key());
    }
    if kept.spec.aws().is_none_or(|aws| aws.region != found.region) {
        bail!("the manifest of {name} is not for {}, where its instances are", found.region);
    }
    Ok(kept.restore(found.uid.clone()))
}

/// The cluster among a file's manifests.
fn from_file(args: &AdoptArgs, found: &FoundCluster) -> Result<ClusterKeepsake> {
    let namespace = found.key.as_ref().map_or(DEFAULT_NAMESPACE, |key| key.namespace.as_str());
    let Some(file) = &args.file else { return Err(wrong("no file is named")) };
    let manifests = input::read(from_ref(file), false, namespace)?;
    let packages = tempfile::tempdir().context("cannot make a temporary directory")?;
    let wanted = manifests.into_iter().filter(|manifest| {
        found.key.as_ref().is_none_or(|key| manifest.object.key() == *key)
            && matches!(manifest.object, AnyObject::Cluster(_))
    });
    let objects = input::admit(&wanted.collect::<Vec<_>>(), packages.path())?;
    match objects.as_slice() {
        [AnyObject::Cluster(cluster)] => Ok(ClusterKeepsake::of(&cluster.metadata, &cluster.spec)),
        _ => Err(wrong(format!("{} has no manifest of cluster {}", file.display(), find::name(found)))),
    }
}

/// An error, with what to do about it.
fn explain(error: AdoptError, name: &str) -> anyhow::Error {
    let hint = match &error {
        AdoptError::InUse(_) => format!(
            "stop that controller, wherever it is; if what is heard there is none, `rayconcile clusters adopt {name} --force`"
        ),
        _ => return error.into(),
    };
    Hinted { message: error.to_string(), hint, status: ExitStatus::Failure }.into()
}
