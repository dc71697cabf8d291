//! KWOK's configuration: what its kubelets do, and how fast.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

const NODES: &str = include_str!("../stages/nodes.yaml");
const PODS: &str = include_str!("../stages/pods.yaml");
/// What the Stages share, as YAML has no way to share it between documents.
const SHARED: [(&str, &str); 2] = [
    ("#include status.tpl", include_str!("../stages/status.tpl")),
    ("#include changed.jq", include_str!("../stages/changed.jq")),
];
const OPTIONS: &str = include_str!("../stages/options.yaml");

/// Writes the configuration and returns its path.
pub(crate) fn write(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join("kwok.yaml");
    let text = [OPTIONS, NODES, &pods()].join("\n---\n");
    fs::write(&path, text).map_err(Error::file("write", &path))?;
    Ok(path)
}

/// The Stages differ in when they fire; what the status then becomes is one template for all. A line that names a shared
/// file is replaced by it here, at its own indentation.
fn pods() -> String {
    let whole = |line: &str| {
        let found = SHARED.iter().find_map(|(name, text)| Some((line.find(name)?, text)));
        found.map_or_else(|| line.to_owned(), |(width, text)| indented(width, text))
    };
    PODS.lines().map(whole).collect::<Vec<_>>().join("\n")
}

fn indented(width: usize, text: &str) -> String {
    text.lines().map(|line| format!("{:width$}{line}", "")).collect::<Vec<_>>().join("\n")
}
