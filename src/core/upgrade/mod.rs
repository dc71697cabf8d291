//! Upgrading the sidecars of running pods: who is where, who is next, and what to send.

pub mod answer;
pub mod born;
mod budget;
pub mod course;
mod entry;
pub mod evictions;
mod evidence;
mod first;
mod hiccup;
mod hot;
pub mod index;
pub mod metadata;
pub mod order;
pub mod patch;
pub mod plan;
pub mod prepull;
pub mod progress;
pub mod puller;
mod queues;
pub mod resize;
pub mod rollout;
mod set_index;
pub mod steps;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod turns;
mod workloads;

pub use course::{Course, course, still_wanted};
pub use entry::{Obstacle, ObstacleKind, State};
pub use index::Index;
pub use plan::{Plan, Summary};
pub use rollout::{Mode, Rollout};
pub use set_index::Counts;
pub use steps::Remembered;
