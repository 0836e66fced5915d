//! stub
#![allow(missing_docs)]
use std::time::Duration;
#[derive(Clone, Debug, thiserror::Error)]
#[error("ring")]
pub struct RingError;
pub struct RingConfig {
    pub rank: usize,
    pub peers: Vec<String>,
    pub master_port: u16,
    pub secret: Vec<u8>,
    pub group: u64,
    pub patience: Duration,
    pub silence: Duration,
}
pub struct Ring;
pub struct Pending<T>(T);
impl<T> Pending<T> {
    pub fn wait(self) -> Result<T, RingError> {
        Ok(self.0)
    }
}
impl Ring {
    pub fn connect(_: RingConfig) -> Result<Ring, RingError> {
        Ok(Ring)
    }
    pub fn size(&self) -> usize {
        1
    }
    pub fn sum<T>(&self, v: Vec<T>) -> Pending<Vec<T>> {
        Pending(v)
    }
}
