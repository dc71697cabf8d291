//! A pod that the API server takes without a set is also taken with an `Ignore` set, whatever pod and set are.
//!
//! Pods and sets are arbitrary, the API server is real: each pod is sent twice as a dry run, as it is and as injection
//! leaves it. Quotas, Pod Security, limit ranges and other webhooks are not there: no injection can know them.
//!
//! `FUZZ_SEED=123 cargo test --test fuzz` asks about one seed and prints its pair; `FUZZ_PAIRS=100000` asks about so many
//! pairs, `FUZZ_FROM=5000` begins at that seed. What fails is made small and printed, to be kept in `kept.yaml`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cluster;
mod generate;
mod pairs;
mod shrink;
mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use cluster::Cluster;
use futures::StreamExt;
use pairs::{Judge, Pair, Pairs, Verdict};
use serde_json::Value;
use webhook::Webhook;

/// Pairs that must count: pod and sets are valid by themselves.
const PAIRS: usize = 2_000;

/// Smallest part of the pods that the API server must take: others teach nothing.
const ACCEPTED: f64 = 0.7;

/// Pairs that are judged at once: the API server waits for nothing, so a few per core do.
const AT_ONCE: usize = 16;

/// Seeds between two looks at whether there are enough.
const BATCH: u64 = 100;

/// Pairs that failed once, made small.
const KEPT: &str = include_str!("kept.yaml");

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_created_without_a_set_is_created_with_one() {
    let judge = Arc::new(Judge { cluster: Cluster::start().await, webhook: Webhook::start() });
    if let Some(seed) = number("FUZZ_SEED") {
        let pair = Pairs::new().pair(seed);
        println!("{:#}", pair.to_json());
        let verdict = judge.verdict(&pair).await;
        return assert!(!matches!(verdict, Verdict::Broken(_)), "{verdict:#?}");
    }
    let mut tally = Tally::default();
    for (i, pair) in kept().into_iter().enumerate() {
        let verdict = judge.verdict(&pair).await;
        assert!(!matches!(verdict, Verdict::NoPod(_)), "pair {} of kept.yaml shows nothing: {verdict:?}", i + 1);
        tally.add(format!("pair {} of kept.yaml", i + 1), pair, verdict);
    }
    let new = number("FUZZ_PAIRS").map_or(PAIRS, |pairs| usize::try_from(pairs).unwrap());
    let wanted = tally.counted() + new;
    let mut seed = number("FUZZ_FROM").unwrap_or_default();
    let (pairs, started) = (Arc::new(Pairs::new()), Instant::now());
    while tally.counted() < wanted {
        for (seed, pair, verdict) in verdicts(&judge, &pairs, seed..seed + BATCH).await {
            tally.add(format!("seed {seed}"), pair, verdict);
        }
        seed += BATCH;
    }
    println!("{tally}{} pairs count, in {:.1} s", tally.counted(), started.elapsed().as_secs_f64());
    assert!(tally.accepted() > ACCEPTED, "the generator makes too many pods that are none");
    assert!(tally.injected * 2 > tally.counted(), "most pods are left alone, which shows little");
    assert!(tally.broken.is_empty(), "{}", explain(&judge, &tally).await);
}

/// What comes of the pairs of some seeds.
async fn verdicts(judge: &Arc<Judge>, pairs: &Arc<Pairs>, seeds: std::ops::Range<u64>) -> Vec<(u64, Pair, Verdict)> {
    let tasks = seeds.map(|seed| {
        let (judge, pairs) = (Arc::clone(judge), Arc::clone(pairs));
        let task = async move {
            let pair = pairs.pair(seed);
            let verdict = judge.verdict(&pair).await;
            (seed, pair, verdict)
        };
        async { tokio::spawn(task).await.unwrap() }
    });
    futures::stream::iter(tasks).buffered(AT_ONCE).collect().await
}

#[test]
fn a_seed_always_makes_the_same_pair() {
    let (one, another) = (Pairs::new(), Pairs::new());
    for seed in 0..20 {
        assert_eq!(one.pair(seed).to_json(), another.pair(seed).to_json());
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn kept() -> Vec<Pair> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(KEPT).expect("kept.yaml is YAML");
    documents.into_iter().map(Pair::from_json).collect()
}

/// All verdicts.
#[derive(Default)]
struct Tally {
    injected: usize,
    /// By what the webhook said.
    left_alone: BTreeMap<String, usize>,
    no_pod: BTreeMap<String, usize>,
    no_set: BTreeMap<String, usize>,
    failed: usize,
    /// By kind; a pair can break in several ways.
    broken: BTreeMap<String, Failure>,
}

/// Failures of one kind.
struct Failure {
    count: usize,
    /// Where the first pair comes from.
    first: String,
    pair: Pair,
    message: String,
}

impl Tally {
    fn add(&mut self, name: String, pair: Pair, verdict: Verdict) {
        let count = |map: &mut BTreeMap<String, usize>, key: String| *map.entry(key).or_default() += 1;
        match verdict {
            Verdict::NoPod(refusal) => count(&mut self.no_pod, refusal.message),
            Verdict::NoSet(who, refusal) => count(&mut self.no_set, format!("{who}: {}", refusal.message)),
            Verdict::Created(None) => self.injected += 1,
            Verdict::Created(Some(audit)) => count(&mut self.left_alone, audit),
            Verdict::Broken(refusal) => {
                self.failed += 1;
                for kind in refusal.kinds {
                    let first = || Failure {
                        count: 0,
                        first: name.clone(),
                        pair: pair.clone(),
                        message: refusal.message.clone(),
                    };
                    self.broken.entry(kind).or_insert_with(first).count += 1;
                }
            }
        }
    }

    fn counted(&self) -> usize {
        self.injected + self.left_alone.values().sum::<usize>() + self.failed
    }

    /// The part of the pods that the API server takes.
    #[allow(clippy::cast_precision_loss)] // a few thousand
    fn accepted(&self) -> f64 {
        let refused: usize = self.no_pod.values().sum();
        let others = self.counted() + self.no_set.values().sum::<usize>();
        others as f64 / (others + refused).max(1) as f64
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (title, kinds) in
            [("no pod", &self.no_pod), ("no set", &self.no_set), ("created, left alone", &self.left_alone)]
        {
            writeln!(f, "{title}: {}", kinds.values().sum::<usize>())?;
            let mut kinds: Vec<_> = kinds.iter().collect();
            kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (kind, count) in kinds.iter().take(12) {
                writeln!(f, "  {count:5} {kind}")?;
            }
        }
        writeln!(f, "created with all sidecars: {}", self.injected)?;
        writeln!(f, "pods accepted: {:.0} %", self.accepted() * 100.0)
    }
}

/// One small pair of each kind.
async fn explain(judge: &Judge, tally: &Tally) -> String {
    let small = tally.broken.iter().map(|(kind, Failure { count, first, pair, message })| async move {
        let pair = shrink::smallest(judge, pair, kind).await;
        let message = match judge.verdict(&pair).await {
            Verdict::Broken(refusal) => refusal.message,
            _ => message.clone(),
        };
        format!("# {kind}\n# {count} times, first: {first}\n# {message}\n{}\n---\n", pair.to_json())
    });
    let texts: Vec<String> = futures::stream::iter(small).buffered(AT_ONCE).collect().await;
    let (kinds, failed) = (texts.len(), tally.failed);
    format!("{failed} pods break because of a set, in {kinds} ways; small ones, for kept.yaml:\n{}", texts.concat())
}
