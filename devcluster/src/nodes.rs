//! The nodes, as kubelets would register them.

use std::net::Ipv4Addr;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::Error;
use crate::binaries::KUBERNETES_VERSION;

/// The name of the real node.
pub const REAL_NODE: &str = "node-real";
/// The label of the real node, and the key of the taint (`NoSchedule`) that keeps pods off it that do not ask for it.
pub const REAL: &str = "devcluster.sidecarset.dev/real";
/// Keeps pods that did not ask for it off a node with another kubelet version.
pub(crate) const OTHER_KUBELET: &str = "devcluster.sidecarset.dev/kubelet";

/// Registers `node-0`, `node-1`, … and one more node per extra kubelet version.
pub(crate) async fn register(client: &Client, count: usize, versions: &[String]) -> Result<(), Error> {
    let ordinary = (0..count).map(|index| (format!("node-{index}"), KUBERNETES_VERSION, false));
    let others = versions.iter().map(|version| (format!("node-{}", version.replace('.', "-")), version.as_str(), true));
    let nodes: Vec<Node> = ordinary
        .chain(others)
        .zip(1u32..)
        .map(|((name, version, tainted), index)| {
            node(&name, version, tainted, Ipv4Addr::from_bits(0x0A00_0000 + index))
        })
        .collect::<Result<_, _>>()
        .map_err(kube::Error::SerdeError)
        .map_err(Error::api("describe a node"))?;
    let api: Api<Node> = Api::all(client.clone());
    try_join_all(nodes.iter().map(async |node| match api.create(&PostParams::default(), node).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        result => result.map(drop),
    }))
    .await
    .map_err(Error::api("register the nodes"))?;
    Ok(())
}

fn node(name: &str, version: &str, tainted: bool, address: Ipv4Addr) -> serde_json::Result<Node> {
    let taints =
        if tainted { json!([{"key": OTHER_KUBELET, "value": version, "effect": "NoSchedule"}]) } else { Value::Null };
    // Large enough that only a test that means it runs out of room.
    let capacity = json!({"cpu": "1000", "memory": "4Ti", "ephemeral-storage": "4Ti", "pods": "10000"});
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", address.octets()[3] % 3),
            OTHER_KUBELET: version,
        }},
        "spec": {"taints": taints},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": address.to_string()}, {"type": "Hostname", "address": name}],
            "nodeInfo": {
                "kubeletVersion": version, "kubeProxyVersion": version, "containerRuntimeVersion": "sim://1.0.0",
                "architecture": "amd64", "operatingSystem": "linux", "osImage": "devcluster", "kernelVersion": "6.12.0",
                "machineID": name, "systemUUID": name, "bootID": name,
            },
        },
    }))
}

/// Whether a node takes ordinary pods: Ready, and without the taint that a new node starts with.
pub(crate) fn is_ready(node: &Node) -> bool {
    let status = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    status.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        && taints.iter().all(|taint| [OTHER_KUBELET, REAL].contains(&taint.key.as_str()))
}
