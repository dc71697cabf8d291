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

use super::ca::{self, Contents, Plan, RotationReason};
use super::{Error, Material, POLL_INTERVAL};

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
    pub fn new(
        client: Client,
        namespace: impl Into<String>,
        name: impl Into<String>,
        names: impl IntoIterator<Item = String>,
    ) -> Self {
        let namespace = namespace.into();
        Self {
            api: Api::namespaced(client, &namespace),
            namespace,
            name: name.into(),
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
            let secret = self.read().await?;
            let contents = contents(secret.as_ref());
            let now = Timestamp::now();
            let (next, reason) = match self.plan(&contents, now)? {
                Plan::Keep { next_check } => {
                    return Ok((material(contents, now), until(now, next_check)));
                }
                Plan::Rotate { contents, reason } => (contents, reason),
            };
            if !reason.is_urgent() && !yielded {
                yielded = true;
                tokio::time::sleep(random_up_to(ROTATION_JITTER_MAX)).await;
                continue;
            }
            if !self.write(secret, next, reason).await? {
                tokio::time::sleep(random_up_to(ATTEMPT_PAUSE_MAX)).await;
            }
        }
        Err(Error::Contended { secret: self.secret() })
    }

    fn plan(&self, contents: &Contents, now: Timestamp) -> Result<Plan, Error> {
        ca::plan(contents, now, &self.names)
            .map_err(|source| Error::Issue { names: self.names.iter().cloned().collect(), source })
    }

    async fn read(&self) -> Result<Option<Secret>, Error> {
        self.request("read", self.api.get_opt(&self.name)).await?.map_err(|source| self.api_error("read", source))
    }

    /// Whether the write was ours; `false` if the Secret has changed since it was read.
    async fn write(&self, secret: Option<Secret>, contents: Contents, reason: RotationReason) -> Result<bool, Error> {
        let data: BTreeMap<_, _> =
            contents.into_data().into_iter().map(|(key, part)| (key, ByteString(part))).collect();
        let version = secret.and_then(|secret| secret.metadata.resource_version);
        let written = if let Some(version) = version {
            // Keys and labels that are not ours stay.
            let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "data": data}));
            self.request("write", self.api.patch(&self.name, &PatchParams::default(), &patch)).await?
        } else {
            let secret = Secret {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                type_: Some("Opaque".to_owned()),
                data: Some(data),
                ..Secret::default()
            };
            self.request("write", self.api.create(&PostParams::default(), &secret)).await?
        };
        match written {
            Ok(_) => {
                tracing::info!(secret = self.secret(), ?reason, "webhook certificates rotated");
                Ok(true)
            }
            Err(kube::Error::Api(status))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                // A missing namespace is a 404 as well, and no race: its kind says which it is.
                let namespace = status.details.as_ref().is_some_and(|details| details.kind == "namespaces");
                if namespace { Err(self.api_error("write", kube::Error::Api(status))) } else { Ok(false) }
            }
            Err(source) => Err(self.api_error("write", source)),
        }
    }

    async fn request<T>(&self, verb: &'static str, request: impl Future<Output = T>) -> Result<T, Error> {
        tokio::time::timeout(REQUEST_TIMEOUT, request).await.map_err(|_| Error::Timeout { verb, secret: self.secret() })
    }

    fn api_error(&self, verb: &'static str, source: kube::Error) -> Error {
        Error::Api { verb, secret: self.secret(), source: Box::new(source) }
    }
}

fn contents(secret: Option<&Secret>) -> Contents {
    let data = secret.and_then(|secret| secret.data.as_ref());
    Contents::from_data(|key| data?.get(key).map(|bytes| bytes.0.as_slice()))
}

fn material(contents: Contents, now: Timestamp) -> Material {
    let bundle = ca::trusted(&contents, now);
    Material { certificate: contents.tls_crt, key: contents.tls_key, bundle }
}

/// The next look: when something is due, but within the poll interval, for another replica may write before.
fn until(now: Timestamp, due: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or_default().clamp(Duration::from_secs(1), POLL_INTERVAL)
}

fn random_up_to(max: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(()) % 1001).unwrap_or_default();
    max * random / 1000
}
