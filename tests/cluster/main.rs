//! Everything a user can see, against a real kube-apiserver. One devcluster and one operator serve the tests that can
//! share them; each test has its own namespace and sets. Tests that kill something have a devcluster of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod api;
mod cli;
#[allow(dead_code)] // the benchmark uses it too
mod common;
mod convert;
mod crash;
mod crash_twenty;
mod dry_run;
mod evict_upgrade;
mod evictions;
mod failed_creates;
mod failures;
mod features;
mod hot;
mod in_cluster;
mod injection;
mod inplace;
mod kstatus;
mod lost;
mod order;
mod plan;
mod plan_apply;
mod pod_conflicts;
mod prepull;
mod resources;
mod robust;
mod rollout;
mod samples;
mod spellings;
mod together;
mod uninjected;
mod validation;
