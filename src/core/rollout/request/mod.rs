//! What is sent to the API server, and what its answers say.

pub mod answer;
pub mod metadata;
pub mod patch;
