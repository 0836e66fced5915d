//! Destroying a cluster of which nothing is known but its tags.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::client::Clients;
use super::find::FoundCluster;
use super::tags::{INCARNATION_TAG, Marks, cluster_filter, tag};
use super::{close, instances, parameters};
use crate::action::{EffectError, ErrorKind};
use crate::api::cluster::AuthMode;
use crate::api::meta::ObjectKey;
use crate::api::observed::InstancePhase;
use crate::api::words::count_are;

/// How long nothing may get on. EC2 gives an instance's system some minutes to shut down.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked whether it has.
const POLL: Duration = Duration::from_secs(2);
/// The most that are ended in one call.
const BATCH: usize = 500;

/// Ends every instance that carries a cluster's uid, waits until they have ended, and removes what they shared. Gives
/// how many there were. It can be repeated.
///
/// # Errors
/// If something cannot be removed, or does not end in time.
pub async fn destroy(found: &FoundCluster, say: &(dyn Fn(&str) + Sync)) -> Result<usize, EffectError> {
    let clients = Clients::of(&found.region).await;
    let mut work = Work { found, incarnations: found.incarnations.clone(), ended: 0 };
    let (mut said, mut since) = (String::new(), Instant::now());
    loop {
        let obstacle = match work.go_on(&clients).await {
            Ok(None) => return Ok(work.ended),
            Ok(Some(obstacle)) => obstacle,
            Err(error) if error.kind == ErrorKind::Unavailable => error.message,
            Err(error) => return Err(error),
        };
        if obstacle != said {
            say(&obstacle);
            (said, since) = (obstacle, Instant::now());
        } else if since.elapsed() > PATIENCE {
            let message = format!("{said}, and nothing has changed for {} minutes", PATIENCE.as_secs() / 60);
            return Err(EffectError { kind: ErrorKind::Unavailable, message });
        }
        tokio::time::sleep(POLL).await;
    }
}

struct Work<'a> {
    found: &'a FoundCluster,
    incarnations: BTreeSet<String>,
    /// How many instances were ended.
    ended: usize,
}

impl Work<'_> {
    /// Does what can be done now; says what it waits for, if it does.
    async fn go_on(&mut self, clients: &Clients) -> Result<Option<String>, EffectError> {
        let uid = &self.found.uid;
        let all = instances::describe(clients, uid, vec![cluster_filter(uid)]).await?;
        self.incarnations
            .extend(all.iter().filter_map(|it| tag(it.tags(), INCARNATION_TAG)).map(str::to_owned));
        let left = all.iter().filter_map(instances::observed);
        let left: Vec<_> = left.filter(|(_, seen)| seen.phase != InstancePhase::Terminated).collect();
        let to_end = left.iter().filter(|(_, seen)| !seen.phase.is_ending());
        let to_end: Vec<String> = to_end.map(|(id, _)| id.to_string()).collect();
        for batch in to_end.chunks(BATCH) {
            instances::end_all(clients, batch.to_vec()).await?;
            self.ended += batch.len();
        }
        if !left.is_empty() {
            return Ok(Some(format!("{} being ended", count_are(left.len(), "instance"))));
        }
        let nothing = BTreeMap::new();
        // Of a cluster without that tag nothing was made whose name has the cluster's in it.
        let cluster = self.found.key.clone().unwrap_or_else(|| ObjectKey::new("", ""));
        for incarnation in &self.incarnations {
            let marks = Marks { uid, cluster: cluster.clone(), incarnation, more: &nothing };
            close::remove_shared(clients, &marks).await?;
        }
        // Nobody knows whether it had a token: one that may not be deleted must not be passed over.
        parameters::delete(clients, self.found.key.as_ref(), uid, AuthMode::Token).await?;
        Ok(None)
    }
}
