//! Volumes: what a set's volume becomes in a pod, and whether two of one name are the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::compile::drop_zero_values;
use super::converge::covers;
use super::draft::{VOLUMES, containers};
use super::placement::Placement;
use crate::core::revision::mounted_volumes;

/// Volume sources whose `defaultMode` the apiserver sets (`k8s.io/kubernetes/pkg/apis/core/v1/defaults.go`).
const WITH_MODE: [&str; 4] = ["secret", "configMap", "downwardAPI", "projected"];

/// That default.
const DEFAULT_MODE: i64 = 0o644;

/// Seconds that a projected service account token lives by default.
const TOKEN_SECONDS: i64 = 3600;

impl Placement<'_> {
    /// Adds the volumes of a set. `claimed`: those that an earlier set has in its mark.
    pub(super) fn place_volumes(&mut self, set: usize, claimed: &mut BTreeSet<String>) {
        let template = self.sets[set].template;
        for volume in &template.volumes {
            let name = volume["name"].as_str().unwrap_or_default();
            let ours = self.was_added(name);
            let index = self.draft.position(&VOLUMES, name);
            match index {
                None => self.draft.insert(&VOLUMES, usize::MAX, volume),
                Some(index) => {
                    let existing = &self.draft.pod()["spec"]["volumes"][index];
                    // One of this very revision may have got defaults since.
                    let has_defaults = ours && self.sets[set].is_current && covers(existing, volume, false);
                    if !same(existing, volume) && !has_defaults {
                        self.draft.replace(&VOLUMES, index, volume);
                    }
                }
            }
            if (ours || index.is_none()) && claimed.insert(name.to_owned()) {
                self.sets[set].mark.volumes.push(name.to_owned());
            }
        }
        // Those of another revision.
        for volume in self.marks.by_set.get(&self.sets[set].set.name).iter().flat_map(|mark| &mark.volumes) {
            if !is_mounted(self.draft.pod(), volume) {
                self.draft.remove_named(&VOLUMES, volume);
            }
        }
    }
}

/// Whether a container of the pod mounts the volume.
pub(super) fn is_mounted(pod: &Value, volume: &str) -> bool {
    containers(pod).any(|(_, container)| mounted_volumes(container).any(|name| name == volume))
}

/// Whether two volumes are the same; that of a pod has the apiserver's defaults, that of a set has not.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    let (a, b) = (with_defaults(a), with_defaults(b));
    covers(&a, &b, false) && covers(&b, &a, false) && sources(&a).eq(sources(&b))
}

/// `covers` forgives absent empty objects, but `emptyDir: {}` is a choice.
fn sources(volume: &Value) -> impl Iterator<Item = &String> {
    volume.as_object().into_iter().flat_map(serde_json::Map::keys)
}

fn with_defaults(volume: &Value) -> Value {
    let mut volume = volume.clone();
    drop_zero_values(&mut volume);
    for source in WITH_MODE {
        set_default(&mut volume[source], "defaultMode", &json!(DEFAULT_MODE));
    }
    for items in ["/downwardAPI/items", "/projected/sources"] {
        for item in volume.pointer_mut(items).and_then(Value::as_array_mut).into_iter().flatten() {
            item_defaults(item);
        }
    }
    if let Some(fields) = volume.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    volume
}

fn item_defaults(item: &mut Value) {
    for nested in item.pointer_mut("/downwardAPI/items").and_then(Value::as_array_mut).into_iter().flatten() {
        item_defaults(nested);
    }
    for (object, field, default) in
        [("fieldRef", "apiVersion", json!("v1")), ("serviceAccountToken", "expirationSeconds", json!(TOKEN_SECONDS))]
    {
        if let Some(object) = item.get_mut(object) {
            set_default(object, field, &default);
        }
    }
}

fn set_default(object: &mut Value, field: &str, default: &Value) {
    if let Some(object) = object.as_object_mut() {
        object.entry(field).or_insert_with(|| default.clone());
    }
}
