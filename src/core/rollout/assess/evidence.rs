//! What says that a container has failed, before its deadline: the words of the kubelet, which may be about an image that
//! is not wanted any more.
//!
//! Observed on kubelets 1.35 and 1.36 (`docs/kubelet.md`): the old container is killed before the new image is pulled. Until
//! a new container runs, `containerID` and `restartCount` stay the old one's, and the reason is the one of the last attempt,
//! also while another image is pulled already. A failed pull soon reads `CrashLoopBackOff`; one of a native sidecar that
//! exits with 0 reads `terminated`, and nothing else. Both are also what a good image shows that this pod has had in the
//! last minutes, as after going to and fro: its start waits 10 s, then 20 s, up to 5 min. A kubelet that is restarted while it
//! pulls shows any container as `terminated` until it has pulled.

use k8s_openapi::jiff::SignedDuration;

use crate::core::base::lists::List;
use crate::core::pod::kubelet::{CRASH_LOOP, is_not_pulled, is_not_started};
use crate::core::pod::{ContainerStatus, PodView, Replaced, Update};

/// The kubelet's status may describe the old container for this long after our request.
pub(crate) const STALE_STATUS: SignedDuration = SignedDuration::from_secs(3);

/// For what may pass by itself; longer than the first three of these waits.
const DOUBT: SignedDuration = SignedDuration::from_secs(60);

/// A container that has crashed once, and not just before, is started again sooner than this.
pub(crate) const RESTART: SignedDuration = SignedDuration::from_secs(10);

/// Exit code after SIGTERM: it was asked to end, for example because somebody has changed its image.
pub(crate) const TERMINATED: i32 = 143;

/// Of a container that ended, without a word why there is no new one.
const STOPPED: &str = "stopped, and no new container was started";

/// A sign of failure.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// Such as `ErrImagePull`.
    pub(crate) reason: String,
    /// It counts if it is still there so long after the update.
    pub(crate) patience: SignedDuration,
}

/// What speaks against a container that replaces another, or none. Asked only once the kubelet has seen that.
pub(crate) fn of_attempt(status: &ContainerStatus, replaced: &Replaced) -> Option<Evidence> {
    if replaced.is_none() {
        // All that is said is about this container.
        return Some(Evidence { reason: of_container(status, 0)?, patience: SignedDuration::ZERO });
    }
    let is_awaited = status.id == replaced.id && status.running_since.is_none();
    // A container that was never replaced is no reason for the kubelet to wait before it starts another.
    let unless_put_off = if replaced.restart_count == 0 { STALE_STATUS } else { DOUBT };
    let (reason, patience) = match status.waiting.as_deref() {
        Some(reason) if is_awaited && is_not_pulled(reason) && !status.names_image => return None,
        // Perhaps still the words about the image before, while this one is pulled.
        Some(reason) if is_awaited && is_not_started(reason) && replaced.down => (reason.to_owned(), DOUBT),
        Some(CRASH_LOOP) if is_awaited && !replaced.down => {
            (format!("{CRASH_LOOP} before its first start"), unless_put_off)
        }
        // One that did not run anyway may stay terminated while its image is pulled; one that ran does not.
        None if is_awaited && !replaced.down => (STOPPED.to_owned(), DOUBT),
        _ => (of_container(status, replaced.restart_count)?, STALE_STATUS),
    };
    Some(Evidence { reason, patience })
}

/// What an update waits for that has neither worked nor failed, if the kubelet says so.
pub(crate) fn waits_for(pod: &PodView, update: &Update) -> Option<String> {
    update.containers.iter().find_map(|(name, replaced)| {
        let container = pod.container(name)?;
        let status = container.status.as_ref()?;
        let is_old = status.id == replaced.id;
        let text = match &status.waiting {
            Some(reason) => reason,
            None if is_old && status.running_since.is_none() => STOPPED,
            // Kubelets wait for the probe of an init container before they look at its image.
            None if is_old && status.is_starting && container.list == List::Init => {
                "replaced when the startupProbe of the old container has succeeded or given up"
            }
            None => return None,
        };
        Some(format!("{name}: {text}"))
    })
}

/// What speaks against a container of which there were `before` restarts when it had its chance.
pub(crate) fn of_container(status: &ContainerStatus, before: i32) -> Option<String> {
    let restarts = status.restart_count.saturating_sub(before);
    match status.waiting.as_deref() {
        Some(reason) if is_not_pulled(reason) || is_not_started(reason) => Some(reason.to_owned()),
        Some(CRASH_LOOP) if restarts > 0 => Some(CRASH_LOOP.to_owned()),
        _ => {
            let code = status.exit_code.filter(|code| ![0, TERMINATED].contains(code) && restarts >= 2)?;
            Some(format!("restarted {restarts} times, last exit code {code}"))
        }
    }
}
