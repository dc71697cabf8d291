//! Pod-level validity of the containers and volumes: what the apiserver would refuse on every injected pod
//! (`k8s.io/kubernetes/pkg/apis/core/validation`), said once on the set.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Probe, Volume};
use serde_json::Value;

use super::{FieldError, Problems, names, sidecars};
use crate::api::quantity::Quantity;
use crate::api::v1beta1::{SidecarContainer, SidecarSetSpec};

pub(super) fn check(spec: &SidecarSetSpec, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (list, i, SidecarContainer { container, .. }) in sidecars::all(spec) {
        let mut check = Check { path: format!("spec.{list}[{i}]"), errors: &mut problems.errors };
        check.container(container);
        check.volumes(container, &spec.volumes);
        if list == "initContainers" {
            check.init(container);
        } else if container.restart_policy.is_some() {
            check.error(".restartPolicy", "belongs to initContainers, where Always makes a native sidecar: move the container there or remove the field");
        }
        if !seen.insert(container.name.clone()) {
            check.error(".name", "is used twice: names must be unique over containers and initContainers");
        }
    }
    volumes(spec, problems);
}

fn volumes(spec: &SidecarSetSpec, problems: &mut Problems) {
    let used: BTreeSet<&str> =
        spec.containers.iter().chain(&spec.init_containers).flat_map(|c| volume_names(&c.container)).collect();
    let mut seen = BTreeSet::new();
    for (i, volume) in spec.volumes.iter().enumerate() {
        let path = format!("spec.volumes[{i}]");
        if !names::is_dns_label(&volume.name) {
            problems.errors.push(FieldError::new(format!("{path}.name"), names::DNS_LABEL));
        }
        if !seen.insert(&volume.name) {
            problems.errors.push(FieldError::new(format!("{path}.name"), "is used twice: volume names must be unique"));
        }
        // Its name counts as one.
        if members(volume) != 2 {
            problems
                .errors
                .push(FieldError::new(&path, "must have a name and exactly one source, for example emptyDir: {}"));
        }
        if !used.contains(volume.name.as_str()) {
            problems.warnings.push(format!("{path}: no container mounts volume {:?}, so no pod gets it", volume.name));
        }
    }
}

/// Number of fields that are set in a value of which exactly one must be.
fn members(value: &impl serde::Serialize) -> usize {
    serde_json::to_value(value).ok().and_then(|value| value.as_object().map(serde_json::Map::len)).unwrap_or(0)
}

/// The names of the volumes that a container mounts, as file systems or block devices.
fn volume_names(container: &Container) -> impl Iterator<Item = &str> {
    let mounts = container.volume_mounts.iter().flatten().map(|m| m.name.as_str());
    mounts.chain(container.volume_devices.iter().flatten().map(|d| d.name.as_str()))
}

struct Check<'a> {
    path: String,
    errors: &'a mut Vec<FieldError>,
}

impl Check<'_> {
    fn error(&mut self, field: &str, message: impl Into<String>) {
        self.errors.push(FieldError::new(format!("{}{field}", self.path), message));
    }

    fn container(&mut self, container: &Container) {
        if !names::is_dns_label(&container.name) {
            self.error(".name", names::DNS_LABEL);
        }
        match container.image.as_deref() {
            None | Some("") => self.error(".image", "is required"),
            Some(image) if image.trim() != image => self.error(".image", "must not begin or end with white space"),
            Some(_) => {}
        }
        self.env(container);
        self.lifecycle(container);
        self.ports(container);
        self.resources(container);
        for (field, probe) in [
            (".livenessProbe", &container.liveness_probe),
            (".readinessProbe", &container.readiness_probe),
            (".startupProbe", &container.startup_probe),
        ] {
            if let Some(probe) = probe {
                self.probe(field, probe);
                if field != ".readinessProbe" && probe.success_threshold.is_some_and(|threshold| threshold > 1) {
                    self.error(&format!("{field}.successThreshold"), "must be 1 for liveness and startup probes");
                }
            }
        }
    }

    fn env(&mut self, container: &Container) {
        for (i, env) in container.env.iter().flatten().enumerate() {
            let path = format!(".env[{i}]");
            if env.name.is_empty() || env.name.contains('=') {
                self.error(&format!("{path}.name"), "must not be empty nor contain '='");
            }
            if env.value.as_ref().is_some_and(|v| !v.is_empty()) && env.value_from.is_some() {
                self.error(&path, "value and valueFrom exclude each other: remove one of them");
            } else if env.value_from.as_ref().is_some_and(|source| members(source) != 1) {
                self.error(&format!("{path}.valueFrom"), "must have exactly one source, for example fieldRef");
            }
        }
        for (i, from) in container.env_from.iter().flatten().enumerate() {
            if from.config_map_ref.is_some() == from.secret_ref.is_some() {
                self.error(&format!(".envFrom[{i}]"), "must have exactly one of configMapRef and secretRef");
            }
        }
    }

    fn lifecycle(&mut self, container: &Container) {
        let Some(lifecycle) = &container.lifecycle else { return };
        for (hook, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if handler.as_ref().is_some_and(|handler| members(handler) != 1) {
                self.error(&format!(".lifecycle.{hook}"), "must have exactly one of exec, httpGet, sleep, tcpSocket");
            }
        }
    }

    fn ports(&mut self, container: &Container) {
        let mut seen = BTreeSet::new();
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let path = format!(".ports[{i}]");
            if !(1..=65535).contains(&port.container_port) {
                self.error(&format!("{path}.containerPort"), "must be from 1 to 65535");
            }
            if port.protocol.as_deref().is_some_and(|p| !matches!(p, "TCP" | "UDP" | "SCTP")) {
                self.error(&format!("{path}.protocol"), "must be TCP, UDP or SCTP");
            }
            if let Some(name) = &port.name {
                if !names::is_port_name(name) {
                    self.error(&format!("{path}.name"), names::PORT_NAME);
                }
                if !seen.insert(name) {
                    self.error(&format!("{path}.name"), "is used twice in this container");
                }
            }
        }
    }

    fn resources(&mut self, container: &Container) {
        let Some(resources) = &container.resources else { return };
        let mut limits = BTreeMap::new();
        for (list, quantities) in [("limits", &resources.limits), ("requests", &resources.requests)] {
            for (name, quantity) in quantities.iter().flatten() {
                let field = format!(".resources.{list}.{name}");
                match Quantity::parse(&quantity.0) {
                    None => self.error(
                        &field,
                        format!(
                            "{:?} is not a quantity: write a number with an optional unit, for example 100m or 64Mi",
                            quantity.0
                        ),
                    ),
                    Some(value) if value.is_negative() => self.error(&field, "must not be negative"),
                    Some(value) if list == "limits" => {
                        limits.insert(name, value);
                    }
                    Some(value) if limits.get(name).is_some_and(|limit| value > *limit) => {
                        self.error(&field, "must not be larger than the limit");
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn probe(&mut self, field: &str, probe: &Probe) {
        let handlers =
            [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some()];
        if handlers.into_iter().filter(|set| *set).count() != 1 {
            self.error(field, "must have exactly one of exec, httpGet, tcpSocket, grpc");
        }
    }

    /// Rules for init containers; a native sidecar (restartPolicy Always) may have probes and hooks (KEP-753).
    fn init(&mut self, container: &Container) {
        match container.restart_policy.as_deref() {
            Some("Always") => return,
            None => {}
            Some(_) => {
                self.error(".restartPolicy", "must be Always (a native sidecar) or absent (a plain init container)");
            }
        }
        for (field, set) in [
            (".livenessProbe", container.liveness_probe.is_some()),
            (".readinessProbe", container.readiness_probe.is_some()),
            (".startupProbe", container.startup_probe.is_some()),
            (".lifecycle", container.lifecycle.is_some()),
        ] {
            if set {
                self.error(
                    field,
                    "is not allowed on a plain init container: add restartPolicy: Always to make it a native sidecar",
                );
            }
        }
    }

    fn volumes(&mut self, container: &Container, volumes: &[Volume]) {
        let mut paths = BTreeSet::new();
        let lists = [
            ("volumeMounts", "mountPath", serde_json::to_value(&container.volume_mounts)),
            ("volumeDevices", "devicePath", serde_json::to_value(&container.volume_devices)),
        ];
        for (list, key, mounts) in lists {
            let mounts = mounts.ok();
            for (i, mount) in mounts.as_ref().and_then(Value::as_array).into_iter().flatten().enumerate() {
                let text = |field: &str| mount[field].as_str().unwrap_or_default().to_owned();
                let path = text(key);
                if path.is_empty() {
                    self.error(&format!(".{list}[{i}].{key}"), "must not be empty");
                } else if !paths.insert(path) {
                    self.error(&format!(".{list}[{i}].{key}"), "is used twice in this container");
                }
                if !volumes.iter().any(|v| v.name == text("name")) {
                    let message = format!("{:?} is not in spec.volumes: add the volume there", text("name"));
                    self.error(&format!(".{list}[{i}].name"), message);
                }
                if text("subPath").split('/').any(|part| part == "..") || text("subPath").starts_with('/') {
                    self.error(&format!(".{list}[{i}].subPath"), "must be a relative path without '..'");
                }
                if !text("subPath").is_empty() && !text("subPathExpr").is_empty() {
                    self.error(
                        &format!(".{list}[{i}]"),
                        "subPath and subPathExpr exclude each other: remove one of them",
                    );
                }
            }
        }
    }
}
