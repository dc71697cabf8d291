//! A simulation of operator, apiserver and kubelets, with everything that may go wrong between them, from a seed. The
//! invariants are judged after every step.
//!
//! `SIM_SEED=123 cargo test --test simulator` runs one seed and prints what happened; `SIM_SEEDS=100000` runs so many.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(clippy::cast_precision_loss)] // times in a trace

#[path = "simulator/disturb.rs"]
mod disturb;
#[path = "simulator/end.rs"]
mod end;
#[path = "simulator/kubelet.rs"]
mod kubelet;
#[path = "simulator/operator.rs"]
mod operator;
#[path = "simulator/requests.rs"]
mod requests;
#[path = "simulator/round.rs"]
mod round;
#[path = "simulator/run.rs"]
mod run;
#[path = "simulator/truth.rs"]
mod truth;
#[path = "simulator/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use disturb::KINDS;
use run::run;

/// Seeds that are run.
const SEEDS: u64 = 10_000;

/// Failures after which no more seeds are run.
const ENOUGH: usize = 30;

/// Lines of a trace that are printed.
const TRACE: usize = 120;

/// Every kind of disturbance.
const ALL: u32 = (1 << KINDS.len()) - 1;

#[test]
fn no_order_of_events_breaks_a_promise() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("SIM_SEED") {
        let outcome = run(seed, ALL, true);
        println!("{}", outcome.trace.join("\n"));
        return assert!(outcome.violation.is_none(), "{}", explain(seed));
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failed: Mutex<BTreeMap<u64, &str>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while failed.lock().unwrap().len() < ENOUGH {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    if let Some(invariant) = broken(seed, ALL) {
                        failed.lock().unwrap().insert(seed, invariant);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let first = failed.keys().next().copied();
    assert!(first.is_none(), "{}all that failed: {failed:?}", explain(first.unwrap_or_default()));
}

/// The promise that a run breaks.
fn broken(seed: u64, mask: u32) -> Option<&'static str> {
    let outcome = std::panic::catch_unwind(|| run(seed, mask, false).violation);
    outcome.map_or(Some("panic"), |violation| violation.map(|(invariant, _)| invariant))
}

#[test]
fn a_seed_always_runs_the_same() {
    for seed in 0..20 {
        assert_eq!(run(seed, ALL, true).trace, run(seed, ALL, true).trace);
    }
}

/// The failing run with as few kinds of disturbances as still break the same promise.
fn explain(seed: u64) -> String {
    let first = broken(seed, ALL);
    let mut mask = ALL;
    for kind in 0..KINDS.len() {
        let less = mask & !(1 << kind);
        if broken(seed, less) == first {
            mask = less;
        }
    }
    let outcome = run(seed, mask, true);
    let kinds: Vec<&str> = (0..KINDS.len()).filter(|kind| mask & (1 << kind) != 0).map(|kind| KINDS[kind]).collect();
    let mut text = format!("seed {seed} breaks a promise, needed for it: {kinds:?}\n");
    let skipped = outcome.trace.len().saturating_sub(TRACE);
    let _ = writeln!(text, "({skipped} lines before)\n{}", outcome.trace[skipped..].join("\n"));
    if let Some((invariant, what)) = outcome.violation {
        let _ = writeln!(text, "{invariant}: {what}");
    }
    let _ = writeln!(text, "run it alone: SIM_SEED={seed} cargo test --test simulator");
    text
}
