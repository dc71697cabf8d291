//! No circles between files, folders that import in one direction, one style of folders.

use std::io;

use crate::graph::{Graph, beside_their_folder};
use crate::sources;

/// Parts of a module by level: each may import those before it, and its neighbours. A part that does not exist is no
/// fault, one that has no place here is. `mod` is the module's own file.
type Order = &'static [&'static [&'static str]];

const ORDERS: [(&str, Order); 3] = [("core", CORE), ("core::rollout", ROLLOUT), ("controller", CONTROLLER)];

const CORE: Order = &[
    &["base"],
    &["pod"],
    &["revision"],
    &["inject"],
    &["replace"],
    &["rollout"],
    &["status"],
    &["round"],
    &["registration"],
    &["mod"],
];

const ROLLOUT: Order =
    &[&["target"], &["assess"], &["order"], &["inflight"], &["budget"], &["state"], &["request"], &["plan"], &["mod"]];

const CONTROLLER: Order = &[
    &["state", "cache"],
    &["context"],
    &["watch_gaps", "revisions", "report", "dry_run", "tenants"],
    &["apply", "evict", "failed_creates", "prepull", "canaries", "uninjected"],
    &["reconcile"],
    &["watches", "leadership"],
    &["mod"],
];

/// The circles, and the arrows against an order.
fn faults(graph: &Graph, orders: &[(&str, Order)]) -> Vec<String> {
    let mut found = Vec::new();
    for circle in graph.circles() {
        let names: Vec<&str> = circle.iter().map(|module| graph.name(module)).collect();
        found.push(format!("a circle of imports: {}", names.join(" -> ")));
    }
    for (parent, order) in orders {
        found.extend(graph.upward(parent, order));
    }
    found
}

#[test]
fn imports_make_no_circle_and_follow_the_order_of_the_folders() -> io::Result<()> {
    let mut found = faults(&Graph::new("sidecarset", "src/", &sources("src/")?), &ORDERS);
    found.extend(faults(&Graph::new("devcluster", "devcluster/src/", &sources("devcluster/src/")?), &[]));
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    Ok(())
}

#[test]
fn a_module_with_a_folder_is_the_mod_file_in_it() -> io::Result<()> {
    for folder in ["src/", "devcluster/src/"] {
        let files: Vec<String> = sources(folder)?.into_iter().map(|(name, _)| name).collect();
        assert_eq!(beside_their_folder(&files), Vec::<String>::new(), "move x.rs to x/mod.rs");
    }
    Ok(())
}

/// A crate of these files under `src/`.
fn tree(files: &[(&str, &str)]) -> Graph {
    let files: Vec<_> = files.iter().map(|(name, text)| (format!("src/{name}"), (*text).to_owned())).collect();
    Graph::new("krate", "src/", &files)
}

/// What is wrong with such a crate, whose parts are `low`, `middle` and `high`, each with files of its own.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    const PARTS: Order = &[&["low"], &["middle"], &["high"], &["mod"]];
    faults(&tree(files), &[("top", PARTS)])
}

#[test]
fn downward_imports_are_no_fault() {
    let files = [
        ("lib.rs", "mod top;\npub use top::high::Tower;"),
        ("top/mod.rs", "pub mod low;\npub mod high;\npub use high::Tower;"),
        ("top/low/mod.rs", "mod cellar;\npub use cellar::Wine;\nuse serde::Serialize;"),
        (
            "top/low/cellar.rs",
            "// use super::super::high::Tower;\nconst TEXT: &str = \"use crate::top::high::Tower;\";",
        ),
        ("top/high/mod.rs", "use crate::top::low::Wine;\nfn f(x: impl Sized + use<'a>) {}"),
        // Tests may import what they like.
        ("top/low/tests.rs", "use crate::top::high::Tower;"),
        ("top/low/loft.rs", "#[cfg(test)]\nmod tests {\n    use crate::top::high::Tower;\n    fn f() {}\n}\nfn g() {}"),
        ("main.rs", "use krate::top::high;"),
    ];
    assert_eq!(found(&files), Vec::<String>::new());
}

#[test]
fn a_circle_of_two_files_is_found_in_every_spelling() {
    for back in [
        "use crate::a::A;",
        "use super::a::A;",
        "use super::a;",
        "use super::a::*;",
        "use super::a::A as B;",
        "use crate::{a::A};",
        "use crate::{\n    b::{self},\n    a::{\n        A,\n        C::{D, E},\n    },\n};",
        "pub fn f() {\n    use crate::a::A;\n}",
        "#[cfg(test)]\nmod tests;\nuse super::a::A;",
        "#[cfg(test)]\nmod tests {\n    const OPEN: char = '{';\n}\nuse super::a::A;",
    ] {
        let circle = ["a circle of imports: src/a.rs -> src/b.rs -> src/a.rs"];
        assert_eq!(
            found(&[("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", back)]),
            circle,
            "{back}"
        );
    }
}

#[test]
fn a_circle_through_pub_use_is_one_of_the_files_that_define() {
    for shown in ["pub use inner::Item;", "pub(crate) use self::inner::{Item, Other};", "pub use inner::*;"] {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::Item;\npub struct A;"),
            ("b/mod.rs", &format!("mod inner;\n{shown}")),
            ("b/inner.rs", "use crate::a::A;\npub struct Item;"),
        ];
        assert_eq!(found(&files), ["a circle of imports: src/a.rs -> src/b/inner.rs -> src/a.rs"], "{shown}");
    }
    let renamed = [
        ("lib.rs", "mod a; mod b;\npub use b::Item as Thing;"),
        ("a.rs", "use crate::Thing;"),
        ("b.rs", "use crate::a::A;\npub struct Item;"),
    ];
    assert_eq!(found(&renamed).len(), 1);
}

#[test]
fn a_child_that_imports_its_parent_is_a_circle_only_if_the_parent_imports_it() {
    let child = ("a/child.rs", "use super::Item;\npub struct Child;");
    assert_eq!(found(&[("a/mod.rs", "mod child;\npub use child::Child;"), child]), Vec::<String>::new());
    assert_eq!(found(&[("a/mod.rs", "mod child;\nuse child::Child;"), child]).len(), 1);
    assert_eq!(found(&[("a/mod.rs", "mod child;\nuse self::child::Child;"), child]).len(), 1);
}

#[test]
fn a_long_circle_is_told_with_its_arrows() {
    let files =
        [("a.rs", "use crate::b::B;"), ("b.rs", "use crate::c::C;"), ("c.rs", "use super::{d, a};"), ("d.rs", "")];
    assert_eq!(found(&files), ["a circle of imports: src/a.rs -> src/b.rs -> src/c.rs -> src/a.rs"]);
}

#[test]
fn an_upward_arrow_is_found() {
    let upward = [("top/low/deep/mod.rs", "use super::super::middle::Item;"), ("top/middle.rs", "pub struct Item;")];
    let told = "src/top/low/deep/mod.rs imports src/top/middle.rs: in top middle comes after low";
    assert_eq!(found(&upward), [told]);
    let parent = [("top/mod.rs", "pub struct Item;"), ("top/high.rs", "use super::Item;")];
    assert_eq!(found(&parent), ["src/top/high.rs imports src/top/mod.rs: in top mod comes after high"]);
    let unknown = [("top/attic.rs", "")];
    assert_eq!(found(&unknown), ["src/top/attic.rs: attic has no place in the order of top"]);
}

#[test]
fn a_file_beside_its_folder_is_found() {
    let files = ["src/a.rs", "src/a/b.rs", "src/ab.rs", "src/c/mod.rs"].map(str::to_owned);
    assert_eq!(beside_their_folder(&files), ["src/a.rs"]);
}
