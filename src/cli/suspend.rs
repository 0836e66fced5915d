//! `suspend` and `resume`.

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCandidates;
use serde_json::json;

use super::sync::warn_of_source;
use super::target::{missing, name, objects};
use super::{Context, ExitStatus, complete};
use crate::api::meta::DEFAULT_NAMESPACE;

#[derive(Debug, Args)]
pub(super) struct SuspendArgs {
    /// The objects: a job's name, KIND NAME..., or KIND/NAME...
    #[arg(required = true, add = ArgValueCandidates::new(complete::objects))]
    objects: Vec<String>,
    /// The namespace
    #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

pub(super) async fn run(context: &Context, args: SuspendArgs, suspend: bool) -> Result<ExitStatus> {
    let client = context.client()?;
    for (kind, key) in objects(&args.objects, &args.namespace)? {
        let object = match client.patch(kind, &key, &json!({"spec": {"suspend": suspend}})).await {
            Err(error) if error.is_not_found() => return Err(missing(&client, kind, &key, error).await),
            other => other?,
        };
        let word = if suspend { "is being suspended" } else { "goes on" };
        context.printer.data(&format!("{} {word}", name(kind, &key)));
        warn_of_source(context, &object, "change spec.suspend there");
    }
    Ok(ExitStatus::Success)
}
