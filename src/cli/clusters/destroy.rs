//! `clusters destroy`: end every instance of a cluster and remove all that was made for it.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, Result};

use super::{DestroyArgs, find};
use crate::api::words::count;
use crate::cli::{Context, ExitStatus, Hinted, wrong};
use crate::provider::aws::{FoundCluster, destroy};

pub(super) async fn run(context: &Context, args: DestroyArgs) -> Result<ExitStatus> {
    let found = find::one(&args.which).await?;
    let name = find::name(&found);
    if find::known(context).await.is_some_and(|known| known.contains(&found.uid)) {
        let cluster = found.key.as_ref().map_or(name.as_str(), |key| key.name.as_str());
        return Err(Hinted {
            message: format!(
                "cluster {name} is in this state directory: its controller would build it again"
            ),
            hint: format!("`rayconcile delete cluster {cluster}` saves its jobs and ends it"),
            status: ExitStatus::Failure,
        }
        .into());
    }
    if !args.yes && !is_wanted(context, &found, &name)? {
        context.printer.talk("nothing was done");
        return Ok(ExitStatus::Failure);
    }
    let printer = context.printer;
    let ended = destroy(&found, &|text| printer.talk(text)).await?;
    let shared = find::shared(&found);
    let more = if shared.is_empty() { String::new() } else { format!("; {shared} removed") };
    printer.data(&format!("cluster/{name} destroyed: {} ended{more}", count(ended, "instance")));
    Ok(ExitStatus::Success)
}

/// Asks whoever sits there. Where nobody can be asked it must have been said.
fn is_wanted(context: &Context, found: &FoundCluster, name: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(wrong("nobody can be asked here whether that is meant: say so with --yes"));
    }
    let shared = find::shared(found);
    let more = if shared.is_empty() { String::new() } else { format!(", {shared}") };
    context.printer.talk(&format!(
        "cluster {name} (uid {}) in {}: {}{more}\nIts jobs are not saved, and cannot go on after this. Type {name} to \
         destroy it:",
        found.uid,
        found.region,
        count(found.instances.len(), "instance"),
    ));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer.trim() == name)
}
