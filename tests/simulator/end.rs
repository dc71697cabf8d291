//! The end of a run: what must have come of everything.

use serde_json::json;
use sidecarset::api::reasons::condition;
use sidecarset::core::pod::PodKey;

use super::disturb::{set_env, set_image};
use super::run::{RoundResult, Run};
use super::truth::{TIMEOUT, tier};
use super::world::SETS;

impl Run {
    /// The disturbances are over: the end state must be a stable one that says what it is. Then a working image without
    /// limits must reach every pod.
    pub fn finish(mut self) -> RoundResult {
        self.world.say(|| "== the disturbances are over".to_owned());
        let gone: Vec<PodKey> =
            self.world.pods.iter().filter(|(_, pod)| pod.view.deleting).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.world.remove(&key, false);
        }
        let keys: Vec<PodKey> = self.world.pods.keys().cloned().collect();
        for key in keys {
            self.world.pods.get_mut(&key).unwrap().kubelet.app_ready = true;
            self.world.report(&key);
        }
        self.rest();
        let sets: Vec<String> = self.world.sets.keys().cloned().collect();
        for set in &sets {
            self.judge_end(set);
        }
        self.world.say(|| "== a working image without limits".to_owned());
        for set in &sets {
            let list = SETS.iter().find(|(name, ..)| name == set).unwrap().1;
            let hold = self.hold;
            self.world.edit(set, |set| {
                let strategy =
                    json!({"minReadySeconds": hold, "podUpdateTimeoutSeconds": TIMEOUT / 1000, "maxUnavailable": 2});
                set.spec.update_strategy = serde_json::from_value(strategy).unwrap();
                set_image(set, list, "v9");
                set_env(set, list, false);
            });
        }
        self.rest();
        for set in &sets {
            self.judge_end(set);
            self.judge_healed(set);
        }
        RoundResult { violation: self.world.violation, trace: self.world.trace.unwrap_or_default() }
    }

    fn judge_end(&mut self, name: &str) {
        let set = &self.world.sets[name];
        let status = set.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == condition::READY);
        let reason = ready.map_or("none", |condition| condition.reason.as_str()).to_owned();
        let message = status.message.clone().unwrap_or_default();
        if status.observed_generation != set.metadata.generation {
            let text = format!("{name}: the status is of generation {:?}: {message}", status.observed_generation);
            self.world.violate("e: convergence", text);
        }
        // One in a crash loop may be ready just now.
        let bad = self.world.pods.values().any(|pod| !pod.view.ready || !pod.kubelet.is_settled(pod.view.generation));
        let stable = match reason.as_str() {
            "UpToDate" => self.world.behind_selector(name, status.update_revision.as_deref().unwrap_or_default()) == 0,
            "SelectorReached" => {
                let revision = status.update_revision.as_deref().unwrap_or_default();
                tier(&self.world.sets[name]).is_some() && self.world.behind_selector(name, revision) == 0
            }
            "NoPods" | "NotUpdate" | "NotInPlace" | "PartitionReached" | "Paused" | "WaitingForApproval" => true,
            "FailureBudgetExceeded" | "RolledBack" => status.aborted_revision.is_some(),
            "PodsFailed" | "ProgressDeadlineExceeded" | "PodsNotReady" => bad,
            // Without a hold time that outlives it a crash loop is available for a moment each time, which is progress; else it
            // may be tried again just now, or have crashed just before.
            "RollingUpdate" => {
                bad && (self.hold <= 2
                    || self.world.pods.values().any(|pod| pod.kubelet.is_up_to_crash(self.world.now)))
            }
            _ => false,
        };
        if !stable {
            self.world.violate("e: convergence", format!("{name}: {reason}: {message}"));
        }
    }

    fn judge_healed(&mut self, name: &str) {
        let status = self.world.sets[name].status.clone().unwrap_or_default();
        let revision = status.update_revision.clone().unwrap_or_default();
        let (matched, behind) = self.world.behind(name, &revision);
        let left = usize::try_from(status.not_in_place_pods).unwrap();
        let message = status.message.unwrap_or_default();
        // Failed pods that nobody can repair in place keep their slots until they are recreated.
        let reason = status.conditions.iter().find(|c| c.type_ == condition::READY).map_or("", |c| c.reason.as_str());
        let is_locked = left > 0 && reason == "ProgressDeadlineExceeded";
        if behind > left && !is_locked {
            self.world
                .violate("e: a working image heals", format!("{name}: {behind} of {matched} are behind: {message}"));
        }
        let ready = status.conditions.iter().any(|c| c.type_ == condition::READY && c.status == "True");
        if !ready && left == 0 && !self.world.is_broken_by_another(name) {
            self.world.violate("e: a working image heals", format!("{name}: {message}"));
        }
    }
}
