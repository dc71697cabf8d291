//! What is kept between events.

pub(crate) mod evictable;
pub mod index;
pub(crate) mod pods;
pub mod pulls;
pub(crate) mod set;
