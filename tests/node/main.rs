//! What the project claims, on a real kubelet: containers of containerd and runc under the unchanged operator. One cluster with
//! one real node serves the tests that can share it.
//!
//! Where a real node cannot run, these tests say so and pass; with `SIDECARSET_REQUIRE_NODE=1` they fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[allow(dead_code)] // the tests with simulated kubelets use the rest
#[path = "../cluster/common/mod.rs"]
mod common;
mod failures;
mod hot;
mod logs;
mod order;
mod place;
mod policies;
mod programs;
mod requests;
mod restarts;
mod traffic;
mod upgrade;
