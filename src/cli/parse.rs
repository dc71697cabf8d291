//! From the bytes of a file to its documents, as kubectl reads them.

use std::fmt;

use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, NonFiniteFloatPolicy};

use super::ordered::Ordered;
use super::workloads::name_of;

/// What a text holds.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// Documents that are not empty.
    pub(super) bodies: Vec<Ordered>,
    /// What is read as kubectl does, and may not be what was meant.
    pub(super) warnings: Vec<String>,
}

/// UTF-16 and UTF-8 by their byte order marks; without one it is UTF-8. What is neither becomes U+FFFD.
pub(super) fn decode(bytes: &[u8]) -> String {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let pairs = bytes.chunks(2).map(|pair| unit([pair[0], pair.get(1).copied().unwrap_or_default()]));
        String::from_utf16_lossy(&pairs.collect::<Vec<_>>())
    };
    let text = match bytes {
        [0xFE, 0xFF, text @ ..] => utf16(text, u16::from_be_bytes),
        [0xFF, 0xFE, text @ ..] => utf16(text, u16::from_le_bytes),
        text => String::from_utf8_lossy(text).into_owned(),
    };
    // Files that were put together have one at each beginning.
    text.trim_start_matches('\u{FEFF}').replace("\n\u{FEFF}", "\n")
}

/// Reads JSON objects that follow each other, and where there is no more JSON, YAML: `yes` is true and `0644` is octal
/// unless quoted. Of a key that is written twice the last value counts.
pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    let (mut written, mut end) = (Vec::new(), 0);
    if text.trim_start().starts_with('{') {
        let mut objects = serde_json::Deserializer::from_str(text).into_iter();
        while let Some(Ok(object)) = objects.next() {
            written.push(object);
            end = objects.byte_offset();
        }
    }
    written.extend(parse_yaml(text, end)?);
    let mut parsed = Parsed::default();
    if text.contains(char::REPLACEMENT_CHARACTER) {
        parsed.warnings.push("some bytes are no UTF-8 and are read as U+FFFD: save the file as UTF-8".to_owned());
    }
    for document in written.into_iter().filter(|document| !matches!(document, Written::Scalar(Value::Null))) {
        let mut twice = Vec::new();
        let body = document.settle("", &mut twice);
        for path in twice {
            parsed.warnings.push(format!(
                "{}: {path} is written more than once, and the last value counts",
                subject(&body.value())
            ));
        }
        parsed.bodies.push(body);
    }
    Ok(parsed)
}

fn subject(document: &Value) -> String {
    let name = || document["name"].as_str().unwrap_or("a document without a kind").to_owned();
    if document["kind"].is_string() { name_of(document) } else { name() }
}

/// The YAML documents from `start` on. Errors count the lines of the whole text.
fn parse_yaml(text: &str, start: usize) -> Result<Vec<Written>, String> {
    let (before, rest) = text.split_at(start);
    let text = "\n".repeat(before.matches('\n').count()) + rest;
    let options = serde_saphyr::options! {
        budget: None, legacy_octal_numbers: true, with_snippet: false, duplicate_keys: DuplicateKeyPolicy::LastWins,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough
    };
    serde_saphyr::from_str_multiple_with_options::<Written, Vec<Written>>(&text, options)
        .map_err(|error| error.to_string())
}

/// A value as it is written: a key may stand twice in it.
enum Written {
    Object(Vec<(String, Self)>),
    List(Vec<Self>),
    Scalar(Value),
}

impl Written {
    /// What it means. Collects the paths of keys that are written more than once.
    fn settle(self, path: &str, twice: &mut Vec<String>) -> Ordered {
        let fields = match self {
            Self::Scalar(value) => return Ordered::Scalar(value),
            Self::List(list) => {
                let settled =
                    list.into_iter().enumerate().map(|(i, value)| value.settle(&format!("{path}[{i}]"), twice));
                return Ordered::List(settled.collect());
            }
            Self::Object(fields) => fields,
        };
        let mut object = IndexMap::new();
        for (key, value) in fields {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let value = value.settle(&path, twice);
            if object.insert(key, value).is_some() && !twice.contains(&path) {
                twice.push(path);
            }
        }
        Ordered::Object(object)
    }

    /// A key is a string; what YAML takes for a number or a boolean is written out.
    fn into_key<E: Error>(self) -> Result<String, E> {
        match self {
            Self::Scalar(Value::String(key)) => Ok(key),
            Self::Scalar(key @ (Value::Bool(_) | Value::Number(_))) => Ok(key.to_string()),
            _ => Err(E::custom("a key must be a string")),
        }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsWritten)
    }
}

struct AsWritten;

impl<'de> Visitor<'de> for AsWritten {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Written, E> {
        Ok(Written::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Written, E> {
        Ok(Written::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Written, E> {
        Ok(Written::Scalar(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Written, E> {
        let number =
            Number::from_f64(value).ok_or_else(|| E::custom(format!("a number that JSON does not have: {value}")))?;
        Ok(Written::Scalar(number.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Written, E> {
        Ok(Written::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Written, E> {
        Ok(Written::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Written, D::Error> {
        Written::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Written, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Written::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
        let mut fields = Vec::new();
        while let Some((key, value)) = map.next_entry::<Written, Written>()? {
            fields.push((key.into_key()?, value));
        }
        Ok(Written::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Vec<Value> {
        parse(text).unwrap().bodies.iter().map(Ordered::value).collect()
    }

    #[test]
    fn json_and_flow_mappings_may_follow_each_other() {
        let three = [json!({"a": 1}), json!({"b": 2}), json!({"c": [true]})];
        for text in [
            "{\"a\": 1}{\"b\": 2} {\"c\": [true]}",
            "{\"a\": 1}\n---\n{\"b\": 2}\n---\n{\"c\": [true]}\n",
            "{\"a\": 1}\n{\"b\": 2}\n---\n{\"c\": [true]}\n",
            "{\"a\": 1}\n---\nb: 2\n---\n{c: [yes]}\n",
            "{a: 1}\n---\n{b: 2}\n---\n{c: [yes],}\n",
            "# first\n{\"a\": 1,}\n---\n{\n\tb: 2}\n---\nc: [\"a\"]\n".replace("\"a\"]", "y]").as_str(),
            "{\"a\": 1} # first\r\n---\r\n{\"b\": 2}\r\n---\r\nnull\r\n---\r\n\r\n--- # third\r\nc:\r\n- on\r\n",
        ] {
            assert_eq!(read(text), three, "{text}");
        }
    }

    #[test]
    fn an_error_names_the_line_of_the_file() {
        for text in ["{\"a\": 1}\n---\nb: [\n", "{\"a\": 1}\n\n{b: :\n"] {
            assert!(
                parse(text).unwrap_err().contains("line 3") || parse(text).unwrap_err().contains("line 4"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_a_warning_names_it() {
        for text in [
            "kind: Deployment\nmetadata: {name: web}\nspec: {replicas: 1, replicas: 2}\n",
            "{\"kind\": \"Deployment\", \"metadata\": {\"name\": \"web\"}, \"spec\": {\"replicas\": 1, \"replicas\": 2}}",
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed.bodies[0].value()["spec"], json!({"replicas": 2}));
            let warning = "deployment/web: spec.replicas is written more than once, and the last value counts";
            assert_eq!(parsed.warnings, [warning]);
        }
        let parsed = parse("a: {x: 1}\nl: [{b: 1, b: 2, b: 3}]\na: {z: 2}\n").unwrap();
        assert_eq!(parsed.bodies[0].value(), json!({"a": {"z": 2}, "l": [{"b": 3}]}));
        assert_eq!(parsed.warnings.len(), 2, "{:?}", parsed.warnings);
        let merged = parse("a: &a {x: 1, z: 1}\nb: {<<: *a, x: 2}\n").unwrap();
        assert_eq!(merged.bodies[0].value()["b"], json!({"x": 2, "z": 1}));
        assert!(merged.warnings.is_empty(), "{:?}", merged.warnings);
    }

    #[test]
    fn every_encoding_that_kubectl_knows_is_read() {
        let text = "a: \u{fc}\n---\nb: \u{1F600}\n";
        let utf16 = |unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
            "\u{FEFF}".encode_utf16().chain(text.encode_utf16()).flat_map(unit).collect()
        };
        let marked = format!("\u{FEFF}{}", text.replace("---\n", "---\n\u{FEFF}"));
        for bytes in [text.into(), marked.into(), utf16(u16::to_le_bytes), utf16(u16::to_be_bytes)] {
            assert_eq!(decode(&bytes), text);
        }
        let latin = parse(&decode(b"# f\xFCr\na: 1\n")).unwrap();
        assert_eq!((latin.bodies.len(), latin.warnings.len()), (1, 1));
    }

    #[test]
    fn unquoted_scalars_mean_what_they_mean_to_kubectl() {
        let read = read(
            "[0644, yes, 1e3, \"0644\", 'yes', 1.30, 0b11, 0o644, 1_000, 12:30:45, ~]\n---\n{1: a, yes: b, 1.5: c}",
        );
        assert_eq!(
            read,
            [
                json!([420, true, 1000.0, "0644", "yes", 1.3, 3, 420, 1000, "12:30:45", null]),
                json!({"1": "a", "true": "b", "1.5": "c"})
            ]
        );
    }
}
