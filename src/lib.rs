//! An operator that injects sidecar containers into pods and upgrades them in place.

pub mod runtime;
pub mod webhook;
