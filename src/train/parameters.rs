//! The variables that are trained, in an order that is the same on all replicas.

use std::collections::HashMap;

use tch::{Kind, Tensor, nn};

use super::TrainError;

/// A variable that is trained.
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) tensor: Tensor,
    /// Its group, counted from 0 without gaps.
    pub(super) group: usize,
}

/// All of them, in the order in which they were made.
pub(super) struct Parameters {
    list: Vec<Parameter>,
    groups: Vec<usize>,
}

impl Parameters {
    /// Those of a store that are not frozen.
    pub(super) fn of(store: &nn::VarStore) -> Result<Self, TrainError> {
        let names: HashMap<_, _> =
            store.variables().into_iter().map(|(name, it)| (it.data_ptr(), name)).collect();
        let variables =
            store.variables_.lock().map_err(|_| TrainError::Order("a thread has died with the variables"))?;
        let trained = variables.trainable_variables.iter();
        let trained = trained.filter(|it| it.tensor.requires_grad() && it.tensor.numel() > 0);
        let trained: Vec<_> = trained.map(|it| (it.tensor.shallow_clone(), it.group)).collect();
        let mut groups: Vec<usize> = trained.iter().map(|(_, group)| *group).collect();
        groups.sort_unstable();
        groups.dedup();
        let list = trained.into_iter().filter_map(|(tensor, group)| {
            let name = names.get(&tensor.data_ptr())?.clone();
            let group = groups.iter().position(|known| *known == group)?;
            Some(Parameter { name, tensor, group })
        });
        let list: Vec<_> = list.collect();
        if list.is_empty() {
            return Err(TrainError::Order("there is no variable to train"));
        }
        Ok(Self { list, groups })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn get(&self, place: usize) -> &Parameter {
        &self.list[place]
    }

    /// How many groups of variables there are.
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The place of a group, by the number that it has in the store.
    pub(super) fn group(&self, number: usize) -> Option<usize> {
        self.groups.iter().position(|known| *known == number)
    }

    /// The places of those with one of these prefixes: a whole name, or the beginning of one up to a dot.
    pub(super) fn with_prefix(&self, prefixes: &[&str]) -> Vec<usize> {
        let begins = |name: &str| {
            prefixes.iter().any(|prefix| {
                name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        let places = self.list.iter().enumerate().filter(|(_, it)| begins(&it.name));
        places.map(|(place, _)| place).collect()
    }

    /// The sum of squares of each group's tensors, which are in the order of the variables.
    pub(super) fn squares<'a>(&self, tensors: impl Iterator<Item = (usize, &'a Tensor)>) -> Vec<f64> {
        let mut groups: Vec<Vec<Tensor>> = (0..self.groups()).map(|_| Vec::new()).collect();
        for (place, tensor) in tensors {
            groups[self.list[place].group].push((tensor * tensor).sum(Kind::Double));
        }
        // One look at each group's sum: on a GPU every look waits.
        let sum = |squares: Vec<Tensor>| {
            if squares.is_empty() {
                0.0
            } else {
                Tensor::stack(&squares, 0).sum(Kind::Double).double_value(&[])
            }
        };
        groups.into_iter().map(sum).collect()
    }
}
