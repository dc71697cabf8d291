//! Clusters come and go without leaving anything behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, dead_code)]

mod common;

use std::fs;
use std::net::TcpStream;
use std::path::Path;

use common::{processes_of, run, until};
use devcluster::DevCluster;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::Api;
use kube::api::ListParams;

const PROGRAM: &str = env!("CARGO_BIN_EXE_devcluster");

fn port(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().parse().unwrap()
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

async fn gone(folder: &Path, port: u16) {
    until("the end of all processes", async || processes_of(folder).is_empty().then_some(())).await;
    assert!(!is_open(port));
}

fn server_of(kubeconfig: &Path) -> u16 {
    let config: serde_json::Value = serde_json::from_str(&fs::read_to_string(kubeconfig).unwrap()).unwrap();
    port(config["clusters"][0]["cluster"]["server"].as_str().unwrap())
}

#[tokio::test]
async fn a_killed_parent_takes_its_children_along() {
    let (mut child, kubeconfig) = run(&["--nodes", "1"]);
    let (folder, port) = (kubeconfig.parent().unwrap(), server_of(&kubeconfig));
    assert!(is_open(port) && processes_of(folder).len() >= 5);
    // SIGKILL: no handler, no destructor.
    child.kill().unwrap();
    child.wait().unwrap();
    gone(folder, port).await;
    // Only the folder is left; the next cluster removes it after a minute.
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn run_passes_the_exit_code_on() {
    let (mut child, kubeconfig) = run(&["--nodes", "1"]);
    let port = server_of(&kubeconfig);
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"7\n").unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(7));
    gone(kubeconfig.parent().unwrap(), port).await;
    assert!(!kubeconfig.parent().unwrap().exists());
}

#[tokio::test]
async fn several_clusters_at_once() {
    let small = || DevCluster::builder().nodes(1).extra_node_with_kubelet("v1.31.0").start();
    let (one, two) = tokio::join!(small(), small());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.server_url(), two.server_url());
    let nodes = Api::<Node>::all(one.client()).list(&ListParams::default()).await.unwrap();
    let old = nodes.items.iter().find(|node| node.metadata.name.as_deref() == Some("node-v1-31-0")).unwrap();
    assert_eq!(old.status.as_ref().unwrap().node_info.as_ref().unwrap().kubelet_version, "v1.31.0");
    let (folder, port) = (one.data_dir().to_owned(), port(&one.server_url()));
    one.stop().await;
    gone(&folder, port).await;
    assert!(!folder.exists());
    Api::<Namespace>::all(two.client()).get("default").await.unwrap();
    two.restart_apiserver().await.unwrap();
    Api::<Namespace>::all(two.client()).get("default").await.unwrap();
    assert!(two.log("etcd").is_file());
    two.stop().await;
}

#[tokio::test]
async fn a_panic_ends_the_cluster() {
    let cluster = DevCluster::builder().without_kwok().start().await.unwrap();
    let (folder, port) = (cluster.data_dir().to_owned(), port(&cluster.server_url()));
    let panicked = tokio::spawn(async move {
        let _cluster = cluster;
        panic!("on purpose");
    })
    .await;
    assert!(panicked.is_err());
    gone(&folder, port).await;
    assert!(!folder.exists());
}

#[tokio::test]
async fn up_and_down() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().canonicalize().unwrap().join("kubeconfig");
    let devcluster = async |verb: &str| {
        let mut command = tokio::process::Command::new(PROGRAM);
        let output = command.args([verb, "--kubeconfig"]).arg(&kubeconfig).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let expected = format!("export KUBECONFIG={}\n", kubeconfig.display());
    assert_eq!(devcluster("up").await.0, expected);
    let port = server_of(&kubeconfig);
    assert!(is_open(port));
    let (line, note) = devcluster("up").await;
    assert_eq!((line, note.as_str()), (expected, "devcluster: already up\n"));
    assert_eq!(devcluster("down").await.1, "devcluster: stopped\n");
    assert!(!is_open(port) && !kubeconfig.exists() && processes_of(folder.path()).is_empty());
    assert_eq!(devcluster("down").await.1, "devcluster: not running\n");
}
