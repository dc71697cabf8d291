//! The files that the documents for maintainers name exist.

use std::path::Path;
use std::{fs, io};

use crate::sources;

const DOCUMENTS: [&str; 2] = ["docs/architecture.md", "CONTRIBUTING.md"];

/// Texts in backticks that are paths, without fenced blocks. One with a placeholder (`x/mod.rs`, `<verb>`) is none.
fn named(text: &str) -> Vec<String> {
    let is_path = |name: &&str| {
        let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c));
        let is_rust = Path::new(name).extension().is_some_and(|extension| extension == "rs");
        is_plain && !name.starts_with("x/") && (name.contains('/') || is_rust)
    };
    let prose: String = text.split("```").step_by(2).collect();
    prose.split('`').skip(1).step_by(2).filter(is_path).map(str::to_owned).collect()
}

#[test]
fn files_that_documents_name_exist() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: Vec<String> =
        [sources("src/")?, sources("tests/")?].concat().into_iter().map(|(name, _)| name).collect();
    // `plan/mod.rs` is src/core/rollout/plan/mod.rs, `plan/evict/` a folder with files, `core/status` either.
    let is_source = |name: &str| {
        let inside = format!("/{}/", name.trim_end_matches('/'));
        let ends = [format!("/{name}"), format!("/{name}.rs")];
        files.iter().any(|file| {
            let file = format!("/{file}");
            file.contains(&inside) || ends.iter().any(|end| file.ends_with(end))
        })
    };
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document))?;
        let names = named(&text);
        assert!(names.len() > 10, "{document} names {} files: is the test looking for the right thing?", names.len());
        let is_missing = |name: &String| !is_source(name) && !root.join(name).exists();
        missing.extend(names.into_iter().filter(is_missing).map(|name| format!("{document} names {name}")));
    }
    assert_eq!(missing, Vec::<String>::new(), "no such file");
    Ok(())
}

#[test]
fn paths_are_told_from_other_texts() {
    let text = "`src/a.rs` and `state` (`b.rs`, `x/mod.rs`, `src/cli/<verb>.rs`)\n```\n`c/d.rs`\n```\n`e/`";
    assert_eq!(named(text), ["src/a.rs", "b.rs", "e/"]);
}
