//! Reasons of the kubelet for a container that waits, of the kubelet of Kubernetes 1.36. They are the same for a sidecar
//! after an update and for a pod that only pulls.

/// The image cannot be had (`pkg/kubelet/images/types.go`, the last two `cri-api/pkg/errors`). Their message names it.
const NOT_PULLED: [&str; 7] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];

/// The image is there, and no container of it can be made or started (`pkg/kubelet/kuberuntime/kuberuntime_container.go`,
/// `RunContainerError`: `pkg/kubelet/container/sync_result.go`, `StartError`: containerd). One whose `postStart` hook fails has
/// run: it is judged by its restarts.
const NOT_STARTED: [&str; 6] = [
    "CreateContainerConfigError",
    "PreCreateHookError",
    "CreateContainerError",
    "PreStartHookError",
    "RunContainerError",
    "StartError",
];

/// A container that ended is not started again yet. Before its first start that may hide any of the others.
pub(crate) const CRASH_LOOP: &str = "CrashLoopBackOff";

pub(crate) fn is_not_pulled(reason: &str) -> bool {
    NOT_PULLED.contains(&reason)
}

pub(crate) fn is_not_started(reason: &str) -> bool {
    NOT_STARTED.contains(&reason)
}
