//! The decision of one contender, without I/O and without a clock: what it has seen, and what to do now.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use tokio::time::Instant;

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
            lease_duration: Duration::ZERO,
            renew_deadline: Duration::ZERO,
            retry_period: Duration::ZERO,
        }
        .lasting(Duration::from_secs(15))
    }

    /// In client-go's proportions of 15 : 10 : 2.
    pub(crate) fn lasting(self, lease_duration: Duration) -> Self {
        let (renew_deadline, retry_period) = (lease_duration * 2 / 3, lease_duration * 2 / 15);
        Self { lease_duration, renew_deadline, retry_period, ..self }
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

/// What a contender does next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Write this Lease: create it if it has no resourceVersion, else patch that version of it.
    Write(Box<Lease>),
    /// Someone else holds it; look again, at the latest at this instant.
    Wait(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    until: Instant,
    clean: bool,
}

/// The Lease as last read, and since when its spec has been just so.
#[derive(Clone, Debug)]
struct Observed {
    lease: Option<Lease>,
    since: Instant,
}

#[derive(Debug)]
pub(super) struct Election {
    params: LeaseParams,
    observed: Option<Observed>,
    /// A Lease that we saw in another's hands and that then vanished: not free before this.
    absent_blocked_until: Option<Instant>,
    claim: Option<Claim>,
    /// The claim that the pending write would make is a clean one.
    next_clean: bool,
}

impl Election {
    pub(super) fn new(params: LeaseParams) -> Self {
        Self { params, observed: None, absent_blocked_until: None, claim: None, next_clean: true }
    }

    /// The instant until which this contender leads, if it does now.
    pub(super) fn leads_until(&self, now: Instant) -> Option<Instant> {
        self.claim.map(|claim| claim.until).filter(|until| now < *until)
    }

    /// Whether the current claim took over from nobody who may still write.
    pub(super) fn clean(&self) -> bool {
        self.claim.is_some_and(|claim| claim.clean)
    }

    /// Whether the Lease has to be read before anything can be decided: never seen, lost a race, or not ours.
    pub(super) fn must_read(&self, now: Instant) -> bool {
        self.observed.is_none() || self.leads_until(now).is_none()
    }

    /// Takes in what was read. A claim that the Lease does not confirm ends here.
    pub(super) fn read(&mut self, lease: Option<Lease>, now: Instant) {
        let ours = lease.as_ref().is_some_and(|lease| holder(lease) == Some(&self.params.identity));
        let lost = self.claim.is_some() && !ours;
        if lost {
            self.claim = None;
        }
        if lease.is_some() {
            self.absent_blocked_until = None;
        } else if lost {
            // Someone may have held it between its deletion and now: no reason to wait, but not a clean start.
            self.absent_blocked_until = Some(now);
        } else if let Some(observed) = &self.observed {
            self.absent_blocked_until = self.foreign_expiry(observed).or(self.absent_blocked_until);
        }
        let since = match &self.observed {
            Some(observed) if spec(observed.lease.as_ref()) == spec(lease.as_ref()) => observed.since,
            _ => now,
        };
        self.observed = Some(Observed { lease, since });
    }

    /// A write was answered with the stored Lease; `sent` is from before the request was sent.
    pub(super) fn written(&mut self, lease: Lease, sent: Instant) {
        let clean = self.claim.map_or(self.next_clean, |claim| claim.clean);
        self.claim = Some(Claim { until: sent + self.params.renew_deadline, clean });
        self.observed = Some(Observed { lease: Some(lease), since: sent });
        self.absent_blocked_until = None;
    }

    /// A write met another version of the Lease (or none): nothing is known until it is read.
    pub(super) fn conflicted(&mut self) {
        if let Some(observed) = &self.observed {
            // What we saw in another's hands still counts if the next read finds nothing.
            self.absent_blocked_until = self.foreign_expiry(observed).or(self.absent_blocked_until);
        }
        self.observed = None;
    }

    /// Ends the claim; returns whether there was one.
    pub(super) fn step_down(&mut self) -> bool {
        self.claim.take().is_some()
    }

    /// What to do at `now`, given what was read. Pure; `wall` is only written, never compared.
    pub(super) fn decide(&mut self, now: Instant, wall: Timestamp) -> Action {
        let Some(observed) = &self.observed else {
            return Action::Wait(now);
        };
        let lease = observed.lease.as_ref();
        // The latter is only for a Lease that is absent.
        let blocked = self.foreign_expiry(observed).or(self.absent_blocked_until);
        if let Some(until) = blocked.filter(|until| now < *until) {
            return Action::Wait(until);
        }
        let claiming = self.claiming(lease, wall);
        self.next_clean = blocked.is_none();
        Action::Write(Box::new(claiming))
    }

    /// The Lease without a holder, for the successor to start at once; `None` if it is not known to be ours.
    pub(super) fn released(&self, wall: Timestamp) -> Option<Lease> {
        let mut lease = self.observed.as_ref()?.lease.clone()?;
        if holder(&lease) != Some(&self.params.identity) {
            return None;
        }
        let spec = lease.spec.get_or_insert_default();
        // Empty as client-go leaves it: an absent field would not be a change in a merge patch.
        spec.holder_identity = Some(String::new());
        spec.renew_time = Some(MicroTime(wall));
        Some(lease)
    }

    /// When another's hold ends by our own observation; `None` if nobody else holds it.
    fn foreign_expiry(&self, observed: &Observed) -> Option<Instant> {
        let lease = observed.lease.as_ref()?;
        let other = *holder(lease)? != self.params.identity;
        // A holder of another configuration may rely on a longer duration than ours.
        let theirs = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let theirs = Duration::from_secs(theirs.and_then(|s| u64::try_from(s).ok()).unwrap_or_default());
        other.then(|| observed.since + theirs.max(self.params.lease_duration))
    }

    fn claiming(&self, lease: Option<&Lease>, wall: Timestamp) -> Lease {
        let mut next = lease.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                namespace: Some(self.params.namespace.clone()),
                name: Some(self.params.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let renewal = lease.and_then(holder) == Some(&self.params.identity);
        let spec = next.spec.get_or_insert_default();
        if !renewal {
            // As client-go counts: a created Lease has none, each later change of holder is one.
            let transitions = spec.lease_transitions.unwrap_or_default();
            spec.lease_transitions = Some(if lease.is_some() { transitions.saturating_add(1) } else { 0 });
            spec.acquire_time = Some(MicroTime(wall));
        }
        spec.holder_identity = Some(self.params.identity.clone());
        spec.lease_duration_seconds = i32::try_from(self.params.lease_duration.as_secs()).ok();
        spec.renew_time = Some(MicroTime(wall));
        next
    }
}

/// The holder's name; a released Lease has an empty one or none.
pub(super) fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}

fn spec(lease: Option<&Lease>) -> Option<&LeaseSpec> {
    lease?.spec.as_ref()
}
