//! What a sidecar takes over from the pod's own containers: volume mounts, volume devices, environment variables. What
//! it has itself wins, and what could not mean the same in it is left out.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::patch::{elements, strings};
use super::variables::{Environment, Variables, references};
use crate::api::v1beta1::{SharePolicy, ShareType, SidecarContainer, TransferEnv};
use crate::api::validate::field_reference;

/// `shareVolumePolicy`, `shareVolumeDevicePolicy` and `transferEnv` of one sidecar.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    volumes: bool,
    devices: bool,
    env: Vec<TransferEnv>,
}

/// The pod's own containers.
pub(super) struct Sources<'a> {
    pub(super) containers: Vec<&'a Value>,
    pub(super) init_containers: Vec<&'a Value>,
}

impl Shares {
    pub(super) fn of(entry: &SidecarContainer) -> Self {
        let enabled =
            |policy: &Option<SharePolicy>| policy.as_ref().is_some_and(|policy| policy.type_ == ShareType::Enabled);
        Self {
            volumes: enabled(&entry.share_volume_policy),
            devices: enabled(&entry.share_volume_device_policy),
            env: entry.transfer_env.clone(),
        }
    }

    /// Adds to `container` what it takes over. What it has itself wins. Returns what was asked for and is not there.
    pub(super) fn apply(&self, container: &mut Value, pod: &Value, sources: &Sources<'_>) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.volumes && !self.devices && self.env.is_empty() {
            return notes;
        }
        let mut environment = Environment::of(container);
        // The application's containers first: of two mounts at one path theirs is the one that people mean.
        let all = || sources.containers.iter().chain(&sources.init_containers).copied();
        let mut variables: Vec<Variables<'_>> = all().map(Variables::of).collect();
        // What the set names goes before what comes along.
        let (ordinary, _) = variables.split_at_mut(sources.containers.len());
        for transfer in &self.env {
            transfer_env(&mut environment, pod, ordinary, transfer, &mut notes);
        }
        let mut taken = Taken::of(container);
        if self.volumes {
            for from in &mut variables {
                share_mounts(container, &mut environment, from, &mut taken, &mut notes);
            }
        }
        if self.devices {
            all().for_each(|source| share_devices(container, source, &mut taken, &mut notes));
        }
        environment.write(container);
        notes
    }
}

/// Takes out mounts whose `subPathExpr` needs a variable that the sidecar does not have in this pod: it would never start.
/// Returns what was left out.
pub(super) fn drop_mounts_without_variables(container: &mut Value) -> Vec<String> {
    let (mut kept, mut notes, variables) = (Vec::new(), Vec::new(), Variables::of(container));
    for mount in elements(container, &["volumeMounts"]) {
        let names = references(mount["subPathExpr"].as_str().unwrap_or_default());
        match names.into_iter().find(|name| !variables.may_have(name)) {
            None => kept.push(mount.clone()),
            Some(name) => notes.push(format!(
                "the mount of volume {} at {} is left out: the sidecar has no environment variable {name:?}",
                mount["name"], mount["mountPath"]
            )),
        }
    }
    if !notes.is_empty() {
        container["volumeMounts"] = Value::Array(kept);
    }
    notes
}

/// What a container has: the API server refuses a volume that is there as a mount and as a device, or as two devices.
struct Taken {
    paths: BTreeSet<String>,
    mounts: BTreeSet<String>,
    devices: BTreeSet<String>,
}

impl Taken {
    fn of(container: &Value) -> Self {
        let all = |list: &'static str, field: &'static str| {
            elements(container, &[list]).filter_map(move |mount| mount[field].as_str())
        };
        let paths = all("volumeMounts", "mountPath").chain(all("volumeDevices", "devicePath"));
        Self {
            paths: paths.map(clean).collect(),
            mounts: all("volumeMounts", "name").map(str::to_owned).collect(),
            devices: all("volumeDevices", "name").map(str::to_owned).collect(),
        }
    }
}

/// `/logs/` and `/logs` are one place.
fn clean(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { path.to_owned() } else { trimmed.to_owned() }
}

fn share_mounts(
    container: &mut Value,
    environment: &mut Environment,
    from: &mut Variables<'_>,
    taken: &mut Taken,
    notes: &mut Vec<String>,
) {
    for mount in elements(from.container, &["volumeMounts"]) {
        let path = clean(mount["mountPath"].as_str().unwrap_or_default());
        let volume = mount["name"].as_str().unwrap_or_default();
        if taken.paths.contains(&path) {
            continue;
        }
        if taken.devices.contains(volume) {
            notes.push(format!("the mount of volume {volume:?} is not shared: the sidecar has it as a device"));
            continue;
        }
        // A container whose subPathExpr names a variable that it has not is never started.
        let names = references(mount["subPathExpr"].as_str().unwrap_or_default());
        if let Err(why) = environment.take(from, &names) {
            notes.push(format!("the mount of volume {volume:?} at {path} is not shared: {why}"));
            continue;
        }
        taken.paths.insert(path);
        taken.mounts.insert(volume.to_owned());
        let mut mount = mount.clone();
        // The apiserver refuses Bidirectional in a container that is not privileged.
        if mount["mountPropagation"] == "Bidirectional" && container["securityContext"]["privileged"] != true {
            mount["mountPropagation"] = json!("HostToContainer");
        }
        push(container, "volumeMounts", mount);
    }
}

fn share_devices(container: &mut Value, source: &Value, taken: &mut Taken, notes: &mut Vec<String>) {
    for device in elements(source, &["volumeDevices"]) {
        let path = clean(device["devicePath"].as_str().unwrap_or_default());
        let volume = device["name"].as_str().unwrap_or_default();
        if taken.paths.contains(&path) {
            continue;
        }
        if taken.mounts.contains(volume) || !taken.devices.insert(volume.to_owned()) {
            let has = if taken.mounts.contains(volume) { "mounts it" } else { "has it already" };
            notes.push(format!("the device of volume {volume:?} at {path} is not shared: the sidecar {has}"));
            continue;
        }
        taken.paths.insert(path);
        push(container, "volumeDevices", device.clone());
    }
}

fn transfer_env(
    environment: &mut Environment,
    pod: &Value,
    sources: &mut [Variables<'_>],
    transfer: &TransferEnv,
    notes: &mut Vec<String>,
) {
    let name = match source_name(pod, transfer) {
        Ok(name) => name,
        Err(note) => return notes.push(note),
    };
    let Some(from) = sources.iter_mut().find(|source| source.container["name"] == name.as_str()) else {
        return notes.push(format!("the pod has no container {name:?} to take environment variables from"));
    };
    let wanted: BTreeSet<&String> = transfer.env_name.iter().chain(&transfer.env_names).collect();
    for variable in wanted {
        if !environment.owns(variable)
            && let Err(why) = environment.take(from, &[variable])
        {
            notes.push(format!("environment variable {variable:?} is not taken over: {why}"));
        }
    }
}

fn source_name(pod: &Value, transfer: &TransferEnv) -> Result<String, String> {
    let reference = transfer.source_container_name_from.as_ref().and_then(|from| from.field_ref.as_ref());
    let Some(reference) = reference else { return Ok(transfer.source_container_name.clone().unwrap_or_default()) };
    let path = &reference.field_path;
    let found = field_reference(path).and_then(|(map, key)| strings(&pod["metadata"][map]).remove(key));
    found.ok_or_else(|| format!("the pod has no {path} to name the container that environment variables come from"))
}

fn push(container: &mut Value, list: &str, element: Value) {
    match container[list].as_array_mut() {
        Some(elements) => elements.push(element),
        None => container[list] = json!([element]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(mut entry: Value, pod: &Value) -> (Value, Vec<String>) {
        entry["name"] = json!("c");
        let mut container = json!({"name": "c"});
        for field in ["env", "volumeMounts", "volumeDevices", "securityContext"] {
            if !entry[field].is_null() {
                container[field] = entry[field].clone();
            }
        }
        let list = |field: &str| elements(pod, &["spec", field]).collect();
        let sources = Sources { containers: list("containers"), init_containers: list("initContainers") };
        let notes = Shares::of(&serde_json::from_value(entry).unwrap()).apply(&mut container, pod, &sources);
        (container, notes)
    }

    fn mount(name: &str, path: &str) -> Value {
        json!({"name": name, "mountPath": path})
    }

    #[test]
    fn mounts_of_all_own_containers_are_shared_and_the_sidecars_own_win() {
        let pod = json!({"spec": {
            "containers": [{"name": "app", "volumeMounts": [mount("a", "/a"), mount("b", "/b/")]}],
            "initContainers": [{"name": "init", "volumeMounts": [mount("other", "/a/"), mount("c", "/c")]}],
        }});
        let entry = json!({"shareVolumePolicy": {"type": "enabled"}, "volumeMounts": [mount("own", "/b")]});
        let (container, notes) = apply(entry, &pod);
        assert_eq!(container["volumeMounts"], json!([mount("own", "/b"), mount("a", "/a"), mount("c", "/c")]));
        assert_eq!(notes, Vec::<String>::new());
    }

    #[test]
    fn a_mount_whose_variables_cannot_be_had_is_left_out() {
        let env = json!([{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
        let with_path =
            |path: &str, expression: &str| json!({"name": "v", "mountPath": path, "subPathExpr": expression});
        let mounts = [with_path("/v", "$(POD)/$$(NOT)"), with_path("/w", "$(POD)/$(GONE)")];
        let pod = json!({"spec": {"containers": [{"name": "app", "env": env, "volumeMounts": mounts}]}});
        let (container, notes) = apply(json!({"shareVolumePolicy": {"type": "enabled"}}), &pod);
        assert_eq!(container["env"], env);
        assert_eq!(container["volumeMounts"], json!([mounts[0]]));
        let why = r#"container "app" has no environment variable "GONE""#;
        assert_eq!(notes, [format!(r#"the mount of volume "v" at /w is not shared: {why}"#)]);
    }

    #[test]
    fn an_own_mount_whose_variable_is_not_there_is_left_out() {
        let with_path = |path: &str| json!({"name": "v", "mountPath": path, "subPathExpr": format!("$({path})")});
        let names = ["A", "WEB_SERVICE_HOST", "P_B", "C", "$(D"];
        let mounts: Vec<Value> = names.map(with_path).into_iter().collect();
        let mut container = json!({"env": [{"name": "A"}], "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
            "volumeMounts": mounts});
        let notes = drop_mounts_without_variables(&mut container);
        assert_eq!(
            notes,
            [
                r#"the mount of volume "v" at "C" is left out: the sidecar has no environment variable "C""#,
                r#"the mount of volume "v" at "$(D" is left out: the sidecar has no environment variable "$(D""#
            ]
        );
        assert_eq!(container["volumeMounts"], json!(mounts[..3]));
        assert_eq!(drop_mounts_without_variables(&mut container), Vec::<String>::new());
    }

    #[test]
    fn propagation_that_needs_privileges_is_weakened() {
        let both = json!({"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"});
        let pod = json!({"spec": {"containers": [{"name": "app", "volumeMounts": [both]}]}});
        let share = json!({"shareVolumePolicy": {"type": "enabled"}});
        let (container, _) = apply(share.clone(), &pod);
        assert_eq!(container["volumeMounts"][0]["mountPropagation"], "HostToContainer");
        let mut privileged = share;
        privileged["securityContext"] = json!({"privileged": true});
        assert_eq!(apply(privileged, &pod).0["volumeMounts"][0]["mountPropagation"], "Bidirectional");
    }

    #[test]
    fn devices_are_shared_where_no_mount_is() {
        let device = |name: &str, path: &str| json!({"name": name, "devicePath": path});
        let pod = json!({"spec": {"containers": [{"name": "app", "volumeDevices": [device("a", "/dev/a"), device("b", "/b")]}]}});
        let entry = json!({"shareVolumeDevicePolicy": {"type": "enabled"}, "volumeMounts": [mount("own", "/b")]});
        assert_eq!(apply(entry, &pod).0["volumeDevices"], json!([device("a", "/dev/a")]));
    }

    #[test]
    fn no_volume_is_shared_both_ways_or_as_two_devices() {
        let device = |name: &str, path: &str| json!({"name": name, "devicePath": path});
        let both = |name: &str, own: Value, mounts: &[Value], devices: &[Value], notes: usize| {
            let entry = json!({"shareVolumePolicy": {"type": "enabled"}, "shareVolumeDevicePolicy": {"type": "enabled"},
                "volumeMounts": own["volumeMounts"], "volumeDevices": own["volumeDevices"]});
            let pod = json!({"spec": {"containers": [
                {"name": "a", "volumeMounts": [mount("disk", "/disk")]},
                {"name": "b", "volumeDevices": [device("raw", "/dev/a"), device("disk", "/dev/b")]},
                {"name": "c", "volumeDevices": [device("raw", "/dev/c")]}]}});
            let (container, said) = apply(entry, &pod);
            assert_eq!(container["volumeMounts"].as_array().map_or(&[][..], Vec::as_slice), mounts, "{name}");
            assert_eq!(container["volumeDevices"].as_array().map_or(&[][..], Vec::as_slice), devices, "{name}");
            assert_eq!(said.len(), notes, "{name}: {said:?}");
        };
        both("nothing of its own", json!({}), &[mount("disk", "/disk")], &[device("raw", "/dev/a")], 2);
        let own = json!({"volumeMounts": [mount("raw", "/raw")]});
        both("a mount", own, &[mount("raw", "/raw"), mount("disk", "/disk")], &[], 3);
        let own = json!({"volumeDevices": [device("disk", "/dev/own")]});
        both("a device", own, &[], &[device("disk", "/dev/own"), device("raw", "/dev/a")], 3);
    }

    #[test]
    fn env_is_transferred_by_name_label_and_annotation() {
        let secret = json!({"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}});
        let pod = json!({
            "metadata": {"labels": {"main": "app"}, "annotations": {"x/y": "app"}},
            "spec": {"containers": [{"name": "app", "env": [{"name": "A", "value": "1"}, secret, {"name": "C", "value": "3"}]}],
                "initContainers": [{"name": "init", "env": [{"name": "D", "value": "4"}]}]},
        });
        let from = |path: &str| json!({"fieldRef": {"fieldPath": path}});
        let entry = json!({"env": [{"name": "C", "value": "own"}], "transferEnv": [
            {"sourceContainerName": "app", "envName": "A"},
            {"sourceContainerNameFrom": from("metadata.labels['main']"), "envNames": ["B", "C"]},
            {"sourceContainerNameFrom": from("metadata.annotations['x/y']"), "envName": "gone"},
            {"sourceContainerNameFrom": from("metadata.labels['absent']"), "envName": "A"},
            {"sourceContainerName": "init", "envName": "D"},
        ]});
        let (container, notes) = apply(entry, &pod);
        assert_eq!(container["env"], json!([{"name": "C", "value": "own"}, {"name": "A", "value": "1"}, secret]));
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes[1].contains("metadata.labels['absent']") && notes[2].contains("\"init\""), "{notes:?}");
    }
}
