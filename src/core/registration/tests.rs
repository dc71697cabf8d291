use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::entries::{MAX_CEL, MAX_ENTRIES};
use super::*;
use crate::api::SidecarSet;
use crate::api::selector::Selector;
use crate::api::validate::unchecked;
use crate::core::inject::CompiledSet;
use crate::core::revision::History;

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
    let set: SidecarSet = serde_json::from_value(json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
        "metadata": {"name": name}, "spec": spec}))
    .unwrap();
    Arc::new(CompiledSet::new(&unchecked(&set), &History::new()))
}

fn webhooks(sets: impl IntoIterator<Item = Arc<CompiledSet>>) -> Vec<MutatingWebhook> {
    pod_webhooks(&CompiledSets::new(sets), 7, &params()).and_then(|c| c.webhooks).unwrap_or_default()
}

fn names(webhooks: &[MutatingWebhook]) -> Vec<&str> {
    webhooks.iter().map(|webhook| webhook.name.strip_suffix(".sidecarset.dev").unwrap()).collect()
}

fn cel(webhook: &MutatingWebhook) -> &str {
    webhook.match_conditions.as_ref().map_or("", |conditions| &conditions[0].expression)
}

fn app(value: &str) -> Value {
    json!({"selector": {"matchLabels": {"app": value}}})
}

fn fail(value: &str) -> Value {
    json!({"selector": {"matchLabels": {"app": value}}, "injectionStrategy": {"failurePolicy": "Fail"}})
}

fn in_namespaces(selector: Value) -> Value {
    json!({"selector": {"matchLabels": {"app": "web"}}, "namespaceSelector": selector})
}

#[test]
fn without_a_set_there_is_no_webhook_on_pods() {
    assert_eq!(webhooks([]), []);
    let mut paused = app("web");
    paused["injectionStrategy"] = json!({"paused": true});
    assert_eq!(webhooks([set("s", paused)]), []);
}

#[test]
fn each_fail_set_has_its_entry_and_is_asked_first() {
    let entries = webhooks([set("a", app("web")), set("b", app("web")), set("f", fail("web")), set("g", fail("web"))]);
    assert_eq!(names(&entries), ["f.fail.pods", "g.fail.pods", "a.and-1-more.ignore.pods"]);
    let policies: Vec<_> =
        entries.iter().map(|w| (w.failure_policy.as_deref().unwrap(), w.timeout_seconds.unwrap())).collect();
    assert_eq!(policies, [("Fail", 5), ("Fail", 5), ("Ignore", 2)]);
    assert_eq!(entries[0].client_config.url.as_deref(), Some("https://127.0.0.1:9443/mutate-pods/7"));
}

#[test]
fn copies_of_injected_pods_are_asked_about_but_never_refused_for_it() {
    let entries = webhooks([set("f", fail("web"))]);
    assert_eq!(names(&entries), ["f.fail.pods", "copies.pods"]);
    let selector = serde_json::to_value(&entries[0].object_selector).unwrap();
    assert_eq!(selector["matchExpressions"][0], json!({"key": "app", "operator": "In", "values": ["web"]}));
    assert!(cel(&entries[1]).contains("\"sidecarset.dev/injected\" in l"), "{}", cel(&entries[1]));
}

#[test]
fn namespaces_are_divided_so_that_each_has_one_ignore_entry() {
    let team = set("t", in_namespaces(json!({"matchLabels": {"team": "a"}})));
    let entries = webhooks([set("s", app("web")), team]);
    assert_eq!(names(&entries), ["s.ignore.pods", "s.and-1-more.ignore.pods"]);
    let own =
        |entry: &MutatingWebhook| serde_json::to_value(&entry.namespace_selector).unwrap()["matchExpressions"].clone();
    assert_eq!(
        own(&entries[0]),
        json!([
            {"key": "team", "operator": "NotIn", "values": ["a"]},
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-node-lease", "kube-system", "sidecarset-system"]},
            {"key": "sidecarset.dev/inject", "operator": "NotIn", "values": ["false"]},
        ])
    );
    assert_eq!(own(&entries[1])[0], json!({"key": "team", "operator": "In", "values": ["a"]}));
}

#[test]
fn the_name_of_a_namespace_needs_no_entry_of_its_own() {
    let named = |i: usize| {
        set(&format!("s{i}"), in_namespaces(json!({"matchLabels": {"kubernetes.io/metadata.name": format!("n{i}")}})))
    };
    let entries = webhooks((0..500).map(named));
    assert_eq!(entries.len(), 1);
    let condition = cel(&entries[0]);
    assert!(
        condition.contains(r#"(l.exists(k, request.namespace + "," + k + "=" + l[k] in ["n0,app=web","#),
        "{condition}"
    );
    assert!(condition.contains(r#""n499,app=web""#), "{condition}");
}

#[test]
fn unrelated_namespace_selectors_are_merged_before_they_are_too_many() {
    let own = |i: usize| set(&format!("s{i}"), in_namespaces(json!({"matchLabels": {format!("team-{i}"): "a"}})));
    assert_eq!(webhooks((0..7).map(own)).len(), 128);
    let merged = webhooks((0..10).map(own));
    assert_eq!(names(&merged), ["s0.and-9-more.ignore.pods"]);
    let teams = |i: usize| set(&format!("s{i}"), in_namespaces(json!({"matchLabels": {"team": format!("t{i}")}})));
    assert_eq!(webhooks((0..MAX_ENTRIES - 1).map(teams)).len(), MAX_ENTRIES, "one each and one for the rest");
}

#[test]
fn a_condition_is_as_long_as_what_differs_and_guards_every_access() {
    let condition = |sets: &[Value]| {
        let entries = webhooks(sets.iter().enumerate().map(|(i, spec)| set(&format!("s{i}"), spec.clone())));
        let inner =
            cel(&entries[0]).strip_prefix("[has(object.metadata.labels) ? object.metadata.labels : {}].exists(l, ");
        inner.unwrap().strip_suffix(')').unwrap().replace("\"sidecarset.dev/injected\" in l || ", "")
    };
    let selector = |requirements: Value| json!({"selector": {"matchExpressions": requirements}});
    let one_label = [
        app("a"),
        json!({"selector": {"matchLabels": {"tier": "a"}}}),
        selector(json!([{"key": "app", "operator": "In", "values": ["a", "b"]}])),
    ];
    assert_eq!(condition(&one_label), r#"(l.exists(k, k + "=" + l[k] in ["app=a","app=b","tier=a"]))"#);
    let two_labels = |a: &str, b: &str| json!({"selector": {"matchLabels": {"app": a, "tier": b}}});
    let several = selector(json!([
        {"key": "tier", "operator": "In", "values": ["x", "y"]}, {"key": "app", "operator": "In", "values": ["c"]}]));
    assert_eq!(
        condition(&[two_labels("a", "b"), two_labels("b", "a"), several]),
        r#"("app" in l && "tier" in l && l["app"] + "," + l["tier"] in ["a,b","b,a","c,x","c,y"])"#
    );
    let mixed = selector(json!([
        {"key": "tier", "operator": "Exists"}, {"key": "job", "operator": "DoesNotExist"},
        {"key": "env", "operator": "NotIn", "values": ["x"]}, {"key": "k\"ey", "operator": "In", "values": ["a", "b"]},
        {"key": "z", "operator": "In", "values": ["a", "b"]}]));
    let parts = [
        r#"l.exists(k, k + "=" + l[k] in ["k\"ey=a","k\"ey=b"])"#,
        r#"!("env" in l && l["env"] in ["x"])"#,
        r#"!("job" in l)"#,
        r#""tier" in l"#,
        r#"("z" in l && l["z"] in ["a","b"])"#,
    ];
    let condition = condition(&[mixed]);
    assert!(parts.iter().all(|part| condition.contains(part)), "{condition}");
    assert_eq!(condition.matches(" && ").count(), parts.len() - 1 + 2);
}

#[test]
fn a_long_condition_becomes_several_and_a_huge_one_coarser() {
    let labelled = |i: usize| json!({"selector": {"matchLabels": {format!("app-{i}"): format!("value-{i}")}}});
    let many = |count: usize| webhooks((0..count).map(|i| set(&format!("s{i}"), labelled(i))));
    assert_eq!(many(1000).len(), 1);
    let several = many(5000);
    assert!(several.len() > 1 && several.iter().all(|entry| cel(entry).len() <= MAX_CEL), "{}", several.len());
    let copies = several.iter().filter(|entry| cel(entry).contains("sidecarset.dev/injected"));
    assert_eq!(copies.count(), 1);
    let all: String = several.iter().map(cel).collect();
    assert!((0..5000).all(|i| all.contains(&format!("\"app-{i}=value-{i}\""))));

    let values: Vec<String> = (0..5000).map(|i| format!("a-long-value-{i}")).collect();
    let one = json!({"selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": values}]}});
    let coarse = webhooks([set("s", one)]);
    assert!(cel(&coarse[0]).ends_with(r#"|| l.exists(k, k in ["app"]))"#), "{}", cel(&coarse[0]));
}

fn any_namespace_selector() -> impl Strategy<Value = Value> {
    let key = prop_oneof![Just("a"), Just("b"), Just("c")];
    let operator = prop_oneof![Just("In"), Just("NotIn"), Just("Exists"), Just("DoesNotExist")];
    let values = prop::collection::btree_set(prop_oneof![Just("x"), Just("y")], 1..3);
    let requirement = (key, operator, values).prop_map(|(key, operator, values)| {
        let values = if operator.ends_with("In") { json!(values) } else { json!([]) };
        json!({"key": key, "operator": operator, "values": values})
    });
    prop::collection::vec(requirement, 0..3).prop_map(|all| json!({"matchExpressions": all}))
}

proptest! {
    #[test]
    fn each_namespace_has_exactly_one_ignore_entry_with_the_sets_that_reach_it(
        selectors in prop::collection::vec(any_namespace_selector(), 1..5),
        labels in prop::collection::btree_map(prop_oneof!["a", "b", "c"], prop_oneof!["x", "y"], 0..4),
    ) {
        let sets = CompiledSets::new(selectors.into_iter().enumerate().map(|(i, s)| set(&format!("s{i}"), in_namespaces(s))));
        let entries = entries(&sets);
        let here: Vec<_> =
            entries.iter().filter(|entry| Selector::from(entry.namespaces.clone()).matches(&labels)).collect();
        prop_assert_eq!(here.len(), 1);
        let found: Vec<&str> = here[0].sets.iter().map(|set| set.name.as_str()).collect();
        let reach = |set: &&Arc<CompiledSet>| set.namespace_selector.as_ref().unwrap().matches(&labels);
        let expected: Vec<&str> = sets.iter().filter(reach).map(|set| set.name.as_str()).collect();
        prop_assert_eq!(found, expected);
    }
}
