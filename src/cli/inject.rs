//! `inject`: what the webhook does to pods, done to manifests.

use std::collections::BTreeSet;
use std::process::ExitCode;

use kube::ResourceExt;
use serde_json::{Value, json};

use super::cluster::ClusterArgs;
use super::error::Error;
use super::manifest::{Document, FileArgs, Format, print};
use super::ordered::Ordered;
use super::output::{UNCHECKED, note, warn};
use super::sets::{NamespaceLabels, OperatorArgs, Sets, fetch_namespace, name_label};
use super::workloads::{Owner, labels, objects, pods, unread};
use crate::api::reasons::Reason;
use crate::api::validate::validate;
use crate::core::base::controller::add_claims;
use crate::core::inject::{CompiledSets, Injection, Request, inject};

/// Inject sidecars into manifests, as the operator does into pods.
///
/// Pods get the containers, and the pod templates of every kind that has one in spec.template or in
/// spec.jobTemplate.spec.template; other objects pass as they are. What each set did is said on stderr. Comments of the input are lost. Nothing is printed if a set with failurePolicy Fail
/// cannot inject.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Files or folders with SidecarSets; without this, the sets of the cluster are used
    #[arg(short, long = "sidecarset", value_name = "FILE")]
    sets: Vec<String>,
    #[command(flatten)]
    operator: OperatorArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Everything that decides about a manifest.
struct Injector {
    sets: CompiledSets,
    namespaces: NamespaceLabels,
    default_namespace: String,
    excluded: Vec<String>,
    /// Why the revisions of the cluster could not be read.
    unread_revisions: Option<String>,
}

pub(super) async fn run(args: &Args, cluster: &ClusterArgs) -> Result<ExitCode, Error> {
    let documents = args.files.read("inject")?;
    let injector = injector(args, cluster, &documents).await?;
    let (mut bodies, mut refused) = (Vec::new(), Vec::new());
    for document in &documents {
        bodies.push(injector.inject(&document.body, &mut refused)?);
    }
    if !refused.is_empty() {
        return Err(Error::Input(refused.join("\nerror: ")));
    }
    print(&bodies, args.output)
}

async fn injector(args: &Args, cluster: &ClusterArgs, documents: &[Document]) -> Result<Injector, Error> {
    let excluded = args.operator.excluded();
    let mut namespaces = written_namespaces(documents);
    if !args.sets.is_empty() {
        let sets = Sets::read(&args.sets, args.files.recursive)?.compile();
        note(UNCHECKED);
        let default_namespace = cluster.namespace.clone().unwrap_or_else(|| "default".to_owned());
        return Ok(Injector { sets, namespaces, default_namespace, excluded, unread_revisions: None });
    }
    let cluster = cluster.connect().await.map_err(Error::hint_at_files)?;
    let sets = Sets::fetch(&cluster, &args.operator).await.map_err(Error::hint_at_files)?;
    for (set, problems) in sets.all.iter().filter_map(|set| Some((set.name_any(), validate(set).err()?))) {
        warn(format_args!("SidecarSet {set:?} is invalid, so the operator does not serve it: {problems}"));
    }
    for name in used_namespaces(documents, &cluster.namespace) {
        let mut labels = fetch_namespace(&cluster.client, &name).await?;
        labels.extend(namespaces.remove(&name).unwrap_or_default());
        namespaces.insert(name, labels);
    }
    let (sets, unread_revisions) = (sets.compile(), sets.unread_revisions);
    Ok(Injector { sets, namespaces, default_namespace: cluster.namespace, excluded, unread_revisions })
}

/// Labels of the namespaces that are described in the input.
fn written_namespaces(documents: &[Document]) -> NamespaceLabels {
    let mut found = NamespaceLabels::new();
    for document in documents {
        for object in objects(&document.body.value()).iter().filter(|object| object["kind"] == "Namespace") {
            if let Some(name) = object["metadata"]["name"].as_str() {
                found.insert(name.to_owned(), labels(object).into_iter().chain(name_label(name)).collect());
            }
        }
    }
    found
}

fn used_namespaces(documents: &[Document], default: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for document in documents {
        for (owner, _) in pods(&mut document.body.value()) {
            found.insert(owner.namespace.unwrap_or_else(|| default.to_owned()));
        }
    }
    found
}

impl Injector {
    /// The document with sidecars; pods that the webhook would refuse are added to `refused`, with the reason.
    fn inject(&self, body: &Ordered, refused: &mut Vec<String>) -> Result<Ordered, Error> {
        let mut value = body.value();
        unread(&value).into_iter().for_each(note);
        for (owner, pod) in pods(&mut value) {
            let namespace = owner.namespace.as_ref().unwrap_or(&self.default_namespace);
            let by_name = name_label(namespace);
            let namespace_labels = self.namespaces.get(namespace).unwrap_or(&by_name);
            let written = pod.clone();
            show_controller(pod, &owner);
            let injection = inject(&self.sets, &Request { pod, namespace, namespace_labels, excluded: &self.excluded });
            self.check_revisions(&owner, &injection)?;
            if let Some(message) = injection.refused {
                refused.push(format!("{owner}: {message}"));
                continue;
            }
            for outcome in &injection.outcomes {
                let separator = if outcome.message.is_empty() { "" } else { ": " };
                note(format_args!("{owner}: {} {}{separator}{}", outcome.set, outcome.reason, outcome.message));
                for text in &outcome.notes {
                    note(format_args!("{owner}: {}: {text}", outcome.set));
                }
            }
            if injection.outcomes.is_empty() {
                note(format_args!("{owner}: no SidecarSet selects it"));
            }
            json_patch::patch(pod, &injection.patch).map_err(|error| Error::Input(format!("{owner}: {error}")))?;
            if injection.patch.is_empty() {
                *pod = written;
            } else {
                hide_controller(pod, &owner, &written);
            }
        }
        Ok(body.arrange(value))
    }

    /// What a set pins can only be injected where it can be read.
    fn check_revisions(&self, owner: &Owner, injection: &Injection) -> Result<(), Error> {
        let Some(refusal) = &self.unread_revisions else { return Ok(()) };
        let injects = |reason: Reason| {
            matches!(reason, Reason::Injected | Reason::AlreadyInjected) || reason.is_failed_injection()
        };
        let pins = |set: &str| self.sets.get(set).is_some_and(|set| set.pinned().is_some());
        let pinned = injection.outcomes.iter().find(|outcome| injects(outcome.reason) && pins(&outcome.set));
        let Some(outcome) = pinned else { return Ok(()) };
        Err(Error::Input(format!(
            "{owner}: SidecarSet {:?} pins a revision (injectionStrategy.revision), and revisions cannot be read \
             without the permission to list controllerrevisions.apps: {refusal}",
            outcome.set
        )))
    }
}

/// Writes into a template what its pods have from their controller: the claims of a `StatefulSet`, and that a Job made them.
fn show_controller(pod: &mut Value, owner: &Owner) {
    add_claims(pod, owner.claims.iter().map(String::as_str));
    if owner.is_job {
        if pod["metadata"].is_null() {
            pod["metadata"] = json!({});
        }
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job"}]);
    }
}

/// Takes it out again. `written`: the template as it came.
fn hide_controller(pod: &mut Value, owner: &Owner, written: &Value) {
    for claim in &owner.claims {
        let own = |volume: &&Value| volume["name"] == claim.as_str();
        let replaced = written["spec"]["volumes"].as_array().into_iter().flatten().find(own);
        let Some(volumes) = pod["spec"]["volumes"].as_array_mut() else { continue };
        let Some(index) = volumes.iter().position(|volume| own(&volume)) else { continue };
        match replaced {
            Some(replaced) => volumes[index] = replaced.clone(),
            None => drop(volumes.remove(index)),
        }
    }
    if written["spec"]["volumes"].is_null() && pod["spec"]["volumes"] == json!([]) {
        pod["spec"].as_object_mut().map(|spec| spec.remove("volumes"));
    }
    if let Some(metadata) = pod["metadata"].as_object_mut().filter(|_| owner.is_job) {
        match written["metadata"].get("ownerReferences") {
            Some(replaced) => _ = metadata.insert("ownerReferences".to_owned(), replaced.clone()),
            None => _ = metadata.remove("ownerReferences"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injector(policy: &str, unread_revisions: Option<&str>) -> Injector {
        let set = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "s"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": "s", "image": "i"}],
                "injectionStrategy": {"revision": {"customVersion": "v1", "policy": policy}}}});
        let sets = Sets { all: vec![serde_json::from_value(set).unwrap()], ..Sets::default() };
        Injector {
            sets: sets.compile(),
            namespaces: NamespaceLabels::new(),
            default_namespace: "default".to_owned(),
            excluded: Vec::new(),
            unread_revisions: unread_revisions.map(str::to_owned),
        }
    }

    #[test]
    fn a_claim_template_is_a_volume_of_the_pods() {
        let set = |volumes: Value| {
            let agent = json!({"name": "agent", "image": "a", "volumeMounts": [{"name": "data", "mountPath": "/d"}]});
            let set = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "s"},
                "spec": {"selector": {"matchLabels": {"app": "db"}}, "containers": [agent], "volumes": volumes}});
            let sets = Sets { all: vec![serde_json::from_value(set).unwrap()], ..Sets::default() };
            Injector { sets: sets.compile(), ..injector("Always", None) }
        };
        let sts = |template: Value, claim: &str| {
            Ordered::from(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": template},
                "volumeClaimTemplates": [{"metadata": {"name": claim}}]}}))
        };
        let inject = |injector: &Injector, sts: &Ordered| injector.inject(sts, &mut Vec::new()).unwrap().value();
        let app = json!({"name": "db", "image": "db", "volumeMounts": [{"name": "data", "mountPath": "/var/lib/db"}]});
        let with_empty_dir = set(json!([{"name": "data", "emptyDir": {}}]));
        for template in [
            json!({"containers": [app]}),
            json!({"containers": [app], "volumes": [{"name": "data", "emptyDir": {}}, {"name": "x", "emptyDir": {}}]}),
        ] {
            let claimed = sts(template.clone(), "data");
            assert_eq!(inject(&with_empty_dir, &claimed), claimed.value(), "VolumeConflict");
        }
        let after = inject(&with_empty_dir, &sts(json!({"containers": [{"name": "db", "image": "db"}]}), "other"));
        assert_eq!(after["spec"]["template"]["spec"]["volumes"], json!([{"name": "data", "emptyDir": {}}]));
    }

    #[test]
    fn jobs_and_cron_jobs_get_native_sidecars_if_the_set_says_so_and_else_a_line() {
        let template =
            |metadata: Value| json!({"metadata": metadata, "spec": {"containers": [{"name": "app", "image": "a"}]}});
        let set = |job_pods: &str| {
            let selector = json!({"matchExpressions": [{"key": "never", "operator": "DoesNotExist"}]});
            let set = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "s"},
                "spec": {"selector": selector, "containers": [{"name": "agent", "image": "i"}], "jobPods": job_pods}});
            let sets = Sets { all: vec![serde_json::from_value(set).unwrap()], ..Sets::default() };
            Injector { sets: sets.compile(), ..injector("Always", None) }
        };
        let owned = json!({"ownerReferences": [{"kind": "X"}]});
        for (version, kind, spec, place, list) in [
            ("batch/v1", "Job", json!({"template": template(json!(null))}), "/spec/template", "initContainers"),
            ("batch/v1", "Job", json!({"template": template(owned)}), "/spec/template", "initContainers"),
            (
                "batch/v1",
                "CronJob",
                json!({"jobTemplate": {"spec": {"template": template(json!({}))}}}),
                "/spec/jobTemplate/spec/template",
                "initContainers",
            ),
            ("apps/v1", "Deployment", json!({"template": template(json!({}))}), "/spec/template", "containers"),
        ] {
            let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec});
            let inject = |job_pods: &str, object: &Value| {
                set(job_pods).inject(&Ordered::from(object.clone()), &mut Vec::new()).unwrap().value()
            };
            for (job_pods, list) in [("Native", list), ("Warn", "containers")] {
                let after = inject(job_pods, &object);
                let pod = after.pointer(place).unwrap();
                assert_eq!(pod["spec"][list][0]["name"], "agent", "{kind} {job_pods}: {pod}");
                let before = object.pointer(place).unwrap();
                assert_eq!(pod["metadata"]["ownerReferences"], before["metadata"]["ownerReferences"]);
                assert_eq!(inject(job_pods, &after), after);
            }
        }
    }

    fn pod(labels: &Value) -> Ordered {
        Ordered::from(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels},
            "spec": {"containers": [{"name": "app", "image": "a"}]}}))
    }

    #[test]
    fn a_set_that_pins_a_revision_needs_the_permission_to_read_it() {
        let web = pod(&json!({"app": "web"}));
        for policy in ["Always", "Partial"] {
            let refusal =
                injector(policy, Some("forbidden")).inject(&web, &mut Vec::new()).err().map(|error| error.to_string());
            let refusal = refusal.unwrap_or_default();
            assert!(refusal.starts_with("error: pod/p: SidecarSet \"s\" pins a revision"), "{refusal}");
            assert!(refusal.contains("list controllerrevisions.apps: forbidden"), "{refusal}");
            assert!(injector(policy, None).inject(&web, &mut Vec::new()).is_ok(), "the history was read");
        }
        let opted_out = pod(&json!({"app": "web", "sidecarset.dev/inject": "false"}));
        for untouched in [opted_out, pod(&json!({"app": "api"}))] {
            assert!(injector("Always", Some("forbidden")).inject(&untouched, &mut Vec::new()).is_ok());
        }
    }
}
