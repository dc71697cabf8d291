use proptest::prelude::*;

use super::election::{Action, Election, holder};
use super::*;

fn params(identity: &str) -> LeaseParams {
    LeaseParams::new("ns", "operator", identity)
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn wall(s: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + s).unwrap()
}

/// A Lease as the server would store it.
fn stored(mut lease: Lease, version: u64) -> Lease {
    lease.metadata.resource_version = Some(version.to_string());
    lease
}

fn written(election: &mut Election, now: Instant, at: i64) -> Lease {
    match election.decide(now, wall(at)) {
        Action::Write(lease) => *lease,
        Action::Wait(_) => panic!("waits"),
    }
}

fn held_by(identity: &str, at: i64) -> Lease {
    let mut election = Election::new(params(identity));
    let now = Instant::now();
    election.read(None, now);
    stored(written(&mut election, now, at), 1)
}

#[test]
fn an_absent_lease_is_created_cleanly() {
    let (mut election, now) = (Election::new(params("a")), Instant::now());
    election.read(None, now);
    let lease = written(&mut election, now, 0);
    assert_eq!(lease.metadata.resource_version, None);
    let spec = lease.spec.clone().unwrap();
    assert_eq!(spec.lease_transitions, Some(0));
    assert_eq!(spec.lease_duration_seconds, Some(15));
    election.written(stored(lease, 1), now);
    assert!(election.clean());
    assert_eq!(election.leads_until(now), Some(now + seconds(10)));
    assert_eq!(election.leads_until(now + seconds(10)), None);
}

#[test]
fn a_renewal_keeps_the_acquire_time_and_the_transitions() {
    let (mut election, now) = (Election::new(params("a")), Instant::now());
    election.read(Some(held_by("a", 0)), now);
    let spec = written(&mut election, now, 5).spec.unwrap();
    assert_eq!(spec.acquire_time.unwrap().0, wall(0));
    assert_eq!(spec.renew_time.unwrap().0, wall(5));
    assert_eq!(spec.lease_transitions, Some(0));
}

#[test]
fn anothers_lease_is_taken_only_after_it_was_seen_unchanged() {
    let (mut election, now) = (Election::new(params("b")), Instant::now());
    election.read(Some(held_by("a", 0)), now);
    assert_eq!(election.decide(now, wall(0)), Action::Wait(now + seconds(15)));
    let renewed = now + seconds(14);
    election.read(Some(held_by("a", 14)), renewed);
    assert_eq!(election.decide(renewed, wall(0)), Action::Wait(renewed + seconds(15)));
    let end = renewed + seconds(15);
    election.read(Some(held_by("a", 14)), end);
    let lease = written(&mut election, end, 30);
    assert_eq!(lease.metadata.resource_version.as_deref(), Some("1"));
    assert_eq!(lease.spec.as_ref().unwrap().lease_transitions, Some(1));
    election.written(stored(lease, 2), end);
    assert!(!election.clean());
}

#[test]
fn a_longer_duration_of_the_holder_counts() {
    let (mut election, now) = (Election::new(params("b")), Instant::now());
    let mut lease = held_by("a", 0);
    lease.spec.as_mut().unwrap().lease_duration_seconds = Some(60);
    election.read(Some(lease), now);
    assert_eq!(election.decide(now, wall(0)), Action::Wait(now + seconds(60)));
}

#[test]
fn a_released_lease_is_taken_at_once_and_cleanly() {
    let (mut old, mut new, now) = (Election::new(params("a")), Election::new(params("b")), Instant::now());
    old.read(Some(held_by("a", 0)), now);
    new.read(Some(held_by("a", 0)), now);
    let mut released = old.released(wall(1)).unwrap();
    for empty in [None, Some(String::new())] {
        released.spec.as_mut().unwrap().holder_identity = empty;
        new.read(Some(released.clone()), now);
        let lease = written(&mut new, now, 1);
        assert_eq!(lease.spec.as_ref().unwrap().lease_transitions, Some(1));
    }
    new.written(released, now);
    assert!(new.clean());
}

#[test]
fn only_our_own_lease_is_released() {
    let (mut election, now) = (Election::new(params("b")), Instant::now());
    assert_eq!(election.released(wall(0)), None);
    election.read(Some(held_by("a", 0)), now);
    assert_eq!(election.released(wall(0)), None);
}

#[test]
fn our_deleted_lease_ends_the_claim_and_is_made_again_uncleanly() {
    let (mut election, now) = (Election::new(params("a")), Instant::now());
    election.written(held_by("a", 0), now);
    election.conflicted();
    assert!(election.leads_until(now).is_some(), "a conflict alone may be our own lost answer");
    election.read(None, now);
    assert_eq!(election.leads_until(now), None);
    let lease = written(&mut election, now, 1);
    election.written(stored(lease, 9), now);
    assert!(!election.clean());
}

#[test]
fn anothers_deleted_lease_is_not_free_before_its_holder_has_noticed() {
    let (mut election, now) = (Election::new(params("b")), Instant::now());
    election.read(Some(held_by("a", 0)), now);
    election.read(None, now + seconds(1));
    election.read(None, now + seconds(2));
    assert_eq!(election.decide(now + seconds(2), wall(2)), Action::Wait(now + seconds(15)));
    let end = now + seconds(15);
    election.read(None, end);
    let lease = written(&mut election, end, 15);
    election.written(lease, end);
    assert!(!election.clean());
}

#[test]
fn a_lease_taken_by_another_ends_the_claim() {
    let (mut election, now) = (Election::new(params("a")), Instant::now());
    election.written(held_by("a", 0), now);
    election.conflicted();
    election.read(Some(held_by("b", 1)), now);
    assert_eq!(election.leads_until(now), None);
}

#[tokio::test]
async fn wrong_parameters_end_the_task_with_an_error() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let shutdown = CancellationToken::new();
    let bad = LeaseParams { renew_deadline: seconds(15), ..params("a") };
    let (leadership, task) = spawn(Client::try_from(config).unwrap(), bad, shutdown);
    assert!(matches!(task.await.unwrap(), Err(Error::Params(_))));
    assert!(!leadership.is_leader());
}

#[tokio::test(start_paused = true)]
async fn leadership_ends_by_itself_and_a_write_ends_before() {
    let (sender, state) = watch::channel(State::Follower);
    let (signal, leadership) = (Signal(sender), Leadership(state));
    let mut states = leadership.subscribe();
    assert_eq!(leadership.write_deadline(), None);
    let now = Instant::now();
    signal.lead(now + seconds(5), true);
    states.changed().await.unwrap();
    signal.lead(now + seconds(10), false);
    assert!(!states.has_changed().unwrap(), "a renewal is no news");
    assert_eq!(*states.borrow_and_update(), State::Leader { until: now + seconds(10), clean: true });
    assert_eq!(leadership.write_deadline(), Some(now + seconds(10) - WRITE_MARGIN));
    tokio::time::advance(Duration::from_millis(9_600)).await;
    assert!(leadership.is_leader() && leadership.write_deadline().is_none());
    tokio::time::advance(Duration::from_millis(400)).await;
    assert!(!leadership.is_leader());
    drop(signal);
    assert_eq!(*states.borrow_and_update(), State::Follower);
}

/// The API server: one Lease, optimistic concurrency.
#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u64,
}

impl Server {
    fn write(&mut self, lease: Lease) -> Option<Lease> {
        let current = self.lease.as_ref().and_then(|l| l.metadata.resource_version.clone());
        (current == lease.metadata.resource_version).then(|| {
            self.version += 1;
            self.lease = Some(stored(lease, self.version));
            self.lease.clone().unwrap()
        })
    }
}

/// A contender and its request on the way: sent, perhaps stored, not yet answered.
struct Side {
    election: Election,
    sent: Option<(Lease, Instant)>,
    answer: Option<(Option<Lease>, Instant)>,
}

/// What the network and the scheduler do to one contender in one step.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// All of the next three without a delay.
    Round,
    Send,
    Arrive,
    Answer,
    Lose,
    Release,
}

impl Side {
    fn step(&mut self, step: Step, server: &mut Server, now: Instant, at: i64) {
        match step {
            Step::Round => {
                for part in [Step::Send, Step::Arrive, Step::Answer] {
                    self.step(part, server, now, at);
                }
            }
            Step::Send if self.sent.is_none() && self.answer.is_none() => {
                if self.election.must_read(now) {
                    self.election.read(server.lease.clone(), now);
                }
                if let Action::Write(lease) = self.election.decide(now, wall(at)) {
                    self.sent = Some((*lease, now));
                }
            }
            Step::Arrive => {
                if let Some((lease, sent)) = self.sent.take() {
                    self.answer = Some((server.write(lease), sent));
                }
            }
            Step::Answer => match self.answer.take() {
                Some((Some(lease), sent)) => self.election.written(lease, sent),
                Some((None, _)) => self.election.conflicted(),
                None => {}
            },
            // The answer is lost; a request that has not arrived still may, in a later step.
            Step::Lose => self.answer = None,
            Step::Release if self.sent.is_none() && self.answer.is_none() => {
                self.election.step_down();
                if let Some(lease) = self.election.released(wall(at)) {
                    let _ = server.write(lease);
                    self.election.conflicted();
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn two_contenders_never_both_lead(
        steps in prop::collection::vec(
            (0..2_usize, 0..4_000_u64, prop_oneof![
                6 => Just(Step::Round), 2 => Just(Step::Send), 2 => Just(Step::Arrive), 2 => Just(Step::Answer), 1 => Just(Step::Lose), 1 => Just(Step::Release),
            ]),
            1..300,
        ),
    ) {
        let mut server = Server::default();
        let mut now = Instant::now();
        let side = |name| Side { election: Election::new(params(name)), sent: None, answer: None };
        let mut sides = [side("a"), side("b")];
        for (at, (who, millis, step)) in steps.into_iter().enumerate() {
            now += Duration::from_millis(millis);
            sides[who].step(step, &mut server, now, i64::try_from(at).unwrap());
            let leaders = sides.iter().filter(|side| side.election.leads_until(now).is_some()).count();
            prop_assert!(leaders <= 1, "two leaders after step {}", at);
            if let Some(leader) = sides.iter().position(|side| side.election.leads_until(now).is_some()) {
                let name = ["a", "b"][leader];
                let lease = server.lease.as_ref().unwrap();
                prop_assert!(holder(lease).map(String::as_str) == Some(name), "{} leads without the lease", name);
            }
        }
    }
}
