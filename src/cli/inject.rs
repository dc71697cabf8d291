//! `inject`: what the webhook does to pods, done to manifests.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use serde_json::Value;

use super::cluster::ClusterArgs;
use super::error::Error;
use super::manifest::{Document, FileArgs, Format, print};
use super::ordered::Ordered;
use super::sets::{NamespaceLabels, OperatorArgs, Sets, fetch_namespace, name_label};
use super::workloads::{Owner, for_each_object, for_each_pod};
use super::{Say, say};
use crate::api::reasons::Reason;
use crate::api::validate::validate;
use crate::core::inject::{CompiledSets, Injection, Outcome, Request, inject};

/// Inject sidecars into manifests, as the operator does into pods.
///
/// Pods and the pod templates of the built-in workloads get the containers; other objects pass as they are. What each
/// set did is said on stderr. Comments of the input are lost. Nothing is printed if a set with failurePolicy Fail
/// cannot inject.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct InjectArgs {
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

/// The result for one document.
struct Injected {
    body: Ordered,
    /// What to tell, one line per object and set.
    lines: Vec<String>,
    /// Objects that the webhook would refuse, with the reason.
    refused: Vec<String>,
}

/// Runs the verb.
pub async fn run(args: InjectArgs, cluster: &ClusterArgs) -> Result<(), Error> {
    let documents = args.files.read("inject")?;
    let injector = injector(&args, cluster, &documents).await?;
    let done: Vec<Injected> =
        documents.iter().map(|document| injector.inject(&document.body)).collect::<Result<_, _>>()?;
    for line in done.iter().flat_map(|injected| &injected.lines) {
        say(Say::Note, line);
    }
    let refused: Vec<&str> = done.iter().flat_map(|injected| &injected.refused).map(String::as_str).collect();
    if !refused.is_empty() {
        return Err(Error::Input(refused.join("\nerror: ")));
    }
    print(done.iter().map(|injected| &injected.body), args.output)
}

async fn injector(args: &InjectArgs, cluster: &ClusterArgs, documents: &[Document]) -> Result<Injector, Error> {
    let excluded = args.operator.excluded();
    let written = written_namespaces(documents);
    if !args.sets.is_empty() {
        let sets = Sets::read(&args.sets, args.files.recursive)?.compile();
        let default_namespace = cluster.namespace.clone().unwrap_or_else(|| "default".to_owned());
        return Ok(Injector { sets, namespaces: written, default_namespace, excluded, unread_revisions: None });
    }
    let cluster = cluster.connect().await.map_err(Error::hint_at_files)?;
    let sets = Sets::fetch(&cluster, &args.operator).await.map_err(Error::hint_at_files)?;
    for (set, problems) in sets.all.iter().filter_map(|set| Some((set.name_any(), validate(set).err()?))) {
        say(Say::Warning, &format!("SidecarSet {set:?} is invalid, so the operator does not serve it: {problems}"));
    }
    let (unread_revisions, sets) = (sets.unread_revisions.clone(), sets.compile());
    let mut namespaces = NamespaceLabels::new();
    for name in used_namespaces(documents, &cluster.namespace)? {
        let mut labels = fetch_namespace(&cluster, &name).await?;
        labels.extend(written.get(&name).cloned().unwrap_or_default());
        namespaces.insert(name, labels);
    }
    Ok(Injector { sets, namespaces, default_namespace: cluster.namespace, excluded, unread_revisions })
}

/// Labels of the namespaces that are described in the input.
fn written_namespaces(documents: &[Document]) -> NamespaceLabels {
    let mut found = NamespaceLabels::new();
    for document in documents {
        for_each_object(&document.body.value(), &mut |object| {
            if let ("Namespace", Some(name)) =
                (object["kind"].as_str().unwrap_or_default(), object["metadata"]["name"].as_str())
            {
                let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
                let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
                found.insert(name.to_owned(), labels.chain(name_label(name)).collect());
            }
        });
    }
    found
}

fn used_namespaces(documents: &[Document], default: &str) -> Result<BTreeSet<String>, Error> {
    let mut found = BTreeSet::new();
    for document in documents {
        for_each_pod::<Error>(&mut document.body.value(), &mut |owner, _| {
            found.insert(owner.namespace.clone().unwrap_or_else(|| default.to_owned()));
            Ok(())
        })?;
    }
    Ok(found)
}

impl Injector {
    fn inject(&self, body: &Ordered) -> Result<Injected, Error> {
        let (mut value, mut lines, mut refused) = (body.value(), Vec::new(), Vec::new());
        for_each_pod(&mut value, &mut |owner, pod| self.inject_pod(owner, pod, &mut lines, &mut refused))?;
        Ok(Injected { body: body.arrange(value), lines, refused })
    }

    fn inject_pod(
        &self,
        owner: &Owner,
        pod: &mut Value,
        lines: &mut Vec<String>,
        refused: &mut Vec<String>,
    ) -> Result<(), Error> {
        let namespace = owner.namespace.as_ref().unwrap_or(&self.default_namespace);
        let by_name: BTreeMap<String, String> = name_label(namespace);
        let namespace_labels = self.namespaces.get(namespace).unwrap_or(&by_name);
        let injection = inject(&self.sets, &Request { pod, namespace, namespace_labels, excluded: &self.excluded });
        self.check_revisions(owner, &injection)?;
        if let Some(message) = injection.refused {
            refused.push(format!("{owner}: {message}"));
            return Ok(());
        }
        lines.extend(injection.outcomes.iter().map(|outcome| line(owner, outcome)));
        if injection.outcomes.is_empty() {
            lines.push(format!("{owner}: no SidecarSet selects it"));
        }
        json_patch::patch(pod, &injection.patch).map_err(|error| Error::Input(format!("{owner}: {error}")))
    }

    /// What a set pins can only be injected where it can be read.
    fn check_revisions(&self, owner: &Owner, injection: &Injection) -> Result<(), Error> {
        let Some(refusal) = &self.unread_revisions else { return Ok(()) };
        let injects = |reason: Reason| {
            matches!(reason, Reason::Injected | Reason::AlreadyInjected) || reason.is_failed_injection()
        };
        let pins = |set: &str| self.sets.get(set).is_some_and(|set| set.pinned().is_some());
        let pinned = injection.outcomes.iter().find(|outcome| injects(outcome.reason) && pins(&outcome.set));
        pinned.map_or(Ok(()), |outcome| {
            Err(Error::Input(format!(
                "{owner}: SidecarSet {:?} pins a revision (injectionStrategy.revision), and revisions cannot be read \
                 without the permission to list controllerrevisions.apps: {refusal}",
                outcome.set
            )))
        })
    }
}

fn line(owner: &Owner, outcome: &Outcome) -> String {
    let separator = if outcome.message.is_empty() { "" } else { ": " };
    format!("{owner}: {} {}{separator}{}", outcome.set, outcome.reason, outcome.message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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

    fn pod(labels: &Value) -> Ordered {
        Ordered::from(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels},
            "spec": {"containers": [{"name": "app", "image": "a"}]}}))
    }

    #[test]
    fn a_set_that_pins_a_revision_needs_the_permission_to_read_it() {
        let web = pod(&json!({"app": "web"}));
        for policy in ["Always", "Partial"] {
            let refusal = injector(policy, Some("forbidden")).inject(&web).err().map(|error| error.to_string());
            let refusal = refusal.unwrap_or_default();
            assert!(refusal.starts_with("error: pod/p: SidecarSet \"s\" pins a revision"), "{refusal}");
            assert!(refusal.contains("list controllerrevisions.apps: forbidden"), "{refusal}");
            assert!(injector(policy, None).inject(&web).is_ok(), "the history was read");
        }
        let opted_out = pod(&json!({"app": "web", "sidecarset.dev/inject": "false"}));
        for untouched in [opted_out, pod(&json!({"app": "api"}))] {
            assert!(injector("Always", Some("forbidden")).inject(&untouched).is_ok());
        }
    }
}
