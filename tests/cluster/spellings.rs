//! What is written differently and means the same: the API server's own defaults are the judge.

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::common::world::{World, condition, lists};

/// One volume of every source, as short as the API server takes it.
fn volumes() -> Vec<Value> {
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}},
        "dataSource": {"kind": "PersistentVolumeClaim", "name": "other"}});
    let field = json!({"path": "name", "fieldRef": {"fieldPath": "metadata.name"}});
    let resource = json!({"path": "cpu", "resourceFieldRef": {"containerName": "app", "resource": "limits.cpu"}});
    let divided = json!({"path": "m", "resourceFieldRef": {"containerName": "app", "resource": "limits.memory", "divisor": "1024Ki"}});
    let sources = [
        json!({"emptyDir": {"sizeLimit": "1024Mi"}}),
        json!({"hostPath": {"path": "/h"}}),
        json!({"secret": {"secretName": "s"}}),
        json!({"configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}}),
        json!({"downwardAPI": {"items": [field, resource, divided]}}),
        json!({"projected": {"sources": [
            {"serviceAccountToken": {"path": "t"}}, {"configMap": {"name": "c"}}, {"secret": {"name": "s"}},
            {"downwardAPI": {"items": [field, resource]}},
        ]}}),
        json!({"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}),
        json!({"persistentVolumeClaim": {"claimName": "c"}}),
        json!({"image": {"reference": "data:v1"}}),
        json!({"image": {"reference": "data"}}),
        json!({"csi": {"driver": "d.example.com"}}),
        json!({"nfs": {"server": "s", "path": "/p"}}),
        json!({"iscsi": {"targetPortal": "10.0.0.1", "iqn": "iqn.2001-04.com.example:storage", "lun": 0, "chapAuthSession": false}}),
        json!({"rbd": {"monitors": ["m"], "image": "i"}}),
        json!({"azureDisk": {"diskName": "d", "diskURI": "https://a.example.com/vhds/d.vhd"}}),
        json!({"azureFile": {"secretName": "s", "shareName": "s"}}),
        json!({"scaleIO": {"gateway": "https://g", "system": "s", "secretRef": {"name": "s"}, "volumeName": "v", "sslEnabled": false}}),
        json!({"gcePersistentDisk": {"pdName": "d", "partition": 0}}),
        json!({"awsElasticBlockStore": {"volumeID": "d", "partition": 0}}),
        json!({"cephfs": {"monitors": ["m"]}}),
        json!({"cinder": {"volumeID": "v"}}),
        json!({"fc": {"targetWWNs": ["50060e801049cfd1"], "lun": 0}}),
        json!({"flexVolume": {"driver": "example.com/d"}}),
        json!({"flocker": {"datasetName": "d"}}),
        json!({"glusterfs": {"endpoints": "e", "path": "p"}}),
        json!({"photonPersistentDisk": {"pdID": "d"}}),
        json!({"portworxVolume": {"volumeID": "v"}}),
        json!({"quobyte": {"registry": "r:1", "volume": "v"}}),
        json!({"storageos": {"volumeName": "v"}}),
        json!({"vsphereVolume": {"volumePath": "[d] p"}}),
        json!({"gitRepo": {"repository": "r"}}),
    ];
    let named = sources.into_iter().enumerate().map(|(i, mut volume)| {
        volume["name"] = json!(format!("v{i}"));
        volume
    });
    named.collect()
}

/// Containers with everything that has a default.
fn containers() -> Vec<Value> {
    let mounts: Vec<Value> = volumes()
        .iter()
        .map(|v| json!({"name": v["name"], "mountPath": format!("/{}", v["name"].as_str().unwrap())}))
        .collect();
    let env = json!([
        {"name": "A"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]);
    vec![
        json!({"name": "agent", "image": "agent", "env": env, "envFrom": [{"configMapRef": {"name": "c"}}],
            "ports": [{"containerPort": 80}], "volumeMounts": mounts,
            "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi", "ephemeral-storage": "1e9"}, "requests": {"cpu": "0.1"}},
            "livenessProbe": {"httpGet": {"port": 80}}, "readinessProbe": {"tcpSocket": {"port": 80}},
            "startupProbe": {"grpc": {"port": 80}},
            "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
            "securityContext": {"capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}),
        json!({"name": "second", "image": "second:v1", "livenessProbe": {"exec": {"command": ["true"]}}}),
    ]
}

#[tokio::test]
async fn a_set_as_the_api_server_would_write_it_is_the_same_revision_and_its_volumes_are_the_pods() {
    let world = World::shared("spellings").await;
    let mut set = world.set("agent", json!({}));
    set["spec"]["containers"] = json!(containers());
    set["spec"]["volumes"] = json!(volumes());
    world.apply(&set).await;
    let app = json!([{"name": "app", "image": "app:v1", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]);
    let pod = world.pod("web", json!({"containers": app, "volumes": volumes()})).await.unwrap();
    assert_eq!(lists(&pod).0, ["agent", "second", "app"], "equal volumes are shared");

    let made = serde_json::to_value(&pod).unwrap();
    let ours = |list: &str, is_ours: &dyn Fn(&str) -> bool| -> Vec<Value> {
        let entries = made["spec"][list].as_array().unwrap().iter();
        entries.filter(|entry| is_ours(entry["name"].as_str().unwrap())).cloned().collect()
    };
    let mut written = set.clone();
    written["spec"]["containers"] = json!(ours("containers", &|name| name != "app"));
    written["spec"]["volumes"] = json!(ours("volumes", &|name| name.starts_with('v')));
    for container in written["spec"]["containers"].as_array_mut().unwrap() {
        for (list, name) in [("env", "IS_INJECTED"), ("volumeMounts", "kube-api-access-")] {
            let entries = container[list].as_array_mut().unwrap();
            entries.retain(|entry| !entry["name"].as_str().unwrap().starts_with(name));
        }
    }
    world.apply(&written).await;
    let seen = world.until_set("the pod is up to date", |set| condition(set, "Ready") == "True").await;
    let status = seen.status.unwrap();
    assert_eq!((status.matched_pods, status.updated_pods), (1, 1));
    let of_set = ListParams::default().labels(&format!("sidecarset.dev/set={}", world.name));
    let revisions = Api::<ControllerRevision>::all(world.client.clone()).list(&of_set).await.unwrap().items;
    assert_eq!(revisions.iter().map(ResourceExt::name_any).collect::<Vec<_>>().len(), 1);
    world.end().await;
}
