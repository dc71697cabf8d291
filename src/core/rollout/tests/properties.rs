//! What holds whatever happens.

use proptest::prelude::*;
use serde_json::json;

use crate::core::rollout::assess::attempt::{Attempt, Progress};
use crate::core::rollout::target::rollout::PersistedProgress;
use crate::core::rollout::testing::{SET, at, hash, planned, target};
use crate::core::rollout::tests::Fleet;

/// What may happen between two plans.
#[derive(Clone, Debug)]
enum Step {
    Plan { image: usize, limit: usize },
    Kubelet(usize),
    AppReady(usize, bool),
    Delete(usize),
    Wait(i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_usize, 1..5_usize).prop_map(|(image, limit)| Step::Plan { image, limit }),
        4 => any::<usize>().prop_map(Step::Kubelet),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(pod, ready)| Step::AppReady(pod, ready)),
        1 => any::<usize>().prop_map(Step::Delete),
        2 => (0..10_i64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// However images change, pods vanish and the operator restarts: a plan never takes more ready pods than
    /// maxUnavailable leaves, and the running counters equal a recount.
    #[test]
    fn no_plan_exceeds_its_budget(steps in prop::collection::vec(step(), 1..60), max in 1..4_usize, pods in 1..9_usize) {
        let images = ["v1", "v2", "v3", "bad"];
        let strategy = json!({"maxUnavailable": max});
        let mut fleet = Fleet::of(pods);
        for step in steps {
            let names: Vec<String> = fleet.pods.keys().map(|key| key.name.clone()).collect();
            let pick = |i: usize| names.get(i % names.len().max(1)).cloned().into_iter().collect::<Vec<_>>();
            match step {
                Step::Plan { image, limit } => {
                    fleet.index.configure(target(images[image], strategy.clone()), at(fleet.now));
                    let plan = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(fleet.now), limit);
                    prop_assert!(plan.patches.len() <= limit);
                    let before = plan.summary.counts.slots;
                    let taken = plan.patches.iter().filter(|p| {
                        let view = fleet.pods[&p.key].view();
                        view.ready && view.marks.get(SET).unwrap().update.as_ref().is_none_or(|u| !u.was_ready
                            || Attempt { pod: &view, update: u, target: &target("v1", strategy.clone()), now: at(fleet.now) }.progress() == Progress::Done)
                    }).count();
                    prop_assert!(taken == 0 || before + taken <= max, "{before} + {taken} > {max}");
                    fleet.send(&plan);
                    for patch in &plan.patches {
                        let view = fleet.pods[&patch.key].view();
                        prop_assert_eq!(&view.marks.get(SET).unwrap().revision, &hash(images[image]));
                    }
                }
                Step::Kubelet(i) => fleet.kubelets(&pick(i)),
                Step::AppReady(i, ready) => fleet.set_ready(&pick(i), ready),
                Step::Delete(i) => fleet.delete(&pick(i)),
                Step::Wait(seconds) => fleet.now += seconds,
                Step::Restart => fleet = fleet.recounted(),
            }
            let running = fleet.plan("v2", &strategy).summary;
            prop_assert_eq!(running, fleet.recounted().plan("v2", &strategy).summary);
        }
    }
}
