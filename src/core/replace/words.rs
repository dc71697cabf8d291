//! Where evictions stand, in words, for the status.

use std::collections::BTreeMap;

use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::replace::uninjected::NAMED;
use crate::core::replace::{Sibling, newer, ready};

/// What an open eviction waits for, for example `its replacement default/web-2 is not ready`.
pub fn lacks(eviction: &Eviction, siblings: &[Sibling], replicas: Option<usize>) -> String {
    if siblings.iter().any(|pod| pod.uid == eviction.pod_uid) {
        return "it is terminating".to_owned();
    }
    let ready = ready(siblings);
    match (newer(eviction, siblings).min_by_key(|pod| pod.created), replicas) {
        (Some(pod), _) if !pod.ready => format!("its replacement {} is not ready", pod.key),
        (_, Some(replicas)) if ready < replicas => format!("{ready} of {replicas} pods are ready"),
        (None, _) => "there is no replacement yet".to_owned(),
        (Some(pod), _) => format!("its replacement {} became ready", pod.key),
    }
}

/// What evictions for one `cause` do and wait for; empty if there is nothing to say. `lacking`: see [`lacks`], by UID of
/// the evicted pod. `waiting` are owners and why they wait.
pub fn news(
    cause: EvictionCause,
    evictions: &[Eviction],
    lacking: &BTreeMap<String, String>,
    waiting: &[String],
) -> String {
    let of_cause = evictions.iter().filter(|eviction| eviction.cause == cause);
    let (in_vain, open): (Vec<&Eviction>, Vec<&Eviction>) = of_cause.partition(|eviction| eviction.in_vain);
    let pod = |eviction: &&Eviction| {
        let lacks = lacking.get(&eviction.pod_uid).map(|text| format!(" ({text})")).unwrap_or_default();
        format!("{}/{}{lacks}", eviction.namespace, eviction.pod)
    };
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
        let what = match cause {
            EvictionCause::NoSidecars => "the replacements came without sidecars too",
            EvictionCause::NotInPlace => "the replacements are not at the new revision either",
        };
        let owners = named(in_vain.iter().map(owner));
        parts.push(format!("{what}, left alone until the set changes: {owners}"));
    }
    parts.join("; ")
}

/// Who is never evicted, see [`exempt`](super::exempt()); empty if there are none.
pub fn never<'a>(kinds: impl IntoIterator<Item = &'a str>) -> String {
    let kinds: Vec<&str> = kinds.into_iter().collect();
    if kinds.is_empty() {
        return String::new();
    }
    format!("never evicted: {}; restart them when it suits", kinds.join(", "))
}

fn named(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let first: Vec<String> = names.take(NAMED).collect();
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}
