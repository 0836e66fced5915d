//! Optimizers over the variables of a `VarStore`. torch's own, as `tch` has them, do not show their state, and what is not
//! shown cannot be saved.

use std::collections::BTreeMap;

use tch::{Tensor, no_grad};

use super::parameters::Parameters;

/// Stochastic gradient descent with momentum, as `torch.optim.SGD` has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// The learning rate, for the job's own batch: AdaScale scales it for others.
    pub lr: f64,
    /// How much of the last direction is kept.
    pub momentum: f64,
    /// How much of the gradient is left out of the direction.
    pub dampening: f64,
    /// What is subtracted of each variable, times the rate.
    pub weight_decay: f64,
    /// Whether the step looks ahead by Nesterov's momentum.
    pub nesterov: bool,
}

impl Default for Sgd {
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false }
    }
}

/// Adam with decoupled weight decay, as `torch.optim.AdamW` has it; without any decay it is `torch.optim.Adam`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// The learning rate, for the job's own batch: the square root of AdaScale's factor scales it for others.
    pub lr: f64,
    /// How much is kept of the means of gradients and of their squares.
    pub betas: (f64, f64),
    /// What is added to the denominator.
    pub eps: f64,
    /// What is subtracted of each variable, times the rate.
    pub weight_decay: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 }
    }
}

/// How gradients change the variables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// Adam, or AdamW.
    Adam(Adam),
}

impl From<Sgd> for Optimizer {
    fn from(sgd: Sgd) -> Self {
        Self::Sgd(sgd)
    }
}

impl From<Adam> for Optimizer {
    fn from(adam: Adam) -> Self {
        Self::Adam(adam)
    }
}

impl Optimizer {
    pub(super) fn lr(&self) -> f64 {
        match self {
            Self::Sgd(sgd) => sgd.lr,
            Self::Adam(adam) => adam.lr,
        }
    }

    /// What becomes of AdaScale's factor: Adam's steps do not grow with the gradient, so that its noise counts by its
    /// root (`AdamScale` in `adaptdl/torch/scaling_rules.py`).
    fn scaled(&self, factor: f64) -> f64 {
        match self {
            Self::Sgd(_) => factor,
            Self::Adam(_) => factor.sqrt(),
        }
    }

    /// The kinds of state that each variable has.
    fn kinds(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd(sgd) if sgd.momentum == 0.0 => &[],
            Self::Sgd(_) => &["momentum"],
            Self::Adam(_) => &["mean", "mean_square"],
        }
    }
}

/// An optimizer at work.
pub(super) struct Optimizing {
    optimizer: Optimizer,
    /// Each group's rate, before it is scaled.
    pub(super) rates: Vec<f64>,
    /// Of each kind of state a tensor for each row of variables; none before the first step.
    state: Vec<Vec<Tensor>>,
    /// How many steps were made.
    pub(super) steps: u64,
}

impl Optimizing {
    pub(super) fn new(optimizer: Optimizer, groups: usize) -> Self {
        Self { optimizer, rates: vec![optimizer.lr(); groups], state: Vec::new(), steps: 0 }
    }

    /// Makes a step along these gradients, one for each row of variables, with each group's rate times its factor.
    pub(super) fn step(&mut self, parameters: &Parameters, gradients: &[Tensor], factors: &[f64]) {
        no_grad(|| {
            if self.state.is_empty() {
                let zeros = |_: &&str| gradients.iter().map(Tensor::zeros_like).collect();
                self.state = self.optimizer.kinds().iter().map(zeros).collect();
            }
            for (place, (row, gradient)) in parameters.rows().iter().zip(gradients).enumerate() {
                let rate = self.rates[row.group] * self.optimizer.scaled(factors[row.group]);
                let variables = parameters.variables(row);
                match &self.optimizer {
                    Optimizer::Sgd(sgd) => {
                        let momentum = self.state.first_mut().map(|it| &mut it[place]);
                        sgd.step(variables.shallow_clone(), gradient, momentum, rate, self.steps == 0);
                    }
                    Optimizer::Adam(adam) => {
                        if let [means, squares] = &mut self.state[..] {
                            let (mean, square) = (&mut means[place], &mut squares[place]);
                            adam.step(
                                variables.shallow_clone(),
                                gradient,
                                mean,
                                square,
                                rate,
                                self.steps + 1,
                            );
                        }
                    }
                }
                for (parameter, part) in parameters.parts(row, &variables) {
                    // One that is alone in its row is no copy.
                    if part.data_ptr() != parameter.tensor.data_ptr() {
                        parameter.tensor.shallow_clone().copy_(&part);
                    }
                }
            }
            self.steps += 1;
        });
    }

    /// The state's tensors, by `kind.variable`.
    pub(super) fn tensors(&self, parameters: &Parameters) -> Vec<(String, Tensor)> {
        let kinds = self.optimizer.kinds().iter().zip(&self.state);
        let named = kinds.flat_map(|(kind, tensors)| {
            let parts = parameters.rows().iter().zip(tensors).flat_map(|(row, it)| parameters.parts(row, it));
            parts.map(move |(parameter, part)| (format!("{kind}.{}", parameter.name), part))
        });
        named.collect()
    }

    /// Takes the state over that was saved.
    ///
    /// # Errors
    /// What is missing, or has another shape.
    pub(super) fn restore(
        &mut self,
        mut saved: BTreeMap<String, Tensor>,
        parameters: &Parameters,
        steps: u64,
    ) -> Result<(), String> {
        self.steps = steps;
        self.state.clear();
        if steps == 0 {
            return Ok(());
        }
        for kind in self.optimizer.kinds() {
            let mut tensors = Vec::new();
            for parameter in parameters.iter() {
                let name = format!("{kind}.{}", parameter.name);
                let tensor = saved.remove(&name).ok_or_else(|| format!("it has no {name}"))?;
                if tensor.size() != parameter.tensor.size() {
                    return Err(format!(
                        "{name} is {:?}, expected {:?}",
                        tensor.size(),
                        parameter.tensor.size()
                    ));
                }
                tensors.push(tensor.to_device(parameter.tensor.device()).to_kind(parameter.tensor.kind()));
            }
            self.state.push(parameters.gather(&tensors));
        }
        Ok(())
    }
}

impl Sgd {
    fn step(
        &self,
        mut variable: Tensor,
        gradient: &Tensor,
        momentum: Option<&mut Tensor>,
        rate: f64,
        first: bool,
    ) {
        let decayed = (self.weight_decay != 0.0).then(|| gradient + &variable * self.weight_decay);
        let gradient = decayed.as_ref().unwrap_or(gradient);
        let Some(momentum) = momentum else {
            let _ = variable.g_sub_(&(gradient * rate));
            return;
        };
        if first {
            momentum.copy_(gradient);
        } else {
            let _ = momentum.g_mul_scalar_(self.momentum);
            let _ = momentum.g_add_(&(gradient * (1.0 - self.dampening)));
        }
        let step =
            if self.nesterov { gradient + &*momentum * self.momentum } else { momentum.shallow_clone() };
        let _ = variable.g_sub_(&(step * rate));
    }
}

impl Adam {
    fn step(
        &self,
        mut variable: Tensor,
        gradient: &Tensor,
        mean: &mut Tensor,
        square: &mut Tensor,
        rate: f64,
        step: u64,
    ) {
        let (beta1, beta2) = self.betas;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        if self.weight_decay != 0.0 {
            let _ = variable.g_mul_scalar_(1.0 - rate * self.weight_decay);
        }
        let _ = mean.lerp_(gradient, 1.0 - beta1);
        let _ = square.lerp_(&(gradient * gradient), 1.0 - beta2);
        if rate == 0.0 {
            return;
        }
        // `-rate / (1 - beta1^t) * mean / (sqrt(square / (1 - beta2^t)) + eps)`, with as few passes as there can be.
        let size = -correction(beta1) / rate;
        let mut denominator = square.sqrt();
        let _ = denominator.g_mul_scalar_(size / correction(beta2).sqrt());
        let _ = denominator.g_add_scalar_(size * self.eps);
        let _ = variable.addcdiv_(mean, &denominator);
    }
}
