//! From YAML text to admitted objects: everything between what a person writes and what the store is given.
//!
//! ```text
//! collect ──> Source ──read──> Manifest ──admit──> AnyObject
//!                └──> Problem <──┴───────────┘
//! ```
//!
//! Reading knows the text alone, and finds all problems of all documents at once, each with its place. Admitting
//! is what depends on the machine: relative paths, the requirements file, and the working directory, which is
//! packed. Watching a directory lives in `watch`.
//!
//! Architecture invariant: only here is YAML known. Everything else has JSON and types.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::api::object::AnyObject;
use place::{Inner, Origin};
use yaml::Document;

mod admit;
mod cluster;
mod finding;
mod job;
mod names;
mod object;
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
mod yaml;

pub use package::{PackError, Package, pack};
pub use problem::{Look, Position, Problem};
pub use schema::schemas;
pub use source::{Source, collect};
pub use yaml::to_yaml;

/// An object as a manifest describes it: right in itself, but not yet independent of where it was read.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The object, with its defaults. What only the store can give it, it does not have.
    pub object: AnyObject,
    origin: Origin,
}

/// What came of reading sources.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The objects that can be read, in the order of the sources.
    pub manifests: Vec<Manifest>,
    /// What is wrong with the others.
    pub problems: Vec<Problem>,
}

/// Reads sources. An object that names no namespace is in `namespace`; of two objects with one kind, namespace
/// and name, the second is a problem.
pub fn read(sources: Vec<Source>, namespace: &str) -> Loaded {
    let mut loaded = Loaded::default();
    for source in sources {
        let source = Arc::new(source);
        let (documents, mut problems) = yaml::parse(&source);
        if documents.is_empty() && problems.is_empty() && source.named {
            problems.push(Problem::of_file(source.name.clone(), "holds no object"));
        }
        for Document { value, origin } in documents.into_iter().flat_map(objects) {
            match object::read(value, namespace) {
                Ok(object) => loaded.manifests.push(Manifest { object, origin }),
                Err(findings) => problems.extend(origin.problems(findings)),
            }
        }
        problems.sort_by_key(|problem| problem.position);
        loaded.problems.append(&mut problems);
    }
    loaded.refuse_doubles();
    loaded
}

/// Reads an object that came as JSON. Relative paths in it start from `base`; without one they are refused when
/// it is admitted.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_json(value: Value, namespace: &str, base: Option<PathBuf>) -> Result<Manifest, Vec<Problem>> {
    let origin = Origin { source: Arc::new(Source::new("", "", base)), places: None };
    match object::read(value, namespace) {
        Ok(object) => Ok(Manifest { object, origin }),
        Err(findings) => Err(origin.problems(findings)),
    }
}

impl Manifest {
    /// The source that it was read from.
    pub fn source(&self) -> &Source {
        &self.origin.source
    }

    /// Where in the source it begins, if it was read from a text.
    pub fn position(&self) -> Option<Position> {
        let places = self.origin.places.as_ref()?;
        Some(Position::of(&self.origin.source.text, places.at.start))
    }

    /// What is wrong with the files that it names, as far as can be seen without packing them.
    pub fn validate(&self) -> Vec<Problem> {
        let (_, findings) = admit::resolve(&mut self.object.clone(), self.origin.base());
        self.origin.problems(findings)
    }

    /// The object as it is to be stored: its paths are absolute, and its working directory is packed into the
    /// directory `packages`.
    ///
    /// # Errors
    /// Everything that is wrong with the files that it names.
    pub fn admit(&self, packages: &FilePath) -> Result<AnyObject, Vec<Problem>> {
        let mut object = self.object.clone();
        let (directory, mut findings) = admit::resolve(&mut object, self.origin.base());
        if findings.is_empty() {
            findings.extend(admit::pack(&mut object, directory.as_deref(), packages).err());
        }
        if findings.is_empty() { Ok(object) } else { Err(self.origin.problems(findings)) }
    }
}

impl Loaded {
    /// Takes out objects that are there already, with a problem for each.
    fn refuse_doubles(&mut self) {
        let mut seen = BTreeMap::new();
        let mut problems = Vec::new();
        self.manifests.retain(|manifest| {
            let (kind, key) = (manifest.object.kind(), manifest.object.key());
            let file = &manifest.source().name;
            let place = manifest.position().map_or(file.clone(), |at| format!("{file}:{}", at.line));
            let Some(first) = seen.insert((kind, key.clone()), place) else { return true };
            let message = format!("the {kind} {key} is here for the second time; the first is at {first}");
            let finding = finding::Finding::new(path::Path::of("metadata.name"), message);
            problems.push(manifest.origin.problem(finding));
            seen.insert((kind, key), first);
            false
        });
        self.problems.append(&mut problems);
    }
}

/// The objects of a document: of a list, as `get -o yaml` writes it, its items.
fn objects(document: Document) -> Vec<Document> {
    let is_list = document.value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    let Document { value, origin } = document;
    let items = match value {
        Value::Object(mut fields) if is_list && fields.get("items").is_some_and(Value::is_array) => {
            fields.remove("items")
        }
        value => return vec![Document { value, origin }],
    };
    let place = |index: usize| {
        let items = origin.places.as_ref()?.field("items")?;
        match &items.inner {
            Inner::Items(items) => items.get(index).cloned(),
            _ => Some(items.clone()),
        }
    };
    let items = items.as_ref().and_then(Value::as_array).into_iter().flatten();
    items
        .enumerate()
        .map(|(index, value)| Document {
            value: value.clone(),
            origin: Origin { source: Arc::clone(&origin.source), places: place(index) },
        })
        .collect()
}
