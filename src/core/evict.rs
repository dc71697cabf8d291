//! Eviction: which pod of an owner is replaced next, and whether the last replacement was worth it.
//!
//! An owner has one pod replaced at a time, its youngest first: a younger one that needs replacing too can then only be
//! a replacement that came out no better. All times compared here are the apiserver's own, but for the timeout.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::naked::NAMED;
use super::pod::{Owner, PodKey, PodView, SlimPod};
use crate::api::v1beta1::Eviction;

/// Evictions that a status keeps, open ones and those in vain: a few ten kilobytes. When the latter fill it, something
/// in the cluster takes sidecars away, and nothing more is evicted.
pub const MAX_KEPT: usize = 100;

/// A pod that lives this long after its recorded eviction was never evicted: the operator died before it had sent the
/// request, or got no answer. An eviction takes effect with its answer, and no request lasts longer than 10 s.
const NOT_SENT: SignedDuration = SignedDuration::from_secs(30);

/// A pod of an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// Namespace and name.
    pub key: PodKey,
    /// UID.
    pub uid: String,
    /// Creation time.
    pub created: Timestamp,
    /// Neither ended nor asked to go.
    pub active: bool,
    /// Its Ready condition.
    pub ready: bool,
    /// It should be replaced.
    pub behind: bool,
}

impl Sibling {
    /// A pod, and whether it should be replaced.
    pub fn new(pod: SlimPod, behind: bool) -> Self {
        let pod = PodView::new(pod);
        let active = pod.is_active();
        Self { active, ready: pod.ready, behind, key: pod.key, uid: pod.uid, created: pod.created }
    }
}

/// What to do with the pods of an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Evict this one.
    Evict(&'a Sibling),
    /// Not now; the text says why.
    Wait(String),
    /// None of them needs to be replaced.
    Nothing,
}

/// What became of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The owner does not have its ready pods back: the eviction holds its slot.
    Open,
    /// It is over.
    Done,
    /// It is over, and the replacement needs to be replaced too: the owner's pods are left alone.
    InVain,
}

/// Why the pods of such an owner are never evicted, if they are not.
pub fn exempt(owner: Option<&Owner>) -> Option<&'static str> {
    match owner.map(|owner| owner.kind.as_str()) {
        None => Some("pods without a controller"),
        Some("Job") => Some("pods of Jobs"),
        Some("DaemonSet") => Some("pods of DaemonSets"),
        Some(_) => None,
    }
}

/// Chooses a pod. `replicas` is what the owner should have, `None` if that is not known. A ready pod waits until the
/// owner has all of its ready pods; one that is not ready costs nothing.
pub fn next(siblings: &[Sibling], replicas: Option<usize>) -> Next<'_> {
    let behind = siblings.iter().filter(|pod| pod.active && pod.behind);
    let Some(pod) = behind.max_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key))) else { return Next::Nothing };
    let ready = ready(siblings);
    match replicas {
        Some(replicas) if pod.ready && ready < replicas => Next::Wait(format!("{ready} of {replicas} pods are ready")),
        _ => Next::Evict(pod),
    }
}

/// Judges an eviction by the owner's pods. `replicas` as in [`next`]: where it is not known the slot is held for the
/// whole `timeout`.
pub fn judge(
    eviction: &Eviction,
    siblings: &[Sibling],
    replicas: Option<usize>,
    timeout: SignedDuration,
    now: Timestamp,
) -> Verdict {
    let age = now.duration_since(eviction.at.0);
    if age >= NOT_SENT && siblings.iter().any(|pod| pod.uid == eviction.pod_uid && pod.active) {
        return Verdict::Done;
    }
    let gone = siblings.iter().all(|pod| pod.uid != eviction.pod_uid);
    let whole = gone && replicas.is_some_and(|replicas| ready(siblings) >= replicas);
    if !whole && age < timeout {
        return Verdict::Open;
    }
    let replaced = |pod: &Sibling| pod.active && pod.behind && pod.created > eviction.pod_created.0;
    if siblings.iter().any(replaced) { Verdict::InVain } else { Verdict::Done }
}

fn ready(siblings: &[Sibling]) -> usize {
    siblings.iter().filter(|pod| pod.active && pod.ready).count()
}

/// How many more pods may be evicted now. `max_unavailable` is for evictions and upgrades together, which hold `slots`.
pub fn room(max_unavailable: usize, slots: usize, evictions: &[Eviction]) -> usize {
    max_unavailable.saturating_sub(slots + open(evictions)).min(MAX_KEPT.saturating_sub(evictions.len()))
}

/// Evictions that hold a slot.
pub fn open(evictions: &[Eviction]) -> usize {
    evictions.iter().filter(|eviction| !eviction.in_vain).count()
}

/// Whether the owner has an open eviction, or one in vain for this revision.
pub fn is_blocked(evictions: &[Eviction], owner: &Owner, revision: &str) -> bool {
    let mut of_owner = evictions.iter().filter(|eviction| eviction.owner_uid == owner.uid);
    of_owner.any(|eviction| !eviction.in_vain || eviction.revision == revision)
}

/// The record that is written before the request is sent, so that a crash between the two frees no slot.
pub fn record(pod: &Sibling, owner: &Owner, revision: &str, now: Timestamp) -> Eviction {
    let Owner { api_version, kind, name, uid } = owner.clone();
    Eviction {
        namespace: pod.key.namespace.clone(),
        pod: pod.key.name.clone(),
        pod_uid: pod.uid.clone(),
        pod_created: Time(pod.created),
        owner_api_version: api_version,
        owner_kind: kind,
        owner_name: name,
        owner_uid: uid,
        revision: revision.to_owned(),
        // The API keeps whole seconds.
        at: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
        in_vain: false,
    }
}

/// The owner in a record.
pub fn owner(eviction: &Eviction) -> Owner {
    Owner {
        api_version: eviction.owner_api_version.clone(),
        kind: eviction.owner_kind.clone(),
        name: eviction.owner_name.clone(),
        uid: eviction.owner_uid.clone(),
    }
}

/// Where evictions stand, for the status; empty if there is nothing to say. `waiting` are owners and why they wait,
/// `exempt` who is never evicted, see [`exempt()`].
pub fn summary<'a>(evictions: &[Eviction], waiting: &[String], exempt: impl IntoIterator<Item = &'a str>) -> String {
    let (in_vain, open): (Vec<&Eviction>, Vec<&Eviction>) = evictions.iter().partition(|eviction| eviction.in_vain);
    let pod = |eviction: &&Eviction| format!("{}/{}", eviction.namespace, eviction.pod);
    let owner =
        |eviction: &&Eviction| format!("{} {}/{}", eviction.owner_kind, eviction.namespace, eviction.owner_name);
    let mut parts = Vec::new();
    if !open.is_empty() {
        parts.push(format!("replacing {}", named(open.iter().map(pod))));
    }
    if !waiting.is_empty() {
        parts.push(format!("waiting: {}", named(waiting.iter().cloned())));
    }
    if !in_vain.is_empty() {
        let owners = named(in_vain.iter().map(owner));
        parts.push(format!("the replacements came without sidecars too, left alone until the set changes: {owners}"));
    }
    let exempt: Vec<&str> = exempt.into_iter().collect();
    if !exempt.is_empty() {
        parts.push(format!("never evicted: {}; restart them when it suits", exempt.join(", ")));
    }
    parts.join("; ")
}

fn named(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let first: Vec<String> = names.take(NAMED).collect();
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}

#[cfg(test)]
mod tests;
