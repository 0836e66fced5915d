//! Nodes on EC2: instances that are launched, found again and ended by the tags they carry.
//!
//! Everything that is made in EC2 gets its tags in the call that makes it, so that it is found again whatever reply is
//! lost, by whichever controller; and what does not carry the cluster's uid is never touched. Nothing here tries twice:
//! what fails is said, and the plan decides what then.

mod address;
mod client;
mod close;
mod console;
mod destroy;
mod find;
mod firewall;
mod images;
mod instances;
mod launch;
mod list;
mod open;
mod pace;
mod parameters;
mod prices;
mod tags;
mod types;
mod userdata;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sha2::{Digest as _, Sha256};

use super::{Directories, EndedNode, NodeLaunch, NodeProvider, Opening, rejected};
use crate::action::EffectError;
use crate::api::aws::AwsProvider;
use crate::api::cost::{ListPrices, SpotPrices};
use crate::api::ids::{InstanceId, IntentId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::object::RayCluster;
use crate::api::observed::Instances;
use crate::api::record::Incarnation;
use client::Clients;
use tags::Marks;

pub use destroy::destroy;
pub use find::{FoundCluster, FoundInstance, find, manifest, ray_token};
pub use tags::{CLUSTER_TAG, CLUSTER_UID_TAG, GROUP_TAG, INCARNATION_TAG};

/// The provider of nodes on EC2, for one cluster.
pub struct Aws {
    cluster: RayCluster,
    directories: Directories,
    consoles: console::Consoles,
}

impl Aws {
    /// A provider for a cluster, whose secrets are kept there.
    pub fn new(cluster: RayCluster, directories: Directories) -> Self {
        Self { cluster, directories, consoles: Default::default() }
    }

    fn uid(&self) -> &Uid {
        &self.cluster.metadata.uid
    }

    fn settings(&self) -> Result<&AwsProvider, EffectError> {
        self.cluster.spec.aws().ok_or_else(|| rejected("not a cluster on EC2"))
    }

    async fn clients(&self) -> Result<Arc<Clients>, EffectError> {
        Ok(Clients::of(&self.settings()?.region).await)
    }

    /// The tags of what is made in an incarnation.
    fn marks<'a>(&'a self, settings: &'a AwsProvider, incarnation: &'a str) -> Marks<'a> {
        Marks { uid: self.uid(), cluster: self.cluster.metadata.key(), incarnation, more: &settings.tags }
    }
}

impl NodeProvider for Aws {
    fn open(&self, opening: Opening) -> BoxFuture<'_, Result<Incarnation, EffectError>> {
        open::open(self, opening).boxed()
    }

    fn close<'a>(&'a self, _: &'a ObjectKey, incarnation: &'a str) -> BoxFuture<'a, Result<(), EffectError>> {
        close::close(self, incarnation).boxed()
    }

    fn launch<'a>(
        &'a self,
        _: &'a ObjectKey,
        incarnation: &'a Incarnation,
        node: NodeLaunch,
    ) -> BoxFuture<'a, Result<(), EffectError>> {
        launch::launch(self, incarnation, node).boxed()
    }

    fn terminate<'a>(&'a self, _: &'a ObjectKey, ended: EndedNode) -> BoxFuture<'a, Result<(), EffectError>> {
        instances::terminate(self, ended).boxed()
    }

    fn instances<'a>(
        &'a self,
        late: &'a BTreeSet<IntentId>,
    ) -> BoxFuture<'a, Result<Instances, EffectError>> {
        instances::list(self, late).boxed()
    }

    fn spot_prices<'a>(
        &'a self,
        types: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Result<SpotPrices, EffectError>> {
        prices::spot(self, types).boxed()
    }

    fn list_prices<'a>(
        &'a self,
        types: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Result<ListPrices, EffectError>> {
        list::on_demand(self, types).boxed()
    }

    fn end_instance<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Result<(), EffectError>> {
        instances::end(self, instance).boxed()
    }
}

/// What EC2 recognises a repeated call by: at most 64 characters.
fn client_token(uid: &Uid, what: &str) -> String {
    Sha256::digest(format!("{uid} {what}")).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_token_is_the_same_for_the_same_call_only() {
        let token = client_token(&Uid::from("u"), "launch 1");
        assert_eq!(token.len(), 64);
        assert_eq!(token, client_token(&Uid::from("u"), "launch 1"));
        assert_ne!(token, client_token(&Uid::from("u"), "launch 2"));
        assert_ne!(token, client_token(&Uid::from("v"), "launch 1"));
    }
}
