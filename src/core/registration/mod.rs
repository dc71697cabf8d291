//! The webhook configurations, generated from the sets that exist: as tight as Kubernetes can say it, always a superset
//! of what the sets select, so that a pod that no set wants does not reach the operator.

mod condition;
mod entries;
pub(crate) mod provisional;

use std::collections::{BTreeMap, BTreeSet};

use entries::{Entry, entries};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement as Requirement, ObjectMeta, OwnerReference,
};
use kube::core::Expression;

use super::inject::CompiledSets;
use crate::api::keys;
use crate::api::selector::key;
use crate::api::v1beta1::FailurePolicy;

/// Path of the pod webhook; the version of the sets follows.
pub(crate) const POD_PATH: &str = "/mutate-pods";

pub(crate) const SET_PATH: &str = "/validate-sidecarsets";

/// Where the apiserver reaches the operator.
#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    /// `https://127.0.0.1:9443`, for an operator outside the cluster.
    Url(String),
    Service {
        namespace: String,
        name: String,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Params {
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
    /// PEM certificates that the apiserver trusts.
    pub(crate) ca_bundle: Vec<u8>,
    /// Namespaces that no set reaches, besides [`keys::EXCLUDED_NAMESPACES`].
    pub(crate) excluded: Vec<String>,
    /// Owner of an in-cluster configuration: the operator's Namespace.
    pub(crate) owner: Option<OwnerReference>,
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
pub(crate) fn pod_webhooks(sets: &CompiledSets, version: u64, params: &Params) -> Option<MutatingWebhookConfiguration> {
    let entries = entries(sets);
    let path = format!("{POD_PATH}/{version}");
    let webhooks = entries.iter().zip(names(&entries)).map(|(entry, name)| pod_webhook(entry, name, &path, params));
    let webhooks = Some(webhooks.collect()).filter(|webhooks: &Vec<_>| !webhooks.is_empty())?;
    Some(MutatingWebhookConfiguration { metadata: params.metadata(), webhooks: Some(webhooks) })
}

/// The configuration for sets. It never stands in the way of an emergency: failures are ignored, and an update that
/// leaves a set paused is not asked about.
pub(crate) fn set_webhook(params: &Params) -> ValidatingWebhookConfiguration {
    let not_paused = "request.operation == 'CREATE' || !(has(object.spec.updateStrategy) && has(object.spec.updateStrategy.paused) && object.spec.updateStrategy.paused)";
    let webhook = ValidatingWebhook {
        name: "sets.sidecarset.dev".to_owned(),
        admission_review_versions: vec!["v1".to_owned()],
        client_config: params.client(SET_PATH),
        failure_policy: Some("Ignore".to_owned()),
        match_conditions: Some(vec![condition("not-paused", not_paused.to_owned())]),
        rules: Some(vec![rule(keys::GROUP, "v1beta1", "sidecarsets", &["CREATE", "UPDATE"], "Cluster")]),
        // The pods of a new set are registered.
        side_effects: "NoneOnDryRun".to_owned(),
        timeout_seconds: Some(5),
        ..ValidatingWebhook::default()
    };
    ValidatingWebhookConfiguration { metadata: params.metadata(), webhooks: Some(vec![webhook]) }
}

/// The apiserver says the name when a call fails: it tells which set is to blame. Unique, as Kubernetes demands.
fn names(entries: &[Entry<'_>]) -> Vec<String> {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let name = |entry: &Entry<'_>| {
        let policy = policy(entry).0.to_lowercase();
        let name = match entry.sets.as_slice() {
            [] => format!("copies.pods.{}", keys::GROUP),
            [set] => format!("{}.{policy}.pods.{}", set.name, keys::GROUP),
            [set, others @ ..] => format!("{}.and-{}-more.{policy}.pods.{}", set.name, others.len(), keys::GROUP),
        };
        let nth = taken.entry(name.clone()).or_default();
        *nth += 1;
        if *nth == 1 { name } else { format!("{nth}.{name}") }
    };
    entries.iter().map(name).collect()
}

/// failurePolicy and timeoutSeconds.
fn policy(entry: &Entry<'_>) -> (&'static str, i32) {
    match entry.policy {
        FailurePolicy::Fail => ("Fail", 5),
        FailurePolicy::Ignore => ("Ignore", 2),
    }
}

fn pod_webhook(entry: &Entry<'_>, name: String, path: &str, params: &Params) -> MutatingWebhook {
    let (policy, timeout) = policy(entry);
    let excluded: BTreeSet<&str> =
        keys::EXCLUDED_NAMESPACES.into_iter().chain(params.excluded.iter().map(String::as_str)).collect();
    let (known, opted_out) = (not_in(keys::NAMESPACE_NAME, excluded), not_in(keys::INJECT, ["false"]));
    MutatingWebhook {
        name,
        admission_review_versions: vec!["v1".to_owned()],
        client_config: params.client(path),
        failure_policy: Some(policy.to_owned()),
        match_conditions: entry.condition.clone().map(|cel| vec![condition("selected", cel)]),
        match_policy: Some("Equivalent".to_owned()),
        namespace_selector: Some(selector(&entry.namespaces, vec![known, opted_out.clone()])),
        object_selector: Some(selector(&entry.labels, vec![opted_out])),
        reinvocation_policy: Some("IfNeeded".to_owned()),
        rules: Some(vec![rule("", "v1", "pods", &["CREATE"], "Namespaced")]),
        side_effects: "NoneOnDryRun".to_owned(),
        timeout_seconds: Some(timeout),
    }
}

/// What an entry asks for, and who is never asked about.
fn selector(own: &[Expression], always: Vec<Requirement>) -> LabelSelector {
    let requirements = own.iter().map(requirement).chain(always).collect();
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
mod tests;
