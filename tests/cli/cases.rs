//! Inputs that went wrong once, each as users of other injectors reported it, and what is right.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{File, Output, run};

const SELECTED: &str = "metadata: {labels: {app: web}}";

/// A set for these pods with an agent that has these fields, and more of its spec.
fn set(agent: &str, spec: &str) -> File {
    static MADE: AtomicU32 = AtomicU32::new(0);
    File::new(
        &format!("case-{}.yaml", MADE.fetch_add(1, Ordering::Relaxed)),
        &format!(
            "apiVersion: sidecarset.dev/v1beta1\nkind: SidecarSet\nmetadata: {{name: agent}}\nspec:\n  \
             selector: {{matchLabels: {{app: web}}}}\n  containers: [{{name: agent, image: 'agent:v1', {agent}}}]\n  {spec}\n"
        ),
    )
}

fn inject(set: &File, manifest: &str) -> Output {
    run(&["inject", "-f", "-", "-s", set.path()], manifest)
}

/// What is said about the manifest, and what uninject makes of the result: the manifest, whatever was injected.
fn said(set: &File, manifest: &str) -> String {
    let output = inject(set, manifest);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let back = run(&["uninject", "-f", "-"], &output.stdout);
    assert_eq!(back.stdout, run(&["uninject", "-f", "-"], manifest).stdout);
    let line = output.stderr.lines().nth(1).unwrap_or_default();
    line.split_once(": agent ").map_or(line, |(_, said)| said).to_owned()
}

fn pod(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\n{SELECTED}\nspec: {spec}\n")
}

/// openkruise/kruise#1381: the pods would run on an emptyDir instead of their claims.
#[test]
fn a_claim_template_is_a_volume_of_its_pods() {
    let mounts = "volumeMounts: [{name: data, mountPath: /source, readOnly: true}]";
    let manifest = format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec:\n  serviceName: db\n  template:\n    {SELECTED}\n    \
         spec: {{containers: [{{name: db, image: 'db:v1', volumeMounts: [{{name: data, mountPath: /var/lib/db}}]}}]}}\n  \
         volumeClaimTemplates: [{{metadata: {{name: data}}, spec: {{accessModes: [ReadWriteOnce]}}}}]\n"
    );
    let with_empty_dir = set(mounts, "volumes: [{name: data, emptyDir: {}}]");
    let conflict = said(&with_empty_dir, &manifest);
    assert!(conflict.starts_with("VolumeConflict: ") && conflict.contains("podVolumes"), "{conflict}");
    let refused = inject(&set(mounts, ""), &manifest);
    assert!(refused.stderr.contains("or its name to spec.podVolumes if the pods declare it"), "{}", refused.stderr);
    for volumes in ["podVolumes: [{name: data}]", "podVolumes: [{name: data}]\n  volumes: [{name: data, emptyDir: {}}]"]
    {
        let set = set(mounts, volumes);
        assert_eq!(said(&set, &manifest), "Injected");
        let made = inject(&set, &manifest).stdout;
        assert!(made.contains("mountPath: /source\n"), "{made}");
        assert!(!made.contains("emptyDir") && !made.contains("persistentVolumeClaim"), "{made}");
    }
}

/// tumblr/k8s-sidecar-injector#48, istio/istio#41388, hashicorp/consul-k8s#1845
#[test]
fn a_pod_that_a_sidecar_does_not_go_with_is_left_alone() {
    let app = |port: &str| format!("containers: [{{name: app, image: a, ports: [{port}]}}]");
    let resources = "env: [{name: CPU, valueFrom: {resourceFieldRef: {containerName: main, resource: limits.cpu}}}]";
    for (agent, spec, expected) in [
        ("ports: [{containerPort: 9100}]", format!("{{hostNetwork: true, {}}}", app("{containerPort: 9100}")), "9100"),
        (
            "ports: [{containerPort: 1, hostPort: 9000}]",
            format!("{{{}}}", app("{containerPort: 2, hostPort: 9000}")),
            "9000",
        ),
        ("securityContext: {runAsUser: 1000}", format!("{{os: {{name: windows}}, {}}}", app("")), "runAsUser"),
        ("lifecycle: {preStop: {sleep: {seconds: 60}}}", format!("{{{}}}", app("")), "terminationGracePeriodSeconds"),
        (resources, format!("{{{}}}", app("")), "\"main\""),
    ] {
        let said = said(&set(agent, ""), &pod(&spec));
        assert!(said.starts_with("PodConflict: ") && said.contains(expected), "{agent}: {said}");
        let fails = set(agent, "injectionStrategy: {failurePolicy: Fail}");
        let refused = inject(&fails, &pod(&spec));
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{agent}");
        assert!(refused.stderr.contains(said.trim_start_matches("PodConflict: ")), "{}", refused.stderr);
    }
}

/// openkruise/kruise#597: what the API server adds to the pod's makes no other volume of it.
#[test]
fn equal_volumes_are_shared() {
    let claim = |more: &str| {
        format!(
            "ephemeral: {{volumeClaimTemplate: {{spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1024Mi}}}}{more}}}}}}}"
        )
    };
    let file = |more: &str| {
        format!(
            "downwardAPI: {{items: [{{path: cpu, resourceFieldRef: {{containerName: app, resource: limits.cpu{more}}}}}]}}"
        )
    };
    for (of_set, of_pod, shared) in [
        (file(""), file(", divisor: '0'"), true),
        (file(""), file(", divisor: 1m"), false),
        (claim(""), claim(", volumeMode: Filesystem").replace("1024Mi", "1Gi"), true),
        (claim(""), claim(", volumeMode: Block"), false),
        ("image: {reference: data}".to_owned(), "image: {reference: data, pullPolicy: Always}".to_owned(), true),
        ("emptyDir: {sizeLimit: 1024Mi}".to_owned(), "emptyDir: {sizeLimit: 1Gi, medium: ''}".to_owned(), true),
        ("emptyDir: {sizeLimit: 1G}".to_owned(), "emptyDir: {sizeLimit: 1Gi}".to_owned(), false),
    ] {
        let set = set("volumeMounts: [{name: v, mountPath: /v}]", &format!("volumes: [{{name: v, {of_set}}}]"));
        let said =
            said(&set, &pod(&format!("{{containers: [{{name: app, image: a}}], volumes: [{{name: v, {of_pod}}}]}}")));
        assert!(said.starts_with(if shared { "Injected" } else { "VolumeConflict: " }), "{of_set} {of_pod}: {said}");
    }
}

/// buildkite/agent-stack-k8s#940
#[test]
fn what_is_taken_over_means_the_same_in_the_sidecar() {
    let shares = set("shareVolumePolicy: {type: enabled}", "");
    let app = |fields: &str, expression: &str| {
        pod(&format!(
            "{{volumes: [{{name: logs, emptyDir: {{}}}}], containers: [{{name: app, image: a, {fields}, \
             volumeMounts: [{{name: logs, mountPath: /logs, subPathExpr: {expression}}}]}}]}}"
        ))
    };
    let agent = |manifest: &str| {
        assert_eq!(said(&shares, manifest), "Injected");
        let made = inject(&shares, manifest).stdout;
        made.split("- name: app\n").next().unwrap_or_default().to_owned()
    };
    let pod_name = "{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}";
    let env = format!("env: [{pod_name}, {{name: LOG_DIR, value: web-$(POD_NAME)}}]");
    let made = agent(&app(&env, "$(LOG_DIR)"));
    let place = |text: &str| made.find(text).unwrap_or_else(|| panic!("no {text:?} in {made}"));
    assert!(place("name: POD_NAME") < place("name: LOG_DIR") && place("subPathExpr: $(LOG_DIR)") > 0);
    let made = agent(&app("envFrom: [{configMapRef: {name: app-env}}]", "$(TEAM)"));
    assert!(made.contains("name: app-env\n") && made.contains("subPathExpr: $(TEAM)"), "{made}");
    let made = agent(&app("envFrom: [{prefix: P_, configMapRef: {name: app-env}}]", "$(TEAM)"));
    assert!(!made.contains("app-env") && !made.contains("subPathExpr"), "{made}");
}

/// The manifests of kube-prometheus.
#[test]
fn uninject_leaves_what_the_user_wrote() {
    let annotated = "metadata: {labels: {app: web}, annotations: {kubectl.kubernetes.io/default-container: exporter}}";
    let two = "{containers: [{name: proxy, image: p}, {name: exporter, image: e}]}";
    assert_eq!(said(&set("", ""), &pod(two).replace(SELECTED, annotated)), "Injected");
    assert_eq!(said(&set("", ""), &pod(two)), "Injected");
}

/// The example files of tumblr/k8s-sidecar-injector.
#[test]
fn convert_takes_what_it_can_of_an_input() {
    let config = |name: &str| format!("name: {name}\ncontainers: [{{name: c-{name}, image: i}}]\n");
    let map = |data: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata:\n{data}");
    let indented = |text: &str| format!("    {}\n", text.trim_end().replace('\n', "\n    "));
    let both = format!("---\n{}---\n{}", config("first"), config("second"));
    let output = run(&["convert", "-f", "-"], &map(&format!("  a.yaml: |\n{}", indented(&both))));
    for name in ["first", "second"] {
        assert!(output.stdout.contains(&format!("name: c-{name}\n")), "{}{}", output.stdout, output.stderr);
    }
    let foreign = map("  application.properties: |\n    a=b\n");
    let mixed = format!("{}---\n{foreign}", map(&format!("  a.yaml: |\n{}", indented(&config("first")))));
    let output = run(&["convert", "-f", "-"], &mixed);
    assert!(output.stdout.contains("name: c-first\n"), "{}", output.stderr);
    assert!(output.stderr.contains("ConfigMap/m: data[application.properties]"), "{}", output.stderr);
}

/// istio/istio#1394: each form is the same two objects.
#[test]
fn every_form_of_input_that_kubectl_reads_is_read() {
    let expected =
        run(&["uninject", "-f", "-", "-o", "json"], "kind: A\nx: [yes, 0644]\n---\nkind: B\nt: {a: \"1\"}\n");
    let (a, b) = (r#"{"kind": "A", "x": [true, 420]}"#, r#"{"kind": "B", "t": {"a": "1"}}"#);
    for form in [
        format!("{a}\n{b}"),
        format!("{a}{b}"),
        format!("{a}\n---\n{b}\n"),
        format!("---\n{a}\n---\n---\n{b}\n---\n"),
        format!("# first\n{a}\n--- # second\n{b}\n"),
        format!("{a}\n---\nkind: B\nt: {{a: \"1\"}}\n"),
        format!("{{kind: A, x: [on, 0o644]}}\n---\n{{kind: B, t: {{a: '1',}},}}\n{}", "# end\n"),
        "kind: A\nx: [true, 420]\n...\n---\nkind: B\nt:\n  a: |-\n    1\n".to_owned(),
        "kind: A\r\nx: [true, 420]\r\n---\r\nkind: B\r\nt: {a: '1'}\r\n".to_owned(),
        "\u{FEFF}kind: A\nx: [true, 420]\n---\n\u{FEFF}kind:\tB\nt: {\ta: !!str 1 }\n".to_owned(),
        "kind: A\nx: [true, 420]\n---\nkind: C\nkind: B\nt: {a: \"2\", a: \"1\"}\n".to_owned(),
        "kind: A\nx: [true, 420]\n---\nkind: B\nt: {<<: {a: \"2\"}, a: \"1\"}\n".to_owned(),
    ] {
        let output = run(&["uninject", "-f", "-", "-o", "json"], &form);
        assert_eq!((output.code, output.stdout), (Some(0), expected.stdout.clone()), "{form}: {}", output.stderr);
    }
    for form in ["hello\n", "<html></html>\n", "[{\"kind\": \"A\"}]", "{\"kind\": \"A\"}\n[1]"] {
        let output = run(&["inject", "-f", "-", "-s", set("", "").path()], form);
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{form}");
        assert!(output.stderr.contains("a document is no object"), "{form}: {}", output.stderr);
    }
}
