//! What a change of a template means for a running pod.

use serde_json::Value;

use super::template::{TEMPLATE_FIELDS, Template};
use crate::api::image::{Image, same_image};
use crate::core::base::lists::List;
use crate::core::base::resources;

/// Difference between two templates, from the view of a running pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A running pod has nothing of what differs, such as the image of a plain init container, which has run its course.
    /// It is left as it is; new pods get the new template.
    Nothing,
    /// Nothing but images, resources and pod metadata differ; Kubernetes lets them be changed on a running pod.
    InPlace,
    /// Something else differs; the text names it, for example `containers[agent].env changed`.
    NotInPlace(String),
}

impl Template {
    /// What must happen to a pod of this revision to bring it to `target`.
    pub(crate) fn change_to(&self, target: &Self) -> Change {
        if let Some(obstacle) = TEMPLATE_FIELDS.iter().find_map(|field| obstacle(self, target, field)) {
            return Change::NotInPlace(obstacle);
        }
        let differs = List::ALL.into_iter().any(|list| differs_in_place(self, target, list));
        if differs || self.differs_in("patchPodMetadata", target) { Change::InPlace } else { Change::Nothing }
    }
}

/// What of a field no running pod can follow.
fn obstacle(from: &Template, to: &Template, field: &str) -> Option<String> {
    match field {
        "containers" => containers_obstacle(from, to, List::Ordinary),
        "initContainers" => containers_obstacle(from, to, List::Init),
        "volumes" => volumes_obstacle(from, to),
        // Any pod's metadata can be changed; and a Job's pod stays what it was made.
        "patchPodMetadata" | "jobPods" => None,
        _ => from.differs_in(field, to).then(|| format!("{field} changed")),
    }
}

fn containers_obstacle(from: &Template, to: &Template, list: List) -> Option<String> {
    let field = list.field();
    for entry in to.running(list) {
        let Some(before) = find(from.canonical_entries(field), entry) else {
            return Some(format!("{field}[{}] was added", name(entry)));
        };
        if let Some(key) = first_difference(before, entry) {
            return Some(format!("{field}[{}].{key} changed", name(entry)));
        }
        if let Some(text) = resources_obstacle(to, before, entry) {
            return Some(format!("{field}[{}].{text}", name(entry)));
        }
    }
    if let Some(gone) = from.running(list).find(|before| find(to.running(list), before).is_none()) {
        return Some(format!("{field}[{}] was removed", name(gone)));
    }
    let order = |template: &Template| template.running(list).map(name).map(str::to_owned).collect::<Vec<_>>();
    (order(from) != order(to)).then(|| format!("the order of {field} changed"))
}

/// Only the volumes that running containers mount are looked at.
fn volumes_obstacle(from: &Template, to: &Template) -> Option<String> {
    let volume = |template: &Template, name: &str| {
        template.canonical_entries("volumes").find(|volume| volume["name"] == *name).cloned()
    };
    let differs = |name: &&str| volume(from, name) != volume(to, name);
    to.running_volumes().into_iter().find(differs).map(|name| format!("volumes[{name}] changed"))
}

/// Whether what Kubernetes lets be changed differs between the containers of a list that run.
fn differs_in_place(from: &Template, to: &Template, list: List) -> bool {
    to.running(list).any(|entry| {
        find(from.running(list), entry).is_none_or(|before| {
            let image = |entry: &Value| entry["image"].as_str().unwrap_or_default().to_owned();
            !same_image(&image(before), &image(entry)) || before["resources"] != entry["resources"]
        })
    })
}

fn find<'a>(mut entries: impl Iterator<Item = &'a Value>, like: &Value) -> Option<&'a Value> {
    entries.find(|entry| entry["name"] == like["name"])
}

fn name(entry: &Value) -> &str {
    entry["name"].as_str().unwrap_or_default()
}

/// Why a running pod cannot follow this change of `resources`.
fn resources_obstacle(to: &Template, before: &Value, after: &Value) -> Option<&'static str> {
    let shared = to.field("resources")["mode"] == "SharedWithPod";
    match resources::difference(before, after) {
        None if before["resources"] == after["resources"] => None,
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

    fn of(spec: &Value) -> Template {
        Template::from_data(&json!({ "spec": spec })).unwrap()
    }

    fn template(containers: &Value) -> Template {
        of(&json!({ "containers": containers }))
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

    /// `prepare` is a plain init container, which mounts `seed`; `proxy` is a native sidecar.
    fn mesh(prepare: &Value, proxy: &str, seed: &str) -> Template {
        let mut init =
            json!({"name": "prepare", "image": "prepare:1", "volumeMounts": [{"name": "seed", "mountPath": "/s"}]});
        init.as_object_mut().unwrap().extend(prepare.as_object().unwrap().clone());
        let proxy = json!({"name": "proxy", "image": proxy, "restartPolicy": "Always"});
        let volumes = json!([{"name": "seed", "configMap": {"name": seed}}]);
        of(
            &json!({"initContainers": [init, proxy], "containers": [{"name": "agent", "image": "agent:1"}], "volumes": volumes}),
        )
    }

    #[test]
    fn running_pods_have_nothing_of_a_plain_init_container() {
        let base = mesh(&json!({}), "proxy:1", "a");
        let without = of(&json!({
            "initContainers": [{"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}],
            "containers": [{"name": "agent", "image": "agent:1"}],
        }));
        let changed = [
            mesh(&json!({"image": "prepare:2"}), "proxy:1", "a"),
            mesh(
                &json!({"args": ["x"], "resources": {"limits": {"cpu": "1", "ephemeral-storage": "1Gi"}}}),
                "proxy:1",
                "a",
            ),
            mesh(&json!({"name": "other"}), "proxy:1", "a"),
            mesh(&json!({}), "proxy:1", "b"),
            mesh(&json!({}), "docker.io/library/proxy:1", "a"),
            without,
        ];
        for after in &changed {
            for (from, to) in [(&base, after), (after, &base)] {
                assert_eq!(from.change_to(to), Change::Nothing, "{to:?}");
                assert_eq!(from.hash_without_images(), to.hash_without_images(), "{to:?}");
            }
        }
        let upgrade = mesh(&json!({"image": "prepare:2", "env": [{"name": "A", "value": "1"}]}), "proxy:2", "b");
        assert_eq!(base.change_to(&upgrade), Change::InPlace);
        assert_eq!(upgrade.change_to(&base), Change::InPlace);
    }

    #[test]
    fn what_begins_or_ceases_to_run_is_no_plain_init_container() {
        let (plain, native) =
            (mesh(&json!({}), "proxy:1", "a"), mesh(&json!({"restartPolicy": "Always"}), "proxy:1", "a"));
        let changed = |text: &str| Change::NotInPlace(text.to_owned());
        assert_eq!(plain.change_to(&native), changed("initContainers[prepare].restartPolicy changed"));
        assert_eq!(native.change_to(&plain), changed("initContainers[prepare] was removed"));
        assert_ne!(plain.hash_without_images(), native.hash_without_images());
    }

    #[test]
    fn a_volume_matters_to_those_that_mount_it() {
        let volume = |source: &str, mounts: Value| {
            of(&json!({"containers": [{"name": "a", "image": "a:1", "volumeMounts": mounts}],
                "volumes": [{"name": "other", "emptyDir": {}}, {"name": "v", "configMap": {"name": source}}]}))
        };
        let mounts = || json!([{"name": "v", "mountPath": "/v"}]);
        let changed = Change::NotInPlace("volumes[v] changed".to_owned());
        assert_eq!(volume("a", mounts()).change_to(&volume("b", mounts())), changed);
        assert_eq!(volume("a", json!([])).change_to(&volume("b", json!([]))), Change::Nothing, "it reaches no pod");
    }
}
