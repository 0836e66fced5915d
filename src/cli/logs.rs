//! `logs`: show what a job's workers have written.

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCandidates;
use futures_util::{StreamExt as _, pin_mut};

use super::target::{missing, object};
use super::{Context, ExitStatus, complete, wrong};
use crate::api::ids::GroupNumber;
use crate::api::meta::DEFAULT_NAMESPACE;
use crate::api::object::Kind;

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The job
    #[arg(add = ArgValueCandidates::new(complete::jobs))]
    job: String,
    /// The namespace
    #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// Go on as it comes, until the job is over
    #[arg(short, long)]
    follow: bool,
    /// The worker's rank
    #[arg(long, value_name = "N", default_value_t = 0)]
    rank: u32,
    /// Only of this group; else of all, one after the other
    #[arg(long, value_name = "N")]
    group: Option<u64>,
    /// Only the last so many lines
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
}

pub(super) async fn run(context: &Context, args: LogsArgs) -> Result<ExitStatus> {
    let (kind, key) = object(std::slice::from_ref(&args.job), &args.namespace)?;
    if kind != Kind::AdaptDLJob {
        return Err(wrong("only the workers of jobs have output"));
    }
    let client = context.client()?;
    let mut query = vec![("rank", args.rank.to_string()), ("follow", args.follow.to_string())];
    query.extend(args.group.map(|group| ("group", group.to_string())));
    query.extend(args.tail.map(|lines| ("tailLines", lines.to_string())));
    let pieces = match client.logs(&key, &query).await {
        Err(error) if error.is_not_found() => {
            return Err(missing(&client, Kind::AdaptDLJob, &key, error).await);
        }
        other => other?,
    };
    pin_mut!(pieces);
    let mut current: Option<GroupNumber> = None;
    let mut noted = false;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if let Some(note) = &piece.note {
            context.printer.talk(note);
            noted = true;
            continue;
        }
        if current.is_some_and(|current| current != piece.group) {
            context.printer.talk(&format!("--- group {}, rank {} ---", piece.group, piece.rank));
        }
        current = Some(piece.group);
        context.printer.raw(&piece.text);
    }
    if current.is_none() && !noted && args.tail != Some(0) {
        context.printer.talk(&format!("rank {} has written nothing", args.rank));
    }
    Ok(ExitStatus::Success)
}
