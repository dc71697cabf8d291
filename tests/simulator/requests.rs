//! The requests of the model operator, and what their answers tell it.

use std::sync::Arc;

use rand::{Rng, RngExt};
use sidecarset::api::keys;
use sidecarset::core::pod::PodKey;
use sidecarset::core::rollout::request::answer::{PatchAnswer, answer};

use super::operator::{Operator, Sent, Stage, WRITE_TIMEOUT};
use super::world::{Body, Promise, Reply, Request, World};

impl Operator {
    pub fn judge_send(&self, world: &mut World, name: &str, promise: &Promise) {
        let Some(set) = self.sets.get(name) else { return };
        if self.newest.get(name).is_some_and(|(_, paused)| *paused) {
            world.violate("c: pause", format!("a patch of {name} is sent while it is paused"));
        }
        let status = set.status.as_ref();
        let aborted = status.and_then(|status| status.aborted_revision.as_ref()) == Some(&promise.revision);
        let retry = set.metadata.annotations.as_ref().and_then(|all| all.get(keys::RETRY));
        let retried = retry != status.and_then(|status| status.handled_retry.as_ref());
        if aborted && !retried {
            world.violate("d: an aborted revision goes no further", format!("{} of {name}", promise.revision));
        }
    }

    pub fn send(&mut self, world: &mut World, set: &str, pod: Option<PodKey>, body: Body) -> u64 {
        self.next_id += 1;
        let request = Request { id: self.next_id, epoch: self.epoch, sent_at: world.now, body };
        world.requests.push(request);
        self.requests.insert(self.next_id, Sent { set: set.to_owned(), pod, at: world.now });
        self.next_id
    }

    /// Whether somebody still waits for the answer.
    pub fn waits_for(&self, id: u64) -> bool {
        self.requests.contains_key(&id)
    }

    /// Requests whose time is over, wherever they are.
    pub fn overdue(&self, now: i64) -> Vec<u64> {
        self.requests.iter().filter(|(_, sent)| sent.at + WRITE_TIMEOUT <= now).map(|(id, _)| *id).collect()
    }

    /// An answer, or the end of waiting for one.
    pub fn reply(&mut self, world: &mut World, id: u64, reply: Reply, rng: &mut impl Rng, faults: f64) {
        let Some(Sent { set, pod, .. }) = self.requests.remove(&id) else { return };
        match pod {
            Some(key) => self.patch_reply(world, &set, &key, id, reply, rng, faults),
            None => self.status_reply(world, &set, reply),
        }
    }

    #[allow(clippy::too_many_arguments)] // what the controller has in its context
    fn patch_reply(
        &mut self,
        world: &mut World,
        set: &str,
        key: &PodKey,
        id: u64,
        reply: Reply,
        rng: &mut impl Rng,
        faults: f64,
    ) {
        let now = world.time();
        if let Some(Stage::Sending(sending)) = self.rounds.get_mut(set) {
            sending.open.remove(&id);
            sending.patched += usize::from(matches!(reply, Reply::Pod(_)));
        }
        let what = match reply {
            Reply::Pod(pod) => {
                self.index.apply_answer((*pod).clone(), now);
                return;
            }
            Reply::Error(status) => answer(&status),
            _ => PatchAnswer::Unknown,
        };
        world.say(|| format!("patch of {key} for {set}: {what:?}"));
        match what {
            PatchAnswer::LookAgain => {
                self.unconfirmed.entry(set.to_owned()).or_default().insert(key.clone());
                self.look_again(world, set, key, rng, faults);
            }
            PatchAnswer::Refused(message) => {
                self.refused_until = i64::MAX;
                if let Some(pod) = self.index.get(key) {
                    self.index.refuse(set, &pod, message, None, now);
                }
            }
            PatchAnswer::Unknown => {
                self.unconfirmed.entry(set.to_owned()).or_default().insert(key.clone());
                self.refused_until = self.refused_until.max(world.now + 11_000);
                self.index.unanswered(set, key, "timeout", now);
                self.look_again(world, set, key, rng, faults);
            }
        }
    }

    fn look_again(&mut self, world: &mut World, set: &str, key: &PodKey, rng: &mut impl Rng, faults: f64) -> bool {
        if rng.random_bool(faults) || world.now < world.reads_fail_until {
            return false;
        }
        match (world.get(key), self.index.get(key)) {
            (Some(pod), _) => drop(self.index.apply_answer((*pod).clone(), world.time())),
            (None, Some(known)) => drop(self.index.remove(key, &known.uid, world.time())),
            (None, None) => {}
        }
        if let Some(open) = self.unconfirmed.get_mut(set) {
            open.remove(key);
        }
        true
    }

    /// Reads the pods whose last request has an unknown outcome; returns how many could not be read.
    pub fn confirm(&mut self, world: &mut World, set: &str, rng: &mut impl Rng, faults: f64) -> usize {
        let open: Vec<PodKey> = self.unconfirmed.get(set).into_iter().flatten().cloned().collect();
        open.iter().filter(|key| !self.look_again(world, set, key, rng, faults)).count()
    }

    fn status_reply(&mut self, world: &mut World, name: &str, reply: Reply) {
        let wait = match self.rounds.get(name) {
            Some(Stage::Reporting(wait)) => *wait,
            _ => 0,
        };
        match reply {
            Reply::Set(set) => {
                self.reported.insert(name.to_owned(), world.now);
                self.note_set(Arc::new(*set), world.now, true);
                self.end(world, name, wait);
            }
            _ => self.fail(world, name),
        }
    }
}
