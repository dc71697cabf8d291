//! What is written differently and means the same is one revision, and nothing else is.

mod properties;

use serde_json::{Value, json};

use super::Template;

fn template(spec: &Value) -> Template {
    Template::from_data(&json!({ "spec": spec })).unwrap()
}

/// A template with this container beside `agent`.
fn container(fields: &Value) -> Template {
    let mut container = json!({"name": "agent", "image": "agent:v1"});
    container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    template(&json!({ "containers": [container] }))
}

fn volume(source: &Value) -> Template {
    let mut volume = json!({"name": "v"});
    volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    template(&json!({"containers": [{"name": "agent", "image": "agent:v1"}], "volumes": [volume]}))
}

fn is_a_spelling(a: &Template, b: &Template, what: &Value) {
    assert_eq!(a.hash(0), b.hash(0), "{what}");
    assert_eq!(a.hash_without_images(), b.hash_without_images(), "{what}");
    assert_eq!(a, b, "{what}");
}

#[test]
fn a_default_of_a_container_that_is_written_changes_nothing() {
    let probe = json!({"httpGet": {"port": 80}});
    let spelled = json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP", "host": ""}, "timeoutSeconds": 1,
        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3, "initialDelaySeconds": 0});
    for (short, long) in [
        (json!({}), json!({"imagePullPolicy": "IfNotPresent"})),
        (json!({"image": "agent"}), json!({"image": "agent", "imagePullPolicy": "Always"})),
        (json!({"image": "agent:latest"}), json!({"image": "agent:latest", "imagePullPolicy": "Always"})),
        (json!({}), json!({"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"})),
        (
            json!({}),
            json!({"command": [], "args": [], "env": [], "envFrom": [], "ports": [], "volumeMounts": [], "workingDir": ""}),
        ),
        (json!({}), json!({"command": null, "livenessProbe": null, "dependsOn": []})),
        (json!({}), json!({"tty": false, "stdin": false, "stdinOnce": false, "lifecycle": {}})),
        (json!({}), json!({"securityContext": {}, "resources": {}})),
        (
            json!({}),
            json!({"securityContext": {"capabilities": {"add": [], "drop": []}, "privileged": false, "procMount": "Default"}}),
        ),
        (json!({}), json!({"resources": {"limits": {}, "requests": {}, "claims": []}})),
        (json!({}), json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]})),
        (
            json!({}),
            json!({"upgradeStrategy": {"upgradeType": "ColdUpgrade"}, "shareVolumePolicy": {"type": "disabled"}}),
        ),
        (
            json!({"ports": [{"containerPort": 80}]}),
            json!({"ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 0, "name": ""}]}),
        ),
        (json!({"livenessProbe": probe}), json!({ "livenessProbe": spelled })),
        (json!({"startupProbe": probe}), json!({ "startupProbe": spelled })),
        (
            json!({"readinessProbe": {"grpc": {"port": 1}}}),
            json!({"readinessProbe": {"grpc": {"port": 1, "service": ""}, "timeoutSeconds": 0}}),
        ),
        (
            json!({"lifecycle": {"preStop": {"httpGet": {"port": 1}}}}),
            json!({"lifecycle": {"preStop": {"httpGet": {"port": 1, "path": "/", "scheme": "HTTP"}}}}),
        ),
        (json!({"env": [{"name": "A"}]}), json!({"env": [{"name": "A", "value": ""}]})),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}]}),
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}),
            json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}}]}),
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}}]}),
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": false, "subPath": "", "mountPropagation": "None"}]}),
        ),
    ] {
        is_a_spelling(&container(&short), &container(&long), &long);
    }
}

#[test]
fn quantities_are_compared_by_value_and_requests_default_to_limits() {
    let resources =
        |limits: Value, requests: Value| container(&json!({"resources": {"limits": limits, "requests": requests}}));
    let base = resources(json!({"cpu": "500m", "memory": "1Gi"}), json!({"cpu": "100m"}));
    for spelled in [
        resources(json!({"cpu": "0.5", "memory": "1024Mi"}), json!({"cpu": "0.1"})),
        resources(json!({"cpu": 0.5, "memory": 1_073_741_824}), json!({"cpu": "0.1000", "memory": "1Gi"})),
        resources(json!({"cpu": "5e-1", "memory": "1073741824"}), json!({"cpu": "100m", "memory": "1048576Ki"})),
    ] {
        is_a_spelling(&base, &spelled, &spelled.data());
    }
    for other in [
        resources(json!({"cpu": "500m", "memory": "1G"}), json!({"cpu": "100m"})),
        resources(json!({"cpu": "500m", "memory": "1Gi"}), json!({})),
        resources(json!({"cpu": "500m"}), json!({"cpu": "100m", "memory": "1Gi"})),
    ] {
        assert_ne!(base.hash(0), other.hash(0), "{}", other.data());
    }
}

#[test]
fn a_default_of_a_volume_that_is_written_changes_nothing() {
    let claim = |spec: Value| json!({"ephemeral": {"volumeClaimTemplate": {"spec": spec}}});
    for (short, long) in [
        (json!({}), json!({"emptyDir": {}})),
        (json!({}), json!({"emptyDir": {"medium": ""}})),
        (json!({"emptyDir": {"sizeLimit": "1Gi"}}), json!({"emptyDir": {"sizeLimit": "1024Mi"}})),
        (
            json!({"secret": {"secretName": "s"}}),
            json!({"secret": {"secretName": "s", "defaultMode": 420, "optional": false, "items": []}}),
        ),
        (json!({"configMap": {"name": "c"}}), json!({"configMap": {"name": "c", "defaultMode": 420}})),
        (json!({"hostPath": {"path": "/"}}), json!({"hostPath": {"path": "/", "type": ""}})),
        (
            json!({"persistentVolumeClaim": {"claimName": "c"}}),
            json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": false}}),
        ),
        (
            json!({"image": {"reference": "data:v1"}}),
            json!({"image": {"reference": "data:v1", "pullPolicy": "IfNotPresent"}}),
        ),
        (json!({"image": {"reference": "data"}}), json!({"image": {"reference": "data", "pullPolicy": "Always"}})),
        (
            json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
            json!({"projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}),
        ),
        (
            json!({"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
            json!({"downwardAPI": {"defaultMode": 420, "items": [{"path": "p", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}]}}),
        ),
        (
            claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}})),
            claim(
                json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}, "volumeMode": "Filesystem"}),
            ),
        ),
    ] {
        is_a_spelling(&volume(&short), &volume(&long), &long);
    }
}

#[test]
fn fields_of_the_set_have_defaults_too() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({"containers": [{"name": "agent", "image": "agent:v1"}]});
        spec[field] = value;
        template(&spec)
    };
    for (field, value) in [
        ("resources", json!({})),
        ("resources", json!({"mode": "Additive", "preserveQoS": false})),
        ("volumes", json!([])),
        ("imagePullSecrets", json!(null)),
        ("patchPodMetadata", json!([])),
    ] {
        is_a_spelling(&with("volumes", json!(null)), &with(field, value.clone()), &value);
    }
    let (short, long) =
        (json!([{"labels": {"a": ""}}]), json!([{"labels": {"a": ""}, "annotations": {}, "patchPolicy": "Retain"}]));
    is_a_spelling(&with("patchPodMetadata", short), &with("patchPodMetadata", long.clone()), &long);
}

#[test]
fn what_means_something_is_told_apart() {
    let base = container(&json!({}));
    for fields in [
        json!({"imagePullPolicy": "Always"}),
        json!({"image": "agent", "imagePullPolicy": "IfNotPresent"}),
        json!({"terminationMessagePolicy": "FallbackToLogsOnError"}),
        json!({"securityContext": {"allowPrivilegeEscalation": false}}),
        json!({"securityContext": {"runAsNonRoot": false}}),
        json!({"securityContext": {"runAsUser": 0}}),
        json!({"securityContext": {"seLinuxOptions": {}}}),
        json!({"args": [""]}),
        json!({"env": [{"name": "A", "value": "TCP"}]}),
        json!({"podInjectPolicy": "BeforeAppContainer"}),
        json!({"restartPolicy": "Always"}),
        json!({"livenessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1}}),
        json!({"resourcesPolicy": {"targetContainersMode": "sum", "resourcesExpr": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}}),
    ] {
        assert_ne!(base.hash(0), container(&fields).hash(0), "{fields}");
    }
    let claim =
        |class: Value| volume(&json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": class}}}}));
    assert_ne!(claim(json!("")).hash(0), claim(json!(null)).hash(0), "no class is not the default class");
    let labels = |labels: Value| template(&json!({"patchPodMetadata": [{"labels": labels}]}));
    assert_ne!(labels(json!({"a": ""})).hash(0), labels(json!({})).hash(0), "a label may be empty");
    assert_ne!(
        labels(json!({"protocol": "TCP"})).hash(0),
        labels(json!({})).hash(0),
        "a label's key is nobody's field"
    );
    assert_ne!(volume(&json!({"hostPath": {"path": "/"}})).hash(0), volume(&json!({"hostPath": {}})).hash(0));
    assert_ne!(volume(&json!({"emptyDir": {"medium": "Memory"}})).hash(0), volume(&json!({})).hash(0));
}
