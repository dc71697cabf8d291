//! Events, off the paths that produce them: a bounded queue, equal events within a moment sent once.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::keys;
use crate::api::reasons::Reason;

/// Events that wait to be sent; more are dropped, as the API server has other things to do.
const QUEUE: usize = 1024;

/// How long equal events are collected.
const COLLECT: Duration = Duration::from_millis(500);

const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest chain of owners that is followed.
const LEVELS: usize = 3;

/// Longest wait for one owner. Events wait meanwhile, and nothing else does.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer about an owner, also a failed one, is believed.
const FRESH: Duration = Duration::from_mins(1);

/// Owners kept; a few hundred bytes each.
const KEPT: usize = 1024;

/// The sending side. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Note>);

#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) about: ObjectReference,
    /// It goes to the top of the chain of owners, where people look: not to the `ReplicaSet`, but to its Deployment.
    pub(crate) to_top_owner: bool,
    /// What else has to do with it. Events that differ only in their text are one event, so two sets that say different
    /// things about one object differ in this.
    pub(crate) related: Option<ObjectReference>,
    pub(crate) reason: Reason,
    /// What was done or attempted, CamelCase.
    pub(crate) action: &'static str,
    /// One sentence for people. One to the top owner must not name the pod, or the events of its siblings would not be
    /// one.
    pub(crate) message: String,
}

impl Note {
    pub(crate) fn new(about: ObjectReference, reason: Reason, action: &'static str, message: String) -> Self {
        Self { about, to_top_owner: false, related: None, reason, action, message }
    }
}

impl Events {
    /// Starts the sender; it ends with `shutdown`.
    pub fn start(client: Client, instance: String, shutdown: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let reporter = Reporter { controller: keys::MANAGER.to_owned(), instance: Some(instance) };
        let owners = TopOwners { client: client.clone(), known: HashMap::new() };
        tokio::spawn(send(Recorder::new(client, reporter), owners, receiver, shutdown));
        Self(sender)
    }

    /// Queues an event; never waits.
    pub(crate) fn publish(&self, note: Note) {
        if let Err(error) = self.0.try_send(note) {
            tracing::debug!(%error, "an event is dropped");
        }
    }
}

async fn send(recorder: Recorder, mut owners: TopOwners, mut queue: mpsc::Receiver<Note>, shutdown: CancellationToken) {
    while let Some(mut next @ Some(_)) = shutdown.run_until_cancelled(queue.recv()).await {
        sleep(COLLECT).await;
        let mut notes = HashMap::new();
        while let Some(mut note) = next {
            if note.to_top_owner {
                note.about = owners.top(note.about).await;
            }
            let related = note.related.as_ref().and_then(|related| related.name.clone());
            // What the API tells events apart by.
            notes.insert((note.about.uid.clone(), note.about.name.clone(), note.reason, related), note);
            next = queue.try_recv().ok();
        }
        for note in notes.into_values() {
            write(&recorder, note).await;
        }
    }
}

async fn write(recorder: &Recorder, note: Note) {
    let event = Event {
        type_: if note.reason.is_warning() { EventType::Warning } else { EventType::Normal },
        reason: note.reason.to_string(),
        note: Some(truncated(note.message)),
        action: note.action.to_owned(),
        secondary: note.related,
    };
    match timeout(WRITE_TIMEOUT, recorder.publish(&event, &note.about)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, reason = event.reason, "an event is not written"),
        Err(_) => tracing::debug!(reason = event.reason, "an event is not written in time"),
    }
}

/// The API refuses notes of more than 1 kB.
fn truncated(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(1000));
    message
}

/// Who made the maker of a pod: a `ReplicaSet`'s Deployment, a Job's `CronJob`.
struct TopOwners {
    client: Client,
    /// By UID of the first owner.
    known: HashMap<String, (Instant, ObjectReference)>,
}

impl TopOwners {
    /// The highest owner that is known without reading more kinds than `ReplicaSet` and Job; `object` itself if it has
    /// none, or cannot be read.
    async fn top(&mut self, object: ObjectReference) -> ObjectReference {
        let Some(uid) = object.uid.clone() else { return object };
        if let Some((at, top)) = self.known.get(&uid)
            && at.elapsed() < FRESH
        {
            return top.clone();
        }
        let mut top = object;
        for _ in 0..LEVELS {
            let Some(above) = self.above(&top).await else { break };
            top = above;
        }
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        self.known.insert(uid, (Instant::now(), top.clone()));
        top
    }

    async fn above(&self, object: &ObjectReference) -> Option<ObjectReference> {
        let made = [ApiResource::erase::<ReplicaSet>(&()), ApiResource::erase::<Job>(&())];
        let kind = made.iter().find(|kind| {
            object.api_version.as_ref() == Some(&kind.api_version) && object.kind.as_ref() == Some(&kind.kind)
        })?;
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, kind);
        let read = timeout(READ_TIMEOUT, api.get_metadata(object.name.as_deref()?)).await.ok()?;
        let metadata = read.inspect_err(|error| tracing::debug!(%error, "an owner is not read")).ok()?.metadata;
        let mut owners = metadata.owner_references.into_iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true) && metadata.uid == object.uid)?;
        Some(ObjectReference {
            api_version: Some(owner.api_version),
            kind: Some(owner.kind),
            name: Some(owner.name),
            uid: Some(owner.uid),
            namespace: object.namespace.clone(),
            ..ObjectReference::default()
        })
    }
}
