//! What a source's keeper remembers over restarts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::super::decide::Id;
use crate::store::{StoreError, Tx};

/// What is remembered of a source.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Memory {
    /// Whether nothing of it is applied.
    pub(super) paused: bool,
    /// The file system it was on when it last had objects.
    pub(super) device: Option<u64>,
    /// Directories in it that were file systems of their own when they last had objects.
    pub(super) mounts: BTreeSet<String>,
    /// Objects that may go.
    pub(super) condemned: BTreeSet<Id>,
    /// The files of which it was told what is wrong, with a digest of that.
    pub(super) told: BTreeMap<String, String>,
    /// Whether it is to be written down.
    #[serde(skip)]
    pub(super) changed: bool,
}

impl Memory {
    pub(super) fn load(tx: &Tx<'_>, source: &str) -> Result<Self, StoreError> {
        let memory = tx.source_memory(source)?.map(serde_json::from_value).transpose();
        let malformed = |source| StoreError::Malformed { what: "memory of a source", source };
        Ok(memory.map_err(malformed)?.unwrap_or_default())
    }

    pub(super) fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Notes which directories are file systems of their own, and gives those that were and are not: they are empty.
    pub(super) fn note_mounts(
        &mut self,
        mounts: &BTreeSet<String>,
        has_objects: impl Fn(&str) -> bool,
    ) -> BTreeSet<String> {
        let before = self.mounts.clone();
        self.mounts.retain(|directory| mounts.contains(directory) || !has_objects(directory));
        self.mounts.extend(mounts.iter().filter(|directory| has_objects(directory)).cloned());
        self.changed |= self.mounts != before;
        self.mounts.difference(mounts).cloned().collect()
    }

    /// Forgets that these directories were file systems of their own.
    pub(super) fn forget_mounts(&mut self, directories: &[String]) {
        let before = self.mounts.len();
        self.mounts.retain(|directory| !directories.contains(directory));
        self.changed |= self.mounts.len() != before;
    }

    /// Notes what is wrong, by file, and gives the files of which that is news. Others are well again, `or_unseen`.
    pub(super) fn note_errors(
        &mut self,
        errors: &BTreeMap<String, Vec<String>>,
        or_unseen: bool,
    ) -> BTreeSet<String> {
        let digest = |messages: &Vec<String>| {
            let digest = Sha256::digest(messages.join("\n"));
            digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let before = self.told.len();
        self.told.retain(|file, _| or_unseen || errors.contains_key(file));
        self.changed |= self.told.len() != before;
        let mut news = BTreeSet::new();
        for (file, messages) in errors {
            let digest = digest(messages);
            if self.told.get(file) != Some(&digest) {
                self.told.insert(file.clone(), digest);
                news.insert(file.clone());
            }
        }
        self.changed |= !news.is_empty();
        news
    }

    /// Lets objects go.
    pub(super) fn condemn(&mut self, ids: impl Iterator<Item = Id>) {
        let before = self.condemned.len();
        self.condemned.extend(ids);
        self.changed |= self.condemned.len() != before;
    }

    /// Forgets that other objects than these may go.
    pub(super) fn forget(&mut self, keep: impl Fn(&Id) -> bool) {
        let before = self.condemned.len();
        self.condemned.retain(|id| keep(id));
        self.changed |= self.condemned.len() != before;
    }
}
