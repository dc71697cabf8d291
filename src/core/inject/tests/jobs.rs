//! Pods of Jobs, which complete when their ordinary containers have ended.

use super::*;

fn of_job() -> Value {
    let mut pod = pod();
    pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "controller": true}]);
    pod["spec"]["initContainers"] = json!([{"name": "prepare", "image": "p"}]);
    pod
}

fn set(job_pods: &Value) -> CompiledSets {
    let containers = json!([
        {"name": "agent", "image": "a", "podInjectPolicy": "BeforeAppContainer"},
        {"name": "late", "image": "l", "podInjectPolicy": "AfterAppContainer", "dependsOn": ["agent"]}]);
    let mut spec = json!({"containers": containers, "initContainers": [{"name": "first", "image": "f"}]});
    if !job_pods.is_null() {
        spec["jobPods"] = job_pods.clone();
    }
    sets([compile("s", spec)])
}

#[test]
fn the_owner_of_a_job_is_told_of_a_sidecar_that_runs_on() {
    for (pod, expected) in [(of_job(), 1), (pod(), 0)] {
        let injection = run(&set(&Value::Null), &pod);
        let [outcome] = &injection.outcomes[..] else { panic!("{injection:?}") };
        assert_eq!((outcome.reason, outcome.notes.len()), (Reason::Injected, expected), "{outcome:?}");
        assert!(outcome.notes.iter().all(|note| note.starts_with(
            "the sidecars agent, late run on after the Job's containers have ended: the Job does not complete;"
        )));
    }
}

#[test]
fn native_makes_native_sidecars_in_pods_of_jobs_only() {
    let native = set(&json!("Native"));
    let job = injected(&native, &of_job());
    assert_eq!(names(&job, "containers"), ["app"]);
    assert_eq!(names(&job, "initContainers"), ["prepare", "first", "agent", "late"]);
    assert!(job["spec"]["initContainers"].as_array().unwrap()[2..].iter().all(|c| c["restartPolicy"] == "Always"));
    let again = run(&native, &job);
    assert_eq!((again.patch.is_empty(), again.outcomes[0].notes.len()), (true, 0));
    let mut back = job.clone();
    json_patch::patch(&mut back, &uninject::uninject(&job)).unwrap();
    assert_eq!(back, of_job());

    let usual = |sets: &CompiledSets| injected(sets, &pod())["spec"].clone();
    assert_eq!(usual(&native), usual(&set(&Value::Null)));
    let revision = |sets: &CompiledSets| sets.get("s").unwrap().revision().to_owned();
    assert_ne!(revision(&native), revision(&set(&Value::Null)));
    assert_eq!(revision(&set(&json!("Warn"))), revision(&set(&Value::Null)));
}
