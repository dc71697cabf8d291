//! The watches: sets, revisions, pods, namespaces, nodes. All run on every replica, so that a new leader is warm.

use std::collections::{BTreeMap, HashSet};
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

use super::context::{Context, WatchedSet, now};
use super::watch_gaps::vanished;
use crate::api::keys;
use crate::core::pod::{PodKey, PodView, SlimPod, restarts_native_sidecars};

/// The sets, for the controller and on the way into the cache.
pub(super) fn sets(
    context: &Arc<Context>,
) -> (impl Stream<Item = Result<WatchedSet, watcher::Error>> + Send + 'static, Store<WatchedSet>) {
    let (store, writer) = reflector::store();
    let (cx, mut listed) = (Arc::clone(context), HashSet::new());
    let stream = watch(Api::<WatchedSet>::all(context.clients.watch.clone()), watcher::Config::default())
        .default_backoff()
        .inspect_ok(move |event| on_set(&cx, &mut listed, event))
        .reflect(writer)
        .touched_objects();
    (stream, store)
}

/// `listed`: names that the list under way has given. What is not among them when it ends has vanished without an event.
fn on_set(context: &Context, listed: &mut HashSet<String>, event: &Event<WatchedSet>) {
    if let Event::InitApply(set) = event {
        listed.insert(set.name_any());
    }
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(set) | Event::Apply(set) => match &set.0 {
            Ok(known) => context.enqueue(context.cache.apply_set(known.clone())),
            Err(error) => tracing::error!(set = set.name_any(), %error, "the set cannot be read and is left alone"),
        },
        Event::InitDone => {
            for name in context.cache.sets_listed(&std::mem::take(listed)) {
                forget(context, &name);
            }
            context.shared.mark_synced("sidecarsets");
        }
        Event::Delete(set) => {
            if let Ok(set) = &set.0 {
                context.enqueue(context.cache.remove_set(set));
            }
            forget(context, &set.name_any());
        }
    }
}

fn forget(context: &Context, set: &str) {
    let gone = context.state().forget(set);
    drop(gone);
    context.metrics.forget_pods(set, &super::report::POD_STATES);
    context.metrics.forget_pods(set, &super::uninjected::POD_STATES);
    context.metrics.forget_failed_creates(set);
}

/// All other watches.
pub(super) fn spawn(tasks: &mut JoinSet<()>, context: &Arc<Context>) {
    let client = || context.clients.watch.clone();
    let everything = watcher::Config::default();
    let (cx, mut listed) = (Arc::clone(context), HashSet::new());
    let api = Api::<ControllerRevision>::namespaced(client(), &context.settings.namespace);
    let ours = everything.clone().labels(keys::SET);
    follow(tasks, api, ours, move |event| on_revision(&cx, &mut listed, event));

    let (cx, mut listed) = (Arc::clone(context), HashSet::new());
    let namespaces = Api::<PartialObjectMeta<Namespace>>::all(client());
    follow(tasks, namespaces, everything.clone(), move |event| on_namespace(&cx, &mut listed, event));

    let cx = Arc::clone(context);
    follow(tasks, Api::<SlimNode>::all(client()), everything.clone(), move |event| on_node(&cx, event));

    let (cx, mut listed) = (Arc::clone(context), HashSet::new());
    let injected = everything.labels(&format!("{}=true", keys::INJECTED));
    follow(tasks, Api::<SlimPod>::all(client()), injected, move |event| on_pod(&cx, &mut listed, event));
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

fn on_revision(context: &Context, listed: &mut HashSet<String>, event: Event<ControllerRevision>) {
    if let Event::InitApply(revision) = &event {
        listed.insert(revision.name_any());
    }
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(revision) | Event::Apply(revision) => context.enqueue(context.cache.apply_revision(&revision)),
        Event::InitDone => {
            context.cache.revisions_listed(&std::mem::take(listed));
            context.shared.mark_synced("controllerrevisions");
        }
        Event::Delete(revision) => context.enqueue(context.cache.remove_revision(&revision)),
    }
}

fn on_namespace(context: &Context, listed: &mut HashSet<String>, event: Event<PartialObjectMeta<Namespace>>) {
    let set = |name: &str, labels: Option<BTreeMap<String, String>>| {
        context.cache.namespaces.set(name, labels.clone());
        let sets = context.state().index.set_namespace(name, labels);
        context.enqueue(sets);
    };
    if let Event::InitApply(namespace) = &event {
        listed.insert(namespace.name_any());
    }
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(namespace) | Event::Apply(namespace) => {
            set(&namespace.name_any(), Some(namespace.metadata.labels.unwrap_or_default()));
        }
        Event::InitDone => {
            for gone in context.cache.namespaces.others(&std::mem::take(listed)) {
                set(&gone, None);
            }
            context.shared.mark_synced("namespaces");
        }
        Event::Delete(namespace) => set(&namespace.name_any(), None),
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

fn on_pod(context: &Context, listed: &mut HashSet<PodKey>, event: Event<SlimPod>) {
    let is_listed = matches!(event, Event::InitApply(_));
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(pod) | Event::Apply(pod) => {
            let view = PodView::new(pod);
            if is_listed {
                listed.insert(view.key.clone());
            }
            let sets = context.state().index.apply(view, now());
            super::uninjected::expect_fewer(context, &sets);
            context.enqueue(sets);
        }
        Event::InitDone => {
            let listed = std::mem::take(listed);
            let gone: Vec<_> = context.state().index.pods().filter(|pod| !listed.contains(&pod.key)).cloned().collect();
            for pod in gone {
                vanished(context, &pod.key, &pod.uid, false);
            }
            context.shared.pods_listed();
        }
        Event::Delete(pod) => {
            let deleted = pod.metadata.deletion_timestamp.is_some();
            let view = PodView::new(pod);
            vanished(context, &view.key, &view.uid, deleted);
        }
    }
}
