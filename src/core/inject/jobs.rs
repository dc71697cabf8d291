//! Pods of Jobs: a Job completes when the ordinary containers of its pod have ended, and a sidecar runs on.

use serde_json::Value;

use super::patch::elements;

/// Whether a Job made the pod.
pub(super) fn is_of_job(pod: &Value) -> bool {
    elements(pod, &["metadata", "ownerReferences"]).any(|owner| {
        owner["kind"] == "Job" && owner["apiVersion"].as_str().is_some_and(|version| version.starts_with("batch/"))
    })
}

/// What the owner of a Job should know of the ordinary sidecars in its pod.
pub(crate) fn runs_on(pod: &Value, sidecars: &[String]) -> Option<String> {
    let (noun, verb) = if sidecars.len() == 1 { ("sidecar", "runs") } else { ("sidecars", "run") };
    (!sidecars.is_empty() && is_of_job(pod)).then(|| {
        format!(
            "the {noun} {} {verb} on after the Job's containers have ended: the Job does not complete; write jobPods: Native into the SidecarSet, or restartPolicy: Always in initContainers",
            sidecars.join(", ")
        )
    })
}
