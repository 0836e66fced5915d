//! Clusters on EC2: what becomes of the effects that the controller asks of it. After `provider/aws/`.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::Call;
use super::clock::{Ms, moment, timestamp};
use super::instances::Life;
use super::region::{Marks, Region, Shared};
use super::site::Machine;
use super::world::{Event, World};
use crate::action::{Effect, EffectError, ErrorKind};
use crate::api::aws::{AwsNetwork, TypeFacts};
use crate::api::ids::{InstanceId, IntentId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::object::RayCluster;
use crate::api::observed::InstancePhase;
use crate::api::record::{Incarnation, digest_of};
use crate::api::units::Bytes;

/// How long after an instance is wanted gone EC2 may list it for the first time.
const LISTING_DELAY_MS: Ms = 60_000;
/// From an instance's launch until its Ray joins.
const BOOT_MS: (Ms, Ms) = (10_000, 60_000);
/// From the order to end until nothing of an instance is left.
const END_MS: (Ms, Ms) = (2_000, 45_000);
/// The zones of the subnets of every cluster.
const ZONES: [&str; 2] = ["a", "b"];
/// The instance types that there are, and their CPUs.
pub(super) const TYPES: [(&str, u32); 3] = [("c.small", 1), ("c.large", 2), ("c.huge", 4)];

fn unavailable(message: &str) -> EffectError {
    EffectError { kind: ErrorKind::Unavailable, message: message.to_owned() }
}

impl World {
    /// How long a change is not listed.
    pub(super) fn lag(&mut self) -> Ms {
        if self.faulty(self.faults.stale) {
            self.random.between(0, 10_000)
        } else {
            self.random.between(0, 1_500)
        }
    }

    /// Whether EC2 does not even look at a call.
    fn is_turned_away(&mut self) -> Result<(), EffectError> {
        if self.now < self.region.refuses_until {
            return Err(unavailable("ExpiredToken"));
        }
        match self.faulty(self.faults.throttled) {
            true => Err(unavailable("RequestLimitExceeded")),
            false => Ok(()),
        }
    }

    /// Makes what the nodes of an incarnation share, one after the other, unless it was made before.
    pub(super) fn open_on_ec2(&mut self, cluster: &RayCluster, id: &str) -> Result<Incarnation, EffectError> {
        let spec = &cluster.spec;
        let (uid, aws) = (&cluster.metadata.uid, spec.aws());
        let aws = aws.ok_or_else(|| unavailable("not a cluster on EC2"))?;
        for shared in [Shared::SecurityGroup, Shared::Interface, Shared::Address] {
            self.is_turned_away()?;
            self.region.shared.entry((uid.clone(), id.to_owned())).or_default().insert(shared);
        }
        self.is_turned_away()?;
        self.region.parameters.insert(uid.clone());
        let zones: BTreeSet<String> = ZONES.map(str::to_owned).into();
        let types = TYPES.map(|(name, cpus)| {
            let (memory, zones) = (Bytes(16 << 30), zones.clone());
            let facts =
                TypeFacts { cpus, gpus: 0, memory, architectures: BTreeSet::new(), spot: true, zones };
            (name.to_owned(), facts)
        });
        let network = AwsNetwork {
            region: aws.region.clone(),
            subnets: aws.subnets.iter().cloned().zip(ZONES.map(str::to_owned)).collect(),
            security_groups: vec!["sg-1".to_owned()],
            head_interface: "eni-1".to_owned(),
            head_address: "10.0.0.5".to_owned(),
            token_parameter: None,
            images: BTreeMap::new(),
            root_devices: BTreeMap::new(),
            types: types.into(),
            settings: aws.digest(),
            at: timestamp(self.now),
            spot_prices: BTreeMap::new(),
            list_prices: None,
            published: Some(digest_of(spec)),
        };
        Ok(Incarnation {
            id: id.to_owned(),
            since: timestamp(self.now),
            dashboard: "http://head:8265".to_owned(),
            agent: "http://head:8267".to_owned(),
            ray_version: String::new(),
            missing: Vec::new(),
            local: None,
            aws: Some(network),
        })
    }

    /// Removes what the nodes of an incarnation shared, one after the other.
    pub(super) fn close_on_ec2(&mut self, uid: &Uid, incarnation: &str) -> Result<(), EffectError> {
        loop {
            self.is_turned_away()?;
            if !self.region.remove_one(uid, incarnation)? {
                return Ok(());
            }
        }
    }

    /// Launches an instance, unless it was launched before.
    pub(super) fn launch_on_ec2(&mut self, call: &Call, cluster: &RayCluster) -> Result<(), EffectError> {
        let Effect::LaunchNode { node, group, template, offering: Some(offering), .. } = &call.intent.effect
        else {
            return Ok(());
        };
        let (key, launch, uid) = (&call.key, &call.intent.id, &cluster.metadata.uid);
        let incarnation = call.incarnation.as_ref().ok_or_else(|| unavailable("the cluster is not open"))?;
        self.is_turned_away()?;
        if self.is_listed(uid, launch) {
            return Ok(());
        }
        let done = self.region.has_done(uid, launch);
        if !done && let Some(kind) = self.shortage(key, group.is_some()) {
            return Err(self.region.refuse(launch, kind));
        }
        let marks = Marks { uid: uid.clone(), incarnation: incarnation.id.clone(), launch: launch.clone() };
        let listed = self.now + self.lag();
        let instance = Region::instance(Some(key.clone()), marks, offering.clone(), group.is_none(), listed);
        // User data follows from the manifest.
        let request = digest_of(&(&call.intent.effect, &incarnation.id, &cluster.spec));
        let Some(id) = self.region.run_instance(instance, request, self.now)? else { return Ok(()) };
        self.transcript.say(self.now, || format!("world: {id} comes to be, for {node}, launch {launch}"));
        let machine = Machine {
            name: node.clone(),
            incarnation: incarnation.id.clone(),
            head: group.is_none(),
            group: group.clone(),
            template: (**template).clone(),
            launched: self.now,
            sound: !self.faulty(self.faults.bad_machines),
            leader: true,
            node: None,
            life: Some(Life::begin(self.now)),
        };
        let sound = machine.sound;
        self.site(key).machines.insert(launch.clone(), machine);
        self.check_nodes(key, launch);
        self.check_launch(cluster, launch);
        self.boot(key, launch, sound);
        Ok(())
    }

    fn boot(&mut self, key: &ObjectKey, launch: &IntentId, sound: bool) {
        if sound {
            let joins = self.now + self.random.between(BOOT_MS.0, BOOT_MS.1);
            self.queue.push(joins, Event::Joins(key.clone(), launch.clone()));
        } else if self.random.chance(0.5) {
            let ends = self.now + self.random.between(BOOT_MS.0, BOOT_MS.1);
            self.queue.push(ends, Event::LeaderEnds(key.clone(), launch.clone()));
        } // Or it runs, and never joins.
    }

    fn is_listed(&self, uid: &Uid, launch: &IntentId) -> bool {
        let listed = self.region.list(uid, self.now);
        listed.values().any(|instance| instance.launch.as_ref() == Some(launch))
    }

    /// What EC2 has none of, if it is to have none.
    fn shortage(&mut self, key: &ObjectKey, worker: bool) -> Option<ErrorKind> {
        if self.site(key).hopeless && worker {
            return Some(ErrorKind::NoCapacity);
        }
        if !self.faulty(self.faults.rejected_launches) {
            return None;
        }
        let kinds =
            [ErrorKind::NoCapacity, ErrorKind::SubnetFull, ErrorKind::MarketLimit, ErrorKind::Rejected];
        self.random.pick(&kinds).copied()
    }

    /// Ends the instance of a launch, if it is listed.
    pub(super) fn terminate_on_ec2(&mut self, call: &Call, uid: &Uid) -> Result<(), EffectError> {
        let Effect::TerminateNode { launch, since, .. } = &call.intent.effect else { return Ok(()) };
        self.is_turned_away()?;
        let listed = self.region.list(uid, self.now);
        let found = listed.into_iter().find(|(_, instance)| instance.launch.as_ref() == Some(launch));
        match found {
            None if self.now < moment(*since) + LISTING_DELAY_MS => {
                Err(unavailable("EC2 lists no instance of the launch; it may do so later"))
            }
            Some((id, instance)) if !instance.phase.is_ending() => {
                self.check_termination(&call.key, launch);
                self.end_on_ec2(&call.key, &id);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Ends an instance, if it is the cluster's.
    pub(super) fn end_stray(
        &mut self,
        key: &ObjectKey,
        uid: &Uid,
        id: &InstanceId,
    ) -> Result<(), EffectError> {
        self.is_turned_away()?;
        let Some(instance) = self.region.instances.get(id) else { return Ok(()) };
        if instance.marks.uid != *uid {
            let message = format!("instance {id} does not carry this cluster's mark");
            return Err(EffectError { kind: ErrorKind::Rejected, message });
        }
        self.check_stray(key, id);
        self.end_on_ec2(key, id);
        Ok(())
    }

    fn end_on_ec2(&mut self, key: &ObjectKey, id: &InstanceId) {
        let living = self.region.instances.get(id).filter(|instance| !instance.phase.is_ending());
        let Some(owner) = living.map(|instance| instance.owner.clone()) else { return };
        self.check_ownership(key, id, owner.as_ref());
        let lag = self.lag();
        self.region.shut_down(id, "Client.UserInitiatedShutdown", self.now, lag);
        let at = self.now + self.random.between(END_MS.0, END_MS.1);
        self.queue.push(at, Event::InstanceEnds(id.clone()));
    }

    /// Nothing of an instance that was told to end is left.
    pub(super) fn instance_ends(&mut self, id: &InstanceId) {
        let Some(instance) = self.region.instances.get(id) else { return };
        let (owner, launch) = (instance.owner.clone(), instance.marks.launch.clone());
        if let Some(key) = owner {
            self.end_machine(&key, &launch);
        }
        let lag = self.lag();
        self.region.ends(id, "", self.now, lag);
    }

    /// The instance that a machine is has ended by itself, or was taken away.
    pub(super) fn note_end(&mut self, launch: &IntentId, why: &str) {
        let id = self.region.of_launch(launch).filter(|(_, it)| it.phase != InstancePhase::Terminated);
        let Some(id) = id.map(|(id, _)| id.clone()) else { return };
        self.transcript.say(self.now, || format!("world: {id} ends: {why}"));
        let lag = self.lag();
        self.region.ends(&id, why, self.now, lag);
    }
}
