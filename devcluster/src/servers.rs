//! The command lines of the servers.

use std::net::TcpListener;
use std::path::Path;

use crate::Error;
use crate::binaries::{Binaries, Tool};
use crate::nodes::REAL;
use crate::server::ServerCommand;

pub(crate) const API_SERVER: &str = "kube-apiserver";

/// The ports that one attempt to start a cluster uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) etcd: u16,
    pub(crate) api: u16,
}

impl Ports {
    /// Asks the kernel for free ports; another process may still take one before we do.
    pub(crate) fn choose() -> Result<Self, Error> {
        let listen = || TcpListener::bind("127.0.0.1:0").and_then(|it| Ok((it.local_addr()?.port(), it)));
        let failed = |source| Error::Process { name: "the search for free ports".to_owned(), source };
        // Both stay bound until both are known, or they could be the same.
        let (etcd, _first) = listen().map_err(failed)?;
        let (api, _second) = listen().map_err(failed)?;
        Ok(Self { etcd, api })
    }
}

/// Everything that the command lines are made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) binaries: Binaries,
    pub(crate) folder: std::path::PathBuf,
    pub(crate) kubeconfig: std::path::PathBuf,
    pub(crate) ports: Ports,
    pub(crate) real_node: bool,
}

impl Plan {
    fn command<const N: usize>(&self, tool: Tool, arguments: [String; N]) -> ServerCommand {
        ServerCommand {
            name: tool.name(),
            program: self.binaries.path(tool),
            arguments: arguments.into(),
            // Less time in the garbage collector for more memory: the servers share two cores with what is tested.
            environment: vec![("GOGC", "300".to_owned())],
        }
    }

    fn pki(&self, file: &str) -> String {
        shown(&self.folder.join("pki").join(file))
    }

    fn kubeconfig_flag(&self) -> String {
        format!("--kubeconfig={}", shown(&self.kubeconfig))
    }

    /// A store for one machine and one hour: nothing is synced to the disk.
    pub(crate) fn etcd(&self) -> ServerCommand {
        let client = format!("http://127.0.0.1:{}", self.ports.etcd);
        // One member has no peers: any port does, and port 0 is always free.
        let peer = "http://127.0.0.1:0";
        self.command(
            Tool::Etcd,
            [
                format!("--data-dir={}", shown(&self.folder.join("etcd"))),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
                "--unsafe-no-fsync=true".to_owned(),
                "--snapshot-count=10000".to_owned(),
                "--log-level=warn".to_owned(),
            ],
        )
    }

    /// Default admission plugins, RBAC, tokens, webhooks by URL.
    pub(crate) fn api_server(&self) -> ServerCommand {
        let mut command = self.command(
            Tool::ApiServer,
            [
                format!("--etcd-servers=http://127.0.0.1:{}", self.ports.etcd),
                "--bind-address=127.0.0.1".to_owned(),
                "--advertise-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", self.ports.api),
                format!("--tls-cert-file={}", self.pki("server.crt")),
                format!("--tls-private-key-file={}", self.pki("server.key")),
                format!("--client-ca-file={}", self.pki("ca.crt")),
                format!("--service-account-key-file={}", self.pki("sa.pub")),
                format!("--service-account-signing-key-file={}", self.pki("sa.key")),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                "--authorization-mode=RBAC".to_owned(),
                "--allow-privileged=true".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                // There is no Service network, so nobody needs endpoints of the API server.
                "--endpoint-reconciler-type=none".to_owned(),
                // A test fires bursts that a shared cluster would rightly slow down.
                "--enable-priority-and-fairness=false".to_owned(),
                "--max-requests-inflight=3000".to_owned(),
                "--max-mutating-requests-inflight=2000".to_owned(),
                "--profiling=false".to_owned(),
            ],
        );
        if self.real_node {
            // Logs, exec and port forwarding; nothing resolves the node's name.
            command.arguments.extend([
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
                format!("--kubelet-client-certificate={}", self.pki("admin.crt")),
                format!("--kubelet-client-key={}", self.pki("admin.key")),
            ]);
        }
        command
    }

    /// All default controllers, fast enough for 1,000 pods at once.
    pub(crate) fn controller_manager(&self) -> ServerCommand {
        self.command(
            Tool::ControllerManager,
            [
                self.kubeconfig_flag(),
                format!("--service-account-private-key-file={}", self.pki("sa.key")),
                format!("--root-ca-file={}", self.pki("ca.crt")),
                format!("--cluster-signing-cert-file={}", self.pki("ca.crt")),
                format!("--cluster-signing-key-file={}", self.pki("ca.key")),
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
                "--allocate-node-cidrs=false".to_owned(),
                // A machine that stalls for a minute must not fail every node.
                "--node-monitor-grace-period=2m".to_owned(),
                "--kube-api-qps=1000".to_owned(),
                "--kube-api-burst=2000".to_owned(),
                "--concurrent-deployment-syncs=20".to_owned(),
                "--concurrent-replicaset-syncs=20".to_owned(),
                "--concurrent-statefulset-syncs=20".to_owned(),
                "--concurrent-job-syncs=20".to_owned(),
                "--concurrent-serviceaccount-token-syncs=10".to_owned(),
                "--profiling=false".to_owned(),
            ],
        )
    }

    /// One scheduler without limits on its requests.
    pub(crate) fn scheduler(&self) -> ServerCommand {
        self.command(
            Tool::Scheduler,
            [
                self.kubeconfig_flag(),
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
                "--kube-api-qps=2000".to_owned(),
                "--kube-api-burst=4000".to_owned(),
                "--profiling=false".to_owned(),
            ],
        )
    }

    /// The kubelets of all nodes but the real one.
    pub(crate) fn kwok(&self, config: &Path) -> ServerCommand {
        let mut command = self.command(
            Tool::Kwok,
            [
                self.kubeconfig_flag(),
                format!("--config={}", shown(config)),
                format!("--manage-nodes-with-label-selector=!{REAL}"),
                "--node-lease-duration-seconds=40".to_owned(),
                "--cidr=10.244.0.0/16".to_owned(),
                "--node-ip=10.0.0.1".to_owned(),
            ],
        );
        // KWOK also reads a configuration from the home folder, if there is one.
        command.environment.push(("HOME", shown(&self.folder)));
        command
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
