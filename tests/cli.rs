//! `kubectl sidecarset` without a cluster, as a user runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "cli/cases.rs"]
mod cases;

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

/// What `inject` says of sets that come from files, in front of these lines.
fn unchecked(lines: &str) -> String {
    format!("the API server has not checked the sidecars: kubectl sidecarset plan asks it\n{lines}")
}

struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str], input: &str) -> Output {
    run_bytes(arguments, input.as_bytes())
}

fn run_bytes(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-sidecarset"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end without reading it.
    let _ = child.stdin.take().unwrap().write_all(input);
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
    assert_eq!((output.code, output.stderr), (Some(0), unchecked("deployment/web -n shop: agent Injected\n")));
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
        (twice.stdout, twice.stderr),
        (once.clone(), unchecked("deployment/web -n shop: agent AlreadyInjected\n"))
    );
    let nothing = run(&["uninject", "-f", "-"], APP);
    let back = run(&["uninject", "-f", "-"], &once);
    assert_eq!((back.stdout, back.stderr.as_str()), (nothing.stdout, "deployment/web -n shop: agent Removed\n"));
}

#[test]
fn items_of_a_typed_list_and_workloads_of_other_kinds_are_injected() {
    let set = File::new("kinds.yaml", SET);
    let template =
        r#"{"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}}"#;
    let of = |kind: &str, name: &str| {
        format!(r#"{{{kind}"metadata": {{"name": "{name}"}}, "spec": {{"template": {template}}}}}"#)
    };
    let list = format!(
        r#"{{"kind": "DeploymentList", "apiVersion": "apps/v1", "metadata": {{}}, "items": [{}]}}"#,
        of("", "web")
    );
    let rollout = of(r#""apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "#, "shop");
    let jobs = format!(
        r#"{{"apiVersion": "x/v1", "kind": "JobSet", "metadata": {{"name": "j"}}, "spec": {{"jobs": [{}]}}}}"#,
        of("", "job")
    );
    let input = format!("{list}\n{rollout}\n{jobs}");
    let output = run(&["inject", "-f", "-", "-s", set.path()], &input);
    let unread = "jobset/j: not looked at: spec.jobs[0].spec.template.spec.containers; only spec.template and \
                  spec.jobTemplate.spec.template are\n";
    let expected = format!("deployment/web: agent Injected\nrollout/shop: agent Injected\n{unread}");
    assert_eq!((output.code, output.stderr), (Some(0), unchecked(&expected)));
    let back = run(&["uninject", "-f", "-"], &output.stdout);
    let removed = format!("deployment/web: agent Removed\nrollout/shop: agent Removed\n{unread}");
    assert_eq!((back.stdout, back.stderr), (run(&["uninject", "-f", "-"], &input).stdout, removed));
}

#[test]
fn what_kubectl_reads_is_read_and_a_key_that_stands_twice_gets_a_warning() {
    let set = File::new("encodings.yaml", &format!("\u{FEFF}{SET}"));
    let utf16: Vec<u8> = format!("\u{FEFF}{APP}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let output = run_bytes(&["inject", "-f", "-", "-s", set.path()], &utf16);
    let plain = run(&["inject", "-f", "-", "-s", set.path()], APP);
    assert_eq!((output.stdout, output.stderr), (plain.stdout, unchecked("deployment/web -n shop: agent Injected\n")));
    let twice = run(&["uninject", "-f", "-"], &APP.replace("image: app:1", "image: app:0\n        image: app:1"));
    let path = "spec.template.spec.containers[0].image";
    let warning = format!("Warning: -: deployment/web: {path} is written more than once, and the last value counts\n");
    assert_eq!((twice.stdout, twice.stderr), (run(&["uninject", "-f", "-"], APP).stdout, warning));
}

#[test]
fn namespaces_of_the_input_and_flags_decide_what_is_selected() {
    let set = File::new(
        "namespaces.yaml",
        &SET.replace("  containers", "  namespaceSelector: {matchLabels: {team: a}}\n  containers"),
    );
    let said =
        |input: &str, more: &[&str]| run(&[&["inject", "-f", "-", "-s", set.path()], more].concat(), input).stderr;
    assert_eq!(said(APP, &[]), unchecked("deployment/web -n shop: agent Injected\n"));
    assert_eq!(
        said(&APP.replace("team: a", "team: b"), &[]),
        unchecked("deployment/web -n shop: no SidecarSet selects it\n")
    );
    let nowhere = APP.replace(", namespace: shop", "");
    assert_eq!(said(&nowhere, &[]), unchecked("deployment/web: no SidecarSet selects it\n"));
    assert_eq!(said(&nowhere, &["-n", "shop"]), unchecked("deployment/web: agent Injected\n"));
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
        output.stderr.contains(
            "error: deployment/web -n shop: SidecarSet \"agent\" cannot inject its sidecars: container name \"app\""
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

/// A kubeconfig of a cluster that nobody serves.
const NOBODY: &str = "
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {}}]
";

#[test]
fn an_input_without_objects_is_an_error() {
    let set = File::new("empty-set.yaml", SET);
    for input in ["", "# nothing\n", "---\n", "---\n# nothing\n---\n"] {
        for (arguments, code) in [
            (vec!["inject", "-f", "-", "-s", set.path()], 1),
            (vec!["uninject", "-f", "-"], 1),
            (vec!["convert", "-f", "-"], 1),
            (vec!["plan", "-f", "-"], 2),
        ] {
            let output = run(&arguments, input);
            let expected = format!("error: no objects passed to {}\n", arguments[0]);
            assert_eq!((output.code, output.stderr, output.stdout.as_str()), (Some(code), expected, ""), "{input:?}");
        }
        let empty = File::new("empty.yaml", input);
        let output = run(&["inject", "-f", "-", "-s", empty.path()], APP);
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
        assert!(output.stderr.contains("has no SidecarSet of sidecarset.dev/v1beta1"), "{}", output.stderr);
    }
}

#[test]
fn convert_says_that_nobody_has_checked_what_it_made() {
    let set = "apiVersion: apps.kruise.io/v1alpha1\nkind: SidecarSet\nmetadata: {name: s}\nspec:\n  \
               selector: {matchLabels: {app: web}}\n  containers: [{name: agent, image: a}]\n";
    let output = run(&["convert", "-f", "-"], set);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stderr.ends_with(&unchecked("")), "{}", output.stderr);
}

#[test]
fn plan_takes_the_sets_out_of_the_input() {
    let nobody = File::new("plan-nobody.yaml", NOBODY);
    let plan = |input: &str| run(&["plan", "-f", "-", "--kubeconfig", nobody.path()], input);
    let mixed = plan(&format!("{APP}---{SET}"));
    assert_eq!(mixed.code, Some(2));
    let skipped = "skipped namespace/shop\nskipped deployment/web\nskipped other/\nerror: cannot reach the cluster: ";
    assert!(mixed.stderr.starts_with(skipped), "{}", mixed.stderr);
    let none = plan(APP);
    assert_eq!(none.code, Some(2));
    let expected = "error: plan reads SidecarSets of sidecarset.dev/v1beta1, and the input has none\n";
    assert!(none.stderr.ends_with(expected), "{}", none.stderr);
    let unnamed = plan(&format!("{SET}---\nmetadata: {{name: x}}\n"));
    assert_eq!((unnamed.code, unnamed.stderr.as_str()), (Some(2), "error: -: a document has no kind\n"));
}

#[test]
fn without_a_cluster_inject_says_how_to_do_without() {
    let nobody = File::new("nobody.yaml", NOBODY);
    for kubeconfig in [nobody.path(), "/nowhere.yaml"] {
        let output = run(&["inject", "-f", "-", "--kubeconfig", kubeconfig], APP);
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
        assert!(output.stderr.starts_with("error: "), "{}", output.stderr);
        assert!(output.stderr.contains("\nWith -s FILE the SidecarSets come from files"), "{}", output.stderr);
    }
}

#[test]
fn sets_and_manifests_may_stand_in_folders() {
    let folder = std::env::temp_dir().join(format!("sidecarset-cli-{}-folder", std::process::id()));
    let below = folder.join("below");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(below.join("set.yaml"), SET).unwrap();
    std::fs::write(below.join("app.yaml"), APP).unwrap();
    let (folder_path, below_path) = (folder.to_str().unwrap(), below.to_str().unwrap());
    let flat = run(&["inject", "-f", "-", "-s", below_path], APP);
    let hint = run(&["inject", "-f", "-", "-s", folder_path], APP);
    let hint_of_files = run(&["uninject", "-f", folder_path], "");
    let recursive = run(&["inject", "-f", folder_path, "-s", folder_path, "-R"], "");
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!((flat.code, flat.stderr), (Some(0), unchecked("deployment/web -n shop: agent Injected\n")));
    let expected =
        format!("error: {folder_path} has no files that end in .json, .yaml or .yml; its subfolders do: add -R\n");
    for hint in [hint, hint_of_files] {
        assert_eq!((hint.code, hint.stderr.as_str()), (Some(1), expected.as_str()));
    }
    assert_eq!((recursive.code, recursive.stderr), (Some(0), unchecked("deployment/web -n shop: agent Injected\n")));
}
