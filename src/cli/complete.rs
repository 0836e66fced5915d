//! What shells offer for words that name objects: what there is, asked of the running controller, which must answer at
//! once or is not waited for.

use std::path::PathBuf;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;

use crate::api::object::{AnyObject, Kind};
use crate::client::Client;

/// Who presses a key does not wait longer.
const PATIENCE: Duration = Duration::from_millis(400);

/// Objects, as `KIND/NAME`, or by name after a kind; jobs by name alone.
pub(super) fn objects() -> Vec<CompletionCandidate> {
    let words: Vec<String> = words().collect();
    let kind = words.iter().find_map(|word| Kind::from_word(word));
    let found = ask(kind).unwrap_or_default();
    let jobs = found.iter().filter(|object| kind.is_some() || object.kind() == Kind::AdaptDLJob);
    let names = jobs.map(|object| candidate(object.metadata().name.clone(), object));
    names.chain(found.iter().filter(|_| kind.is_none()).map(full)).collect()
}

/// Jobs by name.
pub(super) fn jobs() -> Vec<CompletionCandidate> {
    let found = ask(Some(Kind::AdaptDLJob)).unwrap_or_default();
    found.iter().map(|object| candidate(object.metadata().name.clone(), object)).collect()
}

/// Kinds, and objects as `KIND/NAME`.
pub(super) fn kinds() -> Vec<CompletionCandidate> {
    let kinds = [("jobs", "AdaptDLJobs"), ("clusters", "RayClusters")];
    let kinds = kinds.map(|(word, help)| CompletionCandidate::new(word).help(Some(help.into())));
    kinds.into_iter().chain(ask(None).unwrap_or_default().iter().map(full)).collect()
}

/// An object with its kind.
fn full(object: &AnyObject) -> CompletionCandidate {
    candidate(format!("{}/{}", object.kind().singular(), object.metadata().name), object)
}

fn candidate(word: String, object: &AnyObject) -> CompletionCandidate {
    let help = match object {
        AnyObject::Job(job) => format!("job, {}", job.status.phase),
        AnyObject::Cluster(cluster) => format!("cluster, {}", cluster.status.phase),
    };
    CompletionCandidate::new(word).help(Some(help.into()))
}

/// The words of the line that is completed: a shell hands them over after `--`.
fn words() -> impl Iterator<Item = String> {
    std::env::args().skip_while(|word| word != "--").skip(2)
}

/// The objects that there are in the namespace of the line; none if that cannot be found out at once.
fn ask(kind: Option<Kind>) -> Option<Vec<AnyObject>> {
    let words: Vec<String> = words().collect();
    let option = |names: [&str; 2]| -> Option<String> {
        let at = words.iter().position(|word| names.contains(&word.as_str()))?;
        words.get(at + 1).cloned()
    };
    let state = option(["--state-dir", "--state-dir"]).map(PathBuf::from);
    let state = state.or_else(|| std::env::var_os("RAYCONCILE_STATE_DIR").map(PathBuf::from));
    let client = Client::find(&state.unwrap_or_else(super::default_state_dir)).ok()?;
    let namespace = option(["-n", "--namespace"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let asking = async {
        let mut found = Vec::new();
        for one in Kind::ALL.into_iter().filter(|one| kind.is_none_or(|kind| kind == *one)) {
            found.extend(client.list(one, Some(namespace.as_deref().unwrap_or("default")), None).await.ok()?);
        }
        Some(found)
    };
    let found = runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await.ok()? });
    runtime.shutdown_background();
    found
}
