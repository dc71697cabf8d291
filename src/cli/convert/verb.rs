//! The verb: files in, manifests on stdout, notes on stderr.

use std::io::Write;
use std::process::ExitCode;

use super::{Document, convert};
use crate::cli::manifest::{self, FileArgs, Format};
use crate::cli::{Error, Ordered};

/// Convert sets of OpenKruise and configurations of Tumblr's k8s-sidecar-injector
///
/// Notes on what has no equivalent go to stderr. Exit code 1: something could not be converted, or would be refused.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Exit code 1 if something could not be converted, or would be refused by the apiserver; the output is there anyway.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let documents = args.files.read("convert")?.into_iter();
    let documents: Vec<Document> =
        documents.map(|document| Document { file: document.path, value: document.body.value() }).collect();
    let conversion = convert(&documents).map_err(|error| Error::Input(error.to_string()))?;
    let sets: Vec<Ordered> = conversion.sets.into_iter().map(Ordered::from).collect();
    manifest::print(&sets, args.output)?;
    for note in conversion.notes {
        let _ = writeln!(std::io::stderr(), "{note}");
    }
    Ok(if conversion.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
