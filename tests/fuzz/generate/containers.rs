//! Containers of every kind: they are the same in pods and in sets, but for the names.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::values::{
    Any, Member, always, either, elements, elements_mut, flag, list, object, often, one_of, rarely, remove, retain,
    sometimes, unique,
};
use super::{resources, security, volumes};

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In `containers`.
    Ordinary,
    /// In `initContainers`, and ends.
    Init,
    /// In `initContainers`, and stays.
    Native,
}

/// A container with one of these names, and more members than core/v1 has.
pub fn container(kind: Kind, names: &[&'static str], more: Vec<Member>) -> Any {
    let mut members = vec![
        always("name", one_of(names.iter().copied())),
        always(
            "image",
            one_of([
                "app:v1",
                "app:v1",
                "app:v1",
                "registry.example.com:5000/team/agent@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ]),
        ),
        sometimes("imagePullPolicy", one_of(["Always", "IfNotPresent", "Never"])),
        rarely("command", list(one_of(["sh", "-c", "$(POD_NAME)"]), 0..3)),
        rarely("args", list(one_of(["--x=$(A)", "", "é"]), 0..3)),
        rarely("workingDir", one_of(["/", "/data"])),
        often("ports", list(port(), 0..4)),
        often("env", list(variable(), 0..5)),
        sometimes("envFrom", list(env_from(), 0..3)),
        often("resources", resources::of_container()),
        sometimes("resizePolicy", resources::resize_policy()),
        often("volumeMounts", list(mount(), 0..4)),
        sometimes("volumeDevices", list(device(), 0..3)),
        often("securityContext", security::of_container()),
        rarely("terminationMessagePath", one_of(["/dev/termination-log", "/x"])),
        rarely("terminationMessagePolicy", one_of(["File", "FallbackToLogsOnError"])),
        rarely("stdin", flag()),
        rarely("tty", flag()),
    ];
    if kind != Kind::Init {
        members.extend([
            sometimes("livenessProbe", probe(true)),
            sometimes("readinessProbe", probe(false)),
            sometimes("startupProbe", probe(true)),
            sometimes("lifecycle", lifecycle()),
        ]);
    }
    match kind {
        Kind::Native => members.push(always("restartPolicy", one_of(["Always"]))),
        Kind::Ordinary => members.push(rarely("restartPolicy", one_of(["Always", "OnFailure", "Never"]))),
        Kind::Init => {}
    }
    members.extend(more);
    object(members).prop_map(move |container| settled(container, kind)).sboxed()
}

/// Without what no pod may have.
fn settled(mut container: Value, kind: Kind) -> Value {
    security::settle_container(&mut container);
    unique(&mut container, "ports", "name");
    unique(&mut container, "volumeMounts", "mountPath");
    unique(&mut container, "volumeDevices", "devicePath");
    unique(&mut container, "volumeDevices", "name");
    let privileged = container["securityContext"]["privileged"] == true;
    for mount in elements_mut(&mut container, "volumeMounts") {
        if mount["mountPropagation"] == "Bidirectional" && !privileged {
            remove(mount, "", &["mountPropagation"]);
        }
        if mount["subPath"].is_string() {
            remove(mount, "", &["subPathExpr"]);
        }
        let is_plain = mount["mountPropagation"].is_null() || mount["mountPropagation"] == "None";
        if mount["readOnly"] != true || !is_plain {
            remove(mount, "", &["recursiveReadOnly"]);
        }
    }
    if kind == Kind::Init {
        for policy in elements_mut(&mut container, "resizePolicy") {
            policy["restartPolicy"] = json!("NotRequired");
        }
    }
    if kind == Kind::Ordinary && container["restartPolicy"] == "Never" {
        let rule = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        container["restartPolicyRules"] = rule;
    }
    distinct_ports(&mut container);
    container
}

fn port() -> Any {
    object(vec![
        always("containerPort", one_of([80, 8080, 9000, 9100, 65_535])),
        sometimes("name", one_of(["http", "metrics", "a-1"])),
        sometimes("protocol", one_of(["TCP", "UDP", "SCTP"])),
        sometimes("hostPort", one_of([80, 8080, 9000, 9100, 0])),
        rarely("hostIP", one_of(["10.0.0.1", "0.0.0.0", ""])),
    ])
}

fn variable() -> Any {
    let name = || one_of(["A", "REGION", "POD_NAME", "LOG_DIR", "TEAM", "a.b-c", "_x", "odd name!"]);
    let plain = || one_of(["", "x", "$(POD_NAME)", "$(MISSING)/$(TEAM)", "$$(A)", "é\n", "{\"a\": 1}"]);
    let field = one_of([
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.labels['app']",
        "metadata.annotations['a/b']",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.podIP",
        "status.hostIPs",
        "status.podIPs",
    ]);
    let source = either([
        object(vec![always(
            "fieldRef",
            object(vec![always("fieldPath", field), sometimes("apiVersion", one_of(["v1"]))]),
        )]),
        one_of([
            json!({"resourceFieldRef": {"resource": "limits.cpu"}}),
            json!({"resourceFieldRef": {"resource": "requests.memory", "containerName": "app", "divisor": "1Mi"}}),
            json!({"resourceFieldRef": {"resource": "limits.hugepages-2Mi"}}),
            json!({"configMapKeyRef": {"name": "app-env", "key": "a.b"}}),
            json!({"secretKeyRef": {"name": "s", "key": "k", "optional": true}}),
            json!({"fileKeyRef": {"volumeName": "tmp", "path": "env", "key": "K", "optional": true}}),
        ]),
    ]);
    either([
        object(vec![always("name", name()), always("value", plain())]),
        object(vec![always("name", name()), sometimes("value", plain())]),
        object(vec![always("name", name()), always("valueFrom", source)]),
    ])
}

fn env_from() -> Any {
    one_of([
        json!({"configMapRef": {"name": "app-env"}}),
        json!({"configMapRef": {"name": "app-env", "optional": true}, "prefix": "P_"}),
        json!({"secretRef": {"name": "s"}}),
        json!({"secretRef": {"name": "s"}, "prefix": "a.b"}),
    ])
}

fn mount() -> Any {
    object(vec![
        always("name", one_of(volumes::NAMES)),
        always(
            "mountPath",
            one_of([
                "/data",
                "/data/",
                "/logs",
                "/etc/x",
                "/",
                "relative",
                "/var/run/secrets/kubernetes.io/serviceaccount",
            ]),
        ),
        sometimes("readOnly", flag()),
        sometimes("subPath", one_of(["a", "a/b.c"])),
        sometimes("subPathExpr", one_of(["$(POD_NAME)", "x/$(TEAM)", "$(MISSING)", "$$(A)"])),
        sometimes("mountPropagation", one_of(["None", "HostToContainer", "Bidirectional"])),
        rarely("recursiveReadOnly", one_of(["Disabled", "IfPossible", "Enabled"])),
    ])
}

fn device() -> Any {
    object(vec![
        always("name", one_of(volumes::NAMES)),
        always("devicePath", one_of(["/dev/xvda", "/dev/block", "/data", "/logs"])),
    ])
}

fn handlers() -> Vec<Any> {
    let port = || one_of([json!(80), json!(65_535), json!("http"), json!("no-such")]);
    vec![
        object(vec![always(
            "exec",
            one_of([json!({"command": ["true"]}), json!({"command": ["sh", "-c", "exit 0"]})]),
        )]),
        object(vec![always(
            "httpGet",
            object(vec![
                always("port", port()),
                sometimes("path", one_of(["/", "healthz"])),
                sometimes("scheme", one_of(["HTTP", "HTTPS"])),
                rarely("host", one_of(["127.0.0.1"])),
                rarely("httpHeaders", one_of([json!([{"name": "X-A", "value": ""}])])),
            ]),
        )]),
        object(vec![always("tcpSocket", object(vec![always("port", port()), rarely("host", one_of(["localhost"]))]))]),
    ]
}

/// `with_grace`: a probe whose failure ends the container.
fn probe(with_grace: bool) -> Any {
    let grpc = object(vec![always(
        "grpc",
        object(vec![always("port", one_of([80, 9000])), sometimes("service", one_of(["", "a"]))]),
    )]);
    let mut numbers = vec![
        sometimes("initialDelaySeconds", one_of([0, 5])),
        sometimes("timeoutSeconds", one_of([0, 1, 10])),
        sometimes("periodSeconds", one_of([0, 1, 10])),
        sometimes("successThreshold", if with_grace { one_of([0, 1]) } else { one_of([0, 1, 3]) }),
        sometimes("failureThreshold", one_of([0, 1, 3])),
    ];
    if with_grace {
        numbers.push(sometimes("terminationGracePeriodSeconds", one_of([1, 600])));
    }
    let numbers = object(numbers);
    (either(handlers().into_iter().chain([grpc])), numbers)
        .prop_map(|(handler, numbers)| merged(handler, numbers))
        .sboxed()
}

fn lifecycle() -> Any {
    let handler = || {
        let sleep = one_of([0, 1, 20, 30, 60, 300].map(|seconds| json!({"sleep": {"seconds": seconds}})));
        either(handlers().into_iter().chain([sleep.clone(), sleep]))
    };
    object(vec![
        sometimes("postStart", handler()),
        often("preStop", handler()),
        sometimes("stopSignal", one_of(["SIGTERM", "SIGUSR1", "SIGRTMIN+1"])),
    ])
}

fn merged(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

/// Without a host port that stands twice.
fn distinct_ports(container: &mut Value) {
    let mut taken = BTreeSet::new();
    retain(container, "ports", |port| is_free(port, "hostPort", &mut taken));
}

/// Takes the host port, if it is free.
pub fn is_free(port: &Value, field: &str, taken: &mut BTreeSet<String>) -> bool {
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    let number = port[field].as_i64().unwrap_or(0);
    number == 0 || taken.insert(format!("{protocol} {} {number}", port["hostIP"].as_str().unwrap_or_default()))
}

/// Without mounts, devices and variables that need another volume.
pub fn fit_volumes(container: &mut Value, volumes: &[Value]) {
    let find = |name: &Value| volumes.iter().find(|volume| volume["name"] == *name);
    retain(container, "volumeMounts", |mount| find(&mount["name"]).is_some());
    let mounted: BTreeSet<String> =
        elements(container, "volumeMounts").flat_map(|m| [m["name"].to_string(), m["mountPath"].to_string()]).collect();
    retain(container, "volumeDevices", |device| {
        let is_claim = |volume: &Value| volume["persistentVolumeClaim"].is_object() || volume["ephemeral"].is_object();
        find(&device["name"]).is_some_and(is_claim)
            && !mounted.contains(&device["name"].to_string())
            && !mounted.contains(&device["devicePath"].to_string())
    });
    retain(container, "env", |variable| {
        let file = &variable["valueFrom"]["fileKeyRef"];
        file.is_null() || find(&file["volumeName"]).is_some_and(|volume| volume["emptyDir"].is_object())
    });
}
