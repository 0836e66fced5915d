//! What a cluster on EC2 is made of, as its manifest describes it and as EC2 says.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cluster::NodeTemplate;
use super::cost::{GivenPrice, ListPrices, SpotPrices};
use super::ids::Digest;
use super::job::EnvVar;
use super::record::digest_of;
use super::units::{Bytes, MilliCpu, Span};

/// The parameters of `ray start` that have no value (`ray start --help`).
pub const RAY_START_FLAGS: [&str; 5] = [
    "enable-object-reconstruction",
    "enable-resource-isolation",
    "no-monitor",
    "no-redirect-output",
    "ray-debugger-external",
];

/// How much of a machine's memory is offered to workers, in percent: the rest is the system's, Ray's and the object
/// store's.
const OFFERED_MEMORY: u64 = 80;

/// Instances of Amazon EC2, launched and ended by the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsProvider {
    /// The region, such as `us-west-2`.
    pub region: String,
    /// The subnets in which instances are launched, all of one VPC. The head is in the first one.
    pub subnets: Vec<String>,
    /// The security groups of all instances. Left out: one is made, kept as it should be, and removed with the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<String>,
    /// The name of the instance profile. With `auth: {mode: token}` it must allow `ssm:GetParameter` on
    /// `/rayconcile/NAMESPACE/NAME/*`, of the cluster: that is where instances find Ray's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam_instance_profile: Option<String>,
    /// The name of the key pair for those who want to log in. Nothing here needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
    /// More tags for everything that is made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// How the controller reaches the head.
    #[serde(default)]
    pub access: Access,
    /// How long an instance lives on without a job and without hearing of a controller: after that it ends itself.
    #[serde(default = "orphan_timeout")]
    pub orphan_timeout: Span,
    /// How long an instance may take to join, images and set-up commands included.
    #[serde(default = "join_timeout")]
    pub join_timeout: Span,
    /// The port of Ray's control service.
    #[serde(default = "gcs_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub gcs_port: u16,
    /// The port of Ray's dashboard.
    #[serde(default = "dashboard_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub dashboard_port: u16,
    /// The port of Rayconcile's agent.
    #[serde(default = "super::cluster::agent_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub agent_port: u16,
    /// What an hour of an instance costs, by type, where that is not known or is another for you.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, GivenPrice>,
}

impl AwsProvider {
    /// Tells whether anything here has changed.
    pub fn digest(&self) -> Digest {
        digest_of(self)
    }

    /// What cannot be changed while there is a cluster, for its instances know it, and is to be another: the field,
    /// and what is wrong with it.
    pub fn forbids(&self, wanted: &Self) -> Option<(&'static str, &'static str)> {
        let message = "it cannot be changed while the cluster is there; delete it first";
        let changed = [
            ("spec.provider.aws.region", self.region != wanted.region),
            ("spec.provider.aws.subnets", self.subnets.first() != wanted.subnets.first()),
            ("spec.provider.aws.access.address", self.access.address != wanted.access.address),
            ("spec.provider.aws.gcsPort", self.gcs_port != wanted.gcs_port),
            ("spec.provider.aws.dashboardPort", self.dashboard_port != wanted.dashboard_port),
            ("spec.provider.aws.agentPort", self.agent_port != wanted.agent_port),
        ];
        changed.into_iter().find(|(_, changed)| *changed).map(|(field, _)| (field, message))
    }
}

/// How the controller reaches the head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Access {
    /// `public`: at an Elastic IP of the head's. `private`: at its private address, for controllers in the VPC or
    /// connected with it.
    #[serde(default)]
    pub address: AccessAddress,
    /// The addresses from which the made security group lets the dashboard and the agent be reached, such as
    /// `203.0.113.7/32`; `auto` is the address that the controller is seen to have. Left out: from within the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_cidr: Option<String>,
}

/// At which of its addresses the head is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AccessAddress {
    /// An Elastic IP, kept as long as the cluster.
    #[default]
    Public,
    /// Its private address.
    Private,
}

/// What a node's instance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instance {
    /// Instance types, such as `g5.xlarge`, the preferred one first. What a node offers is the least of what they have.
    pub types: Vec<String>,
    /// The machine image.
    pub image: Image,
    /// Its EBS volumes. One with the name of the image's root device changes that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub block_devices: Vec<BlockDevice>,
    /// Where the instance store and blank EBS volumes are mounted, formatted if need be, as one file system. Docker
    /// keeps its data there. Left out: they are not touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path: Option<String>,
    /// The container in which Ray runs. Left out: Ray and Docker are the image's own matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<Docker>,
    /// EFS file systems to be mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_systems: Vec<FileSystem>,
    /// Shell commands that are run before Ray is started, in order, in the container if there is one. They must be
    /// safe to repeat.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub setup_commands: Vec<String>,
    /// More parameters of `ray start`, by their names without the leading dashes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ray_start: BTreeMap<String, String>,
    /// Environment variables of Ray and everything that it starts. They can be read in the instance's user data: no
    /// place for secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
}

/// Which machine image: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Image {
    /// An AMI by its id.
    Id(String),
    /// The AMI that a parameter of Systems Manager names, such as
    /// `/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id`. It is looked up
    /// when the cluster is opened.
    Parameter(String),
}

/// An EBS volume of an instance. It ends with the instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BlockDevice {
    /// The device's name, such as `/dev/sda1`.
    pub device_name: String,
    /// Its size. Left out: the snapshot's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// Its type.
    #[serde(default)]
    pub volume_type: VolumeType,
    /// Operations per second, where the type has a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// Throughput in MiB/s, for `gp3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
    /// Whether it is encrypted. Left out: as the account has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
}

/// The type of an EBS volume (Amazon EBS User Guide, "Amazon EBS volume types").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "these are EBS's own names")]
pub enum VolumeType {
    #[default]
    Gp3,
    Gp2,
    Io1,
    Io2,
    St1,
    Sc1,
    Standard,
}

impl VolumeType {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gp3 => "gp3",
            Self::Gp2 => "gp2",
            Self::Io1 => "io1",
            Self::Io2 => "io2",
            Self::St1 => "st1",
            Self::Sc1 => "sc1",
            Self::Standard => "standard",
        }
    }
}

/// The container in which Ray runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Docker {
    /// The image, with Ray in it.
    pub image: String,
    /// More options of `docker run`, one argument each, such as `--shm-size=8g` or `--volume=/data:/data`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run_options: Vec<String>,
}

/// An EFS file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileSystem {
    /// Its id, such as `fs-0123456789abcdef0`.
    pub id: String,
    /// Where it is mounted, on the instance and in the container.
    pub mount_path: String,
    /// Which of its directories.
    #[serde(default = "root")]
    pub path: String,
}

/// How instances are paid for: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Market {
    /// At the full price, for as long as they are wanted.
    OnDemand(OnDemand),
    /// Cheap, and taken away at two minutes' notice.
    Spot(Spot),
}

impl Default for Market {
    fn default() -> Self {
        Self::OnDemand(OnDemand {})
    }
}

/// At the full price. There is nothing to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnDemand {}

/// Spot instances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spot {
    /// The most that is paid for an hour, in US dollars. Left out: up to the on-demand price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_price: Option<String>,
    /// Whether on-demand instances are taken while there are no spot instances.
    #[serde(default)]
    pub on_demand_fallback: bool,
}

/// One market of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MarketKind {
    /// On-demand.
    OnDemand,
    /// Spot.
    Spot,
}

impl MarketKind {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
        }
    }
}

/// What one launch asks EC2 for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offering {
    /// The instance type.
    pub instance_type: String,
    /// The subnet.
    pub subnet: String,
    /// The subnet's zone.
    pub zone: String,
    /// The market.
    pub market: MarketKind,
    /// The most that is paid for an hour on the spot market, in US dollars.
    #[serde(default)]
    pub max_price: Option<String>,
    /// The machine image.
    pub image: String,
    /// The name of the image's root device, if it is known.
    #[serde(default)]
    pub root_device: Option<String>,
}

/// What an instance type has (`DescribeInstanceTypes`), and where it is offered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeFacts {
    /// Virtual CPUs.
    pub cpus: u32,
    /// GPUs.
    pub gpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// Processor architectures, such as `x86_64`.
    pub architectures: BTreeSet<String>,
    /// Whether it is offered on the spot market.
    pub spot: bool,
    /// The zones in which it is offered, of those of the cluster's subnets.
    pub zones: BTreeSet<String>,
}

/// What the nodes of an incarnation on EC2 share: found or made when it was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AwsNetwork {
    /// The region.
    pub region: String,
    /// The zone of each subnet, in the manifest's order.
    pub subnets: Vec<(String, String)>,
    /// The security groups of every instance.
    pub security_groups: Vec<String>,
    /// The head's network interface, which gives it its address.
    pub head_interface: String,
    /// The head's private address.
    pub head_address: String,
    /// Where instances find Ray's token.
    pub token_parameter: Option<String>,
    /// The AMI of each image that is named by a parameter.
    pub images: BTreeMap<String, String>,
    /// The name of the root device of each AMI.
    #[serde(default)]
    pub root_devices: BTreeMap<String, String>,
    /// What the instance types have.
    pub types: BTreeMap<String, TypeFacts>,
    /// What the manifest said, as a digest: when that changes, all of this is looked at again.
    #[serde(default)]
    pub settings: Digest,
    /// When it was looked at.
    #[serde(default)]
    pub at: Timestamp,
    /// What EC2 said last of its spot prices.
    #[serde(default)]
    pub spot_prices: SpotPrices,
    /// What AWS's price list had last, if it could be asked.
    #[serde(default)]
    pub list_prices: Option<ListPrices>,
    /// The digest of the spec that was put beside Ray's token, for a controller that has lost its state directory.
    #[serde(default)]
    pub published: Option<Digest>,
}

impl AwsNetwork {
    /// Writes what a template leaves open: whatever instance of its types a node will be, it has at least this.
    pub fn resolve(&self, template: &mut NodeTemplate) {
        let types = template.instance.iter().flat_map(|instance| &instance.types);
        let facts: Vec<&TypeFacts> = types.filter_map(|name| self.types.get(name)).collect();
        let least = |amount: fn(&TypeFacts) -> u64| facts.iter().map(|facts| amount(facts)).min();
        let resources = &mut template.resources;
        if let Some(cpus) = least(|facts| u64::from(facts.cpus)) {
            resources.cpu.get_or_insert(MilliCpu(cpus * 1000));
        }
        if let Some(gpus) = least(|facts| u64::from(facts.gpus)) {
            resources.gpu.get_or_insert(u32::try_from(gpus).unwrap_or(u32::MAX));
        }
        if let Some(memory) = least(|facts| facts.memory.0) {
            resources.memory.get_or_insert(Bytes(memory / 100 * OFFERED_MEMORY));
        }
    }

    /// The machine image that a manifest means, if it is known.
    pub fn image<'a>(&'a self, image: &'a Image) -> Option<&'a str> {
        match image {
            Image::Id(id) => Some(id),
            Image::Parameter(name) => self.images.get(name).map(String::as_str),
        }
    }
}

/// Long enough for a laptop to travel, short enough for a bill.
pub fn orphan_timeout() -> Span {
    Span::from_secs(30 * 60)
}

/// Large images take 5 to 10 minutes to pull.
fn join_timeout() -> Span {
    Span::from_secs(15 * 60)
}

/// Ray's own choice (`ray start --help`).
fn gcs_port() -> u16 {
    6379
}

/// Ray's own choice (`ray start --help`).
fn dashboard_port() -> u16 {
    8265
}

fn root() -> String {
    "/".to_owned()
}
