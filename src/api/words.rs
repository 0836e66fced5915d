//! Numbers and names in sentences.

use super::ids::NodeName;

/// `1 worker`, `2 workers`.
pub fn count(number: impl TryInto<u64>, what: &str) -> String {
    match number.try_into() {
        Ok(1) => format!("1 {what}"),
        Ok(number) => format!("{number} {what}s"),
        Err(_) => format!("many {what}s"),
    }
}

/// Nodes, each once, with how often it is there if more than once: `a ×2, b`.
pub fn nodes(names: &[NodeName]) -> String {
    let mut counted: Vec<(&NodeName, usize)> = Vec::new();
    for name in names {
        match counted.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counted.push((name, 1)),
        }
    }
    let names = counted
        .iter()
        .map(|(name, count)| if *count > 1 { format!("{name} ×{count}") } else { name.to_string() });
    names.collect::<Vec<_>>().join(", ")
}

/// `1 node is`, `2 nodes are`.
pub fn count_are(number: impl TryInto<u64> + Copy, what: &str) -> String {
    let are = if matches!(number.try_into(), Ok(1)) { "is" } else { "are" };
    format!("{} {are}", count(number, what))
}
