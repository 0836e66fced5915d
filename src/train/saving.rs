//! From a training to its checkpoint, and back.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::checkpoint::{self, FORMAT, Saved, State};
use super::control::now_ns;
use super::training::Position;
use super::{TrainError, Training};

impl<S: Serialize + DeserializeOwned + Default> Training<S> {
    pub(super) fn restore(&mut self, saved: Saved<S>) -> Result<(), TrainError> {
        let Saved { path, state, mut model, optimizer } = saved;
        let unfit = |reason| TrainError::Checkpoint { path: path.clone(), reason };
        if state.samples_per_epoch != self.plan.samples {
            let (found, expected) = (state.samples_per_epoch, self.plan.samples);
            return Err(unfit(format!("its epochs have {found} samples, expected {expected}")));
        }
        if state.rates.len() != self.parameters.groups() || state.noise.groups() != self.parameters.groups() {
            let (found, expected) = (state.rates.len(), self.parameters.groups());
            return Err(unfit(format!("it has {found} groups of variables, expected {expected}")));
        }
        for (name, variable) in &mut self.variables {
            let tensor = model.remove(name).ok_or_else(|| unfit(format!("it has no variable {name}")))?;
            if tensor.size() != variable.size() {
                return Err(unfit(format!("{name} is {:?}, expected {:?}", tensor.size(), variable.size())));
            }
            tch::no_grad(|| variable.f_copy_(&tensor))?;
        }
        if let Some(name) = model.keys().next() {
            return Err(unfit(format!("it has a variable {name}, which the program has not")));
        }
        self.optimizing.restore(optimizer, &self.parameters, state.steps).map_err(unfit)?;
        self.optimizing.rates = state.rates;
        self.plan.seed = state.seed;
        self.at = Position {
            epoch: state.epoch,
            index: state.index,
            steps: state.steps,
            samples: state.samples,
            progress: state.progress,
            entered: false,
        };
        (self.noise, self.profile, self.own) = (state.noise, state.profile, state.own);
        Ok(())
    }

    #[expect(clippy::print_stderr, reason = "the job's log is where its user looks")]
    pub(super) fn save(&mut self) -> Result<(), TrainError> {
        let Some(directory) = self.worker.save_path() else { return Ok(()) };
        let started = now_ns();
        let own = std::mem::take(&mut self.own);
        let state = State {
            format: FORMAT,
            group: self.worker.group(),
            epoch: self.at.epoch,
            index: self.at.index,
            samples_per_epoch: self.plan.samples,
            seed: self.plan.seed,
            steps: self.at.steps,
            samples: self.at.samples,
            progress: self.at.progress,
            batch_size: self.batch_size(),
            rates: self.optimizing.rates.clone(),
            noise: self.noise.clone(),
            profile: self.profile.clone(),
            own,
        };
        let optimizer = self.optimizing.tensors(&self.parameters);
        let saved = checkpoint::save(&directory, &state, &self.variables, &optimizer);
        self.own = state.own;
        match (saved, self.worker.control()) {
            (Ok(()), control) => {
                if let Some(control) = control {
                    control.saved(started);
                    self.worker.tell_saved();
                }
                Ok(())
            }
            (Err(error), Some(control)) if checkpoint::is_full(&directory, &error) => {
                // It costs this checkpoint, and not the training.
                let _ = std::fs::remove_dir_all(&directory);
                control.not_saved();
                eprintln!("rayconcile: no checkpoint is saved: {error}");
                Ok(())
            }
            (Err(error), _) => Err(error),
        }
    }
}
