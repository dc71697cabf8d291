//! Connections that others hold open: how many there may be, and how long each may keep the server waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// From the connection to the end of its first request's head, the TLS handshake included. The API server waits 5 s in all.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two requests. Go's client, which the API server is, ends connections that are idle for 90 s: whoever ends them
/// earlier makes its next request fail now and then.
const IDLE_TIMEOUT: Duration = Duration::from_mins(2);

/// Connections at a time. One more ends another one.
const MAX_CONNECTIONS: usize = 1_000;

/// What a connection is used for. The order is that in which connections have to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// It has sent no request since this instant.
    Unused(Instant),
    /// Its last request was answered then.
    Idle(Instant),
    /// A request is being served.
    Busy,
}

impl Use {
    /// When the server will have waited long enough.
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Unused(since) => Some(since + FIRST_REQUEST_TIMEOUT),
            Self::Idle(since) => Some(since + IDLE_TIMEOUT),
            Self::Busy => None,
        }
    }
}

/// The connections of one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    all: BTreeMap<u64, (watch::Receiver<Use>, CancellationToken)>,
}

impl Connections {
    /// Takes up a connection; `None` if all others are busy.
    pub(super) fn open(&self) -> Option<Connection> {
        let mut open = self.lock();
        if open.all.len() >= MAX_CONNECTIONS {
            let uses = open.all.iter().map(|(id, (usage, _))| (*usage.borrow(), *id));
            let (_, id) = uses.filter(|(usage, _)| *usage != Use::Busy).min()?;
            let (_, end) = open.all.remove(&id)?;
            end.cancel();
        }
        let (usage, end) = (watch::Sender::new(Use::Unused(Instant::now())), CancellationToken::new());
        open.next += 1;
        let id = open.next;
        open.all.insert(id, (usage.subscribe(), end.clone()));
        Some(Connection { id, usage: Arc::new(usage), end, of: self.clone() })
    }

    pub(super) fn count(&self) -> usize {
        self.lock().all.len()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, as long as it lives.
pub(super) struct Connection {
    id: u64,
    usage: Arc<watch::Sender<Use>>,
    end: CancellationToken,
    of: Connections,
}

impl Connection {
    /// The same routes, which tell this connection what it is used for.
    pub(super) fn watched(&self, router: Router) -> Router {
        let usage = Arc::clone(&self.usage);
        router.layer(from_fn(move |request: Request, next: Next| {
            let usage = Arc::clone(&usage);
            async move {
                usage.send_replace(Use::Busy);
                let answer = next.run(request).await;
                usage.send_replace(Use::Idle(Instant::now()));
                answer
            }
        }))
    }

    /// Returns when it has kept the server waiting for too long, or has to make room for another one.
    pub(super) async fn overdue(&self) {
        let overdue = async {
            let mut usage = self.usage.subscribe();
            loop {
                let deadline = usage.borrow_and_update().deadline();
                match deadline {
                    Some(deadline) if timeout_at(deadline, usage.changed()).await.is_err() => return,
                    Some(_) => {}
                    // The sender lives as long as this.
                    None => drop(usage.changed().await),
                }
            }
        };
        tokio::select! {
            () = overdue => {}
            () = self.end.cancelled() => {}
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.of.lock().all.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_connection_too_many_ends_the_oldest_that_sent_no_request_or_is_idle_for_longest() {
        let connections = Connections::default();
        let mut all: Vec<Connection> = (0..MAX_CONNECTIONS).filter_map(|_| connections.open()).collect();
        assert_eq!(all.len(), MAX_CONNECTIONS);
        let ended =
            |all: &[Connection]| all.iter().position(|connection| connection.overdue().now_or_never().is_some());
        all[0].usage.send_replace(Use::Busy);
        all[1].usage.send_replace(Use::Idle(Instant::now()));
        all.push(connections.open().unwrap());
        assert_eq!(ended(&all), Some(2));
        all.remove(2);
        for connection in &all[2..] {
            connection.usage.send_replace(Use::Busy);
        }
        all.push(connections.open().unwrap());
        assert_eq!(ended(&all), Some(1), "no request is broken off");
        all.remove(1);
        all.last().unwrap().usage.send_replace(Use::Busy);
        assert!(connections.open().is_none());
        drop(all);
        assert_eq!(connections.count(), 0);
    }
}
