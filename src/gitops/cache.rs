//! What files say, read once: a file is read again when it may be another, parsed when its text is, and its jobs'
//! programs are packed when a file of them may be another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::decide::Id;
use super::tree::{Found, Stamp, Tree};
use crate::api::ids::Digest;
use crate::api::meta::DEFAULT_NAMESPACE;
use crate::api::object::AnyObject;
use crate::api::source::SourceError;
use crate::manifest::{self, Problem, Survey};

/// A change may hide behind the same times for as long: file systems do not tell moments apart that are this close.
const COARSE: Duration = Duration::from_secs(2);

/// An object as a file has it.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    pub(super) object: Arc<AnyObject>,
    pub(super) line: usize,
    /// What tells it from another that its file could have.
    pub(super) digest: String,
}

/// What was read.
#[derive(Default)]
pub(super) struct Cache {
    files: BTreeMap<String, Entry>,
    programs: BTreeMap<PathBuf, Program>,
    /// Files that were changed, and are read if they still are like this at the next look.
    waiting: BTreeMap<String, Stamp>,
}

struct Entry {
    stamp: Stamp,
    /// Since when it has that stamp, and whether it was read again when that was long enough ago.
    since: Instant,
    settled: bool,
    text: [u8; 32],
    objects: Vec<Declared>,
    errors: Vec<SourceError>,
    unfit: BTreeMap<Id, SourceError>,
    /// The directories that were packed, and how they were then.
    programs: BTreeMap<PathBuf, Digest>,
    /// What is wrong may be mended without a change of the file.
    again: bool,
    /// Nothing in it may be a manifest.
    foreign: bool,
}

/// A directory that is packed.
struct Program {
    survey: Survey,
    at: Instant,
}

/// What is noticed of changes since the last look.
#[derive(Debug)]
pub(super) enum Changed {
    /// Anything may be another.
    Anything,
    /// Only what is in these places.
    In(BTreeSet<PathBuf>),
}

/// What a look found.
#[derive(Default)]
pub(super) struct Looked {
    /// What each file has.
    pub(super) files: BTreeMap<String, Vec<Declared>>,
    /// What is wrong, by file.
    pub(super) errors: Vec<SourceError>,
    /// The objects that cannot be made of what their files say, with the first thing that is wrong with each.
    pub(super) unfit: BTreeMap<Id, SourceError>,
    /// The files in which nothing may be a manifest.
    pub(super) foreign: BTreeSet<String>,
    /// The directories that are packed, with those in them.
    pub(super) programs: BTreeSet<PathBuf>,
    /// Whether any file was read.
    pub(super) read: bool,
    /// A file was being written meanwhile: it is as it was before, and is to be looked at again.
    pub(super) unsteady: bool,
}

impl Cache {
    /// Reads what has changed. Where nobody tells when a file is written, `cautious`, one that has changed is read
    /// when another look sees it the same.
    pub(super) fn read(&mut self, tree: &Tree, changed: &Changed, cautious: bool, packages: &Path) -> Looked {
        let mut looked = Looked { errors: tree.unreadable.clone(), ..Looked::default() };
        self.survey(changed);
        // A package is tidied away that no object has named for long: it is packed again.
        let is_whole = |declared: &Declared| manifest::missing_package(&declared.object, packages).is_none();
        self.files.retain(|_, entry| entry.objects.iter().all(is_whole));
        let mut used = BTreeSet::new();
        for (name, found) in &tree.files {
            if cautious && self.is_on_the_move(name, found) {
                looked.unsteady = true;
            } else if self.is_stale(name, found, changed) {
                looked.read = true;
                match self.load(name, found, packages) {
                    Ok(true) => {}
                    Ok(false) => looked.unsteady = true,
                    Err(error) => looked.errors.push(error),
                }
            }
            let Some(entry) = self.files.get(name) else { continue };
            looked.files.insert(name.clone(), entry.objects.clone());
            looked.errors.extend(entry.errors.iter().cloned());
            looked.unfit.extend(entry.unfit.clone());
            looked.foreign.extend(entry.foreign.then(|| name.clone()));
            used.extend(entry.programs.keys().cloned());
        }
        self.files.retain(|name, _| tree.files.contains_key(name));
        self.programs.retain(|directory, _| used.contains(directory));
        let directories =
            self.programs.values().flat_map(|program| program.survey.directories.iter().cloned());
        // One that is not there yet may come to be.
        let absent = used.iter().filter(|directory| !directory.exists());
        let above = absent.filter_map(|directory| directory.parent().map(Path::to_owned));
        looked.programs = directories.chain(above).collect();
        looked
    }

    /// Looks at the programs that may be others.
    fn survey(&mut self, changed: &Changed) {
        for (directory, program) in &mut self.programs {
            let touched = |path: &PathBuf| {
                path.starts_with(directory)
                    || program.survey.directories.iter().any(|inner| path.starts_with(inner))
            };
            let young = program.at.elapsed() < COARSE;
            match changed {
                Changed::In(places) if !places.iter().any(touched) => continue,
                Changed::In(_) | Changed::Anything => {}
            }
            let mut survey = manifest::survey(directory);
            // What is changed as it is packed may look the same: so it is packed again.
            if young && matches!(changed, Changed::In(_)) && survey.fingerprint == program.survey.fingerprint
            {
                survey.fingerprint = Digest::from(format!("{}+", survey.fingerprint));
            }
            *program = Program { survey, at: Instant::now() };
        }
    }

    /// Whether a file that was read before has changed since the last look.
    fn is_on_the_move(&mut self, name: &str, found: &Found) -> bool {
        if self.files.get(name).is_none_or(|entry| entry.stamp == found.stamp) {
            self.waiting.remove(name);
            return false;
        }
        self.waiting.insert(name.to_owned(), found.stamp) != Some(found.stamp)
    }

    fn is_stale(&self, name: &str, found: &Found, changed: &Changed) -> bool {
        let Some(entry) = self.files.get(name) else { return true };
        let others = |(directory, was): (&PathBuf, &Digest)| {
            self.programs.get(directory).is_none_or(|program| program.survey.fingerprint != *was)
        };
        let (told, touched) = match changed {
            Changed::Anything => (true, false),
            Changed::In(places) => (!places.is_empty(), places.contains(&found.path)),
        };
        let due = !entry.settled && (touched || entry.since.elapsed() >= COARSE);
        entry.stamp != found.stamp || due || (entry.again && told) || entry.programs.iter().any(others)
    }

    /// Reads a file, and says whether it held still meanwhile.
    fn load(&mut self, name: &str, found: &Found, packages: &Path) -> Result<bool, SourceError> {
        let now = Instant::now();
        let source = match manifest::load(name, &found.path) {
            Ok(source) => source,
            // It is looked at again: whatever it was before stays in force.
            Err(problem) => {
                self.files.remove(name);
                return Err(error(name, &problem));
            }
        };
        let stamp = match super::tree::stamp(&found.path) {
            Some(stamp) if stamp == found.stamp => stamp,
            _ => return Ok(false),
        };
        let text: [u8; 32] = Sha256::digest(source.text.as_bytes()).into();
        if let Some(entry) = self.files.get_mut(name)
            && entry.text == text
            && !entry.again
            && entry.programs.iter().all(|(directory, was)| {
                self.programs.get(directory).is_some_and(|program| program.survey.fingerprint == *was)
            })
        {
            let same = entry.stamp == stamp;
            entry.since = if same { entry.since } else { now };
            entry.settled = same && entry.since.elapsed() >= COARSE;
            entry.stamp = stamp;
            return Ok(true);
        }
        let mut entry = Entry {
            stamp,
            since: now,
            settled: false,
            text,
            objects: Vec::new(),
            errors: Vec::new(),
            unfit: BTreeMap::new(),
            programs: BTreeMap::new(),
            again: false,
            foreign: false,
        };
        let loaded = manifest::read(vec![source], DEFAULT_NAMESPACE);
        entry.foreign = !loaded.may_be_manifests;
        for problem in &loaded.problems {
            entry.add(problem.object.clone(), error(name, problem));
        }
        for manifest in loaded.manifests {
            if let Some(directory) = manifest.packed_directory() {
                let program = self
                    .programs
                    .entry(directory.clone())
                    .or_insert_with(|| Program { survey: manifest::survey(&directory), at: Instant::now() });
                entry.programs.insert(directory, program.survey.fingerprint.clone());
            }
            match manifest.accept(packages) {
                Ok(object) => entry.objects.push(declared(object, manifest.line().unwrap_or(1))),
                Err(problems) => {
                    let id = (manifest.object.kind(), manifest.object.key());
                    problems.iter().for_each(|problem| entry.add(Some(id.clone()), error(name, problem)));
                    entry.again = true;
                }
            }
        }
        self.files.insert(name.to_owned(), entry);
        Ok(true)
    }
}

impl Entry {
    fn add(&mut self, id: Option<Id>, error: SourceError) {
        if let Some(id) = id {
            self.unfit.entry(id).or_insert_with(|| error.clone());
        }
        self.errors.push(error);
    }
}

fn declared(object: AnyObject, line: usize) -> Declared {
    let metadata = object.metadata();
    let mut hash = Sha256::new();
    hash.update(object.spec().to_string());
    for map in [&metadata.labels, &metadata.annotations] {
        map.iter().for_each(|(name, value)| hash.update(format!("{name:?}{value:?}")));
        hash.update([0]);
    }
    let digest = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Declared { object: Arc::new(object), line, digest }
}

fn error(file: &str, problem: &Problem) -> SourceError {
    let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    SourceError { file: file.to_owned(), message: format!("{problem}{help}") }
}
