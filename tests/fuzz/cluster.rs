//! An API server that is asked whether it would take something.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::http::Request;
use devcluster::DevCluster;
use kube::{Client, Error};
use serde_json::{Value, json};
use sidecarset::api::crd::crd;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SETS: &str = "/apis/sidecarset.dev/v1beta1/sidecarsets";
/// Longest wait until the CRD is served; a busy machine needs some seconds.
const CRD_SERVED: Duration = Duration::from_mins(1);

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Why the API server does not take something.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// All that is wrong.
    pub message: String,
    /// The same one by one, without names, numbers and places: refusals of one kind have the same.
    pub kinds: BTreeSet<String>,
}

/// A cluster of its own: nothing may stand between a pod and the API server's rules.
pub struct Cluster {
    client: Client,
    _servers: DevCluster,
}

impl Cluster {
    /// Starts it, with the CRD.
    pub async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let servers = DevCluster::builder().without_kwok().nodes(0).start().await.unwrap();
        let cluster = Self { client: servers.client(), _servers: servers };
        cluster.post(CRDS, &serde_json::to_value(crd().unwrap()).unwrap()).await.unwrap();
        let deadline = Instant::now() + CRD_SERVED;
        while cluster.get(SETS).await.is_err() {
            assert!(Instant::now() < deadline, "the CRD is not served");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster
    }

    /// Whether it takes a pod; what it makes of it.
    ///
    /// `strict`: a field that it does not know is a fault, for example of a generator.
    pub async fn pod(&self, pod: &Value, strict: bool) -> Result<Value, Refusal> {
        let validation = if strict { "Strict" } else { "Ignore" };
        self.post(&format!("{PODS}?dryRun=All&fieldValidation={validation}"), pod).await
    }

    /// Whether it takes a set, by the schema; what it makes of it.
    pub async fn set(&self, set: &Value) -> Result<Value, Refusal> {
        self.post(&format!("{SETS}?dryRun=All&fieldValidation=Strict"), set).await
    }

    async fn get(&self, path: &str) -> Result<Value, Error> {
        self.client.request(Request::get(path).body(Vec::new()).unwrap()).await
    }

    async fn post(&self, path: &str, object: &Value) -> Result<Value, Refusal> {
        let request = Request::post(path).header("content-type", "application/json");
        match self.client.request(request.body(object.to_string().into_bytes()).unwrap()).await {
            Ok(object) => Ok(object),
            Err(Error::Api(status)) => {
                let status =
                    serde_json::to_value(&*status).unwrap_or_else(|error| json!({"message": error.to_string()}));
                Err(refusal(&status))
            }
            Err(error) => panic!("no answer from the API server: {error}"),
        }
    }
}

fn refusal(status: &Value) -> Refusal {
    let message = status["message"].as_str().unwrap_or_default().to_owned();
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let kind = |cause: &Value| {
        let text = |field: &str| plain(cause[field].as_str().unwrap_or_default());
        format!("{}: {}", text("field"), text("message"))
    };
    let mut kinds: BTreeSet<String> = causes.map(kind).collect();
    if kinds.is_empty() {
        kinds.insert(plain(&message));
    }
    Refusal { message, kinds }
}

/// Without what stands in quotes and brackets, and without numbers.
fn plain(text: &str) -> String {
    let mut kept = String::new();
    let mut closes = None;
    for c in text.replace("initContainers", "containers").chars() {
        match (closes, c) {
            (Some(end), c) if c == end => closes = None,
            (Some(_), _) => {}
            (None, '"') => closes = Some('"'),
            (None, '[') => closes = Some(']'),
            (None, c) if c.is_ascii_digit() => {}
            (None, c) => kept.push(c),
        }
    }
    kept
}
