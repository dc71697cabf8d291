//! Fits a value into the schema of our CRD, and says what it had to leave out.
//!
//! The sources are decoded by programs that ignore unknown fields; our apiserver refuses them.

use serde_json::Value;

use super::notes::Notes;
use crate::api::crd::crd;

/// Where the schema of `spec` stands in the CRD.
const SPEC: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";

/// The schema of our `spec`, or null.
pub(super) fn of_spec() -> Value {
    // The CRD is built from our own types; a test says that it can be.
    let crd = crd().ok().and_then(|crd| serde_json::to_value(crd).ok());
    crd.as_ref().and_then(|crd| crd.pointer(SPEC)).cloned().unwrap_or_default()
}

/// Removes from a spec what our schema does not know.
pub(super) fn fit_spec(spec: &mut Value, schema: &Value, notes: &mut Notes) {
    fit(spec, schema, "spec", notes);
}

/// False if the value must go.
fn fit(value: &mut Value, schema: &Value, path: &str, notes: &mut Notes) -> bool {
    write_as_string(value, schema);
    if let Some(expected) = mismatch(value, schema) {
        notes.refuse(path, format!("is {}, and must be {expected}", kind(value)));
        return true;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        notes.say(path, format!("{value} is none of {}: dropped, so that the default holds", allowed.join(", ")));
        return false;
    }
    match value {
        Value::Object(fields) => fields.retain(|key, field| match member(schema, key) {
            Some(_) if field.is_null() => false,
            Some(schema) => fit(field, schema, &format!("{path}.{key}"), notes),
            None => {
                notes.say(format!("{path}.{key}"), "is not a field of a SidecarSet: dropped; look for a typo");
                false
            }
        }),
        Value::Array(list) => {
            let mut index = 0;
            list.retain_mut(|entry| {
                let path = format!("{path}[{index}]");
                index += 1;
                fit(entry, &schema["items"], &path, notes)
            });
        }
        _ => {}
    }
    true
}

fn member<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    match &schema["properties"] {
        Value::Object(properties) => properties.get(key),
        _ => schema.get("additionalProperties"),
    }
}

/// Kubernetes reads `cpu: 0.5` where it means `"0.5"`; our schema wants the string.
fn write_as_string(value: &mut Value, schema: &Value) {
    let wanted = schema["type"] == "string" || (schema["x-kubernetes-int-or-string"] == true && !value.is_i64());
    if wanted && value.is_number() {
        *value = Value::String(value.to_string());
    }
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
