//! Which revision a pod gets that is created during a rollout. The leader decides and publishes
//! `status.injectionRevision`; the webhook only reads it, as nothing about a single pod can be decided at admission.

use super::revision::Change;
use super::upgrade::{Rollout, Summary};
use crate::api::SidecarSet;
use crate::api::v1beta1::{NewPods, RevisionPolicy};

/// The hash for `status.injectionRevision`. `pinned`: hash of the revision that `injectionStrategy.revision` names;
/// `stable`: the last one that every matched pod had reached.
///
/// `FollowRollout`: the newest where it is the only way to bring pods forward (a change that cannot be made in place) and
/// the rollout may still go on; otherwise the stable one, which is upgraded in its turn, under the budgets.
pub fn injection_revision(
    set: &SidecarSet,
    rollout: &Rollout,
    summary: &Summary,
    stable: Option<&String>,
    pinned: Option<&str>,
) -> String {
    let newest = || rollout.revision.clone();
    let counts = &summary.counts;
    let strategy = &set.spec.injection_strategy;
    let share_is_full = counts.matched - counts.updated <= summary.keep_old;
    let partial = strategy.revision.as_ref().is_some_and(|r| r.policy == RevisionPolicy::Partial);
    if let Some(pinned) = pinned.filter(|_| partial && share_is_full && rollout.has_partition()) {
        return pinned.to_owned();
    }
    let Some(stable) = stable.filter(|stable| **stable != rollout.revision) else { return newest() };
    if set.status.as_ref().and_then(|status| status.aborted_revision.as_ref()) == Some(&rollout.revision) {
        return stable.clone();
    }
    let latest = strategy.new_pods == NewPods::Latest || !rollout.strategy.enabled;
    let only_way = changes_template(rollout, summary) && !share_is_full && !rollout.strategy.paused;
    if latest || only_way { newest() } else { stable.clone() }
}

/// Some pods differ from the newest in more than images. Not what keeps single pods from an image: a node, a
/// `restartPolicy`, another webhook; for their sake nobody else gets the newest before its turn.
fn changes_template(rollout: &Rollout, summary: &Summary) -> bool {
    let of_template = |reason: &String| {
        rollout.changes.values().any(|change| matches!(change, Change::NotInPlace(path) if path == reason))
    };
    summary.not_in_place.iter().any(|(reason, _)| of_template(reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::upgrade::testing;
    use serde_json::{Value, json};

    struct State {
        injection: Value,
        update: Value,
        updated: usize,
        not_in_place: Vec<&'static str>,
        stable: Option<&'static str>,
        pinned: Option<&'static str>,
    }

    fn of(state: &State) -> String {
        let mut set = testing::set("v2", state.update.clone());
        set.spec.injection_strategy = serde_json::from_value(state.injection.clone()).unwrap();
        let mut rollout = testing::rollout("v2", state.update.clone());
        rollout.changes.insert("old".to_owned(), Change::NotInPlace("containers[agent].env changed".to_owned()));
        let mut summary = Summary::default();
        summary.counts.matched = 10;
        summary.counts.updated = state.updated;
        summary.not_in_place = state.not_in_place.iter().map(|reason| ((*reason).to_owned(), 1)).collect();
        summary.keep_old = rollout.keep_old(10);
        let stable = state.stable.map(str::to_owned);
        let given = injection_revision(&set, &rollout, &summary, stable.as_ref(), state.pinned);
        if given == rollout.revision { "newest".to_owned() } else { given }
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
        let env = || vec!["containers[agent].env changed"];
        let partial = || json!({"revision": {"customVersion": "v1", "policy": "Partial"}});
        for (what, state, expected) in [
            ("an image is rolled out", base(), "stable"),
            ("never rolled out", State { stable: None, ..base() }, "newest"),
            ("Latest", State { injection: json!({"newPods": "Latest"}), ..base() }, "newest"),
            ("NotUpdate", State { update: json!({"type": "NotUpdate"}), ..base() }, "newest"),
            ("env changed", State { not_in_place: env(), updated: 0, ..base() }, "newest"),
            (
                "a pod that is never restarted",
                State { not_in_place: vec!["its restartPolicy"], updated: 0, ..base() },
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
