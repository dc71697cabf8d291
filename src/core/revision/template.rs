//! The part of a set that shapes a pod, and its hash.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::api::canonical::canonical;
use crate::api::{SidecarSetSpec, keys};
use crate::core::base::lists::List;

/// Hex digits of a revision hash.
const HASH_DIGITS: usize = 16;

/// Fields of the spec that shape a pod. The hash covers them and nothing else.
pub(super) const TEMPLATE_FIELDS: [&str; 8] = [
    "containers",
    "imagePullSecrets",
    "initContainers",
    "jobPods",
    "patchPodMetadata",
    "podVolumes",
    "resources",
    "volumes",
];

/// A sidecar of a template, as far as upgrades look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    pub(crate) list: List,
    /// Of the container in the set.
    pub name: String,
    /// As written in the set.
    pub image: String,
    /// False for a plain init container, which has ended long before an upgrade.
    pub(crate) long_running: bool,
    /// Upgraded by handing over to a twin: in the pod stand `<name>-1` and `<name>-2`.
    pub(crate) hot: bool,
    /// Image of the twin that idles; empty if there are no twins.
    pub(crate) idle_image: String,
}

impl Sidecar {
    pub(crate) fn container_names(&self) -> Vec<String> {
        keys::container_names(&self.name, self.hot)
    }
}

pub(crate) fn is_hot(entry: &Value) -> bool {
    entry["upgradeStrategy"]["upgradeType"] == "HotUpgrade"
}

/// Names of the volumes that a container uses: as file systems, as block devices, and for variables that stand in files.
pub(crate) fn used_volumes(container: &Value) -> impl Iterator<Item = &str> {
    let elements = |list: &str| container[list].as_array().into_iter().flatten();
    let mounts = elements("volumeMounts").chain(elements("volumeDevices"));
    mounts.filter_map(|mount| mount["name"].as_str()).chain(volumes_of_variables(container))
}

/// Of `fileKeyRef`.
pub(crate) fn volumes_of_variables(container: &Value) -> impl Iterator<Item = &str> {
    let variables = container["env"].as_array().into_iter().flatten();
    variables.filter_map(|variable| variable["valueFrom"]["fileKeyRef"]["volumeName"].as_str())
}

/// False for a plain init container.
fn is_long_running(list: List, entry: &Value) -> bool {
    list == List::Ordinary || entry["restartPolicy"] == "Always"
}

/// The part of a set that shapes a pod: `{"containers":[…],"initContainers":[…],"volumes":[…],…}` without absent fields.
/// Two templates are equal if they are the same after the apiserver's defaults, however they are written.
#[derive(Clone, Debug)]
pub struct Template {
    written: Value,
    canonical: Value,
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Template {
    /// Takes the template out of a spec.
    pub fn of(spec: &SidecarSetSpec) -> Self {
        let mut spec = serde_json::to_value(spec).unwrap_or_default();
        let mut template = Map::new();
        for field in TEMPLATE_FIELDS {
            if let Some(value) = spec.get_mut(field).map(Value::take) {
                template.insert(field.to_owned(), without_nulls(value));
            }
        }
        Self::new(Value::Object(template))
    }

    /// Reads the data of a `ControllerRevision`; `None` if this program did not write it.
    pub(crate) fn from_data(data: &Value) -> Option<Self> {
        data.get("spec").filter(|spec| spec.is_object()).cloned().map(Self::new)
    }

    fn new(written: Value) -> Self {
        Self { canonical: canonical("", &written), written }
    }

    /// The data of a `ControllerRevision`.
    pub(crate) fn data(&self) -> Value {
        json!({ "spec": self.written })
    }

    /// Hash of the canonical form, which depends neither on the spelling nor on the program's version.
    /// `collisions` makes another hash where the name of this one was taken by other data.
    pub fn hash(&self, collisions: i32) -> String {
        hash(&self.canonical, collisions)
    }

    /// Hash of what running pods have of it, without the images: where it is equal, nothing but images differs in them. It
    /// stands on each pod, for the time when the set's history does not know the pod's revision any more, because the
    /// set was deleted and created again.
    pub fn hash_without_images(&self) -> String {
        let mut running = self.canonical.as_object().cloned().unwrap_or_default();
        for list in List::ALL {
            let entries = self.running(list).cloned().map(|mut entry| {
                entry.as_object_mut().map(|entry| entry.remove("image"));
                entry
            });
            running.insert(list.field().to_owned(), entries.collect());
        }
        // Of how a pod was made nothing is left to change.
        running.remove("jobPods");
        let mounted = self.running_volumes();
        let volumes = self.canonical_entries("volumes");
        let volumes = volumes.filter(|volume| volume["name"].as_str().is_some_and(|name| mounted.contains(name)));
        running.insert("volumes".to_owned(), volumes.cloned().collect());
        running.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
        hash(&Value::Object(running), 0)
    }

    /// The entries of one list, in canonical form, that are in a running pod: all but plain init containers.
    pub(super) fn running(&self, list: List) -> impl Iterator<Item = &Value> {
        self.canonical_entries(list.field()).filter(move |entry| is_long_running(list, entry))
    }

    /// Names of the volumes that those use.
    pub(super) fn running_volumes(&self) -> BTreeSet<&str> {
        List::ALL.into_iter().flat_map(|list| self.running(list)).flat_map(used_volumes).collect()
    }

    /// The entries of one list, as written in the set.
    pub fn entries(&self, field: &str) -> impl Iterator<Item = &Value> {
        list(&self.written, field)
    }

    pub(super) fn canonical_entries(&self, field: &str) -> impl Iterator<Item = &Value> {
        list(&self.canonical, field)
    }

    /// One field as written; null if it is absent.
    pub(crate) fn field(&self, field: &str) -> &Value {
        &self.written[field]
    }

    /// Whether one field differs in more than its spelling.
    pub(crate) fn differs_in(&self, field: &str, other: &Self) -> bool {
        self.canonical.get(field) != other.canonical.get(field)
    }

    /// All sidecars, init containers first.
    pub fn sidecars(&self) -> impl Iterator<Item = Sidecar> {
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        List::ALL.into_iter().flat_map(move |list| {
            self.entries(list.field()).map(move |entry| Sidecar {
                list,
                name: text(entry, "name"),
                image: text(entry, "image"),
                long_running: is_long_running(list, entry),
                hot: is_hot(entry),
                idle_image: text(&entry["upgradeStrategy"], "hotUpgradeEmptyImage"),
            })
        })
    }
}

fn list<'a>(template: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    template.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// Hash of any value, by its content.
pub(crate) fn hash_of(value: &Value) -> String {
    hash(value, 0)
}

fn hash(canonical: &Value, collisions: i32) -> String {
    let mut canonical = canonical.clone();
    // They are sorted already, unless a dependency switches on `preserve_order` of serde_json.
    canonical.sort_all_objects();
    let mut digest = Sha256::new_with_prefix(canonical.to_string());
    if collisions > 0 {
        digest.update(collisions.to_be_bytes());
    }
    let hex = format!("{:x}", digest.finalize());
    hex[..HASH_DIGITS].to_owned()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: Value) -> SidecarSetSpec {
        serde_json::from_value(value).unwrap()
    }

    fn template(containers: &Value) -> Template {
        Template::of(&spec(json!({"selector": {"matchLabels": {"a": "b"}}, "containers": containers})))
    }

    /// Every kind of field, with what defaults, spellings and sorting may touch.
    fn full() -> Value {
        json!({
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": "agent", "image": "registry:5000/agent:1", "imagePullPolicy": "Always",
                "command": ["/agent"], "args": ["-v", ""],
                "env": [{"name": "A", "value": "1"}, {"name": "B"},
                    {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}],
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c", "optional": true}}],
                "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP", "hostPort": 5353}],
                "resources": {"limits": {"cpu": 1, "memory": "1.5Gi", "ephemeral-storage": "1e9"}, "requests": {"cpu": "250m"}},
                "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
                "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true, "subPath": "x"}],
                "livenessProbe": {"httpGet": {"port": "http", "path": "/live"}, "periodSeconds": 3},
                "readinessProbe": {"exec": {"command": ["true"]}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                "securityContext": {"runAsUser": 0, "runAsNonRoot": false, "capabilities": {"drop": ["ALL"]}},
                "podInjectPolicy": "AfterAppContainer", "shareVolumePolicy": {"type": "enabled"},
                "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "empty:1"},
                "transferEnv": [{"sourceContainerName": "app", "envName": "X"}], "dependsOn": ["init"]},
                {"name": "expr", "image": "expr", "resourcesPolicy": {"targetContainersMode": "max",
                    "resourcesExpr": {"limits": {"cpu": "max(cpu*50%, 50m)"}}}}],
            "initContainers": [{"name": "init", "image": "init@sha256:aa", "restartPolicy": "Always", "startupProbe": null},
                {"name": "prepare", "image": "prepare:1", "volumeMounts": [{"name": "s", "mountPath": "/s"}]}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 256}},
                {"name": "e", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": ""}},
                    "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}}}}],
            "imagePullSecrets": [{"name": "pull"}],
            "patchPodMetadata": [{"labels": {"l": ""}, "annotations": {"a": "1"}, "patchPolicy": "Overwrite"}],
            "resources": {"mode": "SharedWithPod"},
        })
    }

    #[test]
    fn the_hash_of_a_template_never_changes() {
        let template = Template::of(&spec(full()));
        let hashes = [template.hash(0), template.hash(1), template.hash_without_images()];
        assert_eq!(hashes, ["f08909e6d2b76250", "2098e7eafe9b598b", "3b242f23e1b020f8"]);
    }

    #[test]
    fn images_are_not_in_the_hash_without_images() {
        let hash = |containers| template(&containers).hash_without_images();
        let base = hash(json!([{"name": "a", "image": "a:1"}]));
        assert_eq!(base, hash(json!([{"name": "a", "image": "a:2"}])));
        assert_ne!(base, hash(json!([{"name": "a", "image": "a:1", "args": ["x"]}])));
    }

    #[test]
    fn fields_that_do_not_shape_a_pod_are_not_hashed() {
        let a = template(&json!([{"name": "a", "image": "a:1"}]));
        let mut other =
            spec(json!({"selector": {"matchLabels": {"x": "y"}}, "containers": [{"name": "a", "image": "a:1"}]}));
        other.update_strategy.paused = true;
        assert_eq!(Template::of(&other).hash(0), a.hash(0));
    }

    #[test]
    fn data_is_read_back_as_it_was_written() {
        let template = template(&json!([{"name": "a", "image": "a:1"}]));
        let read = Template::from_data(&template.data());
        assert_eq!(read.as_ref().map(|read| read.hash(0)), Some(template.hash(0)));
        assert_eq!(read, Some(template));
        assert_eq!(Template::from_data(&json!({"x": 1})), None);
    }
}
