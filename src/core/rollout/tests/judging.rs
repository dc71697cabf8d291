//! How far one update has come.

use serde_json::{Value, json};

use crate::api::validate::validate;
use crate::core::pod::PodView;
use crate::core::revision::Template;
use crate::core::rollout::assess::attempt::{Attempt, Progress};
use crate::core::rollout::target::rollout::PersistedProgress;
use crate::core::rollout::target::{Direction, Target};
use crate::core::rollout::testing;
use crate::core::rollout::testing::{SET, TestPod, at, planned, target};
use crate::core::rollout::tests::Fleet;

/// Judges a pod whose sidecar was updated at time 0 and changed by `edit` since.
pub(super) fn judge(now: i64, edit: impl FnOnce(&mut Value)) -> Progress {
    let mut fleet = Fleet::of(1);
    let plan = fleet.plan("v2", &json!({}));
    fleet.send(&plan);
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| pod["status"]["observedGeneration"] = json!(2));
    pod.edit(edit);
    judged(&pod.view(), &target("v2", json!({})), now)
}

fn judged(pod: &PodView, target: &Target, now: i64) -> Progress {
    let update = pod.marks.get(SET).unwrap().update.as_ref().unwrap();
    Attempt { pod, update, target, now: at(now) }.progress()
}

pub(super) fn agent(pod: &mut Value) -> &mut Value {
    &mut pod["status"]["containerStatuses"][0]
}

pub(super) fn replaced(pod: &mut Value, started: i64) {
    agent(pod)["containerID"] = json!("c://new");
    agent(pod)["restartCount"] = json!(1);
    agent(pod)["state"] = json!({"running": {"startedAt": at(started).to_string()}});
}

#[test]
fn the_old_container_being_ready_proves_nothing() {
    assert_eq!(judge(100, |_| {}), Progress::Undecided(Some(at(600))));
    assert!(matches!(judge(600, |_| {}), Progress::Failed(_)));
}

#[test]
fn a_new_container_is_done_after_the_hold() {
    assert_eq!(judge(4, |pod| replaced(pod, 1)), Progress::Undecided(Some(at(6))));
    assert_eq!(judge(6, |pod| replaced(pod, 1)), Progress::Done);
}

#[test]
fn a_container_may_be_the_one_before_if_that_had_not_started_by_the_plan() {
    let strategy = json!({"minReadySeconds": 0});
    let mut fleet = Fleet::of(1);
    fleet.named("web-0").edit(|pod| {
        pod["status"]["conditions"][0]["status"] = json!("False");
        agent(pod).as_object_mut().unwrap().remove("containerID");
        down(json!({"waiting": {"reason": "ContainerCreating"}}))(pod);
    });
    fleet.observe();
    let plan = fleet.plan("v2", &strategy);
    fleet.send(&plan);
    let pod = fleet.named("web-0");
    pod.edit(|pod| {
        pod["status"]["observedGeneration"] = json!(2);
        replaced(pod, 0);
        agent(pod)["ready"] = json!(true);
    });
    let view = pod.view();
    let target = target("v2", strategy);
    assert_eq!(judged(&view, &target, 2), Progress::Undecided(Some(at(3))), "it may be about to be killed");
    assert_eq!(judged(&view, &target, 3), Progress::Done);
}

#[test]
fn a_startup_probe_makes_the_hold_longer() {
    let probed = |pod: &mut Value| {
        replaced(pod, 1);
        pod["spec"]["containers"][0]["startupProbe"] = json!({"periodSeconds": 20});
    };
    assert_eq!(judge(22, probed), Progress::Undecided(Some(at(23))));
    assert_eq!(judge(23, probed), Progress::Done);
}

#[test]
fn nothing_is_done_that_the_kubelet_has_not_seen() {
    let unseen = |pod: &mut Value| {
        replaced(pod, 1);
        pod["status"]["observedGeneration"] = json!(1);
    };
    assert_eq!(judge(10, unseen), Progress::Undecided(Some(at(600))));
}

#[test]
fn evidence_of_failure_counts_once_the_status_is_fresh() {
    let waiting = |reason: &'static str| {
        move |pod: &mut Value| {
            agent(pod)["ready"] = json!(false);
            agent(pod)["state"] = json!({"waiting": {"reason": reason}});
        }
    };
    assert_eq!(judge(2, waiting("ErrImagePull")), Progress::Undecided(Some(at(3))));
    assert_eq!(judge(3, waiting("ErrImagePull")), Progress::Failed("agent: ErrImagePull".into()));
    assert_eq!(judge(3, waiting("ContainerCreating")), Progress::Undecided(Some(at(600))));
    let reason = "agent: CrashLoopBackOff before its first start";
    assert_eq!(judge(3, waiting("CrashLoopBackOff")), Progress::Failed(reason.into()));
    let crashed = |pod: &mut Value| {
        replaced(pod, 1);
        waiting("CrashLoopBackOff")(pod);
    };
    assert_eq!(judge(3, crashed), Progress::Failed("agent: CrashLoopBackOff".into()));
}

/// The old container has ended, and there is no new one.
pub(super) fn down(state: Value) -> impl FnOnce(&mut Value) {
    move |pod: &mut Value| {
        agent(pod)["ready"] = json!(false);
        agent(pod)["state"] = state;
    }
}

fn pull_of(image: &str) -> Value {
    json!({"waiting": {"reason": "ImagePullBackOff", "message": format!("Back-off pulling image \"{image}\": not found")}})
}

#[test]
fn a_pull_that_failed_for_another_image_is_no_evidence() {
    assert_eq!(judge(3, down(pull_of("v2"))), Progress::Failed("agent: ImagePullBackOff".into()));
    assert_eq!(judge(3, down(pull_of("docker.io/library/v2"))), Progress::Failed("agent: ImagePullBackOff".into()));
    assert_eq!(judge(599, down(pull_of("v20"))), Progress::Undecided(Some(at(600))), "the pull of v2 may be under way");
}

#[test]
fn a_container_that_is_not_started_has_failed_unless_the_kubelet_may_make_its_image_wait() {
    let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    let in_back_off =
        json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting failed container"}});
    let states = [
        (ended, "stopped, and no new container was started", 60),
        (in_back_off, "CrashLoopBackOff before its first start", 3),
    ];
    for (state, text, patience) in states {
        let failed = || Progress::Failed(format!("agent: {text}"));
        assert_eq!(judge(patience - 1, down(state.clone())), Progress::Undecided(Some(at(patience))));
        assert_eq!(judge(patience, down(state.clone())), failed());
        let again = |now| judge_since(json!({"running": {"startedAt": at(-9).to_string()}}), 3, now, state.clone());
        assert_eq!(
            again(59),
            Progress::Undecided(Some(at(60))),
            "it may be the third time that the pod gets this image"
        );
        assert_eq!(again(60), failed());
        let running = json!({"running": {"startedAt": at(-9).to_string()}});
        let given_up = judge_in(Direction::Halted, running, 3, 4, state);
        assert_eq!(given_up, failed(), "what was ErrImagePull a second ago has failed still");
    }
}

/// Judges a pod whose sidecar was in one state before its update, after so many restarts, and now is in another.
fn judge_since(before: Value, restarts: i32, now: i64, state: Value) -> Progress {
    judge_in(Direction::Forward, before, restarts, now, state)
}

fn judge_in(direction: Direction, before: Value, restarts: i32, now: i64, state: Value) -> Progress {
    let mut fleet = Fleet::of(1);
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| {
        agent(pod)["state"] = before;
        agent(pod)["restartCount"] = json!(restarts);
    });
    fleet.observe();
    let plan = fleet.plan("v2", &json!({}));
    assert_eq!(fleet.send(&plan).len(), 1);
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| pod["status"]["observedGeneration"] = json!(2));
    pod.edit(down(state));
    judged(&pod.view(), &Target { direction, ..target("v2", json!({})) }, now)
}

#[test]
fn what_was_down_before_its_update_may_stay_so_while_the_image_is_pulled() {
    let unchanged = |now: i64, state: Value| judge_since(state.clone(), 0, now, state);
    let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    assert_eq!(unchanged(599, ended), Progress::Undecided(Some(at(600))));
    assert_eq!(unchanged(599, pull_of("v1")), Progress::Undecided(Some(at(600))));
    assert_eq!(unchanged(599, json!({"waiting": {"reason": "CrashLoopBackOff"}})), Progress::Undecided(Some(at(600))));
    let not_created = || json!({"waiting": {"reason": "RunContainerError", "message": "no such file"}});
    assert_eq!(unchanged(59, not_created()), Progress::Undecided(Some(at(60))));
    assert_eq!(unchanged(60, not_created()), Progress::Failed("agent: RunContainerError".into()));
}

#[test]
fn restarts_with_an_error_are_a_failure() {
    let restarted = |pod: &mut Value| {
        replaced(pod, 9);
        agent(pod)["restartCount"] = json!(2);
        agent(pod)["ready"] = json!(false);
        agent(pod)["lastState"] = json!({"terminated": {"exitCode": 7}});
    };
    assert_eq!(judge(10, restarted), Progress::Failed("agent: restarted 2 times, last exit code 7".into()));
}

#[test]
fn a_start_that_the_end_of_the_kubelet_broke_off_is_no_crash() {
    let broken_off = |pod: &mut Value| {
        replaced(pod, 9);
        agent(pod)["restartCount"] = json!(2);
        agent(pod)["ready"] = json!(false);
        let end = json!({"exitCode": 128, "reason": "StartError", "startedAt": "1970-01-01T00:00:00Z"});
        agent(pod)["lastState"] = json!({ "terminated": end });
    };
    assert_eq!(judge(10, broken_off), Progress::Undecided(Some(at(600))));
}

#[test]
fn a_restart_a_week_later_is_no_failure() {
    let week = 7 * 24 * 3600;
    let restarted = |pod: &mut Value| {
        replaced(pod, week);
        agent(pod)["ready"] = json!(false);
        agent(pod)["restartCount"] = json!(5);
        agent(pod)["lastState"] = json!({"terminated": {"exitCode": 1}});
    };
    assert_eq!(judge(week + 1, restarted), Progress::Done);
}

#[test]
fn a_container_that_first_starts_when_the_time_is_over_is_not_done_before_it_is_ready() {
    let late = |ready: bool| {
        move |pod: &mut Value| {
            replaced(pod, 700);
            agent(pod)["ready"] = json!(ready);
            pod["status"]["conditions"][0]["lastTransitionTime"] = json!(at(if ready { 701 } else { 1 }).to_string());
        }
    };
    assert!(matches!(judge(702, late(false)), Progress::Failed(_)));
    assert_eq!(judge(705, late(true)), Progress::Done);
    assert_eq!(judge(1300, late(false)), Progress::Done, "its time is over, too");
}

#[test]
fn a_crash_loop_is_not_done_because_its_time_is_over() {
    let up = |pod: &mut Value| {
        replaced(pod, 700);
        agent(pod)["restartCount"] = json!(9);
        agent(pod)["lastState"] = json!({"terminated": {"exitCode": 1}});
        pod["status"]["conditions"][0]["lastTransitionTime"] = json!(at(700).to_string());
    };
    assert_eq!(judge(701, up), Progress::Undecided(Some(at(705))));
    assert_eq!(judge(705, up), Progress::Done, "if it holds out");
    let down = |pod: &mut Value| {
        up(pod);
        agent(pod)["ready"] = json!(false);
        agent(pod)["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    };
    assert_eq!(judge(702, down), Progress::Failed("agent: CrashLoopBackOff".into()));
    // All that a kubelet shows of a container without probes between two starts.
    let ended = |pod: &mut Value| {
        up(pod);
        agent(pod)["ready"] = json!(false);
        agent(pod)["state"] = json!({"terminated": {"exitCode": 7}});
    };
    assert_eq!(judge(702, ended), Progress::Failed("agent: restarted 9 times, last exit code 7".into()));
}

#[test]
fn a_pod_that_was_unready_for_a_moment_a_week_later_is_still_done() {
    let week = 7 * 24 * 3600;
    let flapped = |pod: &mut Value| {
        replaced(pod, 1);
        pod["status"]["conditions"][0]["lastTransitionTime"] = json!(at(week).to_string());
    };
    assert_eq!(judge(week + 1, flapped), Progress::Done);
}

/// The application ended with this code at this time, and runs again.
pub(super) fn app_crashed(pod: &mut Value, code: i32, ended: i64) {
    let app = &mut pod["status"]["containerStatuses"][1];
    app["restartCount"] = json!(1);
    app["lastState"] = json!({"terminated": {"exitCode": code, "finishedAt": at(ended).to_string()}});
}

#[test]
fn an_application_that_crashes_within_the_hold_time_is_a_failure() {
    let crashed = |code: i32, ended: i64| {
        move |pod: &mut Value| {
            replaced(pod, 1);
            app_crashed(pod, code, ended);
        }
    };
    let failed = Progress::Failed("app: crashed with exit code 137 after the sidecar's update".into());
    assert_eq!(judge(4, crashed(137, 3)), failed);
    assert_eq!(judge(9, crashed(137, 6)), failed);
    assert_eq!(judge(9, crashed(137, 7)), Progress::Done, "the hold time was over");
    assert_eq!(judge(9, crashed(0, 3)), Progress::Done, "it ended by itself");
    let before = |pod: &mut Value| {
        app_crashed(pod, 137, 20);
        pod["status"]["conditions"][0]["status"] = json!("False");
    };
    assert_eq!(judge(30, before), failed, "while the sidecar is not ready yet");
    assert_eq!(
        judge(9, crashed(143, 3)),
        Progress::Done,
        "asked to end, perhaps for an image that somebody else has set"
    );
}

#[test]
fn an_application_that_crashed_before_is_not_held_against_an_update() {
    let mut fleet = Fleet::of(1);
    fleet.pods.values_mut().next().unwrap().edit(|pod| app_crashed(pod, 1, -5));
    fleet.observe();
    let plan = fleet.plan("v2", &json!({}));
    let sent = fleet.send(&plan);
    fleet.kubelets(&sent);
    fleet.now = 6;
    assert_eq!(fleet.plan("v2", &json!({})).summary.counts.updated_ready, 1);
}

#[test]
fn a_crash_is_not_held_against_the_update_that_repairs_the_pod() {
    let mut fleet = Fleet::of(1);
    let plan = fleet.plan("v2", &json!({}));
    let sent = fleet.send(&plan);
    fleet.kubelets(&sent);
    fleet.pods.values_mut().next().unwrap().edit(|pod| app_crashed(pod, 1, 3));
    fleet.observe();
    assert_eq!(fleet.reason("v2", &json!({})), "FailureBudgetExceeded");
    let plan = fleet.plan("v3", &json!({}));
    let sent = fleet.send(&plan);
    fleet.now = 4;
    fleet.kubelets(&sent);
    // The application comes up again only now.
    fleet
        .pods
        .values_mut()
        .next()
        .unwrap()
        .edit(|pod| pod["status"]["containerStatuses"][1]["restartCount"] = json!(2));
    fleet.observe();
    fleet.now = 10;
    assert_eq!(fleet.reason("v3", &json!({})), "UpToDate");
}

#[test]
fn a_container_in_its_hold_time_is_still_judged_when_another_one_changes() {
    let two = |agent: &str, other: &str| {
        let mut set = testing::set(agent, json!({"minReadySeconds": 60}));
        set.spec.containers.push(serde_json::from_value(json!({"name": "other", "image": other})).unwrap());
        set
    };
    let templates = [("v1", "a"), ("v2", "a"), ("v2", "b")].map(|(agent, other)| Template::of(&two(agent, other).spec));
    let hashes = templates.each_ref().map(|template| template.hash(0));
    let to = |i: usize| {
        let known = hashes.iter().zip(&templates);
        Target::new(&validate(&two("v2", "b")).unwrap(), (&hashes[i], &templates[i]), known, None)
    };
    let pod = TestPod::new("web").with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hashes[0]);
        pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "other", "image": "a"}));
    });
    let mut fleet = Fleet::new([pod]);
    for (i, seconds) in [(1, 0), (2, 30)] {
        fleet.now = seconds;
        fleet.index.configure(to(i), at(seconds));
        let plan = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(seconds), 1);
        let sent = fleet.send(&plan);
        assert_eq!(sent.len(), 1);
        if i == 1 {
            fleet.kubelets(&sent);
        }
    }
    let update = fleet.pods.values().next().unwrap().view().marks.get(SET).unwrap().update.clone().unwrap();
    assert_eq!(update.containers.keys().map(|name| &**name).collect::<Vec<_>>(), ["agent", "other"]);
}

#[test]
fn what_another_set_replaces_is_judged_there() {
    let other = |pod: &mut Value| {
        replaced(pod, 1);
        app_crashed(pod, 143, 3);
        let update = json!({"revision": "r", "at": at(0).to_string(), "wasReady": true,
            "containers": {"app": {"id": "c://app-0", "restartCount": 0, "image": "app"}}});
        pod["metadata"]["labels"]["revision.sidecarset.dev/mesh"] = json!("r");
        pod["metadata"]["annotations"]["update.sidecarset.dev/mesh"] = json!(update.to_string());
    };
    assert_eq!(judge(9, other), Progress::Done);
}
