//! Two contenders for one Lease on a real API server.

// clippy.toml allows it in test functions only; these are their helpers.
#![allow(clippy::expect_used)]

use std::time::Duration;

use devcluster::DevCluster;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use kube::{Api, Client};
use sidecarset::runtime::leader::{Error, Leadership, LeaseParams, State, spawn};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "default";

/// Far above what any step here takes; only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(30);

struct Contender {
    leadership: Leadership,
    trigger: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

/// The default durations, three times as fast.
fn contend(client: &Client, lease: &str, identity: &str) -> Contender {
    let params = LeaseParams {
        lease_duration: Duration::from_secs(5),
        renew_deadline: Duration::from_secs(3),
        retry_period: Duration::from_millis(500),
        ..LeaseParams::new(NAMESPACE, lease, identity)
    };
    let trigger = CancellationToken::new();
    let (leadership, task) = spawn(client.clone(), params, trigger.clone());
    Contender { leadership, trigger, task }
}

impl Contender {
    /// Waits for leadership; says whether it was a clean one.
    async fn leads(&self) -> bool {
        let mut state = self.leadership.subscribe();
        let leader = state.wait_for(|state| *state != State::Follower);
        match *timeout(LIMIT, leader).await.expect("nobody leads").expect("the task is gone") {
            State::Leader { clean, .. } => clean,
            State::Follower => unreachable!("waited for a leader"),
        }
    }

    async fn follows(&self) {
        let mut state = self.leadership.subscribe();
        let follower = state.wait_for(|state| *state == State::Follower);
        timeout(LIMIT, follower).await.expect("still leads").expect("the task is gone");
    }

    async fn stop(self) {
        self.trigger.cancel();
        timeout(LIMIT, self.task).await.expect("does not stop").expect("panicked").expect("no release");
    }
}

/// Looks at both all the time until the task is aborted.
fn watch_for_two(a: &Contender, b: &Contender) -> JoinHandle<()> {
    let (a, b) = (a.leadership.clone(), b.leadership.clone());
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        loop {
            tick.tick().await;
            assert!(!(a.is_leader() && b.is_leader()), "two leaders");
        }
    })
}

async fn lease(client: &Client, name: &str) -> Lease {
    Api::namespaced(client.clone(), NAMESPACE).get(name).await.expect("the lease")
}

/// Waits until the lease has been renewed that often.
async fn renewals(client: &Client, name: &str, count: usize) {
    let mut times = std::collections::BTreeSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let seen = async {
        while times.len() <= count {
            tick.tick().await;
            times.extend(lease(client, name).await.spec.and_then(|spec| spec.renew_time));
        }
    };
    timeout(LIMIT, seen).await.expect("not renewed");
}

fn transitions(lease: &Lease) -> i32 {
    lease.spec.as_ref().and_then(|spec| spec.lease_transitions).expect("transitions")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_moves_between_two_contenders() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = DevCluster::start().await.expect("a cluster");
    let client = cluster.client();
    a_release_is_taken_over_at_once(&client).await;
    a_crash_is_taken_over_after_the_lease_duration(&client).await;
    a_deleted_lease_leaves_one_leader(&client).await;
    a_theft_is_noticed(&client).await;
    cluster.stop().await;
}

async fn a_release_is_taken_over_at_once(client: &Client) {
    let first = contend(client, "released", "first");
    assert!(first.leads().await);
    let second = contend(client, "released", "second");
    let watcher = watch_for_two(&first, &second);
    let leadership = first.leadership.clone();
    let stopped = Instant::now();
    first.stop().await;
    assert!(!leadership.is_leader());
    assert!(second.leads().await, "a released lease is clean");
    assert!(stopped.elapsed() < Duration::from_secs(3), "took {:?}", stopped.elapsed());
    assert_eq!(transitions(&lease(client, "released").await), 1);
    assert!(!watcher.is_finished(), "two leaders");
    watcher.abort();
    second.stop().await;
    let spec = lease(client, "released").await.spec.expect("spec");
    assert_eq!(spec.holder_identity.unwrap_or_default(), "");
}

async fn a_crash_is_taken_over_after_the_lease_duration(client: &Client) {
    let first = contend(client, "crashed", "first");
    assert!(first.leads().await);
    let second = contend(client, "crashed", "second");
    let watcher = watch_for_two(&first, &second);
    let crashed = Instant::now();
    first.task.abort();
    first.follows_after_crash().await;
    assert!(!second.leads().await, "the old holder may still have writes on the way");
    // The last renewal was at most a retry period and a request before the crash.
    assert!(crashed.elapsed() > Duration::from_secs(4), "took {:?}", crashed.elapsed());
    assert_eq!(transitions(&lease(client, "crashed").await), 1);
    assert!(!watcher.is_finished(), "two leaders");
    watcher.abort();
    second.stop().await;
}

async fn a_deleted_lease_leaves_one_leader(client: &Client) {
    let first = contend(client, "deleted", "first");
    assert!(first.leads().await);
    let second = contend(client, "deleted", "second");
    let watcher = watch_for_two(&first, &second);
    // Meanwhile the second has seen in whose hands it is; a newcomer would take its absence for a fresh start.
    renewals(client, "deleted", 3).await;
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    leases.delete("deleted", &DeleteParams::default()).await.expect("deleted");
    let mut state = first.leadership.subscribe();
    // Down and up again may be one change for a receiver: what counts is that the new claim is not a clean one.
    let unclean = state.wait_for(|state| matches!(state, State::Leader { clean: false, .. }));
    timeout(LIMIT, unclean).await.expect("does not lead again").expect("the task is gone");
    assert!(!watcher.is_finished(), "two leaders");
    watcher.abort();
    second.stop().await;
    first.stop().await;
}

async fn a_theft_is_noticed(client: &Client) {
    let first = contend(client, "stolen", "first");
    assert!(first.leads().await);
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    let patch = serde_json::json!({"spec": {"holderIdentity": "thief"}});
    leases.patch("stolen", &kube::api::PatchParams::default(), &kube::api::Patch::Merge(patch)).await.expect("patched");
    first.follows().await;
    assert!(!first.leadership.is_leader());
    // The thief never renews, so the lease comes back; not cleanly, for who knows what it does.
    assert!(!first.leads().await);
    first.stop().await;
}

impl Contender {
    /// After an abort the state's sender is gone; what it left behind must say follower.
    async fn follows_after_crash(&self) {
        let mut state = self.leadership.subscribe();
        // Ends with an error once the sender is dropped, or at once if the state is already right.
        let _ = timeout(LIMIT, state.wait_for(|state| *state == State::Follower)).await.expect("still leads");
        assert!(!self.leadership.is_leader());
    }
}
