//! KWOK's configuration: what its kubelets do, and how fast.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::Error;

const NODES: &str = include_str!("../stages/nodes.yaml");
const PODS: &str = include_str!("../stages/pods.yaml");
const STATUS: &str = include_str!("../stages/status.tpl");
const OPTIONS: &str = include_str!("../stages/options.yaml");

/// Writes the configuration and returns its path.
pub(crate) fn write(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join("kwok.yaml");
    let text = [OPTIONS, NODES, &pods()].join("\n---\n");
    fs::write(&path, text).map_err(Error::file("write", &path))?;
    Ok(path)
}

/// The Stages differ in when they fire; what the status then becomes is one template for all. YAML has no way to share
/// it between documents, so the line `#include status.tpl` is replaced here, at its own indentation.
fn pods() -> String {
    PODS.lines()
        .map(|line| line.find("#include status.tpl").map_or_else(|| line.to_owned(), indented))
        .collect::<Vec<_>>()
        .join("\n")
}

fn indented(width: usize) -> String {
    STATUS.lines().map(|line| format!("{:width$}{line}", "")).collect::<Vec<_>>().join("\n")
}
