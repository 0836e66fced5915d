//! The rules of further parameters of `ray start`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::super::finding::Finding;
use super::super::path::Path;
use super::super::words::quoted;
use super::super::{rules, suggest};
use crate::api::aws::RAY_START_FLAGS;

/// Ports that nodes use whatever the manifest says (`provider/aws/boot.sh`, and our agent's `host.py`).
pub(super) const PORTS: [(RangeInclusive<u16>, &str); 4] = [
    (8271..=8276, "other services of Ray"),
    (10_001..=10_001, "Ray's clients"),
    (10_002..=19_999, "Ray's workers"),
    (20_000..=31_999, "AdaptDL's workers"),
];

/// Parameters that Rayconcile sets, and where the manifest has them, if it has.
const OURS: [(&str, &str); 31] = [
    ("address", SET),
    ("autoscaling-config", "nodes are launched by Rayconcile; workerGroups says which"),
    ("block", SET),
    ("dashboard-agent-grpc-port", SET),
    ("dashboard-agent-listen-port", SET),
    ("dashboard-host", SET),
    ("dashboard-port", "provider.aws.dashboardPort says it"),
    ("disable-usage-stats", SET),
    ("gcs-server-port", "provider.aws.gcsPort says it"),
    ("head", SET),
    ("include-dashboard", "the controller needs the dashboard"),
    ("labels", "`labels` of the node says them"),
    ("labels-file", "`labels` of the node says them"),
    ("max-worker-port", SET),
    ("memory", "resources.memory of the node says it"),
    ("metrics-export-port", SET),
    ("min-worker-port", SET),
    ("node-ip-address", SET),
    ("node-manager-port", SET),
    ("node-name", SET),
    ("num-cpus", "resources.cpu of the node says it"),
    ("num-gpus", "resources.gpu of the node says it"),
    ("object-manager-port", SET),
    ("object-store-memory", "objectStoreMemory of the node says it"),
    ("port", "provider.aws.gcsPort says it"),
    ("ray-client-server-port", "it is 10001"),
    ("redis-password", "whoever is on the instance can read it in its user data"),
    ("resources", "resources.custom of the node says them"),
    ("runtime-env-agent-port", SET),
    ("temp-dir", SET),
    ("worker-port-list", SET),
];
const SET: &str = "there is nothing to choose";

/// Other parameters of Ray 2.60 that take a value (`ray start --help`). A later one may have more.
const KNOWN: [&str; 14] = [
    "cgroup-path",
    "include-log-monitor",
    "log-color",
    "log-style",
    "object-spilling-directory",
    "plasma-directory",
    "proxy-server-url",
    "redis-shard-ports",
    "redis-username",
    "system-config",
    "system-reserved-cpu",
    "system-reserved-memory",
    "tracing-startup-hook",
    "verbose",
];

/// What is wrong with further parameters of `ray start`.
pub(super) fn check(parameters: &BTreeMap<String, String>, at: &Path, findings: &mut Vec<Finding>) {
    for (name, text) in parameters {
        let path = at.key(name);
        findings.extend(key(name, path.clone()).or_else(|| value(name, text, path)));
    }
}

fn key(name: &str, path: Path) -> Option<Finding> {
    let bare = name.trim_start_matches('-').replace('_', "-").to_lowercase();
    if let Some((ours, help)) = OURS.iter().find(|(ours, _)| *ours == bare) {
        let message = format!("must not be {ours}, which Rayconcile sets itself");
        return Some(Finding::new(path, message).at_key().help(*help));
    }
    let is_name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    if !is_name(name) {
        let rule = "must be small letters and `-`, without leading dashes";
        let finding = Finding::new(path, format!("{rule}, found {}", quoted(name))).at_key();
        return Some(finding.help_if(is_name(&bare).then(|| format!("write {bare}"))));
    }
    let known = || KNOWN.into_iter().chain(RAY_START_FLAGS);
    if known().any(|known| known == name) {
        return None;
    }
    let meant = suggest::closest(name, known().chain(OURS.iter().map(|(ours, _)| *ours)))?;
    let finding = Finding::new(path, "`ray start` has no such parameter").at_key();
    Some(finding.help(format!("did you mean {meant}?")))
}

fn value(name: &str, text: &str, path: Path) -> Option<Finding> {
    if RAY_START_FLAGS.contains(&name) && !matches!(text, "" | "true" | "false") {
        let message = format!("must be \"true\" or \"false\", found {}", quoted(text));
        return Some(Finding::new(path, message).help("`ray start` has it as a flag"));
    }
    if text.is_empty() && KNOWN.contains(&name) && name != "verbose" {
        return Some(Finding::new(path, "must not be empty"));
    }
    rules::no_nul(text, path)
}
