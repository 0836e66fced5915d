//! The rules of an `AdaptDLJob` that its schema cannot say.

use std::path::{Component, Path as FilePath};

use super::finding::Finding;
use super::names;
use super::path::Path;
use super::rules;
use super::words::quoted;
use crate::api::bucket::BucketAddress;
use crate::api::job::{AdaptDLJobSpec, ScalingPolicy};
use crate::api::units::Span;

/// AdaptDL reads its environment variables from Rayconcile.
const ADAPTDL: &str = "ADAPTDL_";

/// Saving more often than this would leave no time for training.
const MIN_INTERVAL: Span = Span::from_secs(1);

/// What is wrong with a job that has the right shape.
pub(super) fn check(spec: &AdaptDLJobSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    let at = Path::of("spec");
    if let Some(cluster) = &spec.cluster_ref {
        findings.extend(names::name(&cluster.name, at.field("clusterRef.name")));
    }
    program(spec, &at, &mut findings);
    env(spec, &at.key("env"), &mut findings);
    runtime_env(spec, &at.key("runtimeEnv"), &mut findings);
    resources(spec, &at.key("resources"), &mut findings);
    replicas(spec, &at, &mut findings);
    times(spec, &at, &mut findings);
    places(spec, &at, &mut findings);
    findings
}

/// What is run, and from where.
fn program(spec: &AdaptDLJobSpec, at: &Path, findings: &mut Vec<Finding>) {
    let (entrypoint, command) = (at.key("entrypoint"), at.key("command"));
    match (&spec.entrypoint, &spec.command) {
        (None, None) => {
            let help = "entrypoint: the Python script to run; command: another program";
            findings
                .push(Finding::new(at.clone(), "must have `entrypoint` or `command`").at_key().help(help));
        }
        (Some(_), Some(_)) => {
            let finding = Finding::new(command, "must not be given beside `entrypoint`").at_key();
            findings.push(finding.also(entrypoint, "the other one"));
        }
        (Some(script), None) => {
            findings.extend(inside(script, entrypoint.clone()));
            if spec.working_dir.is_none() && spec.working_dir_digest.is_none() {
                let help = "workingDir: the directory with the program, relative to the manifest's file";
                findings.push(Finding::new(entrypoint, "needs `workingDir`").help(help));
            }
        }
        (None, Some(words)) => {
            if words.first().is_none_or(String::is_empty) {
                findings.push(Finding::new(command.item(0), "must be the program's name"));
            }
        }
    }
    if let Some(directory) = &spec.working_dir {
        findings.extend(rules::host_path(directory, at.key("workingDir")));
    }
    if let Some(digest) = &spec.working_dir_digest {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if digest.0.len() != 64 || !digest.0.chars().all(hex) {
            let message =
                format!("must be a SHA-256 of 64 lower-case hexadecimal digits, found {}", quoted(&digest.0));
            findings.push(Finding::new(at.key("workingDirDigest"), message));
        }
    }
    let words = spec.args.iter().enumerate().map(|(index, word)| (at.key("args").item(index), word));
    let command = spec.command.iter().flatten().enumerate();
    let command = command.map(|(index, word)| (at.key("command").item(index), word));
    findings.extend(words.chain(command).filter_map(|(path, word)| rules::no_nul(word, path)));
}

/// A path that stays inside the working directory, as far as its name goes.
fn inside(text: &str, path: Path) -> Option<Finding> {
    let file = FilePath::new(text);
    if text.is_empty() {
        return Some(Finding::new(path, "must not be empty"));
    }
    let leaves = file.is_absolute() || file.components().any(|part| part == Component::ParentDir);
    if leaves {
        let message = format!("must be a path inside the working directory, found {}", quoted(text));
        return Some(Finding::new(path, message));
    }
    rules::no_nul(text, path)
}

fn env(spec: &AdaptDLJobSpec, at: &Path, findings: &mut Vec<Finding>) {
    findings.extend(rules::variable_names(&spec.env, at, |name, path| {
        name.starts_with(ADAPTDL).then(|| reserved(name, path))
    }));
    for (index, variable) in spec.env.iter().enumerate() {
        let at = at.item(index);
        match (&variable.value, &variable.value_from) {
            (None, None) => findings.push(Finding::new(at, "must have `value` or `valueFrom`")),
            (Some(_), Some(_)) => {
                let finding = Finding::new(at.key("valueFrom"), "must not be given beside `value`").at_key();
                findings.push(finding.also(at.key("value"), "the other one"));
            }
            (Some(value), None) => findings.extend(rules::no_nul(value, at.key("value"))),
            (None, Some(source)) => findings.extend(rules::value_source(source, &at.key("valueFrom"))),
        }
    }
}

/// A variable that Rayconcile sets itself.
fn reserved(name: &str, path: Path) -> Finding {
    let finding = Finding::new(path, format!("must not begin with {ADAPTDL}: Rayconcile sets these"));
    match name {
        "ADAPTDL_SHARE_PATH" => finding.help("it is set by sharePath"),
        _ => finding,
    }
}

fn runtime_env(spec: &AdaptDLJobSpec, at: &Path, findings: &mut Vec<Finding>) {
    if spec.runtime_env.contains_key("working_dir") {
        let finding = Finding::new(at.key("working_dir"), "must not be given here").at_key();
        findings.push(finding.help("spec.workingDir is packed and uploaded, and is part of the object"));
    }
    let variables = spec.runtime_env.get("env_vars").and_then(|variables| variables.as_object());
    for name in variables.into_iter().flatten().map(|(name, _)| name) {
        if name.starts_with(ADAPTDL) {
            findings.push(reserved(name, at.key("env_vars").key(name)).at_key());
        }
    }
    if let Some(file) = spec.runtime_env.get("pip").and_then(|pip| pip.as_str()) {
        let path = at.key("pip");
        let finding = match (&spec.working_dir, &spec.working_dir_digest) {
            _ if file.is_empty() => Some(Finding::new(path, "must not be empty")),
            (Some(_), None) => rules::host_path(file, path),
            (None, None) => Some(Finding::new(path, "a requirements file needs `workingDir`, where it is")),
            (_, Some(_)) => Some(Finding::new(path, "must be a list of packages").help(
                "a requirements file is read when workingDir is packed, and a digest says that it was",
            )),
        };
        findings.extend(finding);
    }
}

fn resources(spec: &AdaptDLJobSpec, at: &Path, findings: &mut Vec<Finding>) {
    let resources = &spec.resources;
    findings.extend(rules::custom(&resources.custom, &at.key("custom"), false));
    let nothing = resources.cpu.0 == 0
        && resources.gpu == 0
        && resources.memory.is_none_or(|memory| memory.0 == 0)
        && resources.custom.values().all(|quantity| *quantity == 0.0);
    if nothing {
        let help = "a worker must need something: cpu, gpu, memory or a custom resource";
        findings.push(Finding::new(at.clone(), "must not be nothing at all").at_key().help(help));
    }
}

fn replicas(spec: &AdaptDLJobSpec, at: &Path, findings: &mut Vec<Finding>) {
    let (least, most) = (at.key("minReplicas"), at.key("maxReplicas"));
    if spec.min_replicas > spec.max_replicas {
        let message =
            format!("must be at most maxReplicas ({}), found {}", spec.max_replicas, spec.min_replicas);
        findings.push(Finding::new(least.clone(), message).also(most.clone(), "the most there may be"));
        return;
    }
    let at = at.key("scaling");
    let path = at.key("replicas");
    match (spec.scaling.policy, spec.scaling.replicas) {
        (ScalingPolicy::Fixed, None) => {
            findings.push(Finding::new(at.key("policy"), "`Fixed` needs `replicas`"));
        }
        (ScalingPolicy::Fixed, Some(replicas)) if replicas < spec.min_replicas => {
            let message = format!("must be at least minReplicas ({}), found {replicas}", spec.min_replicas);
            findings.push(Finding::new(path, message).also(least, "the fewest there may be"));
        }
        (ScalingPolicy::Fixed, Some(replicas)) if replicas > spec.max_replicas => {
            let message = format!("must be at most maxReplicas ({}), found {replicas}", spec.max_replicas);
            findings.push(Finding::new(path, message).also(most, "the most there may be"));
        }
        (ScalingPolicy::Goodput, Some(_)) => {
            let finding = Finding::new(path, "is for the policy `Fixed`").at_key();
            findings.push(
                finding.help("with `Goodput`, minReplicas and maxReplicas bound the number of workers"),
            );
        }
        (ScalingPolicy::Fixed, Some(_)) | (ScalingPolicy::Goodput, None) => {}
    }
}

fn times(spec: &AdaptDLJobSpec, at: &Path, findings: &mut Vec<Finding>) {
    let checkpoint = &spec.checkpoint;
    findings.extend(rules::positive(checkpoint.timeout, at.field("checkpoint.timeout")));
    let interval = at.field("checkpoint.interval");
    if checkpoint.interval.millis > 0 && checkpoint.interval < MIN_INTERVAL {
        let message = format!("must be 0s or at least {MIN_INTERVAL}, found {}", checkpoint.interval);
        findings.push(Finding::new(interval.clone(), message));
    }
    findings.extend(rules::span(checkpoint.interval, interval));
    findings.extend(rules::span(spec.scaling.cooldown, at.field("scaling.cooldown")));
    findings.extend(rules::span(spec.rescale.timeout, at.field("rescale.timeout")));
    findings.extend(rules::span(spec.termination_grace_period, at.key("terminationGracePeriod")));
    findings.extend(rules::span(spec.progress_deadline, at.key("progressDeadline")));
    let deadline = spec.active_deadline.and_then(|span| rules::positive(span, at.key("activeDeadline")));
    let ttl = spec.ttl_after_finished.and_then(|span| rules::span(span, at.key("ttlAfterFinished")));
    findings.extend(deadline.into_iter().chain(ttl));
}

/// Where things are kept and put.
fn places(spec: &AdaptDLJobSpec, at: &Path, findings: &mut Vec<Finding>) {
    let (path, url) = (at.field("checkpoint.storage.path"), at.field("checkpoint.storage.url"));
    let storage = &spec.checkpoint.storage;
    if storage.path.is_some() && storage.url.is_some() {
        let finding = Finding::new(url.clone(), "must not be given beside `path`").at_key();
        findings.push(finding.also(path.clone(), "the other one"));
    }
    findings.extend(storage.path.as_ref().and_then(|text| {
        let finding = rules::host_path(text, path)?;
        let help = "storage: {url: s3://BUCKET/PREFIX} keeps them in object storage";
        Some(if BucketAddress::is_meant(text) { finding.help(help) } else { finding })
    }));
    findings.extend(storage.url.as_ref().and_then(|text| rules::bucket_address(text, url)));
    findings
        .extend(spec.logs.url.as_ref().and_then(|text| rules::bucket_address(text, at.field("logs.url"))));
    if let Some(path) = spec.share_path.as_ref().filter(|path| !FilePath::new(path).is_absolute()) {
        let message = format!("must be an absolute path, on every node, found {}", quoted(path));
        findings.push(Finding::new(at.key("sharePath"), message));
    }
    let at = at.key("artifacts");
    let (paths, destination) = (at.key("paths"), at.key("destination"));
    for (index, path) in spec.artifacts.paths.iter().enumerate() {
        findings.extend(inside(path, paths.item(index)));
    }
    match &spec.artifacts.destination {
        Some(place) => {
            findings.extend(match BucketAddress::is_meant(place) {
                true => rules::bucket_address(place, destination.clone()),
                false => rules::host_path(place, destination.clone()),
            });
            if spec.artifacts.paths.is_empty() {
                findings.push(Finding::new(destination, "needs `paths`: what to put there"));
            }
        }
        None if !spec.artifacts.paths.is_empty() => {
            findings.push(Finding::new(paths, "needs `destination`: where to put them").at_key());
        }
        None => {}
    }
}
