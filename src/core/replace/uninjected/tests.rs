use std::sync::Arc;

use proptest::prelude::*;

use crate::api::validate::validate;
use crate::core::replace::uninjected::*;
use crate::core::revision::History;

const MADE_AT: &str = "2026-01-01T00:00:10Z";

/// A set that was made at [`MADE_AT`].
fn set(name: &str, edit: Value) -> SidecarSet {
    let mut set = json!({
        "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
        "metadata": {"name": name, "creationTimestamp": MADE_AT},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": format!("{name}-agent"), "image": "agent:1"}],
        },
    });
    json_patch::merge(&mut set, &edit);
    serde_json::from_value(set).unwrap()
}

fn compiled(sets: &[SidecarSet]) -> CompiledSets {
    CompiledSets::new(sets.iter().map(|set| Arc::new(CompiledSet::new(&validate(set).unwrap(), &History::new()))))
}

/// A pod of `web`, younger than the sets.
fn pod(name: &str, edit: Value) -> ObjectMeta {
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true});
    let mut pod = json!({"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
        "creationTimestamp": "2026-01-01T00:00:11Z", "ownerReferences": [owner]});
    json_patch::merge(&mut pod, &edit);
    serde_json::from_value(pod).unwrap()
}

fn look(sets: &[SidecarSet], pods: &[ObjectMeta], namespace_labels: Value) -> BTreeMap<String, Found> {
    let served = compiled(sets);
    let excluded = ["excluded".to_owned()];
    let mut finder = Finder::new(&served, sets.iter(), &excluded);
    let labels: BTreeMap<String, String> = serde_json::from_value(namespace_labels).unwrap();
    for pod in pods {
        finder.look(pod, &labels);
    }
    finder.finish()
}

/// How many of one set's pods are uninjected if there is this one.
fn uninjected(edit: Value) -> usize {
    look(&[set("logs", json!({}))], &[pod("web-1", edit)], json!({}))["logs"].pods
}

#[test]
fn a_canary_and_its_base_do_not_miss_each_others_pods() {
    let annotations = json!({"sidecarset.dev/canary": "true", "sidecarset.dev/base": "base"});
    let canary = |edit: Value| {
        let mut canary = set("canary", edit);
        canary.metadata.annotations = serde_json::from_value(annotations.clone()).unwrap();
        canary
    };
    let count = |canary: SidecarSet, marks: Value| {
        let found = look(&[set("base", json!({})), canary], &[pod("web-1", json!({"labels": marks}))], json!({}));
        (found["base"].pods, found.get("canary").map(|found| found.pods))
    };
    let of = |set: &str| json!({format!("revision.sidecarset.dev/{set}"): "x"});
    assert_eq!(count(canary(json!({})), json!({})), (0, Some(1)), "only the canary would inject");
    assert_eq!(count(canary(json!({})), of("base")), (0, Some(0)));
    assert_eq!(count(canary(json!({})), of("canary")), (0, Some(0)));
    let paused = || canary(json!({"spec": {"injectionStrategy": {"paused": true}}}));
    assert_eq!(count(paused(), of("canary")), (0, None));
    assert_eq!(count(paused(), json!({})), (1, None));
}

#[test]
fn a_selected_pod_without_marks_is_uninjected() {
    assert_eq!(uninjected(json!({})), 1);
}

#[test]
fn pods_that_the_set_does_not_want_or_has_reached_are_not_uninjected() {
    for (what, edit) in [
        ("not selected", json!({"labels": {"app": "other"}})),
        ("carries the revision", json!({"labels": {"revision.sidecarset.dev/logs": "abc"}})),
        ("carries the record of injection", json!({"annotations": {"injection.sidecarset.dev/logs": "{}"}})),
        ("opted out", json!({"labels": {"sidecarset.dev/inject": "false"}})),
        ("mirrors a static pod", json!({"annotations": {"kubernetes.io/config.mirror": "x"}})),
        ("is going", json!({"deletionTimestamp": MADE_AT})),
        ("in a namespace that no set reaches", json!({"namespace": "kube-system"})),
        ("in an excluded namespace", json!({"namespace": "excluded"})),
    ] {
        assert_eq!(uninjected(edit), 0, "{what}");
    }
    let opted_out =
        look(&[set("logs", json!({}))], &[pod("web-1", json!({}))], json!({"sidecarset.dev/inject": "false"}));
    assert_eq!(opted_out["logs"].pods, 0);
}

#[test]
fn another_sets_mark_does_not_cover_a_pod() {
    assert_eq!(uninjected(json!({"labels": {"revision.sidecarset.dev/other": "abc"}})), 1);
}

#[test]
fn nobody_looks_for_sets_that_do_not_want_it() {
    for edit in [
        json!({"spec": {"injectionStrategy": {"existingPods": "Ignore"}}}),
        json!({"spec": {"injectionStrategy": {"paused": true}}}),
        json!({"metadata": {"deletionTimestamp": MADE_AT}}),
    ] {
        let sets = [set("logs", edit)];
        assert!(Finder::new(&compiled(&sets), sets.iter(), &[]).is_idle(), "{:?}", sets[0].spec.injection_strategy);
        assert!(look(&sets, &[pod("web-1", json!({}))], json!({})).is_empty());
    }
    let not_served = [set("logs", json!({}))];
    assert!(Finder::new(&CompiledSets::default(), not_served.iter(), &[]).is_idle(), "an invalid set");
}

#[test]
fn pods_made_no_later_than_the_set_are_counted_apart() {
    let pods = ["2026-01-01T00:00:09Z", MADE_AT, "2026-01-01T00:00:11Z"]
        .map(|created| pod(created, json!({"creationTimestamp": created})));
    let found = &look(&[set("logs", json!({}))], &pods, json!({}))["logs"];
    assert_eq!((found.pods, found.older), (3, 2));
}

#[test]
fn the_summary_names_one_pod_per_owner_and_counts_the_rest() {
    let bare = |name: &str| pod(name, json!({"ownerReferences": null, "creationTimestamp": "2026-01-01T00:00:00Z"}));
    let mut pods = vec![pod("web-1", json!({})), pod("web-2", json!({}))];
    assert_eq!(
        look(&[set("logs", json!({}))], &pods[..1], json!({}))["logs"].summary(),
        "1 selected pod has no sidecars: default/web-1 (ReplicaSet web)"
    );
    pods.extend(["x", "y", "z"].map(bare));
    let mut found = look(&[set("logs", json!({}))], &pods, json!({})).remove("logs").unwrap();
    found.groups[1].why = "NameConflict: taken".to_owned();
    assert_eq!(
        found.summary(),
        "5 selected pods have no sidecars (3 are older than the set): \
         default/web-1 (ReplicaSet web, 2 pods), default/x (NameConflict: taken), default/y and 1 more"
    );
    assert_eq!(Found::default().summary(), "");
}

#[test]
fn pods_that_are_never_evicted_do_not_take_the_places_of_others() {
    let mut pods: Vec<ObjectMeta> =
        (0..2 * KEPT_OWNERS).map(|i| pod(&format!("bare-{i}"), json!({"ownerReferences": null}))).collect();
    pods.push(pod("web-1", json!({})));
    let found = &look(&[set("logs", json!({}))], &pods, json!({}))["logs"];
    assert_eq!(found.pods, 2 * KEPT_OWNERS + 1);
    assert_eq!(found.groups.len(), NAMED + 1);
    assert!(found.groups.iter().any(|group| group.owner.is_some()));
}

/// A pod in the cluster, as its owner would make it again.
fn anew(sets: &CompiledSets, edit: Value) -> Option<String> {
    let mut pod = json!({
        "metadata": {"name": "web-1", "namespace": "default", "uid": "u", "labels": {"app": "web"}},
        "spec": {"nodeName": "n", "containers": [{"name": "app", "image": "app"}]}, "status": {"phase": "Running"},
    });
    json_patch::merge(&mut pod, &edit);
    let request = Request { pod: &pod, namespace: "default", namespace_labels: &BTreeMap::new(), excluded: &[] };
    obstacle(&inject_anew(sets, &request), "logs")
}

#[test]
fn what_keeps_a_replacement_from_its_sidecars_is_told() {
    let taken = json!({"spec": {"containers": [{"name": "logs-agent", "image": "mine"}]}});
    let sets = compiled(&[set("logs", json!({}))]);
    assert_eq!(anew(&sets, json!({})), None);
    let why = anew(&sets, taken.clone()).unwrap();
    assert!(why.starts_with("NameConflict: ") && why.contains("logs-agent"), "{why}");
    assert_eq!(anew(&sets, json!({"metadata": {"labels": {"app": "x"}}})).unwrap(), "the set does not select it");
    let other = set("other", json!({"spec": {"injectionStrategy": {"failurePolicy": "Fail"}}}));
    let taken_by_other = json!({"spec": {"containers": [{"name": "other-agent", "image": "mine"}]}});
    let why = anew(&compiled(&[set("logs", json!({})), other]), taken_by_other).unwrap();
    assert!(why.contains("SidecarSet \"other\""), "a refused pod does not come at all: {why}");
}

proptest! {
    /// One listing for all sets finds for each set what a listing for it alone would find, whatever the order.
    #[test]
    fn sets_do_not_disturb_each_other(
        pods in prop::collection::vec((0..3usize, 0..3usize, any::<bool>()), 0..40).prop_shuffle(),
    ) {
        let apps = ["a", "b", "c"];
        let sets = apps.map(|app| set(app, json!({"spec": {"selector": {"matchLabels": {"app": app}}}})));
        let pods: Vec<ObjectMeta> = pods
            .into_iter()
            .enumerate()
            .map(|(i, (app, mark, marked))| {
                let mark = if marked { json!({format!("revision.sidecarset.dev/{}", apps[mark]): "r"}) } else { json!({}) };
                let mut labels = json!({"app": apps[app]});
                json_patch::merge(&mut labels, &mark);
                pod(&i.to_string(), json!({"labels": labels}))
            })
            .collect();
        let together = look(&sets, &pods, json!({}));
        for set in &sets {
            let name = set.metadata.name.as_deref().unwrap();
            let alone = look(std::slice::from_ref(set), &pods, json!({}));
            prop_assert_eq!(&together[name], &alone[name]);
            let expected = pods.iter().filter(|pod| {
                let labels = pod.labels.as_ref().unwrap();
                labels["app"] == name && !labels.contains_key(&keys::revision_label(name))
            });
            prop_assert_eq!(together[name].pods, expected.count());
        }
    }
}

#[test]
fn sidecars_of_a_deleted_set_do_not_come_with_the_replacement() {
    let left = json!({"name": "logs-agent", "env": [{"name": "IS_INJECTED", "value": "true"}]});
    let mut pod = json!({
        "metadata": {"namespace": "default", "labels": {"app": "web"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}]},
        "spec": {"containers": [{"name": "app"}, left]},
    });
    let sets = compiled(&[set("logs", json!({}))]);
    let obstacle = |pod: &Value| {
        let request = Request { pod, namespace: "default", namespace_labels: &BTreeMap::new(), excluded: &[] };
        obstacle(&inject_anew(&sets, &request), "logs")
    };
    assert_eq!(obstacle(&pod), None);
    pod["metadata"]["ownerReferences"] = json!([]);
    let why = obstacle(&pod).unwrap();
    assert!(why.contains("a sidecar that a deleted SidecarSet or another injector left"), "{why}");
}
