//! The `git` program, run so that it never asks anybody and never says what is secret.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;

/// What git says at most.
const SAID: usize = 400;

/// The variables that bind git to one repository (`git rev-parse --local-env-vars`), and the one of its hooks. Not
/// among them, as when git goes into a submodule: settings that somebody gives (`GIT_CONFIG_COUNT`).
const LOCAL: [&str; 15] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CONFIG",
    "GIT_OBJECT_DIRECTORY",
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_REPLACE_REF_BASE",
    "GIT_PREFIX",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_COMMON_DIR",
    "GIT_QUARANTINE_PATH",
];

/// Why git did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum GitError {
    #[error("there is no program `git` in PATH")]
    Missing,
    #[error("git did not end within {0:?}")]
    Slow(Duration),
    #[error("{0}")]
    Failed(String),
}

/// Runs git in a directory, and gives what it wrote.
pub(super) async fn git<A: AsRef<OsStr>>(
    directory: &Path,
    arguments: impl IntoIterator<Item = A>,
    environment: &[(String, String)],
    patience: Duration,
) -> Result<String, GitError> {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(arguments);
    command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_OPTIONAL_LOCKS", "0").env("LC_ALL", "C");
    // Nor may ssh ask whoever has started the controller.
    if std::env::var_os("SSH_ASKPASS").is_none() {
        command.env("SSH_ASKPASS", "false").env("SSH_ASKPASS_REQUIRE", "force");
    }
    // A controller that is run by a hook of git must not work on that repository.
    for name in LOCAL {
        command.env_remove(name);
    }
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let wrong = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => GitError::Missing,
        _ => GitError::Failed(format!("git cannot be run: {error}")),
    };
    let child = command.process_group(0).kill_on_drop(true).spawn().map_err(wrong)?;
    let mut helpers = Helpers(child.id());
    let output = tokio::time::timeout(patience, child.wait_with_output()).await;
    let output = output.map_err(|_| GitError::Slow(patience))?.map_err(wrong)?;
    helpers.0 = None;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let said: String = redacted(&lines.join("; ")).chars().take(SAID).collect();
    Err(GitError::Failed(if said.is_empty() { format!("git ended with {}", output.status) } else { said }))
}

/// What git has started, in the group of the process that it is: `ssh` may wait for its host for ever. It goes with git.
struct Helpers(Option<u32>);

impl Drop for Helpers {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(Pid::from_raw(group.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// A text without the credentials that addresses in it may carry.
pub(super) fn redacted(text: &str) -> String {
    let mut clean = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after
            .find(|c: char| c == '/' || c == '\'' || c == '"' || c.is_whitespace())
            .unwrap_or(after.len());
        let (authority, after) = after.split_at(end);
        clean.push_str(authority.rsplit_once('@').map_or(authority, |(_, host)| host));
        rest = after;
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn credentials_are_left_out() {
        let said = "fatal: unable to access 'https://user:p@ss@host:80/a.git/': no; see http://t0ken@other";
        assert_eq!(redacted(said), "fatal: unable to access 'https://host:80/a.git/': no; see http://other");
        assert_eq!(redacted("git@host:a.git"), "git@host:a.git");
    }
}
