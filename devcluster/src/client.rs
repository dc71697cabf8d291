//! A client for the cluster's kubeconfig.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::Error;

/// Reads the kubeconfig.
pub(crate) async fn configure(kubeconfig: &Path) -> Result<Config, Error> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    // The server is on this machine: a proxy from the environment would only be in the way.
    config.proxy_url = None;
    Ok(config)
}

/// A client that belongs to the current runtime.
pub(crate) fn connect(config: &Config) -> Result<Client, Error> {
    Client::try_from(config.clone()).map_err(Error::api("make a client"))
}
