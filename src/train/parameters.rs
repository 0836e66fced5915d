//! The variables that are trained, in an order that is the same on all replicas.

use std::collections::HashMap;

use tch::{Kind, Tensor, nn};

use super::TrainError;

/// How many numbers a tensor has at least that is dealt with by itself. For smaller ones it takes longer to begin than to
/// do, so that they are put in a row.
const LARGE: usize = 1 << 16;

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
    rows: Vec<Row>,
}

/// Variables that are dealt with in one: a large one, or small ones of one group and kind.
pub(super) struct Row {
    pub(super) group: usize,
    places: Vec<usize>,
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
        Ok(Self { rows: rows(&list), list, groups })
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

    /// What is dealt with in one.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// One tensor for each row, of tensors that are in the order of the variables.
    pub(super) fn gather(&self, tensors: &[Tensor]) -> Vec<Tensor> {
        self.rows.iter().map(|row| row.gather(|place| &tensors[place])).collect()
    }

    /// The variables of a row, as a copy if they are several.
    pub(super) fn variables(&self, row: &Row) -> Tensor {
        row.gather(|place| &self.list[place].tensor)
    }

    /// The parts of a row's tensor, each with the variable that it belongs to.
    pub(super) fn parts<'a>(
        &'a self,
        row: &'a Row,
        tensor: &'a Tensor,
    ) -> impl Iterator<Item = (&'a Parameter, Tensor)> {
        let mut begin = 0;
        row.places.iter().map(move |place| {
            let parameter = &self.list[*place];
            if row.is_alone() {
                return (parameter, tensor.shallow_clone());
            }
            let length = parameter.tensor.numel() as i64;
            begin += length;
            (parameter, tensor.narrow(0, begin - length, length).view(&parameter.tensor.size()[..]))
        })
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

    /// The sum of squares of each group's tensors, each with its place among the variables.
    pub(super) fn squares<'a>(&self, tensors: impl Iterator<Item = (usize, &'a Tensor)>) -> Vec<f64> {
        let mut groups: Vec<(Vec<Tensor>, Vec<Tensor>)> =
            (0..self.groups()).map(|_| Default::default()).collect();
        for (place, tensor) in tensors {
            let (small, large) = &mut groups[self.list[place].group];
            if tensor.numel() < LARGE {
                small.push(tensor.reshape([-1]));
            } else {
                large.push(tensor.shallow_clone());
            }
        }
        let squares = groups.into_iter().map(|(small, mut large)| {
            if !small.is_empty() {
                large.push(Tensor::cat(&small, 0));
            }
            sum_of_squares(&large)
        });
        squares.collect()
    }

    /// The same of one tensor for each row.
    pub(super) fn squares_of_rows(&self, tensors: &[Tensor]) -> Vec<f64> {
        let mut groups: Vec<Vec<Tensor>> = (0..self.groups()).map(|_| Vec::new()).collect();
        for (row, tensor) in self.rows.iter().zip(tensors) {
            groups[row.group].push(tensor.shallow_clone());
        }
        groups.iter().map(|tensors| sum_of_squares(tensors)).collect()
    }
}

impl Row {
    fn is_alone(&self) -> bool {
        self.places.len() == 1
    }

    fn gather<'a>(&self, tensor: impl Fn(usize) -> &'a Tensor) -> Tensor {
        if let [place] = self.places[..] {
            return tensor(place).shallow_clone();
        }
        let parts: Vec<_> = self.places.iter().map(|place| tensor(*place).reshape([-1])).collect();
        Tensor::cat(&parts, 0)
    }
}

fn rows(list: &[Parameter]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (place, parameter) in list.iter().enumerate() {
        let is_like = |row: &&mut Row| {
            let first = &list[row.places[0]];
            first.group == parameter.group
                && first.tensor.numel() < LARGE
                && first.tensor.kind() == parameter.tensor.kind()
        };
        let row = rows.iter_mut().find(is_like).filter(|_| parameter.tensor.numel() < LARGE);
        match row {
            Some(row) => row.places.push(place),
            None => rows.push(Row { group: parameter.group, places: vec![place] }),
        }
    }
    rows
}

/// In one look: on a GPU every look waits.
fn sum_of_squares(tensors: &[Tensor]) -> f64 {
    let squares: Vec<_> = tensors.iter().map(|tensor| (tensor * tensor).sum(Kind::Double)).collect();
    match &squares[..] {
        [] => 0.0,
        [one] => one.double_value(&[]),
        several => Tensor::stack(several, 0).sum(Kind::Double).double_value(&[]),
    }
}
