//! What is named by its digest, and by whom.

use std::collections::BTreeSet;

use super::{StoreError, Tx};
use crate::api::ids::Digest;

impl Tx<'_> {
    /// Every digest that an object, a record or an intent names, whatever it is of.
    ///
    /// # Errors
    /// If the database fails.
    pub fn named_digests(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let sql = "SELECT spec FROM objects UNION ALL SELECT body FROM job_records UNION ALL SELECT body FROM groups
                   UNION ALL SELECT body FROM cluster_records UNION ALL SELECT body FROM intents";
        let mut statement = self.sql.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let mut named = BTreeSet::new();
        while let Some(row) = rows.next()? {
            let text: String = row.get(0)?;
            let words = text.split(|c: char| !c.is_ascii_hexdigit());
            named.extend(words.filter(|word| word.len() == 64).map(|word| Digest::from(word.to_owned())));
        }
        Ok(named)
    }
}
