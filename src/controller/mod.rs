//! Upgrades in the cluster: watches feed the index, a reconcile gathers, plans, applies and reports.

mod apply;
pub mod cache;
pub mod context;
pub mod error;
mod evict;
mod eviction;
mod failures;
mod lost;
mod owners;
mod prepull;
mod reconcile;
mod report;
mod revisions;
mod sweep;
mod uninjected;
mod watches;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use context::{Context, WRITE_TIMEOUT, now};
use error::Error;
use futures::StreamExt;
use kube::Api;
use kube::api::ListParams;
use kube::runtime::controller::{Action, Controller, Error as ControllerError};
use kube::runtime::reflector::ObjectRef;
use tokio::task::JoinSet;
pub use watches::Gates;
use watches::WatchedSet;

use crate::api::{SidecarSet, keys};
use crate::core::pod::{PodView, SlimPod};
use crate::runtime::leader::State;
use crate::runtime::shutdown::Shutdown;

/// Pod events within this time become one reconcile.
const COLLECT: Duration = Duration::from_millis(20);

/// Pods per page of a listing.
const PAGE: u32 = 500;

/// How often a task that only a leader runs asks whether this is one.
const WARM_UP: Duration = Duration::from_secs(1);

/// Runs watches and reconciles until `shutdown`; running reconciles end first.
pub async fn run(context: Arc<Context>, gates: Gates, shutdown: Shutdown) {
    let mut tasks = JoinSet::new();
    watches::spawn(&mut tasks, &context, &gates);
    tasks.spawn(follow_leadership(Arc::clone(&context)));
    tasks.spawn(follow_registration(Arc::clone(&context)));
    tasks.spawn(sweep::run(Arc::clone(&context)));
    tasks.spawn(uninjected::run(Arc::clone(&context)));
    tasks.spawn(evict::run(Arc::clone(&context)));
    tasks.spawn(prepull::run(Arc::clone(&context)));
    let (sets, store) = watches::sets(&context, &gates);
    let dirty = futures::stream::unfold(Arc::clone(&context), |context| async move {
        let names = context.dirty.take(COLLECT).await;
        let objects = names.into_iter().map(|name| ObjectRef::<WatchedSet>::new(&name));
        Some((futures::stream::iter(objects.collect::<Vec<_>>()), context))
    });
    let controller = Controller::for_stream(sets, store)
        .reconcile_on(dirty.flatten().boxed())
        .graceful_shutdown_on(async move { shutdown.requested().await })
        .run(reconcile::reconcile, on_error, Arc::clone(&context))
        .for_each(|result| async move {
            match result {
                Ok(_) | Err(ControllerError::ObjectNotFound(_)) => {}
                Err(error) => tracing::debug!(%error, "reconcile"),
            }
        });
    tokio::select! {
        () = controller => {}
        // None of them ends by itself: whoever runs this must end the process, which starts anew.
        ended = tasks.join_next() => tracing::error!(?ended, "a part of the controller ended"),
    }
    tasks.shutdown().await;
}

fn on_error(set: Arc<WatchedSet>, error: &Error, context: Arc<Context>) -> Action {
    context.metrics.reconcile(error.name(), 0.0);
    if !matches!(error, Error::NotLeader) {
        tracing::warn!(set = %set.name(), %error, "reconcile failed");
    }
    Action::requeue(Duration::from_secs(2))
}

/// Lets planning begin only when a new leader knows all that the old one may have done.
async fn follow_leadership(context: Arc<Context>) {
    let mut states = context.leadership.subscribe();
    loop {
        let state = *states.borrow_and_update();
        context.metrics.leader.set(i64::from(matches!(state, State::Leader { .. })));
        context.may_plan.store(false, Ordering::SeqCst);
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
            return context.may_plan.store(false, Ordering::SeqCst);
        }
    }
}

async fn take_over(context: &Arc<Context>, clean: bool) {
    if !clean {
        // The requests of a leader that vanished may still arrive.
        tracing::info!("the lease was taken from a leader that vanished; waiting for its last writes");
        tokio::time::sleep(WRITE_TIMEOUT).await;
    }
    context.warm().await;
    while let Err(error) = read_all(context).await {
        tracing::warn!(%error, "cannot read sets and pods; nothing is upgraded before that");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    context.may_plan.store(true, Ordering::SeqCst);
    tracing::info!("this replica leads");
    context.dirty.mark(context.cache.names());
}

/// The watches may lag behind the last leader's writes: a revision that it gave up, a pod that it patched.
async fn read_all(context: &Arc<Context>) -> Result<(), Error> {
    let failed = |source| Error::Api { action: "list", object: "SidecarSets".to_owned(), source: Box::new(source) };
    let sets: Api<WatchedSet> = Api::all(context.clients.watch.clone());
    for set in sets.list(&ListParams::default()).await.map_err(failed)?.items {
        if let Ok(set) = set.0.0 {
            context.cache.apply_answer(set);
        }
    }
    read_all_pods(context).await
}

/// A consistent read of all injected pods into the index, also of those that lost their label while nobody watched: they
/// may hold a slot.
async fn read_all_pods(context: &Arc<Context>) -> Result<(), Error> {
    let failed = |source| Error::Api { action: "list", object: "injected pods".to_owned(), source: Box::new(source) };
    let api: Api<SlimPod> = Api::all(context.clients.watch.clone());
    let mut params = ListParams::default().labels(&format!("{}=true", keys::INJECTED)).limit(PAGE);
    context.index().start_list();
    loop {
        let page = api.list(&params).await.map_err(failed)?;
        let mut index = context.index();
        for pod in page.items {
            index.apply_listed(PodView::new(pod), now());
        }
        let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) else { break };
        params = params.continue_token(&token);
    }
    for pod in lost::unlabelled(context).await.map_err(failed)? {
        context.index().apply_listed(pod, now());
    }
    let unwatched = context.index().end_list();
    for (key, uid) in unwatched {
        lost::vanished(context, &key, &uid, false);
    }
    Ok(())
}

/// A new registration changes the `InjectionReady` condition of the sets in it.
async fn follow_registration(context: Arc<Context>) {
    let mut registered = context.registered.clone();
    while registered.changed().await.is_ok() {
        context.dirty.mark(context.cache.names());
    }
    // The registration has ended with the process; the task is aborted with the others.
    futures::future::pending::<()>().await;
}

/// The set as the API has it, by name.
fn sets_api(context: &Context) -> Api<SidecarSet> {
    Api::all(context.clients.call.clone())
}
