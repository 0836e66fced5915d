//! Rayconcile: elastic AdaptDL training on Ray, declared in YAML and reconciled without Kubernetes.

pub mod action;
pub mod api;
pub mod cli;
pub mod client;
pub mod controller;
pub mod goodput;
pub mod manifest;
pub mod plan;
pub mod provider;
pub mod server;
pub mod simulate;
pub mod store;
