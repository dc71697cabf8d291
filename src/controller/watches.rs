//! The watches: sets, revisions, pods, namespaces, nodes. All run on every replica, so that a new leader is warm.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::context::{Context, now};
use super::watch_gaps::vanished;
use super::watched_set::WatchedSet;
use crate::api::keys;
use crate::core::pod::{PodKey, PodView, SlimPod, restarts_native_sidecars};
use crate::runtime::health::{Gate, Readiness};

/// Keys that a relist names: what is not among them when it ends has vanished without an event.
struct Relist<K>(Option<HashSet<K>>);

impl<K: Eq + Hash> Relist<K> {
    fn new() -> Self {
        Self(None)
    }

    fn start(&mut self) {
        self.0 = Some(HashSet::new());
    }

    /// Notes a key while a list is under way; between lists there is nothing to note.
    fn note(&mut self, key: K) {
        if let Some(listed) = &mut self.0 {
            listed.insert(key);
        }
    }

    fn finish(&mut self) -> HashSet<K> {
        self.0.take().unwrap_or_default()
    }
}

/// What readiness waits for; made before readiness is served.
pub struct Gates {
    sets: Gate,
    revisions: Gate,
    namespaces: Gate,
    pods: Gate,
}

impl Gates {
    /// Closed gates, one per cache.
    pub fn new(readiness: &Readiness) -> Self {
        Self {
            sets: readiness.gate("sidecarsets cache"),
            revisions: readiness.gate("controllerrevisions cache"),
            namespaces: readiness.gate("namespaces cache"),
            pods: readiness.gate("pods cache"),
        }
    }
}

/// The sets, for the controller and on the way into the cache.
pub(super) fn sets(
    context: &Arc<Context>,
    gates: &Gates,
) -> (impl Stream<Item = Result<WatchedSet, watcher::Error>> + Send + 'static, Store<WatchedSet>) {
    let (store, writer) = reflector::store();
    let gate = gates.sets.clone();
    let context = Arc::clone(context);
    let mut relist = Relist::new();
    let api: Api<WatchedSet> = Api::all(context.clients.watch.clone());
    let stream = watch(api, watcher::Config::default())
        .default_backoff()
        .inspect_ok(move |event| on_set(&context, &mut relist, &gate, event))
        .reflect(writer)
        .touched_objects();
    (stream, store)
}

fn on_set(context: &Context, relist: &mut Relist<String>, gate: &Gate, event: &Event<WatchedSet>) {
    match event {
        Event::Init => relist.start(),
        Event::InitApply(set) | Event::Apply(set) => {
            relist.note(set.name());
            match &set.0.0 {
                Ok(set) => context.enqueue(context.cache.apply_set(set.clone())),
                Err(error) => tracing::error!(set = %set.name(), %error, "the set cannot be read and is left alone"),
            }
        }
        Event::InitDone => {
            for name in context.cache.sets_listed(&relist.finish()) {
                forget(context, &name);
            }
            context.shared.mark_synced("sidecarsets");
            gate.open();
        }
        Event::Delete(set) => {
            if let Ok(set) = &set.0.0 {
                context.enqueue(context.cache.remove_set(set));
            }
            forget(context, &set.name());
        }
    }
}

fn forget(context: &Context, set: &str) {
    context.state().forget(set);
    context.metrics.forget_pods(set, &super::report::POD_STATES);
    context.metrics.forget_pods(set, &super::uninjected::POD_STATES);
}

/// All other watches.
pub(super) fn spawn(tasks: &mut JoinSet<()>, context: &Arc<Context>, gates: &Gates) {
    let client = || context.clients.watch.clone();
    let everything = watcher::Config::default();
    let injected = everything.clone().labels(&format!("{}=true", keys::INJECTED));
    let gate = gates.revisions.clone();
    let api = Api::<ControllerRevision>::namespaced(client(), &context.settings.namespace);
    let ours = everything.clone().labels(keys::SET);
    let (cx, mut relist) = (Arc::clone(context), Relist::new());
    follow(tasks, api, ours, move |event| on_revision(&cx, &mut relist, &gate, event));

    let gate = gates.namespaces.clone();
    let api = Api::<PartialObjectMeta<Namespace>>::all(client());
    let (cx, mut relist) = (Arc::clone(context), Relist::new());
    let mut known = HashSet::new();
    follow(tasks, api, everything.clone(), move |event| on_namespace(&cx, &mut relist, &mut known, &gate, event));

    let cx = Arc::clone(context);
    follow(tasks, Api::<SlimNode>::all(client()), everything, move |event| on_node(&cx, event));

    let gate = gates.pods.clone();
    let (cx, mut relist) = (Arc::clone(context), Relist::new());
    follow(tasks, Api::<SlimPod>::all(client()), injected, move |event| on_pod(&cx, &mut relist, &gate, event));
}

fn follow<K>(
    tasks: &mut JoinSet<()>,
    api: Api<K>,
    config: watcher::Config,
    mut on_event: impl FnMut(Event<K>) + Send + 'static,
) where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    tasks.spawn(async move {
        let stream = watch(api, config).default_backoff().modify(|object| object.managed_fields_mut().clear());
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => on_event(event),
                Err(error) => tracing::warn!(%error, "a watch is interrupted and tried again"),
            }
        }
    });
}

fn on_revision(context: &Context, relist: &mut Relist<String>, gate: &Gate, event: Event<ControllerRevision>) {
    let set = match event {
        Event::Init => {
            relist.start();
            None
        }
        Event::InitApply(revision) | Event::Apply(revision) => {
            relist.note(revision.name_any());
            context.cache.apply_revision(&revision)
        }
        Event::InitDone => {
            context.cache.revisions_listed(&relist.finish());
            context.shared.mark_synced("controllerrevisions");
            gate.open();
            None
        }
        Event::Delete(revision) => context.cache.remove_revision(&revision),
    };
    context.enqueue(set);
}

fn on_namespace(
    context: &Context,
    relist: &mut Relist<String>,
    known: &mut HashSet<String>,
    gate: &Gate,
    event: Event<PartialObjectMeta<Namespace>>,
) {
    let set = |name: &str, labels: Option<std::collections::BTreeMap<String, String>>| {
        context.cache.namespaces.set(name, labels.clone());
        let sets = context.state().index.set_namespace(name, labels);
        context.enqueue(sets);
    };
    match event {
        Event::Init => relist.start(),
        Event::InitApply(namespace) | Event::Apply(namespace) => {
            let name = namespace.name_any();
            relist.note(name.clone());
            known.insert(name.clone());
            set(&name, Some(namespace.metadata.labels.unwrap_or_default()));
        }
        Event::InitDone => {
            let listed = relist.finish();
            known.iter().filter(|name| !listed.contains(*name)).for_each(|name| set(name, None));
            *known = listed;
            context.shared.mark_synced("namespaces");
            gate.open();
        }
        Event::Delete(namespace) => {
            known.remove(&namespace.name_any());
            set(&namespace.name_any(), None);
        }
    }
}

/// A node, as far as its kubelet's version.
#[derive(Clone, Debug, serde::Deserialize, Resource)]
#[resource(inherit = Node)]
struct SlimNode {
    metadata: kube::core::ObjectMeta,
    #[serde(default)]
    status: SlimNodeStatus,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimNodeStatus {
    node_info: SlimNodeInfo,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimNodeInfo {
    kubelet_version: String,
}

fn on_node(context: &Context, event: Event<SlimNode>) {
    let sets = match event {
        Event::Init => return,
        Event::InitDone => return context.shared.mark_synced("nodes"),
        Event::InitApply(node) | Event::Apply(node) => {
            let able = restarts_native_sidecars(&node.status.node_info.kubelet_version);
            context.state().index.set_node(&node.name_any(), able)
        }
        Event::Delete(node) => context.state().index.set_node(&node.name_any(), None),
    };
    context.enqueue(sets);
}

fn on_pod(context: &Arc<Context>, relist: &mut Relist<PodKey>, gate: &Gate, event: Event<SlimPod>) {
    match event {
        Event::Init => relist.start(),
        Event::InitApply(pod) | Event::Apply(pod) => {
            let view = PodView::new(pod);
            relist.note(view.key.clone());
            let sets = context.state().index.apply(view, now());
            super::uninjected::expect_fewer(context, &sets);
            context.enqueue(sets);
        }
        Event::InitDone => {
            let listed = relist.finish();
            let gone: Vec<_> = context.state().index.pods().filter(|pod| !listed.contains(&pod.key)).cloned().collect();
            for pod in gone {
                vanished(context, &pod.key, &pod.uid, false);
            }
            context.shared.pods_listed();
            gate.open();
        }
        Event::Delete(pod) => {
            let deleted = pod.metadata.deletion_timestamp.is_some();
            let view = PodView::new(pod);
            vanished(context, &view.key, &view.uid, deleted);
        }
    }
}
