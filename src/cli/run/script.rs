//! A manifest for a script, as somebody would write it who only has the script.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Map, Value, json};

use super::RunArgs;
use crate::api::API_VERSION;
use crate::cli::input::InvalidManifests;
use crate::cli::wrong;
use crate::manifest::{Manifest, name_of_script, read_json};

/// Whether this is a Python script, not a manifest.
pub(super) fn is_script(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "py")
}

/// Refuses flags that would have no meaning.
pub(super) fn check_flags(args: &RunArgs, is_script: bool) -> Result<()> {
    let for_scripts = [
        ("arguments after --", !args.arguments.is_empty()),
        ("--name", args.name.is_some()),
        ("--max-replicas", args.max_replicas.is_some()),
        ("--cpu", args.cpu.is_some()),
        ("--gpu", args.gpu.is_some()),
    ];
    let given = for_scripts.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag);
    let given = given.collect::<Vec<_>>().join(", ");
    if !is_script && !given.is_empty() {
        return Err(wrong(format!("only for scripts: {given}; what a job has belongs into its manifest")));
    }
    if is_script && args.keep_clusters {
        return Err(wrong("--keep-clusters is for manifests: a script brings no cluster along"));
    }
    Ok(())
}

/// The manifest of a job that runs a script on the built-in cluster.
pub(super) fn manifests(args: &RunArgs) -> Result<Vec<Manifest>> {
    let path = args.what.canonicalize().with_context(|| format!("cannot read {}", args.what.display()))?;
    let directory = path.parent().ok_or_else(|| anyhow!("{} is in no directory", path.display()))?;
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = args.name.clone().unwrap_or_else(|| name_of_script(&path));
    let mut resources = Map::new();
    resources.extend(args.cpu.as_ref().map(|cpu| ("cpu".to_owned(), json!(cpu))));
    resources.extend(args.gpu.map(|gpu| ("gpu".to_owned(), json!(gpu))));
    let mut spec =
        json!({"workingDir": directory, "entrypoint": file, "args": args.arguments, "resources": resources});
    if let Some(replicas) = args.max_replicas {
        spec["maxReplicas"] = json!(replicas);
    }
    let manifest: Value = json!({
        "apiVersion": API_VERSION,
        "kind": "AdaptDLJob",
        "metadata": {"name": name, "namespace": args.namespace},
        "spec": spec,
    });
    match read_json(manifest, &args.namespace, Some(directory.to_owned())) {
        Ok(manifest) => Ok(vec![manifest]),
        Err(problems) => Err(InvalidManifests { problems }.into()),
    }
}
