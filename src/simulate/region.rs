//! Amazon EC2, as far as a cluster can tell: instances, what they share, and what is listed of them, which is late.

use std::collections::{BTreeMap, BTreeSet};

use super::clock::Ms;
use crate::action::{EffectError, ErrorKind};
use crate::api::aws::{MarketKind, Offering};
use crate::api::ids::{Digest, InstanceId, IntentId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::observed::{CloudInstance, InstancePhase, Instances};

/// How long an instance that has ended is still listed.
const LISTED_ENDED_MS: Ms = 3_600_000;
/// The incarnation of an instance whose launch is in no record any more.
pub(super) const LOST: &str = "lost";

/// A region of EC2, of one account.
#[derive(Default)]
pub(super) struct Region {
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    /// What each client token was used for, and the instance that came of it.
    tokens: BTreeMap<(Uid, IntentId), (Digest, InstanceId)>,
    /// The launches that were refused.
    refusals: BTreeSet<IntentId>,
    /// What was made for the nodes of each incarnation.
    pub(super) shared: BTreeMap<(Uid, String), BTreeSet<Shared>>,
    /// The clusters whose token and manifest are kept there.
    pub(super) parameters: BTreeSet<Uid>,
    /// What there is none of, and until when.
    pub(super) scarce: BTreeMap<(String, String, MarketKind), Ms>,
    /// Until when nobody's credentials are good.
    pub(super) refuses_until: Ms,
    made: u32,
}

/// What the nodes of an incarnation share, in the order in which it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shared {
    SecurityGroup,
    Interface,
    Address,
}

/// An instance.
pub(super) struct Instance {
    /// The cluster that it belongs to, or nobody that we know.
    pub(super) owner: Option<ObjectKey>,
    pub(super) marks: Marks,
    pub(super) offering: Offering,
    /// Whether it is the head, and has its interface.
    pub(super) head: bool,
    pub(super) phase: InstancePhase,
    /// Why it is there.
    pub(super) reason: String,
    /// What is listed until then, if that is something else.
    before: (Ms, Option<InstancePhase>),
    ended: Option<Ms>,
}

/// The tags of an instance.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub(super) uid: Uid,
    pub(super) incarnation: String,
    pub(super) launch: IntentId,
}

impl Instance {
    /// Whether it was launched by a controller whose records are lost.
    pub(super) fn is_stray(&self) -> bool {
        self.marks.incarnation == LOST
    }

    /// What is listed of it at a moment, if it is.
    fn listed(&self, now: Ms) -> Option<CloudInstance> {
        if self.ended.is_some_and(|ended| now > ended + LISTED_ENDED_MS) {
            return None;
        }
        let (until, before) = self.before;
        let phase = if now < until { before? } else { self.phase };
        Some(CloudInstance {
            launch: Some(self.marks.launch.clone()),
            phase,
            instance_type: self.offering.instance_type.clone(),
            zone: self.offering.zone.clone(),
            market: self.offering.market,
            address: None,
            reason: if phase.is_up() { String::new() } else { self.reason.clone() },
        })
    }

    /// It becomes something else, which is listed a while later.
    fn becomes(&mut self, phase: InstancePhase, now: Ms, lag: Ms) {
        let shown = if now < self.before.0 { self.before.1 } else { Some(self.phase) };
        // What is not listed yet is not listed as what it was either.
        self.before = (self.before.0.max(now + lag), shown);
        self.phase = phase;
        if phase == InstancePhase::Terminated {
            self.ended = Some(now);
        }
    }
}

fn refused(kind: ErrorKind, message: &str) -> EffectError {
    EffectError { kind, message: message.to_owned() }
}

impl Region {
    // --- Instances -----------------------------------------------------------------------------------------------

    /// Launches an instance by its client token, which is listed a while later; none if there was one before.
    pub(super) fn run_instance(
        &mut self,
        instance: Instance,
        request: Digest,
        now: Ms,
    ) -> Result<Option<InstanceId>, EffectError> {
        let token = (instance.marks.uid.clone(), instance.marks.launch.clone());
        if let Some((before, _)) = self.tokens.get(&token) {
            return match *before == request {
                true => Ok(None),
                false => Err(refused(ErrorKind::Unavailable, "IdempotentParameterMismatch")),
            };
        }
        if instance.head {
            let incarnation = (token.0.clone(), instance.marks.incarnation.clone());
            let there = self.shared.get(&incarnation).is_some_and(|it| it.contains(&Shared::Interface));
            let mut heads = self.of_incarnation(&incarnation.0, &incarnation.1).filter(|it| it.head);
            if !there || heads.any(|it| it.phase != InstancePhase::Terminated) {
                return Err(refused(ErrorKind::Unavailable, "InvalidNetworkInterface.InUse"));
            }
        }
        let Offering { instance_type, zone, market, .. } = instance.offering.clone();
        if self.scarce.get(&(instance_type, zone, market)).is_some_and(|until| now < *until) {
            return Err(self.refuse(&token.1, ErrorKind::NoCapacity));
        }
        let id = self.add(instance);
        self.tokens.insert(token, (request, id.clone()));
        Ok(Some(id))
    }

    /// Refuses a launch, for as long as it is asked for as it is.
    pub(super) fn refuse(&mut self, launch: &IntentId, kind: ErrorKind) -> EffectError {
        self.refusals.insert(launch.clone());
        refused(kind, &format!("{kind:?}"))
    }

    /// Whether a launch was refused: if it comes true nevertheless, nobody counts on it any more.
    pub(super) fn has_refused(&self, launch: &IntentId) -> bool {
        self.refusals.contains(launch)
    }

    /// Whether a launch was asked for before, and done.
    pub(super) fn has_done(&self, uid: &Uid, launch: &IntentId) -> bool {
        self.tokens.contains_key(&(uid.clone(), launch.clone()))
    }

    /// An instance comes to be, whoever launched it.
    pub(super) fn add(&mut self, instance: Instance) -> InstanceId {
        self.made += 1;
        let id = InstanceId::from(format!("i-{:04}", self.made));
        self.instances.insert(id.clone(), instance);
        id
    }

    /// A new instance, which is not listed before a moment.
    pub(super) fn instance(
        owner: Option<ObjectKey>,
        marks: Marks,
        offering: Offering,
        head: bool,
        listed: Ms,
    ) -> Instance {
        let (phase, reason) = (InstancePhase::Running, String::new());
        Instance { owner, marks, offering, head, phase, reason, before: (listed, None), ended: None }
    }

    /// The instances of a cluster as they are listed: only what carries its uid.
    pub(super) fn list(&self, uid: &Uid, now: Ms) -> Instances {
        let of_cluster = self.instances.iter().filter(|(_, it)| it.marks.uid == *uid);
        of_cluster.filter_map(|(id, it)| Some((id.clone(), it.listed(now)?))).collect()
    }

    /// An instance is told to end, or begins to.
    pub(super) fn shut_down(&mut self, id: &InstanceId, why: &str, now: Ms, lag: Ms) {
        if let Some(instance) = self.instances.get_mut(id).filter(|it| !it.phase.is_ending()) {
            instance.becomes(InstancePhase::ShuttingDown, now, lag);
            instance.reason = why.to_owned();
        }
    }

    /// Nothing of an instance is left.
    pub(super) fn ends(&mut self, id: &InstanceId, why: &str, now: Ms, lag: Ms) {
        let instance = self.instances.get_mut(id).filter(|it| it.phase != InstancePhase::Terminated);
        let Some(instance) = instance else { return };
        instance.becomes(InstancePhase::Terminated, now, lag);
        if instance.reason.is_empty() {
            instance.reason = why.to_owned();
        }
    }

    /// The instance that a launch has made.
    pub(super) fn of_launch(&self, launch: &IntentId) -> Option<(&InstanceId, &Instance)> {
        self.instances.iter().find(|(_, it)| it.owner.is_some() && it.marks.launch == *launch)
    }

    /// Every instance that was made in an incarnation.
    fn of_incarnation(&self, uid: &Uid, incarnation: &str) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(move |it| it.marks.uid == *uid && it.marks.incarnation == incarnation)
    }

    // --- What instances share ------------------------------------------------------------------------------------

    /// Removes the next thing that was made for an incarnation; whether anything is left.
    pub(super) fn remove_one(&mut self, uid: &Uid, incarnation: &str) -> Result<bool, EffectError> {
        let used = |it: &Instance| it.phase != InstancePhase::Terminated;
        if self.of_incarnation(uid, incarnation).any(used) {
            return Err(refused(ErrorKind::Unavailable, "DependencyViolation: an instance still uses it"));
        }
        let key = (uid.clone(), incarnation.to_owned());
        match self.shared.get_mut(&key) {
            Some(shared) if !shared.is_empty() => _ = shared.pop_last(),
            Some(_) => _ = self.shared.remove(&key),
            None => _ = self.parameters.remove(uid),
        }
        Ok(self.shared.contains_key(&key) || self.parameters.contains(uid))
    }

    /// Something that is there because of a cluster, and costs money or may one day be in somebody's way.
    pub(super) fn left_of(&self, uid: &Uid) -> Option<String> {
        let of_cluster = self.instances.iter().filter(|(_, it)| it.marks.uid == *uid);
        let mut living = of_cluster.filter(|(_, it)| it.phase != InstancePhase::Terminated);
        let shared = || self.shared.iter().find(|((of, _), _)| of == uid);
        let parameter = || self.parameters.contains(uid).then(|| "its parameters".to_owned());
        living
            .next()
            .map(|(id, _)| format!("instance {id}"))
            .or_else(|| shared().map(|((_, incarnation), left)| format!("{left:?} of {incarnation}")))
            .or_else(parameter)
    }
}
