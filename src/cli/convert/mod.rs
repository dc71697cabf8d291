//! `convert`: the manifests of other sidecar injectors become `SidecarSet`s of this operator.
//!
//! Values in, values out. What has no equivalent here, or another meaning, is said in a note: one line that names the
//! field and what to do.

mod kruise;
mod notes;
#[cfg(test)]
mod tests;
mod tumblr;
mod verb;

use kube::Resource;
pub(crate) use notes::Note;
use notes::Notes;
use serde_json::{Map, Value, json};
pub(crate) use verb::{Args, run};

use super::schema::{Misfit, Schema};
use crate::api::SidecarSet;
use crate::api::validate::{Problems, validate};

/// One document of the input.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The file it stands in; Tumblr's `inherits` is a path relative to it.
    pub file: String,
    /// The document.
    pub value: Value,
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversion {
    /// `sidecarset.dev/v1beta1` objects, those that were refused included.
    pub sets: Vec<Value>,
    /// What the person who converts must know.
    pub(crate) notes: Vec<Note>,
    /// True if something could not be converted, or the apiserver would refuse the result.
    pub(crate) failed: bool,
}

/// Why there is nothing to convert.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A document of another kind.
    #[error(
        "{file}: cannot convert {found}; convert reads SidecarSets of apps.kruise.io/v1alpha1 and v1beta1, \
         configurations of Tumblr's k8s-sidecar-injector (with `name` at the top), ConfigMaps of such configurations, \
         and Lists of all these"
    )]
    Kind {
        /// The file of the document.
        file: String,
        /// Its kind, or what stands in its place.
        found: String,
    },
    /// A name that Tumblr's injector refuses too.
    #[error("{file}: name: {name:?} is neither `name` nor `name:version`")]
    Name {
        /// The file of the document.
        file: String,
        /// The name.
        name: String,
    },
}

/// Converts all documents. Tumblr configurations may inherit from each other, whatever their order.
///
/// # Errors
/// A document that is none of the accepted kinds; nothing is converted then.
pub fn convert(documents: &[Document]) -> Result<Conversion, Error> {
    let mut drafts = Vec::new();
    let mut configurations = Vec::new();
    let mut notes = Vec::new();
    for Document { file, value } in documents.iter().flat_map(flatten) {
        let kind = (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default());
        match kind {
            (kruise::V1ALPHA1 | kruise::V1BETA1, "SidecarSet") => drafts.push(kruise::convert(&value)),
            ("v1", "ConfigMap") => configurations.extend(tumblr::of_config_map(&file, &value, &mut notes)?),
            ("", "") if value["name"].is_string() => configurations.push(tumblr::Configuration::new(&file, value)?),
            _ => return Err(Error::Kind { file, found: found(&value) }),
        }
    }
    drafts.extend(tumblr::convert(&configurations));
    let mut conversion = Conversion { notes, ..Conversion::default() };
    let schema = Schema::of_spec();
    for draft in drafts {
        finish(draft, &schema, &mut conversion);
    }
    Ok(conversion)
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
        for Misfit { path, message, removed } in schema.fit(&mut spec) {
            if removed {
                notes.say(path, format!("{message}; dropped"));
            } else {
                notes.refuse(path, message);
            }
        }
        let set = json!({
            "apiVersion": SidecarSet::api_version(&()), "kind": SidecarSet::kind(&()), "metadata": metadata, "spec": spec,
        });
        judge(&set, &mut notes);
        conversion.sets.push(set);
    }
    conversion.failed |= notes.failed;
    conversion.notes.extend(notes.into_list());
}

fn judge(set: &Value, notes: &mut Notes) {
    let set: SidecarSet = match serde_json::from_value(set.clone()) {
        Ok(set) => set,
        Err(error) => return notes.refuse("spec", format!("is not a SidecarSet: {error}")),
    };
    let Problems { errors, warnings } = match validate(&set) {
        Ok(valid) => Problems { errors: Vec::new(), warnings: valid.warnings().to_vec() },
        Err(problems) => problems,
    };
    for error in errors {
        notes.refuse(error.path, error.message);
    }
    for warning in warnings {
        match warning.split_once(": ") {
            Some((path, message)) => notes.say(path, message),
            None => notes.say("spec", warning),
        }
    }
}

/// The members of a List, or the document itself.
fn flatten(document: &Document) -> Vec<Document> {
    let is_list = document.value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    match &document.value["items"] {
        Value::Array(items) if is_list => {
            let one = |item: &Value| Document { file: document.file.clone(), value: item.clone() };
            items.iter().map(one).flat_map(|item| flatten(&item)).collect()
        }
        _ => vec![document.clone()],
    }
}

fn found(value: &Value) -> String {
    match (value["apiVersion"].as_str(), value["kind"].as_str()) {
        (Some(version), Some(kind)) => format!("{kind} of {version}"),
        _ if value.is_object() => "a document without apiVersion and kind".to_owned(),
        _ => "a document that is no object".to_owned(),
    }
}

/// The longest name of a set: it becomes part of a label key.
const MAX_NAME: usize = 63;

/// A name that Kubernetes accepts for an object, and for the second part of a label key.
fn valid_name(text: &str) -> String {
    let lower = text.to_lowercase();
    let legal = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = lower.chars().map(legal).collect();
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
