//! One step of the optimizer, over all replicas.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Tensor, no_grad};

use super::TrainError;
use super::alike::{local_batch, words};
use super::gradients::{Cut, Gathering};
use super::noise::Observation;
use super::training::{Agreed, Running, Training};

/// How many numbers replicas tell each other with each step, before those of each group of variables: whether to stop,
/// whether to save, and the batch to go on with. Of each group it is the learning rate, and what is known of gradients.
const VOTES: usize = 4;

impl<S: Serialize + DeserializeOwned + Default> Training<S> {
    /// Cuts the model at a tensor of its forward pass, which then goes on with what this gives. Variables with these
    /// prefixes (`embedding`, `blocks.0`) are used before the cut and nowhere after it.
    ///
    /// Gradients of what is behind a cut are sent to the other replicas while those before it are still computed. With
    /// one replica nothing is cut.
    pub fn cut(&mut self, prefixes: &[&str], tensor: Tensor) -> Tensor {
        if self.worker.replicas() == 1 || !tensor.requires_grad() {
            return tensor;
        }
        let earlier = |place: &usize| self.cuts.iter().any(|cut| cut.has(*place));
        let own = self.parameters.with_prefix(prefixes).into_iter().filter(|place| !earlier(place)).collect();
        let cut = Cut::at(tensor, own);
        let onward = cut.onward();
        self.cuts.push(cut);
        onward
    }

    /// Goes back from the mean loss over the batch that was handed out. After the last batch of a step the gradients of
    /// all replicas are averaged, each sample counting the same, and the optimizer steps: then this is `true`.
    ///
    /// # Errors
    /// If there is no batch, the loss is not one number, another replica has ended, or torch cannot go back from this loss.
    pub fn backward(&mut self, loss: &Tensor) -> Result<bool, TrainError> {
        if loss.numel() != 1 {
            return Err(TrainError::Order("the loss is not one number: give the mean over the batch"));
        }
        let mut running = self.take_running()?;
        let since = running.since.take().unwrap_or_else(Instant::now);
        let cuts = std::mem::take(&mut self.cuts);
        if !cuts.is_empty() && !self.cuts_are_good {
            Gathering::check(loss, &cuts, &self.parameters)?;
            self.cuts_are_good = true;
        }
        let places = &running.share.batches[running.handed - 1];
        let weight = (places.end - places.start) as f64 / running.share.total as f64;
        let is_last = running.handed == running.share.batches.len();
        // Where not all have a share they do not all know the cuts, and the order of what is sent must be the same.
        let ring = (is_last && running.share.all && self.worker.replicas() > 1).then_some(&self.ring);
        running.gathering.backward(loss, cuts, weight, &self.parameters, ring)?;
        if is_last {
            self.finish_step(running, Some(since))?;
        } else {
            if self.warm && running.share.total == self.batch_size() {
                self.profile.added(self.placement, self.local.atomic(), since.elapsed());
            }
            self.go_on(running);
        }
        if let Some(control) = self.worker.control() {
            control.step_done(self.at.epoch, self.at.progress, self.batch_size());
        }
        Ok(is_last)
    }

    /// Averages what all replicas have gathered, and steps. `since` is when this replica's last batch was handed out, if
    /// it had one.
    pub(super) fn finish_step(&mut self, running: Running, since: Option<Instant>) -> Result<(), TrainError> {
        let Running { share, mut gathering, .. } = running;
        let computed = Instant::now();
        if self.worker.replicas() > 1 && !share.all {
            gathering.send_all(&self.parameters, &self.ring);
        }
        let votes = self.votes(&gathering.single_sqr);
        let votes = self.ring.sum(votes);
        let gradients = gathering.finish(&self.parameters, self.device)?;
        let votes = votes.wait()?;
        let waited = computed.elapsed();

        let groups = self.parameters.groups();
        self.optimizing.rates.copy_from_slice(&votes[VOTES..VOTES + groups]);
        let whole = self.batch_size();
        let is_whole = share.total == whole;
        let scale = share.total as f64 / f64::from(self.plan.batch_size);
        let gradients = no_grad(|| self.parameters.gather(&gradients));
        let mean_sqr = no_grad(|| self.parameters.squares_of_rows(&gradients));
        let count = f64::from(self.worker.replicas()) * share.batches.len() as f64;
        // Single gradients of steps in turn can be compared only if they are of as many samples.
        let is_single = count == 1.0;
        let can_be_observed = share.even && (is_whole || !is_single);
        if can_be_observed {
            self.observe(&votes[VOTES + groups..], &mean_sqr, count, scale, &gradients);
        }
        let limited = self.limit(&gradients, &mean_sqr);
        // The rate is that of a whole step, for the last of an epoch too; its progress is not.
        let factors = self.noise.rate_factors(whole as f64 / f64::from(self.plan.batch_size));
        self.optimizing.step(&self.parameters, limited.as_ref().unwrap_or(&gradients), &factors);
        self.at.progress += self.gain() * (share.total as f64 / whole as f64);
        self.at.index += share.total;
        self.at.samples += share.total;
        self.at.steps += 1;
        if can_be_observed {
            self.previous = is_single.then_some((gradients, mean_sqr));
        }

        self.agreed = Agreed { stop: votes[0] > 0.0, save: votes[1] > 0.0 };
        self.measure(since.filter(|_| is_whole), waited);
        if let Some(local) = local_batch(&votes[2..VOTES]).filter(|local| *local != self.local) {
            self.local = local;
            self.warm = false;
        }
        self.report();
        Ok(())
    }

    /// What this replica tells the others.
    fn votes(&mut self, single_sqr: &[f64]) -> Vec<f64> {
        let is_first = self.worker.is_first();
        let save = is_first && self.worker.control().is_some_and(|control| control.save_wanted());
        let proposal = self.proposal.take().filter(|_| is_first).map_or([0.0; 2], words);
        let flags = [self.worker.is_told_to_stop(), save].map(|flag| f64::from(u8::from(flag)));
        // The last replica has a share in every step: what its program sets for it is what counts.
        let is_last = self.worker.rank() + 1 == self.worker.replicas();
        let rates = self.optimizing.rates.iter().map(|rate| if is_last { *rate } else { 0.0 });
        flags.into_iter().chain(proposal).chain(rates).chain(single_sqr.iter().copied()).collect()
    }

    /// Takes the step into account in what is known of the gradients' noise.
    fn observe(&mut self, sums: &[f64], mean_sqr: &[f64], count: f64, scale: f64, gradients: &[Tensor]) {
        if count > 1.0 {
            let single_sqr: Vec<_> = sums.iter().map(|sum| sum / count).collect();
            let single_sqr = &single_sqr[..];
            self.noise.observe(&Observation { single_sqr, mean_sqr, count, scale, differenced: false });
        } else if let Some((previous, squares)) = &self.previous {
            // A single gradient: that of the step before is taken for another one of this step.
            let single_sqr: Vec<_> =
                squares.iter().zip(mean_sqr).map(|(one, other)| (one + other) / 2.0).collect();
            let sums: Vec<_> =
                no_grad(|| previous.iter().zip(gradients).map(|(one, other)| one + other).collect());
            let mean_sqr = self.parameters.squares_of_rows(&sums).into_iter().map(|sqr| sqr / 4.0);
            let mean_sqr = &mean_sqr.collect::<Vec<_>>()[..];
            let seen = Observation {
                single_sqr: &single_sqr,
                mean_sqr,
                count: 2.0,
                scale: 2.0 * scale,
                differenced: true,
            };
            self.noise.observe(&seen);
        }
    }

    /// Gradients whose norm is too great, scaled down.
    fn limit(&self, gradients: &[Tensor], mean_sqr: &[f64]) -> Option<Vec<Tensor>> {
        let norm = mean_sqr.iter().sum::<f64>().sqrt();
        let most = self.plan.max_gradient_norm.filter(|most| norm > *most)?;
        Some(no_grad(|| gradients.iter().map(|gradient| gradient * (most / norm)).collect()))
    }

    /// Notes how long the step's last batch has taken.
    fn measure(&mut self, since: Option<Instant>, waited: Duration) {
        if let (true, Some(since)) = (self.warm, since) {
            // With one replica there is nobody to wait for.
            let waited = if self.worker.replicas() > 1 { waited } else { Duration::ZERO };
            self.profile.stepped(self.placement, self.local.atomic(), since.elapsed(), waited);
        }
        self.warm = true;
    }

    /// Tells the supervisor what is known, now and then, and looks for a better batch then.
    fn report(&mut self) {
        if !self.worker.is_first() || !self.advisor.is_due() {
            return;
        }
        let hints = self.advisor.report(&self.profile, self.noise.known(), self.batch_size());
        self.proposal = self.advisor.batch(Some(self.local), self.noise.known());
        if let (Some(supervisor), Ok(hints)) = (self.worker.supervisor(), serde_json::to_value(hints)) {
            supervisor.report(hints);
        }
    }
}
