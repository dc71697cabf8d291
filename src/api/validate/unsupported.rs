//! Fields whose behaviour is not built yet. They are refused, never silently ignored.

use kube::ResourceExt;

use super::FieldError;
use crate::api::keys;
use crate::api::v1beta1::{
    InjectionStrategy, PatchPodMetadata, PatchPolicy, ShareType, SidecarContainer, SidecarSet, UpdateStrategy,
    UpgradeType,
};

/// Destructures without `..`: a new field does not compile until somebody says here whether it works.
pub(super) fn check(set: &SidecarSet, errors: &mut Vec<FieldError>) {
    let mut refuse = |used: bool, path: &str| {
        if used {
            errors.push(FieldError::new(path, "is not supported yet: remove it"));
        }
    };
    for key in [keys::CANARY, keys::BASE] {
        refuse(set.annotations().contains_key(key), &format!("metadata.annotations[{key}]"));
    }
    refuse(set.spec.resources.is_some(), "spec.resources");
    for (list, containers) in [("initContainers", &set.spec.init_containers), ("containers", &set.spec.containers)] {
        for (i, sidecar) in containers.iter().enumerate() {
            container(&format!("spec.{list}[{i}]"), sidecar, &mut refuse);
        }
    }
    for (i, patch) in set.spec.patch_pod_metadata.iter().enumerate() {
        let PatchPodMetadata { labels, annotations: _, patch_policy } = patch;
        let path = format!("spec.patchPodMetadata[{i}]");
        refuse(!labels.is_empty(), &format!("{path}.labels"));
        refuse(*patch_policy == Some(PatchPolicy::MergePatchJson), &format!("{path}.patchPolicy MergePatchJson"));
    }
    injection(&set.spec.injection_strategy, &mut refuse);
    update(&set.spec.update_strategy, &mut refuse);
}

fn container(path: &str, sidecar: &SidecarContainer, refuse: &mut impl FnMut(bool, &str)) {
    let SidecarContainer {
        container: _,
        pod_inject_policy: _,
        upgrade_strategy,
        share_volume_policy,
        share_volume_device_policy,
        transfer_env,
        resources_policy,
        depends_on,
    } = sidecar;
    if let Some(upgrade) = upgrade_strategy {
        let hot = upgrade.upgrade_type == Some(UpgradeType::HotUpgrade) || upgrade.hot_upgrade_empty_image.is_some();
        refuse(hot, &format!("{path}.upgradeStrategy HotUpgrade"));
    }
    for (share, field) in
        [(share_volume_policy, "shareVolumePolicy"), (share_volume_device_policy, "shareVolumeDevicePolicy")]
    {
        let enabled = share.as_ref().is_some_and(|share| share.type_ == ShareType::Enabled);
        refuse(enabled, &format!("{path}.{field}"));
    }
    refuse(!transfer_env.is_empty(), &format!("{path}.transferEnv"));
    refuse(resources_policy.is_some(), &format!("{path}.resourcesPolicy"));
    refuse(!depends_on.is_empty(), &format!("{path}.dependsOn"));
}

fn injection(strategy: &InjectionStrategy, refuse: &mut impl FnMut(bool, &str)) {
    let InjectionStrategy { paused: _, failure_policy: _, new_pods, revision, existing_pods: _ } = strategy;
    refuse(new_pods.is_some(), "spec.injectionStrategy.newPods");
    refuse(revision.is_some(), "spec.injectionStrategy.revision");
}

fn update(strategy: &UpdateStrategy, refuse: &mut impl FnMut(bool, &str)) {
    let UpdateStrategy {
        type_: _,
        paused: _,
        selector: _,
        partition: _,
        max_unavailable: _,
        max_unavailable_per_workload,
        min_ready_seconds: _,
        pod_update_timeout_seconds: _,
        progress_deadline_seconds,
        steps,
        failure_policy,
        pre_pull,
        when_not_in_place,
        priority_strategy,
        scatter_strategy,
    } = strategy;
    for (used, field) in [
        (max_unavailable_per_workload.is_some(), "maxUnavailablePerWorkload"),
        (progress_deadline_seconds.is_some(), "progressDeadlineSeconds"),
        (!steps.is_empty(), "steps"),
        (failure_policy.is_some(), "failurePolicy"),
        (pre_pull.is_some(), "prePull"),
        (when_not_in_place.is_some(), "whenNotInPlace"),
        (priority_strategy.is_some(), "priorityStrategy"),
        (!scatter_strategy.is_empty(), "scatterStrategy"),
    ] {
        refuse(used, &format!("spec.updateStrategy.{field}"));
    }
}
