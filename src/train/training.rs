//! What ties it together: epochs, batches, steps, and what happens between them.

use std::ops::Range;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Tensor, nn};

use super::checkpoint;
use super::gradients::{Cut, Gathering};
use super::loader::{Order, Random, Share, share};
use super::noise::Noise;
use super::optimizer::Optimizing;
use super::parameters::Parameters;
use super::plan::{Goal, Plan, first_batch};
use super::profile::{Advisor, Profile};
use super::ring::Ring;
use super::{TrainError, Worker};
use crate::goodput::{LocalBatch, Placement};

/// A model in training, as one replica sees it.
///
/// All replicas make the same calls in the same order. `S` is the program's own state, which is saved with each
/// checkpoint: the same on all replicas, or what only the first one uses.
pub struct Training<S = ()> {
    /// The program's own state.
    pub own: S,
    pub(super) worker: Worker,
    pub(super) ring: Ring,
    pub(super) plan: Plan,
    pub(super) placement: Placement,
    pub(super) device: Device,
    pub(super) parameters: Parameters,
    /// All variables, those that are not trained too.
    pub(super) variables: Vec<(String, Tensor)>,
    pub(super) optimizing: Optimizing,
    pub(super) noise: Noise,
    pub(super) profile: Profile,
    pub(super) advisor: Advisor,
    pub(super) at: Position,
    order: Option<Order>,
    /// What each replica takes of a step.
    pub(super) local: LocalBatch,
    /// What the first replica wants it to be.
    pub(super) proposal: Option<LocalBatch>,
    /// The gradient of the step before, by rows, and each group's square of it, if there is only one of each step.
    pub(super) previous: Option<(Vec<Tensor>, Vec<f64>)>,
    running: Option<Running>,
    /// Whether the last call has found that there are no more batches.
    at_end: bool,
    pub(super) cuts: Vec<Cut>,
    pub(super) cuts_are_good: bool,
    pub(super) agreed: Agreed,
    /// Whether the next step's time says something: the first one with a new batch takes longer.
    pub(super) warm: bool,
}

/// How far training is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Position {
    pub(super) epoch: u64,
    pub(super) index: u64,
    pub(super) steps: u64,
    pub(super) samples: u64,
    pub(super) progress: f64,
    /// Whether the epoch is the loop's: it is not before the first, nor after a restart within one.
    pub(super) entered: bool,
}

/// What all replicas do after a step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Agreed {
    pub(super) stop: bool,
    pub(super) save: bool,
}

/// A step that is not complete.
pub(super) struct Running {
    pub(super) share: Share,
    /// How many of its batches were handed out.
    pub(super) handed: usize,
    /// When the last one was, if its gradient is not there yet.
    pub(super) since: Option<Instant>,
    pub(super) gathering: Gathering,
}

/// The samples that a replica takes at a time.
#[derive(Debug)]
pub struct Batch {
    samples: Vec<i64>,
    device: Device,
}

impl Batch {
    /// The samples' numbers, as a tensor on the device where training is.
    pub fn indices(&self) -> Tensor {
        Tensor::from_slice(&self.samples).to_device(self.device)
    }

    /// The samples' numbers.
    pub fn samples(&self) -> &[i64] {
        &self.samples
    }

    /// How many there are: at least one.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.samples.len()
    }
}

impl<S: Serialize + DeserializeOwned + Default> Training<S> {
    /// Meets the other replicas, waits until this group may train, moves the variables to a GPU if there is one, and
    /// goes on where the newest checkpoint has left off.
    ///
    /// # Errors
    /// If the plan contradicts itself, the others do not come, or the checkpoint does not fit the program.
    pub fn start(worker: Worker, store: &mut nn::VarStore, plan: Plan) -> Result<Self, TrainError> {
        let limits = plan.limits()?;
        let placement =
            Placement::new(worker.nodes(), worker.replicas()).ok_or_else(|| TrainError::Environment {
                variable: "ADAPTDL_NUM_REPLICAS",
                found: worker.replicas().to_string(),
                expected: "at most 65536",
            })?;
        checkpoint::written(&S::default()).map_err(|reason| TrainError::Own { reason })?;
        let ring = worker.join()?;
        // Not before: until now the memory of the GPU was the last group's.
        let device = Device::cuda_if_available();
        store.set_device(device);
        let parameters = Parameters::of(store)?;
        let mut variables: Vec<_> = store.variables().into_iter().collect();
        variables.sort_by(|(one, _), (other, _)| one.cmp(other));
        let groups = parameters.groups();
        let mut training = Self {
            own: S::default(),
            optimizing: Optimizing::new(plan.optimizer, groups),
            noise: Noise::new(groups),
            profile: Profile::default(),
            advisor: Advisor::new(placement, limits, &Profile::default()),
            at: Position::default(),
            order: None,
            local: first_batch(&limits, placement),
            proposal: None,
            previous: None,
            running: None,
            at_end: true,
            cuts: Vec::new(),
            cuts_are_good: false,
            agreed: Agreed::default(),
            warm: false,
            worker,
            ring,
            plan,
            placement,
            device,
            parameters,
            variables,
        };
        let saved = training.worker.restore_path().map(checkpoint::restore).transpose()?;
        let saved = saved.flatten();
        let begins = saved.is_none();
        if let Some(saved) = saved {
            training.restore(saved)?;
        }
        training.advisor = Advisor::new(placement, limits, &training.profile);
        training.agree()?;
        if begins {
            training.begin_alike()?;
        }
        Ok(training)
    }

    /// Begins the next epoch, or goes on with the one that a restart has interrupted; gives its number, from 0. `None`
    /// when the goal is reached.
    ///
    /// # Errors
    /// If the last batch has no gradient.
    pub fn next_epoch(&mut self) -> Result<Option<u64>, TrainError> {
        self.all_is_done()?;
        self.active();
        let interrupted = !self.at.entered && self.at.index > 0;
        if self.at.entered {
            self.at.epoch += 1;
            self.at.index = 0;
            self.order = None;
            // What was gathered for a step that was broken off is of the epoch before.
            self.running = None;
        }
        if !interrupted && self.is_goal_reached() {
            return Ok(None);
        }
        self.at.entered = true;
        self.proposal = self.advisor.batch(Some(self.local), self.noise.known());
        Ok(Some(self.at.epoch))
    }

    /// The next batch of this replica; `None` at the end of the epoch, or as soon as the goal is reached.
    ///
    /// Between two steps of the optimizer all replicas save a checkpoint if one is wanted. If they are told to end,
    /// they do so here, with exit code 143, and do not return.
    ///
    /// # Errors
    /// If the last batch has no gradient, another replica has ended, or a checkpoint cannot be written.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, TrainError> {
        self.all_is_done()?;
        if !self.at.entered {
            return Err(TrainError::Order("next_batch is called outside of an epoch: call next_epoch first"));
        }
        self.cuts.clear();
        self.at_end = false;
        loop {
            let running = match self.running.take() {
                Some(running) => running,
                None => {
                    self.save_or_leave()?;
                    match self.next_step() {
                        Some(running) => running,
                        None => {
                            self.at_end = true;
                            return Ok(None);
                        }
                    }
                }
            };
            if running.share.batches.is_empty() {
                self.finish_step(running, None)?;
                continue;
            }
            return self.hand_out(running).map(Some);
        }
    }

    /// Whether the goal is reached.
    fn is_goal_reached(&self) -> bool {
        match self.plan.goal {
            Goal::Epochs(epochs) => self.at.epoch >= epochs,
            Goal::Iterations(iterations) => self.at.progress >= iterations,
        }
    }

    fn all_is_done(&self) -> Result<(), TrainError> {
        match &self.running {
            Some(Running { since: Some(_), .. }) => {
                Err(TrainError::Order("the last batch has no gradient: call backward with its loss first"))
            }
            _ => Ok(()),
        }
    }

    fn next_step(&mut self) -> Option<Running> {
        if matches!(self.plan.goal, Goal::Iterations(_)) && self.is_goal_reached() {
            return None;
        }
        let shuffle = self.plan.shuffle.then_some(self.plan.seed);
        let (most, replica) = (self.batch_size(), (self.worker.rank(), self.worker.replicas()));
        let order = self.order.get_or_insert_with(|| Order::new(self.plan.samples, shuffle, self.at.epoch));
        let share = share(order, self.at.index, most, replica, self.local)?;
        let is_only = self.worker.replicas() == 1 && share.batches.len() == 1;
        Some(Running { share, handed: 0, since: None, gathering: Gathering::new(&self.parameters, is_only) })
    }

    fn hand_out(&mut self, mut running: Running) -> Result<Batch, TrainError> {
        let places = running.share.batches[running.handed].clone();
        let Some(order) = &self.order else {
            return Err(TrainError::Order("there is no epoch: call next_epoch"));
        };
        let samples = order.at(places);
        // So that a restart goes on with the same random numbers, without any of torch's own state.
        let words = [self.plan.seed, self.at.steps, running.handed as u64, self.worker.rank().into()];
        tch::manual_seed(Random::new(&words).next() as i64);
        running.handed += 1;
        running.since = Some(Instant::now());
        self.running = Some(running);
        Ok(Batch { samples, device: self.device })
    }

    pub(super) fn take_running(&mut self) -> Result<Running, TrainError> {
        match self.running.take() {
            Some(running) if running.since.is_some() => Ok(running),
            other => {
                self.running = other;
                Err(TrainError::Order("backward is called without a batch: call next_batch first"))
            }
        }
    }

    pub(super) fn go_on(&mut self, running: Running) {
        self.running = Some(running);
    }

    /// Does what all replicas have agreed on after the last step.
    fn save_or_leave(&mut self) -> Result<(), TrainError> {
        let Agreed { stop, save } = std::mem::take(&mut self.agreed);
        if (stop || save) && self.worker.is_first() {
            self.save()?;
        }
        if stop {
            self.worker.leave();
        }
        Ok(())
    }
}

impl<S> Training<S> {
    /// The sums of these numbers over all replicas, the same on each of them. All must call it: not for each batch, then,
    /// for at the end of an epoch some may have fewer of them.
    ///
    /// # Errors
    /// If another replica has ended, has given another number of numbers, or is not where this one is.
    pub fn sum(&mut self, numbers: &[f64]) -> Result<Vec<f64>, TrainError> {
        self.active();
        // With them goes where this replica is: what is added up elsewhere would be something else.
        let place = [f64::from(u8::from(self.at_end)), self.at.steps as f64];
        let all = place.into_iter().chain(numbers.iter().copied()).collect();
        let mut sums = self.ring.sum::<f64>(all).wait()?;
        let replicas = f64::from(self.worker.replicas());
        if sums.iter().zip(place).any(|(sum, mine)| *sum != mine * replicas) {
            return Err(TrainError::Order(
                "replicas call sum in different places: some for a batch that others have not, at the end of an epoch",
            ));
        }
        Ok(sums.split_off(place.len()))
    }

    /// This replica's part of so many things, such as samples to validate with.
    pub fn share(&self, count: i64) -> Range<i64> {
        let place =
            |rank: u32| (i128::from(count) * i128::from(rank) / i128::from(self.worker.replicas())) as i64;
        place(self.rank())..place(self.rank() + 1)
    }

    /// Sets the learning rate of all groups of variables: that for the job's own batch, before it is scaled for others.
    pub fn set_lr(&mut self, lr: f64) {
        self.optimizing.rates.fill(lr);
    }

    /// Sets the learning rate of one group of variables, by its number in the store; one that does not exist has none.
    pub fn set_group_lr(&mut self, group: usize, lr: f64) {
        if let Some(place) = self.parameters.group(group) {
            self.optimizing.rates[place] = lr;
        }
    }

    /// Notes that the program gets on, where it neither trains nor sums for minutes: whoever gives no sign is taken for
    /// hung.
    pub fn active(&self) {
        if let Some(control) = self.worker.control() {
            control.active();
        }
    }

    /// Which replica this is, from 0.
    pub fn rank(&self) -> u32 {
        self.worker.rank()
    }

    /// How many replicas there are.
    pub fn replicas(&self) -> u32 {
        self.worker.replicas()
    }

    /// Whether this is the replica that writes what is written once.
    pub fn is_first(&self) -> bool {
        self.worker.is_first()
    }

    /// The group's number, which grows with every restart.
    pub fn group(&self) -> u64 {
        self.worker.group()
    }

    /// Where training is: tensors that meet the variables must be there.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The epoch, from 0.
    pub fn epoch(&self) -> u64 {
        self.at.epoch
    }

    /// Steps of the optimizer, over all restarts.
    pub fn steps(&self) -> u64 {
        self.at.steps
    }

    /// Samples that were taken by all replicas, over all restarts.
    pub fn samples(&self) -> u64 {
        self.at.samples
    }

    /// Progress in scale-invariant iterations: how many steps with the job's own batch it is worth.
    pub fn progress(&self) -> f64 {
        self.at.progress
    }

    /// Samples in a step of the optimizer, of all replicas together.
    pub fn batch_size(&self) -> u64 {
        let total = self.local.total(self.worker.replicas());
        // Replicas that do not divide it take almost the same each: where it may not grow it stays.
        if self.plan.adaptive.is_some() { total } else { total.min(self.plan.batch_size.into()) }
    }

    /// How many steps with the job's own batch a step with the present one is worth.
    pub fn gain(&self) -> f64 {
        self.noise.gain(self.batch_size() as f64 / f64::from(self.plan.batch_size))
    }

    /// The squared norm of the true gradient and the trace of its covariance with the job's own batch, as they are
    /// estimated; `None` before the first estimate.
    pub fn gradient_noise(&self) -> Option<(f64, f64)> {
        self.noise.known()
    }

    /// The first group's learning rate, before it is scaled.
    pub fn lr(&self) -> f64 {
        self.optimizing.rates[0]
    }
}
