//! The shape of the source tree: who may import whom, what the pure parts must not touch, how long a file may be.
//!
//! It reads text, not syntax: comments are removed, `use` trees are spelled out, and what is left is searched for paths.

mod documents;
mod graph;
mod layout;
mod source;

use std::path::{Path, PathBuf};
use std::{fs, io};

use source::{absolute, code, imports, module, words};

/// The longest file that is still read in one go.
const MAX_LINES: usize = 450;

/// Modules of the library and the modules they must not import. A module that is not named may import everything.
const FORBIDDEN_IMPORTS: [(&str, &[&str]); 6] = [
    ("api", &["core", "controller", "webhook", "runtime", "cli"]),
    ("core", &["controller", "webhook", "runtime", "cli"]),
    ("runtime", &["controller", "webhook", "cli"]),
    ("controller", &["webhook", "cli"]),
    ("webhook", &["controller", "cli"]),
    ("cli", &["controller", "webhook"]),
];

/// Modules that decide and do nothing else.
const PURE: [&str; 2] = ["api", "core"];

/// What a pure module must not contain, and why. A name matches as a whole path.
const IMPURE: [(&str, &str); 8] = [
    ("kube::Client", "it reaches the API server"),
    ("kube::Api", "it reaches the API server"),
    ("kube::client", "it reaches the API server"),
    ("kube::runtime", "it reaches the API server"),
    ("tokio", "it does I/O"),
    ("async", "it does I/O"),
    ("await", "it does I/O"),
    ("rand", "the same input must give the same answer"),
];

#[test]
fn every_file_keeps_the_rules() -> io::Result<()> {
    let files = [sources("src/")?, sources("devcluster/src/")?].concat();
    assert!(files.len() > 10, "only {} files were read: is the test looking in the right place?", files.len());
    let found: Vec<String> = files.iter().flat_map(|(file, source)| violations(file, source)).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    Ok(())
}

/// Name and text of every Rust file below a folder of the repository.
fn sources(folder: &str) -> io::Result<Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: PathBuf| {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        Ok((name, fs::read_to_string(&file)?))
    };
    rust_files(&root.join(folder))?.into_iter().map(read).collect()
}

fn rust_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What is wrong with one file, as lines that name it and say what to do.
fn violations(file: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = source.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{file} has {lines} lines, at most {MAX_LINES} are allowed: split it by responsibility"));
    }

    let library = file.strip_prefix("src/").filter(|path| !path.starts_with("bin/"));
    let module = library.map(module).unwrap_or_default();
    let Some(top) = module.first() else { return found };
    let code = code(source);
    let paths = paths(&code, &module);
    let uses = |path: &str| {
        paths.iter().any(|used| used == path || used.strip_prefix(path).is_some_and(|rest| rest.starts_with("::")))
    };
    for (_, forbidden) in FORBIDDEN_IMPORTS.iter().filter(|(name, _)| name == top) {
        for other in forbidden.iter().filter(|other| uses(&format!("crate::{other}"))) {
            found.push(format!("{file} uses crate::{other}: {top} must not know {other}"));
        }
    }
    if PURE.contains(&top.as_str()) {
        for (path, why) in IMPURE.iter().filter(|(path, _)| uses(path)) {
            found.push(format!("{file} uses {path}: {top} is pure, and {why}; take the value as an argument"));
        }
        if let Some(clock) = paths.iter().find(|path| path.ends_with("::now")) {
            found.push(format!("{file} uses {clock}: {top} has no clock; take the time as an argument"));
        }
    }
    found
}

/// Every path in the code as it stands, and those of `use` declarations spelled out.
fn paths(code: &str, module: &[String]) -> Vec<String> {
    let imports = imports(code).into_iter().map(|import| import.path);
    let spelled = |path: String| match absolute(&path, module) {
        Some(segments) => format!("crate::{}", segments.join("::")),
        None => path,
    };
    words(code).into_iter().chain(imports).map(spelled).collect()
}

#[test]
fn forbidden_imports_are_found_in_every_spelling() {
    for (file, code) in [
        ("src/api/mod.rs", "use crate::core::pod::Pod;"),
        ("src/core/mod.rs", "use crate::{api::keys, controller::cache};"),
        ("src/core/inject/mod.rs", "use super::super::webhook::pod as p;"),
        ("src/controller/mod.rs", "fn f() { crate::webhook::serve() }"),
        ("src/webhook/pod.rs", "pub use crate::controller;"),
        ("src/runtime/health.rs", "use crate::controller::{self, Cache};"),
        ("src/cli/mod.rs", "use crate::{\n    api::{keys, SidecarSet},\n    webhook::{pod},\n};"),
    ] {
        assert_eq!(violations(file, code).len(), 1, "{file}: {code}");
    }
}

#[test]
fn impure_code_is_found_in_every_spelling() {
    for code in [
        "use kube::Client;",
        "use kube::{Api, ResourceExt};",
        "use kube::{core::ObjectMeta, runtime::{watcher}};",
        "fn f(c: kube::Client) {}",
        "use tokio::time::sleep;",
        "async fn f() {}",
        "let x = f().await;",
        "let now = std::time::Instant::now();",
        "let now = jiff::Timestamp::now();",
        "use std::time::SystemTime;\nlet now = SystemTime::now();",
        "let r = rand::random::<u8>();",
    ] {
        assert_eq!(violations("src/core/plan.rs", code).len(), 1, "{code}");
        assert_eq!(violations("src/controller/apply.rs", code), Vec::<String>::new(), "{code}");
    }
}

#[test]
fn long_files_are_found() {
    assert!(violations("src/core/plan.rs", &"\n".repeat(MAX_LINES)).is_empty());
    assert_eq!(violations("src/core/plan.rs", &"\n".repeat(MAX_LINES + 1)).len(), 1);
    assert_eq!(violations("devcluster/src/lib.rs", &"\n".repeat(MAX_LINES + 1)).len(), 1);
}

#[test]
fn harmless_code_passes() {
    for (file, code) in [
        (
            "src/core/mod.rs",
            "//! No tokio, no async, no kube::Client.\nuse crate::api::keys; // like crate::controller",
        ),
        ("src/core/plan.rs", "use kube::{ResourceExt, core::Expression};\nfn plan(now: Timestamp, operand: u8) {}"),
        ("src/core/inject/mod.rs", "use super::pod::Pod;\nuse self::edit::Edit;"),
        ("src/api/mod.rs", "pub use v1beta1::{SidecarSet, SidecarSetSpec};"),
        ("src/controller/mod.rs", "use crate::{api, core, runtime};"),
        ("src/main.rs", "use sidecarset::{controller, webhook};"),
    ] {
        assert_eq!(violations(file, code), Vec::<String>::new(), "{file}: {code}");
    }
}
