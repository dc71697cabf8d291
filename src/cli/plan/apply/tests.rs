use serde_json::json;

use super::*;
use crate::core::rollout::testing::set;

fn object(image: &str, update_strategy: &Value) -> Value {
    json!({
        "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "logs"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": "agent", "image": image}],
            "updateStrategy": update_strategy,
        },
    })
}

/// The set in the cluster, after `last` was applied and then changed by other means.
fn live(last: Option<&Value>, update_strategy: Value) -> SidecarSet {
    let mut live = set("v1", update_strategy);
    live.metadata.generation = Some(3);
    live.status = Some(crate::api::SidecarSetStatus { current_step: Some(1), ..Default::default() });
    if let Some(last) = last {
        live.annotations_mut().insert(LAST_APPLIED.to_owned(), last.to_string());
    }
    live
}

fn applied(file: &Value, live: &SidecarSet) -> Applied {
    Manifest::read(file).unwrap().applied_to(Some(live)).unwrap()
}

#[test]
fn what_was_patched_stays_and_is_named() {
    let file = object("v2", &json!({"maxUnavailable": 2}));
    let live = live(Some(&object("v1", &json!({"maxUnavailable": 2}))), json!({"maxUnavailable": 2, "paused": true}));
    let Applied { set, kept, .. } = applied(&file, &live);
    assert!(set.spec.update_strategy.paused);
    assert_eq!(set.spec.containers[0].container.image.as_deref(), Some("v2"));
    assert_eq!(kept, ["spec.updateStrategy.paused=true"]);
}

#[test]
fn what_was_applied_last_and_is_in_the_file_no_more_goes() {
    let last = object("v1", &json!({"maxUnavailable": 2, "partition": 1}));
    let live = live(Some(&last), json!({"maxUnavailable": 2, "partition": 3, "paused": true}));
    let Applied { set, kept, .. } = applied(&object("v1", &json!({"maxUnavailable": 2})), &live);
    assert_eq!((set.spec.update_strategy.partition, set.spec.update_strategy.paused), (None, true));
    assert_eq!(kept, ["spec.updateStrategy.paused=true"]);
}

#[test]
fn a_whole_object_that_goes_takes_along_what_was_patched_into_it() {
    let live = live(Some(&object("v1", &json!({"maxUnavailable": 2}))), json!({"maxUnavailable": 2, "paused": true}));
    let mut file = object("v1", &json!(null));
    file["spec"].as_object_mut().unwrap().remove("updateStrategy");
    let Applied { set, kept, .. } = applied(&file, &live);
    assert_eq!(set.spec.update_strategy, crate::api::v1beta1::UpdateStrategy::default());
    assert_eq!(kept, Vec::<String>::new());
}

#[test]
fn a_set_that_was_never_applied_loses_nothing() {
    let live = live(None, json!({"maxUnavailable": 2, "partition": 1}));
    let Applied { set, kept, .. } = applied(&object("v1", &json!({"maxUnavailable": 3})), &live);
    assert_eq!(set.spec.update_strategy.partition, Some(serde_json::from_value(json!(1)).unwrap()));
    assert_eq!(set.spec.update_strategy.max_unavailable, serde_json::from_value(json!(3)).unwrap());
    assert_eq!(kept, ["spec.updateStrategy.partition=1"]);
}

#[test]
fn a_list_of_the_file_replaces_the_live_one_and_another_one_stays() {
    let mut live = live(Some(&object("v1", &json!({}))), json!({"steps": [{"replicas": 1}, {"replicas": 2}]}));
    live.spec.containers[0].container.env = serde_json::from_value(json!([{"name": "A", "value": "1"}])).unwrap();
    let Applied { set, kept, .. } = applied(&object("v1", &json!({})), &live);
    assert_eq!(set.spec.containers[0].container.env, None);
    assert_eq!(kept, [r#"spec.updateStrategy.steps=[{"replicas":1},{"replicas":2}]"#]);
    let file = object("v1", &json!({"steps": [{"replicas": 3}]}));
    assert_eq!(applied(&file, &live).set.spec.update_strategy.steps.len(), 1);
}

/// As kubectl 1.32 does it on an apiserver 1.36.
#[test]
fn a_null_removes_once() {
    let file = object("v1", &json!({"paused": null}));
    let live = |last: Value| live(Some(&object("v1", &last)), json!({"paused": true}));
    assert!(!applied(&file, &live(json!({}))).set.spec.update_strategy.paused);
    assert!(applied(&file, &live(json!({"paused": null}))).set.spec.update_strategy.paused);
}

#[test]
fn annotations_that_others_made_stay_and_applied_ones_go() {
    let mut last = object("v1", &json!({}));
    last["metadata"]["annotations"] = json!({"a": "1"});
    last["metadata"]["labels"] = json!({"l": "1"});
    let mut live = live(Some(&last), json!({}));
    live.annotations_mut().extend([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    live.labels_mut().extend([("l".to_owned(), "1".to_owned()), ("m".to_owned(), "2".to_owned())]);
    let Applied { set, patch, .. } = applied(&object("v1", &json!({})), &live);
    assert_eq!(set.annotations().keys().collect::<Vec<_>>(), ["b", LAST_APPLIED]);
    assert!(set.labels().is_empty(), "kubectl removes all labels where the file has none any more");
    assert_eq!(patch, Some(json!({"metadata": {"annotations": {"a": null}, "labels": null}})));
}

#[test]
fn the_generation_counts_up_only_with_the_spec_and_the_status_stays() {
    let same = object("v1", &json!({}));
    let live = live(Some(&same), json!({}));
    let Applied { set, patch, .. } = applied(&same, &live);
    assert_eq!((set.metadata.generation, patch), (Some(3), Some(json!({}))));
    assert_eq!(set.status, live.status);
    assert_eq!(applied(&object("v2", &json!({})), &live).set.metadata.generation, Some(4));
}

#[test]
fn a_long_value_is_only_named() {
    let mut file = object("v1", &json!({}));
    let live = {
        let mut live = file.clone();
        live["spec"]["initContainers"] = json!([{"name": "init", "image": "registry.example.com/some/where/init:1"}]);
        serde_json::from_value::<SidecarSet>(live).unwrap()
    };
    file["spec"]["containers"][0]["image"] = json!("v2");
    assert_eq!(applied(&file, &live).kept, ["spec.initContainers"]);
}
