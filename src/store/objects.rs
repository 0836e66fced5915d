//! Objects: what is wanted, and the status that was derived.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, params};
use serde_json::Value;

use super::feed::{Change, ChangeType};
use super::{Cause, StoreError, Tx};
use crate::api::ids::Uid;
use crate::api::meta::{CHECKPOINT_NOW, DEFAULT_NAMESPACE, FINALIZER, ObjectKey, ObjectMeta};
use crate::api::object::{AnyObject, Kind};

/// The cluster of jobs that refer to none.
pub(super) const LOCAL_CLUSTER: &str = "local";

/// What became of an object that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is new.
    Created,
    /// It is another than before.
    Configured,
    /// It is as before.
    Unchanged,
}

impl Tx<'_> {
    /// The object of a kind and name.
    ///
    /// # Errors
    /// If the database fails.
    pub fn get(&self, kind: Kind, key: &ObjectKey) -> Result<Option<AnyObject>, StoreError> {
        let sql = "SELECT kind, metadata, spec, status FROM objects WHERE kind = ?1 AND namespace = ?2 AND name = ?3";
        self.one(sql, params![kind.name(), key.namespace, key.name])
    }

    /// The object of a uid.
    ///
    /// # Errors
    /// If the database fails.
    pub fn get_by_uid(&self, uid: &Uid) -> Result<Option<AnyObject>, StoreError> {
        self.one("SELECT kind, metadata, spec, status FROM objects WHERE uid = ?1", params![uid.0.as_str()])
    }

    /// All objects of a kind, by name. One that cannot be read is left out, and does not keep others from being seen.
    ///
    /// # Errors
    /// If the database fails.
    pub fn list(&self, kind: Kind) -> Result<Vec<AnyObject>, StoreError> {
        let sql = "SELECT kind, metadata, spec, status, namespace, name FROM objects WHERE kind = ?1
                   ORDER BY namespace, name";
        let read = self.many(sql, params![kind.name()])?.into_iter();
        Ok(read
            .filter_map(|(name, read)| {
                read.inspect_err(
                    |error| tracing::error!(kind = kind.name(), object = %name, %error, "left out of a list"),
                )
                .ok()
            })
            .collect())
    }

    /// The jobs that refer to a cluster or whose bridge may be on it, by age. All of them, or an error: to whoever plans
    /// a job that is left out is one that is gone.
    pub(super) fn jobs_of(&self, cluster: &ObjectKey) -> Result<Vec<AnyObject>, StoreError> {
        // By the indexes of both: an OR of them, or that of the kind, would look at all jobs there are.
        let sql = "SELECT kind, metadata, spec, status, namespace, name FROM objects
                   WHERE uid IN (SELECT uid FROM objects WHERE cluster = ?1
                                 UNION SELECT job FROM job_records WHERE bound = ?1)
                   AND +kind = 'AdaptDLJob' ORDER BY namespace, name";
        self.many(sql, params![cluster.to_string()])?.into_iter().map(|(_, read)| read).collect()
    }

    /// Makes an object what `wanted` says: its spec, labels and annotations; not where it comes from. With
    /// `expected`, only if its resource version is still that one.
    ///
    /// # Errors
    /// `Conflict` or `Vanished`, or if the database fails.
    pub fn apply(
        &self,
        mut wanted: AnyObject,
        expected: Option<u64>,
        new_uid: Uid,
        now: Timestamp,
    ) -> Result<(Applied, AnyObject), StoreError> {
        let stored = self.get(wanted.kind(), &wanted.key())?;
        Self::keep_origin(&mut wanted, stored.as_ref());
        self.apply_whole(wanted, expected, new_uid, now)
    }

    pub(super) fn apply_whole(
        &self,
        wanted: AnyObject,
        expected: Option<u64>,
        new_uid: Uid,
        now: Timestamp,
    ) -> Result<(Applied, AnyObject), StoreError> {
        let object = format!("{} {}", wanted.kind(), wanted.key());
        let Some(stored) = self.get(wanted.kind(), &wanted.key())? else {
            if expected.is_some() {
                return Err(StoreError::Vanished { object });
            }
            return Ok((Applied::Created, self.create(wanted, new_uid, now)?));
        };
        let old = stored.metadata();
        if let Some(expected) = expected.filter(|expected| *expected != old.resource_version) {
            return Err(StoreError::Conflict { object, found: old.resource_version, expected });
        }
        let changed = stored.spec() != wanted.spec();
        let new = wanted.metadata();
        // Only the API knows managers: whoever else changes an object leaves what is known of them.
        let managed =
            Some(&new.managed_fields).filter(|known| !known.is_empty()).unwrap_or(&old.managed_fields);
        let same_managers = *managed == old.managed_fields;
        if !changed && old.labels == new.labels && old.annotations == new.annotations && same_managers {
            return Ok((Applied::Unchanged, stored));
        }
        let metadata = ObjectMeta {
            managed_fields: managed.clone(),
            labels: new.labels.clone(),
            annotations: new.annotations.clone(),
            generation: old.generation + u64::from(changed),
            ..old.clone()
        };
        let object = AnyObject::from_parts(wanted.kind(), metadata, wanted.spec(), stored.status())
            .map_err(|source| StoreError::Malformed { what: "object", source })?;
        Ok((Applied::Configured, self.update(object)?))
    }

    /// Gives an object that is about to be applied the wishes that were made of the stored one. They are not in its
    /// manifest, and are not taken back by it.
    ///
    /// # Errors
    /// If the database fails.
    pub fn keep_wishes(&self, object: &mut AnyObject) -> Result<(), StoreError> {
        if let Some(stored) = self.get(object.kind(), &object.key())?
            && let Some(wish) = stored.metadata().annotations.get(CHECKPOINT_NOW)
        {
            let annotations = &mut object.metadata_mut().annotations;
            annotations.entry(CHECKPOINT_NOW.to_owned()).or_insert_with(|| wish.clone());
        }
        Ok(())
    }

    fn create(&self, mut object: AnyObject, uid: Uid, now: Timestamp) -> Result<AnyObject, StoreError> {
        let version = self.next_version()?;
        let metadata = object.metadata_mut();
        metadata.uid = uid;
        metadata.generation = 1;
        metadata.resource_version = version;
        metadata.creation_timestamp = Some(now);
        metadata.deletion_timestamp = None;
        // From the first moment on: what is launched for it must be ended before it may go.
        metadata.finalizers = vec![FINALIZER.to_owned()];
        self.sql.execute(
            "INSERT INTO objects (kind, namespace, name, uid, cluster, metadata, spec, status)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                object.kind().name(),
                object.metadata().namespace,
                object.metadata().name,
                object.uid().0.as_str(),
                cluster_of(&object).map(|key| key.to_string()),
                json(object.metadata())?,
                object.spec().to_string(),
                object.status().to_string(),
            ],
        )?;
        self.forget_departure(object.kind(), &object.key())?;
        self.note(ChangeType::Added, version, &object, None, false)?;
        Ok(object)
    }

    /// Writes an object that was changed, under a new resource version.
    ///
    /// # Errors
    /// If the database fails.
    pub fn update(&self, object: AnyObject) -> Result<AnyObject, StoreError> {
        self.write(object, false)
    }

    fn write(&self, mut object: AnyObject, status_only: bool) -> Result<AnyObject, StoreError> {
        let labels_before = self.get_by_uid(object.uid())?.map(|stored| stored.metadata().labels.clone());
        let version = self.next_version()?;
        object.metadata_mut().resource_version = version;
        self.sql.execute(
            "UPDATE objects SET cluster = ?2, metadata = ?3, spec = ?4, status = ?5 WHERE uid = ?1",
            params![
                object.uid().0.as_str(),
                cluster_of(&object).map(|key| key.to_string()),
                json(object.metadata())?,
                object.spec().to_string(),
                object.status().to_string(),
            ],
        )?;
        self.note(ChangeType::Modified, version, &object, labels_before, status_only)?;
        Ok(object)
    }

    /// Writes a status that was derived, if it is another than the stored one.
    ///
    /// # Errors
    /// If the database fails, or the status is not one of the object's kind.
    pub fn set_status(&self, uid: &Uid, status: Value) -> Result<bool, StoreError> {
        let Some(stored) = self.get_by_uid(uid)? else { return Ok(false) };
        if stored.status() == status {
            return Ok(false);
        }
        let object = AnyObject::from_parts(stored.kind(), stored.metadata().clone(), stored.spec(), status)
            .map_err(|source| StoreError::Malformed { what: "status", source })?;
        self.write(object, true)?;
        Ok(true)
    }

    /// Asks an object to go. It is gone at once only if nothing must happen before.
    ///
    /// # Errors
    /// If the database fails.
    pub fn delete(
        &self,
        kind: Kind,
        key: &ObjectKey,
        now: Timestamp,
    ) -> Result<Option<AnyObject>, StoreError> {
        self.delete_because(kind, key, Some((Cause::Deleted, None)), now)
    }

    /// The same; why is for the object's source, if that still has it.
    pub(super) fn delete_because(
        &self,
        kind: Kind,
        key: &ObjectKey,
        cause: Option<(Cause, Option<&str>)>,
        now: Timestamp,
    ) -> Result<Option<AnyObject>, StoreError> {
        let Some(mut object) = self.get(kind, key)? else { return Ok(None) };
        if object.metadata().is_deleting() {
            return Ok(Some(object));
        }
        if let Some((cause, said)) = cause {
            self.note_departure(&object, cause, said)?;
        }
        object.metadata_mut().deletion_timestamp = Some(now);
        if object.metadata().finalizers.is_empty() {
            self.remove(object.uid())?;
            return Ok(Some(object));
        }
        Ok(Some(self.update(object)?))
    }

    /// Removes an object for good, with what was recorded of it; not its checkpoints, which are retired.
    ///
    /// # Errors
    /// If the database fails.
    pub fn remove(&self, uid: &Uid) -> Result<(), StoreError> {
        let Some(mut object) = self.get_by_uid(uid)? else { return Ok(()) };
        let version = self.next_version()?;
        // Whoever watches goes on from the version of what was seen last: it must not see this again.
        object.metadata_mut().resource_version = version;
        let labels = Some(object.metadata().labels.clone());
        self.note(ChangeType::Deleted, version, &object, labels, false)?;
        for sql in [
            "DELETE FROM objects WHERE uid = ?1",
            "DELETE FROM job_records WHERE job = ?1",
            "DELETE FROM groups WHERE job = ?1",
        ] {
            self.sql.execute(sql, params![uid.0.as_str()])?;
        }
        if object.kind() == Kind::RayCluster {
            let cluster = object.key().to_string();
            self.sql.execute("DELETE FROM cluster_records WHERE cluster = ?1", params![cluster])?;
            self.sql.execute("DELETE FROM observations WHERE cluster = ?1", params![cluster])?;
        }
        Ok(())
    }

    /// The version that the newest change got.
    ///
    /// # Errors
    /// If the database fails.
    pub fn newest_version(&self) -> Result<u64, StoreError> {
        let version: i64 =
            self.sql.query_row("SELECT value FROM counters WHERE name = 'version'", [], |row| row.get(0))?;
        Ok(version.unsigned_abs())
    }

    fn next_version(&self) -> Result<u64, StoreError> {
        let sql = "UPDATE counters SET value = value + 1 WHERE name = 'version' RETURNING value";
        let version: i64 = self.sql.query_row(sql, [], |row| row.get(0))?;
        Ok(version.unsigned_abs())
    }

    fn note(
        &self,
        change: ChangeType,
        version: u64,
        object: &AnyObject,
        labels_before: Option<BTreeMap<String, String>>,
        status_only: bool,
    ) -> Result<(), StoreError> {
        let sql = "SELECT bound FROM job_records WHERE job = ?1 AND bound IS NOT NULL";
        let bound: Option<String> = self
            .sql
            .prepare_cached(sql)?
            .query_row(params![object.uid().0.as_str()], |row| row.get(0))
            .optional()?;
        let bound =
            bound.as_deref().and_then(|key| key.split_once('/')).map(|(ns, name)| ObjectKey::new(ns, name));
        let own = cluster_of(object).unwrap_or_else(|| object.key());
        let clusters = std::iter::once(own).chain(bound).collect();
        let (source, labels) =
            (object.metadata().source().map(str::to_owned), object.metadata().labels.clone());
        let (kind, key, object) = (object.kind(), object.key(), object.to_json());
        let told = Change {
            version,
            change,
            kind,
            key,
            object,
            source,
            labels,
            labels_before,
            status_only,
            clusters,
        };
        self.changes.borrow_mut().push(told);
        Ok(())
    }

    fn one(&self, sql: &str, params: &[&dyn rusqlite::ToSql]) -> Result<Option<AnyObject>, StoreError> {
        self.sql.prepare_cached(sql)?.query_row(params, row_parts).optional()?.map(from_row).transpose()
    }

    fn many(&self, sql: &str, params: &[&dyn rusqlite::ToSql]) -> Result<Vec<Named>, StoreError> {
        let mut statement = self.sql.prepare_cached(sql)?;
        let named = |row: &Row<'_>| {
            Ok((ObjectKey::new(row.get::<_, String>(4)?, row.get::<_, String>(5)?), row_parts(row)?))
        };
        let rows = statement.query_map(params, named)?.collect::<Result<Vec<_>, _>>()?;
        Ok(rows.into_iter().map(|(key, parts)| (key, from_row(parts))).collect())
    }
}

/// The cluster that a job refers to.
pub(super) fn cluster_of(object: &AnyObject) -> Option<ObjectKey> {
    match object {
        AnyObject::Cluster(_) => None,
        AnyObject::Job(job) => Some(job.spec.cluster_ref.as_ref().map_or_else(
            || ObjectKey::new(DEFAULT_NAMESPACE, LOCAL_CLUSTER),
            |reference| ObjectKey::new(&job.metadata.namespace, &reference.name),
        )),
    }
}

type Parts = (String, String, String, String);

/// An object that is stored, or why it cannot be read.
type Named = (ObjectKey, Result<AnyObject, StoreError>);

fn row_parts(row: &Row<'_>) -> rusqlite::Result<Parts> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn from_row((kind, metadata, spec, status): Parts) -> Result<AnyObject, StoreError> {
    let malformed = |source| StoreError::Malformed { what: "object", source };
    let kind: Kind = serde_json::from_value(Value::String(kind)).map_err(malformed)?;
    let metadata: ObjectMeta = serde_json::from_str(&metadata).map_err(malformed)?;
    let spec = serde_json::from_str(&spec).map_err(malformed)?;
    let status = serde_json::from_str(&status).map_err(malformed)?;
    AnyObject::from_parts(kind, metadata, spec, status).map_err(malformed)
}

/// A value as JSON text.
pub(super) fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Malformed { what: "value", source })
}
