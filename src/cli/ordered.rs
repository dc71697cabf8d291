//! JSON values that keep the order of their fields: what a user wrote comes back in the order in which it was written.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ordered {
    /// null, a boolean, a number or a string.
    Scalar(Value),
    /// A list.
    List(Vec<Self>),
    /// Fields in their order.
    Object(Vec<(String, Self)>),
}

impl Ordered {
    /// The same without the order.
    pub(crate) fn value(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(list) => list.iter().map(Self::value).collect(),
            Self::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), value.value())).collect(),
        }
    }

    /// `value` with the order of this one where both have a field; new fields come last, by name. List elements with a
    /// `name` are found by it, others by position.
    #[must_use]
    pub(crate) fn arrange(&self, value: Value) -> Self {
        match (self, value) {
            (Self::Object(before), Value::Object(mut fields)) => {
                let known =
                    before.iter().filter_map(|(key, old)| Some((key.clone(), old.arrange(fields.remove(key)?))));
                let known: Vec<_> = known.collect();
                Self::Object(known.into_iter().chain(members(fields)).collect())
            }
            (Self::List(before), Value::Array(list)) => {
                Self::List(list.into_iter().enumerate().map(|(i, new)| arrange_element(before, i, new)).collect())
            }
            (_, value) => Self::from(value),
        }
    }

    fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }
}

fn arrange_element(before: &[Ordered], index: usize, value: Value) -> Ordered {
    let counterpart = match value.get("name") {
        Some(name) => before.iter().find(|old| matches!(old.field("name"), Some(Ordered::Scalar(old)) if old == name)),
        None => before.get(index),
    };
    match counterpart {
        Some(old) => old.arrange(value),
        None => Ordered::from(value),
    }
}

fn members(fields: Map<String, Value>) -> impl Iterator<Item = (String, Ordered)> {
    fields.into_iter().map(|(key, value)| (key, Ordered::from(value)))
}

impl From<Value> for Ordered {
    fn from(value: Value) -> Self {
        match value {
            Value::Object(fields) => Self::Object(members(fields).collect()),
            Value::Array(list) => Self::List(list.into_iter().map(Self::from).collect()),
            scalar => Self::Scalar(scalar),
        }
    }
}

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Scalar(value) => value.serialize(serializer),
            Self::List(list) => list.serialize(serializer),
            Self::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Ordered;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML or JSON value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(value.into()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(value.into()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Ordered, E> {
        Ok(Ordered::Scalar(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Ordered, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(Ordered::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Ordered, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            fields.push(entry);
        }
        Ok(Ordered::Object(fields))
    }
}
