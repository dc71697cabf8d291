//! The beginning and the end of leading: a new leader plans only when it knows all that the one before may have done.

use std::sync::Arc;

use kube::Api;
use kube::api::ListParams;
use tokio::time::sleep;

use super::context::{Context, WRITE_TIMEOUT, WatchedSet, now};
use super::watch_gaps;
use crate::api::keys;
use crate::core::pod::{PodView, SlimPod};
use crate::runtime::leader::State;
use crate::runtime::pages::{PAGE, Pages};

pub(super) async fn run(context: Arc<Context>) {
    let mut states = context.writer.leadership.subscribe();
    loop {
        let state = *states.borrow_and_update();
        context.metrics.leader.set(i64::from(matches!(state, State::Leader { .. })));
        context.writer.end_term();
        let changed = match state {
            State::Follower => states.changed().await,
            State::Leader { clean, .. } => {
                tokio::select! {
                    changed = states.changed() => changed,
                    () = take_over(&context, clean) => states.changed().await,
                }
            }
        };
        if changed.is_err() {
            // The election has ended, and with it the operator.
            return context.writer.end_term();
        }
    }
}

async fn take_over(context: &Arc<Context>, clean: bool) {
    if !clean {
        // The requests of a leader that vanished may still arrive.
        tracing::info!("the lease was taken from a leader that vanished; waiting for its last writes");
        sleep(WRITE_TIMEOUT).await;
    }
    context.shared.synced().await;
    read_sets(context).await;
    read_pods(context).await;
    context.state().begin_term();
    context.writer.begin_term();
    tracing::info!("this replica leads");
    context.enqueue(context.cache.names());
}

/// The watch may lag behind the last leader's writes: a revision that it gave up.
async fn read_sets(context: &Context) {
    let api: &Api<WatchedSet> = &Api::all(context.clients.watch.clone());
    let mut pages = Pages::new(ListParams::default(), PAGE);
    while let Some(page) = pages.next_at_last("sets", |params| async move { api.list(&params).await }).await {
        for set in page.into_iter().filter_map(|set| set.0.ok()) {
            context.cache.apply_answer(set);
        }
    }
}

/// A consistent read of all injected pods into the index: the watch may lag behind a patch of the last leader. Those
/// that the list does not name may live without our label, and hold a slot: each is looked at.
async fn read_pods(context: &Arc<Context>) {
    let api: &Api<SlimPod> = &Api::all(context.clients.watch.clone());
    let mut pages = Pages::new(ListParams::default().labels(&format!("{}=true", keys::INJECTED)), PAGE);
    context.state().index.start_list();
    while let Some(page) = pages.next_at_last("injected pods", |params| async move { api.list(&params).await }).await {
        let mut state = context.state();
        for pod in page {
            state.index.apply_listed(PodView::new(pod), now());
        }
    }
    let unwatched = context.state().index.end_list();
    watch_gaps::look_at_all(context, unwatched).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::api::validate::Allowed;
    use crate::controller::cache::Cache;
    use crate::controller::context::Settings;
    use crate::core::rollout::testing::TestPod;
    use crate::runtime::client::Clients;
    use crate::runtime::events::Events;
    use crate::runtime::health::Readiness;
    use crate::runtime::leader::{self, LeaseParams};
    use crate::runtime::metrics::Metrics;
    use crate::runtime::namespaces::Namespaces;

    /// An apiserver with one pod, which has our label or not. It fails the first request for the pod itself.
    struct Server {
        pod: Value,
        requests: Mutex<Vec<String>>,
    }

    impl Server {
        fn answer(&self, uri: &str) -> (u16, Value) {
            let mut requests = self.requests.lock().unwrap();
            requests.push(uri.to_owned());
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let is_labelled = self.pod["metadata"]["labels"].get(keys::INJECTED).is_some();
            let pods = if query.contains("injected%21%3Dtrue") == is_labelled { json!([]) } else { json!([self.pod]) };
            match path {
                "/api/v1/pods" => (200, json!({"metadata": {}, "items": pods})),
                "/api/v1/namespaces/default/pods/web" => match requests.iter().filter(|other| *other == uri).count() {
                    1 => (500, json!({"status": "Failure", "code": 500})),
                    _ => (200, self.pod.clone()),
                },
                path if path.ends_with("/sidecarsets") => (200, json!({"metadata": {}, "items": []})),
                _ => (404, json!({"status": "Failure", "code": 404})),
            }
        }

        fn count(&self, path: &str) -> usize {
            self.requests.lock().unwrap().iter().filter(|uri| uri.starts_with(path)).count()
        }
    }

    /// A replica that has listed everything once, with so many sets.
    fn context(server: &Arc<Server>, sets: u64) -> Arc<Context> {
        let server = Arc::clone(server);
        let service = tower::service_fn(move |request: axum::http::Request<Body>| {
            let (code, body) = server.answer(&request.uri().to_string());
            let response = axum::http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            std::future::ready(response)
        });
        let client = Client::new(service, "default");
        let clients =
            Clients { watch: client.clone(), call: client.clone(), review: client.clone(), lease: client.clone() };
        let ended = CancellationToken::new();
        ended.cancel();
        let (leadership, _) = leader::spawn(client.clone(), LeaseParams::new("system", "lease", "me"), ended.clone());
        let (cache, _) = Cache::new(Allowed::default(), Namespaces::default(), watch::channel(Arc::default()).1);
        for set in 0..sets {
            cache.apply_set(
                serde_json::from_value(json!({
                    "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": format!("set-{set}")},
                    "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": "agent", "image": "v1"}]},
                }))
                .unwrap(),
            );
        }
        let settings = Settings {
            namespace: "system".to_owned(),
            excluded: Arc::default(),
            write_concurrency: 1,
            can_resize: true,
        };
        let events = Events::start(client, "me".to_owned(), ended);
        let context = Context::new(clients, settings, leadership, cache, Metrics::new(), events, Readiness::new(&[]));
        for cache in ["sidecarsets", "controllerrevisions", "namespaces", "nodes"] {
            context.shared.mark_synced(cache);
        }
        tokio::spawn(watch_gaps::search(Arc::clone(&context)));
        context
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_lists_pods_twice_however_many_sets_there_are() {
        let server = Arc::new(Server { pod: TestPod::new("web").0, requests: Mutex::default() });
        let context = context(&server, 100);
        context.shared.pods_listed();
        take_over(&context, true).await;
        assert_eq!(server.count("/api/v1/pods"), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_lost_its_label_is_known_before_a_new_leader_plans() {
        let mut pod = TestPod::new("web");
        pod.0["metadata"]["labels"].as_object_mut().unwrap().remove(keys::INJECTED);
        let server = Arc::new(Server { pod: pod.0.clone(), requests: Mutex::default() });
        let context = context(&server, 1);
        context.shared.pods_listed();
        take_over(&context, true).await;
        assert!(context.state().index.get(&pod.view().key).is_some());
        assert!(server.count("/api/v1/namespaces/default/pods/web") > 1, "a read that failed is repeated");
    }
}
