//! A pod and the sets that select it: what may come of them, and what may not.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use sidecarset::api::validate::ValidSidecarSet;
use sidecarset::core::inject::dry_run::{SmallPod, small_pods, small_pods_of_jobs};

use crate::cluster::{Cluster, Refusal};
use crate::generate;
use crate::generate::values::{Any, elements, remove, retain};
use crate::webhook::{Webhook, valid};

/// A pod and sets.
#[derive(Clone, Debug)]
pub struct Pair {
    pub pod: Value,
    /// One, seldom two.
    pub sets: Vec<Value>,
    /// The pod is injected as it was written, as `kubectl sidecarset inject` does; else with the API server's defaults,
    /// as the webhook sees it.
    pub offline: bool,
}

/// What comes of a pair.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The API server does not take the pod even without a set.
    NoPod(Refusal),
    /// A set that nobody can have: who says so, and why.
    NoSet(&'static str, Refusal),
    /// Created; with all sidecars, or what the webhook said about them.
    Created(Option<String>),
    /// Refused because of the set, or created without something of its own.
    Broken(Refusal),
}

impl Pair {
    /// As a document for `kept.yaml`.
    pub fn to_json(&self) -> Value {
        json!({"offline": self.offline, "sets": self.sets, "pod": self.pod})
    }

    /// From such a document.
    pub fn from_json(mut document: Value) -> Self {
        let typed = |mut object: Value, version: &str, kind: &str| {
            object["apiVersion"] = version.into();
            object["kind"] = kind.into();
            object
        };
        let sets = document["sets"].as_array().into_iter().flatten().cloned();
        let sets = sets.map(|set| typed(set, "sidecarset.dev/v1beta1", "SidecarSet")).collect();
        Self { pod: typed(document["pod"].take(), "v1", "Pod"), sets, offline: document["offline"] == true }
    }
}

/// As long as the name of a set may be.
const LONG: &str = "s23456789-123456789-123456789-123456789-123456789-123456789-123";

/// Makes pairs from seeds.
pub struct Pairs {
    pods: Any,
    sets: Any,
    others: Any,
}

impl Pairs {
    pub fn new() -> Self {
        Self {
            pods: generate::pod(),
            sets: generate::set(&["logs", "logs", "a.b", LONG]),
            others: generate::set(&["mesh"]),
        }
    }

    /// The same pair for the same seed, as long as the generators are not changed.
    pub fn pair(&self, seed: u64) -> Pair {
        // The cheap generator, which is bad at seeds of few bits: spread them.
        let spread = u128::from(seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let rng = TestRng::from_seed(RngAlgorithm::XorShift, &spread.to_be_bytes());
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let mut draw = |any: &Any| any.new_tree(&mut runner).unwrap().current();
        let mut sets = vec![draw(&self.sets)];
        if seed.is_multiple_of(5) {
            sets.push(draw(&self.others));
        }
        Pair { pod: draw(&self.pods), sets, offline: seed.is_multiple_of(3) }
    }
}

/// Who is asked about pairs.
pub struct Judge {
    pub cluster: Cluster,
    pub webhook: Webhook,
}

impl Judge {
    /// Asks.
    pub async fn verdict(&self, pair: &Pair) -> Verdict {
        let written = padded(&pair.pod);
        let plain = match self.cluster.pod(&written, true).await {
            Ok(plain) => plain,
            Err(refusal) => return Verdict::NoPod(refusal),
        };
        let mut sets = Vec::new();
        for set in &pair.sets {
            match self.valid_set(set).await {
                Ok(set) => sets.push(set),
                Err((who, why)) => return Verdict::NoSet(who, why),
            }
        }
        let seen = if pair.offline { written } else { as_admitted(plain.clone(), &written) };
        let injected = match self.webhook.inject(&sets, &seen).await {
            Ok(injected) => injected,
            Err(message) => return Verdict::Broken(refused("the webhook refuses the pod", message)),
        };
        match self.cluster.pod(&injected.pod, false).await {
            Ok(created) => match loss(&plain, &created) {
                Some(loss) => Verdict::Broken(loss),
                None if injected.is_complete() => Verdict::Created(None),
                None => Verdict::Created(Some(injected.audit)),
            },
            Err(refusal) => Verdict::Broken(refusal),
        }
    }

    /// A set is valid if the schema and `validate` take it, and a small pod can have its sidecars, as at admission.
    async fn valid_set(&self, set: &Value) -> Result<ValidSidecarSet, (&'static str, Refusal)> {
        let validated = |set| valid(set).map_err(|message| ("validate", refused("validate", message)));
        // Before a request is made for it, and again with the defaults of the schema.
        validated(set)?;
        let set = validated(&self.cluster.set(set).await.map_err(|refusal| ("schema", refusal))?)?;
        let of_jobs = small_pods_of_jobs(&set);
        self.takes_one(small_pods(&set)).await.map_err(|refusal| ("small pod", refusal))?;
        if !of_jobs.is_empty() {
            self.takes_one(of_jobs).await.map_err(|refusal| ("small pod of a Job", refusal))?;
        }
        Ok(set)
    }

    async fn takes_one(&self, pods: Vec<SmallPod>) -> Result<(), Refusal> {
        let mut last = refused("no small pod", String::new());
        for SmallPod { pod, conflict } in pods {
            match (conflict, self.cluster.pod(&pod, true).await) {
                (None, Ok(_)) => return Ok(()),
                (Some(why), Ok(_)) => last = refused("not injected into a small pod", why),
                (_, Err(refusal)) => last = refusal,
            }
        }
        Err(last)
    }
}

/// With an annotation that is as long as it should be.
fn padded(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(padding) = pod["metadata"]["annotations"].get_mut(generate::PADDING) {
        let length = padding.as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
        *padding = "x".repeat(length).into();
    }
    pod
}

fn refused(kind: &str, message: String) -> Refusal {
    Refusal { message, kinds: [kind.to_owned()].into() }
}

/// What the pod had and has no more: a container or a volume that is gone or another one. Both are as the API server
/// made them, so that defaults make no difference.
fn loss(plain: &Value, created: &Value) -> Option<Refusal> {
    let is_marked = plain["metadata"]["annotations"].to_string().contains("\"injection.sidecarset.dev/");
    for list in ["containers", "initContainers", "volumes"] {
        for own in elements(&plain["spec"], list).map(as_written) {
            let now = elements(&created["spec"], list).find(|element| element["name"] == own["name"]).map(as_written);
            let message = || format!("was {own}, is {}", now.clone().unwrap_or_default());
            match &now {
                Some(now) if *now == own => {}
                // Who says that a container is ours has said that it may go; a volume can hold data.
                _ if is_marked && list != "volumes" => {}
                None if is_marked => {}
                _ if own["name"].as_str().is_some_and(|name| name.starts_with(TOKEN)) => {}
                _ => return Some(refused(&format!("something in {list} of the pod is lost"), message())),
            }
        }
    }
    None
}

/// Volume that the API server makes, with another name each time.
const TOKEN: &str = "kube-api-access-";

/// A container without the mount of that volume, and without the profile that an annotation of the set gives it.
fn as_written(element: &Value) -> Value {
    let mut element = element.clone();
    remove(&mut element, "/securityContext", &["appArmorProfile"]);
    if element["securityContext"] == json!({}) {
        remove(&mut element, "", &["securityContext"]);
    }
    retain(&mut element, "volumeMounts", |mount| mount["name"].as_str().is_none_or(|name| !name.starts_with(TOKEN)));
    element
}

/// The pod as a webhook gets it: defaults and built-in admission have been there, what is done later has not.
fn as_admitted(mut plain: Value, written: &Value) -> Value {
    plain["status"].take();
    for field in ["uid", "creationTimestamp", "resourceVersion", "managedFields", "generation"] {
        plain["metadata"][field].take();
    }
    if written["metadata"]["name"].is_null() {
        plain["metadata"]["name"].take();
    }
    // The API server writes `matchLabelKeys` into the selectors when it stores the pod.
    for field in ["affinity", "topologySpreadConstraints"] {
        plain["spec"][field] = written["spec"][field].clone();
    }
    without_nulls(&mut plain);
    plain
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(without_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(without_nulls),
        _ => {}
    }
}
