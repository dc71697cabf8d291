//! What a rollout may cost. Every budget lives here.

pub mod counts;
pub(crate) mod failure;
pub(crate) mod limits;
pub mod steps;
pub(crate) mod workloads;
