//! Which sets share an entry of the webhook configuration.
//!
//! Each entry that matches a pod is a call of its own, and when nobody answers, a wait of its own. Sets with
//! failurePolicy Ignore are therefore divided so that a pod matches one entry at most; sets with Fail have one entry
//! each, so that the apiserver's message names the set that refuses the pod. Every call injects *all* sets, so that a
//! second one finds nothing to do.

use kube::core::Expression;

use super::condition::{coarse, exact};
use crate::api::keys;
use crate::api::selector::{Selector, key};
use crate::api::v1beta1::FailurePolicy;
use crate::core::inject::{CompiledSet, CompiledSets};

/// Longest CEL expression of one entry, in bytes. The apiserver's parser refuses more than 100,000 characters.
pub(super) const MAX_CEL: usize = 64 * 1024;

/// Bytes of CEL of one failure policy: with the CA bundles of all entries it stays below etcd's 1.5 MiB.
const MAX_TOTAL_CEL: usize = 256 * 1024;

/// Entries of one failure policy. The apiserver looks at each for every pod, and each repeats the CA bundle.
pub(super) const MAX_ENTRIES: usize = 128;

#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub(super) policy: FailurePolicy,
    /// What the namespace's labels must satisfy.
    pub(super) namespaces: Vec<Expression>,
    /// What the pod's labels must satisfy.
    pub(super) labels: Vec<Expression>,
    /// Sets that this entry is for, by name; none if it is for copies of injected pods only.
    pub(super) sets: Vec<&'a CompiledSet>,
    /// CEL; `None` for every pod.
    pub(super) condition: Option<String>,
}

/// All entries, in the order in which the apiserver calls them: a pod that Fail refuses does not wait for Ignore first.
/// None if no set injects.
pub(super) fn entries(sets: &CompiledSets) -> Vec<Entry<'_>> {
    let active = sets.iter().map(AsRef::as_ref).filter(|set: &&CompiledSet| !set.paused);
    let (fail, ignore): (Vec<_>, Vec<_>) = active.partition(|set| set.failure_policy == FailurePolicy::Fail);
    if fail.is_empty() && ignore.is_empty() {
        return Vec::new();
    }
    let mut entries = if fail.len() <= MAX_ENTRIES {
        fail.iter().map(|set| alone(set)).collect()
    } else {
        shared(FailurePolicy::Fail, &fail)
    };
    entries.extend(shared(FailurePolicy::Ignore, &ignore));
    entries
}

/// An entry that says exactly what the set selects; cheaper for the apiserver than a condition.
fn alone(set: &CompiledSet) -> Entry<'_> {
    let namespaces = set.namespace_selector.iter().flat_map(Selector::requirements).cloned().collect();
    let labels = set.selector.requirements().to_vec();
    Entry { policy: set.failure_policy, namespaces, labels, sets: vec![set], condition: None }
}

/// The tightest entries that the apiserver can bear.
fn shared<'a>(policy: FailurePolicy, sets: &[&'a CompiledSet]) -> Vec<Entry<'a>> {
    let copies = policy == FailurePolicy::Ignore;
    let exact = |parts: Vec<Part<'a>>| parts.into_iter().flat_map(|part| part.into_entries(policy, copies)).collect();
    let everywhere = || Part { namespaces: Vec::new(), sets: sets.to_vec() };
    let divided = divide(sets).map(exact).filter(fits);
    divided.or_else(|| Some(exact(vec![everywhere()])).filter(fits)).unwrap_or_else(|| {
        let condition = coarse(sets, copies).filter(|cel| cel.len() <= MAX_CEL);
        vec![Entry { policy, namespaces: Vec::new(), labels: Vec::new(), sets: sets.to_vec(), condition }]
    })
}

#[allow(clippy::ptr_arg)] // the signature that `Iterator::filter` asks for
fn fits(entries: &Vec<Entry<'_>>) -> bool {
    let lengths = || entries.iter().filter_map(|entry| entry.condition.as_ref()).map(String::len);
    entries.len() <= MAX_ENTRIES
        && lengths().all(|length| length <= MAX_CEL)
        && lengths().sum::<usize>() <= MAX_TOTAL_CEL
}

/// A part of all namespaces, and the sets that reach it.
#[derive(Clone)]
struct Part<'a> {
    namespaces: Vec<Expression>,
    sets: Vec<&'a CompiledSet>,
}

impl<'a> Part<'a> {
    fn of(set: &'a CompiledSet) -> Self {
        let requirements = set.namespace_selector.iter().flat_map(Selector::requirements);
        // The condition sees the namespace's name.
        let namespaces = requirements.filter(|requirement| key(requirement) != keys::NAMESPACE_NAME).cloned().collect();
        Self { namespaces, sets: vec![set] }
    }

    /// This part without and with the namespaces of a selector; what holds no namespace is left out.
    fn divide(self, selector: &Self) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut inside = self.namespaces;
        // Not (a and b) is: not a, or a and not b. These exclude each other.
        for requirement in &selector.namespaces {
            let outside = inside.iter().cloned().chain([not(requirement)]).collect();
            parts.push(Self { namespaces: outside, sets: self.sets.clone() });
            inside.push(requirement.clone());
        }
        let sets = self.sets.into_iter().chain(selector.sets.iter().copied()).collect();
        parts.push(Self { namespaces: inside, sets });
        parts.into_iter().filter(|part| is_satisfiable(&part.namespaces)).map(Self::simplified).collect()
    }

    /// Without requirements that follow from the others, such as `team!=b` beside `team=a`.
    fn simplified(mut self) -> Self {
        let mut index = 0;
        while let Some(requirement) = self.namespaces.get(index) {
            let mut negated = self.namespaces.clone();
            negated[index] = not(requirement);
            if is_satisfiable(&negated) {
                index += 1;
            } else {
                self.namespaces.remove(index);
            }
        }
        self
    }

    /// One entry, or several where the condition would be too long.
    fn into_entries(self, policy: FailurePolicy, copies: bool) -> Vec<Entry<'a>> {
        if self.sets.is_empty() && !copies {
            return Vec::new();
        }
        let condition = exact(&self.sets, copies);
        if condition.len() <= MAX_CEL || self.sets.len() <= 1 {
            let Self { namespaces, sets } = self;
            return vec![Entry { policy, namespaces, labels: Vec::new(), sets, condition: Some(condition) }];
        }
        let (first, second) = self.sets.split_at(self.sets.len() / 2);
        let half = |sets: &[&'a CompiledSet]| Part { namespaces: self.namespaces.clone(), sets: sets.to_vec() };
        let mut entries = half(first).into_entries(policy, copies);
        entries.extend(half(second).into_entries(policy, false));
        entries
    }
}

/// Divides all namespaces by the sets' namespaceSelectors, so that each namespace is in one part. `None` if these are
/// too many: selectors on `n` unrelated labels give up to 2ⁿ.
fn divide<'a>(sets: &[&'a CompiledSet]) -> Option<Vec<Part<'a>>> {
    let mut selectors: Vec<Part<'a>> = Vec::new();
    for set in sets.iter().map(|set| Part::of(set)) {
        match selectors.iter_mut().find(|other| other.namespaces == set.namespaces) {
            Some(same) => same.sets.extend(set.sets),
            None => selectors.push(set),
        }
    }
    let mut parts = vec![Part { namespaces: Vec::new(), sets: Vec::new() }];
    for selector in &selectors {
        parts = parts.into_iter().flat_map(|part| part.divide(selector)).collect();
        if parts.len() > MAX_ENTRIES {
            return None;
        }
    }
    for part in &mut parts {
        part.sets.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Some(parts)
}

fn is_satisfiable(requirements: &[Expression]) -> bool {
    Selector::from(requirements.to_vec()).overlaps(&Selector::default())
}

fn not(expression: &Expression) -> Expression {
    match expression.clone() {
        Expression::Equal(key, value) => Expression::NotEqual(key, value),
        Expression::NotEqual(key, value) => Expression::Equal(key, value),
        Expression::In(key, values) => Expression::NotIn(key, values),
        Expression::NotIn(key, values) => Expression::In(key, values),
        Expression::Exists(key) => Expression::DoesNotExist(key),
        Expression::DoesNotExist(key) => Expression::Exists(key),
    }
}
