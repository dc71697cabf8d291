//! The admission webhooks: pods are injected, sets are validated, and both are registered.

pub mod pod;
pub mod registration;
pub mod server;
pub mod set;
pub mod tls;
