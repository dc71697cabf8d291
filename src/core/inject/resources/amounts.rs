//! Reading limits and requests as Kubernetes does.

use serde_json::Value;

use super::Unfit;
use crate::api::quantity::{Quantity, Resource};

/// The limit of a container, or of a pod if `owner` is its spec. A limit of 0 is none, as the kubelet reads it.
pub(super) fn limit(owner: &Value, resource: Resource) -> Result<Option<Quantity>, Unfit> {
    Ok(read(owner, "limits", resource)?.filter(|limit| limit.is_positive()))
}

/// The request of a container. Without one it is the limit: the apiserver says so before it calls a webhook, but has
/// not seen a template yet (`SetDefaults_Pod` in `k8s.io/kubernetes/pkg/apis/core/v1`).
pub(super) fn request(container: &Value, resource: Resource) -> Result<Option<Quantity>, Unfit> {
    match read(container, "requests", resource)? {
        Some(request) => Ok(Some(request)),
        None => read(container, "limits", resource),
    }
}

/// What is written, without any default.
pub(super) fn read(owner: &Value, list: &str, resource: Resource) -> Result<Option<Quantity>, Unfit> {
    let value = &owner["resources"][list][resource.name()];
    let quantity = match value {
        Value::Null => return Ok(None),
        Value::String(text) => Quantity::parse(text),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => None,
    };
    quantity.map(Some).ok_or_else(|| Unfit::NotAQuantity {
        owner: owner["name"].as_str().map_or_else(|| "the pod".to_owned(), |name| format!("container {name:?}")),
        field: format!("{list}.{}", resource.name()),
        text: value.to_string(),
    })
}

/// All containers of a pod that are counted, in the order in which they start.
pub(super) fn containers<'a>(pod: &'a Value, counts: &impl Fn(&str) -> bool) -> impl Iterator<Item = &'a Value> {
    ["initContainers", "containers"]
        .into_iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
        .filter(|container| counts(container["name"].as_str().unwrap_or_default()))
}

/// What the pod needs when it needs most: all that run together, or an init container and the native sidecars in front
/// of it. `None` if no container names an amount. `AggregateContainerRequests` in `k8s.io/component-helpers/resource`.
pub(super) fn peak(
    pod: &Value,
    counts: &impl Fn(&str) -> bool,
    amount: impl Fn(&Value) -> Result<Option<Quantity>, Unfit>,
) -> Result<Option<Quantity>, Unfit> {
    let init = pod["spec"]["initContainers"].as_array().map_or(0, Vec::len);
    let is_plain_init = |index: usize, container: &Value| index < init && container["restartPolicy"] != "Always";
    let (mut running, mut starting) = (None, None);
    for (index, container) in containers(pod, &|_| true).enumerate() {
        if !counts(container["name"].as_str().unwrap_or_default()) {
            continue;
        }
        let together = sum(running, amount(container)?);
        if is_plain_init(index, container) {
            starting = starting.max(together);
        } else {
            running = together;
        }
    }
    Ok(running.max(starting))
}

/// The sum of what is there.
pub(super) fn sum(a: Option<Quantity>, b: Option<Quantity>) -> Option<Quantity> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.plus(b)),
        (a, b) => a.or(b),
    }
}
