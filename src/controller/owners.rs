//! What is read of a pod's owner: its pods, and how many it should have.

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};

use super::context::{Context, now};
use super::error::Error;
use crate::api::v1beta1::EvictionCause;
use crate::core::inject::{CompiledSet, CompiledSets};
use crate::core::pod::{Owner, PodView, SlimPod};
use crate::core::replace::Sibling;
use crate::core::replace::uninjected::is_uninjected;
use crate::runtime::pages::{PAGE, Pages};

/// The pods of an owner that the set selects.
pub(super) async fn siblings(
    context: &Context,
    set: &CompiledSet,
    sets: &CompiledSets,
    namespace: &str,
    owner: &Owner,
) -> Result<Vec<Sibling>, Error> {
    let api: &Api<SlimPod> = &Api::namespaced(context.clients.call.clone(), namespace);
    let selector: kube::core::Selector = set.selector.requirements().iter().cloned().collect();
    let mut pages = Pages::new(ListParams::default().labels_from(&selector), PAGE);
    let failed = || Error::api("list", format!("pods in {namespace}"));
    let mut siblings = Vec::new();
    while let Some(page) = pages.next(|params| async move { api.list(&params).await }).await.map_err(failed())? {
        let of_owner = page.into_iter().filter(|pod| Owner::of(&pod.metadata).as_ref() == Some(owner));
        siblings.extend(of_owner.map(|pod| sibling(context, set, sets, pod)));
    }
    Ok(siblings)
}

/// What is wrong with a pod, whether or not the set wants it evicted for that.
fn sibling(context: &Context, set: &CompiledSet, sets: &CompiledSets, pod: SlimPod) -> Sibling {
    let uninjected = is_uninjected(&pod.metadata, set, sets);
    let pod = PodView::new(pod);
    if uninjected {
        return Sibling::new(pod, Some(EvictionCause::NoSidecars));
    }
    context.state().index.sibling(&set.name, pod, now())
}

/// How many pods the owner should have: none if it is gone, `None` if its kind is not one that is read.
pub(super) async fn replicas(context: &Context, namespace: &str, owner: &Owner) -> Result<Option<usize>, Error> {
    let known = [ApiResource::erase::<ReplicaSet>(&()), ApiResource::erase::<StatefulSet>(&())];
    let is_owner = |kind: &&ApiResource| kind.api_version == owner.api_version && kind.kind == owner.kind;
    let Some(kind) = known.iter().find(is_owner) else { return Ok(None) };
    let api: Api<DynamicObject> = Api::namespaced_with(context.clients.call.clone(), namespace, kind);
    let failed = Error::api("get", format!("{} {namespace}/{}", owner.kind, owner.name));
    let object = api.get_opt(&owner.name).await.map_err(failed)?;
    let living = object.filter(|object| object.metadata.uid.as_ref() == Some(&owner.uid));
    let replicas = living.map_or(0, |object| object.data["spec"]["replicas"].as_u64().unwrap_or(1));
    Ok(Some(usize::try_from(replicas).unwrap_or(usize::MAX)))
}
