//! The sets that a verb works with: from files, or from the cluster with their revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use super::cluster::{Cluster, list};
use super::error::Error;
use super::manifest;
use super::output::warn;
use super::schema::{invalid, read};
use super::workloads::objects;
use crate::api::validate::{ValidSidecarSet, conflicts, validate};
use crate::api::{SidecarSet, keys};
use crate::core::inject::{CompiledSet, CompiledSets};
use crate::core::revision::{History, histories};

/// Labels by namespace.
pub(crate) type NamespaceLabels = BTreeMap<String, BTreeMap<String, String>>;

/// Sets and what is known of their past.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sets {
    /// All sets, also those that validation refuses.
    pub(crate) all: Vec<SidecarSet>,
    /// The stored revisions, by set.
    pub(crate) revisions: BTreeMap<String, History>,
    /// What the API server said if it does not let this user list them; `revisions` is empty then.
    pub(crate) unread_revisions: Option<String>,
}

/// Where the operator runs, and what it leaves alone.
#[derive(Debug, clap::Args)]
pub(crate) struct OperatorArgs {
    /// Namespace of the operator: revisions are kept there, and no set reaches it
    #[arg(long, default_value = "sidecarset-system", value_name = "NAMESPACE")]
    operator_namespace: String,
    /// Namespaces that the operator was told to leave alone
    #[arg(long, value_delimiter = ',', value_name = "NAMESPACE")]
    exclude_namespace: Vec<String>,
}

impl OperatorArgs {
    /// Namespaces besides [`keys::EXCLUDED_NAMESPACES`] that no set reaches.
    pub(crate) fn excluded(&self) -> Vec<String> {
        self.exclude_namespace.iter().cloned().chain([self.operator_namespace.clone()]).collect()
    }
}

impl Sets {
    /// Compiles what the webhook would serve; a set that validation refuses is not in it.
    pub(crate) fn compile(&self) -> CompiledSets {
        let valid = self.all.iter().filter_map(|set| validate(set).ok());
        compile(valid.filter(ValidSidecarSet::is_served), &self.revisions)
    }

    /// The sets of files and folders. Each must be what the API server and the operator would take.
    pub(crate) fn read(paths: &[String], recursive: bool) -> Result<Self, Error> {
        let (mut all, mut refused) = (Vec::new(), Vec::new());
        for path in paths {
            let before = all.len() + refused.len();
            for document in manifest::read(path, recursive)? {
                for object in objects(&document.body.value()).into_iter().filter(is_set) {
                    match read(&object) {
                        Ok(set) => all.push(set),
                        Err(why) => refused.push(format!("{}: {why}", document.path)),
                    }
                }
            }
            if all.len() + refused.len() == before {
                return Err(Error::Input(format!("{path} has no SidecarSet of {}/v1beta1", keys::GROUP)));
            }
        }
        refuse(&refused)?;
        check(&all)?;
        Ok(Self { all, ..Self::default() })
    }

    /// The sets of a cluster, with the revisions that the operator keeps.
    pub(crate) async fn fetch(cluster: &Cluster, operator: &OperatorArgs) -> Result<Self, Error> {
        let all = list(&Api::all(cluster.client.clone()), ListParams::default()).await?;
        let api = Api::namespaced(cluster.client.clone(), &operator.operator_namespace);
        match fetch_revisions(&api).await {
            Ok(revisions) => Ok(Self { all, revisions, unread_revisions: None }),
            Err(Error::Api(kube::Error::Api(status))) if status.is_forbidden() => {
                warn(format_args!("old revisions are not known: {}", status.message));
                Ok(Self { all, unread_revisions: Some(status.message.clone()), ..Self::default() })
            }
            Err(error) => Err(error),
        }
    }
}

pub(super) async fn fetch_revisions(api: &Api<ControllerRevision>) -> Result<BTreeMap<String, History>, Error> {
    Ok(histories(&list(api, ListParams::default().labels(keys::SET)).await?))
}

/// Sets as the webhook serves them.
pub(super) fn compile(
    sets: impl IntoIterator<Item = ValidSidecarSet>,
    revisions: &BTreeMap<String, History>,
) -> CompiledSets {
    let none = History::new();
    let history = |set: &ValidSidecarSet| revisions.get(set.name()).unwrap_or(&none);
    CompiledSets::new(sets.into_iter().map(|set| Arc::new(CompiledSet::new(&set, history(&set)))))
}

/// Labels of a namespace; one that does not exist yet will have its name as label.
pub(crate) async fn fetch_namespace(client: &Client, name: &str) -> Result<BTreeMap<String, String>, Error> {
    let found: Option<PartialObjectMeta<Namespace>> = Api::all(client.clone()).get_metadata_opt(name).await?;
    Ok(found.map_or_else(|| name_label(name), |namespace| namespace.metadata.labels.unwrap_or_default()))
}

/// The label that the API server gives every namespace.
pub(crate) fn name_label(namespace: &str) -> BTreeMap<String, String> {
    [(keys::NAMESPACE_NAME.to_owned(), namespace.to_owned())].into()
}

pub(super) fn is_set(object: &Value) -> bool {
    object["kind"] == "SidecarSet" && object["apiVersion"] == format!("{}/v1beta1", keys::GROUP)
}

/// What the operator's webhook says about sets beside each other, and its warnings.
fn check(sets: &[SidecarSet]) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    let twice = sets.iter().map(ResourceExt::name_any).filter(|name| !seen.insert(name.clone()));
    let twice = twice.map(|name| format!("SidecarSet {name:?} stands twice in the files: leave one of them out"));
    refuse(&twice.collect::<Vec<_>>())?;
    let valid: Vec<ValidSidecarSet> = sets.iter().filter_map(|set| validate(set).ok()).collect();
    valid.iter().for_each(tell_warnings);
    refuse(&valid.iter().filter_map(|set| conflict(set, &valid)).collect::<Vec<_>>())
}

pub(super) fn tell_warnings(set: &ValidSidecarSet) {
    for warning in set.warnings() {
        warn(format_args!("SidecarSet {:?}: {warning}", set.name()));
    }
}

/// Why the operator's webhook would refuse a set beside the others.
pub(super) fn conflict(set: &ValidSidecarSet, others: &[ValidSidecarSet]) -> Option<String> {
    let errors = conflicts(set, others);
    (!errors.is_empty()).then(|| invalid(set.name(), &errors))
}

fn refuse(why: &[String]) -> Result<(), Error> {
    if why.is_empty() { Ok(()) } else { Err(Error::Input(why.join("\nerror: "))) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(spec: Value) -> Value {
        json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "s"}, "spec": spec})
    }

    fn refusal(spec: Value) -> String {
        read(&set(spec)).unwrap_err()
    }

    #[test]
    fn a_typo_is_refused_with_its_path() {
        let message = refusal(json!({"selector": {"matchLabels": {"a": "b"}},
            "containers": [{"name": "c", "image": "i", "tty": false, "imagePullPolcy": "Always"}]}));
        assert!(message.contains("spec.containers[0].imagePullPolcy: is not a field of a SidecarSet"), "{message}");
        assert!(!message.contains("tty"), "{message}");
    }

    #[test]
    fn what_the_schema_refuses_is_refused_here_too() {
        assert!(
            refusal(json!({"selector": {}, "containers": [{"name": "c", "image": "i"}]})).contains("spec.selector")
        );
        assert!(refusal(json!({"selector": {"matchLabels": {"a": "b"}}})).contains("at least one entry"));
        let number = json!({"selector": {"matchLabels": {"a": "b"}}, "containers": [
            {"name": "c", "image": "i", "env": [{"name": "A", "value": 1}], "resources": {"limits": {"cpu": 0.5, "memory": 1}}}]});
        let message = refusal(number);
        assert!(message.contains("env[0].value: is a number, and must be a string: write \"1\""), "{message}");
        assert!(message.contains("limits.cpu: is a number") && !message.contains("memory"), "{message}");
    }

    #[test]
    fn sets_that_share_a_name_are_refused() {
        let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "containers": [{"name": "c", "image": "i"}]});
        let (one, mut two) = (read(&set(spec.clone())).unwrap(), read(&set(spec)).unwrap());
        assert!(check(std::slice::from_ref(&one)).is_ok());
        two.metadata.name = Some("t".to_owned());
        let message = check(&[one.clone(), two]).unwrap_err().to_string();
        assert!(message.contains("spec.containers[0].name"), "{message}");
        let message = check(&[one.clone(), one]).unwrap_err().to_string();
        assert_eq!(message, "error: SidecarSet \"s\" stands twice in the files: leave one of them out");
    }
}
