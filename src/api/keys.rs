//! Names that this program writes into the API: labels, annotations, object names.

/// API group of the CRD, and the domain of every key below.
pub(crate) const GROUP: &str = "sidecarset.dev";

/// Label on every injected pod, value `"true"`. The operator watches only pods that carry it.
pub const INJECTED: &str = "sidecarset.dev/injected";

/// Label on a pod or a namespace; the value `"false"` keeps every sidecar out.
pub const INJECT: &str = "sidecarset.dev/inject";

/// Prefix of the label `revision.sidecarset.dev/<set>`: the revision hash whose template the pod runs.
pub(crate) const REVISION_PREFIX: &str = "revision.sidecarset.dev/";

/// Prefix of the annotation `injection.sidecarset.dev/<set>`: what was injected, as
/// `{"containers":["c"],"initContainers":["i"],"volumes":["v"]}`.
pub(crate) const INJECTION_PREFIX: &str = "injection.sidecarset.dev/";

/// Prefix of the annotation `update.sidecarset.dev/<set>`: the last in-place update, see
/// [`crate::core::pod::Update`].
pub(crate) const UPDATE_PREFIX: &str = "update.sidecarset.dev/";

/// Annotation on a set, `<revision>/<step>`: the rollout of that revision may go on behind its first `<step>` steps.
pub const APPROVE: &str = "sidecarset.dev/approve";

/// Annotation on a set, `<revision>/<n>`: try the aborted revision again. Another `<n>` is another try.
pub const RETRY: &str = "sidecarset.dev/retry";

/// Label on a `ControllerRevision`: the name of the set it belongs to.
pub(crate) const SET: &str = "sidecarset.dev/set";

/// Label on a pod that only makes its node pull images: the name of the set that they are for.
pub(crate) const PULLS_FOR: &str = "sidecarset.dev/pulls-for";

/// Label on such a pod: the hash of the revision that has the images.
pub(crate) const PULLS_REVISION: &str = "sidecarset.dev/pulls-revision";

/// Label on a pod that is never stored: the set whose registration it tries out.
pub(crate) const PROBE: &str = "sidecarset.dev/probe";

/// Label on a `ControllerRevision`: `spec.customVersion` of the set when it had this template.
pub(crate) const CUSTOM_VERSION: &str = "sidecarset.dev/custom-version";

/// Annotation on a set, `"true"` for a canary of the set named by [`BASE`].
pub(crate) const CANARY: &str = "sidecarset.dev/canary";

/// Annotation on a canary set: the name of its base.
pub(crate) const BASE: &str = "sidecarset.dev/base";

/// Prefix of the annotation `version.sidecarset.dev/<container>` of a hot-upgrade twin: counts its hand-overs, `"0"` for
/// the idle twin. The container reads it as `$SIDECARSET_VERSION`.
pub(crate) const VERSION_PREFIX: &str = "version.sidecarset.dev/";

/// Prefix of `versionalt.sidecarset.dev/<container>`: the version of the other twin, `$SIDECARSET_VERSION_ALT`.
pub(crate) const VERSION_ALT_PREFIX: &str = "versionalt.sidecarset.dev/";

/// Kubernetes' annotation that names the container `kubectl logs` and `kubectl exec` use.
pub(crate) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Kubernetes' annotation on the pods that mirror a static pod.
pub(crate) const MIRROR_POD: &str = "kubernetes.io/config.mirror";

/// Label that every namespace carries with its own name.
pub(crate) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Environment variable that every injected container gets, value `"true"` (OpenKruise's name for it).
pub(crate) const IS_INJECTED: &str = "IS_INJECTED";

/// Field manager and user agent of this program.
pub const MANAGER: &str = "sidecarset-operator";

/// Namespaces that no set reaches: a sidecar there could keep the cluster from starting.
pub(crate) const EXCLUDED_NAMESPACES: [&str; 2] = ["kube-system", "kube-node-lease"];

/// Namespace in which pods are created that are never stored: to see whether a pod may have the sidecars of a set.
pub(crate) const DRY_RUN_NAMESPACE: &str = "sidecarset-dry-run";

/// `revision.sidecarset.dev/<set>`.
pub fn revision_label(set: &str) -> String {
    format!("{REVISION_PREFIX}{set}")
}

/// `injection.sidecarset.dev/<set>`.
pub(crate) fn injection_annotation(set: &str) -> String {
    format!("{INJECTION_PREFIX}{set}")
}

/// `update.sidecarset.dev/<set>`.
pub(crate) fn update_annotation(set: &str) -> String {
    format!("{UPDATE_PREFIX}{set}")
}

/// Names of the two containers of a hot upgrade (OpenKruise's).
pub(crate) fn twins(container: &str) -> [String; 2] {
    [format!("{container}-1"), format!("{container}-2")]
}

/// Names in a pod of the containers that an entry of a set becomes.
pub(crate) fn container_names(entry: &str, hot: bool) -> Vec<String> {
    if hot { twins(entry).into() } else { vec![entry.to_owned()] }
}
