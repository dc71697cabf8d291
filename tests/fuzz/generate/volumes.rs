//! Volumes of every source.

use serde_json::{Value, json};

use super::values::{Any, always, either, flag, list, object, often, one_of, rarely, sometimes, texts};

/// What is mounted, by name: few, so that pods and sets have the same.
pub const NAMES: [&str; 9] = [
    "data",
    "data",
    "logs",
    "logs",
    "cfg",
    "tmp",
    "0",
    "v-2",
    "a23456789-123456789-123456789-123456789-123456789-123456789-123",
];

/// Any volume of one of the names.
pub fn volume() -> Any {
    let common = vec![
        ("emptyDir", empty_dir()),
        ("emptyDir", empty_dir()),
        ("hostPath", host_path()),
        ("secret", secret()),
        ("configMap", config_map()),
        ("downwardAPI", object(vec![often("items", list(downward_item(), 1..3)), rarely("defaultMode", mode())])),
        ("projected", projected()),
        ("persistentVolumeClaim", claim()),
        ("persistentVolumeClaim", claim()),
        ("persistentVolumeClaim", claim()),
        ("ephemeral", ephemeral()),
        ("image", image()),
        ("csi", csi()),
    ];
    let source = |(name, source): (&'static str, Any)| {
        // The weights of `Union` are all the same: common sources stand several times.
        object(vec![always("name", one_of(NAMES)), always(name, source)])
    };
    let rare = either(network().into_iter().map(source));
    either(common.into_iter().map(source).chain([rare]))
}

fn mode() -> Any {
    one_of([0, 0o400, 0o644, 0o777])
}

fn items() -> Any {
    one_of([
        json!([{"key": "a.conf", "path": "a"}]),
        json!([{"key": "a", "path": "x/y", "mode": 256}, {"key": "b", "path": "z"}]),
    ])
}

fn empty_dir() -> Any {
    object(vec![
        sometimes("medium", one_of(["", "Memory", "HugePages", "HugePages-2Mi"])),
        sometimes("sizeLimit", one_of(["1Gi", "1024Mi", "0", "1e9"])),
    ])
}

fn host_path() -> Any {
    object(vec![
        always("path", one_of(["/var/log", "/x"])),
        often("type", one_of(["", "Directory", "DirectoryOrCreate", "Socket", "BlockDevice"])),
    ])
}

fn secret() -> Any {
    object(vec![
        always("secretName", one_of(["s", "tls.example"])),
        sometimes("items", items()),
        sometimes("defaultMode", mode()),
        sometimes("optional", flag()),
    ])
}

fn config_map() -> Any {
    object(vec![
        always("name", one_of(["app-env", "c"])),
        sometimes("items", items()),
        sometimes("defaultMode", mode()),
        sometimes("optional", flag()),
    ])
}

fn downward_item() -> Any {
    either([
        object(vec![
            always("path", one_of(["labels", "x/annotations"])),
            always(
                "fieldRef",
                object(vec![
                    always("fieldPath", one_of(["metadata.labels", "metadata.annotations['a/b']", "metadata.uid"])),
                    sometimes("apiVersion", one_of(["v1"])),
                ]),
            ),
            rarely("mode", mode()),
        ]),
        object(vec![
            always("path", one_of(["cpu"])),
            always(
                "resourceFieldRef",
                object(vec![
                    always("containerName", one_of(["app", "agent"])),
                    always("resource", one_of(["limits.cpu", "requests.cpu"])),
                    sometimes("divisor", one_of(["0", "1", "1m"])),
                ]),
            ),
        ]),
    ])
}

fn projected() -> Any {
    let sources = either([
        one_of([
            json!({"serviceAccountToken": {"path": "token"}}),
            json!({"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 600}}),
            json!({"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}),
            json!({"secret": {"name": "s", "optional": true}}),
            json!({"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}),
        ]),
        object(vec![always("configMap", object(vec![always("name", one_of(["c"])), sometimes("items", items())]))]),
    ]);
    object(vec![always("sources", list(sources, 0..2)), sometimes("defaultMode", mode())])
}

fn claim() -> Any {
    object(vec![always("claimName", one_of(["data", "data-db-0"])), sometimes("readOnly", flag())])
}

fn ephemeral() -> Any {
    let spec = object(vec![
        always("accessModes", one_of([json!(["ReadWriteOnce"]), json!(["ReadWriteMany", "ReadOnlyMany"])])),
        always("resources", one_of([json!({"requests": {"storage": "1Gi"}})])),
        sometimes("storageClassName", one_of(["", "fast"])),
        sometimes("volumeMode", one_of(["Filesystem", "Block"])),
    ]);
    let metadata = one_of([json!({"labels": {"a": "b"}})]);
    object(vec![always("volumeClaimTemplate", object(vec![always("spec", spec), sometimes("metadata", metadata)]))])
}

fn image() -> Any {
    object(vec![
        always(
            "reference",
            one_of([
                "models:v1",
                "registry.example.com/data@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ]),
        ),
        sometimes("pullPolicy", one_of(["Always", "IfNotPresent", "Never"])),
    ])
}

fn csi() -> Any {
    object(vec![
        always("driver", one_of(["secrets-store.csi.example.com"])),
        sometimes("readOnly", flag()),
        sometimes("fsType", one_of(["ext4"])),
        sometimes("volumeAttributes", texts(&[("class", &["a", ""])])),
        rarely("nodePublishSecretRef", one_of([json!({"name": "s"})])),
    ])
}

/// Sources that few still use; they have defaults of their own.
fn network() -> Vec<(&'static str, Any)> {
    let fixed = |value: Value| one_of([value]);
    vec![
        ("nfs", fixed(json!({"server": "nfs.example.com", "path": "/x"}))),
        ("iscsi", fixed(json!({"targetPortal": "10.0.0.1:3260", "iqn": "iqn.2001-04.com.example:s", "lun": 0}))),
        ("fc", fixed(json!({"targetWWNs": ["500a0982991b8dc5"], "lun": 2}))),
        ("rbd", fixed(json!({"monitors": ["10.0.0.1:6789"], "image": "i"}))),
        ("glusterfs", fixed(json!({"endpoints": "e", "path": "p"}))),
        ("cephfs", fixed(json!({"monitors": ["10.0.0.1:6789"]}))),
        ("cinder", fixed(json!({"volumeID": "id"}))),
        ("gcePersistentDisk", fixed(json!({"pdName": "d", "partition": 1}))),
        ("awsElasticBlockStore", fixed(json!({"volumeID": "vol-1"}))),
        ("azureDisk", fixed(json!({"diskName": "d", "diskURI": "https://blob.example.com/d.vhd"}))),
        ("azureFile", fixed(json!({"secretName": "s", "shareName": "n"}))),
        ("flexVolume", fixed(json!({"driver": "example.com/flex"}))),
        ("flocker", fixed(json!({"datasetName": "d"}))),
        ("gitRepo", fixed(json!({"repository": "git.example.com/r"}))),
        ("photonPersistentDisk", fixed(json!({"pdID": "d"}))),
        ("portworxVolume", fixed(json!({"volumeID": "v"}))),
        ("quobyte", fixed(json!({"registry": "10.0.0.1:7861", "volume": "v"}))),
        ("scaleIO", fixed(json!({"gateway": "g", "system": "s", "secretRef": {"name": "s"}, "volumeName": "v"}))),
        ("storageos", fixed(json!({"volumeName": "v"}))),
        ("vsphereVolume", fixed(json!({"volumePath": "[ds] v"}))),
    ]
}
