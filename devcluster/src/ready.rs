//! Waiting until the cluster can be used.

use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::server::Server;
use crate::{Error, nodes};

const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(25);

/// Asks again and again until the answer is yes, a server has ended, or the deadline has passed.
pub(crate) async fn until<F>(what: &'static str, servers: &[Server], logs: &Path, mut ask: F) -> Result<(), Error>
where
    F: AsyncFnMut() -> bool,
{
    let deadline = Instant::now() + PATIENCE;
    while !ask().await {
        for server in servers {
            server.check()?;
        }
        if Instant::now() > deadline {
            return Err(Error::Timeout { what, seconds: PATIENCE.as_secs(), logs: logs.to_owned() });
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Whether something listens on the port.
pub(crate) async fn listening(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).await.is_ok()
}

/// Whether the API server answers requests at all; the rest of its start goes on meanwhile.
pub(crate) async fn alive(client: &Client) -> bool {
    Api::<Node>::all(client.clone()).list_metadata(&ListParams::default().limit(1)).await.is_ok()
}

/// Whether all checks of the API server pass.
pub(crate) async fn api_server(client: &Client) -> bool {
    match http::Request::get("/readyz").body(Vec::new()) {
        Ok(request) => client.request_text(request).await.is_ok(),
        Err(_) => false,
    }
}

/// Whether pods of the namespace `default` can be created: they need its service account.
pub(crate) async fn service_account(client: &Client) -> bool {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    accounts.get_opt("default").await.is_ok_and(|account| account.is_some())
}

/// Whether the kubelet of the real node answers, and says that it takes pods.
pub(crate) async fn kubelet(client: &Client) -> bool {
    let health = http::Request::get(format!("/api/v1/nodes/{}/proxy/healthz", nodes::REAL_NODE)).body(Vec::new());
    let Ok(request) = health else { return false };
    let nodes: Api<Node> = Api::all(client.clone());
    client.request_text(request).await.is_ok()
        && nodes.get(nodes::REAL_NODE).await.is_ok_and(|node| nodes::is_ready(&node))
}

/// Whether `count` nodes take pods.
pub(crate) async fn nodes(client: &Client, count: usize) -> bool {
    let nodes: Api<Node> = Api::all(client.clone());
    let list = nodes.list(&ListParams::default()).await;
    list.is_ok_and(|list| list.items.iter().filter(|node| nodes::is_ready(node)).count() >= count)
}
