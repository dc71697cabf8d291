//! One round for one set: gather, target, plan, apply, report. What it decides is in [`crate::core::round`].

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use tokio::time::Instant;

use super::context::{Context, Error, WatchedSet, now};
use super::report::{report, tell_failures};
use super::revisions::{self, UpdateRevision};
use super::{apply, dry_run, prepull};
use crate::api::validate::ValidSidecarSet;
use crate::api::{SidecarSet, canary_base};
use crate::core::revision::History;
use crate::core::rollout::target::rollout::rollout;
use crate::core::round::{Round, RoundFacts, RoundResult};
use crate::core::status::{self, InjectionFacts, InjectionState, injection_state};

pub(super) async fn reconcile(watched: Arc<WatchedSet>, context: Arc<Context>) -> Result<Action, Error> {
    // The cache may be newer than the object that woke us.
    let known =
        context.cache.validated(&watched.name_any()).filter(|(set, _)| set.metadata.deletion_timestamp.is_none());
    let Some((set, valid)) = known.filter(|_| context.is_active_leader()) else { return Ok(Action::await_change()) };
    let started = Instant::now();
    let next = match valid {
        Ok(valid) => match dry_run::check(&context, &valid).await {
            Ok(unchecked) => reconcile_valid(&context, &valid, unchecked.as_deref()).await?,
            Err(problems) => reject(&context, &set, &problems).await?,
        },
        Err(problems) => reject(&context, &set, &problems.to_string()).await?,
    };
    context.metrics.reconcile("ok", started.elapsed().as_secs_f64());
    Ok(next.map_or_else(Action::await_change, Action::requeue))
}

/// Leaves the pods of a set alone that cannot be acted on.
async fn reject(context: &Context, set: &SidecarSet, problems: &str) -> Result<Option<Duration>, Error> {
    let injection = injection(context, set, Some(problems), None);
    report(context, set, status::invalid(set, problems, &injection, now())).await?;
    Ok(None)
}

/// Returns when to look again; `None`: when the set changes.
async fn reconcile_valid(
    context: &Arc<Context>,
    valid: &ValidSidecarSet,
    unchecked: Option<&str>,
) -> Result<Option<Duration>, Error> {
    let (set, name) = (valid.set(), valid.name());
    let injection = injection(context, set, None, unchecked);
    let history = context.cache.revisions(name);
    let newest = newest(context, set, &history).await?;
    let rollout = rollout(valid, (&newest.hash, &newest.template), &history, now());

    let (round, replaced) = Round::begin(&mut context.state().index, Arc::clone(set), rollout);
    // Not under the lock.
    drop(replaced);
    while !round.assess(&mut context.state().index, now()) {
        tokio::task::yield_now().await;
    }
    let unconfirmed = apply::confirm(context, name).await;
    let mut planned = round.plan(&mut context.state().index, unconfirmed, now())?;
    let answers = apply::apply(context, &mut planned).await?;

    let known = known(context, name, injection, &newest);
    let outcome = planned.end(&mut context.state().index, answers, known, now())?;
    let RoundResult { status, pulls, in_use, next } = outcome;
    prepull::want(context, name, pulls);
    let report_again = report(context, set, status).await?;
    let events_again = tell_failures(context, set, &newest.hash);
    revisions::truncate(context, set, &context.cache.revisions(name), &in_use).await?;
    Ok([report_again, events_again].into_iter().flatten().chain([next]).min())
}

/// The revision of the set's spec. That of a canary is in its base's history, too.
async fn newest(context: &Context, set: &SidecarSet, history: &History) -> Result<UpdateRevision, Error> {
    let newest = revisions::ensure(context, set, history).await?;
    if let Some(base) = canary_base(set).and_then(|base| context.cache.set(base)) {
        revisions::copy_to_base(context, &base, &newest).await?;
    }
    Ok(newest)
}

fn injection(context: &Context, set: &SidecarSet, problems: Option<&str>, unchecked: Option<&str>) -> InjectionState {
    let name = &set.name_any();
    let compiled = context.cache.compiled_set(name);
    let (is_registered, conflicts) = (context.cache.is_registered(name), context.cache.conflicts(name));
    let mut state = context.state();
    let kept = state.set_mut(name);
    let facts = InjectionFacts {
        problems,
        unchecked,
        pinned: compiled.as_ref().and_then(|compiled| compiled.pinned()),
        is_registered,
        conflicts,
        uninjected: kept.uninjected.as_deref(),
        evictions: kept.evictions[0].clone(),
    };
    injection_state(set, facts)
}

fn known(context: &Context, name: &str, injection: InjectionState, newest: &UpdateRevision) -> RoundFacts {
    RoundFacts {
        newest: context.cache.set(name),
        injection,
        evictions: context.state().set_mut(name).evictions[1].clone(),
        collisions: newest.collisions,
        canaries: context.cache.canary_revisions(name),
    }
}
