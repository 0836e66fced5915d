//! Which revision of a Git repository a directory is at: by `git`, or, where that is not there or refuses, by its
//! files. Nothing depends on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::git::git;
use crate::api::source::SourceRevision;

/// A large work tree on a slow disk takes a while to be compared.
const PATIENCE: Duration = Duration::from_secs(10);
/// As many letters as `git` shows of a hash in a repository of a usual size.
const SHORT: usize = 7;

/// The revision of the work tree that a directory is in, whose Git directory is this one.
pub(super) async fn revision(directory: PathBuf, git: PathBuf) -> Option<SourceRevision> {
    match by_git(&directory).await {
        Some(revision) => Some(revision),
        None => tokio::task::spawn_blocking(move || by_files(&git)).await.ok()?,
    }
}

async fn by_git(directory: &Path) -> Option<SourceRevision> {
    let run = |arguments: &'static [&'static str]| git(directory, arguments, &[], PATIENCE);
    let log = run(&["log", "-1", "--format=%h%n%s"]).await.ok()?;
    let (commit, subject) = log.trim_end().split_once('\n').unwrap_or((log.trim_end(), ""));
    let branch = run(&["symbolic-ref", "--quiet", "--short", "HEAD"]).await.ok();
    let changes = run(&["status", "--porcelain", "--untracked-files=normal", "--", "."]).await.ok();
    Some(SourceRevision {
        commit: commit.to_owned(),
        branch: branch.map(|branch| branch.trim().to_owned()),
        subject: (!subject.is_empty()).then(|| subject.to_owned()),
        dirty: changes.map(|changes| !changes.is_empty()),
    })
}

/// Where Git keeps what belongs to the work tree that a directory is in.
pub(super) fn git_directory(directory: &Path) -> Option<PathBuf> {
    let directory = fs::canonicalize(directory).ok()?;
    let found = directory.ancestors().map(|above| above.join(".git")).find(|path| path.exists())?;
    if found.is_dir() {
        return Some(found);
    }
    // Of a work tree beside the first one, and of a submodule.
    let text = fs::read_to_string(&found).ok()?;
    let path = found.parent()?.join(text.strip_prefix("gitdir:")?.trim());
    path.is_dir().then_some(path)
}

fn by_files(git: &Path) -> Option<SourceRevision> {
    let head = fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(name) = head.trim().strip_prefix("ref: ") else { return Some(at(head.trim(), None)) };
    let common = fs::read_to_string(git.join("commondir")).map(|path| git.join(path.trim()));
    let common = common.unwrap_or_else(|_| git.to_owned());
    let loose = fs::read_to_string(common.join(name)).ok();
    let packed = || {
        let packed = fs::read_to_string(common.join("packed-refs")).ok()?;
        let line =
            packed.lines().find(|line| line.split_once(' ').is_some_and(|(_, found)| found == name))?;
        line.split_once(' ').map(|(hash, _)| hash.to_owned())
    };
    let branch = name.strip_prefix("refs/heads/").unwrap_or(name).to_owned();
    Some(at(loose.or_else(packed)?.trim(), Some(branch)))
}

fn at(hash: &str, branch: Option<String>) -> SourceRevision {
    let commit = hash.chars().take(SHORT).collect();
    SourceRevision { commit, branch, subject: None, dirty: None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_the_revision_too() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let hash = "0123456789012345678901234567890123456789";
        write(".git/HEAD", "ref: refs/heads/main\n");
        write("deep/er/a.yaml", "");
        let git = git_directory(&root.path().join("deep/er")).unwrap();
        assert_eq!(by_files(&git), None, "a repository without a commit");
        write(".git/packed-refs", &format!("# pack-refs\n{hash} refs/heads/main\n"));
        assert_eq!(by_files(&git), Some(at(hash, Some("main".to_owned()))));
        write(".git/refs/heads/main", "fedcba9876543210fedcba9876543210fedcba98\n");
        assert_eq!(by_files(&git).unwrap().commit, "fedcba9");
        write(".git/HEAD", hash);
        assert_eq!(by_files(&git), Some(at(hash, None)));
    }
}
