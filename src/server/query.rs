//! What is asked for in an address, after the `?`.

use serde::{Deserialize, Deserializer, de::Error};

use super::error::ApiError;

/// What is asked of a list, or of a watch.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListQuery {
    #[serde(deserialize_with = "flag")]
    pub(super) watch: bool,
    #[serde(deserialize_with = "number")]
    pub(super) resource_version: Option<u64>,
    /// `Exact` or `NotOlderThan`.
    pub(super) resource_version_match: Option<String>,
    pub(super) label_selector: Option<String>,
    pub(super) field_selector: Option<String>,
    /// At most so many; the rest is had with `continue`.
    #[serde(deserialize_with = "number")]
    pub(super) limit: Option<u64>,
    /// From where an earlier list ended.
    pub(super) r#continue: Option<String>,
    /// How long to watch.
    #[serde(deserialize_with = "number")]
    pub(super) timeout_seconds: Option<u64>,
    /// Whether to be told now and then up to which version all has been told.
    #[serde(deserialize_with = "flag")]
    pub(super) allow_watch_bookmarks: bool,
    /// Whether a watch begins with what there is, and says where that ends.
    #[serde(deserialize_with = "flag")]
    pub(super) send_initial_events: bool,
    /// Of a table: what of each object is beside its row.
    pub(super) include_object: Option<String>,
}

/// What is asked of a change.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ChangeQuery {
    /// `All`: say what would be, and change nothing.
    dry_run: Option<String>,
    /// Who changes it.
    field_manager: Option<String>,
    field_validation: Option<String>,
    /// Of an apply: take fields from others. Of a deletion: give up what cannot be reached.
    #[serde(deserialize_with = "flag")]
    pub(super) force: bool,
    /// Of an update: make the object if it is not there. Kubernetes knows no such wish; our command line has it.
    #[serde(deserialize_with = "flag")]
    pub(super) create: bool,
    /// Of a deletion: how long it may take.
    #[serde(deserialize_with = "number")]
    pub(super) grace_period_seconds: Option<u64>,
    /// Of a deletion: what becomes of what the object stands for.
    pub(super) propagation_policy: Option<String>,
    pub(super) label_selector: Option<String>,
    pub(super) field_selector: Option<String>,
}

impl ChangeQuery {
    /// Whether nothing is to be changed.
    pub(super) fn is_dry_run(&self) -> Result<bool, ApiError> {
        is_dry_run(self.dry_run.as_deref())
    }

    /// Who changes it, by the name that the client gives itself, or by that of its program.
    pub(super) fn manager(&self, agent: Option<&str>) -> Result<String, ApiError> {
        match self.field_validation.as_deref() {
            // Whatever is asked: what is not known is refused, for it is a mistake.
            None | Some("" | "Ignore" | "Warn" | "Strict") => {}
            Some(other) => {
                let message = format!("fieldValidation is Ignore, Warn or Strict, not {other:?}");
                return Err(ApiError::bad_request(message));
            }
        }
        let given = self.field_manager.as_deref().filter(|name| !name.is_empty());
        let program = || agent.and_then(|agent| agent.split(['/', ' ']).next()).unwrap_or_default();
        let name = given.unwrap_or_else(program);
        if name.len() > 128 || name.chars().any(char::is_control) {
            return Err(ApiError::bad_request("fieldManager is at most 128 printable characters"));
        }
        Ok(if name.is_empty() { "unknown".to_owned() } else { name.to_owned() })
    }

    /// Whether who changes it gave itself a name, as an apply must.
    pub(super) fn has_manager(&self) -> bool {
        self.field_manager.as_deref().is_some_and(|name| !name.is_empty())
    }
}

/// Whether a `dryRun` means that nothing is to be changed.
pub(super) fn is_dry_run(text: Option<&str>) -> Result<bool, ApiError> {
    match text {
        None => Ok(false),
        Some("All") => Ok(true),
        Some(other) => Err(ApiError::bad_request(format!("dryRun is All or absent, not {other}"))),
    }
}

/// What Go takes for a truth, for so Kubernetes reads it.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        other => Err(D::Error::custom(format!("must be true or false, not {other:?}"))),
    }
}

/// A number; empty is none.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| D::Error::custom(format!("must be a number, not {text:?}")))
}
