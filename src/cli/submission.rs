//! What is submitted for the command line of AdaptDL on Ray: manifests, as somebody would write them who has only that.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::input::InvalidManifests;
use super::wrong;
use crate::api::API_VERSION;
use crate::api::cluster::{Auth, ExistingProvider};
use crate::api::meta::DEFAULT_NAMESPACE;
use crate::api::object::AnyObject;
use crate::manifest::{Manifest, name_of_script, read_json, suffix};

/// How long a job that has ended is kept, with its checkpoints and its output.
const KEPT: &str = "7d";

/// A job, as the old command line describes it.
pub(super) struct Submission<'a> {
    pub(super) name: &'a str,
    pub(super) cluster: &'a str,
    pub(super) directory: PathBuf,
    /// Relative to the directory.
    pub(super) script: String,
    pub(super) arguments: &'a [String],
    pub(super) cpus: u32,
    pub(super) gpus: u32,
    pub(super) most_workers: u32,
    pub(super) checkpoint_timeout_s: u64,
    pub(super) rescale_timeout_s: u64,
}

impl Submission<'_> {
    /// The job, with its directory packed into `packages`.
    pub(super) fn admit(&self, packages: &Path) -> Result<AnyObject> {
        let manifest = read(
            json!({
                "apiVersion": API_VERSION,
                "kind": "AdaptDLJob",
                "metadata": {"name": self.name},
                "spec": {
                    "clusterRef": {"name": self.cluster},
                    "workingDir": self.directory,
                    "entrypoint": self.script,
                    "args": self.arguments,
                    "resources": {"cpu": self.cpus, "gpu": self.gpus},
                    "maxReplicas": self.most_workers,
                    "rescale": {"timeout": format!("{}s", self.rescale_timeout_s)},
                    "checkpoint": {"timeout": format!("{}s", self.checkpoint_timeout_s)},
                    // A script that fails has failed, as it always had here.
                    "backoffLimit": 0,
                    "ttlAfterFinished": KEPT,
                },
            }),
            Some(self.directory.clone()),
        )?;
        manifest.admit(packages).map_err(|problems| InvalidManifests { problems }.into())
    }
}

/// Somebody else's cluster, whose autoscaler is asked for nodes, if it has one.
pub(super) fn cluster(name: &str, dashboard: &str, auth: Auth) -> Result<AnyObject> {
    let manifest = json!({
        "apiVersion": API_VERSION,
        "kind": "RayCluster",
        "metadata": {"name": name},
        "spec": {"provider": {"existing": {"address": dashboard, "autoscaler": true}}, "auth": auth},
    });
    Ok(read(manifest, None)?.object)
}

fn read(manifest: serde_json::Value, base: Option<PathBuf>) -> Result<Manifest> {
    read_json(manifest, DEFAULT_NAMESPACE, base).map_err(|problems| InvalidManifests { problems }.into())
}

/// The address of the dashboard that a URI means: its own, or that of Ray's client.
pub(super) fn dashboard_of(uri: &str) -> Result<String> {
    let address = uri.trim_end_matches('/').to_owned();
    if !["ray://", "http://", "https://"].iter().any(|scheme| address.starts_with(scheme)) {
        return Err(wrong(format!(
            "{uri:?} is no address of a Ray cluster: ray://HEAD:10001, or its dashboard's, http://HEAD:8265"
        )));
    }
    Ok(ExistingProvider { address, agent_port: 0, autoscaler: false }.dashboard())
}

/// A directory, and the path in it of a script that is given relative to it.
pub(super) fn script(directory: &Path, file: &Path) -> Result<(PathBuf, String)> {
    let Ok(found) = directory.canonicalize() else {
        bail!("cannot find local directory {}", directory.display());
    };
    let path = found.join(file);
    if !path.is_file() {
        bail!(
            "cannot find local file {}: --file is relative to --working-dir",
            directory.join(file).display()
        );
    }
    let path = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
    match path.strip_prefix(&found).ok().and_then(Path::to_str) {
        Some(inside) => Ok((found, inside.to_owned())),
        None => bail!("{} is not in the working directory {}", file.display(), directory.display()),
    }
}

/// A name for a run of a script, other than all others: `train_cifar.py` becomes `train-cifar-x7k2p`.
pub(super) fn name_of(script: &str) -> String {
    format!("{}-{}", name_of_script(Path::new(script)), suffix())
}

/// A name for a cluster at an address.
pub(super) fn name_of_cluster(dashboard: &str) -> String {
    let host = dashboard.split("://").nth(1).unwrap_or(dashboard);
    let name: String =
        host.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("ray-{}", name.trim_matches('-'))
        .chars()
        .take(50)
        .collect::<String>()
        .trim_end_matches('-')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_scripts_and_addresses() {
        for (script, beginning) in [
            ("train_cifar.py", "train-cifar-"),
            ("a/b/Main.py", "main-"),
            ("_.py", "job-"),
            ("3d.py", "job-3d-"),
        ] {
            let name = name_of(script);
            assert!(name.starts_with(beginning) && name.len() == beginning.len() + 5, "{name}");
        }
        assert_ne!(name_of("main.py"), name_of("main.py"));
        assert_eq!(name_of_cluster("http://10.0.0.1:8265"), "ray-10-0-0-1-8265");
        assert_eq!(name_of_cluster("http://[fd00::1]:8265"), "ray-fd00--1--8265");
    }

    #[test]
    fn addresses_of_clients_mean_dashboards() {
        let meant = |uri: &str| dashboard_of(uri).ok();
        assert_eq!(meant("ray://head:10001").as_deref(), Some("http://head:8265"));
        assert_eq!(meant("http://head:8265/").as_deref(), Some("http://head:8265"));
        assert_eq!(meant("head:10001"), None);
        assert_eq!(meant("auto"), None);
    }
}
