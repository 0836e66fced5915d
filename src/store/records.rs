//! Records, intents and observations: the planner's memory, and what it was last told.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::objects::json;
use super::{StoreError, Tx};
use crate::action::{Intent, IntentState};
use crate::api::ids::{IntentId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::object::{AdaptDLJob, AnyObject, Kind, RayCluster};
use crate::api::record::{CheckpointRecord, ClusterRecord, JobRecord};

/// Everything that is planned together: a cluster, the jobs on it or for it, and what is under way for them.
#[derive(Debug)]
pub struct DomainRows {
    /// The cluster, if there is one of that name.
    pub cluster: Option<RayCluster>,
    /// What was decided for it. It outlives the object's deletion until nothing is left of the cluster.
    pub record: ClusterRecord,
    /// The jobs, with what was decided for them.
    pub jobs: Vec<JobRow>,
    /// Effects that are not settled.
    pub intents: Vec<Intent>,
}

/// A job and what was decided for it.
#[derive(Clone, Debug)]
pub struct JobRow {
    /// The job.
    pub job: AdaptDLJob,
    /// What was decided for it.
    pub record: JobRecord,
}

/// What was last observed of a cluster from one source.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservationRow {
    /// Where it comes from: `processes`, `agent`.
    pub source: String,
    /// When.
    pub at: Timestamp,
    /// Whether everything could be seen.
    pub complete: bool,
    /// What was seen, or the error.
    pub body: Value,
}

impl Tx<'_> {
    /// Everything that is planned together with a cluster.
    ///
    /// # Errors
    /// If the database fails.
    pub fn domain(&self, key: &ObjectKey) -> Result<DomainRows, StoreError> {
        let cluster = match self.get(Kind::RayCluster, key)? {
            Some(AnyObject::Cluster(cluster)) => Some(*cluster),
            _ => None,
        };
        let mut jobs = Vec::new();
        for object in self.jobs_of(key)? {
            if let AnyObject::Job(job) = object {
                let record = self.job_record(&job.metadata.uid)?;
                jobs.push(JobRow { job: *job, record });
            }
        }
        Ok(DomainRows { cluster, record: self.cluster_record(key)?, jobs, intents: self.intents(key)? })
    }

    /// The keys under which there is anything to plan: clusters, and what jobs or intents refer to.
    ///
    /// # Errors
    /// If the database fails.
    pub fn domains(&self) -> Result<Vec<ObjectKey>, StoreError> {
        let sql = "SELECT namespace || '/' || name FROM objects WHERE kind = 'RayCluster'
                   UNION SELECT cluster FROM objects WHERE cluster IS NOT NULL
                   UNION SELECT bound FROM job_records WHERE bound IS NOT NULL
                   UNION SELECT cluster FROM cluster_records UNION SELECT cluster FROM intents";
        let mut statement = self.sql.prepare_cached(sql)?;
        let keys = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        Ok(keys
            .iter()
            .filter_map(|key| key.split_once('/'))
            .map(|(ns, name)| ObjectKey::new(ns, name))
            .collect())
    }

    /// What was decided for a cluster.
    ///
    /// # Errors
    /// If the database fails.
    pub fn cluster_record(&self, key: &ObjectKey) -> Result<ClusterRecord, StoreError> {
        let sql = "SELECT body FROM cluster_records WHERE cluster = ?1";
        Ok(self.body(sql, &[&key.to_string()], "cluster record")?.unwrap_or_default())
    }

    /// Writes what was decided for a cluster.
    ///
    /// # Errors
    /// If the database fails.
    pub fn put_cluster_record(&self, key: &ObjectKey, record: &ClusterRecord) -> Result<(), StoreError> {
        let sql = "INSERT INTO cluster_records (cluster, body) VALUES (?1, ?2)
                   ON CONFLICT (cluster) DO UPDATE SET body = excluded.body";
        self.sql.prepare_cached(sql)?.execute(params![key.to_string(), json(record)?])?;
        Ok(())
    }

    /// What was decided for a job.
    ///
    /// # Errors
    /// If the database fails.
    pub fn job_record(&self, uid: &Uid) -> Result<JobRecord, StoreError> {
        let mut record: JobRecord = self
            .body("SELECT body FROM job_records WHERE job = ?1", &[&uid.0.as_str()], "job record")?
            .unwrap_or_default();
        record.groups =
            self.bodies("SELECT body FROM groups WHERE job = ?1 ORDER BY number", uid, "group")?;
        record.checkpoints = self.checkpoints(uid)?;
        Ok(record)
    }

    /// The durable checkpoints of a job, oldest first; also of a job that is gone.
    ///
    /// # Errors
    /// If the database fails.
    pub fn checkpoints(&self, uid: &Uid) -> Result<Vec<CheckpointRecord>, StoreError> {
        let sql = "SELECT body FROM checkpoints WHERE job = ?1 ORDER BY group_number, number";
        self.bodies(sql, uid, "checkpoint")
    }

    /// Writes what was decided for a job: all of it, so that what is not in the record is not in the store.
    ///
    /// # Errors
    /// If the database fails.
    pub fn put_job_record(&self, uid: &Uid, record: &JobRecord) -> Result<(), StoreError> {
        let bound = record.binding.as_ref().map(|binding| binding.cluster.to_string());
        let sql = "INSERT INTO job_records (job, bound, body) VALUES (?1, ?2, ?3)
                   ON CONFLICT (job) DO UPDATE SET bound = excluded.bound, body = excluded.body";
        self.sql.prepare_cached(sql)?.execute(params![uid.0.as_str(), bound, json(record)?])?;
        // What is as it was is not written: each time a job is heard of its record is another, and seldom its groups.
        let numbers: Vec<u64> = record.groups.iter().map(|group| group.number.0).collect();
        let sql = "DELETE FROM groups WHERE job = ?1 AND number NOT IN (SELECT value FROM json_each(?2))";
        self.sql.prepare_cached(sql)?.execute(params![uid.0.as_str(), json(&numbers)?])?;
        for group in &record.groups {
            let sql = "INSERT INTO groups (job, number, body) VALUES (?1, ?2, ?3)
                       ON CONFLICT (job, number) DO UPDATE SET body = excluded.body WHERE body <> excluded.body";
            self.sql.prepare_cached(sql)?.execute(params![
                uid.0.as_str(),
                group.number.0 as i64,
                json(group)?
            ])?;
        }
        let names: Vec<String> =
            record.checkpoints.iter().map(|checkpoint| checkpoint.id.to_string()).collect();
        let sql = "DELETE FROM checkpoints WHERE job = ?1
                   AND group_number || '-' || number NOT IN (SELECT value FROM json_each(?2))";
        self.sql.prepare_cached(sql)?.execute(params![uid.0.as_str(), json(&names)?])?;
        for checkpoint in &record.checkpoints {
            let sql = "INSERT INTO checkpoints (job, group_number, number, body) VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT (job, group_number, number) DO UPDATE SET body = excluded.body
                       WHERE body <> excluded.body";
            let id = checkpoint.id;
            self.sql.prepare_cached(sql)?.execute(params![
                uid.0.as_str(),
                id.group.0 as i64,
                id.number as i64,
                json(checkpoint)?
            ])?;
        }
        Ok(())
    }

    /// Keeps a deleted job's checkpoints and logs until a time.
    ///
    /// # Errors
    /// If the database fails.
    pub fn retire(&self, uid: &Uid, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO retired (job, namespace, name, until) VALUES (?1, ?2, ?3, ?4)";
        self.sql.prepare_cached(sql)?.execute(params![
            uid.0.as_str(),
            key.namespace,
            key.name,
            until.to_string()
        ])?;
        Ok(())
    }

    /// The deleted jobs whose checkpoints and logs are still kept, and until when.
    ///
    /// # Errors
    /// If the database fails.
    pub fn retired(&self) -> Result<Vec<(Uid, ObjectKey, Timestamp)>, StoreError> {
        let mut statement =
            self.sql.prepare_cached("SELECT job, namespace, name, until FROM retired ORDER BY until")?;
        let rows = statement.query_map([], |row| {
            let until: String = row.get(3)?;
            let key = ObjectKey { namespace: row.get(1)?, name: row.get(2)? };
            Ok((Uid::from(row.get::<_, String>(0)?), key, until.parse().unwrap_or(Timestamp::MAX)))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Forgets a deleted job whose files are gone.
    ///
    /// # Errors
    /// If the database fails.
    pub fn forget_retired(&self, uid: &Uid) -> Result<(), StoreError> {
        self.sql.execute("DELETE FROM retired WHERE job = ?1", params![uid.0.as_str()])?;
        self.sql.execute("DELETE FROM checkpoints WHERE job = ?1", params![uid.0.as_str()])?;
        Ok(())
    }

    /// The effects of a cluster that are not settled.
    ///
    /// # Errors
    /// If the database fails.
    pub fn intents(&self, cluster: &ObjectKey) -> Result<Vec<Intent>, StoreError> {
        let mut statement =
            self.sql.prepare_cached("SELECT body FROM intents WHERE cluster = ?1 ORDER BY id")?;
        let rows = statement.query_map(params![cluster.to_string()], |row| row.get::<_, String>(0))?;
        rows.map(|row| parse(&row?, "intent")).collect()
    }

    /// Writes an intent.
    ///
    /// # Errors
    /// If the database fails.
    pub fn put_intent(&self, intent: &Intent) -> Result<(), StoreError> {
        let sql = "INSERT INTO intents (id, cluster, body) VALUES (?1, ?2, ?3)
                   ON CONFLICT (id) DO UPDATE SET body = excluded.body";
        self.sql.prepare_cached(sql)?.execute(params![
            intent.id.0.as_str(),
            intent.cluster.to_string(),
            json(intent)?
        ])?;
        Ok(())
    }

    /// Notes what came of an intent, if it is still waited for.
    ///
    /// # Errors
    /// If the database fails.
    pub fn settle_intent(&self, id: &IntentId, state: IntentState) -> Result<(), StoreError> {
        let found: Option<Intent> =
            self.body("SELECT body FROM intents WHERE id = ?1", &[&id.0.as_str()], "intent")?;
        match found {
            Some(intent) => self.put_intent(&Intent { state, attempts: intent.attempts + 1, ..intent }),
            None => Ok(()),
        }
    }

    /// Forgets an intent.
    ///
    /// # Errors
    /// If the database fails.
    pub fn remove_intent(&self, id: &IntentId) -> Result<(), StoreError> {
        self.sql.execute("DELETE FROM intents WHERE id = ?1", params![id.0.as_str()])?;
        Ok(())
    }

    /// Writes what was observed of a cluster.
    ///
    /// # Errors
    /// If the database fails.
    pub fn put_observation(&self, cluster: &ObjectKey, row: &ObservationRow) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO observations (cluster, source, at, complete, body) VALUES (?1, ?2, ?3, ?4, ?5)";
        let at = row.at.to_string();
        self.sql
            .execute(sql, params![cluster.to_string(), row.source, at, row.complete, row.body.to_string()])?;
        Ok(())
    }

    /// What was last observed of a cluster.
    ///
    /// # Errors
    /// If the database fails.
    pub fn observations(&self, cluster: &ObjectKey) -> Result<Vec<ObservationRow>, StoreError> {
        let sql = "SELECT source, at, complete, body FROM observations WHERE cluster = ?1 ORDER BY source";
        let mut statement = self.sql.prepare_cached(sql)?;
        let rows = statement.query_map(params![cluster.to_string()], |row| {
            let (at, body): (String, String) = (row.get(1)?, row.get(3)?);
            Ok(ObservationRow {
                source: row.get(0)?,
                at: at.parse().unwrap_or(Timestamp::UNIX_EPOCH),
                complete: row.get(2)?,
                body: serde_json::from_str(&body).unwrap_or_default(),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// A value that is made once and kept.
    ///
    /// # Errors
    /// If the database fails.
    pub fn setting(&self, name: &str, make: impl FnOnce() -> String) -> Result<String, StoreError> {
        let sql = "SELECT value FROM settings WHERE name = ?1";
        if let Some(value) = self.sql.query_row(sql, params![name], |row| row.get(0)).optional()? {
            return Ok(value);
        }
        let value = make();
        self.sql.execute("INSERT INTO settings (name, value) VALUES (?1, ?2)", params![name, value])?;
        Ok(value)
    }

    fn body<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&dyn rusqlite::ToSql],
        what: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let text: Option<String> =
            self.sql.prepare_cached(sql)?.query_row(params, |row| row.get(0)).optional()?;
        text.map(|text| parse(&text, what)).transpose()
    }

    fn bodies<T: DeserializeOwned>(
        &self,
        sql: &str,
        uid: &Uid,
        what: &'static str,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.sql.prepare_cached(sql)?;
        let rows = statement.query_map(params![uid.0.as_str()], |row| row.get::<_, String>(0))?;
        rows.map(|row| parse(&row?, what)).collect()
    }
}

fn parse<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Malformed { what, source })
}
