//! Where pods are described in a manifest: pods, every built-in pod template, and lists of these.

use std::fmt;

use serde_json::Value;

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
pub struct Owner {
    /// For example `deployment/web`.
    pub(crate) name: String,
    /// As written; `None` if the manifest names none.
    pub(crate) namespace: Option<String>,
}

/// `deployment/web -n shop`: what to write behind `kubectl get`.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, " -n {namespace}"))
    }
}

/// Calls `edit` for the object, or for each object of a `List`, with its pod or pod template; other kinds have none.
pub(crate) fn for_each_pod<E>(
    object: &mut Value,
    edit: &mut impl FnMut(&Owner, &mut Value) -> Result<(), E>,
) -> Result<(), E> {
    if is_list(object) {
        for item in object["items"].as_array_mut().into_iter().flatten() {
            for_each_pod(item, edit)?;
        }
        return Ok(());
    }
    let owner = Owner { name: super::manifest::name_of(object), namespace: text(&object["metadata"]["namespace"]) };
    let place = TEMPLATES.iter().find(|(version, kind, _)| object["apiVersion"] == *version && object["kind"] == *kind);
    match place.and_then(|(_, _, pointer)| object.pointer_mut(pointer)) {
        Some(pod) => edit(&owner, pod),
        None => Ok(()),
    }
}

/// Calls `look` for the object, or for each object of a `List`.
pub(crate) fn for_each_object(object: &Value, look: &mut impl FnMut(&Value)) {
    match object["items"].as_array() {
        Some(items) if is_list(object) => items.iter().for_each(|item| for_each_object(item, look)),
        _ => look(object),
    }
}

/// `List`, and what `kubectl get --raw` gives, such as `SidecarSetList`.
fn is_list(object: &Value) -> bool {
    object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && object["items"].is_array()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
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
                for_each_pod::<()>(object, &mut |owner, pod| {
                    found.push(owner.clone());
                    pod["seen"] = json!(true);
                    Ok(())
                })
                .unwrap();
            }
            let owner = Owner { name: format!("{}/x", kind.to_lowercase()), namespace: Some("n".into()) };
            assert_eq!(found, [owner.clone(), owner]);
            assert_eq!(object.pointer(&format!("{pointer}/seen")), Some(&json!(true)), "{kind}");
        }
        let mut other = json!({"apiVersion": "example.com/v1", "kind": "Deployment", "spec": {"template": {}}});
        for_each_pod::<String>(&mut other, &mut |owner, _| Err(owner.name.clone())).unwrap();
    }
}
