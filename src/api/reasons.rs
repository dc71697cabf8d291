//! Reasons and condition types: what conditions, events, metrics and admission answers say.

/// Condition: everything that should be updated is updated and ready.
pub const READY: &str = "Ready";
/// Condition (kstatus): a rollout is moving, or waits for a person.
pub const RECONCILING: &str = "Reconciling";
/// Condition (kstatus): the rollout cannot move without help.
pub const STALLED: &str = "Stalled";
/// Condition: `updateStrategy.paused` is true.
pub const PAUSED: &str = "Paused";
/// Condition: the webhook serves this set.
pub const INJECTION_READY: &str = "InjectionReady";
