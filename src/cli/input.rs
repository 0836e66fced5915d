//! Manifests from files, for the verbs that take `-f`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::Context;
use crate::api::object::{AnyObject, Kind};
use crate::client::Client;
use crate::manifest::{self, Manifest, Problem};

/// Where manifests come from.
#[derive(Debug, Args)]
pub(super) struct Files {
    /// A file with manifests, a directory of such files, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true, num_args = 1)]
    pub(super) files: Vec<PathBuf>,
    /// Also the directories below
    #[arg(short = 'R', long)]
    pub(super) recursive: bool,
    /// The namespace of objects that name none
    #[arg(short, long, value_name = "NAME", default_value = crate::api::meta::DEFAULT_NAMESPACE)]
    pub(super) namespace: String,
}

/// Manifests have problems.
#[derive(Debug, thiserror::Error)]
#[error("{} problems in the manifests", problems.len())]
pub(super) struct InvalidManifests {
    /// Each of them.
    pub(super) problems: Vec<Problem>,
}

/// Reads manifests; what is wrong with any of them is an error that tells everything that is wrong.
pub(super) fn read(files: &[PathBuf], recursive: bool, namespace: &str) -> Result<Vec<Manifest>> {
    let (sources, mut problems) = manifest::collect(files, recursive);
    let loaded = manifest::read(sources, namespace);
    problems.extend(loaded.problems);
    if problems.is_empty() { Ok(loaded.manifests) } else { Err(InvalidManifests { problems }.into()) }
}

/// Warns of what manifests say that has no meaning here.
pub(super) fn warn(context: &Context, manifests: &[Manifest]) {
    let warnings = manifests.iter().flat_map(Manifest::warnings);
    warnings.for_each(|warning| context.printer.warn(&warning.to_string()));
}

/// Makes manifests into objects that can be stored, packing working directories into `packages`. Clusters come
/// before the jobs that refer to them.
pub(super) fn admit(manifests: &[Manifest], packages: &Path) -> Result<Vec<AnyObject>> {
    let mut objects = Vec::new();
    let mut problems = Vec::new();
    for manifest in manifests {
        match manifest.admit(packages) {
            Ok(object) => objects.push(object),
            Err(found) => problems.extend(found),
        }
    }
    if !problems.is_empty() {
        return Err(InvalidManifests { problems }.into());
    }
    objects.sort_by_key(AnyObject::kind);
    Ok(objects)
}

/// Brings the packages of objects to the controller.
pub(super) async fn send_packages(client: &Client, objects: &[AnyObject], packages: &Path) -> Result<()> {
    for object in objects {
        if let AnyObject::Job(job) = object
            && let Some(digest) = &job.spec.working_dir_digest
        {
            let path = packages.join(format!("{digest}.zip"));
            if path.exists() {
                client.ensure_package(digest, &path).await?;
            }
        }
    }
    Ok(())
}

/// The clusters among objects.
pub(super) fn clusters(objects: &[AnyObject]) -> Vec<crate::api::meta::ObjectKey> {
    objects.iter().filter(|object| object.kind() == Kind::RayCluster).map(AnyObject::key).collect()
}
