//! Starting and stopping one cluster.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kube::{Client, Config};
use tokio::task::spawn_blocking;

use crate::binaries::{Binaries, Tool};
use crate::data::DataFolder;
use crate::node::{Kubelet, Prepared};
use crate::pki::{Identity, Pki};
use crate::registry::Registry;
use crate::requirements::Machine;
use crate::server::Server;
use crate::servers::{self, Plan, Ports};
use crate::{Builder, Error, client, nodes, ready, stages};

/// How often other ports are tried when another process was faster.
const ATTEMPTS: usize = 5;

/// A running cluster. Dropping it ends the servers and removes their data; so does the end of this process, however it ends.
pub struct DevCluster {
    // Declared before `data`: the servers are gone before their folder is removed.
    servers: Mutex<Vec<Server>>,
    _registry: Option<Registry>,
    plan: Plan,
    config: Config,
    client: Client,
    data: DataFolder,
}

impl Builder {
    /// Starts the cluster and waits until it can run pods. Builds the binaries first if they are missing.
    pub async fn start(self) -> Result<DevCluster, Error> {
        // Before anything is built.
        let machine = self.real_node.then(Machine::check).transpose()?;
        let more: &[Tool] = if self.real_node { &[Tool::Kubelet] } else { &[] };
        let binaries = in_background(|| Binaries::ensure(more)).await?;
        let mut attempt = 1;
        loop {
            match DevCluster::attempt(&self, binaries.clone(), machine.as_ref()).await {
                Err(error) if error.port_was_taken() && attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }
}

impl DevCluster {
    /// Starts a cluster with three nodes.
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// Chooses how the cluster should be.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The administrator's kubeconfig (group `system:masters`).
    pub fn kubeconfig(&self) -> &Path {
        &self.plan.kubeconfig
    }

    /// A new client with the administrator's rights. It belongs to the runtime that it is made on, so tests that share a
    /// cluster each call this and do not share the client.
    pub fn client(&self) -> Client {
        // The same configuration made a client when the cluster was started.
        client::connect(&self.config).unwrap_or_else(|_| self.client.clone())
    }

    /// The API server's URL.
    pub fn server_url(&self) -> String {
        server_url(self.plan.ports)
    }

    /// The folder with keys, data and logs.
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// The log of one server, such as `kube-apiserver`.
    pub fn log(&self, server: &str) -> PathBuf {
        self.data.logs().join(format!("{server}.log"))
    }

    /// Kills the API server, starts it again on the same port and waits until it is ready: every watch breaks.
    pub async fn restart_apiserver(&self) -> Result<(), Error> {
        let position = |servers: &[Server]| servers.iter().position(|server| server.is(servers::API_SERVER));
        let old = {
            let mut servers = self.lock();
            position(&servers).map(|index| servers.remove(index))
        };
        in_background(move || drop(old)).await;
        let client = self.client();
        let new = [Server::spawn(&self.plan.api_server(), &self.data.logs())?];
        ready::until("kube-apiserver", &new, &self.data.logs(), async || ready::api_server(&client).await).await?;
        self.lock().extend(new);
        Ok(())
    }

    /// Kills the kubelet of the real node, starts it again and waits until it works; the containers live on.
    ///
    /// For tests, one call at a time. Without a real node it is an error.
    pub async fn restart_kubelet(&self) -> Result<(), Error> {
        let (kubelet, client) = (Kubelet::of(self.data.path()), self.client());
        let old = kubelet.pid();
        kubelet.kill()?;
        let works = async || kubelet.is_another_than(&old) && ready::kubelet(&client).await;
        ready::until("the kubelet", &[], &self.data.logs(), works).await
    }

    /// Ends all servers and removes the data folder, unless it was chosen by the caller.
    pub async fn stop(self) {
        in_background(move || drop(self)).await;
    }

    async fn attempt(options: &Builder, binaries: Binaries, machine: Option<&Machine>) -> Result<Self, Error> {
        let data = DataFolder::create(options.data_dir.as_deref())?;
        let folder = data.path().to_owned();
        let ports = Ports::choose()?;
        let plan =
            Plan { binaries, kubeconfig: folder.join("kubeconfig"), folder, ports, real_node: machine.is_some() };
        let pki = Pki::generate()?;
        pki.write(&plan.folder.join("pki"))?;
        let url = server_url(ports);
        pki.write_kubeconfig(Identity::Admin, &url, &plan.kubeconfig)?;
        let node = machine.map(|machine| Prepared::new(machine, &pki, &url, &plan.folder)).transpose()?;
        let config = client::configure(&plan.kubeconfig).await?;
        let client = client::connect(&config)?;
        let (servers, registry) = start(options, &plan, node, &client, &data.logs()).await?;
        Ok(Self { servers: Mutex::new(servers), _registry: registry, plan, config, client, data })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DevCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevCluster")
            .field("server", &self.server_url())
            .field("data", &self.data.path())
            .finish_non_exhaustive()
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        // All are told before the first is waited for.
        self.lock().iter_mut().for_each(Server::release);
    }
}

/// Each server as soon as what it needs answers; the slow starts overlap.
async fn start(
    options: &Builder,
    plan: &Plan,
    node: Option<Prepared>,
    client: &Client,
    logs: &Path,
) -> Result<(Vec<Server>, Option<Registry>), Error> {
    let mut servers = vec![Server::spawn(&plan.etcd(), logs)?];
    ready::until("etcd", &servers, logs, async || ready::listening(plan.ports.etcd).await).await?;
    servers.push(Server::spawn(&plan.api_server(), logs)?);
    ready::until("kube-apiserver", &servers, logs, async || ready::alive(client).await).await?;
    servers.push(Server::spawn(&plan.controller_manager(), logs)?);
    servers.push(Server::spawn(&plan.scheduler(), logs)?);
    let (mut nodes, mut registry) = (0, None);
    if let Some(node) = node {
        let (server, kept) = node.start(plan, logs)?;
        servers.push(server);
        registry = Some(kept);
        nodes += 1;
    }
    if options.kwok {
        servers.push(Server::spawn(&plan.kwok(&stages::write(&plan.folder)?), logs)?);
        nodes::register(client, options.nodes, &options.kubelet_versions).await?;
        nodes += options.nodes + options.kubelet_versions.len();
    }
    ready::until("kube-apiserver", &servers, logs, async || ready::api_server(client).await).await?;
    ready::until("the ServiceAccount default", &servers, logs, async || ready::service_account(client).await).await?;
    ready::until("the nodes", &servers, logs, async || ready::nodes(client, nodes).await).await?;
    Ok((servers, registry))
}

fn server_url(ports: Ports) -> String {
    format!("https://127.0.0.1:{}", ports.api)
}

/// Waiting for processes and compilers blocks, so it happens off the runtime's threads.
async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
