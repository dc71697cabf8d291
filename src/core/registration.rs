//! The webhook configurations, generated from the sets that exist: as tight as Kubernetes can say it, always a superset
//! of what the sets select, so that a pod that no set wants does not reach the operator.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement as Requirement;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::core::Expression;
use serde_json::json;

use super::inject::{CompiledSet, CompiledSets};
use crate::api::keys;
use crate::api::selector::{Selector, key};
use crate::api::v1beta1::FailurePolicy;

/// Longest CEL expression of one entry, in bytes. 200 sets in one expression (some 40 KB) cost the apiserver a second
/// to compile, 1,000 sets are refused (tried on 1.36); past this the condition becomes coarser.
const MAX_CEL: usize = 32 * 1024;

/// Entries of one configuration. Past this, entries of one failure policy share one without a namespaceSelector.
const MAX_ENTRIES: usize = 32;

/// Path of the pod webhook; the version of the sets follows.
pub const POD_PATH: &str = "/mutate-pods";

/// Path of the webhook on sets.
pub const SET_PATH: &str = "/validate-sidecarsets";

/// Where the apiserver reaches the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `https://127.0.0.1:9443`, for an operator outside the cluster.
    Url(String),
    /// A Service with port 443.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// What both configurations need to know.
#[derive(Clone, Debug)]
pub struct Params {
    /// Name of the configuration object.
    pub name: String,
    /// Where the apiserver reaches the operator.
    pub endpoint: Endpoint,
    /// PEM certificates that the apiserver trusts.
    pub ca_bundle: Vec<u8>,
    /// Namespaces that no set reaches, besides [`keys::EXCLUDED_NAMESPACES`].
    pub excluded: Vec<String>,
    /// Owner of an in-cluster configuration: the operator's Namespace.
    pub owner: Option<OwnerReference>,
}

impl Params {
    fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.clone()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), keys::MANAGER.to_owned())].into()),
            owner_references: self.owner.clone().map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }

    fn client(&self, path: &str) -> WebhookClientConfig {
        let ca_bundle = Some(ByteString(self.ca_bundle.clone()));
        match &self.endpoint {
            Endpoint::Url(base) => WebhookClientConfig { ca_bundle, url: Some(format!("{base}{path}")), service: None },
            Endpoint::Service { namespace, name } => WebhookClientConfig {
                ca_bundle,
                url: None,
                service: Some(ServiceReference {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    path: Some(path.to_owned()),
                    port: Some(443),
                }),
            },
        }
    }
}

/// The configuration for pods, or `None` if no set injects: then no pod is asked about. `version` is that of the sets,
/// see [`super::inject::Served`].
pub fn pod_webhooks(sets: &CompiledSets, version: u64, params: &Params) -> Option<MutatingWebhookConfiguration> {
    let groups = groups(sets);
    let webhooks: Vec<_> = groups.iter().map(|group| pod_webhook(group, version, params)).collect();
    (!webhooks.is_empty())
        .then(|| MutatingWebhookConfiguration { metadata: params.metadata(), webhooks: Some(webhooks) })
}

/// The configuration for sets. It never stands in the way of an emergency: failures are ignored, and a set that is
/// being paused is not asked about.
pub fn set_webhook(params: &Params) -> ValidatingWebhookConfiguration {
    let not_paused = "!(has(object.spec.updateStrategy) && has(object.spec.updateStrategy.paused) && object.spec.updateStrategy.paused)";
    let webhook = ValidatingWebhook {
        name: "sets.sidecarset.dev".to_owned(),
        admission_review_versions: vec!["v1".to_owned()],
        client_config: params.client(SET_PATH),
        failure_policy: Some("Ignore".to_owned()),
        match_conditions: Some(vec![condition("not-paused", not_paused.to_owned())]),
        rules: Some(vec![rule(keys::GROUP, "v1beta1", "sidecarsets", &["CREATE", "UPDATE"], "Cluster")]),
        side_effects: "None".to_owned(),
        timeout_seconds: Some(5),
        ..ValidatingWebhook::default()
    };
    ValidatingWebhookConfiguration { metadata: params.metadata(), webhooks: Some(vec![webhook]) }
}

/// Sets that share one entry.
struct Group<'a> {
    policy: FailurePolicy,
    namespaces: Option<&'a Selector>,
    sets: Vec<&'a CompiledSet>,
}

/// One group per failure policy and `namespaceSelector`: selectors cannot be ORed, and conditions cannot see the
/// namespace's labels.
fn groups(sets: &CompiledSets) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for set in sets.iter().filter(|set| !set.paused) {
        let namespaces = set.namespace_selector.as_ref();
        match groups.iter_mut().find(|group| group.policy == set.failure_policy && group.namespaces == namespaces) {
            Some(group) => group.sets.push(set),
            None => groups.push(Group { policy: set.failure_policy, namespaces, sets: vec![set] }),
        }
    }
    if groups.len() <= MAX_ENTRIES {
        return groups;
    }
    let mut merged: BTreeMap<FailurePolicy, Group<'_>> = BTreeMap::new();
    for group in groups {
        let wide = merged.entry(group.policy).or_insert(Group { policy: group.policy, namespaces: None, sets: vec![] });
        wide.sets.extend(group.sets);
    }
    merged.into_values().collect()
}

fn pod_webhook(group: &Group<'_>, version: u64, params: &Params) -> MutatingWebhook {
    let (policy, timeout) = match group.policy {
        FailurePolicy::Fail => ("Fail", 5),
        FailurePolicy::Ignore => ("Ignore", 2),
    };
    let first = group.sets.first().map_or("none", |set| set.name.as_str());
    MutatingWebhook {
        // The apiserver names it when a call fails: say which set is to blame.
        name: format!("{first}.{}.pods.{}", policy.to_lowercase(), keys::GROUP),
        admission_review_versions: vec!["v1".to_owned()],
        client_config: params.client(&format!("{POD_PATH}/{version}")),
        failure_policy: Some(policy.to_owned()),
        match_conditions: pod_condition(&group.sets).map(|cel| vec![condition("selected", cel)]),
        match_policy: Some("Equivalent".to_owned()),
        namespace_selector: Some(namespaces(group.namespaces, params)),
        object_selector: Some(expressions(vec![not_in(keys::INJECT, ["false"])])),
        reinvocation_policy: Some("IfNeeded".to_owned()),
        rules: Some(vec![rule("", "v1", "pods", &["CREATE"], "Namespaced")]),
        side_effects: "NoneOnDryRun".to_owned(),
        timeout_seconds: Some(timeout),
    }
}

fn namespaces(selector: Option<&Selector>, params: &Params) -> LabelSelector {
    let own = selector.into_iter().flat_map(Selector::requirements).map(requirement);
    let excluded: BTreeSet<&str> =
        keys::EXCLUDED_NAMESPACES.into_iter().chain(params.excluded.iter().map(String::as_str)).collect();
    expressions(own.chain([not_in(keys::NAMESPACE_NAME, excluded), not_in(keys::INJECT, ["false"])]).collect())
}

fn expressions(requirements: Vec<Requirement>) -> LabelSelector {
    LabelSelector { match_expressions: Some(requirements), match_labels: None }
}

fn not_in<'a>(key: &str, values: impl IntoIterator<Item = &'a str>) -> Requirement {
    let values = values.into_iter().map(str::to_owned).collect();
    Requirement { key: key.to_owned(), operator: "NotIn".to_owned(), values: Some(values) }
}

fn requirement(expression: &Expression) -> Requirement {
    let (operator, values) = match expression {
        Expression::Equal(_, value) => ("In", vec![value.clone()]),
        Expression::NotEqual(_, value) => ("NotIn", vec![value.clone()]),
        Expression::In(_, values) => ("In", values.iter().cloned().collect()),
        Expression::NotIn(_, values) => ("NotIn", values.iter().cloned().collect()),
        Expression::Exists(_) => ("Exists", vec![]),
        Expression::DoesNotExist(_) => ("DoesNotExist", vec![]),
    };
    Requirement {
        key: key(expression).to_owned(),
        operator: operator.to_owned(),
        values: (!values.is_empty()).then_some(values),
    }
}

/// CEL that is true for every pod one of the sets selects, and for copies of injected pods, whose sidecars may have to
/// go. `None`: every pod.
fn pod_condition(sets: &[&CompiledSet]) -> Option<String> {
    let exact = sets.iter().map(|set| selected(&set.selector));
    let exact = any(exact.chain([present(keys::INJECTED)]));
    if exact.len() <= MAX_CEL {
        return Some(exact);
    }
    // Coarser: pods that carry one of the keys in use. A selector that requires no key selects without any.
    let required = |set: &&CompiledSet| {
        let requirements = set.selector.requirements().iter();
        let mut keys = requirements
            .filter(|r| !matches!(r, Expression::NotIn(..) | Expression::NotEqual(..) | Expression::DoesNotExist(_)));
        keys.next().map(|r| key(r).to_owned())
    };
    let keys: Option<BTreeSet<String>> = sets.iter().map(required).collect();
    let coarse = any(keys?.iter().map(|key| present(key)).chain([present(keys::INJECTED)]));
    (coarse.len() <= MAX_CEL).then_some(coarse)
}

fn any(terms: impl Iterator<Item = String>) -> String {
    let unique: BTreeSet<String> = terms.collect();
    unique.into_iter().collect::<Vec<_>>().join(" || ")
}

fn selected(selector: &Selector) -> String {
    let terms: Vec<String> = selector.requirements().iter().map(cel).collect();
    format!("({})", terms.join(" && "))
}

/// Every access is guarded: an evaluation error would refuse the pod where the policy is Fail.
fn cel(expression: &Expression) -> String {
    let quoted = |text: &str| json!(text).to_string();
    let list = |values: &BTreeSet<String>| json!(values).to_string();
    let value = |key: &str| format!("object.metadata.labels[{}]", quoted(key));
    match expression {
        Expression::Equal(key, wanted) => format!("({} && {} == {})", present(key), value(key), quoted(wanted)),
        Expression::NotEqual(key, other) => format!("!({} && {} == {})", present(key), value(key), quoted(other)),
        Expression::In(key, values) => format!("({} && {} in {})", present(key), value(key), list(values)),
        Expression::NotIn(key, values) => format!("!({} && {} in {})", present(key), value(key), list(values)),
        Expression::Exists(key) => present(key),
        Expression::DoesNotExist(key) => format!("!{}", present(key)),
    }
}

fn present(key: &str) -> String {
    format!("(has(object.metadata.labels) && {} in object.metadata.labels)", json!(key))
}

fn condition(name: &str, expression: String) -> MatchCondition {
    MatchCondition { name: name.to_owned(), expression }
}

fn rule(group: &str, version: &str, resource: &str, operations: &[&str], scope: &str) -> RuleWithOperations {
    RuleWithOperations {
        api_groups: Some(vec![group.to_owned()]),
        api_versions: Some(vec![version.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        operations: Some(operations.iter().map(ToString::to_string).collect()),
        scope: Some(scope.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::api::SidecarSet;
    use crate::core::revision::History;
    use serde_json::Value;

    fn params() -> Params {
        Params {
            name: "sidecarset-pods".into(),
            endpoint: Endpoint::Url("https://127.0.0.1:9443".into()),
            ca_bundle: b"ca".to_vec(),
            excluded: vec!["sidecarset-system".into()],
            owner: None,
        }
    }

    fn set(name: &str, spec: Value) -> Arc<CompiledSet> {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
        let set: SidecarSet =
            serde_json::from_value(json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
            "metadata": {"name": name}, "spec": spec}))
            .unwrap();
        Arc::new(CompiledSet::new(&set, &History::new()).unwrap())
    }

    fn webhooks(sets: impl IntoIterator<Item = Arc<CompiledSet>>) -> Vec<MutatingWebhook> {
        pod_webhooks(&CompiledSets::new(sets), 7, &params()).and_then(|c| c.webhooks).unwrap_or_default()
    }

    fn web() -> Value {
        json!({"selector": {"matchLabels": {"app": "web"}}})
    }

    #[test]
    fn without_a_set_there_is_no_webhook_on_pods() {
        assert_eq!(webhooks([]), []);
        let mut paused = web();
        paused["injectionStrategy"] = json!({"paused": true});
        assert_eq!(webhooks([set("s", paused)]), []);
    }

    #[test]
    fn each_failure_policy_and_namespace_selector_has_its_entry() {
        let mut fail = web();
        fail["injectionStrategy"] = json!({"failurePolicy": "Fail"});
        let mut team = web();
        team["namespaceSelector"] = json!({"matchLabels": {"team": "a"}});
        let entries = webhooks([set("a", web()), set("b", web()), set("f", fail), set("t", team)]);
        let names: Vec<_> = entries.iter().map(|w| (w.name.as_str(), w.timeout_seconds.unwrap())).collect();
        assert_eq!(
            names,
            [
                ("a.ignore.pods.sidecarset.dev", 2),
                ("f.fail.pods.sidecarset.dev", 5),
                ("t.ignore.pods.sidecarset.dev", 2)
            ]
        );
        assert_eq!(entries[0].client_config.url.as_deref(), Some("https://127.0.0.1:9443/mutate-pods/7"));
        let selector = serde_json::to_value(&entries[2].namespace_selector).unwrap();
        assert_eq!(
            selector["matchExpressions"],
            json!([
                {"key": "team", "operator": "In", "values": ["a"]},
                {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-node-lease", "kube-system", "sidecarset-system"]},
                {"key": "sidecarset.dev/inject", "operator": "NotIn", "values": ["false"]},
            ])
        );
    }

    #[test]
    fn many_entries_are_merged() {
        let own = |i: usize| {
            let mut spec = web();
            spec["namespaceSelector"] = json!({"matchLabels": {"team": format!("t{i}")}});
            set(&format!("s{i}"), spec)
        };
        assert_eq!(webhooks((0..32).map(own)).len(), 32);
        let merged = webhooks((0..33).map(own));
        assert_eq!(merged.len(), 1);
    }

    #[test]
    fn a_large_condition_becomes_coarser() {
        let many = |count: usize, key: fn(usize) -> String| {
            let sets = (0..count)
                .map(|i| set(&format!("s{i}"), json!({"selector": {"matchLabels": {key(i): format!("v{i}")}}})));
            webhooks(sets)[0].match_conditions.as_ref().map(|c| c[0].expression.clone())
        };
        let exact = many(100, |_| "app".into()).unwrap();
        assert!(exact.contains("\"v99\"") && exact.len() < MAX_CEL);
        let coarse = many(1000, |_| "app".into()).unwrap();
        assert!(!coarse.contains("\"v99\"") && coarse.contains("\"app\" in object.metadata.labels"), "{coarse}");
        assert_eq!(many(1000, |i| format!("app-{i}")), None);
    }
}
