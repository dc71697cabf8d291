//! What every decision needs: times, percentages, JSON pointers, amounts of resources, references to images.

pub mod image;
pub mod lists;
pub mod percent;
pub mod pointer;
pub mod resources;
pub mod time;
