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
        let State::NotInPlace(obstacle) = world.state(NEW) else { panic!("{expected}") };
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
    let State::NotInPlace(obstacle) = world.state(NEW) else { panic!("it cannot be judged") };
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

#[test]
fn images_that_admission_rewrites_are_not_fought_over() {
    let mut world = World::new();
    let rewrite = |world: &mut World| {
        world.pod.edit(|pod| {
            for (list, _) in TWINS.map(lists) {
                for container in pod["spec"][list].as_array_mut().unwrap() {
                    let image = container["image"].as_str().unwrap();
                    if !image.starts_with("mirror/") && container["name"] != "app" {
                        container["image"] = json!(format!("mirror/{image}"));
                    }
                }
            }
        });
        world.observe();
    };
    rewrite(&mut world);
    let mut sent = 0;
    for _ in 0..50 {
        sent += usize::from(world.send(NEW).iter().any(|(name, _)| name.starts_with("mesh")));
        rewrite(&mut world);
        world.kubelets();
        world.now += 60;
    }
    assert!(sent <= 2, "{sent} requests");
}
