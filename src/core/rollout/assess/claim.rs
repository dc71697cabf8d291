//! What a pod takes of the budgets.

/// Ordered: who holds more holds less, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Claim {
    /// Nothing.
    #[default]
    None,
    /// A place under the cap of pods that were not ready anyway.
    Unready,
    /// One of `maxUnavailable`.
    Disruption,
}
