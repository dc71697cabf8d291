use super::*;

fn document(file: &str, yaml: &str) -> Document {
    Document { file: file.to_owned(), value: serde_saphyr::from_str(yaml).unwrap() }
}

fn documents(file: &str, yaml: &str) -> Vec<Document> {
    yaml.split("\n---\n").map(|text| document(file, text)).collect()
}

/// The paths of all notes, without those that every converted set gets.
fn paths(conversion: &Conversion) -> Vec<&str> {
    let common = [
        "spec.injectionStrategy.failurePolicy",
        "spec.injectionStrategy.newPods",
        "spec.updateStrategy.failurePolicy",
        "spec.selector",
        "spec.updateStrategy",
    ];
    conversion.notes.iter().map(|note| note.path.as_str()).filter(|path| !common.contains(path)).collect()
}

/// An `OpenKruise` set with `value` put at a JSON pointer of its spec.
fn kruise(version: &str, pointer: &str, value: Value) -> Conversion {
    let mut object = json!({
        "apiVersion": version, "kind": "SidecarSet", "metadata": {"name": "logs"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [
                {"name": "agent", "image": "agent:1", "upgradeStrategy": {}, "shareVolumeDevicePolicy": {}},
            ],
            "initContainers": [{"name": "init", "image": "init:1"}],
            "updateStrategy": {}, "injectionStrategy": {},
        }
    });
    let op = json!([{"op": "add", "path": pointer, "value": value}]);
    json_patch::patch(&mut object, &serde_json::from_value::<json_patch::Patch>(op).unwrap()).unwrap();
    convert(&[Document { file: "a.yaml".to_owned(), value: object }]).unwrap()
}

fn tumblr(yaml: &str) -> Conversion {
    convert(&documents("a.yaml", yaml)).unwrap()
}

#[test]
fn a_kruise_set_keeps_what_has_the_same_name_and_meaning() {
    let conversion = convert(&documents("a.yaml", include_str!("../../../tests/convert/kruise.yaml"))).unwrap();
    assert!(!conversion.failed, "{:#?}", conversion.notes);
    assert_eq!(
        conversion.sets[0],
        json!({
            "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
            "metadata": {"name": "log-agent", "labels": {"team": "platform"}, "annotations": {"contact": "platform@example.com"}},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}},
                "customVersion": "2024.5",
                "initContainers": [{
                    "name": "fetch-rules", "image": "example/rules:3", "command": ["sh", "-c", "cp /rules/* /shared"],
                    "volumeMounts": [{"name": "rules", "mountPath": "/shared"}],
                }],
                "containers": [{
                    "name": "filebeat", "image": "elastic/filebeat:8.13.0", "imagePullPolicy": "IfNotPresent",
                    "podInjectPolicy": "BeforeAppContainer", "upgradeStrategy": {"upgradeType": "ColdUpgrade"},
                    "shareVolumePolicy": {"type": "disabled"},
                    "resources": {"requests": {"cpu": "0.1", "memory": "64Mi"}, "limits": {"cpu": 1, "memory": "128Mi"}},
                    "env": [{"name": "LEVEL", "value": "info"}, {"name": "KRUISE_CONTAINER_PRIORITY", "value": "1"}],
                    "volumeMounts": [{"name": "rules", "mountPath": "/rules"}],
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "volumes": [{"name": "rules", "emptyDir": {}}],
                "podVolumes": [{"name": "rules"}],
                "imagePullSecrets": [{"name": "registry"}],
                "updateStrategy": {"type": "RollingUpdate", "maxUnavailable": "10%",
                    "selector": {"matchLabels": {"tier": "canary"}}},
                "injectionStrategy": {"paused": false},
                "patchPodMetadata": [{"annotations": {"logs.example.com/agent": "filebeat"}, "patchPolicy": "Overwrite"}],
                "revisionHistoryLimit": 10,
            }
        })
    );
    assert_eq!(
        paths(&conversion)[..5],
        [
            "metadata.labels[apps.kruise.io/sidecarset-custom-version]",
            "spec.namespace",
            "spec.containers[0].env[KRUISE_CONTAINER_PRIORITY]",
            "spec.patchPodMetadata",
            "spec.containers[0].livnessProbe",
        ]
    );
    assert_eq!(conversion.sets[1]["spec"]["updateStrategy"], json!({"type": "NotUpdate", "paused": true}));
    assert_eq!(conversion.sets[1]["spec"]["customVersion"], "v2");
}

/// `/spec/containers/0/env` as a note names it.
fn path(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace("/0", "[0]").replace('/', ".")
}

#[test]
fn each_difference_to_kruise_is_converted_and_named() {
    let gone = Value::Null;
    for (pointer, value, expected) in [
        ("/spec/updateStrategy/maxUnavailable", json!("150%"), json!("100%")),
        ("/spec/updateStrategy/maxUnavailable", json!(0), gone.clone()),
        ("/spec/updateStrategy/maxUnavailable", json!("0%"), gone.clone()),
        ("/spec/updateStrategy/partition", json!("150%"), json!("100%")),
        ("/spec/updateStrategy/partition", json!("half"), gone.clone()),
        ("/spec/updateStrategy/type", json!("Foo"), json!("RollingUpdate")),
        ("/spec/revisionHistoryLimit", json!(0), json!(1)),
        ("/spec/namespace", json!("shop"), gone.clone()),
        ("/spec/containers/0/upgradeStrategy/upgradeType", json!("Bogus"), gone.clone()),
        ("/spec/containers/0/upgradeStrategy/hotUpgradeEmptyImage", json!("empty:1"), gone.clone()),
        ("/spec/containers/0/shareVolumeDevicePolicy/type", json!("on"), gone.clone()),
        ("/spec/initContainers/0/volumeMount", json!([]), gone.clone()),
        ("/metadata/name", json!("-Logs"), json!("logs")),
        ("/metadata/finalizers", json!(["x/y"]), gone.clone()),
    ] {
        let conversion = kruise(kruise::V1BETA1, pointer, value.clone());
        assert_eq!(paths(&conversion), [path(pointer)], "{pointer}: {value}");
        assert_eq!(conversion.sets[0].pointer(pointer).unwrap_or(&gone), &expected, "{pointer}: {value}");
        assert!(!conversion.failed, "{pointer}: {value}: {:#?}", conversion.notes);
    }
}

#[test]
fn a_budget_of_no_pod_is_a_pause() {
    let conversion = kruise(kruise::V1BETA1, "/spec/updateStrategy/maxUnavailable", json!(0));
    assert_eq!(conversion.sets[0]["spec"]["updateStrategy"], json!({"paused": true}));
}

#[test]
fn the_last_of_two_variables_of_one_name_stays() {
    let env = json!([{"name": "A", "value": "1"}, {"name": "B"}, {"name": "A", "value": "2"}]);
    let conversion = kruise(kruise::V1BETA1, "/spec/containers/0/env", env);
    assert_eq!(paths(&conversion), ["spec.containers[0].env[A]"]);
    assert_eq!(conversion.sets[0]["spec"]["containers"][0]["env"], json!([{"name": "B"}, {"name": "A", "value": "2"}]));
}

#[test]
fn variables_that_steer_kruise_are_named() {
    let env = json!([{"name": "KRUISE_TERMINATE_SIDECAR_WHEN_JOB_EXIT", "value": "true"}]);
    let conversion = kruise(kruise::V1BETA1, "/spec/containers/0/env", env.clone());
    assert_eq!(paths(&conversion), ["spec.containers[0].env[KRUISE_TERMINATE_SIDECAR_WHEN_JOB_EXIT]"]);
    assert_eq!(conversion.sets[0]["spec"]["containers"][0]["env"], env);
}

#[test]
fn a_metadata_patch_that_did_nothing_is_dropped() {
    let patches = json!([{"annotations": {"a": "b"}, "patchPolicy": "Merge"}]);
    let conversion = kruise(kruise::V1BETA1, "/spec/patchPodMetadata", patches);
    assert_eq!(paths(&conversion), ["spec.patchPodMetadata[0]"]);
    assert_eq!(conversion.sets[0]["spec"]["patchPodMetadata"], json!([]));
}

#[test]
fn what_means_the_same_needs_no_note() {
    for (pointer, value) in [
        ("/spec/updateStrategy/partition", json!(0)),
        ("/spec/updateStrategy/maxUnavailable", json!(3)),
        ("/spec/updateStrategy/type", json!("")),
        ("/spec/containers/0/upgradeStrategy", json!({"upgradeType": "", "hotUpgradeEmptyImage": ""})),
        ("/spec/containers/0/shareVolumePolicy", json!({"type": ""})),
        ("/spec/containers/0/livenessProbe", Value::Null),
        ("/metadata/annotations", json!({"kruise.io/sidecarset-hash": "x"})),
    ] {
        let conversion = kruise(kruise::V1BETA1, pointer, value);
        assert_eq!(paths(&conversion), [""; 0], "{pointer}");
        assert!(!conversion.failed, "{pointer}");
    }
}

#[test]
fn a_selector_and_a_partition_exclude_each_other() {
    let strategy = json!({"type": "Foo", "partition": "20%", "selector": {"matchLabels": {"a": "b"}}});
    let conversion = kruise(kruise::V1BETA1, "/spec/updateStrategy", strategy);
    assert_eq!(paths(&conversion), ["spec.updateStrategy.type", "spec.updateStrategy.partition"]);
    assert_eq!(conversion.sets[0]["spec"]["updateStrategy"]["partition"], Value::Null);
}

#[test]
fn the_namespace_of_a_v1alpha1_set_beats_its_selector() {
    let mut object: Value = json!({
        "apiVersion": kruise::V1ALPHA1, "kind": "SidecarSet", "metadata": {"name": "logs"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "containers": [{"name": "a", "image": "a"}],
            "namespace": "shop", "namespaceSelector": {"matchLabels": {"x": "y"}}},
    });
    let convert = |object: &Value| convert(&[Document { file: String::new(), value: object.clone() }]).unwrap();
    let conversion = convert(&object);
    assert_eq!(paths(&conversion), ["spec.namespaceSelector", "spec.namespace"]);
    assert_eq!(
        conversion.sets[0]["spec"]["namespaceSelector"],
        json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}})
    );
    object["spec"]["namespace"] = json!("kube-system");
    assert!(convert(&object).failed, "no set reaches kube-system");
}

#[test]
fn a_fixed_revision_is_found_by_its_custom_version() {
    let revision = json!({"customVersion": "v1", "revisionName": "logs-1"});
    let conversion = kruise(kruise::V1BETA1, "/spec/injectionStrategy/revision", revision);
    assert_eq!(
        conversion.sets[0]["spec"]["injectionStrategy"]["revision"],
        json!({"customVersion": "v1", "policy": "Always"})
    );
    assert_eq!(
        paths(&conversion)[..2],
        ["spec.injectionStrategy.revision.revisionName", "spec.injectionStrategy.revision.customVersion"]
    );
}

#[test]
fn canary_annotations_become_ours() {
    let annotations = json!({
        "apps.kruise.io/sidecarset-canary": "true", "apps.kruise.io/sidecarset-base": "base",
        "apps.kruise.io/other": "x",
    });
    let conversion = kruise(kruise::V1BETA1, "/metadata/annotations", annotations);
    assert_eq!(
        conversion.sets[0]["metadata"]["annotations"],
        json!({"sidecarset.dev/canary": "true", "sidecarset.dev/base": "base"})
    );
    assert!(paths(&conversion).contains(&"metadata.annotations[apps.kruise.io/other]"));
}

#[test]
fn a_result_that_the_apiserver_would_refuse_fails_and_is_still_there() {
    for (pointer, value, path) in [
        ("/spec/containers/0/name", json!("Agent"), "spec.containers[0].name"),
        ("/spec/containers/0/ports", json!("80"), "spec.containers[0].ports"),
        ("/spec/containers/0/stdin", json!("yes"), "spec.containers[0].stdin"),
        ("/spec/initContainers/0/name", json!("agent"), "spec.containers[0].name"),
    ] {
        let conversion = kruise(kruise::V1BETA1, pointer, value);
        assert!(conversion.failed, "{pointer}");
        assert!(paths(&conversion).contains(&path), "{pointer}: {:#?}", conversion.notes);
        assert_eq!(conversion.sets.len(), 1, "{pointer}");
    }
}

#[test]
fn tumblr_configurations_become_sets_behind_a_label() {
    let conversion = tumblr(include_str!("../../../tests/convert/tumblr.yaml"));
    assert!(!conversion.failed, "{:#?}", conversion.notes);
    assert_eq!(conversion.sets[0]["metadata"], json!({"name": "metrics"}));
    assert_eq!(
        conversion.sets[0]["spec"],
        json!({
            "selector": {"matchLabels": {"injector.tumblr.com/request": "metrics-v1.2"}},
            "customVersion": "v1.2",
            "containers": [{
                "name": "statsd", "image": "example/statsd:1.2", "podInjectPolicy": "AfterAppContainer",
                "ports": [{"containerPort": 8125, "protocol": "UDP"}],
                "env": [{"name": "DATACENTER", "value": "dc99"}],
                "volumeMounts": [{"name": "settings", "mountPath": "/etc/settings"}],
            }],
            "volumes": [{"name": "settings", "configMap": {"name": "statsd"}}],
            "podVolumes": [{"name": "settings"}],
        })
    );
    assert_eq!(conversion.sets[1]["metadata"]["name"], "twem-proxy");
    assert_eq!(conversion.sets[1]["spec"]["selector"]["matchLabels"][tumblr::REQUEST], "twem_proxy");
    assert_eq!(paths(&conversion), ["env", "volumeMounts", "hostAliases", "hostNetwork", "serviceAccountName"]);
}

#[test]
fn tumblr_configurations_inherit_from_files_of_the_input() {
    let heir = document(
        "conf/app/heir.yaml",
        "{name: heir, inherits: ../base.yaml, containers: [{name: a, image: new}, {name: c, image: c}], \
         env: [{name: X, value: '2'}]}",
    );
    let base = document(
        "conf/base.yaml",
        "{name: base, containers: [{name: a, image: old}, {name: b, image: b}], env: [{name: X, value: '1'}]}",
    );
    let conversion = convert(&[heir.clone(), base]).unwrap();
    let containers = conversion.sets[0]["spec"]["containers"].as_array().unwrap();
    let images: Vec<&str> = containers.iter().map(|container| container["image"].as_str().unwrap()).collect();
    assert_eq!(images, ["new", "b", "c"]);
    assert_eq!(containers[1]["env"], json!([{"name": "X", "value": "2"}]));
    assert!(!conversion.failed);

    let alone = convert(&[heir]).unwrap();
    assert!(alone.failed);
    assert!(alone.notes[0].to_string().contains("inherits: conf/base.yaml is not in the input"), "{}", alone.notes[0]);

    let own_parent = document("a.yaml", "{name: a, inherits: a.yaml, containers: [{name: a, image: a}]}");
    assert!(convert(&[own_parent]).unwrap().failed);
}

#[test]
fn a_file_mode_in_a_config_map_is_octal_and_a_typo_is_named() {
    let yaml = "name: a\nvolume: []\ncontainers: [{name: a, image: a, volumeMounts: [{name: v, mountPath: /v}]}]\n\
                volumes: [{name: v, secret: {secretName: s, defaultMode: 0644}}]";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"},
        "data": {"a": yaml, "README": "hello"}});
    let conversion = convert(&[Document { file: "a.yaml".to_owned(), value: map }]).unwrap();
    assert_eq!(conversion.sets[0]["spec"]["volumes"][0]["secret"]["defaultMode"], 420);
    assert_eq!(paths(&conversion), ["data[README]", "volume"]);
    assert!(!conversion.failed, "{:#?}", conversion.notes);
}

#[test]
fn every_document_of_a_key_is_converted_and_what_is_foreign_is_skipped() {
    let yaml = |name: &str| format!("---\nname: {name}\ncontainers: [{{name: {name}, image: i, image: j}}]\n");
    let text = [yaml("first"), yaml("second"), "---\njust: data\n".to_owned()].concat();
    let map = |name: &str, data: Value| {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
        Document { file: "a.yaml".to_owned(), value }
    };
    let documents = [
        map("app", json!({"app.conf": "debug: true", "broken": "a: [", "chart": "name: 'a:b:c'\nversion: 1"})),
        map("sidecars", json!({"a.yaml": text})),
        document("b.yaml", "{apiVersion: v1, kind: Service, metadata: {name: injector}}"),
    ];
    let conversion = convert(&documents).unwrap();
    assert!(!conversion.failed, "{:#?}", conversion.notes);
    let names: Vec<&Value> = conversion.sets.iter().map(|set| &set["metadata"]["name"]).collect();
    assert_eq!(names, ["first", "second"]);
    assert_eq!(conversion.sets[0]["spec"]["containers"][0]["image"], "j");
    let mut notes: Vec<String> = conversion.notes.iter().map(ToString::to_string).collect();
    let foreign = "is no configuration of k8s-sidecar-injector: skipped";
    assert_eq!(notes[0], format!("ConfigMap/app: data[app.conf]: {foreign}"));
    assert!(notes[1].starts_with(&format!("ConfigMap/app: data[broken]: {foreign}; ")), "{}", notes[1]);
    assert_eq!(notes.remove(2), format!("ConfigMap/app: data[chart]: {foreign}"));
    assert!(notes[2].contains("data[a.yaml]: first: containers[0].image is written more than once"), "{}", notes[2]);
    assert_eq!(notes[4], format!("ConfigMap/sidecars: data[a.yaml]: has a document that {foreign}"));
    assert_eq!(notes[5], "service/injector: kind: Service of v1 is nothing that convert reads: skipped");
    assert!(convert(&documents[2..]).unwrap_err().starts_with("b.yaml: cannot convert Service of v1"));
}

#[test]
fn sets_of_one_name_are_named_in_a_note() {
    let yaml = |image: &str| format!("{{name: App, containers: [{{name: a, image: {image}}}]}}");
    let conversion = tumblr(&[yaml("a"), yaml("b"), yaml("a")].join("\n---\n"));
    assert!(conversion.failed);
    let images: Vec<&Value> = conversion.sets.iter().map(|set| &set["spec"]["containers"][0]["image"]).collect();
    assert_eq!(images, ["a", "b"], "nothing is lost, and the same is there once");
    assert_eq!(paths(&conversion), ["metadata.name", "metadata.name"]);
    assert!(!tumblr(&[yaml("a"), yaml("a")].join("\n---\n")).failed);
}

#[test]
fn a_volume_that_only_the_pods_declare_can_be_mounted() {
    let yaml = "{name: a, containers: [{name: a, image: a, volumeMounts: [{name: data, mountPath: /d}, {name: v, mountPath: /v}]}], \
                volumes: [{name: v, emptyDir: {}}]}";
    let conversion = tumblr(yaml);
    assert!(!conversion.failed, "{:#?}", conversion.notes);
    assert_eq!(conversion.sets[0]["spec"]["podVolumes"], json!([{"name": "v"}, {"name": "data"}]));
}

#[test]
fn versions_of_one_tumblr_name_become_sets_of_their_own() {
    let yaml = |version: &str| format!("{{name: 'app{version}', containers: [{{name: a, image: a}}]}}");
    let conversion = tumblr(&[yaml(""), yaml(":V2")].join("\n---\n"));
    let names: Vec<&Value> = conversion.sets.iter().map(|set| &set["metadata"]["name"]).collect();
    assert_eq!(names, ["app", "app-v2"]);
}

#[test]
fn a_tumblr_configuration_without_containers_makes_no_set() {
    let conversion = tumblr("{name: env1, env: [{name: A, value: '1'}]}");
    assert!(conversion.failed && conversion.sets.is_empty());
    assert_eq!(paths(&conversion), ["env", "containers"]);
}

#[test]
fn lists_are_unpacked_and_other_kinds_are_refused() {
    let set = "{apiVersion: apps.kruise.io/v1beta1, kind: SidecarSet, metadata: {name: a}, \
               spec: {selector: {matchLabels: {a: b}}, containers: [{name: a, image: a}]}}";
    let list = format!("{{apiVersion: v1, kind: List, items: [{set}, {}]}}", set.replace("name: a", "name: b"));
    assert_eq!(convert(&[document("a.yaml", &list)]).unwrap().sets.len(), 2);
    let typed = list.replace("v1, kind: List", "apps.kruise.io/v1beta1, kind: SidecarSetList");
    let typed = typed.replace("apiVersion: apps.kruise.io/v1beta1, kind: SidecarSet, metadata", "metadata");
    assert_eq!(convert(&[document("a.yaml", &typed)]).unwrap().sets.len(), 2);
    for (yaml, found) in [
        ("{apiVersion: apps/v1, kind: Deployment}", "Deployment of apps/v1"),
        ("{apiVersion: sidecarset.dev/v1beta1, kind: SidecarSet}", "SidecarSet of sidecarset.dev/v1beta1"),
        ("{spec: {}}", "a document without apiVersion and kind"),
        ("[1]", "a document that is no object"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: 'b: c'}}", "configmap/x without"),
    ] {
        let error = convert(&[document("a.yaml", yaml)]).unwrap_err();
        assert!(error.starts_with(&format!("a.yaml: cannot convert {found}")), "{error}");
        assert!(error.contains("apps.kruise.io/v1alpha1 and v1beta1"), "{error}");
    }
    let error = convert(&[document("a.yaml", "{name: 'a:b:c', containers: []}")]).unwrap_err();
    assert_eq!(error, "a.yaml: name: \"a:b:c\" is neither `name` nor `name:version`");
}

#[test]
fn priorities_and_scattering_are_kept() {
    let order = json!({"priorityStrategy": {"orderPriority": [{"orderedKey": "rank"}]}, "scatterStrategy": [{"key": "a", "value": "b"}]});
    let conversion = kruise(kruise::V1BETA1, "/spec/updateStrategy", order.clone());
    assert!(!conversion.failed);
    let strategy = &conversion.sets[0]["spec"]["updateStrategy"];
    for field in ["priorityStrategy", "scatterStrategy"] {
        assert_eq!(strategy[field], order[field], "{field}");
    }
}
