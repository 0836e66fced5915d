//! Events of objects. The same one again is counted, not repeated; the oldest are forgotten.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, params};
use serde_json::Value;

use super::{StoreError, Tx};
use crate::api::event::{Event, EventType, NewEvent, Subject};
use crate::api::ids::Uid;
use crate::api::meta::ObjectKey;

/// How many events are kept.
const KEPT: i64 = 20_000;

const COLUMNS: &str =
    "version, kind, namespace, name, uid, type, reason, message, count, first_seen, last_seen";

impl Tx<'_> {
    /// Records an event. If it is the same as the object's newest one, that one is counted up.
    ///
    /// # Errors
    /// If the database fails.
    pub fn record_event(&self, event: &NewEvent, now: Timestamp) -> Result<(), StoreError> {
        let newest: Option<(i64, String, String)> = self
            .sql
            .prepare_cached(
                "SELECT version, reason, message FROM events WHERE uid = ?1 ORDER BY version DESC LIMIT 1",
            )?
            .query_row(params![event.uid.0.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let version = i64::try_from(self.newest_event()? + 1).unwrap_or(i64::MAX);
        match newest {
            Some((old, reason, message)) if reason == event.reason && message == event.message => {
                let sql =
                    "UPDATE events SET version = ?2, count = count + 1, last_seen = ?3 WHERE version = ?1";
                self.sql.execute(sql, params![old, version, now.to_string()])?;
            }
            _ => {
                let sql = format!(
                    "INSERT INTO events ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1, ?9, ?9)"
                );
                let event_type = match event.event_type {
                    EventType::Normal => "Normal",
                    EventType::Warning => "Warning",
                };
                self.sql.execute(
                    &sql,
                    params![
                        version,
                        event.kind.name(),
                        event.object.namespace,
                        event.object.name,
                        event.uid.0.as_str(),
                        event_type,
                        event.reason,
                        event.message,
                        now.to_string()
                    ],
                )?;
            }
        }
        self.sql.execute("DELETE FROM events WHERE version <= ?1", params![version - KEPT])?;
        self.recorded.set(Some(version.unsigned_abs()));
        Ok(())
    }

    /// The version that the newest event got.
    ///
    /// # Errors
    /// If the database fails.
    pub fn newest_event(&self) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(max(version), 0) FROM events";
        let version: i64 = self.sql.query_row(sql, [], |row| row.get(0))?;
        Ok(version.unsigned_abs())
    }

    /// The events after a version, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn events_since(&self, version: u64) -> Result<Vec<Event>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM events WHERE version > ?1 ORDER BY version");
        self.events(&sql, params![i64::try_from(version).unwrap_or(i64::MAX)])
    }

    /// An object's events, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn events_of(&self, uid: &Uid) -> Result<Vec<Event>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM events WHERE uid = ?1 ORDER BY version");
        self.events(&sql, params![uid.0.as_str()])
    }

    fn events(&self, sql: &str, params: &[&dyn rusqlite::ToSql]) -> Result<Vec<Event>, StoreError> {
        let mut statement = self.sql.prepare_cached(sql)?;
        Ok(statement.query_map(params, event)?.collect::<Result<_, _>>()?)
    }
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let time = |column| {
        let text: String = row.get(column)?;
        Ok::<_, rusqlite::Error>(text.parse().unwrap_or(Timestamp::UNIX_EPOCH))
    };
    let kind: String = row.get(1)?;
    let event_type: String = row.get(5)?;
    Ok(Event {
        version: row.get::<_, i64>(0)?.unsigned_abs(),
        event: NewEvent {
            kind: serde_json::from_value(Value::String(kind)).unwrap_or(Subject::AdaptDLJob),
            object: ObjectKey { namespace: row.get(2)?, name: row.get(3)? },
            uid: Uid::from(row.get::<_, String>(4)?),
            event_type: if event_type == "Warning" { EventType::Warning } else { EventType::Normal },
            reason: row.get(6)?,
            message: row.get(7)?,
        },
        count: row.get::<_, i64>(8)?.unsigned_abs(),
        first_seen: time(9)?,
        last_seen: time(10)?,
    })
}
