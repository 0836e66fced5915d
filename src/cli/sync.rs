//! `sync`: watched directories and repositories, and what can be asked of them.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::text::age;
use super::{Context, ExitStatus, Hinted};
use crate::api::meta::SOURCE_FILE;
use crate::api::object::{AnyObject, Kind};
use crate::api::source::{FetchStatus, SourceAction, SourceRequest, SourceRevision, SourceStatus, SyncState};
use crate::api::words::count;
use crate::client::Client;

pub(super) const EXAMPLES: &str = "Examples:
  rayconcile sync status                 # every source: its revision, errors, drift
  rayconcile sync pause manifests        # by its directory, or the end of its name
  rayconcile sync now                    # look, and fetch, without waiting
  rayconcile sync confirm manifests      # let the objects go that `sync status` shows as waiting";

/// So many objects are named.
const NAMED: usize = 20;

/// Writing into a string does not fail.
macro_rules! put {
    ($page:expr, $($arguments:tt)*) => {{
        let _ = writeln!($page, $($arguments)*);
    }};
}

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    #[command(subcommand)]
    verb: SyncVerb,
}

#[derive(Debug, Subcommand)]
enum SyncVerb {
    /// Show where objects come from, and whether they are as it is there
    Status {
        /// Only this source
        source: Option<String>,
        /// How to show them
        #[arg(short, long, value_enum, value_name = "FORMAT")]
        output: Option<Output>,
    },
    /// Apply nothing of a source until it is resumed
    Pause(Which),
    /// Let a paused source go on
    Resume(Which),
    /// Look at a source now, and fetch it if it is a repository
    Now(Which),
    /// Let the objects go that are missing from a source and wait for this
    Confirm(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// The source; may be left out if there is only one
    source: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
}

pub(super) async fn run(context: &Context, args: SyncArgs) -> Result<ExitStatus> {
    let client = context.client()?;
    let sources = client.sources().await?;
    let (which, action) = match args.verb {
        SyncVerb::Status { source, output } => {
            let (shown, left) = match &source {
                Some(_) => (vec![find(&sources, source.as_deref())?.clone()], Vec::new()),
                None => {
                    let left = left_behind(&client, &sources).await?;
                    (sources, left)
                }
            };
            show(context, &shown, &left, output)?;
            return Ok(ExitStatus::Success);
        }
        SyncVerb::Pause(which) => (which, SourceAction::Pause),
        SyncVerb::Resume(which) => (which, SourceAction::Resume),
        SyncVerb::Now(which) => (which, SourceAction::Now),
        SyncVerb::Confirm(which) => (which, SourceAction::Confirm),
    };
    let found = find(&sources, which.source.as_deref())?;
    ask(context, &client, found, action).await
}

/// Says that what was changed by hand comes from a source, which has it otherwise.
pub(super) fn warn_of_source(context: &Context, object: &AnyObject, advice: &str) {
    let metadata = object.metadata();
    let Some(source) = metadata.source() else { return };
    let file = metadata.annotations.get(SOURCE_FILE).map_or("", String::as_str);
    let name = super::target::name(object.kind(), &object.key());
    context.printer.warn(&format!(
        "{name} comes from {source} ({file}), which sets it back unless that is switched off or paused; \
         {advice}, or see `rayconcile sync`"
    ));
}

async fn ask(
    context: &Context,
    client: &Client,
    found: &SourceStatus,
    action: SourceAction,
) -> Result<ExitStatus> {
    // What is confirmed is what was shown, and nothing else.
    let digest = found.pending_prune.as_ref().map(|pending| pending.digest.clone());
    let request = SourceRequest { source: found.directory.clone(), action, digest };
    let status = client.ask_source(&request).await?;
    let name = &found.directory;
    let said = match action {
        SourceAction::Pause => format!("{name} is paused: its objects stay as they are"),
        SourceAction::Resume => format!("{name} goes on"),
        SourceAction::Now => source_page(&status),
        SourceAction::Confirm => {
            let objects = found.pending_prune.iter().flat_map(|pending| &pending.objects);
            objects.map(|object| format!("{object} is being deleted")).collect::<Vec<_>>().join("\n")
        }
    };
    context.printer.data(&said);
    let failed = action == SourceAction::Now && status.state == SyncState::Failed;
    Ok(if failed { ExitStatus::Failure } else { ExitStatus::Success })
}

/// The source that a word means: its name, or the end of it.
pub(super) fn find<'a>(sources: &'a [SourceStatus], word: Option<&str>) -> Result<&'a SourceStatus> {
    let names = || sources.iter().map(|source| format!("\n  {}", source.directory)).collect::<String>();
    let unclear = |message: String| {
        let hint = match sources.is_empty() {
            true => "the controller is to be started with --watch or --repo".to_owned(),
            false => format!("there are:{}", names()),
        };
        anyhow!(Hinted { message, hint, status: ExitStatus::Usage })
    };
    let Some(word) = word else {
        return match sources {
            [only] => Ok(only),
            [] => Err(unclear("nothing is watched".to_owned())),
            _ => Err(unclear("say which source".to_owned())),
        };
    };
    let path = std::fs::canonicalize(word).ok().map(|path| path.display().to_string());
    let absolute = std::path::absolute(word).ok().map(|path| path.display().to_string());
    let is = |source: &&SourceStatus| {
        let name = source.directory.trim_end_matches('/');
        name == word.trim_end_matches('/')
            || [&path, &absolute].iter().any(|path| path.as_deref() == Some(name))
    };
    let ends = |source: &&SourceStatus| {
        let rest = source.directory.strip_suffix(word.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.ends_with(['/', '#', ':']))
    };
    let holds = |source: &&SourceStatus| source.directory.contains(word);
    if let Some(found) = sources.iter().find(is) {
        return Ok(found);
    }
    for matches in [&ends as &dyn Fn(&&SourceStatus) -> bool, &holds] {
        match sources.iter().filter(|source| matches(source)).collect::<Vec<_>>()[..] {
            [only] => return Ok(only),
            [] => {}
            _ => return Err(unclear(format!("{word} may be several sources"))),
        }
    }
    Err(unclear(format!("there is no source {word}")))
}

/// An object whose source is not watched any more.
#[derive(Serialize)]
struct Left {
    object: String,
    source: String,
    file: String,
}

/// The objects whose sources this controller does not watch.
async fn left_behind(client: &Client, sources: &[SourceStatus]) -> Result<Vec<Left>> {
    let mut left = Vec::new();
    for kind in [Kind::RayCluster, Kind::AdaptDLJob] {
        for object in client.list(kind, None, None).await? {
            let metadata = object.metadata();
            let source = metadata.source().unwrap_or_default();
            if source.is_empty() || sources.iter().any(|watched| watched.directory == source) {
                continue;
            }
            let file = metadata.annotations.get(SOURCE_FILE).cloned().unwrap_or_default();
            let object = format!("{}/{}", kind.singular(), object.key());
            left.push(Left { object, source: source.to_owned(), file });
        }
    }
    Ok(left)
}

fn show(context: &Context, sources: &[SourceStatus], left: &[Left], output: Option<Output>) -> Result<()> {
    match output {
        Some(Output::Json) => {
            let mut list = serde_json::json!({"items": sources});
            if !left.is_empty() {
                list["leftBehind"] = serde_json::to_value(left)?;
            }
            context.printer.data(&serde_json::to_string_pretty(&list)?);
        }
        None => {
            if sources.is_empty() {
                context.printer.talk("nothing is watched");
            }
            let pages = sources.iter().map(source_page).chain((!left.is_empty()).then(|| left_page(left)));
            let pages: Vec<String> = pages.collect();
            if !pages.is_empty() {
                context.printer.page(&pages.join("\n"));
            }
        }
    }
    Ok(())
}

/// What stays of sources that are not watched any more.
fn left_page(left: &[Left]) -> String {
    let mut page = String::new();
    put!(page, "{} from sources that this controller does not watch", count(left.len(), "object"));
    put!(
        page,
        "  they stay until they are deleted, or their source, or another one that has them, is watched:"
    );
    for Left { object, source, file } in left.iter().take(NAMED) {
        put!(page, "    {object}   {source} ({file})");
    }
    let more = left.len().saturating_sub(NAMED);
    if more > 0 {
        put!(page, "    and {more} more: sync status -o json has them all");
    }
    page
}

/// Everything that a person wants to know of a source.
pub(super) fn source_page(source: &SourceStatus) -> String {
    let mut page = String::new();
    let kind = if source.fetch.is_some() { "repository" } else { "directory" };
    let (objects, state) = (count(source.objects, "object"), source.state.name());
    put!(page, "{kind} {}   {state}", source.directory);
    put!(
        page,
        "  {objects}, looked at {} ago; changes noticed by {}",
        age(source.at),
        noticed(&source.noticed_by)
    );
    if let Some(revision) = &source.revision {
        put!(page, "  {}", at(revision));
    }
    if let Some(fetch) = &source.fetch {
        put!(page, "  {}", fetched(fetch));
    }
    for error in &source.errors {
        put!(page, "  {}", error.message);
    }
    for object in &source.out_of_sync {
        put!(page, "  {}: {}", object.object, object.message);
    }
    for object in source.finished.iter().take(NAMED) {
        put!(
            page,
            "  {object}: finished and gone (ttlAfterFinished); it runs again when its file says otherwise"
        );
    }
    let more = source.finished.len().saturating_sub(NAMED);
    if more > 0 {
        put!(page, "  and {more} more that are finished and gone: sync status -o json has them all");
    }
    if !source.self_heal {
        put!(page, "  what is changed by hand is left so (--self-heal=false)");
    }
    if let Some(pending) = &source.pending_prune {
        put!(page, "  {}", pending.reason);
        let objects = count(pending.objects.len(), "object");
        put!(page, "  {objects} of {} would be deleted, when `rayconcile sync confirm` says so:", pending.of);
        for object in pending.objects.iter().take(NAMED) {
            put!(page, "    {object}");
        }
        let more = pending.objects.len().saturating_sub(NAMED);
        if more > 0 {
            put!(page, "    and {more} more: sync status -o json has them all");
        }
    }
    page
}

fn noticed(by: &str) -> String {
    if by.starts_with("every") { format!("looking {by}") } else { by.to_owned() }
}

/// `main at 1a2b3c4 "Add a job", with changes that are not committed`.
fn at(revision: &SourceRevision) -> String {
    let branch = revision.branch.as_deref().map(|branch| format!("{branch} at ")).unwrap_or_default();
    let subject = revision.subject.as_deref().map(|subject| format!(" \"{subject}\"")).unwrap_or_default();
    let dirty = if revision.dirty == Some(true) { ", with changes that are not committed" } else { "" };
    format!("{branch}{}{subject}{dirty}", revision.commit)
}

fn fetched(fetch: &FetchStatus) -> String {
    let mut text = match (fetch.at, &fetch.error) {
        (Some(at), None) => format!("fetched {} ago", age(at)),
        (None, None) => "not fetched yet".to_owned(),
        (Some(at), Some(error)) => {
            format!("fetched {} ago, which stays in force: it cannot be fetched anew: {error}", age(at))
        }
        (None, Some(error)) => format!("it cannot be fetched: {error}"),
    };
    if let Some(note) = &fetch.note {
        let _ = write!(text, "; {note}");
    }
    text
}
