//! From YAML text to admitted objects: everything between what a person writes and what the store is given.
//!
//! ```text
//! collect ──> Source ──read──> Manifest ──admit──> AnyObject
//!                └──> Problem <──┴───────────┘
//! ```
//!
//! Reading knows the text alone, and finds all problems of all documents at once, each with its place.
//! Admitting is what depends on the machine: relative paths, the requirements file, and the working
//! directory, which is packed. Watching a directory lives in `gitops`.
//!
//! Architecture invariant: only here is YAML read. Everything else has JSON and types.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::api::ids::Digest;
use crate::api::meta::ObjectKey;
use crate::api::object::{AnyObject, Kind};
use finding::Finding;
use place::Origin;
use yaml::Document;

mod admit;
mod aws;
mod brackets;
mod cluster;
mod count;
mod finding;
mod foreign;
mod job;
mod names;
mod object;
mod old;
mod package;
mod path;
mod place;
mod problem;
mod rules;
mod schema;
mod shape;
mod source;
mod suggest;
mod syntax;
mod words;
mod yaml;

pub(crate) use count::Room;
pub(crate) use object::{MAX_DEPTH, depth};

pub use foreign::{Foreign, Ours, Part};
pub use names::{name_of_script, suffix};
pub use package::{PackError, Package, Survey, keep_package, pack, survey};
pub use path::Path;
pub use problem::{Look, Position, Problem};
pub use schema::{schemas, status_schema};
pub(crate) use source::DEEPEST;
pub use source::{Source, collect, is_manifest, load};
pub use suggest::closest;
pub use yaml::to_yaml;

/// More problems than this of one source are only counted: they have one cause, or the source is no manifest.
const MAX_PROBLEMS: usize = 100;

/// An object as a manifest describes it: right in itself, but not yet independent of where it was read.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The object, with its defaults. What only the store can give it, it does not have.
    pub object: AnyObject,
    origin: Origin,
    /// What it says that has no meaning here.
    warnings: Vec<Finding>,
    /// Whether its name was made up when it was read.
    nameless: bool,
}

/// What came of reading sources.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The objects that can be read, in the order of the sources.
    pub manifests: Vec<Manifest>,
    /// What is wrong with the others.
    pub problems: Vec<Problem>,
    /// Whether any document may be meant as a manifest: it has an `apiVersion` or a `kind`, or cannot be read.
    pub may_be_manifests: bool,
}

/// Reads sources. An object that names no namespace is in `namespace`; of two objects with one kind,
/// namespace and name, the second is a problem.
pub fn read(sources: Vec<Source>, namespace: &str) -> Loaded {
    let mut loaded = Loaded::default();
    let mut seen = BTreeMap::new();
    for source in sources {
        let source = Arc::new(source);
        let (documents, mut problems) = yaml::parse(&source);
        loaded.may_be_manifests |= !problems.is_empty();
        if documents.is_empty() && problems.is_empty() && source.named {
            problems.push(Problem::of_file(source.name.clone(), "holds no object"));
        }
        let mut left_out = 0;
        for Document { value, origin } in documents.into_iter().flat_map(objects) {
            let is_object = |value: &Value| value.get("apiVersion").or(value.get("kind")).is_some();
            loaded.may_be_manifests |= value.as_ref().map_or(true, is_object);
            let about = value.as_ref().ok().and_then(|value| object::named(value, namespace));
            let read = value.and_then(|value| understand(value, namespace));
            let read = read.and_then(|(object, warnings, nameless)| {
                Ok((first(object, &origin, &mut seen)?, warnings, nameless))
            });
            match read {
                Ok((object, warnings, nameless)) => {
                    loaded.manifests.push(Manifest { object, origin, warnings, nameless });
                }
                Err(findings) => {
                    let room = MAX_PROBLEMS.saturating_sub(problems.len());
                    left_out += findings.len().saturating_sub(room);
                    let found = origin.problems(findings, room).into_iter();
                    problems.extend(found.map(|problem| problem.about(about.clone())));
                }
            }
        }
        problems.sort_by_key(|problem| problem.position);
        if left_out > 0 {
            problems.push(Problem::of_file(source.name.clone(), format!("has {left_out} problems more")));
        }
        loaded.problems.append(&mut problems);
    }
    loaded
}

/// Reads an object in our words, or in those of AdaptDL's own operator; with what it says that has no meaning here, and
/// whether its name was made up.
fn understand(value: Value, namespace: &str) -> Result<(AnyObject, Vec<Finding>, bool), Vec<Finding>> {
    if !old::is_old(&value) {
        return Ok((object::read(value, namespace)?, Vec::new(), false));
    }
    let mut translated = old::translate(&value)?;
    let mut value = translated.value.take();
    if let Some(prefix) = &translated.prefix {
        value["metadata"]["name"] = format!("{prefix}{}", names::suffix()).into();
    }
    let object = object::read(value, namespace).map_err(|findings| translated.of_old(findings))?;
    translated.warnings.append(&mut translated.remarks);
    Ok((object, translated.warnings, translated.prefix.is_some()))
}

/// An object, if none of its kind, namespace and name was seen before.
fn first(
    object: AnyObject,
    origin: &Origin,
    seen: &mut BTreeMap<(Kind, ObjectKey), String>,
) -> Result<AnyObject, Vec<Finding>> {
    let (kind, key) = (object.kind(), object.key());
    match seen.entry((kind, key.clone())) {
        Entry::Vacant(entry) => {
            entry.insert(origin.to_string());
            Ok(object)
        }
        Entry::Occupied(entry) => {
            let message = format!("the {kind} {key} is here twice; first in {}", entry.get());
            Err(vec![Finding::new(Path::of("metadata.name"), message)])
        }
    }
}

/// Reads a text that must be one document, whatever it is about.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_value(text: &str) -> Result<Value, Vec<Problem>> {
    let source = Arc::new(Source::new("", text, None));
    let (mut documents, problems) = yaml::parse(&source);
    match documents.pop() {
        Some(Document { value: Ok(value), .. }) if documents.is_empty() && problems.is_empty() => Ok(value),
        Some(Document { value: Err(findings), origin }) if problems.is_empty() => {
            Err(origin.problems(findings, MAX_PROBLEMS))
        }
        _ if problems.is_empty() => Err(vec![Problem::of_file("", "must be one document")]),
        _ => Err(problems),
    }
}

/// Reads an object that came as JSON. Relative paths in it start from `base`; without one they are refused
/// when it is admitted.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_json(value: Value, namespace: &str, base: Option<PathBuf>) -> Result<Manifest, Vec<Problem>> {
    let origin = Origin { source: Arc::new(Source::new("", "", base)), places: None };
    match object::read(value, namespace) {
        Ok(object) => Ok(Manifest { object, origin, warnings: Vec::new(), nameless: false }),
        Err(findings) => Err(origin.problems(findings, MAX_PROBLEMS)),
    }
}

impl Manifest {
    /// The source that it was read from.
    pub fn source(&self) -> &Source {
        &self.origin.source
    }

    /// The line of the source that it begins on, if it was read from a text.
    pub fn line(&self) -> Option<usize> {
        self.origin.places.as_ref().map(|places| places.line(&self.origin.source))
    }

    /// The directory that is packed when it is admitted, if one is.
    pub fn packed_directory(&self) -> Option<PathBuf> {
        let AnyObject::Job(job) = &self.object else { return None };
        let directory = job.spec.working_dir.as_ref().filter(|_| job.spec.working_dir_digest.is_none())?;
        Some(self.origin.base()?.join(directory))
    }

    /// What it says that has no meaning here.
    pub fn warnings(&self) -> Vec<Problem> {
        self.origin.problems(self.warnings.clone(), MAX_PROBLEMS)
    }

    /// What is wrong with the files that it names, as far as can be seen without packing them.
    pub fn validate(&self) -> Vec<Problem> {
        let (_, findings) = admit::resolve(&mut self.object.clone(), self.origin.base());
        self.origin.problems(findings, MAX_PROBLEMS)
    }

    /// The object as it is to be stored: its paths are absolute, and its working directory is packed into the
    /// directory `packages`. If it gives a digest, that is the package's, and nothing is packed; whether
    /// there is such a package, only its controller knows.
    ///
    /// # Errors
    /// Everything that is wrong with the files that it names.
    pub fn admit(&self, packages: &FilePath) -> Result<AnyObject, Vec<Problem>> {
        let mut object = self.object.clone();
        let (directory, mut findings) = admit::resolve(&mut object, self.origin.base());
        if let Some(directory) = directory.filter(|_| findings.is_empty()) {
            findings = admit::pack(&mut object, &directory, packages).err().unwrap_or_default();
        }
        if findings.is_empty() { Ok(object) } else { Err(self.origin.problems(findings, MAX_PROBLEMS)) }
    }

    /// As `admit`, for the controller, whose packages these are: one that the manifest names must be there.
    ///
    /// # Errors
    /// Everything that is wrong with the files that it names, or the package.
    pub fn accept(&self, packages: &FilePath) -> Result<AnyObject, Vec<Problem>> {
        if self.nameless {
            let help = "write metadata.name: what is read again and again needs a name that stays";
            let finding = Finding::new(Path::of("metadata.generateName"), "must not be here").at_key();
            return Err(self.origin.problems(vec![finding.help(help)], MAX_PROBLEMS));
        }
        let object = self.admit(packages)?;
        let Some(digest) = missing_package(&object, packages) else { return Ok(object) };
        let finding =
            Finding::new(Path::of("spec.workingDirDigest"), format!("there is no package {digest}"));
        let help = "leave it out to have workingDir packed, or bring the package to the controller first";
        Err(self.origin.problems(vec![finding.help(help)], MAX_PROBLEMS))
    }
}

/// The package that a job names, if it is not there. If it is, it is kept for a while from now on.
pub fn missing_package<'a>(object: &'a AnyObject, packages: &FilePath) -> Option<&'a Digest> {
    let AnyObject::Job(job) = object else { return None };
    job.spec.working_dir_digest.as_ref().filter(|digest| !keep_package(packages, digest))
}

/// The objects of a document: of a list, as `get -o yaml` writes it, its items.
fn objects(document: Document) -> Vec<Document> {
    let is_list = |value: &Value| {
        value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && value["items"].is_array()
    };
    let Document { value: Ok(mut value), origin } = document else { return vec![document] };
    if !is_list(&value) {
        return vec![Document { value: Ok(value), origin }];
    }
    let Value::Array(items) = value["items"].take() else { return Vec::new() };
    let items = items.into_iter().enumerate();
    items.map(|(index, value)| Document { value: Ok(value), origin: origin.item("items", index) }).collect()
}
