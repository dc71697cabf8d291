//! Revisions: the part of a set that shapes a pod, its hash, its history, and what changed between two of them.

mod change;
mod history;
#[cfg(test)]
mod spellings;
mod template;

pub(crate) use change::Change;
pub use history::{History, Revision};
pub(crate) use history::{MAX_COLLISIONS, collisions, histories, name, set_and_hash};
pub use template::Template;
pub(crate) use template::{Sidecar, hash_of, is_hot, used_volumes, volumes_of_variables};
