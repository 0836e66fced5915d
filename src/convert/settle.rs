//! What would be refused as a manifest is not written: it becomes a comment with the reason, like everything that has
//! no equivalent. What cannot be left out is an error in the text that it comes from.

use std::collections::BTreeSet;

use super::render::render;
use super::tree::{Block, Entry, Line, Node, Note};
use crate::api::meta::DEFAULT_NAMESPACE;
use crate::manifest::{self, Part, Path, Problem, Source};

/// More than this is no configuration.
const ROUNDS: usize = 200;

/// The text of a manifest, and how many settings of the other text are comments in it.
pub(super) fn settle(mut tree: Block<'_>, root: &Part<'_>) -> Result<(String, usize), Vec<Problem>> {
    for _ in 0..ROUNDS {
        let text = render(&tree);
        let refused = refused(&text);
        let Some(first) = refused.first() else {
            tree.without_repetition(&mut BTreeSet::new());
            return Ok((render(&tree), tree.settings()));
        };
        let errors: Vec<_> = refused.iter().filter_map(|problem| error(&tree, problem, root)).collect();
        if !errors.is_empty() {
            return Err(errors);
        }
        let way = way(&tree, first);
        if let Some(line) = dispensable(&mut tree, &way) {
            comment(line, first);
        }
    }
    Err(vec![root.problem("has too much that cannot be converted")])
}

/// What is wrong with a manifest.
fn refused(text: &str) -> Vec<Problem> {
    let loaded = manifest::read(vec![Source::new("", text, None)], DEFAULT_NAMESPACE);
    let admitted = loaded.manifests.iter().flat_map(manifest::Manifest::validate);
    loaded.problems.into_iter().chain(admitted).collect()
}

/// A problem as one of the text that the manifest is made from, if nothing can be left out to solve it.
fn error(tree: &Block<'_>, problem: &Problem, root: &Part<'_>) -> Option<Problem> {
    let entries = entries(tree, &way(tree, problem));
    if entries.iter().any(|entry| is_dispensable(entry)) {
        return None;
    }
    let part = entries.iter().rev().find_map(|entry| entry.from.as_ref()).unwrap_or(root);
    let mut error = part.problem(format!("cannot be converted: {}: {}", problem.field, problem.message));
    error.help.clone_from(&problem.help);
    Some(error)
}

fn is_dispensable(entry: &Entry<'_>) -> bool {
    entry.from.is_some() && !entry.needed
}

/// Which lines of which blocks lead to the field that a problem is about, as far as they are there.
fn way(tree: &Block<'_>, problem: &Problem) -> Vec<usize> {
    let (mut way, mut block, mut path) = (Vec::new(), tree, Path::default());
    loop {
        let mut items = 0;
        let mut next = None;
        for (index, line) in block.lines.iter().enumerate() {
            let Line::Entry(entry) = line else { continue };
            let to = entry.key().map_or_else(|| path.item(items), |key| path.key(key));
            items += usize::from(entry.key().is_none());
            let rest = problem.field.strip_prefix(&to.to_string());
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])) {
                next = Some((index, to, &entry.node));
            }
        }
        let Some((index, to, node)) = next else { return way };
        way.push(index);
        path = to;
        match node {
            Node::Map(inner) | Node::List(inner) => block = inner,
            Node::Scalar(_) => return way,
        }
    }
}

fn entries<'t, 'a>(tree: &'t Block<'a>, way: &[usize]) -> Vec<&'t Entry<'a>> {
    let (mut entries, mut block) = (Vec::new(), Some(tree));
    for index in way {
        let Some(Line::Entry(entry)) = block.and_then(|block| block.lines.get(*index)) else { break };
        entries.push(entry);
        block = match &entry.node {
            Node::Map(inner) | Node::List(inner) => Some(inner),
            Node::Scalar(_) => None,
        };
    }
    entries
}

/// The last line on the way that can be left out.
fn dispensable<'t, 'a>(tree: &'t mut Block<'a>, way: &[usize]) -> Option<&'t mut Line<'a>> {
    let last = entries(tree, way).iter().rposition(|entry| is_dispensable(entry))?;
    let (before, [index, ..]) = way.split_at_checked(last)? else { return None };
    let mut block = tree;
    for index in before {
        let Line::Entry(Entry { node: Node::Map(inner) | Node::List(inner), .. }) =
            block.lines.get_mut(*index)?
        else {
            return None;
        };
        block = inner;
    }
    block.lines.get_mut(*index)
}

/// Puts a comment in the place of a line.
fn comment(line: &mut Line<'_>, problem: &Problem) {
    let Line::Entry(Entry { from: Some(part), .. }) = line else { return };
    let help = problem.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    let why = format!("{}: {}{help}", last_name(&problem.field), problem.message);
    let why = if why.ends_with('?') { why } else { format!("{why}.") };
    *line = Line::Note(Note::lost(part, why));
}

/// The last name in a path: a comment stands where it leads. `a.b[0]` has `b`, `a["b.c"]` has `b.c`.
fn last_name(field: &str) -> &str {
    if let Some((_, name)) = field.strip_suffix("\"]").and_then(|field| field.rsplit_once("[\"")) {
        return name;
    }
    let names = field.trim_end_matches(|c: char| matches!(c, '[' | ']') || c.is_ascii_digit());
    names.rsplit('.').next().unwrap_or(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_a_last_name() {
        for (field, name) in [("a.b", "b"), ("a.b[0]", "b"), ("a", "a"), (r#"a.b["c.d/e"]"#, "c.d/e")] {
            assert_eq!(last_name(field), name);
        }
    }
}
