//! Numbers and names in sentences.

use jiff::SignedDuration;

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

/// A length of time in at most two units, as kubectl writes ages: `45s`, `3m20s`, `5h12m`, `4d3h`.
pub fn duration(length: SignedDuration) -> String {
    let seconds = length.as_secs().max(0);
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = units.iter().position(|(size, _)| seconds >= *size) else { return "0s".to_owned() };
    let (size, name) = units[first];
    let mut text = format!("{}{name}", seconds / size);
    if let Some((next, name)) = units.get(first + 1)
        && seconds % size / next > 0
    {
        text.push_str(&format!("{}{name}", seconds % size / next));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_take_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (200, "3m20s"), (3_725, "1h2m"), (90_000, "1d1h")]
        {
            assert_eq!(duration(SignedDuration::from_secs(seconds)), text);
        }
    }
}
