//! Upgrading the sidecars of running pods. In the order in which a reader asks: what is wanted ([`target`]), how one pod
//! stands ([`assess`]), who goes first ([`order`]), what it may cost ([`budget`]), what is kept between events ([`state`]),
//! what is sent ([`request`]), and the [`plan`] that is made of all that.

pub mod assess;
pub mod budget;
pub(crate) mod inflight;
pub mod order;
pub mod plan;
pub mod request;
pub mod state;
pub mod target;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
