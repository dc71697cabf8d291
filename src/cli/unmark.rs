//! `unmark`: pods of a deleted set without the marks that it left.

use std::process::ExitCode;

use futures::{StreamExt, stream};
use json_patch::Patch as JsonPatch;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::cluster::{Cluster, ClusterArgs};
use super::error::Error;
use super::output::{note, write};
use crate::api::{SidecarSet, keys};
use crate::core::base::pointer::{pointer, test};
use crate::runtime::pages::{PAGE, Pages};

/// Requests at once.
const CONCURRENCY: usize = 16;

/// Remove the marks of a deleted SidecarSet from its pods.
///
/// The sidecars run on. A set of that name that is created again does not adopt such pods: it counts them as uninjected.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
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

/// Exit code 1 if a pod keeps its marks.
pub(super) async fn run(args: &Args, cluster: &ClusterArgs) -> Result<ExitCode, Error> {
    let Cluster { client, namespace } = cluster.connect().await?;
    let pods: &Api<Pod> =
        &if args.all_namespaces { Api::all(client.clone()) } else { Api::namespaced(client.clone(), &namespace) };
    let mut pages = Pages::new(ListParams::default().labels(&keys::revision_label(&args.set)), PAGE);
    let (mut unmarked, mut kept) = (0, 0);
    while let Some(page) = pages.next(|params| async move { pods.list_metadata(&params).await }).await? {
        // It may have come again since the page before.
        refuse_if_it_exists(&client, &args.set).await?;
        let requests = page.into_iter().map(|pod| unmark(&client, args, pod));
        let mut answers = stream::iter(requests).buffer_unordered(CONCURRENCY);
        while let Some((pod, answer)) = answers.next().await {
            match answer {
                Ok(()) => {
                    unmarked += 1;
                    write(&format!("{pod} {}\n", done(args.dry_run)))?;
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => {
                    kept += 1;
                    note(format_args!("{pod}: {}", Error::from(error)));
                }
            }
        }
    }
    write(&(summary(&args.set, unmarked, kept, args.dry_run) + "\n"))?;
    Ok(if kept == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Without marks the pods of a living set would be uninjected at once: it could evict them, and upgrades none.
async fn refuse_if_it_exists(client: &Client, set: &str) -> Result<(), Error> {
    if Api::<SidecarSet>::all(client.clone()).get_metadata_opt(set).await?.is_none() {
        return Ok(());
    }
    Err(Error::Input(format!("SidecarSet {set} exists and needs the marks of its pods: delete it first")))
}

async fn unmark(client: &Client, args: &Args, pod: PartialObjectMeta<Pod>) -> (String, kube::Result<()>) {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let params = PatchParams { dry_run: args.dry_run, ..PatchParams::default() };
    let patch = Patch::<()>::Json(without_marks(&args.set, &pod.metadata));
    let answer = api.patch_metadata(&name, &params, &patch).await;
    (format!("pod/{name} -n {namespace}"), answer.map(drop))
}

/// Takes the marks of one set from this very pod. The label of injected pods goes with the last set's marks.
fn without_marks(set: &str, pod: &ObjectMeta) -> JsonPatch {
    let remove = |map: &str, key: &str| json!({"op": "remove", "path": pointer(&["metadata", map, key])});
    let (labels, annotations) = (pod.labels.clone().unwrap_or_default(), pod.annotations.clone().unwrap_or_default());
    let mut operations = vec![test("/metadata/uid", pod.uid.as_deref().unwrap_or_default())];
    let label = keys::revision_label(set);
    if let Some(revision) = labels.get(&label) {
        operations.push(test(&pointer(&["metadata", "labels", &label]), revision));
        operations.push(remove("labels", &label));
    }
    for key in [keys::injection_annotation(set), keys::update_annotation(set)] {
        if annotations.contains_key(&key) {
            operations.push(remove("annotations", &key));
        }
    }
    let by_label = labels.keys().filter_map(|key| key.strip_prefix(keys::REVISION_PREFIX));
    let by_annotation = annotations.keys().filter_map(|key| key.strip_prefix(keys::INJECTION_PREFIX));
    let is_last = by_label.chain(by_annotation).all(|marked| marked == set);
    if is_last && labels.contains_key(keys::INJECTED) {
        operations.push(remove("labels", keys::INJECTED));
    }
    serde_json::from_value(Value::Array(operations)).unwrap_or_default()
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
