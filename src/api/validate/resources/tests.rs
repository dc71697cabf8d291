use serde_json::{Value, json};

use crate::api::validate::{Allowed, Problems, check};

/// A set with this container in this list, and these `spec.resources`.
fn problems(list: &str, container: &Value, resources: &Value) -> Problems {
    let mut all = json!({"name": "agent", "image": "agent:1"});
    json_patch::merge(&mut all, container);
    let mut set = json!({
        "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "logs"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "resources": resources},
    });
    set["spec"][list] = json!([all]);
    check(&serde_json::from_value(set).unwrap(), &Allowed::default()).1
}

/// A `resourcesPolicy` changed by an RFC 7386 patch.
fn policy(patch: &Value) -> Value {
    let mut policy = json!({
        "targetContainersMode": "sum", "targetContainersNameRegex": "^app$",
        "resourcesExpr": {"limits": {"cpu": "cpu * 50%"}, "requests": {"memory": "max(memory / 4, 64Mi)"}},
    });
    json_patch::merge(&mut policy, patch);
    json!({"resourcesPolicy": policy})
}

fn errors(list: &str, container: &Value, resources: &Value) -> Vec<String> {
    problems(list, container, resources).errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_policy_is_valid_on_what_runs_beside_the_application() {
    assert_eq!(problems("containers", &policy(&json!({})), &json!(null)), Problems::default());
    let mut native = policy(&json!({}));
    native["restartPolicy"] = json!("Always");
    assert_eq!(problems("initContainers", &native, &json!({"mode": "Additive"})), Problems::default());
    let limits = policy(&json!({"resourcesExpr": {"requests": null}}));
    assert_eq!(
        problems("containers", &limits, &json!({"mode": "SharedWithPod", "preserveQoS": true})),
        Problems::default()
    );
}

#[test]
fn each_rule_of_a_policy_names_the_field_it_refuses() {
    let mut with_resources = policy(&json!({}));
    with_resources["resources"] = json!({"limits": {"cpu": "1"}});
    let expression = |text: &str| policy(&json!({"resourcesExpr": {"limits": {"cpu": text}}}));
    for (list, container, path, says) in [
        ("containers", with_resources, "resources", "exclude each other"),
        ("initContainers", policy(&json!({})), "resourcesPolicy", "add restartPolicy: Always"),
        (
            "containers",
            policy(&json!({"targetContainersNameRegex": ""})),
            "resourcesPolicy.targetContainersNameRegex",
            "must not be empty",
        ),
        (
            "containers",
            policy(&json!({"targetContainersNameRegex": "a("})),
            "resourcesPolicy.targetContainersNameRegex",
            "unclosed group",
        ),
        (
            "containers",
            policy(&json!({"resourcesExpr": {"limits": null, "requests": null}})),
            "resourcesPolicy.resourcesExpr",
            "at least one expression",
        ),
        (
            "containers",
            policy(&json!({"resourcesExpr": {"requests": {"nvidia.com/gpu": "1"}}})),
            "resourcesPolicy.resourcesExpr.requests.nvidia.com/gpu",
            "write cpu or memory",
        ),
        ("containers", expression("cpu*cpu"), "resourcesPolicy.resourcesExpr.limits.cpu", "at byte 3: an amount"),
        ("containers", expression("memory"), "resourcesPolicy.resourcesExpr.limits.cpu", "write cpu, max(a, b)"),
        ("containers", expression("10foo"), "resourcesPolicy.resourcesExpr.limits.cpu", "is no unit"),
        ("containers", expression(""), "resourcesPolicy.resourcesExpr.limits.cpu", "is empty"),
    ] {
        let found = errors(list, &container, &json!(null));
        let start = format!("spec.{list}[0].{path}: ");
        assert!(found.len() == 1 && found[0].starts_with(&start) && found[0].contains(says), "{found:?}");
    }
}

#[test]
fn a_sidecar_that_shares_the_budget_has_no_requests() {
    let shared = json!({"mode": "SharedWithPod"});
    for (container, path) in [
        (json!({"resources": {"requests": {"cpu": "1m"}}}), "resources.requests.cpu"),
        (json!({"resources": {"requests": {"memory": "0"}}}), "resources.requests.memory"),
        (policy(&json!({})), "resourcesPolicy.resourcesExpr.requests.memory"),
    ] {
        let found = errors("containers", &container, &shared);
        assert!(found.len() == 1 && found[0].starts_with(&format!("spec.containers[0].{path}: ")), "{found:?}");
        assert!(errors("containers", &container, &json!({"mode": "Additive"})).is_empty());
    }
    let other = json!({"resources": {"limits": {"cpu": "1"}, "requests": {"ephemeral-storage": "1Gi"}}});
    assert!(errors("containers", &other, &shared).is_empty());
}

#[test]
fn a_sidecar_that_no_guaranteed_pod_can_get_is_warned_about() {
    let warns = |container: Value, resources: Value| problems("containers", &container, &resources).warnings.len();
    let preserve = json!({"preserveQoS": true});
    for limits in [json!({}), json!({"cpu": "1"}), json!({"cpu": "1", "memory": "0"})] {
        assert_eq!(warns(json!({"resources": {"limits": limits}}), preserve.clone()), 1, "{limits}");
    }
    let equal = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}});
    assert_eq!(warns(equal, preserve.clone()), 0);
    assert_eq!(warns(policy(&json!({})), preserve), 0, "it depends on the pod");
    assert_eq!(warns(json!({}), json!({"preserveQoS": false})), 0);
    assert_eq!(warns(json!({}), json!({"preserveQoS": true, "mode": "SharedWithPod"})), 0);
}
