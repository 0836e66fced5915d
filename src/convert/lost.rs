//! Settings that have no equivalent, with the reason, or with what to do instead.

use serde_json::{Value, json};

use super::input::{Fields, is_nothing};
use super::tree::Note;

/// A setting that has no equivalent.
pub(super) struct Lost {
    name: &'static str,
    /// The value with which it says what holds here anyway.
    anyway: Option<fn() -> Value>,
    why: &'static str,
}

const fn lost(name: &'static str, why: &'static str) -> Lost {
    Lost { name, anyway: None, why }
}

const fn unless(name: &'static str, anyway: fn() -> Value, why: &'static str) -> Lost {
    Lost { name, anyway: Some(anyway), why }
}

const YES: fn() -> Value = || json!(true);
const NO: fn() -> Value = || json!(false);

const AGAIN: &str = "nodes that are not wanted are terminated, and their disks with them.";
const FILES: &str = "nothing is copied to nodes. A job brings its code along (`workingDir`); what nodes need \
                     belongs in the image, on S3 or on EFS (`instance.fileSystems`).";
const PACE: &str = "nodes are launched as soon as jobs can use them.";
const SSH: &str = "nobody logs in, and commands are run by root, or by the container's user.";
const TEMPLATE: &str = "an instance is described in full: write what the template has into `instance`.";

/// At the top.
pub(super) const TOP: &[Lost] = &[
    lost("upscaling_speed", PACE),
    lost("autoscaling_mode", PACE),
    lost("target_utilization_fraction", PACE),
    lost("initial_workers", "`minNodes` of a group says how many nodes there are at least."),
    lost("metadata", "Ray itself does not read it; `metadata.annotations` could hold it."),
    lost("no_restart", "what changed is replaced node by node."),
    lost("restart_only", "what changed is replaced node by node."),
];

/// At the top, about files.
pub(super) const MOUNTS: &[Lost] = &[
    lost("file_mounts", FILES),
    lost("cluster_synced_files", FILES),
    lost("file_mounts_sync_continuously", FILES),
    lost("rsync_exclude", "`.gitignore` and `.rayignore` say what of a `workingDir` is left out."),
    lost("rsync_filter", "`.gitignore` and `.rayignore` say what of a `workingDir` is left out."),
];

/// In `provider`.
pub(super) const PROVIDER: &[Lost] = &[
    unless("cache_stopped_nodes", NO, AGAIN),
    lost(
        "cloudwatch",
        "the image or a set-up command may start the CloudWatch agent; alarms are yours to make.",
    ),
    lost("disable_node_updaters", "instances set themselves up as they boot."),
    lost("disable_launch_config_check", "what changed is replaced node by node."),
];

/// In `auth`.
pub(super) const AUTH: &[Lost] = &[
    lost("ssh_user", SSH),
    lost("ssh_private_key", SSH),
    lost("ssh_public_key", SSH),
    lost("ssh_proxy_command", SSH),
    lost("ssh_proxy_use_node_id", SSH),
];

/// In `docker`.
pub(super) const DOCKER: &[Lost] = &[
    lost("container_name", "the container is called `rayconcile`."),
    unless("pull_before_run", YES, "the image is always pulled."),
    unless("pull", YES, "the image is always pulled."),
    lost("disable_automatic_runtime_detection", "GPUs that there are, the container has."),
    lost("disable_shm_size_detection", "`--shm-size` among the options sets it."),
    lost("use_podman", "`docker` is used."),
];

/// In a node type.
pub(super) const TYPE: &[Lost] =
    &[lost("priority", "the node that a job makes the best use of is launched.")];

/// In `node_config`: the parameters of EC2's `RunInstances`.
pub(super) const CONFIG: &[Lost] = &[
    lost("LaunchTemplate", TEMPLATE),
    lost("UserData", "user data is Rayconcile's: `setupCommands` or the image may do it."),
    lost("SecurityGroups", "groups are given by their ids: provider.aws.securityGroups."),
    lost("Placement", "a node is in the zone of its subnet, and otherwise where EC2 puts it."),
    lost("MetadataOptions", "instances always require IMDSv2."),
    unless("InstanceInitiatedShutdownBehavior", || json!("terminate"), AGAIN),
    unless("HibernationOptions", || json!({"Configured": false}), AGAIN),
    unless("MinCount", || json!(1), "nodes are launched one by one."),
    unless("MaxCount", || json!(1), "nodes are launched one by one."),
];

/// What is not known at all.
const UNKNOWN: &str = "nothing here is like it.";

/// Takes those settings, and tells of those that say something.
pub(super) fn notes(fields: &mut Fields<'_>, known: &[Lost]) -> Vec<Note> {
    let mut notes = Vec::new();
    for Lost { name, anyway, why } in known {
        let Some(part) = fields.take(name) else { continue };
        let holds = match anyway {
            Some(anyway) => part.value() == &anyway(),
            None => is_nothing(part.value()),
        };
        if !holds {
            merge(&mut notes, Note::lost(&part, *why));
        }
    }
    notes
}

/// Takes everything that is left, and tells of it.
pub(super) fn rest(fields: &mut Fields<'_>) -> Vec<Note> {
    let rest = fields.rest();
    let mut notes = Vec::new();
    rest.iter().for_each(|part| merge(&mut notes, Note::lost(part, UNKNOWN)));
    notes
}

/// Adds a note to one with the same reason.
pub(super) fn merge(notes: &mut Vec<Note>, note: Note) {
    match notes.iter_mut().find(|known| known.text == note.text && known.settings > 0) {
        Some(known) => {
            known.settings += note.settings;
            known.lines.extend(note.lines);
        }
        None => notes.push(note),
    }
}
