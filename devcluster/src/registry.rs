//! A read-only registry for pulls that really happen: good, slow and failing ones.
//!
//! It speaks what containerd needs of the OCI distribution protocol over HTTP/1.1, one request per connection. Threads,
//! not tasks: it lives as long as the cluster, which tests with a runtime each may share.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::Error;
use crate::images::{Images, MANIFEST};

/// How long a name below `slow/` takes to be resolved.
const SLOW: Duration = Duration::from_secs(5);
/// A client that says nothing for so long is dropped.
const SILENCE: Duration = Duration::from_secs(10);

/// A running registry; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Registry {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Registry {
    /// Serves the images on a free port of 127.0.0.1.
    pub(crate) fn start(images: Images) -> Result<Self, Error> {
        let failed = |source| Error::Process { name: "the registry".to_owned(), source };
        let socket = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (images, stop) = (Arc::new(images), Arc::clone(&stopping));
        let listener = thread::Builder::new().name("registry".to_owned()).spawn(move || {
            for client in socket.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let images = Arc::clone(&images);
                // A client that goes away early is its own business.
                thread::spawn(move || answer(&client, &images));
            }
        });
        Ok(Self { address, stopping, listener: Some(listener.map_err(failed)?) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Only a client wakes the listener up.
        if TcpStream::connect(self.address).is_ok()
            && let Some(listener) = self.listener.take()
        {
            let _ = listener.join();
        }
    }
}

/// What is sent back.
struct Answer<'a> {
    status: &'static str,
    kind: &'static str,
    digest: &'a str,
    content: &'a [u8],
}

const NOT_FOUND: Answer<'static> =
    Answer { status: "404 Not Found", kind: "application/json", digest: "", content: b"{\"errors\":[]}" };
const BROKEN: Answer<'static> =
    Answer { status: "500 Internal Server Error", kind: "application/json", digest: "", content: b"{\"errors\":[]}" };

fn answer(client: &TcpStream, images: &Images) -> io::Result<()> {
    client.set_read_timeout(Some(SILENCE))?;
    let mut lines = BufReader::new(client).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Answer { status, kind, digest, content } = find(path, images);
    let mut out = io::BufWriter::new(client);
    write!(
        out,
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
        content.len()
    )?;
    if !digest.is_empty() {
        write!(out, "Docker-Content-Digest: {digest}\r\n")?;
    }
    out.write_all(b"\r\n")?;
    if method != "HEAD" {
        out.write_all(content)?;
    }
    out.flush()
}

/// `/v2/<repository>/manifests/<tag or digest>` or `/v2/<repository>/blobs/<digest>`.
fn find<'a>(path: &str, images: &'a Images) -> Answer<'a> {
    let path = path.split('?').next().unwrap_or_default();
    if path == "/v2/" {
        return Answer { status: "200 OK", kind: "application/json", digest: "", content: b"{}" };
    }
    let parts: Vec<&str> = path.trim_start_matches("/v2/").rsplitn(3, '/').collect();
    let [reference, kind, repository] = parts[..] else { return NOT_FOUND };
    if repository.starts_with("broken/") {
        return BROKEN;
    }
    let named = images.names.iter().find(|name| (name.repository.as_str(), name.tag) == (repository, reference));
    // Only names wait: what containerd has already, it does not ask for by digest.
    if repository.starts_with("slow/") && named.is_some() {
        #[expect(clippy::disallowed_methods, reason = "this thread is no runtime's")]
        thread::sleep(SLOW);
    }
    let digest = named.map_or(reference, |name| name.manifest.as_str());
    let Some((digest, content)) = images.blobs.iter().find(|(name, _)| name == digest) else { return NOT_FOUND };
    let kind = if kind == "manifests" { MANIFEST } else { "application/octet-stream" };
    Answer { status: "200 OK", kind, digest, content }
}
