//! Where objects come from: which watched source keeps which of them, and what is remembered of each source.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};
use serde_json::Value;

use super::objects::Applied;
use super::{StoreError, Tx};
use crate::api::ids::Uid;
use crate::api::meta::{ObjectKey, PRUNE, SOURCE, SOURCE_DIGEST, SOURCE_ERROR, SOURCE_FILE};
use crate::api::object::{AnyObject, Kind};

/// The annotations that say where an object comes from. Only its source writes them.
const ORIGIN: [&str; 4] = [SOURCE, SOURCE_FILE, SOURCE_ERROR, SOURCE_DIGEST];

/// Where a stored object comes from, and what its source must know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The source that keeps it, if one does.
    pub source: Option<String>,
    /// The file of that source.
    pub file: String,
    /// What that file said, in short.
    pub digest: String,
    /// What is wrong with that file now.
    pub error: Option<String>,
    /// Whether it stays when its file has gone.
    pub stays: bool,
    /// Whether it was asked to go.
    pub deleting: bool,
    /// The cluster that it refers to.
    pub cluster: Option<ObjectKey>,
}

impl Tx<'_> {
    /// Where each object comes from.
    ///
    /// # Errors
    /// If the database fails.
    pub fn origins(&self) -> Result<BTreeMap<(Kind, ObjectKey), Origin>, StoreError> {
        let sql = "SELECT kind, namespace, name, cluster, metadata ->> '$.annotations',
                   metadata ->> '$.deletionTimestamp' FROM objects";
        let mut statement = self.sql.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let mut origins = BTreeMap::new();
        let malformed = |source| StoreError::Malformed { what: "object", source };
        while let Some(row) = rows.next()? {
            let kind: Kind = serde_json::from_value(Value::String(row.get(0)?)).map_err(malformed)?;
            let key = ObjectKey { namespace: row.get(1)?, name: row.get(2)? };
            let cluster: Option<String> = row.get(3)?;
            let annotations: Option<String> = row.get(4)?;
            let annotations = annotations.as_deref().unwrap_or("{}");
            let mut annotations: BTreeMap<String, String> =
                serde_json::from_str(annotations).map_err(malformed)?;
            let origin = Origin {
                source: annotations.remove(SOURCE),
                file: annotations.remove(SOURCE_FILE).unwrap_or_default(),
                digest: annotations.remove(SOURCE_DIGEST).unwrap_or_default(),
                error: annotations.remove(SOURCE_ERROR),
                stays: annotations.get(PRUNE).is_some_and(|prune| prune == "false"),
                deleting: row.get::<_, Option<String>>(5)?.is_some(),
                cluster: cluster
                    .as_deref()
                    .and_then(|key| key.split_once('/'))
                    .map(|(namespace, name)| ObjectKey::new(namespace, name)),
            };
            origins.insert((kind, key), origin);
        }
        Ok(origins)
    }

    /// As `apply`, for the source that keeps the object: it says itself where the object comes from.
    ///
    /// # Errors
    /// If the database fails.
    pub fn apply_from_source(
        &self,
        wanted: AnyObject,
        new_uid: Uid,
        now: Timestamp,
    ) -> Result<(Applied, AnyObject), StoreError> {
        self.apply_whole(wanted, None, new_uid, now)
    }

    /// Gives an object that is applied by hand the origin that the stored one has, and no other.
    pub(super) fn keep_origin(wanted: &mut AnyObject, stored: Option<&AnyObject>) {
        let annotations = &mut wanted.metadata_mut().annotations;
        for name in ORIGIN {
            match stored.and_then(|stored| stored.metadata().annotations.get(name)) {
                Some(value) => annotations.insert(name.to_owned(), value.clone()),
                None => annotations.remove(name),
            };
        }
    }

    /// Lets an object belong to nobody: its source does not keep it any more.
    ///
    /// # Errors
    /// If the database fails.
    pub fn disown(&self, kind: Kind, key: &ObjectKey) -> Result<(), StoreError> {
        let Some(mut object) = self.get(kind, key)? else { return Ok(()) };
        ORIGIN.iter().for_each(|name| drop(object.metadata_mut().annotations.remove(*name)));
        self.update(object).map(|_| ())
    }

    /// What is remembered of a source.
    ///
    /// # Errors
    /// If the database fails.
    pub fn source_memory(&self, source: &str) -> Result<Option<Value>, StoreError> {
        let sql = "SELECT value FROM settings WHERE name = ?1";
        let text: Option<String> = self
            .sql
            .prepare_cached(sql)?
            .query_row(params![memory_name(source)], |row| row.get(0))
            .optional()?;
        text.map(|text| {
            serde_json::from_str(&text)
                .map_err(|error| StoreError::Malformed { what: "memory of a source", source: error })
        })
        .transpose()
    }

    /// Remembers something of a source, instead of what was remembered before.
    ///
    /// # Errors
    /// If the database fails.
    pub fn put_source_memory(&self, source: &str, memory: &Value) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO settings (name, value) VALUES (?1, ?2)";
        self.sql.execute(sql, params![memory_name(source), memory.to_string()])?;
        Ok(())
    }
}

fn memory_name(source: &str) -> String {
    format!("source:{source}")
}
