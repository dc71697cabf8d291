//! The cluster that the flags name.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::jiff::SignedDuration;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;

use super::error::Error;
use crate::runtime::pages::{PAGE, Pages};

/// Longest wait for a connection; kubectl waits 30 s, a person does not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// kubectl's flags that choose the cluster, the user and the namespace.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Path of the kubeconfig file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true, help_heading = "Cluster")]
    pub(crate) context: Option<String>,
    /// Namespace of objects that name none
    #[arg(short, long, global = true, help_heading = "Cluster")]
    pub(crate) namespace: Option<String>,
    /// User to impersonate
    #[arg(long = "as", global = true, value_name = "USER", help_heading = "Cluster")]
    pub(crate) impersonate: Option<String>,
    /// Longest wait for one answer: seconds, or with a unit such as 1m; 0 means no limit
    #[arg(long, global = true, value_parser = timeout, default_value = "30s", help_heading = "Cluster")]
    pub(crate) request_timeout: Duration,
}

/// A client, and the namespace of objects that name none.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// `--namespace`, or that of the context.
    pub(crate) namespace: String,
}

impl ClusterArgs {
    /// Makes the client; nothing is sent.
    pub(crate) async fn connect(&self) -> Result<Cluster, Error> {
        // kube wants one to be chosen; a second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = (!self.request_timeout.is_zero()).then_some(self.request_timeout);
        if let Some(user) = &self.impersonate {
            config.auth_info.impersonate = Some(user.clone());
        }
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Cluster { client: Client::try_from(config)?, namespace })
    }

    async fn config(&self) -> Result<Config, Error> {
        if self.kubeconfig.is_none() && self.context.is_none() {
            return Ok(Config::infer().await?);
        }
        let kubeconfig = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path)?,
            None => Kubeconfig::read()?,
        };
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        Ok(Config::from_custom_kubeconfig(kubeconfig, &options).await?)
    }
}

/// All objects, in pages.
pub(super) async fn list<K>(api: &Api<K>, params: ListParams) -> Result<Vec<K>, Error>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let mut pages = Pages::new(params, PAGE);
    let mut all = Vec::new();
    while let Some(page) = pages.next(|params| async move { api.list(&params).await }).await? {
        all.extend(page);
    }
    Ok(all)
}

fn timeout(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let duration = text.parse::<SignedDuration>().ok().and_then(|duration| duration.try_into().ok());
    duration.ok_or_else(|| "write seconds, or a number with a unit such as 1s, 2m, 3h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_written_as_for_kubectl() {
        assert_eq!(timeout("5"), Ok(Duration::from_secs(5)));
        assert_eq!(timeout("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(timeout("0"), Ok(Duration::ZERO));
        assert!(timeout("-1s").is_err() && timeout("soon").is_err());
    }
}
