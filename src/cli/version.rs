//! `version`: this program's, and the running controller's.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{Context, ExitStatus};
use crate::client::ClientError;

/// This program's version.
const OURS: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Args)]
pub(super) struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, args: VersionArgs) -> Result<ExitStatus> {
    let controller = match context.client() {
        Ok(client) => client.version().await,
        Err(error) => Err(error),
    };
    let controller = match controller {
        Err(ClientError::NoController { .. }) => None,
        other => Some(other?),
    };
    if args.json {
        let both = json!({"rayconcile": OURS, "controller": controller});
        context.printer.data(&serde_json::to_string_pretty(&both)?);
        return Ok(ExitStatus::Success);
    }
    context.printer.data(&format!("rayconcile {OURS}"));
    match controller {
        Some(version) => context.printer.data(&format!("controller {version}")),
        None => context.printer.talk("no controller is running here"),
    }
    Ok(ExitStatus::Success)
}
