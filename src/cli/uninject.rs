//! `uninject`: manifests without what injection added to them.

use super::error::Error;
use super::manifest::{FileArgs, Format, print};
use super::ordered::Ordered;
use super::workloads::for_each_pod;
use super::{Say, say};
use crate::core::inject::uninject::{marks, uninject};

/// Remove injected sidecars from manifests.
///
/// Works by the marks that injection leaves in labels and annotations, for the output of `inject` as for pods that the
/// operator injected. Comments of the input are lost.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UninjectArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs the verb.
pub fn run(args: &UninjectArgs) -> Result<(), Error> {
    let mut bodies = Vec::new();
    for document in args.files.read("uninject")? {
        bodies.push(without_sidecars(&document.body)?);
    }
    print(&bodies, args.output)
}

fn without_sidecars(body: &Ordered) -> Result<Ordered, Error> {
    let mut value = body.value();
    for_each_pod(&mut value, &mut |owner, pod| {
        for set in marks(pod).keys() {
            say(Say::Note, &format!("{owner}: {set} Removed"));
        }
        json_patch::patch(pod, &uninject(pod)).map_err(|error| Error::Input(format!("{owner}: {error}")))
    })?;
    Ok(body.arrange(value))
}
