//! The parameters of an election.

use std::time::Duration;

/// Of which Lease, as whom, and how fast. Defaults as in client-go: 15 s, 10 s, 2 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseParams {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who claims it: unique per process, as pod name + a random part (two processes of one identity would both lead).
    pub identity: String,
    /// How long others wait for an unchanged Lease; whole seconds.
    pub lease_duration: Duration,
    /// How long after sending its last successful renewal a leader leads; shorter than `lease_duration`.
    pub renew_deadline: Duration,
    /// How often a leader renews and a follower looks; shorter than `renew_deadline`.
    pub retry_period: Duration,
}

impl LeaseParams {
    /// Parameters with the default durations.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    /// Whether the durations are ordered as the election needs them, and there is an identity.
    pub(super) fn are_valid(&self) -> bool {
        let whole = self.lease_duration.subsec_nanos() == 0 && i32::try_from(self.lease_duration.as_secs()).is_ok();
        let ordered = self.retry_period > Duration::ZERO
            && self.retry_period < self.renew_deadline
            && self.renew_deadline < self.lease_duration;
        whole && ordered && !self.identity.is_empty()
    }
}
