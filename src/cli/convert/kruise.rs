//! `OpenKruise` `SidecarSet`s. Fields of the same name keep their place; here is what else must happen.
//!
//! Source of the rules: the API types and webhooks of `OpenKruise` 1.9.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Draft, Notes, entries, take, valid_name};
use crate::api::keys;
use crate::cli::schema::is_empty;

pub(super) const V1ALPHA1: &str = "apps.kruise.io/v1alpha1";
pub(super) const V1BETA1: &str = "apps.kruise.io/v1beta1";

/// Label of a v1alpha1 set whose v1beta1 form is `spec.customVersion`.
const CUSTOM_VERSION: &str = "apps.kruise.io/sidecarset-custom-version";

/// Annotations that continue under our own keys.
const CANARY: [(&str, &str); 2] =
    [("apps.kruise.io/sidecarset-canary", keys::CANARY), ("apps.kruise.io/sidecarset-base", keys::BASE)];

/// Annotations that a program wrote, not a person: nobody misses them.
const WRITTEN_BY_PROGRAMS: [&str; 3] = [
    "kruise.io/sidecarset-hash",
    "kruise.io/sidecarset-hash-without-image",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// What `OpenKruise` does with environment variables of these names, and what does it here.
const CONVENTIONS: [(&str, &str); 2] = [
    (
        "KRUISE_TERMINATE_SIDECAR_",
        "only OpenKruise ends a sidecar with its Job: write jobPods: Native, or move the container to initContainers with restartPolicy: Always",
    ),
    (
        "KRUISE_CONTAINER_PRIORITY",
        "only OpenKruise starts containers by priority: use dependsOn, with a native sidecar where the next one must wait",
    ),
];

/// Of which specs something is said.
type Applies = fn(&Value) -> bool;

/// What is said of a field that keeps its place and means something else here.
const DIFFERENCES: [(&str, Applies, &str); 6] = [
    (
        "spec.initContainers",
        |spec| !list(spec, "initContainers").map(|container| container["name"].as_str()).is_sorted(),
        "start in the order of the list; OpenKruise sorts them by name",
    ),
    (
        "spec.patchPodMetadata",
        |spec| !is_empty(&spec["patchPodMetadata"]),
        "the operator's options say which keys are allowed; the ConfigMap kruise-configuration is not read",
    ),
    (
        "spec.injectionStrategy.failurePolicy",
        |_| true,
        "is Ignore by default: a pod starts without the sidecars when they cannot be injected; write Fail to refuse it, as \
         OpenKruise does",
    ),
    (
        "spec.injectionStrategy.newPods",
        |spec| spec["injectionStrategy"]["revision"].is_null(),
        "is FollowRollout by default: during a rollout a new pod may get the stable revision; write Latest to give it the \
         newest, as OpenKruise does",
    ),
    (
        "spec.updateStrategy.type",
        |spec| spec["updateStrategy"]["type"] == "NotUpdate" && has_native_sidecar(spec),
        "native sidecars are upgraded in place here: write RollingUpdate if you want that",
    ),
    (
        "spec.updateStrategy.failurePolicy",
        |spec| spec["updateStrategy"]["type"] != "NotUpdate",
        "is by default action Pause: a rollout stops when more than 10 % of the pods fail, or when failed pods fill \
         maxUnavailable; write action Ignore to go on, as OpenKruise does",
    ),
];

/// Limits of our schema.
const HISTORY: std::ops::RangeInclusive<i64> = 1..=1000;

pub(super) fn convert(object: &Value) -> Draft {
    let old_name = object["metadata"]["name"].as_str().unwrap_or_default();
    let name = valid_name(old_name);
    let mut notes = Notes::about(format!("SidecarSet/{name}"));
    if name.is_empty() {
        notes.refuse("metadata.name", "is missing or has no letter and no digit: write a name");
    } else if name != old_name {
        notes.say("metadata.name", format!("{old_name:?} is not a legal name: it is {name:?} now"));
    }
    let alpha = object["apiVersion"] == V1ALPHA1;
    let mut spec = object["spec"].clone();
    let metadata = metadata(object, &name, alpha, &mut spec, &mut notes);
    namespace(&mut spec, alpha, &mut notes);
    for list in ["initContainers", "containers"] {
        for (i, sidecar) in entries(&mut spec, list).enumerate() {
            container(sidecar, &format!("spec.{list}[{i}]"), &mut notes);
        }
    }
    unique_pull_secrets(&mut spec);
    pod_metadata(&mut spec, &mut notes);
    history_limit(&mut spec, &mut notes);
    revision(&mut spec, &mut notes);
    update(&mut spec, &mut notes);
    for (path, _, message) in DIFFERENCES.iter().filter(|(_, applies, _)| applies(&spec)) {
        notes.say(*path, *message);
    }
    Draft { metadata, spec: Some(spec), notes }
}

fn list<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    object[field].as_array().into_iter().flatten()
}

fn has_native_sidecar(spec: &Value) -> bool {
    list(spec, "initContainers").any(|container| container["restartPolicy"] == "Always")
}

/// The name, and those labels and annotations that mean something here.
fn metadata(object: &Value, name: &str, alpha: bool, spec: &mut Value, notes: &mut Notes) -> Map<String, Value> {
    let mut metadata = Map::from_iter([("name".to_owned(), json!(name))]);
    for list in ["labels", "annotations"] {
        let mut kept = Map::new();
        for (key, value) in object["metadata"][list].as_object().into_iter().flatten() {
            let path = format!("metadata.{list}[{key}]");
            if let Some((_, ours)) = CANARY.iter().find(|(theirs, _)| key == theirs && list == "annotations") {
                kept.insert((*ours).to_owned(), value.clone());
                notes.say(path, format!("is {ours} now"));
            } else if alpha && list == "labels" && key == CUSTOM_VERSION {
                spec["customVersion"] = value.clone();
                notes.say(path, "is spec.customVersion now");
            } else if WRITTEN_BY_PROGRAMS.contains(&key.as_str()) {
            } else if is_kruise(key) {
                notes.say(path, "is OpenKruise's and has no meaning here: dropped");
            } else {
                kept.insert(key.clone(), value.clone());
            }
        }
        if !kept.is_empty() {
            metadata.insert(list.to_owned(), Value::Object(kept));
        }
    }
    for field in ["ownerReferences", "finalizers"] {
        if !object["metadata"][field].is_null() {
            notes.say(format!("metadata.{field}"), "belongs to the old object: dropped");
        }
    }
    metadata
}

fn is_kruise(key: &str) -> bool {
    key.split_once('/').is_some_and(|(domain, _)| domain == "kruise.io" || domain.ends_with(".kruise.io"))
}

/// v1alpha1 names one namespace in a field of its own, and that one wins.
fn namespace(spec: &mut Value, alpha: bool, notes: &mut Notes) {
    if alpha && let Some(namespace) = take(spec, "namespace").filter(|namespace| namespace != "") {
        if take(spec, "namespaceSelector").is_some() {
            let message = "spec.namespace is set too and wins, as it does in OpenKruise: the selector is dropped";
            notes.say("spec.namespaceSelector", message);
        }
        notes.say("spec.namespace", format!("is a namespaceSelector on the label {} now", keys::NAMESPACE_NAME));
        spec["namespaceSelector"] = json!({"matchLabels": {keys::NAMESPACE_NAME: namespace}});
    }
    let named = &spec["namespaceSelector"]["matchLabels"][keys::NAMESPACE_NAME];
    if let Some(excluded) = keys::EXCLUDED_NAMESPACES.iter().find(|name| named == *name) {
        notes.refuse("spec.namespaceSelector", format!("no set reaches {excluded}: the set would do nothing"));
    }
}

fn container(sidecar: &mut Value, path: &str, notes: &mut Notes) {
    upgrade_strategy(sidecar, path, notes);
    for field in ["shareVolumePolicy", "shareVolumeDevicePolicy"] {
        share_policy(sidecar, field, path, notes);
    }
    if sidecar["resourcesPolicy"].is_object() {
        let message = "a pod in which no container matches is left without the sidecar, or refused with \
                       injectionStrategy.failurePolicy: Fail; OpenKruise refuses it always";
        notes.say(format!("{path}.resourcesPolicy"), message);
    }
    environment(sidecar, path, notes);
}

/// Anything but `enabled` means disabled to `OpenKruise`.
fn share_policy(sidecar: &mut Value, field: &str, path: &str, notes: &mut Notes) {
    match sidecar[field]["type"].as_str().unwrap_or_default() {
        "enabled" if field == "shareVolumePolicy" => {
            let message = "shares the mounts of the application's init containers too, which OpenKruise does not";
            notes.say(format!("{path}.{field}"), message);
        }
        "enabled" | "disabled" => {}
        other => {
            if !other.is_empty() {
                notes.say(format!("{path}.{field}.type"), "is neither enabled nor disabled: dropped");
            }
            take(sidecar, field);
        }
    }
}

fn upgrade_strategy(sidecar: &mut Value, path: &str, notes: &mut Notes) {
    let Some(strategy) = sidecar.get_mut("upgradeStrategy") else { return };
    let is_hot = strategy["upgradeType"] == "HotUpgrade";
    if strategy["upgradeType"] == "" {
        take(strategy, "upgradeType");
    }
    if !is_hot && take(strategy, "hotUpgradeEmptyImage").is_some_and(|image| image != "") {
        notes.say(format!("{path}.upgradeStrategy.hotUpgradeEmptyImage"), "is used by HotUpgrade only: dropped");
    }
    if strategy.as_object().is_some_and(Map::is_empty) {
        take(sidecar, "upgradeStrategy");
    }
}

/// A name that stands twice is legal in a pod, where the last one counts; our list is keyed by name.
fn environment(sidecar: &mut Value, path: &str, notes: &mut Notes) {
    let Some(env) = sidecar.get_mut("env").and_then(Value::as_array_mut) else { return };
    let name = |variable: &Value| variable["name"].as_str().unwrap_or_default().to_owned();
    let mut seen = BTreeSet::new();
    env.reverse();
    env.retain(|variable| {
        let is_last = seen.insert(name(variable));
        if !is_last {
            notes.say(format!("{path}.env[{}]", name(variable)), "stands twice: the last one counts and is kept");
        }
        is_last
    });
    env.reverse();
    for name in env.iter().map(name) {
        for (_, message) in CONVENTIONS.iter().filter(|(prefix, _)| name.starts_with(prefix)) {
            notes.say(format!("{path}.env[{name}]"), *message);
        }
    }
}

/// Kubernetes merges equal names; our list is keyed by name.
fn unique_pull_secrets(spec: &mut Value) {
    if let Some(secrets) = spec.get_mut("imagePullSecrets").and_then(Value::as_array_mut) {
        let mut seen = BTreeSet::new();
        secrets.retain(|secret| seen.insert(secret["name"].as_str().unwrap_or_default().to_owned()));
    }
}

fn pod_metadata(spec: &mut Value, notes: &mut Notes) {
    let Some(patches) = spec.get_mut("patchPodMetadata").and_then(Value::as_array_mut) else { return };
    let mut index = 0;
    patches.retain_mut(|patch| {
        let path = format!("spec.patchPodMetadata[{index}]");
        index += 1;
        match patch["patchPolicy"].as_str() {
            None | Some("Retain" | "Overwrite" | "MergePatchJson") => {}
            Some("") => _ = take(patch, "patchPolicy"),
            Some(other) => {
                notes.say(&path, format!("patchPolicy {other:?} does nothing in OpenKruise: the entry is dropped"));
                return false;
            }
        }
        for key in patch["annotations"].as_object().into_iter().flat_map(Map::keys).filter(|key| is_kruise(key)) {
            notes.say(format!("{path}.annotations[{key}]"), "has a meaning to OpenKruise only");
        }
        true
    });
}

fn history_limit(spec: &mut Value, notes: &mut Notes) {
    let Some(limit) = spec["revisionHistoryLimit"].as_i64() else { return };
    let (least, most) = (*HISTORY.start(), *HISTORY.end());
    if !HISTORY.contains(&limit) {
        let clamped = limit.clamp(least, most);
        spec["revisionHistoryLimit"] = json!(clamped);
        notes.say("spec.revisionHistoryLimit", format!("{limit} is outside {least} to {most}: it is {clamped} now"));
    }
}

/// A revision is found by its customVersion; the names of OpenKruise's `ControllerRevision`s mean nothing here.
fn revision(spec: &mut Value, notes: &mut Notes) {
    const PATH: &str = "spec.injectionStrategy.revision";
    if spec["injectionStrategy"]["revision"].is_null() {
        return;
    }
    let percent = spec["updateStrategy"]["partition"].is_string();
    let strategy = &mut spec["injectionStrategy"];
    if strategy["revision"]["policy"] == "Partial" && percent {
        let message = "which pods get the fixed revision is never left to chance here; OpenKruise decides it by lot";
        notes.say(format!("{PATH}.policy"), message);
    }
    if let Some(name) = take(&mut strategy["revision"], "revisionName") {
        let message = format!(
            "{name} is a ControllerRevision of OpenKruise: dropped; apply the old template with a customVersion first, \
             then the new one, and name the customVersion here"
        );
        notes.say(format!("{PATH}.revisionName"), message);
    }
    match strategy["revision"]["customVersion"].as_str() {
        None | Some("") => _ = take(strategy, "revision"),
        Some(version) => {
            let message = format!("apply the template of {version:?} before this one: only then its revision exists");
            notes.say(format!("{PATH}.customVersion"), message);
            if strategy["revision"]["policy"].is_null() {
                strategy["revision"]["policy"] = json!("Always");
            }
        }
    }
}

fn update(spec: &mut Value, notes: &mut Notes) {
    if spec["updateStrategy"].is_null() {
        spec["updateStrategy"] = json!({});
    }
    let strategy = &mut spec["updateStrategy"];
    match strategy["type"].as_str() {
        None | Some("NotUpdate" | "RollingUpdate") => {}
        Some("") => _ = take(strategy, "type"),
        Some(other) => {
            let message = format!("{other:?} acts as RollingUpdate in OpenKruise: that is what it is now");
            notes.say("spec.updateStrategy.type", message);
            strategy["type"] = json!("RollingUpdate");
        }
    }
    partition(strategy, notes);
    max_unavailable(strategy, notes);
    if strategy.as_object().is_some_and(Map::is_empty) {
        take(spec, "updateStrategy");
    }
}

/// 0 is the same as absent, and must be absent beside a selector.
fn partition(strategy: &mut Value, notes: &mut Notes) {
    if strategy["partition"] == 0 {
        take(strategy, "partition");
    } else if !strategy["selector"].is_null() && take(strategy, "partition").is_some() {
        let message = "selector and partition exclude each other: the partition is dropped";
        notes.say("spec.updateStrategy.partition", message);
    }
    share(strategy, "partition", notes);
}

fn max_unavailable(strategy: &mut Value, notes: &mut Notes) {
    let value = strategy["maxUnavailable"].clone();
    if value == 0 || percentage(&value) == Some(0) {
        take(strategy, "maxUnavailable");
        strategy["paused"] = json!(true);
        let message = format!(
            "{value} is paused: true now; OpenKruise goes on with pods that are not ready, here nothing moves until \
             paused is false"
        );
        notes.say("spec.updateStrategy.maxUnavailable", message);
    }
    share(strategy, "maxUnavailable", notes);
}

/// More than everything is everything; what is no number and no percentage has no effect.
fn share(strategy: &mut Value, field: &str, notes: &mut Notes) {
    let (path, value) = (format!("spec.updateStrategy.{field}"), strategy[field].clone());
    if percentage(&value).is_some_and(|percent| percent > 100) {
        strategy[field] = json!("100%");
        notes.say(path, format!("{value} is \"100%\" now"));
    } else if !value.is_null() && value.as_i64().is_none_or(|number| number < 0) && percentage(&value).is_none() {
        take(strategy, field);
        notes.say(path, format!("{value} is neither a number of pods nor a percentage: dropped"));
    }
}

fn percentage(value: &Value) -> Option<u64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}
