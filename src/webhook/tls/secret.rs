//! The Secret that all replicas share: reads it, does what [`ca::plan`] says, and never overwrites what it has not read.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::ca::{self, Contents, Plan, RotationReason};
use super::{Error, Material, POLL_INTERVAL};
use crate::runtime::call::{CallError, until};

/// A request about the Secret that takes longer is left to the next look.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes lost to other replicas before giving up until the next look.
const MAX_ATTEMPTS: u32 = 8;

/// Longest pause between two attempts; the shortest is none.
const ATTEMPT_PAUSE_MAX: Duration = Duration::from_millis(200);

/// Longest wait before a rotation that is not urgent, so that one replica writes and the others read.
const ROTATION_JITTER_MAX: Duration = Duration::from_secs(20);

/// Certificates from our own CA. Every replica may rotate; the resourceVersion lets one of them win.
pub struct SelfSigned {
    api: Api<Secret>,
    namespace: String,
    name: String,
    names: BTreeSet<String>,
}

impl SelfSigned {
    /// The CA kept in Secret `namespace`/`name`, for a leaf with exactly `names` (DNS names and IP addresses).
    pub fn new(client: Client, namespace: &str, name: &str, names: impl IntoIterator<Item = String>) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            names: names.into_iter().collect(),
        }
    }

    /// The names under which the apiserver reaches `service` in `namespace`, and this machine itself.
    pub fn names_of_service(service: &str, namespace: &str) -> Vec<String> {
        vec![
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
        ]
    }

    pub(super) fn secret(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What to serve now, and how long until the next look; rotates what is due.
    pub(super) async fn load(&self) -> Result<(Material, Duration), Error> {
        let mut yielded = false;
        for _ in 0..MAX_ATTEMPTS {
            let secret = self.call("read", self.api.get_opt(&self.name)).await?;
            let data = secret.as_ref().and_then(|secret| secret.data.as_ref());
            let contents = Contents::from_data(|key| Some(data?.get(key)?.0.as_slice()));
            let now = Timestamp::now();
            let issue = |source| Error::Issue(self.names.iter().cloned().collect(), source);
            let (next, reason) = match ca::plan(&contents, now, &self.names).map_err(issue)? {
                Plan::Keep { next_check } => {
                    let bundle = ca::trusted(&contents, now);
                    let material =
                        Material { certificate: contents.tls_crt, key: contents.tls_key, bundle, client_ca: None };
                    return Ok((material, wait(now, next_check)));
                }
                Plan::Rotate { contents, reason } => (contents, reason),
            };
            if !reason.is_urgent() && !yielded {
                yielded = true;
                sleep(random_up_to(ROTATION_JITTER_MAX)).await;
                continue;
            }
            if !self.write(secret, next, reason).await? {
                sleep(random_up_to(ATTEMPT_PAUSE_MAX)).await;
            }
        }
        Err(Error::Contended(self.secret()))
    }

    /// Whether the write was ours; `false` if the Secret has changed since it was read.
    async fn write(&self, secret: Option<Secret>, contents: Contents, reason: RotationReason) -> Result<bool, Error> {
        let parts = contents.into_data().into_iter();
        let data: BTreeMap<_, _> = parts.map(|(key, part)| (key, ByteString(part))).collect();
        let written = if let Some(version) = secret.and_then(|secret| secret.metadata.resource_version) {
            // Keys and labels that are not ours stay.
            let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "data": data}));
            self.call("write", self.api.patch(&self.name, &PatchParams::default(), &patch)).await
        } else {
            let secret = Secret {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                type_: Some("Opaque".to_owned()),
                data: Some(data),
                ..Secret::default()
            };
            self.call("write", self.api.create(&PostParams::default(), &secret)).await
        };
        match written {
            Ok(_) => {
                tracing::info!(secret = self.secret(), ?reason, "webhook certificates rotated");
                Ok(true)
            }
            Err(error) if error.cause.is_lost_race() && !is_about_namespace(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn call<T>(&self, action: &'static str, call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
        let answer = until(Instant::now() + REQUEST_TIMEOUT, call).await;
        answer.map_err(|cause| CallError { action, object: format!("secret {}", self.secret()), cause })
    }
}

/// A missing namespace is a 404 as well, and no race.
fn is_about_namespace(error: &CallError) -> bool {
    let details = error.status().and_then(|status| status.details.as_ref());
    details.is_some_and(|details| details.kind == "namespaces")
}

/// The next look: when something is due, but within the poll interval, for another replica may write before.
fn wait(now: Timestamp, due: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or_default().clamp(Duration::from_secs(1), POLL_INTERVAL)
}

fn random_up_to(max: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(()) % 1001).unwrap_or_default();
    max * random / 1000
}
