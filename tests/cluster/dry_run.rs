//! Sidecars that no pod may have: the set is refused, with the field of the set and the words of the API server.

use devcluster::DevCluster;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;

use crate::common::eventually;
use crate::common::operator::Operator;
use crate::common::raw::{SETS, merge, plugin, post};
use crate::common::world::{World, condition, find, lists, reason};

/// Fields of a set's container, and where the refusal is.
fn containers() -> Vec<(Value, &'static str)> {
    let env = |from: Value| json!({"env": [{"name": "A", "value": "1"}, {"name": "E", "valueFrom": from}]});
    let port = |port: Value| json!({"ports": [port]});
    let mount = |mount: Value| json!({"volumeMounts": [{"name": "host", "mountPath": "/h"}, mount]});
    vec![
        (json!({"terminationMessagePolicy": "file"}), ".terminationMessagePolicy"),
        (json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}}), ".securityContext"),
        (
            json!({"securityContext": {"seccompProfile": {"type": "runtimeDefault"}}}),
            ".securityContext.seccompProfile.type",
        ),
        (json!({"securityContext": {"runAsUser": -1}}), ".securityContext.runAsUser"),
        (json!({"livenessProbe": {"tcpSocket": {"port": 0}}}), ".livenessProbe.tcpSocket.port"),
        (json!({"livenessProbe": {"httpGet": {"port": 80, "scheme": "https"}}}), ".livenessProbe.httpGet.scheme"),
        (json!({"livenessProbe": {"exec": {"command": []}}}), ".livenessProbe"),
        (port(json!({"containerPort": 80, "hostPort": 70000})), ".ports[0].hostPort"),
        (port(json!({"containerPort": 0})), ".ports[0].containerPort"),
        (port(json!({"containerPort": 80, "protocol": "tcp"})), ".ports[0].protocol"),
        (port(json!({"containerPort": 80, "name": "Web_Port"})), ".ports[0].name"),
        (env(json!({"fieldRef": {"fieldPath": "status.podIp"}})), ".env[1].valueFrom.fieldRef.fieldPath"),
        (env(json!({"resourceFieldRef": {"resource": "limits.gpus"}})), ".env[1].valueFrom.resourceFieldRef.resource"),
        (env(json!({"configMapKeyRef": {"name": "c", "key": "a/b"}})), ".env[1].valueFrom.configMapKeyRef.key"),
        (env(json!({})), ".env[1].valueFrom"),
        (json!({"envFrom": [{"configMapRef": {"name": "Not_A_Name"}}]}), ".envFrom[0].configMapRef.name"),
        (json!({"resources": {"limits": {"gpu": 1}}}), ".resources.limits[gpu]"),
        (json!({"resources": {"limits": {"example.com/gpu": "500m"}}}), ".resources.limits[example.com/gpu]"),
        (json!({"lifecycle": {"preStop": {"sleep": {"seconds": -1}}}}), ".lifecycle.preStop.sleep"),
        (json!({"lifecycle": {"postStart": {}}}), ".lifecycle.postStart"),
        (
            mount(json!({"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"})),
            ".volumeMounts.mountPropagation",
        ),
        (mount(json!({"name": "v", "mountPath": "/v", "subPath": "../x"})), ".volumeMounts[1].subPath"),
        (json!({"resizePolicy": [{"resourceName": "disk", "restartPolicy": "NotRequired"}]}), ".resizePolicy"),
    ]
}

/// Volumes of a set, and where the refusal is.
fn volumes() -> Vec<(Value, &'static str)> {
    let token = json!({"serviceAccountToken": {"path": "t", "expirationSeconds": 10}});
    vec![
        (json!({"hostPath": {"path": "/x", "type": "dir"}}), ".hostPath.type"),
        (json!({"hostPath": {"path": "/x/../y"}}), ".hostPath.path"),
        (json!({"secret": {}}), ".secret.secretName"),
        (json!({"configMap": {"name": "c", "defaultMode": 1000}}), ".configMap.defaultMode"),
        (json!({"configMap": {"name": "c", "items": [{"key": "k", "path": "/k"}]}}), ".configMap.items[0].path"),
        (json!({"emptyDir": {"sizeLimit": -1}}), ".emptyDir.sizeLimit"),
        (json!({"projected": {"sources": [token]}}), ".projected.sources[0].serviceAccountToken.expirationSeconds"),
        (json!({"emptyDir": {}, "hostPath": {"path": "/x"}}), ""),
        (json!({"image": {}}), ".image.reference"),
        (
            json!({"downwardAPI": {"items": [{"path": "../x", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
            ".downwardAPI",
        ),
    ]
}

/// A set whose sidecar mounts two volumes, with this changed.
fn set(world: &World, list: &str, index: usize, fields: &Value) -> Value {
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["volumes"] = json!([{"name": "host", "hostPath": {"path": "/h"}}, {"name": "v", "emptyDir": {}}]);
    set["spec"]["containers"] = json!([
        {"name": "other", "image": "other:v1"},
        {"name": "agent", "image": "agent:v1",
            "volumeMounts": [{"name": "host", "mountPath": "/h"}, {"name": "v", "mountPath": "/v"}]},
    ]);
    if list == "volumes" {
        set["spec"][list][index] = json!({"name": "v"});
    }
    for (field, value) in fields.as_object().unwrap() {
        set["spec"][list][index][field] = value.clone();
    }
    set
}

#[tokio::test]
async fn a_set_whose_sidecars_no_pod_may_have_is_refused_with_its_field() {
    let world = World::shared("dry-run-refused").await;
    let cases = [("containers", containers()), ("initContainers", containers()), ("volumes", volumes())];
    let mut wrong = Vec::new();
    for (list, fields, field) in
        cases.into_iter().flat_map(|(list, cases)| cases.into_iter().map(move |(a, b)| (list, a, b)))
    {
        let set = match list {
            "initContainers" => {
                let mut set = set(&world, "containers", 1, &fields);
                set["spec"]["initContainers"] = set["spec"]["containers"].take();
                set["spec"].as_object_mut().unwrap().remove("containers");
                for container in set["spec"]["initContainers"].as_array_mut().unwrap() {
                    container["restartPolicy"] = json!("Always");
                }
                set
            }
            list => set(&world, list, 1, &fields),
        };
        let expected = format!("SidecarSet \"dry-run-refused\" is invalid: spec.{list}[1]{field}");
        let answer = post(&world.client, &format!("{SETS}?dryRun=All"), &set).await;
        let message = answer.body["message"].as_str().unwrap_or_default();
        if answer.code != 422 || !message.contains(&expected) {
            wrong.push(format!("{list} {fields}: {} {message} {:?}", answer.code, answer.warnings));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.end().await;
}

#[tokio::test]
async fn a_set_that_only_some_pods_may_have_is_accepted() {
    let world = World::shared("dry-run-some").await;
    let host_process = json!({"windowsOptions": {"hostProcess": true, "runAsUserName": "NT AUTHORITY\\SYSTEM"}});
    let expression = json!({"targetContainersMode": "sum", "resourcesExpr": {"limits": {"cpu": "cpu*50%"}, "requests": {"cpu": "cpu*10%"}}});
    for fields in [
        json!({"lifecycle": {"preStop": {"sleep": {"seconds": 600}}}}),
        json!({"lifecycle": {"stopSignal": "SIGUSR1"}}),
        json!({"resources": {"claims": [{"name": "gpu"}]}}),
        json!({"securityContext": {"procMount": "Unmasked"}}),
        json!({"securityContext": host_process}),
        json!({"resourcesPolicy": expression}),
        json!({"env": [{"name": "CPU", "valueFrom": {"resourceFieldRef": {"containerName": "app", "resource": "limits.cpu"}}}]}),
        json!({"shareVolumePolicy": {"type": "enabled"}}),
        json!({"securityContext": {"privileged": true}}),
        json!({"ports": [{"containerPort": 80, "hostPort": 80}]}),
    ] {
        let mut set = world.set("agent:v1", json!({}));
        for (field, value) in fields.as_object().unwrap() {
            set["spec"]["containers"][0][field] = value.clone();
        }
        let answer = post(&world.client, &format!("{SETS}?dryRun=All"), &set).await;
        assert_eq!((answer.code, &answer.warnings), (201, &vec![]), "{fields}: {}", answer.body["message"]);
    }
    world.end().await;
}

#[tokio::test]
async fn where_no_dry_run_can_be_made_a_set_is_accepted_until_one_can() {
    let cluster = DevCluster::builder().without_kwok().start().await.unwrap();
    let operator = Operator::start(cluster.kubeconfig(), "unchecked", &[]).await;
    let world = World::new(cluster.kubeconfig(), "unchecked").await;
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    namespaces.delete("sidecarset-dry-run", &DeleteParams::default()).await.unwrap();
    eventually("the namespace is gone", async || match namespaces.get_opt("sidecarset-dry-run").await.unwrap() {
        None => Ok(()),
        Some(namespace) => Err(namespace.status),
    })
    .await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["containers"][0]["terminationMessagePolicy"] = json!("file");
    let answer = post(&world.client, SETS, &set).await;
    let warning = "the API server has not checked the sidecars: namespaces \"sidecarset-dry-run\" not found";
    // Nor can it try whether the pods of the set are registered.
    let unsure = "pods that are created in this moment may miss the sidecars: the API server has not taken note of the selector yet";
    let warnings = vec![warning.to_owned(), unsure.to_owned()];
    assert_eq!((answer.code, answer.warnings), (201, warnings), "{}", answer.body["message"]);
    let message = |set: &SidecarSet| find(set, "InjectionReady").map(|it| it.message.clone()).unwrap_or_default();
    let is_ready = |set: &SidecarSet| condition(set, "InjectionReady") == "True";
    let ready = world.until_set("it is served", is_ready).await;
    let unchecked = "new pods get the sidecars; the API server has not checked them: namespaces";
    assert!(message(&ready).starts_with(unchecked), "{}", message(&ready));
    let plan = async || plugin(cluster.kubeconfig(), &["plan", "-f", "-"], &set.to_string()).await.stderr;
    assert!(plan().await.contains(warning), "plan says so, too");

    // With its service account. Whoever leads next asks again.
    let _ = World::new(cluster.kubeconfig(), "sidecarset-dry-run").await;
    assert!(tokio::task::spawn_blocking(move || operator.terminate()).await.unwrap());
    let _operator = Operator::start(cluster.kubeconfig(), "checked", &[]).await;
    let field = "spec.containers[0].terminationMessagePolicy: Unsupported value: \"file\"";
    let refused = world.until_set("it is found invalid", |set| reason(set, "InjectionReady") == "InvalidSpec").await;
    assert!(message(&refused).contains(field), "{}", message(&refused));
    assert_eq!(condition(&refused, "InjectionReady"), "False");
    let pod = world.pod("app", json!({"containers": [{"name": "app", "image": "app:v1"}]})).await.unwrap();
    assert_eq!(lists(&pod), (vec!["app"], vec![]), "it is left alone");
    assert!(plan().await.contains(field), "plan says so, too");

    let mended = json!({"spec": {"containers": [{"name": "agent", "image": "agent:v1"}]}});
    merge(&world.client, &format!("{SETS}/unchecked"), &mended).await.accepted();
    let ready = world.until_set("it is served", is_ready).await;
    assert_eq!(message(&ready).split(';').next(), Some("new pods get the sidecars"));
    assert!(!message(&ready).contains("not checked"), "{}", message(&ready));
    world.end().await;
    cluster.stop().await;
}
