//! The folder in which a cluster lives.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::Error;

const PREFIX: &str = "sidecarset-devcluster-";
/// A folder younger than this may belong to a cluster that has not locked it yet.
const GRACE: Duration = Duration::from_mins(1);

/// The data folder; a temporary one is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    // Held as long as the cluster lives: a free lock tells the next cluster that this folder was left behind.
    _lock: File,
    _temporary: Option<TempDir>,
}

impl DataFolder {
    /// Takes `path`, or a fresh folder under the system's temporary folder.
    pub(crate) fn create(path: Option<&Path>) -> Result<Self, Error> {
        let temporary = if path.is_none() {
            remove_leftovers();
            let parent = env::temp_dir();
            let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent);
            Some(made.map_err(Error::file("create a folder in", &parent))?)
        } else {
            None
        };
        let path = path.or(temporary.as_ref().map(TempDir::path)).map(Path::to_owned).unwrap_or_default();
        for folder in [path.clone(), path.join("logs")] {
            fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        }
        let path = path.canonicalize().map_err(Error::file("resolve", &path))?;
        // State of a cluster that ran here before would have other keys.
        let etcd = path.join("etcd");
        if etcd.exists() {
            fs::remove_dir_all(&etcd).map_err(Error::file("remove", &etcd))?;
        }
        let lock = path.join("lock");
        let file = File::create(&lock).map_err(Error::file("create", &lock))?;
        file.try_lock().map_err(std::io::Error::from).map_err(Error::file("lock", &lock))?;
        Ok(Self { path, _lock: file, _temporary: temporary })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the servers write their logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }
}

/// Removes the folders of clusters whose process was killed before it could do it.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
        if ours && age.is_some_and(|age| age > GRACE) && is_free(&entry.path().join("lock")) {
            // Another cluster may be removing it too; whoever comes second finds nothing to do.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_free(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| file.try_lock().is_ok())
}
