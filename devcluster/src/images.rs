//! The images of the real node: one static program with many names, made here because there is no registry to ask.
//!
//! All but `devcluster.test/pause:v1` run `node/container.sh`, which says what its environment changes:
//!
//! | Name | Containers |
//! |---|---|
//! | `devcluster.test/app:v1`, `devcluster.test/sidecar:v1` and `:v2` | run until SIGTERM, ready at once |
//! | `devcluster.test/sidecar:same` | the same digest as `:v1` |
//! | `devcluster.test/sidecar:crash` | end with 7 after a second, ready until then |
//! | `devcluster.test/sidecar:slowstart` | are ready after 5 s, if a probe asks |
//! | `devcluster.test/sidecar:noready` | are never ready, if a probe asks |
//! | `devcluster.test/idle:v1` | the same as `app:v1`, even if they are given a script to run |
//! | `devcluster.test/pulled/…` | the same, but the image is not there: it is pulled from the cluster's own registry |
//! | `devcluster.test/slow/…` | pulling takes 5 s |
//! | `devcluster.test/broken/…` | pulling fails: the registry answers 500 |
//! | any other name below `devcluster.test` | pulling fails: the registry answers 404 |

use std::path::Path;
use std::{fs, io};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::Error;

/// The host in the names of all images.
pub const HOST: &str = "devcluster.test";

/// Names that the real node has from the start.
pub(crate) const IMPORTED: &[&str] = &[""];
/// Names that it pulls. Contents of their own: an image that the kubelet has pulled under one name is pulled again under
/// another, even if it is there (imagePullCredentialsVerificationPolicy).
pub(crate) const SERVED: &[&str] = &["pulled/", "slow/"];

/// What every container of these images runs.
const PROGRAM: &str = include_str!("../node/container.sh");
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image and how its containers behave.
struct Image {
    repository: &'static str,
    tags: &'static [&'static str],
    environment: &'static [&'static str],
}

/// Two tags of one image have the same digest.
const IMAGES: [Image; 8] = [
    Image { repository: "pause", tags: &["v1"], environment: &[] },
    Image { repository: "app", tags: &["v1"], environment: &["PORT=8080"] },
    Image { repository: "idle", tags: &["v1"], environment: &["PORT=8081"] },
    Image { repository: "sidecar", tags: &["v1", "same"], environment: &["PORT=8081"] },
    Image { repository: "sidecar", tags: &["v2"], environment: &["PORT=8081"] },
    Image { repository: "sidecar", tags: &["crash"], environment: &["PORT=8081", "EXIT_AFTER=1"] },
    Image { repository: "sidecar", tags: &["slowstart"], environment: &["PORT=8081", "READY_AFTER=5"] },
    Image { repository: "sidecar", tags: &["noready"], environment: &["PORT=8081", "READY_AFTER=never"] },
];

/// One name and the manifest that it stands for.
#[derive(Debug, Clone)]
pub(crate) struct Tagged {
    /// Without the host, such as `slow/sidecar`.
    pub(crate) repository: String,
    /// Such as `v1`.
    pub(crate) tag: &'static str,
    /// `sha256:…`, one of the blobs.
    pub(crate) manifest: String,
}

/// All images: the names, and the contents by digest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Images {
    pub(crate) names: Vec<Tagged>,
    pub(crate) blobs: Vec<(String, Vec<u8>)>,
}

impl Images {
    /// Makes the images around this busybox, which must be linked statically, once with each of the prefixes. The same
    /// busybox gives the same digests.
    pub(crate) fn make(busybox: &Path, prefixes: &[&str]) -> Result<Self, Error> {
        let program = fs::read(busybox).map_err(Error::file("read", busybox))?;
        let layer = layer(&program).map_err(Error::file("pack", busybox))?;
        let mut images = Self::default();
        let layer = images.add(LAYER, layer);
        for (prefix, image) in prefixes.iter().flat_map(|prefix| IMAGES.iter().map(move |image| (prefix, image))) {
            let repository = format!("{prefix}{}", image.repository);
            let manifest = images.describe(image, &repository, &layer);
            images.names.extend(image.tags.iter().map(|tag| Tagged {
                repository: repository.clone(),
                tag,
                manifest: manifest.clone(),
            }));
        }
        Ok(images)
    }

    /// The content with this digest.
    pub(crate) fn blob(&self, digest: &str) -> Option<&[u8]> {
        self.blobs.iter().find(|(name, _)| name == digest).map(|(_, content)| content.as_slice())
    }

    /// Writes them as one OCI image layout, named for containerd's import.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let write = || {
            let mut archive = Builder::new(fs::File::create(path)?);
            file(&mut archive, "oci-layout", 0o644, json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
            file(&mut archive, "index.json", 0o644, self.index().to_string().as_bytes())?;
            for (digest, content) in &self.blobs {
                file(&mut archive, &format!("blobs/{}", digest.replace(':', "/")), 0o644, content)?;
            }
            archive.finish()
        };
        write().map_err(Error::file("write", path))
    }

    fn index(&self) -> Value {
        let manifests = self.names.iter().map(|name| {
            let Tagged { repository, tag, manifest } = name;
            json!({
                "mediaType": MANIFEST, "digest": manifest, "size": self.blob(manifest).map_or(0, <[u8]>::len),
                "annotations": {
                    "io.containerd.image.name": format!("{HOST}/{repository}:{tag}"),
                    "org.opencontainers.image.ref.name": tag,
                },
            })
        });
        json!({"schemaVersion": 2, "manifests": manifests.collect::<Vec<_>>()})
    }

    /// Adds configuration and manifest, and returns the manifest's digest.
    fn describe(&mut self, image: &Image, repository: &str, layer: &Value) -> String {
        let name = format!("IMAGE={repository}:{}", image.tags.first().unwrap_or(&""));
        let defaults = ["PATH=/bin", "CONFIG=", "READY_AFTER=0", "EXIT_AFTER=", "EXIT_CODE=7", "TAIL=", "RUN=", &name];
        let environment: Vec<&str> = defaults.into_iter().chain(image.environment.iter().copied()).collect();
        let command = match image.repository {
            "pause" => json!(["/bin/sleep", "2147483647"]),
            "idle" => json!(["/bin/run", "idle"]),
            _ => json!(["/bin/run"]),
        };
        let config = json!({
            "created": "1970-01-01T00:00:00Z", "os": "linux", "architecture": go_architecture(),
            "config": {"Env": environment, "Cmd": command},
            // A layer that is not compressed has the same digest packed and unpacked.
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        let config = self.add(CONFIG, config.to_string().into_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
        let manifest = self.add(MANIFEST, manifest.to_string().into_bytes());
        manifest["digest"].as_str().unwrap_or_default().to_owned()
    }

    /// Keeps the content and returns the descriptor that other documents refer to it by.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = format!("sha256:{:x}", Sha256::digest(&content));
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": content.len()});
        self.blobs.push((digest, content));
        descriptor
    }
}

/// The name that Go, and so the image format, has for this machine's architecture.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The root file system of all images.
fn layer(busybox: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "www"] {
        let mut header = header(EntryType::Directory, 0o777);
        archive.append_data(&mut header, folder, io::empty())?;
    }
    file(&mut archive, "bin/busybox", 0o755, busybox)?;
    for applet in ["sh", "cat", "echo", "httpd", "ls", "mkdir", "sleep", "tail", "test", "touch", "wget"] {
        archive.append_link(&mut header(EntryType::Symlink, 0o777), format!("bin/{applet}"), "busybox")?;
    }
    file(&mut archive, "bin/run", 0o755, PROGRAM.as_bytes())?;
    archive.into_inner()
}

fn file(archive: &mut Builder<impl io::Write>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut header = header(EntryType::Regular, mode);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)
}

/// Without a time, so that the digests stay what they are.
fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_one_image_have_one_digest_and_all_others_differ() {
        let program = tempfile::NamedTempFile::new().unwrap();
        let images = Images::make(program.path(), IMPORTED).unwrap();
        let digest = |tag: &str| {
            let named = images.names.iter().find(|name| (name.repository.as_str(), name.tag) == ("sidecar", tag));
            named.unwrap().manifest.clone()
        };
        assert_eq!(digest("v1"), digest("same"));
        let mut different: Vec<String> = ["v1", "v2", "crash", "slowstart", "noready"].map(digest).into();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 5);
        assert!(images.names.iter().all(|name| images.blob(&name.manifest).is_some()));
    }
}
