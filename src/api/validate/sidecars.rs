//! The fields of a sidecar that are this API's own: order, transfer of variables, hot upgrades.

use std::collections::BTreeMap;

use super::{At, FieldError, Problems, names};
use crate::api::keys;
use crate::api::order::{self, APP, Node, OrderError};
use crate::api::v1beta1::{
    JobPods, PodInjectPolicy, SidecarContainer, SidecarSet, SidecarSetSpec, TransferEnv, UpgradeType,
};

pub(super) fn check(spec: &SidecarSetSpec, problems: &mut Problems) {
    for (list, i, sidecar) in all(spec) {
        let mut at = At::new(format!("spec.{list}[{i}]"), &mut problems.errors);
        for (k, transfer) in sidecar.transfer_env.iter().enumerate() {
            transfer_env(at.at(format_args!(".transferEnv[{k}]")), transfer);
        }
        hot_upgrade(at, list, sidecar);
    }
    twin_names(spec, &mut problems.errors);
    start_order(spec, problems);
    if spec.job_pods == Some(JobPods::Native) {
        job_pods(spec, problems);
    }
}

/// What native sidecars, which containers are in pods of Jobs, cannot do.
fn job_pods(spec: &SidecarSetSpec, problems: &mut Problems) {
    for (i, sidecar) in spec.containers.iter().enumerate() {
        let mut at = At::new(format!("spec.containers[{i}]"), &mut problems.errors);
        at.at(".dependsOn").refuse_if(
            sidecar.depends_on.iter().any(|name| name == APP),
            "with jobPods: Native it is a native sidecar in pods of Jobs, and cannot start after the application: remove app from dependsOn, or write a set for Jobs of its own",
        );
        if sidecar.pod_inject_policy == Some(PodInjectPolicy::AfterAppContainer) {
            let path = at.at(".podInjectPolicy").path;
            problems
                .warnings
                .push(format!("{path}: in pods of Jobs it starts before the application, as jobPods is Native"));
        }
    }
}

/// Every sidecar with its list and position.
pub(super) fn all(spec: &SidecarSetSpec) -> impl Iterator<Item = (&'static str, usize, &SidecarContainer)> {
    [("initContainers", &spec.init_containers), ("containers", &spec.containers)]
        .into_iter()
        .flat_map(|(list, sidecars)| sidecars.iter().enumerate().map(move |(i, sidecar)| (list, i, sidecar)))
}

/// `metadata.labels['k']` or `metadata.annotations['k']` → the map and the key. Used by validation and injection.
pub(crate) fn field_reference(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.strip_prefix("metadata.")?.split_once("['")?;
    let key = rest.strip_suffix("']")?;
    (matches!(map, "labels" | "annotations") && names::is_qualified_name(key)).then_some((map, key))
}

fn transfer_env(mut at: At<'_>, transfer: &TransferEnv) {
    let TransferEnv { source_container_name, source_container_name_from, env_name, env_names } = transfer;
    match (source_container_name, source_container_name_from) {
        (Some(_), Some(_)) => {
            at.refuse("sourceContainerName and sourceContainerNameFrom exclude each other: remove one of them");
        }
        (None, None) => at.refuse("must have one of sourceContainerName and sourceContainerNameFrom"),
        (Some(name), None) => at.at(".sourceContainerName").refuse_if(!names::is_dns_label(name), names::DNS_LABEL),
        (None, Some(from)) => match (&from.field_ref, at.at(".sourceContainerNameFrom.fieldRef")) {
            (None, mut at) => at.refuse("is required"),
            (Some(field), mut at) => {
                let is_other = field.api_version.as_deref().is_some_and(|version| version != "v1");
                at.at(".apiVersion").refuse_if(is_other, "must be v1");
                at.at(".fieldPath").refuse_if(
                    field_reference(&field.field_path).is_none(),
                    "must be metadata.labels['key'] or metadata.annotations['key']",
                );
            }
        },
    }
    let names_none = env_name.as_ref().is_none_or(String::is_empty) && env_names.is_empty();
    at.refuse_if(names_none, "must name at least one variable in envName or envNames");
}

/// The names `<name>-1` and `<name>-2` of a hot upgrade must be legal too.
const MAX_HOT_NAME: usize = 61;

fn hot_upgrade(mut at: At<'_>, list: &str, sidecar: &SidecarContainer) {
    let Some(strategy) = &sidecar.upgrade_strategy else { return };
    let has_image = strategy.hot_upgrade_empty_image.as_ref().is_some_and(|image| !image.is_empty());
    let mut image = at.at(".upgradeStrategy.hotUpgradeEmptyImage");
    if strategy.upgrade_type != Some(UpgradeType::HotUpgrade) {
        image.refuse_if(has_image, "is for upgradeType HotUpgrade only: remove it");
        return;
    }
    image.refuse_if(!has_image, "is required: name the image that the idle twin runs");
    let is_long = sidecar.container.name.len() > MAX_HOT_NAME;
    at.at(".name").refuse_if(is_long, "must have at most 61 characters: a hot upgrade adds -1 and -2");
    let is_plain = list == "initContainers" && sidecar.container.restart_policy.as_deref() != Some("Always");
    at.at(".upgradeStrategy.upgradeType").refuse_if(is_plain, "a plain init container is not upgraded: remove it");
}

/// Names of a sidecar's containers in a pod.
pub(super) fn container_names(sidecar: &SidecarContainer) -> Vec<String> {
    let hot = sidecar.upgrade_strategy.as_ref().is_some_and(|s| s.upgrade_type == Some(UpgradeType::HotUpgrade));
    keys::container_names(&sidecar.container.name, hot)
}

fn twin_names(spec: &SidecarSetSpec, errors: &mut Vec<FieldError>) {
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    for (list, i, sidecar) in all(spec) {
        let own = sidecar.container.name.as_str();
        for name in container_names(sidecar) {
            // Two entries of one name are reported where names are checked.
            if let Some(other) = taken.insert(name.clone(), own).filter(|other| *other != own) {
                At::new(format!("spec.{list}[{i}].name"), errors).refuse(format!(
                    "container {name:?} of the hot upgrade is also made by {other:?}: rename one of them"
                ));
            }
        }
    }
}

/// The nodes of a set in one kind of pods, and where each stands.
fn nodes<'a>(name: &'a str, spec: &'a SidecarSetSpec, kind: Pods) -> Vec<(String, Node<'a>)> {
    let all_init = kind == Pods::OfJobs && spec.job_pods == Some(JobPods::Native);
    all(spec)
        .map(|(list, i, sidecar)| {
            let is_moved = all_init && list == "containers";
            let node = Node {
                set: name,
                name: &sidecar.container.name,
                init: is_moved || list == "initContainers",
                policy: sidecar.pod_inject_policy.filter(|_| !is_moved),
                depends_on: &sidecar.depends_on,
            };
            (format!("spec.{list}[{i}].dependsOn"), node)
        })
        .collect()
}

/// Where containers are placed differently.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pods {
    Usual,
    OfJobs,
}

fn start_order(spec: &SidecarSetSpec, problems: &mut Problems) {
    let (paths, nodes): (Vec<String>, Vec<Node<'_>>) = nodes("", spec, Pods::Usual).into_iter().unzip();
    if let Err(OrderError { node, message }) = order::order(&nodes) {
        problems.errors.push(FieldError::new(&paths[node], message));
    }
    for (path, node) in paths.iter().zip(&nodes) {
        if node.name == APP {
            problems.warnings.push(format!(
                "{}: in dependsOn {APP:?} means the pod's own containers, and many pods have one of that name: choose another",
                path.replace("dependsOn", "name")
            ));
        }
        for name in node.depends_on {
            if let Some(why) = does_not_wait(spec, name) {
                problems.warnings.push(format!(
                    "{path}: OrderOnly: {:?} is placed behind {name:?} but does not wait for it: {why}",
                    node.name
                ));
            }
        }
    }
}

/// Why the next container does not wait for this one; `None` if it does, or if another set has it.
fn does_not_wait(spec: &SidecarSetSpec, name: &str) -> Option<&'static str> {
    if name == APP {
        return Some("ordinary containers start one after the other without waiting");
    }
    let (list, _, sidecar) = all(spec).find(|(_, _, sidecar)| sidecar.container.name == name)?;
    let container = &sidecar.container;
    let has_post_start = container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
    match (list, container.restart_policy.as_deref()) {
        ("initContainers", Some("Always")) if container.startup_probe.is_none() && !has_post_start => {
            Some("give it a startupProbe")
        }
        ("containers", _) if !has_post_start => {
            Some("make it a native sidecar with a startupProbe, or give it a lifecycle.postStart that blocks")
        }
        _ => None,
    }
}

/// What `dependsOn` of this set and of the others on the same pods add up to.
pub(super) fn order_with(set: &SidecarSet, others: &[&SidecarSet], errors: &mut Vec<FieldError>) {
    let before = errors.len();
    order_in(Pods::Usual, "", set, others, errors);
    if errors.len() == before {
        order_in(Pods::OfJobs, "in pods of Jobs, ", set, others, errors);
    }
}

fn order_in(kind: Pods, place: &str, set: &SidecarSet, others: &[&SidecarSet], errors: &mut Vec<FieldError>) {
    let name = |set: &SidecarSet| set.metadata.name.clone().unwrap_or_default();
    let (own_name, names): (String, Vec<String>) = (name(set), others.iter().map(|other| name(other)).collect());
    let of_others = || others.iter().zip(&names).flat_map(|(other, name)| nodes(name, &other.spec, kind));
    let rest: Vec<Node<'_>> = of_others().map(|(_, node)| node).collect();
    if order::order(&rest).is_err() {
        return;
    }
    let own = nodes(&own_name, &set.spec, kind);
    let count = own.len();
    let (paths, all): (Vec<String>, Vec<Node<'_>>) = own.into_iter().chain(of_others()).unzip();
    match order::order(&all) {
        Err(OrderError { node, message }) => {
            let path = if node < count { paths[node].as_str() } else { "spec" };
            errors.push(FieldError::new(path, format!("{place}together with other SidecarSets: {message}")));
        }
        Ok(order) => {
            for (node, name) in order.missing.into_iter().filter(|(node, _)| *node < count) {
                errors.push(FieldError::new(
                    &paths[node],
                    format!(
                        "{name:?} is neither app, nor a container of this SidecarSet, nor of another one that selects the same pods: correct the name, or apply that SidecarSet first"
                    ),
                ));
            }
        }
    }
}
