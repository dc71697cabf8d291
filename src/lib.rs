//! An operator that injects sidecar containers into pods and upgrades them in place.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod core;
