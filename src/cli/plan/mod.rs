//! `plan`: what applying a set would do to the pods of a cluster. Nothing is written.
//!
//! The answer comes from the operator's own functions, fed with what the cluster holds now.

mod apply;
mod decide;
mod evict;
mod gather;
mod render;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use apply::Applied;
pub use apply::Manifest;
use decide::{ClusterSnapshot, Plan, Planner};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use render::{Example, render};

use super::cluster::{ClusterArgs, list};
use super::error::Error;
use super::manifest::{Document, FileArgs};
use super::output::{note, warn, write};
use super::schema::invalid;
use super::sets::{conflict, is_set, tell_warnings};
use super::workloads::{name_of, objects};
use crate::api::validate::{Problems, ValidSidecarSet, validate};
use crate::api::{SidecarSet, keys};
use crate::runtime::dry_run;

/// Exit codes as `kubectl diff` has them: applying would change something; an error, an invalid set included.
const DIFFERENT: u8 = 1;
pub(super) const FAILURE: u8 = 2;

/// Show what applying a set would do to the pods of the cluster; nothing is written
///
/// Exit code 0: applying changes nothing; 1: it changes something; 2: an error, or an invalid set.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Give every pod a line
    #[arg(long)]
    pods: bool,
}

/// Plans each set of the files, beside the others of the files.
pub(super) async fn run(args: &Args, cluster: &ClusterArgs) -> Result<ExitCode, Error> {
    let manifests = manifests(&args.files.read("plan")?)?;
    let client = cluster.connect().await?.client;
    let mut differs = false;
    for manifest in &manifests {
        let name = manifest.set.name_any();
        let beside: Vec<&Manifest> = manifests.iter().filter(|other| other.set.name_any() != name).collect();
        let (plan, text) = plan(&client, manifest, &beside, Timestamp::now(), args.pods).await?;
        differs |= plan.differs();
        write(&text)?;
    }
    Ok(if differs { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
}

/// The sets of the input; what else is there is named on stderr.
fn manifests(documents: &[Document]) -> Result<Vec<Manifest>, Error> {
    let mut sets = Vec::new();
    for Document { path, body } in documents {
        for object in objects(&body.value()) {
            if object["kind"].as_str().is_none_or(str::is_empty) {
                sets.push(Err(Error::Input(format!("{path}: a document has no kind"))));
            } else if is_set(&object) {
                sets.push(Manifest::read(&object));
            } else {
                note(format_args!("skipped {}", name_of(&object)));
            }
        }
    }
    if sets.is_empty() {
        return Err(Error::Input(format!("plan reads SidecarSets of {}/v1beta1, and the input has none", keys::GROUP)));
    }
    sets.into_iter().collect()
}

/// Plans one set as if the others of the input were applied, too. With `pods`, the text has a line for every pod.
async fn plan(
    client: &Client,
    manifest: &Manifest,
    beside: &[&Manifest],
    now: Timestamp,
    pods: bool,
) -> Result<(Plan, String), Error> {
    let sets: Vec<SidecarSet> = list(&Api::all(client.clone()), ListParams::default()).await?;
    let live = |manifest: &Manifest| sets.iter().find(|set| set.name_any() == manifest.set.name_any());
    let Applied { set, patch, kept } = manifest.applied_to(live(manifest))?;
    let valid = validate(&set).map_err(|problems| Error::Input(invalid(&set.name_any(), &problems.errors)))?;
    tell_warnings(&valid);
    let old = live(manifest).and_then(|old| validate(old).ok());
    let Problems { errors, warnings } = dry_run::problems(client, &valid, old.as_ref()).await;
    if !errors.is_empty() {
        return Err(Error::Input(invalid(valid.name(), &errors)));
    }
    for warning in warnings {
        warn(format_args!("SidecarSet {:?}: {warning}", valid.name()));
    }
    let beside = beside.iter().map(|other| Ok(other.applied_to(live(other))?.set));
    let beside: Vec<SidecarSet> = beside.collect::<Result<_, Error>>()?;
    let mut world = gather::world(client, &set, sets).await?;
    let fits_as_it_is = check(&valid, &world).is_ok();
    world.suppose(&beside);
    check(&valid, &world)?;
    let answer = gather::dry_run(client, manifest, patch.as_ref()).await;
    // The file alone does not show what the apiserver refuses then.
    let tell = |_: &Error| kept.iter().for_each(|field| note(format_args!("kept from the live object: {field}")));
    let remark = remark(answer, fits_as_it_is).inspect_err(tell)?;
    let mut planner = Planner::new(&valid, world, now);
    gather::pods(client, &mut planner, &set).await?;
    let plan = Plan { kept, ..planner.plan() };
    let examples = gather::examples(client, &planner, &plan).await?;
    let text = remark + &render(&plan, &examples, pods);
    Ok((plan, text))
}

/// What to say about the dry run. The apiserver does not know the other sets of the input: its refusal is no error where
/// the set needs them.
fn remark(answer: Result<Option<String>, Error>, fits_as_it_is: bool) -> Result<String, Error> {
    match answer {
        Ok(None) => Ok(String::new()),
        Ok(Some(why)) => Ok(format!("The apiserver did not check the set: {why}\n")),
        Err(Error::Api(kube::Error::Api(status))) if !fits_as_it_is => {
            Ok(format!("The apiserver refuses the set until the others of the input are applied: {}\n", status.message))
        }
        Err(error) => Err(error),
    }
}

/// The set beside the other sets.
fn check(set: &ValidSidecarSet, world: &ClusterSnapshot) -> Result<(), Error> {
    conflict(set, &world.valid_others()).map_or(Ok(()), |why| Err(Error::Input(why)))
}
