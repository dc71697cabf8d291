//! Changes of running pods besides images: pod metadata and resources.

use std::sync::Arc;

use proptest::prelude::*;

use crate::api::SidecarSet;
use crate::api::qos::QosClass;
use crate::api::validate::unchecked;
use crate::core::inject::{CompiledSet, CompiledSets, Request, inject};
use crate::core::pod::PodView;
use crate::core::revision::{Change, History, Revision};
use crate::core::rollout::testing::planned;
use crate::core::rollout::tests::*;

mod resizing;

/// A set whose template is changed by an RFC 7386 patch.
fn set_with(change: &Value) -> SidecarSet {
    let mut spec =
        json!({"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": "agent", "image": "v1"}]});
    json_patch::merge(&mut spec, change);
    let set =
        json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": SET}, "spec": spec});
    serde_json::from_value(set).unwrap()
}

fn agent(fields: &Value) -> Value {
    let mut agent = json!({"name": "agent", "image": "v1"});
    json_patch::merge(&mut agent, fields);
    json!({"containers": [agent]})
}

fn resources(resources: &Value) -> Value {
    agent(&json!({ "resources": resources }))
}

/// A running pod that was injected by the first set, on its way to the second.
struct Way {
    target: Target,
    sets: CompiledSets,
    pod: TestPod,
    own: Value,
    index: Index,
    now: i64,
}

impl Way {
    fn new(before: &Value, after: &Value) -> Self {
        Self::of_pod(before, after, &json!({"name": "app", "image": "app"}), &json!({}))
    }

    fn of_pod(before: &Value, after: &Value, app: &Value, spec: &Value) -> Self {
        let mut own = json!({"spec": {"containers": [app]}});
        json_patch::merge(&mut own["spec"], spec);
        Self::of(before, after, &own)
    }

    fn of_job(before: &Value, after: &Value) -> Self {
        let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": true});
        let spec = json!({"containers": [{"name": "app", "image": "app"}], "restartPolicy": "Never"});
        Self::of(before, after, &json!({"metadata": {"ownerReferences": [owner]}, "spec": spec}))
    }

    fn of(before: &Value, after: &Value, change: &Value) -> Self {
        let (before, after) = (set_with(before), set_with(after));
        let mut own = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}, "annotations": {"note": "own"}},
        });
        json_patch::merge(&mut own, change);
        let mut pod = TestPod(born(&injected(&sets(&before, &before), &own)));
        pod.actuate();
        let (old, new) = (Template::of(&before.spec), Template::of(&after.spec));
        let known = [(old.hash(0), old.clone())];
        let target = (new.hash(0), new);
        let known = known.iter().map(|(hash, template)| (hash, template));
        let target = Target::new(&unchecked(&after), (&target.0, &target.1), known, None);
        let mut way = Self { target, sets: sets(&after, &before), pod, own, index: Index::default(), now: 0 };
        way.index.set_node("n", Some(true));
        way.configure();
        way
    }

    fn configure(&mut self) {
        self.index.configure(self.target.clone(), at(self.now));
        self.index.apply(self.pod.view(), at(self.now));
    }

    fn plan(&mut self) -> Plan {
        self.index.apply(self.pod.view(), at(self.now));
        planned(&mut self.index, SET, &PersistedProgress::default(), at(self.now), usize::MAX)
    }

    /// Sends the next request; true if it was a resize, `None` if there is none.
    fn step(&mut self) -> Option<bool> {
        let request = self.plan().patches.pop()?;
        let patch = match &request.metadata {
            Some(change) => change.complete(&request.patch, &self.pod.0["metadata"], &self.sets).unwrap(),
            None => request.patch,
        };
        let before = self.pod.0.clone();
        assert!(self.pod.patch(&patch), "{patch}");
        let kept = |pod: &Value| (pod["spec"].clone(), pod["metadata"]["annotations"].clone());
        let ((spec, annotations), (spec_after, annotations_after)) = (kept(&before), kept(&self.pod.0));
        if request.resizes {
            assert_eq!(annotations, annotations_after, "the subresource takes nothing but resources");
        } else {
            assert_eq!(shape(&spec), shape(&spec_after), "resources are for the subresource only");
        }
        Some(request.resizes)
    }

    fn steps(&mut self) -> Vec<bool> {
        std::iter::from_fn(|| self.step()).take(5).collect()
    }

    fn state(&mut self) -> PodState {
        let key = self.pod.view().key;
        self.plan();
        self.index.state(SET, &key).unwrap().clone()
    }

    /// The pod as it would be if it were created now.
    fn anew(&self) -> Value {
        born(&injected(&self.sets, &self.own))
    }
}

/// Names and resources of the containers.
fn shape(spec: &Value) -> Vec<(Value, Value)> {
    let all = ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array()).flatten();
    all.map(|container| (container["name"].clone(), container["resources"].clone())).collect()
}

fn sets(set: &SidecarSet, before: &SidecarSet) -> CompiledSets {
    let template = Template::of(&before.spec);
    let old = Revision { template, number: 1, owner: None, custom_version: None };
    let history: History = [(old.template.hash(0), old)].into();
    CompiledSets::new([Arc::new(CompiledSet::new(&unchecked(set), &history))])
}

fn injected(sets: &CompiledSets, pod: &Value) -> Value {
    let request = Request { pod, namespace: "default", namespace_labels: &BTreeMap::new(), excluded: &[] };
    let mut result = pod.clone();
    json_patch::patch(&mut result, &inject(sets, &request).patch).unwrap();
    result
}

/// As the apiserver stores it, with its defaults, and running.
fn born(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let running = TestPod::new("web").0;
    for field in ["uid", "resourceVersion", "generation", "creationTimestamp"] {
        pod["metadata"][field] = running["metadata"][field].clone();
    }
    pod["spec"]["nodeName"] = json!("n");
    pod["status"] = running["status"].clone();
    for (list, statuses) in [("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        let names: Vec<Value> = containers
            .iter_mut()
            .map(|container| {
                let mut requests = container["resources"]["limits"].clone();
                if container["resources"]["requests"].is_object() {
                    json_patch::merge(&mut requests, &container["resources"]["requests"]);
                }
                match requests {
                    Value::Null => container["resources"] = json!({}),
                    requests => container["resources"]["requests"] = requests,
                }
                container["name"].clone()
            })
            .collect();
        let status = |name: &Value| {
            let mut status = running["status"]["containerStatuses"][0].clone();
            status["name"] = name.clone();
            status
        };
        pod["status"][statuses] = names.iter().map(status).collect();
    }
    pod
}

impl TestPod {
    /// The kubelet puts the resources of the spec into effect, and has seen everything.
    fn actuate(&mut self) {
        self.edit(|pod| {
            let spec = pod["spec"].clone();
            pod["status"]["observedGeneration"] = pod["metadata"]["generation"].clone();
            for (list, statuses) in [("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")] {
                for (i, status) in
                    pod["status"].get_mut(statuses).and_then(Value::as_array_mut).into_iter().flatten().enumerate()
                {
                    status["resources"] = spec[list][i]["resources"].clone();
                }
            }
        });
    }

    fn resize_condition(&mut self, type_: &str, reason: &str) {
        self.edit(|pod| {
            pod["status"]["observedGeneration"] = pod["metadata"]["generation"].clone();
            let condition = json!({"type": type_, "status": "True", "reason": reason, "message": "no room"});
            pod["status"]["conditions"].as_array_mut().unwrap().push(condition);
        });
    }
}

fn update(pod: &PodView) -> &crate::core::pod::Update {
    pod.marks.get(SET).unwrap().update.as_ref().unwrap()
}

#[test]
fn what_can_be_changed_in_place() {
    let base = agent(&json!({"resources": {"limits": {"cpu": "1"}}}));
    let native = |fields: Value| {
        let mut entry = json!({"name": "i", "image": "v1"});
        json_patch::merge(&mut entry, &fields);
        json!({"containers": null, "initContainers": [entry]})
    };
    let policy = |text: &str| {
        agent(&json!({"resourcesPolicy": {"targetContainersMode": "sum", "resourcesExpr": {"limits": {"cpu": text}}}}))
    };
    let shared = |cpu: &str| {
        let mut set = resources(&json!({"limits": {"cpu": cpu}}));
        set["resources"] = json!({"mode": "SharedWithPod"});
        set
    };
    for (before, after, obstacle) in [
        (json!({}), json!({"patchPodMetadata": [{"labels": {"a": "1"}}]}), None),
        (base.clone(), resources(&json!({"limits": {"cpu": "2"}})), None),
        (base.clone(), resources(&json!({"limits": {"cpu": "2", "memory": "1Gi"}})), None),
        (
            base.clone(),
            json!({}),
            Some(
                "containers[agent].resources changed: a limit or request was removed, which Kubernetes refuses on a running pod",
            ),
        ),
        (
            base,
            resources(&json!({"limits": {"cpu": "1", "example.com/gpu": "1"}})),
            Some("containers[agent].resources changed in more than cpu and memory"),
        ),
        (
            native(json!({"restartPolicy": "Always"})),
            native(json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}})),
            None,
        ),
        (policy("cpu"), policy("cpu*2"), Some("containers[agent].resourcesPolicy changed")),
        (json!({}), json!({"resources": {"mode": "SharedWithPod"}}), Some("resources changed")),
        (
            shared("1"),
            shared("2"),
            Some("containers[agent].resources changed: with mode SharedWithPod they depend on those of the pod"),
        ),
    ] {
        let template = |change: &Value| Template::of(&set_with(change).spec);
        let expected = obstacle.map_or(Change::InPlace, |text| Change::NotInPlace(text.to_owned()));
        assert_eq!(template(&before).change_to(&template(&after)), expected, "{before} -> {after}");
    }
    let plain = |fields: Value| Template::of(&set_with(&native(fields)).spec);
    let resources = json!({"resources": {"requests": {"cpu": "1"}}});
    assert_eq!(plain(json!({})).change_to(&plain(resources)), Change::Nothing);
}

#[test]
fn a_pod_of_a_job_is_upgraded_where_its_native_sidecar_stands() {
    let hot = json!({"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "idle"});
    for (fields, names) in [(json!({}), vec!["agent"]), (json!({"upgradeStrategy": hot}), vec!["agent-1", "agent-2"])] {
        let native = |image: &str| {
            let mut set = agent(&fields);
            set["containers"][0]["image"] = json!(image);
            set["jobPods"] = json!("Native");
            set
        };
        let mut way = Way::of_job(&native("v1"), &native("v2"));
        assert_eq!(way.steps(), [false], "{fields}");
        let containers = way.pod.0["spec"]["initContainers"].as_array().unwrap();
        let has = |image: &str| containers.iter().any(|container| container["image"] == image);
        assert!(has("v2") && way.pod.0["spec"]["containers"].as_array().unwrap().len() == 1, "{containers:?}");
        assert_eq!(containers.iter().map(|container| container["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
    }
    let mut ordinary = Way::of_job(&json!({}), &agent(&json!({"image": "v2"})));
    assert!(matches!(ordinary.state(), PodState::NotInPlace(_)), "{:?}", ordinary.state());
}

#[test]
fn what_new_pods_of_jobs_get_leaves_pods_that_run_alone() {
    let [warn, native] = ["Warn", "Native"].map(|value| json!({"jobPods": value}));
    for (before, after) in [(&warn, &native), (&native, &warn)] {
        for mut way in [Way::new(before, after), Way::of_job(before, after)] {
            assert_eq!((way.steps(), way.state()), (vec![], PodState::Available));
        }
        assert_eq!(
            Template::of(&set_with(before).spec).hash_without_images(),
            Template::of(&set_with(after).spec).hash_without_images()
        );
    }
}

#[test]
fn a_change_of_metadata_alone_restarts_nothing_and_is_done_at_once() {
    let patches = |value: &str| json!({"patchPodMetadata": [{"annotations": {"a": value}, "labels": {"l": value}}]});
    let mut way = Way::new(&patches("1"), &patches("2"));
    let before = way.pod.0["spec"].clone();
    assert_eq!(way.steps(), [false]);
    assert_eq!(way.state(), PodState::Available);
    let metadata = &way.pod.0["metadata"];
    assert_eq!((&metadata["annotations"]["a"], &metadata["labels"]["l"]), (&json!("2"), &json!("2")));
    assert_eq!(way.pod.0["spec"], before);
    assert!(update(&way.pod.view()).containers.is_empty());
}

#[test]
fn metadata_and_images_go_in_one_request() {
    let mut target = agent(&json!({"image": "v2"}));
    target["patchPodMetadata"] = json!([{"annotations": {"a": "1"}}]);
    let mut way = Way::new(&json!({}), &target);
    assert_eq!(way.step(), Some(false));
    assert_eq!((way.pod.image(), &way.pod.0["metadata"]["annotations"]["a"]), ("v2", &json!("1")));
}

#[test]
fn a_pod_whose_metadata_changed_under_the_patch_is_not_patched() {
    let mut way = Way::new(&json!({}), &json!({"patchPodMetadata": [{"annotations": {"a": "1"}}]}));
    let request = way.plan().patches.pop().unwrap();
    let change = request.metadata.unwrap();
    let patch = change.complete(&request.patch, &way.pod.0["metadata"], &way.sets).unwrap();
    way.pod.edit(|pod| pod["metadata"]["annotations"]["a"] = json!("somebody's"));
    assert!(!way.pod.patch(&patch));
    way.pod.edit(|pod| pod["metadata"]["annotations"] = json!({}));
    assert_eq!(change.complete(&request.patch, &way.pod.0["metadata"], &way.sets), None);
}

fn amounts() -> impl Strategy<Value = Value> {
    let amount = |values: [&'static str; 3]| prop::option::of(prop::sample::select(values.to_vec()));
    let list = move || (amount(["100m", "1", "2"]), amount(["64Mi", "1Gi", "2Gi"]));
    (list(), prop::option::of(list())).prop_map(|(requests, limits)| {
        let mut resources = json!({});
        for (name, (cpu, memory)) in
            [("requests", Some(requests)), ("limits", limits)].into_iter().filter_map(|(n, l)| Some((n, l?)))
        {
            for (resource, amount) in [("cpu", cpu), ("memory", memory)] {
                if let Some(amount) = amount {
                    resources[name][resource] = json!(amount);
                }
            }
        }
        resources
    })
}

fn patches() -> impl Strategy<Value = Value> {
    let value = || prop::option::of(prop::sample::select(vec!["1", "2"]));
    (value(), value(), value(), value()).prop_map(|(annotation, label, own, merged)| {
        let mut plain = json!({"annotations": {}, "labels": {}});
        if let Some(value) = annotation {
            plain["annotations"]["a"] = json!(value);
        }
        if let Some(value) = label {
            plain["labels"]["l"] = json!(value);
        }
        if let Some(value) = own {
            plain["annotations"]["note"] = json!(value);
        }
        let merge = merged.map(
            |value| json!({"annotations": {"j": json!({"k": value}).to_string()}, "patchPolicy": "MergePatchJson"}),
        );
        Value::Array([plain].into_iter().chain(merge).collect())
    })
}

proptest! {
    #[test]
    fn after_all_requests_a_pod_is_like_one_made_anew(
        (before, after) in (amounts(), amounts()), (old, new) in (patches(), patches()),
        image in prop::sample::select(vec!["v1", "v2"]), app in amounts(),
    ) {
        let set = |image: &str, resources: &Value, patches: &Value| {
            let mut set = agent(&json!({"image": image, "resources": resources}));
            set["patchPodMetadata"] = patches.clone();
            set
        };
        let app = json!({"name": "app", "resources": app});
        let mut way = Way::of_pod(&set("v1", &before, &old), &set(image, &after, &new), &app, &json!({}));
        let class = |pod: &TestPod| -> QosClass { pod.view().class(|container| container.resources.as_deref()) };
        let had = class(&way.pod);
        let steps = way.steps();
        prop_assert_eq!(class(&way.pod), had, "the QoS class never changes");
        if matches!(way.state(), PodState::NotInPlace(_)) {
            prop_assert_eq!(steps, Vec::<bool>::new());
            return Ok(());
        }
        let mut anew = way.anew();
        let mut metadata = way.pod.0["metadata"].clone();
        for metadata in [&mut metadata, &mut anew["metadata"]] {
            testing::remove_hash_without_images(metadata, SET);
        }
        metadata["annotations"].as_object_mut().unwrap().remove("update.sidecarset.dev/logs");
        for field in ["labels", "annotations"] {
            prop_assert_eq!(&metadata[field], &anew["metadata"][field]);
        }
        prop_assert_eq!(shape(&way.pod.0["spec"]), shape(&anew["spec"]));
        prop_assert_eq!(way.step(), None, "and nothing is left to do");
    }
}
