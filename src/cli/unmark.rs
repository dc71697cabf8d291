//! `unmark`: pods of a deleted set without the marks that it left.

use std::io::Write;
use std::process::ExitCode;

use futures::{StreamExt, stream};
use json_patch::jsonptr::PointerBuf;
use json_patch::{Patch as JsonPatch, PatchOperation, RemoveOperation, TestOperation};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::cluster::{Cluster, ClusterArgs};
use super::error::Error;
use super::{Say, say};
use crate::api::{SidecarSet, keys};

/// Pods per page, and per look whether the set has come again.
const PAGE: u32 = 500;

/// Requests at once.
const CONCURRENCY: usize = 16;

/// Remove the marks of a deleted SidecarSet from its pods.
///
/// The sidecars run on. A set of that name that is created again does not adopt such pods: it counts them as uninjected.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UnmarkArgs {
    /// NAME of the deleted SidecarSet
    #[arg(value_name = "SET")]
    set: String,
    /// Pods of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// The API server checks every request, and changes nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the verb. Exit code 1 if a pod keeps its marks.
pub async fn run(args: &UnmarkArgs, cluster: &ClusterArgs) -> Result<ExitCode, Error> {
    let Cluster { client, namespace } = cluster.connect().await?;
    let pods: Api<Pod> =
        if args.all_namespaces { Api::all(client.clone()) } else { Api::namespaced(client.clone(), &namespace) };
    let mut params = ListParams::default().labels(&keys::revision_label(&args.set)).limit(PAGE);
    let (mut unmarked, mut kept) = (0, 0);
    loop {
        refuse_if_it_exists(&client, &args.set).await?;
        let page = pods.list_metadata(&params).await?;
        let requests = page.items.into_iter().map(|pod| unmark(&client, args, pod));
        let mut answers = stream::iter(requests).buffer_unordered(CONCURRENCY);
        while let Some((pod, answer)) = answers.next().await {
            match answer {
                Ok(()) => {
                    unmarked += 1;
                    print(&format!("{pod} {}", done(args.dry_run)))?;
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    kept += 1;
                    say(Say::Note, &format!("{pod}: {error}"));
                }
            }
        }
        let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) else { break };
        params = params.continue_token(&token);
    }
    print(&summary(&args.set, unmarked, kept, args.dry_run))?;
    Ok(if kept == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Without marks the pods of a living set would be uninjected at once: it could evict them, and upgrades none.
async fn refuse_if_it_exists(client: &Client, set: &str) -> Result<(), Error> {
    if Api::<SidecarSet>::all(client.clone()).get_metadata_opt(set).await?.is_none() {
        return Ok(());
    }
    Err(Error::Input(format!("SidecarSet {set} exists and needs the marks of its pods: delete it first")))
}

async fn unmark(client: &Client, args: &UnmarkArgs, pod: PartialObjectMeta<Pod>) -> (String, Result<(), Error>) {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let params = PatchParams { dry_run: args.dry_run, ..PatchParams::default() };
    let patch = Patch::<()>::Json(without_marks(&args.set, &pod.metadata));
    let answer = api.patch_metadata(&name, &params, &patch).await;
    (format!("pod/{name} -n {namespace}"), answer.map(drop).map_err(Error::from))
}

fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Api(kube::Error::Api(status)) if status.is_not_found())
}

/// Takes the marks of one set from this very pod. The label of injected pods goes with the last set's marks.
fn without_marks(set: &str, pod: &ObjectMeta) -> JsonPatch {
    let label = keys::revision_label(set);
    let mut operations = vec![test(&["metadata", "uid"], json!(pod.uid))];
    if let Some(revision) = pod.labels.as_ref().and_then(|labels| labels.get(&label)) {
        operations.push(test(&["metadata", "labels", &label], json!(revision)));
        operations.push(remove(&["metadata", "labels", &label]));
    }
    let annotations = pod.annotations.as_ref();
    for key in [keys::injection_annotation(set), keys::update_annotation(set)] {
        if annotations.is_some_and(|annotations| annotations.contains_key(&key)) {
            operations.push(remove(&["metadata", "annotations", &key]));
        }
    }
    let is_labelled = pod.labels.as_ref().is_some_and(|labels| labels.contains_key(keys::INJECTED));
    if is_labelled && !has_marks_of_others(set, pod) {
        operations.push(remove(&["metadata", "labels", keys::INJECTED]));
    }
    JsonPatch(operations)
}

fn has_marks_of_others(set: &str, pod: &ObjectMeta) -> bool {
    let labels = pod.labels.iter().flatten().map(|(key, _)| (key, keys::REVISION_PREFIX));
    let annotations = pod.annotations.iter().flatten().map(|(key, _)| (key, keys::INJECTION_PREFIX));
    labels.chain(annotations).any(|(key, prefix)| key.strip_prefix(prefix).is_some_and(|other| other != set))
}

fn test(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation { path: PointerBuf::from_tokens(path.iter().copied()), value })
}

fn remove(path: &[&str]) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path: PointerBuf::from_tokens(path.iter().copied()) })
}

fn done(dry_run: bool) -> &'static str {
    if dry_run { "unmarked (server dry run)" } else { "unmarked" }
}

fn summary(set: &str, unmarked: usize, kept: usize, dry_run: bool) -> String {
    if unmarked + kept == 0 {
        return format!("No pod carries marks of SidecarSet {set}.");
    }
    let noun = if unmarked == 1 { "pod" } else { "pods" };
    let failed = if kept == 0 { String::new() } else { format!(", {kept} not: the command can be repeated") };
    format!("{unmarked} {noun} {}{failed}", done(dry_run))
}

fn print(line: &str) -> Result<(), Error> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Error::Write(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(labels: Value, annotations: Value) -> Value {
        json!({"metadata": {"name": "web-1", "uid": "u", "labels": labels, "annotations": annotations}})
    }

    /// The pod without the marks of the set `logs`.
    fn unmarked(pod: &Value) -> Value {
        let patch = without_marks("logs", &serde_json::from_value(pod["metadata"].clone()).unwrap());
        let mut pod = pod.clone();
        json_patch::patch(&mut pod, &patch).unwrap();
        pod
    }

    #[test]
    fn the_marks_of_the_set_go_and_nothing_else() {
        let pod = metadata(
            json!({"app": "web", "sidecarset.dev/injected": "true", "revision.sidecarset.dev/logs": "abc"}),
            json!({"a": "b", "injection.sidecarset.dev/logs": "{}", "update.sidecarset.dev/logs": "{}"}),
        );
        assert_eq!(unmarked(&pod), metadata(json!({"app": "web"}), json!({"a": "b"})));
    }

    #[test]
    fn the_label_of_injected_pods_stays_with_the_marks_of_another_set() {
        let others = json!({"sidecarset.dev/injected": "true", "revision.sidecarset.dev/mesh": "def"});
        let mut labels = others.clone();
        labels["revision.sidecarset.dev/logs"] = json!("abc");
        let annotations = json!({"injection.sidecarset.dev/mesh": "{}"});
        assert_eq!(unmarked(&metadata(labels, annotations.clone())), metadata(others, annotations));
    }

    #[test]
    fn another_pod_of_that_name_and_a_pod_that_was_marked_anew_are_left_alone() {
        let labels = |revision: &str| json!({"revision.sidecarset.dev/logs": revision});
        let pod = metadata(labels("abc"), json!({}));
        let patch = without_marks("logs", &serde_json::from_value(pod["metadata"].clone()).unwrap());
        let mut other = pod.clone();
        other["metadata"]["uid"] = json!("v");
        for mut pod in [other, metadata(labels("def"), json!({}))] {
            assert!(json_patch::patch(&mut pod, &patch).is_err());
        }
    }

    #[test]
    fn the_last_line_says_how_many_and_how_many_not() {
        assert_eq!(summary("logs", 0, 0, false), "No pod carries marks of SidecarSet logs.");
        assert_eq!(summary("logs", 1, 0, true), "1 pod unmarked (server dry run)");
        assert_eq!(summary("logs", 2, 1, false), "2 pods unmarked, 1 not: the command can be repeated");
    }
}
