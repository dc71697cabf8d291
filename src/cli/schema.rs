//! What in a `spec` does not fit into the schema of our CRD.
//!
//! The apiserver refuses such a field, or drops it with a warning; who decodes it here would not see it at all.

use serde_json::Value;

use crate::api::crd::crd;

/// Where the schema of `spec` stands in the CRD.
const SPEC: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";

/// The schema of `spec`.
#[derive(Debug)]
pub(super) struct Schema(Value);

/// A value that does not fit.
#[derive(Debug)]
pub(super) struct Misfit {
    /// The field.
    pub(super) path: String,
    /// What is wrong.
    pub(super) message: String,
    /// It was taken out; otherwise it still stands there.
    pub(super) removed: bool,
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
    let mut say = |path: String, message: String, removed| misfits.push(Misfit { path, message, removed });
    write_as_string(value, schema);
    if let Some(expected) = mismatch(value, schema) {
        say(path.to_owned(), format!("is {}, and must be {expected}", kind(value)), false);
        return true;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        say(path.to_owned(), format!("{value} is none of {}", allowed.join(", ")), true);
        return false;
    }
    match value {
        Value::Object(fields) => fields.retain(|key, field| {
            let path = format!("{path}.{key}");
            match member(schema, key) {
                Some(_) if field.is_null() => false,
                Some(schema) => fit(field, schema, &path, misfits),
                None => {
                    let message = "is not a field of a SidecarSet: look for a typo".to_owned();
                    misfits.push(Misfit { path, message, removed: true });
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
