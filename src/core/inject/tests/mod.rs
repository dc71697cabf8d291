mod copies;
mod features;
mod jobs;
mod pod_checks;
mod pod_volumes;
mod properties;

use std::collections::BTreeMap;
use std::sync::Arc;

use json_patch::Patch;
use serde_json::{Value, json};

use super::*;
use crate::api::SidecarSet;
use crate::api::reasons::Reason;
use crate::api::validate::{unchecked, validate};
use crate::core::revision::{Revision, Template};

fn compile(name: &str, spec: Value) -> Arc<CompiledSet> {
    compile_with(name, spec, &[])
}

fn compile_with(name: &str, spec: Value, history: &[Template]) -> Arc<CompiledSet> {
    let history = history.iter().map(|template| (template.hash(0), revision(template.clone(), None)));
    Arc::new(CompiledSet::new(&unchecked(&set(name, spec)), &history.collect()))
}

fn revision(template: Template, custom_version: Option<&str>) -> Revision {
    Revision { template, number: 1, owner: None, custom_version: custom_version.map(str::to_owned) }
}

fn set(name: &str, mut spec: Value) -> SidecarSet {
    if spec["selector"].is_null() {
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
    }
    serde_json::from_value(
        json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": name}, "spec": spec}),
    )
    .unwrap()
}

fn sets(compiled: impl IntoIterator<Item = Arc<CompiledSet>>) -> CompiledSets {
    CompiledSets::new(compiled)
}

fn pod() -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "image": "app:1", "futureField": {"x": 1}}]},
    })
}

fn run_in(sets: &CompiledSets, pod: &Value, namespace: &str, labels: &BTreeMap<String, String>) -> Injection {
    inject(sets, &Request { pod, namespace, namespace_labels: labels, excluded: &[] })
}

fn run(sets: &CompiledSets, pod: &Value) -> Injection {
    run_in(sets, pod, "default", &BTreeMap::new())
}

fn applied(pod: &Value, injection: &Injection) -> Value {
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &injection.patch).unwrap();
    pod
}

fn injected(sets: &CompiledSets, pod: &Value) -> Value {
    applied(pod, &run(sets, pod))
}

fn reasons(injection: &Injection) -> Vec<(&str, Reason)> {
    injection.outcomes.iter().map(|outcome| (outcome.set.as_str(), outcome.reason)).collect()
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let list = pod["spec"][list].as_array();
    list.into_iter().flatten().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
}

fn agent() -> Value {
    json!({"containers": [{"name": "agent", "image": "agent:1", "volumeMounts": [{"name": "logs", "mountPath": "/logs"}]}],
        "volumes": [{"name": "logs", "emptyDir": {}}, {"name": "unused", "emptyDir": {}}]})
}

#[test]
fn a_new_pod_gets_containers_volumes_secrets_and_marks() {
    let mut spec = agent();
    spec["imagePullSecrets"] = json!([{"name": "pull"}]);
    let set = compile("logs", spec);
    let revision = set.revision().to_owned();
    let pod = injected(&sets([set]), &pod());
    assert_eq!(names(&pod, "containers"), ["agent", "app"]);
    assert_eq!(pod["spec"]["containers"][0]["env"], json!([{"name": "IS_INJECTED", "value": "true"}]));
    assert_eq!(pod["spec"]["volumes"], json!([{"name": "logs", "emptyDir": {}}]), "only what is mounted");
    assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "pull"}]));
    assert_eq!(
        pod["metadata"],
        json!({
            "labels": {"app": "web", "sidecarset.dev/injected": "true", "revision.sidecarset.dev/logs": revision},
            "annotations": {
                "injection.sidecarset.dev/logs": r#"{"containers":["agent"],"initContainers":[],"volumes":["logs"],"imagePullSecrets":["pull"],"annotations":["kubectl.kubernetes.io/default-container"],"hashWithoutImages":"5f2773d766c28392"}"#,
                "kubectl.kubernetes.io/default-container": "app",
            },
        })
    );
}

#[test]
fn containers_are_placed_by_policy_in_list_order() {
    let before = json!({"podInjectPolicy": "BeforeAppContainer"});
    let after = json!({"podInjectPolicy": "AfterAppContainer"});
    let container = |name: &str, policy: &Value| {
        let mut container = json!({"name": name, "image": "i"});
        container.as_object_mut().unwrap().extend(policy.as_object().unwrap().clone());
        container
    };
    let none = json!({});
    let a = compile(
        "a",
        json!({
            "containers": [container("a1", &none), container("a2", &after), container("a3", &before)],
            "initContainers": [container("i1", &none), container("i2", &before)],
        }),
    );
    let b = compile("b", json!({"containers": [container("b1", &none)], "initContainers": [container("i3", &before)]}));
    let mut pod = pod();
    pod["spec"]["initContainers"] = json!([{"name": "own", "image": "i"}]);
    let pod = injected(&sets([b, a]), &pod);
    assert_eq!(names(&pod, "containers"), ["a1", "a3", "b1", "app", "a2"]);
    assert_eq!(names(&pod, "initContainers"), ["i2", "i3", "own", "i1"]);
}

#[test]
fn own_fields_of_the_set_do_not_reach_the_pod() {
    let set = compile(
        "s",
        json!({"containers": [{"name": "c", "image": "i", "podInjectPolicy": "AfterAppContainer",
        "upgradeStrategy": {"upgradeType": "ColdUpgrade"}, "shareVolumePolicy": {"type": "disabled"}}]}),
    );
    let pod = injected(&sets([set]), &pod());
    assert_eq!(
        pod["spec"]["containers"][1],
        json!({"name": "c", "image": "i", "env": [{"name": "IS_INJECTED", "value": "true"}]})
    );
}

type Case = (&'static str, Value, &'static str, BTreeMap<String, String>, Reason);

#[test]
fn whoever_is_not_selected_is_not_touched() {
    let set = || compile("s", agent());
    let mut other = pod();
    other["metadata"]["labels"]["app"] = json!("db");
    assert_eq!(run(&sets([set()]), &other), Injection::default());

    let cases: [Case; 5] = [
        ("/metadata/labels/sidecarset.dev~1inject", json!("false"), "default", BTreeMap::new(), Reason::OptedOut),
        (
            "/metadata/annotations",
            json!({"kubernetes.io/config.mirror": "x"}),
            "default",
            BTreeMap::new(),
            Reason::MirrorPod,
        ),
        ("/spec/x", json!(1), "kube-system", BTreeMap::new(), Reason::NamespaceExcluded),
        ("/spec/x", json!(1), "kube-node-lease", BTreeMap::new(), Reason::NamespaceExcluded),
        (
            "/spec/x",
            json!(1),
            "default",
            [("sidecarset.dev/inject".into(), "false".into())].into(),
            Reason::NamespaceExcluded,
        ),
    ];
    for (pointer, value, namespace, labels, reason) in cases {
        let mut pod = pod();
        json_patch::patch(
            &mut pod,
            &serde_json::from_value::<Patch>(json!([{"op": "add", "path": pointer, "value": value}])).unwrap(),
        )
        .unwrap();
        let injection = run_in(&sets([set()]), &pod, namespace, &labels);
        assert_eq!(reasons(&injection), [("s", reason)], "{pointer}");
        assert!(injection.patch.is_empty());
    }
    let mut paused = agent();
    paused["injectionStrategy"] = json!({"paused": true});
    let injection = run(&sets([compile("s", paused)]), &pod());
    assert_eq!(reasons(&injection), [("s", Reason::Paused)]);
    assert!(injection.patch.is_empty());
}

#[test]
fn the_namespace_selector_limits_the_set() {
    let mut spec = agent();
    spec["namespaceSelector"] = json!({"matchLabels": {"team": "a"}});
    let sets = sets([compile("s", spec)]);
    assert!(run(&sets, &pod()).outcomes.is_empty());
    let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    assert_eq!(reasons(&run_in(&sets, &pod(), "default", &labels)), [("s", Reason::Injected)]);
}

#[test]
fn a_pod_never_loses_its_container_to_a_sidecar() {
    let mut taken = pod();
    taken["spec"]["initContainers"] = json!([{"name": "agent", "image": "mine"}]);
    // A mark that names a container no revision knows, and one without a mark.
    taken["metadata"]["annotations"] = json!({"injection.sidecarset.dev/s": r#"{"containers":["app"]}"#});
    let injection = run(&sets([compile("s", agent())]), &taken);
    assert_eq!(reasons(&injection), [("s", Reason::NameConflict)]);
    assert_eq!(injection.refused, None);
    assert_eq!(applied(&taken, &injection)["spec"], taken["spec"]);

    let mut closed = agent();
    closed["injectionStrategy"] = json!({"failurePolicy": "Fail"});
    let injection = run(&sets([compile("s", closed)]), &taken);
    let message = injection.refused.unwrap();
    assert!(message.contains("\"s\"") && message.contains("\"agent\""), "{message}");
    assert!(injection.patch.is_empty());
}

#[test]
fn the_pods_volume_must_be_equal_or_it_is_a_conflict() {
    let with_volume = |volume: Value| {
        let mut pod = pod();
        pod["spec"]["volumes"] = json!([volume]);
        pod
    };
    let secret = json!({"containers": [{"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
    let sets = sets([compile("s", secret)]);
    let equal = with_volume(json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 420}}));
    assert_eq!(reasons(&run(&sets, &equal)), [("s", Reason::Injected)]);
    for other in
        [json!({"name": "v", "emptyDir": {}}), json!({"name": "v", "secret": {"secretName": "t", "defaultMode": 420}})]
    {
        assert_eq!(reasons(&run(&sets, &with_volume(other))), [("s", Reason::VolumeConflict)]);
    }
}

#[test]
fn of_one_revision_pods_get_what_the_set_says_now() {
    let spec = |security: Value| json!({"containers": [{"name": "a", "image": "i", "securityContext": security}]});
    let (before, after) = (spec(json!({"privileged": false})), spec(json!({})));
    let mut mended = set("s", after);
    let known = Template::of(&set("s", before).spec);
    let hash = known.hash(0);
    assert_eq!(hash, Template::of(&mended.spec).hash(0));
    mended.status = Some(serde_json::from_value(json!({"injectionRevision": hash})).unwrap());
    let compiled = CompiledSet::new(&unchecked(&mended), &[(hash, revision(known, None))].into());
    let mut windows = pod();
    windows["spec"]["os"] = json!({"name": "windows"});
    assert_eq!(reasons(&run(&sets([Arc::new(compiled)]), &windows)), [("s", Reason::Injected)]);
}

#[test]
fn a_reinvocation_keeps_what_others_added_and_restores_what_is_ours() {
    let spec = json!({"containers": [{"name": "agent", "image": "agent:1", "env": [{"name": "A", "value": "1"}],
        "resources": {"limits": {"cpu": "0.5"}}}]});
    let sets = sets([compile("s", spec)]);
    let mut second = injected(&sets, &pod());
    let agent = &mut second["spec"]["containers"][0];
    agent["env"].as_array_mut().unwrap().insert(0, json!({"name": "FOREIGN", "value": "x"}));
    agent["volumeMounts"] = json!([{"name": "token", "mountPath": "/var/run/secrets"}]);
    agent["resources"] = json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "500m"}});
    agent["terminationMessagePath"] = json!("/dev/termination-log");
    assert_eq!(reasons(&run(&sets, &second)), [("s", Reason::AlreadyInjected)]);
    assert!(run(&sets, &second).patch.is_empty());

    let mut tampered = second.clone();
    tampered["spec"]["containers"][0]["image"] = json!("evil");
    tampered["spec"]["containers"][0]["env"][1]["value"] = json!("2");
    assert_eq!(injected(&sets, &tampered), second);
}

#[test]
fn a_copied_pod_is_brought_to_the_current_revision() {
    let old =
        json!({"containers": [{"name": "agent", "image": "agent:1", "args": ["-v"]}, {"name": "gone", "image": "g"}]});
    let before = sets([compile("s", old.clone())]);
    let old_template = Template::of(
        &serde_json::from_value({
            let mut s = old;
            s["selector"] = json!({});
            s
        })
        .unwrap(),
    );
    let after =
        sets([compile_with("s", json!({"containers": [{"name": "agent", "image": "agent:2"}]}), &[old_template])]);
    let mut copy = injected(&before, &pod());
    copy["metadata"]["annotations"]["update.sidecarset.dev/s"] = json!("{}");
    assert_eq!(injected(&after, &copy), injected(&after, &pod()));
}

#[test]
fn sidecars_of_a_set_that_does_not_match_any_more_are_removed() {
    let elsewhere = || {
        compile(
            "s",
            json!({"selector": {"matchLabels": {"app": "db"}}, "containers": agent()["containers"], "volumes": agent()["volumes"]}),
        )
    };
    let copy = injected(&sets([compile("s", agent())]), &pod());
    let injection = run(&sets([elsewhere()]), &copy);
    assert_eq!(reasons(&injection), [("s", Reason::Removed)]);
    let back = applied(&copy, &injection);
    assert_eq!(names(&back, "containers"), ["app"]);
    assert_eq!(back["spec"]["volumes"], json!([]));
    assert_eq!(back["metadata"]["labels"], json!({"app": "web"}));
}

#[test]
fn annotations_follow_their_policy() {
    let patch = |policy: &str, value: &str| json!([{"annotations": {"k/x~y": value}, "patchPolicy": policy}]);
    let with = |name: &str, container: &str, patch: Value| {
        compile(name, json!({"containers": [{"name": container, "image": "i"}], "patchPodMetadata": patch}))
    };
    let mut owned = pod();
    owned["metadata"]["annotations"] = json!({"k/x~y": "pod"});
    let value = |sets: &CompiledSets, pod: &Value| injected(sets, pod)["metadata"]["annotations"]["k/x~y"].clone();
    assert_eq!(value(&sets([with("a", "a", patch("Retain", "1"))]), &pod()), "1");
    assert_eq!(value(&sets([with("a", "a", patch("Retain", "1"))]), &owned), "pod");
    let both = sets([with("a", "a", patch("Overwrite", "1")), with("b", "b", patch("Overwrite", "2"))]);
    assert_eq!(value(&both, &owned), "2");
    assert!(run(&both, &injected(&both, &owned)).patch.is_empty());
}

#[test]
fn the_cost_of_matching_is_that_of_the_sets_that_match() {
    let on = |name: &str, expressions: Value| {
        compile(
            name,
            json!({"selector": {"matchExpressions": expressions}, "containers": [{"name": name, "image": "i"}]}),
        )
    };
    let sets = sets([
        on("in", json!([{"key": "app", "operator": "In", "values": ["web", "db"]}])),
        on("exists", json!([{"key": "app", "operator": "Exists"}])),
        on("not-in", json!([{"key": "app", "operator": "NotIn", "values": ["db"]}])),
        on("absent", json!([{"key": "app", "operator": "DoesNotExist"}])),
        on("both", json!([{"key": "tier", "operator": "Exists"}, {"key": "app", "operator": "In", "values": ["web"]}])),
    ]);
    let matching = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        sets.matching(&labels, &BTreeMap::new()).into_iter().map(|set| set.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(matching(&[("app", "web")]), ["exists", "in", "not-in"]);
    assert_eq!(matching(&[("app", "web"), ("tier", "x")]), ["both", "exists", "in", "not-in"]);
    assert_eq!(matching(&[("app", "db")]), ["exists", "in"]);
    assert_eq!(matching(&[]), ["absent", "not-in"]);
}
