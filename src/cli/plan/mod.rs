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

use std::io::Write;
use std::process::ExitCode;

pub(crate) use apply::Applied;
pub use apply::Manifest;
pub(crate) use decide::{Plan, Planner, World};
use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt};
pub(crate) use render::{Example, render};

use super::cluster::ClusterArgs;
use super::manifest::{Document, FileArgs, name_of};
use super::schema::invalid;
use super::sets::is_set;
use super::workloads::for_each_object;
use super::{Error, Say, say};
use crate::api::validate::{ValidSidecarSet, conflicts, validate};
use crate::api::{SidecarSet, keys};

/// Exit code if applying would change something, as `kubectl diff` has it.
pub(crate) const DIFFERENT: u8 = 1;

/// Exit code of an error, an invalid set included, as `kubectl diff` has it.
pub(crate) const FAILURE: u8 = 2;

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

/// Plans each set of the files, beside the others of the files.
pub async fn run(args: &Args, cluster: &ClusterArgs) -> Result<ExitCode, Error> {
    let manifests = manifests(&args.files.read("plan")?)?;
    let client = cluster.connect().await?.client;
    let mut differs = false;
    for manifest in &manifests {
        let beside: Vec<&Manifest> = manifests.iter().filter(|other| other.name() != manifest.name()).collect();
        let (plan, text) = plan(&client, manifest, &beside, Timestamp::now(), args.pods).await?;
        differs |= plan.differs();
        std::io::stdout().write_all(text.as_bytes()).map_err(|error| Error::Write(error.to_string()))?;
    }
    Ok(if differs { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
}

/// The sets of the input; what else is there is named on stderr.
fn manifests(documents: &[Document]) -> Result<Vec<Manifest>, Error> {
    let mut sets = Vec::new();
    for Document { path, body } in documents {
        for_each_object(&body.value(), &mut |object| {
            if object["kind"].as_str().is_none_or(str::is_empty) {
                sets.push(Err(Error::Input(format!("{path}: a document has no kind"))));
            } else if is_set(object) {
                sets.push(Manifest::read(object));
            } else {
                say(Say::Note, &format!("skipped {}", name_of(object)));
            }
        });
    }
    if sets.is_empty() {
        return Err(Error::Input(format!("plan reads SidecarSets of {}/v1beta1, and the input has none", keys::GROUP)));
    }
    sets.into_iter().collect()
}

/// Plans one set as if the others of the input were applied, too. With `pods`, the text has a line for every pod.
///
/// # Errors
/// A set that conflicts with others, or a cluster that does not answer or refuses the set.
pub async fn plan(
    client: &Client,
    manifest: &Manifest,
    beside: &[&Manifest],
    now: Timestamp,
    pods: bool,
) -> Result<(Plan, String), Error> {
    let sets = gather::sets(client).await?;
    let apply = |manifest: &Manifest| manifest.applied_to(sets.iter().find(|set| set.name_any() == manifest.name()));
    let Applied { set, patch, kept } = apply(manifest)?;
    let valid = validate(&set).map_err(|problems| Error::Input(invalid(&manifest.name(), &problems.errors)))?;
    for warning in valid.warnings() {
        say(Say::Warning, &format!("SidecarSet {:?}: {warning}", valid.name()));
    }
    let beside: Vec<SidecarSet> = beside.iter().map(|other| Ok(apply(other)?.set)).collect::<Result<_, Error>>()?;
    let mut world = gather::world(client, &set, sets).await?;
    let fits_as_it_is = check(&valid, &world).is_ok();
    world.suppose(&beside);
    check(&valid, &world)?;
    let answer = gather::dry_run(client, manifest, patch.as_ref()).await;
    // The file alone does not show what the apiserver refuses then.
    let tell = |_: &Error| kept.iter().for_each(|field| say(Say::Note, &format!("kept from the live object: {field}")));
    let remark = remark(answer, fits_as_it_is).inspect_err(tell)?;
    let mut planner = Planner::new(&valid, world, now);
    gather::pods(client, &mut planner).await?;
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
fn check(set: &ValidSidecarSet, world: &World) -> Result<(), Error> {
    let errors = conflicts(set, &world.valid_others());
    if errors.is_empty() { Ok(()) } else { Err(Error::Input(invalid(set.name(), &errors))) }
}
