//! The questions to the cluster. Every one of them reads, but for a dry run.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::core::Selector;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::decide::{Action, Plan, Planner, World};
use super::{Example, Manifest};
use crate::api::{SidecarSet, keys};
use crate::cli::Error;
use crate::core::base::lists::List;
use crate::core::pod::restarts_native_sidecars;
use crate::core::revision::{History, Template, histories};
use crate::runtime::pages::{PAGE, Pages};
use crate::runtime::probe::has_resize;

/// All sets as they are.
pub(super) async fn sets(client: &Client) -> Result<Vec<SidecarSet>, Error> {
    list(&Api::all(client.clone()), ListParams::default()).await
}

/// What the cluster holds beside `sets`, as far as `set` needs to know.
pub(super) async fn world(client: &Client, set: &SidecarSet, sets: Vec<SidecarSet>) -> Result<World, Error> {
    let name = set.name_any();
    let (existing, others): (Vec<_>, Vec<_>) = sets.into_iter().partition(|other| other.name_any() == name);
    let namespaces: Vec<PartialObjectMeta<Namespace>> = list(&Api::all(client.clone()), ListParams::default()).await?;
    let labels =
        |mut namespace: PartialObjectMeta<Namespace>| (namespace.name_any(), std::mem::take(namespace.labels_mut()));
    Ok(World {
        existing: existing.into_iter().next(),
        others,
        revisions: revisions(client).await?,
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
        api.patch(&manifest.name(), &params, &Patch::Merge(patch)).await
    } else {
        let set = serde_json::from_value(manifest.document().clone()).map_err(unreadable)?;
        api.create(&PostParams { dry_run: true, ..PostParams::default() }, &set).await
    };
    match answer {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Some(status.message.clone())),
        Err(error) => Err(error.into()),
    }
}

/// In every namespace: which one the operator lives in is not known here.
async fn revisions(client: &Client) -> Result<BTreeMap<String, History>, Error> {
    let of_sets = ListParams::default().labels(keys::SET);
    let objects: Vec<ControllerRevision> = list(&Api::all(client.clone()), of_sets).await?;
    Ok(histories(&objects))
}

/// Only native sidecars need them, and not everybody may list nodes.
async fn nodes(client: &Client, set: &SidecarSet) -> Result<BTreeMap<String, Option<bool>>, Error> {
    let native = |sidecar: crate::core::revision::Sidecar| sidecar.list == List::Init && sidecar.long_running;
    if !Template::of(&set.spec).sidecars().any(native) {
        return Ok(BTreeMap::new());
    }
    let nodes: Vec<Node> = list(&Api::all(client.clone()), ListParams::default()).await?;
    let able = |node: Node| {
        let version =
            node.status.as_ref().and_then(|status| status.node_info.as_ref()).map(|info| &info.kubelet_version);
        (node.name_any(), version.and_then(|version| restarts_native_sidecars(version)))
    };
    Ok(nodes.into_iter().map(able).collect())
}

/// Gives the planner the pods that the set selects, and those that carry its sidecars.
pub(super) async fn pods(client: &Client, planner: &mut Planner) -> Result<(), Error> {
    let set = planner.set();
    let carriers = keys::revision_label(&set.name_any());
    for labels in [selector(&set.spec.selector), carriers] {
        let api = &raw_pods(client);
        let mut pages = Pages::new(ListParams::default().labels(&labels), PAGE);
        while let Some(page) = pages.next(|params| async move { api.list(&params).await }).await? {
            for pod in page {
                let pod = serde_json::to_value(pod).map_err(unreadable)?;
                planner.add(&pod).map_err(unreadable)?;
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
        let api =
            Api::<DynamicObject>::namespaced_with(client.clone(), &row.pod.namespace, &ApiResource::erase::<Pod>(&()));
        let found = api.get_opt(&row.pod.name).await?;
        // It may have gone since; the plan is still right for the others.
        let Some(pod) = found else { continue };
        let before: Value = serde_json::to_value(pod).map_err(unreadable)?;
        if let Some(after) = planner.outcome(action, &before) {
            examples.push(Example { action, pod: row.pod.clone(), before, after });
        }
    }
    Ok(examples)
}

/// Raw: a field that this program does not know belongs in the difference, too.
fn raw_pods(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &ApiResource::erase::<Pod>(&()))
}

/// A label selector in the words of a list request.
fn selector(selector: &LabelSelector) -> String {
    Selector::try_from(selector.clone()).map(|selector| selector.to_string()).unwrap_or_default()
}

async fn list<K>(api: &Api<K>, params: ListParams) -> Result<Vec<K>, Error>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    let mut pages = Pages::new(params, PAGE);
    let mut all = Vec::new();
    while let Some(page) = pages.next(|params| async move { api.list(&params).await }).await? {
        all.extend(page);
    }
    Ok(all)
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Input(format!("the cluster's answer is not what it should be: {error}"))
}
