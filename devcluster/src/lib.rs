//! A real Kubernetes control plane on this machine, for tests and for trying things out.
//!
//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler run as plain processes on 127.0.0.1;
//! KWOK plays the kubelets, with Stages of our own that show the phases of a real one; a real node can be added.
//!
//! ```no_run
//! # async fn example() -> Result<(), devcluster::Error> {
//! let cluster = devcluster::DevCluster::start().await?;
//! let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::all(cluster.client());
//! # let _ = pods;
//! cluster.stop().await;
//! # Ok(())
//! # }
//! ```

pub mod binaries;
pub mod daemon;
pub mod images;
pub mod node;

mod builder;
mod client;
mod cluster;
mod data;
mod error;
mod nodes;
mod pki;
mod ready;
mod registry;
mod requirements;
mod server;
mod servers;
mod stages;

pub use builder::Builder;
pub use cluster::DevCluster;
pub use error::Error;
