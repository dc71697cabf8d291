//! The pod of a review, raw but for its managed fields.

use std::fmt;
use std::ops::Deref;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// A pod as the apiserver sent it, without `metadata.managedFields`: nobody here reads or patches them, they are a large
/// part of the review, and the only part of a pod that may be nested deeper than `serde_json` reads (128 levels).
#[derive(Clone, Debug)]
pub(super) struct RawPod(Value);

impl Deref for RawPod {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

impl<'de> Deserialize<'de> for RawPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Without(&["metadata", "managedFields"]).deserialize(deserializer).map(Self)
    }
}

/// An object without the member at a path.
struct Without(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Without {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Without {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let value = match self.0 {
                [first, rest @ ..] if key == *first => {
                    if rest.is_empty() {
                        members.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    members.next_value_seed(Without(rest))?
                }
                _ => members.next_value()?,
            };
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
