//! The verbs of the kubectl plugin, as libraries: what they decide, without the terminal.

pub mod convert;
pub mod plan;
mod schema;
