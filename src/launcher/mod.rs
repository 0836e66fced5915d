//! A controller inside a cluster: where only the dashboard can be reached, this program runs on the head itself, as a
//! Ray job. It is brought there as a package, and what it writes is the Ray job's output.
//!
//! Each training job has a Ray job of its own, which attends to it (`cli/hosted.rs`). All of a cluster share one
//! state directory on the head, and one of them holds the controller; when that one ends, another takes it.

pub mod follow;
pub mod hosting;
pub mod lines;
pub mod probe;
pub mod program;

use crate::action::EffectError;
use crate::api::cluster::{Auth, AuthMode};
use crate::api::job::ValueSource;
use crate::provider::ray::dashboard::Dashboard;
use crate::provider::ray::tokens::look_up;
use crate::provider::rejected;

/// Where Ray's token is found, in the order in which Ray's own tools look: the first that is there.
fn token_source() -> Option<ValueSource> {
    if std::env::var("RAY_AUTH_TOKEN").is_ok_and(|token| !token.is_empty()) {
        return Some(ValueSource { env: Some("RAY_AUTH_TOKEN".to_owned()), file: None });
    }
    let named = std::env::var_os("RAY_AUTH_TOKEN_PATH").filter(|path| !path.is_empty()).map(Into::into);
    let usual =
        || std::env::home_dir().map(|home| home.join(".ray/auth_token")).filter(|path| path.is_file());
    let path: std::path::PathBuf = named.or_else(usual)?;
    Some(ValueSource { env: None, file: Some(path.display().to_string()) })
}

/// A client of the dashboard at an address, and how the cluster is protected, as a manifest says it.
///
/// # Errors
/// If nothing answers there, or it asks for a token that there is not.
pub async fn connect(address: &str) -> Result<(Dashboard, Auth), EffectError> {
    let open = Dashboard::new(address, None)?;
    if !open.asks_for_token().await? {
        return Ok((open, Auth { mode: AuthMode::None, token_from: None }));
    }
    let Some(source) = token_source() else {
        return Err(rejected(format!(
            "{address} asks for Ray's token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or put it into \
             ~/.ray/auth_token"
        )));
    };
    let token = look_up(&source, None)?.trim().to_owned();
    let dashboard = Dashboard::new(address, Some(token))?;
    // A wrong one is told of now, and not in the middle.
    dashboard.version().await?;
    Ok((dashboard, Auth { mode: AuthMode::Token, token_from: Some(source) }))
}
