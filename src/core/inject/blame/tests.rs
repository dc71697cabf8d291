//! Messages as a kube-apiserver 1.36.3 wrote them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::api::SidecarSet;
use crate::api::validate::validate;
use crate::core::inject::CompiledSet;
use crate::core::revision::History;

fn set(name: &str, spec: Value) -> Arc<CompiledSet> {
    let mut set = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": "web"}}}});
    json_patch::merge(&mut set["spec"], &spec);
    let set: SidecarSet = serde_json::from_value(set).unwrap();
    Arc::new(CompiledSet::new(&validate(&set).unwrap(), &History::new()))
}

fn mounts(volume: &str) -> Value {
    json!([{"name": volume, "mountPath": "/x"}])
}

/// Containers `agent` in front of `app`, `proxy` behind it, with volumes `host` and `socket`.
fn sets(agent: Value, proxy: Value) -> CompiledSets {
    let mut first = json!({"name": "agent", "image": "agent:v1", "volumeMounts": mounts("host")});
    let mut second = json!({"name": "proxy", "image": "evil.example.com/mesh/proxy:v2", "volumeMounts": mounts("socket"),
        "podInjectPolicy": "AfterAppContainer"});
    json_patch::merge(&mut first, &agent);
    json_patch::merge(&mut second, &proxy);
    CompiledSets::new([
        set("a", json!({"containers": [first], "volumes": [{"name": "host", "hostPath": {"path": "/h"}}]})),
        set(
            "p",
            json!({"containers": [second],
            "patchPodMetadata": [{"annotations": {"example.com/mesh": "on"}}], "volumes": [{"name": "socket", "emptyDir": {}}]}),
        ),
    ])
}

fn trial(sets: &CompiledSets, app: Value) -> Trial {
    let mut container = json!({"name": "app", "image": "app:v1", "volumeMounts": mounts("data")});
    json_patch::merge(&mut container, &app);
    let pod = json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [container], "volumes": [{"name": "data", "emptyDir": {}}]}});
    let labels = BTreeMap::new();
    try_pod(sets, &Request { pod: &pod, namespace: "default", namespace_labels: &labels, excluded: &[] })
}

fn of_sets(names: &[&str]) -> Blame {
    Blame::Sets(names.iter().map(|name| (*name).to_owned()).collect())
}

fn amounts(limits: Value) -> Value {
    json!({"resources": {"limits": limits}})
}

#[track_caller]
fn check(trial: &Trial, cases: &[(&str, Blame)]) {
    for (text, expected) in cases {
        let message = format!("Error creating: pods \"web-5d4f9-x2x9z\" is {text}");
        assert_eq!(trial.blame(&message), *expected, "{message}");
        let message = format!("Create Pod web-0 in StatefulSet web failed error: pods \"web-0\" is {text}");
        assert_eq!(trial.blame(&message), *expected, "{message}");
    }
}

#[test]
fn violations_of_pod_security_are_of_the_containers_and_volumes_that_they_name() {
    let trial = trial(&sets(json!({}), json!({})), json!({}));
    let security = |text: &str| format!("forbidden: violates PodSecurity \"restricted:latest\": {text}");
    let escalation = |who: &str| {
        format!("allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)")
    };
    let profile = |who: &str| {
        format!(
            "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        )
    };
    for (text, expected) in [
        (escalation("container \"agent\""), of_sets(&["a"])),
        (escalation("containers \"agent\", \"proxy\""), of_sets(&["a", "p"])),
        (format!("{}, {}", escalation("container \"agent\""), profile("container \"proxy\"")), of_sets(&["a", "p"])),
        (escalation("containers \"app\", \"agent\""), Blame::Nobody),
        (escalation("container \"app\""), Blame::Nobody),
        (format!("{}, {}", escalation("container \"agent\""), profile("container \"app\"")), Blame::Nobody),
        ("restricted volume types (volume \"host\" uses restricted volume type \"hostPath\")".into(), of_sets(&["a"])),
        ("restricted volume types (volumes \"data\", \"host\" use restricted volume types \"nfs\", \"hostPath\")".into(), Blame::Nobody),
        ("hostPath volumes (volume \"host\"), hostPort (container \"proxy\" uses hostPorts 80, 81)".into(), of_sets(&["a", "p"])),
        (
            "unrestricted capabilities (container \"agent\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"agent\" must not include \"NET_ADMIN\", \"SYS_TIME\" in securityContext.capabilities.add)".into(),
            of_sets(&["a"]),
        ),
        ("host namespaces (hostPID=true), hostPort (container \"agent\" uses hostPort 80)".into(), Blame::Nobody),
        ("runAsUser=0 (pod and container \"agent\" must not set runAsUser=0)".into(), Blame::Nobody),
        ("seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")".into(), Blame::Nobody),
        (escalation("container \"istio-proxy\""), Blame::Nobody),
    ] {
        check(&trial, &[(&security(&text), expected)]);
    }
}

#[test]
fn a_quota_that_wants_amounts_names_who_has_none() {
    let trial = trial(&sets(json!({}), json!({})), json!({}));
    check(
        &trial,
        &[
            (
                "forbidden: failed quota: cpu: must specify limits.cpu for: agent; requests.memory for: agent",
                of_sets(&["a"]),
            ),
            ("forbidden: failed quota: cpu: must specify limits.cpu for: agent,proxy", of_sets(&["a", "p"])),
            (
                "forbidden: failed quota: cpu: must specify limits.cpu for: agent,app; requests.memory for: agent",
                Blame::Nobody,
            ),
            (
                "forbidden: failed quota: cpu: must specify limits.cpu for: agent; requests.memory for: app",
                Blame::Nobody,
            ),
            ("forbidden: failed quota: cpu: must specify limits.cpu", Blame::Undecided),
        ],
    );
}

#[test]
fn an_exceeded_quota_is_the_sidecars_if_the_pod_would_fit_without_them() {
    let exceeded = |requested: &str, used: &str, limited: &str| {
        format!("forbidden: exceeded quota: cpu, requested: {requested}, used: {used}, limited: {limited}")
    };
    let sets = sets(amounts(json!({"cpu": "300m", "memory": "10Mi"})), amounts(json!({"cpu": "200m"})));
    let trial = trial(&sets, amounts(json!({"cpu": "1", "memory": "100Mi"})));
    for (requested, used, limited, expected) in [
        ("limits.cpu=1500m", "limits.cpu=0", "limits.cpu=1300m", of_sets(&["p"])),
        ("limits.cpu=1500m", "limits.cpu=0", "limits.cpu=1", of_sets(&["a", "p"])),
        ("limits.cpu=1500m", "limits.cpu=1", "limits.cpu=2", of_sets(&["a", "p"])),
        ("limits.cpu=1500m", "limits.cpu=1", "limits.cpu=1999m", Blame::Nobody),
        (
            "limits.cpu=1500m,requests.memory=110Mi",
            "limits.cpu=1,requests.memory=0",
            "limits.cpu=2,requests.memory=100Mi",
            of_sets(&["a", "p"]),
        ),
        (
            "limits.cpu=1500m,requests.memory=110Mi",
            "limits.cpu=1,requests.memory=1",
            "limits.cpu=2,requests.memory=100Mi",
            Blame::Nobody,
        ),
        ("limits.cpu=1500m,pods=1", "limits.cpu=1,pods=3", "limits.cpu=2,pods=3", Blame::Nobody),
        ("cpu=1500m", "cpu=0", "cpu=1", of_sets(&["a", "p"])),
        // Each container that says nothing has the default of a LimitRange: 50Mi here.
        ("requests.memory=160Mi", "requests.memory=0", "requests.memory=110Mi", of_sets(&["p"])),
    ] {
        check(&trial, &[(&exceeded(requested, used, limited), expected)]);
    }
    let pod_level = try_pod(
        &sets,
        &Request {
            pod: &json!({"metadata": {"labels": {"app": "web"}}, "spec": {"resources": {"limits": {"cpu": "2"}}, "containers": [{"name": "app"}]}}),
            namespace: "default",
            namespace_labels: &BTreeMap::new(),
            excluded: &[],
        },
    );
    check(&pod_level, &[(&exceeded("limits.cpu=2", "limits.cpu=0", "limits.cpu=1"), Blame::Nobody)]);
}

#[test]
fn a_limit_range_is_broken_by_who_has_the_amount() {
    let sets =
        sets(amounts(json!({"cpu": "600m", "memory": "1Mi"})), json!({"resources": {"requests": {"memory": "20Mi"}}}));
    let trial = trial(&sets, amounts(json!({"cpu": "300m", "memory": "100Mi"})));
    check(
        &trial,
        &[
            (
                "forbidden: [maximum cpu usage per Container is 500m, but limit is 600m, maximum cpu usage per Pod is 800m, but limit is 900m]",
                of_sets(&["a", "p"]),
            ),
            ("forbidden: maximum cpu usage per Container is 500m, but limit is 600m", of_sets(&["a"])),
            ("forbidden: maximum cpu usage per Container is 200m, but limit is 300m", Blame::Nobody),
            ("forbidden: maximum cpu usage per Container is 500m, but no limit is specified", of_sets(&["p"])),
            ("forbidden: maximum cpu usage per Container is 500m, but limit is 700m", Blame::Undecided),
            ("forbidden: maximum cpu usage per Pod is 200m, but limit is 900m", Blame::Nobody),
            ("forbidden: minimum memory usage per Container is 10Mi, but request is 1Mi", of_sets(&["a"])),
            ("forbidden: minimum memory usage per Pod is 1Gi, but request is 121Mi", Blame::Nobody),
            (
                "forbidden: memory max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
                of_sets(&["p"]),
            ),
            // A default of a LimitRange gives the sidecar a limit; the application has neither, and both by default.
            (
                "forbidden: memory max limit to request ratio per Container is 2, but provided ratio is 5.000000",
                of_sets(&["p"]),
            ),
            (
                "forbidden: ephemeral-storage max limit to request ratio per Container is 2, but provided ratio is 5.000000",
                Blame::Undecided,
            ),
        ],
    );
}

#[test]
fn what_other_webhooks_say_is_about_what_they_name() {
    let trial = trial(&sets(json!({}), json!({})), json!({}));
    let denied =
        |text: &str| format!("Error creating: admission webhook \"policies.example.com\" denied the request: {text}");
    for (text, expected) in [
        ("[no-latest] container agent uses an image without digest", of_sets(&["a"])),
        ("Privileged container is not allowed: agent, securityContext: {}", of_sets(&["a"])),
        ("image \"agent:v1\" is not allowed", of_sets(&["a"])),
        ("image docker.io/library/agent:v1 is not allowed.", of_sets(&["a"])),
        ("images from evil.example.com are not allowed", of_sets(&["p"])),
        ("evil.example.com/mesh/proxy is blocked", of_sets(&["p"])),
        ("rule tag failed at path /spec/containers/0/image/", of_sets(&["a"])),
        ("spec.containers[2].image: no digest", of_sets(&["p"])),
        ("rule tag failed at path /spec/containers/1/image/", Blame::Nobody),
        ("volume host is a hostPath", of_sets(&["a"])),
        ("annotation example.com/mesh is reserved", of_sets(&["p"])),
        ("containers agent, app have no limits", Blame::Nobody),
        ("container app has no limits", Blame::Nobody),
        ("the label team is missing", Blame::Undecided),
        ("agent-policies: no more pods", Blame::Undecided),
        ("image agent:v1.2 is not allowed", Blame::Undecided),
    ] {
        assert_eq!(trial.blame(&denied(text)), expected, "{text}");
    }
    check(
        &trial,
        &[
            (
                "invalid: : ValidatingAdmissionPolicy 'images' with binding 'images' denied request: image agent:v1 is not allowed",
                of_sets(&["a"]),
            ),
            ("forbidden: ValidatingAdmissionPolicy 'images' with binding 'agent' denied request: no", Blame::Undecided),
            ("forbidden: image policy webhook backend denied one or more images: agent:v1", of_sets(&["a"])),
            (
                "forbidden: error looking up service account default/nope: serviceaccount \"nope\" not found",
                Blame::Undecided,
            ),
        ],
    );
}

#[test]
fn an_invalid_pod_is_of_the_set_whose_container_is_named() {
    let trial = trial(&sets(json!({}), json!({})), json!({}));
    for (text, expected) in [
        ("spec.containers[0].ports[1].containerPort: Required value", of_sets(&["a"])),
        (
            "[spec.containers[0].ports[0].hostPort: Duplicate value: \"TCP//80\", spec.containers[2].tty: Invalid]",
            of_sets(&["a", "p"]),
        ),
        ("spec.containers[1].ports[0].hostPort: Duplicate value: \"TCP//80\"", Blame::Undecided),
        ("metadata.annotations: Too long", Blame::Undecided),
    ] {
        assert_eq!(trial.blame(&format!("Error creating: Pod \"web-x\" is invalid: {text}")), expected, "{text}");
    }
}

#[test]
fn a_set_that_refuses_the_pod_is_named_whatever_the_message_says() {
    let sets = CompiledSets::new([set(
        "f",
        json!({"containers": [{"name": "app", "image": "i"}],
        "injectionStrategy": {"failurePolicy": "Fail"}}),
    )]);
    assert_eq!(trial(&sets, json!({})).blame("Error creating: …"), of_sets(&["f"]));
}

#[test]
fn nobody_is_to_blame_for_what_our_webhook_said_of_sets_as_they_were() {
    let trial = trial(&sets(json!({}), json!({})), json!({}));
    for message in [
        "Error creating: admission webhook \"a.fail.pods.sidecarset.dev\" denied the request: SidecarSet \"a\" cannot inject its sidecars: container name \"agent\" is taken",
        "Error creating: Internal error occurred: failed calling webhook \"agent.example.com\": context deadline exceeded",
    ] {
        assert_eq!(trial.blame(message), Blame::Nobody, "{message}");
    }
    assert_eq!(super::Trial { added: BTreeMap::new(), ..trial }.blame("container \"agent\""), Blame::Nobody);
}
