//! The beginning and the end of leading: a new leader plans only when it knows all that the one before may have done.

use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::ListParams;

use super::context::{Context, WRITE_TIMEOUT, now};
use super::error::Error;
use super::watch_gaps;
use super::watched_set::WatchedSet;
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
        tokio::time::sleep(WRITE_TIMEOUT).await;
    }
    context.shared.synced().await;
    while let Err(error) = read_all(context).await {
        tracing::warn!(%error, "cannot read sets and pods; nothing is upgraded before that");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    context.state().begin_term();
    context.writer.begin_term();
    tracing::info!("this replica leads");
    context.enqueue(context.cache.names());
}

/// The watches may lag behind the last leader's writes: a revision that it gave up, a pod that it patched.
async fn read_all(context: &Arc<Context>) -> Result<(), Error> {
    let sets: Api<WatchedSet> = Api::all(context.clients.watch.clone());
    for set in sets.list(&ListParams::default()).await.map_err(Error::api("list", "SidecarSets"))?.items {
        if let Ok(set) = set.0.0 {
            context.cache.apply_answer(set);
        }
    }
    read_all_pods(context).await
}

/// A consistent read of all injected pods into the index, also of those that lost their label while nobody watched: they
/// may hold a slot.
async fn read_all_pods(context: &Arc<Context>) -> Result<(), Error> {
    let api: Api<SlimPod> = Api::all(context.clients.watch.clone());
    let mut pages = Pages::new(ListParams::default().labels(&format!("{}=true", keys::INJECTED)), PAGE);
    let failed = || Error::api("list", "injected pods");
    context.state().index.start_list();
    while let Some(page) = pages.next(async |params| api.list(params).await).await.map_err(failed())? {
        let mut state = context.state();
        for pod in page {
            state.index.apply_listed(PodView::new(pod), now());
        }
    }
    for pod in watch_gaps::unlabelled(context).await.map_err(failed())? {
        context.state().index.apply_listed(pod, now());
    }
    let unwatched = context.state().index.end_list();
    for (key, uid) in unwatched {
        watch_gaps::vanished(context, &key, &uid, false);
    }
    Ok(())
}
