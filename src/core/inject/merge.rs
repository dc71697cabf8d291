//! Bringing a container that is already ours to what its set wants, field by field: what we render is set, what other
//! admission plugins added (token mounts, `LimitRange` defaults, foreign env) stays.

use serde_json::Value;

use crate::api::quantity::Quantity;

/// Lists of a container whose elements are told apart by these fields.
const KEYED_LISTS: [(&str, &[&str]); 6] = [
    ("env", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("ports", &["containerPort", "protocol"]),
    ("resizePolicy", &["resourceName"]),
    ("envFrom", &["prefix", "configMapRef", "secretRef"]),
];

/// Objects of a container that are merged by member; others are one choice and are replaced as a whole.
const MERGED: [&str; 4] = ["resources", "limits", "requests", "securityContext"];

/// Fields below which values are quantities: the apiserver respells them.
const QUANTITIES: [&str; 5] = ["limits", "requests", "sizeLimit", "divisor", "storage"];

pub(super) fn merge(have: &mut Value, want: &Value) {
    merge_fields(have, want, false);
}

fn merge_fields(have: &mut Value, want: &Value, quantities: bool) {
    let (Some(have), Some(want)) = (have.as_object_mut(), want.as_object()) else { return };
    for (field, want) in want {
        let quantities = quantities || QUANTITIES.contains(&field.as_str());
        let keys = KEYED_LISTS.iter().find(|(list, _)| list == field).map(|(_, keys)| *keys);
        match have.get_mut(field) {
            None if want.as_object().is_some_and(serde_json::Map::is_empty) => {}
            None => {
                have.insert(field.clone(), want.clone());
            }
            Some(value) if covers(value, want, quantities) => {}
            Some(Value::Array(list)) if keys.is_some() && want.is_array() => {
                merge_list(list, want.as_array().map_or(&[], Vec::as_slice), keys.unwrap_or_default());
            }
            Some(value) if MERGED.contains(&field.as_str()) && value.is_object() => {
                merge_fields(value, want, quantities);
            }
            Some(value) => *value = want.clone(),
        }
    }
}

fn merge_list(have: &mut Vec<Value>, want: &[Value], keys: &[&str]) {
    let mut places = Vec::new();
    for want in want {
        let place = have.iter().position(|element| same_key(element, want, keys)).unwrap_or(have.len());
        match have.get_mut(place) {
            Some(element) if covers(element, want, false) => {}
            Some(element) => *element = want.clone(),
            None => have.push(want.clone()),
        }
        places.push(place);
    }
    // A variable must stand behind those that it refers to.
    if !places.is_sorted() {
        let ours: Vec<Value> = places.iter().map(|place| have[*place].clone()).collect();
        have.retain(|element| !want.iter().any(|want| same_key(element, want, keys)));
        have.extend(ours);
    }
}

fn same_key(a: &Value, b: &Value, keys: &[&str]) -> bool {
    let part = |value: &Value, key: &str| match (key, &value[key]) {
        ("protocol", Value::Null) => Value::from("TCP"),
        (_, value) => value.clone(),
    };
    keys.iter().all(|key| part(a, key) == part(b, key))
}

/// True if everything in `want` is in `have`; `have` may have more, such as defaults.
fn covers(have: &Value, want: &Value, quantities: bool) -> bool {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => want.iter().all(|(key, want)| {
            let quantities = quantities || QUANTITIES.contains(&key.as_str());
            match have.get(key) {
                Some(have) => covers(have, want, quantities),
                None => want.as_object().is_some_and(serde_json::Map::is_empty),
            }
        }),
        (Value::Array(have), Value::Array(want)) => {
            have.len() == want.len() && have.iter().zip(want).all(|(have, want)| covers(have, want, quantities))
        }
        (have, want) if quantities && have != want => {
            Quantity::read(have).is_some_and(|have| Some(have) == Quantity::read(want))
        }
        (have, want) => have == want,
    }
}
