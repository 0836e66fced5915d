//! Selectors: which objects or events are wanted, as Kubernetes writes it in `labelSelector` and `fieldSelector`.

use super::error::ApiError;

/// Conditions that must all hold.
#[derive(Debug, Default)]
pub(super) struct Selector {
    conditions: Vec<(String, Wanted)>,
}

#[derive(Debug)]
enum Wanted {
    Equal(String),
    Other(String),
    Present,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Selector {
    /// A selector by labels: `NAME=VALUE`, `NAME!=VALUE`, `NAME in (A, B)`, `NAME notin (A, B)`, `NAME` or `!NAME`,
    /// joined by commas.
    pub(super) fn of_labels(text: Option<&str>) -> Result<Self, ApiError> {
        let bad = |part| {
            let message = format!(
                "labelSelector: {part:?} is not understood; write NAME=VALUE, NAME!=VALUE, NAME in (A,B), \
                 NAME notin (A,B), NAME or !NAME"
            );
            ApiError::bad_request(message)
        };
        Ok(Self {
            conditions: parts(text)
                .map(|part| label(part).ok_or_else(|| bad(part)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// A selector by some fields: `FIELD=VALUE` or `FIELD!=VALUE`, joined by commas.
    pub(super) fn of_fields(text: Option<&str>, known: &[&str]) -> Result<Self, ApiError> {
        let bad = |part| {
            let message = format!(
                "fieldSelector: {part:?} is not understood; write FIELD=VALUE or FIELD!=VALUE, where FIELD is {}",
                known.join(" or ")
            );
            ApiError::bad_request(message)
        };
        let field = |part| comparison(part).filter(|(field, _)| known.contains(&field.as_str()));
        Ok(Self {
            conditions: parts(text)
                .map(|part| field(part).ok_or_else(|| bad(part)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether something has what is wanted.
    pub(super) fn matches<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.conditions.iter().all(|(name, wanted)| match wanted {
            Wanted::Equal(wanted) => value(name) == Some(wanted),
            Wanted::Other(unwanted) => value(name) != Some(unwanted),
            Wanted::Present => value(name).is_some(),
            Wanted::Absent => value(name).is_none(),
            Wanted::In(wanted) => value(name).is_some_and(|value| wanted.iter().any(|one| one == value)),
            Wanted::NotIn(unwanted) => {
                value(name).is_none_or(|value| unwanted.iter().all(|one| one != value))
            }
        })
    }
}

/// The parts between commas, but not between those that are in brackets.
fn parts(text: Option<&str>) -> impl Iterator<Item = &str> {
    let mut within = false;
    let parts = text.unwrap_or_default().split(move |c| {
        within = (within || c == '(') && c != ')';
        c == ',' && !within
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

fn comparison(part: &str) -> Option<(String, Wanted)> {
    let equal = |value: &str| Wanted::Equal(value.trim().to_owned());
    let other = |value: &str| Wanted::Other(value.trim().to_owned());
    let (name, wanted) = match part.split_once("!=") {
        Some((name, value)) => (name, other(value)),
        None => {
            let (name, value) = part.split_once('=')?;
            (name, equal(value.strip_prefix('=').unwrap_or(value)))
        }
    };
    Some((name.trim().to_owned(), wanted)).filter(|(name, _)| !name.is_empty())
}

fn label(part: &str) -> Option<(String, Wanted)> {
    let is_name =
        |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || "!()=".contains(c));
    if let Some((before, rest)) = part.split_once('(') {
        let mut words = before.split_whitespace();
        let (name, word) = (words.next()?, words.next()?);
        let values = rest.strip_suffix(')').filter(|values| !values.contains(['(', ')', '=']))?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let wanted = match word {
            "in" => Wanted::In(values),
            "notin" => Wanted::NotIn(values),
            _ => return None,
        };
        return (words.next().is_none() && is_name(name)).then(|| (name.to_owned(), wanted));
    }
    if part.contains('=') {
        return comparison(part);
    }
    let (name, wanted) = match part.strip_prefix('!') {
        Some(name) => (name, Wanted::Absent),
        None => (part, Wanted::Present),
    };
    is_name(name).then(|| (name.to_owned(), wanted))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_conditions_must_hold() {
        let matches = |selector: &str| {
            let labels =
                |name: &str| [("a", "1"), ("b", "")].iter().find(|(own, _)| *own == name).map(|(_, v)| *v);
            Selector::of_labels(Some(selector)).unwrap().matches(labels)
        };
        for good in [
            "",
            "a",
            "a=1",
            "a==1",
            " a = 1 , b ",
            "b=",
            "a!=2",
            "c!=1",
            "!c",
            "a,!c,a!=0,",
            "a in (1, 2)",
            "a in (1),b in ()",
            "c notin (1,2),a",
            "a notin (2)",
        ] {
            assert!(matches(good), "{good}");
        }
        for bad in [
            "c",
            "a=2",
            "a!=1",
            "!a",
            "a=1,b=1",
            "a=",
            "c=",
            "a in (2,3)",
            "c in (1)",
            "a notin (0,1)",
            "a in ()",
        ] {
            assert!(!matches(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in
            ["=1", "!=1", "a in (1,2", "a in 1", "a within (1)", "in (1)", "a in (1))", "!", "!!a", "a b"]
        {
            assert!(Selector::of_labels(Some(bad)).is_err(), "{bad}");
        }
        for bad in ["metadata.name", "spec.x=1", "=1"] {
            assert!(Selector::of_fields(Some(bad), &["metadata.name"]).is_err(), "{bad}");
        }
        assert!(Selector::of_fields(Some("metadata.name!=x"), &["metadata.name"]).is_ok());
    }
}
