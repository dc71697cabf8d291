//! The table of the module's documentation: class of the application × mode → pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::api::SidecarSet;
use crate::api::reasons::Reason;
use crate::api::v1beta1::ResourcesMode;
use crate::api::validate::validate;
use crate::core::inject::{CompiledSet, CompiledSets, Request, inject};
use crate::core::revision::History;

const ADDITIVE: ResourcesMode = ResourcesMode::Additive;
const SHARED: ResourcesMode = ResourcesMode::SharedWithPod;

/// The pod with the sidecar of one set, or why there is none.
fn injected(app: &Value, sidecar: &Value, mode: ResourcesMode, preserve: bool) -> Result<Value, String> {
    let mut sidecar = sidecar.clone();
    sidecar["image"] = json!("i");
    sidecar["podInjectPolicy"] = json!("AfterAppContainer");
    let everything = json!({"matchExpressions": [{"key": "never", "operator": "DoesNotExist"}]});
    let spec =
        json!({"selector": everything, "containers": [sidecar], "resources": {"mode": mode, "preserveQoS": preserve}});
    let set: SidecarSet = serde_json::from_value(json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
        "metadata": {"name": "s"}, "spec": spec}))
    .unwrap();
    let sets = CompiledSets::new([Arc::new(CompiledSet::new(&validate(&set).unwrap(), &History::new()))]);
    let injected = |pod: &Value| {
        let request = Request { pod, namespace: "default", namespace_labels: &BTreeMap::new(), excluded: &[] };
        let injection = inject(&sets, &request);
        let mut pod = pod.clone();
        json_patch::patch(&mut pod, &injection.patch).unwrap();
        (pod, injection.outcomes.into_iter().next().unwrap())
    };
    let (once, outcome) = injected(app);
    assert_eq!(injected(&once).0, once, "twice is once");
    if outcome.reason == Reason::Injected { Ok(once) } else { Err(outcome.message) }
}

fn equal() -> Value {
    container("sidecar", "100m/64Mi", "100m/64Mi")
}

fn silent() -> Value {
    json!({"name": "sidecar"})
}

fn guaranteed() -> Value {
    pod(&[container("app", "1/1Gi", "1/1Gi")], &[])
}

fn limited() -> Value {
    pod(&[container("app", "1/1Gi", "500m/512Mi")], &[])
}

fn unlimited() -> Value {
    pod(&[container("app", "1/1Gi", "500m/512Mi"), container("other", "-/-", "100m/-")], &[])
}

fn best_effort() -> Value {
    pod(&[json!({"name": "app"})], &[])
}

/// Room for 100m and 64Mi is left.
fn pod_level_of_its_own() -> Value {
    let mut pod = pod(&[container("app", "-/-", "900m/960Mi")], &[]);
    let both = json!({"cpu": "1", "memory": "1Gi"});
    pod["spec"]["resources"] = json!({"limits": both, "requests": both});
    pod
}

#[test]
fn additive_leaves_everything_as_it_is_written() {
    use QosClass::{BestEffort, Burstable, Guaranteed};
    for (what, app, with_equal, with_silent) in [
        ("guaranteed", guaranteed(), Guaranteed, Burstable),
        ("limited", limited(), Burstable, Burstable),
        ("unlimited", unlimited(), Burstable, Burstable),
        ("best effort", best_effort(), Burstable, BestEffort),
        ("its own", pod_level_of_its_own(), Guaranteed, Guaranteed),
    ] {
        for (sidecar, expected) in [(equal(), with_equal), (silent(), with_silent)] {
            let pod = injected(&app, &sidecar, ADDITIVE, false).unwrap();
            assert_eq!(qos(&pod, &|_| true), expected, "{what}: {sidecar}");
            assert_eq!(pod["spec"]["resources"], app["spec"]["resources"], "{what}");
            assert_eq!(
                pod["spec"]["containers"].as_array().unwrap().last().unwrap()["resources"],
                sidecar["resources"],
                "{what}"
            );
        }
    }
}

#[test]
fn a_promise_to_stay_guaranteed_refuses_what_breaks_it() {
    for app in [limited(), unlimited(), best_effort(), pod_level_of_its_own()] {
        assert!(injected(&app, &silent(), ADDITIVE, true).is_ok(), "{app}");
    }
    assert!(injected(&guaranteed(), &equal(), ADDITIVE, true).is_ok());
    for (sidecar, says) in [
        (silent(), r#"container "sidecar" has no limits.cpu"#),
        (container("sidecar", "1/-", "-/-"), r#"container "sidecar" has no limits.memory"#),
        (container("sidecar", "1/1Gi", "10m/1Gi"), r#"container "sidecar" has requests.cpu 10m and limits.cpu 1"#),
    ] {
        let error = injected(&guaranteed(), &sidecar, ADDITIVE, true).unwrap_err();
        assert!(error.contains(says) && error.contains("write equal limits and requests"), "{error}");
    }
}

#[test]
fn sidecars_beyond_the_pods_own_budget_are_a_conflict() {
    let error = injected(&pod_level_of_its_own(), &container("sidecar", "-/-", "200m/-"), ADDITIVE, false).unwrap_err();
    assert!(error.contains("request 1100m of cpu, the pod-level request is 1"), "{error}");
}

#[test]
fn sharing_gives_the_pod_what_the_application_had() {
    let zeros = json!({"cpu": "0", "memory": "0"});
    let one = json!({"cpu": "1", "memory": "1Gi"});
    let small = json!({"cpu": "100m", "memory": "64Mi"});
    let half = json!({"cpu": "500m", "memory": "512Mi"});
    for (what, app, level, own, none, class) in [
        ("guaranteed", guaranteed(), json!({"limits": one, "requests": one}), &small, &one, QosClass::Guaranteed),
        ("limited", limited(), json!({"limits": one, "requests": half}), &small, &one, QosClass::Burstable),
        (
            "unlimited",
            unlimited(),
            json!({"requests": {"cpu": "600m", "memory": "512Mi"}}),
            &small,
            &Value::Null,
            QosClass::Burstable,
        ),
        ("best effort", best_effort(), json!({"requests": zeros}), &small, &Value::Null, QosClass::BestEffort),
        (
            "its own",
            pod_level_of_its_own(),
            json!({"limits": one, "requests": one}),
            &small,
            &one,
            QosClass::Guaranteed,
        ),
    ] {
        for preserve in [false, true] {
            for (mut sidecar, limits) in [(equal(), own), (silent(), none)] {
                // A set that shares writes no requests; validation refuses them.
                sidecar["resources"]["requests"] = json!({});
                let pod = injected(&app, &sidecar, SHARED, preserve).unwrap();
                let sidecar = pod["spec"]["containers"].as_array().unwrap().last().unwrap();
                assert_eq!(pod["spec"]["resources"], level, "{what}");
                assert_eq!(sidecar["resources"]["limits"], *limits, "{what}");
                assert_eq!(sidecar["resources"]["requests"], zeros, "{what}");
                assert_eq!(pod["spec"]["containers"][0], app["spec"]["containers"][0], "{what}");
                assert_eq!(qos(&pod, &|_| true), class, "{what}");
                assert!(qos(&app, &|_| true) <= class, "{what}");
            }
        }
    }
}

fn some_containers(prefix: &'static str, least: usize) -> impl Strategy<Value = Vec<Value>> {
    let amount = || prop::option::of(prop::sample::select(vec!["0", "1m", "100m", "1", "1.5", "1Gi", "9E", "8Ei"]));
    let resources = (amount(), amount(), amount(), amount());
    let one = (resources, any::<bool>()).prop_map(|((a, b, c, d), native)| {
        let text =
            |cpu: Option<&str>, memory: Option<&str>| format!("{}/{}", cpu.unwrap_or("-"), memory.unwrap_or("-"));
        let container = container("", &text(a, b), &text(c, d));
        if native { super::native(container) } else { container }
    });
    prop::collection::vec(one, least..4).prop_map(move |mut all| {
        for (i, container) in all.iter_mut().enumerate() {
            container["name"] = json!(format!("{prefix}{i}"));
        }
        all
    })
}

proptest! {
    /// The apiserver's rules hold, the class does not fall, and a second look finds nothing to do.
    #[test]
    fn sharing_fits_any_pod(app in some_containers("a", 1), init in some_containers("i", 0), sidecars in some_containers("s", 1)) {
        let app = pod(&app, &init);
        let level = pod_level(&app, |_| false, false).unwrap();
        let mut after = app.clone();
        if let Some(resources) = &level {
            after["spec"]["resources"] = resources.clone();
        }
        let resources = after["spec"]["resources"].clone();
        for mut sidecar in sidecars {
            sidecar["resources"] = shared_resources(&sidecar, &resources);
            prop_assert_eq!(shared_resources(&sidecar, &resources), sidecar["resources"].clone());
            after["spec"]["containers"].as_array_mut().unwrap().insert(0, sidecar);
        }
        prop_assert_eq!(fits_pod_level(&after, &|_| true, &|_| true), Ok(()));
        prop_assert!(qos(&app, &|_| true) <= qos(&after, &|_| true));
        prop_assert_eq!(pod_level(&after, |name| name.starts_with('s'), true), Ok(level));
    }
}
