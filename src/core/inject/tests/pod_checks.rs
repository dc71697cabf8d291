//! Sidecars that one pod may have and another may not.

use super::*;

/// What becomes of a sidecar with these fields in a pod with those: the message of `PodConflict`, or none.
fn conflict(pod: &Value, sidecar: &Value) -> Option<String> {
    let mut container = json!({"name": "agent", "image": "agent:1"});
    container.as_object_mut().unwrap().extend(sidecar.as_object().unwrap().clone());
    let list = if container["restartPolicy"] == "Always" { "initContainers" } else { "containers" };
    let injection = run(&sets([compile("s", json!({list: [container]}))]), pod);
    let [outcome] = &injection.outcomes[..] else { panic!("{injection:?}") };
    match outcome.reason {
        Reason::Injected => None,
        Reason::PodConflict => {
            assert_eq!(applied(pod, &injection), *pod, "it is left alone");
            Some(outcome.message.clone())
        }
        _ => panic!("{outcome:?}"),
    }
}

fn pod_with(spec: &Value) -> Value {
    let mut pod = pod();
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

/// A pod, a sidecar, and what the message names; nothing where they go together.
type Row = (Value, Value, &'static [&'static str]);

fn check(rows: Vec<Row>) {
    for (spec, sidecar, expected) in rows {
        let message = conflict(&pod_with(&spec), &sidecar);
        let row = format!("{spec} {sidecar}: {message:?}");
        assert_eq!(message.is_some(), !expected.is_empty(), "{row}");
        let message = message.unwrap_or_default();
        assert!(message.is_empty() || message.starts_with("container \"agent\": "), "{row}");
        for part in expected {
            assert!(message.contains(part), "{part}: {row}");
        }
    }
}

fn security(fields: Value) -> Value {
    json!({"securityContext": fields})
}

#[test]
fn hooks_policies_and_claims_must_be_those_of_the_pod() {
    let sleep = |hook: &str, seconds: u32| json!({"lifecycle": {hook: {"sleep": {"seconds": seconds}}}});
    check(vec![
        // validateSleepAction
        (
            json!({}),
            sleep("preStop", 31),
            &["lifecycle.preStop.sleep.seconds is 31", "terminationGracePeriodSeconds", "30"],
        ),
        (json!({"terminationGracePeriodSeconds": 0}), sleep("postStart", 1), &["postStart", "is 1,", "is 0:"]),
        (json!({"terminationGracePeriodSeconds": 40}), sleep("preStop", 40), &[]),
        // validateResizePolicy
        (
            json!({"restartPolicy": "Never"}),
            json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}),
            &["resizePolicy", "RestartContainer", "Never"],
        ),
        (
            json!({"restartPolicy": "Never"}),
            json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]}),
            &[],
        ),
        (json!({}), json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}), &[]),
        // validateResourceClaimNames
        (json!({}), json!({"resources": {"claims": [{"name": "gpu"}]}}), &["resources.claims", "\"gpu\"", "{}"]),
        (
            json!({"resourceClaims": [{"name": "net"}]}),
            json!({"resources": {"claims": [{"name": "gpu"}]}}),
            &["\"net\""],
        ),
        (json!({"resourceClaims": [{"name": "gpu"}]}), json!({"resources": {"claims": [{"name": "gpu"}]}}), &[]),
    ]);
}

#[test]
fn a_security_context_must_be_one_of_the_pods_operating_system() {
    let windows = |options: Value| security(json!({"windowsOptions": options}));
    check(vec![
        // validateWindows
        (
            json!({"os": {"name": "windows"}}),
            security(json!({"runAsUser": 1000})),
            &["securityContext.runAsUser is 1000", "windows"],
        ),
        (
            json!({"os": {"name": "windows"}}),
            security(json!({"privileged": false})),
            &["securityContext.privileged is false"],
        ),
        (json!({"os": {"name": "windows"}}), security(json!({"runAsNonRoot": true})), &[]),
        (json!({}), security(json!({"runAsUser": 1000})), &[]),
        // validateLinux
        (json!({"os": {"name": "linux"}}), windows(json!({"runAsUserName": "u"})), &["windowsOptions", "linux"]),
        (json!({}), windows(json!({"runAsUserName": "u"})), &[]),
        // validateWindowsHostProcessPod
        (json!({}), windows(json!({"hostProcess": true})), &["hostProcess is true", "\"app\" is false"]),
        (
            json!({"hostNetwork": true, "securityContext": {"windowsOptions": {"hostProcess": true}}}),
            windows(json!({"hostProcess": false})),
            &["hostProcess is false", "\"app\" is true"],
        ),
        (json!({"hostNetwork": true, "securityContext": {"windowsOptions": {"hostProcess": true}}}), json!({}), &[]),
    ]);
}

#[test]
fn users_and_devices_must_go_with_the_pods_security() {
    check(vec![
        // ValidateSecurityContext
        (json!({}), security(json!({"procMount": "Unmasked"})), &["procMount", "Unmasked", "hostUsers"]),
        (json!({"hostUsers": false}), security(json!({"procMount": "Unmasked"})), &[]),
        // validateHostUsers
        (
            json!({"hostUsers": false, "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "d"}}]}),
            json!({"volumeDevices": [{"name": "d", "devicePath": "/dev/d"}]}),
            &["volumeDevices", "\"d\"", "hostUsers"],
        ),
        // verifyRunAsNonRoot
        (
            json!({"securityContext": {"runAsNonRoot": true}}),
            security(json!({"runAsUser": 0})),
            &["runAsNonRoot", "runAsUser is 0"],
        ),
        (
            json!({"securityContext": {"runAsUser": 0}}),
            security(json!({"runAsNonRoot": true})),
            &["runAsNonRoot", "runAsUser is 0"],
        ),
        (
            json!({"securityContext": {"runAsNonRoot": true}}),
            security(json!({"runAsNonRoot": false, "runAsUser": 0})),
            &[],
        ),
    ]);
}

#[test]
fn a_volume_has_one_mode_and_files_of_variables_stand_in_an_empty_dir() {
    let uses = |list: &str, path: &str| json!({list: [{"name": "data", path: "/data"}]});
    let (mount, device) = (uses("volumeMounts", "mountPath"), uses("volumeDevices", "devicePath"));
    let with = |app: &Value, source: Value| {
        let (mut app, mut volume) = (app.clone(), source);
        app["name"] = json!("app");
        volume["name"] = json!("data");
        json!({"containers": [app], "volumes": [volume]})
    };
    let (claim, directory) = (json!({"persistentVolumeClaim": {"claimName": "c"}}), json!({"emptyDir": {}}));
    let ephemeral = |mode: Value| json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"volumeMode": mode}}}});
    let none = json!({});
    let file =
        json!({"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "data", "path": "p", "key": "k"}}}]});
    check(vec![
        (with(&mount, claim.clone()), device.clone(), &["volumeDevices[0]", "\"data\"", "container \"app\" mounts it"]),
        (
            with(&device, claim.clone()),
            mount.clone(),
            &["volumeMounts[0]", "container \"app\" has it as a block device"],
        ),
        (with(&device, claim.clone()), device.clone(), &[]),
        (with(&mount, claim.clone()), mount.clone(), &[]),
        (with(&none, claim.clone()), device.clone(), &[]),
        (with(&none, directory.clone()), device.clone(), &["volumeDevices[0]", "only claims"]),
        (with(&none, ephemeral(json!(null))), device.clone(), &["volumeMode Filesystem"]),
        (with(&none, ephemeral(json!("Block"))), device, &[]),
        (with(&none, ephemeral(json!("Block"))), mount, &["volumeMounts[0]", "volumeMode Block"]),
        (with(&none, claim), file.clone(), &["fileKeyRef", "no emptyDir"]),
        (with(&none, directory), file, &[]),
    ]);
}

#[test]
fn a_template_and_the_pod_that_the_api_server_makes_of_it_are_judged_alike() {
    let agent = json!({"name": "agent", "image": "a", "resources": {"requests": {"cpu": "10m"}, "limits": {"hugepages-2Mi": "2Mi"}}});
    let sets = sets([compile("s", json!({"containers": [agent]}))]);
    let app = |resources: Value| json!([{"name": "app", "image": "a", "resources": resources}]);
    let huge = json!({"limits": {"hugepages-2Mi": "4Mi"}, "requests": {"hugepages-2Mi": "4Mi"}});
    let cpu = json!({"requests": {"cpu": "1"}});
    for (containers, written, made) in [
        (
            app(huge),
            json!({"requests": {"cpu": "2"}}),
            json!({"requests": {"cpu": "2", "hugepages-2Mi": "4Mi"}, "limits": {"hugepages-2Mi": "4Mi"}}),
        ),
        (app(cpu), json!({"limits": {"cpu": "2"}}), json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}})),
    ] {
        for resources in [written, made] {
            let pod = pod_with(&json!({"containers": containers, "resources": resources}));
            assert_eq!(reasons(&run(&sets, &pod)), [("s", Reason::ResourcesConflict)], "{pod}");
        }
    }
}

#[test]
fn a_host_port_must_be_free() {
    let port = |fields: Value| json!({"ports": [fields]});
    check(vec![
        // checkHostPortConflicts
        (
            json!({"hostNetwork": true, "containers": [{"name": "app", "ports": [{"containerPort": 9100}]}]}),
            port(json!({"containerPort": 9100})),
            &["ports[0].hostPort 9100 (TCP)", "\"app\"", "hostNetwork"],
        ),
        (
            json!({"containers": [{"name": "app", "ports": [{"containerPort": 1, "hostPort": 9000}]}]}),
            port(json!({"containerPort": 2, "hostPort": 9000, "protocol": "TCP"})),
            &["9000", "\"app\""],
        ),
        (
            json!({"containers": [{"name": "app", "ports": [{"containerPort": 1, "hostPort": 9000}]}]}),
            port(json!({"containerPort": 2, "hostPort": 9000, "protocol": "UDP"})),
            &[],
        ),
        (
            json!({"containers": [{"name": "app", "ports": [{"containerPort": 1, "hostPort": 9000}]}]}),
            port(json!({"containerPort": 2, "hostPort": 9000, "hostIP": "10.0.0.1"})),
            &[],
        ),
        (
            json!({"containers": [{"name": "app", "ports": [{"containerPort": 9100}]}]}),
            port(json!({"containerPort": 9100})),
            &[],
        ),
        (
            json!({"hostNetwork": true, "containers": [{"name": "app", "ports": [{"containerPort": 9100}]}]}),
            json!({"restartPolicy": "Always", "ports": [{"containerPort": 9100}]}),
            &[],
        ),
        (
            json!({"hostNetwork": true}),
            json!({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 1, "name": "b"}]}),
            &["ports[1].hostPort 1", "\"agent\""],
        ),
    ]);
}

/// `validateSeccompAnnotationsAndFields`, `validateAppArmorAnnotationsAndFieldsMatchOnCreate`
#[test]
fn an_annotation_of_the_pod_may_name_the_profile_of_a_sidecar() {
    let profile =
        |field: &str, kind: &str| json!({"securityContext": {field: {"type": kind, "localhostProfile": "p"}}});
    for (prefix, field) in [
        ("container.seccomp.security.alpha.kubernetes.io/agent", "seccompProfile"),
        ("container.apparmor.security.beta.kubernetes.io/agent", "appArmorProfile"),
    ] {
        for (annotation, kind, goes) in [
            ("unconfined", "RuntimeDefault", false),
            ("unconfined", "Unconfined", true),
            ("runtime/default", "RuntimeDefault", true),
            ("docker/default", "RuntimeDefault", true),
            ("localhost/p", "Localhost", true),
            ("localhost/q", "Localhost", false),
        ] {
            let mut pod = pod();
            pod["metadata"]["annotations"] = json!({prefix: annotation});
            let message = conflict(&pod, &profile(field, kind));
            assert_eq!(message.is_none(), goes, "{annotation} {kind}: {message:?}");
            assert!(message.is_none_or(|message| message.contains(prefix) && message.contains(annotation)));
        }
    }
}

/// `validateVolumeSource`, `ValidateVolumes`
#[test]
fn the_claim_of_an_ephemeral_volume_needs_a_name_of_its_own() {
    let set = |name: &str| {
        let claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        sets([compile(
            "s",
            json!({"containers": [{"name": "agent", "image": "a", "volumeMounts": [{"name": name, "mountPath": "/d"}]}],
                "volumes": [{"name": name, "ephemeral": {"volumeClaimTemplate": claim}}]}),
        )])
    };
    let named = |name: &str| {
        let mut pod = pod();
        pod["metadata"]["name"] = json!(name);
        pod
    };
    assert_eq!(reasons(&run(&set("data"), &named(&"p".repeat(248)))), [("s", Reason::Injected)]);
    assert_eq!(reasons(&run(&set("data"), &named(&"p".repeat(249)))), [("s", Reason::PodConflict)]);
    let mut taken = named("web-0");
    taken["spec"]["volumes"] = json!([{"name": "own", "persistentVolumeClaim": {"claimName": "web-0-data"}}]);
    assert_eq!(reasons(&run(&set("data"), &taken)), [("s", Reason::PodConflict)]);
    assert_eq!(reasons(&run(&set("other"), &taken)), [("s", Reason::Injected)]);
}

/// `findContainerInPod`
#[test]
fn the_container_whose_resources_are_told_must_be_there() {
    let reference =
        |container: &str| json!({"resourceFieldRef": {"containerName": container, "resource": "limits.cpu"}});
    let item = |container: &str| {
        let mut item = reference(container);
        item["path"] = json!("cpu");
        json!({"items": [item]})
    };
    let with = |container: &str, env: Value, volume: Value| {
        let agent =
            json!({"name": container, "image": "a", "env": env, "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let volume = json!({"name": "v", "downwardAPI": volume["downwardAPI"], "projected": volume["projected"]});
        sets([compile("s", json!({"containers": [agent], "volumes": [volume]}))])
    };
    for (container, there) in [("app", true), ("agent", true), ("", true), ("main", false)] {
        for set in [
            with("agent", json!([{"name": "CPU", "valueFrom": reference(container)}]), json!({"downwardAPI": {}})),
            with("agent", json!([]), json!({"downwardAPI": item(container)})),
            with("agent", json!([]), json!({"projected": {"sources": [{"downwardAPI": item(container)}]}})),
        ] {
            let injection = run(&set, &pod());
            let expected = if there { Reason::Injected } else { Reason::PodConflict };
            assert_eq!(reasons(&injection), [("s", expected)], "{container} {injection:?}");
            let message = &injection.outcomes[0].message;
            assert_eq!(message.contains("containerName is \"main\""), !there, "{message}");
        }
    }
}

/// `ValidateAnnotationsSize`
#[test]
fn annotations_that_leave_no_room_leave_the_pod_alone() {
    let sets = sets([compile("s", agent())]);
    let mut full = pod();
    full["metadata"]["annotations"] = json!({"pad": "x".repeat(256 * 1024 - 10)});
    assert_eq!(reasons(&run(&sets, &full)), [("s", Reason::PodConflict)]);
    full["metadata"]["annotations"] = json!({"pad": "x".repeat(255 * 1024)});
    assert_eq!(reasons(&run(&sets, &full)), [("s", Reason::Injected)]);
}

#[test]
fn of_two_sets_that_collide_the_later_is_left_out_and_others_are_not() {
    let with_port = |name: &str, port: u32| {
        let container = json!({"name": name, "image": "i", "ports": [{"containerPort": port, "hostPort": port}]});
        compile(name, json!({"containers": [container]}))
    };
    let all = sets([with_port("a", 80), with_port("b", 80), with_port("c", 81)]);
    let expected = [("a", Reason::Injected), ("b", Reason::PodConflict), ("c", Reason::Injected)];
    assert_eq!(reasons(&run(&all, &pod())), expected);
}

#[test]
fn a_set_that_fails_closed_refuses_the_pod_with_the_same_text() {
    let sidecar = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}});
    let said = conflict(&pod(), &sidecar).unwrap();
    let container = json!({"name": "agent", "image": "agent:1", "lifecycle": sidecar["lifecycle"]});
    let spec = json!({"containers": [container], "injectionStrategy": {"failurePolicy": "Fail"}});
    let refused = run(&sets([compile("s", spec)]), &pod()).refused.unwrap();
    assert!(refused.ends_with(&said), "{refused}");
}

#[test]
fn what_the_pod_makes_unnecessary_is_left_out_of_the_sidecar() {
    let host_network = pod_with(&json!({"hostNetwork": true}));
    let sidecar = json!({"name": "agent", "image": "a", "ports": [{"containerPort": 80, "hostPort": 9100}],
        "lifecycle": {"stopSignal": "SIGUSR1"}});
    let sets = sets([compile("s", json!({"containers": [sidecar]}))]);
    let injection = run(&sets, &host_network);
    assert_eq!(reasons(&injection), [("s", Reason::Injected)]);
    assert_eq!(injection.outcomes[0].notes.len(), 2, "{injection:?}");
    let agent = &applied(&host_network, &injection)["spec"]["containers"][0];
    assert_eq!(agent["ports"], json!([{"containerPort": 80}]));
    assert!(agent["lifecycle"].is_null());
    let linux = injected(&sets, &pod_with(&json!({"os": {"name": "linux"}})));
    assert_eq!(linux["spec"]["containers"][0]["lifecycle"]["stopSignal"], "SIGUSR1");
    assert_eq!(linux["spec"]["containers"][0]["ports"][0]["hostPort"], 9100);
}
