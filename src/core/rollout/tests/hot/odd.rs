//! Pods that somebody has changed.

use crate::core::rollout::tests::hot::*;

#[test]
fn what_is_missing_is_a_reason() {
    type Edit = fn(&mut Value);
    let gone = |pod: &mut Value| named(&mut pod["spec"]["containers"], "mesh-2")["name"] = json!("other");
    let unknown = |pod: &mut Value| {
        named(&mut pod["spec"]["containers"], "mesh-2")["image"] = json!("by-hand");
        pod["metadata"]["annotations"] = json!({});
    };
    let equal = |pod: &mut Value| {
        named(&mut pod["spec"]["containers"], "mesh-2")["image"] = json!("by-hand");
        pod["metadata"]["annotations"]["version.sidecarset.dev/mesh-2"] = json!("1");
    };
    let cases: [(Edit, &str); 3] =
        [(gone, "no container mesh-2"), (unknown, "version.sidecarset.dev/mesh-1"), (equal, "have version 1")];
    for (edit, expected) in cases {
        let mut world = World::new();
        world.pod.edit(edit);
        world.observe();
        let PodState::NotInPlace(obstacle) = world.state(NEW) else { panic!("{expected}") };
        assert!(obstacle.text.contains(expected), "{}", obstacle.text);
    }
}

#[test]
fn a_hand_over_without_its_record_is_a_reason_and_a_new_image_mends_it() {
    let mut world = World::new();
    world.send(NEW);
    world.pod.edit(|pod| {
        pod["metadata"]["annotations"].as_object_mut().unwrap().remove("update.sidecarset.dev/logs");
    });
    world.kubelets();
    let PodState::NotInPlace(obstacle) = world.state(NEW) else { panic!("it cannot be judged") };
    assert!(obstacle.text.contains("no annotation update.sidecarset.dev/logs"), "{}", obstacle.text);
    assert_eq!(world.send(["v3", "v1", "v1"]), pair("mesh-2", "v3"));
}

#[test]
fn without_version_annotations_the_idle_image_tells_the_twins_apart() {
    let mut world = World::new();
    world.pod.edit(|pod| pod["metadata"]["annotations"] = Value::Null);
    world.observe();
    assert_eq!(world.send(NEW), pair("mesh-2", "v2"));
    world.kubelets();
    assert_eq!(world.send(NEW), pair("mesh-1", IDLE));
}

/// What a policy makes of the images of twins: another text, in the same request.
fn admit(world: &mut World, policy: fn(&str) -> String) {
    for (list, _) in TWINS.map(lists) {
        for container in world.pod.0["spec"][list].as_array_mut().unwrap() {
            let image = container["image"].as_str().unwrap();
            if !image.contains('/') && container["name"] != "app" {
                container["image"] = json!(policy(image));
            }
        }
    }
    world.observe();
}

fn mirrored(image: &str) -> String {
    format!("mirror/{image}")
}

fn resolved(image: &str) -> String {
    format!("any/thing@sha256:{image}")
}

#[test]
fn images_that_admission_rewrites_are_not_fought_over_and_are_in_place() {
    for policy in [mirrored, resolved] {
        let mut world = World::new();
        // Nothing but a request changes a pod, and all of its containers with it.
        world.pod.edit(|pod| pod["metadata"]["generation"] = json!(1));
        admit(&mut world, policy);
        world.kubelets();
        assert_eq!(world.state(OLD), PodState::Available);
        assert_eq!(world.send(NEW), pair("mesh-2", "v2"));
        admit(&mut world, policy);
        assert_eq!(world.state(NEW), PodState::Updating);
        world.kubelets();
        assert_eq!(world.state(NEW), PodState::ResetDue);
        assert_eq!(world.send(NEW), pair("mesh-1", IDLE));
        admit(&mut world, policy);
        world.kubelets();
        assert_eq!(world.state(NEW), PodState::Available);
        assert_eq!(world.send(NEW), []);
        assert_eq!(world.images("mesh"), [policy(IDLE), policy("v2")]);
        // And the other way.
        for _ in 0..3 {
            world.send(OLD);
            admit(&mut world, policy);
            world.kubelets();
        }
        assert_eq!((world.images("mesh"), world.state(OLD)), ([policy("v1"), policy(IDLE)], PodState::Available));
    }
}

#[test]
fn another_change_of_the_pod_makes_no_twins_of_a_mirror_others() {
    let mut world = World::new();
    admit(&mut world, mirrored);
    world.send(NEW);
    admit(&mut world, mirrored);
    world.kubelets();
    world.pod.edit(|pod| named(&mut pod["spec"]["containers"], "app")["image"] = json!("app:2"));
    world.kubelets();
    assert_eq!(world.send(NEW), pair("mesh-1", IDLE));
    admit(&mut world, mirrored);
    world.pod.edit(|pod| named(&mut pod["spec"]["containers"], "app")["image"] = json!("app:3"));
    world.kubelets();
    assert_eq!((world.send(NEW), world.state(NEW)), (vec![], PodState::Available));
}

#[test]
fn a_twin_whose_image_admission_sets_back_has_failed_at_once() {
    let mut world = World::new();
    let before = world.pod.0.clone();
    assert_eq!(world.send(NEW), pair("mesh-2", "v2"));
    // No change of the spec is none of the generation.
    world.pod.0["spec"] = before["spec"].clone();
    world.pod.0["metadata"]["generation"] = before["metadata"]["generation"].clone();
    world.observe();
    let failed = PodState::Failed(format!("mesh-2: admission set the image back to {IDLE}"));
    assert_eq!(world.state(NEW), failed);
    assert_eq!(world.send(NEW), [], "it is not asked for again and again");
    assert_eq!(world.send(OLD), [], "its image serves");
}
