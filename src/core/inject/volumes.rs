//! Whether two volumes of one name are the same: the pod's has the apiserver's defaults, the set's has not.

use serde_json::{Value, json};

use super::compile::drop_zero_values;
use super::converge::covers;

/// Volume sources whose `defaultMode` the apiserver sets (`k8s.io/kubernetes/pkg/apis/core/v1/defaults.go`).
const WITH_MODE: [&str; 4] = ["secret", "configMap", "downwardAPI", "projected"];

/// That default.
const DEFAULT_MODE: i64 = 0o644;

/// Seconds that a projected service account token lives by default.
const TOKEN_SECONDS: i64 = 3600;

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
