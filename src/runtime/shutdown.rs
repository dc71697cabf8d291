//! The order to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Debug, thiserror::Error)]
#[error("cannot install the handler of {signal}: {source}")]
pub(crate) struct Error {
    signal: &'static str,
    source: std::io::Error,
}

/// A token cancelled by SIGTERM (the kubelet) or SIGINT (a terminal). Must be called inside a tokio runtime.
pub(crate) fn on_signals() -> Result<CancellationToken, Error> {
    let handler = |kind, name| signal(kind).map_err(|source| Error { signal: name, source });
    let mut terminate = handler(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = handler(SignalKind::interrupt(), "SIGINT")?;
    let token = CancellationToken::new();
    let guard = token.clone().drop_guard();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "shutting down");
        drop(guard);
    });
    Ok(token)
}
