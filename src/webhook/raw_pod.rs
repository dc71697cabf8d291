//! A pod as the API server sent it, read within bounds.

use std::cell::Cell;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Most values (objects, lists, texts, numbers) of a pod. Each may take hundreds of bytes, whatever it is in the review: one
/// MiB of `{"a":0}` would be 100 MB.
pub(super) const MAX_VALUES: usize = 50_000;

/// A pod without `metadata.managedFields`: nobody here reads or patches them, they are a large part of the review, and the
/// only part of a pod that may be nested deeper than `serde_json` reads (128 levels). `None`: it has too many values.
#[derive(Debug)]
pub(super) struct RawPod(pub(super) Option<Value>);

impl<'de> Deserialize<'de> for RawPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let left = Cell::new(MAX_VALUES);
        let pod = Bounded { left: &left, without: &["metadata", "managedFields"] };
        let pod = deserializer.deserialize_map(pod)?;
        Ok(Self((left.get() > 0).then_some(pod)))
    }
}

/// Reads a value without the member at a path. What comes when no more values are `left` is skipped.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    left: &'a Cell<usize>,
    without: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            return IgnoredAny::deserialize(deserializer).map(|_| Value::Null);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Bounded { without: &[], ..self })? {
            list.push(item);
            if self.left.get() == 0 {
                while items.next_element::<IgnoredAny>()?.is_some() {}
            }
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if self.left.get() == 0 || self.without == [&key] {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            let without = match self.without {
                [first, rest @ ..] if *first == key => rest,
                _ => &[],
            };
            object.insert(key, members.next_value_seed(Bounded { without, ..self })?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, json};

    use super::*;

    fn read(text: &str) -> Option<Value> {
        from_str::<RawPod>(text).unwrap().0
    }

    #[test]
    fn a_pod_is_read_as_it_is_but_for_its_managed_fields() {
        let pod = json!({"metadata": {"name": "a", "managedFields": [{"deep": [[[[]]]]}]}, "managedFields": 1,
            "spec": {"metadata": {"managedFields": -2}, "a": [1.5, 18_446_744_073_709_551_615_u64, true, null, "x"]}});
        let mut without = pod.clone();
        without["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(read(&pod.to_string()), Some(without));
    }

    #[test]
    fn a_pod_of_too_many_values_is_not_kept() {
        let pod = |values: usize| format!("{{\"a\":[{}0]}}", "0,".repeat(values - 1));
        assert!(read(&pod(MAX_VALUES - 2)).is_some());
        assert_eq!(read(&pod(MAX_VALUES)), None);
        let objects = format!("{{\"a\":[{}0]}}", "{\"b\":{}},".repeat(MAX_VALUES));
        assert_eq!(read(&objects), None);
    }
}
