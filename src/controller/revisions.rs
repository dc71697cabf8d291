//! `ControllerRevision`s: the history of a set, owned by it, in the operator's namespace.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, PostParams};
use kube::core::Status;
use kube::{Api, Resource, ResourceExt};

use super::context::{Context, Error};
use crate::api::{SidecarSet, keys};
use crate::core::revision::{self, History, MAX_COLLISIONS, Revision, Template, collisions};
use crate::runtime::call::CallError;

/// The revision that a set's spec describes.
pub(super) struct UpdateRevision {
    pub(super) hash: String,
    pub(super) template: Template,
    pub(super) collisions: i32,
}

/// Finds or makes the revision of the set's spec, and makes it the newest: a rollback reuses the old object.
pub(super) async fn ensure(context: &Context, set: &SidecarSet, known: &History) -> Result<UpdateRevision, Error> {
    let template = Template::of(&set.spec);
    let newest = known.values().map(|revision| revision.number).max().unwrap_or(0);
    let mut collisions = collisions(set);
    let mut gone = false;
    while collisions <= MAX_COLLISIONS {
        let hash = template.hash(collisions);
        let stored = match known.get(&hash).filter(|_| !gone) {
            Some(revision) => Some(revision.clone()),
            None => create(context, set, labels(set), &hash, &template, newest + 1).await?,
        };
        let Some(revision) = stored.filter(|revision| revision.template == template) else {
            collisions += 1;
            continue;
        };
        let same = revision.owner == set.metadata.uid && revision.custom_version == set.spec.custom_version;
        let number = newest + i64::from(revision.number < newest);
        gone = (!same || revision.number < newest) && !renew(context, set, &hash, number).await?;
        if !gone {
            return Ok(UpdateRevision { hash, template, collisions });
        }
    }
    Err(Error::NamesTaken(set.name_any()))
}

/// Puts a canary's revision into its base's history, as the oldest: when the canary goes, its pods are the base's, which
/// must know what they run to bring them back.
pub(super) async fn copy_to_base(
    context: &Context,
    base: &SidecarSet,
    canary: &UpdateRevision,
) -> Result<(), CallError> {
    if context.cache.revisions(&base.name_any()).contains_key(&canary.hash) {
        return Ok(());
    }
    let labels = [(keys::SET.to_owned(), base.name_any())].into();
    create(context, base, labels, &canary.hash, &canary.template, 0).await.map(drop)
}

/// Creates the object. Returns what is now under its name; `None` if that is to be ignored.
async fn create(
    context: &Context,
    set: &SidecarSet,
    labels: BTreeMap<String, String>,
    hash: &str,
    template: &Template,
    number: i64,
) -> Result<Option<Revision>, CallError> {
    let name = revision::name(&set.name_any(), hash);
    let object = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(context.settings.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(set.controller_owner_ref(&()).into_iter().collect()),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(template.data())),
        revision: number,
    };
    let api = api(context);
    let describe = || format!("ControllerRevision {name}");
    let stored = match context.write("create", describe, api.create(&PostParams::default(), &object)).await {
        Err(error) if error.status().is_some_and(Status::is_already_exists) => {
            context.write("get", describe, api.get(&name)).await?
        }
        answer => answer?,
    };
    context.cache.apply_revision(&stored);
    Ok(context.cache.revisions(&set.name_any()).remove(hash))
}

/// Makes a revision the newest, and ours. A PUT of what was read: any patch makes the apiserver encode `data` again,
/// with `<` as `\u003c`, and then refuse it as a change of an immutable field (seen on 1.36). False if it is gone: the
/// cache may know it longer than the server.
#[allow(clippy::disallowed_methods)] // no field of the object is unknown to this program
async fn renew(context: &Context, set: &SidecarSet, hash: &str, number: i64) -> Result<bool, CallError> {
    let name = revision::name(&set.name_any(), hash);
    let describe = || format!("ControllerRevision {name}");
    let api = api(context);
    let Some(mut object) = context.write("get", describe, api.get_opt(&name)).await? else {
        context.cache.forget_revision(&set.name_any(), hash);
        return Ok(false);
    };
    object.metadata.owner_references = Some(set.controller_owner_ref(&()).into_iter().collect());
    object.metadata.labels = Some(labels(set));
    object.revision = number;
    let params = PostParams::default();
    let renewed = context.write("update", describe, api.replace(&name, &params, &object)).await?;
    context.cache.apply_revision(&renewed);
    Ok(true)
}

fn labels(set: &SidecarSet) -> BTreeMap<String, String> {
    let version = set.spec.custom_version.clone().map(|version| (keys::CUSTOM_VERSION.to_owned(), version));
    [(keys::SET.to_owned(), set.name_any())].into_iter().chain(version).collect()
}

/// Deletes what is over `revisionHistoryLimit`, oldest first, but never a revision that is in use.
pub(super) async fn truncate(
    context: &Context,
    set: &SidecarSet,
    known: &History,
    in_use: &BTreeSet<String>,
) -> Result<(), CallError> {
    let mut unused: Vec<(&String, &Revision)> = known.iter().filter(|(hash, _)| !in_use.contains(*hash)).collect();
    unused.sort_by_key(|(_, revision)| revision.number);
    let limit = usize::try_from(set.spec.revision_history_limit).unwrap_or(0);
    let api = api(context);
    for (hash, _) in unused.iter().take(unused.len().saturating_sub(limit)) {
        let name = revision::name(&set.name_any(), hash);
        let params = DeleteParams::default();
        let call = api.delete(&name, &params);
        deleted(context.write("delete", || format!("ControllerRevision {name}"), call).await)?;
        // The watch tells it later; the next round would delete it again.
        context.cache.forget_revision(&set.name_any(), hash);
    }
    Ok(())
}

/// What is gone already needs no deletion.
fn deleted<T>(answer: Result<T, CallError>) -> Result<(), CallError> {
    match answer {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn api(context: &Context) -> Api<ControllerRevision> {
    Api::namespaced(context.clients.call.clone(), &context.settings.namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::call::Cause;

    fn refused(code: u16, reason: &str) -> CallError {
        let status = Status::failure("no", reason).with_code(code);
        CallError::api("delete", "x")(kube::Error::Api(status.boxed()))
    }

    #[test]
    fn a_revision_that_is_gone_already_is_deleted() {
        let not_leader = CallError { action: "delete", object: "x".to_owned(), cause: Cause::NotLeader };
        assert!(deleted(Ok(())).is_ok());
        assert!(deleted::<()>(Err(refused(404, "NotFound"))).is_ok());
        assert!(deleted::<()>(Err(refused(409, "Conflict"))).is_err());
        assert!(deleted::<()>(Err(not_leader)).is_err());
    }
}
