//! The tables, and how older ones become today's.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// Marks the file as ours ("RCNC").
const APPLICATION: i64 = 0x5243_4e43;

/// Each entry brings the database from the version that is its index to the next. Never changed once landed.
const MIGRATIONS: [&str; 2] = ["
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
    INSERT INTO counters VALUES ('version', 0);
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    -- `cluster` is the RayCluster that a job refers to, as namespace/name.
    CREATE TABLE objects (
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, uid TEXT NOT NULL UNIQUE,
        cluster TEXT, metadata TEXT NOT NULL, spec TEXT NOT NULL, status TEXT NOT NULL,
        PRIMARY KEY (kind, namespace, name)
    ) STRICT;
    CREATE INDEX objects_by_cluster ON objects (cluster);
    CREATE TABLE cluster_records (cluster TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    -- `bound` is the RayCluster on which the job's bridge may be.
    CREATE TABLE job_records (job TEXT PRIMARY KEY, bound TEXT, body TEXT NOT NULL) STRICT;
    CREATE INDEX job_records_by_bound ON job_records (bound);
    CREATE TABLE groups (
        job TEXT NOT NULL, number INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (job, number)
    ) STRICT;
    CREATE TABLE checkpoints (
        job TEXT NOT NULL, group_number INTEGER NOT NULL, number INTEGER NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (job, group_number, number)
    ) STRICT;
    -- Deleted jobs whose checkpoints and logs are still kept, for a while.
    CREATE TABLE retired (job TEXT PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, until TEXT NOT NULL) STRICT;
    CREATE TABLE intents (id TEXT PRIMARY KEY, cluster TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE INDEX intents_by_cluster ON intents (cluster);
    CREATE TABLE observations (
        cluster TEXT NOT NULL, source TEXT NOT NULL, at TEXT NOT NULL, complete INTEGER NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (cluster, source)
    ) STRICT;
    CREATE TABLE events (
        version INTEGER PRIMARY KEY, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        uid TEXT NOT NULL, type TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
        count INTEGER NOT NULL, first_seen TEXT NOT NULL, last_seen TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_object ON events (uid, version);
", "
    -- Who may use the API: of each token only its digest.
    CREATE TABLE tokens (
        name TEXT PRIMARY KEY, role TEXT NOT NULL, digest TEXT NOT NULL UNIQUE, created TEXT NOT NULL
    ) STRICT;
"];

/// How many statements are kept ready: all that a plan uses.
const STATEMENTS: usize = 64;

/// Makes the database fit, or says why it cannot.
pub(super) fn prepare(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, found) = (number("application_id")?, number("user_version")?);
    let known = MIGRATIONS.len() as i64;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION && (application != 0 || tables != 0) {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    if found > known {
        return Err(StoreError::TooNew { path: path.to_owned(), found, known });
    }
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        return Err(StoreError::Corrupted { path: path.to_owned(), detail: check });
    }
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // FULL: a transaction that was reported as done survives a power cut.
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;")?;
    for (version, migration) in MIGRATIONS.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {migration}
             PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {}; COMMIT;",
            version + 1
        ))?;
    }
    Ok(())
}
