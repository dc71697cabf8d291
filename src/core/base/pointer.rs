//! JSON pointers (RFC 6901), and the operation of a JSON Patch (RFC 6902) that tests one.

use serde_json::{Value, json};

/// From unescaped keys.
pub(crate) fn pointer(keys: &[&str]) -> String {
    let escape = |key: &&str| key.replace('~', "~0").replace('/', "~1");
    keys.iter().flat_map(|key| ["/".to_owned(), escape(key)]).collect()
}

pub(crate) fn test(path: &str, value: &str) -> Value {
    json!({"op": "test", "path": path, "value": value})
}
