//! Which revision a pod gets that is created during a rollout. The leader decides and publishes
//! `status.injectionRevision`; the webhook only reads it, as nothing about a single pod can be decided at admission.

use crate::api::SidecarSet;
use crate::api::v1beta1::{NewPods, RevisionPolicy};
use crate::core::rollout::plan::phase::{changes_template, holds_back, is_share_full};
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::target::rollout::Rollout;
use crate::core::status::completion::Completion;

/// The hash for `status.injectionRevision`. `pinned`: hash of the revision that `injectionStrategy.revision` names;
/// `stable`: the last one that was fully rolled out; `aborted`: the one that is given up.
///
/// `FollowRollout`: the newest when the pods that existed have decided for it, or where it is the only way to bring pods forward (a change that cannot be made in place, or
/// pods that wait for an eviction) and the rollout may still go on; otherwise the stable one, which is upgraded in its turn, under the budgets.
pub(crate) fn injection_revision(
    set: &SidecarSet,
    rollout: &Rollout,
    summary: &Summary,
    stable: Option<&String>,
    aborted: Option<&String>,
    completion: &Completion,
    pinned: Option<&str>,
) -> String {
    let target = &rollout.target;
    let newest = || target.revision.clone();
    // While a pod is being replaced nobody knows which of the new ones is its replacement, which must be the newest.
    if summary.evicting > 0 && aborted != Some(&target.revision) {
        return newest();
    }
    let counts = &summary.counts;
    let strategy = &set.spec.injection_strategy;
    let share_is_full = is_share_full(summary);
    let partial = strategy.revision.as_ref().is_some_and(|r| r.policy == RevisionPolicy::Partial);
    if let Some(pinned) = pinned.filter(|_| partial && share_is_full && target.has_partition()) {
        return pinned.to_owned();
    }
    let Some(stable) = stable.filter(|stable| **stable != target.revision) else { return newest() };
    if aborted == Some(&target.revision) {
        return stable.clone();
    }
    let latest = strategy.new_pods == NewPods::Latest || !target.strategy.is_enabled();
    let needs_new_pods = changes_template(summary) || summary.evictable > 0;
    let only_way = needs_new_pods && !share_is_full && !target.strategy.paused;
    // Nobody is left behind, and no update is open; or there is nobody at all, and then all are made with the newest.
    let none_behind = counts.updated == counts.matched && counts.slots + counts.capped == 0;
    let published = completion.new_pods_since.is_some() || none_behind || !target.changes_running_pods();
    if latest || only_way || (published && !holds_back(rollout, summary)) { newest() } else { stable.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::SidecarSetStatus;
    use crate::core::rollout::assess::state::{Obstacle, ObstacleKind};
    use crate::core::rollout::testing;

    struct State {
        injection: Value,
        update: Value,
        updated: usize,
        not_in_place: Vec<ObstacleKind>,
        stable: Option<&'static str>,
        pinned: Option<&'static str>,
    }

    fn obstacle(kind: ObstacleKind) -> Obstacle {
        Obstacle { kind, text: String::new() }
    }

    fn of(state: &State) -> String {
        let mut set = testing::set("v2", state.update.clone());
        set.spec.injection_strategy = serde_json::from_value(state.injection.clone()).unwrap();
        let rollout = testing::rollout("v2", state.update.clone());
        let mut summary = Summary::default();
        summary.counts.matched = 10;
        summary.counts.updated = state.updated;
        summary.not_in_place = state.not_in_place.iter().map(|kind| (obstacle(*kind), 1)).collect();
        summary.keep_old = rollout.target.keep_old(10);
        let stable = state.stable.map(str::to_owned);
        summary.counts.oldest_to_move = (state.updated < 10).then(|| testing::at(-1000));
        let completion = Completion::of(&SidecarSetStatus::default(), &rollout, &summary, testing::at(0));
        let given = injection_revision(&set, &rollout, &summary, stable.as_ref(), None, &completion, state.pinned);
        if given == rollout.target.revision { "newest".to_owned() } else { given }
    }

    #[test]
    fn each_state_of_a_rollout_has_its_revision() {
        let base = || State {
            injection: json!({}),
            update: json!({}),
            updated: 3,
            not_in_place: vec![],
            stable: Some("stable"),
            pinned: None,
        };
        let env = || vec![ObstacleKind::Template];
        let partial = || json!({"revision": {"customVersion": "v1", "policy": "Partial"}});
        for (what, state, expected) in [
            ("an image is rolled out", base(), "stable"),
            ("never rolled out", State { stable: None, ..base() }, "newest"),
            ("Latest", State { injection: json!({"newPods": "Latest"}), ..base() }, "newest"),
            ("NotUpdate", State { update: json!({"type": "NotUpdate"}), ..base() }, "newest"),
            ("env changed", State { not_in_place: env(), updated: 0, ..base() }, "newest"),
            (
                "a pod that is never restarted",
                State { not_in_place: vec![ObstacleKind::Pod], updated: 0, ..base() },
                "stable",
            ),
            ("env changed, paused", State { not_in_place: env(), update: json!({"paused": true}), ..base() }, "stable"),
            (
                "env changed, partition reached",
                State { not_in_place: env(), updated: 5, update: json!({"partition": "50%"}), ..base() },
                "stable",
            ),
            (
                "pinned for what partition keeps",
                State {
                    injection: partial(),
                    pinned: Some("pinned"),
                    updated: 5,
                    update: json!({"partition": "50%"}),
                    ..base()
                },
                "pinned",
            ),
            (
                "pinned, partition not reached",
                State {
                    injection: partial(),
                    pinned: Some("pinned"),
                    updated: 4,
                    update: json!({"partition": "50%"}),
                    ..base()
                },
                "stable",
            ),
        ] {
            assert_eq!(of(&state), expected, "{what}");
        }
    }
}
