//! Who may use the API, and what for.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What the bearer of a token may do. Each may also do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See everything but tokens.
    View,
    /// Make, change and delete objects.
    Edit,
    /// Give out tokens, steer watched directories, give up what cannot be reached.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::View, Self::Edit, Self::Admin];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::View => "view",
            Self::Edit => "edit",
            Self::Admin => "admin",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|role| role.to_string() == text);
        known.ok_or_else(|| format!("a role is view, edit or admin, not {text:?}"))
    }
}

/// What is known of a token; not the token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenView {
    /// Whose it is.
    pub name: String,
    /// What it opens.
    pub role: Role,
    /// When it was made.
    pub created: Timestamp,
}

/// A token that was made just now: the only time that it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewToken {
    /// What is known of it from now on.
    #[serde(flatten)]
    pub view: TokenView,
    /// The token.
    pub token: String,
}
