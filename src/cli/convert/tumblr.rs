//! Configurations of Tumblr's k8s-sidecar-injector, from files and `ConfigMap`s.
//!
//! A pod asks for one by an annotation; a `SidecarSet` selects pods by labels. Source of the rules: the injector's
//! `docs/sidecar-configuration-format.md` and `internal/pkg/config`.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Draft, MAX_NAME, Note, Notes, entries, take, valid_name};
use crate::cli::ordered::Ordered;
use crate::cli::parse::parse;
use crate::cli::schema::is_empty;

/// Annotation by which a pod asks for a configuration, and the label that takes its place.
pub(super) const REQUEST: &str = "injector.tumblr.com/request";

/// The version of a configuration that names none.
const LATEST: &str = "latest";

/// Lists that an heir merges by name into those of its parent.
const MERGED_LISTS: [&str; 5] = ["containers", "initContainers", "volumes", "env", "volumeMounts"];

/// What a configuration changes on the application itself, and what to do instead.
const ON_THE_APPLICATION: [(&str, &str); 6] = [
    ("env", "is in the sidecars; the application's containers get none: write it into the pod templates"),
    ("volumeMounts", "are in the sidecars; the application's containers get none: write them into the pod templates"),
    ("hostAliases", "have no equivalent: write them into the pod templates"),
    ("hostNetwork", "has no equivalent: write it into the pod templates"),
    ("hostPID", "has no equivalent: write it into the pod templates"),
    ("serviceAccountName", "has no equivalent: write it into the pod templates"),
];

/// Every other field that a configuration may have.
const KNOWN: [&str; 5] = ["name", "inherits", "containers", "initContainers", "volumes"];

pub(super) struct Configuration {
    file: String,
    name: String,
    /// `latest` if the name has none.
    version: String,
    value: Value,
}

impl Configuration {
    /// Reads `name` and its version.
    pub(super) fn new(file: &str, value: Value) -> Result<Self, String> {
        let full_name = value["name"].as_str().unwrap_or_default();
        let (name, version) = full_name.split_once(':').unwrap_or((full_name, LATEST));
        if valid_name(name).is_empty() || version.contains(':') {
            return Err(format!("{file}: name: {full_name:?} is neither `name` nor `name:version`"));
        }
        let version = if version.is_empty() { LATEST } else { version };
        // The injector compares names without regard to case.
        let (name, version) = (name.to_lowercase(), version.to_lowercase());
        Ok(Self { file: file.to_owned(), name, version, value })
    }

    /// The value of the label that takes the place of the annotation: `:` is not legal in one.
    fn label(&self) -> String {
        let text = if self.version == LATEST { self.name.clone() } else { format!("{}-{}", self.name, self.version) };
        let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
        let label: String = text.chars().map(legal).take(MAX_NAME).collect();
        label.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
    }
}

/// The configurations in the values of a `ConfigMap`, each with as many documents as it has. What is none is skipped,
/// with a note.
pub(super) fn of_config_map(file: &str, map: &Value, notes: &mut Vec<Note>) -> Result<Vec<Configuration>, String> {
    let name = map["metadata"]["name"].as_str().unwrap_or_default();
    let mut found = Vec::new();
    let mut skipped = Notes::about(format!("ConfigMap/{name}"));
    for (key, text) in map["data"].as_object().into_iter().flatten() {
        let path = format!("data[{key}]");
        let parsed = match parse(text.as_str().unwrap_or_default()) {
            Ok(parsed) => parsed,
            Err(message) => {
                skipped.say(path, format!("is no configuration of k8s-sidecar-injector: skipped; {message}"));
                continue;
            }
        };
        parsed.warnings.into_iter().for_each(|warning| skipped.say(&path, warning));
        let documents: Vec<Value> = parsed.bodies.iter().map(Ordered::value).collect();
        let (configurations, others): (Vec<_>, Vec<_>) = documents.into_iter().partition(is_configuration);
        if configurations.is_empty() || !others.is_empty() {
            let which = if configurations.is_empty() { "" } else { "has a document that " };
            skipped.say(path, format!("{which}is no configuration of k8s-sidecar-injector: skipped"));
        }
        for value in configurations {
            found.push(Configuration::new(file, value)?);
        }
    }
    notes.extend(skipped.list);
    Ok(found)
}

/// Many an application's own file has a name, too.
fn is_configuration(value: &Value) -> bool {
    let of_applications = ON_THE_APPLICATION.iter().map(|(field, _)| *field);
    let mut known = KNOWN.into_iter().filter(|field| *field != "name").chain(of_applications);
    value["name"].is_string() && known.any(|field| !value[field].is_null())
}

pub(super) fn convert(configurations: &[Configuration]) -> Vec<Draft> {
    configurations.iter().map(|configuration| draft(configuration, configurations)).collect()
}

fn draft(configuration: &Configuration, all: &[Configuration]) -> Draft {
    let of_another_version =
        |other: &&Configuration| other.name == configuration.name && other.version != configuration.version;
    let has_versions = all.iter().any(|other| of_another_version(&other));
    // Sets of several versions of one name need names of their own.
    let name = valid_name(&if has_versions { configuration.label() } else { configuration.name.clone() });
    let mut notes = Notes::about(format!("SidecarSet/{name}"));
    let mut value = inherited(configuration, all, &mut Vec::new(), &mut notes);
    let metadata = Map::from_iter([("name".to_owned(), json!(name))]);
    for field in ["env", "volumeMounts"] {
        let added = list(&value, field);
        for containers in ["initContainers", "containers"] {
            entries(&mut value, containers).for_each(|container| add_by_name(container, field, &added));
        }
    }
    for (field, message) in ON_THE_APPLICATION {
        if !is_empty(&value[field]) && value[field] != false {
            notes.say(field, message);
        }
    }
    for field in value.as_object().into_iter().flat_map(Map::keys) {
        if !KNOWN.contains(&field.as_str()) && !ON_THE_APPLICATION.iter().any(|(known, _)| known == field) {
            notes.say(field, "is not a field of a configuration: dropped; look for a typo");
        }
    }
    let spec = spec(configuration, value, &mut notes);
    Draft { metadata, spec, notes }
}

/// `None` if there is nothing to inject.
fn spec(configuration: &Configuration, mut value: Value, notes: &mut Notes) -> Option<Value> {
    if is_empty(&value["containers"]) && is_empty(&value["initContainers"]) {
        notes.refuse("containers", "there are none, so no SidecarSet can be made: see the notes on the other fields");
        return None;
    }
    let label = configuration.label();
    notes.say(
        "spec.selector",
        format!(
            "selectors do not see the annotation {REQUEST}: {}:{}; put the label {REQUEST}: {label} on the pod templates \
             (another key if the injector runs with its own --annotation-namespace)",
            configuration.name, configuration.version
        ),
    );
    notes.say(
        "spec.updateStrategy",
        "a new image is rolled out to running pods too, one at a time; write type: NotUpdate to leave them alone",
    );
    let mut spec = json!({"selector": {"matchLabels": {REQUEST: label}}});
    if configuration.version != LATEST {
        spec["customVersion"] = json!(configuration.version);
    }
    for container in entries(&mut value, "containers") {
        container["podInjectPolicy"] = json!("AfterAppContainer");
    }
    for list in ["initContainers", "containers", "volumes"] {
        if let Some(entries) = take(&mut value, list).filter(|entries| !is_empty(entries)) {
            spec[list] = entries;
        }
    }
    Some(spec)
}

/// The configuration with what it inherits. `heirs` are those on the way to it.
fn inherited(
    configuration: &Configuration,
    all: &[Configuration],
    heirs: &mut Vec<String>,
    notes: &mut Notes,
) -> Value {
    let Some(parent) = configuration.value["inherits"].as_str().filter(|parent| !parent.is_empty()) else {
        return configuration.value.clone();
    };
    let path = clean(&Path::new(&configuration.file).with_file_name(parent));
    heirs.push(configuration.file.clone());
    let why = match all.iter().find(|other| clean(Path::new(&other.file)) == path) {
        Some(found) if !heirs.contains(&found.file) => {
            return merge(inherited(found, all, heirs, notes), &configuration.value);
        }
        Some(_) => format!("{parent} inherits from itself in the end: remove one of the two"),
        None => format!("{} is not in the input: add -f {0}", path.display()),
    };
    notes.refuse("inherits", why);
    configuration.value.clone()
}

/// As the injector merges: entries of equal names are replaced, others follow; host settings are the parent's.
fn merge(mut parent: Value, heir: &Value) -> Value {
    for field in MERGED_LISTS {
        let mut merged = list(&parent, field);
        for entry in list(heir, field) {
            match merged.iter_mut().find(|other| other["name"] == entry["name"]) {
                Some(other) => *other = entry,
                None => merged.push(entry),
            }
        }
        parent[field] = Value::Array(merged);
    }
    parent["hostAliases"] = list(&parent, "hostAliases").into_iter().chain(list(heir, "hostAliases")).collect();
    if !is_empty(&heir["serviceAccountName"]) {
        parent["serviceAccountName"] = heir["serviceAccountName"].clone();
    }
    parent
}

fn list(object: &Value, field: &str) -> Vec<Value> {
    object[field].as_array().cloned().unwrap_or_default()
}

/// Adds the entries whose names the container's list lacks.
fn add_by_name(container: &mut Value, field: &str, added: &[Value]) {
    let present = list(container, field);
    let missing = added.iter().filter(|entry| !present.iter().any(|other| other["name"] == entry["name"]));
    let all: Vec<Value> = present.iter().chain(missing).cloned().collect();
    if !all.is_empty() {
        container[field] = Value::Array(all);
    }
}

/// The path without `.` and `..`.
fn clean(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut clean, component| {
        match component {
            Component::CurDir => {}
            Component::ParentDir if clean.file_name().is_some() => _ = clean.pop(),
            other => clean.push(other),
        }
        clean
    })
}
