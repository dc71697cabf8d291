//! Whether any pod may have the sidecars of a set: small pods to ask the API server about, and what its answers say of the
//! set. It checks a pod before quota and Pod Security, and knows rules that this program does not.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::core::Status;
use kube::core::response::StatusCause;
use serde_json::{Value, json};

use super::marks::Marks;
use super::pod_checks::containers_of_resources;
use super::select::Selection;
use super::{CompiledSet, CompiledSets, place_all};
use crate::api::keys;
use crate::api::v1beta1::{FailurePolicy, JobPods, SidecarContainer, SidecarSetSpec, UpgradeType};
use crate::api::validate::{FieldError, ValidSidecarSet};
use crate::core::revision::{History, used_volumes, volumes_of_variables};

/// What the API server says about a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A pod may have its sidecars.
    Valid,
    /// No pod may.
    Refused(Vec<FieldError>),
    /// It was not asked, or did not get as far as that: why.
    Unchecked(String),
}

/// Longer than any `preStop` should be, which may not take longer than this.
const GRACE_PERIOD_SECONDS: u32 = 3600;

/// Name of the container of a small pod: nobody's.
const CONTAINER: &str = "sidecarset-dry-run";

/// A pod with the sidecars of a set.
#[derive(Clone, Debug)]
pub struct SmallPod {
    /// With `apiVersion` and `kind`.
    pub pod: Value,
    /// Why injection would leave the set out of it.
    pub conflict: Option<String>,
}

/// Pods of which one is valid if any pod can have the sidecars: some fields are for certain pods only. In the order in
/// which they are tried; the first is the plainest.
pub fn small_pods(valid: &ValidSidecarSet) -> Vec<SmallPod> {
    small(valid, false)
}

/// The same for pods of Jobs, if they get something else.
pub fn small_pods_of_jobs(valid: &ValidSidecarSet) -> Vec<SmallPod> {
    if valid.set().spec.job_pods == Some(JobPods::Native) { small(valid, true) } else { Vec::new() }
}

fn small(valid: &ValidSidecarSet, is_of_job: bool) -> Vec<SmallPod> {
    // A set is what its spec says, not what its rollout has come to; and what it lacks in these pods is no fault of it.
    let mut set = CompiledSet::new(valid, &History::new());
    set.failure_policy = FailurePolicy::Ignore;
    let set = Arc::new(set);
    let all = CompiledSets::new([Arc::clone(&set)]);
    let injected = |pod: Value| {
        let marks = Marks::read(&pod, &all);
        let placement = place_all(&all, &pod, &marks, &Selection::of(&set, is_of_job), &mut Vec::new()).ok()?;
        let conflict = placement.check_pod().err().map(|failure| failure.message);
        Some(SmallPod { pod: placement.patch.pod().clone(), conflict })
    };
    kinds(&set).into_iter().filter_map(injected).collect()
}

fn kinds(set: &CompiledSet) -> Vec<Value> {
    let containers = || set.usual().containers.iter().map(|container| &container.json);
    let own: BTreeSet<&str> = set.usual().volumes.iter().filter_map(|volume| volume["name"].as_str()).collect();
    let declared = set.usual().pod_volumes.iter().map(String::as_str);
    let mounted: BTreeSet<&str> = containers().flat_map(used_volumes).chain(declared).collect();
    // Volumes of the pod: a claim can be mounted, and be used as a device. Files of variables stand in an emptyDir.
    let files: BTreeSet<&str> = containers().flat_map(volumes_of_variables).collect();
    let volume = |name: &&str| {
        let claim = json!({"name": name, "persistentVolumeClaim": {"claimName": "claim"}});
        if files.contains(name) { json!({"name": name, "emptyDir": {}}) } else { claim }
    };
    let volumes: Vec<Value> = mounted.difference(&own).map(volume).collect();
    let claims = containers().filter_map(|container| container["resources"]["claims"].as_array()).flatten();
    let claims: BTreeSet<&str> = claims.filter_map(|claim| claim["name"].as_str()).collect();
    let claims: Vec<Value> = claims.iter().map(|name| json!({"name": name, "resourceClaimName": "claim"})).collect();
    let told = containers().chain(&set.usual().volumes).flat_map(containers_of_resources);
    let others: BTreeSet<&str> = told.filter(|name| containers().all(|own| own["name"] != **name)).collect();
    let application = |resources: Value| -> Value {
        let all = [CONTAINER].into_iter().chain(others.iter().copied());
        all.map(|name| json!({"name": name, "image": CONTAINER, "resources": resources})).collect()
    };
    let host_process = json!({"windowsOptions": {"hostProcess": true, "runAsUserName": "NT AUTHORITY\\SYSTEM"}});
    let amounts = json!({"cpu": "4", "memory": "8Gi"});
    let pod = |spec: Value| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": CONTAINER}, "spec": {
            "containers": application(json!({})), "volumes": volumes,
            "terminationGracePeriodSeconds": GRACE_PERIOD_SECONDS, "automountServiceAccountToken": false}});
        json_patch::merge(&mut pod["spec"], &spec);
        pod
    };
    let mut pods = vec![
        pod(json!({})),
        // Claims of devices are declared by the pod; stop signals are those of a system.
        pod(json!({"os": {"name": "linux"}, "resourceClaims": claims})),
        // For `procMount: Unmasked`.
        pod(json!({"hostUsers": false})),
        // For expressions of the application's resources.
        pod(json!({"containers": application(json!({"requests": amounts, "limits": amounts}))})),
        pod(json!({"os": {"name": "windows"}})),
    ];
    // Only for those that need it: with hostNetwork a wrong hostPort is left out, which mends nothing elsewhere.
    if containers().any(|container| container["securityContext"]["windowsOptions"]["hostProcess"] == true) {
        pods.push(pod(json!({"os": {"name": "windows"}, "hostNetwork": true, "securityContext": host_process})));
    }
    pods
}

impl SmallPod {
    /// What follows for the set from the answer of the API server; `None`: it takes the pod.
    pub(crate) fn verdict(&self, spec: &SidecarSetSpec, error: Option<&Status>) -> Verdict {
        let verdict = error.map_or(Verdict::Valid, |error| read(spec, &self.pod, error));
        match (&verdict, &self.conflict) {
            (Verdict::Valid, Some(why)) => Verdict::Refused(vec![FieldError::new("spec", why)]),
            _ => verdict,
        }
    }
}

/// Whether a refusal comes from what judges pods after webhooks that mutate and after the API server's own rules.
pub(crate) fn is_of_later_admission(message: &str) -> bool {
    let texts = ["exceeded quota", "quota: ", "violates PodSecurity", "ValidatingAdmissionPolicy "];
    !message.contains("cannot create resource") && texts.iter().any(|text| message.contains(text))
}

/// What an error of the API server says about the set whose sidecars this pod has.
fn read(spec: &SidecarSetSpec, pod: &Value, error: &Status) -> Verdict {
    let message = error.message.as_str();
    let unchecked = || Verdict::Unchecked(message.to_owned());
    // Such words say anything, with any code.
    if message.starts_with("admission webhook ") {
        return unchecked();
    }
    if is_of_later_admission(message) {
        return Verdict::Valid;
    }
    let causes = error.details.iter().flat_map(|details| &details.causes).filter(|cause| !cause.field.is_empty());
    let mut errors: Vec<FieldError> = match error.code {
        422 => causes.map(|StatusCause { message, field, .. }| field_error(spec, pod, field, message)).collect(),
        400 => undecoded(spec, pod, message),
        _ => Vec::new(),
    };
    if errors.is_empty() {
        return unchecked();
    }
    // Twins of a hot upgrade are one container of the set.
    let mut seen = BTreeSet::new();
    errors.retain(|error| seen.insert(error.to_string()));
    Verdict::Refused(errors)
}

/// A pod that the API server cannot read; a webhook's patch would fail with it just so.
fn undecoded(spec: &SidecarSetSpec, pod: &Value, message: &str) -> Vec<FieldError> {
    let unknown = message.split("unknown field \"").skip(1).filter_map(|rest| rest.split('"').next());
    let unknown: Vec<FieldError> =
        unknown.map(|field| field_error(spec, pod, field, "is not a field that this API server knows")).collect();
    if unknown.is_empty() && message.contains("cannot be handled as a Pod") {
        return vec![FieldError::new("spec", message)];
    }
    unknown
}

/// The same fault at the field of the set that the field of the pod comes from.
fn field_error(spec: &SidecarSetSpec, pod: &Value, field: &str, message: &str) -> FieldError {
    let element = |list: &str| {
        let (index, rest) = field.strip_prefix(&format!("spec.{list}["))?.split_once(']')?;
        Some((&pod["spec"][list][index.parse::<usize>().ok()?], rest))
    };
    let named = |list: &str, names: Vec<&String>| {
        let (element, rest) = element(list)?;
        let index = names.into_iter().position(|name| element["name"] == name.as_str())?;
        Some(format!("spec.{list}[{index}]{rest}"))
    };
    let container = |list: &str| element(list).and_then(|(container, rest)| of_container(spec, container, rest));
    let at = container("containers").or_else(|| container("initContainers"));
    let at = at.or_else(|| named("volumes", spec.volumes.iter().map(|volume| &volume.name).collect()));
    let at =
        at.or_else(|| named("imagePullSecrets", spec.image_pull_secrets.iter().map(|secret| &secret.name).collect()));
    let at = at.or_else(|| metadata(spec, field, message));
    let at = at.or_else(|| field.starts_with("spec.resources").then(|| field.to_owned()));
    match at {
        Some(path) => FieldError::new(path, message),
        None => FieldError::new("spec", format!("in a pod with these sidecars, {field}: {message}")),
    }
}

/// The field of a set that a field of one of its containers comes from. In pods of Jobs that may stand in the other list.
fn of_container(spec: &SidecarSetSpec, container: &Value, field: &str) -> Option<String> {
    let name = container["name"].as_str()?;
    let lists = [("containers", &spec.containers), ("initContainers", &spec.init_containers)];
    let entries = lists.into_iter().flat_map(|(list, entries)| entries.iter().enumerate().map(move |it| (list, it)));
    entries.into_iter().find_map(|(list, (index, entry))| {
        let upgrade = entry.upgrade_strategy.as_ref().and_then(|strategy| strategy.upgrade_type);
        let names = keys::container_names(&entry.container.name, upgrade == Some(UpgradeType::HotUpgrade));
        let twin = names.iter().position(|own| own == name)?;
        let field = match field {
            // The second twin idles.
            ".image" if twin == 1 => ".upgradeStrategy.hotUpgradeEmptyImage".to_owned(),
            _ => of_variable(entry, container, field).unwrap_or_else(|| field.to_owned()),
        };
        Some(format!("spec.{list}[{index}]{field}"))
    })
}

/// The same of a variable: injection takes some out, and adds others.
fn of_variable(entry: &SidecarContainer, container: &Value, field: &str) -> Option<String> {
    let (index, rest) = field.strip_prefix(".env[")?.split_once(']')?;
    let name = &container["env"].get(index.parse::<usize>().ok()?)?["name"];
    let own = entry.container.env.iter().flatten().position(|variable| *name == variable.name.as_str());
    Some(own.map_or_else(|| ".env".to_owned(), |own| format!(".env[{own}]{rest}")))
}

/// The label or annotation that the field, or else the message, names.
fn metadata(spec: &SidecarSetSpec, field: &str, message: &str) -> Option<String> {
    let (map, rest) = ["labels", "annotations"]
        .into_iter()
        .find_map(|map| Some((map, field.strip_prefix(&format!("metadata.{map}"))?)))?;
    let names = |key: &str, value: &str| {
        rest == format!("[{key}]")
            || rest.is_empty() && [key, value].iter().any(|text| message.contains(&format!("{text:?}")))
    };
    let entries = spec.patch_pod_metadata.iter().enumerate().flat_map(|(i, patch)| {
        let pairs = if map == "labels" { &patch.labels } else { &patch.annotations };
        pairs.iter().map(move |(key, value)| (i, key, value))
    });
    let found = entries.into_iter().find(|(_, key, value)| names(key, value));
    Some(found.map_or_else(
        || "spec.patchPodMetadata".to_owned(),
        |(i, key, _)| format!("spec.patchPodMetadata[{i}].{map}[{key}]"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SidecarSet;
    use crate::api::validate::unchecked;

    fn set() -> SidecarSet {
        let agent =
            |name: &str| json!({"name": name, "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let hot = json!({"name": "hot", "image": "i", "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "e"}});
        serde_json::from_value(json!({
            "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "s"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "containers": [agent("last"), hot],
                "initContainers": [agent("init")],
                "volumes": [{"name": "unmounted", "emptyDir": {}}, {"name": "v", "emptyDir": {}}],
                "imagePullSecrets": [{"name": "secret"}],
                "patchPodMetadata": [{"labels": {"l": "1"}}, {"annotations": {"a": "1", "b": "two"}}],
                "injectionStrategy": {"failurePolicy": "Fail", "paused": true, "revision": {"customVersion": "gone"}},
            },
        }))
        .unwrap()
    }

    fn first_pod(set: &SidecarSet) -> Value {
        small_pods(&unchecked(set)).remove(0).pod
    }

    fn error(code: u16, message: &str, causes: &[(&str, &str)]) -> Status {
        let causes: Vec<Value> =
            causes.iter().map(|(field, message)| json!({"field": field, "message": message})).collect();
        serde_json::from_value(json!({"code": code, "message": message, "details": {"causes": causes}})).unwrap()
    }

    #[test]
    fn every_small_pod_has_the_sidecars_of_the_spec_whatever_the_set_injects_now() {
        let pods = small_pods(&unchecked(&set()));
        assert_eq!(pods.len(), 5);
        for SmallPod { pod, .. } in pods {
            let names = |list: &str| -> Vec<String> {
                let entries = pod["spec"][list].as_array().into_iter().flatten();
                entries.filter_map(|entry| entry["name"].as_str().map(str::to_owned)).collect()
            };
            assert_eq!(names("containers"), ["last", "hot-1", "hot-2", CONTAINER]);
            assert_eq!((names("initContainers"), names("volumes")), (vec!["init".into()], vec!["v".into()]));
            assert_eq!(pod["metadata"]["annotations"]["b"], "two");
        }
    }

    #[test]
    fn a_small_pod_has_what_the_sidecars_expect_of_a_pod() {
        let mut set = set();
        set.spec.volumes.clear();
        set.spec.containers[0].container.resources =
            serde_json::from_value(json!({"claims": [{"name": "gpu"}]})).unwrap();
        let of_app = json!({"name": "CPU", "valueFrom": {"resourceFieldRef": {"containerName": "app", "resource": "limits.cpu"}}});
        set.spec.containers[0].container.env = serde_json::from_value(json!([of_app])).unwrap();
        let pods = small_pods(&unchecked(&set));
        assert_eq!(pods[1].conflict, None);
        assert_eq!(pods[0].pod["spec"]["volumes"][0]["name"], "v");
        assert_eq!(pods[1].pod["spec"]["resourceClaims"], json!([{"name": "gpu", "resourceClaimName": "claim"}]));
    }

    #[test]
    fn what_is_wrong_with_the_pod_is_said_of_the_field_of_the_set() {
        let set = set();
        let pod = first_pod(&set);
        for (field, message, expected) in [
            ("spec.containers[0].ports[0].hostPort", "m", "spec.containers[0].ports[0].hostPort: m"),
            ("spec.containers[2].tty", "m", "spec.containers[1].tty: m"),
            ("spec.initContainers[0].env[1].valueFrom", "m", "spec.initContainers[0].env[1].valueFrom: m"),
            ("spec.volumes[0].secret", "m", "spec.volumes[1].secret: m"),
            ("spec.imagePullSecrets[0].name", "m", "spec.imagePullSecrets[0].name: m"),
            ("metadata.annotations[a]", "m", "spec.patchPodMetadata[1].annotations[a]: m"),
            (
                "metadata.annotations",
                "Invalid value: \"two\"",
                "spec.patchPodMetadata[1].annotations[b]: Invalid value: \"two\"",
            ),
            ("metadata.labels", "Invalid value: \"l\"", "spec.patchPodMetadata[0].labels[l]: Invalid value: \"l\""),
            ("metadata.annotations", "Too long", "spec.patchPodMetadata: Too long"),
            ("spec.resources.limits", "m", "spec.resources.limits: m"),
            ("spec.containers[3].name", "m", "spec: in a pod with these sidecars, spec.containers[3].name: m"),
            ("spec.hostUsers", "m", "spec: in a pod with these sidecars, spec.hostUsers: m"),
        ] {
            let verdict = read(&set.spec, &pod, &error(422, "invalid", &[(field, message)]));
            let Verdict::Refused(errors) = verdict else { panic!("{field}: {verdict:?}") };
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn a_container_that_no_kubelet_would_start_is_refused_too() {
        let mut set = set();
        set.spec.containers[0].container.security_context =
            serde_json::from_value(json!({"runAsNonRoot": true, "runAsUser": 0})).unwrap();
        for small in small_pods(&unchecked(&set)) {
            let verdict = small.verdict(&set.spec, None);
            assert!(matches!(verdict, Verdict::Refused(_)), "{}: {verdict:?}", small.pod);
        }
    }

    #[test]
    fn twins_are_told_of_once() {
        let set = set();
        let causes = [("spec.containers[1].tty", "m"), ("spec.containers[2].tty", "m")];
        let verdict = read(&set.spec, &first_pod(&set), &error(422, "invalid", &causes));
        assert_eq!(verdict, Verdict::Refused(vec![FieldError::new("spec.containers[1].tty", "m")]));
    }

    #[test]
    fn in_pods_of_jobs_the_field_is_that_of_the_entry_in_containers() {
        let mut set = set();
        assert!(small_pods_of_jobs(&unchecked(&set)).is_empty());
        set.spec.job_pods = Some(JobPods::Native);
        let pod = small_pods_of_jobs(&unchecked(&set)).remove(0).pod;
        let names: Vec<&str> =
            pod["spec"]["initContainers"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["init", "last", "hot-1", "hot-2"]);
        for (field, expected) in
            [("spec.initContainers[0].tty", "initContainers[0]"), ("spec.initContainers[1].tty", "containers[0]")]
        {
            let verdict = read(&set.spec, &pod, &error(422, "invalid", &[(field, "m")]));
            assert_eq!(verdict, Verdict::Refused(vec![FieldError::new(format!("spec.{expected}.tty"), "m")]));
        }
    }

    #[test]
    fn a_field_that_injection_moves_is_named_where_it_stands_in_the_set() {
        let mut set = set();
        set.spec.containers[1].container.env = serde_json::from_value(
            json!([{"name": "IS_INJECTED", "value": "yes"}, {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]),
        )
        .unwrap();
        let pod = first_pod(&set);
        let (first, second) = ("spec.containers[1]", "spec.containers[2]");
        assert_eq!(pod["spec"]["containers"][2]["name"], "hot-2");
        for (field, expected) in [
            (format!("{second}.image"), "upgradeStrategy.hotUpgradeEmptyImage"),
            (format!("{first}.image"), "image"),
            (format!("{first}.env[0].valueFrom.fieldRef.fieldPath"), "env[1].valueFrom.fieldRef.fieldPath"),
            (format!("{first}.env[1].name"), "env"),
        ] {
            let verdict = read(&set.spec, &pod, &error(422, "invalid", &[(&field, "m")]));
            assert_eq!(verdict, Verdict::Refused(vec![FieldError::new(format!("spec.containers[1].{expected}"), "m")]));
        }
    }

    #[test]
    fn a_field_that_the_api_server_does_not_know_is_refused() {
        let set = set();
        let message = "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.containers[2].new\"";
        let verdict = read(&set.spec, &first_pod(&set), &error(400, message, &[]));
        let expected = FieldError::new("spec.containers[1].new", "is not a field that this API server knows");
        assert_eq!(verdict, Verdict::Refused(vec![expected]));
    }

    #[test]
    fn only_what_comes_after_the_check_of_the_pod_shows_that_it_is_valid() {
        let set = set();
        let pod = first_pod(&set);
        for (code, message, is_valid) in [
            (
                403,
                "pods \"p\" is forbidden: exceeded quota: no-pods, requested: pods=1, used: pods=0, limited: pods=0",
                true,
            ),
            (403, "pods \"p\" is forbidden: status unknown for quota: no-pods, resources: pods", true),
            (403, "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": privileged", true),
            (422, "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'x' with binding 'y' denied request: no", true),
            (403, "pods is forbidden: User \"quota: x\" cannot create resource \"pods\" in API group \"\"", false),
            (403, "pods \"p\" is forbidden: error looking up service account sidecarset-dry-run/default", false),
            (404, "namespaces \"sidecarset-dry-run\" not found", false),
            (422, "admission webhook \"x\" denied the request: spec.containers[0]: exceeded quota", false),
            (400, "the dryRun parameter is wrong", false),
            (500, "Internal error occurred: failed calling webhook \"x\"", false),
        ] {
            let verdict = read(&set.spec, &pod, &error(code, message, &[]));
            let expected = if is_valid { Verdict::Valid } else { Verdict::Unchecked(message.to_owned()) };
            assert_eq!(verdict, expected, "{message}");
        }
    }
}
