//! Repositories: fetched by the `git` program, each revision checked out into a directory of its own, and a link
//! swapped to it, so that whoever reads sees one revision or the other.
//!
//! Only the newest commit is fetched. Submodules are not, and files of Git LFS are left as pointers.

use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use sha2::{Digest as _, Sha256};

use super::Source;
use super::git::{GitError, git, redacted};
use crate::api::source::SourceRevision;

/// How long a fetch may take.
const FETCH_PATIENCE: Duration = Duration::from_secs(600);
/// How long anything else may take that git does here.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where all of them are in the state directory.
const REPOSITORIES: &str = "repos";
/// The link to the revision in force.
const CURRENT: &str = "current";
/// Where revisions are.
const REVISIONS: &str = "revisions";
/// The user that a token is for, where none is named: the hosts that care take this one.
const TOKEN_USER: &str = "x-access-token";

/// Answers what git asks about one host, from its environment.
const ASKPASS: &str = r#"#!/bin/sh
case "$1" in
*"//$RAYCONCILE_ASKPASS_HOST'"* | *"@$RAYCONCILE_ASKPASS_HOST'"*) ;;
*) exit 1 ;;
esac
case "$1" in
Username*) printf '%s\n' "$RAYCONCILE_ASKPASS_USERNAME" ;;
*) printf '%s\n' "$RAYCONCILE_ASKPASS_PASSWORD" ;;
esac
"#;

/// A repository, and what of it counts.
#[derive(Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its address, without credentials.
    url: String,
    /// The branch; else the one that the repository has checked out.
    branch: Option<String>,
    /// The directory in it.
    path: PathBuf,
    credentials: Option<(String, String)>,
}

/// Why there is no such repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RemoteError(String);

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl Remote {
    /// A repository as it is written: `URL[#BRANCH[:PATH]]`. What that does not say is `branch` and `path`.
    ///
    /// # Errors
    /// If it is none, or the path leads out of it.
    pub fn parse(text: &str, branch: Option<&str>, path: Option<&Path>) -> Result<Self, RemoteError> {
        let (url, rest) = text.split_once('#').map_or((text, None), |(url, rest)| (url, Some(rest)));
        let (named, inner) = match rest.map(|rest| rest.split_once(':').unwrap_or((rest, ""))) {
            Some((branch, path)) => (Some(branch), Some(Path::new(path))),
            None => (None, None),
        };
        let fail = |message: String| Err(RemoteError(message));
        check(url, rest.unwrap_or_default())?;
        let branch = named.filter(|branch| !branch.is_empty()).or(branch);
        let path = inner.filter(|path| !path.as_os_str().is_empty()).or(path).unwrap_or(Path::new(""));
        if branch.is_some_and(|branch| branch.starts_with('-') || branch.contains(char::is_whitespace)) {
            return fail(format!("{} is no name of a branch", branch.unwrap_or_default()));
        }
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !path.components().all(plain) {
            return fail(format!("{} leads out of the repository", path.display()));
        }
        let path = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let (url, credentials) = without_credentials(url);
        Ok(Self { url, branch: branch.map(str::to_owned), path, credentials })
    }

    /// Whether its address carried credentials.
    pub fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    pub(super) fn name(&self) -> String {
        let path = self.path.display().to_string();
        let branch = self.branch.as_deref().unwrap_or("HEAD");
        if path.is_empty() {
            format!("{}#{branch}", self.url)
        } else {
            format!("{}#{branch}:{path}", self.url)
        }
    }

    /// Its place in the state directory.
    fn directory(&self, state: &Path) -> PathBuf {
        let words = self.url.trim_end_matches('/').trim_end_matches(".git").rsplit(['/', ':']).next();
        let word: String =
            words.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(24).collect();
        let hash = Sha256::digest(self.name());
        let hash: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        state.join(REPOSITORIES).join(format!("{word}-{hash}"))
    }

    pub(super) fn root(&self, state: &Path) -> PathBuf {
        self.directory(state).join(CURRENT).join(&self.path)
    }
}

/// Refuses what is no address, and what may hide a password where nobody looks for one: it would be shown. Of such an
/// address nothing is told but its beginning.
fn check(url: &str, rest: &str) -> Result<(), RemoteError> {
    if url.is_empty() || url.starts_with('-') {
        return Err(RemoteError(format!("{} is no address of a repository", redacted(url))));
    }
    let Some((scheme, after)) = url.split_once("://") else { return Ok(()) };
    let fail = |message: &str| Err(RemoteError(format!("{scheme}://... {message}")));
    if rest.contains('@') {
        return fail(
            "has an @ after its #: in a password they are written %40 and %23; a branch with an @ is given by --branch",
        );
    }
    if matches!(scheme, "http" | "https") {
        return match Url::parse(url) {
            Ok(_) => Ok(()),
            Err(_) => fail("is no address: what is special in a password is written as %2F for /, and so on"),
        };
    }
    let authority = after.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) {
        true => fail(
            "has a password that nobody asks for: with ssh there are keys, and with https there are tokens",
        ),
        false => Ok(()),
    }
}

/// The parts of an address: what may be shown, and who may read there.
fn without_credentials(url: &str) -> (String, Option<(String, String)>) {
    let Some(mut parsed) = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https")) else {
        return (url.to_owned(), None);
    };
    let decoded = |text: &str| percent_decoded(text);
    let (user, password) = (decoded(parsed.username()), parsed.password().map(decoded));
    if user.is_empty() && password.is_none() {
        return (url.to_owned(), None);
    }
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    // A token alone is written where the user would be.
    let credentials = match password {
        Some(password) => (user, password),
        None => (TOKEN_USER.to_owned(), user),
    };
    (parsed.to_string(), Some(credentials))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Removes what was fetched of repositories that are no sources any more.
pub(super) fn forget_others(state: &Path, sources: &[Source]) {
    let ours: Vec<PathBuf> = sources
        .iter()
        .filter_map(|source| match source {
            Source::Repository(remote) => Some(remote.directory(state)),
            Source::Directory(_) => None,
        })
        .collect();
    let found = fs::read_dir(state.join(REPOSITORIES)).into_iter().flatten().flatten();
    for entry in found.filter(|entry| !ours.contains(&entry.path())) {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "an old repository is left behind");
        }
    }
}

/// What was fetched.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    /// The link that shows what is in force, and what it is to lead to, if that is another.
    swap: Option<(PathBuf, PathBuf)>,
    pub(super) revision: SourceRevision,
    /// Whether it is another revision than before.
    pub(super) new: bool,
    /// What is in it that is not fetched.
    pub(super) note: Option<String>,
}

impl Fetched {
    /// Puts the revision in force.
    pub(super) fn put_in_force(&self) -> Result<(), String> {
        let Some((link, target)) = &self.swap else { return Ok(()) };
        replace_link(target, link).map_err(|error| format!("cannot write {}: {error}", link.display()))
    }
}

impl Remote {
    /// Fetches the newest revision, and has it ready to be put in force.
    pub(super) async fn fetch(self, state: PathBuf) -> Result<Fetched, String> {
        let directory = self.directory(&state);
        self.fetch_into(&directory).await.map_err(|error| match error {
            Trouble::Git(GitError::Failed(said)) if said.contains("couldn't find remote ref") => {
                let branch = self.branch.as_deref().unwrap_or("HEAD");
                format!("the repository has no branch {branch}")
            }
            Trouble::Git(error) => self.clean(&error.to_string()),
            Trouble::Io(error) => format!("cannot write in {}: {error}", directory.display()),
        })
    }

    async fn fetch_into(&self, directory: &Path) -> Result<Fetched, Trouble> {
        let repository = directory.join("git");
        fs::create_dir_all(&repository)?;
        let locked = repository.clone();
        on_a_thread(move || remove_locks(&locked)).await?;
        if !repository.join("HEAD").exists() {
            git(&repository, ["init", "--quiet", "--bare", "."], &[], PATIENCE).await?;
        }
        let environment = self.environment(directory)?;
        let reference = match &self.branch {
            Some(branch) => format!("+refs/heads/{branch}:refs/rayconcile/head"),
            None => "+HEAD:refs/rayconcile/head".to_owned(),
        };
        let mut arguments = vec!["-c", "gc.autoDetach=false", "-c", "maintenance.autoDetach=false"];
        arguments.extend(["-c", "gc.pruneExpire=now", "-c", "core.hooksPath=/dev/null"]);
        if !environment.is_empty() {
            // What is given here is meant, and nothing that is remembered elsewhere.
            arguments.extend(["-c", "credential.helper=", "-c", "credential.useHttpPath=false"]);
        }
        let fetch = ["fetch", "--quiet", "--no-tags", "--force", "--depth=1", &self.url, &reference];
        arguments.extend(fetch);
        git(&repository, &arguments, &environment, FETCH_PATIENCE).await?;
        let found = ["log", "-1", "--format=%H%n%h%n%s", "refs/rayconcile/head"];
        let found = git(&repository, found, &[], PATIENCE).await?;
        let mut lines = found.lines();
        let mut line = || lines.next().unwrap_or_default().to_owned();
        let (hash, commit, subject) = (line(), line(), line());
        let checkout = directory.join(REVISIONS).join(&hash);
        let target = Path::new(REVISIONS).join(&hash);
        let link = directory.join(CURRENT);
        let new = fs::read_link(&link).ok().as_ref() != Some(&target) || !checkout.exists();
        if new {
            check_out(&repository, &hash, &checkout).await?;
            // The one before is in force until the link is swapped.
            let keep = [Some(target.clone()), fs::read_link(&link).ok()];
            let revisions = directory.join(REVISIONS);
            on_a_thread(move || remove_others(&revisions, &keep)).await?;
        }
        let swap = new.then_some((link, target));
        let branch = self.branch.clone();
        let subject = Some(subject).filter(|subject| !subject.is_empty());
        let revision = SourceRevision { commit, branch, subject, dirty: Some(false) };
        Ok(Fetched { swap, revision, new, note: note(&checkout) })
    }

    /// What git is to know of credentials: never in its arguments, which everybody can see.
    fn environment(&self, directory: &Path) -> io::Result<Vec<(String, String)>> {
        let url = Url::parse(&self.url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let (Some(url), Some((user, password))) = (url, self.credentials.clone().or_else(given)) else {
            return Ok(Vec::new());
        };
        let path = directory.join("askpass");
        let _ = fs::remove_file(&path);
        fs::File::options()
            .create_new(true)
            .write(true)
            .mode(0o700)
            .open(&path)?
            .write_all(ASKPASS.as_bytes())?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let host = format!("{}{port}", url.host_str().unwrap_or_default());
        let pairs = [
            ("GIT_ASKPASS", path.display().to_string()),
            ("RAYCONCILE_ASKPASS_HOST", host),
            ("RAYCONCILE_ASKPASS_USERNAME", user),
            ("RAYCONCILE_ASKPASS_PASSWORD", password),
        ];
        Ok(pairs.map(|(name, value)| (name.to_owned(), value)).to_vec())
    }

    /// What git said, without anything secret.
    fn clean(&self, said: &str) -> String {
        let said = redacted(said);
        match self.credentials.clone().or_else(given) {
            Some((_, password)) if !password.is_empty() => said.replace(&password, "***"),
            _ => said,
        }
    }
}

/// The credentials that the environment gives.
fn given() -> Option<(String, String)> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = variable("RAYCONCILE_GIT_USERNAME");
    let password = variable("RAYCONCILE_GIT_PASSWORD").or_else(|| variable("RAYCONCILE_GIT_TOKEN"))?;
    Some((user.unwrap_or_else(|| TOKEN_USER.to_owned()), password))
}

async fn check_out(repository: &Path, hash: &str, checkout: &Path) -> Result<(), Trouble> {
    let parent = checkout.parent().unwrap_or(checkout);
    fs::create_dir_all(parent)?;
    let temporary = tempfile::Builder::new().prefix(".new-").tempdir_in(parent)?;
    let git_directory = format!("--git-dir={}", repository.display());
    let index = repository.join("index.checkout");
    let _ = fs::remove_file(&index);
    let environment = [
        ("GIT_INDEX_FILE".to_owned(), index.display().to_string()),
        ("GIT_LFS_SKIP_SMUDGE".to_owned(), "1".to_owned()),
    ];
    let arguments =
        [&git_directory, "--work-tree=.", "-c", "core.bare=false", "read-tree", "--reset", "-u", hash];
    let made = git(temporary.path(), arguments, &environment, PATIENCE).await;
    let (checkout, made) = (checkout.to_owned(), made.map_err(Trouble::from));
    on_a_thread(move || {
        made?;
        let _ = fs::remove_dir_all(&checkout);
        fs::rename(temporary.keep(), &checkout)?;
        Ok(())
    })
    .await?
}

/// Does what may take a while, such as removing a large tree, where nobody else waits for it.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Removes the locks that a git has left which was killed: nobody else works in this repository.
fn remove_locks(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_locks(&path);
        } else if path.extension().is_some_and(|extension| extension == "lock") {
            tracing::info!(path = %path.display(), "a lock was left behind, and is removed");
            let _ = fs::remove_file(path);
        }
    }
}

fn replace_link(target: &Path, link: &Path) -> io::Result<()> {
    let new = link.with_extension("new");
    let _ = fs::remove_file(&new);
    symlink(target, &new)?;
    fs::rename(new, link)
}

fn remove_others(revisions: &Path, keep: &[Option<PathBuf>]) {
    let kept = |path: &Path| keep.iter().flatten().any(|kept| kept.file_name() == path.file_name());
    for entry in fs::read_dir(revisions).into_iter().flatten().flatten() {
        if !kept(&entry.path())
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "an old revision is left behind");
        }
    }
}

/// What is in a revision that is not fetched.
fn note(checkout: &Path) -> Option<String> {
    let submodules = checkout.join(".gitmodules").exists().then_some("its submodules are not fetched");
    let attributes = fs::read_to_string(checkout.join(".gitattributes")).unwrap_or_default();
    let large = attributes.contains("filter=lfs").then_some("files of Git LFS are left as pointers");
    let notes: Vec<&str> = submodules.into_iter().chain(large).collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}

enum Trouble {
    Git(GitError),
    Io(io::Error),
}

impl From<GitError> for Trouble {
    fn from(error: GitError) -> Self {
        Self::Git(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_credentials_kept_apart() {
        let parse = |text| Remote::parse(text, Some("main"), Some(Path::new("prod")));
        let remote = parse("https://me:s%40cret@host/a.git").unwrap();
        assert_eq!(remote.name(), "https://host/a.git#main:prod");
        assert_eq!(remote.credentials, Some(("me".to_owned(), "s@cret".to_owned())));
        assert!(!format!("{remote:?}").contains("cret"));
        let token = parse("https://t0ken@host/a.git#dev").unwrap();
        assert_eq!(
            (token.name().as_str(), token.credentials.unwrap().1),
            ("https://host/a.git#dev:prod", "t0ken".to_owned())
        );
        assert_eq!(parse("git@host:a/b.git#dev:x/./y").unwrap().name(), "git@host:a/b.git#dev:x/y");
        assert_eq!(Remote::parse("file:///a", None, None).unwrap().name(), "file:///a#HEAD");
        for wrong in ["", "--upload-pack=x", "https://h/a#m:../b", "https://h/a#m:/etc", "https://h/a#-x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        // What may be a password is neither taken for something else nor shown.
        for secret in [
            "ssh://git:s3cret@host/a.git",
            "https://me:s3#cret@host/a.git",
            "https://me:s3/cret@host/a.git",
            "https://me:/s3#cret@host/a.git",
            "ftp://me:s3cret@host:1/a#main",
        ] {
            let said = parse(secret).unwrap_err().to_string();
            assert!(!said.contains("s3") && !said.contains("cret"), "{said}");
        }
        assert_eq!(parse("ssh://git@host:22/a.git#dev").unwrap().name(), "ssh://git@host:22/a.git#dev:prod");
        assert_eq!(Remote::parse("https://h/a", Some("x@1"), None).unwrap().name(), "https://h/a#x@1");
    }
}
