//! The tokens of clusters: Ray's own and our agent's, in files that only this user may read.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::action::EffectError;
use crate::api::cluster::{AuthMode, Provider, RayClusterSpec};
use crate::api::job::ValueSource;
use crate::api::meta::ObjectKey;
use crate::provider::{Directories, io, rejected};

/// Linux gives no program a longer variable.
const MAX_VALUE: u64 = 128 << 10;

/// The file with a cluster's Ray token.
pub fn ray_token_path(directories: &Directories, cluster: &ObjectKey) -> PathBuf {
    directories.cluster(cluster).join("ray-token")
}

/// The token of a Ray cluster that we start, made when it is first asked for.
pub(crate) fn ray_token(directories: &Directories, cluster: &ObjectKey) -> Result<String, EffectError> {
    keep(&ray_token_path(directories, cluster))
}

/// Keeps the token of a Ray cluster that was started by another controller.
#[cfg(feature = "ec2")]
pub(crate) fn take_ray_token(
    directories: &Directories,
    cluster: &ObjectKey,
    token: &str,
) -> Result<(), EffectError> {
    write(&ray_token_path(directories, cluster), token)
}

/// The token of a cluster's agent, made when it is first asked for.
pub(crate) fn agent_token(directories: &Directories, cluster: &ObjectKey) -> Result<String, EffectError> {
    keep(&directories.cluster(cluster).join("agent-token"))
}

/// What the agent is told of its token: enough to recognise it, not enough to use it.
pub(crate) fn fingerprint(token: &str) -> String {
    Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The token that Ray's dashboard of a cluster asks for, if it asks for one.
pub(crate) fn for_cluster(
    directories: &Directories,
    cluster: &ObjectKey,
    spec: &RayClusterSpec,
) -> Result<Option<String>, EffectError> {
    match (&spec.auth.mode, &spec.provider) {
        (AuthMode::None, _) => Ok(None),
        (AuthMode::Token, Provider::Local(_) | Provider::Aws(_)) => ray_token(directories, cluster).map(Some),
        (AuthMode::Token, Provider::Existing(_)) => match &spec.auth.token_from {
            Some(source) => look_up(source, Some(directories)).map(Some),
            None => Err(rejected(
                "the cluster's token is not given: name it in spec.auth.tokenFrom, or set spec.auth.mode: none",
            )),
        },
    }
}

/// A value that a manifest names: an environment variable's, or a file's without the line break at its end. Not one of
/// the state directory's own: who may write manifests would have the administrator's token by it.
pub(crate) fn look_up(
    source: &ValueSource,
    directories: Option<&Directories>,
) -> Result<String, EffectError> {
    match (&source.env, &source.file) {
        (Some(name), _) => std::env::var(name)
            .map_err(|_| rejected(format!("the controller has no environment variable {name}"))),
        (None, Some(path)) => {
            let text = read(Path::new(path), directories)?;
            if text.contains('\0') {
                return Err(rejected(format!("{path} holds a NUL byte, which no environment variable can")));
            }
            Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
        }
        (None, None) => Err(rejected("a value is wanted from nowhere")),
    }
}

/// Reads a file that holds a value.
fn read(path: &Path, directories: Option<&Directories>) -> Result<String, EffectError> {
    let failed = |error: std::io::Error| rejected(format!("cannot read {}: {error}", path.display()));
    let real = fs::canonicalize(path).map_err(failed)?;
    let state = directories.and_then(|directories| fs::canonicalize(&directories.state).ok());
    if state.is_some_and(|state| real.starts_with(state)) {
        let message = format!("{} is in the state directory, from which no values are taken", path.display());
        return Err(rejected(message));
    }
    // Others may never end, or never begin.
    if !fs::metadata(&real).map_err(failed)?.is_file() {
        return Err(rejected(format!("{} is no file", path.display())));
    }
    let mut text = String::new();
    File::open(&real).and_then(|file| file.take(MAX_VALUE + 1).read_to_string(&mut text)).map_err(failed)?;
    match text.len() as u64 > MAX_VALUE {
        true => Err(rejected(format!("{} is longer than {MAX_VALUE} bytes", path.display()))),
        false => Ok(text),
    }
}

/// Two UUIDs: 244 random bits, in the 64 hexadecimal characters that Ray takes for a good token.
fn keep(path: &Path) -> Result<String, EffectError> {
    if let Ok(token) = fs::read_to_string(path) {
        return Ok(token);
    }
    let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    write(path, &token)?;
    Ok(token)
}

fn write(path: &Path, token: &str) -> Result<(), EffectError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| io("make", directory, &error))?;
    let temporary = path.with_extension("new");
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(|error| io("open", &temporary, &error))?;
    file.write_all(token.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| io("write", &temporary, &error))?;
    fs::rename(&temporary, path).map_err(|error| io("write", path, &error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn values_are_of_files_that_end_and_of_none_of_our_own() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let directories = Directories { state: directory.path().join("state") };
        fs::create_dir_all(directory.path().join("state/clusters")).unwrap();
        fs::write(at("state/api-token"), "secret").unwrap();
        fs::write(at("key"), "value\n").unwrap();
        fs::write(at("long"), "x".repeat(200_000)).unwrap();
        symlink(at("state/api-token"), at("link")).unwrap();
        nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let of = |file: String| look_up(&ValueSource { env: None, file: Some(file) }, Some(&directories));
        assert_eq!(of(at("key")).unwrap(), "value");
        for (file, why) in [
            (at("state/api-token"), "is in the state directory"),
            (at("state/clusters/../api-token"), "is in the state directory"),
            (at("link"), "is in the state directory"),
            (at("long"), "is longer than"),
            (at("pipe"), "is no file"),
            ("/dev/zero".to_owned(), "is no file"),
            (at("nothing"), "cannot read"),
        ] {
            assert!(of(file.clone()).unwrap_err().message.contains(why), "{file}");
        }
    }
}
