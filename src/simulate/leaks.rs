//! Whether anything on EC2 is forgotten, costs more than it may, or is not ours to touch: what `invariants` demands of
//! instances.

use super::invariants::{Invariant, Violation};
use super::world::World;
use crate::api::aws::MarketKind;
use crate::api::ids::{InstanceId, IntentId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::money::Money;
use crate::api::object::RayCluster;
use crate::api::observed::InstancePhase;
use crate::plan::Plan;

impl World {
    fn stray_violation(&mut self, message: String) {
        self.violate(Violation { invariant: Invariant::NothingStray, message });
    }

    /// Judges that a cluster goes for good.
    pub(super) fn check_removals(&mut self, plan: &Plan) {
        for removal in &plan.removals {
            if let Some(left) = self.region.left_of(&removal.uid) {
                self.stray_violation(format!("a cluster is gone, and {left} is left of it"));
            }
        }
    }

    /// Judges that an instance has come to be.
    pub(super) fn check_launch(&mut self, cluster: &RayCluster, launch: &IntentId) {
        let uid = &cluster.metadata.uid;
        if !self.store.clusters.values().any(|known| known.metadata.uid == *uid) {
            self.stray_violation(format!("launch {launch} comes true when its cluster is gone"));
        }
        self.check_cost(cluster, launch);
    }

    /// Judges what a cluster's instances cost after one more was launched.
    fn check_cost(&mut self, cluster: &RayCluster, launch: &IntentId) {
        let key = cluster.metadata.key();
        let created =
            self.store.intents.get(launch).map_or(self.now, |intent| super::clock::moment(intent.created));
        let Some(most) = self.ledger.most(&key, created) else { return };
        let uid = &cluster.metadata.uid;
        let living = self
            .region
            .instances
            .values()
            .filter(|it| it.marks.uid == *uid && !it.is_stray() && it.phase != InstancePhase::Terminated);
        let price = |kind: &str, market: MarketKind| {
            let given = cluster.spec.aws().and_then(|aws| aws.prices.get(kind))?;
            if market == MarketKind::Spot { given.spot } else { given.on_demand }
        };
        let cost: Money = living.filter_map(|it| price(&it.offering.instance_type, it.offering.market)).sum();
        if cost > most {
            let message = format!("{key} costs {}, {} are allowed", cost.hourly(), most.hourly());
            self.violate(Violation { invariant: Invariant::WithinLimits, message });
        }
    }

    /// Judges whether an instance may be ended as one that nobody knows.
    pub(super) fn check_stray(&mut self, key: &ObjectKey, id: &InstanceId) {
        let launch = self.region.instances.get(id).map(|it| it.marks.launch.clone());
        let record = self.store.records.get(key);
        let known = record
            .and_then(|record| record.nodes.iter().find(|(_, node)| Some(&node.launch) == launch.as_ref()));
        if let Some((name, _)) = known.filter(|(_, node)| node.state.is_wanted()) {
            let message = format!("node {name} is ended as an instance that nobody knows");
            self.stray_violation(message);
        }
    }

    /// Judges whether an instance is the cluster's.
    pub(super) fn check_ownership(&mut self, key: &ObjectKey, id: &InstanceId, owner: Option<&ObjectKey>) {
        if owner != Some(key) {
            self.stray_violation(format!("{key} ends {id}, which is not its own"));
        }
    }

    /// What there is on EC2 for a cluster beside what its record knows.
    pub(super) fn stray_on_ec2(&self, key: &ObjectKey, cluster: &RayCluster) -> Option<String> {
        cluster.spec.aws()?;
        let uid: &Uid = &cluster.metadata.uid;
        let record = self.store.records.get(key);
        let known = |launch: &IntentId| {
            record.is_some_and(|record| record.nodes.values().any(|node| node.launch == *launch))
        };
        let open = record.and_then(|record| record.incarnation.as_ref());
        let Some(open) = open else { return self.region.left_of(uid).map(|left| format!("{left} is left")) };
        let mut living = self.region.instances.iter().filter(|(_, it)| {
            it.marks.uid == *uid && it.phase != InstancePhase::Terminated && !known(&it.marks.launch)
        });
        if let Some((id, _)) = living.next() {
            return Some(format!("{id} runs, and nobody knows it"));
        }
        let mut shared = self.region.shared.keys();
        let other = shared.find(|(of, incarnation)| of == uid && *incarnation != open.id);
        other.map(|(_, incarnation)| format!("what was made for {incarnation} is left"))
    }
}
