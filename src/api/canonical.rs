//! The canonical form of a template: what the apiserver would make of any spelling of it in a pod.
//!
//! Everything that the apiserver adds to what is absent is taken away where it is written, and quantities are written in
//! one way. The source of the defaults is `k8s.io/kubernetes/pkg/apis/core/v1/defaults.go`. Whoever changes this changes
//! hashes: a hash that pods carry must stay what it is, so a rule may be added only for fields that no test pins.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::expression::Expression;
use super::image::Image;
use super::quantity::{Quantity, Resource};

/// Maps whose keys are the user's: nothing in them is a default.
const USERS_OWN: [&str; 5] = ["labels", "annotations", "matchLabels", "volumeAttributes", "options"];

/// Objects that mean nothing when they are empty. Of others, such as `emptyDir: {}`, the presence is a choice.
const EMPTY_IS_ABSENT: [&str; 15] = [
    "annotations",
    "capabilities",
    "labels",
    "lifecycle",
    "limits",
    "matchLabels",
    "metadata",
    "options",
    "requests",
    "resources",
    "securityContext",
    "shareVolumeDevicePolicy",
    "shareVolumePolicy",
    "upgradeStrategy",
    "volumeAttributes",
];

/// Strings that mean something when they are empty: no storage class is not the default one.
const EMPTY_IS_MEANT: [&str; 2] = ["storageClassName", "volumeAttributesClassName"];

/// Fields that are false by default; elsewhere false means something, for example in `allowPrivilegeEscalation`.
const FALSE_IS_ABSENT: [&str; 11] = [
    "chapAuthDiscovery",
    "chapAuthSession",
    "optional",
    "preserveQoS",
    "privileged",
    "readOnly",
    "readOnlyRootFilesystem",
    "sslEnabled",
    "stdin",
    "stdinOnce",
    "tty",
];

/// Volume sources whose files get a mode.
const WITH_MODE: [&str; 4] = ["configMap", "downwardAPI", "projected", "secret"];

/// Lists of containers.
const CONTAINERS: [&str; 2] = ["containers", "initContainers"];

/// The value of a field without what the apiserver would add to it. `field` is `volumes` for one volume, too, and empty
/// for a whole template.
pub(crate) fn canonical(field: &str, value: &Value) -> Value {
    let mut value = value.clone();
    strip(field, &mut value);
    value
}

/// Whether two values of a field are the same, however they are written: that of a pod has the apiserver's defaults, that
/// of a set has not.
pub(crate) fn same(field: &str, a: &Value, b: &Value) -> bool {
    a == b || canonical(field, a) == canonical(field, b)
}

/// `parent` is the name of the field in which a value stands; elements of a list stand in that of the list.
fn strip(parent: &str, value: &mut Value) {
    if USERS_OWN.contains(&parent) {
        return;
    }
    match value {
        Value::Array(list) => list.iter_mut().for_each(|element| strip(parent, element)),
        Value::Object(fields) => {
            for (field, value) in fields.iter_mut() {
                strip(field, value);
                respell(parent, field, value);
            }
            if CONTAINERS.contains(&parent) {
                strip_pull_policy(fields, "image", "imagePullPolicy");
                strip_requests(fields);
            }
            if parent == "transferEnv" {
                name_variables_once(fields);
            }
            // The source of a volume.
            if parent == "image" {
                strip_pull_policy(fields, "reference", "pullPolicy");
            }
            fields.retain(|field, value| !is_default(parent, field, value));
        }
        _ => {}
    }
}

/// The default of the pull policy depends on the image.
fn strip_pull_policy(fields: &mut Map<String, Value>, image: &str, policy: &str) {
    let image = fields.get(image).and_then(Value::as_str).unwrap_or_default();
    let default = Image::parse(image).default_pull_policy();
    if fields.get(policy).is_some_and(|policy| policy == default) {
        fields.remove(policy);
    }
}

/// `envName` is one of `envNames`, whose order means nothing.
fn name_variables_once(fields: &mut Map<String, Value>) {
    let listed = fields.remove("envNames").and_then(|names| names.as_array().cloned()).unwrap_or_default();
    let names = fields.remove("envName").into_iter().chain(listed);
    let names: BTreeSet<String> = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    fields.insert("envNames".to_owned(), json!(names));
}

/// Requests of a container that are not named are its limits.
fn strip_requests(fields: &mut Map<String, Value>) {
    let Some(resources) = fields.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let limits = resources.get("limits").cloned().unwrap_or_default();
    if let Some(requests) = resources.get_mut("requests").and_then(Value::as_object_mut) {
        requests.retain(|name, amount| limits.get(name) != Some(amount));
    }
    resources.retain(|field, value| !is_default("resources", field, value));
}

/// Writes quantities and expressions in one way, and of resize policies only those that are not the default.
fn respell(parent: &str, field: &str, value: &mut Value) {
    let is_quantity = matches!(parent, "limits" | "requests") || matches!(field, "sizeLimit" | "divisor");
    if let Some(amount) = Quantity::read(value).filter(|_| is_quantity) {
        // In steps of 10⁻³, as the apiserver rounds them.
        *value = json!(amount.rounded_up(Resource::Cpu).canonical(Resource::Cpu));
    }
    if let ("resizePolicy", Some(policies)) = (field, value.as_array_mut()) {
        policies.retain(|policy| policy["restartPolicy"] != "NotRequired");
    }
    if let ("resourcesExpr", Some(expressions)) = (parent, value.as_object_mut()) {
        for resource in Resource::ALL {
            let Some(text) = expressions.get_mut(resource.name()) else { continue };
            if let Ok(expression) = Expression::parse(text.as_str().unwrap_or_default(), resource) {
                *text = json!(expression.to_string());
            }
        }
    }
}

/// Whether the apiserver would add this, or leave it out as empty.
fn is_default(parent: &str, field: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value && FALSE_IS_ABSENT.contains(&field),
        Value::String(text) if text.is_empty() => !EMPTY_IS_MEANT.contains(&field),
        Value::Array(list) => list.is_empty(),
        // A volume without a source is an empty directory.
        Value::Object(fields) => {
            fields.is_empty() && (EMPTY_IS_ABSENT.contains(&field) || (parent, field) == ("volumes", "emptyDir"))
        }
        Value::Number(number) => is_default_number(parent, field, number.as_i64()),
        Value::String(text) => is_default_text(parent, field, text),
    }
}

fn is_default_number(parent: &str, field: &str, number: Option<i64>) -> bool {
    let Some(number) = number else { return false };
    match (parent, field) {
        ("ports", "hostPort") | ("awsElasticBlockStore" | "gcePersistentDisk", "partition") => number == 0,
        ("livenessProbe" | "readinessProbe" | "startupProbe", _) => {
            let default = match field {
                "timeoutSeconds" | "successThreshold" => 1,
                "periodSeconds" => 10,
                "failureThreshold" => 3,
                "initialDelaySeconds" => 0,
                _ => return false,
            };
            number == 0 || number == default
        }
        ("serviceAccountToken", "expirationSeconds") => number == 3600,
        (source, "defaultMode") => WITH_MODE.contains(&source) && number == 0o644,
        _ => false,
    }
}

fn is_default_text(parent: &str, field: &str, text: &str) -> bool {
    let default = match (parent, field) {
        ("containers" | "initContainers", "terminationMessagePath") => "/dev/termination-log",
        ("containers" | "initContainers", "terminationMessagePolicy") => "File",
        ("ports", "protocol") => "TCP",
        ("httpGet", "path") => "/",
        ("httpGet", "scheme") => "HTTP",
        ("fieldRef", "apiVersion") => "v1",
        // The kubelet divides by 1 where it is 0 (`ExtractContainerResourceValue` in `pkg/api/v1/resource`).
        ("resourceFieldRef", "divisor") => return matches!(text, "0" | "1"),
        ("volumeMounts", "mountPropagation") => "None",
        ("volumeMounts", "recursiveReadOnly") => "Disabled",
        ("securityContext", "procMount") => "Default",
        ("iscsi", "iscsiInterface") => "default",
        ("rbd", "pool") => "rbd",
        ("rbd", "user") => "admin",
        ("rbd", "keyring") => "/etc/ceph/keyring",
        ("azureDisk", "cachingMode") => "ReadWrite",
        ("azureDisk", "kind") => "Shared",
        ("azureDisk", "fsType") => "ext4",
        ("scaleIO", "storageMode") => "ThinProvisioned",
        ("scaleIO", "fsType") => "xfs",
        // Of the claim of an ephemeral volume.
        ("spec", "volumeMode") => "Filesystem",
        ("", "jobPods") => "Warn",
        ("patchPodMetadata", "patchPolicy") => "Retain",
        ("upgradeStrategy", "upgradeType") => "ColdUpgrade",
        ("resources", "mode") => "Additive",
        ("shareVolumePolicy" | "shareVolumeDevicePolicy", "type") => "disabled",
        _ => return false,
    };
    text == default
}
