//! Where something is in object storage: `s3://BUCKET/KEY`.

use std::fmt;
use std::str::FromStr;

/// What addresses of object storage begin with.
const SCHEME: &str = "s3://";

/// A place in a bucket: an object, or what its objects' names begin with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketAddress {
    /// The bucket.
    pub bucket: String,
    /// The name in it, without a slash at either end; empty for the bucket itself.
    pub key: String,
}

impl BucketAddress {
    /// Whether a text is meant for an address, good or bad, and not for a path of a machine.
    pub fn is_meant(text: &str) -> bool {
        text.contains("://")
    }

    /// What is below this place under a name.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let separator = if self.key.is_empty() { "" } else { "/" };
        Self { bucket: self.bucket.clone(), key: format!("{}{separator}{name}", self.key) }
    }
}

impl fmt::Display for BucketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.key.is_empty() { "" } else { "/" };
        write!(f, "{SCHEME}{}{separator}{}", self.bucket, self.key)
    }
}

impl FromStr for BucketAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let rest = text.strip_prefix(SCHEME).ok_or(BadAddress::Scheme)?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        // Amazon S3 User Guide, "Bucket naming rules".
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let ends = edge(bucket.chars().next()) && edge(bucket.chars().next_back());
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(inner) || !ends {
            return Err(BadAddress::Bucket);
        }
        let key = key.strip_suffix('/').unwrap_or(key);
        // "Object key naming guidelines": the safe characters, and those that are common and do no harm.
        let safe = |c: char| c.is_ascii_alphanumeric() || "!-_.*'()/=+,@".contains(c);
        let named = |part: &str| !matches!(part, "" | "." | "..");
        if !key.chars().all(safe) || !(key.is_empty() || key.split('/').all(named)) {
            return Err(BadAddress::Key);
        }
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// It is another kind of address, or none.
    #[error("must be s3://BUCKET/PREFIX")]
    Scheme,
    /// No bucket has that name.
    #[error(
        "must name a bucket: 3 to 63 lower-case letters, digits, `-` and `.`, a letter or digit at both ends"
    )]
    Bucket,
    /// No prefix that everything copes with.
    #[error(
        "must have a prefix of letters, digits and !-_.*'()=+,@ between single slashes, without `.` and `..`"
    )]
    Key,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        for text in ["s3://bucket", "s3://a.b-3/x", "s3://bucket/team=a/runs_1/v1.0"] {
            assert_eq!(text.parse::<BucketAddress>().unwrap().to_string(), text);
        }
        let slash: BucketAddress = "s3://bucket/x/".parse().unwrap();
        assert_eq!(slash.join("y/z").to_string(), "s3://bucket/x/y/z");
        assert_eq!("s3://bucket/".parse::<BucketAddress>().unwrap().join("y").to_string(), "s3://bucket/y");
    }

    #[test]
    fn bad_ones_are_told_apart() {
        for (text, error) in [
            ("gs://bucket/x", BadAddress::Scheme),
            ("/a/path", BadAddress::Scheme),
            ("s3://", BadAddress::Bucket),
            ("s3://Bucket/x", BadAddress::Bucket),
            ("s3://-bucket/x", BadAddress::Bucket),
            ("s3://bucket//x", BadAddress::Key),
            ("s3://bucket/x/../y", BadAddress::Key),
            ("s3://bucket/a b", BadAddress::Key),
        ] {
            assert_eq!(text.parse::<BucketAddress>(), Err(error), "{text}");
        }
    }
}
