//! JSON values that keep the order of their fields: what a user wrote comes back in the order in which it was written.

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Ordered {
    Object(IndexMap<String, Self>),
    List(Vec<Self>),
    Scalar(Value),
}

impl Ordered {
    /// The same without the order.
    pub(crate) fn value(&self) -> Value {
        match self {
            Self::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), value.value())).collect(),
            Self::List(list) => list.iter().map(Self::value).collect(),
            Self::Scalar(value) => value.clone(),
        }
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// `value` with the order of this one where both have a field; new fields come last, by name. List elements with a
    /// `name` are found by it, others by position.
    #[must_use]
    pub(crate) fn arrange(&self, value: Value) -> Self {
        match (self, value) {
            (Self::Object(before), Value::Object(mut fields)) => {
                let known = before.iter().filter_map(|(key, old)| Some((key, old.arrange(fields.remove(key)?))));
                let mut arranged: IndexMap<String, Self> = known.map(|(key, new)| (key.clone(), new)).collect();
                arranged.extend(fields.into_iter().map(|(key, value)| (key, Self::from(value))));
                Self::Object(arranged)
            }
            (Self::List(before), Value::Array(list)) => {
                Self::List(list.into_iter().enumerate().map(|(i, new)| arrange_element(before, i, new)).collect())
            }
            (_, value) => Self::from(value),
        }
    }

    fn is_named(&self, name: &Value) -> bool {
        matches!(self, Self::Object(fields) if matches!(fields.get("name"), Some(Self::Scalar(own)) if own == name))
    }
}

fn arrange_element(before: &[Ordered], index: usize, value: Value) -> Ordered {
    let counterpart = match value.get("name") {
        Some(name) => before.iter().find(|old| old.is_named(name)),
        None => before.get(index),
    };
    match counterpart {
        Some(old) => old.arrange(value),
        None => Ordered::from(value),
    }
}

impl From<Value> for Ordered {
    fn from(value: Value) -> Self {
        match value {
            Value::Object(fields) => Self::Object(fields.into_iter().map(|(key, value)| (key, value.into())).collect()),
            Value::Array(list) => Self::List(list.into_iter().map(Self::from).collect()),
            scalar => Self::Scalar(scalar),
        }
    }
}
