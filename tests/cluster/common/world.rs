//! One test's corner of a cluster: a namespace, and sets that select only its pods.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Namespace, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;

use super::eventually;

pub struct World {
    pub client: Client,
    /// The namespace, also the name of the set and the value of the label `app` on its pods.
    pub name: String,
}

impl World {
    /// A namespace in the shared cluster.
    pub async fn shared(name: &str) -> Self {
        Self::new(super::shared(), name).await
    }

    pub async fn new(kubeconfig: &Path, name: &str) -> Self {
        let client = super::client(kubeconfig).await;
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        let world = Self { client, name: name.to_owned() };
        // Pods are refused before their namespace has its service account.
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = world.api();
        eventually("the default service account", async || accounts.get("default").await).await;
        world
    }

    /// Objects of the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub fn sets(&self) -> Api<SidecarSet> {
        Api::all(self.client.clone())
    }

    /// A set named like the namespace that puts `agent` with this image into its pods.
    pub fn set(&self, image: &str, update_strategy: Value) -> Value {
        json!({
            "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": self.name},
            "spec": {
                "selector": {"matchLabels": {"app": self.name}},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.name}},
                "containers": [{"name": "agent", "image": image}],
                "updateStrategy": update_strategy,
            }
        })
    }

    /// `kubectl apply --server-side`.
    pub async fn apply_without_waiting(&self, set: &Value) {
        let name = set["metadata"]["name"].as_str().unwrap();
        self.sets().patch(name, &PatchParams::apply("test").force(), &Patch::Apply(set)).await.unwrap();
    }

    /// `kubectl apply --server-side`, and waits until the webhook serves it.
    pub async fn apply(&self, set: &Value) {
        self.apply_without_waiting(set).await;
        let name = set["metadata"]["name"].as_str().unwrap();
        self.until_named(name, "the webhook serves the set", |set| condition(set, "InjectionReady") == "True").await;
    }

    /// A set that admission has not looked at: it is made with nothing to find, and changed while it is paused.
    pub async fn apply_unchecked(&self, set: &Value) {
        assert_eq!(set["spec"]["updateStrategy"]["paused"], true);
        let mut first = set.clone();
        first["spec"] = json!({"selector": {"matchLabels": {"app": "nobody"}}, "injectionStrategy": {"paused": true},
            "containers": [{"name": "agent", "image": "agent:v1"}], "updateStrategy": {"paused": true}});
        self.apply_without_waiting(&first).await;
        self.apply_without_waiting(set).await;
    }

    /// Waits until the controller has seen the newest spec and the status satisfies `probe`.
    pub async fn until_set(&self, what: &str, probe: impl Fn(&SidecarSet) -> bool) -> SidecarSet {
        self.until_named(&self.name, what, probe).await
    }

    /// The same for a set that is not named like the namespace.
    pub async fn until_named(&self, name: &str, what: &str, probe: impl Fn(&SidecarSet) -> bool) -> SidecarSet {
        let sets = self.sets();
        eventually(what, async || {
            let set = sets.get(name).await.unwrap();
            let seen = set.status.as_ref().and_then(|status| status.observed_generation) == set.metadata.generation;
            if seen && probe(&set) { Ok(set) } else { Err(json!(set.status)) }
        })
        .await
    }

    /// A Deployment of pods with one container `app`; waits until all are ready.
    pub async fn deploy(&self, replicas: usize) {
        self.deploy_pods(replicas, json!({"containers": [{"name": "app", "image": "app:v1"}]})).await;
    }

    pub async fn deploy_pods(&self, replicas: usize, spec: Value) {
        let labels = json!({"app": self.name});
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "app"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec}},
        }))
        .unwrap();
        self.api().create(&PostParams::default(), &deployment).await.unwrap();
        let deployments: Api<Deployment> = self.api();
        eventually("all pods of the deployment are ready", async || {
            let status = deployments.get("app").await.unwrap().status.unwrap_or_default();
            if status.ready_replicas == i32::try_from(replicas).ok() { Ok(()) } else { Err(status) }
        })
        .await;
    }

    /// Pods of the namespace, by name.
    pub async fn pods(&self) -> Vec<Pod> {
        let mut pods = self.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
        pods.sort_by_key(ResourceExt::name_any);
        pods
    }

    /// Waits until this pod satisfies `probe`.
    pub async fn until_pod(&self, name: &str, what: &str, probe: impl Fn(&Pod) -> bool) -> Pod {
        let pods: Api<Pod> = self.api();
        eventually(what, async || {
            let pod = pods.get(name).await.unwrap();
            if probe(&pod) { Ok(pod) } else { Err(pod.status) }
        })
        .await
    }

    /// Creates a pod from a spec, with the label that the set selects.
    pub async fn pod(&self, name: &str, spec: Value) -> Result<Pod, kube::Error> {
        let pod = json!({"metadata": {"name": name, "labels": {"app": self.name}}, "spec": spec});
        self.create(pod).await
    }

    pub async fn create(&self, pod: Value) -> Result<Pod, kube::Error> {
        self.api().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await
    }

    /// Number of pods whose container `agent` has this image in its spec.
    pub async fn with_image(&self, image: &str) -> usize {
        self.pods().await.iter().filter(|pod| container_image(pod, "agent") == image).count()
    }

    /// Removes a set that is not named like the namespace.
    pub async fn remove_set(&self, name: &str) {
        let _ = self.sets().delete(name, &DeleteParams::default()).await;
    }

    /// Removes what outlives the namespace.
    pub async fn end(self) {
        let _ = self.sets().delete(&self.name, &DeleteParams::default()).await;
        let _ = Api::<Namespace>::all(self.client.clone()).delete(&self.name, &DeleteParams::default()).await;
    }
}

/// Status of a condition, empty if absent.
pub fn condition(set: &SidecarSet, type_: &str) -> String {
    find(set, type_).map(|condition| condition.status.clone()).unwrap_or_default()
}

/// Reason of a condition, empty if absent.
pub fn reason(set: &SidecarSet, type_: &str) -> String {
    find(set, type_).map(|condition| condition.reason.clone()).unwrap_or_default()
}

/// A condition.
pub fn find<'a>(
    set: &'a SidecarSet,
    type_: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    set.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)
}

pub fn names(containers: &[k8s_openapi::api::core::v1::Container]) -> Vec<&str> {
    containers.iter().map(|container| container.name.as_str()).collect()
}

pub fn container<'a>(pod: &'a Pod, name: &str) -> &'a Container {
    let spec = pod.spec.as_ref().unwrap();
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.find(|container| container.name == name).unwrap_or_else(|| panic!("no container {name} in {spec:#?}"))
}

/// Names of the containers and init containers.
pub fn lists(pod: &Pod) -> (Vec<&str>, Vec<&str>) {
    let spec = pod.spec.as_ref().unwrap();
    (names(&spec.containers), names(spec.init_containers.as_deref().unwrap_or_default()))
}

pub fn container_image(pod: &Pod, name: &str) -> String {
    let spec = pod.spec.as_ref().unwrap();
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.filter(|container| container.name == name).find_map(|container| container.image.clone()).unwrap_or_default()
}

/// Pod UID and the container IDs of every container but the named one: what an in-place upgrade must not change.
pub fn identities(pods: &[Pod], except: &str) -> BTreeMap<String, Vec<String>> {
    pods.iter()
        .map(|pod| {
            let status = pod.status.as_ref().unwrap();
            let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
            let ids = all.filter(|status| status.name != except).filter_map(|status| status.container_id.clone());
            (pod.name_any(), [pod.uid().unwrap()].into_iter().chain(ids).collect())
        })
        .collect()
}

/// Keys of all marks that the operator and the webhook leave on a pod.
pub fn marks(pod: &Pod) -> Vec<String> {
    let keys = pod.labels().keys().chain(pod.annotations().keys());
    keys.filter(|key| key.contains("sidecarset.dev/")).cloned().collect()
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
