//! Pod-level validity of the containers and volumes: what the apiserver would refuse on every injected pod
//! (`k8s.io/kubernetes/pkg/apis/core/validation`), said once on the set.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVar, FileKeySelector};

use super::{At, Problems, names, sidecars};
use crate::api::quantity::Quantity;
use crate::api::v1beta1::{PodVolume, SidecarContainer, SidecarSetSpec};

pub(super) fn check(spec: &SidecarSetSpec, problems: &mut Problems) {
    let (mut seen, volumes) = (BTreeSet::new(), volumes(spec));
    for (list, i, SidecarContainer { container, .. }) in sidecars::all(spec) {
        let mut at = At::new(format!("spec.{list}[{i}]"), &mut problems.errors);
        check_container(&mut at, container);
        check_mounts(&mut at, container, &volumes);
        if list == "initContainers" {
            check_init(&mut at, container);
        } else {
            at.at(".restartPolicy").refuse_if(
                container.restart_policy.is_some(),
                "belongs to initContainers, where Always makes a native sidecar: move the container there or remove the field",
            );
        }
        let is_new = seen.insert(container.name.clone());
        at.at(".name").refuse_if(!is_new, "is used twice: names must be unique over containers and initContainers");
    }
    check_volumes(spec, problems);
}

/// Names of the volumes that a sidecar may mount.
fn volumes(spec: &SidecarSetSpec) -> BTreeSet<&str> {
    let of_the_pod = spec.pod_volumes.iter().map(|volume| volume.name.as_str());
    spec.volumes.iter().map(|volume| volume.name.as_str()).chain(of_the_pod).collect()
}

fn check_volumes(spec: &SidecarSetSpec, problems: &mut Problems) {
    let used: BTreeSet<&str> =
        spec.containers.iter().chain(&spec.init_containers).flat_map(|c| volume_names(&c.container)).collect();
    let mut seen = BTreeSet::new();
    for (i, volume) in spec.volumes.iter().enumerate() {
        let mut at = At::new(format!("spec.volumes[{i}]"), &mut problems.errors);
        at.at(".name").refuse_if(!names::is_dns_label(&volume.name), names::DNS_LABEL);
        at.at(".name").refuse_if(!seen.insert(&volume.name), "is used twice: volume names must be unique");
        // Its name counts as one.
        at.refuse_if(members(volume) != 2, "must have a name and exactly one source, for example emptyDir: {}");
        if !used.contains(volume.name.as_str()) {
            let path = at.path;
            problems.warnings.push(format!("{path}: no container mounts volume {:?}, so no pod gets it", volume.name));
        }
    }
    let mut named = BTreeSet::new();
    for (i, PodVolume { name }) in spec.pod_volumes.iter().enumerate() {
        let mut at = At::new(format!("spec.podVolumes[{i}]"), &mut problems.errors);
        at.at(".name").refuse_if(!names::is_dns_label(name), names::DNS_LABEL);
        at.at(".name").refuse_if(!named.insert(name), "is used twice: volume names must be unique");
        // A volume that is in both lists has its warning.
        if !used.contains(name.as_str()) && !seen.contains(name) {
            let path = at.path;
            problems.warnings.push(format!("{path}: no container mounts volume {name:?}"));
        }
    }
}

/// Number of fields that are set in a value of which exactly one must be.
fn members(value: &impl serde::Serialize) -> usize {
    serde_json::to_value(value).ok().and_then(|value| value.as_object().map(serde_json::Map::len)).unwrap_or(0)
}

/// The names of the volumes that a container uses: as file systems, as block devices, and for variables that stand in files.
fn volume_names(container: &Container) -> impl Iterator<Item = &str> {
    let mounts = container.volume_mounts.iter().flatten().map(|m| m.name.as_str());
    let files = container.env.iter().flatten().filter_map(file).map(|file| file.volume_name.as_str());
    mounts.chain(container.volume_devices.iter().flatten().map(|d| d.name.as_str())).chain(files)
}

/// The file that a variable stands in.
fn file(variable: &EnvVar) -> Option<&FileKeySelector> {
    variable.value_from.as_ref()?.file_key_ref.as_ref()
}

fn check_container(at: &mut At<'_>, container: &Container) {
    at.at(".name").refuse_if(!names::is_dns_label(&container.name), names::DNS_LABEL);
    let image = container.image.as_deref().unwrap_or_default();
    at.at(".image").refuse_if(image.is_empty(), "is required");
    at.at(".image").refuse_if(image.trim() != image, "must not begin or end with white space");
    check_env(at, container);
    let hooks =
        container.lifecycle.as_ref().map(|hooks| [("postStart", &hooks.post_start), ("preStop", &hooks.pre_stop)]);
    for (hook, handler) in hooks.into_iter().flatten() {
        at.at(format_args!(".lifecycle.{hook}")).refuse_if(
            handler.as_ref().is_some_and(|handler| members(handler) != 1),
            "must have exactly one of exec, httpGet, sleep, tcpSocket",
        );
    }
    check_ports(at, container);
    check_resources(at, container);
    for (field, probe) in [
        (".livenessProbe", &container.liveness_probe),
        (".readinessProbe", &container.readiness_probe),
        (".startupProbe", &container.startup_probe),
    ] {
        let (Some(probe), mut at) = (probe, at.at(field)) else { continue };
        let handlers =
            [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some()];
        let has_one = handlers.into_iter().filter(|set| *set).count() == 1;
        at.refuse_if(!has_one, "must have exactly one of exec, httpGet, tcpSocket, grpc");
        let repeats = field != ".readinessProbe" && probe.success_threshold.is_some_and(|threshold| threshold > 1);
        at.at(".successThreshold").refuse_if(repeats, "must be 1 for liveness and startup probes");
    }
}

fn check_env(at: &mut At<'_>, container: &Container) {
    for (i, env) in container.env.iter().flatten().enumerate() {
        let mut at = at.at(format_args!(".env[{i}]"));
        let is_wrong = env.name.is_empty() || env.name.contains('=');
        at.at(".name").refuse_if(is_wrong, "must not be empty nor contain '='");
        if env.value.as_ref().is_some_and(|v| !v.is_empty()) && env.value_from.is_some() {
            at.refuse("value and valueFrom exclude each other: remove one of them");
        } else {
            let is_wrong = env.value_from.as_ref().is_some_and(|source| members(source) != 1);
            at.at(".valueFrom").refuse_if(is_wrong, "must have exactly one source, for example fieldRef");
        }
    }
    for (i, from) in container.env_from.iter().flatten().enumerate() {
        at.at(format_args!(".envFrom[{i}]")).refuse_if(
            from.config_map_ref.is_some() == from.secret_ref.is_some(),
            "must have exactly one of configMapRef and secretRef",
        );
    }
}

fn check_ports(at: &mut At<'_>, container: &Container) {
    let mut seen = BTreeSet::new();
    for (i, port) in container.ports.iter().flatten().enumerate() {
        let mut at = at.at(format_args!(".ports[{i}]"));
        at.at(".containerPort").refuse_if(!(1..=65535).contains(&port.container_port), "must be from 1 to 65535");
        let is_known = port.protocol.as_deref().is_none_or(|p| matches!(p, "TCP" | "UDP" | "SCTP"));
        at.at(".protocol").refuse_if(!is_known, "must be TCP, UDP or SCTP");
        if let Some(name) = &port.name {
            at.at(".name").refuse_if(!names::is_port_name(name), names::PORT_NAME);
            at.at(".name").refuse_if(!seen.insert(name), "is used twice in this container");
        }
    }
}

fn check_resources(at: &mut At<'_>, container: &Container) {
    let Some(resources) = &container.resources else { return };
    let mut limits = BTreeMap::new();
    for (list, quantities) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, quantity) in quantities.iter().flatten() {
            let mut at = at.at(format_args!(".resources.{list}.{name}"));
            let Some(value) = Quantity::parse(&quantity.0) else {
                let example = "write a number with an optional unit, for example 100m or 64Mi";
                at.refuse(format!("{:?} is not a quantity: {example}", quantity.0));
                continue;
            };
            if value.is_negative() {
                at.refuse("must not be negative");
            } else if list == "limits" {
                limits.insert(name, value);
            } else {
                let is_larger = limits.get(name).is_some_and(|limit| value > *limit);
                at.refuse_if(is_larger, "must not be larger than the limit");
            }
        }
    }
}

/// Rules for init containers; a native sidecar (restartPolicy Always) may have probes and hooks (KEP-753).
fn check_init(at: &mut At<'_>, container: &Container) {
    let policy = container.restart_policy.as_deref();
    if policy == Some("Always") {
        return;
    }
    let message = "must be Always (a native sidecar) or absent (a plain init container)";
    at.at(".restartPolicy").refuse_if(policy.is_some(), message);
    let message = "is not allowed on a plain init container: add restartPolicy: Always to make it a native sidecar";
    at.at(".livenessProbe").refuse_if(container.liveness_probe.is_some(), message);
    at.at(".readinessProbe").refuse_if(container.readiness_probe.is_some(), message);
    at.at(".startupProbe").refuse_if(container.startup_probe.is_some(), message);
    at.at(".lifecycle").refuse_if(container.lifecycle.is_some(), message);
}

fn check_mounts(at: &mut At<'_>, container: &Container, volumes: &BTreeSet<&str>) {
    let mut paths = BTreeSet::new();
    let lists = [
        ("volumeMounts", "mountPath", serde_json::to_value(&container.volume_mounts)),
        ("volumeDevices", "devicePath", serde_json::to_value(&container.volume_devices)),
    ];
    for (list, key, mounts) in lists {
        let mounts = mounts.unwrap_or_default();
        for (i, mount) in mounts.as_array().into_iter().flatten().enumerate() {
            let mut at = at.at(format_args!(".{list}[{i}]"));
            let text = |field: &str| mount[field].as_str().unwrap_or_default();
            let (path, name, sub_path) = (text(key), text("name"), text("subPath"));
            if path.is_empty() {
                at.at(format_args!(".{key}")).refuse("must not be empty");
            } else if !paths.insert(path.to_owned()) {
                at.at(format_args!(".{key}")).refuse("is used twice in this container");
            }
            check_volume(&mut at.at(".name"), name, volumes);
            let leads_out = sub_path.split('/').any(|part| part == "..") || sub_path.starts_with('/');
            at.at(".subPath").refuse_if(leads_out, "must be a relative path without '..'");
            let has_both = !sub_path.is_empty() && !text("subPathExpr").is_empty();
            at.refuse_if(has_both, "subPath and subPathExpr exclude each other: remove one of them");
        }
    }
    for (i, variable) in container.env.iter().flatten().enumerate() {
        let Some(file) = file(variable) else { continue };
        check_volume(&mut at.at(format_args!(".env[{i}].valueFrom.fileKeyRef.volumeName")), &file.volume_name, volumes);
    }
}

fn check_volume(at: &mut At<'_>, name: &str, volumes: &BTreeSet<&str>) {
    if !volumes.contains(name) {
        at.refuse(format!(
            "{name:?} is neither in spec.volumes nor in spec.podVolumes: add the volume to spec.volumes, or its name to \
             spec.podVolumes if the pods declare it"
        ));
    }
}
