//! What Prometheus sees. Every name has the prefix `sidecarset_`; the encoder adds `_total` to counters.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::telemetry::{COMMIT, VERSION};

/// The `Content-Type` of [`Metrics::encode`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "sidecarset";

/// Seconds. An injection is pure work of microseconds; the upper end is the webhook's timeout of 5 s.
const INJECTION_BUCKETS: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 2.0, 5.0];

/// Seconds. A reconcile makes API calls, each of up to 10 s.
const RECONCILE_BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Labels of `injection_total`; `reason` is one of the API's reasons.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct InjectionLabels {
    /// Name of the set.
    pub(crate) set: String,
    /// What became of the pod: `injected`, `skipped`, `refused`, `error`.
    pub(crate) result: &'static str,
    /// Why.
    pub(crate) reason: &'static str,
}

/// Labels of `pods`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PodLabels {
    /// Name of the set.
    pub(crate) set: String,
    /// Which of the status' counters, such as `matched` or `updated`.
    pub(crate) state: &'static str,
}

/// Labels of `pod_patch_total` and `evictions_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PatchLabels {
    /// Name of the set.
    pub(crate) set: String,
    /// Of patches `ok`, `conflict`, `refused`, `unknown`, `withdrawn`; of evictions `evicted`, `blocked`, `gone`,
    /// `refused`, `unknown`.
    pub(crate) result: &'static str,
}

/// Labels of `reconcile_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabels {
    /// `ok`, or the error's name.
    pub(crate) result: &'static str,
}

/// A histogram of seconds that every clone shares.
type Seconds = Histogram;

/// A gauge of seconds, fractions included.
pub type SecondsGauge = Gauge<f64, AtomicU64>;

/// Handles of all metrics; a clone shares the values.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// `injection_total{set,result,reason}`: decisions of the webhook, one per set and pod.
    pub(crate) injections: Family<InjectionLabels, Counter>,
    /// `injection_duration_seconds`: from the request read to the response ready.
    pub(crate) injection_duration: Seconds,
    /// `pods{set,state}`: the status' counters.
    pub(crate) pods: Family<PodLabels, Gauge>,
    /// `pod_patch_total{set,result}`: writes to pods.
    pub(crate) pod_patches: Family<PatchLabels, Counter>,
    /// `evictions_total{set,result}`: requests to evict a pod.
    pub(crate) evictions: Family<PatchLabels, Counter>,
    /// `reconcile_total{result}`.
    pub(crate) reconciles: Family<ResultLabels, Counter>,
    /// `reconcile_duration_seconds`.
    pub(crate) reconcile_duration: Seconds,
    /// `leader`: 1 on the replica that holds the lease.
    pub(crate) leader: Gauge,
    /// `webhook_certificate_expiry_seconds`: when the served certificate expires, seconds since 1970.
    pub(crate) webhook_certificate_expiry: SecondsGauge,
}

impl Metrics {
    /// All metrics, registered, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let injections = Family::default();
        let injection_duration = Histogram::new(INJECTION_BUCKETS);
        let pods = Family::default();
        let pod_patches = Family::default();
        let evictions = Family::default();
        let reconciles = Family::default();
        let reconcile_duration = Histogram::new(RECONCILE_BUCKETS);
        let leader = Gauge::default();
        let webhook_certificate_expiry = SecondsGauge::default();

        registry.register("injection", "Decisions of the webhook per set and pod", injections.clone());
        registry.register(
            "injection_duration_seconds",
            "Time to answer an admission request for a pod",
            injection_duration.clone(),
        );
        registry.register("pods", "Pods of a set by state", pods.clone());
        registry.register("pod_patch", "Writes to pods by outcome", pod_patches.clone());
        registry.register("evictions", "Requests to evict a pod by outcome", evictions.clone());
        registry.register("reconcile", "Reconciliations by outcome", reconciles.clone());
        registry.register("reconcile_duration_seconds", "Time of one reconciliation", reconcile_duration.clone());
        registry.register("leader", "1 if this replica holds the lease", leader.clone());
        registry.register(
            "webhook_certificate_expiry_seconds",
            "Expiry of the served webhook certificate in seconds since 1970",
            webhook_certificate_expiry.clone(),
        );
        // An info metric is encoded with the suffix `_info`.
        registry.register("build", "The version that runs", Info::new(vec![("version", VERSION), ("commit", COMMIT)]));

        Self {
            registry: Arc::new(registry),
            injections,
            injection_duration,
            pods,
            pod_patches,
            evictions,
            reconciles,
            reconcile_duration,
            leader,
            webhook_certificate_expiry,
        }
    }

    /// Counts one decision of the webhook.
    pub(crate) fn injection(&self, set: &str, result: &'static str, reason: &'static str) {
        let labels = InjectionLabels { set: set.to_owned(), result, reason };
        self.injections.get_or_create(&labels).inc();
    }

    /// Counts one write to a pod.
    pub(crate) fn pod_patch(&self, set: &str, result: &'static str) {
        let labels = PatchLabels { set: set.to_owned(), result };
        self.pod_patches.get_or_create(&labels).inc();
    }

    /// Counts one request to evict a pod.
    pub(crate) fn eviction(&self, set: &str, result: &'static str) {
        self.evictions.get_or_create(&PatchLabels { set: set.to_owned(), result }).inc();
    }

    /// Counts one reconciliation that took `seconds`.
    pub(crate) fn reconcile(&self, result: &'static str, seconds: f64) {
        self.reconciles.get_or_create(&ResultLabels { result }).inc();
        self.reconcile_duration.observe(seconds);
    }

    /// Sets one of a set's pod counters.
    pub(crate) fn set_pods(&self, set: &str, state: &'static str, count: i64) {
        let labels = PodLabels { set: set.to_owned(), state };
        self.pods.get_or_create(&labels).set(count);
    }

    /// Drops a deleted set's gauges; its counters stay, as counters must.
    pub(crate) fn forget_pods(&self, set: &str, states: &[&'static str]) {
        for state in states {
            self.pods.remove(&PodLabels { set: set.to_owned(), state });
        }
    }

    /// All metrics in the `OpenMetrics` text format, see [`CONTENT_TYPE`].
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
        metrics.clone().forget_pods("gone", &["matched"]);
        assert!(!metrics.encode().unwrap().contains("gone"));
    }
}
