//! `plan`: what applying a set would do to the pods of a cluster. Nothing is written.
//!
//! The answer comes from the operator's own functions, fed with what the cluster holds now.

mod decide;
mod gather;
mod render;
#[cfg(test)]
mod tests;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::Value;

pub use decide::{Action, Plan, Planner, Row, World};
pub use render::{Example, render};

use super::schema::Schema;
use crate::api::SidecarSet;
use crate::api::validate::{FieldError, validate};

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The document is not a set of ours.
    #[error("plan reads SidecarSets of sidecarset.dev/v1beta1, and this is {found}")]
    Kind {
        /// Its kind, or what stands in its place.
        found: String,
    },
    /// The set would be refused.
    #[error("SidecarSet {name:?} is invalid:{}", .errors.iter().map(|error| format!("\n  {error}")).collect::<String>())]
    Invalid {
        /// Name of the set.
        name: String,
        /// Each with the path of its field.
        errors: Vec<FieldError>,
    },
    /// The cluster did not answer a question.
    #[error("cannot {what}: {source}")]
    Cluster {
        /// What was asked.
        what: &'static str,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// A pod that this program cannot read.
    #[error("cannot read a pod: {0}")]
    Pod(#[from] serde_json::Error),
}

/// Plans one document. `pods` lists every pod in the text.
///
/// # Errors
/// An invalid set, or a cluster that does not answer.
pub async fn plan(client: &Client, document: &Value, now: Timestamp, pods: bool) -> Result<(Plan, String), Error> {
    let set = read(document)?;
    let world = gather::world(client, &set).await?;
    check(&set, &world)?;
    let mut planner = Planner::new(set, world, now).map_err(|(name, error)| invalid(&name, vec![error]))?;
    gather::pods(client, &mut planner).await?;
    let plan = planner.plan();
    let examples = gather::examples(client, &planner, &plan).await?;
    let text = render(&plan, &examples, pods);
    Ok((plan, text))
}

/// The set in a document, if it is valid by itself.
///
/// # Errors
/// Another kind; fields that the schema does not know; what validation refuses.
pub fn read(document: &Value) -> Result<SidecarSet, Error> {
    let text = |field: &str| document[field].as_str().unwrap_or_default();
    if (text("apiVersion"), text("kind")) != ("sidecarset.dev/v1beta1", "SidecarSet") {
        return Err(Error::Kind { found: format!("{:?} of {:?}", text("kind"), text("apiVersion")) });
    }
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    let mut document = document.clone();
    let misfits = Schema::of_spec().fit(&mut document["spec"]);
    let mut errors: Vec<FieldError> =
        misfits.into_iter().map(|misfit| FieldError { path: misfit.path, message: misfit.message }).collect();
    match serde_json::from_value::<SidecarSet>(document.clone()) {
        Ok(set) => {
            errors.extend(validate(&set).errors);
            if errors.is_empty() { Ok(set) } else { Err(invalid(name, errors)) }
        }
        Err(error) => {
            errors.push(FieldError { path: "spec".to_owned(), message: error.to_string() });
            Err(invalid(name, errors))
        }
    }
}

/// The set beside the other sets of the cluster.
fn check(set: &SidecarSet, world: &World) -> Result<(), Error> {
    let valid = world.others.iter().filter(|other| validate(other).errors.is_empty());
    let errors = crate::api::validate::conflicts(set, valid);
    if errors.is_empty() {
        return Ok(());
    }
    Err(invalid(set.metadata.name.as_deref().unwrap_or_default(), errors))
}

fn invalid(name: &str, errors: Vec<FieldError>) -> Error {
    Error::Invalid { name: name.to_owned(), errors }
}
