//! The invariants, judged by the model's own truth and not by the operator's index.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sidecarset::api::SidecarSet;
use sidecarset::core::pod::{PodKey, PodView};

use super::kubelet::{Kubelet, STARTUP_PERIOD};
use super::world::{APP_IMAGE, Pod, Promise, SETS, World};

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
    /// Containers that were replaced: the image that each was given, and how often it had been started.
    containers: BTreeMap<String, (String, i64)>,
    /// The kubelet was still busy with an earlier change, which is then taken for this one: see docs/simulation.md.
    unsettled: bool,
    /// The kubelet has reported the generation.
    seen: bool,
    hold: i64,
    /// Since when the pod has been ready with the new containers.
    ready_since: Option<i64>,
    /// It has been so for the hold time once.
    pub recovered: bool,
    /// Since when the new containers have been ready, whatever the pod is.
    done_since: Option<i64>,
    pub done: bool,
    /// From when on new containers may be believed that inherited their readiness. That the startupProbe has found them
    /// not ready may be news that come late.
    believed_at: Option<i64>,
    /// Somebody else changed the label or an image since.
    pub tampered: bool,
}

impl Ledger {
    /// Takes note of what the kubelet made of the patches.
    pub fn observe(&mut self, view: &PodView, kubelet: &Kubelet, now: i64) {
        for record in self.records.values_mut() {
            record.settle(now);
            record.seen = view.observed_generation.is_none_or(|observed| observed >= record.generation);
            // What came of two changes in quick succession, the status alone can tell.
            let unclear = record.unsettled || record.tampered;
            let done = (record.seen || record.unsettled)
                && record.containers.iter().all(|(name, (image, started))| {
                    let Some(running) = kubelet.containers.get(name) else { return false };
                    let wanted = || view.container(name).is_some_and(|container| container.image == running.image);
                    let works = running.ready && (running.image == *image || (record.tampered && wanted()));
                    works || (unclear && running.says_ready() && running.number > *started)
                });
            // Nothing but the pod's own readiness tells when a container became ready: without it its start counts.
            let started =
                record.containers.keys().filter_map(|name| Some(kubelet.containers.get(name)?.started_at)).max();
            let since = started.filter(|_| !view.ready).unwrap_or(now).max(record.at);
            record.done_since = record.done_since.filter(|_| done).or(done.then_some(since));
            let claims = |(name, (image, started)): (&String, &(String, i64))| {
                let running = kubelet.containers.get(name)?;
                let is_new = running.says_ready() && running.number > *started && running.image == *image;
                is_new.then_some(running.started_at + STARTUP_PERIOD + 1_000)
            };
            let claims: Option<Vec<i64>> = record.containers.iter().map(claims).collect();
            record.believed_at =
                record.believed_at.or(claims.filter(|_| view.ready).and_then(|at| at.into_iter().max()));
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
        self.recovered |= self.seen && lasted(self.ready_since);
        self.done |= self.seen && lasted(self.done_since);
        let is_believed = self.seen && self.believed_at.is_some_and(|at| now >= at);
        self.recovered |= is_believed;
        self.done |= is_believed;
    }
}

impl Record {
    /// Once a revision is stable, its updates are not to blame for what is not ready, nor, when their time is over, for a
    /// kubelet that has seen them and not acted, or is still busy with what came before them.
    fn forgive(&mut self, stable: Option<&String>, now: i64) {
        self.settle(now);
        let late = now >= self.at + TIMEOUT;
        let over = self.done || (late && (self.seen || self.unsettled));
        self.recovered |= over && stable == Some(&self.revision);
    }

    /// Also for who waits until inherited readiness can be believed, and knows whole seconds only.
    fn has_surely_recovered(&self, kubelet: &Kubelet, now: i64) -> bool {
        let hold = self.hold.max(STARTUP_PERIOD + 2_000) + 1_000;
        let started = self.containers.keys().filter_map(|name| Some(kubelet.containers.get(name)?.started_at)).max();
        let since = self.ready_since.unwrap_or(self.at).max(started.unwrap_or(0));
        self.recovered && now - since >= hold
    }

    /// A pod that was not ready before costs nothing more when its time is over: perhaps the kubelet has not begun, or the
    /// container comes up again and again.
    fn is_late(&self, now: i64) -> bool {
        !self.was_ready && now >= self.at + TIMEOUT
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
        let mut previous = pod.ledger.records.remove(set);
        let again = previous.as_ref().is_some_and(|p| p.revision == promise.revision && !p.tampered);
        let stable = self.stable_sent.get(set);
        if let Some(record) = previous.as_mut().filter(|record| now >= record.at + TIMEOUT) {
            record.forgive(stable, now);
        }
        // It keeps its slot also when it lost its readiness again, as the update may be to blame.
        let to_blame =
            |p: &Record| !p.has_surely_recovered(&pod.kubelet, now) || (!before.ready && stable != Some(&p.revision));
        let in_flight = previous.as_ref().is_some_and(|p| p.was_ready && to_blame(p));
        let had_slot = previous.as_ref().is_some_and(|p| p.was_ready);
        // A pod that is in a crash loop keeps its place under the cap, or its slot, although it was ready for a moment.
        let capped = previous.as_ref().is_some_and(|p| (!p.was_ready && !p.done) || p.done_since.is_none());
        // The operator may count a pod that is not ready as one that was a moment ago; it must keep to it then.
        let claims = pod.view.marks.get(set).unwrap().update.as_ref().is_some_and(|update| update.was_ready);
        let is_counted = claims && !had_slot;
        let costs_slot = before.ready || is_counted;
        let mut containers = previous.filter(|p| !p.done).map(|p| p.containers).unwrap_or_default();
        if changed {
            containers.insert(container.to_owned(), (String::new(), 0));
        }
        for (name, (wanted, started)) in &mut containers {
            *wanted = image(&pod.view, name).unwrap_or_default();
            *started = pod.kubelet.containers.get(name).map_or(0, |running| running.number);
        }
        let record = Record {
            revision: promise.revision.clone(),
            generation: pod.view.generation,
            at: now,
            was_ready: costs_slot || in_flight || claims,
            containers,
            unsettled: !pod.kubelet.is_settled(before.generation),
            seen: false,
            hold,
            ready_since: None,
            recovered: false,
            done_since: None,
            done: false,
            believed_at: None,
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
        let cap = self.count(set, |record| !record.was_ready && !record.done && !record.is_late(now));
        if costs_slot && !in_flight && slots > promise.max_unavailable {
            let text = format!("{key} of {set}: {slots} unavailable, {} allowed", promise.max_unavailable);
            self.violate("a: maxUnavailable", text);
        }
        if !costs_slot && !in_flight && !capped && cap > promise.max_unready {
            let text = format!("{key} of {set}: {cap} in flight, {} allowed", promise.max_unready);
            self.violate("a: the cap of unready pods", text);
        }
        let tier = self.pods[key].view.labels.get("tier");
        if promise.tier.is_some() && promise.tier.as_ref() != tier && !promise.going_back {
            self.violate("d: selector", format!("{key} of {set} is {tier:?}"));
        }
        if promise.churn == Some(self.churn) && !promise.going_back {
            self.judge_steps(set, key, promise);
            let (matched, behind) = self.behind(set, &promise.revision);
            let keep = keep_old(&promise.partition, matched);
            // What was begun is completed, whatever the partition is since.
            let completes = before.marks.get(set).is_some_and(|mark| mark.revision == promise.revision);
            if behind < keep && !completes {
                let text = format!("{key} of {set}: {behind} of {matched} are left behind, {keep} must be");
                self.violate("d: partition", text);
            }
        }
    }

    /// No more pods are updated than the steps let through. Judged while the spec is the one that the revision came with:
    /// after a change of steps a rollout goes on where it stands.
    fn judge_steps(&mut self, set: &str, key: &PodKey, promise: &Promise) {
        let since = self.since.get(&(set.to_owned(), promise.revision.clone()));
        let Some((since, _)) = since.filter(|(_, generation)| *generation == promise.generation) else { return };
        let pause = |step: &Value| {
            let seconds = step["pause"]["durationSeconds"].as_i64();
            if step["pause"].is_object() { seconds.map_or(i64::MAX, |seconds| seconds * 1000) } else { 0 }
        };
        // The first step whose pause cannot be over.
        let closed = promise.steps.iter().enumerate();
        let mut closed = closed.filter(|(i, step)| promise.approved <= *i && self.now - since + 1_000 < pause(step));
        let Some((_, step)) = closed.next() else { return };
        let of_set = |view: &PodView| {
            let selected = promise.tier.is_none() || promise.tier.as_ref() == view.labels.get("tier");
            selected && view.is_active() && view.marks.contains_key(set)
        };
        let selected: Vec<_> = self.pods.values().map(|pod| &pod.view).filter(|view| of_set(view)).collect();
        let updated = selected.iter().filter(|view| self.runs(view, set, &promise.revision)).count();
        let allowed = share(&step["replicas"], selected.len());
        if updated > allowed {
            let text = format!("{key} of {set}: {updated} of {} are updated, {allowed} may be", selected.len());
            self.violate("d: steps", text);
        }
    }

    fn count(&mut self, set: &str, counts: impl Fn(&Record) -> bool) -> usize {
        let now = self.now;
        let stable = self.stable_sent.get(set).cloned();
        let active = self.pods.values_mut().filter(|pod| pod.view.is_active());
        active
            .filter(|pod| pod.view.marks.contains_key(set))
            .filter_map(|pod| pod.ledger.records.get_mut(set))
            .filter_map(|record| {
                record.forgive(stable.as_ref(), now);
                counts(record).then_some(())
            })
            .count()
    }

    /// Matched pods, and those that do not run a revision.
    pub fn behind(&self, set: &str, revision: &str) -> (usize, usize) {
        let of_set = |view: &PodView| view.is_active() && view.labels.get("app").is_some_and(|app| app == "web");
        let matched: Vec<_> = self.pods.values().filter(|pod| of_set(&pod.view)).collect();
        let matched: Vec<_> = matched.into_iter().filter(|pod| pod.view.marks.contains_key(set)).collect();
        let behind = matched.iter().filter(|pod| !self.runs(&pod.view, set, revision)).count();
        (matched.len(), behind)
    }

    /// A pod of the set has a container of another set that does not run, and that nobody upgrades: it cannot be upgraded
    /// in place, or has lost its marks.
    pub fn is_broken_by_another(&self, set: &str) -> bool {
        let others = SETS.iter().filter(|(other, ..)| *other != set);
        let stuck = |name: &str| {
            let status = self.sets.get(name).and_then(|other| other.status.as_ref());
            status.is_some_and(|status| status.not_in_place_pods > 0)
        };
        let breaks = |pod: &Pod| {
            let left = others.clone().filter(|(other, ..)| stuck(other) || !pod.view.marks.contains_key(other));
            let mut containers = left.filter_map(|(.., container)| pod.kubelet.containers.get(*container));
            containers.any(|container| !container.ready)
        };
        self.pods.values().filter(|pod| pod.view.marks.contains_key(set)).any(breaks)
    }

    /// Pods within `updateStrategy.selector` that do not run a revision.
    pub fn behind_selector(&self, set: &str, revision: &str) -> usize {
        let tier = tier(&self.sets[set]);
        let pods =
            self.pods.values().map(|pod| &pod.view).filter(|view| view.is_active() && view.marks.contains_key(set));
        pods.filter(|view| tier.is_none() || tier.as_ref() == view.labels.get("tier"))
            .filter(|view| !self.runs(view, set, revision))
            .count()
    }

    /// Label and images are those of the revision.
    pub fn runs(&self, view: &PodView, set: &str, revision: &str) -> bool {
        let Some(known) = self.history[set].get(revision) else { return false };
        let has = |name: &str, image: &str| view.container(name).is_some_and(|container| container.image == image);
        view.marks.get(set).unwrap().revision == revision && known.template.sidecars().all(|s| has(&s.name, &s.image))
    }
}

/// What `updateStrategy.selector` wants `tier` to be.
pub fn tier(set: &SidecarSet) -> Option<String> {
    let selector = json!(set.spec.update_strategy.selector);
    selector["matchLabels"]["tier"].as_str().map(str::to_owned)
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
