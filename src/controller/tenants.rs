//! Asks the API server about pods in the namespaces of tenants, where the operator may: see `config/dry_run_tenants`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::context::Context;
use crate::core::inject::blame::{Blame, Trial, pod_to_try};
use crate::core::inject::failed_creates::said;
use crate::core::inject::{CompiledSets, Request};
use crate::core::replace::uninjected::made_anew;
use crate::runtime::dry_run::{Answer, Tenant};

/// How long the API server is not asked after it did not say: mostly the operator may not ask.
const ASK_AGAIN: Duration = Duration::from_mins(1);

/// Which of the sets that inject into a pod keep it from being created: the first without whose sidecars alone it would be, or
/// all. `None`: nobody can tell.
pub(super) async fn blame(
    context: &Context,
    sets: &CompiledSets,
    trial: &Trial,
    request: &Request<'_>,
) -> Option<Blame> {
    let names: BTreeSet<String> = trial.sets().cloned().collect();
    let is_created = async |names: &BTreeSet<String>| {
        let pod = pod_to_try(sets, names.iter(), request);
        ask(context, request.namespace, &pod).await.map(|answer| answer == Answer::Created)
    };
    if is_created(&names).await? || !is_created(&BTreeSet::new()).await? {
        return Some(Blame::Nobody);
    }
    for set in names.iter().rev().filter(|_| names.len() > 1) {
        let one = BTreeSet::from([set.clone()]);
        if is_created(&(&names - &one)).await? {
            return Some(Blame::Sets(one));
        }
    }
    Some(Blame::Sets(names))
}

/// Why the owner of this pod could not create another one with its sidecars; `None` if it could, or nobody can tell.
pub(super) async fn refusal(context: &Context, sets: &CompiledSets, pod: &Value) -> Option<String> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let (pod, namespace_labels) = (made_anew(pod), context.cache.namespaces.get(namespace)?);
    let request =
        Request { pod: &pod, namespace, namespace_labels: &namespace_labels, excluded: &context.settings.excluded };
    let names: Vec<&String> = sets.iter().map(|set| &set.name).collect();
    match ask(context, namespace, &pod_to_try(sets, names.into_iter(), &request)).await? {
        Answer::Created => None,
        // What this very pod takes of it is free when it is gone.
        Answer::Refused(why) if why.contains("exceeded quota: ") => None,
        Answer::Refused(why) => Some(said(&why).to_owned()),
    }
}

async fn ask(context: &Context, namespace: &str, pod: &Value) -> Option<Answer> {
    let last = context.state().asked_in_vain;
    if last.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
        return None;
    }
    let tenant = Tenant { client: &context.clients.call, operator: &context.settings.namespace, namespace };
    let answer = tenant.ask(pod).await;
    context.state().asked_in_vain = answer.is_none().then(Instant::now);
    answer
}
