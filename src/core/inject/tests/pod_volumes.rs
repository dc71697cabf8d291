//! Volumes that the pod declares and sidecars mount by name.

use super::*;

fn backup(volumes: &Value) -> CompiledSets {
    let mount = json!({"name": "data", "mountPath": "/source", "readOnly": true});
    let container = json!({"name": "backup", "image": "backup:1", "volumeMounts": [mount]});
    sets([compile("backup", json!({"containers": [container], "podVolumes": [{"name": "data"}], "volumes": volumes}))])
}

fn with_volumes(volumes: &Value) -> Value {
    let mut pod = pod();
    pod["spec"]["volumes"] = volumes.clone();
    pod
}

#[test]
fn the_pods_volume_is_mounted_and_is_never_ours() {
    let claim = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]);
    let plain = json!([{"name": "data", "emptyDir": {}}]);
    for fallback in [json!([]), plain.clone()] {
        for own in [&claim, &plain] {
            let set = backup(&fallback);
            let pod = with_volumes(own);
            assert_eq!(reasons(&run(&set, &pod)), [("backup", Reason::Injected)], "{own} {fallback}");
            let after = injected(&set, &pod);
            assert_eq!(after["spec"]["volumes"], *own);
            let mount = json!([{"name": "data", "mountPath": "/source", "readOnly": true}]);
            assert_eq!(after["spec"]["containers"][0]["volumeMounts"], mount);
            assert!(run(&set, &after).patch.is_empty());
            let mut back = after.clone();
            json_patch::patch(&mut back, &uninject::uninject(&after)).unwrap();
            assert_eq!(back, pod);
        }
    }
}

#[test]
fn a_pod_without_the_volume_gets_the_sets_or_no_sidecars() {
    let fallback = json!([{"name": "data", "emptyDir": {}}]);
    let set = backup(&fallback);
    let after = injected(&set, &pod());
    assert_eq!(after["spec"]["volumes"], fallback);
    assert!(run(&set, &after).patch.is_empty());
    let injection = run(&backup(&json!([])), &pod());
    assert_eq!(reasons(&injection), [("backup", Reason::VolumeNotFound)]);
    assert!(injection.outcomes[0].message.contains("no volume \"data\""), "{:?}", injection.outcomes);
    assert_eq!((injection.patch.is_empty(), injection.refused), (true, None));
}

/// `ValidateVolumeDevices`
#[test]
fn a_device_must_be_a_claim_of_the_pod() {
    let agent = json!({"name": "agent", "image": "a", "volumeDevices": [{"name": "data", "devicePath": "/dev/data"}]});
    let sets = sets([compile("s", json!({"containers": [agent], "podVolumes": [{"name": "data"}]}))]);
    for (source, expected) in [
        (json!({"persistentVolumeClaim": {"claimName": "c"}}), Reason::Injected),
        (json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"volumeMode": "Block"}}}}), Reason::Injected),
        (json!({"emptyDir": {}}), Reason::PodConflict),
        (json!({"hostPath": {"path": "/dev/data"}}), Reason::PodConflict),
    ] {
        let mut volume = source.clone();
        volume["name"] = json!("data");
        assert_eq!(reasons(&run(&sets, &with_volumes(&json!([volume])))), [("s", expected)], "{source}");
    }
}

#[test]
fn what_another_set_brings_is_not_the_pods() {
    let other = compile(
        "a",
        json!({"volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{"name": "a", "image": "a", "volumeMounts": [{"name": "data", "mountPath": "/a"}]}]}),
    );
    let both = sets([other, Arc::clone(backup(&json!([])).get("backup").unwrap())]);
    let expected = [("a", Reason::Injected), ("backup", Reason::VolumeNotFound)];
    assert_eq!(reasons(&run(&both, &pod())), expected);
    let after = injected(&both, &pod());
    assert_eq!(reasons(&run(&both, &after)), [("a", Reason::AlreadyInjected), ("backup", Reason::VolumeNotFound)]);
}

#[test]
fn a_volume_that_only_a_variable_needs_reaches_the_pod_and_goes_again() {
    let file = json!({"volumeName": "settings", "path": "env", "key": "A"});
    let agent = json!({"name": "agent", "image": "a", "env": [{"name": "A", "valueFrom": {"fileKeyRef": file}}]});
    let volumes = json!([{"name": "settings", "emptyDir": {}}]);
    let set = sets([compile("s", json!({"containers": [agent], "volumes": volumes}))]);
    let after = injected(&set, &pod());
    assert_eq!(after["spec"]["volumes"], volumes);
    let mut back = after.clone();
    json_patch::patch(&mut back, &uninject::uninject(&after)).unwrap();
    assert_eq!(back, pod());
}
