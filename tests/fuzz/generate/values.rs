//! Words to describe JSON with: objects whose members may be absent, lists, one of several values.

use std::collections::BTreeSet;
use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value};

/// Any JSON value of some kind.
pub type Any = SBoxedStrategy<Value>;

/// A member of an object, and how often it is there.
pub type Member = (&'static str, f64, Any);

/// A member that is always there.
pub fn always(name: &'static str, value: Any) -> Member {
    (name, 1.0, value)
}

/// A member that is there half of the time.
pub fn often(name: &'static str, value: Any) -> Member {
    (name, 0.5, value)
}

/// A member that is there in one of five.
pub fn sometimes(name: &'static str, value: Any) -> Member {
    (name, 0.2, value)
}

/// A member that is there in one of twenty: there are many such members.
pub fn rarely(name: &'static str, value: Any) -> Member {
    (name, 0.05, value)
}

/// An object with some of these members.
pub fn object(members: Vec<Member>) -> Any {
    let names: Vec<&str> = members.iter().map(|(name, ..)| *name).collect();
    let values: Vec<_> =
        members.into_iter().map(|(_, often, value)| prop::option::weighted(often.min(0.999_999), value)).collect();
    let assemble = move |values: Vec<Option<Value>>| {
        let present = names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
        Value::Object(present.collect::<Map<_, _>>())
    };
    values.prop_map(assemble).sboxed()
}

/// One of these values.
pub fn one_of<T: Into<Value>>(values: impl IntoIterator<Item = T>) -> Any {
    select(values.into_iter().map(Into::into).collect::<Vec<Value>>()).sboxed()
}

/// One of these kinds of values.
pub fn either(kinds: impl IntoIterator<Item = Any>) -> Any {
    proptest::strategy::Union::new(kinds).sboxed()
}

/// True or false.
pub fn flag() -> Any {
    any::<bool>().prop_map(Value::from).sboxed()
}

/// So many of these.
pub fn list(item: Any, count: Range<usize>) -> Any {
    prop::collection::vec(item, count).prop_map(Value::from).sboxed()
}

/// Some of these members, each of which has a text.
pub fn texts(members: &[(&'static str, &'static [&'static str])]) -> Any {
    object(members.iter().map(|(name, values)| sometimes(name, one_of(values.iter().copied()))).collect())
}

/// The elements of a list; none if there is no list.
pub fn elements<'a>(object: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    object.get(list).and_then(Value::as_array).into_iter().flatten()
}

/// The same, to be changed.
pub fn elements_mut<'a>(object: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Keeps those elements of a list that are wanted.
pub fn retain(object: &mut Value, list: &str, wanted: impl FnMut(&Value) -> bool) {
    if let Some(elements) = object.get_mut(list).and_then(Value::as_array_mut) {
        elements.retain(wanted);
    }
}

/// Keeps the first of the elements of a list that are equal in a field.
pub fn unique(object: &mut Value, list: &str, field: &str) {
    let mut seen = BTreeSet::new();
    retain(object, list, |element| element[field].is_null() || seen.insert(element[field].to_string()));
}

/// Removes members of the object at a pointer, if it is there.
pub fn remove(value: &mut Value, pointer: &str, members: &[&str]) {
    if let Some(object) = value.pointer_mut(pointer).and_then(Value::as_object_mut) {
        object.retain(|name, _| !members.contains(&name.as_str()));
    }
}
