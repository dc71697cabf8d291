//! What is remembered of the evictions of a set while one replica leads.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::base::time::after;
use crate::core::pod::workload::Workload;
use crate::core::pod::{Owner, PodKey};
use crate::core::replace::report::{EvictionReport, Hold, Lack, NAMED, Wait};

/// An owner whose pod could not be evicted is left alone for this long, then twice as long, up to the second.
const BACKOFF: (SignedDuration, SignedDuration) = (SignedDuration::from_secs(5), SignedDuration::from_secs(60));

#[derive(Clone, Debug, Default)]
pub(crate) struct EvictionMemory {
    /// `status.evictions` as last written.
    pub(crate) records: Vec<Eviction>,
    /// Of open evictions, by UID of the evicted pod.
    pub(super) open: HashMap<String, Open>,
    pub(super) waiting: BTreeMap<String, Waiting>,
    /// UID of the owner that was last found to wait for an upgrade: the search goes on behind it. So each has its turn,
    /// however many there are.
    pub(super) last_behind: String,
    /// Owners that are said to have pods without sidecars have none.
    pub(crate) found_is_stale: bool,
    /// What keeps all pods from being evicted, by [`EvictionCause`].
    pub(super) holds: [Option<Hold>; 2],
    /// The revision that new pods get, and since when that is known here.
    given: Option<(String, Timestamp)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Open {
    pub(super) lack: Option<Lack>,
    /// When the pod was first seen to be gone.
    pub(super) gone_at: Option<Timestamp>,
    /// It was evicted for sure: a watch that is late must not say that it never was.
    pub(super) is_evicted: bool,
}

/// An owner whose pod is not evicted now.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) cause: EvictionCause,
    /// Shown as `ReplicaSet default/web`.
    name: String,
    why: Wait,
    delay: SignedDuration,
    until: Timestamp,
}

impl EvictionMemory {
    pub fn new(records: Vec<Eviction>) -> Self {
        Self { records, ..Self::default() }
    }

    /// As if new pods had got this revision for long.
    #[must_use]
    pub(crate) fn with_given(self, revision: &str) -> Self {
        Self { given: Some((revision.to_owned(), Timestamp::UNIX_EPOCH)), ..self }
    }

    pub(crate) fn recorded(&mut self, records: Vec<Eviction>) {
        self.open.retain(|pod, _| records.iter().any(|eviction| eviction.pod_uid == *pod));
        self.records = records;
    }

    /// The apiserver has said that it evicted the pod with this UID.
    pub(crate) fn note_evicted(&mut self, pod: &str) {
        self.open.entry(pod.to_owned()).or_default().is_evicted = true;
    }

    pub(crate) fn without(&self, eviction: Option<&Eviction>) -> Vec<Eviction> {
        self.records.iter().filter(|record| Some(*record) != eviction).cloned().collect()
    }

    /// For how long new pods have got this revision, as far as is known here.
    pub(super) fn given_for(&mut self, revision: &str, now: Timestamp) -> SignedDuration {
        match &self.given {
            Some((given, since)) if given == revision => now.duration_since(*since),
            _ => {
                self.given = Some((revision.to_owned(), now));
                SignedDuration::ZERO
            }
        }
    }

    /// A pod of this owner is not evicted now. The owner is left alone for a while, and longer each time.
    pub(crate) fn wait(&mut self, cause: EvictionCause, namespace: &str, owner: &Owner, why: Wait, now: Timestamp) {
        let (first, longest) = BACKOFF;
        let delay = self.waiting.get(&owner.uid).map_or(first, |last| (last.delay * 2).min(longest));
        let name = format!("{} {namespace}/{}", owner.kind, owner.name);
        if cause == EvictionCause::NotInPlace {
            self.last_behind.clone_from(&owner.uid);
        }
        self.waiting.insert(owner.uid.clone(), Waiting { cause, name, why, delay, until: after(now, delay) });
    }

    /// The owner is left alone for no reason of its own any more.
    pub(crate) fn forget_wait(&mut self, owner: &str) {
        self.waiting.remove(owner);
    }

    /// Who waits for room of its workload waits no longer than until it `has_room`: nobody was asked who could say no again.
    pub(super) fn is_waiting(&self, owner: &Owner, has_room: impl Fn(&Workload) -> bool, now: Timestamp) -> bool {
        self.waiting.get(&owner.uid).is_some_and(|waiting| {
            let is_free = matches!(&waiting.why, Wait::NoRoom(workload) if has_room(workload));
            now < waiting.until && !is_free
        })
    }

    pub(crate) fn report(&self, cause: EvictionCause) -> EvictionReport {
        let hold = self.holds[cause as usize].clone();
        let mut report = EvictionReport { cause, hold, ..EvictionReport::default() };
        for eviction in self.records.iter().filter(|eviction| eviction.cause == cause) {
            let Eviction { namespace, pod, owner_kind, owner_name, .. } = eviction;
            if eviction.in_vain {
                report.in_vain.push(format!("{owner_kind} {namespace}/{owner_name}"));
            } else {
                let key = PodKey { namespace: namespace.clone(), name: pod.clone() };
                report.open.push((key, self.open.get(&eviction.pod_uid).and_then(|open| open.lack.clone())));
            }
        }
        // What somebody can do something about comes first.
        let mut waits = Vec::new();
        for waiting in self.waiting.values().filter(|waiting| waiting.cause == cause) {
            match &waiting.why {
                Wait::Exempt(kind) => drop(report.exempt.insert(kind)),
                why => waits.push((!why.is_lasting(), &waiting.name, why)),
            }
        }
        waits.sort_by_key(|(is_other, name, _)| (*is_other, *name));
        report.waiting_owners = waits.len();
        report.waiting = waits.into_iter().take(NAMED).map(|(_, name, why)| (name.clone(), why.clone())).collect();
        report
    }
}
