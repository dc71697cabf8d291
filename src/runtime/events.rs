//! Events, off the paths that produce them: a bounded queue, equal events within a moment sent once.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use super::shutdown::Shutdown;
use crate::api::keys;

/// Events that wait to be sent; more are dropped, as the API server has other things to do.
const QUEUE: usize = 1024;

/// How long equal events are collected.
const COLLECT: Duration = Duration::from_millis(500);

/// Longest wait for one event to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The sending side. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Note>);

/// One event.
#[derive(Clone, Debug)]
pub struct Note {
    /// What it is about.
    pub about: ObjectReference,
    /// Warning or Normal.
    pub warning: bool,
    /// CamelCase reason.
    pub reason: String,
    /// What was done or attempted, CamelCase.
    pub action: &'static str,
    /// One sentence for people.
    pub message: String,
}

impl Events {
    /// Starts the sender; it ends with `shutdown`.
    pub fn start(client: Client, instance: String, shutdown: Shutdown) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let reporter = Reporter { controller: keys::MANAGER.to_owned(), instance: Some(instance) };
        tokio::spawn(send(Recorder::new(client, reporter), receiver, shutdown));
        Self(sender)
    }

    /// Queues an event; never waits.
    pub fn publish(&self, note: Note) {
        if let Err(error) = self.0.try_send(note) {
            tracing::debug!(%error, "an event is dropped");
        }
    }
}

async fn send(recorder: Recorder, mut queue: mpsc::Receiver<Note>, shutdown: Shutdown) {
    loop {
        let first = tokio::select! {
            () = shutdown.requested() => return,
            note = queue.recv() => note,
        };
        let Some(first) = first else { return };
        tokio::time::sleep(COLLECT).await;
        let mut notes = HashMap::from([(key(&first), first)]);
        while let Ok(note) = queue.try_recv() {
            notes.insert(key(&note), note);
        }
        for note in notes.into_values() {
            write(&recorder, note).await;
        }
    }
}

fn key(note: &Note) -> (Option<String>, Option<String>, String) {
    (note.about.uid.clone(), note.about.name.clone(), note.reason.clone())
}

async fn write(recorder: &Recorder, note: Note) {
    let event = Event {
        type_: if note.warning { EventType::Warning } else { EventType::Normal },
        reason: note.reason,
        note: Some(truncated(note.message)),
        action: note.action.to_owned(),
        secondary: None,
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
