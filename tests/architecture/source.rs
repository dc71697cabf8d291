//! Rust source as text: what of it is code, what its `use` declarations name, which module a file is.

use std::collections::BTreeSet;

/// One imported name, spelled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// The path as written, without braces and renaming: `super::draft::Draft`, `super::*`.
    pub(crate) path: String,
    /// The name that it gets here.
    pub(crate) name: String,
    /// `pub use`: others find the item here.
    pub(crate) public: bool,
}

/// The code without comments and without what stands in strings and characters.
pub(crate) fn code(source: &str) -> String {
    let mut code = String::new();
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        if let Some(length) = comment(rest).or_else(|| literal(rest, code.chars().next_back())) {
            // Lines and words stay apart.
            code.push(if rest[..length].contains('\n') { '\n' } else { ' ' });
            rest = &rest[length..];
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    code
}

/// How long the comment is with which the text begins.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    text.starts_with("/*").then(|| text.find("*/").map_or(text.len(), |end| end + 2))
}

/// How long the string or character is with which the text begins.
fn literal(text: &str, before: Option<char>) -> Option<usize> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if let Some(raw) = text.strip_prefix('r').filter(|_| !in_word || before == Some('b')) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let inside = 1 + hashes + 1;
            return Some(text[inside..].find(&end).map_or(text.len(), |found| inside + found + end.len()));
        }
    }
    let quote = text.chars().next().filter(|c| ['"', '\''].contains(c))?;
    if quote == '\'' && !text[1..].starts_with('\\') {
        // Not a lifetime: it closes after one character.
        let inner = text[1..].chars().next()?.len_utf8();
        return text[1 + inner..].starts_with('\'').then_some(inner + 2);
    }
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(i + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// The code without items that only tests have.
pub(crate) fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..start]);
        let item = &rest[start..];
        rest = &item[item_length(item)..];
    }
    kept + rest
}

/// Up to the first `;` outside of braces, or the brace that closes the first one.
fn item_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (i, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return i + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return i + 1,
            _ => {}
        }
    }
    code.len()
}

/// All names that `use` declarations import.
pub(crate) fn imports(code: &str) -> Vec<Import> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = find_use(rest) {
        let end = rest[start..].find(';').map_or(rest.len(), |end| start + end);
        let before = rest[..start].trim_end();
        // `)` ends `pub(crate)`.
        let public = before.ends_with("pub") || before.ends_with(')');
        expand("", &rest[start + "use".len()..end], public, &mut found);
        rest = &rest[end..];
    }
    found
}

/// Where the next `use` declaration begins; `use<'a>` of a type is none.
fn find_use(code: &str) -> Option<usize> {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices("use")
        .map(|(i, _)| i)
        .find(|i| !is_part(code[..*i].chars().next_back()) && code[i + "use".len()..].starts_with(char::is_whitespace))
}

/// `a::{b, c::{d as e}}` becomes `a::b` and `a::c::d`.
fn expand(prefix: &str, tree: &str, public: bool, found: &mut Vec<Import>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let mut words = tree.split_whitespace();
        let path = format!("{prefix}{}", words.next().unwrap_or_default().trim_start_matches("::"));
        let path = path.trim_end_matches("::self").to_owned();
        let last = path.rsplit("::").next().unwrap_or_default();
        let name = words.nth(1).unwrap_or(last).to_owned();
        found.push(Import { path, name, public });
        return;
    };
    let prefix = format!("{prefix}{}", tree[..open].trim().trim_start_matches("::"));
    let close = tree.rfind('}').unwrap_or(tree.len());
    let inner = tree.get(open + 1..close).unwrap_or_default();
    let (mut depth, mut start) = (0_i32, 0);
    for (i, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &inner[start..i], public, found);
                start = i + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand(&prefix, &inner[start..], public, found);
    }
}

/// Names of the items that the code defines, and of those inside them.
pub(crate) fn items(code: &str) -> BTreeSet<String> {
    let words = words(code);
    let keywords = ["struct", "enum", "trait", "type", "const", "static", "fn", "mod", "macro_rules"];
    words.windows(2).filter(|pair| keywords.contains(&pair[0].as_str())).map(|pair| pair[1].clone()).collect()
}

/// Identifiers joined by `::`, wherever they stand.
pub(crate) fn words(code: &str) -> Vec<String> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .map(|word| word.trim_matches(':').to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

/// The module that a file under `src/` is: `core/inject/mod.rs` is `core::inject`, and `lib.rs` the root.
pub(crate) fn module(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').filter(|part| !["lib", "main"].contains(part)).map(str::to_owned).collect()
}

/// Replaces `crate`, `self` and `super` in front of a path by what they mean in this module. `None` for another path.
pub(crate) fn absolute(path: &str, module: &[String]) -> Option<Vec<String>> {
    let mut parts: Vec<&str> = path.split("::").collect();
    let supers = parts.iter().take_while(|part| **part == "super").count();
    let parents = match parts.first() {
        Some(&"crate") => &module[..0],
        Some(&"self") => module,
        _ if supers > 0 => &module[..module.len().saturating_sub(supers)],
        _ => return None,
    };
    parts.drain(..supers.max(1));
    Some(parents.iter().cloned().chain(parts.into_iter().map(str::to_owned)).collect())
}
