//! A look inside checkpoints, without torch: what torch writes is written here by hand. What torch itself writes is
//! looked into in `tests/live`.

pub(crate) mod fixtures;
mod hostile;
mod rust;
mod tensors;
