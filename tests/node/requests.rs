//! HTTP requests to pods of the real node, whose network this machine reaches.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(10);

/// `http://<pod IP>:<port>/<path>`: the body of an answer 200.
pub async fn get(pod: &Pod, port: u16, path: &str) -> io::Result<String> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).unwrap_or_default();
    ask(&format!("{ip}:{port}"), path).await
}

async fn ask(address: &str, path: &str) -> io::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = timeout(PATIENCE, exchange).await??;
    let body = answer.split_once("\r\n\r\n").filter(|(head, _)| head.contains(" 200 "));
    body.map(|(_, body)| body.to_owned()).ok_or_else(|| io::Error::other(answer))
}

/// One request of a [`Client`].
#[derive(Debug, Clone)]
pub struct Asked {
    pub begin: Instant,
    pub end: Instant,
    /// The body, or what went wrong.
    pub answer: Result<String, String>,
}

/// Asks the same again and again, one request after the other, and keeps the answers.
pub struct Client {
    seen: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    pub fn start(pod: &Pod, port: u16, path: &str) -> Self {
        let (pod, path) = (pod.clone(), path.to_owned());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let begin = Instant::now();
                let answer = get(&pod, port, &path).await.map_err(|error| error.to_string());
                kept.lock().unwrap().push(Asked { begin, end: Instant::now(), answer });
                sleep(PAUSE).await;
            }
        });
        Self { seen, task }
    }

    /// All requests that have ended.
    pub fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }

    /// All requests that have ended; panics with the first that has failed.
    pub fn without_failure(&self) -> Vec<Asked> {
        let seen = self.seen();
        let failed: Vec<_> = seen.iter().filter(|asked| asked.answer.is_err()).collect();
        assert!(failed.is_empty(), "{} of {} requests failed, first {:?}", failed.len(), seen.len(), failed[0]);
        seen
    }

    /// Waits for the answers to `count` requests that begin after this.
    pub async fn asks(&self, count: usize) {
        let now = Instant::now();
        crate::common::eventually("requests are answered", async || {
            let new = self.seen().iter().filter(|asked| asked.begin > now).count();
            if new >= count { Ok(()) } else { Err(new) }
        })
        .await;
    }
}

/// The time without a good answer, from the last one before the first failure to the first one after the last failure, and the
/// number of failures.
#[derive(Debug, Clone, Copy)]
pub struct Interruption {
    pub begin: Instant,
    pub end: Instant,
    pub failed: usize,
}

impl Interruption {
    /// `None` without failures; panics if it has not begun or ended yet.
    pub fn of(seen: &[Asked]) -> Option<Self> {
        let first = seen.iter().position(|asked| asked.answer.is_err())?;
        let last = seen.iter().rposition(|asked| asked.answer.is_err())?;
        let failed = seen.iter().filter(|asked| asked.answer.is_err()).count();
        Some(Self { begin: seen[first - 1].end, end: seen[last + 1].end, failed })
    }
}
