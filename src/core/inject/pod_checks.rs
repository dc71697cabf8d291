//! What is right in one pod and wrong in another: rules of the API server, and one of the kubelet, about a sidecar and its
//! pod. They are judged on the pod as injection made it: a set is left out, with a reason, before the pod is refused.
//!
//! What no pod may have is none of this: such a set is refused when it is written.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::decision::Failure;
use super::patch::{VOLUMES, containers, elements};
use super::placement::Placement;
use crate::api::reasons::Reason;
use crate::core::base::lists::List;
use crate::core::revision::volumes_of_variables;

/// What is wrong with a sidecar in this pod.
type OfASidecar = fn(&Made<'_>, &Member<'_>) -> Option<String>;
/// What is wrong with a pod, and the set that is to blame.
type OfAPod = fn(&Made<'_>) -> Option<(usize, String)>;

/// By the name of the rule in `k8s.io/kubernetes/pkg/apis/core/validation`.
const OF_A_SIDECAR: [(&str, OfASidecar); 12] = [
    ("validateSleepAction", sleeps_longer_than_the_pod_may),
    ("validateResizePolicy", restarts_in_a_pod_that_never_does),
    ("validateResourceClaimNames", uses_a_claim_that_the_pod_has_not),
    ("validateWindows", is_for_linux),
    ("validateLinux", is_for_windows),
    ("validateWindowsHostProcessPod", is_no_host_process_as_the_others),
    ("ValidateSecurityContext", unmasks_proc_without_a_user_namespace),
    ("validateHostUsers", has_a_device_in_a_user_namespace),
    ("validateSeccompAnnotationsAndFields, validateAppArmorAnnotationsAndFieldsMatchOnCreate", has_another_profile),
    ("validateFileKeySelector", reads_variables_from_another_source),
    // The second of these is of the kubelet, in `pkg/kubelet/volumemanager/populator`: the pod never starts.
    ("ValidateVolumeDevices, createVolumeSpec", uses_a_volume_in_another_mode),
    // Of the kubelet, in `pkg/kubelet/kuberuntime`: the container is not started.
    ("verifyRunAsNonRoot", is_root_where_nobody_may_be),
];

/// The same. Of two sets that collide the later by name is to blame.
const OF_A_POD: [(&str, OfAPod); 5] = [
    ("checkHostPortConflicts", host_port_is_taken),
    // Of the kubelet, in `pkg/api/v1/resource`: the volume is not mounted, the container is not started.
    ("findContainerInPod", resources_of_a_container_that_is_not_there),
    ("validateVolumeSource", claim_has_too_long_a_name),
    ("ValidateVolumes", claim_is_that_of_another_volume),
    ("ValidateAnnotationsSize", annotations_are_too_long),
];

/// `TotalAnnotationSizeLimitB`: of all keys and values.
const MAX_ANNOTATIONS: usize = 256 * 1024;
const MAX_NAME: usize = 253;
const DEFAULT_GRACE_PERIOD: i64 = 30;
const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
/// Fields of a security context that Windows does not have.
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

/// A pod with its sidecars.
struct Made<'a> {
    pod: &'a Value,
    /// The pod's own containers, then those of each set: who comes later collides with who was there.
    members: Vec<Member<'a>>,
    /// By name: the sets that added volumes.
    volumes: BTreeMap<&'a str, usize>,
    resource_claims: BTreeSet<&'a str>,
    /// By name.
    sources: BTreeMap<&'a str, &'a Value>,
    /// By volume: the first container that mounts it, and the first that has it as a device, each with its set.
    uses: [BTreeMap<&'a str, (Option<usize>, &'a str)>; 2],
}

/// Where a container names volumes, and what it does with them.
const MODES: [(&str, &str); 2] = [("volumeMounts", "mounts it"), ("volumeDevices", "has it as a block device")];

/// A container.
struct Member<'a> {
    /// `None` for the pod's own.
    set: Option<usize>,
    list: List,
    name: &'a str,
    json: &'a Value,
}

impl<'a> Placement<'a> {
    pub(super) fn check_pod(&self) -> Result<(), Failure<'a>> {
        let made = Made::of(self);
        let sidecars = || made.members.iter().filter_map(|member| Some((member.set?, member)));
        let mut found = sidecars().flat_map(|(set, sidecar)| {
            let wrong = OF_A_SIDECAR.iter().filter_map(|(_, check)| check(&made, sidecar));
            wrong.map(move |wrong| (set, format!("container {:?}: {wrong}", sidecar.name)))
        });
        match found.next().or_else(|| OF_A_POD.iter().find_map(|(_, check)| check(&made))) {
            Some((set, message)) => Err(Failure { set: self.sets[set].set, reason: Reason::PodConflict, message }),
            None => Ok(()),
        }
    }
}

impl<'a> Made<'a> {
    fn of(placement: &'a Placement<'_>) -> Self {
        let pod = placement.patch.pod();
        let sets = || placement.sets.iter().enumerate();
        let owners: BTreeMap<&str, usize> = sets()
            .flat_map(|(set, placed)| placed.template.containers.iter().map(move |it| (it.name.as_str(), set)))
            .collect();
        let mut members: Vec<Member<'_>> = containers(pod)
            .map(|(list, json)| {
                let name = json["name"].as_str().unwrap_or_default();
                Member { set: owners.get(name).copied(), list, name, json }
            })
            .collect();
        members.sort_by_key(|member| member.set);
        let volumes = sets().flat_map(|(set, placed)| placed.record.volumes.iter().map(move |it| (it.as_str(), set)));
        let claims = elements(pod, &["spec", "resourceClaims"]).filter_map(|claim| claim["name"].as_str());
        let sources = elements(pod, &VOLUMES).filter_map(|volume| Some((volume["name"].as_str()?, volume)));
        let uses = MODES.map(|(list, _)| {
            let mut first = BTreeMap::new();
            for member in &members {
                for name in elements(member.json, &[list]).filter_map(|mount| mount["name"].as_str()) {
                    first.entry(name).or_insert((member.set, member.name));
                }
            }
            first
        });
        let (volumes, resource_claims) = (volumes.collect(), claims.collect());
        Self { pod, members, volumes, resource_claims, sources: sources.collect(), uses }
    }

    /// Ephemeral volumes and the claims that are made for them; none as long as the pod has no name.
    fn ephemeral(&self) -> impl Iterator<Item = (&str, String)> {
        let pod = self.pod["metadata"]["name"].as_str().filter(|name| !name.is_empty());
        let volumes = elements(self.pod, &VOLUMES).filter(|volume| volume["ephemeral"].is_object());
        volumes.filter_map(move |volume| {
            let name = volume["name"].as_str()?;
            Some((name, format!("{}-{name}", pod?)))
        })
    }

    fn is_windows(&self) -> bool {
        self.pod["spec"]["os"]["name"] == "windows"
    }
}

impl Member<'_> {
    fn security(&self) -> &Value {
        &self.json["securityContext"]
    }

    fn is_host_process(&self, made: &Made<'_>) -> bool {
        let of = |owner: &Value| owner["windowsOptions"]["hostProcess"].as_bool();
        of(self.security()).or_else(|| of(&made.pod["spec"]["securityContext"])).unwrap_or_default()
    }
}

/// Takes out of a sidecar what this pod makes impossible and unnecessary. Returns what was left out.
pub(super) fn fit(list: List, container: &mut Value, pod: &Value) -> Vec<String> {
    let (spec, mut notes) = (&pod["spec"], Vec::new());
    let ports = container
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .filter(|_| spec["hostNetwork"] == true && list == List::Ordinary);
    for (i, port) in ports.into_iter().flatten().enumerate() {
        let (own, host) = (port["containerPort"].clone(), port["hostPort"].clone());
        // `validatePodHostNetworkDeps`: there is no other port. The API server writes it.
        if host.as_i64().is_some_and(|host| host != 0) && own != host {
            port.as_object_mut().map(|port| port.remove("hostPort"));
            notes.push(format!(
                "ports[{i}].hostPort {host} is left out: the pod has hostNetwork, so containerPort {own} is the port of the node"
            ));
        }
    }
    let signal = &container["lifecycle"]["stopSignal"];
    // `validateStopSignal`: the names of signals depend on the operating system.
    let is_known = match spec["os"]["name"].as_str() {
        None | Some("") => signal.is_null(),
        Some("windows") => signal.is_null() || signal == "SIGTERM" || signal == "SIGKILL",
        Some(_) => true,
    };
    if !is_known {
        notes.push(format!(
            "lifecycle.stopSignal {signal} is left out: it needs a pod with spec.os.name, and is one of its signals"
        ));
        container["lifecycle"].as_object_mut().map(|lifecycle| lifecycle.remove("stopSignal"));
        if container["lifecycle"] == serde_json::json!({}) {
            container.as_object_mut().map(|container| container.remove("lifecycle"));
        }
    }
    notes
}

fn sleeps_longer_than_the_pod_may(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    let grace = made.pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(DEFAULT_GRACE_PERIOD);
    let seconds = |hook: &str| sidecar.json["lifecycle"][hook]["sleep"]["seconds"].as_i64();
    let hook =
        ["postStart", "preStop"].into_iter().find(|hook| seconds(hook).is_some_and(|seconds| seconds > grace))?;
    let seconds = seconds(hook).unwrap_or_default();
    Some(format!(
        "lifecycle.{hook}.sleep.seconds is {seconds}, and terminationGracePeriodSeconds of the pod is {grace}: lower the sleep, or raise the pod's"
    ))
}

fn restarts_in_a_pod_that_never_does(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    let mut policies = elements(sidecar.json, &["resizePolicy"]).map(|policy| &policy["restartPolicy"]);
    let restarts = policies.find(|policy| *policy != "NotRequired")?;
    (made.pod["spec"]["restartPolicy"] == "Never").then(|| {
        format!(
            r#"resizePolicy has restartPolicy {restarts}, and restartPolicy of the pod is "Never": write "NotRequired""#
        )
    })
}

fn uses_a_claim_that_the_pod_has_not(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    let mut claims = elements(sidecar.json, &["resources", "claims"]).filter_map(|claim| claim["name"].as_str());
    let claim = claims.find(|claim| !made.resource_claims.contains(claim))?;
    Some(format!(
        "resources.claims names {claim:?}, and resourceClaims of the pod are {:?}: add it to the pod, or leave the pod out of the set's selector",
        made.resource_claims
    ))
}

fn is_for_linux(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    let field = LINUX_ONLY.into_iter().find(|field| !sidecar.security()[field].is_null())?;
    made.is_windows().then(|| {
        format!(
            r#"securityContext.{field} is {}, and os.name of the pod is "windows": write a set for pods of Windows without it"#,
            sidecar.security()[field]
        )
    })
}

fn is_for_windows(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    let options = &sidecar.security()["windowsOptions"];
    (made.pod["spec"]["os"]["name"] == "linux" && !options.is_null()).then(|| {
        format!(
            r#"securityContext.windowsOptions is {options}, and os.name of the pod is "linux": write a set for pods of Linux without it"#
        )
    })
}

fn is_no_host_process_as_the_others(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    let own = &sidecar.security()["windowsOptions"]["hostProcess"];
    let of_pod = &made.pod["spec"]["securityContext"]["windowsOptions"]["hostProcess"];
    let first = made.members.first()?;
    let (is, others) = (sidecar.is_host_process(made), first.is_host_process(made));
    (is != others || own.is_boolean() && of_pod.is_boolean() && own != of_pod).then(|| {
        format!(
            "securityContext.windowsOptions.hostProcess is {is}, and that of container {:?} is {others}: all containers of a pod are host processes or none",
            first.name
        )
    })
}

fn unmasks_proc_without_a_user_namespace(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    (sidecar.security()["procMount"] == "Unmasked" && made.pod["spec"]["hostUsers"] != false).then(|| {
        r#"securityContext.procMount is "Unmasked", and hostUsers of the pod is true: write hostUsers: false into the pod, or leave procMount out"#
            .to_owned()
    })
}

fn has_a_device_in_a_user_namespace(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    let device = elements(sidecar.json, &["volumeDevices"]).next()?;
    (made.pod["spec"]["hostUsers"] == false).then(|| {
        format!("volumeDevices has {}, and hostUsers of the pod is false: take one of the two away", device["name"])
    })
}

fn reads_variables_from_another_source(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    let mut names = volumes_of_variables(sidecar.json);
    let name = names.find(|name| made.sources.get(name).is_none_or(|volume| volume["emptyDir"].is_null()))?;
    Some(format!("env has a fileKeyRef to volume {name:?}, and that is no emptyDir of the pod: name another volume"))
}

/// A claim has one mode. Of that of the pod's claims nobody here knows more than how its containers use them.
fn uses_a_volume_in_another_mode(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    let used = (0..2).flat_map(|mode| {
        let mounts = elements(sidecar.json, &[MODES[mode].0]).enumerate();
        mounts.filter_map(move |(i, mount)| Some((mode, i, mount["name"].as_str()?)))
    });
    used.into_iter().find_map(|(mode, i, name)| {
        let why = wrong_source(made.sources.get(name)?, mode == 1).map(str::to_owned).or_else(|| {
            let (_, container) = made.uses[1 - mode].get(name).filter(|(set, _)| *set <= sidecar.set)?;
            Some(format!("container {container:?} {}", MODES[1 - mode].1))
        })?;
        Some(format!("{}[{i}] names volume {name:?}, and {why}: name another volume", MODES[mode].0))
    })
}

/// Why a volume cannot be used as a block device, or as a file system.
fn wrong_source(volume: &Value, as_device: bool) -> Option<&'static str> {
    let template = &volume["ephemeral"]["volumeClaimTemplate"]["spec"];
    match (as_device, template.is_object(), template["volumeMode"] == "Block") {
        (true, true, false) => Some("its claim is made with volumeMode Filesystem"),
        (false, true, true) => Some("its claim is made with volumeMode Block"),
        (true, false, _) if volume["persistentVolumeClaim"].is_null() => Some("only claims can be block devices"),
        _ => None,
    }
}

fn has_another_profile(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    [("seccompProfile", SECCOMP), ("appArmorProfile", APP_ARMOR)].into_iter().find_map(|(field, prefix)| {
        let key = format!("{prefix}{}", sidecar.name);
        let annotation = made.pod["metadata"]["annotations"][&key].as_str()?;
        // What a container does not say of AppArmor is the pod's; Windows has none.
        let of_pod = Some(&made.pod["spec"]["securityContext"][field]).filter(|_| prefix == APP_ARMOR);
        let profile = [Some(&sidecar.security()[field]), of_pod].into_iter().flatten().find(|it| it.is_object())?;
        let expected = match profile["type"].as_str()? {
            "Unconfined" => "unconfined".to_owned(),
            "RuntimeDefault" => "runtime/default".to_owned(),
            _ => format!("localhost/{}", profile["localhostProfile"].as_str().unwrap_or_default()),
        };
        let is_same = annotation == expected || annotation == "docker/default" && expected == "runtime/default";
        (!is_same && (prefix == SECCOMP || !made.is_windows())).then(|| {
            format!(
                "securityContext.{field} is {expected:?}, and the pod's annotation {key} is {annotation:?}: remove the annotation, which Kubernetes has given up"
            )
        })
    })
}

fn is_root_where_nobody_may_be(made: &Made<'_>, sidecar: &Member<'_>) -> Option<String> {
    let effective = |field: &str| {
        let own = &sidecar.security()[field];
        if own.is_null() { &made.pod["spec"]["securityContext"][field] } else { own }
    };
    (effective("runAsNonRoot") == true && effective("runAsUser") == 0 && !made.is_windows()).then(|| {
        "runAsNonRoot is true and runAsUser is 0 with what securityContext of the pod says: write another runAsUser, or runAsNonRoot: false, into the sidecar's securityContext"
            .to_owned()
    })
}

fn host_port_is_taken(made: &Made<'_>) -> Option<(usize, String)> {
    let host_network = made.pod["spec"]["hostNetwork"] == true;
    let mut taken = BTreeMap::new();
    for member in &made.members {
        for (i, port) in elements(member.json, &["ports"]).enumerate() {
            let host = port["hostPort"].as_u64().filter(|port| *port != 0);
            let Some(host) = host.or_else(|| port["containerPort"].as_u64().filter(|_| host_network)) else { continue };
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            // Init containers run one after the other, and are judged alone.
            let alone = (member.list == List::Init).then_some(member.name);
            let key = (alone, protocol, port["hostIP"].as_str().unwrap_or_default(), host);
            match (taken.entry(key), member.set) {
                (Entry::Vacant(free), _) => {
                    free.insert(member.name);
                }
                (Entry::Occupied(taken), Some(set)) => {
                    let why = if host_network { "hostNetwork of the pod is true" } else { "a node has it once" };
                    let message = format!(
                        "container {:?}: ports[{i}].hostPort {host} ({protocol}) is that of container {:?}, too, and {why}: choose another port",
                        member.name,
                        taken.get()
                    );
                    return Some((set, message));
                }
                (Entry::Occupied(_), None) => {}
            }
        }
    }
    None
}

fn resources_of_a_container_that_is_not_there(made: &Made<'_>) -> Option<(usize, String)> {
    let sidecars = made.members.iter().filter_map(|member| Some((member.set?, "container", member.name, member.json)));
    let volumes = elements(made.pod, &VOLUMES).filter_map(|volume| {
        let name = volume["name"].as_str()?;
        Some((*made.volumes.get(name)?, "volume", name, volume))
    });
    let names: BTreeSet<&str> = made.members.iter().map(|member| member.name).collect();
    sidecars.chain(volumes).find_map(|(set, kind, name, json)| {
        let container = containers_of_resources(json).find(|container| !names.contains(container))?;
        let message = format!(
            "{kind} {name:?}: resourceFieldRef.containerName is {container:?}, and the pod has no such container: name one that all pods of the set have"
        );
        Some((set, message))
    })
}

/// The containers that a container's variables, or the files of a volume, say the resources of.
pub(super) fn containers_of_resources(json: &Value) -> impl Iterator<Item = &str> {
    let variables = elements(json, &["env"]).map(|variable| &variable["valueFrom"]);
    let sources = elements(json, &["projected", "sources"]).chain([json]);
    let files = sources.flat_map(|source| elements(source, &["downwardAPI", "items"]));
    let names = variables.chain(files).filter_map(|from| from["resourceFieldRef"]["containerName"].as_str());
    names.filter(|name| !name.is_empty())
}

/// The API server makes a claim for an ephemeral volume, and names it after the pod and the volume.
fn claim_has_too_long_a_name(made: &Made<'_>) -> Option<(usize, String)> {
    made.ephemeral().find_map(|(volume, claim)| {
        let set = *made.volumes.get(volume)?;
        (claim.len() > MAX_NAME).then(|| {
            let message = format!(
                "volume {volume:?}: ephemeral makes a claim with a name of {} characters, and {MAX_NAME} are allowed: shorten metadata.name of the pod or the volume's name",
                claim.len()
            );
            (set, message)
        })
    })
}

fn claim_is_that_of_another_volume(made: &Made<'_>) -> Option<(usize, String)> {
    let made_for: BTreeMap<String, &str> = made.ephemeral().map(|(volume, claim)| (claim, volume)).collect();
    elements(made.pod, &VOLUMES).find_map(|volume| {
        let (name, claim) = (volume["name"].as_str()?, volume["persistentVolumeClaim"]["claimName"].as_str()?);
        let ephemeral = *made_for.get(claim)?;
        let set = made.volumes.get(name).max(made.volumes.get(ephemeral))?;
        let message = format!(
            "volume {name:?}: persistentVolumeClaim.claimName is {claim:?}, and that claim is made for the ephemeral volume {ephemeral:?}: rename the volume"
        );
        Some((*set, message))
    })
}

fn annotations_are_too_long(made: &Made<'_>) -> Option<(usize, String)> {
    let annotations = made.pod["metadata"]["annotations"].as_object()?;
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    let last = made.members.last()?.set?;
    (bytes > MAX_ANNOTATIONS).then(|| {
        (last, format!("metadata.annotations have {bytes} bytes with those of injection, and {MAX_ANNOTATIONS} are allowed: shorten the pod's"))
    })
}
