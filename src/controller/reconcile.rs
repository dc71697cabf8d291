//! One round for one set: gather, plan, apply, report.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use tokio::time::Instant;

use super::context::{Context, now};
use super::error::Error;
use super::report::report;
use super::revisions::{self, Target};
use super::watched_set::WatchedSet;
use super::{apply, failure_events};
use crate::api::reasons::Reason;
use crate::api::{SidecarSet, canary_base};
use crate::core::rollout::plan::{Plan, begin_batch};
use crate::core::rollout::request::PodPatch;
use crate::core::rollout::target::direction::{course, still_wanted};
use crate::core::status::{self, InjectionState};

/// Requests planned at a time: the next plan sees what the first ones did, and the status is written in between.
const BATCH: usize = 1024;

/// Wait before the next plan when not one request of the last one was accepted.
const NO_PROGRESS: Duration = Duration::from_secs(1);

/// A quiet set is looked at this often, in case an event was lost.
const RESYNC: Duration = Duration::from_mins(5);

pub(super) async fn reconcile(watched: Arc<WatchedSet>, context: Arc<Context>) -> Result<Action, Error> {
    if !context.is_active_leader() {
        return Ok(Action::await_change());
    }
    let started = Instant::now();
    // The cache may be newer than the object that woke us.
    let Some(set) = context.cache.set(&watched.name()) else { return Ok(Action::await_change()) };
    let action = round(&context, &set).await?;
    context.metrics.reconcile("ok", started.elapsed().as_secs_f64());
    Ok(action)
}

async fn round(context: &Arc<Context>, set: &SidecarSet) -> Result<Action, Error> {
    let name = set.name_any();
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let problems = context.cache.validate(set).message();
    let injection = super::uninjected::noted(context, set, injection_state(context, set, problems.is_none()));
    if let Some(problems) = problems {
        report(context, set, status::invalid(set, &problems, &injection, now())).await?;
        return Ok(Action::await_change());
    }
    let known = context.cache.revisions(&name);
    let target = revisions::ensure(context, set, &known).await?;
    if let Some(base) = canary_base(set).and_then(|base| context.cache.set(base)) {
        revisions::lend(context, &base, &target).await?;
    }
    // Validation has parsed the selectors; an error here could not be told apart from one there.
    let Ok(course) = course(set, (&target.hash, &target.template), &known, now()) else {
        return Ok(Action::await_change());
    };
    context.state().index.configure(course.rollout.clone(), now());
    apply::confirm(context, &name).await?;
    let mut plan = begin_batch(&mut context.state().index, &name, &course.remembered, now(), BATCH);
    let mut next = None;
    if !plan.patches.is_empty() {
        next = Some(send(context, set, std::mem::take(&mut plan.patches)).await?);
        // What the requests did is in the index already: report that, and not the state that was planned from.
        plan = begin_batch(&mut context.state().index, &name, &course.remembered, now(), 0);
    }
    let Plan { mut summary, wake_at, pulls, .. } = plan;
    summary.eviction_news = context.state().set_mut(&name).evictions.upgrades.clone();
    super::prepull::want(context, &name, pulls);
    let (mut status, overdue_at) = status::status(set, &course, &summary, &injection, now());
    status.collision_count = (target.collisions > 0).then_some(target.collisions);
    let kept = [&status.stable_revision, &status.injection_revision, &injection.pinned];
    let lent = context.cache.canary_revisions(&name);
    let in_use = in_use(context, &name, &target, kept.into_iter().flatten().chain(&lent));
    let report_again = report(context, set, status).await?;
    let tell_again = failure_events::publish(context, set, &target.hash);
    revisions::truncate(context, set, &context.cache.revisions(&name), &in_use).await?;
    let wake = wake_at
        .into_iter()
        .chain(overdue_at)
        .min()
        .map(|at| Duration::try_from(at.duration_since(now())).unwrap_or_default());
    Ok(Action::requeue(
        [next, wake, report_again, tell_again].into_iter().flatten().min().unwrap_or(RESYNC).min(RESYNC),
    ))
}

/// Sends a batch; returns when to plan the next one.
async fn send(context: &Arc<Context>, set: &SidecarSet, requests: Vec<PodPatch>) -> Result<Duration, Error> {
    let wanted = || is_current(context, set);
    let patched = apply::apply(context, &set.name_any(), requests, wanted).await?;
    // Not one accepted, and not for a change of mind: every pod had changed under the plan. No reason to hurry.
    Ok(if patched == 0 && wanted() { NO_PROGRESS } else { Duration::ZERO })
}

/// Whether what was planned for a set is still wanted.
fn is_current(context: &Context, set: &SidecarSet) -> bool {
    context.cache.set(&set.name_any()).is_some_and(|newest| still_wanted(set, &newest))
}

fn injection_state(context: &Context, set: &SidecarSet, valid: bool) -> InjectionState {
    let name = set.name_any();
    let compiled = context.cache.compiled_set(&name);
    let pinned = compiled.as_ref().and_then(|compiled| compiled.pinned());
    let (ready, reason, message) = match pinned {
        _ if !valid => (false, Reason::InvalidSpec, "the spec is invalid: no pod is injected"),
        _ if set.spec.injection_strategy.paused => (false, Reason::InjectionPaused, "injectionStrategy.paused is true"),
        Some(Err(problem)) => (false, Reason::RevisionNotFound, problem),
        _ if context.cache.is_registered(&name) => (true, Reason::Registered, "new pods get the sidecars"),
        _ => (false, Reason::NotRegistered, "the webhook configuration does not contain this generation yet"),
    };
    InjectionState {
        ready,
        reason,
        message: message.to_owned(),
        pinned: pinned.and_then(Result::ok).map(str::to_owned),
        conflicts: context.cache.conflicts(&name),
        ..InjectionState::default()
    }
}

/// Revisions that must be kept: those of pods, the target, those that new pods may get, and those of canaries.
fn in_use<'a>(
    context: &Context,
    set: &str,
    target: &Target,
    kept: impl Iterator<Item = &'a String>,
) -> BTreeSet<String> {
    context.state().index.revisions_in_use(set).into_iter().chain([target.hash.clone()]).chain(kept.cloned()).collect()
}
