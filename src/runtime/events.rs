//! Events, off the paths that produce them: a bounded queue, equal events within a moment sent once.
//!
//! An event about the maker of a pod goes to the top of the chain, where people look: the Deployment, not the `ReplicaSet`.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::owners::TopOwners;
use crate::api::keys;
use crate::api::reasons::Reason;

/// Events that wait to be sent; more are dropped, as the API server has other things to do.
const QUEUE: usize = 1024;

/// How long equal events are collected.
const COLLECT: Duration = Duration::from_millis(500);

/// Longest wait for one event to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The sending side. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<(Note, Address)>);

/// Whom a note is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Address {
    /// The object it is about.
    Itself,
    /// Whoever made that object, or the maker of its maker.
    TopOwner,
}

/// One event.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    /// What it is about.
    pub(crate) about: ObjectReference,
    /// What else has to do with it. Events that differ only in their text are one event, so two sets that say different
    /// things about one object differ in this.
    pub(crate) related: Option<ObjectReference>,
    /// Warning or Normal.
    pub(crate) warning: bool,
    /// Why, for machines.
    pub(crate) reason: Reason,
    /// What was done or attempted, CamelCase.
    pub(crate) action: &'static str,
    /// One sentence for people.
    pub(crate) message: String,
}

impl Events {
    /// Starts the sender; it ends with `shutdown`.
    pub fn start(client: Client, instance: String, shutdown: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let reporter = Reporter { controller: keys::MANAGER.to_owned(), instance: Some(instance) };
        let owners = TopOwners::new(client.clone());
        tokio::spawn(send(Recorder::new(client, reporter), owners, receiver, shutdown));
        Self(sender)
    }

    /// Queues an event; never waits.
    pub(crate) fn publish(&self, note: Note) {
        self.queue(note, Address::Itself);
    }

    /// Queues an event about the controller of a pod, which goes to the top of the chain; never waits. The text must not
    /// name the pod, or the events of its siblings would not be one.
    pub(crate) fn publish_to_top_owner(&self, note: Note) {
        self.queue(note, Address::TopOwner);
    }

    fn queue(&self, note: Note, address: Address) {
        if let Err(error) = self.0.try_send((note, address)) {
            tracing::debug!(%error, "an event is dropped");
        }
    }
}

async fn send(
    recorder: Recorder,
    mut owners: TopOwners,
    mut queue: mpsc::Receiver<(Note, Address)>,
    shutdown: CancellationToken,
) {
    loop {
        let first = tokio::select! {
            () = shutdown.cancelled() => return,
            note = queue.recv() => note,
        };
        let Some(first) = first else { return };
        tokio::time::sleep(COLLECT).await;
        // Once as they came, so that an owner is looked up once, and once more as they are addressed.
        let mut collected = HashMap::from([((key(&first.0), first.1), first)]);
        while let Ok((note, address)) = queue.try_recv() {
            collected.insert((key(&note), address), (note, address));
        }
        let mut notes = HashMap::new();
        for (mut note, address) in collected.into_values() {
            if address == Address::TopOwner {
                note.about = owners.top(note.about).await;
            }
            notes.insert(key(&note), note);
        }
        for note in notes.into_values() {
            write(&recorder, note).await;
        }
    }
}

/// What the API tells events apart by.
type Key = (Option<String>, Option<String>, Reason, Option<String>);

fn key(note: &Note) -> Key {
    let related = note.related.as_ref().and_then(|related| related.name.clone());
    (note.about.uid.clone(), note.about.name.clone(), note.reason, related)
}

async fn write(recorder: &Recorder, note: Note) {
    let event = Event {
        type_: if note.warning { EventType::Warning } else { EventType::Normal },
        reason: note.reason.to_string(),
        note: Some(truncated(note.message)),
        action: note.action.to_owned(),
        secondary: note.related,
    };
    match tokio::time::timeout(WRITE_TIMEOUT, recorder.publish(&event, &note.about)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, reason = event.reason, "an event is not written"),
        Err(_) => tracing::debug!(reason = event.reason, "an event is not written in time"),
    }
}

/// The API refuses notes of more than 1 kB.
fn truncated(mut message: String) -> String {
    let end = (0..=1000.min(message.len())).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    message.truncate(end);
    message
}
