//! What holds whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::core::rollout::plan::pullers::Pullers;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::state::pulls::{Pull, PullResult};
use crate::core::rollout::testing::{at, hash};
use crate::core::rollout::tests::prepull::pullers::{says, seen};
use crate::core::rollout::tests::prepull::{Fleet, fleet, strategy};

/// What may happen to a rollout with pre-pull.
#[derive(Clone, Debug)]
enum Event {
    /// One round of the operator: plan, patch, look at the pullers. The list may be the one of before.
    Round {
        image: usize,
        old_list: bool,
    },
    /// A kubelet gets on with one puller, well or badly.
    Pull(usize, bool),
    Refuse(bool),
    Kubelets,
    DeletePod(usize),
    DeletePuller(usize),
    NewLeader,
    Wait(i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..3_usize, prop::bool::weighted(0.2)).prop_map(|(image, old_list)| Event::Round { image, old_list }),
        5 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(i, good)| Event::Pull(i, good)),
        1 => any::<bool>().prop_map(Event::Refuse),
        2 => Just(Event::Kubelets),
        1 => any::<usize>().prop_map(Event::DeletePod),
        1 => any::<usize>().prop_map(Event::DeletePuller),
        1 => Just(Event::NewLeader),
        2 => (0..20_i64).prop_map(Event::Wait),
    ]
}

/// Pods, the pullers in the API, and what nodes have in truth.
struct World {
    fleet: Fleet,
    pullers: Pullers,
    /// By UID: the pull, and the kubelet's word.
    made: BTreeMap<String, (Pull, Value)>,
    old_list: Vec<Pod>,
    has_image: BTreeSet<(String, String)>,
    refused: BTreeSet<(String, String)>,
    refuses: bool,
    count: usize,
}

const IMAGES: [&str; 3] = ["v1", "v2", "v3"];

impl World {
    fn list(&self) -> Vec<Pod> {
        self.made.iter().map(|(uid, (pull, status))| seen(pull, uid, status)).collect()
    }

    fn round(&mut self, image: &str, strategy: &Value, old_list: bool) -> Result<(), TestCaseError> {
        let plan = self.fleet.plan(image, strategy);
        for patch in &plan.patches {
            let pod = &self.fleet.pods[&patch.key].view();
            let place = (pod.node.as_deref().unwrap().to_owned(), image.to_owned());
            let alive = pod.container("agent").unwrap().status.as_ref().unwrap().ready;
            let may = !alive || self.has_image.contains(&place) || self.refused.contains(&place);
            prop_assert!(may, "{} is patched before {place:?}", patch.key);
        }
        self.fleet.send(&plan);
        let plan = self.fleet.plan(image, strategy);
        let listed = if old_list { self.old_list.clone() } else { self.list() };
        self.old_list = self.list();
        let now = at(self.fleet.now);
        let step = self.pullers.step(&plan.pulls, &listed, now);
        for (pull, image, outcome) in step.results {
            if let PullResult::Skipped(_) = &outcome {
                self.refused.insert((pull.node.clone(), image.clone()));
            }
            self.fleet.index.note_pull(&pull, &image, outcome, now);
        }
        for pull in step.create {
            for image in pull.images.keys().filter(|_| self.refuses) {
                self.refused.insert((pull.node.clone(), image.clone()));
                self.fleet.index.note_pull(&pull, image, PullResult::Skipped("quota".into()), now);
            }
            if !self.refuses {
                self.count += 1;
                let uid = format!("p{}", self.count);
                self.made.insert(uid.clone(), (pull.clone(), json!({"phase": "Pending"})));
                self.pullers.created(pull, uid, now);
            }
        }
        for (_, uid) in step.delete {
            self.made.remove(&uid);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever happens: no living sidecar is stopped before its node has the image, no more nodes pull than a batch has
    /// pods, and all pullers are deleted in the end.
    #[test]
    fn no_sidecar_is_stopped_for_an_image_that_is_not_there(
        events in prop::collection::vec(event(), 1..60), max in 1..4_usize, nodes in 1..5_usize, per_node in 1..4_usize,
    ) {
        let mut strategy = strategy(max);
        strategy["failurePolicy"] = json!({"maxFailed": "100%"});
        let mut world = World {
            fleet: fleet(nodes, per_node), pullers: Pullers::default(), made: BTreeMap::new(), old_list: Vec::new(),
            has_image: BTreeSet::new(), refused: BTreeSet::new(), refuses: false, count: 0,
        };
        for event in events {
            match event {
                Event::Round { image, old_list } => {
                    world.round(IMAGES[image], &strategy, old_list)?;
                    world.fleet.now += 1;
                    if !old_list {
                        let at_work = world.made.values().filter(|(pull, _)| pull.revision == hash(IMAGES[image])).count();
                        prop_assert!(at_work <= max, "{at_work} pullers at once");
                    }
                }
                Event::Pull(i, good) => {
                    let open = world.made.len().max(1);
                    if let Some((pull, status)) = world.made.values_mut().nth(i % open) {
                        let state = if good { json!({"terminated": {"exitCode": 128, "reason": "StartError"}}) }
                            else { json!({"waiting": {"reason": "ErrImagePull"}}) };
                        *status = says(&state);
                        if good {
                            world.has_image.extend(pull.images.keys().map(|image| (pull.node.clone(), image.clone())));
                        }
                    }
                }
                Event::Refuse(refuses) => world.refuses = refuses,
                Event::Kubelets => {
                    let names: Vec<String> = world.fleet.pods.keys().map(|key| key.name.clone()).collect();
                    world.fleet.kubelets(&names);
                }
                Event::DeletePod(i) => {
                    let keys: Vec<_> = world.fleet.pods.keys().cloned().collect();
                    if let Some(key) = keys.get(i % keys.len().max(1)) {
                        let pod = world.fleet.pods.remove(key).unwrap();
                        world.fleet.index.remove(key, &pod.view().uid, at(world.fleet.now));
                    }
                }
                Event::DeletePuller(i) => {
                    let uids: Vec<String> = world.made.keys().cloned().collect();
                    if let Some(uid) = uids.get(i % uids.len().max(1)) {
                        world.made.remove(uid);
                    }
                }
                Event::NewLeader => {
                    world.pullers = Pullers::default();
                    world.fleet.index = Index::default();
                    (0..nodes).for_each(|i| drop(world.fleet.index.set_node(&format!("n{i}"), Some(true))));
                    world.fleet.observe();
                }
                Event::Wait(seconds) => world.fleet.now += seconds,
            }
        }
        strategy["paused"] = json!(true);
        for _ in 0..3 {
            world.fleet.now += 10;
            world.round("v2", &strategy, false)?;
        }
        prop_assert_eq!(world.made.len(), 0, "pullers are left");
        prop_assert!(world.pullers.is_empty());
    }
}
