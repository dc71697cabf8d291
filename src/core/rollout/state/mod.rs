//! What is kept between events.

pub mod cluster;
pub(crate) mod set;
