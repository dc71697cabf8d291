//! Where pods are described in a manifest: pods, every built-in pod template, and lists of these.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::manifest::name_of;

/// Kinds with a pod template, and where it is.
const TEMPLATES: [(&str, &str, &str); 10] = [
    ("v1", "Pod", ""),
    ("v1", "PodTemplate", "/template"),
    ("v1", "ReplicationController", "/spec/template"),
    ("apps/v1", "Deployment", "/spec/template"),
    ("apps/v1", "StatefulSet", "/spec/template"),
    ("apps/v1", "DaemonSet", "/spec/template"),
    ("apps/v1", "ReplicaSet", "/spec/template"),
    ("batch/v1", "Job", "/spec/template"),
    ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template"),
    ("batch/v1beta1", "CronJob", "/spec/jobTemplate/spec/template"),
];

/// The object that a pod description stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// For example `deployment/web`.
    pub(crate) name: String,
    /// As written; `None` if the manifest names none.
    pub(crate) namespace: Option<String>,
    /// Of `volumeClaimTemplates`: every pod has a volume of each name, and it is no other.
    pub(crate) claims: Vec<String>,
}

/// `deployment/web -n shop`: what to write behind `kubectl get`.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, " -n {namespace}"))
    }
}

/// The pod or pod template of the object, or of each object of a `List`; other kinds have none.
pub(crate) fn pods(object: &mut Value) -> Vec<(Owner, &mut Value)> {
    if is_list(object) {
        return object["items"].as_array_mut().into_iter().flatten().flat_map(pods).collect();
    }
    let namespace = object["metadata"]["namespace"].as_str().filter(|namespace| !namespace.is_empty());
    let templates = object["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
    let claims = templates.filter_map(|claim| claim["metadata"]["name"].as_str()).map(str::to_owned).collect();
    let owner = Owner { name: name_of(object), namespace: namespace.map(str::to_owned), claims };
    let place = TEMPLATES.iter().find(|(version, kind, _)| object["apiVersion"] == *version && object["kind"] == *kind);
    let pod = place.and_then(|(_, _, pointer)| object.pointer_mut(pointer));
    pod.map(|pod| (owner, pod)).into_iter().collect()
}

/// The object, or each object of a `List`.
pub(crate) fn objects(object: &Value) -> Vec<&Value> {
    match object["items"].as_array() {
        Some(items) if is_list(object) => items.iter().flat_map(objects).collect(),
        _ => vec![object],
    }
}

/// Labels of an object.
pub(crate) fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// `List`, and what `kubectl get --raw` gives, such as `SidecarSetList`.
fn is_list(object: &Value) -> bool {
    object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && object["items"].is_array()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_pod_template_is_found_and_nothing_else() {
        for (version, kind, pointer) in TEMPLATES {
            let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "n"},
                "template": {}, "spec": {"template": {}, "jobTemplate": {"spec": {"template": {}}}}});
            let mut list =
                json!({"apiVersion": "v1", "kind": "List", "items": [object.clone(), {"kind": "ConfigMap"}]});
            let mut found = Vec::new();
            for object in [&mut object, &mut list] {
                for (owner, pod) in pods(object) {
                    found.push(owner);
                    pod["seen"] = json!(true);
                }
            }
            let owner =
                Owner { name: format!("{}/x", kind.to_lowercase()), namespace: Some("n".into()), claims: Vec::new() };
            assert_eq!(found, [owner.clone(), owner]);
            assert_eq!(object.pointer(&format!("{pointer}/seen")), Some(&json!(true)), "{kind}");
        }
        let mut other = json!({"apiVersion": "example.com/v1", "kind": "Deployment", "spec": {"template": {}}});
        assert_eq!(pods(&mut other), []);
    }
}
