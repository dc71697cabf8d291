//! Reading a set as the apiserver and the operator's webhook would: what does not fit into the schema of our CRD, what the
//! CRD's own rules refuse, what validation says of the set by itself.
//!
//! A field that does not fit is refused by the apiserver, or dropped with a warning; who decodes it here would not see it
//! at all.

use serde_json::Value;

use crate::api::SidecarSet;
use crate::api::crd::crd;
use crate::api::validate::{FieldError, validate};

/// Where the schema of `spec` stands in the CRD.
const SPEC: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";

/// The set that a file holds, if it is valid by itself and every field is one that the schema knows.
pub(super) fn read(document: &Value) -> Result<SidecarSet, String> {
    let misfits = Schema::of_spec().fit(&mut document["spec"].clone());
    decode(document, misfits.into_iter().map(|misfit| misfit.error).chain(broken_rules(document)).collect())
}

/// The set in an object that the apiserver has taken, if validation takes it. Fields that the schema does not know are
/// left out.
pub(super) fn read_stored(document: &Value) -> Result<SidecarSet, String> {
    decode(document, Vec::new())
}

fn decode(document: &Value, mut errors: Vec<FieldError>) -> Result<SidecarSet, String> {
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    let mut document = document.clone();
    Schema::of_spec().fit(&mut document["spec"]);
    let set = serde_json::from_value::<SidecarSet>(document);
    match &set {
        Ok(set) => errors.extend(validate(set).err().into_iter().flat_map(|problems| problems.errors)),
        Err(error) => errors.push(FieldError::new("spec", error.to_string())),
    }
    set.ok().filter(|_| errors.is_empty()).ok_or_else(|| invalid(name, &errors))
}

/// The rules of the CRD that a file can break.
fn broken_rules(document: &Value) -> Vec<FieldError> {
    let (spec, selector) = (&document["spec"], &document["spec"]["selector"]);
    let rules = [
        (is_empty(&document["metadata"]["name"]), "metadata.name", "is required"),
        (
            is_empty(&selector["matchLabels"]) && is_empty(&selector["matchExpressions"]),
            "spec.selector",
            "must not be empty: write matchLabels or matchExpressions",
        ),
        (
            is_empty(&spec["containers"]) && is_empty(&spec["initContainers"]),
            "spec",
            "at least one entry in containers or initContainers is required",
        ),
    ];
    rules.into_iter().filter(|(broken, ..)| *broken).map(|(_, path, message)| FieldError::new(path, message)).collect()
}

/// Null, and what has no member, entry or letter.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        value => value.is_null(),
    }
}

/// Says what is wrong with a set, one line for each field.
pub(super) fn invalid(name: &str, errors: &[FieldError]) -> String {
    let lines: Vec<String> = errors.iter().map(|error| format!("  {error}")).collect();
    format!("SidecarSet {name:?} is invalid:\n{}", lines.join("\n"))
}

pub(super) struct Schema(Value);

/// A value that does not fit.
#[derive(Debug)]
pub(super) struct Misfit {
    pub(super) error: FieldError,
    pub(super) became: Became,
}

/// What was done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// It still stands there.
    Kept,
    Removed,
    /// A number where a string is wanted: it is one now.
    Text,
}

impl Schema {
    /// The schema of the CRD, or one that everything fits into.
    pub(super) fn of_spec() -> Self {
        // The CRD is built from our own types; a test says that it can be.
        let crd = crd().ok().and_then(|crd| serde_json::to_value(crd).ok());
        Self(crd.as_ref().and_then(|crd| crd.pointer(SPEC)).cloned().unwrap_or_default())
    }

    /// Removes the fields that the schema does not know, and nulls; writes numbers as strings where strings are wanted.
    pub(super) fn fit(&self, spec: &mut Value) -> Vec<Misfit> {
        let mut misfits = Vec::new();
        fit(spec, &self.0, "spec", &mut misfits);
        misfits
    }
}

/// False if the value must go.
fn fit(value: &mut Value, schema: &Value, path: &str, misfits: &mut Vec<Misfit>) -> bool {
    let misfit = |message: String, became| Misfit { error: FieldError::new(path, message), became };
    if write_as_string(value, schema) {
        misfits.push(misfit(format!("is a number, and must be a string: write {value}"), Became::Text));
    }
    if let Some(expected) = mismatch(value, schema) {
        misfits.push(misfit(format!("is {}, and must be {expected}", kind(value)), Became::Kept));
        return true;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        misfits.push(misfit(format!("{value} is none of {}", allowed.join(", ")), Became::Removed));
        return false;
    }
    match value {
        Value::Object(fields) => fields.retain(|key, field| {
            let path = format!("{path}.{key}");
            match member(schema, key) {
                Some(_) if field.is_null() => false,
                Some(schema) => fit(field, schema, &path, misfits),
                None => {
                    let error = FieldError::new(path, "is not a field of a SidecarSet: look for a typo");
                    misfits.push(Misfit { error, became: Became::Removed });
                    false
                }
            }
        }),
        Value::Array(list) => {
            let mut index = 0;
            list.retain_mut(|entry| {
                let path = format!("{path}[{index}]");
                index += 1;
                fit(entry, &schema["items"], &path, misfits)
            });
        }
        _ => {}
    }
    true
}

/// `None` for a field that the schema does not know; the null schema knows all.
fn member<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    match &schema["properties"] {
        Value::Object(properties) => properties.get(key),
        _ if schema.is_null() => Some(schema),
        _ => schema.get("additionalProperties"),
    }
}

/// Kubernetes reads `cpu: 0.5` of a pod where it means `"0.5"`; our schema wants the string. Returns whether it was a number.
fn write_as_string(value: &mut Value, schema: &Value) -> bool {
    let wanted = schema["type"] == "string" || (schema["x-kubernetes-int-or-string"] == true && !value.is_i64());
    let is_number = wanted && value.is_number();
    if is_number {
        *value = Value::String(value.to_string());
    }
    is_number
}

/// What the schema wants, if that is not what the value is.
fn mismatch(value: &Value, schema: &Value) -> Option<&'static str> {
    let (fits, expected) = if schema["x-kubernetes-int-or-string"] == true {
        (value.is_i64() || value.is_string(), "an integer or a string")
    } else {
        match schema["type"].as_str()? {
            "object" => (value.is_object(), "an object"),
            "array" => (value.is_array(), "a list"),
            "string" => (value.is_string(), "a string"),
            "boolean" => (value.is_boolean(), "true or false"),
            "integer" => (value.is_i64(), "an integer"),
            _ => (true, ""),
        }
    };
    (!fits).then_some(expected)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
