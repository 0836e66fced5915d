//! Instances of EC2 by themselves: how they are listed, and how they end when nobody needs them. After `observe.rs` in
//! `controller/`, and `boot.sh`.

use super::clock::{Ms, timestamp};
use super::cloud::TYPES;
use super::region::{LOST, Marks, Region};
use super::world::{Event, World};
use crate::api::aws::{AwsProvider, MarketKind, Offering};
use crate::api::ids::{Digest, IntentId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::observed::Instances;
use crate::api::record::NodeState;
use crate::api::wire::BlobKind;

/// How often instances are listed, and how seldom while that fails.
const LISTING_MS: Ms = 5_000;
const SLOWEST_LISTING_MS: Ms = 60_000;
/// How often an instance looks whether anybody needs it, or whether there is a head that it can join.
const LOOK_MS: Ms = 30_000;
const JOIN_AGAIN_MS: Ms = 5_000;
/// What is said of an instance that ends itself.
pub(super) const ENDED_ITSELF: &str = "Client.InstanceInitiatedShutdown: Instance initiated shutdown";
/// What is said of one that EC2 takes back.
pub(super) const TAKEN_BACK: &str = "Server.SpotInstanceTermination: Spot instance termination";

/// What an instance knows of those who need it.
pub(super) struct Life {
    /// When it was needed last.
    needed: Ms,
    /// When it was last told whether it is.
    answered: Option<Ms>,
    /// Whether it looks.
    watches: bool,
}

impl Life {
    pub(super) fn begin(now: Ms) -> Self {
        Self { needed: now, answered: None, watches: false }
    }
}

impl World {
    fn aws(&self, key: &ObjectKey) -> Option<(&Uid, &AwsProvider)> {
        let cluster = self.store.clusters.get(key)?;
        Some((&cluster.metadata.uid, cluster.spec.aws()?))
    }

    /// Whether a cluster's nodes are instances.
    pub(super) fn is_on_ec2(&self, key: &ObjectKey) -> bool {
        self.aws(key).is_some()
    }

    // --- Listings ------------------------------------------------------------------------------------------------

    /// EC2 is asked which instances a cluster has.
    pub(super) fn list(&mut self, key: &ObjectKey, watch: u64) {
        if self.controller.watches.get(key).is_none_or(|it| it.serial != watch) {
            return;
        }
        let Some((uid, _)) = self.aws(key) else { return };
        let mut listed = self.region.list(uid, self.now);
        let refuses = self.now < self.region.refuses_until;
        let blind = refuses || self.faulty(self.faults.blind) || self.faulty(self.faults.throttled);
        if self.faulty(self.faults.partial) {
            let ids: Vec<_> = listed.keys().cloned().collect();
            self.random.pick(&ids).and_then(|id| listed.remove(id));
        }
        let lag = match self.faulty(self.faults.slow_news) {
            true => self.random.between(1_000, 8_000),
            false => self.random.between(20, 300),
        };
        let listed = (!blind).then_some(listed);
        self.queue.push(self.now + lag, Event::Listed(key.clone(), watch, self.now, listed));
    }

    /// What EC2 was asked is answered.
    pub(super) fn listed(&mut self, key: &ObjectKey, watch: u64, asked: Ms, listed: Option<Instances>) {
        let Some(it) = self.controller.watches.get_mut(key).filter(|it| it.serial == watch) else { return };
        let news = it.instances.fresh().map(|(_, before)| before) != listed.as_ref();
        match listed {
            Some(listed) => {
                it.instances = crate::api::observed::Observed::seen(timestamp(asked), listed);
                it.pause = LISTING_MS;
            }
            None => {
                it.instances.fail(timestamp(asked), "EC2 does not answer".to_owned());
                it.pause = (it.pause * 2).clamp(LISTING_MS, SLOWEST_LISTING_MS);
            }
        }
        let next = self.now + it.pause;
        self.queue.push(next, Event::Lists(key.clone(), watch));
        if news {
            self.wake(key.clone(), 0);
        }
    }

    // --- What instances do ---------------------------------------------------------------------------------------

    /// An instance has joined, or has not: then it tries again, but not for ever.
    pub(super) fn has_joined(&mut self, key: &ObjectKey, launch: &IntentId, joined: bool) {
        let timeout = self.aws(key).map_or(LOOK_MS, |(_, aws)| aws.join_timeout.millis);
        let now = self.now;
        let Some(machine) = self.site(key).machines.get_mut(launch) else { return };
        let Some(life) = machine.life.as_mut().filter(|_| machine.leader && machine.sound) else { return };
        if joined && !life.watches {
            (life.watches, life.needed) = (true, now);
            self.queue.push(now + LOOK_MS, Event::LooksAround(key.clone(), launch.clone()));
        } else if !joined && !life.watches && now >= machine.launched + timeout {
            self.end_machine_because(key, launch, ENDED_ITSELF);
        } else if !joined {
            self.queue.push(now + JOIN_AGAIN_MS, Event::Joins(key.clone(), launch.clone()));
        }
    }

    /// An instance that has joined looks whether it is needed, and ends itself if it was not for long.
    pub(super) fn look_around(&mut self, key: &ObjectKey, launch: &IntentId) {
        let Some(machine) = self.sites.get(key).and_then(|site| site.machines.get(launch)) else { return };
        if !machine.leader {
            return;
        }
        let head = machine.head;
        let limit = self.aws(key).map_or(Ms::MAX, |(_, aws)| aws.orphan_timeout.millis);
        let (answers, needed, unsafe_saves) = self.life(key, launch);
        let now = self.now;
        let Some(life) = self.site(key).machines.get_mut(launch).and_then(|it| it.life.as_mut()) else {
            return;
        };
        if answers {
            life.answered = Some(now);
            life.needed = needed.max(life.needed);
        }
        let mut over = now - life.needed >= limit;
        if head {
            over &= match answers {
                true => unsafe_saves == 0,
                false => life.answered.is_none_or(|answered| now - answered >= 2 * limit),
            };
        }
        if over {
            self.end_machine_because(key, launch, ENDED_ITSELF);
        } else {
            self.queue.push(now + LOOK_MS, Event::LooksAround(key.clone(), launch.clone()));
        }
    }

    /// What the agent says to an instance: whether it answers at all, when the instance was needed last, and how many
    /// checkpoints on the head are not known to be durable.
    fn life(&mut self, key: &ObjectKey, launch: &IntentId) -> (bool, Ms, usize) {
        let nothing = (false, 0, 0);
        let listens = self.controller.listens(key);
        let Some(site) = self.sites.get_mut(key) else { return nothing };
        let away = site.hear(listens && self.now >= site.cut_until.max(site.agent_hangs_until), self.now);
        let Some(machine) = site.machines.get(launch) else { return nothing };
        let ray =
            site.rays.get(&machine.incarnation).filter(|ray| ray.up && self.now >= site.agent_hangs_until);
        let Some((ray, state)) = ray.and_then(|ray| Some((ray, ray.state(self.now)?))) else {
            return nothing;
        };
        let works = ray.floor.slots.values().any(|slot| {
            machine.node.as_ref() == Some(&ray.floor.nodes[slot.node].id)
                && slot.workers.iter().any(|worker| worker.exit.is_none())
        });
        let is_unsafe = |job: &Uid, digest: &Digest| {
            let row = self.store.jobs.get(job);
            !row.is_some_and(|row| row.record.checkpoints.iter().any(|known| known.digest == *digest))
        };
        let saves =
            state.jobs.iter().flat_map(|(job, report)| report.blobs.iter().map(move |blob| (job, blob)));
        let saves = saves.filter(|(_, blob)| blob.kind == BlobKind::Checkpoint);
        let needed = if works { self.now } else { self.now - away };
        (true, needed, saves.filter(|(job, blob)| is_unsafe(job, &blob.digest)).count())
    }

    // --- What goes wrong -----------------------------------------------------------------------------------------

    /// For a while there is none of something that is asked for.
    pub(super) fn run_out(&mut self, duration: Ms) {
        let kinds = TYPES.map(|(name, _)| name);
        let markets = [MarketKind::OnDemand, MarketKind::Spot];
        let kind = self.random.pick(&kinds).copied().unwrap_or_default().to_owned();
        let zone = self.random.pick(&["a", "b"]).copied().unwrap_or_default().to_owned();
        let market = self.random.pick(&markets).copied().unwrap_or(MarketKind::Spot);
        self.region.scarce.insert((kind, zone, market), self.now + duration);
    }

    /// There is an instance with a cluster's mark that no record knows, as from a state directory that was lost.
    pub(super) fn stray_comes(&mut self) {
        // Of one that is being given back nobody would look for it any more.
        let rests = |key: &&ObjectKey| {
            let cluster = self.store.clusters.get(*key);
            let record = self.store.records.get(*key);
            cluster
                .is_some_and(|it| it.spec.aws().is_some() && !it.metadata.is_deleting() && !it.spec.suspend)
                && record.is_some_and(|record| {
                    record.nodes.values().any(|node| matches!(node.state, NodeState::Ready { .. }))
                })
        };
        let keys: Vec<ObjectKey> = self.store.clusters.keys().filter(rests).cloned().collect();
        let Some(key) = self.random.pick(&keys).cloned() else { return };
        let Some(cluster) = self.store.clusters.get(&key) else { return };
        let uid = cluster.metadata.uid.clone();
        let launch = IntentId::from(format!("lost-{}", self.random.seed()));
        let marks = Marks { uid, incarnation: LOST.to_owned(), launch };
        let instance = Region::instance(Some(key), marks, offering(), false, self.now);
        let id = self.region.add(instance);
        self.transcript.say(self.now, || format!("world: {id} is there, and nobody knows why"));
    }

    /// Somebody else has instances, with tags much like ours.
    pub(super) fn somebody_launches(&mut self, uid: &str) {
        let marks =
            Marks { uid: Uid::from(uid), incarnation: "theirs".to_owned(), launch: IntentId::from("theirs") };
        self.region.add(Region::instance(None, marks, offering(), false, self.now));
    }
}

fn offering() -> Offering {
    Offering {
        instance_type: TYPES[0].0.to_owned(),
        subnet: "subnet-a".to_owned(),
        zone: "a".to_owned(),
        market: MarketKind::OnDemand,
        max_price: None,
        image: "ami-1".to_owned(),
        root_device: None,
    }
}
