//! `uninject`: manifests without what injection added to them.

use std::process::ExitCode;

use super::error::Error;
use super::manifest::{FileArgs, Format, print};
use super::output::note;
use super::workloads::{pods, unread};
use crate::core::inject::uninject::{marks, uninject};

/// Remove injected sidecars from manifests.
///
/// Works by the marks that injection leaves in labels and annotations, for the output of `inject` as for pods that the
/// operator injected. Comments of the input are lost.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let mut bodies = Vec::new();
    for document in args.files.read("uninject")? {
        let mut value = document.body.value();
        unread(&value).into_iter().for_each(note);
        for (owner, pod) in pods(&mut value) {
            for set in marks(pod).keys() {
                note(format_args!("{owner}: {set} Removed"));
            }
            json_patch::patch(pod, &uninject(pod)).map_err(|error| Error::Input(format!("{owner}: {error}")))?;
        }
        bodies.push(document.body.arrange(value));
    }
    print(&bodies, args.output)
}
