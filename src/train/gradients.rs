//! From a loss to the mean of all replicas' gradients: the backward pass, and the exchange beside it.

use std::ops::Range;

use tch::{Device, Kind, Tensor, no_grad};

use super::TrainError;
use super::parameters::Parameters;
use super::ring::{Pending, Ring};

/// How many numbers are sent at once: enough that sending is cheap, few enough that it begins early.
const BUCKET: usize = 1 << 20;

/// A place where a model was cut: what is behind it is one stage, what is before it another.
pub(super) struct Cut {
    /// The variables that are used before it, and not after it.
    parameters: Vec<usize>,
    /// What comes to it, and the same as it goes on, without a history.
    before: Tensor,
    after: Tensor,
}

impl Cut {
    /// Cuts at a tensor.
    pub(super) fn at(tensor: Tensor, parameters: Vec<usize>) -> Self {
        let after = tensor.detach().set_requires_grad(true);
        Self { parameters, before: tensor, after }
    }

    /// Whether a variable is one of its stage.
    pub(super) fn has(&self, place: usize) -> bool {
        self.parameters.contains(&place)
    }

    /// What the model goes on with.
    pub(super) fn onward(&self) -> Tensor {
        self.after.shallow_clone()
    }
}

/// What one step of the optimizer gathers on this replica.
pub(super) struct Gathering {
    /// The weighted sum of gradients so far; `None` where there was none.
    sums: Vec<Option<Tensor>>,
    /// The sum, over the batches, of each group's squared norm.
    pub(super) single_sqr: Vec<f64>,
    /// Whether there is but one gradient in the step, whose squares are those of the mean.
    is_only: bool,
    sent: Vec<Sent>,
}

/// Gradients that are on their way.
struct Sent {
    /// The variables, and how many numbers of each.
    places: Vec<(usize, Range<usize>)>,
    numbers: Numbers,
}

enum Numbers {
    Single(Pending<Vec<f32>>),
    Double(Pending<Vec<f64>>),
}

impl Gathering {
    /// Of a step in which there is but one gradient, or several.
    pub(super) fn new(parameters: &Parameters, is_only: bool) -> Self {
        let sums = (0..parameters.len()).map(|_| None).collect();
        Self { sums, single_sqr: vec![0.0; parameters.groups()], is_only, sent: Vec::new() }
    }

    /// Goes back from a loss, stage by stage, and adds its gradients times a weight. With a ring they are final: each
    /// stage's are sent as soon as they are there.
    pub(super) fn backward(
        &mut self,
        loss: &Tensor,
        cuts: Vec<Cut>,
        weight: f64,
        parameters: &Parameters,
        send: Option<&Ring>,
    ) -> Result<(), TrainError> {
        let mut root = loss.shallow_clone();
        let mut seen = vec![false; parameters.len()];
        cuts.iter().flat_map(|cut| &cut.parameters).for_each(|place| seen[*place] = true);
        let last: Vec<_> = (0..parameters.len()).filter(|place| !seen[*place]).collect();
        let mut stage = (last, cuts);
        loop {
            let (places, cuts) = &mut stage;
            let cut = cuts.pop();
            let mut inputs: Vec<_> = places.iter().map(|it| &parameters.get(*it).tensor).collect();
            inputs.extend(cut.as_ref().map(|cut| &cut.after));
            let mut gradients = Tensor::f_run_backward(&[&root], &inputs, false, false)?;
            let onward = cut.as_ref().and_then(|_| gradients.pop());
            self.add(places, gradients, weight, parameters);
            if let Some(ring) = send {
                self.send(places, parameters, ring);
            }
            let Some(cut) = cut else { return Ok(()) };
            // Its gradient by what is before the cut is that of the loss.
            root = match onward.filter(Tensor::defined) {
                Some(gradient) => (&cut.before * gradient).sum(cut.before.kind()),
                None => (&cut.before * 0.0).sum(cut.before.kind()),
            };
            stage.0 = cut.parameters;
        }
    }

    /// Sees to it that no variable is used in another stage than its own, for its gradient there would be lost.
    pub(super) fn check(loss: &Tensor, cuts: &[Cut], parameters: &Parameters) -> Result<(), TrainError> {
        for stage in 0..=cuts.len() {
            let root = cuts.get(stage).map_or(loss, |cut| &cut.before);
            let own: Vec<usize> = match cuts.get(stage) {
                Some(cut) => cut.parameters.clone(),
                None => {
                    let cut_off = |place: &usize| cuts.iter().any(|cut| cut.parameters.contains(place));
                    (0..parameters.len()).filter(|place| !cut_off(place)).collect()
                }
            };
            let others: Vec<usize> = (0..parameters.len()).filter(|place| !own.contains(place)).collect();
            let inputs: Vec<_> = others.iter().map(|place| &parameters.get(*place).tensor).collect();
            if inputs.is_empty() {
                continue;
            }
            let scalar = root.sum(root.kind());
            let gradients = Tensor::f_run_backward(&[&scalar], &inputs, true, false)?;
            if let Some(found) = gradients.iter().position(Tensor::defined) {
                return Err(TrainError::Shared {
                    variable: parameters.get(others[found]).name.clone(),
                    stage,
                });
            }
        }
        Ok(())
    }

    /// Sends what was gathered of all variables, in their own order: for a step in which not all replicas have a share,
    /// and some do not know where the others cut.
    pub(super) fn send_all(&mut self, parameters: &Parameters, ring: &Ring) {
        let all: Vec<_> = (0..parameters.len()).collect();
        self.send(&all, parameters, ring);
    }

    /// The mean over all samples of the step, of each variable.
    pub(super) fn finish(self, parameters: &Parameters, device: Device) -> Result<Vec<Tensor>, TrainError> {
        let mut means = self.sums;
        for sent in self.sent {
            let all = match sent.numbers {
                Numbers::Single(pending) => Tensor::from_slice(&pending.wait()?),
                Numbers::Double(pending) => Tensor::from_slice(&pending.wait()?),
            };
            let all = all.to_device(device);
            for (place, numbers) in sent.places {
                let variable = &parameters.get(place).tensor;
                let part = all.narrow(0, numbers.start as i64, numbers.len() as i64);
                means[place] = Some(part.view(&variable.size()[..]).to_kind(variable.kind()));
            }
        }
        let mean = |(place, mean): (usize, Option<Tensor>)| {
            mean.unwrap_or_else(|| no_grad(|| parameters.get(place).tensor.zeros_like()))
        };
        Ok(means.into_iter().enumerate().map(mean).collect())
    }

    fn add(&mut self, places: &[usize], gradients: Vec<Tensor>, weight: f64, parameters: &Parameters) {
        no_grad(|| {
            if !self.is_only {
                let defined = places.iter().copied().zip(&gradients).filter(|(_, it)| it.defined());
                for (sum, sqr) in self.single_sqr.iter_mut().zip(parameters.squares(defined)) {
                    *sum += sqr;
                }
            }
            for (place, gradient) in places.iter().zip(gradients) {
                if !gradient.defined() {
                    continue;
                }
                let weighted = if weight == 1.0 { gradient } else { gradient * weight };
                match &mut self.sums[*place] {
                    Some(sum) => {
                        let _ = sum.g_add_(&weighted);
                    }
                    sum => *sum = Some(weighted),
                }
            }
        });
    }

    fn send(&mut self, places: &[usize], parameters: &Parameters, ring: &Ring) {
        let is_double = |place: usize| parameters.get(place).tensor.kind() == Kind::Double;
        // Backwards: what was used last comes first.
        let mut left: Vec<usize> = places.iter().rev().copied().collect();
        while let Some(first) = left.first() {
            let double = is_double(*first);
            let mut numbers = 0;
            let fits = |place: &usize| {
                let size = parameters.get(*place).tensor.numel();
                numbers += size;
                is_double(*place) == double && (numbers <= BUCKET || numbers == size)
            };
            let rest = left.split_off(left.iter().copied().take_while(fits).count());
            let sums = left.iter().map(|place| (*place, self.sums[*place].take())).collect();
            self.sent.push(send_bucket(sums, double, parameters, ring));
            left = rest;
        }
    }
}

/// Sends the gradients of these variables in one message.
fn send_bucket(
    sums: Vec<(usize, Option<Tensor>)>,
    double: bool,
    parameters: &Parameters,
    ring: &Ring,
) -> Sent {
    let mut places = Vec::new();
    let mut end = 0;
    for (place, _) in &sums {
        let begin = end;
        end += parameters.get(*place).tensor.numel();
        places.push((*place, begin..end));
    }
    let numbers = if double {
        Numbers::Double(ring.sum(flat(&places, &sums, Kind::Double, vec![0f64; end])))
    } else {
        Numbers::Single(ring.sum(flat(&places, &sums, Kind::Float, vec![0f32; end])))
    };
    Sent { places, numbers }
}

/// Copies tensors into a row of numbers, which are zeros where there is none.
fn flat<T: tch::kind::Element>(
    places: &[(usize, Range<usize>)],
    sums: &[(usize, Option<Tensor>)],
    kind: Kind,
    mut numbers: Vec<T>,
) -> Vec<T> {
    for ((_, range), (_, sum)) in places.iter().zip(sums) {
        if let Some(sum) = sum {
            let sum = sum.to_device(Device::Cpu).to_kind(kind).contiguous();
            sum.copy_data(&mut numbers[range.clone()], range.len());
        }
    }
    numbers
}
