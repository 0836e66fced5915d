//! Reading one value of a worker's hints, and saying what is wrong with it.

use std::fmt;

use serde_json::{Map, Value};
use thiserror::Error;

use super::batch::{BatchSize, LimitsError};
use super::params::OutOfBounds;

/// Longest part of a refused value that an error repeats, in characters.
const SHOWN: usize = 40;

/// Why hints were refused.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum HintError {
    /// Not hints at all.
    #[error("hints are {found}, expected an object")]
    NotAnObject {
        /// What was sent, shortened.
        found: String,
    },
    /// A field was left out, or holds something of another type or out of bounds.
    #[error("hint {field} is {found}, expected {expected}")]
    Invalid {
        /// The field, as a path.
        field: &'static str,
        /// What was sent, shortened.
        found: String,
        /// What is allowed there.
        expected: Expected,
    },
    /// Two fields contradict each other.
    #[error("hint {0}")]
    Contradiction(#[from] LimitsError),
}

impl HintError {
    pub(super) fn not_an_object(found: &Value) -> Self {
        Self::NotAnObject { found: shown(found) }
    }
}

/// What a field of the hints may hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Expected {
    /// An object.
    Object,
    /// True or false.
    Boolean,
    /// A pair of bounds, of which either may be null.
    Pair,
    /// A whole number.
    Integer {
        /// The least allowed.
        min: u32,
        /// The greatest allowed.
        max: u32,
    },
    /// A number.
    Number {
        /// The least allowed.
        min: f64,
        /// The greatest allowed.
        max: f64,
    },
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object => f.write_str("an object"),
            Self::Boolean => f.write_str("true or false"),
            Self::Pair => f.write_str("two bounds, of which either may be null"),
            Self::Integer { min, max } => write!(f, "an integer from {min} to {max}"),
            Self::Number { min, max } => write!(f, "a number from {min:?} to {max:?}"),
        }
    }
}

/// One value of the hints, with its place.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    path: &'static str,
    /// `None` when it was left out.
    value: Option<&'a Value>,
}

impl<'a> Field<'a> {
    /// The field of this object that the last part of `path` names.
    pub(super) fn of(object: &'a Map<String, Value>, path: &'static str) -> Self {
        let name = path.rsplit('.').next().unwrap_or(path);
        Self { path, value: object.get(name) }
    }

    /// `None` when the field was left out or is null.
    pub(super) fn given(self) -> Option<Self> {
        self.value.is_some_and(|value| !value.is_null()).then_some(self)
    }

    pub(super) fn object(self) -> Result<&'a Map<String, Value>, HintError> {
        self.value.and_then(Value::as_object).ok_or_else(|| self.invalid(Expected::Object))
    }

    pub(super) fn boolean(self) -> Result<bool, HintError> {
        self.value.and_then(Value::as_bool).ok_or_else(|| self.invalid(Expected::Boolean))
    }

    /// The two elements of an array.
    pub(super) fn pair(self, first: &'static str, second: &'static str) -> Result<(Self, Self), HintError> {
        match self.value.and_then(Value::as_array).map(Vec::as_slice) {
            Some([a, b]) => Ok((Self { path: first, value: Some(a) }, Self { path: second, value: Some(b) })),
            _ => Err(self.invalid(Expected::Pair)),
        }
    }

    /// A whole number within bounds. One that is written with a fraction of zero counts: a script may well
    /// give `1e3` for a bound, and AdaptDL passes it on.
    pub(super) fn integer(self, min: u32, max: u32) -> Result<u32, HintError> {
        self.value
            .and_then(Value::as_f64)
            .filter(|number| number.fract() == 0.0)
            .filter(|number| (f64::from(min)..=f64::from(max)).contains(number))
            .map(|number| number as u32)
            .ok_or_else(|| self.invalid(Expected::Integer { min, max }))
    }

    pub(super) fn batch_size(self) -> Result<BatchSize, HintError> {
        let samples = self.integer(1, BatchSize::MAX)?;
        BatchSize::new(samples.into())
            .ok_or_else(|| self.invalid(Expected::Integer { min: 1, max: BatchSize::MAX }))
    }

    /// AdaptDL reads a 0 as "not given" (`hints.get("maxBatchSize") or …`).
    pub(super) fn batch_size_unless_zero(self) -> Result<Option<BatchSize>, HintError> {
        self.integer(0, BatchSize::MAX).map(|samples| BatchSize::new(samples.into()))
    }

    /// A number within the bounds of its type.
    pub(super) fn number<T: TryFrom<f64, Error = OutOfBounds>>(self) -> Result<T, HintError> {
        // What is no number is outside all bounds, and so is a NaN.
        let number = self.value.and_then(Value::as_f64).unwrap_or(f64::NAN);
        T::try_from(number)
            .map_err(|OutOfBounds { min, max, .. }| self.invalid(Expected::Number { min, max }))
    }

    fn invalid(self, expected: Expected) -> HintError {
        let found = self.value.map_or_else(|| "missing".to_owned(), shown);
        HintError::Invalid { field: self.path, found, expected }
    }
}

/// A value in a few words; it may be of any size, and hold anything.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(elements) => format!("an array of length {}", elements.len()),
        Value::Object(fields) => format!("an object of size {}", fields.len()),
        Value::String(text) => {
            let start: String = text.chars().take(SHOWN).collect();
            let cut = if start.len() < text.len() { "…" } else { "" };
            format!("the text {start:?}{cut}")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string().chars().take(SHOWN).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refused_values_are_shown_shortened() {
        assert_eq!(shown(&json!(null)), "null");
        assert_eq!(shown(&json!(-1.5)), "-1.5");
        assert_eq!(shown(&json!([[[]], 2])), "an array of length 2");
        assert_eq!(shown(&json!({"a": 1})), "an object of size 1");
        assert_eq!(shown(&json!("NaN\n")), "the text \"NaN\\n\"");
        let long = shown(&json!("é".repeat(1_000_000)));
        assert_eq!(long, format!("the text \"{}\"…", "é".repeat(40)));
    }

    #[test]
    fn integers_are_whole_numbers_within_bounds() {
        let read = |value: Value| Field { path: "x", value: Some(&value) }.integer(1, 1000);
        assert_eq!(read(json!(1)), Ok(1));
        assert_eq!(read(json!(1e3)), Ok(1000));
        for refused in [json!(0), json!(1001), json!(1.5), json!(-1), json!(1e300), json!(u64::MAX)] {
            assert!(read(refused.clone()).is_err(), "{refused}");
        }
        for refused in [json!(true), json!("5"), json!(null), json!([5]), json!({"a": 5})] {
            assert!(read(refused.clone()).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_field_that_was_left_out_is_not_given() {
        let object = Map::from_iter([("a".to_owned(), json!(null)), ("b".to_owned(), json!(false))]);
        assert!(Field::of(&object, "a").given().is_none());
        assert!(Field::of(&object, "x.b").given().is_some());
        let error = Field::of(&object, "x.c").boolean();
        assert_eq!(
            error.map_err(|e| e.to_string()),
            Err("hint x.c is missing, expected true or false".into())
        );
    }
}
