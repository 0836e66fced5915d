//! Objects that have left while a source still had them: kept, so that their source does not take it for a mistake.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{StoreError, Tx};
use crate::api::meta::{ObjectKey, SOURCE_DIGEST};
use crate::api::object::{AnyObject, Kind};

/// What the names of these settings begin with.
const PREFIX: &str = "departed:";

/// How an object has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Departure {
    /// The source that it came from.
    pub source: String,
    /// What its file said then, in short.
    pub digest: String,
    /// Why it has left.
    pub cause: Cause,
}

/// Why an object has left though its source had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// Somebody has deleted it.
    Deleted,
    /// It had been finished for as long as its manifest has it kept.
    Finished,
}

impl Tx<'_> {
    /// How objects have left that were not made again since.
    ///
    /// # Errors
    /// If the database fails.
    pub fn departures(&self) -> Result<BTreeMap<(Kind, ObjectKey), Departure>, StoreError> {
        let sql = "SELECT name, value FROM settings WHERE name GLOB ?1 || '*'";
        let mut statement = self.sql.prepare_cached(sql)?;
        let mut rows = statement.query(params![PREFIX])?;
        let mut departures = BTreeMap::new();
        let malformed = |source| StoreError::Malformed { what: "departure of an object", source };
        while let Some(row) = rows.next()? {
            let (name, value): (String, String) = (row.get(0)?, row.get(1)?);
            let id = name.strip_prefix(PREFIX).unwrap_or_default();
            let id: (Kind, ObjectKey) = serde_json::from_str(id).map_err(malformed)?;
            departures.insert(id, serde_json::from_str(&value).map_err(malformed)?);
        }
        Ok(departures)
    }

    /// Asks a finished job to go: its source is not to have trained again what its file said when it ended, in short.
    ///
    /// # Errors
    /// If the database fails.
    pub fn let_go(
        &self,
        kind: Kind,
        key: &ObjectKey,
        said: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.delete_because(kind, key, Some((Cause::Finished, said)), now).map(|_| ())
    }

    /// Asks an object to go that its source does not have any more.
    ///
    /// # Errors
    /// If the database fails.
    pub fn prune(&self, kind: Kind, key: &ObjectKey, now: Timestamp) -> Result<(), StoreError> {
        self.delete_because(kind, key, None, now).map(|_| ())
    }

    /// Forgets that an object has left.
    ///
    /// # Errors
    /// If the database fails.
    pub fn forget_departure(&self, kind: Kind, key: &ObjectKey) -> Result<(), StoreError> {
        let sql = "DELETE FROM settings WHERE name = ?1";
        self.sql.prepare_cached(sql)?.execute(params![departure_name(kind, key)])?;
        Ok(())
    }

    /// Notes that an object leaves, and what its file said; that is in the object if nothing else is given.
    pub(super) fn note_departure(
        &self,
        object: &AnyObject,
        cause: Cause,
        said: Option<&str>,
    ) -> Result<(), StoreError> {
        let metadata = object.metadata();
        let Some(source) = metadata.source().map(str::to_owned) else { return Ok(()) };
        let said = said.or(metadata.annotations.get(SOURCE_DIGEST).map(String::as_str));
        let digest = said.unwrap_or_default().to_owned();
        let value = serde_json::json!(Departure { source, digest, cause }).to_string();
        let sql = "INSERT OR REPLACE INTO settings (name, value) VALUES (?1, ?2)";
        self.sql.execute(sql, params![departure_name(object.kind(), &object.key()), value])?;
        Ok(())
    }
}

fn departure_name(kind: Kind, key: &ObjectKey) -> String {
    format!("{PREFIX}{}", serde_json::json!((kind, key)))
}
