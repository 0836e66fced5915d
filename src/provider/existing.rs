//! Clusters that somebody else runs: nothing is launched and nothing ended, only found.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::ray::{RAY_VERSIONS, dashboard::Dashboard, is_supported, tokens};
use super::{Directories, EndedNode, NodeLaunch, NodeProvider, Opening, rejected};
use crate::action::EffectError;
use crate::api::cluster::Provider;
use crate::api::meta::ObjectKey;
use crate::api::record::Incarnation;

/// The provider of clusters that are there already.
pub struct Existing {
    directories: Directories,
}

impl Existing {
    /// A provider that keeps its files there.
    pub fn new(directories: Directories) -> Self {
        Self { directories }
    }

    async fn find(&self, opening: Opening) -> Result<Incarnation, EffectError> {
        let Provider::Existing(provider) = &opening.spec.provider else {
            return Err(rejected("not an existing cluster"));
        };
        let address = provider.dashboard();
        let token = tokens::for_cluster(&self.directories, &opening.cluster, &opening.spec)?;
        let dashboard = Dashboard::new(&address, token)?;
        let version = dashboard.version().await?;
        if !is_supported(&version) {
            return Err(rejected(format!(
                "{address} runs Ray {version}, which is not supported ({RAY_VERSIONS} is)"
            )));
        }
        Ok(Incarnation {
            id: opening.id,
            since: Timestamp::now(),
            dashboard: address,
            agent: dashboard.beside(provider.agent_port)?,
            ray_version: version,
            missing: Vec::new(),
            local: None,
            aws: None,
        })
    }
}

impl NodeProvider for Existing {
    fn open(&self, opening: Opening) -> BoxFuture<'_, Result<Incarnation, EffectError>> {
        self.find(opening).boxed()
    }

    fn close<'a>(&'a self, _: &'a ObjectKey, _: &'a str) -> BoxFuture<'a, Result<(), EffectError>> {
        async { Ok(()) }.boxed()
    }

    fn launch<'a>(
        &'a self,
        _: &'a ObjectKey,
        _: &'a Incarnation,
        node: NodeLaunch,
    ) -> BoxFuture<'a, Result<(), EffectError>> {
        async move { Err(rejected(format!("node {} cannot be launched on somebody else's cluster", node.name))) }.boxed()
    }

    fn terminate<'a>(&'a self, _: &'a ObjectKey, _: EndedNode) -> BoxFuture<'a, Result<(), EffectError>> {
        async { Ok(()) }.boxed()
    }
}
