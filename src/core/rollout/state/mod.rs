//! What is kept between events.

pub mod cluster;
pub(crate) mod evictable;
pub mod pulls;
pub(crate) mod set;
