//! What the JSON of a pod says of the controller that makes it.

use serde_json::{Value, json};

/// The owner reference of the controller.
pub(crate) fn controller(pod: &Value) -> Option<&Value> {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().find(|owner| owner["controller"] == true)
}

/// Gives a pod the volumes that a `StatefulSet` makes of its `volumeClaimTemplates`: one of each name, in the place of the
/// template's own.
pub(crate) fn add_claims<'a>(pod: &mut Value, claims: impl Iterator<Item = &'a str>) {
    for claim in claims {
        let volume = json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}});
        if pod["spec"]["volumes"].is_null() {
            pod["spec"]["volumes"] = json!([]);
        }
        let Some(volumes) = pod["spec"]["volumes"].as_array_mut() else { continue };
        match volumes.iter().position(|volume| volume["name"] == claim) {
            Some(index) => volumes[index] = volume,
            None => volumes.push(volume),
        }
    }
}
