//! Order, sharing, hot-upgrade twins, metadata, revisions and canaries.

use super::*;
use crate::core::pod::InjectionRecord;
use crate::core::revision::History;

fn status(mut set: SidecarSet, status: Value) -> SidecarSet {
    let mut full = json!({"matchedPods": 0, "conditions": []});
    full.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    set.status = Some(serde_json::from_value(full).unwrap());
    set
}

fn image_of(pod: &Value, name: &str) -> String {
    let mut all = pod["spec"]["containers"].as_array().unwrap().iter();
    all.find(|container| container["name"] == name).map_or(String::new(), |c| c["image"].as_str().unwrap().to_owned())
}

fn agent_image(image: &str) -> Value {
    json!({"containers": [{"name": "agent", "image": image}]})
}

/// History with the templates of these images, `(image, customVersion)`, newest last.
fn history(images: &[(&str, &str)]) -> History {
    let entries = images.iter().zip(1..).map(|((image, version), number)| {
        let template = Template::of(&set("s", agent_image(image)).spec);
        let revision = Revision { number, ..revision(template.clone(), Some(*version).filter(|v| !v.is_empty())) };
        (template.hash(0), revision)
    });
    entries.collect()
}

fn hash(image: &str) -> String {
    Template::of(&set("s", agent_image(image)).spec).hash(0)
}

fn compiled(set: &SidecarSet, history: &History) -> CompiledSets {
    sets([Arc::new(CompiledSet::new(&validate(set).unwrap(), history))])
}

#[test]
fn depends_on_orders_containers_of_all_sets() {
    let native = |name: &str, depends_on: Value| json!({"name": name, "image": "i", "restartPolicy": "Always", "dependsOn": depends_on});
    let a = compile(
        "a",
        json!({"initContainers": [native("mysql-client", json!(["proxy"]))],
        "containers": [{"name": "seed", "image": "i", "dependsOn": ["app"]}, {"name": "log", "image": "i"}]}),
    );
    let b = compile("b", json!({"initContainers": [native("proxy", json!([]))]}));
    let sets = sets([a, b]);
    let pod = injected(&sets, &pod());
    assert_eq!(names(&pod, "initContainers"), ["proxy", "mysql-client"]);
    assert_eq!(names(&pod, "containers"), ["log", "app", "seed"]);
    let mut reversed = pod.clone();
    reversed["spec"]["initContainers"].as_array_mut().unwrap().reverse();
    assert_eq!(injected(&sets, &reversed), pod, "a wrong order is put right");
}

#[test]
fn sets_that_wait_for_each_other_are_not_both_injected() {
    let one = |name: &str, container: &str, other: &str| {
        compile(name, json!({"containers": [{"name": container, "image": "i", "dependsOn": [other]}]}))
    };
    let sets = sets([one("a", "x", "y"), one("b", "y", "x")]);
    let injection = run(&sets, &pod());
    assert_eq!(reasons(&injection), [("a", Reason::Injected), ("b", Reason::OrderConflict)]);
    assert_eq!(names(&applied(&pod(), &injection), "containers"), ["x", "app"]);
    assert_eq!(injection.outcomes[0].notes, [r#""x" depends on "y", which this pod does not get"#]);
}

#[test]
fn what_is_shared_follows_the_application_on_reinvocation() {
    let spec = json!({"containers": [{"name": "agent", "image": "i", "shareVolumePolicy": {"type": "enabled"},
        "transferEnv": [{"sourceContainerName": "app", "envName": "A"}]}]});
    let sets = sets([compile("s", spec)]);
    let mut pod = pod();
    pod["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let mut first = injected(&sets, &pod);
    let agent = &first["spec"]["containers"][0];
    assert_eq!(agent["volumeMounts"], json!([{"name": "data", "mountPath": "/data"}]));
    assert_eq!(agent["env"], json!([{"name": "IS_INJECTED", "value": "true"}, {"name": "A", "value": "1"}]));
    first["spec"]["containers"][1]["volumeMounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "late", "mountPath": "/late"}));
    let second = injected(&sets, &first);
    assert_eq!(second["spec"]["containers"][0]["volumeMounts"][1]["name"], "late");
}

#[test]
fn other_injectors_containers_are_no_source_for_sharing() {
    let spec = json!({"containers": [{"name": "agent", "image": "i", "shareVolumePolicy": {"type": "enabled"}}]});
    let mut pod = pod();
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "kruise", "image": "k",
        "env": [{"name": "IS_INJECTED", "value": "true"}], "volumeMounts": [{"name": "k", "mountPath": "/k"}]}));
    let after = injected(&sets([compile("s", spec)]), &pod);
    assert!(after["spec"]["containers"][0]["volumeMounts"].is_null());
    assert_eq!(names(&after, "containers"), ["agent", "app", "kruise"]);
}

#[test]
fn a_hot_upgrade_sidecar_becomes_two_twins() {
    let spec = json!({"containers": [{"name": "mesh", "image": "mesh:1",
        "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "empty:1"}}]});
    let sets = sets([compile("s", spec)]);
    let after = injected(&sets, &pod());
    assert_eq!(names(&after, "containers"), ["mesh-1", "mesh-2", "app"]);
    assert_eq!((image_of(&after, "mesh-1").as_str(), image_of(&after, "mesh-2").as_str()), ("mesh:1", "empty:1"));
    let annotations = &after["metadata"]["annotations"];
    for (key, value) in [("version", ("1", "0")), ("versionalt", ("0", "1"))] {
        assert_eq!(annotations[format!("{key}.sidecarset.dev/mesh-1")], value.0, "{key}");
        assert_eq!(annotations[format!("{key}.sidecarset.dev/mesh-2")], value.1, "{key}");
    }
    let path = |i: usize, variable: usize| {
        after["spec"]["containers"][i]["env"][variable]["valueFrom"]["fieldRef"]["fieldPath"].clone()
    };
    assert_eq!(path(0, 0), "metadata.annotations['version.sidecarset.dev/mesh-1']");
    assert_eq!(path(1, 1), "metadata.annotations['versionalt.sidecarset.dev/mesh-2']");
    let mark: InjectionRecord =
        serde_json::from_str(annotations["injection.sidecarset.dev/s"].as_str().unwrap()).unwrap();
    assert_eq!(mark.hot, BTreeMap::from([("mesh".to_owned(), "mesh-1".to_owned())]));
    // A copy of a pod that was upgraded begins anew.
    let mut copy = after.clone();
    copy["spec"]["containers"][0]["image"] = json!("empty:1");
    copy["spec"]["containers"][1]["image"] = json!("mesh:1");
    copy["metadata"]["annotations"]["version.sidecarset.dev/mesh-2"] = json!("7");
    assert_eq!(injected(&sets, &copy), after);
}

#[test]
fn labels_that_the_pod_came_with_are_not_overwritten() {
    let with = |value: &str| {
        json!({"containers": [{"name": "c", "image": "i"}],
        "patchPodMetadata": [{"labels": {"team": value, "app": "other"}, "patchPolicy": "Overwrite"}]})
    };
    let first = sets([compile("s", with("a"))]);
    let mut own = pod();
    own["metadata"]["labels"]["team"] = json!("pod");
    let injection = run(&first, &own);
    assert_eq!(applied(&own, &injection)["metadata"]["labels"]["team"], "pod");
    let notes = injection.outcomes[0].notes.join("; ");
    assert!(
        notes.contains("team is not set: the pod has it") && notes.contains("app is not set: a SidecarSet selects"),
        "{notes}"
    );

    let copy = injected(&first, &pod());
    assert_eq!(copy["metadata"]["labels"]["team"], "a");
    let history = [Template::of(&set("s", with("a")).spec)];
    let second = sets([compile_with("s", with("b"), &history)]);
    assert_eq!(injected(&second, &copy)["metadata"]["labels"]["team"], "b", "it wrote this one itself");
}

#[test]
fn json_in_annotations_is_merged() {
    let spec = json!({"containers": [{"name": "c", "image": "i"}],
        "patchPodMetadata": [{"annotations": {"oom": r#"{"agent":1,"old":null}"#}, "patchPolicy": "MergePatchJson"}]});
    let sets = sets([compile("s", spec)]);
    let with = |value: &str| {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({"oom": value});
        pod
    };
    let oom = |pod: &Value| injected(&sets, pod)["metadata"]["annotations"]["oom"].as_str().unwrap().to_owned();
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(json(&oom(&with(r#"{"app":2,"old":3}"#))), json!({"app": 2, "agent": 1}));
    assert_eq!(oom(&with("")), r#"{"agent":1}"#);
    assert_eq!(oom(&pod()), r#"{"agent":1}"#);
    assert_eq!(oom(&with("no json")), "no json");
    assert!(run(&sets, &with("no json")).outcomes[0].notes[0].contains("not JSON"));
}

#[test]
fn new_pods_get_the_revision_that_the_leader_decided() {
    let history = history(&[("agent:1", ""), ("agent:2", "")]);
    let given = |strategy: Value, of_status: Value| {
        let mut spec = agent_image("agent:2");
        spec["injectionStrategy"] = strategy;
        image_of(&injected(&compiled(&status(set("s", spec), of_status), &history), &pod()), "agent")
    };
    let old = || json!({"injectionRevision": hash("agent:1"), "stableRevision": hash("agent:1")});
    assert_eq!(given(json!({}), json!({})), "agent:2", "nobody decided yet");
    assert_eq!(given(json!({}), old()), "agent:1");
    assert_eq!(given(json!({"newPods": "FollowRollout"}), old()), "agent:1");
    assert_eq!(given(json!({"newPods": "Latest"}), old()), "agent:2");
    assert_eq!(given(json!({}), json!({"injectionRevision": "gone"})), "agent:2", "an unknown revision");
    let mut aborted = old();
    aborted["abortedRevision"] = json!(hash("agent:2"));
    assert_eq!(given(json!({"newPods": "Latest"}), aborted), "agent:1");
}

#[test]
fn a_pinned_revision_is_given_by_name_or_version() {
    let history = history(&[("agent:1", "v1"), ("agent:2", "v2"), ("agent:3", "v2")]);
    let given = |strategy: Value, update: Value, labels: Value| {
        let mut spec = agent_image("agent:4");
        spec["injectionStrategy"] = json!({"revision": strategy});
        spec["updateStrategy"] = update;
        let mut pod = pod();
        pod["metadata"]["labels"].as_object_mut().unwrap().extend(labels.as_object().unwrap().clone());
        let injection = run(&compiled(&set("s", spec), &history), &pod);
        let after = applied(&pod, &injection);
        (image_of(&after, "agent"), reasons(&injection)[0].1)
    };
    let none = || json!({});
    let injected = |image: &str| (image.to_owned(), Reason::Injected);
    assert_eq!(given(json!({"revisionName": format!("s-{}", hash("agent:1"))}), none(), none()), injected("agent:1"));
    assert_eq!(given(json!({"customVersion": "v2"}), none(), none()), injected("agent:3"));
    assert_eq!(given(json!({"customVersion": "v9"}), none(), none()), (String::new(), Reason::RevisionNotFound));
    let canary = json!({"selector": {"matchLabels": {"stage": "canary"}}});
    let partial = || json!({"customVersion": "v1", "policy": "Partial"});
    assert_eq!(given(partial(), canary.clone(), none()), injected("agent:1"), "outside the update");
    assert_eq!(given(partial(), canary.clone(), json!({"stage": "canary"})), injected("agent:4"));
    assert_eq!(given(partial(), json!({"paused": true}), json!({"stage": "canary"})), injected("agent:1"), "paused");
    assert_eq!(
        given(json!({"customVersion": "v1"}), canary, json!({"stage": "canary"})),
        injected("agent:1"),
        "Always"
    );
}

#[test]
fn a_canary_takes_the_place_of_its_base() {
    let base = Arc::new(CompiledSet::new(&validate(&set("base", agent_image("agent:1"))).unwrap(), &History::new()));
    let canary = |paused: bool| {
        let mut spec = agent_image("agent:2");
        spec["selector"] = json!({"matchLabels": {"app": "web", "stage": "canary"}});
        spec["injectionStrategy"] = json!({"paused": paused});
        let mut canary = set("canary", spec);
        canary.metadata.annotations = Some(
            [("sidecarset.dev/canary", "true"), ("sidecarset.dev/base", "base")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        );
        Arc::new(CompiledSet::new(&validate(&canary).unwrap(), &History::new()))
    };
    let mut chosen = pod();
    chosen["metadata"]["labels"]["stage"] = json!("canary");
    let both = sets([base.clone(), canary(false)]);
    let injection = run(&both, &chosen);
    assert_eq!(reasons(&injection), [("base", Reason::ReplacedByCanary), ("canary", Reason::Injected)]);
    let after = applied(&chosen, &injection);
    assert_eq!(image_of(&after, "agent"), "agent:2");
    let mark: InjectionRecord =
        serde_json::from_str(after["metadata"]["annotations"]["injection.sidecarset.dev/canary"].as_str().unwrap())
            .unwrap();
    assert_eq!(mark.base.as_deref(), Some("base"));
    assert_eq!(image_of(&injected(&both, &pod()), "agent"), "agent:1");
    assert_eq!(
        image_of(&injected(&sets([base, canary(true)]), &chosen), "agent"),
        "agent:1",
        "a paused canary does not count"
    );
}

#[test]
fn what_the_pod_had_itself_is_not_marked_as_ours() {
    let mut spec = agent();
    spec["imagePullSecrets"] = json!([{"name": "own"}, {"name": "new"}]);
    spec["patchPodMetadata"] = json!([{"annotations": {"own": "x", "new": "x"}}]);
    let mut pod = pod();
    pod["spec"]["volumes"] = json!([{"name": "logs", "emptyDir": {}}]);
    pod["spec"]["imagePullSecrets"] = json!([{"name": "own"}]);
    pod["metadata"]["annotations"] = json!({"own": "y"});
    let after = injected(&sets([compile("s", spec)]), &pod);
    let mark = after["metadata"]["annotations"]["injection.sidecarset.dev/s"].as_str().unwrap();
    assert_eq!(
        mark,
        r#"{"containers":["agent"],"initContainers":[],"volumes":[],"imagePullSecrets":["new"],"annotations":["new","kubectl.kubernetes.io/default-container"],"hashWithoutImages":"c12ec1badb33fcff"}"#
    );
}

#[test]
fn pods_outside_the_rollout_do_not_follow_it() {
    let old = Template::of(&set("logs", json!({"containers": [{"name": "agent", "image": "agent:0"}]})).spec);
    let stable = old.hash(0);
    let mut spec = agent();
    spec["updateStrategy"] = json!({"selector": {"matchLabels": {"canary": "true"}}});
    let mut set = set("logs", spec);
    let newest = Template::of(&set.spec).hash(0);
    // The change is not possible in place: the leader says the newest.
    set.status = serde_json::from_value(json!({"injectionRevision": newest, "stableRevision": stable})).unwrap();
    let given = |set: &SidecarSet, labels: Value| {
        let history = BTreeMap::from([(stable.clone(), revision(old.clone(), None))]);
        let compiled = sets([Arc::new(CompiledSet::new(&validate(set).unwrap(), &history))]);
        let mut pod = pod();
        pod["metadata"]["labels"].as_object_mut().unwrap().extend(labels.as_object().unwrap().clone());
        injected(&compiled, &pod)["metadata"]["labels"]["revision.sidecarset.dev/logs"].clone()
    };
    assert_eq!(given(&set, json!({"canary": "true"})), newest.as_str());
    assert_eq!(given(&set, json!({})), stable.as_str());
    set.spec.injection_strategy.new_pods = serde_json::from_value(json!("Latest")).unwrap();
    assert_eq!(given(&set, json!({})), newest.as_str());
}
