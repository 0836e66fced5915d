//! What nodes offer and workers need, in whole numbers, so that adding and subtracting is exact.

use std::collections::BTreeMap;

use crate::api::cluster::NodeTemplate;
use crate::api::job::WorkerResources;
use crate::api::wire::RayNode;

/// An amount of each resource. Memory that a template leaves open is the machine's, and not ours to count.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capacity {
    /// Thousandths of CPUs.
    pub cpu: u64,
    /// GPUs.
    pub gpu: u64,
    /// Bytes, if they are counted.
    pub memory: Option<u64>,
    /// Thousandths of custom resources.
    pub custom: BTreeMap<String, u64>,
}

/// Custom resources in thousandths; what is finer is rounded up.
fn thousandths(custom: &BTreeMap<String, f64>) -> BTreeMap<String, u64> {
    custom.iter().map(|(name, amount)| (name.clone(), (amount.max(0.0) * 1000.0).ceil() as u64)).collect()
}

impl Capacity {
    /// What a node is to offer.
    pub fn of_template(template: &NodeTemplate) -> Self {
        let resources = &template.resources;
        Self {
            cpu: resources.cpu.unwrap_or_default().0,
            gpu: u64::from(resources.gpu.unwrap_or_default()),
            memory: resources.memory.map(|bytes| bytes.0),
            custom: thousandths(&resources.custom),
        }
    }

    /// What a node of somebody else's cluster offers, as Ray says.
    pub fn of_ray(node: &RayNode) -> Self {
        let amount = |name: &str| node.resources.get(name).copied().unwrap_or(0.0).max(0.0);
        let built_in = |name: &str| ["CPU", "GPU", "memory", "object_store_memory"].contains(&name);
        let custom = node.resources.iter().filter(|(name, _)| !built_in(name) && !name.starts_with("node:"));
        Self {
            cpu: (amount("CPU") * 1000.0) as u64,
            gpu: amount("GPU") as u64,
            memory: Some(amount("memory") as u64),
            custom: thousandths(&custom.map(|(name, amount)| (name.clone(), *amount)).collect()),
        }
    }

    /// What one worker needs.
    pub fn of_worker(resources: &WorkerResources) -> Self {
        Self {
            cpu: resources.cpu.0,
            gpu: u64::from(resources.gpu),
            memory: resources.memory.map(|bytes| bytes.0),
            custom: thousandths(&resources.custom),
        }
    }

    /// Makes it large enough for a worker of this need.
    pub fn reach(&mut self, need: &Self) {
        self.cpu = self.cpu.max(need.cpu);
        self.gpu = self.gpu.max(need.gpu);
        self.memory = self.memory.map(|have| have.max(need.memory.unwrap_or(0)));
        for (name, need) in &need.custom {
            let have = self.custom.entry(name.clone()).or_default();
            *have = (*have).max(*need);
        }
    }

    /// How many workers of this need fit.
    pub fn fits(&self, need: &Self) -> u32 {
        let of = |have: u64, need: u64| have.checked_div(need).unwrap_or(u64::MAX);
        let memory = match (self.memory, need.memory) {
            (Some(have), Some(need)) => of(have, need),
            _ => u64::MAX,
        };
        let custom =
            need.custom.iter().map(|(name, need)| of(self.custom.get(name).copied().unwrap_or(0), *need));
        let least = custom.fold(of(self.cpu, need.cpu).min(of(self.gpu, need.gpu)).min(memory), u64::min);
        u32::try_from(least).unwrap_or(u32::MAX)
    }

    /// Less what some workers need; nothing goes below zero.
    pub fn take(&mut self, need: &Self, workers: u32) {
        let workers = u64::from(workers);
        self.cpu = self.cpu.saturating_sub(need.cpu * workers);
        self.gpu = self.gpu.saturating_sub(need.gpu * workers);
        if let (Some(have), Some(need)) = (&mut self.memory, need.memory) {
            *have = have.saturating_sub(need * workers);
        }
        for (name, need) in &need.custom {
            if let Some(have) = self.custom.get_mut(name) {
                *have = have.saturating_sub(need * workers);
            }
        }
    }

    /// More by what some workers needed.
    pub fn give(&mut self, need: &Self, workers: u32) {
        let workers = u64::from(workers);
        self.cpu += need.cpu * workers;
        self.gpu += need.gpu * workers;
        if let (Some(have), Some(need)) = (&mut self.memory, need.memory) {
            *have += need * workers;
        }
        for (name, need) in &need.custom {
            *self.custom.entry(name.clone()).or_default() += need * workers;
        }
    }

    /// For people: `2 CPU, 1 GPU, 4Gi`.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if self.cpu > 0 || self.gpu == 0 {
            parts.push(format!("{} CPU", crate::api::units::MilliCpu(self.cpu)));
        }
        if self.gpu > 0 {
            parts.push(format!("{} GPU", self.gpu));
        }
        if let Some(memory) = self.memory {
            parts.push(crate::api::units::Bytes(memory).rounded());
        }
        parts.extend(self.custom.iter().map(|(name, amount)| format!("{} {name}", *amount as f64 / 1000.0)));
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_does_not_limit() {
        let node = Capacity { cpu: 4000, gpu: 2, memory: None, custom: BTreeMap::new() };
        let worker = Capacity { cpu: 500, gpu: 1, memory: Some(1 << 40), custom: BTreeMap::new() };
        assert_eq!(node.fits(&worker), 2);
        assert_eq!(node.fits(&Capacity { gpu: 0, ..worker.clone() }), 8);
        let license = Capacity { custom: [("license".to_owned(), 1)].into(), ..worker };
        assert_eq!(node.fits(&license), 0);
    }

    #[test]
    fn what_is_taken_can_be_given_back() {
        let need = Capacity { cpu: 1500, gpu: 1, memory: Some(10), custom: [("x".to_owned(), 250)].into() };
        let whole =
            Capacity { cpu: 4000, gpu: 4, memory: Some(100), custom: [("x".to_owned(), 1000)].into() };
        let mut node = whole.clone();
        node.take(&need, 2);
        assert_eq!((node.cpu, node.gpu, node.memory, node.custom["x"]), (1000, 2, Some(80), 500));
        node.give(&need, 2);
        assert_eq!(node, whole);
    }
}
