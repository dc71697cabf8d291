//! Which file imports which: an arrow is a `use` declaration that names an item of another file. `mod` and `pub use` are
//! none; what a `pub use` shows is looked up in the file that defines it. Tests may import what they like.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::source::{Import, absolute, code, imports, items, module, without_tests};

type Module = Vec<String>;

/// The files of one crate, by module.
pub(crate) struct Graph {
    files: BTreeMap<Module, File>,
    /// Modules that a file imports.
    arrows: BTreeMap<Module, BTreeSet<Module>>,
}

struct File {
    /// `src/core/mod.rs`
    name: String,
    imports: Vec<Import>,
    /// Names of the items that it defines.
    items: BTreeSet<String>,
}

impl Graph {
    /// `sources`: name and text of each file, below `folder`. `krate`: the name under which the binaries import it.
    pub(crate) fn new(krate: &str, folder: &str, sources: &[(String, String)]) -> Self {
        let mut files = BTreeMap::new();
        for (name, text) in sources {
            let Some(path) = name.strip_prefix(folder).filter(|path| !is_test(path)) else { continue };
            let code = without_tests(&code(text));
            let (imports, items) = (imports(&code), items(&code));
            // `main.rs` and `lib.rs` share a folder and are two roots; a binary is imported by nobody.
            let module = if path == "main.rs" { vec![path.to_owned()] } else { module(path) };
            files.insert(module, File { name: name.clone(), imports, items });
        }
        let mut graph = Self { files, arrows: BTreeMap::new() };
        for (module, file) in &graph.files {
            let private = file.imports.iter().filter(|import| !import.public);
            let targets = private.filter_map(|import| graph.resolve(&import.path, module, krate, 0));
            let targets = targets.filter(|target| target != module && graph.files.contains_key(target)).collect();
            graph.arrows.insert(module.clone(), targets);
        }
        graph
    }

    /// The module whose file defines what a path names. `None` for other crates.
    fn resolve(&self, path: &str, module: &Module, krate: &str, depth: usize) -> Option<Module> {
        let first = path.split("::").next().unwrap_or_default();
        let child = [module.as_slice(), &[first.to_owned()]].concat();
        let segments = match absolute(path, module) {
            Some(segments) => segments,
            None if self.is_module(&child) => absolute(&format!("self::{path}"), module)?,
            None if first == krate => absolute(&format!("crate{}", &path[first.len()..]), module)?,
            None => return None,
        };
        let mut here = Module::new();
        for segment in segments {
            here.push(segment);
            if !self.is_module(&here) {
                // An item, and of what follows nothing is a file.
                let item = here.pop()?;
                return self.shown(&here, &item, krate, depth).or(Some(here));
            }
        }
        Some(here)
    }

    /// Whether there is a file or a folder of this module.
    fn is_module(&self, module: &Module) -> bool {
        self.files.range(module.clone()..).next().is_some_and(|(next, _)| next.starts_with(module))
    }

    /// Where the item is defined that a module shows with `pub use`.
    fn shown(&self, module: &Module, item: &str, krate: &str, depth: usize) -> Option<Module> {
        // Deeper than any chain of `pub use`: two that show each other.
        if depth > 8 {
            return None;
        }
        let file = self.files.get(module)?;
        if file.items.contains(item) {
            return None;
        }
        let mut public = file.imports.iter().filter(|import| import.public);
        public.find_map(|import| match import.name.as_str() {
            "*" => {
                let all = self.resolve(import.path.trim_end_matches("::*"), module, krate, depth + 1)?;
                let is_there = self.files.get(&all)?.items.contains(item);
                if is_there { Some(all) } else { self.shown(&all, item, krate, depth + 1) }
            }
            name if name == item => self.resolve(&import.path, module, krate, depth + 1),
            _ => None,
        })
    }

    /// One circle for each set of files that import each other, as the modules along it.
    pub(crate) fn circles(&self) -> Vec<Vec<Module>> {
        let mut circles: Vec<Vec<Module>> = Vec::new();
        for module in self.files.keys() {
            let known = circles.iter().any(|circle| {
                circle.contains(module)
                    || self.path(module, &circle[0]).is_some() && self.path(&circle[0], module).is_some()
            });
            if !known && let Some(circle) = self.path(module, module) {
                circles.push(circle);
            }
        }
        circles
    }

    /// The shortest way along arrows, both ends included.
    fn path(&self, from: &Module, to: &Module) -> Option<Vec<Module>> {
        let mut before: BTreeMap<&Module, &Module> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(here) = queue.pop_front() {
            for next in self.arrows.get(here).into_iter().flatten() {
                if !before.contains_key(next) {
                    before.insert(next, here);
                    queue.push_back(next);
                }
            }
        }
        let mut way = vec![to.clone()];
        let mut here = *before.get(to)?;
        while here != from {
            way.push(here.clone());
            here = before.get(here)?;
        }
        way.push(from.clone());
        way.reverse();
        Some(way)
    }

    /// Arrows between children of `parent` that go up: `order` names them, each may import only those before it.
    pub(crate) fn upward(&self, parent: &str, order: &[&[&str]]) -> Vec<String> {
        let parent: Module = parent.split("::").map(str::to_owned).collect();
        let child = |module: &Module| {
            let below = module.strip_prefix(parent.as_slice())?;
            // The parent's own file stands as `mod`.
            Some(below.first().map_or("mod", String::as_str).to_owned())
        };
        let place = |child: &str| order.iter().position(|level| level.contains(&child));
        let mut found = Vec::new();
        for (from, targets) in &self.arrows {
            let Some(importer) = child(from) else { continue };
            let name = &self.files[from].name;
            let Some(own) = place(&importer) else {
                found.push(format!("{name}: {importer} has no place in the order of {}", parent.join("::")));
                continue;
            };
            for target in targets {
                let Some(used) = child(target).filter(|used| *used != importer) else { continue };
                if place(&used).is_some_and(|place| place > own) {
                    let (target, parent) = (&self.files[target].name, parent.join("::"));
                    found.push(format!("{name} imports {target}: in {parent} {used} comes after {importer}"));
                }
            }
        }
        found
    }

    /// The file of a module.
    pub(crate) fn name(&self, module: &Module) -> &str {
        self.files.get(module).map_or("?", |file| &file.name)
    }
}

/// Whether a file is only compiled for tests.
pub(crate) fn is_test(path: &str) -> bool {
    path.split('/').any(|part| ["tests", "tests.rs", "testing.rs"].contains(&part))
}

/// Files that stand beside the folder of their module, where `x/mod.rs` is the rule.
pub(crate) fn beside_their_folder(files: &[String]) -> Vec<String> {
    let has_folder = |file: &&String| {
        let folder = format!("{}/", file.trim_end_matches(".rs"));
        files.iter().any(|other| other.starts_with(&folder))
    };
    files.iter().filter(has_folder).cloned().collect()
}
