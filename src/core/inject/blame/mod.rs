//! Which sets are to blame that the pods of an owner are not created: by what the API server, or a webhook, said of a pod with
//! sidecars (the event `FailedCreate`), and by what injection adds to that pod. A set is to blame if the pod could have been
//! created without its sidecars.

mod amounts;
mod mentions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::decision::{Injection, Request};
use super::inject;
use super::patch::{VOLUMES, containers, elements, path};
use super::sets::CompiledSets;
use super::uninject::marks;
use crate::api::keys;
use crate::api::reasons::Reason;
use crate::core::base::lists::List;
use crate::core::inject::blame::mentions::{is_word, names_image, names_place, quoted_names};

/// Who is to blame that a pod was not created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// These sets.
    Sets(BTreeSet<String>),
    /// No set: without sidecars it could not be created either.
    Nobody,
    /// The message does not say.
    Undecided,
}

/// A pod of an owner, with its sidecars.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    with: Value,
    /// Sets that inject, by name, and what each adds.
    added: BTreeMap<String, Added>,
    /// The set that refuses the pod.
    refused_by: Option<String>,
}

/// Names of what a set adds to a pod.
#[derive(Clone, Debug, Default)]
struct Added {
    containers: BTreeSet<String>,
    volumes: BTreeSet<String>,
    /// Keys of labels and annotations, and secrets for images.
    others: BTreeSet<String>,
}

/// What one complaint of a message is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    Sets(BTreeSet<String>),
    /// It would be made without sidecars, too.
    Own,
    Unknown,
}

/// What the sets say of a pod as its owner describes it.
pub(crate) fn try_pod(sets: &CompiledSets, request: &Request<'_>) -> Trial {
    let Injection { patch, outcomes, refused } = inject(sets, request);
    let (without, mut with) = (request.pod, request.pod.clone());
    let is_patched = json_patch::patch(&mut with, &patch).is_ok();
    let refused_by = refused.and_then(|_| outcomes.first().map(|outcome| outcome.set.clone()));
    let (containers, volumes) = (container_names(without), names(without, &VOLUMES));
    let new = |listed: &mut dyn Iterator<Item = &String>, had: &[String]| -> BTreeSet<String> {
        listed.filter(|name| !had.contains(name)).cloned().collect()
    };
    let mut records = marks(&with);
    let injecting = outcomes.iter().filter(|outcome| is_patched && outcome.reason == Reason::Injected);
    let added = injecting.filter_map(|outcome| {
        let record = records.remove(&outcome.set)?;
        let containers = new(&mut record.all_containers(), &containers);
        let volumes = new(&mut record.volumes.iter(), &volumes);
        let others = [record.labels, record.annotations, record.image_pull_secrets].concat().into_iter().collect();
        Some((outcome.set.clone(), Added { containers, volumes, others }))
    });
    Trial { added: added.collect(), with, refused_by }
}

/// A pod with the sidecars of these sets, to ask the API server for: the webhook leaves it as it is.
pub(crate) fn pod_to_try<'a>(
    sets: &CompiledSets,
    names: impl Iterator<Item = &'a String>,
    request: &Request<'_>,
) -> Value {
    let these = CompiledSets::new(names.filter_map(|name| sets.get(name)).cloned());
    let mut pod = request.pod.clone();
    // A patch that does not apply leaves the pod as it is.
    let _ = json_patch::patch(&mut pod, &inject(&these, request).patch);
    pod["metadata"]["labels"][keys::INJECT] = Value::from("false");
    pod["metadata"].as_object_mut().map(|metadata| metadata.remove("ownerReferences"));
    pod
}

impl Trial {
    /// Sets that inject into the pod, or refuse it.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &String> {
        self.added.keys().chain(&self.refused_by)
    }

    /// No message is needed to know whether a set is to blame.
    pub(crate) fn is_decided(&self) -> bool {
        self.refused_by.is_some() || self.added.is_empty()
    }

    /// Judges by the message of an event, or of a condition `ReplicaFailure`.
    pub(crate) fn blame(&self, message: &str) -> Blame {
        if let Some(set) = &self.refused_by {
            return Blame::Sets([set.clone()].into());
        }
        let is_answer_of_a_webhook_of_ours = message.contains(".pods.sidecarset.dev\"");
        if self.added.is_empty() || is_answer_of_a_webhook_of_ours || message.contains("failed calling webhook") {
            return Blame::Nobody;
        }
        self.causes(message).into_iter().fold(Blame::Undecided, |blame, cause| match (blame, cause) {
            (Blame::Nobody, _) | (_, Cause::Own) => Blame::Nobody,
            (Blame::Sets(sets), Cause::Sets(more)) => Blame::Sets(sets.into_iter().chain(more).collect()),
            (Blame::Undecided, Cause::Sets(sets)) => Blame::Sets(sets),
            (blame, Cause::Unknown) => blame,
        })
    }

    /// One for each thing that the message says is wrong.
    fn causes(&self, message: &str) -> Vec<Cause> {
        let after = |text: &str| message.split_once(text).map(|(_, rest)| rest);
        if let Some(violations) = after("violates PodSecurity \"") {
            return violations.split_once(": ").map_or_else(Vec::new, |(_, all)| self.pod_security(all));
        }
        if let Some(missing) = after(": must specify ") {
            return missing.split("; ").map(|missing| self.quota_without_amount(missing)).collect();
        }
        if let Some(exceeded) = after("exceeded quota: ") {
            return self.quota(exceeded);
        }
        if let Some(text) = after(" denied the request: ").or_else(|| after(" denied request: ")) {
            return vec![self.mentioned(text)];
        }
        if let Some(errors) = after("\" is invalid: ") {
            return vec![self.invalid(errors)];
        }
        let text = after("\" is forbidden: ").unwrap_or(message);
        let ranges = self.limit_range(text);
        if ranges.is_empty() { vec![self.mentioned(text)] } else { ranges }
    }

    /// `allowPrivilegeEscalation != false (containers "app", "agent" must set …), hostPort (…)`, of
    /// `k8s.io/pod-security-admission/policy`. What names neither container nor volume is about the pod.
    fn pod_security(&self, violations: &str) -> Vec<Cause> {
        let cause = |violation: &str| {
            let of_containers = quoted_names(violation, &["container", "containers"]);
            let of_volumes = quoted_names(violation, &["volume", "volumes"]);
            let is_of_the_pod = violation.contains("(pod and ") || violation.contains("(pod must not");
            if is_of_the_pod || of_containers.is_empty() && of_volumes.is_empty() {
                return Cause::Own;
            }
            let containers = of_containers.iter().map(|name| self.set_of_container(name));
            all(containers.chain(of_volumes.iter().map(|name| self.set_of_volume(name))))
        };
        violations.split("), ").map(cause).collect()
    }

    /// `limits.cpu for: agent,app`, of `k8s.io/kubernetes/pkg/quota/v1/evaluator/core`.
    fn quota_without_amount(&self, missing: &str) -> Cause {
        let Some((_, names)) = missing.split_once(" for: ") else { return Cause::Unknown };
        all(names.split(',').map(|name| self.set_of_container(name.trim())))
    }

    /// `[spec.containers[1].ports[0].hostPort: Duplicate value, …]`. The API server has checked the owner's template when it was
    /// written: what it says of the application's containers may well come from sidecars.
    fn invalid(&self, errors: &str) -> Cause {
        let mut sets = BTreeSet::new();
        for (_, name) in self.places().filter(|(place, _)| errors.contains(&format!("spec.{place}"))) {
            let Some(set) = self.set_of_container(name) else { return Cause::Unknown };
            sets.insert(set.to_owned());
        }
        if sets.is_empty() { self.mentioned(errors) } else { Cause::Sets(sets) }
    }

    /// Words of somebody else: they may name a container, its image, or where it stands, or what else a set adds.
    fn mentioned(&self, text: &str) -> Cause {
        let images = containers(&self.with).map(|(_, container)| container["image"].as_str().unwrap_or_default());
        let (mut sets, mut is_own) = (BTreeSet::new(), false);
        for ((place, name), image) in self.places().zip(images) {
            if is_word(text, name) || names_place(text, &place) || names_image(text, image) {
                match self.set_of_container(name) {
                    Some(set) => drop(sets.insert(set.to_owned())),
                    None => is_own = true,
                }
            }
        }
        let is_named = |added: &Added| added.volumes.iter().chain(&added.others).any(|name| is_word(text, name));
        sets.extend(self.added.iter().filter(|(_, added)| is_named(added)).map(|(set, _)| set.clone()));
        match sets.is_empty() {
            _ if is_own => Cause::Own,
            true => Cause::Unknown,
            false => Cause::Sets(sets),
        }
    }

    /// Where each container stands, `containers[1]`, and its name.
    fn places(&self) -> impl Iterator<Item = (String, &str)> {
        List::ALL.into_iter().flat_map(|list| {
            let names =
                elements(&self.with, &path(list)).map(|container| container["name"].as_str().unwrap_or_default());
            names.enumerate().map(move |(index, name)| (format!("{}[{index}]", list.field()), name))
        })
    }

    /// The set that adds a container; `None` for one of the application, or of another injector.
    fn set_of_container(&self, name: &str) -> Option<&str> {
        self.added.iter().find(|(_, added)| added.containers.contains(name)).map(|(set, _)| set.as_str())
    }

    fn set_of_volume(&self, name: &str) -> Option<&str> {
        self.added.iter().find(|(_, added)| added.volumes.contains(name)).map(|(set, _)| set.as_str())
    }
}

/// The sets of things that are complained of together; one that is no set's is enough for the complaint.
fn all<'a>(sets: impl Iterator<Item = Option<&'a str>>) -> Cause {
    let sets: Option<BTreeSet<String>> = sets.map(|set| set.map(str::to_owned)).collect();
    sets.map_or(Cause::Own, |sets| if sets.is_empty() { Cause::Unknown } else { Cause::Sets(sets) })
}

fn container_names(pod: &Value) -> Vec<String> {
    containers(pod).filter_map(|(_, container)| container["name"].as_str().map(str::to_owned)).collect()
}

fn names(pod: &Value, path: &[&str]) -> Vec<String> {
    elements(pod, path).filter_map(|element| element["name"].as_str().map(str::to_owned)).collect()
}
