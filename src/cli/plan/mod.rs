//! `plan`: what applying a set would do to the pods of a cluster. Nothing is written.
//!
//! The answer comes from the operator's own functions, fed with what the cluster holds now.

mod decide;
mod gather;
mod render;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::process::ExitCode;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::Value;

pub use decide::{Action, Plan, Planner, Row, World};
pub use render::{Example, render};

use super::Error;
use super::cluster::ClusterArgs;
use super::manifest::FileArgs;
use super::schema::Schema;
use crate::api::SidecarSet;
use crate::api::validate::{FieldError, conflicts, validate};

/// Exit code if applying would change something, as `kubectl diff` has it.
pub const DIFFERENT: u8 = 1;

/// Exit code of an error, an invalid set included, as `kubectl diff` has it.
pub const FAILURE: u8 = 2;

/// Show what applying a set would do to the pods of the cluster; nothing is written
///
/// Exit code 0: applying changes nothing; 1: it changes something; 2: an error, or an invalid set.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Give every pod a line
    #[arg(long)]
    pods: bool,
}

/// Plans each document of the files by itself.
pub async fn run(args: &Args, cluster: &ClusterArgs) -> Result<ExitCode, Error> {
    let documents = args.files.read()?;
    let client = cluster.connect().await?.client;
    let mut differs = false;
    for document in documents {
        let (plan, text) = plan(&client, &document.body.value(), Timestamp::now(), args.pods).await?;
        differs |= plan.differs();
        std::io::stdout().write_all(text.as_bytes()).map_err(|error| Error::Write(error.to_string()))?;
    }
    Ok(if differs { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
}

/// Plans one document. With `pods`, the text has a line for every pod.
///
/// # Errors
/// Another kind, an invalid set, or a cluster that does not answer.
pub async fn plan(client: &Client, document: &Value, now: Timestamp, pods: bool) -> Result<(Plan, String), Error> {
    let set = read(document)?;
    let world = gather::world(client, &set).await?;
    check(&set, &world)?;
    let unchecked = gather::dry_run(client, &set, world.existing.as_ref()).await?;
    let mut planner = Planner::new(set, world, now).map_err(|(name, error)| invalid(&name, &[error]))?;
    gather::pods(client, &mut planner).await?;
    let plan = planner.plan();
    let examples = gather::examples(client, &planner, &plan).await?;
    let remark = unchecked.map(|why| format!("The apiserver did not check the set: {why}\n")).unwrap_or_default();
    let text = remark + &render(&plan, &examples, pods);
    Ok((plan, text))
}

/// The set in a document, if it is valid by itself.
///
/// # Errors
/// Another kind; fields that the schema does not know; what validation refuses.
pub fn read(document: &Value) -> Result<SidecarSet, Error> {
    let text = |field: &str| document[field].as_str().unwrap_or_default();
    if (text("apiVersion"), text("kind")) != ("sidecarset.dev/v1beta1", "SidecarSet") {
        let found = format!("{:?} of {:?}", text("kind"), text("apiVersion"));
        return Err(Error::Input(format!("plan reads SidecarSets of sidecarset.dev/v1beta1, and this is {found}")));
    }
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    let mut document = document.clone();
    let misfits = Schema::of_spec().fit(&mut document["spec"]);
    let mut errors: Vec<FieldError> =
        misfits.into_iter().map(|misfit| FieldError { path: misfit.path, message: misfit.message }).collect();
    match serde_json::from_value::<SidecarSet>(document.clone()) {
        Ok(set) => {
            errors.extend(validate(&set).errors);
            if errors.is_empty() { Ok(set) } else { Err(invalid(name, &errors)) }
        }
        Err(error) => {
            errors.push(FieldError { path: "spec".to_owned(), message: error.to_string() });
            Err(invalid(name, &errors))
        }
    }
}

/// The set beside the other sets of the cluster.
fn check(set: &SidecarSet, world: &World) -> Result<(), Error> {
    let valid = world.others.iter().filter(|other| validate(other).errors.is_empty());
    let errors = conflicts(set, valid);
    let name = set.metadata.name.as_deref().unwrap_or_default();
    if errors.is_empty() { Ok(()) } else { Err(invalid(name, &errors)) }
}

fn invalid(name: &str, errors: &[FieldError]) -> Error {
    let lines: Vec<String> = errors.iter().map(|error| format!("  {error}")).collect();
    Error::Input(format!("SidecarSet {name:?} is invalid:\n{}", lines.join("\n")))
}
