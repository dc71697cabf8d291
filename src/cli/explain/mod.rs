//! `explain`: which sets match a pod, what each did to it or why not, and the order in which its containers start.

mod order;
mod outcomes;

use std::process::ExitCode;

use kube::api::GetParams;
use kube::core::Request;
use order::Start;
use outcomes::{SetLine, View};
use serde::Serialize;
use serde_json::Value;

use super::cluster::ClusterArgs;
use super::error::Error;
use super::manifest::{Format, print};
use super::output::{table, write};
use super::sets::{OperatorArgs, Sets, fetch_namespace};

/// Explain the sidecars of a pod: which sets match, what each did or why not, and the start order.
///
/// The reasons are those of the operator's webhook, found by asking the same code about the pod as it was created.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
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
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    namespace: String,
    pod: String,
    sets: Vec<SetLine>,
    start_order: Vec<Start>,
}

pub(super) async fn run(args: &Args, cluster: &ClusterArgs) -> Result<ExitCode, Error> {
    let name = pod_name(&args.pod)?;
    let cluster = cluster.connect().await?;
    let (client, namespace) = (&cluster.client, cluster.namespace.clone());
    let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
    let request = request.get(name, &GetParams::default()).map_err(|error| Error::Input(error.to_string()))?;
    let pod: Value = client.request(request).await?;
    let sets = Sets::fetch(&cluster, &args.operator).await?;
    let view = View {
        pod: &pod,
        namespace: &namespace,
        namespace_labels: &fetch_namespace(client, &namespace).await?,
        sets: &sets,
        excluded: &args.operator.excluded(),
    };
    let (lines, start_order) = (outcomes::explain(&view, args.all), order::start_order(&pod, &sets.all));
    let explanation = Explanation { pod: name.to_owned(), sets: lines, start_order, namespace };
    if let Some(format) = args.output {
        return print(&[explanation], format);
    }
    write(&text(&explanation))?;
    Ok(ExitCode::SUCCESS)
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
    let or_none = |text: Option<&String>| text.cloned().unwrap_or_else(|| "<none>".to_owned());
    let of_set = |line: &SetLine| {
        let (revision, target) = (or_none(line.revision.as_ref()), or_none(line.target.as_ref()));
        [line.set.clone(), line.reason.to_string(), revision, target, line.message.clone()]
    };
    let of_container = |(i, start): (usize, &Start)| {
        let depends_on = start.describe_dependencies(start_order);
        let depends_on = or_none(Some(&depends_on).filter(|names| !names.is_empty()));
        let (number, kind, set) = ((i + 1).to_string(), start.kind.describe(start.hot), or_none(start.set.as_ref()));
        [number, start.container.clone(), kind, set, start.next_starts_when.to_owned(), depends_on]
    };
    let rows: Vec<_> = sets.iter().map(of_set).collect();
    let sets = if rows.is_empty() {
        format!("No SidecarSet selects pod {pod} in namespace {namespace}; --all shows why.\n")
    } else {
        table(["SET", "RESULT", "REVISION", "TARGET", "MESSAGE"], &rows)
    };
    let rows: Vec<_> = start_order.iter().enumerate().map(of_container).collect();
    sets + "\n" + &table(["START", "CONTAINER", "TYPE", "SET", "NEXT STARTS WHEN", "DEPENDS ON"], &rows)
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
