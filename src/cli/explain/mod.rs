//! `explain`: which sets match a pod, what each did to it or why not, and the order in which its containers start.

mod order;
mod outcomes;

use std::io::Write;

use kube::api::GetParams;
use kube::core::Request;
use order::Start;
use outcomes::{SetLine, View};
use serde::Serialize;
use serde_json::Value;

use super::cluster::ClusterArgs;
use super::error::Error;
use super::manifest::{Format, print};
use super::sets::{OperatorArgs, Sets, fetch_namespace};
use super::table::table;

/// Explain the sidecars of a pod: which sets match, what each did or why not, and the start order.
///
/// The reasons are those of the operator's webhook, found by asking the same code about the pod as it was created.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// NAME or pod/NAME
    #[arg(value_name = "POD")]
    pod: String,
    /// Also show the sets that do not select the pod, with the requirement that it does not meet
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    operator: OperatorArgs,
    /// Output format, instead of tables
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// All that is to be said about a pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    namespace: String,
    pod: String,
    sets: Vec<SetLine>,
    start_order: Vec<Start>,
}

/// Runs the verb.
pub async fn run(args: ExplainArgs, cluster: &ClusterArgs) -> Result<(), Error> {
    let name = pod_name(&args.pod)?;
    let cluster = cluster.connect().await?;
    let namespace = cluster.namespace.clone();
    let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
    let request = request.get(name, &GetParams::default()).map_err(|error| Error::Input(error.to_string()))?;
    let pod: Value = cluster.client.request(request).await?;
    let sets = Sets::fetch(&cluster, &args.operator).await?;
    let namespace_labels = fetch_namespace(&cluster, &namespace).await?;
    let view = View {
        pod: &pod,
        namespace: &namespace,
        namespace_labels: &namespace_labels,
        sets: &sets,
        excluded: &args.operator.excluded(),
    };
    let explanation = Explanation {
        sets: outcomes::explain(&view, args.all),
        start_order: order::start_order(&pod, &sets.all),
        pod: name.to_owned(),
        namespace: namespace.clone(),
    };
    if let Some(format) = args.output {
        return print([&explanation], format);
    }
    std::io::stdout().write_all(text(&explanation).as_bytes()).map_err(|error| Error::Write(error.to_string()))
}

fn pod_name(argument: &str) -> Result<&str, Error> {
    let name = match argument.split_once('/') {
        None => argument,
        Some(("pod" | "pods" | "po", name)) => name,
        Some((kind, _)) => {
            return Err(Error::Input(format!("explain takes a pod, not a {kind}: write NAME or pod/NAME")));
        }
    };
    if name.is_empty() { Err(Error::Input("write the name of a pod: NAME or pod/NAME".to_owned())) } else { Ok(name) }
}

fn text(explanation: &Explanation) -> String {
    let Explanation { namespace, pod, sets, start_order } = explanation;
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "<none>".to_owned());
    let mut parts = Vec::new();
    if sets.is_empty() {
        parts.push(format!("No SidecarSet selects pod {pod} in namespace {namespace}; --all shows why.\n"));
    } else {
        let rows: Vec<_> = sets
            .iter()
            .map(|line| {
                [
                    line.set.clone(),
                    line.reason.to_string(),
                    or_none(&line.revision),
                    or_none(&line.target),
                    line.message.clone(),
                ]
            })
            .collect();
        parts.push(table(["SET", "RESULT", "REVISION", "TARGET", "MESSAGE"], &rows));
    }
    let rows: Vec<_> = start_order
        .iter()
        .enumerate()
        .map(|(i, start)| {
            [
                (i + 1).to_string(),
                start.container.clone(),
                start.kind.describe(start.hot),
                or_none(&start.set),
                start.next_starts_when.to_owned(),
                or_none(&(!start.depends_on.is_empty()).then(|| start.describe_dependencies(start_order))),
            ]
        })
        .collect();
    parts.push(table(["START", "CONTAINER", "TYPE", "SET", "NEXT STARTS WHEN", "DEPENDS ON"], &rows));
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_as_for_kubectl() {
        assert_eq!(pod_name("web").unwrap(), "web");
        assert_eq!(pod_name("pod/web").unwrap(), "web");
        assert!(pod_name("deployment/web").is_err() && pod_name("pod/").is_err());
    }
}
