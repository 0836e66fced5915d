//! The options that say where objects come from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use super::super::{Context, ExitStatus, Hinted, wrong};
use crate::api::units::Span;
use crate::gitops::{Filter, Remote, Settings, Source};

#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Keep the objects of a directory as its manifests have them (may be given several times)
    #[arg(long, value_name = "DIR", help_heading = "Directories and repositories")]
    watch: Vec<PathBuf>,
    /// Of these only files that match, as in .gitignore (may be given several times)
    #[arg(long, value_name = "GLOB", help_heading = "Directories and repositories")]
    include: Vec<String>,
    /// Of these no files that match, as in .gitignore (may be given several times)
    #[arg(long, value_name = "GLOB", help_heading = "Directories and repositories")]
    exclude: Vec<String>,
    /// Look every so often, instead of being told of changes; where nobody tells of them, as on network file systems,
    /// that is done by itself, every 5s
    #[arg(long, value_name = "DURATION", help_heading = "Directories and repositories")]
    watch_poll: Option<Span>,
    /// The same for a Git repository, which is fetched (may be given several times)
    #[arg(long, value_name = "URL[#BRANCH[:PATH]]", help_heading = "Directories and repositories")]
    repo: Vec<String>,
    /// The branch of repositories that name none; by default the one that the repository has checked out
    #[arg(long, value_name = "BRANCH", requires = "repo", help_heading = "Directories and repositories")]
    branch: Option<String>,
    /// The directory in repositories that name none
    #[arg(long, value_name = "PATH", requires = "repo", help_heading = "Directories and repositories")]
    path: Option<PathBuf>,
    /// How often repositories are fetched
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1m",
        help_heading = "Directories and repositories"
    )]
    interval: Span,
    /// Which share of a source's objects may go at once unasked; more wait for `sync confirm`
    #[arg(long, value_name = "SHARE", default_value = "50%", value_parser = share, help_heading = "Directories and repositories")]
    max_prune: f64,
    /// Set back what was changed by hand
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", action = clap::ArgAction::Set, help_heading = "Directories and repositories"
    )]
    self_heal: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    number
        .filter(|number| (0.0..=100.0).contains(number))
        .map(|number| number / 100.0)
        .ok_or_else(|| "a share is written as 50%, from 0% to 100%".to_owned())
}

impl SourceArgs {
    /// Where objects come from.
    pub(super) fn sources(&self, context: &Context) -> Result<Vec<Source>> {
        let known = context.state_dir.exists();
        let directories = self.watch.iter().map(|path| directory(path, known).map(Source::Directory));
        let mut sources = directories.collect::<Result<Vec<_>>>()?;
        for text in &self.repo {
            let remote = Remote::parse(text, self.branch.as_deref(), self.path.as_deref());
            let remote = remote.map_err(|error| wrong(error.to_string()))?;
            if remote.has_credentials() {
                context.printer.warn(
                    "credentials on the command line can be seen by everybody on this machine; \
                     RAYCONCILE_GIT_USERNAME and RAYCONCILE_GIT_PASSWORD, or RAYCONCILE_GIT_TOKEN, cannot",
                );
            }
            sources.push(Source::Repository(remote));
        }
        if !self.repo.is_empty() && !has_git() {
            bail!(Hinted {
                message: "repositories are fetched by the program `git`, which is not in PATH".to_owned(),
                hint: "install git, or have something else fetch them into a directory, and --watch that"
                    .to_owned(),
                status: ExitStatus::Failure,
            });
        }
        Ok(sources)
    }

    /// How they are kept.
    pub(super) fn settings(&self) -> Result<Settings> {
        let positive = |span: Span, name: &str| match Duration::from_millis(span.millis) {
            Duration::ZERO => Err(wrong(format!("{name} must be longer than nothing"))),
            length => Ok(length),
        };
        Ok(Settings {
            filter: Filter::new(&self.include, &self.exclude).map_err(wrong)?,
            poll: self.watch_poll.map(|every| positive(every, "--watch-poll")).transpose()?,
            self_heal: self.self_heal,
            max_prune: self.max_prune,
            interval: positive(self.interval, "--interval")?,
        })
    }
}

/// A directory that is to be watched, wherever this process goes. A link stays one: it may be made to lead elsewhere.
fn directory(path: &Path, may_be_gone: bool) -> Result<PathBuf> {
    let cannot = || format!("cannot watch {}", path.display());
    let parent =
        path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    let absolute = match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().with_context(cannot)?.join(name),
        _ => path.canonicalize().with_context(cannot)?,
    };
    match absolute.metadata() {
        Ok(metadata) => ensure!(metadata.is_dir(), "{}: it is no directory", cannot()),
        // Its objects are there, and stay until somebody says that they may go.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && may_be_gone => {}
        Err(error) => return Err(error).with_context(cannot),
    }
    Ok(absolute)
}

fn has_git() -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|directory| directory.join("git").is_file())
}
