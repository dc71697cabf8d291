//! `securityContext` of containers and pods.

use serde_json::{Value, json};

use super::values::{Any, flag, list, object, often, one_of, rarely, remove, sometimes, texts};

/// Fields of a container that a Windows pod may not have.
const LINUX_ONLY: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// Fields of a pod that a Windows pod may not have.
const LINUX_ONLY_OF_PODS: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];

fn profile() -> Any {
    one_of([
        json!({"type": "RuntimeDefault"}),
        json!({"type": "Unconfined"}),
        json!({"type": "Localhost", "localhostProfile": "profiles/audit.json"}),
    ])
}

fn selinux() -> Any {
    texts(&[("level", &["s0:c1,c2"]), ("role", &["system_r"]), ("type", &["container_t"]), ("user", &["system_u"])])
}

fn windows() -> Any {
    object(vec![
        often("runAsUserName", one_of(["ContainerUser", "NT AUTHORITY\\LOCAL SERVICE"])),
        sometimes("gmsaCredentialSpecName", one_of(["gmsa"])),
        sometimes("gmsaCredentialSpec", one_of(["{}"])),
        sometimes("hostProcess", flag()),
    ])
}

/// Of a container.
pub fn of_container() -> Any {
    object(vec![
        sometimes("privileged", flag()),
        sometimes("allowPrivilegeEscalation", flag()),
        sometimes(
            "capabilities",
            object(vec![
                often("add", list(one_of(["NET_ADMIN", "SYS_PTRACE", "CAP_SYS_ADMIN", "ALL"]), 0..3)),
                often("drop", list(one_of(["ALL", "NET_RAW"]), 0..3)),
            ]),
        ),
        sometimes("runAsUser", one_of([0_i64, 1000, i64::from(i32::MAX)])),
        sometimes("runAsGroup", one_of([0, 1000])),
        sometimes("runAsNonRoot", flag()),
        sometimes("readOnlyRootFilesystem", flag()),
        rarely("procMount", one_of(["Default", "Unmasked"])),
        sometimes("seccompProfile", profile()),
        sometimes("appArmorProfile", profile()),
        rarely("seLinuxOptions", selinux()),
        rarely("windowsOptions", windows()),
    ])
}

/// Of a pod.
pub fn of_pod() -> Any {
    object(vec![
        sometimes("runAsUser", one_of([0, 1000])),
        sometimes("runAsGroup", one_of([0, 1000])),
        sometimes("runAsNonRoot", flag()),
        sometimes("fsGroup", one_of([0, 2000])),
        sometimes("fsGroupChangePolicy", one_of(["OnRootMismatch", "Always"])),
        sometimes("seccompProfile", profile()),
        sometimes("appArmorProfile", profile()),
        sometimes("seLinuxOptions", selinux()),
        rarely("seLinuxChangePolicy", one_of(["Recursive"])),
        sometimes("supplementalGroups", list(one_of([0, 1, 65_534]), 0..3)),
        rarely("supplementalGroupsPolicy", one_of(["Merge", "Strict"])),
        sometimes("sysctls", one_of([json!([{"name": "kernel.shm_rmid_forced", "value": "0"}])])),
        sometimes("windowsOptions", windows()),
    ])
}

/// What is refused in any pod.
pub fn settle_container(container: &mut Value) {
    let Some(context) = container.get_mut("securityContext") else { return };
    let adds = &context["capabilities"]["add"];
    let is_admin = adds.as_array().is_some_and(|added| added.contains(&json!("CAP_SYS_ADMIN")));
    if context["privileged"] == true || is_admin {
        remove(context, "", &["allowPrivilegeEscalation"]);
    }
}

/// What this pod may not have in a container.
pub fn fit_container(container: &mut Value, pod: &Value) {
    let Some(context) = container.get_mut("securityContext") else { return };
    if pod["hostUsers"] != false && context["procMount"] == "Unmasked" {
        remove(context, "", &["procMount"]);
    }
    match pod["os"]["name"].as_str() {
        Some("windows") => remove(context, "", &LINUX_ONLY),
        Some(_) => remove(context, "", &["windowsOptions"]),
        None => {}
    }
    // All or none are host processes: that is the pod's choice.
    remove(context, "/windowsOptions", &["hostProcess"]);
}

/// What this pod may not have itself.
pub fn fit_pod(spec: &mut Value) {
    match spec["os"]["name"].as_str() {
        Some("windows") => {
            remove(spec, "/securityContext", &LINUX_ONLY_OF_PODS);
            remove(spec, "", &["hostPID", "hostIPC", "hostUsers", "shareProcessNamespace", "resources"]);
        }
        Some(_) => remove(spec, "/securityContext", &["windowsOptions"]),
        None => {}
    }
    if spec["hostNetwork"] != true {
        remove(spec, "/securityContext/windowsOptions", &["hostProcess"]);
    }
}
