//! "Did you mean": what was probably meant by a word that is not known.

use crate::api::money::Money;
use crate::api::units::{Bytes, Span};

/// The candidate that a word was probably meant to be: the same but for case, `-` and `_`, or but for a few
/// letters.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = plain(word);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= word.len().min(candidate.len()).div_ceil(4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A text of a reasonable length to compare, as it is apart from how it is written.
fn plain(word: &str) -> String {
    word.chars().take(64).filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect()
}

/// A duration that was probably meant: `90 seconds`, `5min`, or a bare number, which are seconds.
pub(super) fn duration(text: &str) -> Option<String> {
    let (number, unit) = amount(text)?;
    let unit = match unit.as_str() {
        "" | "sec" | "secs" | "second" | "seconds" | "s" => "s",
        "min" | "mins" | "minute" | "minutes" | "m" => "m",
        "hr" | "hrs" | "hour" | "hours" | "h" => "h",
        "day" | "days" | "d" => "d",
        "msec" | "millis" | "milliseconds" | "ms" => "ms",
        _ => return None,
    };
    let meant = format!("{number}{unit}");
    meant.parse::<Span>().is_ok().then_some(meant)
}

/// A number of bytes that was probably meant: `8GB`, `8 GiB`, `512mb`.
pub(super) fn bytes(text: &str) -> Option<String> {
    let (number, unit) = amount(text)?;
    let unit = unit.strip_suffix("bytes").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let unit = match unit.strip_suffix('i').unwrap_or(unit) {
        "" => "",
        "k" => "Ki",
        "m" => "Mi",
        "g" => "Gi",
        "t" => "Ti",
        _ => return None,
    };
    let meant = format!("{number}{unit}");
    meant.parse::<Bytes>().is_ok().then_some(meant)
}

/// An amount of dollars that was probably meant: `$1.75`, `1.75 USD`.
pub(super) fn dollars(text: &str) -> Option<String> {
    let meant = text.trim_matches(|c: char| !c.is_ascii_digit());
    (!text.starts_with(['-', '.']) && meant.parse::<Money>().is_ok()).then(|| format!("{meant:?}"))
}

/// A number and the lower-case word after it.
fn amount(text: &str) -> Option<(&str, String)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (!number.is_empty()).then(|| (number, unit.trim().to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_word_is_found() {
        let fields = ["minReplicas", "maxReplicas", "priority", "env"];
        assert_eq!(closest("min_replicas", fields), Some("minReplicas"));
        assert_eq!(closest("minreplica", fields), Some("minReplicas"));
        assert_eq!(closest("prioritiy", fields), Some("priority"));
        assert_eq!(closest("envs", fields), Some("env"));
        for word in ["image", "e", "", "xyz"] {
            assert_eq!(closest(word, fields), None, "{word}");
        }
    }

    #[test]
    fn units_are_guessed() {
        for (text, meant) in
            [("90", "90s"), ("90 seconds", "90s"), ("5 Min", "5m"), ("1.5 hours", "1.5h"), ("7days", "7d")]
        {
            assert_eq!(duration(text).as_deref(), Some(meant), "{text}");
        }
        for (text, meant) in [("8GB", "8Gi"), ("8 GiB", "8Gi"), ("512mb", "512Mi"), ("100 bytes", "100")] {
            assert_eq!(bytes(text).as_deref(), Some(meant), "{text}");
        }
        for (text, meant) in [("$1.75", "\"1.75\""), ("1.75 USD/h", "\"1.75\""), ("1.", "\"1\"")] {
            assert_eq!(dollars(text).as_deref(), Some(meant), "{text}");
        }
        for text in ["", "-1", ".5", "free", "1,75"] {
            assert_eq!(dollars(text), None, "{text}");
        }
        for text in ["", "soon", "1 fortnight", "1..2h"] {
            assert_eq!(duration(text), None, "{text}");
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
