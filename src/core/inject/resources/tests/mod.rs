use serde_json::{Value, json};

use super::amounts::*;
use super::policy::*;
use super::*;
use crate::api::qos::QosClass;

mod modes;
mod policies;

/// A container with these limits and requests, as `cpu/memory`; `-` for none.
fn container(name: &str, limits: &str, requests: &str) -> Value {
    let list = |text: &str| {
        let (cpu, memory) = text.split_once('/').unwrap();
        let named = [("cpu", cpu), ("memory", memory)].into_iter().filter(|(_, amount)| *amount != "-");
        named.map(|(name, amount)| (name.to_owned(), Value::from(amount))).collect::<serde_json::Map<_, _>>()
    };
    json!({"name": name, "resources": {"limits": list(limits), "requests": list(requests)}})
}

fn native(mut container: Value) -> Value {
    container["restartPolicy"] = json!("Always");
    container
}

fn pod(containers: &[Value], init: &[Value]) -> Value {
    json!({"spec": {"containers": containers, "initContainers": init}})
}

#[test]
fn the_class_is_the_one_that_kubernetes_computes() {
    let equal = || container("a", "1/1Gi", "1000m/1024Mi");
    let nothing = || json!({"name": "b"});
    for (what, expected, pod) in [
        ("nothing named", QosClass::BestEffort, pod(&[nothing()], &[])),
        ("only zeros", QosClass::BestEffort, pod(&[container("a", "0/0", "0/0")], &[])),
        ("another resource", QosClass::BestEffort, pod(&[json!({"resources": {"limits": {"x/y": "1"}}})], &[])),
        ("equal limits and requests", QosClass::Guaranteed, pod(&[equal()], &[])),
        ("limits alone", QosClass::Guaranteed, pod(&[container("a", "1/1Gi", "-/-")], &[])),
        ("numbers", QosClass::Guaranteed, pod(&[json!({"resources": {"limits": {"cpu": 1, "memory": 1024}}})], &[])),
        ("requests alone", QosClass::Burstable, pod(&[container("a", "-/-", "1/-")], &[])),
        ("no memory limit", QosClass::Burstable, pod(&[container("a", "1/-", "-/-")], &[])),
        ("a request of zero", QosClass::Burstable, pod(&[container("a", "1/1Gi", "0/-")], &[])),
        ("less than the limit", QosClass::Burstable, pod(&[container("a", "1/1Gi", "1/1Mi")], &[])),
        ("one that names nothing", QosClass::Burstable, pod(&[equal(), nothing()], &[])),
        ("an init container that names nothing", QosClass::Burstable, pod(&[equal()], &[nothing()])),
        ("a native sidecar that names nothing", QosClass::Burstable, pod(&[equal()], &[native(nothing())])),
    ] {
        assert_eq!(qos(&pod, &|_| true), expected, "{what}");
    }
}

/// Seen on a 1.36 apiserver.
#[test]
fn pod_level_resources_decide_the_class_alone() {
    let both = json!({"cpu": "1", "memory": "1Gi"});
    for (resources, expected) in [
        (json!({"limits": both, "requests": both}), QosClass::Guaranteed),
        (json!({"limits": both}), QosClass::Burstable),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}),
            QosClass::Burstable,
        ),
        (json!({"requests": {"cpu": "2"}}), QosClass::Burstable),
        (json!({"requests": {"cpu": "0", "memory": "0"}}), QosClass::BestEffort),
        (json!({}), QosClass::BestEffort),
    ] {
        let mut pod = pod(&[container("a", "-/-", "500m/-"), container("b", "100m/-", "0/0")], &[]);
        pod["spec"]["resources"] = resources.clone();
        assert_eq!(qos(&pod, &|_| true), expected, "{resources}");
    }
}

#[test]
fn the_budget_is_what_the_pod_needs_when_it_needs_most() {
    let app = [container("a", "1/1Gi", "500m/-"), container("b", "500m/512Mi", "100m/1Mi")];
    let migrate = container("migrate", "3/1Gi", "200m/2Gi");
    let proxy = native(container("proxy", "250m/256Mi", "50m/-"));
    for (what, init, limits, requests) in [
        ("the sum", vec![], ("1500m", "1536Mi"), ("600m", "1025Mi")),
        ("with native sidecars", vec![proxy.clone()], ("1750m", "1792Mi"), ("650m", "1281Mi")),
        ("or an init container", vec![migrate.clone()], ("3", "1536Mi"), ("600m", "2Gi")),
        ("beside the sidecars in front of it", vec![proxy, migrate], ("3250m", "1792Mi"), ("650m", "2304Mi")),
    ] {
        let expected = json!({
            "limits": {"cpu": limits.0, "memory": limits.1}, "requests": {"cpu": requests.0, "memory": requests.1},
        });
        assert_eq!(pod_level(&pod(&app, &init), |_| false, false), Ok(Some(expected)), "{what}");
    }
}

#[test]
fn one_container_without_a_limit_leaves_the_budget_unlimited() {
    let limited = container("a", "1/1Gi", "-/-");
    for unlimited in [container("b", "-/1Gi", "1/-"), container("b", "0/1Gi", "1/-")] {
        for pod in [pod(&[limited.clone(), unlimited.clone()], &[]), pod(std::slice::from_ref(&limited), &[unlimited])]
        {
            let level = pod_level(&pod, |_| false, false).unwrap().unwrap();
            assert!(level["limits"]["cpu"].is_null(), "{pod}");
            assert!(level["limits"]["memory"].is_string(), "{pod}");
        }
    }
}

#[test]
fn sidecars_that_share_are_not_in_the_budget_and_additive_ones_are() {
    let containers =
        [container("app", "1/1Gi", "-/-"), container("shares", "4/4Gi", "-/-"), container("adds", "100m/64Mi", "-/-")];
    let level = pod_level(&pod(&containers, &[]), |name| name == "shares", false).unwrap();
    let both = json!({"cpu": "1100m", "memory": "1088Mi"});
    assert_eq!(level, Some(json!({"limits": both, "requests": both})));
}

#[test]
fn a_value_of_the_pods_own_is_kept_and_one_of_ours_computed_again() {
    let mut pod = pod(&[container("app", "1/1Gi", "-/-")], &[]);
    let theirs = json!({"limits": {"cpu": "8", "memory": "8Gi", "hugepages-2Mi": "4Mi"}, "requests": {"cpu": "2"}});
    pod["spec"]["resources"] = theirs.clone();
    assert_eq!(pod_level(&pod, |_| false, false), Ok(None));
    let ours = json!({
        "limits": {"cpu": "1", "memory": "1Gi", "hugepages-2Mi": "4Mi"}, "requests": {"cpu": "1", "memory": "1Gi"},
    });
    assert_eq!(pod_level(&pod, |_| false, true), Ok(Some(ours.clone())));
    pod["spec"]["resources"] = ours.clone();
    assert_eq!(pod_level(&pod, |_| false, true), Ok(Some(ours)), "nothing differs the second time");
}

#[test]
fn pods_that_cannot_share_say_why() {
    let mut windows = pod(&[container("app", "1/1Gi", "-/-")], &[]);
    windows["spec"]["os"] = json!({"name": "windows"});
    assert_eq!(pod_level(&windows, |_| false, false), Err(ResourcesError::Windows));
    let odd = pod(&[container("app", "many/1Gi", "-/-")], &[]);
    let error = pod_level(&odd, |_| false, false).unwrap_err().to_string();
    assert_eq!(error, r#"container "app": resources.limits.cpu: "many" is not a quantity: write 100m or 64Mi"#);
}

#[test]
fn requests_of_zero_beside_a_limit_do_not_make_the_pod_best_effort() {
    let pod = pod(&[container("a", "1/-", "0/-"), json!({"name": "b"})], &[]);
    assert_eq!(pod_level(&pod, |_| false, false), Ok(None));
    assert_eq!(qos(&pod, &|_| true), QosClass::Burstable);
}

#[test]
fn a_sidecar_that_shares_requests_nothing_and_has_no_higher_limit() {
    let level = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1", "memory": "64Mi"}});
    for (what, own, limits) in [
        ("nothing of its own", json!(null), json!({"cpu": "1"})),
        (
            "a lower limit stays",
            json!({"limits": {"cpu": "200m", "memory": "1Gi"}}),
            json!({"cpu": "200m", "memory": "1Gi"}),
        ),
        ("a higher one is lowered", json!({"limits": {"cpu": "2"}}), json!({"cpu": "1"})),
        ("zero is no limit", json!({"limits": {"cpu": "0"}, "requests": {"cpu": "1"}}), json!({"cpu": "1"})),
    ] {
        let expected = json!({"limits": limits, "requests": {"cpu": "0", "memory": "0"}});
        assert_eq!(shared_resources(&json!({"name": "s", "resources": own}), &level), expected, "{what}");
    }
    let other =
        json!({"resources": {"limits": {"ephemeral-storage": "1Gi"}, "requests": {"ephemeral-storage": "1Mi"}}});
    let resources = shared_resources(&other, &Value::Null);
    assert_eq!(resources["limits"], json!({"ephemeral-storage": "1Gi"}));
    assert_eq!(resources["requests"], json!({"ephemeral-storage": "1Mi", "cpu": "0", "memory": "0"}));
}

#[test]
fn what_the_apiserver_would_refuse_is_found_before() {
    let app = container("app", "1/1Gi", "500m/512Mi");
    for (what, sidecar, says) in [
        ("it fits", container("s", "1/-", "100m/-"), None),
        (
            "too large a request",
            container("s", "-/-", "600m/-"),
            Some("request 1100m of cpu, the pod-level request is 1"),
        ),
        ("a request that the limit implies", container("s", "1/-", "-/-"), Some("request 1500m of cpu")),
        ("too high a limit", container("s", "-/2Gi", "-/0"), Some(r#"container "s" has the memory limit 2Gi"#)),
    ] {
        let mut pod = pod(&[app.clone(), sidecar], &[]);
        assert_eq!(fits_pod_level(&pod, &|_| true, &|_| true), Ok(()), "{what}: without pod-level resources");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        pod["spec"]["resources"] = json!({"limits": both, "requests": both});
        let result = fits_pod_level(&pod, &|_| true, &|_| true).map_err(|error| error.to_string());
        match says {
            None => assert_eq!(result, Ok(()), "{what}"),
            Some(says) => assert!(result.clone().unwrap_err().contains(says), "{what}: {result:?}"),
        }
    }
}

#[test]
fn a_template_is_judged_with_what_the_apiserver_will_derive_from_its_own_containers() {
    let with = |own: &Value, sidecar: &Value, level: &Value| {
        let container = |name: &str, resources: &Value| json!({"name": name, "resources": resources});
        let mut pod = pod(&[container("app", own), container("s", sidecar)], &[]);
        pod["spec"]["resources"] = level.clone();
        fits_pod_level(&pod, &|_| true, &|name| name == "app").is_ok()
    };
    let huge = |amount: &str| json!({"limits": {"hugepages-2Mi": amount, "memory": "1Gi"}});
    let (limits, requests) = (json!({"limits": {"memory": "4Gi"}}), json!({"requests": {"cpu": "1"}}));
    for (own, sidecar, level, fits) in [
        (huge("4Mi"), huge("2Mi"), &requests, false),
        (json!({}), huge("2Mi"), &requests, true),
        (huge("4Mi"), json!({}), &requests, true),
        (
            huge("4Mi"),
            huge("2Mi"),
            &json!({"limits": {"hugepages-2Mi": "6Mi"}, "requests": {"cpu": "1", "memory": "2Gi"}}),
            true,
        ),
        (json!({"requests": {"memory": "1Gi"}}), json!({"requests": {"memory": "1Mi"}}), &limits, false),
        (json!({"requests": {"cpu": "1"}}), json!({"requests": {"cpu": "1m"}}), &limits, false),
        (json!({"requests": {"cpu": "1"}}), json!({"requests": {"memory": "1Mi"}}), &limits, true),
        (
            json!({"requests": {"ephemeral-storage": "1Gi"}}),
            json!({"requests": {"ephemeral-storage": "1Mi"}}),
            &limits,
            true,
        ),
        (json!({"requests": {"memory": "1Gi"}}), json!({"requests": {"memory": "1Mi"}}), &requests, true),
    ] {
        assert_eq!(with(&own, &sidecar, level), fits, "{own} {sidecar} {level}");
    }
}

#[test]
fn pod_level_limits_hold_where_nothing_is_requested_and_for_huge_pages() {
    let needs = |name: &str, amount: &str| json!({"name": "s", "resources": {"requests": {name: amount}, "limits": {"hugepages-2Mi": "4Mi"}}});
    for (pod_level, sidecar, says) in [
        (json!({"limits": {"memory": "100Mi"}}), needs("memory", "128Mi"), Some("the pod-level limit is 100Mi")),
        (json!({"limits": {"cpu": "1"}}), needs("memory", "128Mi"), None),
        (json!({"requests": {"cpu": "1"}}), needs("memory", "128Mi"), None),
        (json!({"limits": {"hugepages-2Mi": "2Mi"}}), needs("cpu", "1"), Some("4Mi of hugepages-2Mi")),
        (json!({"limits": {"hugepages-2Mi": "4Mi"}}), needs("cpu", "1"), None),
    ] {
        let mut pod = pod(&[json!({"name": "app"}), sidecar], &[]);
        pod["spec"]["resources"] = pod_level.clone();
        let said = fits_pod_level(&pod, &|_| true, &|_| true).err().map(|error| error.to_string());
        assert_eq!(said.is_some(), says.is_some(), "{pod_level}: {said:?}");
        assert!(said.is_none_or(|said| said.contains(says.unwrap_or_default())), "{pod_level}");
    }
}
