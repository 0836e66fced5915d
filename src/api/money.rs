//! US dollars, exactly: prices for an hour, and what they come to.

use std::borrow::Cow;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};

use super::units::{UnitError, UnitVisitor, scaled};

const BAD_MONEY: UnitError = UnitError("must be US dollars such as \"1.006\"");
/// How many of our grains a dollar has. AWS's prices have up to ten digits, of which the last ones come to nothing.
const DOLLAR: u64 = 1_000_000_000;
const CENT: u64 = DOLLAR / 100;
const MILLIS_OF_AN_HOUR: u128 = 3_600_000;

/// An amount in thousand-millionths of a US dollar; where it is a price, it is that of an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(pub u64);

impl Money {
    /// What a price for an hour comes to in some time.
    pub fn over(self, time: SignedDuration) -> Self {
        let millis = u128::try_from(time.as_millis()).unwrap_or(0);
        let amount = u128::from(self.0) * millis / MILLIS_OF_AN_HOUR;
        Self(u64::try_from(amount).unwrap_or(u64::MAX))
    }

    /// What is left of it; nothing if that is more.
    pub fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// A part of it: so many of so many.
    pub fn share(self, part: u32, whole: u32) -> Self {
        let amount = u128::from(self.0) * u128::from(part) / u128::from(whole.max(1));
        Self(u64::try_from(amount).unwrap_or(u64::MAX))
    }

    /// A sum for people: `$3.41`.
    pub fn dollars(self) -> String {
        if (1..CENT).contains(&self.0) {
            return "<$0.01".to_owned();
        }
        let cents = self.0 / CENT + u64::from(self.0 % CENT >= CENT / 2);
        format!("${}.{:02}", cents / 100, cents % 100)
    }

    /// A price for people, with as many digits as it has: `$0.40/h`, `$1.006/h`.
    pub fn hourly(self) -> String {
        let text = self.to_string();
        let digits = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let point = if digits == 0 { "." } else { "" };
        format!("${text}{point}{}/h", "0".repeat(2usize.saturating_sub(digits)))
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Add::add)
    }
}

impl FromStr for Money {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let whole =
            text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(|c: char| c.is_ascii_digit());
        let amount = scaled(text, |unit| unit.is_empty().then_some(u128::from(DOLLAR)));
        amount.filter(|_| whole).map(Self).ok_or(BAD_MONEY)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 / DOLLAR)?;
        match self.0 % DOLLAR {
            0 => Ok(()),
            fraction => write!(f, ".{}", format!("{fraction:09}").trim_end_matches('0')),
        }
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor(std::marker::PhantomData))
    }
}

impl JsonSchema for Money {
    fn schema_name() -> Cow<'static, str> {
        "Money".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["number", "string"], "format": "dollars"})
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn amounts_are_decimals_and_are_printed_as_they_were() {
        for text in ["0", "1", "0.4", "1.006", "21.957642", "0.00001", "98.32"] {
            assert_eq!(money(text).to_string(), text);
        }
        assert_eq!(money("0.40"), money("0.4"));
        for text in ["", "-1", ".5", "1.", "1e3", "inf", "$1.75", "1.75 USD", "1,50", "99999999999"] {
            assert_eq!(text.parse::<Money>(), Err(BAD_MONEY), "{text}");
        }
    }

    #[test]
    fn a_price_comes_to_an_exact_amount() {
        assert_eq!(money("1.006").over(SignedDuration::from_mins(90)), money("1.509"));
        assert_eq!(money("0.00001").over(SignedDuration::from_hours(24)), money("0.00024"));
        assert_eq!(money("98.32").over(SignedDuration::from_hours(24 * 365)), money("861283.2"));
        assert_eq!(money("98.32").over(SignedDuration::from_secs(-5)), Money::default());
        assert_eq!(money("1.2").share(1, 3), money("0.4"));
    }

    #[test]
    fn people_see_cents_and_prices_whole() {
        for (text, dollars) in [
            ("0", "$0.00"),
            ("0.004", "<$0.01"),
            ("3.405", "$3.41"),
            ("0.995", "$1.00"),
            ("1234", "$1234.00"),
        ] {
            assert_eq!(money(text).dollars(), dollars);
        }
        for (text, price) in
            [("0.4", "$0.40/h"), ("1.006", "$1.006/h"), ("5", "$5.00/h"), ("0.00001", "$0.00001/h")]
        {
            assert_eq!(money(text).hourly(), price);
        }
    }
}
