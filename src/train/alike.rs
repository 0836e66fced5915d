//! What all replicas have alike before they begin: variables, plan, seed, batch.

use std::num::NonZeroU32;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use super::loader::Random;
use super::plan::Plan;
use super::{TrainError, Training};
use crate::goodput::LocalBatch;

impl<S: Serialize + DeserializeOwned + Default> Training<S> {
    /// Gives all replicas the variables of the first one: they may have begun with random numbers of their own.
    pub(super) fn begin_alike(&mut self) -> Result<(), TrainError> {
        if self.worker.replicas() == 1 {
            return Ok(());
        }
        for (_, variable) in &mut self.variables {
            let (kind, device) = (variable.kind(), variable.device());
            // Whole numbers up to 2⁵³ and all smaller floats are exact in these.
            let mut numbers = vec![0f64; variable.numel()];
            if self.worker.is_first() {
                let flat = variable.detach().to_device(Device::Cpu).to_kind(Kind::Double).contiguous();
                flat.copy_data(&mut numbers, variable.numel());
            }
            let first = Tensor::from_slice(&self.ring.sum(numbers).wait()?);
            let first = first.view(&variable.size()[..]).to_kind(kind).to_device(device);
            tch::no_grad(|| variable.f_copy_(&first))?;
        }
        Ok(())
    }

    /// Sees that all replicas train the same, with the seed and the batch of the first one: the others may have rounded
    /// otherwise.
    pub(super) fn agree(&mut self) -> Result<(), TrainError> {
        let is_first = self.worker.is_first();
        let halves = |word: u64| [f64::from((word >> 32) as u32), f64::from(word as u32)];
        let digest = halves(self.digest());
        let batch = words(self.advisor.batch(None, self.noise.known()).unwrap_or(self.local));
        let told =
            halves(self.plan.seed).into_iter().chain(batch).map(|word| if is_first { word } else { 0.0 });
        let sums = self.ring.sum::<f64>(digest.into_iter().chain(told).collect()).wait()?;
        let replicas = f64::from(self.worker.replicas());
        if sums.iter().zip(digest).any(|(sum, mine)| *sum != mine * replicas) {
            return Err(TrainError::Order("replicas have different plans, variables or checkpoints"));
        }
        self.plan.seed = (sums[2] as u64) << 32 | sums[3] as u64;
        self.local = local_batch(&sums[4..]).unwrap_or(self.local);
        Ok(())
    }

    /// A number that is another one for another plan, other variables, or another checkpoint.
    fn digest(&self) -> u64 {
        let plan = Plan { seed: 0, ..self.plan.clone() };
        let variables = self.variables.iter().map(|(name, variable)| format!("{name} {:?}", variable.size()));
        let text = format!("{plan:?} {:?} {:?}", variables.collect::<Vec<_>>(), self.at);
        let words: Vec<u64> = text.bytes().map(u64::from).collect();
        Random::new(&words).next()
    }
}

/// A local batch as two numbers that can be summed; no batch is two zeros.
pub(super) fn words(local: LocalBatch) -> [f64; 2] {
    [f64::from(local.atomic()), f64::from(local.accumulation_steps())]
}

/// The local batch of two such numbers.
pub(super) fn local_batch(words: &[f64]) -> Option<LocalBatch> {
    let &[atomic, accumulation] = words else { return None };
    Some(LocalBatch::new(NonZeroU32::new(atomic as u32)?, accumulation as u32))
}
