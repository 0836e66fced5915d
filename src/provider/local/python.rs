//! The interpreter that has Ray: where it is looked for, and what to do if it is not found.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

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

/// How long an interpreter may take to answer: long enough for a cold disk, short enough to be told that it hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer is a few hundred bytes; more than this is no answer, and is not waited for.
const LONGEST_ANSWER: u64 = 64 << 10;

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
pub(super) async fn find(provider: &LocalProvider) -> Result<Python, EffectError> {
    let candidates = match &provider.python {
        Some(python) => vec![PathBuf::from(python)],
        None => candidates(),
    };
    let mut tried = Vec::new();
    for candidate in &candidates {
        match probe(candidate).await {
            Ok(python) => return Ok(python),
            Err(problem) => tried.push(format!("{} {problem}", candidate.display())),
        }
    }
    if tried.is_empty() {
        tried.push("there is no python3".to_owned());
    }
    Err(rejected(format!("found no Python to run Ray with: {}; {HINT}", tried.join("; "))))
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

/// What an interpreter is, or what is wrong with it.
async fn probe(python: &Path) -> Result<Python, String> {
    let answer = ask(python).await?;
    if !answer.status.success() {
        let last = answer.error.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        return Err(format!("does not work ({}): {last}", answer.status));
    }
    let found: Found = serde_json::from_str(&answer.output).map_err(|_| {
        let begin: String = answer.output.lines().next().unwrap_or_default().chars().take(60).collect();
        format!("is no Python: asked for its packages, it says {begin:?}")
    })?;
    let Some(ray_version) = found.ray else {
        return Err(format!("has no Ray (it is Python {})", found.python));
    };
    if !is_supported(&ray_version) {
        return Err(format!("has Ray {ray_version}, which is not supported ({RAY_VERSIONS} is)"));
    }
    if found.aiohttp.is_none() || found.grpcio.is_none() {
        return Err(format!("has Ray {ray_version} without its dashboard, that is, not ray[default]"));
    }
    let usual = [("adaptdl", found.adaptdl), ("torch", found.torch)];
    let missing = usual.into_iter().filter(|(_, version)| version.is_none()).map(|(name, _)| name.to_owned());
    Ok(Python { path: python.display().to_string(), ray_version, missing: missing.collect() })
}

struct Answer {
    status: ExitStatus,
    output: String,
    error: String,
}

/// Asks an interpreter what it has. Whatever it is, this ends, and nothing of it is left.
async fn ask(python: &Path) -> Result<Answer, String> {
    let mut command = Command::new(python);
    // Not what the user's environment puts before the interpreter's own packages.
    command.args(["-I", "-c", PROBE]).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => "is not there".to_owned(),
        ErrorKind::PermissionDenied => "is not executable".to_owned(),
        _ => format!("cannot be run: {error}"),
    })?;
    if let Ok(answer) = tokio::time::timeout(PATIENCE, listen(&mut child)).await {
        return answer.map_err(|error| format!("cannot be asked: {error}"));
    }
    // With whatever it has started. It was not waited for yet, so the number still is its own.
    if let Some(pid) = child.id() {
        let _ = killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    let _ = child.wait().await;
    Err(format!("hangs: it has not answered within {PATIENCE:?}"))
}

async fn listen(child: &mut Child) -> std::io::Result<Answer> {
    let (output, error) = (child.stdout.take(), child.stderr.take());
    let (output, error) = tokio::join!(beginning(output), beginning(error));
    Ok(Answer { status: child.wait().await?, output: output?, error: error? })
}

/// What comes out of a pipe, as far as it is of interest; then the pipe is closed.
async fn beginning(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(LONGEST_ANSWER).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
