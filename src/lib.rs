//! An operator that injects sidecar containers into pods and upgrades them in place.
//!
//! `api` ← `core` ← {`controller`, `webhook`, `cli`} ← the binaries; `runtime` ← {`controller`, `webhook`}.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod cli;
mod controller;
pub mod core;
pub mod operator;
pub mod runtime;
pub mod webhook;
