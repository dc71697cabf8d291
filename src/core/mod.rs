//! Decisions: pure functions from what was seen, and a `now`, to data. No I/O, no clock, nothing asynchronous.

pub mod evict;
pub mod inject;
pub mod naked;
pub mod new_pods;
pub mod pod;
pub mod registration;
pub mod resources;
pub mod revision;
pub mod status;
pub mod upgrade;
