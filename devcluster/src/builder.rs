//! The choices one has when starting a cluster.

use std::path::PathBuf;

/// How the cluster should be; see [`DevCluster::builder`](crate::DevCluster::builder).
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    pub(crate) nodes: usize,
    pub(crate) kubelet_versions: Vec<String>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) kwok: bool,
    pub(crate) real_node: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self { nodes: 3, kubelet_versions: Vec::new(), data_dir: None, kwok: true, real_node: false }
    }
}

impl Builder {
    /// The number of nodes (default 3), named `node-0`, `node-1`, …; each has room for 10,000 pods.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Adds a node that reports this kubelet version (`v1.31.0` becomes `node-v1-31-0`). It behaves like the others, but
    /// a taint keeps pods off it that do not name the node or tolerate `devcluster.sidecarset.dev/kubelet`.
    pub fn extra_node_with_kubelet(mut self, version: impl Into<String>) -> Self {
        self.kubelet_versions.push(version.into());
        self
    }

    /// Keeps data and logs in this folder instead of a temporary one, also after the cluster has stopped.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// Adds a real node, [`node::REAL_NODE`](crate::node::REAL_NODE), on which containers run: kubelet, containerd and runc. A taint
    /// keeps pods off it that do not name the node or tolerate [`node::REAL`](crate::node::REAL).
    ///
    /// Needs root and some packages; [`start`](Self::start) says what is missing ([`Error::NoNode`](crate::Error::NoNode)).
    pub fn real_node(mut self) -> Self {
        self.real_node = true;
        self
    }

    /// No simulated nodes: without a real one, pods stay pending.
    pub fn without_kwok(mut self) -> Self {
        self.kwok = false;
        self
    }
}
