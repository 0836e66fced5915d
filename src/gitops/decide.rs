//! What is to be done for a source, decided from what it says and what is stored. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::cache::Declared;
use crate::api::meta::ObjectKey;
use crate::api::object::{AnyObject, Kind};
use crate::api::source::{PendingPrune, SourceError};
use crate::api::words::count;
use crate::store::{Cause, Departure, Origin};

/// So few objects may go at once whatever their share is.
const FEW: usize = 2;

/// An object's kind and name. Clusters come first, for jobs refer to them.
pub(super) type Id = (Kind, ObjectKey);

/// An object as its source wants it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) digest: String,
    pub(super) object: Arc<AnyObject>,
}

/// Whether the source itself is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// It is.
    #[default]
    There,
    /// It is not.
    Vanished,
    /// It is on another file system than when it last had objects.
    Elsewhere,
}

/// Everything that is known.
pub(super) struct Facts<'a> {
    pub(super) source: &'a str,
    /// All sources that there are.
    pub(super) sources: &'a BTreeSet<String>,
    pub(super) place: Place,
    /// Directories in it that were file systems of their own, and are none and empty.
    pub(super) unmounted: &'a BTreeSet<String>,
    pub(super) wanted: &'a BTreeMap<Id, Wanted>,
    /// Files, and directories, of which it is not known what they want.
    pub(super) unclear: &'a [SourceError],
    /// Objects of which that is known, with what is wrong with each.
    pub(super) unfit: &'a BTreeMap<Id, SourceError>,
    /// Those of the files in which nothing may be a manifest.
    pub(super) foreign: &'a BTreeSet<String>,
    /// What other sources want.
    pub(super) elsewhere: &'a BTreeSet<Id>,
    /// A source of which it is not known yet what it wants.
    pub(super) unseen: Option<&'a str>,
    pub(super) origins: &'a BTreeMap<Id, Origin>,
    /// What may be another in the store than it was; all, if this is none.
    pub(super) touched: Option<&'a BTreeSet<Id>>,
    /// What has left while a source had it.
    pub(super) departed: &'a BTreeMap<Id, Departure>,
    pub(super) self_heal: bool,
    /// Objects that have been missing for long enough to be believed.
    pub(super) believed: &'a BTreeSet<Id>,
    /// Objects that may go: somebody confirmed it, or they were few.
    pub(super) condemned: &'a BTreeSet<Id>,
    /// How many went unasked a short while ago.
    pub(super) recent: usize,
    /// Which share may go unasked.
    pub(super) max_prune: f64,
}

impl Facts<'_> {
    /// What is unclear and may have what is missing elsewhere. A directory of programs has other files too, that are
    /// nobody's manifests.
    fn may_have_others(&self) -> impl Iterator<Item = &SourceError> {
        self.unclear.iter().filter(|error| !self.foreign.contains(&error.file))
    }
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decision {
    /// To be made as they are wanted: they are new, or their files have changed.
    pub(super) apply: Vec<Id>,
    /// To be compared: somebody else may have changed them.
    pub(super) inspect: Vec<Id>,
    /// Kept as they are, for it is not known what their files want.
    pub(super) hold: Vec<(Id, String)>,
    /// Wanted, but not this source's to have.
    pub(super) refused: Vec<SourceError>,
    /// Wanted, and being deleted: it is made again when it has gone.
    pub(super) going: Vec<Id>,
    /// Wanted, deleted by hand, and not made again.
    pub(super) absent: Vec<Id>,
    /// Wanted, and not made again: they had been finished for as long as they are kept.
    pub(super) finished: Vec<Id>,
    /// They have left, and their source does not have them any more either.
    pub(super) forget: Vec<Id>,
    /// Another source's from now on.
    pub(super) release: Vec<Id>,
    /// May go from now on.
    pub(super) condemn: BTreeSet<Id>,
    /// To be deleted now.
    pub(super) delete: Vec<Id>,
    /// Not wanted any more, whether that is believed or not.
    pub(super) missing: BTreeSet<Id>,
    /// What somebody must confirm first.
    pub(super) blocked: Option<PendingPrune>,
}

/// Which file has an object that several have: the one that it was applied from stays in force.
pub(super) fn claims(
    files: &BTreeMap<String, Vec<Declared>>,
    origins: &BTreeMap<Id, Origin>,
    source: &str,
) -> (BTreeMap<Id, Wanted>, Vec<SourceError>) {
    let mut claims: BTreeMap<Id, Vec<(&String, &Declared)>> = BTreeMap::new();
    for (file, objects) in files {
        for declared in objects {
            let id = (declared.object.kind(), declared.object.key());
            claims.entry(id).or_default().push((file, declared));
        }
    }
    let mut errors = Vec::new();
    let mut wanted = BTreeMap::new();
    for (id, claims) in claims {
        let holder = origins.get(&id).filter(|origin| origin.source.as_deref() == Some(source));
        let holder = holder.and_then(|origin| claims.iter().position(|(file, _)| **file == origin.file));
        let (keeper, declared) = claims[holder.unwrap_or(0)];
        for (file, other) in claims.iter().filter(|(file, _)| *file != keeper) {
            let message = format!(
                "{file}:{}: the {} {} is here twice: {keeper}:{} has it too, and stays in force",
                other.line, id.0, id.1, declared.line
            );
            errors.push(SourceError { file: (*file).clone(), message });
        }
        let (file, line) = (keeper.clone(), declared.line);
        let (digest, object) = (declared.digest.clone(), declared.object.clone());
        wanted.insert(id, Wanted { file, line, digest, object });
    }
    (wanted, errors)
}

/// Decides.
pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    let mut decision = Decision::default();
    for (id, wanted) in facts.wanted {
        want(facts, id, wanted, &mut decision);
    }
    let ours = |origin: &Origin| origin.source.as_deref() == Some(facts.source);
    for (id, origin) in facts.origins.iter().filter(|(_, origin)| ours(origin)) {
        if facts.wanted.contains_key(id) {
            continue;
        }
        let unclear = |error: &&SourceError| Path::new(&origin.file).starts_with(&error.file);
        if let Some(error) = facts.unclear.iter().find(unclear) {
            let own = facts.unfit.get(id).filter(|own| own.file == origin.file);
            decision.hold.push((id.clone(), own.unwrap_or(error).message.clone()));
        } else if origin.deleting || origin.stays {
            continue;
        } else if facts.elsewhere.contains(id) && facts.believed.contains(id) {
            decision.release.push(id.clone());
        } else {
            decision.missing.insert(id.clone());
        }
    }
    prune(facts, &mut decision);
    forget(facts, &mut decision);
    decision
}

fn want(facts: &Facts<'_>, id: &Id, wanted: &Wanted, decision: &mut Decision) {
    // What has left stays away until something else is wanted.
    let departure = facts.departed.get(id).filter(|departure| departure.digest == wanted.digest);
    let away = departure.and_then(|departure| match departure.cause {
        Cause::Finished => Some(&mut decision.finished),
        Cause::Deleted => (!facts.self_heal).then_some(&mut decision.absent),
    });
    let Some(origin) = facts.origins.get(id) else {
        away.unwrap_or(&mut decision.apply).push(id.clone());
        return;
    };
    let other = origin.source.as_ref().filter(|other| *other != facts.source);
    if let Some(other) = other.filter(|other| facts.sources.contains(*other)) {
        let (file, line) = (&wanted.file, wanted.line);
        let message = format!(
            "{file}:{line}: {} {} already comes from {other} ({}), and stays in force as it is there",
            id.0, id.1, origin.file
        );
        decision.refused.push(SourceError { file: file.clone(), message });
    } else if origin.deleting {
        away.unwrap_or(&mut decision.going).push(id.clone());
    } else if origin.source.as_deref() != Some(facts.source)
        || origin.digest != wanted.digest
        || origin.file != wanted.file
        || origin.error.is_some()
    {
        decision.apply.push(id.clone());
    } else if facts.touched.is_none_or(|touched| touched.contains(id)) {
        decision.inspect.push(id.clone());
    }
}

/// What may go, and when: jobs before the clusters that they are on.
fn prune(facts: &Facts<'_>, decision: &mut Decision) {
    let gone: BTreeSet<&Id> = decision.missing.intersection(facts.believed).collect();
    let new: BTreeSet<&Id> = gone.iter().copied().filter(|id| !facts.condemned.contains(*id)).collect();
    if !new.is_empty() {
        match guard(facts, &new) {
            Some(reason) => decision.blocked = Some(pending(reason, &new, total(facts))),
            None => decision.condemn = new.into_iter().cloned().collect(),
        }
    }
    let may_go = |id: &&&Id| facts.condemned.contains(**id) || decision.condemn.contains(**id);
    let going: BTreeSet<&Id> = gone.iter().copied().filter(|id| may_go(&id)).collect();
    let has_jobs = |cluster: &ObjectKey| {
        let on_it = |(id, origin): (&Id, &Origin)| {
            origin.cluster.as_ref() == Some(cluster) && (origin.deleting || going.contains(id))
        };
        facts.origins.iter().any(on_it)
    };
    let now = going.iter().filter(|(kind, key)| *kind == Kind::AdaptDLJob || !has_jobs(key));
    decision.delete = now.map(|id| (*id).clone()).collect();
}

/// Of what has left it need not be known any more that it has, once its source does not have it either. In doubt it
/// is: a job would be trained again.
fn forget(facts: &Facts<'_>, decision: &mut Decision) {
    let doubtful =
        facts.place != Place::There || facts.wanted.is_empty() || facts.may_have_others().next().is_some();
    if doubtful || decision.blocked.is_some() {
        return;
    }
    let ours = |departure: &Departure| departure.source == facts.source;
    for (id, _) in facts.departed.iter().filter(|(_, departure)| ours(departure)) {
        // Nor has any other: what was moved there stays away too.
        if facts.wanted.contains_key(id) || facts.origins.contains_key(id) || facts.elsewhere.contains(id) {
            continue;
        }
        decision.missing.insert(id.clone());
        if facts.believed.contains(id) {
            decision.forget.push(id.clone());
        }
    }
}

/// How many objects the source has.
fn total(facts: &Facts<'_>) -> usize {
    let has = |origin: &&Origin| origin.source.as_deref() == Some(facts.source) && !origin.deleting;
    facts.origins.values().filter(has).count()
}

/// Why so many objects must not go without somebody saying so.
fn guard(facts: &Facts<'_>, new: &BTreeSet<&Id>) -> Option<String> {
    let empty = facts.wanted.is_empty() && facts.unclear.is_empty();
    let (gone, total) = (new.len() + facts.recent, total(facts) + facts.recent);
    match facts.place {
        Place::Vanished => return Some("it is not there any more".to_owned()),
        Place::Elsewhere if empty => {
            let reason = "it is empty, and on another file system than before: is it mounted?";
            return Some(reason.to_owned());
        }
        Place::Elsewhere | Place::There => {}
    }
    let had_some = |directory: &&String| {
        let mut origins = new.iter().filter_map(|id| facts.origins.get(*id));
        origins.any(|origin| Path::new(&origin.file).starts_with(directory))
    };
    if let Some(directory) = facts.unmounted.iter().find(had_some) {
        return Some(format!("{directory} is empty, and no file system of its own any more: is it mounted?"));
    }
    // What is missing may have been moved to where nobody could read it yet.
    if let Some(other) = facts.unseen {
        return Some(format!("{other} could not be looked at yet, and may have them"));
    }
    if let Some(first) = facts.may_have_others().next() {
        let files: BTreeSet<&str> = facts.may_have_others().map(|error| error.file.as_str()).collect();
        let (file, others) = (&first.file, files.len() - 1);
        return Some(match others {
            0 => format!("{file} cannot be read or is not right, and may have them"),
            _ => format!("{file} and {others} more cannot be read or are not right, and may have them"),
        });
    }
    if facts.max_prune >= 1.0 {
        return None;
    }
    if empty {
        return Some("it holds no object any more".to_owned());
    }
    let many = gone > FEW && gone as f64 > facts.max_prune * total as f64;
    many.then(|| {
        let limit = (facts.max_prune * 100.0).round();
        format!(
            "{gone} of its {} are gone at once, more than --max-prune {limit}%",
            count(total as u32, "object")
        )
    })
}

fn pending(reason: String, objects: &BTreeSet<&Id>, of: usize) -> PendingPrune {
    let objects: Vec<String> = objects.iter().map(|id| name(id)).collect();
    let digest = Sha256::digest(objects.join("\n"));
    let digest = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    PendingPrune { reason, objects, of: u32::try_from(of).unwrap_or(u32::MAX), digest }
}

/// An object as people see it.
pub(super) fn name((kind, key): &Id) -> String {
    format!("{}/{key}", kind.singular())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
