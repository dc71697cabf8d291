//! Pods.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::containers::{Kind, container, fit_volumes, is_free};
use super::values::{
    Any, always, either, elements, elements_mut, flag, list, object, often, one_of, rarely, remove, retain, sometimes,
    texts, unique,
};
use super::{resources, security, volumes};

/// Some are those of the sets' sidecars.
const CONTAINERS: [&str; 16] = [
    "app",
    "app",
    "app",
    "app",
    "main",
    "main",
    "job",
    "server",
    "web",
    "agent",
    "proxy-1",
    "mesh-2",
    "0",
    "a-b",
    "x",
    "a23456789-123456789-123456789-123456789-123456789-123456789-123",
];

/// An annotation that is as long as its value says, once the pod is sent: nobody wants to read it.
pub const PADDING: &str = "example.com/padding";

const SERVICE_ACCOUNT: &str = "default";

/// A pod as somebody writes it into a file.
pub fn pod() -> Any {
    (metadata(), spec()).prop_map(|(metadata, spec)| settled(metadata, spec)).sboxed()
}

fn metadata() -> Any {
    let long = "p".repeat(253);
    let labels = object(vec![
        always("app", one_of(["web"])),
        sometimes("app.kubernetes.io/name", one_of(["web", ""])),
        rarely("UPPER_case.label", one_of(["V.a-l_ue"])),
        rarely("pod-template-hash", one_of(["7d4b9c"])),
        rarely("main", one_of(["app", "web", "none"])),
        rarely("team", one_of(["a", ""])),
        rarely("sidecarset.dev/injected", one_of(["true", ""])),
        sometimes("revision.sidecarset.dev/logs", one_of(["0", "7f9c2e41aa41db59"])),
    ]);
    let annotations = object(vec![
        sometimes("a/b", one_of(["1", "", "{\"a\": 1}", "é\u{0}\n"])),
        rarely("upper.example.com/Key_1", one_of(["x"])),
        rarely("team/config", one_of(["{\"a\": {\"b\": 1}}", "no json"])),
        rarely("kubectl.kubernetes.io/default-container", one_of(["app", "none"])),
        rarely("controller.kubernetes.io/pod-deletion-cost", one_of(["-10"])),
        rarely("seccomp.security.alpha.kubernetes.io/pod", one_of(["runtime/default"])),
        sometimes("container.seccomp.security.alpha.kubernetes.io/agent", one_of(["localhost/x", "unconfined"])),
        ("injection.sidecarset.dev/logs", 0.35, mark()),
        rarely("injection.sidecarset.dev/gone", mark()),
        // Nearly all that a pod may have: 256 KiB.
        (PADDING, 0.02, one_of(["261500", "261900"])),
    ]);
    object(vec![
        always("generateName", one_of(["web-", "web-", "a.b-"])),
        sometimes("name", one_of([long.clone(), long, "web-0".to_owned(), "a.b.c".to_owned()])),
        ("labels", 0.98, labels),
        ("annotations", 0.7, either([annotations.clone(), annotations.clone(), annotations, one_of([Value::Null])])),
        rarely("finalizers", one_of([json!(["example.com/keep"])])),
        sometimes(
            "ownerReferences",
            one_of([
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1", "controller": true}]),
                json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "web", "uid": "1", "controller": true}]),
            ]),
        ),
    ])
}

/// What an injection left, or somebody who can write pods.
fn mark() -> Any {
    let names = || list(one_of(["app", "agent", "proxy", "web", "mesh"]), 0..3);
    let volumes = list(one_of(["data", "logs", "tmp"]), 1..4);
    let record = object(vec![
        always("containers", names()),
        always("initContainers", names()),
        often("volumes", volumes),
        often("hashWithoutImages", one_of(["b59f2ef6c4aabe31"])),
        rarely("annotations", one_of([json!(["a/b"])])),
        rarely("labels", one_of([json!(["app"])])),
        rarely("imagePullSecrets", one_of([json!(["registry"])])),
        rarely("resources", flag()),
    ]);
    let record = record.prop_map(|record| Value::from(record.to_string())).sboxed();
    either([record.clone(), record.clone(), record, one_of(["{}", "no json", "null"])])
}

fn spec() -> Any {
    let network = vec![
        sometimes("hostNetwork", flag()),
        rarely("hostPID", flag()),
        rarely("hostIPC", flag()),
        sometimes("hostUsers", one_of([false, false, true])),
        sometimes("dnsPolicy", one_of(["Default", "ClusterFirst", "ClusterFirstWithHostNet", "None"])),
        rarely(
            "dnsConfig",
            one_of([
                json!({"nameservers": ["10.0.0.10"], "searches": ["a.example"], "options": [{"name": "ndots", "value": "2"}]}),
            ]),
        ),
        rarely("hostname", one_of(["web"])),
        rarely("subdomain", one_of(["db"])),
        rarely("setHostnameAsFQDN", flag()),
        rarely("hostAliases", one_of([json!([{"ip": "10.0.0.1", "hostnames": ["a.example"]}])])),
    ];
    let life = vec![
        sometimes("os", one_of([json!({"name": "linux"}), json!({"name": "windows"}), json!({"name": "windows"})])),
        often("restartPolicy", one_of(["Never", "OnFailure", "Always"])),
        often("terminationGracePeriodSeconds", one_of([0, 1, 10, 30, 300])),
        rarely("activeDeadlineSeconds", one_of([1, 3600])),
        rarely("shareProcessNamespace", flag()),
        rarely("enableServiceLinks", flag()),
        sometimes("automountServiceAccountToken", flag()),
        rarely("serviceAccountName", one_of([SERVICE_ACCOUNT])),
        rarely("imagePullSecrets", one_of([json!([{"name": "registry"}]), json!([{"name": "own"}]), Value::Null])),
        rarely("readinessGates", one_of([json!([{"conditionType": "example.com/ready"}])])),
        ("resources", 0.15, resources::of_pod()),
        rarely("resourceClaims", one_of([json!([{"name": "gpu", "resourceClaimName": "gpu"}])])),
        often("securityContext", security::of_pod()),
    ];
    let spread = object(vec![
        always("maxSkew", one_of([1])),
        always("topologyKey", one_of(["kubernetes.io/hostname", "zone"])),
        always("whenUnsatisfiable", one_of(["DoNotSchedule", "ScheduleAnyway"])),
        often("labelSelector", one_of([json!({"matchLabels": {"app": "web"}})])),
        rarely("nodeTaintsPolicy", one_of(["Honor"])),
    ])
    .prop_map(|mut constraint| {
        // Only beside a selector, and not by a key of it.
        if constraint["labelSelector"].is_object() {
            constraint["matchLabelKeys"] = json!(["pod-template-hash"]);
        }
        Value::from(vec![constraint])
    });
    let scheduling = vec![
        rarely("schedulingGates", one_of([json!([{"name": "example.com/quota"}])])),
        rarely("nodeName", one_of(["node-0"])),
        rarely("nodeSelector", texts(&[("kubernetes.io/os", &["linux"]), ("a", &[""])])),
        sometimes("topologySpreadConstraints", spread.sboxed()),
        rarely(
            "affinity",
            one_of([json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}, "matchLabelKeys": ["pod-template-hash"]}]}})]),
        ),
        rarely("tolerations", one_of([json!([{"operator": "Exists"}])])),
        rarely("priorityClassName", one_of(["system-node-critical"])),
        rarely("preemptionPolicy", one_of(["PreemptLowerPriority"])),
        rarely("schedulerName", one_of(["other"])),
    ];
    let init = either([container(Kind::Init, &CONTAINERS, vec![]), container(Kind::Native, &CONTAINERS, vec![])]);
    let parts = vec![
        always("containers", list(container(Kind::Ordinary, &CONTAINERS, vec![]), 1..4)),
        ("initContainers", 0.4, list(init, 0..3)),
        ("volumes", 0.8, list(volumes::volume(), 0..6)),
    ];
    object([network, life, scheduling, parts].into_iter().flatten().collect())
}

/// Without what the API server refuses together.
fn settled(mut metadata: Value, mut spec: Value) -> Value {
    if spec["schedulingGates"].is_array() {
        remove(&mut spec, "", &["nodeName"]);
    }
    if spec["hostUsers"] == false {
        remove(&mut spec, "", &["hostNetwork", "hostPID", "hostIPC"]);
    }
    if spec["hostIPC"] == true {
        remove(&mut spec, "/securityContext", &["sysctls"]);
    }
    if spec["hostPID"] == true {
        remove(&mut spec, "", &["shareProcessNamespace"]);
    }
    if spec["dnsPolicy"] == "None" && spec["dnsConfig"].is_null() {
        remove(&mut spec, "", &["dnsPolicy"]);
    }
    security::fit_pod(&mut spec);
    resources::fit(&mut spec);
    if spec["securityContext"]["seccompProfile"].is_object() {
        remove(&mut metadata, "/annotations", &["seccomp.security.alpha.kubernetes.io/pod"]);
    }
    unique(&mut spec, "volumes", "name");
    if metadata["name"].as_str().is_some_and(|name| name.len() > 200) {
        retain(&mut spec, "volumes", |volume| volume["ephemeral"].is_null());
    }
    fit_containers(&mut spec);
    if elements(&spec, "containers").chain(elements(&spec, "initContainers")).any(|c| c["name"] == "agent") {
        remove(&mut metadata, "/annotations", &["container.seccomp.security.alpha.kubernetes.io/agent"]);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

fn fit_containers(spec: &mut Value) {
    let frame = spec.clone();
    let volumes: Vec<Value> = elements(&frame, "volumes").cloned().collect();
    let grace = frame["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let (mut names, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for list in ["containers", "initContainers"] {
        retain(spec, list, |container| names.insert(container["name"].to_string()));
        for container in elements_mut(spec, list) {
            fit_volumes(container, &volumes);
            security::fit_container(container, &frame);
            // Init containers run one after the other: each has all ports.
            if list == "initContainers" {
                ports.clear();
            }
            fit_ports(container, &frame, &mut ports);
            if frame["hostUsers"] == false {
                remove(container, "", &["volumeDevices"]);
            }
            if frame["restartPolicy"] == "Never" {
                remove(container, "", &["resizePolicy"]);
            }
            fit_lifecycle(container, &frame, grace);
        }
    }
}

fn fit_ports(container: &mut Value, frame: &Value, taken: &mut BTreeSet<String>) {
    let on_host = frame["hostNetwork"] == true;
    if on_host {
        elements_mut(container, "ports").for_each(|port| remove(port, "", &["hostPort"]));
    }
    retain(container, "ports", |port| is_free(port, if on_host { "containerPort" } else { "hostPort" }, taken));
}

fn fit_lifecycle(container: &mut Value, frame: &Value, grace: i64) {
    let Some(lifecycle) = container.get_mut("lifecycle") else { return };
    for hook in ["preStop", "postStart"] {
        if lifecycle[hook]["sleep"]["seconds"].as_i64().is_some_and(|seconds| seconds > grace) {
            remove(lifecycle, "", &[hook]);
        }
    }
    let os = &frame["os"]["name"];
    if os.is_null() || os == "windows" && lifecycle["stopSignal"] != "SIGTERM" {
        remove(lifecycle, "", &["stopSignal"]);
    }
}
