//! What is read of a pod's owner: how many pods it should have, and those that the watch does not see.

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};

use super::context::Context;
use crate::api::keys;
use crate::core::inject::CompiledSet;
use crate::core::pod::{Owner, PodView, SlimPod};
use crate::runtime::call::CallError;
use crate::runtime::pages::{PAGE, Pages};

/// The pods of a namespace that the set selects and the watch of pods does not see.
pub(super) async fn uninjected_pods(
    context: &Context,
    set: &CompiledSet,
    namespace: &str,
) -> Result<Vec<PodView>, CallError> {
    let api: &Api<SlimPod> = &Api::namespaced(context.clients.call.clone(), namespace);
    let selector: kube::core::Selector = set.selector.requirements().iter().cloned().collect();
    let selector = format!("{selector},{}!=true", keys::INJECTED);
    let mut pages = Pages::new(ListParams::default().labels(selector.trim_start_matches(',')), PAGE);
    let failed = || CallError::api("list", format!("pods in {namespace}"));
    let mut pods = Vec::new();
    while let Some(page) = pages.next(|params| async move { api.list(&params).await }).await.map_err(failed())? {
        pods.extend(page.into_iter().map(PodView::new));
    }
    Ok(pods)
}

/// How many pods the owner should have: none if it is gone, `None` if its kind is not one that is read.
pub(super) async fn replicas(context: &Context, namespace: &str, owner: &Owner) -> Result<Option<usize>, CallError> {
    let known = [ApiResource::erase::<ReplicaSet>(&()), ApiResource::erase::<StatefulSet>(&())];
    let is_owner = |kind: &&ApiResource| kind.api_version == owner.api_version && kind.kind == owner.kind;
    let Some(kind) = known.iter().find(is_owner) else { return Ok(None) };
    let api: Api<DynamicObject> = Api::namespaced_with(context.clients.call.clone(), namespace, kind);
    let failed = CallError::api("get", format!("{} {namespace}/{}", owner.kind, owner.name));
    let object = api.get_opt(&owner.name).await.map_err(failed)?;
    let living = object.filter(|object| object.metadata.uid.as_ref() == Some(&owner.uid));
    let replicas = living.map_or(0, |object| object.data["spec"]["replicas"].as_u64().unwrap_or(1));
    Ok(Some(usize::try_from(replicas).unwrap_or(usize::MAX)))
}
