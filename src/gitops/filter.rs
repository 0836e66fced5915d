//! Which files of a directory count, by their path in it: patterns as in `.gitignore`.

use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Which files count.
#[derive(Clone, Debug)]
pub struct Filter {
    /// If there is any pattern, only what matches one.
    include: Option<Gitignore>,
    exclude: Gitignore,
}

impl Filter {
    /// A filter of patterns.
    ///
    /// # Errors
    /// If one of them is none: what is wrong with it.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, String> {
        let include = if include.is_empty() { None } else { Some(patterns(include)?) };
        Ok(Self { include, exclude: patterns(exclude)? })
    }

    /// Whether a file counts.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        let included = |include: &Gitignore| include.matched_path_or_any_parents(path, false).is_ignore();
        self.include.as_ref().is_none_or(included)
            && !self.exclude.matched_path_or_any_parents(path, false).is_ignore()
    }

    /// Whether files in a directory may count.
    pub(super) fn has_directory(&self, path: &Path) -> bool {
        !self.exclude.matched(path, true).is_ignore()
    }
}

fn patterns(globs: &[String]) -> Result<Gitignore, String> {
    let mut builder = GitignoreBuilder::new("");
    for glob in globs {
        builder.add_line(None, glob).map_err(|error| error.to_string())?;
    }
    builder.build().map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> Filter {
        let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect::<Vec<_>>();
        Filter::new(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn patterns_mean_what_they_mean_in_gitignore() {
        let all = filter(&[], &[]);
        assert!(all.has_file(Path::new("a/b.yaml")) && all.has_directory(Path::new("a")));
        let some = filter(&["prod/", "/top.yaml"], &["*.draft.yaml", "prod/old", "!prod/keep.draft.yaml"]);
        for (path, expected) in [
            ("prod/a.yaml", true),
            ("deep/prod/a.yaml", true),
            ("top.yaml", true),
            ("deep/top.yaml", false),
            ("staging/a.yaml", false),
            ("prod/a.draft.yaml", false),
            ("prod/keep.draft.yaml", true),
            ("prod/old/a.yaml", false),
        ] {
            assert_eq!(some.has_file(Path::new(path)), expected, "{path}");
        }
        assert!(!some.has_directory(Path::new("prod/old")) && some.has_directory(Path::new("prod")));
        assert!(Filter::new(&["[z-a]".to_owned()], &[]).is_err());
    }
}
