//! Numbers in sentences.

/// `1 worker`, `2 workers`.
pub fn count(number: impl TryInto<u64>, what: &str) -> String {
    match number.try_into() {
        Ok(1) => format!("1 {what}"),
        Ok(number) => format!("{number} {what}s"),
        Err(_) => format!("many {what}s"),
    }
}

/// `1 node is`, `2 nodes are`.
pub fn count_are(number: impl TryInto<u64> + Copy, what: &str) -> String {
    let are = if matches!(number.try_into(), Ok(1)) { "is" } else { "are" };
    format!("{} {are}", count(number, what))
}
