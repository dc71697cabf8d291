//! Who made the maker of a pod: a `ReplicaSet`'s Deployment, a Job's `CronJob`.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use tokio::time::{Instant, timeout};

/// Longest chain that is followed.
const LEVELS: usize = 3;

/// Longest wait for one object. Events wait meanwhile, and nothing else does.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer, also a failed one, is believed.
const FRESH: Duration = Duration::from_mins(1);

/// Answers kept; a few hundred bytes each.
const KEPT: usize = 1024;

/// See the module.
pub(super) struct TopOwners {
    client: Client,
    /// By UID of the first owner.
    known: HashMap<String, (Instant, ObjectReference)>,
}

impl TopOwners {
    pub(super) fn new(client: Client) -> Self {
        Self { client, known: HashMap::new() }
    }

    /// The highest owner that is known without reading more kinds than `ReplicaSet` and Job; `object` itself if it has
    /// none, or cannot be read.
    pub(super) async fn top(&mut self, object: ObjectReference) -> ObjectReference {
        let Some(uid) = object.uid.clone() else { return object };
        if let Some((at, top)) = self.known.get(&uid)
            && at.elapsed() < FRESH
        {
            return top.clone();
        }
        let mut top = object;
        for _ in 0..LEVELS {
            let Some(above) = self.above(&top).await else { break };
            top = above;
        }
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        self.known.insert(uid, (Instant::now(), top.clone()));
        top
    }

    async fn above(&self, object: &ObjectReference) -> Option<ObjectReference> {
        let made = [ApiResource::erase::<ReplicaSet>(&()), ApiResource::erase::<Job>(&())];
        let kind = made.iter().find(|kind| {
            object.api_version.as_ref() == Some(&kind.api_version) && object.kind.as_ref() == Some(&kind.kind)
        })?;
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), object.namespace.as_deref().unwrap_or_default(), kind);
        let read = timeout(READ_TIMEOUT, api.get_metadata(object.name.as_deref()?)).await.ok()?;
        let metadata = read.inspect_err(|error| tracing::debug!(%error, "an owner is not read")).ok()?.metadata;
        if metadata.uid != object.uid {
            return None;
        }
        let mut owners = metadata.owner_references.into_iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true))?;
        Some(ObjectReference {
            api_version: Some(owner.api_version),
            kind: Some(owner.kind),
            name: Some(owner.name),
            uid: Some(owner.uid),
            namespace: object.namespace.clone(),
            ..ObjectReference::default()
        })
    }
}
