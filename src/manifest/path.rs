//! Where in an object something is: `spec.env[2].name`.

use std::fmt;

use super::words::quoted;

/// A longer key is not shown in full.
const LONGEST: usize = 60;

/// The way from the root of an object to one of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(Vec<Step>);

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// To the value of a key.
    Key(String),
    /// To an item of a list.
    Item(usize),
}

impl Path {
    /// The path of a field by its dotted name. It is for names that we know: a key of the user's may hold
    /// dots.
    pub(super) fn of(dotted: &str) -> Self {
        Self::default().field(dotted)
    }

    /// On to a field by its dotted name, as for `of`.
    pub(super) fn field(&self, dotted: &str) -> Self {
        dotted.split('.').fold(self.clone(), |path, name| path.key(name))
    }

    /// On to the value of a key.
    pub fn key(&self, name: &str) -> Self {
        self.with(Step::Key(name.to_owned()))
    }

    /// On to an item of a list.
    pub fn item(&self, index: usize) -> Self {
        self.with(Step::Item(index))
    }

    /// The steps from the root.
    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(index) => write!(f, "[{index}]")?,
                Step::Key(name) if !is_plain(name) || name.len() > LONGEST => {
                    write!(f, "[{}]", quoted(name))?
                }
                Step::Key(name) if position == 0 => f.write_str(name)?,
                Step::Key(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_people_write_them() {
        assert_eq!(Path::of("spec.env").item(2).key("name").to_string(), "spec.env[2].name");
        let label = Path::of("metadata.labels").key("example.com/team");
        assert_eq!(label.to_string(), r#"metadata.labels["example.com/team"]"#);
        assert_eq!(Path::default().to_string(), "");
    }
}
