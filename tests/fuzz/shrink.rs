//! From a pair that fails to a small one that fails in the same way.

use serde_json::Value;

use crate::pairs::{Judge, Pair, Verdict};

/// Largest number of questions for one pair; each costs some requests.
const QUESTIONS: usize = 1_500;

/// Takes out of the pair what is not needed for the failure.
pub async fn smallest(judge: &Judge, pair: &Pair, kind: &str) -> Pair {
    let mut document = pair.to_json();
    let mut questions = 0;
    loop {
        let mut less = false;
        // From the outside to the inside: what is removed first takes most with it.
        let mut paths = Vec::new();
        pointers(&document, "", &mut paths);
        paths.sort_by_key(|path| path.matches('/').count());
        for path in paths {
            let Some(without) = without(&document, &path) else { continue };
            questions += 1;
            if questions > QUESTIONS {
                return Pair::from_json(document);
            }
            let verdict = judge.verdict(&Pair::from_json(without.clone())).await;
            if matches!(verdict, Verdict::Broken(refusal) if refusal.kinds.contains(kind)) {
                document = without;
                less = true;
            }
        }
        if !less {
            return Pair::from_json(document);
        }
    }
}

/// Every path of a value, the last elements of a list first: their removal moves no others.
fn pointers(value: &Value, here: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let path = format!("{here}/{}", key.replace('~', "~0").replace('/', "~1"));
                found.push(path.clone());
                pointers(member, &path, found);
            }
        }
        Value::Array(elements) => {
            for (i, element) in elements.iter().enumerate().rev() {
                found.push(format!("{here}/{i}"));
                pointers(element, &format!("{here}/{i}"), found);
            }
        }
        _ => {}
    }
}

/// The document without what stands at a path; `None` if nothing does.
fn without(document: &Value, path: &str) -> Option<Value> {
    let mut document = document.clone();
    let (parent, key) = path.rsplit_once('/')?;
    match document.pointer_mut(parent)? {
        Value::Object(members) => {
            members.remove(&key.replace("~1", "/").replace("~0", "~"))?;
        }
        Value::Array(elements) => {
            let index: usize = key.parse().ok()?;
            (index < elements.len()).then(|| elements.remove(index))?;
        }
        _ => return None,
    }
    Some(document)
}
