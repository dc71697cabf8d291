//! The questions to the cluster. Every one of them reads, but for a dry run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::core::Selector;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use super::decide::{Action, ClusterSnapshot, Plan, Planner};
use super::{Example, Manifest};
use crate::api::v1beta1::JobPods;
use crate::api::{SidecarSet, keys};
use crate::cli::cluster::list;
use crate::cli::error::Error;
use crate::cli::sets::fetch_revisions;
use crate::core::base::lists::List;
use crate::core::pod::restarts_native_sidecars;
use crate::core::revision::{Sidecar, Template};
use crate::runtime::pages::{PAGE, Pages};
use crate::runtime::probe::has_resize;

/// What the cluster holds beside `sets`, as far as `set` needs to know.
pub(super) async fn world(client: &Client, set: &SidecarSet, sets: Vec<SidecarSet>) -> Result<ClusterSnapshot, Error> {
    let name = set.name_any();
    let (existing, others): (Vec<_>, Vec<_>) = sets.into_iter().partition(|other| other.name_any() == name);
    let namespaces = list::<PartialObjectMeta<Namespace>>(&Api::all(client.clone()), ListParams::default()).await?;
    let labels = |namespace: PartialObjectMeta<Namespace>| (namespace.name_any(), namespace.labels().clone());
    Ok(ClusterSnapshot {
        existing: existing.into_iter().next(),
        others,
        // In every namespace: which one the operator lives in is not known here.
        revisions: fetch_revisions(&Api::all(client.clone())).await?,
        namespaces: namespaces.into_iter().map(labels).collect(),
        nodes: nodes(client, set).await?,
        cannot_resize: !has_resize(client).await?,
    })
}

/// What the apiserver says to the request that `kubectl apply` would send: the rules of its schema, and every webhook.
/// Nothing is stored. Who may not write sets may still plan; the text says then why the apiserver was not asked.
pub(super) async fn dry_run(
    client: &Client,
    manifest: &Manifest,
    patch: Option<&Value>,
) -> Result<Option<String>, Error> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<SidecarSet>(&()));
    let answer = if let Some(patch) = patch {
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        api.patch(&manifest.set.name_any(), &params, &Patch::Merge(patch)).await
    } else {
        let set = serde_json::from_value(manifest.document.clone()).map_err(unreadable)?;
        api.create(&PostParams { dry_run: true, ..PostParams::default() }, &set).await
    };
    match answer {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Some(status.message.clone())),
        Err(error) => Err(error.into()),
    }
}

/// Only native sidecars need them, and not everybody may list nodes.
async fn nodes(client: &Client, set: &SidecarSet) -> Result<BTreeMap<String, Option<bool>>, Error> {
    let in_jobs = set.spec.job_pods == Some(JobPods::Native);
    let native = |sidecar: Sidecar| in_jobs || sidecar.list == List::Init && sidecar.long_running;
    if !Template::of(&set.spec).sidecars().any(native) {
        return Ok(BTreeMap::new());
    }
    let nodes: Vec<Node> = list(&Api::all(client.clone()), ListParams::default()).await?;
    let able = |node: &Node| restarts_native_sidecars(&node.status.as_ref()?.node_info.as_ref()?.kubelet_version);
    Ok(nodes.iter().map(|node| (node.name_any(), able(node))).collect())
}

/// Gives the planner the pods that the set selects, and those that carry its sidecars. They are read raw: a field that
/// this program does not know belongs in the difference, too.
pub(super) async fn pods(client: &Client, planner: &mut Planner, set: &SidecarSet) -> Result<(), Error> {
    let api = &Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<Pod>(&()));
    let selected = Selector::try_from(set.spec.selector.clone()).unwrap_or_default().to_string();
    for labels in [selected, keys::revision_label(&set.name_any())] {
        let mut pages = Pages::new(ListParams::default().labels(&labels), PAGE);
        while let Some(page) = pages.next(|params| async move { api.list(&params).await }).await? {
            for pod in page {
                planner.add(&serde_json::to_value(pod).map_err(unreadable)?).map_err(unreadable)?;
            }
        }
    }
    Ok(())
}

/// One pod of each action, as it is and as it would be.
pub(super) async fn examples(client: &Client, planner: &Planner, plan: &Plan) -> Result<Vec<Example>, Error> {
    let mut examples = Vec::new();
    for action in [Action::Patch, Action::Evict, Action::LeaveBehind, Action::Inject] {
        let Some(row) = plan.rows.iter().find(|row| row.action == action) else { continue };
        let resource = ApiResource::erase::<Pod>(&());
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), &row.pod.namespace, &resource);
        // It may have gone since; the plan is still right for the others.
        let Some(pod) = api.get_opt(&row.pod.name).await? else { continue };
        let before: Value = serde_json::to_value(pod).map_err(unreadable)?;
        if let Some(after) = planner.outcome(action, &before) {
            examples.push(Example { action, pod: row.pod.clone(), before, after });
        }
    }
    Ok(examples)
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Input(format!("the cluster's answer is not what it should be: {error}"))
}
