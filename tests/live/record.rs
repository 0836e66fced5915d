//! What `jobs/elastic.py` writes down of its steps, and what must hold of it.

use std::fs;
use std::path::Path;

/// A step, as rank 0 of a group has made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) group: u64,
    pub(crate) step: u64,
}

/// Every step, in the order in which they were made.
pub(crate) fn recorded(path: &Path) -> Vec<Made> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.lines().filter_map(|line| {
        let (group, step) = line.split_once(' ')?;
        Some(Made { group: group.parse().ok()?, step: step.parse().ok()? })
    });
    whole.collect()
}

/// The last step that was made.
pub(crate) fn last(path: &Path) -> Made {
    recorded(path).last().copied().unwrap_or(Made { group: 0, step: 0 })
}

/// Sees that no two groups trained at once, and that each went on no more than so many steps before where the group
/// before it was.
pub(crate) fn assert_unbroken(steps: &[Made], lost: u64) {
    for pair in steps.windows(2) {
        let (one, next) = (pair[0], pair[1]);
        assert!(next.group >= one.group, "group {} trained beside group {}: {pair:?}", one.group, next.group);
        let allowed = if next.group > one.group { lost } else { 0 };
        let again = (one.step + 1).checked_sub(next.step);
        assert!(
            again.is_some_and(|again| again <= allowed),
            "a step was left out, or too many made again: {pair:?}"
        );
    }
}
