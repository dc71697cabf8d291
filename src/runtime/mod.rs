//! What every long-running part needs: arguments, clients, leadership, shutdown, logs, metrics, health, events.

pub mod args;
pub mod client;
pub mod events;
pub mod health;
pub mod leader;
pub mod metrics;
pub mod namespaces;
mod owners;
pub(crate) mod pages;
pub mod probe;
pub mod shutdown;
pub mod telemetry;
