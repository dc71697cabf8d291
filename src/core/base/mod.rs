//! What every decision needs: times, percentages, JSON pointers, amounts of resources, references to images, and maps and values that are kept often.

pub mod image;
pub mod lists;
pub mod percent;
pub mod pointer;
pub mod resources;
pub(crate) mod shared;
pub mod small_map;
pub mod time;
