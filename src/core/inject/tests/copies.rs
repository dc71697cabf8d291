//! Pods made from injected ones: templates that went through `kubectl sidecarset inject`, copies of pods.

use super::*;

/// A set that has had other templates before.
fn newer(name: &str, spec: Value, old: &[Value]) -> Arc<CompiledSet> {
    let old: Vec<Template> = old.iter().map(|old| Template::of(&set(name, old.clone()).spec)).collect();
    compile_with(name, spec, &old)
}

fn native(name: &str, image: &str, depends_on: &[&str]) -> Value {
    json!({"initContainers": [{"name": name, "image": image, "restartPolicy": "Always", "dependsOn": depends_on}]})
}

#[test]
fn a_sidecar_that_is_placed_anew_keeps_its_place_in_the_order() {
    let (first, second) = (native("proxy", "p:1", &[]), native("client", "c:1", &["proxy"]));
    let before = sets([compile("a", first.clone()), compile("b", second.clone())]);
    let copy = injected(&before, &pod());
    assert_eq!(names(&copy, "initContainers"), ["proxy", "client"]);
    let after = sets([newer("a", native("proxy", "p:2", &[]), &[first]), compile("b", second)]);
    let updated = injected(&after, &copy);
    assert_eq!(names(&updated, "initContainers"), ["proxy", "client"]);
    assert_eq!(run(&after, &updated).patch.0, []);
}

#[test]
fn a_set_that_is_new_to_a_copy_keeps_the_order() {
    let late =
        |name: &str| json!({"containers": [{"name": name, "image": "i", "podInjectPolicy": "AfterAppContainer"}]});
    let copy = injected(&sets([compile("b", late("second"))]), &pod());
    let both = sets([compile("a", late("first")), compile("b", late("second"))]);
    let updated = injected(&both, &copy);
    assert_eq!(names(&updated, "containers"), ["app", "first", "second"]);
    assert_eq!(run(&both, &updated).patch.0, []);
}

#[test]
fn a_mark_removes_only_what_its_set_can_have_added() {
    let other = compile(
        "other",
        json!({"selector": {"matchLabels": {"app": "db"}}, "containers": [{"name": "x", "image": "x"}]}),
    );
    let mark = json!({"labels": ["pod-template-hash", "app"], "annotations": ["policy"], "imagePullSecrets": ["pull"], "resources": true});
    let mut forged = pod();
    forged["metadata"]["labels"]["pod-template-hash"] = json!("1");
    forged["metadata"]["annotations"] = json!({"policy": "x"});
    forged["spec"]["imagePullSecrets"] = json!([{"name": "pull"}]);
    forged["spec"]["resources"] = json!({"limits": {"cpu": "1"}});
    let honest = forged.clone();
    forged["metadata"]["annotations"]["injection.sidecarset.dev/other"] = json!(mark.to_string());
    assert_eq!(injected(&sets([other]), &forged), honest);
}

#[test]
fn what_an_older_revision_added_goes_from_a_copy() {
    let mut old = agent();
    old["imagePullSecrets"] = json!([{"name": "pull"}]);
    old["patchPodMetadata"] = json!([{"labels": {"team": "a"}, "annotations": {"note": "x"}}]);
    let new = json!({"containers": [{"name": "agent", "image": "agent:2"}]});
    let copy = injected(&sets([compile("logs", old.clone())]), &pod());
    let set = sets([newer("logs", new.clone(), &[old])]);
    let mut updated = injected(&set, &copy);
    for list in ["volumes", "imagePullSecrets"] {
        assert_eq!(updated["spec"].as_object_mut().unwrap().remove(list), Some(json!([])), "{list}");
    }
    assert_eq!(updated, injected(&set, &pod()));
}

#[test]
fn a_shared_budget_goes_from_a_copy_with_its_revision() {
    let container = json!([{"name": "agent", "image": "a", "resources": {"requests": {"cpu": "1"}}}]);
    let old = json!({"containers": [{"name": "agent", "image": "a"}], "resources": {"mode": "SharedWithPod"}});
    let copy = injected(&sets([compile("logs", old.clone())]), &pod());
    assert!(!copy["spec"]["resources"].is_null());
    let set = sets([newer("logs", json!({"containers": container}), &[old])]);
    assert_eq!(reasons(&run(&set, &copy)), [("logs", Reason::Injected)]);
    assert_eq!(injected(&set, &copy), injected(&set, &pod()));
}

#[test]
fn a_volume_that_two_sets_share_can_change_in_both() {
    let spec = |name: &str, volume: Value| json!({"containers": [{"name": name, "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}], "volumes": [volume]});
    let (old, new) = (json!({"name": "v", "emptyDir": {}}), json!({"name": "v", "emptyDir": {"medium": "Memory"}}));
    let before = sets([compile("a", spec("x", old.clone())), compile("b", spec("y", old.clone()))]);
    let after = sets([
        newer("a", spec("x", new.clone()), &[spec("x", old.clone())]),
        newer("b", spec("y", new), &[spec("y", old)]),
    ]);
    let copy = injected(&before, &pod());
    assert_eq!(reasons(&run(&after, &copy)), [("a", Reason::Injected), ("b", Reason::Injected)]);
    assert_eq!(injected(&after, &copy), injected(&after, &pod()));
}

/// A template with the volume gets a claim of that name in its place from the `StatefulSet`.
#[test]
fn a_claim_that_a_mark_lists_is_the_pods() {
    let claim = json!([{"name": "logs", "persistentVolumeClaim": {"claimName": "logs-db-1"}}]);
    let mut newer_volume = agent();
    newer_volume["volumes"][0]["emptyDir"] = json!({"medium": "Memory"});
    let elsewhere = json!({"selector": {"matchLabels": {"app": "db"}}, "containers": agent()["containers"],
        "volumes": agent()["volumes"]});
    let mut with_claim = injected(&sets([compile("logs", agent())]), &pod());
    with_claim["spec"]["volumes"] = claim.clone();
    let mounted = {
        let mut pod = with_claim.clone();
        pod["spec"]["containers"][1]["volumeMounts"] = json!([{"name": "logs", "mountPath": "/var/lib/db"}]);
        pod
    };
    for pod in [with_claim, mounted] {
        for (set, reason) in [
            (compile("logs", agent()), Reason::VolumeConflict),
            (newer("logs", newer_volume.clone(), &[agent()]), Reason::VolumeConflict),
            (compile("logs", elsewhere.clone()), Reason::Removed),
        ] {
            let set = sets([set]);
            assert_eq!(reasons(&run(&set, &pod)), [("logs", reason)]);
            assert_eq!(injected(&set, &pod)["spec"]["volumes"], claim);
        }
    }
}

#[test]
fn a_mark_without_its_containers_does_not_hide_a_failure() {
    let set = sets([compile("logs", agent())]);
    let mut forged = pod();
    forged["spec"]["volumes"] = json!([{"name": "logs", "hostPath": {"path": "/"}}]);
    let honest = forged.clone();
    let labels = json!({"app": "web", "sidecarset.dev/injected": "true", "revision.sidecarset.dev/logs": "x"});
    forged["metadata"]["labels"] = labels;
    forged["metadata"]["annotations"] = json!({"injection.sidecarset.dev/logs": r#"{"containers":["agent"]}"#});
    assert_eq!(reasons(&run(&set, &forged)), [("logs", Reason::VolumeConflict)]);
    assert_eq!(injected(&set, &forged)["metadata"]["labels"], honest["metadata"]["labels"]);
}

#[test]
fn a_version_that_is_about_to_be_renamed_cannot_be_pinned() {
    let mut set = set("logs", agent());
    set.spec.custom_version = Some("v1".to_owned());
    let template = Template::of(&set.spec);
    let history = BTreeMap::from([(template.hash(0), revision(template, Some("v1")))]);
    let known = CompiledSet::new(&validate(&set).unwrap(), &history);
    set.spec.custom_version = Some("v2".to_owned());
    set.spec.injection_strategy.revision = serde_json::from_value(json!({"customVersion": "v1"})).unwrap();
    assert!(unknown_revision(&set, Some(&known)).is_some(), "the controller renames the revision of this template");
}

#[test]
fn a_full_partition_pins_with_latest_too() {
    let old = Template::of(&set("logs", json!({"containers": [{"name": "agent", "image": "agent:0"}]})).spec);
    let pinned = old.hash(0);
    let mut spec = agent();
    spec["injectionStrategy"] = json!({"newPods": "Latest", "revision": {"revisionName": pinned, "policy": "Partial"}});
    spec["updateStrategy"] = json!({"partition": "50%"});
    let mut set = set("logs", spec);
    // What the leader publishes while the partition is full.
    set.status = serde_json::from_value(json!({"injectionRevision": pinned})).unwrap();
    let history = BTreeMap::from([(pinned.clone(), revision(old, None))]);
    assert_eq!(CompiledSet::new(&validate(&set).unwrap(), &history).revision(), pinned);
}

#[test]
fn sidecars_that_stay_count_against_the_pods_own_budget() {
    let spec =
        |name: &str| json!({"containers": [{"name": name, "image": "i", "resources": {"requests": {"cpu": "1"}}}]});
    let mut own = pod();
    own["spec"]["resources"] = json!({"requests": {"cpu": "1500m"}});
    let copy = injected(&sets([compile("a", spec("first"))]), &own);
    let mut paused = spec("first");
    paused["injectionStrategy"] = json!({"paused": true});
    let both = sets([compile("a", paused), compile("b", spec("second"))]);
    assert_eq!(reasons(&run(&both, &copy)), [("a", Reason::Paused), ("b", Reason::ResourcesConflict)]);
}
