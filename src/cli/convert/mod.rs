//! `convert`: the manifests of other sidecar injectors become `SidecarSet`s of this operator.
//!
//! What has no equivalent here, or another meaning, is said in a note: one line that names the field and what to do.

mod kruise;
#[cfg(test)]
mod tests;
mod tumblr;

use std::collections::BTreeSet;
use std::fmt;
use std::process::ExitCode;

use kube::Resource;
use serde_json::{Map, Value, json};

use super::error::Error;
use super::manifest::{FileArgs, Format, print};
use super::ordered::Ordered;
use super::output::{self, UNCHECKED};
use super::schema::{Became, Misfit, Schema};
use super::workloads::{name_of, objects};
use crate::api::SidecarSet;
use crate::api::validate::validate;
use crate::core::revision::used_volumes;

/// The longest name of a set: it becomes part of a label key.
const MAX_NAME: usize = 63;

/// Convert sets of OpenKruise and configurations of Tumblr's k8s-sidecar-injector
///
/// Notes on what has no equivalent go to stderr. Exit code 1: something could not be converted, or would be refused.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// One document of the input.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file it stands in; Tumblr's `inherits` is a path relative to it.
    pub file: String,
    /// The document.
    pub value: Value,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Conversion {
    /// `sidecarset.dev/v1beta1` objects, those that were refused included.
    pub sets: Vec<Value>,
    /// What the person who converts must know.
    pub(crate) notes: Vec<Note>,
    /// True if something could not be converted, or the apiserver would refuse the result.
    pub(crate) failed: bool,
}

/// One line: `SidecarSet/log-agent: spec.namespace: what was done with the field, and what to do`.
#[derive(Debug)]
pub(crate) struct Note {
    subject: String,
    /// The field, in the source or in the result.
    path: String,
    message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.subject, self.path, self.message)
    }
}

/// The notes about one subject, in the order of its fields.
struct Notes {
    subject: String,
    list: Vec<Note>,
    /// The result is not usable as it stands.
    failed: bool,
}

impl Notes {
    fn about(subject: String) -> Self {
        Self { subject, list: Vec::new(), failed: false }
    }

    fn say(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.list.push(Note { subject: self.subject.clone(), path: path.into(), message: message.into() });
    }

    fn refuse(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.failed = true;
        self.say(path, message);
    }
}

/// The output is there also when something could not be converted.
pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let documents = args.files.read("convert")?.into_iter();
    let documents: Vec<Document> =
        documents.map(|document| Document { file: document.path, value: document.body.value() }).collect();
    let conversion = convert(&documents).map_err(Error::Input)?;
    let sets: Vec<Ordered> = conversion.sets.into_iter().map(Ordered::from).collect();
    print(&sets, args.output)?;
    conversion.notes.iter().for_each(output::note);
    if !sets.is_empty() {
        output::note(UNCHECKED);
    }
    Ok(if conversion.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Converts all documents. Tumblr configurations may inherit from each other, whatever their order. Objects of other kinds
/// that stand beside them are skipped, with a note.
///
/// # Errors
/// A document that may be meant for conversion and cannot be converted, a name that its injector refuses, or nothing to
/// convert; nothing is converted then.
pub fn convert(documents: &[Document]) -> Result<Conversion, String> {
    let (mut drafts, mut configurations, mut conversion) = (Vec::new(), Vec::new(), Conversion::default());
    let mut skipped = None;
    let objects =
        documents.iter().flat_map(|Document { file, value }| objects(value).into_iter().map(move |o| (file, o)));
    for (file, object) in objects {
        let version = object["apiVersion"].as_str().unwrap_or_default();
        match (version, object["kind"].as_str().unwrap_or_default()) {
            (kruise::V1ALPHA1 | kruise::V1BETA1, "SidecarSet") => drafts.push(kruise::convert(&object)),
            ("v1", "ConfigMap") => {
                let found = tumblr::of_config_map(file, &object, &mut conversion.notes)?;
                if found.is_empty() {
                    let what = format!("{} without a configuration of k8s-sidecar-injector", name_of(&object));
                    skipped.get_or_insert_with(|| not_convertible(file, &what));
                }
                configurations.extend(found);
            }
            ("", "") if object["name"].is_string() => configurations.push(tumblr::Configuration::new(file, object)?),
            ("", _) | (_, "") if object.is_object() => {
                return Err(not_convertible(file, "a document without apiVersion and kind"));
            }
            ("", _) | (_, "") => return Err(not_convertible(file, "a document that is no object")),
            (version, kind) => {
                let refusal = not_convertible(file, &format!("{kind} of {version}"));
                if kind == "SidecarSet" {
                    return Err(refusal);
                }
                let mut notes = Notes::about(name_of(&object));
                notes.say("kind", format!("{kind} of {version} is nothing that convert reads: skipped"));
                conversion.notes.extend(notes.list);
                skipped.get_or_insert(refusal);
            }
        }
    }
    drafts.extend(tumblr::convert(&configurations));
    if let Some(refusal) = skipped.filter(|_| drafts.is_empty()) {
        return Err(refusal);
    }
    let schema = Schema::of_spec();
    for draft in drafts {
        finish(draft, &schema, &mut conversion);
    }
    Ok(conversion)
}

fn not_convertible(file: &str, found: &str) -> String {
    format!(
        "{file}: cannot convert {found}; convert reads SidecarSets of apps.kruise.io/v1alpha1 and v1beta1, configurations \
         of Tumblr's k8s-sidecar-injector (with `name` at the top), ConfigMaps of such configurations, and Lists of all \
         these"
    )
}

/// A set as far as one source's rules made it.
struct Draft {
    metadata: Map<String, Value>,
    /// `None` if there is nothing to inject.
    spec: Option<Value>,
    notes: Notes,
}

/// What all sources need at the end: only fields of our schema, and the judgement of our validation.
fn finish(draft: Draft, schema: &Schema, conversion: &mut Conversion) {
    let Draft { metadata, spec, mut notes } = draft;
    if let Some(mut spec) = spec {
        pod_volumes(&mut spec);
        for Misfit { error, became } in schema.fit(&mut spec) {
            match became {
                Became::Removed => notes.say(error.path, format!("{}; dropped", error.message)),
                Became::Kept => notes.refuse(error.path, error.message),
                Became::Text => {}
            }
        }
        let (version, kind) = (SidecarSet::api_version(&()), SidecarSet::kind(&()));
        let set = json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec});
        judge(&set, &mut notes);
        let others = || conversion.sets.iter().filter(|other| other["metadata"]["name"] == set["metadata"]["name"]);
        if others().any(|other| *other == set) {
            notes.say("metadata.name", "stands in the input once more, with the same content: converted once");
        } else {
            if others().next().is_some() {
                let message =
                    "another set of the output has this name, and applying both keeps only the last: rename one";
                notes.refuse("metadata.name", message);
            }
            conversion.sets.push(set);
        }
    }
    conversion.failed |= notes.failed;
    conversion.notes.extend(notes.list);
}

/// With all sources a volume that the pod declares wins over one of the configuration; a mounted one may be the pod's alone.
fn pod_volumes(spec: &mut Value) {
    let containers = ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array());
    let mounted = containers.flatten().flat_map(used_volumes);
    let declared = spec["volumes"].as_array().into_iter().flatten().filter_map(|volume| volume["name"].as_str());
    let mut seen = BTreeSet::new();
    let names = declared.chain(mounted).filter(|name| seen.insert(*name)).map(|name| json!({"name": name}));
    let names: Vec<Value> = names.collect();
    if !names.is_empty() {
        spec["podVolumes"] = names.into();
    }
}

fn judge(set: &Value, notes: &mut Notes) {
    let set: SidecarSet = match serde_json::from_value(set.clone()) {
        Ok(set) => set,
        Err(error) => return notes.refuse("spec", format!("is not a SidecarSet: {error}")),
    };
    let warnings = match validate(&set) {
        Ok(valid) => valid.warnings().to_vec(),
        Err(problems) => {
            problems.errors.into_iter().for_each(|error| notes.refuse(error.path, error.message));
            problems.warnings
        }
    };
    for warning in warnings {
        let (path, message) = warning.split_once(": ").unwrap_or(("spec", &warning));
        notes.say(path, message);
    }
}

/// A name that Kubernetes accepts for an object, and for the second part of a label key.
fn valid_name(text: &str) -> String {
    let legal = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = text.to_lowercase().chars().map(legal).collect();
    name.trim_matches('-').chars().take(MAX_NAME).collect::<String>().trim_end_matches('-').to_owned()
}

/// Takes a field out of an object.
fn take(object: &mut Value, field: &str) -> Option<Value> {
    object.as_object_mut()?.remove(field).filter(|value| !value.is_null())
}

/// The entries of a list; none if it is absent.
fn entries<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}
