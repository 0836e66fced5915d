//! The outside world: Ray clusters, the processes of this machine, and whatever else nodes come from.
//!
//! Nothing here decides anything. Every call can be repeated: it looks for what it was to make before it makes it.

#[cfg(feature = "ec2")]
pub mod aws;
pub mod existing;
pub mod local;
pub mod ray;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::Timestamp;

use crate::action::{EffectError, ErrorKind};
use crate::api::aws::Offering;
use crate::api::cluster::{NodeTemplate, Provider, RayClusterSpec};
use crate::api::cost::{ListPrices, SpotPrices};
use crate::api::ids::{InstanceId, IntentId, NodeName};
use crate::api::meta::ObjectKey;
use crate::api::object::RayCluster;
use crate::api::observed::Instances;
use crate::api::record::Incarnation;
use crate::api::units::Span;

/// What is needed to launch a node.
#[derive(Clone, Debug)]
pub struct NodeLaunch {
    /// Its name.
    pub name: NodeName,
    /// The intent it is launched by; its processes carry this.
    pub launch: IntentId,
    /// The how-many-eth launch of the cluster it is.
    pub index: u64,
    /// Its group; none is the head.
    pub group: Option<String>,
    /// What it is.
    pub template: NodeTemplate,
    /// What EC2 is asked for.
    pub offering: Option<Offering>,
    /// How long a node of its cluster may not answer before it is taken for lost.
    pub failure_timeout: Span,
}

/// What is needed to end a node.
#[derive(Clone, Debug)]
pub struct EndedNode {
    /// The incarnation of the cluster it was launched in.
    pub incarnation: String,
    /// The intent it was launched by.
    pub launch: IntentId,
    /// The how-many-eth launch of the cluster it was.
    pub index: u64,
    /// Since when it has been wanted gone.
    pub since: Timestamp,
}

/// What a new incarnation is made from.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The cluster.
    pub cluster: ObjectKey,
    /// The id the incarnation will have.
    pub id: String,
    /// What the cluster is to be.
    pub spec: RayClusterSpec,
}

/// Where a cluster's nodes come from.
pub trait NodeProvider: Send + Sync {
    /// Finds out where the cluster is or shall be.
    ///
    /// # Errors
    /// If what it needs is missing, in words that say how to get it.
    fn open(&self, opening: Opening) -> BoxFuture<'_, Result<Incarnation, EffectError>>;

    /// Removes what an ended incarnation left lying about.
    ///
    /// # Errors
    /// If something cannot be removed.
    fn close<'a>(
        &'a self,
        cluster: &'a ObjectKey,
        incarnation: &'a str,
    ) -> BoxFuture<'a, Result<(), EffectError>>;

    /// Starts a node, unless it was started before.
    ///
    /// # Errors
    /// If it cannot be started.
    fn launch<'a>(
        &'a self,
        cluster: &'a ObjectKey,
        incarnation: &'a Incarnation,
        node: NodeLaunch,
    ) -> BoxFuture<'a, Result<(), EffectError>>;

    /// Ends whatever was started for a launch; when this returns nothing of it lives, or EC2 was told to end it.
    ///
    /// # Errors
    /// If something cannot be ended.
    fn terminate<'a>(
        &'a self,
        cluster: &'a ObjectKey,
        ended: EndedNode,
    ) -> BoxFuture<'a, Result<(), EffectError>>;

    /// All instances that carry the cluster's mark, whatever incarnation they are of. Of those of the launches that are
    /// late the end of what they printed is told too, as far as it can be had: they will be ended if they do not join.
    ///
    /// # Errors
    /// If they cannot all be listed.
    fn instances<'a>(
        &'a self,
        _late: &'a BTreeSet<IntentId>,
    ) -> BoxFuture<'a, Result<Instances, EffectError>> {
        async { Ok(Instances::new()) }.boxed()
    }

    /// What spot instances of some types cost now.
    ///
    /// # Errors
    /// If nobody says.
    fn spot_prices<'a>(&'a self, _: &'a BTreeSet<String>) -> BoxFuture<'a, Result<SpotPrices, EffectError>> {
        async { Ok(SpotPrices::new()) }.boxed()
    }

    /// What on-demand instances of some types cost, as AWS's price list has it.
    ///
    /// # Errors
    /// If it cannot be asked.
    fn list_prices<'a>(&'a self, _: &'a BTreeSet<String>) -> BoxFuture<'a, Result<ListPrices, EffectError>> {
        async { Err(rejected("its nodes have no prices")) }.boxed()
    }

    /// Ends an instance that carries the cluster's mark.
    ///
    /// # Errors
    /// If it cannot be ended, or is not the cluster's.
    fn end_instance<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Result<(), EffectError>> {
        async move { Err(rejected(format!("instance {instance} is not on EC2"))) }.boxed()
    }
}

/// The provider that a cluster's manifest names.
///
/// # Errors
/// If this program was built without it.
pub fn for_cluster(
    cluster: &RayCluster,
    directories: &Directories,
) -> Result<Box<dyn NodeProvider>, EffectError> {
    Ok(match &cluster.spec.provider {
        Provider::Local(_) => Box::new(local::Local::new(directories.clone())),
        Provider::Existing(_) => Box::new(existing::Existing::new(directories.clone())),
        #[cfg(feature = "ec2")]
        Provider::Aws(_) => Box::new(aws::Aws::new(cluster.clone(), directories.clone())),
        #[cfg(not(feature = "ec2"))]
        Provider::Aws(_) => {
            return Err(rejected("this rayconcile was built without EC2 (its feature `ec2`)"));
        }
    })
}

/// Where things are kept on this machine.
#[derive(Clone, Debug)]
pub struct Directories {
    /// The state directory.
    pub state: PathBuf,
}

impl Directories {
    /// The directory of a cluster: its tokens and its nodes' output.
    pub fn cluster(&self, key: &ObjectKey) -> PathBuf {
        self.state.join("clusters").join(format!("{}.{}", key.namespace, key.name))
    }

    /// The directory of packages.
    pub fn packages(&self) -> PathBuf {
        self.state.join("packages")
    }
}

/// An effect that was refused and will be again until something changes.
pub(crate) fn rejected(message: impl Into<String>) -> EffectError {
    EffectError { kind: ErrorKind::Rejected, message: message.into() }
}

/// An effect that may or may not have happened.
pub(crate) fn unavailable(message: impl Into<String>) -> EffectError {
    EffectError { kind: ErrorKind::Unavailable, message: message.into() }
}

/// What went wrong with a file, in words.
pub(crate) fn io(action: &str, path: &Path, error: &std::io::Error) -> EffectError {
    unavailable(format!("cannot {action} {}: {error}", path.display()))
}
