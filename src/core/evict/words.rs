//! Where evictions stand, in words, for the status.

use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::naked::NAMED;

/// What evictions for one `cause` do and wait for; empty if there is nothing to say. `waiting` are owners and why they
/// wait.
pub fn news<'a>(cause: EvictionCause, evictions: impl IntoIterator<Item = &'a Eviction>, waiting: &[String]) -> String {
    let of_cause = evictions.into_iter().filter(|eviction| eviction.cause == cause);
    let (in_vain, open): (Vec<&Eviction>, Vec<&Eviction>) = of_cause.partition(|eviction| eviction.in_vain);
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
