//! Quantities as Kubernetes writes them and durations as Go writes them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The decimal and binary suffixes of Kubernetes' quantities, with what they multiply by.
const SUFFIXES: [(&str, u128); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

/// Why a text is no quantity or duration: a sentence for a person, without the text itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(pub(super) &'static str);

const BAD_CPU: UnitError = UnitError("must be a number of CPUs such as 2, 0.5 or 500m");
const BAD_BYTES: UnitError = UnitError("must be a number of bytes such as 512Mi, 8Gi or 1500000");
const BAD_SPAN: UnitError = UnitError("must be a duration such as 90s, 10m, 1h30m or 7d");

/// CPUs in thousandths; `cpu` in a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpu(pub u64);

/// Bytes; `memory` in a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// A length of time in milliseconds, as a manifest writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Milliseconds.
    pub millis: u64,
}

/// Splits a decimal number from what follows it and scales it by `scale(suffix)`, rounding up, as Kubernetes
/// does with what is finer than its grain.
pub(super) fn scaled(text: &str, scale: impl Fn(&str) -> Option<u128>) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let grain = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    u64::try_from(digits.checked_mul(scale(suffix)?)?.div_ceil(grain)).ok()
}

impl FromStr for MilliCpu {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let scale = |suffix: &str| match suffix {
            "" => Some(1000),
            "m" => Some(1),
            _ => None,
        };
        scaled(text, scale).map(Self).ok_or(BAD_CPU)
    }
}

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let scale = |suffix: &str| match suffix {
            "" => Some(1),
            _ => SUFFIXES.iter().find(|(name, _)| *name == suffix).map(|(_, factor)| *factor),
        };
        scaled(text, scale).map(Self).ok_or(BAD_BYTES)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "0" {
            return Ok(Self::default());
        }
        let mut millis = 0u64;
        let mut rest = text;
        while !rest.is_empty() {
            let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(BAD_SPAN)?;
            let unit = rest[number..].find(|c: char| c.is_ascii_digit() || c == '.');
            let (part, following) = rest.split_at(unit.map_or(rest.len(), |length| number + length));
            let scale = |unit: &str| match unit {
                "ms" => Some(1),
                "s" => Some(1_000),
                "m" => Some(60_000),
                "h" => Some(3_600_000),
                "d" => Some(86_400_000),
                _ => None,
            };
            millis = scaled(part, scale).and_then(|more| millis.checked_add(more)).ok_or(BAD_SPAN)?;
            rest = following;
        }
        if text.is_empty() || millis > i64::MAX as u64 / 1_000_000 {
            Err(BAD_SPAN)
        } else {
            Ok(Self { millis })
        }
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SUFFIXES[..6]
            .iter()
            .rev()
            .find(|(_, factor)| self.0 != 0 && u128::from(self.0).is_multiple_of(*factor));
        match exact {
            Some((suffix, factor)) => write!(f, "{}{suffix}", u128::from(self.0) / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.millis;
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if left >= millis {
                write!(f, "{}{unit}", left / millis)?;
                left %= millis;
            }
        }
        Ok(())
    }
}

impl MilliCpu {
    /// CPUs as Ray counts them.
    pub fn cpus(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

impl Bytes {
    /// For people: in the largest binary unit that leaves at least one, with one digit after the point.
    pub fn rounded(self) -> String {
        let unit = SUFFIXES[..6].iter().rev().find(|(_, factor)| u128::from(self.0) >= *factor);
        match unit {
            Some((suffix, factor)) => format!("{:.1} {suffix}B", self.0 as f64 / *factor as f64),
            None => format!("{} B", self.0),
        }
    }
}

impl Span {
    /// A length of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self { millis: seconds * 1000 }
    }

    /// As the standard library's.
    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.millis)
    }

    /// As jiff's, for adding to a moment.
    pub fn signed(self) -> jiff::SignedDuration {
        jiff::SignedDuration::from_millis(i64::try_from(self.millis).unwrap_or(i64::MAX))
    }
}

/// Reads a unit from a string or, where `numbers`, from a plain number.
pub(super) struct UnitVisitor<T>(pub(super) std::marker::PhantomData<T>);

impl<T: FromStr<Err = UnitError>> Visitor<'_> for UnitVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a string with a unit")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|error: UnitError| E::custom(format!("{error}, found {text:?}")))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

/// Serde and JSON Schema for the three unit types. `format` names the check that the manifest reader does.
macro_rules! unit_serde {
    ($type:ty, $name:literal, $format:literal, $types:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self.to_string().parse::<u64>() {
                    Ok(number) => serializer.serialize_u64(number),
                    Err(_) => serializer.collect_str(self),
                }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(UnitVisitor(std::marker::PhantomData))
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": $types, "format": $format})
            }
        }
    };
}

unit_serde!(MilliCpu, "Cpu", "cpu", ["number", "string"]);
unit_serde!(Bytes, "Bytes", "bytes", ["integer", "string"]);
unit_serde!(Span, "Duration", "duration", "string");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quantities_parse_as_kubernetes_writes_them() {
        for (text, millis) in [("1", 1000), ("0.5", 500), ("500m", 500), ("2.0001", 2001), ("0", 0)] {
            assert_eq!(text.parse(), Ok(MilliCpu(millis)), "{text}");
        }
        for (text, bytes) in
            [("8Gi", 8 << 30), ("1.5Ki", 1536), ("2k", 2000), ("1", 1), ("3E", 3 * 10u64.pow(18))]
        {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "-1", "1Q", "m", "1..2", "1 Gi", "16Ei", "1e3", ".", "½"] {
            assert_eq!(text.parse::<Bytes>(), Err(BAD_BYTES), "{text}");
            assert_eq!(text.parse::<MilliCpu>(), Err(BAD_CPU), "{text}");
        }
    }

    #[test]
    fn durations_parse_as_go_writes_them() {
        for (text, millis) in [
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("100ms", 100),
            ("7d", 604_800_000),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Span { millis }), "{text}");
        }
        for text in ["", "5", "s", "1x", "-1s", "1h30", "99999999999999d", "1 s"] {
            assert_eq!(text.parse::<Span>(), Err(BAD_SPAN), "{text}");
        }
    }

    #[test]
    fn what_is_printed_parses_to_the_same() {
        for millis in [0, 1, 999, 1000, 61_001, 86_400_000, 90_061_001] {
            assert_eq!(Span { millis }.to_string().parse(), Ok(Span { millis }));
        }
        for bytes in [0, 1, 1023, 1024, 1 << 20, (1 << 30) + 1, u64::MAX] {
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
        for millis in [0, 1, 250, 1000, 1500] {
            assert_eq!(MilliCpu(millis).to_string().parse(), Ok(MilliCpu(millis)));
            let json = serde_json::to_string(&MilliCpu(millis)).unwrap();
            assert_eq!(serde_json::from_str::<MilliCpu>(&json).unwrap(), MilliCpu(millis));
        }
    }
}
