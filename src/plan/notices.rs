//! Nodes that will be taken away: what was announced, when it becomes urgent, and what is left of the time.

use jiff::{SignedDuration, Timestamp};

use super::draft::Draft;
use super::offers;
use crate::action::Effect;
use crate::api::event::EventType;
use crate::api::ids::{NodeName, RayNodeId};
use crate::api::record::{NodeState, Notice};
use crate::api::units::Span;
use crate::api::wire::{BridgePhase, NoticeKind, NoticeReport};

/// Whatever is announced for so soon is urgent.
const URGENT: SignedDuration = SignedDuration::from_mins(5);
/// How long a node has from a notice that does not say so: what EC2 gives a spot instance.
const SPOT_MINUTES: SignedDuration = SignedDuration::from_mins(2);
/// Two reports of one deadline differ by less than this.
const SAME_DEADLINE: SignedDuration = SignedDuration::from_secs(5);
/// What must be left of the time when the last worker has gone.
const MARGIN: SignedDuration = SignedDuration::from_secs(5);
/// After its deadline a node that is still there is no longer expected to be taken.
const FORGOTTEN: SignedDuration = SignedDuration::from_mins(10);

/// Notes what the bridges say, and cordons the nodes for which that is urgent.
pub(super) fn absorb(draft: &mut Draft<'_>) {
    let Some((heard, agent)) = draft.agent() else { return forget(draft) };
    for bridge in agent.jobs.values().filter(|bridge| bridge.phase != BridgePhase::Dead) {
        let moment = heard - millis(bridge.age_ms);
        for report in &bridge.notices {
            let deadline = report.deadline_ms.map(|left| moment + millis(left));
            if deadline.is_some_and(|deadline| is_over(deadline, draft.now)) {
                continue;
            }
            note(draft, report, moment, deadline);
        }
    }
    forget(draft);
    cordon(draft);
}

/// Has Ray start nothing more on nodes of somebody else that will soon be gone.
pub(super) fn drain_foreign(draft: &mut Draft<'_>) {
    let Some((_, agent)) =
        draft.agent().filter(|_| !draft.cluster().is_none_or(|cluster| cluster.spec.is_ours()))
    else {
        return;
    };
    for node in agent.nodes.iter().filter(|node| node.alive && !node.draining && !node.head) {
        if draft.record.notices.get(&node.id).is_some_and(|notice| is_urgent(notice, draft.now)) {
            draft.intend(Effect::DrainNode {
                node: NodeName::from(node.address.clone()),
                ray: node.id.clone(),
            });
        }
    }
}

/// Whether a node must be left at once.
pub(super) fn is_urgent(notice: &Notice, now: Timestamp) -> bool {
    urgent_at(notice).is_some_and(|at| at <= now)
}

fn urgent_at(notice: &Notice) -> Option<Timestamp> {
    match notice.kind {
        NoticeKind::SpotInterruption => Some(notice.heard),
        _ => notice.deadline.map(|deadline| deadline - URGENT),
    }
}

/// How long workers may take to save and leave, of the time that is left.
pub(super) fn grace(notice: &Notice, timeout: Span, now: Timestamp) -> Span {
    let left = notice.deadline.map(|deadline| (deadline - MARGIN).duration_since(now).as_millis().max(1000));
    let left = left.map_or(timeout.millis, |left| u64::try_from(left).unwrap_or(u64::MAX));
    Span { millis: timeout.millis.min(left) }
}

/// When a group that is still on a node is stopped, however near its next place is: it must have time to save.
pub(super) fn last_call(notice: &Notice, timeout: Span) -> Option<Timestamp> {
    let deadline = notice.deadline?;
    let half = deadline.duration_since(notice.heard) / 2;
    Some(deadline - MARGIN - timeout.signed().min(half).max(SignedDuration::ZERO))
}

/// A sentence on what will happen.
pub(super) fn why(name: &NodeName, notice: &Notice) -> String {
    format!("node {name} will be taken away: {}", notice.kind.words())
}

impl Draft<'_> {
    /// The node on which the newest group of a job is or was, and which must be left at once. Of several the one of
    /// which the least time is left.
    pub(super) fn leaving(&self, index: usize) -> Option<(&NodeName, &Notice)> {
        let job = &self.jobs[index];
        let group = job.running_group().or_else(|| job.record.groups.last().map(|group| &**group))?;
        let leaving = group.nodes.iter().filter_map(|name| Some((name, self.notice_of(name)?)));
        let urgent = leaving.filter(|(_, notice)| is_urgent(notice, self.now));
        urgent.min_by_key(|(name, notice)| (notice.deadline, *name))
    }

    /// What was announced for a node.
    pub(super) fn notice_of(&self, name: &NodeName) -> Option<&Notice> {
        if let Some(node) = self.record.nodes.get(name) {
            return node.notice.as_ref();
        }
        let (_, agent) = self.agent().filter(|_| !self.record.notices.is_empty())?;
        let node = agent.nodes.iter().find(|node| node.alive && node.address == name.0)?;
        self.record.notices.get(&node.id)
    }
}

fn is_over(deadline: Timestamp, now: Timestamp) -> bool {
    now > deadline + FORGOTTEN
}

fn millis(time: f64) -> SignedDuration {
    SignedDuration::from_millis(time.clamp(-1e12, 1e12) as i64)
}

fn note(draft: &mut Draft<'_>, report: &NoticeReport, heard: Timestamp, deadline: Option<Timestamp>) {
    let deadline = match report.kind {
        NoticeKind::SpotInterruption => deadline.or(Some(heard + SPOT_MINUTES)),
        _ => deadline,
    };
    let Some((name, known)) = place(draft, &report.node) else { return };
    if known.is_some_and(|known| !is_news(known, report, deadline)) {
        return;
    }
    let notice = Notice { kind: report.kind, action: report.action.clone(), deadline, heard };
    let message = format!("node {name}: {}", notice.describe(draft.now));
    if let Some(node) = draft.record.nodes.get_mut(&name) {
        node.notice = Some(notice);
    } else {
        draft.record.notices.insert(report.node.clone(), notice);
    }
    draft.cluster_event(EventType::Warning, "NodeNotice", message);
    if report.kind == NoticeKind::SpotInterruption {
        offers::taken_back(draft, &name);
    }
}

/// The node that a notice is for, and what is known of it; `None` if there is no such node.
fn place<'d>(draft: &'d Draft<'_>, ray: &RayNodeId) -> Option<(NodeName, Option<&'d Notice>)> {
    if let Some(name) = draft.own_name(ray) {
        return Some((name.clone(), draft.record.nodes.get(name).and_then(|node| node.notice.as_ref())));
    }
    draft.cluster().filter(|cluster| !cluster.spec.is_ours())?;
    let node = draft.index.node(ray).filter(|node| node.alive)?;
    Some((NodeName::from(node.address.clone()), draft.record.notices.get(ray)))
}

/// Whether a report says more than is known: several jobs report one notice, and each of them again and again.
fn is_news(known: &Notice, report: &NoticeReport, deadline: Option<Timestamp>) -> bool {
    if known.kind != report.kind {
        return severity(report.kind) > severity(known.kind);
    }
    match (known.deadline, deadline) {
        (Some(known), Some(deadline)) => deadline < known - SAME_DEADLINE,
        (known, deadline) => known.is_none() && deadline.is_some(),
    }
}

fn severity(kind: NoticeKind) -> u8 {
    match kind {
        NoticeKind::RebalanceRecommendation => 0,
        NoticeKind::ScheduledMaintenance => 1,
        NoticeKind::SpotInterruption => 2,
    }
}

/// Forgets what was announced for nodes that are gone, or were not taken after all.
fn forget(draft: &mut Draft<'_>) {
    let now = draft.now;
    let over = |notice: &Notice| notice.deadline.is_some_and(|deadline| is_over(deadline, now));
    if let Some((_, agent)) = draft.agent() {
        let there = |ray: &RayNodeId| agent.nodes.iter().any(|node| node.alive && node.id == *ray);
        draft.record.notices.retain(|ray, notice| there(ray) && !over(notice));
    }
    for node in draft.record.nodes.values_mut().filter(|node| node.group.is_none()) {
        node.notice.take_if(|notice| over(notice));
    }
}

/// Drains our nodes that must be left, but for the head, and plans again when that is true of more.
fn cordon(draft: &mut Draft<'_>) {
    let own =
        draft.record.nodes.iter().filter_map(|(name, node)| Some((Some(name.clone()), node.notice.clone()?)));
    let foreign = draft.record.notices.values().map(|notice| (None, notice.clone()));
    let noticed: Vec<(Option<NodeName>, Notice)> = own.chain(foreign).collect();
    for (name, notice) in noticed {
        let Some(at) = urgent_at(&notice) else { continue };
        if !draft.is_due(at) {
            continue;
        }
        let now = draft.now;
        let node = name.as_ref().and_then(|name| draft.record.nodes.get_mut(name));
        let Some(node) = node.filter(|node| node.group.is_some()) else { continue };
        if node.state.is_wanted() {
            node.state = NodeState::Draining { since: now, cause: notice.kind.words().to_owned() };
        }
    }
}
