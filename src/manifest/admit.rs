//! What of a manifest depends on the machine it is read on: paths, the requirements file, the working
//! directory.
//!
//! What comes through the API has no directory it was read from. For it no file is looked at, let alone read: whoever
//! sends it need not be one who may see the controller's files.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path as FilePath, PathBuf};

use serde_json::Value;

use super::finding::Finding;
use super::package::{self, PackError};
use super::path::Path;
use super::suggest;
use super::words::quoted;
use crate::api::bucket::BucketAddress;
use crate::api::cluster::{Provider, RayClusterSpec};
use crate::api::job::{AdaptDLJobSpec, ValueSource};
use crate::api::object::AnyObject;
use crate::api::units::Bytes;

/// A longer requirements file is none.
const MAX_REQUIREMENTS: Bytes = Bytes(1 << 20);

/// Makes an object independent of where it was read: paths become absolute, and a requirements file becomes
/// the list of its lines. What is found on the way is returned, and with it the directory that is to be
/// packed.
pub(super) fn resolve(object: &mut AnyObject, base: Option<&FilePath>) -> (Option<PathBuf>, Vec<Finding>) {
    let mut resolver = Resolver { base, findings: Vec::new() };
    let directory = match object {
        AnyObject::Job(job) => resolver.job(&mut job.spec),
        AnyObject::Cluster(cluster) => {
            resolver.cluster(&mut cluster.spec);
            None
        }
    };
    (directory, resolver.findings)
}

/// Packs a job's working directory, and writes the package's digest into its spec.
pub(super) fn pack(
    object: &mut AnyObject,
    directory: &FilePath,
    packages: &FilePath,
) -> Result<(), Vec<Finding>> {
    if let AnyObject::Job(job) = object {
        let package = package::pack(directory, packages).map_err(|error| vec![unpackable(&error)])?;
        job.spec.working_dir_digest = Some(package.digest);
    }
    Ok(())
}

struct Resolver<'a> {
    base: Option<&'a FilePath>,
    findings: Vec<Finding>,
}

impl Resolver<'_> {
    fn job(&mut self, spec: &mut AdaptDLJobSpec) -> Option<PathBuf> {
        let at = Path::of("spec");
        let directory = self.working_dir(spec, &at);
        for (index, variable) in spec.env.iter_mut().enumerate() {
            if let Some(source) = &mut variable.value_from {
                self.value_source(source, &at.key("env").item(index).key("valueFrom"));
            }
        }
        for (text, path) in [
            (&mut spec.checkpoint.storage.path, at.field("checkpoint.storage.path")),
            (&mut spec.artifacts.destination, at.field("artifacts.destination")),
        ] {
            let Some(text) = text.as_mut().filter(|text| !BucketAddress::is_meant(text)) else { continue };
            self.absolute(text, path.clone());
            if self.base.is_some() && FilePath::new(text).exists() && !FilePath::new(text).is_dir() {
                self.findings.push(Finding::new(path, format!("must be a directory, and {text} is none")));
            }
        }
        directory
    }

    /// The working directory that is to be packed, if one is: a digest says that it was.
    fn working_dir(&mut self, spec: &mut AdaptDLJobSpec, at: &Path) -> Option<PathBuf> {
        if spec.working_dir_digest.is_some() {
            return None;
        }
        let path = at.key("workingDir");
        let mut text = spec.working_dir.clone()?;
        if self.base.is_none() {
            let finding =
                Finding::new(path, "needs `workingDirDigest`: through the API no directory is packed");
            self.findings.push(finding.help("`rayconcile apply` packs it, and brings the package"));
            return None;
        }
        if !self.absolute(&mut text, path.clone()) {
            return None;
        }
        let directory = PathBuf::from(text);
        if !directory.is_dir() {
            let message = match directory.exists() {
                true => format!("must be a directory, and {} is none", directory.display()),
                false => format!("there is no directory {}", directory.display()),
            };
            self.findings.push(Finding::new(path, message));
            return None;
        }
        match package::list(&directory) {
            Ok(entries) => {
                let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
                let script = spec.entrypoint.as_deref();
                let finding =
                    script.and_then(|script| entrypoint(script, &directory, &names, at.key("entrypoint")));
                self.findings.extend(finding);
            }
            Err(error) => self.findings.push(unpackable(&error)),
        }
        if let Some(pip) = spec.runtime_env.get_mut("pip") {
            self.requirements(pip, &directory, at.field("runtimeEnv.pip"));
        }
        Some(directory)
    }

    /// Puts the lines of a requirements file in place of its name.
    fn requirements(&mut self, pip: &mut Value, directory: &FilePath, path: Path) {
        let Value::String(name) = pip else { return };
        let problem = |message: String| Finding::new(path.clone(), message);
        let text = match requirements(directory, name) {
            Ok(text) => text,
            Err(message) => {
                let finding = problem(message);
                return self.findings.push(finding.help("it is looked for in workingDir"));
            }
        };
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let includes = |line: &&str| {
            ["-r", "-c", "--requirement", "--constraint"].iter().any(|option| line.starts_with(option))
        };
        match lines().find(includes) {
            Some(line) => {
                let message =
                    format!("{} has the line {}", directory.join(name.as_str()).display(), quoted(line));
                self.findings
                    .push(problem(message).help("other files are not read; list all packages in one"));
            }
            None => *pip = lines().map(Value::from).collect(),
        }
    }

    fn cluster(&mut self, spec: &mut RayClusterSpec) {
        spec.fill_defaults();
        if let Some(source) = &mut spec.auth.token_from {
            self.value_source(source, &Path::of("spec.auth.tokenFrom"));
        }
        let Provider::Local(local) = &mut spec.provider else { return };
        // A bare name is for the controller to find.
        if let Some(python) = local.python.as_mut().filter(|python| python.contains('/')) {
            let path = Path::of("spec.provider.local.python");
            if self.absolute(python, path.clone())
                && self.base.is_some()
                && !FilePath::new(python.as_str()).is_file()
            {
                self.findings.push(Finding::new(path, format!("there is no file {python}")));
            }
        }
    }

    fn value_source(&mut self, source: &mut ValueSource, at: &Path) {
        if let Some(file) = &mut source.file {
            self.absolute(file, at.key("file"));
        }
    }

    /// Makes a path absolute, and says whether it is.
    fn absolute(&mut self, text: &mut String, path: Path) -> bool {
        let file = FilePath::new(text.as_str());
        let file = match self.base {
            Some(base) => base.join(file),
            None if file.is_absolute() => file.to_owned(),
            None => {
                let message = format!("must be an absolute path, found {}", quoted(text));
                let finding = Finding::new(path, message);
                self.findings.push(finding.help("what comes through the API stands in no directory"));
                return false;
            }
        };
        let absolute =
            std::path::absolute(&file).ok().and_then(|file| file.into_os_string().into_string().ok());
        match absolute {
            Some(absolute) => {
                *text = absolute;
                true
            }
            None => {
                let message = format!("leads to a path that is not UTF-8: {}", file.display());
                self.findings.push(Finding::new(path, message));
                false
            }
        }
    }
}

/// The text of a requirements file, which must be in the working directory.
fn requirements(directory: &FilePath, name: &str) -> Result<String, String> {
    let file = directory.join(name);
    let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", file.display());
    let (root, real) =
        (fs::canonicalize(directory).map_err(unreadable)?, fs::canonicalize(&file).map_err(unreadable)?);
    if !real.starts_with(root) {
        return Err(format!("must be in workingDir, and {} is not", real.display()));
    }
    // Of others the size says nothing, and some never end.
    if !fs::metadata(&real).map_err(unreadable)?.is_file() {
        return Err(format!("must be a file, and {} is none", file.display()));
    }
    let mut text = String::new();
    let read =
        File::open(&real).and_then(|opened| opened.take(MAX_REQUIREMENTS.0 + 1).read_to_string(&mut text));
    read.map_err(unreadable)?;
    match text.len() as u64 > MAX_REQUIREMENTS.0 {
        true => Err(format!(
            "{} is larger than {}, and no requirements file is",
            file.display(),
            MAX_REQUIREMENTS.rounded()
        )),
        false => Ok(text),
    }
}

/// Why a script is not in the package.
fn entrypoint(script: &str, directory: &FilePath, names: &[&str], path: Path) -> Option<Finding> {
    let plain: PathBuf = FilePath::new(script).components().filter(|part| part.as_os_str() != ".").collect();
    if names.iter().any(|name| FilePath::new(name) == plain) {
        return None;
    }
    let file = directory.join(script);
    if file.is_dir() {
        return Some(Finding::new(path, format!("must be a file, and {} is a directory", file.display())));
    }
    if file.exists() {
        let finding = Finding::new(path, format!("{} is not packed", file.display()));
        return Some(
            finding.help("a .gitignore or .rayignore leaves it out; an entry with ! brings it back"),
        );
    }
    let meant = suggest::closest(script, names.iter().copied());
    let finding = Finding::new(path, format!("there is no file {}", file.display()));
    Some(finding.help_if(meant.map(|meant| format!("did you mean {meant}?"))))
}

fn unpackable(error: &PackError) -> Finding {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Finding::new(Path::of("spec.workingDir"), format!("{error}{cause}")).help_if(error.help())
}
