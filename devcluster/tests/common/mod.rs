//! What the tests share: one cluster per test binary, waiting, and a record of what happened to a pod.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devcluster::DevCluster;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

/// Starts the cluster with the first test; it ends with the process.
pub async fn cluster() -> &'static DevCluster {
    static CLUSTER: OnceCell<DevCluster> = OnceCell::const_new();
    CLUSTER.get_or_init(async || DevCluster::start().await.unwrap()).await
}

/// Asks until the answer is yes; fails the test after 30 s.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// `devcluster run` with these further arguments and a command that prints its KUBECONFIG and then waits for us.
pub fn run(arguments: &[&str]) -> (Child, PathBuf) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_devcluster"))
        .arg("run")
        .args(arguments)
        .args(["--", "sh", "-c", "echo $KUBECONFIG; read -r code; exit $code"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "the cluster did not start");
    (child, PathBuf::from(line.trim()))
}

/// IDs and command lines of all processes, arguments separated and ended by a space.
pub fn processes() -> Vec<(String, String)> {
    let line = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some((entry.file_name().into_string().ok()?, String::from_utf8_lossy(&line).replace('\0', " ")))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(line).collect()
}

/// The command lines that name this folder: those of the servers and their supervisors.
pub fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    processes().into_iter().map(|(_, line)| line).filter(|line| line.contains(&folder)).collect()
}

/// Creates a namespace that takes pods, and returns its name.
pub async fn namespace(client: &Client, name: &str) -> String {
    create::<Namespace>(&Api::all(client.clone()), json!({"metadata": {"name": name}})).await;
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), name);
    until("service account", async || accounts.get_opt("default").await.unwrap()).await;
    name.to_owned()
}

/// Creates an object from JSON.
pub async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

/// A pod and everything that its status has been.
pub struct Recorded {
    pub api: Api<Pod>,
    pub name: String,
    seen: Arc<Mutex<Vec<Pod>>>,
    task: JoinHandle<()>,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Recorded {
    /// Creates the pod `name` with this spec in namespace `default`.
    pub async fn start(client: &Client, name: &str, spec: Value) -> Self {
        Self::with_annotations(client, name, json!({}), spec).await
    }

    pub async fn with_annotations(client: &Client, name: &str, annotations: Value, spec: Value) -> Self {
        let api: Api<Pod> = Api::namespaced(client.clone(), "default");
        create(&api, json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec})).await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let record = {
            let seen = Arc::clone(&seen);
            watcher(api.clone(), config).default_backoff().applied_objects().try_for_each(move |pod| {
                seen.lock().unwrap().push(pod);
                async { Ok(()) }
            })
        };
        let task = tokio::spawn(async move { record.await.unwrap() });
        Self { api, name: name.to_owned(), seen, task }
    }

    /// Waits for a state of the pod, past or present, since the last `forget`.
    pub async fn reaches(&self, what: &str, mut state: impl FnMut(&Pod) -> bool) -> Pod {
        until(&format!("{}: {what}", self.name), async || self.history().into_iter().find(&mut state)).await
    }

    pub async fn is_ready(&self) -> Pod {
        self.reaches("ready", |pod| ready(pod) == Some(true)).await
    }

    pub fn history(&self) -> Vec<Pod> {
        self.seen.lock().unwrap().clone()
    }

    /// From here on, only what comes counts. Returns the latest state.
    pub fn forget(&self) -> Pod {
        let mut seen = self.seen.lock().unwrap();
        let last = seen.last().cloned().unwrap();
        seen.clear();
        last
    }

    /// Forgets, sets images by container name in `list`, and returns the state before.
    pub async fn set_images(&self, list: &str, images: &[(&str, &str)]) -> Pod {
        let before = self.forget();
        let containers: Vec<Value> = images.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
        let patch = json!({"spec": {list: containers}});
        self.api.patch(&self.name, &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
        before
    }

    pub async fn delete(self) {
        self.api.delete(&self.name, &DeleteParams::default()).await.unwrap();
        until("deletion", async || self.api.get_opt(&self.name).await.unwrap().is_none().then_some(())).await;
    }
}

/// The pod's Ready condition.
pub fn ready(pod: &Pod) -> Option<bool> {
    condition(pod, "Ready")
}

pub fn condition(pod: &Pod, type_: &str) -> Option<bool> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status == "True")
}

/// The status of a container of either list.
pub fn status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten().find(|container| container.name == name)
}

/// Why a container waits, or the empty string.
pub fn waiting<'a>(pod: &'a Pod, name: &str) -> &'a str {
    let state = status(pod, name).and_then(|it| it.state.as_ref());
    state.and_then(|it| it.waiting.as_ref()).and_then(|it| it.reason.as_deref()).unwrap_or_default()
}

pub fn observed(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.observed_generation) == pod.metadata.generation
}

pub fn restarts(pod: &Pod, name: &str) -> i32 {
    status(pod, name).map_or(-1, |container| container.restart_count)
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}
