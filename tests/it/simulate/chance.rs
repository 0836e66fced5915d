//! A history by chance: what there is, what people do, and what goes wrong.

use fastrand::Rng;
use rayconcile::api::cluster::{NodeTemplate, RayClusterSpec, UpdateStrategy, WorkerGroup};
use rayconcile::api::job::{AdaptDLJobSpec, ClusterRef, ScalingPolicy};
use rayconcile::api::object::Kind;
use rayconcile::api::units::{MilliCpu, Span};
use rayconcile::api::wire::NoticeKind;
use rayconcile::simulate::{
    BROKEN_ENVIRONMENT, FAIL_AT_START, FAIL_IN_TRAINING, Fault, Faults, Simulation, UserAction, Workload,
};
use serde_json::json;

use super::{clouds, cluster, hints, job, key};

const MINUTE: u64 = 60_000;

/// The names under which there may be clusters: two of our own, somebody else's, one on EC2, and the built-in one.
const OWN: [&str; 2] = ["gpu", "spot"];
const FOREIGN: &str = "lent";
/// One on EC2.
pub(super) const CLOUD: &str = "cloud";
const JOBS: [&str; 3] = ["ada", "bob", "cy"];

/// Puts a history into a world; says when its troubles are over.
pub(crate) fn plot(seed: u64, world: &mut Simulation) -> u64 {
    let mut plot = Plot::new(seed);
    let mut end = plot.random.u64(2..=9) * MINUTE;
    if let Some(random) = &mut plot.clouds {
        end += random.u64(0..=10) * MINUTE; // Instances take their time.
    }
    plot.begin(world);
    for _ in 0..plot.random.u32(0..=7) {
        plot.edit(world, end);
    }
    for _ in 0..plot.random.u32(0..=7) {
        let (at, fault) = (plot.random.u64(0..end), plot.fault());
        world.strike_at(at, fault);
    }
    let mut faults = plot.small_faults(end);
    if let Some(random) = &mut plot.clouds {
        let spec = plot.clusters.iter_mut().find(|(name, _)| *name == CLOUD).map(|(_, spec)| spec).unwrap();
        clouds::gather(random, world, &mut faults, end);
        clouds::edit(random, world, end, spec);
    }
    world.suffer(faults);
    plot.mend(world, end);
    end
}

struct Plot {
    random: Rng,
    /// What decides on clusters on EC2, if there are any.
    clouds: Option<Rng>,
    clusters: Vec<(&'static str, RayClusterSpec)>,
    jobs: Vec<(&'static str, AdaptDLJobSpec)>,
}

impl Plot {
    fn new(seed: u64) -> Self {
        // Another stream than that of the world, which begins with the same seed.
        let mut random = Rng::with_seed(seed.wrapping_mul(0x9E37_79B9).wrapping_add(17));
        let mut clusters = Vec::new();
        let foreign = random.f64() < 0.25;
        if foreign {
            clusters
                .push((FOREIGN, spec(json!({"provider": {"existing": {"address": "http://head:8265"}}}))));
        }
        let built_in = random.f64() < 0.2;
        let own = random.usize(usize::from(!foreign && !built_in)..=2);
        for name in &OWN[..own] {
            clusters.push((name, own_cluster(&mut random)));
        }
        let mut clouds = clouds::over(seed);
        if let Some(random) = &mut clouds {
            clusters.push((CLOUD, clouds::cluster(random)));
        }
        let mut names: Vec<&'static str> = clusters.iter().map(|(name, _)| *name).collect();
        if built_in || names.is_empty() {
            names.push("local");
        }
        if clouds.is_some() {
            names.extend([CLOUD; 4]); // Most jobs are there.
        }
        let jobs = JOBS[..random.usize(1..=3)].iter().map(|name| (*name, some_job(&mut random, &names)));
        Self { jobs: jobs.collect(), clusters, clouds, random }
    }

    fn begin(&mut self, world: &mut Simulation) {
        for (name, spec) in self.clusters.clone() {
            if name == FOREIGN {
                world.somebody_runs(&key(name), self.random.u32(1..=3), self.random.u32(1..=4));
            }
            let at = self.random.u64(0..20_000);
            world.act_at(at, UserAction::Apply(cluster(name, spec)));
        }
        for (name, spec) in self.jobs.clone() {
            world.program(&key(name), self.workload());
            let at = self.random.u64(0..MINUTE);
            world.act_at(at, UserAction::Apply(job(name, spec)));
        }
    }

    fn workload(&mut self) -> Workload {
        let random = &mut self.random;
        let scales = random.f64() < 0.6;
        Workload {
            steps: (random.f64() < 0.3).then(|| random.u64(200..20_000)),
            rate: 1.0 + random.f64() * 9.0,
            hints: scales.then(|| hints(0.05 + random.f64(), random.f64() * 0.1)),
        }
    }

    // --- What people do --------------------------------------------------------------------------------------

    fn edit(&mut self, world: &mut Simulation, end: u64) {
        let at = self.random.u64(0..end);
        let action = if self.random.f64() < 0.7 { self.edit_job() } else { self.edit_cluster() };
        if let Some(action) = action {
            world.act_at(at, action);
        }
    }

    fn edit_job(&mut self) -> Option<UserAction> {
        let (random, count) = (&mut self.random, self.jobs.len());
        let (name, spec) = &mut self.jobs[random.usize(..count)];
        if random.f64() < 0.08 {
            return Some(UserAction::Delete(Kind::AdaptDLJob, key(name)));
        }
        match random.u32(0..10) {
            0 => spec.max_replicas = random.u32(spec.min_replicas.max(1)..=6),
            1 => {
                spec.min_replicas = random.u32(0..=2);
                spec.max_replicas = spec.max_replicas.max(spec.min_replicas);
            }
            2 | 3 => spec.suspend = !spec.suspend,
            4 => spec.args = args(random),
            5 => spec.priority = random.i32(-1..=2),
            6 => spec.resources.cpu = MilliCpu(random.u64(1..=2) * 1000),
            7 => {
                spec.runtime_env = match random.f64() {
                    share if share < 0.3 => {
                        [(BROKEN_ENVIRONMENT.to_owned(), json!(true))].into_iter().collect()
                    }
                    share => [("version".to_owned(), json!((share * 10.0) as u32))].into_iter().collect(),
                };
            }
            8 => {
                let names: Vec<&'static str> = self.clusters.iter().map(|(name, _)| *name).collect();
                spec.cluster_ref = some_cluster(random, &names);
            }
            _ => {
                spec.checkpoint.interval = Span::from_secs(interval(random));
                spec.checkpoint.keep = random.u32(2..=4);
            }
        }
        admit(spec);
        Some(UserAction::Apply(job(name, spec.clone())))
    }

    fn edit_cluster(&mut self) -> Option<UserAction> {
        let (random, count) = (&mut self.random, self.clusters.len());
        if count == 0 {
            return None;
        }
        let (name, spec) = &mut self.clusters[random.usize(..count)];
        let whole = random.u32(0..6);
        if whole == 0 {
            return Some(UserAction::Delete(Kind::RayCluster, key(name)));
        }
        if whole == 1 {
            spec.suspend = !spec.suspend;
        } else if !spec.worker_groups.is_empty() {
            let count = spec.worker_groups.len();
            let group = &mut spec.worker_groups[random.usize(..count)];
            match random.u32(0..3) {
                0 => group.max_nodes = random.u32(group.min_nodes.max(1)..=3),
                1 => group.min_nodes = random.u32(0..=group.max_nodes),
                _ if *name == CLOUD => group.template = clouds::template(random),
                _ => group.template = template(random.u32(1..=4)),
            }
        }
        Some(UserAction::Apply(cluster(name, spec.clone())))
    }

    // --- What goes wrong -------------------------------------------------------------------------------------

    fn fault(&mut self) -> Fault {
        let random = &mut self.random;
        let while_ms = random.u64(1_000..=2 * MINUTE);
        match random.u32(0..23) {
            0..=2 => Fault::ControllerDies(random.u64(100..=60_000)),
            3 => Fault::NodeDies,
            4 => Fault::RayletDies,
            5 | 6 => Fault::NodeCut(while_ms),
            7 => Fault::HeadDies,
            8 => Fault::ClusterCut(while_ms),
            9 => Fault::AgentHangs(while_ms),
            10 => Fault::AgentDies,
            11..=13 => Fault::BridgeDies,
            14 => Fault::SlotDies,
            15 => Fault::WorkerKilled,
            16 => Fault::WorkersTerminated,
            17 => Fault::HeadDiskSpoils,
            18 => Fault::FileSpoils,
            19 | 20 => Fault::NodeNotice(NoticeKind::SpotInterruption),
            21 => Fault::NodeNotice(NoticeKind::RebalanceRecommendation),
            _ => Fault::FileGone,
        }
    }

    fn small_faults(&mut self, end: u64) -> Faults {
        let random = &mut self.random;
        let mut share = |most: f64| if random.bool() { random.f64() * most } else { 0.0 };
        Faults {
            until_ms: end,
            lost_replies: share(0.15),
            lost_calls: share(0.15),
            late_calls: share(0.15),
            slow_calls: share(0.15),
            slow_news: share(0.2),
            blind: share(0.3),
            stale: share(0.3),
            rejected_launches: share(0.3),
            bad_machines: share(0.3),
            ..Faults::default()
        }
    }

    /// At the end everything that people did wrong is put right.
    fn mend(&mut self, world: &mut Simulation, end: u64) {
        for (name, spec) in &mut self.clusters {
            spec.suspend &= self.random.f64() < 0.3;
            world.act_at(end, UserAction::Apply(cluster(name, spec.clone())));
        }
        for (name, spec) in &mut self.jobs {
            spec.suspend &= self.random.f64() < 0.3;
            spec.args.retain(|argument| ![FAIL_AT_START, FAIL_IN_TRAINING].contains(&argument.as_str()));
            spec.runtime_env.remove(BROKEN_ENVIRONMENT);
            world.act_at(end, UserAction::Apply(job(name, spec.clone())));
        }
    }
}

// --- What there is -----------------------------------------------------------------------------------------------

pub(super) fn spec(json: serde_json::Value) -> RayClusterSpec {
    let mut spec: RayClusterSpec = serde_json::from_value(json).unwrap();
    spec.fill_defaults();
    spec
}

fn template(cpus: u32) -> NodeTemplate {
    serde_json::from_value(json!({"resources": {"cpu": cpus}})).unwrap()
}

fn own_cluster(random: &mut Rng) -> RayClusterSpec {
    let mut own = spec(json!({"provider": {"local": {}}, "head": {"resources": {"cpu": random.u32(0..=2)}}}));
    for name in &["a", "b"][..random.usize(1..=2)] {
        let min_nodes = random.u32(0..=1);
        own.worker_groups.push(WorkerGroup {
            name: (*name).to_owned(),
            min_nodes,
            max_nodes: random.u32(min_nodes.max(1)..=3),
            // Nothing is drawn for it, so that every seed still tells the history that it told before.
            update_strategy: UpdateStrategy { max_unavailable: min_nodes, max_surge: 1 },
            market: None,
            idle_timeout: Span::from_secs(random.u64(10..=90)),
            template: template(random.u32(1..=4)),
        });
    }
    own
}

fn some_cluster(random: &mut Rng, names: &[&'static str]) -> Option<ClusterRef> {
    let name = random.choice(names).filter(|name| **name != "local")?;
    Some(ClusterRef { name: (*name).to_owned() })
}

fn some_job(random: &mut Rng, clusters: &[&'static str]) -> AdaptDLJobSpec {
    let mut spec: AdaptDLJobSpec = serde_json::from_value(json!({"entrypoint": "main.py"})).unwrap();
    spec.cluster_ref = some_cluster(random, clusters);
    spec.min_replicas = random.u32(0..=2);
    spec.max_replicas = random.u32(spec.min_replicas.max(1)..=6);
    spec.args = args(random);
    spec.priority = random.i32(0..=1);
    spec.preemptible = random.f64() < 0.85;
    spec.resources.cpu = MilliCpu(random.u64(1..=2) * 1000);
    spec.backoff_limit = random.u32(1..=20);
    spec.checkpoint.timeout = Span::from_secs(random.u64(5..=60));
    spec.checkpoint.interval = Span::from_secs(interval(random));
    spec.rescale.timeout = Span::from_secs(random.u64(0..=60));
    spec.rescale.overlap = random.f64() < 0.8;
    if random.f64() < 0.3 {
        spec.scaling.policy = ScalingPolicy::Fixed;
        spec.scaling.replicas = Some(random.u32(1..=4));
    }
    if random.f64() < 0.1 {
        (spec.entrypoint, spec.command) = (None, Some(vec!["./train".to_owned()]));
    }
    if random.f64() < 0.2 {
        spec.artifacts.paths = vec!["model.pt".to_owned()];
        spec.artifacts.destination = random.bool().then(|| "/models".to_owned());
    }
    admit(&mut spec);
    spec
}

/// Other manifests are refused.
fn admit(spec: &mut AdaptDLJobSpec) {
    let bounds = spec.min_replicas.max(1)..=spec.max_replicas;
    spec.scaling.replicas = spec.scaling.replicas.map(|it| it.clamp(*bounds.start(), *bounds.end()));
}

fn args(random: &mut Rng) -> Vec<String> {
    match random.u32(0..10) {
        0 => vec![FAIL_AT_START.to_owned()],
        1 => vec![FAIL_IN_TRAINING.to_owned()],
        number => vec![format!("--number={number}")],
    }
}

fn interval(random: &mut Rng) -> u64 {
    if random.f64() < 0.2 { 0 } else { random.u64(20..=200) }
}
