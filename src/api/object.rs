//! The kinds of objects, and objects of any kind.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::API_VERSION;
use super::cluster::{Provider, RayClusterSpec};
use super::ids::Uid;
use super::job::AdaptDLJobSpec;
use super::meta::{ObjectKey, ObjectMeta};
use super::status::{AdaptDLJobStatus, RayClusterStatus};

/// The kinds there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A Ray cluster.
    RayCluster,
    /// An elastic training job.
    AdaptDLJob,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::RayCluster, Self::AdaptDLJob];

    /// As in `kind:` of a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::RayCluster => "RayCluster",
            Self::AdaptDLJob => "AdaptDLJob",
        }
    }

    /// As in an address of the API.
    pub fn plural(self) -> &'static str {
        match self {
            Self::RayCluster => "rayclusters",
            Self::AdaptDLJob => "adaptdljobs",
        }
    }

    /// As in `name` of `kubectl get -o name`.
    pub fn singular(self) -> &'static str {
        match self {
            Self::RayCluster => "raycluster",
            Self::AdaptDLJob => "adaptdljob",
        }
    }

    /// The short names people may type.
    pub fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::RayCluster => &["rc", "cluster", "clusters"],
            Self::AdaptDLJob => &["aj", "job", "jobs"],
        }
    }

    /// The kind that a word on the command line means.
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| {
            word == kind.plural() || word == kind.singular() || kind.short_names().contains(&word.as_str())
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An object of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Object<Spec, Status> {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: Spec,
    /// What is.
    pub status: Status,
}

/// An elastic training job.
pub type AdaptDLJob = Object<AdaptDLJobSpec, AdaptDLJobStatus>;
/// A Ray cluster.
pub type RayCluster = Object<RayClusterSpec, RayClusterStatus>;

/// An object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyObject {
    /// A Ray cluster.
    Cluster(Box<RayCluster>),
    /// A training job.
    Job(Box<AdaptDLJob>),
}

impl AnyObject {
    /// Why this object cannot become another: the field, and what is wrong with it.
    pub fn forbids(&self, wanted: &Self) -> Option<(&'static str, &'static str)> {
        match (self, wanted) {
            (Self::Cluster(stored), Self::Cluster(wanted)) => {
                let provider = |cluster: &RayCluster| std::mem::discriminant(&cluster.spec.provider);
                if provider(stored) != provider(wanted) {
                    let message = "a cluster cannot go from one provider to another; delete it first";
                    return Some(("spec.provider", message));
                }
                if wanted.spec.aws().is_some() && stored.spec.auth.mode != wanted.spec.auth.mode {
                    let message = "it cannot be changed while the cluster is there; delete it first";
                    return Some(("spec.auth.mode", message));
                }
                match (&stored.spec.provider, &wanted.spec.provider) {
                    (Provider::Aws(stored), Provider::Aws(wanted)) => stored.forbids(wanted),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Cluster(_) => Kind::RayCluster,
            Self::Job(_) => Kind::AdaptDLJob,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Cluster(cluster) => &cluster.metadata,
            Self::Job(job) => &job.metadata,
        }
    }

    /// Its metadata, to be changed.
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Cluster(cluster) => &mut cluster.metadata,
            Self::Job(job) => &mut job.metadata,
        }
    }

    /// Its namespace and name.
    pub fn key(&self) -> ObjectKey {
        self.metadata().key()
    }

    /// Its uid.
    pub fn uid(&self) -> &Uid {
        &self.metadata().uid
    }

    /// Its spec as JSON.
    pub fn spec(&self) -> Value {
        match self {
            Self::Cluster(cluster) => to_value(&cluster.spec),
            Self::Job(job) => to_value(&job.spec),
        }
    }

    /// Its status as JSON.
    pub fn status(&self) -> Value {
        match self {
            Self::Cluster(cluster) => to_value(&cluster.status),
            Self::Job(job) => to_value(&job.status),
        }
    }

    /// The whole object as JSON, as the API gives it.
    pub fn to_json(&self) -> Value {
        json!({
            "apiVersion": API_VERSION,
            "kind": self.kind().name(),
            "metadata": to_value(self.metadata()),
            "spec": self.spec(),
            "status": self.status(),
        })
    }

    /// An object from its stored parts. A status that is absent is the empty one.
    ///
    /// # Errors
    /// If the parts do not fit the kind.
    pub fn from_parts(
        kind: Kind,
        metadata: ObjectMeta,
        spec: Value,
        status: Value,
    ) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            Kind::RayCluster => Self::Cluster(Box::new(object(metadata, spec, status)?)),
            Kind::AdaptDLJob => Self::Job(Box::new(object(metadata, spec, status)?)),
        })
    }

    /// Reads what `to_json` writes.
    ///
    /// # Errors
    /// If it is not an object of a kind we know.
    pub fn from_json(mut value: Value) -> Result<Self, serde_json::Error> {
        let kind = serde_json::from_value(value["kind"].take())?;
        let metadata = serde_json::from_value(value["metadata"].take())?;
        Self::from_parts(kind, metadata, value["spec"].take(), value["status"].take())
    }
}

fn object<Spec: serde::de::DeserializeOwned, Status: serde::de::DeserializeOwned + Default>(
    metadata: ObjectMeta,
    spec: Value,
    status: Value,
) -> Result<Object<Spec, Status>, serde_json::Error> {
    let status = if status.is_null() { Status::default() } else { serde_json::from_value(status)? };
    Ok(Object { metadata, spec: serde_json::from_value(spec)?, status })
}

/// Plain data always has a JSON form.
fn to_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
