//! Where pods are described in a manifest: pods, pod templates of any kind, and lists of these.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// Where any kind may have a pod template.
const TEMPLATES: [&str; 2] = ["/spec/template", "/spec/jobTemplate/spec/template"];

/// The object that a pod description stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// For example `deployment/web`.
    pub(crate) name: String,
    /// As written; `None` if the manifest names none.
    pub(crate) namespace: Option<String>,
    /// Of `volumeClaimTemplates`: every pod has a volume of each name, and it is no other.
    pub(crate) claims: Vec<String>,
    /// A Job makes the pods.
    pub(crate) is_job: bool,
}

/// `deployment/web -n shop`: what to write behind `kubectl get`.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, " -n {namespace}"))
    }
}

/// What an object is. An item of a typed list that does not say it is what the list says, as for kubectl.
struct Type {
    version: String,
    kind: String,
}

impl Type {
    fn of(object: &Value, list: Option<&Self>) -> Self {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let own = Self { version: text("apiVersion"), kind: text("kind") };
        let item = list.and_then(|list| Some((&list.version, list.kind.strip_suffix("List")?)));
        match item {
            Some((version, kind)) if own.kind.is_empty() && !kind.is_empty() => {
                Self { version: version.clone(), kind: kind.to_owned() }
            }
            _ => own,
        }
    }

    fn owner_of(&self, object: &Value) -> Owner {
        let namespace = object["metadata"]["namespace"].as_str().filter(|namespace| !namespace.is_empty());
        let templates = object["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
        let claims = templates.filter_map(|claim| claim["metadata"]["name"].as_str()).map(str::to_owned).collect();
        let is_job = self.version.starts_with("batch/") && matches!(self.kind.as_str(), "Job" | "CronJob");
        Owner { name: named(&self.kind, object), namespace: namespace.map(str::to_owned), claims, is_job }
    }

    /// Where the object describes a pod.
    fn place_in(&self, object: &Value) -> Option<&'static str> {
        match (self.version.as_str(), self.kind.as_str()) {
            ("v1", "Pod") => Some(""),
            ("v1", "PodTemplate") => Some("/template"),
            _ => TEMPLATES
                .into_iter()
                .find(|place| object.pointer(place).is_some_and(|template| template["spec"]["containers"].is_array())),
        }
    }
}

/// The pod or pod template of the object, or of each object of a list: of any kind that has it in one of [`TEMPLATES`].
pub(crate) fn pods(object: &mut Value) -> Vec<(Owner, &mut Value)> {
    pods_in(object, None)
}

fn pods_in<'a>(object: &'a mut Value, list: Option<&Type>) -> Vec<(Owner, &'a mut Value)> {
    let own = Type::of(object, list);
    if is_list(object) {
        let items = object["items"].as_array_mut().into_iter().flatten();
        return items.flat_map(|item| pods_in(item, Some(&own))).collect();
    }
    let owner = own.owner_of(object);
    let pod = own.place_in(object).and_then(|place| object.pointer_mut(place));
    pod.map(|pod| (owner, pod)).into_iter().collect()
}

/// Containers in other places, such as those of a `JobSet`: a line for each object, that nobody takes them for injected.
pub(crate) fn unread(object: &Value) -> Vec<String> {
    let line = |object: &Value| {
        let own = Type::of(object, None);
        let mut places = Vec::new();
        if own.kind != "SidecarSet" {
            find_containers(object, own.place_in(object), "", "", &mut places);
        }
        let owner = own.owner_of(object);
        let places = (!places.is_empty()).then(|| places.join(", "))?;
        Some(format!("{owner}: not looked at: {places}; only spec.template and spec.jobTemplate.spec.template are"))
    };
    objects(object).iter().filter_map(line).collect()
}

/// Collects paths below `pointer`, except those below `read`. `path` is the pointer as users write it.
fn find_containers(value: &Value, read: Option<&str>, pointer: &str, path: &str, found: &mut Vec<String>) {
    if read == Some(pointer) {
        return;
    }
    let is_container = |value: &Value| value["name"].is_string() && value["image"].is_string();
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if key == "containers" && value.as_array().is_some_and(|list| list.iter().any(is_container)) {
            found.push(path);
        } else {
            find_containers(value, read, &format!("{pointer}/{key}"), &path, found);
        }
    }
    for (i, value) in value.as_array().into_iter().flatten().enumerate() {
        find_containers(value, read, &format!("{pointer}/{i}"), &format!("{path}[{i}]"), found);
    }
}

/// The object, or each object of a list, with its `apiVersion` and `kind`.
pub(crate) fn objects(object: &Value) -> Vec<Value> {
    objects_in(object, None)
}

fn objects_in(object: &Value, list: Option<&Type>) -> Vec<Value> {
    let own = Type::of(object, list);
    if let Some(items) = object["items"].as_array().filter(|_| is_list(object)) {
        return items.iter().flat_map(|item| objects_in(item, Some(&own))).collect();
    }
    let mut object = object.clone();
    if let (Value::Object(fields), false) = (&mut object, own.kind.is_empty()) {
        fields.insert("apiVersion".to_owned(), own.version.into());
        fields.insert("kind".to_owned(), own.kind.into());
    }
    vec![object]
}

/// `deployment/web`, as kubectl names objects.
pub(crate) fn name_of(object: &Value) -> String {
    named(object["kind"].as_str().unwrap_or_default(), object)
}

fn named(kind: &str, object: &Value) -> String {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or_default();
    format!("{}/{name}", kind.to_lowercase())
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

    fn found(object: &Value) -> Vec<String> {
        let mut object = object.clone();
        pods(&mut object).into_iter().map(|(owner, _)| owner.to_string()).collect()
    }

    fn template() -> Value {
        json!({"spec": {"containers": [{"name": "app", "image": "app:1"}]}})
    }

    #[test]
    fn the_pod_template_of_every_kind_is_found() {
        for (version, kind, pointer) in [
            ("v1", "Pod", ""),
            ("v1", "PodTemplate", "/template"),
            ("v1", "ReplicationController", "/spec/template"),
            ("apps/v1", "Deployment", "/spec/template"),
            ("extensions/v1beta1", "Deployment", "/spec/template"),
            ("apps.openshift.io/v1", "DeploymentConfig", "/spec/template"),
            ("argoproj.io/v1alpha1", "Rollout", "/spec/template"),
            ("apps.kruise.io/v1alpha1", "CloneSet", "/spec/template"),
            ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template"),
            ("batch/v2alpha1", "CronJob", "/spec/jobTemplate/spec/template"),
        ] {
            let mut object = template();
            for part in pointer.split('/').skip(1).collect::<Vec<_>>().into_iter().rev() {
                object = json!({part: object});
            }
            let mut typed = json!({"apiVersion": version, "kind": format!("{kind}List"), "items": [object.clone()]});
            typed["items"][0]["metadata"] = json!({"name": "x", "namespace": "n"});
            for (field, value) in [("apiVersion", version), ("kind", kind)] {
                object[field] = json!(value);
            }
            object["metadata"] = json!({"name": "x", "namespace": "n"});
            let list = json!({"apiVersion": "v1", "kind": "List", "items": [object.clone(), {"kind": "ConfigMap"}]});
            for object in [&mut object, &mut list.clone(), &mut typed] {
                assert_eq!(found(object), [format!("{}/x -n n", kind.to_lowercase())]);
                assert_eq!(unread(object), Vec::<String>::new());
            }
            pods(&mut object)[0].1["seen"] = json!(true);
            assert_eq!(object.pointer(&format!("{pointer}/seen")), Some(&json!(true)), "{kind}");
        }
    }

    #[test]
    fn a_pod_template_in_another_place_gets_a_line() {
        let jobs = json!({"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": "train"},
            "spec": {"replicatedJobs": [{"name": "w", "template": {"spec": {"template": template()}}}]}});
        assert_eq!(found(&jobs), Vec::<String>::new());
        let place = "spec.replicatedJobs[0].template.spec.template.spec.containers";
        let line =
            format!("jobset/train: not looked at: {place}; only spec.template and spec.jobTemplate.spec.template are");
        assert_eq!(unread(&jobs), [line]);
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [jobs.clone(), {"kind": "ConfigMap"}]});
        assert_eq!(unread(&list), unread(&jobs));
        let mut both = jobs;
        both["spec"]["template"] = template();
        assert_eq!((found(&both).len(), unread(&both).len()), (1, 1));
    }

    #[test]
    fn a_kind_without_pods_is_left_alone_and_needs_no_line() {
        for other in [
            json!({"apiVersion": "example.com/v1", "kind": "Other", "spec": {"template": {"size": 1}}}),
            json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "spec": template()["spec"]}),
            json!([1]),
        ] {
            assert_eq!((found(&other), unread(&other)), (Vec::new(), Vec::new()));
        }
    }

    #[test]
    fn items_of_a_typed_list_are_what_the_list_says() {
        let item = json!({"metadata": {"name": "x"}});
        let list = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSetList", "items": [item]});
        let named = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "x"}});
        assert_eq!(objects(&list), [named]);
        let untyped = json!({"apiVersion": "v1", "kind": "List", "items": [item]});
        assert_eq!(objects(&untyped), [item]);
    }
}
