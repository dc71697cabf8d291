//! What `kubectl apply` makes of a manifest and the object in the cluster.
//!
//! For custom resources that is a three-way JSON merge patch of what was applied last, the live object and the manifest.
//! Seen with kubectl 1.32: what only the live object has stays, what was applied last and is in the manifest no more
//! goes, lists are replaced as a whole. A live object that was never applied loses nothing.

use kube::ResourceExt;
use serde_json::{Map, Value, json};

use crate::api::SidecarSet;
use crate::cli::error::Error;
use crate::cli::schema::{read, read_stored};

/// Where kubectl keeps the manifest that it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Longest value that is shown of a field; of others only the name.
const SHOWN_VALUE: usize = 60;

/// A set as a file has it.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// As it is written.
    pub(super) document: Value,
    /// By itself, with defaults.
    pub(super) set: SidecarSet,
}

/// The set after the manifest is applied.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The set, with what the cluster knows of it: its status and generation.
    pub set: SidecarSet,
    /// JSON merge patch (RFC 7386) that makes it from the live object; `None` if there is none.
    pub(crate) patch: Option<Value>,
    /// Fields that the manifest does not name and that differ from the defaults, as
    /// `spec.updateStrategy.paused=true`.
    pub(crate) kept: Vec<String>,
}

impl Manifest {
    /// Reads a set that is valid by itself.
    pub fn read(document: &Value) -> Result<Self, Error> {
        Ok(Self { set: read(document).map_err(Error::Input)?, document: document.clone() })
    }

    /// What applying it makes of the live object, if there is one. An error if the two together are invalid.
    pub fn applied_to(&self, live: Option<&SidecarSet>) -> Result<Applied, Error> {
        let Some(live) = live else {
            return Ok(Applied { set: self.set.clone(), patch: None, kept: Vec::new() });
        };
        let mut merged = value(live)?;
        let patch = Value::Object(three_way(&last_applied(live), &part(&merged), &part(&self.document)));
        json_patch::merge(&mut merged, &patch);
        let mut set = read_stored(&merged).map_err(Error::Input)?;
        if set.spec != live.spec {
            set.metadata.generation = live.metadata.generation.map(|generation| generation + 1);
        }
        let mut kept = Vec::new();
        differences("spec", &value(&self.set.spec)?, &value(&set.spec)?, &mut kept);
        Ok(Applied { set, patch: Some(patch), kept })
    }
}

/// The manifest that was applied last, or an empty one.
fn last_applied(live: &SidecarSet) -> Value {
    let text = live.annotations().get(LAST_APPLIED);
    text.and_then(|text| serde_json::from_str(text).ok()).map_or_else(|| json!({}), |document| part(&document))
}

/// What a manifest can change. kubectl writes its own annotation, so to it there are annotations in every manifest.
fn part(document: &Value) -> Value {
    let mut metadata = json!({"annotations": {}});
    for field in ["labels", "annotations"] {
        if let Some(value) = document["metadata"].get(field).filter(|value| !value.is_null()) {
            metadata[field] = value.clone();
        }
    }
    if let Some(annotations) = metadata["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    json!({"metadata": metadata, "spec": document["spec"]})
}

/// kubectl's merge patch. A null in the manifest removes what is there, unless it was applied before.
fn three_way(applied: &Value, live: &Value, file: &Value) -> Map<String, Value> {
    let mut patch = Map::new();
    let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
    for (key, wanted) in members(file) {
        let (before, now) = (applied.get(&key), live.get(&key));
        match now {
            _ if wanted.is_null() && before.is_some_and(Value::is_null) => {}
            Some(now) if now.is_object() && wanted.is_object() => {
                let deeper = three_way(before.unwrap_or(&Value::Null), now, &wanted);
                if !deeper.is_empty() {
                    patch.insert(key, Value::Object(deeper));
                }
            }
            Some(now) if *now == wanted => {}
            _ => drop(patch.insert(key, wanted)),
        }
    }
    let gone = members(applied).into_iter().filter(|(key, _)| file.get(key).is_none());
    patch.extend(gone.map(|(key, _)| (key, Value::Null)));
    patch
}

/// Fields of `merged` that are not what they are `alone`, with their values where these are short.
fn differences(path: &str, alone: &Value, merged: &Value, found: &mut Vec<String>) {
    match (alone, merged) {
        (Value::Object(alone), Value::Object(merged)) => {
            for (key, merged) in merged {
                let alone = alone.get(key).unwrap_or(&Value::Null);
                differences(&format!("{path}.{key}"), alone, merged, found);
            }
        }
        _ if alone == merged => {}
        _ => {
            let value = merged.to_string();
            found.push(if value.len() > SHOWN_VALUE { path.to_owned() } else { format!("{path}={value}") });
        }
    }
}

fn value<T: serde::Serialize>(of: &T) -> Result<Value, Error> {
    serde_json::to_value(of).map_err(|error| Error::Input(error.to_string()))
}

#[cfg(test)]
mod tests;
