//! Names and numbers that must not be mistaken for one another.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// Declares a newtype over a string that prints, orders and serializes as the string it holds. A plan of thousands of
/// nodes clones and compares hundreds of thousands of them: a clone allocates nothing, and short ones are held in place.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub SmolStr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// What tells an object from another that had its name before.
    Uid
}
name_type! {
    /// The name of a node of a cluster, as Rayconcile gave it.
    NodeName
}
name_type! {
    /// The identifier that Ray gave a node when it joined (hexadecimal).
    RayNodeId
}
name_type! {
    /// The identifier that EC2 gave an instance.
    InstanceId
}
name_type! {
    /// A reservation on a node that hosts one worker of successive groups.
    SlotId
}
name_type! {
    /// The identifier of an effect that was written down before it was done.
    IntentId
}
name_type! {
    /// A SHA-256 in hexadecimal: what a package, a checkpoint or a program is known by.
    Digest
}

impl Digest {
    /// The first twelve characters: enough for a person.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

/// One incarnation of a job's workers; AdaptDL's restart number. It only grows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct GroupNumber(pub u64);

impl GroupNumber {
    /// The number after this one; a cluster may have named any.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for GroupNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A checkpoint's place in a job's history: the group that saved it, and the how-many-eth save of that group
/// it was. A later place is a newer checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointId {
    /// The group that saved it.
    pub group: GroupNumber,
    /// The how-many-eth save of that group.
    pub number: u64,
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.group, self.number)
    }
}

impl std::str::FromStr for CheckpointId {
    type Err = ();

    /// Reads what `Display` writes, `GROUP-NUMBER`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (group, number) = text.split_once('-').ok_or(())?;
        Ok(Self {
            group: GroupNumber(group.parse().map_err(|_| ())?),
            number: number.parse().map_err(|_| ())?,
        })
    }
}
