//! How the controller listens to a cluster's agent: what is said arrives later, in order. After `observe.rs`.

use super::clock::{Ms, timestamp};
use super::world::{Event, World};
use crate::api::meta::ObjectKey;
use crate::api::observed::{Instances, Observed};
use crate::api::wire::AgentState;

/// With nothing new, how soon it is heard how far training is.
const PROGRESS_MS: Ms = 30_000;

/// What is heard of one incarnation of a cluster.
#[derive(Default)]
pub(super) struct Watch {
    /// The incarnation, and the agent's Ray job.
    subject: (String, Option<String>),
    /// Which watch it is: what another asked for is not for it.
    pub(super) serial: u64,
    pub(super) agent: Observed<AgentState>,
    /// What of that is more than progress.
    essence: Option<AgentState>,
    pub(super) ended: Observed<Option<String>>,
    /// Whether the agent will soon be asked.
    asking: bool,
    /// When what was said last arrives.
    arrives: Ms,
    /// When it is asked for progress.
    progress: Ms,
    /// The cluster's instances, if it is on EC2.
    pub(super) instances: Observed<Instances>,
    /// How long it is until they are listed again.
    pub(super) pause: Ms,
}

/// What arrives.
pub(super) enum News {
    /// What the agent observes.
    State(AgentState),
    /// It does not answer; and whether its Ray job has ended, if that can be seen.
    Silence(Option<Option<String>>),
}

impl World {
    /// Listens to a cluster's agent where it now is.
    pub(super) fn listen(&mut self, key: &ObjectKey) {
        let record = self.store.records.get(key).filter(|_| self.store.clusters.contains_key(key));
        let incarnation = record.and_then(|record| Some((record, record.incarnation.as_ref()?)));
        let Some((record, incarnation)) = incarnation else {
            self.controller.watches.remove(key);
            return;
        };
        let submission = record.agent.as_ref().map(|agent| agent.submission.clone());
        let subject = (incarnation.id.clone(), submission);
        if self.controller.watches.get(key).is_some_and(|watch| watch.subject == subject) {
            return;
        }
        let silent = subject.1.is_none();
        let serial = self.random.seed();
        let watch = Watch { subject, serial, asking: silent, ..Watch::default() };
        self.controller.watches.insert(key.clone(), watch);
        if self.is_on_ec2(key) {
            self.queue.push(self.now, Event::Lists(key.clone(), serial));
        }
        if !silent {
            self.news(key);
        }
    }

    /// A cluster's agent may have something new to say.
    pub(super) fn news(&mut self, key: &ObjectKey) {
        let delay = self.random.between(2, 60);
        if let Some(watch) = self.controller.watches.get_mut(key).filter(|watch| !watch.asking) {
            watch.asking = true;
            self.queue.push(self.now + delay, Event::Asks(key.clone(), watch.serial));
        }
    }

    /// The agent is asked, and answers or does not.
    pub(super) fn ask(&mut self, key: &ObjectKey, serial: u64) {
        let Some(watch) = self.controller.watches.get(key).filter(|watch| watch.serial == serial) else {
            return;
        };
        let (incarnation, submission) = watch.subject.clone();
        let answer = self.answer(key, &incarnation);
        let slow = self.faulty(self.faults.slow_news);
        let lag = match &answer {
            Some(_) if slow => self.random.between(1_000, 8_000),
            Some(_) => self.random.between(2, 120),
            // A refused connection is known at once, a lost one after a while.
            None if self.now < self.hidden_until(key) => self.random.between(2_000, 20_000),
            None => self.random.between(2, 120),
        };
        let news =
            answer.map_or_else(|| News::Silence(self.ended(key, &incarnation, submission)), News::State);
        let Some(watch) = self.controller.watches.get_mut(key) else { return };
        watch.asking = false;
        watch.arrives = (self.now + lag).max(watch.arrives + 1);
        self.queue.push(watch.arrives, Event::Hears(key.clone(), serial, Box::new(news)));
    }

    fn hidden_until(&mut self, key: &ObjectKey) -> Ms {
        let site = self.site(key);
        site.cut_until.max(site.agent_hangs_until)
    }

    fn answer(&mut self, key: &ObjectKey, incarnation: &str) -> Option<AgentState> {
        if self.now < self.hidden_until(key) {
            return None;
        }
        let now = self.now;
        let ray = self.site(key).ray(incarnation)?;
        ray.state(now).filter(|_| ray.up)
    }

    /// Whether an agent's Ray job has ended, if the dashboard says.
    fn ended(
        &mut self,
        key: &ObjectKey,
        incarnation: &str,
        submission: Option<String>,
    ) -> Option<Option<String>> {
        let now = self.now;
        let site = self.site(key);
        let ray = site.ray(incarnation).filter(|ray| ray.up && now >= site.cut_until)?;
        Some(ray.has_ended(&submission?))
    }

    /// What the agent said arrives.
    pub(super) fn hear(&mut self, key: &ObjectKey, serial: u64, news: News) {
        let now = timestamp(self.now);
        let next = self.now + PROGRESS_MS;
        let Some(watch) = self.controller.watches.get_mut(key).filter(|watch| watch.serial == serial) else {
            return;
        };
        match news {
            News::State(state) => {
                let essence = state.essence();
                let news = watch.agent.fresh().is_none() || watch.essence.as_ref() != Some(&essence);
                (watch.agent, watch.essence) = (Observed::seen(now, state), Some(essence));
                let progress = watch.progress <= self.now;
                if progress {
                    watch.progress = next;
                    self.queue.push(next, Event::Asks(key.clone(), serial));
                }
                if news || progress {
                    self.wake(key.clone(), 0);
                }
            }
            News::Silence(ended) => {
                let before = (watch.agent.error.is_some(), watch.ended.clone());
                watch.agent.fail(now, "no answer".to_owned());
                match ended {
                    Some(ended) => watch.ended = Observed::seen(now, ended),
                    None => watch.ended.fail(now, "no answer".to_owned()),
                }
                let same = before.0
                    && before.1.fresh().map(|(_, ended)| ended)
                        == watch.ended.fresh().map(|(_, ended)| ended);
                if !watch.asking {
                    watch.asking = true;
                    let retry = self.now + self.random.between(500, 3_000);
                    self.queue.push(retry, Event::Asks(key.clone(), serial));
                }
                if !same {
                    self.wake(key.clone(), 0);
                }
            }
        }
    }
}
