//! What is kept between events.

pub mod index;
pub(crate) mod pods;
pub mod pulls;
pub(crate) mod set;
