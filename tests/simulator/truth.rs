//! The invariants, judged by the model's own truth and not by the operator's index.

use std::collections::BTreeMap;

use serde_json::Value;
use sidecarset::core::pod::{PodKey, PodView};

use super::kubelet::Kubelet;
use super::world::{APP_IMAGE, Promise, SETS, World};

/// `podUpdateTimeoutSeconds` of all sets.
pub const TIMEOUT: i64 = 60_000;

/// What our patches did to one pod, by set.
#[derive(Default)]
pub struct Ledger {
    pub records: BTreeMap<String, Record>,
}

/// The last accepted patch of a set.
pub struct Record {
    revision: String,
    generation: i64,
    at: i64,
    /// Was ready when patched, or had not recovered from an earlier patch that took its readiness.
    was_ready: bool,
    /// Containers that were replaced.
    containers: Vec<String>,
    hold: i64,
    /// Since when the pod has been ready with the new containers.
    ready_since: Option<i64>,
    /// It has been so for the hold time once.
    pub recovered: bool,
    /// Since when the new containers have been ready, whatever the pod is.
    done_since: Option<i64>,
    pub done: bool,
    /// Somebody else changed the label or an image since.
    pub tampered: bool,
}

impl Ledger {
    /// Takes note of what the kubelet made of the patches.
    pub fn observe(&mut self, view: &PodView, kubelet: &Kubelet, now: i64) {
        for record in self.records.values_mut() {
            record.settle(now);
            let late = now >= record.at + TIMEOUT;
            let seen = late || view.observed_generation.is_none_or(|observed| observed >= record.generation);
            let done = seen
                && record.containers.iter().all(|name| {
                    let running = kubelet.containers.get(name);
                    let wanted = view.container(name).map(|container| container.image.as_str());
                    running.is_some_and(|running| running.ready && Some(running.image.as_str()) == wanted)
                });
            record.done_since = record.done_since.filter(|_| done).or(done.then_some(now));
            let ready = done && view.ready;
            record.ready_since = record.ready_since.filter(|_| ready).or(ready.then_some(now));
            record.settle(now);
        }
    }
}

impl Record {
    /// A second less than the hold time: the API keeps whole seconds.
    fn settle(&mut self, now: i64) {
        let (hold, deadline) = ((self.hold - 1_000).max(0), self.at + TIMEOUT);
        let lasted = |since: Option<i64>| since.is_some_and(|since| now - since >= hold || since >= deadline - 1_000);
        self.recovered |= lasted(self.ready_since);
        self.done |= lasted(self.done_since) || now >= deadline;
    }
}

impl World {
    /// What must hold whenever the apiserver accepts a patch.
    pub fn judge_patch(&mut self, set: &str, before: &PodView, key: &PodKey, promise: &Promise) {
        let now = self.now;
        let hold = i64::from(self.sets[set].spec.update_strategy.min_ready_seconds) * 1000;
        let container = SETS.iter().find(|(name, ..)| *name == set).unwrap().2;
        let pod = self.pods.get_mut(key).unwrap();
        let image = |view: &PodView, name: &str| view.container(name).map(|container| container.image.clone());
        let (uid, app) = (pod.view.uid.clone(), image(&pod.view, "app"));
        let changed = image(before, container) != image(&pod.view, container);
        let previous = pod.ledger.records.remove(set);
        let again = previous.as_ref().is_some_and(|p| p.revision == promise.revision && !p.tampered);
        let in_flight = previous.as_ref().is_some_and(|p| p.was_ready && !p.recovered);
        // A pod that is in a crash loop keeps its place under the cap, although it was ready for a moment.
        let first = previous.is_none();
        let mut containers = previous.filter(|p| !p.done).map(|p| p.containers).unwrap_or_default();
        if changed && !containers.iter().any(|name| name == container) {
            containers.push(container.to_owned());
        }
        let record = Record {
            revision: promise.revision.clone(),
            generation: pod.view.generation,
            at: now,
            was_ready: before.ready || in_flight,
            containers,
            hold,
            ready_since: None,
            recovered: false,
            done_since: None,
            done: false,
            tampered: false,
        };
        pod.ledger.records.insert(set.to_owned(), record);
        pod.ledger.observe(&pod.view, &pod.kubelet, now);
        if uid != before.uid || app.as_deref() != Some(APP_IMAGE) {
            self.violate("g: the pod and its own container stay", format!("{key}: {uid}, {app:?}"));
        }
        if again {
            self.violate("b: no pod is patched twice for one revision", format!("{key} for {}", promise.revision));
        }
        let slots = self.count(set, |record| record.was_ready && !record.recovered);
        let cap = self.count(set, |record| !record.was_ready && !record.done);
        if before.ready && !in_flight && slots > promise.max_unavailable {
            let text = format!("{key} of {set}: {slots} unavailable, {} allowed", promise.max_unavailable);
            self.violate("a: maxUnavailable", text);
        }
        if !before.ready && first && cap > promise.max_unready {
            let text = format!("{key} of {set}: {cap} in flight, {} allowed", promise.max_unready);
            self.violate("a: the cap of unready pods", text);
        }
        if promise.churn == Some(self.churn) && !promise.going_back {
            let (matched, behind) = self.behind(set, &promise.revision);
            let keep = keep_old(&promise.partition, matched);
            if behind < keep {
                let text = format!("{key} of {set}: {behind} of {matched} are left behind, {keep} must be");
                self.violate("d: partition", text);
            }
        }
    }

    fn count(&mut self, set: &str, counts: impl Fn(&Record) -> bool) -> usize {
        let now = self.now;
        let stable = self.stable_sent.get(set).cloned();
        let active = self.pods.values_mut().filter(|pod| pod.view.is_active() && !pod.unseen);
        active
            .filter(|pod| pod.view.marks.contains_key(set))
            .filter_map(|pod| pod.ledger.records.get_mut(set))
            .filter_map(|record| {
                record.settle(now);
                // Once a revision is stable, its updates are not to blame for what is not ready.
                record.recovered |= record.done && stable.as_ref() == Some(&record.revision);
                counts(record).then_some(())
            })
            .count()
    }

    /// Matched pods, and those that do not run a revision.
    pub fn behind(&self, set: &str, revision: &str) -> (usize, usize) {
        let of_set = |view: &PodView| view.is_active() && view.labels.get("app").is_some_and(|app| app == "web");
        let matched: Vec<_> = self.pods.values().filter(|pod| of_set(&pod.view) && !pod.unseen).collect();
        let matched: Vec<_> = matched.into_iter().filter(|pod| pod.view.marks.contains_key(set)).collect();
        let behind = matched.iter().filter(|pod| !self.runs(&pod.view, set, revision)).count();
        (matched.len(), behind)
    }

    /// Label and images are those of the revision.
    pub fn runs(&self, view: &PodView, set: &str, revision: &str) -> bool {
        let Some(known) = self.history[set].get(revision) else { return false };
        let has = |name: &str, image: &str| view.container(name).is_some_and(|container| container.image == image);
        view.marks[set].revision == revision && known.template.sidecars().all(|s| has(&s.name, &s.image))
    }
}

/// A percentage is rounded up, but below 100 % one of several pods moves.
pub fn keep_old(partition: &Value, matched: usize) -> usize {
    let keep = share(partition, matched).min(matched);
    let percent = partition.as_str().is_some_and(|text| text != "100%");
    if percent && keep == matched && matched > 1 { matched - 1 } else { keep }
}

/// A number, or a percentage rounded up.
pub fn share(value: &Value, total: usize) -> usize {
    match value {
        Value::String(text) => (text.trim_end_matches('%').parse::<usize>().unwrap() * total).div_ceil(100),
        number => number.as_u64().map_or(0, |number| usize::try_from(number).unwrap()),
    }
}
