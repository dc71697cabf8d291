//! The configuration for sets that are about to be stored: their pods are asked about before the one of all sets stands,
//! so that pods which are made in the same moment do not miss the sidecars.
//!
//! The path of an entry says which set it is for and when it ends, so that nothing else has to be kept in step with it.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use kube::core::Expression;
use serde::Deserialize;
use serde_json::{Value, json};

use super::entries::Entry;
use super::{POD_PATH, Params, pod_webhook, selector};
use crate::api::keys;
use crate::api::selector::Selector;
use crate::api::v1beta1::FailurePolicy;
use crate::api::validate::ValidSidecarSet;
use crate::core::inject::Served;

/// Entries at a time: a pod that matches all of them while nobody answers waits 2 s for each, and as long for those of
/// stored sets. That is less than the 34 s which the apiserver gives to a create.
pub(crate) const MAX_PROVISIONAL: usize = 15;

/// Seconds after which an entry ends: a set that has not been stored by then will not be, and the configuration of all
/// sets takes milliseconds.
const LIFETIME: i64 = 30;

/// Seconds after which an entry makes room for another if there is none: most sets are registered in less than one.
const LONG: i64 = 5;

/// The entry by which the operator finds out whether the apiserver applies the others.
const PROBE: &str = "probe.provisional.pods.sidecarset.dev";

/// What an entry is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Provisional {
    pub(crate) set: String,
    uid: String,
    generation: i64,
    /// Unix time.
    until: i64,
}

impl Provisional {
    fn new(valid: &ValidSidecarSet, until: i64) -> Self {
        let metadata = &valid.set().metadata;
        let uid = metadata.uid.clone().unwrap_or_default();
        Self { set: valid.name().to_owned(), uid, generation: metadata.generation.unwrap_or_default(), until }
    }

    /// Path of the webhook for pods of such sets, for the router.
    pub(crate) fn route() -> String {
        format!("{POD_PATH}/provisional/{{set}}/{{uid}}/{{generation}}/{{until}}")
    }

    fn path(&self) -> String {
        let Self { set, uid, generation, until } = self;
        format!("{POD_PATH}/provisional/{set}/{uid}/{generation}/{until}")
    }

    fn read(webhook: &MutatingWebhook) -> Option<Self> {
        let client = &webhook.client_config;
        let of_service = || client.service.as_ref()?.path.as_ref();
        let (_, rest) = client.url.as_ref().or_else(of_service)?.split_once(&format!("{POD_PATH}/provisional/"))?;
        let [set, uid, generation, until] = rest.split('/').collect::<Vec<_>>().try_into().ok()?;
        let (generation, until) = (generation.parse().ok()?, until.parse().ok()?);
        Some(Self { set: set.to_owned(), uid: uid.to_owned(), generation, until })
    }

    /// Whether the set is among these, as it was written or newer.
    pub(crate) fn is_known(&self, served: &Served) -> bool {
        let metadata = served.specs.iter().map(|valid| &valid.set().metadata);
        let mut same = metadata.filter(|it| it.uid.as_ref() == Some(&self.uid) && it.name.as_ref() == Some(&self.set));
        same.any(|it| it.generation >= Some(self.generation))
    }
}

/// Whether a set selects pods that the apiserver does not ask about for the old one.
pub(crate) fn selects_others(new: &ValidSidecarSet, old: Option<&ValidSidecarSet>) -> bool {
    let is_paused = |set: &ValidSidecarSet| set.set().spec.injection_strategy.paused;
    let selected = |set: &ValidSidecarSet| {
        let selectors = Some(set.selectors()).filter(|_| set.is_served() && !is_paused(set))?;
        Some((selectors.pods.clone(), selectors.namespaces.clone()))
    };
    let new = selected(new);
    new.is_some() && new != old.and_then(selected)
}

/// The configuration from now on.
#[derive(Debug)]
pub(crate) struct Renewed {
    /// `None` if it stays as it is; without webhooks if none is needed.
    pub(crate) configuration: Option<MutatingWebhookConfiguration>,
    /// So many of the new sets, from the first, have an entry. There is no room for the others.
    pub(crate) added: usize,
    /// How many entries there are.
    pub(crate) entries: usize,
}

/// Adds entries for new sets, and ends those that are too old or whose sets are `registered`. `now` is Unix time.
pub(crate) fn renewed(
    current: Option<&MutatingWebhookConfiguration>,
    new: &[&ValidSidecarSet],
    registered: &Served,
    now: i64,
    params: &Params,
) -> Renewed {
    let before: Vec<&MutatingWebhook> = current.iter().flat_map(|it| it.webhooks.iter().flatten()).collect();
    let lives = |it: &Provisional| it.until > now && !it.is_known(registered);
    let living = before.iter().filter_map(|webhook| Some((Provisional::read(webhook).filter(lives)?, *webhook)));
    let mut entries: Vec<(Provisional, MutatingWebhook)> = living.map(|(it, webhook)| (it, webhook.clone())).collect();
    entries.sort_by_key(|(provisional, _)| provisional.until);
    let too_many = (entries.len() + new.len()).saturating_sub(MAX_PROVISIONAL);
    let is_old = |(it, _): &&(Provisional, _)| it.until <= now + LIFETIME - LONG;
    entries.drain(..entries.iter().take(too_many).take_while(is_old).count());
    let has_ended = before.iter().filter(|webhook| webhook.name != PROBE).count() > entries.len();

    // Names are used again, as the apiserver keeps metrics of each.
    let names = (0..MAX_PROVISIONAL).map(|slot| format!("{slot}.provisional.pods.{}", keys::GROUP));
    let free: Vec<String> = names.filter(|name| entries.iter().all(|(_, webhook)| webhook.name != *name)).collect();
    let added = free.len().min(new.len());
    for (name, set) in free.into_iter().zip(new) {
        let provisional = Provisional::new(set, now + LIFETIME);
        let webhook = entry(name, set, &provisional.path(), params);
        entries.push((provisional, webhook));
    }
    let count = entries.len();
    let configuration = (added > 0 || has_ended).then(|| {
        let probe = probe(entries.iter().map(|(it, _)| it), params);
        let webhooks = entries.into_iter().map(|(_, webhook)| webhook).chain([probe]).collect();
        let mut configuration = MutatingWebhookConfiguration { metadata: params.metadata(), ..Default::default() };
        configuration.metadata.resource_version = current.and_then(|it| it.metadata.resource_version.clone());
        configuration.webhooks = (count > 0).then_some(webhooks);
        configuration
    });
    Renewed { configuration, added, entries: count }
}

/// Whatever the set says, a pod is not kept from being created because of a set that may never be stored.
fn entry(name: String, set: &ValidSidecarSet, path: &str, params: &Params) -> MutatingWebhook {
    let selectors = set.selectors();
    let namespaces = selectors.namespaces.iter().flat_map(Selector::requirements).cloned().collect();
    let labels = selectors.pods.requirements().to_vec();
    let entry = Entry { policy: FailurePolicy::Ignore, namespaces, labels, sets: Vec::new(), condition: None };
    pod_webhook(&entry, name, path, params)
}

/// Asks about [`probe_pod`] of every entry, and no other pod.
fn probe<'a>(all: impl Iterator<Item = &'a Provisional>, params: &Params) -> MutatingWebhook {
    let labels = vec![Expression::In(keys::PROBE.to_owned(), all.map(|it| mark(&it.uid, it.generation)).collect())];
    let entry = Entry { policy: FailurePolicy::Ignore, namespaces: vec![], labels, sets: Vec::new(), condition: None };
    let there = Expression::Equal(keys::NAMESPACE_NAME.to_owned(), keys::DRY_RUN_NAMESPACE.to_owned());
    let namespace_selector = Some(selector(&[there], Vec::new()));
    MutatingWebhook { namespace_selector, ..pod_webhook(&entry, PROBE.to_owned(), PROBE_PATH, params) }
}

/// Path of the webhook that denies each pod.
pub(crate) const PROBE_PATH: &str = "/mutate-pods/probe";

/// A pod that is denied once the apiserver applies the entry of a set.
pub(crate) fn probe_pod(valid: &ValidSidecarSet) -> Value {
    let Provisional { uid, generation, .. } = Provisional::new(valid, 0);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "probe", "labels": {keys::PROBE: mark(&uid, generation)}},
        "spec": {"containers": [{"name": "probe", "image": "probe"}]},
    })
}

/// Whether this is what the apiserver says when it is.
pub(crate) fn is_denial(message: &str) -> bool {
    message.contains(PROBE)
}

fn mark(uid: &str, generation: i64) -> String {
    format!("{uid}.{generation}")
}

#[cfg(test)]
mod tests {
    use super::super::Endpoint;
    use super::*;
    use crate::api::validate::unchecked;

    fn params(endpoint: Endpoint) -> Params {
        Params { name: "provisional".into(), endpoint, ca_bundle: b"ca".to_vec(), excluded: vec![], owner: None }
    }

    fn local() -> Params {
        params(Endpoint::Url("https://127.0.0.1:9443".into()))
    }

    fn set(name: &str, generation: i64, spec: &Value) -> ValidSidecarSet {
        let mut set = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
            "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": generation},
            "spec": {"selector": {"matchLabels": {"app": name}}, "containers": [{"name": "c", "image": "i"}]}});
        json_patch::merge(&mut set["spec"], spec);
        unchecked(&serde_json::from_value(set).unwrap())
    }

    fn plain(name: &str, generation: i64) -> ValidSidecarSet {
        set(name, generation, &json!({}))
    }

    fn served(specs: &[ValidSidecarSet]) -> Served {
        Served { specs: specs.to_vec(), ..Served::default() }
    }

    /// What stands after a change at time 0 of what stood before.
    fn after(before: Option<&MutatingWebhookConfiguration>, new: &[&ValidSidecarSet]) -> Renewed {
        renewed(before, new, &Served::default(), 0, &local())
    }

    fn sets(configuration: &MutatingWebhookConfiguration) -> Vec<String> {
        let webhooks = configuration.webhooks.iter().flatten();
        webhooks.filter_map(Provisional::read).map(|provisional| provisional.set).collect()
    }

    #[test]
    fn an_entry_asks_about_the_pods_of_its_set_and_never_keeps_one_from_being_created() {
        let spec = json!({"injectionStrategy": {"failurePolicy": "Fail"}, "namespaceSelector": {"matchLabels": {"team": "a"}}});
        let fail = set("web", 3, &spec);
        let service = Endpoint::Service { namespace: "system".into(), name: "webhook".into() };
        for endpoint in [Endpoint::Url("https://127.0.0.1:9443".into()), service] {
            let renewed = renewed(None, &[&fail], &Served::default(), 100, &params(endpoint));
            let webhooks = renewed.configuration.unwrap().webhooks.unwrap();
            assert_eq!((renewed.added, renewed.entries, webhooks.len()), (1, 1, 2));
            let found = Provisional::read(&webhooks[0]).unwrap();
            assert_eq!(found.path(), "/mutate-pods/provisional/web/uid-web/3/130");
            for webhook in &webhooks {
                assert_eq!((webhook.failure_policy.as_deref(), webhook.timeout_seconds), (Some("Ignore"), Some(2)));
            }
            let requirements = |selector: &Option<_>| json!(selector)["matchExpressions"].clone();
            assert_eq!(
                requirements(&webhooks[0].object_selector),
                json!([{"key": "app", "operator": "In", "values": ["web"]},
                    {"key": "sidecarset.dev/inject", "operator": "NotIn", "values": ["false"]}])
            );
            let namespaces = requirements(&webhooks[0].namespace_selector);
            assert_eq!(namespaces[0], json!({"key": "team", "operator": "In", "values": ["a"]}));
            assert_eq!(namespaces[1]["values"], json!(["kube-node-lease", "kube-system"]));
            assert_eq!(
                requirements(&webhooks[1].object_selector)[0],
                json!({"key": "sidecarset.dev/probe", "operator": "In", "values": [probe_pod(&fail)["metadata"]["labels"][keys::PROBE]]})
            );
            let there =
                json!([{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["sidecarset-dry-run"]}]);
            assert_eq!(requirements(&webhooks[1].namespace_selector), there);
        }
    }

    #[test]
    fn an_entry_ends_when_its_set_is_registered_or_does_not_come() {
        let before = after(None, &[&plain("a", 2), &plain("b", 1)]).configuration.unwrap();
        let left = |registered: &[ValidSidecarSet], now| {
            let renewed = renewed(Some(&before), &[], &served(registered), now, &local());
            renewed.configuration.map(|configuration| sets(&configuration))
        };
        let stays = None;
        assert_eq!(left(&[], 29), stays);
        assert_eq!(left(&[plain("a", 1), plain("c", 1)], 0), stays, "the generation before selects others");
        let mut again = json!(**plain("b", 1).set());
        again["metadata"]["uid"] = json!("another");
        assert_eq!(left(&[unchecked(&serde_json::from_value(again).unwrap())], 0), stays, "that is another set");
        assert_eq!(left(&[plain("a", 3)], 0), Some(vec!["b".to_owned()]));
        assert_eq!(left(&[], 30), Some(vec![]));
        let gone = renewed(Some(&before), &[], &Served::default(), 30, &local());
        assert_eq!((gone.configuration.unwrap().webhooks, gone.entries), (None, 0), "nor is there a probe then");
    }

    #[test]
    fn what_stands_is_kept_as_it_is_and_what_nobody_can_read_goes() {
        let mut before = after(None, &[&plain("a", 1), &plain("b", 1)]).configuration.unwrap();
        before.metadata.resource_version = Some("7".into());
        let webhooks = before.webhooks.as_mut().unwrap();
        webhooks[0].match_policy = Some("Exact".into());
        webhooks[1].client_config.url = Some("https://127.0.0.1:9443/elsewhere".into());
        let kept = webhooks[0].clone();
        let renewed = after(Some(&before), &[&plain("c", 1)]).configuration.unwrap();
        assert_eq!(sets(&renewed), ["a", "c"]);
        assert_eq!(renewed.webhooks.as_ref().unwrap()[0], kept);
        assert_eq!(renewed.metadata.resource_version.as_deref(), Some("7"));
        let names: Vec<&str> = renewed.webhooks.iter().flatten().map(|webhook| webhook.name.as_str()).collect();
        let slots = ["0.provisional.pods.sidecarset.dev", "1.provisional.pods.sidecarset.dev", PROBE];
        assert_eq!(names, slots, "the name of the one that went is free");
    }

    #[test]
    fn a_thousand_new_sets_have_no_more_entries_than_there_is_room_for() {
        let many: Vec<ValidSidecarSet> = (0..1000).map(|i| plain(&format!("s{i}"), 1)).collect();
        let new: Vec<&ValidSidecarSet> = many.iter().collect();
        let first = after(None, &new);
        let configuration = first.configuration.unwrap();
        assert_eq!((first.added, sets(&configuration).len()), (MAX_PROVISIONAL, MAX_PROVISIONAL));
        let full = after(Some(&configuration), &new[first.added..]);
        assert!(full.added == 0 && full.configuration.is_none());
        let registered = served(&many[..10]);
        let next = renewed(Some(&configuration), &new[first.added..], &registered, 0, &local());
        assert_eq!((next.added, sets(&next.configuration.unwrap()).len()), (10, MAX_PROVISIONAL));
        let later = |now| renewed(Some(&configuration), &new[first.added..][..3], &Served::default(), now, &local());
        assert_eq!(later(LONG - 1).added, 0);
        let later = later(LONG);
        assert_eq!(later.added, 3, "sets that have not come do not keep others out");
        let kept = sets(&later.configuration.unwrap());
        assert_eq!((kept.len(), &*kept[0], &*kept[MAX_PROVISIONAL - 1]), (MAX_PROVISIONAL, "s3", "s17"));
    }

    #[test]
    fn only_a_set_that_selects_other_pods_than_before_is_registered() {
        let plain = || plain("a", 1);
        let spec = |spec: Value| set("a", 2, &spec);
        let paused = || spec(json!({"injectionStrategy": {"paused": true}}));
        let selector = || spec(json!({"selector": {"matchLabels": {"app": "b"}}}));
        let namespaces = || spec(json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}));
        let image = || spec(json!({"containers": [{"name": "c", "image": "j"}]}));
        let mut refused = json!(**plain().set());
        refused["status"]["conditions"] = json!([{"type": "Ready", "status": "False", "reason": "InvalidSpec", "message": "",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let refused = || unchecked(&serde_json::from_value(refused.clone()).unwrap());
        for (old, new, expected) in [
            (None, plain(), true),
            (None, paused(), false),
            (Some(plain()), image(), false),
            (Some(plain()), selector(), true),
            (Some(plain()), namespaces(), true),
            (Some(namespaces()), plain(), true),
            (Some(plain()), paused(), false),
            (Some(paused()), plain(), true),
            (Some(refused()), image(), true),
        ] {
            assert_eq!(selects_others(&new, old.as_ref()), expected, "{old:?} {new:?}");
        }
    }

    #[test]
    fn a_set_is_known_as_it_was_written_or_newer() {
        let wanted = Provisional::new(&plain("a", 2), 30);
        assert!(!wanted.is_known(&Served::default()));
        assert!(!wanted.is_known(&served(&[plain("a", 1), plain("b", 2)])));
        assert!(wanted.is_known(&served(&[plain("b", 1), plain("a", 2)])));
        assert!(wanted.is_known(&served(&[plain("a", 5)])));
    }
}
