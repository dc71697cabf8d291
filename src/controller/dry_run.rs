//! Whether any pod may have the sidecars of a set, as the API server says. It is asked once for each generation of the set
//! and version of the API server, and again as long as it cannot tell.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio::time::{sleep, timeout};

use super::context::Context;
use super::state::Checked;
use crate::api::validate::{Problems, ValidSidecarSet};
use crate::core::inject::dry_run::Verdict;
use crate::runtime::dry_run::ask;

/// How often the API server is asked for its version.
const EVERY: Duration = Duration::from_mins(10);

const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// What no pod may have, or why that is not known.
pub(super) async fn check(context: &Context, valid: &ValidSidecarSet) -> Result<Option<String>, String> {
    let (set, name) = (valid.set(), valid.name());
    let of = (set.uid(), set.metadata.generation);
    let known = context.state().set_mut(name).checked.clone().filter(|checked| checked.of == of);
    if let Some(known) = known {
        return known.answer;
    }
    let answer = match (ask(&context.clients.call, valid).await, set.refusal()) {
        (Verdict::Valid, _) => Ok(None),
        (Verdict::Refused(errors), _) => Err(Problems { errors, warnings: Vec::new() }.to_string()),
        // What a leader before has found stands until somebody knows better.
        (Verdict::Unchecked(_), Some(problems)) => Err(problems.to_owned()),
        (Verdict::Unchecked(why), None) => Ok(Some(why)),
    };
    context.state().set_mut(name).checked = Some(Checked { of, answer: answer.clone() });
    answer
}

/// Has sets checked again. Runs on every replica, so that a new leader knows the version.
pub(super) async fn run(context: Arc<Context>) {
    let mut known = None;
    loop {
        match timeout(VERSION_TIMEOUT, context.clients.call.apiserver_version()).await {
            Ok(Ok(version)) => {
                let before = known.replace(version.git_version.clone());
                let is_other = before.is_some_and(|before| before != version.git_version);
                if is_other {
                    tracing::info!(version = version.git_version, "the API server has another version");
                }
                let unchecked = context.state().forget_checks(is_other);
                context.enqueue(unchecked);
            }
            answer => tracing::warn!(?answer, "the version of the API server is not known"),
        }
        sleep(EVERY).await;
    }
}
