//! Objects that are not in the manifests any more.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;

use super::super::wrong;
use crate::api::meta::{BUILT_IN, ObjectKey, PRUNE};
use crate::api::object::{AnyObject, Kind};
use crate::client::Client;

/// Which objects are to go that are not in the manifests.
#[derive(Debug, Args)]
pub(in crate::cli) struct Prune {
    /// Also delete objects that are not in the files: those with the labels of -l, or --all
    #[arg(long)]
    pub(in crate::cli) prune: bool,
    /// Which objects --prune is about
    #[arg(short = 'l', long, value_name = "NAME=VALUE", requires = "prune")]
    selector: Option<String>,
    /// All objects are what --prune is about
    #[arg(long, requires = "prune", conflicts_with = "selector")]
    all: bool,
}

impl Prune {
    /// Refuses to take whatever is there for surplus.
    pub(in crate::cli) fn check(&self) -> Result<()> {
        let named = self.selector.as_ref().is_some_and(|selector| !selector.trim().is_empty());
        if self.prune && !self.all && !named {
            return Err(wrong("--prune needs to know what it is about: -l NAME=VALUE, or --all"));
        }
        Ok(())
    }
}

/// The objects that are to go, jobs before the clusters that they are on. It is only looked in namespaces of which the
/// manifests speak; what comes from a watched directory, or is annotated `rayconcile.dev/prune: "false"`, stays.
pub(in crate::cli) async fn surplus(
    client: &Client,
    prune: &Prune,
    objects: &[AnyObject],
    namespace: &str,
) -> Result<Vec<AnyObject>> {
    if !prune.prune {
        return Ok(Vec::new());
    }
    let wanted: BTreeSet<(Kind, ObjectKey)> =
        objects.iter().map(|object| (object.kind(), object.key())).collect();
    let mut namespaces: BTreeSet<String> = wanted.iter().map(|(_, key)| key.namespace.clone()).collect();
    if namespaces.is_empty() {
        namespaces.insert(namespace.to_owned());
    }
    let mut surplus = Vec::new();
    for kind in [Kind::AdaptDLJob, Kind::RayCluster] {
        for namespace in &namespaces {
            let found = client.list(kind, Some(namespace), prune.selector.as_deref()).await?;
            surplus.extend(found.into_iter().filter(|object| {
                let metadata = object.metadata();
                let kept = metadata.annotations.get(PRUNE).is_some_and(|prune| prune == "false");
                !wanted.contains(&(kind, object.key()))
                    && !kept
                    && !metadata.is_deleting()
                    && metadata.source().is_none()
                    && !metadata.labels.contains_key(BUILT_IN)
            }));
        }
    }
    Ok(surplus)
}
