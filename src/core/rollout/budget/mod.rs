//! What a rollout may cost.

pub(crate) mod failure;
pub mod steps;
pub(crate) mod workloads;
