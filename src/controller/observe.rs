//! Observation: each cluster's agent is listened to all the time, its local processes are looked at when planning
//! and glanced at in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{AbortHandle, JoinHandle};

use super::queue::Queue;
use crate::api::cost::{ListPrices, SpotPrices};
use crate::api::ids::IntentId;
use crate::api::meta::ObjectKey;
use crate::api::observed::{Instances, Observed, Processes};
use crate::api::wire::AgentState;
use crate::provider::NodeProvider;
use crate::provider::local::processes::is_alive;
use crate::provider::ray::RayError;
use crate::provider::ray::agent::AgentClient;
use crate::provider::ray::dashboard::Dashboard;

/// How long the agent holds a question while there is nothing new.
const HOLD: Duration = Duration::from_secs(10);
/// Between two questions after one that failed.
const RETRY: Duration = Duration::from_millis(500);
/// How often the main processes of local nodes are glanced at.
const GLANCE: Duration = Duration::from_secs(1);
/// How often the instances of a cluster on EC2 are listed: 720 times an hour for each thousand of them, of the 72,000
/// that EC2 lets an account ask (20 a second).
const LISTING: Duration = Duration::from_secs(5);
/// The longest wait between two listings after some that failed.
const SLOWEST_LISTING: Duration = Duration::from_secs(60);
/// How often EC2 is asked for its spot prices. They move slowly (Amazon EC2 User Guide, "Spot Instances").
const PRICING: Duration = Duration::from_secs(3600);
/// Between two such questions after one that failed.
const PRICING_AGAIN: Duration = Duration::from_secs(300);
/// How often it is seen whether something is to be looked up in the price list.
const LOOKING_UP: Duration = Duration::from_secs(2);
/// How long it is left alone with the same question: who may not ask it must not go on asking.
const LOOKING_UP_AGAIN: Duration = Duration::from_secs(3600);
/// Between two questions: many jobs have something new all the time.
const BREATH: Duration = Duration::from_millis(50);
/// News that is only progress is passed on this often.
const PROGRESS: Duration = Duration::from_secs(2);

/// What is observed of one cluster, by the tasks that listen to it.
#[derive(Default)]
struct Watched {
    agent: Observed<AgentState>,
    agent_ended: Observed<Option<String>>,
    processes: Option<Processes>,
    instances: Observed<Instances>,
    /// The types whose spot prices are wanted.
    spot_types: BTreeSet<String>,
    spot_prices: Observed<SpotPrices>,
    /// The types whose prices are to be looked up in AWS's price list.
    list_types: BTreeSet<String>,
    /// For which it was asked last, and until when that will do.
    list_asked: Option<(BTreeSet<String>, tokio::time::Instant)>,
    list_prices: Observed<ListPrices>,
    /// The launches whose instances have nearly had the time that they have to join.
    late: BTreeSet<IntentId>,
}

/// Listens to one incarnation of a cluster, until it is dropped.
pub(super) struct Watch {
    /// What it listens to: another address or agent needs another watch.
    pub(super) subject: Subject,
    watched: Arc<Mutex<Watched>>,
    tasks: Vec<AbortHandle>,
}

/// What a watch listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) incarnation: String,
    pub(super) agent: String,
    pub(super) submission: Option<String>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Watch {
    /// Begins to listen.
    pub(super) fn start(
        key: ObjectKey,
        subject: Subject,
        agent: AgentClient,
        dashboard: Dashboard,
        cloud: Option<Box<dyn NodeProvider>>,
        queue: Arc<Queue>,
    ) -> Self {
        let watched = Arc::new(Mutex::new(Watched::default()));
        let listener = Listener {
            key: key.clone(),
            subject: subject.clone(),
            agent,
            dashboard,
            queue: queue.clone(),
            watched: watched.clone(),
        };
        let listening = tokio::spawn(listener.run());
        let looking = match cloud {
            Some(provider) => {
                let provider: Arc<dyn NodeProvider> = Arc::from(provider);
                // On its own: while nobody answers, instances are listed all the same.
                let pricing = look_up(key.clone(), Arc::clone(&provider), watched.clone(), queue.clone());
                vec![tokio::spawn(list(key, provider, watched.clone(), queue)), tokio::spawn(pricing)]
            }
            None => vec![tokio::spawn(glance(key, watched.clone(), queue))],
        };
        let tasks = looking.iter().chain([&listening]).map(JoinHandle::abort_handle).collect();
        Self { subject, watched, tasks }
    }

    /// The cluster's instances, where they are EC2's.
    pub(super) fn instances(&self) -> Observed<Instances> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).instances.clone()
    }

    /// What EC2 asks for spot instances.
    pub(super) fn spot_prices(&self) -> Observed<SpotPrices> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).spot_prices.clone()
    }

    /// Goes on with what another watch of the same cluster knows of AWS's price list: what it has looked up, or may not
    /// look up, is not asked again because the agent is another.
    pub(super) fn take_over(&self, before: &Self) {
        let (asked, prices) = {
            let watched = before.watched.lock().unwrap_or_else(PoisonError::into_inner);
            (watched.list_asked.clone(), watched.list_prices.clone())
        };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        (watched.list_asked, watched.list_prices) = (asked, prices);
    }

    /// What AWS's price list has.
    pub(super) fn list_prices(&self) -> Observed<ListPrices> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).list_prices.clone()
    }

    /// Notes which types' prices are to be looked up in the price list.
    pub(super) fn note_list_types(&self, types: BTreeSet<String>) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).list_types = types;
    }

    /// Notes of which types spot instances may be launched.
    pub(super) fn note_spot_types(&self, types: BTreeSet<String>) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).spot_types = types;
    }

    /// Notes whose instances should be asked what they printed.
    pub(super) fn note_late(&self, launches: BTreeSet<IntentId>) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).late = launches;
    }

    /// What the agent says, and whether it has ended.
    pub(super) fn agent(&self) -> (Observed<AgentState>, Observed<Option<String>>) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        (watched.agent.clone(), watched.agent_ended.clone())
    }

    /// Notes what the processes showed, so that a change is noticed soon.
    pub(super) fn note_processes(&self, processes: &Processes) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).processes = Some(processes.clone());
    }
}

struct Listener {
    key: ObjectKey,
    subject: Subject,
    agent: AgentClient,
    dashboard: Dashboard,
    queue: Arc<Queue>,
    watched: Arc<Mutex<Watched>>,
}

impl Listener {
    async fn run(self) {
        if self.subject.submission.is_none() {
            return;
        }
        let mut seen = -1;
        let mut told = tokio::time::Instant::now();
        loop {
            match self.agent.state(seen, HOLD).await {
                Ok(state) => {
                    // An agent that only says that it is still there has no progress to pass on.
                    let progress = state.version != seen;
                    seen = state.version;
                    let news = self.note(state);
                    if news || (progress && told.elapsed() >= PROGRESS) {
                        told = tokio::time::Instant::now();
                        self.queue.wake(self.key.clone());
                    }
                    tokio::time::sleep(BREATH).await;
                }
                Err(error) => {
                    seen = -1;
                    self.note_silence(&error).await;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Keeps a state; says whether it has news beyond progress.
    fn note(&self, state: AgentState) -> bool {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let news = match watched.agent.fresh() {
            Some((_, before)) => before.essence() != state.essence(),
            None => true,
        };
        watched.agent = Observed::seen(Timestamp::now(), state);
        news
    }

    /// The agent does not answer: is it because it has ended?
    async fn note_silence(&self, error: &RayError) {
        let ended = match &self.subject.submission {
            Some(submission) => self.has_ended(submission).await,
            None => Ok(None),
        };
        let now = Timestamp::now();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let first = watched.agent.error.is_none();
        watched.agent.fail(now, error.to_string());
        let before = watched.agent_ended.fresh().and_then(|(_, ended)| ended.clone());
        match ended {
            Ok(ended) => watched.agent_ended = Observed::seen(now, ended),
            Err(error) => watched.agent_ended.fail(now, error.to_string()),
        }
        let after = watched.agent_ended.fresh().and_then(|(_, ended)| ended.clone());
        drop(watched);
        if first || before != after {
            self.queue.wake(self.key.clone());
        }
    }

    /// Why the agent's Ray job has ended, if it has.
    async fn has_ended(&self, submission: &str) -> Result<Option<String>, RayError> {
        let job = match self.dashboard.job(submission).await {
            Ok(job) => job,
            Err(RayError::NotFound { .. }) => return Ok(Some("its Ray job is not there".to_owned())),
            Err(error) => return Err(error),
        };
        if !job.has_ended() {
            return Ok(None);
        }
        let output = self.dashboard.job_output(submission).await.unwrap_or_default();
        let message = job.message.unwrap_or(job.status);
        Ok(Some(format!("{}\n{output}", message.trim())))
    }
}

/// Wakes the planner when a main process of a node has gone.
async fn glance(key: ObjectKey, watched: Arc<Mutex<Watched>>, queue: Arc<Queue>) {
    let mut gone: BTreeMap<IntentId, u32> = BTreeMap::new();
    loop {
        tokio::time::sleep(GLANCE).await;
        let processes = watched.lock().unwrap_or_else(PoisonError::into_inner).processes.clone();
        for (launch, node) in processes.unwrap_or_default() {
            let Some((pid, started)) = node.leader else { continue };
            let daemons = node.daemons.iter().all(|(pid, started)| is_alive(*pid, *started));
            if !(is_alive(pid, started) && daemons) && gone.insert(launch, pid) != Some(pid) {
                queue.wake(key.clone());
            }
        }
    }
}

/// Lists the instances again and again, less often while that fails.
async fn list(
    key: ObjectKey,
    provider: Arc<dyn NodeProvider>,
    watched: Arc<Mutex<Watched>>,
    queue: Arc<Queue>,
) {
    let mut pause = LISTING;
    let mut pricing = Pricing::default();
    loop {
        pricing.look(&key, &*provider, &watched, &queue).await;
        // The time before asking: what was launched after it may not have been seen.
        let at = Timestamp::now();
        let late = watched.lock().unwrap_or_else(PoisonError::into_inner).late.clone();
        let listed = provider.instances(&late).await;
        let news = {
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            let before = watched.instances.fresh().map(|(_, instances)| instances);
            let news = before != listed.as_ref().ok();
            match listed {
                Ok(instances) => {
                    watched.instances = Observed::seen(at, instances);
                    pause = LISTING;
                }
                Err(error) => {
                    watched.instances.fail(at, error.message);
                    pause = (pause * 2).min(SLOWEST_LISTING);
                }
            }
            news
        };
        if news {
            queue.wake(key.clone());
        }
        tokio::time::sleep(pause).await;
    }
}

/// Of which types spot prices were asked for, and until when that will do.
#[derive(Default)]
struct Pricing {
    asked: Option<(BTreeSet<String>, tokio::time::Instant)>,
}

impl Pricing {
    /// Asks for spot prices, if there are types of which nobody has asked for a while.
    async fn look(
        &mut self,
        key: &ObjectKey,
        provider: &dyn NodeProvider,
        watched: &Mutex<Watched>,
        queue: &Queue,
    ) {
        let types = watched.lock().unwrap_or_else(PoisonError::into_inner).spot_types.clone();
        let now = tokio::time::Instant::now();
        let known = self.asked.as_ref().is_some_and(|(asked, until)| *asked == types && now < *until);
        if types.is_empty() || known {
            return;
        }
        let said = provider.spot_prices(&types).await;
        self.asked = Some((types, now + if said.is_ok() { PRICING } else { PRICING_AGAIN }));
        let at = Timestamp::now();
        {
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            match said {
                Ok(prices) => watched.spot_prices = Observed::seen(at, prices),
                Err(error) => {
                    tracing::warn!(cluster = %key, %error, "spot prices are not known");
                    watched.spot_prices.fail(at, error.message);
                }
            }
        }
        queue.wake(key.clone());
    }
}

/// Looks up in AWS's price list what is wanted of it. Nothing waits for it.
async fn look_up(
    key: ObjectKey,
    provider: Arc<dyn NodeProvider>,
    watched: Arc<Mutex<Watched>>,
    queue: Arc<Queue>,
) {
    loop {
        let types = watched.lock().unwrap_or_else(PoisonError::into_inner).wants_looked_up();
        if let Some(types) = types {
            let said = provider.list_prices(&types).await;
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.list_asked = Some((types, tokio::time::Instant::now() + LOOKING_UP_AGAIN));
            match said {
                Ok(prices) => watched.list_prices = Observed::seen(prices.at, prices),
                Err(error) => {
                    tracing::info!(cluster = %key, %error, "AWS's price list cannot be asked");
                    watched.list_prices.fail(Timestamp::now(), error.message);
                }
            }
            drop(watched);
            queue.wake(key.clone());
        }
        tokio::time::sleep(LOOKING_UP).await;
    }
}

impl Watched {
    /// The types that are to be looked up in the price list now.
    fn wants_looked_up(&mut self) -> Option<BTreeSet<String>> {
        if self.list_types.is_empty() {
            // Whatever was said of it, nobody wants to know.
            self.list_prices.error = None;
            return None;
        }
        let now = tokio::time::Instant::now();
        let known =
            self.list_asked.as_ref().is_some_and(|(asked, until)| *asked == self.list_types && now < *until);
        (!known).then(|| self.list_types.clone())
    }
}
