//! Who may use the API. A token is not kept, only its digest, by which it is known again.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, params};

use super::{StoreError, Tx};
use crate::api::ids::Digest;
use crate::api::token::{Role, TokenView};

const COLUMNS: &str = "name, role, created";

impl Tx<'_> {
    /// Keeps a token by its digest. Says whether it could: the name may be taken.
    ///
    /// # Errors
    /// If the database fails.
    pub fn add_token(&self, token: &TokenView, digest: &Digest) -> Result<bool, StoreError> {
        let sql = "INSERT INTO tokens (name, role, digest, created) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (name) DO NOTHING";
        let (role, created) = (token.role.to_string(), token.created.to_string());
        Ok(self.sql.execute(sql, params![token.name, role, digest.0.as_str(), created])? == 1)
    }

    /// Whose token has this digest.
    ///
    /// # Errors
    /// If the database fails.
    pub fn token_of(&self, digest: &Digest) -> Result<Option<TokenView>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM tokens WHERE digest = ?1");
        Ok(self.sql.prepare_cached(&sql)?.query_row(params![digest.0.as_str()], view).optional()?)
    }

    /// The tokens there are, by name.
    ///
    /// # Errors
    /// If the database fails.
    pub fn tokens(&self) -> Result<Vec<TokenView>, StoreError> {
        let mut statement =
            self.sql.prepare_cached(&format!("SELECT {COLUMNS} FROM tokens ORDER BY name"))?;
        Ok(statement.query_map([], view)?.collect::<Result<_, _>>()?)
    }

    /// Forgets a token. Says whether there was one of that name.
    ///
    /// # Errors
    /// If the database fails.
    pub fn remove_token(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.sql.execute("DELETE FROM tokens WHERE name = ?1", params![name])? == 1)
    }
}

fn view(row: &Row<'_>) -> rusqlite::Result<TokenView> {
    let (role, created): (String, String) = (row.get(1)?, row.get(2)?);
    Ok(TokenView {
        name: row.get(0)?,
        // What is not known may least.
        role: role.parse().unwrap_or(Role::View),
        created: created.parse().unwrap_or(Timestamp::UNIX_EPOCH),
    })
}
