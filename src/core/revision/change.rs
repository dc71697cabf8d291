//! What a change of a template means for a running pod.

use serde_json::Value;

use super::template::{TEMPLATE_FIELDS, Template};
use crate::core::base::image::Image;
use crate::core::base::resources;

/// Difference between two templates, from the view of a running pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing but images, resources and pod metadata differ; Kubernetes lets them be changed on a running pod.
    InPlace,
    /// Something else differs; the text names it, for example `containers[agent].env changed`.
    NotInPlace(String),
}

impl Template {
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

fn difference(from: &Template, to: &Template, field: &str) -> Option<String> {
    // Any pod's metadata can be changed.
    if field == "patchPodMetadata" {
        return None;
    }
    let is_container = matches!(field, "containers" | "initContainers");
    if !is_container {
        return from.differs_in(field, to).then(|| format!("{field} changed"));
    }
    let name = |entry: &Value| entry["name"].as_str().unwrap_or_default().to_owned();
    for entry in to.canonical_entries(field) {
        let Some(before) = from.canonical_entries(field).find(|before| before["name"] == entry["name"]) else {
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
    let keys = |entry: &'_ Value| -> Vec<String> {
        entry.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let differs = |key: &String| match key.as_str() {
        "image" | "resources" => false,
        // What is left out of both is the default, whatever image it depends on.
        "imagePullPolicy" => before[key] != after[key] && pull_policy(before) != pull_policy(after),
        key => before[key] != after[key],
    };
    keys(after).into_iter().chain(keys(before)).find(differs)
}

/// The policy of a container, named or by default.
fn pull_policy(entry: &Value) -> &str {
    let default = Image::parse(entry["image"].as_str().unwrap_or_default()).default_pull_policy();
    entry["imagePullPolicy"].as_str().unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(containers: &Value) -> Template {
        Template::from_data(&json!({"spec": {"containers": containers}})).unwrap()
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
    fn a_spelling_is_no_change_and_keeps_no_image_from_changing_in_place() {
        let change = |before: Value, after: Value| template(&json!([before])).change_to(&template(&json!([after])));
        for (before, after) in [
            (
                json!({"image": "a:1"}),
                json!({"image": "a:2", "imagePullPolicy": "IfNotPresent", "securityContext": {}}),
            ),
            (
                json!({"image": "a:1", "ports": [{"containerPort": 1}]}),
                json!({"image": "a:2", "ports": [{"containerPort": 1, "protocol": "TCP"}]}),
            ),
            (json!({"image": "a"}), json!({"image": "a:2"})),
            (json!({"image": "a"}), json!({"image": "a:2", "imagePullPolicy": "Always"})),
            (json!({"image": "a:1", "imagePullPolicy": "Always"}), json!({"image": "a", "imagePullPolicy": "Always"})),
            (
                json!({"image": "a:1", "resources": {"limits": {"ephemeral-storage": "1Gi"}}}),
                json!({"image": "a:2", "resources": {"limits": {"ephemeral-storage": "1024Mi"}}}),
            ),
        ] {
            assert_eq!(change(before.clone(), after.clone()), Change::InPlace, "{before} {after}");
        }
        let (before, after) =
            (json!({"name": "a", "image": "a:1"}), json!({"name": "a", "image": "a:1", "imagePullPolicy": "Always"}));
        let changed = Change::NotInPlace("containers[a].imagePullPolicy changed".to_owned());
        assert_eq!((change(before.clone(), after.clone()), change(after, before)), (changed.clone(), changed));
    }
}
