//! Requests of which a test wants to see more than the object: the status code, and the warnings.

use std::path::Path;
use std::process::Stdio;

use axum::http::Request;
use kube::Client;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
}

impl Answer {
    /// The message of a refusal; panics if it was none.
    pub fn refusal(&self) -> &str {
        assert!(self.code >= 400, "accepted: {}", self.body);
        self.body["message"].as_str().unwrap()
    }

    /// The object; panics if it was refused.
    pub fn accepted(self) -> Value {
        assert!(self.code < 300, "refused: {}", self.body["message"]);
        self.body
    }
}

pub const SETS: &str = "/apis/sidecarset.dev/v1beta1/sidecarsets";

pub async fn post(client: &Client, path: &str, body: &Value) -> Answer {
    send(client, "POST", path, "application/json", body).await
}

pub async fn merge(client: &Client, path: &str, body: &Value) -> Answer {
    send(client, "PATCH", path, "application/merge-patch+json", body).await
}

async fn send(client: &Client, method: &str, path: &str, content: &str, body: &Value) -> Answer {
    let request = Request::builder().method(method).uri(path).header("content-type", content);
    let request = request.body(kube::client::Body::from(body.to_string().into_bytes())).unwrap();
    let response = client.send(request).await.unwrap();
    let code = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter();
    // `299 - "text"`, with quotes inside escaped.
    let text = |value: &str| {
        let quoted = value.strip_prefix("299 - \"").and_then(|rest| rest.strip_suffix('"'));
        quoted.unwrap_or(value).replace("\\\"", "\"")
    };
    let warnings = warnings.map(|value| text(value.to_str().unwrap())).collect();
    let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), usize::MAX).await.unwrap();
    Answer { code, body: serde_json::from_slice(&body).unwrap(), warnings }
}

/// What a command printed.
#[derive(Debug)]
pub struct Printed {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Printed {
    /// Standard output; panics if the command failed.
    pub fn ok(self) -> String {
        assert!(self.success, "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs kubectl with this standard input.
pub async fn kubectl(kubeconfig: &Path, arguments: &[&str], input: &str) -> Printed {
    run("kubectl", kubeconfig, arguments, input).await
}

/// Runs `kubectl sidecarset` with this standard input.
pub async fn plugin(kubeconfig: &Path, arguments: &[&str], input: &str) -> Printed {
    run(env!("CARGO_BIN_EXE_kubectl-sidecarset"), kubeconfig, arguments, input).await
}

async fn run(program: &str, kubeconfig: &Path, arguments: &[&str], input: &str) -> Printed {
    let mut command = Command::new(program);
    command.args(arguments).env("KUBECONFIG", kubeconfig).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end without reading it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Printed { success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Waits until the apiserver serves the CRD.
pub async fn until_crd_is_served(kubeconfig: &Path) {
    let wait = ["wait", "--for=condition=Established", "crd/sidecarsets.sidecarset.dev", "--timeout=60s"];
    // Right after its creation it has no conditions, which kubectl takes for an error.
    super::eventually("the CRD is served", async || {
        let printed = kubectl(kubeconfig, &wait, "").await;
        if printed.success { Ok(()) } else { Err(printed) }
    })
    .await;
}

/// A file of this repository.
pub fn repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The documents of a YAML file.
pub fn documents(yaml: &str) -> Vec<Value> {
    yaml.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}
