//! The interpreter that has Ray: where it is looked for, and what to do if it is not found.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::action::EffectError;
use crate::api::cluster::LocalProvider;
use crate::provider::ray::{RAY_VERSIONS, is_supported};
use crate::provider::rejected;

/// Tells what an interpreter has, without importing any of it.
const PROBE: &str = "
import importlib.metadata, json, sys
def version(name):
    try: return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: return None
print(json.dumps({name: version(name) for name in ('ray', 'aiohttp', 'grpcio', 'adaptdl', 'torch')}
                 | {'python': '.'.join(map(str, sys.version_info[:3]))}))
";

/// How to get what is missing.
const HINT: &str = "get what is missing with: python3 -m venv .venv && \
                    .venv/bin/pip install 'ray[default]==2.60.0' adaptdl torch 'setuptools<81' \
                    (or, in a checkout of rayconcile, make python), \
                    or name an interpreter that has it in spec.provider.local.python";

#[derive(Deserialize)]
struct Found {
    python: String,
    ray: Option<String>,
    aiohttp: Option<String>,
    grpcio: Option<String>,
    adaptdl: Option<String>,
    torch: Option<String>,
}

/// An interpreter that has Ray.
pub(super) struct Python {
    pub(super) path: String,
    pub(super) ray_version: String,
    /// What jobs usually need and it does not have.
    pub(super) missing: Vec<String>,
}

/// Finds the interpreter: the one the manifest names, or the first that has Ray of the active virtual
/// environment's, the nearest `.venv`'s from here or from this program upwards, and `python3`.
pub(super) fn find(provider: &LocalProvider) -> Result<Python, EffectError> {
    let candidates = match &provider.python {
        Some(python) => vec![PathBuf::from(python)],
        None => candidates(),
    };
    let mut tried = Vec::new();
    for candidate in &candidates {
        match probe(candidate) {
            Ok(python) => return Ok(python),
            Err(problem) => tried.push(format!("{}: {problem}", candidate.display())),
        }
    }
    Err(rejected(format!("found no Python with Ray ({}); {HINT}", tried.join("; "))))
}

fn candidates() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    if let Some(environment) = std::env::var_os("VIRTUAL_ENV") {
        candidates.push(Path::new(&environment).join("bin/python"));
    }
    let here = std::env::current_dir().ok();
    let program = std::env::current_exe().ok();
    for start in [here, program].into_iter().flatten() {
        let nearest =
            start.ancestors().map(|directory| directory.join(".venv/bin/python")).find(|path| path.exists());
        candidates.extend(nearest);
    }
    candidates.extend(on_path("python3"));
    // Nodes are started elsewhere: a path must not depend on where this is looked for.
    let mut candidates: Vec<PathBuf> =
        candidates.into_iter().map(|path| std::path::absolute(&path).unwrap_or(path)).collect();
    candidates.dedup();
    candidates
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.exists())
}

fn probe(python: &Path) -> Result<Python, String> {
    // Not what the user's environment puts before the interpreter's own packages.
    let output =
        Command::new(python).args(["-I", "-c", PROBE]).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("does not work: {}", error.lines().last().unwrap_or("no output")));
    }
    let found: Found =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("does not work: {error}"))?;
    let Some(ray_version) = found.ray else { return Err(format!("Python {} has no Ray", found.python)) };
    if !is_supported(&ray_version) {
        return Err(format!("has Ray {ray_version}, which is not supported ({RAY_VERSIONS} is)"));
    }
    if found.aiohttp.is_none() || found.grpcio.is_none() {
        return Err(format!("has Ray {ray_version} without its dashboard; install ray[default]"));
    }
    let usual = [("adaptdl", found.adaptdl), ("torch", found.torch)];
    let missing = usual.into_iter().filter(|(_, version)| version.is_none()).map(|(name, _)| name.to_owned());
    Ok(Python { path: python.display().to_string(), ray_version, missing: missing.collect() })
}
