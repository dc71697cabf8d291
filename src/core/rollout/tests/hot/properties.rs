//! What holds whatever happens to twins.

use proptest::prelude::*;

use crate::core::rollout::tests::hot::*;

/// What may happen between two plans.
#[derive(Clone, Debug)]
enum Step {
    /// To this target, or the last one.
    Send {
        target: Option<Images>,
        answered: bool,
    },
    Kubelet(&'static str),
    Crash(&'static str),
    Wait(i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let image = || prop::sample::select(vec!["v1", "v2", "v3", "bad"]);
    let target = (image(), prop::sample::select(vec!["v1", "v2"]), prop::sample::select(vec!["v1", "v2"]));
    let target = target.prop_map(|(mesh, proxy, agent)| [mesh, proxy, agent]);
    let send = (prop::option::weighted(0.3, target), prop::bool::weighted(0.8))
        .prop_map(|(target, answered)| Step::Send { target, answered });
    let container = || prop::sample::select(vec!["mesh-1", "mesh-2", "proxy-1", "proxy-2", "agent"]);
    prop_oneof![
        8 => send,
        6 => container().prop_map(Step::Kubelet),
        1 => container().prop_map(Step::Crash),
        3 => (0..10_i64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// Which twin serves in truth: the one whose program has last taken over.
struct Truth {
    serving: BTreeMap<&'static str, String>,
    target: Option<Images>,
    upgrades: BTreeMap<String, usize>,
    resets: BTreeMap<String, usize>,
}

impl Truth {
    fn new() -> Self {
        let serving = [("mesh", "mesh-1".to_owned()), ("proxy", "proxy-1".to_owned())].into();
        Self { serving, target: None, upgrades: BTreeMap::new(), resets: BTreeMap::new() }
    }

    fn begin(&mut self, target: Images) {
        if self.target.replace(target) != Some(target) {
            self.upgrades.clear();
            self.resets.clear();
        }
    }

    /// A request was carried out; the pod is as it was before.
    fn sent(&mut self, world: &World, before: &PodView, moved: &[(String, String)]) {
        for (sidecar, serving) in &mut self.serving {
            let twins: Vec<_> = moved.iter().filter(|(name, _)| keys::twins(sidecar).contains(name)).collect();
            assert!(twins.len() <= 1, "both twins of {sidecar} were changed");
            let Some((twin, image)) = twins.first() else { continue };
            let counts = if image == IDLE { &mut self.resets } else { &mut self.upgrades };
            *counts.entry((*sidecar).to_owned()).or_default() += 1;
            if twin != serving {
                continue;
            }
            let [first, second] = keys::twins(sidecar);
            let other = if *twin == first { second } else { first };
            let container = before.container(&other).unwrap();
            let status = container.status.as_ref().unwrap();
            assert!(status.ready, "{twin} served, and {other} is not ready");
            assert!(status.id.ends_with(&format!("#{}", container.image)), "{other} does not run its image");
            let since = status.running_since.unwrap();
            assert!(at(world.now).duration_since(since).as_secs() >= 5, "{other} has not stayed ready");
            let (version, alt) = world.env[&status.id];
            assert!(version > alt, "{other} was not told to take over: {version}, {alt}");
            *serving = other;
        }
        // A reset that was due when the target changed comes before that of the new target.
        assert!(self.upgrades.values().all(|upgrades| *upgrades <= 1), "{:?}", self.upgrades);
        assert!(self.resets.values().all(|resets| *resets <= 2), "{:?}", self.resets);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However images change, the kubelet dawdles, answers get lost and the operator restarts: the twin that serves is
    /// changed only for one that has taken over, each revision needs few requests, and all ends at rest.
    #[test]
    fn the_twin_that_serves_is_left_alone(steps in prop::collection::vec(step(), 1..60)) {
        let (mut world, mut truth) = (World::new(), Truth::new());
        for step in steps {
            match step {
                Step::Send { target, answered } => {
                    let target = target.or(truth.target).unwrap_or(OLD);
                    truth.begin(target);
                    let plan = world.plan(target);
                    if let Some(request) = plan.patches.first() {
                        let before = world.pod.view();
                        if world.pod.patch(&request.patch) {
                            let moved = changed(&serde_json::to_value(&request.patch).unwrap(), &before);
                            truth.sent(&world, &before, &moved);
                        } else {
                            world.observe();
                        }
                    }
                    if answered {
                        world.observe();
                    }
                }
                Step::Kubelet(name) => world.kubelet(name),
                Step::Crash(name) => {
                    world.pod.edit(|pod| {
                        let status = named(&mut pod["status"][lists(name).1], name);
                        if !status["state"]["running"].is_null() {
                            status["ready"] = json!(false);
                            status["state"] = json!({"waiting": {"reason": "ContainerCreating"}});
                        }
                    });
                    world.pod_ready();
                    world.observe();
                }
                Step::Wait(seconds) => world.now += seconds,
                Step::Restart => world.restart(),
            }
        }
        let target = ["v4", "v1", "v4"];
        world.observe();
        truth.begin(target);
        for _ in 0..8 {
            let before = world.pod.view();
            let moved = world.send(target);
            truth.sent(&world, &before, &moved);
            world.kubelets();
        }
        prop_assert_eq!(world.state(target), PodState::Available);
        for (sidecar, image) in [("mesh", "v4"), ("proxy", "v1")] {
            let mut images = world.images(sidecar);
            images.sort();
            prop_assert_eq!(images, [IDLE.to_owned(), image.to_owned()]);
        }
    }
}
