//! What every long-running part needs: arguments, clients, leadership, logs, metrics, health, events.

pub(crate) mod args;
pub(crate) mod call;
pub(crate) mod client;
pub(crate) mod dry_run;
pub mod events;
pub(crate) mod health;
pub(crate) mod http;
pub mod leader;
pub mod metrics;
pub mod namespaces;
pub(crate) mod pages;
pub(crate) mod probe;
pub(crate) mod telemetry;
pub(crate) mod vital;
