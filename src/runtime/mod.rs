//! What every long-running part needs: clients, leadership, shutdown, logs, metrics, health.

pub mod client;
pub mod health;
pub mod leader;
pub mod metrics;
pub mod shutdown;
pub mod telemetry;
