//! What every decision needs.

pub(crate) mod controller;
pub mod lists;
pub mod percent;
pub mod pointer;
pub mod resources;
pub(crate) mod shared;
pub mod small_map;
pub(crate) mod tally;
pub(crate) mod text;
pub mod time;
