//! How many workers a job should have, and why.
//!
//! The policy `Goodput` asks AdaptDL's model, fed by the job's own hints. It never goes beyond twice what was
//! profiled, for the model knows nothing there; it grows only if that pays back the time the change costs, and
//! not soon after the last change.

use jiff::{SignedDuration, Timestamp};

use crate::api::job::{AdaptDLJobSpec, ScalingPolicy};
use crate::api::units::Span;
use crate::api::words::count;
use crate::goodput::{Hints, ReplicaLimit, SpeedupModel};

/// A change must raise the goodput by at least this share: below it is the noise of the model's fit.
const LEAST_GAIN: f64 = 0.05;
/// A change must have paid back its downtime within this time.
const PAY_BACK: SignedDuration = SignedDuration::from_mins(5);
/// The downtime of a job that has not been rescaled yet: what a group started afresh takes.
const ASSUMED_DOWNTIME: SignedDuration = SignedDuration::from_secs(10);
/// A group that is running may fall this much short of the wanted efficiency before it is shrunk.
const SLACK: f64 = 0.9;

/// How many workers a job should have, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// How many.
    pub replicas: u32,
    /// Why, as a word.
    pub reason: &'static str,
    /// Why, for a person.
    pub message: String,
    /// When the answer may be another without anything having happened.
    pub until: Option<Timestamp>,
}

/// What a decision is made from.
pub struct Question<'a> {
    /// What the manifest wants.
    pub spec: &'a AdaptDLJobSpec,
    /// What the job has reported.
    pub hints: Option<&'a Hints>,
    /// Workers it has now; 0 if it has none.
    pub current: u32,
    /// When its present group began to train, if another did before it.
    pub changed: Option<Timestamp>,
    /// How long it stood still when it was changed last.
    pub downtime: Option<SignedDuration>,
    /// The present.
    pub now: Timestamp,
    /// On how many nodes so many workers would be; `None` if there is no room.
    pub nodes: &'a dyn Fn(u32) -> Option<u32>,
}

/// Decides.
pub fn decide(question: &Question<'_>) -> Decision {
    let spec = question.spec;
    let least = spec.min_replicas.max(1);
    let room = (1..=spec.max_replicas).take_while(|replicas| (question.nodes)(*replicas).is_some()).last();
    let Some(room) = room.filter(|room| *room >= least) else {
        let message = format!("there is no room for {}", count(least, "worker"));
        return Decision { replicas: 0, reason: "NoRoom", message, until: None };
    };
    if spec.scaling.policy == ScalingPolicy::Fixed {
        return fixed(spec, room);
    }
    let Some((hints, model)) = question.hints.and_then(|hints| Some((hints, hints.speedup_model()?))) else {
        return unprofiled(question, least, room);
    };
    let caps = hints.max_useful_replicas();
    let upper = room.min(caps.lowest()).max(least);
    let best = best(question, &model, least, upper);
    let found = weigh(question, &model, best, upper);
    let found = if found.replicas == upper && upper < spec.max_replicas && best == upper {
        bounded(found, hints, room, upper)
    } else {
        found
    };
    rested(question, found)
}

fn fixed(spec: &AdaptDLJobSpec, room: u32) -> Decision {
    let wanted = spec.scaling.replicas.unwrap_or(spec.min_replicas).clamp(1, spec.max_replicas);
    let replicas = wanted.min(room);
    let (reason, message) = if replicas < wanted {
        ("NoRoom", format!("the manifest wants {}, but there is room for {room}", count(wanted, "worker")))
    } else {
        ("Fixed", format!("the manifest wants {}", count(wanted, "worker")))
    };
    Decision { replicas, reason, message, until: None }
}

/// Without hints a job starts small, and keeps what it has.
fn unprofiled(question: &Question<'_>, least: u32, room: u32) -> Decision {
    let replicas = question.current.clamp(least, room);
    let message = "the job has reported no performance yet; it grows when it has".to_owned();
    Decision { replicas, reason: "NotProfiled", message, until: None }
}

fn speedup(question: &Question<'_>, model: &SpeedupModel, replicas: u32) -> f64 {
    (question.nodes)(replicas).map_or(0.0, |nodes| model.speedup(nodes, replicas))
}

fn efficiency(question: &Question<'_>, model: &SpeedupModel, replicas: u32) -> f64 {
    speedup(question, model, replicas) / f64::from(replicas)
}

/// The number of workers with the highest goodput among those that are efficient enough; the smallest of equals.
fn best(question: &Question<'_>, model: &SpeedupModel, least: u32, upper: u32) -> u32 {
    let wanted = question.spec.scaling.min_efficiency;
    let mut best = least;
    for replicas in least + 1..=upper {
        let better = speedup(question, model, replicas) > speedup(question, model, best);
        if better && efficiency(question, model, replicas) >= wanted {
            best = replicas;
        }
    }
    best
}

/// `1 worker brings`, `2 workers bring`.
fn bring(workers: u32) -> String {
    format!("{} {}", count(workers, "worker"), if workers == 1 { "brings" } else { "bring" })
}

/// Compares the best with what there is.
fn weigh(question: &Question<'_>, model: &SpeedupModel, best: u32, upper: u32) -> Decision {
    let current = question.current;
    let describe = |replicas: u32| {
        let (gain, share) = (speedup(question, model, replicas), efficiency(question, model, replicas));
        format!("{} {gain:.2} times the goodput of one (efficiency {share:.2})", bring(replicas))
    };
    let at = |replicas, reason, message| Decision { replicas, reason, message, until: None };
    if best == current || current == 0 || current > upper {
        return stay(question, model, best, upper);
    }
    let (now, then) = (speedup(question, model, current), speedup(question, model, best));
    if best > current {
        let downtime = question.downtime.unwrap_or(ASSUMED_DOWNTIME).as_secs_f64();
        let least_gain = LEAST_GAIN.max(downtime / PAY_BACK.as_secs_f64());
        if then < now * (1.0 + least_gain) {
            let message = format!(
                "{}; {best} would bring {then:.2}, not enough more to pay back {downtime:.1} s of downtime",
                describe(current)
            );
            return at(current, "NotWorthIt", message);
        }
        return at(best, "Grow", describe(best));
    }
    let wanted = question.spec.scaling.min_efficiency;
    let short = efficiency(question, model, current) < wanted * SLACK;
    if short || now <= then {
        let why = if short {
            format!("{}, less than {wanted:.2} each", describe(current))
        } else {
            format!(
                "{} no more than {best} ({now:.2} against {then:.2} times the goodput of one)",
                bring(current)
            )
        };
        return at(best, "Shrink", why);
    }
    at(current, "Efficient", format!("{}; it stays as it is", describe(current)))
}

/// Why no other number would be better.
fn stay(question: &Question<'_>, model: &SpeedupModel, best: u32, upper: u32) -> Decision {
    let (gain, share) = (speedup(question, model, best), efficiency(question, model, best));
    let one_more = (best < upper).then(|| (best + 1, speedup(question, model, best + 1)));
    let message = match one_more {
        Some((more, then)) if then <= gain => {
            format!(
                "{more} workers would bring {then:.2} times the goodput of one, {best} {} {gain:.2}",
                if best == 1 { "brings" } else { "bring" }
            )
        }
        Some((more, then)) => format!(
            "{more} workers would bring only {:.2} of a worker's goodput each, {:.2} is wanted",
            then / f64::from(more),
            question.spec.scaling.min_efficiency
        ),
        None => format!("{} {gain:.2} times the goodput of one (efficiency {share:.2})", bring(best)),
    };
    Decision { replicas: best, reason: "Best", message, until: None }
}

/// The best is at a bound: says which.
fn bounded(found: Decision, hints: &Hints, room: u32, upper: u32) -> Decision {
    let caps = hints.max_useful_replicas();
    let (reason, why) = if caps.lowest() > upper && room == upper {
        ("NoRoom", format!("there is room for {room}"))
    } else if caps.binding() == ReplicaLimit::Batch {
        let limits = &hints.limits;
        let smallest = limits.local().min.map_or(1, |size| size.get());
        let why = format!(
            "a batch of at most {} cannot be divided over more, the smallest local batch being {smallest}",
            limits.largest().get()
        );
        ("BatchTooSmall", why)
    } else {
        ("Profiling", format!("more is not predicted before {upper} have been tried"))
    };
    Decision { reason, message: format!("{}; {why}", found.message), ..found }
}

/// Leaves a job alone for its cooldown.
fn rested(question: &Question<'_>, found: Decision) -> Decision {
    let current = question.current;
    // What lies ahead was before the clock was set back: nobody knows how long ago.
    let changed = question.changed.filter(|changed| *changed <= question.now);
    let Some(changed) = changed.filter(|_| current > 0 && found.replicas != current) else {
        return found;
    };
    let rested = changed + question.spec.scaling.cooldown.signed();
    let allowed = question.spec.min_replicas.max(1)..=question.spec.max_replicas;
    if question.now >= rested || !allowed.contains(&current) || (question.nodes)(current).is_none() {
        return found;
    }
    let left = Span { millis: u64::try_from(rested.duration_since(question.now).as_millis()).unwrap_or(0) };
    let left = Span::from_secs(left.millis.div_ceil(1000));
    Decision {
        replicas: current,
        reason: "Cooldown",
        message: format!(
            "it was changed lately and is left alone for another {left}; then: {}",
            found.message
        ),
        until: Some(rested),
    }
}
