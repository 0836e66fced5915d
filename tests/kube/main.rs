//! Tests with the clients that people have: kubectl, as Debian has it, and Kubernetes' own client for Python. They need
//! what `make kubectl` and `make kube-client` install, and neither Ray nor torch.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod access;
mod client;
mod kubectl;
mod support;
mod transcript;
#[allow(dead_code)]
#[path = "../it/world.rs"]
mod world;
