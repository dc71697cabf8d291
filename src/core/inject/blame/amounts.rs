//! Amounts that are too large with sidecars, or too small: a `ResourceQuota`'s and a `LimitRange`'s. The messages say what the
//! pod has in all; what sidecars take of it is computed.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::patch::containers;
use super::super::resources::{Counts, peak, read, request_of};
use super::{Cause, Trial};
use crate::api::quantity::Quantity;

/// An amount that a quota or a `LimitRange` counts.
#[derive(Clone, Copy)]
struct Amount<'a> {
    is_limit: bool,
    resource: &'a str,
}

impl<'a> Amount<'a> {
    /// As a quota calls it: `limits.cpu`, `requests.memory`, `cpu`. `None` for what does not count containers.
    fn named(name: &'a str) -> Option<Self> {
        if let Some(resource) = name.strip_prefix("limits.") {
            return Some(Self { is_limit: true, resource });
        }
        let resource = name.strip_prefix("requests.").unwrap_or(name);
        let is_of_containers = name != resource || ["cpu", "memory", "ephemeral-storage"].contains(&name);
        is_of_containers.then_some(Self { is_limit: false, resource })
    }

    /// What a container has of it.
    fn of(self, container: &Value) -> Option<Quantity> {
        if self.is_limit { read(container, "limits", self.resource) } else { request_of(container, self.resource) }
    }
}

impl Trial {
    /// `q, requested: limits.cpu=2500m,pods=1, used: limits.cpu=1,pods=3, limited: limits.cpu=2,pods=3`.
    pub(super) fn quota(&self, exceeded: &str) -> Vec<Cause> {
        let list = |after: &str| {
            let list = exceeded.split_once(after).map_or("", |(_, rest)| rest);
            let list = list.split(", ").next().unwrap_or_default().split(',');
            list.filter_map(|pair| pair.split_once('='))
        };
        let find = |after: &'static str, name: &str| {
            let found = list(after).find(|(key, _)| *key == name);
            found.and_then(|(_, amount)| Quantity::parse(amount))
        };
        let cause = |(name, requested): (&str, &str)| {
            let amounts = (find(", used: ", name), find(", limited: ", name), Quantity::parse(requested));
            let (Some(used), Some(limited), Some(requested)) = amounts else { return Cause::Unknown };
            let Some(amount) = Amount::named(name) else { return Cause::Own };
            self.too_much(amount, requested, |requested| used.plus(requested) <= limited)
        };
        list(", requested: ").map(cause).collect()
    }

    /// `[maximum cpu usage per Container is 500m, but limit is 600m, minimum …]`; empty if it says nothing of the kind.
    pub(super) fn limit_range(&self, text: &str) -> Vec<Cause> {
        let mut complaints: Vec<String> = Vec::new();
        for part in text.trim_start_matches('[').trim_end_matches(']').split(", ") {
            match complaints.last_mut().filter(|_| part.starts_with("but ")) {
                Some(complaint) => complaint.extend([", ", part]),
                None => complaints.push(part.to_owned()),
            }
        }
        complaints.iter().filter_map(|complaint| self.out_of_range(complaint)).collect()
    }

    fn out_of_range(&self, complaint: &str) -> Option<Cause> {
        let (what, is) = complaint.split_once(", but ")?;
        let (what, most) = what.rsplit_once(" is ")?;
        let (what, kind) = what.rsplit_once(" per ")?;
        let most = Quantity::parse(most)?;
        let (is_limit, value) = (is.contains("limit"), is.rsplit(' ').next().and_then(Quantity::parse));
        let amount = |resource| Amount { is_limit, resource };
        if let Some(resource) = what.strip_suffix(" max limit to request ratio") {
            let [limit, request] = [true, false].map(|is_limit| Amount { is_limit, resource });
            let exceeds = |limit: Option<Quantity>, request: Option<Quantity>| match (limit, request) {
                (Some(limit), Some(request)) => limit.exceeds(request, most),
                // It has both by default, and these are in range.
                (None, None) => value.is_none() || is.contains("is 0"),
                _ => true,
            };
            return Some(match kind {
                "Container" => self.containers_that(|c| exceeds(limit.of(c), request.of(c))),
                _ => self.without_which(|counts| {
                    let sum = |amount: Amount<'_>| peak(&self.with, counts, |container| amount.of(container));
                    !exceeds(sum(limit), sum(request))
                }),
            });
        }
        let usage = what.strip_suffix(" usage")?;
        let (is_maximum, resource) = match usage.split_once(' ')? {
            ("maximum", resource) => (true, resource),
            ("minimum", resource) => (false, resource),
            _ => return None,
        };
        let amount = amount(resource);
        Some(match (kind, value) {
            ("Container", value) => self.containers_that(|container| {
                let has = amount.of(container).filter(|has| has.is_positive());
                value.map_or(has.is_none(), |value| has == Some(value))
            }),
            (_, Some(value)) if is_maximum => self.too_much(amount, value, |value| value <= most),
            // Sidecars only add to it.
            _ => Cause::Own,
        })
    }

    /// The sets of the containers that are out of range. One whose amount is a default is not seen.
    fn containers_that(&self, is_out: impl Fn(&Value) -> bool) -> Cause {
        let out = containers(&self.with).map(|(_, container)| container).filter(|container| is_out(container));
        let names: Vec<&str> = out.map(|container| container["name"].as_str().unwrap_or_default()).collect();
        super::all(names.into_iter().map(|name| self.set_of_container(name)))
    }

    /// The pod has so much of an amount, and that does not `fit`.
    fn too_much(&self, amount: Amount<'_>, has: Quantity, fits: impl Fn(Quantity) -> bool) -> Cause {
        // Pod-level resources are the pod's, with sidecars and without.
        if amount.of(&self.with["spec"]).is_some() {
            return Cause::Own;
        }
        let declared = peak(&self.with, &|_| true, |container| amount.of(container)).unwrap_or_default();
        let silent = containers(&self.with).filter(|(_, container)| amount.of(container).is_none()).count();
        // What a LimitRange gives to each that says nothing.
        let default = if silent == 0 { Quantity::ZERO } else { has.minus(declared).split(silent) };
        let sum = |counts: Counts<'_>| {
            peak(&self.with, counts, |container| Some(amount.of(container).unwrap_or(default))).unwrap_or_default()
        };
        let all = sum(&|_| true);
        self.without_which(|counts| fits(has.minus(all.minus(sum(counts)))))
    }

    /// The sets without whose containers it `fits`: the last by name go first, as where sets collide.
    fn without_which(&self, fits: impl Fn(Counts<'_>) -> bool) -> Cause {
        let mut sets = BTreeSet::new();
        for set in self.added.keys().rev() {
            sets.insert(set.clone());
            let counts = |name: &str| !sets.iter().any(|set| self.added[set].containers.contains(name));
            if fits(&counts) {
                return Cause::Sets(sets);
            }
        }
        Cause::Own
    }
}
