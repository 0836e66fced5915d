//! A job's document, as its bridge reads it: with secrets looked up, packages as URIs, and times as what is left.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::package;
use super::tokens::look_up;
use crate::action::EffectError;
use crate::api::document::{Desired, Document, GroupSpec, SlotSpec};
use crate::api::ids::Uid;
use crate::api::job::EnvVar;
use crate::api::meta::ObjectKey;
use crate::provider::Directories;

/// Renders a document.
///
/// # Errors
/// If a value that the manifest names cannot be found.
pub fn render(
    document: &Document,
    uid: &Uid,
    job: &ObjectKey,
    directories: &Directories,
    now: Timestamp,
) -> Result<Value, EffectError> {
    let slots: Map<String, Value> =
        document.slots.iter().map(|(id, slot)| (id.to_string(), render_slot(slot))).collect();
    let fence = document.fence_until.map_or(0, |until| until.duration_since(now).as_millis().max(0));
    Ok(json!({
        "revision": document.revision,
        "job": {"uid": uid, "namespace": job.namespace, "name": job.name},
        "desired": render_desired(&document.desired, directories)?,
        "slots": slots,
        "checkpoint": {
            "timeoutMs": document.checkpoint_timeout.millis,
            "intervalMs": document.checkpoint_interval.millis,
            "keep": document.checkpoint_keep,
            "path": document.checkpoint_path,
        },
        "artifacts": document.artifacts,
        "progressDeadlineMs": document.progress_deadline.millis,
        "saveRequest": document.save_request,
        "metadataEndpoint": document.metadata_endpoint,
        "minReplicas": document.min_replicas,
        "fencedNodes": document.fenced,
        "fenceMs": u64::try_from(fence).unwrap_or(0),
    }))
}

fn render_desired(desired: &Desired, directories: &Directories) -> Result<Value, EffectError> {
    Ok(match desired {
        Desired::Stop { grace } => json!({"kind": "Stop", "graceMs": grace.millis}),
        Desired::Run { group, activate } => {
            json!({"kind": "Run", "group": render_group(group, directories)?, "activate": activate})
        }
    })
}

fn render_group(group: &GroupSpec, directories: &Directories) -> Result<Value, EffectError> {
    let program = &group.program;
    let env = program.env.iter().map(|variable| render_variable(variable, directories));
    let env = env.collect::<Result<Vec<_>, _>>()?;
    Ok(json!({
        "number": group.number,
        "ranks": group.ranks,
        "program": {"entrypoint": program.entrypoint, "command": program.command, "args": program.args},
        "env": env,
        "sharePath": program.share_path,
        "prepare": group.prepare,
        "fork": group.fork,
        "restore": group.restore,
    }))
}

fn render_variable(variable: &EnvVar, directories: &Directories) -> Result<Value, EffectError> {
    let value = match (&variable.value, &variable.value_from) {
        (Some(value), _) => value.clone(),
        (None, Some(source)) => look_up(source, Some(directories))?,
        (None, None) => String::new(),
    };
    Ok(json!({"name": variable.name, "value": value}))
}

fn render_slot(slot: &SlotSpec) -> Value {
    let resources = &slot.kind.resources;
    let mut environment = slot.kind.runtime_env.clone();
    if let Some(digest) = &slot.kind.package {
        environment.insert("working_dir".to_owned(), package::uri(&package::name(&digest.0)).into());
    }
    // The slot itself runs from the agent's package, beside whatever modules the manifest names.
    let mut modules = match environment.remove("py_modules") {
        Some(Value::Array(modules)) => modules,
        _ => Vec::new(),
    };
    modules.push(package::uri(&package::agent().name).into());
    environment.insert("py_modules".to_owned(), modules.into());
    json!({
        "node": slot.ray,
        "resources": {
            "cpu": resources.cpu.cpus(),
            "gpu": resources.gpu,
            "memory": resources.memory.map_or(0, |bytes| bytes.0),
            "custom": resources.custom,
        },
        "environment": environment,
    })
}
