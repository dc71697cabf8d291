//! Revisions: the part of a set that shapes a pod, its hash, its history, and what changed between two of them.

mod canonical;
mod change;
mod history;
mod template;

pub use change::Change;
pub use history::{History, MAX_COLLISIONS, Revision, collisions, histories, name, set_and_hash};
pub use template::{Sidecar, Template, is_hot, mounted_volumes};
