//! Pods and sets as nobody writes them, and the API server takes them nearly all.
//!
//! Parts are drawn without knowledge of each other; `settle` then takes out what the API server refuses together.

mod containers;
mod pods;
mod resources;
mod security;
mod sets;
pub mod values;
mod volumes;

pub use pods::{PADDING, pod};
pub use sets::set;
