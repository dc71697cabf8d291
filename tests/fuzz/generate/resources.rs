//! `resources` of containers and pods, and `resizePolicy`.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::values::{Any, elements_mut, list, object, one_of, remove, unique};

/// Requests and limits of a resource; a request is never more than the limit.
const AMOUNTS: [(&str, &[(&str, &str)]); 5] = [
    ("cpu", &[("100m", ""), ("", "500m"), ("100m", "1"), ("1", "1"), ("0", "0"), ("0.5", "1500m"), ("1e-1", "2")]),
    ("memory", &[("64Mi", ""), ("", "128Mi"), ("64Mi", "128Mi"), ("1Gi", "1024Mi"), ("100M", "1e9"), ("0", "1Ti")]),
    ("ephemeral-storage", &[("1Gi", "2Gi"), ("", "1G")]),
    ("hugepages-2Mi", &[("4Mi", "4Mi"), ("", "2Mi")]),
    ("example.com/gpu", &[("1", "1"), ("", "2")]),
];

/// How often a resource is named.
const SHARES: [f64; 5] = [0.5, 0.4, 0.1, 0.05, 0.05];

/// Of a container.
pub fn of_container() -> Any {
    let amounts: Vec<_> = AMOUNTS
        .iter()
        .zip(SHARES)
        .map(|((_, amounts), share)| prop::option::weighted(share, prop::sample::select(amounts.to_vec())))
        .collect();
    let resources = amounts.prop_map(|chosen| {
        let (mut requests, mut limits) = (Map::new(), Map::new());
        for ((name, _), (request, limit)) in AMOUNTS.iter().zip(chosen).filter_map(|(a, chosen)| Some((a, chosen?))) {
            for (amounts, amount) in [(&mut requests, request), (&mut limits, limit)] {
                if !amount.is_empty() {
                    amounts.insert((*name).to_owned(), amount.into());
                }
            }
        }
        json!({"requests": requests, "limits": limits})
    });
    let claims = one_of([json!([{"name": "gpu"}]), json!([{"name": "gpu", "request": "one"}])]);
    (resources, prop::option::weighted(0.03, claims))
        .prop_map(|(mut resources, claims)| {
            let names = |kind: &str| resources[kind].as_object().into_iter().flatten().map(|(name, _)| name.clone());
            let names: Vec<String> = names("requests").chain(names("limits")).collect();
            // The API server wants one of these beside huge pages.
            if !names.iter().any(|name| name == "cpu" || name == "memory") {
                remove(&mut resources, "/requests", &["hugepages-2Mi"]);
                remove(&mut resources, "/limits", &["hugepages-2Mi"]);
            }
            if let Some(claims) = claims {
                resources["claims"] = claims;
            }
            resources
        })
        .sboxed()
}

/// Of a pod: a lot, so that the containers have their own, or little, which the containers then share.
pub fn of_pod() -> Any {
    one_of([
        json!({"requests": {"cpu": "64", "memory": "4Ti"}}),
        json!({"limits": {"cpu": "64", "memory": "4Ti"}, "requests": {"cpu": "64", "memory": "4Ti"}}),
        json!({"limits": {"cpu": "200m", "memory": "100Mi"}}),
        json!({"limits": {"cpu": "1"}, "requests": {"cpu": "50m"}}),
        json!({"requests": {"memory": "32Mi"}}),
        json!({"limits": {"memory": "1Gi", "hugepages-2Mi": "2Mi"}}),
    ])
}

/// Of a container.
pub fn resize_policy() -> Any {
    let policy = |resource: &str| {
        object(vec![
            ("resourceName", 1.0, one_of([resource])),
            ("restartPolicy", 1.0, one_of(["NotRequired", "RestartContainer"])),
        ])
    };
    list(super::values::either([policy("cpu"), policy("memory")]), 0..3)
        .prop_map(|policies| {
            let mut holder = json!({"list": policies});
            unique(&mut holder, "list", "resourceName");
            holder["list"].take()
        })
        .sboxed()
}

/// What is refused beside the pod's own resources, and claims that it does not have.
pub fn fit(spec: &mut Value) {
    let small = spec["resources"].is_object() && !spec["resources"].to_string().contains("64");
    let has_claim = spec["resourceClaims"].is_array();
    for list in ["containers", "initContainers"] {
        for container in elements_mut(spec, list) {
            if small {
                remove(container, "/resources", &["requests", "limits"]);
            }
            if !has_claim {
                remove(container, "/resources", &["claims"]);
            }
        }
    }
}
