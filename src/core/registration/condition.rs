//! CEL that is true for the pods that sets select.
//!
//! The apiserver compiles it anew after each change of a set, while a pod waits, in a time that grows with the square of
//! the operators in it, but hardly with the length of constant lists (docs/webhook.md has figures). So the values of sets
//! whose selectors look alike are written as rows of one list: 3,000 sets compile in 40 ms.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::Expression;
use serde_json::json;

use crate::api::keys;
use crate::api::selector::{Selector, key};
use crate::core::inject::CompiledSet;

/// True for every pod that one of the sets selects in a namespace whose name they allow, and for no other. With
/// `copies`, true as well for copies of injected pods, whose sidecars may have to go.
pub(super) fn exact(sets: &[&CompiledSet], copies: bool) -> String {
    let mut tables: BTreeMap<Shape, BTreeSet<String>> = BTreeMap::new();
    for set in sets {
        let (shape, rows) = shape(set);
        tables.entry(shape).or_default().extend(rows);
    }
    any(copies, tables.iter().map(|(shape, rows)| shape.term(rows)))
}

/// True for every pod with a label that one of the sets requires; `None` if one of them requires none.
pub(super) fn coarse(sets: &[&CompiledSet], copies: bool) -> Option<String> {
    let is_required = |r: &&Expression| matches!(r, Expression::Equal(..) | Expression::In(..) | Expression::Exists(_));
    let required = |set: &&CompiledSet| Some(key(set.selector.requirements().iter().find(is_required)?).to_owned());
    let keys: BTreeSet<String> = sets.iter().map(required).collect::<Option<_>>()?;
    Some(any(copies, [format!("l.exists(k, k in {})", json!(keys))].into_iter()))
}

/// A pod without labels has none, not an error: an evaluation error would refuse it where the policy is Fail.
fn any(copies: bool, terms: impl Iterator<Item = String>) -> String {
    let terms: Vec<String> = copies.then(|| present(keys::INJECTED)).into_iter().chain(terms).collect();
    format!("[has(object.metadata.labels) ? object.metadata.labels : {{}}].exists(l, {})", terms.join(" || "))
}

/// What sets have in common whose conditions differ in a row of constants only.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    columns: Vec<Column>,
    /// Requirements that are no columns, in CEL.
    rest: BTreeSet<String>,
}

/// Where one value of a row comes from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Column {
    /// The name of the namespace.
    Namespace,
    /// The label with this key.
    Label(String),
    /// The only label of the row, as `key=value`, so that sets which look at different labels share a shape.
    OnlyLabel,
}

/// The shape of a set and its rows. Columns are the requirements with one value, and one requirement with several.
fn shape(set: &CompiledSet) -> (Shape, Vec<String>) {
    let names = namespace_names(set).map(|expression| (Column::Namespace, expression));
    let labels = set.selector.requirements().iter();
    let labels = labels.map(|expression| (Column::Label(key(expression).to_owned()), expression));
    let mut requirements: Vec<(Column, &Expression)> = names.chain(labels).collect();
    requirements.sort_by(|(a, _), (b, _)| a.cmp(b));

    let (mut columns, mut rest) = (Vec::new(), BTreeSet::new());
    let mut rows: Vec<Vec<&str>> = vec![Vec::new()];
    for (column, expression) in requirements {
        match positive(expression) {
            Some(values) if values.len() == 1 || rows.len() == 1 => {
                let cells =
                    |row: &Vec<_>| values.iter().map(|value| [row.as_slice(), &[*value]].concat()).collect::<Vec<_>>();
                rows = rows.iter().flat_map(cells).collect();
                columns.push(column);
            }
            _ => _ = rest.insert(column.requires(expression)),
        }
    }
    let rows = rows.iter().map(|row| text(&columns, row)).collect();
    if only_label(&columns) {
        columns.retain(|column| *column == Column::Namespace);
        columns.push(Column::OnlyLabel);
    }
    (Shape { columns, rest }, rows)
}

fn only_label(columns: &[Column]) -> bool {
    columns.iter().filter(|column| **column != Column::Namespace).count() == 1
}

/// A row as one string; neither labels nor names of namespaces contain `,` or `=`.
fn text(columns: &[Column], row: &[&str]) -> String {
    let only = only_label(columns);
    let cells = columns.iter().zip(row).map(|(column, value)| match column {
        Column::Label(key) if only => format!("{key}={value}"),
        _ => (*value).to_owned(),
    });
    cells.collect::<Vec<_>>().join(",")
}

impl Shape {
    fn term(&self, rows: &BTreeSet<String>) -> String {
        let mut terms: Vec<String> = self.columns.iter().filter_map(Column::guard).collect();
        if !self.columns.is_empty() {
            let row = self.columns.iter().map(Column::value).collect::<Vec<_>>().join(r#" + "," + "#);
            let listed = format!("{row} in {}", json!(rows));
            terms.push(if only_label(&self.columns) { format!("l.exists(k, {listed})") } else { listed });
        }
        terms.extend(self.rest.iter().cloned());
        if terms.is_empty() { "true".to_owned() } else { format!("({})", terms.join(" && ")) }
    }
}

impl Column {
    /// What must hold before the value may be asked for.
    fn guard(&self) -> Option<String> {
        match self {
            Self::Label(key) => Some(present(key)),
            Self::Namespace | Self::OnlyLabel => None,
        }
    }

    fn value(&self) -> String {
        match self {
            Self::Namespace => "request.namespace".to_owned(),
            Self::Label(key) => format!("l[{}]", json!(key)),
            Self::OnlyLabel => r#"k + "=" + l[k]"#.to_owned(),
        }
    }

    /// One requirement on this column.
    fn requires(&self, expression: &Expression) -> String {
        // Every namespace has its name as a label.
        let present = || self.guard().unwrap_or_else(|| "true".to_owned());
        let (is_wanted, condition) = match expression {
            Expression::Exists(_) => return present(),
            Expression::DoesNotExist(_) => (false, present()),
            _ => {
                let (is_wanted, values) = values(expression);
                let listed = format!("{} in {}", self.value(), json!(values));
                (is_wanted, self.guard().into_iter().chain([listed]).collect::<Vec<_>>().join(" && "))
            }
        };
        format!("{}({condition})", if is_wanted { "" } else { "!" })
    }
}

/// The values of which a requirement demands one.
fn positive(expression: &Expression) -> Option<Vec<&str>> {
    Some(values(expression)).filter(|(is_wanted, _)| *is_wanted).map(|(_, values)| values)
}

/// Values that a requirement names, and whether it demands one of them; false for one that names none.
fn values(expression: &Expression) -> (bool, Vec<&str>) {
    match expression {
        Expression::Equal(_, value) => (true, vec![value]),
        Expression::NotEqual(_, value) => (false, vec![value]),
        Expression::In(_, values) => (true, values.iter().map(String::as_str).collect()),
        Expression::NotIn(_, values) => (false, values.iter().map(String::as_str).collect()),
        Expression::Exists(_) | Expression::DoesNotExist(_) => (false, Vec::new()),
    }
}

/// What a set demands of the namespace's name: conditions see the name, and no other label of the namespace.
fn namespace_names(set: &CompiledSet) -> impl Iterator<Item = &Expression> {
    let requirements = set.namespace_selector.iter().flat_map(Selector::requirements);
    requirements.filter(|requirement| key(requirement) == keys::NAMESPACE_NAME)
}

fn present(key: &str) -> String {
    format!("{} in l", json!(key))
}
