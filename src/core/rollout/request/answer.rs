//! What the answer to a pod's patch says, and what a pod is that the watch has lost. Shared with the simulator.

use kube::core::Status;
use kube::core::response::StatusDetails;

use crate::core::pod::PodView;

/// What an error says about the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchAnswer {
    /// A `test` failed, or the pod is gone: look at it again.
    LookAgain,
    /// Not before the pod changes; the apiserver's message.
    Refused(String),
    /// Nothing: the request may have been carried out.
    Unknown,
}

/// Reads the error that the apiserver answered to a patch of a pod.
pub fn answer(status: &Status) -> PatchAnswer {
    match status.code {
        404 | 409 => PatchAnswer::LookAgain,
        422 if is_failed_test(status) => PatchAnswer::LookAgain,
        _ if is_refusal(status) => PatchAnswer::Refused(status.message.clone()),
        _ => PatchAnswer::Unknown,
    }
}

/// Quota, policy, validation, Pod Security, a missing permission: the same request would be refused again.
pub(crate) fn is_refusal(status: &Status) -> bool {
    matches!(status.code, 400 | 403 | 405 | 413 | 422)
}

/// Seen on 1.36: a failed `test` is answered with `details` that are empty. A refusal by validation or by a policy names the
/// pod in them, one of a pod that cannot be decoded has causes; a webhook that refuses with 422 says what it likes in
/// them, or leaves them out, but its message begins with `admission webhook`.
fn is_failed_test(status: &Status) -> bool {
    let is_empty = |details: &StatusDetails| details.name.is_empty() && details.causes.is_empty();
    status.details.as_ref().is_some_and(is_empty) && !status.message.starts_with("admission webhook ")
}

/// What a pod is that the watch says nothing more about: a selector watch reports a pod as deleted also when it merely
/// loses the label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It is gone, or another pod has its name.
    Gone,
    /// Nothing of ours is left on it, and no watch would say when it goes.
    NotOurs,
    /// It has the label again, or still.
    Labelled,
    /// It lives, and must be labelled again.
    Unlabelled,
}

/// Tells what became of the pod with this UID from a fresh read of its name.
pub fn lost(found: Option<&PodView>, uid: &str) -> Lost {
    match found.filter(|pod| pod.uid == uid) {
        None => Lost::Gone,
        Some(pod) if pod.marks.is_empty() => Lost::NotOurs,
        Some(pod) if pod.is_labelled() => Lost::Labelled,
        Some(_) => Lost::Unlabelled,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::keys;
    use crate::core::rollout::testing::TestPod;

    fn of(status: Value) -> PatchAnswer {
        answer(&serde_json::from_value(status).unwrap())
    }

    /// Bodies as a kube-apiserver 1.36 sends them.
    #[test]
    fn a_failed_test_is_told_apart_from_a_refusal() {
        let failed_test = json!({"kind": "Status", "status": "Failure", "reason": "Invalid", "code": 422, "details": {},
            "message": "the server rejected our request due to an error in our request"});
        assert_eq!(of(failed_test), PatchAnswer::LookAgain);
        let invalid = json!({"kind": "Status", "status": "Failure", "reason": "Invalid", "code": 422,
            "message": "Pod \"web\" is invalid", "details": {"name": "web", "kind": "Pod"}});
        assert_eq!(of(invalid), PatchAnswer::Refused("Pod \"web\" is invalid".into()));
        let forbidden = json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403,
            "message": "denied", "details": {"name": "web", "kind": "pods"}});
        assert_eq!(of(forbidden), PatchAnswer::Refused("denied".into()));
        let undecodable = json!({"kind": "Status", "status": "Failure", "reason": "Invalid", "code": 422,
            "message": " \"\" is invalid: patch: Invalid value",
            "details": {"causes": [{"reason": "FieldValueInvalid", "message": "Invalid value", "field": "patch"}]}});
        assert!(matches!(of(undecodable), PatchAnswer::Refused(_)));
    }

    /// What a webhook answers with 422 is passed on, whatever it says of details.
    #[test]
    fn a_webhook_that_refuses_as_a_failed_test_would_is_not_taken_for_one() {
        let message = "admission webhook \"policy.test.dev\" denied the request: no latest tags";
        let body = |details: Value| json!({"status": "Failure", "code": 422, "message": message, "details": details});
        for details in [Value::Null, json!({})] {
            assert_eq!(of(body(details)), PatchAnswer::Refused(message.into()));
        }
    }

    #[test]
    fn conflicts_are_looked_at_again_and_overload_says_nothing() {
        for code in [404, 409] {
            assert_eq!(of(json!({"status": "Failure", "code": code})), PatchAnswer::LookAgain);
        }
        for code in [429, 500, 503, 504] {
            assert_eq!(of(json!({"status": "Failure", "code": code})), PatchAnswer::Unknown);
        }
    }

    #[test]
    fn a_pod_that_left_the_watch_is_gone_only_with_its_uid() {
        let pod = TestPod::new("web").view();
        let without = |label: &str| {
            TestPod::new("web")
                .with(|pod| drop(pod["metadata"]["labels"].as_object_mut().unwrap().remove(label)))
                .view()
        };
        assert_eq!(lost(None, &pod.uid), Lost::Gone);
        assert_eq!(lost(Some(&pod), "an older one"), Lost::Gone);
        assert_eq!(lost(Some(&pod), &pod.uid), Lost::Labelled);
        assert_eq!(lost(Some(&without(keys::INJECTED)), &pod.uid), Lost::Unlabelled);
        let changed = TestPod::new("web").with(|pod| pod["metadata"]["labels"][keys::INJECTED] = json!("no"));
        assert_eq!(lost(Some(&changed.view()), &pod.uid), Lost::Unlabelled);
        assert_eq!(lost(Some(&without("revision.sidecarset.dev/logs")), &pod.uid), Lost::NotOurs);
    }
}
