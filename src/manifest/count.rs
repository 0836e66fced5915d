//! How much a document comes to, counted before any of it is kept.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// So many bytes of a string weigh as much as a value.
const BYTES: usize = 16;

/// How many more values there may be. Names count, long strings count as several values, and what an alias stands for
/// counts each time.
pub(crate) struct Room {
    left: Cell<Option<usize>>,
}

impl Room {
    /// Room for so many values.
    pub(crate) fn of(values: usize) -> Self {
        Self { left: Cell::new(Some(values)) }
    }

    /// Takes what a document needs.
    ///
    /// # Errors
    /// If there is not enough, or the document cannot be read.
    pub(crate) fn take<'de, D: Deserializer<'de>>(&self, document: D) -> Result<(), D::Error> {
        Count { room: self }.deserialize(document)
    }

    /// Whether there was not enough.
    pub(crate) fn is_over(&self) -> bool {
        self.left.get().is_none()
    }
}

#[derive(Clone, Copy)]
struct Count<'a> {
    room: &'a Room,
}

impl Count<'_> {
    fn take<E: Error>(self, text: &str) -> Result<(), E> {
        let left = self.room.left.get().and_then(|left| left.checked_sub(1 + text.len() / BYTES));
        self.room.left.set(left);
        left.map(|_| ()).ok_or_else(|| E::custom("there are too many values"))
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.take("")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.take("")
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.take("")
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.take("")
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.take("")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.take(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.take("")?;
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.take("")?;
        while entries.next_key_seed(self)?.is_some() {
            entries.next_value_seed(self)?;
        }
        Ok(())
    }

    /// A value with a tag.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<(), A::Error> {
        let ((), value) = tagged.variant_seed(self)?;
        value.newtype_variant_seed(self)
    }
}
