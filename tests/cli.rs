//! `kubectl sidecarset` without a cluster, as a user runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const SET: &str = r"
apiVersion: sidecarset.dev/v1beta1
kind: SidecarSet
metadata:
  name: agent
spec:
  selector:
    matchLabels: {app: web}
  containers:
  - {name: agent, image: 'agent:1'}
";

const APP: &str = r#"# comments are lost
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
kind: Deployment
apiVersion: apps/v1
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata:
      labels: {app: web}
    spec:
      volumes: [{name: z, emptyDir: {}}]
      containers:
      - name: app
        image: app:1
        args: ["yes", "1e3", "0644", "null", "on"]
---
apiVersion: example.com/v1
kind: Other
spec: {template: {metadata: {labels: {app: web}}, size: 1.5}}
"#;

struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-sidecarset"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end without reading it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A file that goes with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sidecarset-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn inject_changes_pod_templates_and_nothing_else() {
    let set = File::new("inject.yaml", SET);
    let output = run(&["inject", "-f", "-", "-s", set.path()], APP);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), "deployment/web: agent Injected\n"));
    let documents: Vec<&str> = output.stdout.split("---\n").collect();
    assert_eq!(documents[0], "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels:\n    team: a\n");
    assert!(
        documents[1].starts_with("kind: Deployment\napiVersion: apps/v1\nmetadata:\n  name: web\n  namespace: shop\n")
    );
    assert!(documents[1].contains("      - env:\n        - name: IS_INJECTED\n          value: \"true\"\n        image: agent:1\n        name: agent\n      - name: app\n        image: app:1\n        args:\n        - \"yes\"\n        - \"1e3\"\n        - \"0644\"\n        - \"null\"\n        - \"on\"\n"), "{}", documents[1]);
    assert!(
        documents[2].ends_with("spec:\n  template:\n    metadata:\n      labels:\n        app: web\n    size: 1.5\n")
    );
    assert_eq!(documents.len(), 3);
}

#[test]
fn inject_twice_is_inject_once_and_uninject_takes_it_back() {
    let set = File::new("twice.yaml", SET);
    let once = run(&["inject", "-f", "-", "-s", set.path()], APP).stdout;
    let twice = run(&["inject", "-f", "-", "-s", set.path()], &once);
    assert_eq!(
        (twice.stdout.as_str(), twice.stderr.as_str()),
        (once.as_str(), "deployment/web: agent AlreadyInjected\n")
    );
    let nothing = run(&["uninject", "-f", "-"], APP);
    let back = run(&["uninject", "-f", "-"], &once);
    assert_eq!((back.stdout, back.stderr.as_str()), (nothing.stdout, "deployment/web: agent Removed\n"));
}

#[test]
fn namespaces_of_the_input_and_flags_decide_what_is_selected() {
    let set = File::new(
        "namespaces.yaml",
        &SET.replace("  containers", "  namespaceSelector: {matchLabels: {team: a}}\n  containers"),
    );
    let said =
        |input: &str, more: &[&str]| run(&[&["inject", "-f", "-", "-s", set.path()], more].concat(), input).stderr;
    assert_eq!(said(APP, &[]), "deployment/web: agent Injected\n");
    assert_eq!(said(&APP.replace("team: a", "team: b"), &[]), "deployment/web: no SidecarSet selects it\n");
    let nowhere = APP.replace(", namespace: shop", "");
    assert_eq!(said(&nowhere, &[]), "deployment/web: no SidecarSet selects it\n");
    assert_eq!(said(&nowhere, &["-n", "shop"]), "deployment/web: agent Injected\n");
}

#[test]
fn a_set_that_must_inject_and_cannot_prints_nothing() {
    let text = SET
        .replace("  containers:", "  injectionStrategy: {failurePolicy: Fail}\n  containers:")
        .replace("name: agent, image", "name: app, image");
    let set = File::new("fail.yaml", &text);
    let output = run(&["inject", "-f", "-", "-s", set.path()], APP);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
    assert!(
        output.stderr.starts_with(
            "error: deployment/web: SidecarSet \"agent\" cannot inject its sidecars: container name \"app\""
        ),
        "{}",
        output.stderr
    );
}

#[test]
fn an_invalid_set_is_refused_with_its_field() {
    for (from, to, path) in [
        (
            "{name: agent, image: 'agent:1'}",
            "{name: agent, image: 'agent:1', imagePolicy: x}",
            "spec.containers[0].imagePolicy",
        ),
        ("{app: web}", "{'a b': web}", "spec.selector.matchLabels[a b]"),
    ] {
        let set = File::new("invalid.yaml", &SET.replace(from, to));
        let output = run(&["inject", "-f", "-", "-s", set.path()], APP);
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
        assert!(output.stderr.starts_with("error: ") && output.stderr.contains(path), "{}", output.stderr);
    }
}

#[test]
fn errors_and_usage_are_those_of_kubectl() {
    let usage = run(&["inject"], "");
    assert_eq!(usage.code, Some(1));
    assert!(
        usage.stderr.starts_with("error: ") && usage.stderr.contains("kubectl sidecarset inject"),
        "{}",
        usage.stderr
    );
    let help = run(&["--help"], "");
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert!(help.stdout.contains("Usage: kubectl sidecarset"));
    let missing = run(&["uninject", "-f", "/nowhere.yaml"], "");
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.starts_with("error: cannot read /nowhere.yaml: "), "{}", missing.stderr);
    let broken = run(&["uninject", "-f", "-"], "a: [1\n");
    assert_eq!(broken.code, Some(1));
    assert!(broken.stderr.starts_with("error: -: "), "{}", broken.stderr);
}
