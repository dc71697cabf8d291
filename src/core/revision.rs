//! Revisions: the part of a set that shapes a pod, its hash, and what changed between two of them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::api::{SidecarSet, SidecarSetSpec, keys};
use crate::core::base::resources;

/// Hex digits of a revision hash. 40 bits: a collision within one set's history is beyond reach, and is handled.
const HASH_DIGITS: usize = 10;

/// Fields of the spec that shape a pod. The hash covers them and nothing else.
const TEMPLATE_FIELDS: [&str; 6] =
    ["containers", "imagePullSecrets", "initContainers", "patchPodMetadata", "resources", "volumes"];

/// One of the two container lists of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// `spec.initContainers`
    Init,
    /// `spec.containers`
    Ordinary,
}

impl List {
    /// Both lists, in the order in which their containers start.
    pub const ALL: [Self; 2] = [Self::Init, Self::Ordinary];

    /// Name of the list in the spec of a set and of a pod.
    pub fn field(self) -> &'static str {
        match self {
            Self::Init => "initContainers",
            Self::Ordinary => "containers",
        }
    }

    /// Name of the list in the status of a pod.
    pub fn status_field(self) -> &'static str {
        match self {
            Self::Init => "initContainerStatuses",
            Self::Ordinary => "containerStatuses",
        }
    }
}

/// A sidecar of a template, as far as upgrades look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// Where it stands.
    pub list: List,
    /// Container name.
    pub name: String,
    /// Image as written in the set.
    pub image: String,
    /// False for a plain init container, which has ended long before an upgrade.
    pub long_running: bool,
    /// Upgraded by handing over to a twin: in the pod stand `<name>-1` and `<name>-2`.
    pub hot: bool,
    /// Image of the twin that idles; empty if there are no twins.
    pub idle_image: String,
}

impl Sidecar {
    /// Names of its containers in a pod.
    pub fn container_names(&self) -> Vec<String> {
        if self.hot { keys::twins(&self.name).into() } else { vec![self.name.clone()] }
    }
}

/// `status.collisionCount`, 0 if unset: an argument of [`Template::hash`].
pub fn collisions(set: &SidecarSet) -> i32 {
    set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
}

/// True for an entry of a template with `upgradeType: HotUpgrade`.
pub fn is_hot(entry: &Value) -> bool {
    entry["upgradeStrategy"]["upgradeType"] == "HotUpgrade"
}

/// A stored revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// Its template.
    pub template: Template,
    /// `revision`: larger is newer.
    pub number: i64,
    /// UID of the set that owns it.
    pub owner: Option<String>,
    /// `spec.customVersion` of the set when it had this template.
    pub custom_version: Option<String>,
}

/// The revisions of one set, by hash.
pub type History = BTreeMap<String, Revision>;

impl Revision {
    /// Reads a `ControllerRevision`: name of the set, hash, and the revision. `None` if this program did not write it.
    pub fn read(object: &ControllerRevision) -> Option<(String, String, Self)> {
        let (set, hash) = set_and_hash(object)?;
        let revision = Self {
            template: Template::from_data(&object.data.as_ref()?.0)?,
            number: object.revision,
            owner: object.owner_references().first().map(|owner| owner.uid.clone()),
            custom_version: object.labels().get(keys::CUSTOM_VERSION).cloned(),
        };
        Some((set, hash, revision))
    }
}

/// Name of the set and hash of a `ControllerRevision`.
pub fn set_and_hash(object: &ControllerRevision) -> Option<(String, String)> {
    let set = object.labels().get(keys::SET)?.clone();
    let hash = object.name_any().strip_prefix(&format!("{set}-"))?.to_owned();
    Some((set, hash))
}

/// The part of a set that shapes a pod: `{"containers":[…],"initContainers":[…],"volumes":[…],…}` without absent fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Value);

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
        Self(Value::Object(template))
    }

    /// Reads the data of a `ControllerRevision`; `None` if this program did not write it.
    pub fn from_data(data: &Value) -> Option<Self> {
        data.get("spec").filter(|spec| spec.is_object()).cloned().map(Self)
    }

    /// The data of a `ControllerRevision`.
    pub fn data(&self) -> Value {
        json!({ "spec": self.0 })
    }

    /// Hash of the canonical JSON: sorted keys, no absent fields, so that it does not depend on the program's version.
    /// `collisions` makes another hash where the name of this one was taken by other data.
    pub fn hash(&self, collisions: i32) -> String {
        let mut canonical = String::new();
        write_canonical(&self.0, &mut canonical);
        let mut digest = Sha256::new();
        digest.update(canonical.as_bytes());
        if collisions > 0 {
            digest.update(collisions.to_be_bytes());
        }
        let hex = format!("{:x}", digest.finalize());
        hex[..HASH_DIGITS].to_owned()
    }

    /// Hash of all but the images: where it is equal, nothing else differs. It stands on each pod, for the time when the
    /// set's history does not know the pod's revision any more, because the set was deleted and created again.
    pub fn shape(&self) -> String {
        let mut template = self.0.clone();
        for list in List::ALL {
            for entry in template.get_mut(list.field()).and_then(Value::as_array_mut).into_iter().flatten() {
                entry.as_object_mut().map(|entry| entry.remove("image"));
            }
        }
        Self(template).hash(0)
    }

    /// The entries of one list, as written in the set.
    pub fn entries(&self, field: &str) -> impl Iterator<Item = &Value> {
        self.0.get(field).and_then(Value::as_array).into_iter().flatten()
    }

    /// One field; null if it is absent.
    pub fn field(&self, field: &str) -> &Value {
        &self.0[field]
    }

    /// All sidecars, init containers first.
    pub fn sidecars(&self) -> impl Iterator<Item = Sidecar> {
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        List::ALL.into_iter().flat_map(move |list| {
            self.entries(list.field()).map(move |entry| Sidecar {
                list,
                name: text(entry, "name"),
                image: text(entry, "image"),
                long_running: list == List::Ordinary || entry["restartPolicy"] == "Always",
                hot: is_hot(entry),
                idle_image: text(&entry["upgradeStrategy"], "hotUpgradeEmptyImage"),
            })
        })
    }

    /// What must happen to a pod of this revision to bring it to `target`.
    pub fn change_to(&self, target: &Self) -> Change {
        for field in TEMPLATE_FIELDS {
            if let Some(path) = difference(self, target, field) {
                return Change::NotInPlace(path);
            }
        }
        Change::InPlace
    }
}

/// Difference between two templates, from the view of a running pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing but images, resources and pod metadata differ; Kubernetes lets them be changed on a running pod.
    InPlace,
    /// Something else differs; the text names it, for example `containers[agent].env changed`.
    NotInPlace(String),
}

/// Name of the `ControllerRevision`: `<set>-<hash>`.
pub fn name(set: &str, hash: &str) -> String {
    format!("{set}-{hash}")
}

fn difference(from: &Template, to: &Template, field: &str) -> Option<String> {
    // Any pod's metadata can be changed.
    if field == "patchPodMetadata" {
        return None;
    }
    let is_container = matches!(field, "containers" | "initContainers");
    if !is_container {
        return (from.0.get(field) != to.0.get(field)).then(|| format!("{field} changed"));
    }
    let name = |entry: &Value| entry["name"].as_str().unwrap_or_default().to_owned();
    for entry in to.entries(field) {
        let Some(before) = from.entries(field).find(|before| before["name"] == entry["name"]) else {
            return Some(format!("{field}[{}] was added", name(entry)));
        };
        if let Some(key) = first_difference(before, entry) {
            return Some(format!("{field}[{}].{key} changed", name(entry)));
        }
        if let Some(text) = resources_obstacle(to, field, before, entry) {
            return Some(format!("{field}[{}].{text}", name(entry)));
        }
    }
    let gone = from.entries(field).find(|before| !to.entries(field).any(|entry| entry["name"] == before["name"]));
    if let Some(gone) = gone {
        return Some(format!("{field}[{}] was removed", name(gone)));
    }
    let order = |template: &Template| template.entries(field).map(name).collect::<Vec<_>>();
    (order(from) != order(to)).then(|| format!("the order of {field} changed"))
}

/// Why a running pod cannot follow this change of `resources`.
fn resources_obstacle(to: &Template, field: &str, before: &Value, after: &Value) -> Option<&'static str> {
    let plain = field == "initContainers" && after["restartPolicy"] != "Always";
    let shared = to.field("resources")["mode"] == "SharedWithPod";
    match resources::difference(before, after) {
        None if before["resources"] == after["resources"] => None,
        None if plain => Some("resources changed: a plain init container cannot be resized"),
        None if shared => Some("resources changed: with mode SharedWithPod they depend on those of the pod"),
        other => other,
    }
}

fn first_difference(before: &Value, after: &Value) -> Option<String> {
    let (before, after) = (before.as_object()?, after.as_object()?);
    let keys = after.keys().chain(before.keys().filter(|key| !after.contains_key(*key)));
    keys.filter(|key| !matches!(key.as_str(), "image" | "resources"))
        .find(|key| before.get(*key) != after.get(*key))
        .cloned()
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

/// `serde_json` sorts keys only without its `preserve_order` feature, which any dependency may switch on.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_canonical(&map[key], out);
            }
            out.push('}');
        }
        Value::Array(list) => {
            out.push('[');
            for (i, entry) in list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(entry, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
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

    #[test]
    fn the_hash_of_a_template_never_changes() {
        let golden = spec(json!({
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": "agent", "image": "agent:1", "env": [{"name": "A", "value": "1"}],
                "resources": {"limits": {"cpu": 1}}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "initContainers": [{"name": "init", "image": "init:1", "restartPolicy": "Always", "startupProbe": null}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        }));
        assert_eq!(Template::of(&golden).hash(0), "65634f297e");
        assert_ne!(Template::of(&golden).hash(1), Template::of(&golden).hash(0));
    }

    #[test]
    fn the_shape_of_a_template_is_all_but_its_images_and_never_changes() {
        let shape = |containers| template(&containers).shape();
        let golden = shape(json!([{"name": "a", "image": "a:1"}]));
        assert_eq!(golden, "6ed38a7dab");
        assert_eq!(golden, shape(json!([{"name": "a", "image": "a:2"}])));
        assert_ne!(golden, shape(json!([{"name": "a", "image": "a:1", "args": ["x"]}])));
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
    fn images_change_in_place_and_everything_else_does_not() {
        let base = template(&json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]));
        let cases = [
            (json!([{"name": "a", "image": "a:2"}, {"name": "b", "image": "b:1"}]), None),
            (
                json!([{"name": "a", "image": "a:1", "tty": true}, {"name": "b", "image": "b:1"}]),
                Some("containers[a].tty changed"),
            ),
            (
                json!([{"name": "a", "image": "a:1", "resources": {"limits": {"cpu": "1"}}}, {"name": "b", "image": "b:1"}]),
                None,
            ),
            (
                json!([{"name": "a", "image": "a:1", "resources": {"limits": {"ephemeral-storage": "1Gi"}}}, {"name": "b", "image": "b:1"}]),
                Some("containers[a].resources changed in more than cpu and memory"),
            ),
            (json!([{"name": "a", "image": "a:1"}]), Some("containers[b] was removed")),
            (
                json!([{"name": "b", "image": "b:1"}, {"name": "a", "image": "a:1"}]),
                Some("the order of containers changed"),
            ),
            (
                json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}, {"name": "c", "image": "c"}]),
                Some("containers[c] was added"),
            ),
        ];
        for (containers, expected) in cases {
            let expected = expected.map_or(Change::InPlace, |text| Change::NotInPlace(text.to_owned()));
            assert_eq!(base.change_to(&template(&containers)), expected, "{containers}");
        }
    }

    #[test]
    fn data_is_read_back_as_it_was_written() {
        let template = template(&json!([{"name": "a", "image": "a:1"}]));
        assert_eq!(Template::from_data(&template.data()), Some(template));
        assert_eq!(Template::from_data(&json!({"x": 1})), None);
    }
}
