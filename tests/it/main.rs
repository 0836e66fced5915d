//! Tests that need neither Ray nor Python: they run anywhere, in seconds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod architecture;
mod manifest;
mod plan;
mod simulate;
