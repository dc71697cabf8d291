//! A plan as text: a table, the first batch, and unified diffs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kube::ResourceExt;
use serde_json::{Value, json};
use similar::TextDiff;

use super::decide::{Action, Plan, Row};
use crate::api::SidecarSet;
use crate::cli::output::table;
use crate::core::pod::PodKey;

/// Pods named in the line about the first batch; the rest is counted.
const NAMED_PODS: usize = 3;

/// Lines around a change.
const CONTEXT: usize = 3;

/// A pod as it is and as it would be.
pub(super) struct Example {
    pub(super) action: Action,
    pub(super) pod: PodKey,
    pub(super) before: Value,
    pub(super) after: Value,
}

/// The text for a terminal. With `pods`, every pod has a line.
pub(super) fn render(plan: &Plan, examples: &[Example], pods: bool) -> String {
    let mut text = headline(plan);
    if plan.rows.is_empty() {
        text += "\nNo pod is concerned.\n";
    } else {
        let _ = write!(text, "\n{}", if pods { every_pod(&plan.rows) } else { by_reason(&plan.rows) });
    }
    text += &first_batch(plan);
    text += &set_diff(plan);
    for Example { action, pod, before, after } in examples {
        let label = if *action == Action::Patch { "patched in place" } else { "recreated" };
        text += &diff(&format!("Pod {pod}"), "now", label, &shape(before), &shape(after));
    }
    text
}

fn headline(plan: &Plan) -> String {
    let what = match &plan.existing {
        None => "new",
        Some(_) if plan.differs() => "changed",
        Some(existing) if existing.spec != plan.set.spec => "written differently, means the same",
        Some(_) => "not changed",
    };
    let mut text = format!("SidecarSet {}: {what}, revision {}\n", plan.set.name_any(), plan.revision);
    if !plan.forecast.given_up.is_empty() {
        let _ = writeln!(text, "{}", plan.forecast.given_up);
    }
    if !plan.kept.is_empty() {
        let _ = writeln!(text, "kept from the live object: {}", plan.kept.join(", "));
    }
    text
}

fn by_reason(rows: &[Row]) -> String {
    let mut counts: BTreeMap<(Action, &str), usize> = BTreeMap::new();
    for row in rows {
        *counts.entry((row.action, &row.why)).or_default() += 1;
    }
    let lines =
        counts.into_iter().map(|((action, why), pods)| [action.as_str().to_owned(), pods.to_string(), why.to_owned()]);
    table(["ACTION", "PODS", "WHY"], &lines.collect::<Vec<_>>())
}

fn every_pod(rows: &[Row]) -> String {
    let lines = rows.iter().map(|row| [row.action.as_str().to_owned(), row.pod.to_string(), row.why.clone()]);
    table(["ACTION", "POD", "WHY"], &lines.collect::<Vec<_>>())
}

/// What would be patched and evicted at once, and how it goes on. Empty if nothing would be.
fn first_batch(plan: &Plan) -> String {
    let moves = |row: &Row| matches!(row.action, Action::Patch | Action::Evict);
    if !plan.rows.iter().any(moves) {
        return String::new();
    }
    let mut text = format!("first: {}", first(plan));
    if plan.summary.keep_old > 0 {
        let _ = write!(text, "; partition keeps {} on the old revision", plan.summary.keep_old);
    }
    if !plan.forecast.steps.is_empty() {
        let _ = write!(text, "\nsteps: {}", plan.forecast.steps);
    }
    format!("\n{text}\n")
}

fn first(plan: &Plan) -> String {
    let Plan { first, evicted_first, summary, forecast, .. } = plan;
    let pods = |pods: &[PodKey]| if pods.len() == 1 { "1 pod".to_owned() } else { format!("{} pods", pods.len()) };
    let patched = (!first.is_empty()).then(|| format!("{} now ({})", pods(first), named(first)));
    let evicted = (!evicted_first.is_empty()).then(|| {
        let names = named(evicted_first);
        format!("evict {} now ({names}; one of each owner, if PodDisruptionBudgets allow it)", pods(evicted_first))
    });
    let now: Vec<String> = patched.into_iter().chain(evicted).collect();
    let only_evicts = plan.rows.iter().all(|row| row.action != Action::Patch);
    match (forecast.waits_for.as_str(), plan.hold) {
        _ if !now.is_empty() => format!("{}, then at most {} unavailable", now.join(", "), summary.max_unavailable),
        (_, Some(why)) if only_evicts => format!("nothing; {why}"),
        ("", _) => "nothing; earlier updates are not finished".to_owned(),
        (why, _) => format!("nothing; {why}"),
    }
}

fn named(pods: &[PodKey]) -> String {
    let mut names: Vec<String> = pods.iter().take(NAMED_PODS).map(ToString::to_string).collect();
    if pods.len() > NAMED_PODS {
        names.push("…".to_owned());
    }
    names.join(", ")
}

fn set_diff(plan: &Plan) -> String {
    let spec = |set: &SidecarSet| json!({ "spec": set.spec });
    let before = plan.existing.as_ref().map_or(Value::Null, spec);
    diff(&format!("SidecarSet {}", plan.set.name_any()), "now", "planned", &before, &spec(&plan.set))
}

/// What a person looks at: metadata and spec, without who wrote which field.
fn shape(pod: &Value) -> Value {
    let mut metadata = pod["metadata"].clone();
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("managedFields");
    }
    json!({"metadata": metadata, "spec": pod["spec"]})
}

/// A unified diff of two values as YAML; empty if they are equal.
fn diff(what: &str, before_label: &str, after_label: &str, before: &Value, after: &Value) -> String {
    let yaml = |value: &Value| match value {
        Value::Null => String::new(),
        value => serde_saphyr::to_string(value).unwrap_or_default(),
    };
    let (before, after) = (yaml(before), yaml(after));
    if before == after {
        return String::new();
    }
    let diff = TextDiff::from_lines(&before, &after);
    let (before, after) = (format!("{what} ({before_label})"), format!("{what} ({after_label})"));
    format!("\n{}", diff.unified_diff().context_radius(CONTEXT).header(&before, &after))
}
