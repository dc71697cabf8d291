//! Leader election over a Lease: at most one replica believes that it leads, at any instant.
//!
//! The rules are client-go's: a holder stops believing `renew_deadline` after it *sent* its last successful renewal; another
//! takes over only after it has itself seen the Lease unchanged for `lease_duration`, which is longer. Every write names the
//! resourceVersion that it replaces, so of two contenders one fails. Clocks of machines are never compared. The monotonic
//! clock of Linux stands still while a machine is suspended: a leader that wakes up may believe for up to `renew_deadline`.
//! A Lease that someone deletes while it is held is made again by its holder within `retry_period`; a contender that was
//! started in that gap and has never seen it takes it for free.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

pub use election::LeaseParams;
use election::{Action, Election};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::call::{CallError, Cause, until};

mod election;
#[cfg(test)]
mod tests;

/// A request about the Lease that takes longer is repeated; several fit into the renew deadline of 10 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A write ends this long before leadership does, so that its answer is still read by a leader.
const WRITE_MARGIN: Duration = Duration::from_millis(500);

/// The longest pause of a follower that gets errors; a leader never waits longer than the retry period.
const MAX_BACKOFF: Duration = Duration::from_secs(16);

/// A pause after a lost race, so that a Lease which others edit all the time does not make a hot loop.
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);

/// Why the election task ended; loss of leadership is no error but a [`State`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The durations are not ordered, or the identity is empty.
    #[error(
        "lease: need 0 < retry period < renew deadline < lease duration (whole seconds) and an identity, got {0:?}"
    )]
    Params(Box<LeaseParams>),
    /// At shutdown the Lease could not be given back; a successor waits for its expiry.
    #[error(transparent)]
    Release(CallError),
}

/// Whether this process leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Another does, or nobody.
    Follower,
    /// This one does.
    Leader {
        /// The end, unless the Lease is renewed before. Receivers are not told of renewals.
        until: Instant,
        /// The Lease was free or already ours. If not, it was taken from a holder that may still have writes on the way.
        clean: bool,
    },
}

/// The right to write, as every writer holds it. Cheap to clone and to ask.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<State>);

impl Leadership {
    /// Whether this process may write now; asked before every single write.
    pub fn is_leader(&self) -> bool {
        self.until().is_some()
    }

    /// A receiver of its own of the states (for single writes ask [`Self::is_leader`]); an error from it means that the task is gone, and this replica never leads again.
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.0.clone()
    }

    /// Runs one write: only while this process leads, and ending before another may lead, after `limit` at the latest.
    pub(crate) async fn write<T>(
        &self,
        action: &'static str,
        object: impl FnOnce() -> String,
        limit: Duration,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        let answer = match self.write_deadline() {
            Some(deadline) => until(deadline.min(Instant::now() + limit), call).await,
            None => Err(Cause::NotLeader),
        };
        answer.map_err(|cause| CallError { action, object: object(), cause })
    }

    /// The instant by which a write that starts now must have ended; `None` if it must not start.
    fn write_deadline(&self) -> Option<Instant> {
        let deadline = self.until()?.checked_sub(WRITE_MARGIN)?;
        (Instant::now() < deadline).then_some(deadline)
    }

    fn until(&self) -> Option<Instant> {
        match *self.0.borrow() {
            State::Leader { until, .. } if Instant::now() < until => Some(until),
            _ => None,
        }
    }
}

/// Starts to contend. `client` must not retry by itself (`Clients::lease`). `shutdown` fires after the writers have
/// stopped: the Lease is then given back and a successor starts at once. The task ends only by it, or by wrong `params`.
pub fn spawn(
    client: Client,
    params: LeaseParams,
    shutdown: CancellationToken,
) -> (Leadership, JoinHandle<Result<(), Error>>) {
    let (sender, state) = watch::channel(State::Follower);
    let contender = Contender {
        api: Api::namespaced(client, &params.namespace),
        retry_period: params.retry_period,
        election: Election::new(params.clone()),
        lease: format!("{}/{}", params.namespace, params.name),
        name: params.name.clone(),
        signal: Signal(sender),
    };
    let task = tokio::spawn(async move {
        if !params.are_valid() {
            return Err(Error::Params(Box::new(params)));
        }
        contender.run(shutdown).await
    });
    (Leadership(state), task)
}

/// Tells the writers. Dropped with the task, also by a panic or an abort: then nobody leads here any more.
struct Signal(watch::Sender<State>);

impl Signal {
    fn lead(&self, until: Instant, clean: bool) {
        self.0.send_if_modified(|state| match state {
            State::Leader { until: end, .. } => {
                *end = until;
                false
            }
            State::Follower => {
                *state = State::Leader { until, clean };
                true
            }
        });
    }

    /// Whether this process has led.
    fn follow(&self) -> bool {
        self.0.send_if_modified(|state| std::mem::replace(state, State::Follower) != State::Follower)
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        self.follow();
    }
}

struct Contender {
    api: Api<Lease>,
    election: Election,
    retry_period: Duration,
    lease: String,
    name: String,
    signal: Signal,
}

impl Contender {
    async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut failures = 0_u32;
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            let next = match self.round().await {
                Ok(next) => {
                    failures = 0;
                    next
                }
                Err((what, error)) => {
                    tracing::warn!(lease = self.lease, %error, "cannot {what} the lease");
                    if self.election.leads_until(Instant::now()).is_none() {
                        self.step_down("not renewed in time");
                    }
                    failures += 1;
                    began + self.backoff(failures)
                }
            };
            self.pause(next, &shutdown).await;
        }
        self.release().await
    }

    /// One read if one is needed, one decision, one write if it is to be made. Returns when the next round begins; an
    /// error with what was tried.
    async fn round(&mut self) -> Result<Instant, (&'static str, Cause)> {
        if self.election.must_read(Instant::now()) {
            let lease = self.request(self.api.get_opt(&self.name)).await.map_err(|cause| ("read", cause))?;
            self.election.read(lease, Instant::now());
            if self.election.leads_until(Instant::now()).is_none() {
                self.step_down("the lease is not ours any more");
            }
        }
        let sent = Instant::now();
        let lease = match self.election.decide(sent, Timestamp::now()) {
            Action::Write(lease) => lease,
            Action::Wait(until) => return Ok(until.min(sent + jitter(self.retry_period))),
        };
        match self.write(&lease).await {
            Ok(stored) => {
                self.won(stored, sent);
                Ok(sent + self.retry_period)
            }
            Err(cause) if cause.is_lost_race() => {
                tracing::debug!(lease = self.lease, %cause, "the lease has changed");
                self.election.conflicted();
                Ok(Instant::now() + CONFLICT_PAUSE)
            }
            Err(cause) => Err(("write", cause)),
        }
    }

    fn won(&mut self, stored: Lease, sent: Instant) {
        self.election.written(stored, sent);
        let Some(until) = self.election.leads_until(Instant::now()) else {
            // The answer came after the claim it made had run out.
            return self.step_down("the renewal took too long");
        };
        let clean = self.election.clean();
        if *self.signal.0.borrow() == State::Follower {
            tracing::info!(lease = self.lease, clean, "leading");
        }
        self.signal.lead(until, clean);
    }

    fn step_down(&mut self, why: &str) {
        let led = self.signal.follow();
        if self.election.step_down() || led {
            tracing::warn!(lease = self.lease, "stopped leading: {why}");
        }
    }

    async fn write(&self, lease: &Lease) -> Result<Lease, Cause> {
        let Some(version) = &lease.metadata.resource_version else {
            return self.request(self.api.create(&PostParams::default(), lease)).await;
        };
        // With a resourceVersion a patch is a replacement of that version only, and keeps labels of others.
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": lease.spec});
        self.request(self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch))).await
    }

    /// A request ends with the claim at the latest, so that its loss is signalled at once.
    async fn request<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Cause> {
        let now = Instant::now();
        let limit = now + REQUEST_TIMEOUT;
        let deadline = self.election.leads_until(now).map_or(limit, |until| limit.min(until));
        until(deadline, request).await
    }

    async fn pause(&mut self, next: Instant, shutdown: &CancellationToken) {
        let end = self.election.leads_until(Instant::now());
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = sleep_until(end.map_or(next, |end| next.min(end))) => {}
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            self.step_down("not renewed in time");
        }
    }

    fn backoff(&self, failures: u32) -> Duration {
        if self.election.leads_until(Instant::now()).is_some() {
            return self.retry_period;
        }
        let factor = 1_u32 << failures.saturating_sub(1).min(8);
        jitter(self.retry_period.saturating_mul(factor).min(MAX_BACKOFF))
    }

    /// Gives the Lease back, once nobody here believes to lead any more.
    async fn release(mut self) -> Result<(), Error> {
        self.signal.follow();
        self.election.step_down();
        let Some(lease) = self.election.released(Timestamp::now()) else {
            return Ok(());
        };
        match self.write(&lease).await {
            Ok(_) => {
                tracing::info!(lease = self.lease, "lease released");
                Ok(())
            }
            // Whoever changed it has it.
            Err(cause) if cause.is_lost_race() => Ok(()),
            Err(cause) => {
                Err(Error::Release(CallError { action: "release", object: format!("lease {}", self.lease), cause }))
            }
        }
    }
}

/// 80 to 120 % of `period`, so that contenders do not march in step.
fn jitter(period: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(()) % 41).unwrap_or_default();
    period * (80 + random) / 100
}
