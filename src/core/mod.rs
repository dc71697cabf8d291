//! Decisions: pure functions from what was seen, and a `now`, to data. No I/O, no clock, nothing asynchronous. Each
//! module imports only what stands before it here.

pub mod base;
pub mod inject;
pub mod pod;
pub mod registration;
pub mod replace;
pub mod revision;
pub mod rollout;
pub mod round;
pub mod status;
