//! What every decision needs: times, percentages, JSON pointers, amounts of resources.

pub mod percent;
pub mod pointer;
pub mod resources;
pub mod time;
