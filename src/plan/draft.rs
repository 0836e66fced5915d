//! A plan in the making: the records as they change, and what each stage asks for.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};

use super::guards::Guard;
use super::held::Held;
use super::index::Index;
use super::report::{JobReport, Report, Waiting};
use super::rollout::Rollout;
use super::snapshot::{JobView, Plan, Removal, Snapshot};
use super::views::Views;
use crate::action::{Effect, Intent, IntentState, Target};
use crate::api::event::{EventType, NewEvent};
use crate::api::ids::{CheckpointId, IntentId, SlotId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::object::{AdaptDLJob, AnyObject, Kind, RayCluster};
use crate::api::record::{ClusterRecord, JobRecord, Trouble};
use crate::api::units::Span;
use crate::api::wire::{AgentState, BridgePhase, BridgeReport};

/// The first wait after a failure; it doubles with each one.
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(1);
/// The longest wait between two tries of an effect.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_secs(30);

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub(super) snapshot: &'a Snapshot,
    cluster: Option<&'a RayCluster>,
    pub(super) now: Timestamp,
    pub(super) record: ClusterRecord,
    pub(super) jobs: Vec<JobDraft<'a>>,
    pub(super) report: Report,
    pub(super) creations: Vec<AnyObject>,
    pub(super) deletions: Vec<(Kind, ObjectKey)>,
    pub(super) removals: Vec<Removal>,
    pub(super) events: Vec<NewEvent>,
    /// What was observed, by what it is looked up by.
    pub(super) index: Index<'a>,
    pub(super) held: RefCell<Held>,
    pub(super) rollout: Rollout,
    pub(super) views: RefCell<Option<Rc<Views>>>,
    intents: BTreeMap<IntentId, Intent>,
    /// The intents on each target.
    targets: BTreeMap<Target, BTreeSet<IntentId>>,
    claimed: BTreeSet<IntentId>,
    wake_at: Option<Timestamp>,
    made: u64,
}

/// A job in the making.
pub(super) struct JobDraft<'a> {
    pub(super) job: &'a AdaptDLJob,
    pub(super) record: JobRecord,
    pub(super) logs_behind: u64,
    pub(super) report: JobReport,
    /// What its bridge says, if it can be heard and the job is bound to this cluster.
    pub(super) bridge: Option<&'a BridgeReport>,
    /// When the bridge was heard.
    pub(super) heard_at: Timestamp,
    /// The jobs that have slots where its next group shall be.
    pub(super) waits_for: Vec<usize>,
}

impl<'a> JobDraft<'a> {
    fn new(view: &'a JobView, snapshot: &'a Snapshot) -> Self {
        let heard = snapshot.seen.agent.fresh();
        let bridge = heard.and_then(|(_, agent)| agent.jobs.get(&view.job.metadata.uid));
        Self {
            job: &view.job,
            record: view.record.clone(),
            logs_behind: view.logs_behind,
            report: JobReport::default(),
            bridge,
            heard_at: heard.map_or(snapshot.now, |(at, _)| at),
            waits_for: Vec::new(),
        }
    }

    pub(super) fn uid(&self) -> &'a Uid {
        &self.job.metadata.uid
    }

    /// When it is its turn to be served: the smallest is the first.
    pub(super) fn turn(&self) -> impl Ord + use<> {
        let meta = &self.job.metadata;
        (Reverse(self.job.spec.priority), meta.creation_timestamp, meta.key())
    }

    /// The bridge's report, if the bridge lives.
    pub(super) fn living_bridge(&self) -> Option<&'a BridgeReport> {
        self.bridge.filter(|_| !self.is_dead())
    }

    /// Whether the job has a bridge that is known to be dead.
    pub(super) fn is_dead(&self) -> bool {
        self.bridge.is_some_and(|bridge| bridge.phase == BridgePhase::Dead)
    }

    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.report.waiting.push(waiting);
    }

    /// What a job that has ended still waits for goes before why it has no workers.
    pub(super) fn wait_first(&mut self, waiting: Waiting) {
        self.report.waiting.insert(0, waiting);
    }
}

impl<'a> Draft<'a> {
    /// A plan to be made from a snapshot, for its cluster with all that follows from what is known of it.
    pub(super) fn new(snapshot: &'a Snapshot, cluster: Option<&'a RayCluster>) -> Self {
        let mut jobs: Vec<JobDraft<'_>> =
            snapshot.jobs.iter().map(|view| JobDraft::new(view, snapshot)).collect();
        // Of two that want the same room the first gets it.
        jobs.sort_by_cached_key(JobDraft::turn);
        let mut draft = Self {
            snapshot,
            cluster,
            now: snapshot.now,
            record: snapshot.record.clone(),
            jobs,
            report: Report::default(),
            creations: Vec::new(),
            deletions: Vec::new(),
            removals: Vec::new(),
            events: Vec::new(),
            index: Index::new(&snapshot.seen),
            held: RefCell::default(),
            rollout: Rollout::default(),
            views: RefCell::default(),
            intents: BTreeMap::new(),
            targets: BTreeMap::new(),
            claimed: BTreeSet::new(),
            wake_at: None,
            made: 0,
        };
        snapshot.intents.iter().for_each(|intent| draft.put(intent.clone()));
        draft
    }

    pub(super) fn cluster(&self) -> Option<&'a RayCluster> {
        self.cluster
    }

    pub(super) fn agent(&self) -> Option<(Timestamp, &'a AgentState)> {
        self.snapshot.seen.agent.fresh()
    }

    pub(super) fn guarded(&self, guard: Guard) -> bool {
        self.snapshot.guards.on(guard)
    }

    /// What keeps the cluster from having nodes, if anything that does not go away by itself does.
    pub(super) fn cluster_trouble(&self) -> Option<&str> {
        let blocked = self.report.cluster.waiting.iter().find(|waiting| waiting.blocked);
        // While it is tried again it is not known to have gone away.
        let before = || self.record.trouble.as_ref().map(|trouble| trouble.message.as_str());
        blocked.map(|waiting| waiting.message.as_str()).or_else(before)
    }

    /// Plans again at a time, unless something happens before.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Whether a moment has come; if not, plans again then.
    pub(super) fn is_due(&mut self, at: Timestamp) -> bool {
        let due = self.now >= at;
        if !due {
            self.wake(at);
        }
        due
    }

    /// A new id. The same snapshot gives the same ids.
    pub(super) fn id(&mut self, prefix: &str) -> String {
        self.made += 1;
        let digest = crate::api::record::digest_of(&(self.snapshot.seed, &self.snapshot.key, self.made));
        format!("{prefix}{}", digest.short())
    }

    pub(super) fn slot_id(&mut self) -> SlotId {
        SlotId::from(self.id("s"))
    }

    // --- Intents -----------------------------------------------------------------------------------------------

    /// The intents as they were handed in, to be settled.
    pub(super) fn take_settled(&mut self) -> Vec<Intent> {
        let settled: Vec<IntentId> = self
            .intents
            .values()
            .filter(|intent| intent.state != IntentState::Pending)
            .map(|intent| intent.id.clone())
            .collect();
        settled.iter().filter_map(|id| self.remove(id)).collect()
    }

    fn put(&mut self, intent: Intent) {
        self.targets.entry(intent.effect.target()).or_default().insert(intent.id.clone());
        self.intents.insert(intent.id.clone(), intent);
    }

    fn remove(&mut self, id: &IntentId) -> Option<Intent> {
        let intent = self.intents.remove(id)?;
        if let Some(on_target) = self.targets.get_mut(&intent.effect.target()) {
            on_target.remove(id);
        }
        Some(intent)
    }

    /// The unsettled intents on a target.
    fn on(&self, target: &Target) -> impl Iterator<Item = &Intent> {
        self.targets.get(target).into_iter().flatten().filter_map(|id| self.intents.get(id))
    }

    /// Puts back an intent that failed, to be tried again later if it is still wanted.
    pub(super) fn retry(&mut self, intent: Intent, failed_at: Timestamp, error: String) {
        let not_before = failed_at + backoff(intent.attempts).min(LONGEST_WAIT);
        let last_error = Some(error);
        self.put(Intent { state: IntentState::Pending, not_before, last_error, ..intent });
    }

    /// Ends waits between two tries that are longer than any that was begun: the clock was set back.
    pub(super) fn wait_less(&mut self) {
        let now = self.now;
        let ahead = self.intents.values_mut().filter(|intent| intent.not_before > now + LONGEST_WAIT);
        ahead.for_each(|intent| intent.not_before = now);
    }

    /// The unsettled intent on a target.
    pub(super) fn pending(&self, target: &Target) -> Option<&Intent> {
        self.on(target).next()
    }

    /// The removal of a job's bridge, if one is under way.
    pub(super) fn removal_of(&self, job: &Uid) -> Option<Effect> {
        let pending = self.pending(&Target::Bridge(job.clone()))?;
        matches!(pending.effect, Effect::RemoveBridge { .. }).then(|| pending.effect.clone())
    }

    /// The checkpoint of a job that is being fetched at this moment.
    pub(super) fn fetching(&self, job: &Uid) -> Option<CheckpointId> {
        let under_way = self.intents.values().filter(|intent| self.snapshot.in_flight.contains(&intent.id));
        under_way.into_iter().find_map(|intent| match &intent.effect {
            Effect::FetchCheckpoint { job: of, checkpoint } if of == job => Some(checkpoint.id),
            _ => None,
        })
    }

    /// Whether it is not known what came of a launch.
    pub(super) fn launch_is_unsettled(&self, launch: &IntentId) -> bool {
        self.intents.contains_key(launch)
    }

    /// The effect of an intent that is not settled.
    pub(super) fn effect_of(&self, id: &IntentId) -> Option<Effect> {
        self.intents.get(id).map(|intent| intent.effect.clone())
    }

    /// Why an intent that is to be tried again failed, as the end of a sentence; nothing if it did not.
    pub(super) fn failure_of(&self, id: &IntentId) -> String {
        let error = self.intents.get(id).and_then(|intent| intent.last_error.as_ref());
        error.map_or_else(String::new, |error| format!(": {error}"))
    }

    /// Asks for an effect. If it has been asked for before it stays as it is; if something else is under way on
    /// the same target, that comes first.
    pub(super) fn intend(&mut self, effect: Effect) {
        let target = effect.target();
        if self.guarded(Guard::OneEffectAtATime) {
            let under_way = |intent: &Intent| {
                self.snapshot.in_flight.contains(&intent.id) || self.claimed.contains(&intent.id)
            };
            if self.on(&target).filter(|intent| intent.effect != effect).any(under_way) {
                return;
            }
        }
        let same = self.on(&target).find(|intent| intent.effect == effect);
        let id = match same {
            Some(intent) => intent.id.clone(),
            None => {
                let id = IntentId::from(self.id("i"));
                self.start(id.clone(), effect);
                id
            }
        };
        self.claimed.insert(id.clone());
        if let Some(not_before) =
            self.intents.get(&id).map(|intent| intent.not_before).filter(|at| *at > self.now)
        {
            self.wake(not_before);
        }
    }

    /// Asks for an effect under an id that was made before.
    pub(super) fn start(&mut self, id: IntentId, effect: Effect) {
        self.claimed.insert(id.clone());
        let intent = Intent {
            id,
            cluster: self.snapshot.key.clone(),
            effect,
            created: self.now,
            attempts: 0,
            not_before: self.now,
            last_error: None,
            state: IntentState::Pending,
        };
        self.put(intent);
    }

    // --- Events ------------------------------------------------------------------------------------------------

    pub(super) fn cluster_event(&mut self, event_type: EventType, reason: &str, message: impl Into<String>) {
        if let Some(cluster) = self.cluster() {
            self.events.push(NewEvent {
                kind: Kind::RayCluster.into(),
                object: self.snapshot.key.clone(),
                uid: cluster.metadata.uid.clone(),
                event_type,
                reason: reason.to_owned(),
                message: message.into(),
            });
        }
    }

    pub(super) fn job_event(
        &mut self,
        job: &AdaptDLJob,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.events.push(NewEvent {
            kind: Kind::AdaptDLJob.into(),
            object: job.metadata.key(),
            uid: job.metadata.uid.clone(),
            event_type,
            reason: reason.to_owned(),
            message: message.into(),
        });
    }

    pub(super) fn finish(mut self) -> Plan {
        for job in self.jobs.iter_mut() {
            self.report.jobs.insert(job.uid().clone(), std::mem::take(&mut job.report));
        }
        let Self { claimed, snapshot, .. } = &self;
        // What is being done at this moment cannot be taken back: its result is waited for, wanted or not.
        let wanted = |id: &IntentId| claimed.contains(id) || snapshot.in_flight.contains(id);
        Plan {
            intents: self.intents.values().filter(|intent| wanted(&intent.id)).cloned().collect(),
            jobs: self.jobs.into_iter().map(|job| (job.uid().clone(), job.record)).collect(),
            record: self.record,
            creations: self.creations,
            deletions: self.deletions,
            removals: self.removals,
            events: self.events,
            report: self.report,
            wake_at: self.wake_at,
        }
    }
}

/// How long to wait after so many failures in a row.
pub(super) fn backoff(failures: u32) -> SignedDuration {
    FIRST_WAIT * 2i32.saturating_pow(failures.saturating_sub(1).min(20))
}

/// One more failure in a row, and when to try again: at most `longest` later.
pub(super) fn more_trouble(
    before: Option<&Trouble>,
    now: Timestamp,
    longest: Span,
    reason: &str,
    message: impl Into<String>,
) -> Trouble {
    let count = before.map_or(0, |trouble| trouble.count) + 1;
    Trouble {
        count,
        until: now + backoff(count).min(longest.signed()),
        reason: reason.to_owned(),
        message: message.into(),
    }
}
