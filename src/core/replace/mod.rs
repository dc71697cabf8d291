//! Eviction: which pod of an owner is replaced next, and whether the last replacement was worth it.
//!
//! Two causes share this engine, its records and its budget: pods without sidecars, and pods whose change cannot be made
//! in place. An owner has one pod replaced at a time. The record keeps when the youngest was made that needed it: a
//! younger one that needs it too can then only be a replacement that came out no better. All times compared here are the
//! apiserver's own, but for the timeout.

pub mod report;
pub mod uninjected;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::pod::workload::Workload;
use crate::core::pod::{Owner, PodKey, PodView};
use crate::core::replace::report::{Lack, Wait};

/// Evictions that a status keeps, open ones and those in vain: a few ten kilobytes. When the latter fill it, something
/// in the cluster takes sidecars away, and nothing more is evicted.
pub(crate) const MAX_KEPT: usize = 100;

/// A pod that lives this long after its recorded eviction was never evicted: the operator died before it had sent the
/// request, or got no answer. An eviction takes effect with its answer, and no request lasts longer than 10 s.
const NOT_SENT: SignedDuration = SignedDuration::from_secs(30);

/// A pod of an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnedPod {
    pub(crate) key: PodKey,
    pub(crate) uid: String,
    pub(crate) created: Timestamp,
    /// Neither ended nor asked to go.
    pub(crate) active: bool,
    pub(crate) ready: bool,
    /// Since when that is so; `None` if the pod does not say.
    pub(crate) ready_changed: Option<Timestamp>,
    /// Why it should be replaced, if it should.
    pub(crate) behind: Option<EvictionCause>,
    /// It has its place in a budget already, by an update that is not done: its eviction takes no other.
    pub(crate) held: bool,
    /// It is ready, or its absence counts in maxUnavailable already.
    pub(crate) counts: bool,
    /// It is never evicted, see [`exempt`].
    pub(crate) exempt: Option<&'static str>,
    pub(crate) workload: Workload,
}

impl OwnedPod {
    /// A pod, and why it should be replaced: for nothing, if it is never evicted.
    pub fn new(pod: &PodView, behind: Option<EvictionCause>) -> Self {
        let exempt = behind.and_then(|_| exempt(pod.owner.as_deref(), pod.restarts_always));
        Self {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
            created: pod.created,
            active: pod.is_active(),
            ready: pod.ready,
            ready_changed: pod.ready_changed,
            behind: behind.filter(|_| exempt.is_none()),
            held: false,
            counts: pod.ready,
            exempt,
            workload: Workload::of(pod),
        }
    }
}

/// What to do with the pods of an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    Evict(&'a OwnedPod),
    /// Not now: this is why the pod that is next for this cause waits.
    Wait(EvictionCause, Wait),
    /// None of them needs to be replaced.
    Nothing,
}

/// `updateStrategy.minReadySeconds` and `podUpdateTimeoutSeconds`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EvictionTimeouts {
    pub(crate) min_ready: SignedDuration,
    pub(crate) timeout: SignedDuration,
}

/// What became of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EvictionVerdict {
    /// The owner does not have its ready pods back: the eviction holds its slot.
    Open,
    /// The same, for too long: there is no replacement, or it does not become ready.
    Failed,
    /// It is over.
    Done,
    /// It is over, and the replacement needs to be replaced too: the owner's pods are left alone.
    InVain,
}

/// Why such pods are never evicted, if they are not: nobody makes them again, or not elsewhere, or their work would be
/// lost. `restarts_always`: by their `restartPolicy`, or as far as it is known.
pub(crate) fn exempt(owner: Option<&Owner>, restarts_always: bool) -> Option<&'static str> {
    match owner.map(|owner| owner.kind.as_str()) {
        None => Some("pods without a controller"),
        Some("Job") => Some("pods of Jobs"),
        Some("DaemonSet") => Some("pods of DaemonSets"),
        Some(_) if !restarts_always => Some("pods that are not restarted"),
        Some(_) => None,
    }
}

/// Chooses a pod that should be replaced for a cause that is `wanted`: first one that is not ready, which costs nothing,
/// then the youngest. `replicas` is what the owner should have, `None` if that is not known. A ready pod waits until the
/// owner has all of its ready pods.
pub(crate) fn next(pods: &[OwnedPod], wanted: impl Fn(EvictionCause) -> bool, replicas: Option<usize>) -> Next<'_> {
    let behind = pods.iter().filter(|pod| pod.active && pod.behind.is_some_and(&wanted));
    let rank = |pod: &OwnedPod| (!pod.ready, pod.created, pod.key.clone());
    let Some(pod) = behind.max_by_key(|pod| rank(pod)) else { return Next::Nothing };
    let ready = ready(pods);
    match (replicas, pod.behind) {
        (Some(replicas), Some(cause)) if pod.ready && ready < replicas => {
            Next::Wait(cause, Wait::Missing(ready, replicas))
        }
        _ => Next::Evict(pod),
    }
}

/// Judges an eviction by the owner's pods. `replicas` as in [`next`]: where it is not known the slot is held for the
/// whole timeout. It counts from `gone_at`, when the pod was gone: a pod may take long to end. While the owner does not
/// have its pods back, or at least a replacement that is ready, the slot is held, whatever else has changed.
pub(crate) fn judge(
    eviction: &Eviction,
    pods: &[OwnedPod],
    replicas: Option<usize>,
    gone_at: Option<Timestamp>,
    timeouts: EvictionTimeouts,
    now: Timestamp,
) -> EvictionVerdict {
    let age = now.duration_since(eviction.at.0);
    if age >= NOT_SENT && pods.iter().any(|pod| pod.uid == eviction.pod_uid && pod.active) {
        return EvictionVerdict::Done;
    }
    let Some(gone_at) = gone_at.filter(|_| pods.iter().all(|pod| pod.uid != eviction.pod_uid)) else {
        return EvictionVerdict::Open;
    };
    let newer = || newer(eviction, pods);
    // As a Deployment counts new pods: ready for a while. A node whose clock is behind does not cut the time.
    let is_fresh = |pod: &OwnedPod| {
        let since = pod.ready_changed.map(|since| since.max(pod.created).max(eviction.at.0));
        pod.ready && since.is_some_and(|since| now.duration_since(since) < timeouts.min_ready)
    };
    let fresh = newer().filter(|pod| is_fresh(pod)).count();
    // Older pods that are not ready and are to be replaced themselves would be waited for in vain.
    let is_older = |pod: &OwnedPod| pod.created <= eviction.pod_created.0;
    let is_queued = |pod: &&OwnedPod| pod.active && !pod.ready && pod.behind.is_some() && is_older(pod);
    let queued = pods.iter().filter(is_queued).count();
    let whole = replicas.is_some_and(|replicas| ready(pods) + queued >= replicas + fresh);
    let replacement = newer().min_by_key(|pod| pod.created);
    if !whole && now.duration_since(gone_at.max(eviction.at.0)) < timeouts.timeout {
        return EvictionVerdict::Open;
    }
    if !whole && replacement.is_none_or(|pod| !pod.ready || is_fresh(pod)) {
        return EvictionVerdict::Failed;
    }
    let no_better = |behind| is_no_better(behind, eviction.cause);
    let in_vain = newer().any(|pod| pod.behind.is_some_and(no_better));
    if in_vain { EvictionVerdict::InVain } else { EvictionVerdict::Done }
}

/// Whether a replacement that is `behind` itself has gained nothing. One that has sidecars now, and those of an old
/// revision, has.
fn is_no_better(behind: EvictionCause, cause: EvictionCause) -> bool {
    behind == EvictionCause::NoSidecars || cause == EvictionCause::NotInPlace
}

/// Pods of the owner that came after this eviction.
fn newer<'a>(eviction: &Eviction, pods: &'a [OwnedPod]) -> impl Iterator<Item = &'a OwnedPod> {
    pods.iter().filter(|pod| pod.active && pod.created > eviction.pod_created.0)
}

impl Lack {
    /// What the owner of an evicted pod lacks.
    pub fn of(eviction: &Eviction, pods: &[OwnedPod], replicas: Option<usize>) -> Self {
        if pods.iter().any(|pod| pod.uid == eviction.pod_uid) {
            return Self::Terminating;
        }
        let ready = ready(pods);
        match (newer(eviction, pods).min_by_key(|pod| pod.created), replicas) {
            (Some(pod), _) if !pod.ready => Self::NotReady(pod.key.clone()),
            (_, Some(replicas)) if ready < replicas => Self::Missing(ready, replicas),
            (None, _) => Self::NoReplacement,
            (Some(pod), _) => Self::BecameReady(pod.key.clone()),
        }
    }
}

fn ready(pods: &[OwnedPod]) -> usize {
    pods.iter().filter(|pod| pod.active && pod.ready).count()
}

/// Whether the owner has an open eviction, or one that failed or was in vain for a revision that is `current`. One that
/// was to bring a revision which is none any more does not keep its owner from getting the next: see [`superseded`].
pub(crate) fn is_blocked(evictions: &[Eviction], owner: &Owner, current: &[&str]) -> bool {
    let is_current = |eviction: &Eviction| current.contains(&eviction.revision.as_str());
    let blocks = |eviction: &&Eviction| match eviction.cause {
        EvictionCause::NotInPlace => is_current(eviction),
        EvictionCause::NoSidecars => is_current(eviction) || !(eviction.failed || eviction.in_vain),
    };
    evictions.iter().filter(|eviction| eviction.owner_uid == owner.uid).any(|eviction| blocks(&eviction))
}

/// The open eviction of the owner that was to bring a revision which is not the target any more. The next one takes its
/// place, once its pod is gone and if what it brought is not ready.
pub(crate) fn superseded<'a>(evictions: &'a [Eviction], owner: &Owner) -> Option<&'a Eviction> {
    evictions.iter().find(|eviction| eviction.owner_uid == owner.uid && !eviction.in_vain)
}

/// The record that is written before the request is sent, so that a crash between the two frees no slot. `pods` are
/// all pods of the owner.
pub(crate) fn record(
    pod: &OwnedPod,
    pods: &[OwnedPod],
    cause: EvictionCause,
    owner: &Owner,
    revision: &str,
    now: Timestamp,
) -> Eviction {
    let Owner { api_version, kind, name, uid } = owner.clone();
    // Whatever is younger came after this eviction.
    let youngest = pods.iter().filter(|pod| pod.active).map(|pod| pod.created).max();
    Eviction {
        namespace: pod.key.namespace.clone(),
        pod: pod.key.name.clone(),
        pod_uid: pod.uid.clone(),
        pod_created: Time(youngest.unwrap_or(pod.created).max(pod.created)),
        owner_api_version: api_version,
        owner_kind: kind,
        owner_name: name,
        owner_uid: uid,
        cause,
        unready: !pod.counts,
        revision: revision.to_owned(),
        // The API keeps whole seconds.
        at: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
        failed: false,
        in_vain: false,
    }
}

/// The owner in a record.
pub(crate) fn owner(eviction: &Eviction) -> Owner {
    Owner {
        api_version: eviction.owner_api_version.clone(),
        kind: eviction.owner_kind.clone(),
        name: eviction.owner_name.clone(),
        uid: eviction.owner_uid.clone(),
    }
}

#[cfg(test)]
mod tests;
