//! Upgrades in the cluster: watches feed the index, a reconcile gathers, plans, applies and reports.

mod apply;
pub(crate) mod cache;
mod canaries;
pub(crate) mod context;
mod dry_run;
mod evict;
mod failed_creates;
mod leadership;
mod prepull;
mod reconcile;
mod report;
mod revisions;
mod state;
mod tenants;
mod uninjected;
mod watch_gaps;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use context::{Context, Error, WatchedSet};
use futures::StreamExt;
use kube::ResourceExt;
use kube::runtime::controller::{Action, Controller, Error as ControllerError};
use kube::runtime::reflector::ObjectRef;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::core::round::AFTER_ERROR;

/// Pod events within this time become one reconcile.
const COLLECT: Duration = Duration::from_millis(20);

/// Runs watches and reconciles until `shutdown`; running reconciles end first.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    watches::spawn(&mut tasks, &context);
    tasks.spawn(leadership::run(Arc::clone(&context)));
    tasks.spawn(watch_gaps::search(Arc::clone(&context)));
    tasks.spawn(watch_gaps::run(Arc::clone(&context)));
    tasks.spawn(follow_registration(Arc::clone(&context)));
    tasks.spawn(canaries::run(Arc::clone(&context)));
    tasks.spawn(uninjected::run(Arc::clone(&context)));
    tasks.spawn(evict::run(Arc::clone(&context)));
    tasks.spawn(failed_creates::run(Arc::clone(&context)));
    tasks.spawn(prepull::run(Arc::clone(&context)));
    tasks.spawn(dry_run::run(Arc::clone(&context)));
    let (sets, store) = watches::sets(&context);
    let dirty = futures::stream::unfold(Arc::clone(&context), |context| async move {
        let names = context.shared.queue.take(COLLECT).await;
        let objects = names.into_iter().map(|name| ObjectRef::new(&name));
        Some((futures::stream::iter(objects.collect::<Vec<_>>()), context))
    });
    let controller = Controller::for_stream(sets, store)
        .reconcile_on(dirty.flatten().boxed())
        .graceful_shutdown_on(shutdown.cancelled_owned())
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
        tracing::warn!(set = set.name_any(), %error, "reconcile failed");
    }
    Action::requeue(AFTER_ERROR)
}

/// A new registration changes the `InjectionReady` condition of the sets in it.
async fn follow_registration(context: Arc<Context>) {
    let mut registered = context.cache.registered.clone();
    while registered.changed().await.is_ok() {
        context.enqueue(context.cache.names());
    }
    // The registration has ended with the process; the task is aborted with the others.
    futures::future::pending::<()>().await;
}
