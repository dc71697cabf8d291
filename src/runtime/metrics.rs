//! What Prometheus sees. Every name has the prefix `sidecarset_`; the encoder adds `_total` to counters.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use super::telemetry::{COMMIT, VERSION};

/// The `Content-Type` of [`Metrics::encode`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds. An injection is pure work of microseconds; the upper end is the webhook's timeout of 5 s.
const INJECTION_BUCKETS: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 2.0, 5.0];

/// Seconds. A reconcile makes API calls, each of up to 10 s.
const RECONCILE_BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

type Labels<const N: usize> = [(&'static str, String); N];

/// A gauge of seconds, fractions included.
pub type SecondsGauge = Gauge<f64, AtomicU64>;

/// Handles of all metrics; a clone shares the values.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    injections: Family<Labels<3>, Counter>,
    pub(crate) injection_duration: Histogram,
    pods: Family<Labels<2>, Gauge>,
    failed_creates: Family<Labels<1>, Gauge>,
    pod_patches: Family<Labels<2>, Counter>,
    evictions: Family<Labels<2>, Counter>,
    reconciles: Family<Labels<1>, Counter>,
    reconcile_duration: Histogram,
    pub(crate) leader: Gauge,
    pub(crate) webhook_certificate_expiry: SecondsGauge,
}

impl Metrics {
    /// All metrics, registered, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sidecarset");
        // An info metric is encoded with the suffix `_info`.
        registry.register("build", "The version that runs", Info::new(vec![("version", VERSION), ("commit", COMMIT)]));
        let all = &mut registry;
        let (injecting, reconciling) = (Histogram::new(INJECTION_BUCKETS), Histogram::new(RECONCILE_BUCKETS));
        let expiry = "Expiry of the served webhook certificate in seconds since 1970";
        Self {
            injections: add(all, "injection", "Decisions of the webhook per set and pod", Family::default()),
            injection_duration: add(
                all,
                "injection_duration_seconds",
                "Time to answer an admission request for a pod",
                injecting,
            ),
            pods: add(all, "pods", "Pods of a set by state", Family::default()),
            failed_creates: add(
                all,
                "failed_create_owners",
                "Owners that cannot create their pods with the sidecars of a set",
                Family::default(),
            ),
            pod_patches: add(all, "pod_patch", "Writes to pods by outcome", Family::default()),
            evictions: add(all, "evictions", "Requests to evict a pod by outcome", Family::default()),
            reconciles: add(all, "reconcile", "Reconciliations by outcome", Family::default()),
            reconcile_duration: add(all, "reconcile_duration_seconds", "Time of one reconciliation", reconciling),
            leader: add(all, "leader", "1 if this replica holds the lease", Gauge::default()),
            webhook_certificate_expiry: add(all, "webhook_certificate_expiry_seconds", expiry, Gauge::default()),
            registry: Arc::new(registry),
        }
    }

    /// A decision of the webhook. `result`: `injected`, `skipped` or `refused`.
    pub(crate) fn injection(&self, set: &str, result: &str, reason: &str) {
        let labels = [label("set", set), label("result", result), label("reason", reason)];
        self.injections.get_or_create(&labels).inc();
    }

    /// A write to a pod. `result`: `ok`, `conflict`, `refused`, `unknown` or `withdrawn`.
    pub(crate) fn pod_patch(&self, set: &str, result: &str) {
        self.pod_patches.get_or_create(&[label("set", set), label("result", result)]).inc();
    }

    /// A request to evict a pod. `result`: `evicted`, `blocked`, `gone`, `refused` or `unknown`.
    pub(crate) fn eviction(&self, set: &str, result: &str) {
        self.evictions.get_or_create(&[label("set", set), label("result", result)]).inc();
    }

    /// A reconciliation. `result`: `ok`, or the error's name.
    pub(crate) fn reconcile(&self, result: &str, seconds: f64) {
        self.reconciles.get_or_create(&[label("result", result)]).inc();
        self.reconcile_duration.observe(seconds);
    }

    /// One of a set's counters of pods.
    pub(crate) fn set_pods(&self, set: &str, state: &str, count: i64) {
        self.pods.get_or_create(&[label("set", set), label("state", state)]).set(count);
    }

    /// How many owners cannot create their pods with the sidecars of a set.
    pub(crate) fn set_failed_creates(&self, set: &str, owners: i64) {
        self.failed_creates.get_or_create(&[label("set", set)]).set(owners);
    }

    /// The set is gone.
    pub(crate) fn forget_failed_creates(&self, set: &str) {
        self.failed_creates.remove(&[label("set", set)]);
    }

    /// Drops a deleted set's gauges; its counters stay, as counters must.
    pub(crate) fn forget_pods(&self, set: &str, states: &[&str]) {
        for state in states {
            self.pods.remove(&[label("set", set), label("state", state)]);
        }
    }

    /// All metrics in the `OpenMetrics` text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn label(name: &'static str, value: &str) -> (&'static str, String) {
    (name, value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_those_documented() {
        let metrics = Metrics::new();
        metrics.injection("log-agent", "injected", "Injected");
        metrics.pod_patch("log-agent", "ok");
        metrics.eviction("log-agent", "evicted");
        metrics.reconcile("ok", 0.2);
        metrics.set_pods("log-agent", "matched", 3);
        metrics.set_failed_creates("log-agent", 2);
        metrics.leader.set(1);
        metrics.webhook_certificate_expiry.set(1.5e9);
        metrics.injection_duration.observe(0.001);
        let text = metrics.encode().unwrap();
        for line in [
            r#"sidecarset_injection_total{set="log-agent",result="injected",reason="Injected"} 1"#,
            r#"sidecarset_pod_patch_total{set="log-agent",result="ok"} 1"#,
            r#"sidecarset_evictions_total{set="log-agent",result="evicted"} 1"#,
            r#"sidecarset_reconcile_total{result="ok"} 1"#,
            r"sidecarset_reconcile_duration_seconds_count 1",
            r"sidecarset_injection_duration_seconds_count 1",
            r#"sidecarset_pods{set="log-agent",state="matched"} 3"#,
            r#"sidecarset_failed_create_owners{set="log-agent"} 2"#,
            "sidecarset_leader 1",
            "sidecarset_webhook_certificate_expiry_seconds 1500000000.0",
            &format!(r#"sidecarset_build_info{{version="{VERSION}",commit="{COMMIT}"}} 1"#),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("_total_total") && !text.contains("_seconds_seconds"));
    }

    #[test]
    fn a_forgotten_set_has_no_gauges() {
        let metrics = Metrics::new();
        metrics.set_pods("gone", "matched", 3);
        metrics.set_failed_creates("gone", 1);
        metrics.clone().forget_pods("gone", &["matched"]);
        metrics.forget_failed_creates("gone");
        assert!(!metrics.encode().unwrap().contains("gone"));
    }
}
