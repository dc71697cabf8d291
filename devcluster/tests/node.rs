//! The real node: containers run, images are pulled, and nothing is left of it.
//!
//! Where a real node cannot run, these tests say so and pass; with `SIDECARSET_REQUIRE_NODE=1` they fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, dead_code)]

mod common;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{Recorded, create, phase, processes, processes_of, ready, restarts, run, status, until, waiting};
use devcluster::{DevCluster, node};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// The cluster of all tests here, or none if this machine cannot run a real node.
async fn cluster() -> Option<&'static DevCluster> {
    static CLUSTER: OnceCell<Option<DevCluster>> = OnceCell::const_new();
    CLUSTER
        .get_or_init(async || node::or_skip(DevCluster::builder().nodes(1).real_node().start().await).unwrap())
        .await
        .as_ref()
}

fn container(name: &str, image: &str, port: u16) -> Value {
    json!({
        "name": name, "image": image,
        "env": [{"name": "PORT", "value": port.to_string()}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": port}, "periodSeconds": 1},
    })
}

/// An app, an ordinary and a native sidecar, on the real node.
fn with_sidecars() -> Value {
    let mut native = container("native", "devcluster.test/sidecar:v1", 8082);
    native["restartPolicy"] = json!("Always");
    json!({
        "nodeName": node::REAL_NODE, "terminationGracePeriodSeconds": 2,
        "initContainers": [native],
        "containers": [
            container("app", "devcluster.test/app:v1", 8080),
            container("side", "devcluster.test/sidecar:v1", 8081),
        ],
    })
}

/// One container that is not restarted, on the real node.
fn alone(image: &str) -> Value {
    json!({
        "nodeName": node::REAL_NODE, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "only", "image": image}],
    })
}

fn container_id<'a>(pod: &'a Pod, name: &str) -> &'a str {
    status(pod, name).and_then(|it| it.container_id.as_deref()).unwrap_or_default()
}

#[tokio::test]
async fn a_changed_image_restarts_only_its_container() {
    let Some(cluster) = cluster().await else { return };
    let begin = Instant::now();
    let pod = Recorded::start(&cluster.client(), "sidecars", with_sidecars()).await;
    pod.is_ready().await;
    println!("pod ready after {:?}", begin.elapsed());
    for (list, name) in [("containers", "side"), ("initContainers", "native")] {
        let begin = Instant::now();
        let before = pod.set_images(list, &[(name, "devcluster.test/sidecar:v2")]).await;
        let after = pod
            .reaches("the new sidecar ready", |pod| {
                container_id(pod, name) != container_id(&before, name)
                    && restarts(pod, name) == 1
                    && status(pod, name).is_some_and(|it| it.ready)
                    && ready(pod) == Some(true)
            })
            .await;
        println!("{name} replaced and ready after {:?}", begin.elapsed());
        for other in ["app", "side", "native"].into_iter().filter(|other| *other != name) {
            assert_eq!(status(&after, other), status(&before, other));
        }
        assert_eq!(after.metadata.uid, before.metadata.uid);
        assert_eq!(after.status.unwrap().pod_ip, before.status.unwrap().pod_ip);
    }
    pod.delete().await;
}

#[tokio::test]
async fn containers_live_on_when_the_kubelet_is_restarted() {
    // A cluster of its own: the other tests need their kubelet.
    let cluster = node::or_skip(DevCluster::builder().nodes(0).real_node().start().await).unwrap();
    let Some(cluster) = cluster else { return };
    let pod = Recorded::start(&cluster.client(), "sidecars", with_sidecars()).await;
    let before = pod.is_ready().await;
    for _ in 0..2 {
        let begin = Instant::now();
        cluster.restart_kubelet().await.unwrap();
        println!("kubelet restarted after {:?}", begin.elapsed());
    }
    // The kubelet that works now knows them: it restarts what is changed, and nothing else.
    pod.set_images("containers", &[("side", "devcluster.test/sidecar:v2")]).await;
    let after = pod.reaches("the new sidecar", |pod| restarts(pod, "side") == 1 && ready(pod) == Some(true)).await;
    for name in ["app", "native"] {
        let identity = |pod: &Pod| (container_id(pod, name).to_owned(), restarts(pod, name));
        assert_eq!(identity(&after), identity(&before));
    }
    drop(pod);
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_ends_when_its_kubelet_does() {
    let cluster = node::or_skip(DevCluster::builder().nodes(0).real_node().start().await).unwrap();
    let Some(cluster) = cluster else { return };
    let network = network(cluster.data_dir());
    let address = network["ipam"]["ranges"][0][0]["subnet"].as_str().unwrap().replace(".0/24", ".1");
    let is_kubelet = |line: &str| line.starts_with("/mnt/kubelet ") && line.contains(&format!("--node-ip={address} "));
    let (pid, _) = processes().into_iter().find(|(_, line)| is_kubelet(line)).unwrap();
    assert!(Command::new("kill").args(["-s", "KILL", &pid]).status().unwrap().success());
    let link = Path::new("/sys/class/net").join(network["bridge"].as_str().unwrap());
    until("the end of the node", async || (!link.exists()).then_some(())).await;
    cluster.stop().await;
}

#[tokio::test]
async fn kwok_and_the_real_node_leave_each_other_alone() {
    let Some(cluster) = cluster().await else { return };
    let client = cluster.client();
    let node = Api::<Node>::all(client.clone()).get(node::REAL_NODE).await.unwrap();
    let info = node.status.unwrap().node_info.unwrap();
    assert_eq!(info.kubelet_version, devcluster::binaries::KUBERNETES_VERSION);
    assert!(info.container_runtime_version.starts_with("containerd://"));
    // KWOK has every image at once; here, nobody pretends to have this one.
    let missing = Recorded::start(&client, "missing", alone("devcluster.test/app:missing")).await;
    // A pod that names no node goes to KWOK's, because of the taint.
    let simulated = json!({"containers": [{"name": "only", "image": "devcluster.test/app:v1"}]});
    let simulated = Recorded::start(&client, "simulated", simulated).await;
    let pod = simulated.is_ready().await;
    assert!(container_id(&pod, "only").starts_with("sim://"));
    missing.reaches("a failed pull", |pod| waiting(pod, "only") == "ErrImagePull").await;
    let asked_for = json!({
        "nodeSelector": {node::REAL: "true"}, "tolerations": [{"key": node::REAL, "operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "only", "image": "devcluster.test/app:v1"}],
    });
    let asked_for = Recorded::start(&client, "asked-for", asked_for).await;
    assert!(container_id(&asked_for.is_ready().await, "only").starts_with("containerd://"));
    assert!(missing.history().iter().all(|pod| ready(pod) != Some(true)));
    for pod in [missing, simulated, asked_for] {
        pod.delete().await;
    }
}

/// When the container `only` was started.
fn started_at(pod: &Pod) -> Option<Timestamp> {
    Some(status(pod, "only")?.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

#[tokio::test]
async fn images_are_pulled_from_the_cluster_s_registry() {
    let Some(cluster) = cluster().await else { return };
    let client = cluster.client();
    let begin = Instant::now();
    let start = async |name: &str, image: &str| Recorded::start(&client, name, alone(image)).await;
    let broken = start("broken", "devcluster.test/broken/app:v1").await;
    let slow = start("slow", "devcluster.test/slow/app:v1").await;
    let events: Api<Event> = Api::default_namespaced(client.clone());
    let of_slow = ListParams::default().fields("involvedObject.name=slow,reason=Pulling");
    until("the slow pull", async || events.list(&of_slow).await.unwrap().items.pop()).await;
    let pulled = start("pulled", "devcluster.test/pulled/app:v1").await;
    let pod = pulled.is_ready().await;
    assert!(status(&pod, "only").unwrap().image_id.starts_with("devcluster.test/pulled/app@sha256:"));
    broken.reaches("a failed pull", |pod| waiting(pod, "only") == "ErrImagePull").await;
    let slow_pod = slow.is_ready().await;
    assert!(begin.elapsed() > Duration::from_secs(5));
    assert!(started_at(&pod) < started_at(&slow_pod), "one slow pull holds up the others");
    for pod in [broken, slow, pulled] {
        pod.delete().await;
    }
}

#[tokio::test]
async fn images_behave_as_their_tags_say() {
    let Some(cluster) = cluster().await else { return };
    let client = cluster.client();
    let start = async |tag: &str| {
        let spec = json!({
            // Longer than `delete` waits: the program must heed SIGTERM.
            "nodeName": node::REAL_NODE, "terminationGracePeriodSeconds": 60,
            "containers": [container("only", &format!("devcluster.test/sidecar:{tag}"), 8081)],
        });
        Recorded::start(&client, tag, spec).await
    };
    let begin = Instant::now();
    let (crash, slowstart, noready) = (start("crash").await, start("slowstart").await, start("noready").await);
    let pod = crash.reaches("a crash", |pod| restarts(pod, "only") >= 1).await;
    let last = status(&pod, "only").unwrap().last_state.clone().unwrap().terminated.unwrap();
    assert_eq!(last.exit_code, 7);
    slowstart.is_ready().await;
    assert!(begin.elapsed() > Duration::from_secs(5));
    assert!(noready.history().iter().all(|pod| ready(pod) != Some(true)));
    assert_eq!(phase(noready.history().last().unwrap()), "Running");
    for pod in [noready, crash, slowstart] {
        pod.delete().await;
    }
}

/// The network of the real node in this data folder: its `bridge` and addresses.
fn network(folder: &Path) -> Value {
    let file = fs::read(folder.join("node/cni/devcluster.conflist")).unwrap();
    let mut network: Value = serde_json::from_slice(&file).unwrap();
    network["plugins"][0].take()
}

/// What the machine has of the node with this name and data folder: its bridge, cgroups and processes. A cgroup stays
/// as long as a container of it runs.
fn traces(name: &str, folder: &Path) -> Vec<String> {
    let link = Path::new("/sys/class/net").join(name);
    let cgroups = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", name]).output().unwrap();
    let cgroups = String::from_utf8(cgroups.stdout).unwrap();
    let link = link.exists().then(|| link.display().to_string());
    link.into_iter().chain(cgroups.lines().map(str::to_owned)).chain(processes_of(folder)).collect()
}

/// What a node could change for the whole machine.
fn machine() -> Vec<String> {
    let sysctls = ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward"];
    let sysctls = sysctls.iter().map(|name| Path::new("/proc/sys").join(name));
    let files = sysctls.chain([PathBuf::from("/proc/self/mounts")]).map(|path| fs::read_to_string(path).unwrap());
    let folders =
        ["/run/containerd", "/run/netns", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods"];
    files.chain(folders.iter().map(|path| Path::new(path).exists().to_string())).collect()
}

/// Starts a node with a pod on it, ends it, and looks whether anything is left.
async fn comes_and_goes(name: &str, end: impl FnOnce(&mut Child)) {
    // Says whether a node can run here, and builds the servers.
    if cluster().await.is_none() {
        return;
    }
    let before = machine();
    let begin = Instant::now();
    let (mut child, kubeconfig) = run(&["--nodes", "0", "--node", "real"]);
    println!("{name}: node ready after {:?}", begin.elapsed());
    let folder = kubeconfig.parent().unwrap();
    let network = network(folder);
    let bridge = network["bridge"].as_str().unwrap();
    let config = kube::config::Kubeconfig::read_from(&kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(kube::Client::try_from(config).unwrap());
    create(&pods, json!({"metadata": {"name": name}, "spec": with_sidecars()})).await;
    until("the pod is ready", async || (ready(&pods.get(name).await.unwrap()) == Some(true)).then_some(())).await;
    println!("{name}: pod ready after {:?}", begin.elapsed());
    assert!(traces(bridge, folder).len() > 3);
    let begin = Instant::now();
    end(&mut child);
    tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    until("the end of the node", async || traces(bridge, folder).is_empty().then_some(())).await;
    println!("{name}: gone after {:?}", begin.elapsed());
    assert_eq!(machine(), before);
    let _ = fs::remove_dir_all(folder);
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_node_that_is_ended_leaves_nothing_behind() {
    comes_and_goes("ended", |child| child.stdin.as_mut().unwrap().write_all(b"0\n").unwrap()).await;
}

#[tokio::test]
async fn a_node_whose_parent_is_killed_leaves_nothing_behind() {
    comes_and_goes("killed", |child| child.kill().unwrap()).await;
}
