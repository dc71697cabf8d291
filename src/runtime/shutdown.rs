//! The order to stop, as a token that every task holds.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Why the signal handlers could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a handler.
    #[error("cannot install the handler of {signal}: {source}")]
    Handler {
        /// The signal's name.
        signal: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Gives the order to stop; a dropped trigger gives it too, so that no task outlives its owner.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Trigger {
    /// Orders every holder of the token to stop. Further calls change nothing.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }
}

/// A cloneable token that becomes "requested" once and stays so.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Whether the order has been given.
    pub(crate) fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Completes when the order is given, at once if it has been.
    pub async fn requested(&self) {
        // An error means that the trigger is gone, which is the order as well.
        let _ = self.0.clone().wait_for(|requested| *requested).await;
    }
}

/// A trigger and its token; stages of a shutdown (writers, lease, health port) each have their own pair.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

/// A token requested by SIGTERM (the kubelet) or SIGINT (a terminal). Must be called inside a tokio runtime.
pub fn on_signals() -> Result<Shutdown, Error> {
    let handler = |kind, name| signal(kind).map_err(|source| Error::Handler { signal: name, source });
    let mut terminate = handler(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = handler(SignalKind::interrupt(), "SIGINT")?;
    let (trigger, shutdown) = channel();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "shutting down");
        trigger.fire();
    });
    Ok(shutdown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_hears_the_order() {
        let (trigger, shutdown) = channel();
        let clone = shutdown.clone();
        assert!(!shutdown.is_requested());
        trigger.fire();
        clone.requested().await;
        shutdown.requested().await;
        assert!(shutdown.is_requested() && clone.is_requested());
    }

    #[tokio::test]
    async fn a_dropped_trigger_is_an_order() {
        let (trigger, shutdown) = channel();
        drop(trigger);
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}
